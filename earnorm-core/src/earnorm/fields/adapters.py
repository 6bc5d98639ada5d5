"""Makes the pydantic adapter of one field's value, once for each field."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, Optional

import pydantic

from earnorm.fields.base import ConvertingField, Field

_NAMES = ("_adapter", "_nullable_adapter")


def adapter(field: Field[Any, Any], nullable: bool = False) -> pydantic.TypeAdapter[Any]:
    """Return the adapter that validates a value of a field as the whole field's value is validated.

    The field keeps it, so it goes with the field.

    Args:
        field: The field.
        nullable: None is a valid value, too.
    """
    name = _NAMES[nullable]
    kept: tuple[Any, pydantic.TypeAdapter[Any]] | None = field.__dict__.get(name)
    if kept is not None and kept[0] is field:  # a copy of a field may have other options
        return kept[1]
    kind: Any = field.value_annotation()
    # An annotation need not be a class, so kind | None could fail where Optional works.
    optional: Any = Optional
    made = pydantic.TypeAdapter[Any](optional[kind] if nullable else kind)
    field.__dict__[name] = (field, made)
    return made


def kind_problem(field: Field[Any, Any]) -> str | None:
    """Return what is wrong with the class of a field, of which it is an example; None if nothing is.

    Its methods are called where documents are read and written, and an error there would not tell
    that the class is to blame.
    """
    kind = type(field)
    for method in _METHODS:
        if inspect.iscoroutinefunction(getattr(kind, method, None)):
            return f"{method}() of {kind.__name__} is never awaited: make it a plain 'def'"
    if kind.converts and getattr(kind, "is_decoded", None) is ConvertingField.is_decoded:
        return f"{kind.__name__} is a ConvertingField without is_decoded(value)"
    types: object = kind.operand_types
    if not isinstance(types, tuple) or not all(isinstance(t, type) for t in types):
        return f"operand_types of {kind.__name__} is a tuple of classes, not {types!r}"
    try:
        schema: object = field.bson_schema()
    except Exception as error:
        return f"bson_schema() of {kind.__name__} raises {type(error).__name__}: {error}"
    if not isinstance(schema, Mapping):
        return f"bson_schema() of {kind.__name__} gives {schema!r}; it gives a mapping, or {{}}"
    try:
        pydantic.TypeAdapter(field.value_annotation())
    except pydantic.errors.PydanticUndefinedAnnotation:
        return None  # it names a class that is defined later
    except Exception as error:
        return f"pydantic cannot build the annotation() of {kind.__name__}: {error}"
    return None


_METHODS: Final = (
    "annotation",
    "encode",
    "decode",
    "is_decoded",
    "operand",
    "json_type",
    "to_json",
    "bson_schema",
    "normal",
    "placed",
    "comparable",
    "sample",
)
"""The methods that a class of fields may have for the core."""
