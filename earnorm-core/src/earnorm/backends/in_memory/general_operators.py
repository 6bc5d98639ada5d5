"""Operators of expressions: comparisons, logic, choices and arithmetic."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any, Final

from bson import Decimal128, Int64

from earnorm.backends.in_memory.expressions import (
    Make,
    Variables,
    arguments,
    expression,
    is_null,
    is_true,
    literal,
    named,
    of_values,
)
from earnorm.backends.in_memory.numbers import (
    CONTEXT,
    OutOfRange,
    as_decimal,
    combined,
    integer,
)
from earnorm.backends.in_memory.values import (
    Evaluate,
    is_number,
    key,
    lacking,
    refused,
    type_name,
)
from earnorm.domain.bson_order import MISSING
from earnorm.domain.values import is_dict


def _sign(one: Any, other: Any) -> int:
    first, second = key(one), key(other)
    return (first > second) - (first < second)


def _and(spec: Any) -> Evaluate:
    parts = arguments(spec, 0, 10_000)
    return lambda known: all(is_true(part(known)) for part in parts)


def _or(spec: Any) -> Evaluate:
    parts = arguments(spec, 0, 10_000)
    return lambda known: any(is_true(part(known)) for part in parts)


def _cond(spec: Any) -> Evaluate:
    if is_dict(spec):
        parts = named(spec, ("if", "then", "else"))
        test, yes, no = parts["if"], parts["then"], parts["else"]
    else:
        test, yes, no = arguments(spec, 3)
    return lambda known: (yes if is_true(test(known)) else no)(known)


def _if_null(spec: Any) -> Evaluate:
    parts = arguments(spec, 2, 10_000)

    def evaluate(known: Variables) -> Any:
        value: Any = MISSING
        for part in parts:
            value = part(known)
            if not is_null(value):
                return value
        return value

    return evaluate


def _switch(spec: Any) -> Evaluate:
    if not is_dict(spec) or not spec.get("branches"):
        raise refused(40068, "$switch requires at least one branch")
    branches = [named(branch, ("case", "then")) for branch in spec["branches"]]
    default = expression(spec["default"]) if "default" in spec else None

    def evaluate(known: Variables) -> Any:
        for branch in branches:
            if is_true(branch["case"](known)):
                return branch["then"](known)
        if default is None:
            raise refused(40066, "$switch could not find a matching branch")
        return default(known)

    return evaluate


def _let(spec: Any) -> Evaluate:
    if not is_dict(spec) or spec.keys() != {"vars", "in"}:
        raise refused(16875, "$let takes vars and in")
    given = {name: expression(part) for name, part in spec["vars"].items()}
    inner = expression(spec["in"])
    return lambda known: inner({**known, **{name: part(known) for name, part in given.items()}})


# -- arithmetic -----------------------------------------------------------------------------------


def _numeric(value: Any, name: str) -> Any:
    if not is_number(value):
        raise refused(7157723, f"{name} only supports numeric types, not {type_name(value)}")
    return value


def _computed(one: Any, other: Any, compute: Callable[[Any, Any], Any]) -> Any:
    try:
        return combined(one, other, compute)
    except OutOfRange:
        return compute(float(one), float(other))  # as the server, which goes on in binary


def _add(spec: Any) -> Evaluate:
    parts = arguments(spec, 0, 10_000)

    def evaluate(known: Variables) -> Any:
        result: Any = 0
        day: datetime.datetime | None = None
        values = [part(known) for part in parts]
        if _null_decides(values, "$add", datetime.datetime):
            return None
        if _mixes_decimals(values):
            raise lacking("$add of decimals and binary fractions")
        for value in values:
            if isinstance(value, datetime.datetime):
                if day is not None:
                    raise refused(16612, "only one date allowed in an $add expression")
                day = value
            else:
                result = _computed(result, _numeric(value, "$add"), lambda a, b: a + b)
        return result if day is None else _moved(day, result)

    return evaluate


def _null_decides(values: list[Any], name: str, *others: type) -> bool:
    """Return whether a null is among the values, before the first of a wrong type."""
    for value in values:
        if is_null(value):
            return True
        if not isinstance(value, others):
            _numeric(value, name)
    return False


def _mixes_decimals(values: list[Any]) -> bool:
    kinds = {type(value) for value in values}
    return Decimal128 in kinds and float in kinds


def _moved(day: datetime.datetime, milliseconds: Any) -> datetime.datetime:
    if not isinstance(milliseconds, int):
        milliseconds = round(float(str(milliseconds)))
    try:
        return day + datetime.timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise lacking("date beyond the year 9999") from None


def _subtract(one: Any, other: Any) -> Any:
    if is_null(one) or is_null(other):
        return None
    if isinstance(one, datetime.datetime):
        if isinstance(other, datetime.datetime):
            return Int64((one - other) // datetime.timedelta(milliseconds=1))
        return _moved(one, _computed(0, _numeric(other, "$subtract"), lambda a, b: a - b))
    if _mixes_decimals([one, other]):
        raise lacking("$subtract of decimals and binary fractions")
    both = (_numeric(one, "$subtract"), _numeric(other, "$subtract"))
    return _computed(*both, lambda a, b: a - b)


def _multiply(spec: Any) -> Evaluate:
    parts = arguments(spec, 0, 10_000)

    def evaluate(known: Variables) -> Any:
        values = [part(known) for part in parts]
        if _null_decides(values, "$multiply"):
            return None
        if _mixes_decimals(values):
            raise lacking("$multiply of decimals and binary fractions")
        result: Any = 1
        for value in values:
            result = _computed(result, _numeric(value, "$multiply"), lambda a, b: a * b)
        return result

    return evaluate


def _divide(one: Any, other: Any) -> Any:
    if is_null(one) or is_null(other):
        return None
    one, other = _numeric(one, "$divide"), _numeric(other, "$divide")
    if not is_true(other):
        raise refused(2, "can't $divide by zero")
    if _mixes_decimals([one, other]):
        raise lacking("$divide of decimals and binary fractions")
    if isinstance(one, Decimal128) or isinstance(other, Decimal128):
        with localcontext(CONTEXT) as context:
            return Decimal128(context.divide(as_decimal(one), as_decimal(other)))
    return float(one) / float(other)


def _mod(one: Any, other: Any) -> Any:
    if is_null(one) or is_null(other):
        return None
    one, other = _numeric(one, "$mod"), _numeric(other, "$mod")
    if not is_true(other):
        raise refused(16610, "can't $mod by zero")
    if _mixes_decimals([one, other]):
        raise lacking("$mod of decimals and binary fractions")
    if isinstance(one, Decimal128) or isinstance(other, Decimal128):
        with localcontext(CONTEXT) as context:
            return Decimal128(context.remainder(as_decimal(one), as_decimal(other)))
    if isinstance(one, float) or isinstance(other, float):
        if math.isinf(one) or one != one or other != other:
            return math.nan
        return math.fmod(one, other)
    is_long = isinstance(one, Int64) or isinstance(other, Int64)
    return integer(int(math.copysign(1, one)) * (abs(one) % abs(other)), is_long)


def _abs(value: Any) -> Any:
    if is_null(value):
        return None
    _numeric(value, "$abs")
    return _computed(value, 0, lambda one, _: abs(one))


def _whole(name: str, of_floats: Callable[[float], Any], rounding: str) -> Callable[[Any], Any]:
    def compute(value: Any) -> Any:
        if is_null(value):
            return None
        _numeric(value, name)
        if isinstance(value, Decimal128):
            number = value.to_decimal()
            if not number.is_finite():
                return value
            return Decimal128(number.to_integral_value(rounding))
        if isinstance(value, float):
            if not math.isfinite(value):
                return value
            return math.copysign(float(of_floats(value)), value)
        return value

    return compute


def _at_place(name: str, rounding: str) -> Make:
    def compute(value: Any, place: Any = 0) -> Any:
        if is_null(value) or is_null(place):
            return None
        _numeric(value, name)
        digits = int(float(str(place)))
        if digits != float(str(place)) or not -20 < digits < 100:
            raise refused(51082, f"precision of {name} must be an integer from -20 to 100")
        if isinstance(value, float) and not math.isfinite(value):
            return value
        number = Decimal(value) if isinstance(value, float) else as_decimal(value)
        if not number.is_finite():
            return value
        with localcontext(decimal.Context(prec=400)):
            exponent = number.as_tuple().exponent
            assert isinstance(exponent, int)  # of a finite number
            if -digits > exponent:
                number = number.quantize(Decimal(1).scaleb(-digits), rounding)
        if isinstance(value, Decimal128):
            return Decimal128(CONTEXT.create_decimal(number))
        if isinstance(value, float):
            return math.copysign(float(number), value)
        try:
            return integer(int(number), isinstance(value, Int64))
        except OutOfRange:
            raise lacking(f"{name} beyond 64 bits") from None

    return of_values(1, 2, compute)


def _sqrt(value: Any) -> Any:
    if is_null(value):
        return None
    _numeric(value, "$sqrt")
    if isinstance(value, Decimal128):
        raise lacking("$sqrt of a decimal")
    if value < 0:
        raise refused(28714, "$sqrt's argument must be greater than or equal to 0")
    return math.sqrt(value)


OPERATORS: Final[Mapping[str, Make]] = {
    "$literal": literal,
    "$cmp": of_values(2, 2, _sign),
    "$eq": of_values(2, 2, lambda one, other: _sign(one, other) == 0),
    "$ne": of_values(2, 2, lambda one, other: _sign(one, other) != 0),
    "$gt": of_values(2, 2, lambda one, other: _sign(one, other) > 0),
    "$gte": of_values(2, 2, lambda one, other: _sign(one, other) >= 0),
    "$lt": of_values(2, 2, lambda one, other: _sign(one, other) < 0),
    "$lte": of_values(2, 2, lambda one, other: _sign(one, other) <= 0),
    "$and": _and,
    "$or": _or,
    "$not": of_values(1, 1, lambda value: not is_true(value)),
    "$cond": _cond,
    "$ifNull": _if_null,
    "$switch": _switch,
    "$let": _let,
    "$add": _add,
    "$subtract": of_values(2, 2, _subtract),
    "$multiply": _multiply,
    "$divide": of_values(2, 2, _divide),
    "$mod": of_values(2, 2, _mod),
    "$abs": of_values(1, 1, _abs),
    "$ceil": of_values(1, 1, _whole("$ceil", math.ceil, ROUND_CEILING)),
    "$floor": of_values(1, 1, _whole("$floor", math.floor, ROUND_FLOOR)),
    "$round": _at_place("$round", ROUND_HALF_EVEN),
    "$trunc": _at_place("$trunc", ROUND_DOWN),
    "$sqrt": of_values(1, 1, _sqrt),
    "$isNumber": of_values(1, 1, is_number),
    "$type": of_values(1, 1, type_name),
}
