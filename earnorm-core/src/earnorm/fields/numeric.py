"""Numbers and truth: Int, Float, Decimal, Boolean."""

from __future__ import annotations

import decimal
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Unpack, overload

import pydantic
from bson import Decimal128, Int64
from pydantic_core import PydanticCustomError, PydanticKnownError

from earnorm.fields.base import ConvertingField, Field, FieldOptions, N, Validator

if TYPE_CHECKING:
    from earnorm.domain import Domain
    from earnorm.model.writing.updates import Change

# BSON integers have 64 bits; the driver would refuse a larger one in the middle of a batch.
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_MAX_DIGITS = 34  # of a Decimal128
_DECIMAL128 = decimal.Context(prec=_MAX_DIGITS, Emin=-6143, Emax=6144, clamp=1)

Rounding = Literal[
    "ROUND_HALF_EVEN",
    "ROUND_HALF_UP",
    "ROUND_HALF_DOWN",
    "ROUND_UP",
    "ROUND_DOWN",
    "ROUND_CEILING",
    "ROUND_FLOOR",
    "ROUND_05UP",
]
"""The ways to round, by their names in Python's ``decimal`` module."""

Number = TypeVar("Number", int, float, decimal.Decimal)


class Int(Field[int, N]):
    """A whole number of at most 64 bits.

    Args:
        min_value: The lowest value allowed.
        max_value: The highest value allowed.
    """

    python_type: ClassVar[Any] = int
    operand_types = (int, float, decimal.Decimal, Int64)
    min_value: int | None
    max_value: int | None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: int | Callable[[], int] | None = None,
        choices: Sequence[int] | None = None,
        validators: Iterable[Validator[int]] = (),
        min_value: int | None = None,
        max_value: int | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, choices, validators, options)
        self.min_value = min_value
        self.max_value = max_value

    def annotation(self) -> Any:
        low = _INT_MIN if self.min_value is None else self.min_value
        high = _INT_MAX if self.max_value is None else self.max_value
        return Annotated[int, pydantic.Field(ge=low, le=high)]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": ["int", "long"], **_bounds(self.min_value, self.max_value)}

    def operand(self, value: Any) -> Any:
        return _number_operand(self, value)


class Float(Field[float, N]):
    """A floating-point number of 64 bits.

    Args:
        min_value: The lowest value allowed.
        max_value: The highest value allowed.
    """

    python_type: ClassVar[Any] = float
    operand_types = (int, float, decimal.Decimal, Int64)
    min_value: float | None
    max_value: float | None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: float | Callable[[], float] | None = None,
        choices: Sequence[float] | None = None,
        validators: Iterable[Validator[float]] = (),
        min_value: float | None = None,
        max_value: float | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, choices, validators, options)
        self.min_value = min_value
        self.max_value = max_value

    def annotation(self) -> Any:
        if self.min_value is None and self.max_value is None:
            return float
        return Annotated[float, pydantic.Field(ge=self.min_value, le=self.max_value)]

    def bson_schema(self) -> Mapping[str, Any]:
        # Other programs, such as the shell, write a whole number as an int.
        kinds = ["double", "int", "long"]
        return {"bsonType": kinds, **_bounds(self.min_value, self.max_value)}

    def operand(self, value: Any) -> Any:
        return _number_operand(self, value)


