"""The problems of values that pydantic found, in the words of this library."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pydantic

from earnorm.exceptions import ErrorDetail, ValidationError, cut, located
from earnorm.fields.base import Field, not_written
from earnorm.kernel.naming import may_name, nearest_field

if TYPE_CHECKING:
    from earnorm.model.schema import Schema

_MOST_HINTS: Final = 20
"""The most unknown names for which the nearest field is looked for: 0.1 to 0.4 ms for each."""


def problems_of(error: pydantic.ValidationError, schema: Schema | None) -> list[ErrorDetail]:
    """Return the problems of values that are not valid, each with its place.

    Args:
        error: The error.
        schema: The fields of the object that was validated; None for a single value.
    """
    fields: Mapping[str, Field[Any, Any]] = {} if schema is None else schema.fields
    details: list[ErrorDetail] = []
    unknown = 0
    for problem in error.errors(include_url=False, include_input=False, include_context=True):
        loc, message, kind = problem["loc"], problem["msg"], problem["type"]
        raised = problem.get("ctx", {}).get("error")
        if isinstance(raised, ValidationError):  # an embedded object raised it
            below = located(raised.errors(), *loc)
            details += below if schema is None else map(partial(_told, schema), below)
            continue
        if isinstance(raised, Exception):
            message = str(raised)  # without pydantic's "Value error, "
        if kind == "extra_forbidden":
            known = fields.get(str(loc[-1]))
            if known is not None and known.is_derived:
                details.append({**not_written(known), "loc": tuple(loc)})
                continue
            unknown += 1
            hint = ""
            if schema is not None and unknown <= _MOST_HINTS:
                hint = nearest_field(schema, str(loc[-1]))
            message = f"unknown field {cut(str(loc[-1]))!r}{hint}"
            kind = "unknown_field"
        elif kind == "missing":
            details.append(missing(schema, *loc))
            continue
        elif kind == "string_unicode":
            what = "the text" if any(isinstance(part, str) for part in loc) else "a key"
            message = f"{what} has a lone surrogate, which UTF-8 cannot hold"
        details.append({"loc": tuple(loc), "msg": message, "type": kind})
    return details


def missing(schema: Schema | None, *loc: str | int) -> ErrorDetail:
    """Return the problem that a required value is missing; one that may not be named has no name.

    Args:
        schema: The fields of the object.
        *loc: The place of the value, which ends with the field's name.
    """
    if schema is None or may_name(schema, str(loc[-1])):
        return {"loc": loc, "msg": "a value is required", "type": "missing"}
    message = "a value is required that you may not set"
    return {"loc": loc[:-1], "msg": message, "type": "missing"}


def _told(schema: Schema, detail: ErrorDetail) -> ErrorDetail:
    """Return a detail without the names of fields inside of one that may not be named."""
    loc = detail["loc"]
    fields = [part for part in loc if part in schema.fields]  # a batch has positions before them
    if detail["type"] != "unknown_field" or not fields or may_name(schema, str(fields[0])):
        return detail
    return {**detail, "msg": f"unknown field {cut(str(loc[-1]))!r}"}
