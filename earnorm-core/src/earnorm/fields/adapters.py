"""Makes the pydantic adapter of one field's value, once for each field."""

from __future__ import annotations

from typing import Any, Optional

import pydantic

from earnorm.fields.base import Field

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


def annotation_problem(field: Field[Any, Any]) -> Exception | None:
    """Return the exception that pydantic raises for the annotation of a field; None if it takes it."""
    try:
        pydantic.TypeAdapter(field.value_annotation())
    except pydantic.errors.PydanticUndefinedAnnotation:
        return None  # it names a class that is defined later
    except Exception as error:
        return error
    return None
