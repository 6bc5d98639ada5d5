"""Pydantic models made from a model's fields, and JSON Schema; ``body`` has the classes that are declared.

They check the types and bounds of values. The model's own rules (``validators=``, ``@validates``,
``@constrains``) are checked once, when the record is written, and not when it is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import pydantic

from earnorm.bounded import Bounded
from earnorm.features.bodies.body import Body
from earnorm.features.bodies.pydantic_fields import (
    EXTRA,
    Extra,
    chosen_names,
    id_field,
    optional_names,
    pydantic_field,
)
from earnorm.kernel.contract.left_out import need_feature

if TYPE_CHECKING:
    from earnorm.model.structures import Structure


_MOST: Final = 128
"""The number of pydantic models of one class that are kept; one takes about 50 kB."""

_Models: TypeAlias = Bounded[tuple[object, ...], type[Body]]
_MODELS: WeakKeyDictionary[type[Structure], _Models] = WeakKeyDictionary()
"""The pydantic models made last, by class and by the arguments."""


def body_model(
    cls: type[Structure],
    include: Iterable[str] | None,
    exclude: Iterable[str] | None,
    optional: Iterable[str] | bool,
    name: str | None,
) -> type[Body]:
    """Make a pydantic model, or return the one made before with the same arguments.

    See ``BaseModel.pydantic_model``.
    """
    need_feature("bodies", "pydantic_model()")
    included = None if include is None else _names(include)
    excluded = None if exclude is None else frozenset(_names(exclude))
    optionals = optional if isinstance(optional, bool) else frozenset(_names(optional))
    extra = EXTRA.get()
    key = (included, excluded, optionals, name, extra)
    models = _MODELS.get(cls)
    if models is None:
        models = _MODELS[cls] = Bounded(_MOST, longest=10_000)
    model = models.get(key)
    if model is None:
        model = models[key] = _make(cls, included, excluded, optionals, name, extra)
    return model


def _names(names: Iterable[str]) -> tuple[str, ...] | frozenset[str]:
    """Return names that can be a key: those of a set, which has no order, as a set."""
    if isinstance(names, Set):
        return frozenset(names)
    return (names,) if isinstance(names, str) else tuple(names)


def _make(
    cls: type[Structure],
    include: Iterable[str] | None,
    exclude: frozenset[str] | None,
    optional: frozenset[str] | bool,
    name: str | None,
    extra: Extra | None,
) -> type[Body]:
    schema = cls._schema
    names = chosen_names(cls, include, exclude)
    if not isinstance(optional, bool):
        optional = optional_names(cls, optional, "optional")
    fields: dict[str, Any] = {}
    for field_name in names:
        if field_name in schema.fields:
            is_optional = optional if isinstance(optional, bool) else field_name in optional
            fields[field_name] = pydantic_field(schema.fields[field_name], is_optional)
        else:
            fields["id"] = id_field(schema.fields["_id"])
    is_whole = include is None and exclude is None and optional is False
    title = name or (cls.__name__ if is_whole else f"{cls.__name__}Part")
    with warnings.catch_warnings():
        # A field may have the name of one of pydantic's methods ("json", "copy"): the field wins.
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        made = pydantic.create_model(
            title,
            __base__=Body,
            __module__=cls.__module__,
            __doc__=cls.__doc__,
            __cls_kwargs__={} if extra is None else {"extra": extra},
            **fields,
        )
    made._model = cls
    return made
