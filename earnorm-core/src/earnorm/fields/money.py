"""Money: an amount in a currency, as one value."""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

import pydantic
from bson import Decimal128
from pydantic_core import PydanticCustomError, core_schema

from earnorm.fields.base import ConvertingField, Field, FieldOptions, N, Validator
from earnorm.fields.expressions import Expressions
from earnorm.fields.json_forms import json_form
from earnorm.fields.numeric import Decimal, Rounding, decimal128, round_to
from earnorm.fields.structured import always_set
from earnorm.fields.text import String

_CODE = re.compile("[A-Z]{3}")
_NUMBER = (int, decimal.Decimal)
_EXACT = decimal.Context(prec=34)


@dataclass(frozen=True, slots=True, order=False, init=False)
class MoneyValue:
    """An amount in a currency: ``MoneyValue("12.50", "EUR")``. Immutable.

    It adds, subtracts and compares with the same currency only, and multiplies and divides by whole
    and decimal numbers (a float is refused, because it is not exact). Only :meth:`round` and the
    field round it.

    Attributes:
        amount: The number of currency units.
        currency: Three capital letters, as in ISO 4217.

    Raises:
        ValueError: The amount is not a finite number, or the currency is not such a code.
    """

    amount: decimal.Decimal
    currency: str

    def __init__(self, amount: decimal.Decimal | int | str, currency: str) -> None:
        if isinstance(amount, bool) or not isinstance(amount, int | str | decimal.Decimal):
            raise ValueError(
                f"an amount is a Decimal, an int or a text, not {type(amount).__name__}"
            )
        try:
            number = decimal.Decimal(amount)
        except decimal.InvalidOperation:
            raise ValueError("the amount is no number") from None
        if not number.is_finite():
            raise ValueError("the amount is no finite number")
        if not isinstance(currency, str) or not _CODE.fullmatch(currency):
            raise ValueError("a currency is three capital letters, such as EUR")
        object.__setattr__(self, "amount", number)
        object.__setattr__(self, "currency", currency)

    def _same_currency(self, other: object, verb: str) -> decimal.Decimal | None:
        if not isinstance(other, MoneyValue):
            return None
        if other.currency != self.currency:
            raise ValueError(f"cannot {verb} {self.currency} and {other.currency}")
        return other.amount

    def __add__(self, other: MoneyValue) -> MoneyValue:
        amount = self._same_currency(other, "add")
        if amount is None:
            return NotImplemented
        return MoneyValue(_EXACT.add(self.amount, amount), self.currency)

    def __radd__(self, other: int) -> MoneyValue:
        # sum() begins with 0
        return self if other == 0 and not isinstance(other, bool) else NotImplemented

    def __sub__(self, other: MoneyValue) -> MoneyValue:
        amount = self._same_currency(other, "subtract")
        if amount is None:
            return NotImplemented
        return MoneyValue(_EXACT.subtract(self.amount, amount), self.currency)

    def __mul__(self, number: int | decimal.Decimal) -> MoneyValue:
        if not isinstance(number, _NUMBER) or isinstance(number, bool):
            return NotImplemented
        return MoneyValue(_EXACT.multiply(self.amount, decimal.Decimal(number)), self.currency)

    __rmul__ = __mul__

    def __truediv__(self, number: int | decimal.Decimal) -> MoneyValue:
        if not isinstance(number, _NUMBER) or isinstance(number, bool):
            return NotImplemented
        return MoneyValue(_EXACT.divide(self.amount, decimal.Decimal(number)), self.currency)

    def __neg__(self) -> MoneyValue:
        return MoneyValue(-self.amount, self.currency)

    def __abs__(self) -> MoneyValue:
        return MoneyValue(abs(self.amount), self.currency)

    def __bool__(self) -> bool:
        return bool(self.amount)

    def __lt__(self, other: MoneyValue) -> bool:
        amount = self._same_currency(other, "compare")
        return NotImplemented if amount is None else self.amount < amount

    def __le__(self, other: MoneyValue) -> bool:
        amount = self._same_currency(other, "compare")
        return NotImplemented if amount is None else self.amount <= amount

    def __gt__(self, other: MoneyValue) -> bool:
        amount = self._same_currency(other, "compare")
        return NotImplemented if amount is None else self.amount > amount

    def __ge__(self, other: MoneyValue) -> bool:
        amount = self._same_currency(other, "compare")
        return NotImplemented if amount is None else self.amount >= amount

    def round(self, places: int = 2, rounding: Rounding = "ROUND_HALF_EVEN") -> MoneyValue:
        """Round the amount to this number of digits after the point."""
        return MoneyValue(round_to(self.amount, places, rounding), self.currency)

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        shape = core_schema.typed_dict_schema(
            {
                "amount": core_schema.typed_dict_field(core_schema.decimal_schema()),
                "currency": core_schema.typed_dict_field(
                    core_schema.str_schema(pattern="^[A-Z]{3}$")
                ),
            },
            extra_behavior="forbid",
        )
        made = core_schema.no_info_after_validator_function(lambda d: cls(**d), shape)
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), made],
            custom_error_type="money",
            custom_error_message="not an amount with a currency, such as "
            "{'amount': '12.50', 'currency': 'EUR'}",
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: {"amount": value.amount, "currency": value.currency},
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                "amount": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
            },
            "required": ["amount", "currency"],
            "additionalProperties": False,
        }


