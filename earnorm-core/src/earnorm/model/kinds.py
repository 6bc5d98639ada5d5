"""Lists of records of several models: subclasses that are stored and searched in one collection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

R = TypeVar("R", bound="BaseModel")


def is_mixed(records: Iterable[BaseModel]) -> bool:
    """Return whether the records are of several models."""
    classes: set[type[BaseModel]] = set(map(type, records))
    # An App may have its own class of a model, so two classes with one name are one model.
    return len(classes) > 1 and len({cls._name for cls in classes}) > 1


def by_model(records: Sequence[R]) -> list[list[R]]:
    """Group the records by model, in their order."""
    if len(set(map(type, records))) == 1:
        return [list(records)]
    groups: dict[str, list[R]] = {}
    for record in records:
        groups.setdefault(type(record)._name, []).append(record)
    return list(groups.values())


def model_of(records: Sequence[BaseModel]) -> type[BaseModel]:
    """Return the model of some records; for several models, their nearest common one."""
    first: type[BaseModel] = type(records[0])
    if not is_mixed(records):
        return first
    kinds = set(map(type, records))
    for cls in first.__mro__:
        if cls.__dict__.get("_abstract") is False and getattr(cls, "_inherit", None) is None:
            model: type[BaseModel] = cls
            if all(issubclass(kind, model) for kind in kinds):
                return model
    return first
