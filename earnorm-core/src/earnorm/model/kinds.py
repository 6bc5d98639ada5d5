"""Records of several models in one list: subclasses that are kept and searched together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

R = TypeVar("R", bound="BaseModel")


def is_mixed(records: Iterable[BaseModel]) -> bool:
    """Whether the records are of several models."""
    classes: set[type[BaseModel]] = set(map(type, records))
    # An App may have a class of its own for a model: one name, two classes.
    return len(classes) > 1 and len({cls._name for cls in classes}) > 1


def by_model(records: Iterable[R]) -> list[list[R]]:
    """The records of each model, in their order."""
    groups: dict[str, list[R]] = {}
    for record in records:
        groups.setdefault(type(record)._name, []).append(record)
    return list(groups.values())


def model_of(records: Sequence[BaseModel]) -> type[BaseModel]:
    """The model of some records: of several, the nearest that all of them are."""
    first: type[BaseModel] = type(records[0])
    if not is_mixed(records):
        return first
    kinds = set(map(type, records))
    for cls in first.__mro__:
        if cls.__dict__.get("_abstract") is False and getattr(cls, "_inherit", None) is None:
            found: type[BaseModel] = cls
            if all(issubclass(kind, found) for kind in kinds):
                return found
    return first