class Money(ConvertingField[MoneyValue, N]):
    """An amount in a currency, stored as ``{"amount": Decimal128, "currency": "EUR"}``.

    A mapping of the two is accepted; a field with one currency accepts a number or text as well.
    Conditions use ``"price.amount"`` and ``"price.currency"``, or ``Product.price.amount > 20``.

    Args:
        currency: The only currency allowed; values may leave it out.
        currencies: The currencies allowed.
        min_value: The lowest amount allowed.
        max_value: The highest amount allowed.
        decimal_places: The most digits after the point.
        rounding: Round to ``decimal_places`` instead of refusing more digits, as for Decimal.
    """

    lossy = True
    currencies: tuple[str, ...]
    rounding: Rounding | None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: MoneyValue | Callable[[], MoneyValue] | None = None,
        validators: Iterable[Validator[MoneyValue]] = (),
        currency: str | None = None,
        currencies: Sequence[str] = (),
        min_value: decimal.Decimal | int | None = None,
        max_value: decimal.Decimal | int | None = None,
        decimal_places: int | None = None,
        rounding: Rounding | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        self.currencies = tuple(currencies) if currency is None else (currency,)
        for code in self.currencies:
            MoneyValue(0, code)
        self._amount: Decimal[Any] = Decimal(
            min_value=min_value,
            max_value=max_value,
            decimal_places=decimal_places,
            rounding=rounding,
        )
        self.rounding = rounding
        self._currency: String[Any] = String(choices=self.currencies or None)
        self._amounts: pydantic.TypeAdapter[decimal.Decimal] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        for part, field in self.parts.items():
            field.name, field.db_name, field.model_name = f"{name}.{part}", part, owner.__name__

    @property
    def parts(self) -> Mapping[str, Field[Any, Any]]:
        return {"amount": self._amount, "currency": self._currency}

    @property
    def amount(self) -> Expressions[decimal.Decimal]:
        """The amount, for conditions: ``Product.price.amount > 20``."""
        return self._amount

    @property
    def currency(self) -> Expressions[str]:
        """The currency, for conditions: ``Product.price.currency == "EUR"``."""
        return self._currency

    def annotation(self) -> Any:
        return Annotated[
            MoneyValue,
            pydantic.BeforeValidator(self._completed),
            pydantic.AfterValidator(self._checked),
        ]

    def to_json(self, value: Any) -> Any:
        if type(value) is not MoneyValue:
            return json_form(value)
        return {"amount": str(value.amount), "currency": value.currency}

    def bson_schema(self) -> Mapping[str, Any]:
        return {
            "bsonType": "object",
            "required": ["amount", "currency"],
            "additionalProperties": False,
            "properties": {
                "amount": dict(self._amount.bson_schema()),
                "currency": always_set(self._currency),
            },
        }

    def _completed(self, value: Any) -> Any:
        if isinstance(value, MoneyValue) or len(self.currencies) != 1:
            return value
        if isinstance(value, Mapping):
            return {"currency": self.currencies[0], **value}
        return {"amount": value, "currency": self.currencies[0]}

    def _checked(self, value: MoneyValue) -> MoneyValue:
        if self.currencies and value.currency not in self.currencies:
            allowed = ", ".join(self.currencies)
            raise PydanticCustomError("currency", "the currency is {allowed}", {"allowed": allowed})
        if self._amounts is None:
            self._amounts = pydantic.TypeAdapter(self._amount.value_annotation())
        try:
            return MoneyValue(self._amounts.validate_python(value.amount), value.currency)
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            message = problem["msg"].replace("{", "{{").replace("}", "}}")
            raise PydanticCustomError("amount", "amount: {msg}", {"msg": message}) from None

    def is_decoded(self, value: Any) -> bool:
        return type(value) is MoneyValue

    def encode(self, value: Any) -> Any:
        if type(value) is not MoneyValue:
            return value
        return {"amount": Decimal128(value.amount), "currency": value.currency}

    def decode(self, value: Any) -> Any:
        if type(value) is not dict:
            return value
        try:
            return MoneyValue(self._amount.decode(value["amount"]), value["currency"])
        except (KeyError, ValueError):  # stored by another program
            return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        money = self._completed(value)
        try:
            if isinstance(money, Mapping):
                money = MoneyValue(**money)
        except (TypeError, ValueError):
            money = None
        if not isinstance(money, MoneyValue):
            raise ValueError(
                f"{self.name} is compared with a MoneyValue, or by '{self.name}.amount' and "
                f"'{self.name}.currency', not with {type(value).__name__}"
            )
        return {"amount": decimal128(money.amount), "currency": money.currency}
