"""Arithmetic of stored numbers, with the types that a server gives to its results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, localcontext
from typing import Any, Final

from bson import Decimal128, Int64
from bson.decimal128 import create_decimal128_context

from earnorm.backends.in_memory.values import INT32, INT64, lacking

CONTEXT: Final[Context] = create_decimal128_context()


class OutOfRange(Exception):
    """The result of two integers has more than 64 bits."""


def as_decimal(value: Any) -> Decimal:
    """Return a number as a Decimal; one in binary with the fifteen digits that the server keeps."""
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, float):
        if not math.isfinite(value):
            return Decimal(repr(value))
        if value == 0:
            return Decimal(0)
        return Decimal(f"{value:.14e}")
    return Decimal(int(value))


def as_decimal128(value: Decimal) -> Decimal128:
    """Return a stored decimal, rounded to its 34 digits."""
    with localcontext(CONTEXT) as context:
        return Decimal128(context.create_decimal(value))


def combined(one: Any, other: Any, compute: Callable[[Any, Any], Any]) -> Any:
    """Return the result for two numbers: a decimal, else binary, else an integer of 32 or 64 bits.

    Raises:
        OutOfRange: Two integers have a result of more than 64 bits.
    """
    if isinstance(one, Decimal128) or isinstance(other, Decimal128):
        with localcontext(CONTEXT) as context:
            result = compute(as_decimal(one), as_decimal(other))
            return Decimal128(context.create_decimal(result))
    if isinstance(one, float) or isinstance(other, float):
        return compute(float(one), float(other))
    return integer(
        compute(int(one), int(other)), isinstance(one, Int64) or isinstance(other, Int64)
    )


def integer(value: int, is_long: bool) -> Any:
    """Return a stored integer: of 64 bits if it was one, or needs them.

    Raises:
        OutOfRange: It needs more.
    """
    if not -INT64 <= value < INT64:
        raise OutOfRange
    return Int64(value) if is_long or not -INT32 <= value < INT32 else value


def total(numbers: Iterable[Any]) -> Any:
    """Return the sum of numbers, as ``$sum`` gives it; 0 for none.

    Raises:
        NotImplementedError: Decimals and other fractions are added, which the server rounds in its way.
    """
    decimals: list[Decimal] = []
    floats: list[float] = []
    whole, is_long = 0, False
    for number in numbers:
        if isinstance(number, Decimal128):
            decimals.append(number.to_decimal())
        elif isinstance(number, float):
            floats.append(number)
        else:
            whole += int(number)
            is_long = is_long or isinstance(number, Int64)
    if decimals:
        if any(not number.is_integer() for number in floats):
            raise lacking("sum of decimals and binary fractions")
        with localcontext(CONTEXT) as context:
            result = Decimal(whole)
            for item in [*decimals, *(Decimal(int(number)) for number in floats)]:
                result = context.add(result, item)
        return Decimal128(result)
    if floats:
        return float_sum([*floats, *([float(whole)] if whole else [])])
    if not -INT64 <= whole < INT64:
        return float(whole)
    return integer(whole, is_long)


def float_sum(numbers: list[float]) -> float:
    """Return the exact sum, rounded once, as the server's compensated one is."""
    if all(map(math.isfinite, numbers)):
        try:
            return math.fsum(numbers)
        except OverflowError:
            pass
    return sum(numbers)


def mean(numbers: list[Any]) -> Any:
    """Return the mean of numbers, as ``$avg`` gives it; None for none."""
    if not numbers:
        return None
    result = total(numbers)
    if isinstance(result, Decimal128):
        with localcontext(CONTEXT) as context:
            return Decimal128(context.divide(result.to_decimal(), Decimal(len(numbers))))
    return float(result) / len(numbers)


def deviation(numbers: list[Any], *, is_sample: bool) -> Any:
    """Return the standard deviation, as ``$stdDevPop`` and ``$stdDevSamp`` give it."""
    count = len(numbers)
    if not count or (is_sample and count == 1):
        return None
    # Welford's method, number by number, as the server's.
    average = squares = 0.0
    for position, number in enumerate(numbers, 1):
        value = float(number.to_decimal()) if isinstance(number, Decimal128) else float(number)
        delta = value - average
        average += delta / position
        squares += delta * (value - average)
    return math.sqrt(squares / (count - is_sample))
