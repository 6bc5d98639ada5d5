"""Numbers that the server computes, and the bounds that their fields declare.

Whether a result keeps the bounds is known to the server only, so it is a condition on the value
before, and part of the write itself.
"""

from __future__ import annotations

import decimal
import functools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pydantic

from earnorm.domain import Domain, condition
from earnorm.fields.base import Field
from earnorm.fields.numeric import Decimal, Float, Int, at_most
from earnorm.model.writing.places import Place, RefusedError

Number = int | float | decimal.Decimal

_DIGITS = 34  # of a Decimal128


def checked_number(change: str, field: Field[Any, Any], value: object) -> Any:
    """The operand of a change of a number, of the field's own type.

    Raises:
        RefusedError: The field is no number, or has checks that the result could break.
        pydantic.ValidationError: The operand is not of that type.
    """
    for kind, annotation in _NUMBERS.items():
        if isinstance(field, kind):
            if type(field).annotation is not kind.annotation or field.choices or field.validators:
                raise RefusedError(
                    f"the result of {change} cannot be checked by the field's own "
                    f"validators or choices; read the record, change it and save() it"
                )
            if isinstance(value, bool):
                raise RefusedError("a number is needed, not a bool")
            if isinstance(value, float) and not math.isfinite(value):
                raise RefusedError("a finite number is needed")
            places = getattr(field, "decimal_places", None) if change == "Inc" else None
            return _numeric(annotation, places).validate_python(value)
    raise RefusedError(works_on(change, "Int, Float and Decimal", field))


def works_on(change: str, kinds: str, field: Field[Any, Any]) -> str:
    """What is said where a change does not go with a field."""
    return f"{change} works on {kinds} fields, and this is a {type(field).__name__}"


_NUMBERS: Mapping[type[Field[Any, Any]], Any] = {Int: int, Float: float, Decimal: decimal.Decimal}


@functools.cache
def _numeric(kind: Any, places: int | None) -> pydantic.TypeAdapter[Any]:
    if kind is int:
        return pydantic.TypeAdapter(Annotated[int, pydantic.Field(ge=-(2**63), le=2**63 - 1)])
    if kind is float:
        return pydantic.TypeAdapter(float)
    shape = pydantic.Field(max_digits=_DIGITS, decimal_places=places)
    return pydantic.TypeAdapter(Annotated[decimal.Decimal, shape, at_most(_DIGITS)])


def within_bounds(
    place: Place,
    result: Callable[[Any], Any],
    before: Callable[[Any], Any] | None,
    *,
    moves_up: bool,
    moves_down: bool,
    turned: bool = False,
) -> Domain:
    """The values whose ``result`` lies within the field's bounds; ``before`` is its inverse."""
    low, high = bounds(place.field)
    if low is None and high is None:
        return Domain.TRUE
    is_inside = (low is None or result(0) >= low) and (high is None or result(0) <= high)
    if before is None:  # whatever it was, the result is the same
        return Domain.TRUE if is_inside else Domain.FALSE
    known = Domain.TRUE
    for bound, matters, is_upper in ((high, moves_up, True), (low, moves_down, False)):
        if bound is not None and matters:
            upper_before = is_upper is not turned
            limit = _limit(bound, result, before, is_upper, upper_before)
            known &= condition(place.path, "<=" if upper_before else ">=", limit)
    if known is Domain.TRUE:
        return Domain.TRUE if is_inside else condition(place.path, "exists", True)
    return known | condition(place.path, "exists", False) if is_inside else known


def _limit(
    bound: Any,
    result: Callable[[Any], Any],
    before: Callable[[Any], Any],
    is_upper: bool,
    upper_before: bool,
) -> Any:
    """The outermost value whose result keeps the bound; the inverse is rounded, so step inwards."""
    found = before(bound)

    def is_kept(value: Any) -> bool:
        return bool(result(value) <= bound if is_upper else result(value) >= bound)

    while not is_kept(found):
        found = _step(found, -1 if upper_before else 1)
    return found


def _step(value: Any, direction: int) -> Any:
    if isinstance(value, float):
        return math.nextafter(value, direction * math.inf)
    if isinstance(value, decimal.Decimal):
        return value.next_plus() if direction > 0 else value.next_minus()
    return value + direction


def bounds(field: Any) -> tuple[Any, Any]:
    """The lowest and the highest value of a number's field; None where there is none."""
    low, high = field.min_value, field.max_value
    if isinstance(field, Decimal) and field.max_digits < _DIGITS:
        digits = field.max_digits - (field.decimal_places or 0)
        most = decimal.Decimal(10) ** digits - decimal.Decimal(1).scaleb(
            -(field.decimal_places or 0)
        )
        low = -most if low is None else max(low, -most)
        high = most if high is None else min(high, most)
    return low, high
