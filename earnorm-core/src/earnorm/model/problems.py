"""The problems of values that pydantic found, in the words of this library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pydantic

from earnorm.exceptions import ErrorDetail, ValidationError, cut, located, nearest
from earnorm.fields.base import Field, not_written

_MOST_HINTS: Final = 20
"""The most unknown names for which the nearest field is looked for: 0.1 to 0.4 ms for each."""


def problems_of(
    error: pydantic.ValidationError, fields: Mapping[str, Field[Any, Any]]
) -> list[ErrorDetail]:
    """Return the problems of values that are not valid, each with its place.

    Args:
        error: The error.
        fields: The fields of the object that was validated, which a wrong name may be near to.
    """
    details: list[ErrorDetail] = []
    unknown = 0
    for problem in error.errors(include_url=False, include_input=False, include_context=True):
        loc, message, kind = problem["loc"], problem["msg"], problem["type"]
        raised = problem.get("ctx", {}).get("error")
        if isinstance(raised, ValidationError):  # an embedded object raised it
            details += located(raised.errors(), *loc)
            continue
        if isinstance(raised, Exception):
            message = str(raised)  # without pydantic's "Value error, "
        if kind == "extra_forbidden":
            known = fields.get(str(loc[-1]))
            if known is not None and known.is_derived:
                details.append({**not_written(known), "loc": tuple(loc)})
                continue
            unknown += 1
            hint = nearest(str(loc[-1]), fields) if unknown <= _MOST_HINTS else ""
            message = f"unknown field {cut(str(loc[-1]))!r}{hint}"
            kind = "unknown_field"
        elif kind == "missing":
            message = "a value is required"
        elif kind == "string_unicode":
            what = "the text" if any(isinstance(part, str) for part in loc) else "a key"
            message = f"{what} has a lone surrogate, which UTF-8 cannot hold"
        details.append({"loc": tuple(loc), "msg": message, "type": kind})
    return details