class Decimal(ConvertingField[decimal.Decimal, N]):
    """An exact decimal number, stored as Decimal128 (34 digits).

    Args:
        min_value: The lowest value allowed.
        max_value: The highest value allowed.
        max_digits: The most digits in all.
        decimal_places: The most digits after the point.
        rounding: Round to ``decimal_places`` instead of refusing more digits, by one of the names
            of ``decimal``: ``"ROUND_HALF_EVEN"``, ``"ROUND_HALF_UP"``, ``"ROUND_DOWN"`` …
    """

    python_type: ClassVar[Any] = decimal.Decimal
    lossy = True
    operand_types = (decimal.Decimal, int, float, Int64, Decimal128)
    min_value: decimal.Decimal | None
    max_value: decimal.Decimal | None
    max_digits: int
    decimal_places: int | None
    rounding: Rounding | None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: decimal.Decimal | int | Callable[[], decimal.Decimal] | None = None,
        choices: Sequence[decimal.Decimal] | None = None,
        validators: Iterable[Validator[decimal.Decimal]] = (),
        min_value: decimal.Decimal | int | None = None,
        max_value: decimal.Decimal | int | None = None,
        max_digits: int = _MAX_DIGITS,
        decimal_places: int | None = None,
        rounding: Rounding | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        if rounding is not None and decimal_places is None:
            raise TypeError("rounding needs decimal_places, the digits to round to")
        if not 1 <= max_digits <= _MAX_DIGITS:
            raise ValueError(f"max_digits is 1 to {_MAX_DIGITS}, what a Decimal128 holds")
        self._bind(required, default, choices, validators, options)
        self.min_value = None if min_value is None else decimal.Decimal(min_value)
        self.max_value = None if max_value is None else decimal.Decimal(max_value)
        self.max_digits = max_digits
        self.decimal_places = decimal_places
        self.rounding = rounding
        if rounding is not None:
            round_to(decimal.Decimal(0), 0, rounding)  # a wrong name fails here

    if TYPE_CHECKING:
        # A whole number means the same, wherever a value is given.

        @overload
        def __set__(
            self: Decimal[Literal[True]], record: object, value: decimal.Decimal | int
        ) -> None: ...
        @overload
        def __set__(
            self: Decimal[Literal[False]], record: object, value: decimal.Decimal | int | None
        ) -> None: ...
        def __set__(self, record: object, value: Any) -> None: ...

        @overload
        def to(
            self: Decimal[Literal[True]], value: decimal.Decimal | int | Change
        ) -> dict[str, Any]: ...
        @overload
        def to(
            self: Decimal[Literal[False]], value: decimal.Decimal | int | Change | None
        ) -> dict[str, Any]: ...
        def to(self, value: Any) -> dict[str, Any]: ...

        def __gt__(self, value: decimal.Decimal | int) -> Domain: ...
        def __ge__(self, value: decimal.Decimal | int) -> Domain: ...
        def __lt__(self, value: decimal.Decimal | int) -> Domain: ...
        def __le__(self, value: decimal.Decimal | int) -> Domain: ...
        def in_(self, values: Iterable[decimal.Decimal | int]) -> Domain: ...
        def not_in(self, values: Iterable[decimal.Decimal | int]) -> Domain: ...

    def annotation(self) -> Any:
        bounds = pydantic.Field(
            ge=self.min_value,
            le=self.max_value,
            max_digits=self.max_digits,
            decimal_places=self.decimal_places,
        )
        if self.rounding is None:
            return Annotated[decimal.Decimal, bounds, at_most(self.max_digits)]
        return Annotated[decimal.Decimal, pydantic.AfterValidator(self._rounded), bounds]

    def _rounded(self, value: decimal.Decimal) -> decimal.Decimal:
        assert self.decimal_places is not None and self.rounding is not None
        return round_to(value, self.decimal_places, self.rounding)

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "decimal", **_bounds(self.min_value, self.max_value)}

    def is_decoded(self, value: Any) -> bool:
        return type(value) is decimal.Decimal

    def encode(self, value: Any) -> Any:
        return Decimal128(value) if type(value) is decimal.Decimal else value

    def decode(self, value: Any) -> Any:
        if type(value) is Decimal128:
            return value.to_decimal()
        if isinstance(value, (int, float)) and type(value) is not bool:  # of another program
            return decimal.Decimal(str(value))
        return value

    def is_exact(self, stored: Any, value: Any) -> bool:
        return type(stored) is Decimal128

    def operand(self, value: Any) -> Any:
        return _number_operand(self, value)


class Boolean(Field[bool, N]):
    """True or False."""

    python_type: ClassVar[Any] = bool
    operand_types = (bool,)
    identifies = False

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "bool"}


def _bounds(low: Any, high: Any) -> dict[str, Any]:
    bounds = {"minimum": low, "maximum": high}
    return {
        name: Decimal128(_DECIMAL128.create_decimal(value))
        if isinstance(value, decimal.Decimal)
        else value
        for name, value in bounds.items()
        if value is not None
    }


@functools.cache
def at_most(digits: int) -> pydantic.AfterValidator:
    """Make a validator that counts the digits exactly.

    It is needed beside ``max_digits``: before 2.14 pydantic counts them after rounding to 28.
    """
    exact = decimal.Context(prec=digits, traps=[decimal.Inexact])

    def check(value: decimal.Decimal) -> decimal.Decimal:
        try:
            exact.create_decimal(value)
        except decimal.Inexact:
            raise PydanticKnownError("decimal_max_digits", {"max_digits": digits}) from None
        return value

    return pydantic.AfterValidator(check)


def round_to(value: decimal.Decimal, places: int, rounding: Rounding) -> decimal.Decimal:
    """Round the number to this number of digits after the point.

    Raises:
        PydanticCustomError: The result has more than the 34 digits of a Decimal128.
    """
    try:
        return value.quantize(decimal.Decimal(1).scaleb(-places), rounding, _DECIMAL128)
    except decimal.InvalidOperation:
        raise PydanticCustomError(
            "decimal_max_digits", "more than {n} digits", {"n": _MAX_DIGITS}
        ) from None


def decimal128(value: decimal.Decimal | int) -> Decimal128:
    """Return the nearest number that a Decimal128 can hold."""
    return Decimal128(_DECIMAL128.create_decimal(value))


def _number_operand(field: Field[Any, Any], value: Any) -> Any:
    if isinstance(value, Decimal128) and isinstance(field, Decimal):
        return value
    if value is None or type(value) is float:
        return value
    if type(value) is bool or not isinstance(value, (int, float, decimal.Decimal)):
        raise ValueError(f"{field.name} is compared with a number, not {type(value).__name__}")
    if isinstance(value, decimal.Decimal):
        return decimal128(value)
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        # beyond 64 bits; a Decimal128 still compares right with every stored number
        return decimal128(value)
    return value
