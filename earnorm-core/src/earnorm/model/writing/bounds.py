"""Numbers that the server computes, and the bounds that their fields declare.

Only the server knows the result, so the bounds become a condition on the old value, which is part
of the write itself.
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

_DIGITS = 34  # the digits of a Decimal128


def checked_number(change: str, field: Field[Any, Any], value: object) -> Any:
    """Return the operand of a number's change, converted to the field's own type.

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
    """Return the message for a change that does not support the field's type."""
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
    """Return the condition on the old value that keeps ``result`` within the field's bounds.

    Args:
        place: The place of the number.
        result: Computes the new value from the old one.
        before: The inverse of ``result``; None where every old value gives the same result.
        moves_up: The result can exceed the upper bound.
        moves_down: The result can fall below the lower bound.
        turned: A greater old value gives a smaller result.
    """
    low, high = bounds(place.field)
    if low is None and high is None:
        return Domain.TRUE
    is_inside = (low is None or result(0) >= low) and (high is None or result(0) <= high)
    if before is None:  # every old value gives the same result
        return Domain.TRUE if is_inside else Domain.FALSE
    domain = Domain.TRUE
    for bound, matters, is_upper in ((high, moves_up, True), (low, moves_down, False)):
        if bound is not None and matters:
            upper_before = is_upper is not turned
            limit = _limit(bound, result, before, is_upper, upper_before)
            domain &= condition(place.path, "<=" if upper_before else ">=", limit)
    if domain is Domain.TRUE:
        return Domain.TRUE if is_inside else condition(place.path, "exists", True)
    return domain | condition(place.path, "exists", False) if is_inside else domain


def _limit(
    bound: Any,
    result: Callable[[Any], Any],
    before: Callable[[Any], Any],
    is_upper: bool,
    upper_before: bool,
) -> Any:
    """Return the outermost old value whose result keeps the bound.

    The inverse rounds, so its value moves inwards until the result keeps the bound.
    """
    limit = before(bound)

    def is_kept(value: Any) -> bool:
        return bool(result(value) <= bound if is_upper else result(value) >= bound)

    while not is_kept(limit):
        limit = _step(limit, -1 if upper_before else 1)
    return limit


def _step(value: Any, direction: int) -> Any:
    if isinstance(value, float):
        return math.nextafter(value, direction * math.inf)
    if isinstance(value, decimal.Decimal):
        return value.next_plus() if direction > 0 else value.next_minus()
    return value + direction


def bounds(field: Any) -> tuple[Any, Any]:
    """Return the lowest and the highest value of a numeric field; None for a missing bound."""
    low, high = field.min_value, field.max_value
    if isinstance(field, Decimal) and field.max_digits < _DIGITS:
        digits = field.max_digits - (field.decimal_places or 0)
        most = decimal.Decimal(10) ** digits - decimal.Decimal(1).scaleb(
            -(field.decimal_places or 0)
        )
        low = -most if low is None else max(low, -most)
        high = most if high is None else min(high, most)
    return low, high
