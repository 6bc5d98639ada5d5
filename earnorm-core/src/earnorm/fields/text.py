"""Text: String, Text, Email, Url, Slug, Phone, Color, and Selection among fixed texts.

A field that normalises (``strip``, ``case``, Slug, Phone, Color) normalises the stored value and
the value of a condition alike, so that they match.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar, Unpack

import pydantic
from pydantic_core import PydanticCustomError, core_schema

from earnorm.fields.base import Field, FieldOptions, N, Validator

# The WHATWG pattern for <input type=email>, but the domain must have a dot. RFC 5322 allows more,
# but nobody has such an address. A validator cannot know whether mail arrives.
_EMAIL = (
    r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
)


class _Storable:
    """The check of every text that UTF-8, and so BSON, can hold it.

    pydantic-core looks into a text only if it has a constraint; this one always holds and costs
    nothing that can be measured. Without it a lone surrogate (``"\\ud800"`` from any JSON client)
    would reach the driver.
    """

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        return {"min_length": 0, **schema} if schema["type"] == "str" else schema  # type: ignore[typeddict-unknown-key,misc,return-value,unused-ignore] # mypy does not narrow the union by "type"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        shown = handler(schema)
        return {name: value for name, value in shown.items() if (name, value) != ("minLength", 0)}


Case = Literal["lower", "upper"]
_CASES: dict[str | None, Callable[[str], str]] = {
    None: lambda text: text,
    "lower": str.lower,
    "upper": str.upper,
}


class String(Field[str, N]):
    """A text.

    Args:
        min_length: The fewest characters allowed.
        max_length: The most characters allowed.
        pattern: A regular expression that the whole text must match (Rust syntax, linear time).
        strip: Cut white space off both ends before anything else is checked.
        case: Convert the text to ``"lower"`` or ``"upper"`` case before it is checked.
    """

    python_type: ClassVar[Any] = str
    operand_types = (str,)
    json_format: ClassVar[str] = ""
    """The ``format`` of JSON Schema."""
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    strip: bool = False
    case: Case | None = None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: str | Callable[[], str] | None = None,
        choices: Sequence[str] | None = None,
        validators: Iterable[Validator[str]] = (),
        min_length: int | None = None,
        max_length: int | None = None,
        pattern: str | None = None,
        strip: bool = False,
        case: Case | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        if case not in _CASES:
            raise ValueError(f"case is 'lower' or 'upper', not {case!r}")
        self._bind(required, default, choices, validators, options)
        self.min_length = min_length
        self.max_length = max_length
        self.pattern = pattern
        self.strip = strip
        self.case = case

    def normal(self, text: str) -> str:
        """Return the form in which a text is stored and compared.

        Raises:
            ValueError: The text has no such form.
        """
        return _CASES[self.case](text.strip() if self.strip else text)

    @property
    def keeps_texts(self) -> bool:
        is_own = type(self).annotation is String.annotation
        return is_own and self._is_unbounded and not self._normalises

    @property
    def _is_unbounded(self) -> bool:
        return self.min_length is self.max_length is self.pattern is None

    @property
    def _normalises(self) -> bool:
        return bool(self.strip or self.case or type(self).normal is not String.normal)

    def annotation(self) -> Any:
        parts: list[Any] = [str, _Storable]
        if not self._is_unbounded:
            parts.append(
                pydantic.StringConstraints(
                    min_length=self.min_length,
                    max_length=self.max_length,
                    pattern=f"^(?:{self.pattern})$" if self.pattern is not None else None,
                )
            )
        if self.json_format:
            parts.append(pydantic.Field(json_schema_extra={"format": self.json_format}))
        if self._normalises:
            parts.append(pydantic.BeforeValidator(self._normalised))
        return Annotated[tuple(parts)]

    def _normalised(self, value: Any) -> Any:
        if isinstance(value, bytes | bytearray):  # which pydantic takes for a text
            try:
                value = value.decode()
            except UnicodeDecodeError:
                return value  # which pydantic refuses
        return self.normal(value) if isinstance(value, str) else value

    def operand(self, value: Any) -> Any:
        if type(value) is str:
            try:
                return self.normal(value)
            except ValueError:
                return value  # the field can't have this value, so it finds nothing
        return super().operand(value)

    def bson_schema(self) -> Mapping[str, Any]:
        # The pattern is left out, because the server reads regular expressions differently.
        bounds = {"minLength": self.min_length, "maxLength": self.max_length}
        return {"bsonType": "string", **{k: v for k, v in bounds.items() if v is not None}}


class Text(String[N]):
    """A long text; the same as String, named for what it holds."""


_PLAIN_KEYS = frozenset({"type", "metadata", "ref", "min_length"})  # see _Storable


class _Address:
    """The last check of an Email: the whole text is an address.

    pydantic-core itself makes it in 0.05 µs; a Python function would take 0.5 µs.
    """

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        before = handler(source)
        address = core_schema.str_schema(pattern=_EMAIL, max_length=254)
        checked = core_schema.custom_error_schema(
            address, custom_error_type="email", custom_error_message="not a valid email address"
        )
        plain = before["type"] == "str" and before.keys() <= _PLAIN_KEYS
        plain = plain and not before.get("min_length")
        return checked if plain else core_schema.chain_schema([before, checked])


def _url(value: str) -> str:
    from urllib.parse import urlsplit  # a tenth of what `import earnorm` itself takes

    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(c.isspace() or not c.isprintable() for c in value):
        raise PydanticCustomError("url", "not a valid http or https address")
    return value


class Email(String[N]):
    """An email address, kept as it was written unless ``case="lower"`` is given."""

    json_format: ClassVar[str] = "email"

    def annotation(self) -> Any:
        return Annotated[super().annotation(), _Address]


class Url(String[N]):
    """An http or https address, kept as it was written."""

    json_format: ClassVar[str] = "uri"

    def annotation(self) -> Any:
        return Annotated[super().annotation(), pydantic.AfterValidator(_url)]


if TYPE_CHECKING:
    # For a checker its value may be a Literal, which the value of no String is.
    from typing_extensions import TypeVar as _TypeVar

    S = _TypeVar("S", bound=str, default=str)

    class _Choices(Field[S, N], Generic[S, N]): ...
else:
    S = TypeVar("S", bound=str)

    class _Choices(String[N], Generic[S, N]):
        """A String, of which type checkers know the texts."""


class Selection(_Choices[S, N], Generic[S, N]):
    """One of a fixed list of texts.

    ``kind: Selection[Kind] = Selection(get_args(Kind))`` with ``Kind = Literal["new", "done"]`` lets a type checker
    know the texts.

    Args:
        choices: The texts allowed; at least one.
    """

    def __init__(
        self,
        choices: Sequence[S],
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: S | Callable[[], S] | None = None,
        validators: Iterable[Validator[S]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        if not choices or isinstance(choices, str):
            raise TypeError('Selection() needs its choices: Selection(["draft", "done"])')
        self._bind(required, default, choices, validators, options)


# Letters that NFKD does not decompose.
_PLAIN_LETTERS = str.maketrans(
    {
        "đ": "d",
        "ð": "d",
        "ß": "ss",
        "ø": "o",
        "æ": "ae",
        "œ": "oe",
        "ł": "l",
        "\u0131": "i",
        "þ": "th",
    }
)
_NOT_ASCII_WORD = re.compile(r"[^a-z0-9]+")
_NOT_WORD = re.compile(r"[\W_]+")


class Slug(String[N]):
    """A part of an address that people can read: ``"Hàng Đào, 36"`` becomes ``hang-dao-36``.

    Args:
        unicode: Keep letters and digits of every script instead of ASCII alone.
    """

    unicode: bool

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: str | Callable[[], str] | None = None,
        validators: Iterable[Validator[str]] = (),
        max_length: int | None = None,
        unicode: bool = False,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        self.max_length = max_length
        self.unicode = unicode

    def normal(self, text: str) -> str:
        if self.unicode:
            slug = _NOT_WORD.sub("-", unicodedata.normalize("NFKC", text.casefold()))
        else:
            letters = unicodedata.normalize("NFKD", text.lower().translate(_PLAIN_LETTERS))
            letters = "".join(c for c in letters if not unicodedata.combining(c))
            slug = _NOT_ASCII_WORD.sub("-", letters)
        slug = slug.strip("-")
        if not slug:
            raise PydanticCustomError("slug", "a slug needs at least one letter or digit")
        return slug


class Phone(String[N]):
    """A telephone number in E.164: ``"+84 (24) 3825-1234"`` becomes ``+842438251234``.

    It must have 7 to 15 digits. Neither its length by country is checked, nor whether it exists.

    Args:
        country: The calling code for numbers without one, e.g. ``"84"``; their leading 0 is left
            out. Without it a number must begin with ``+`` or ``00``.
    """

    json_format: ClassVar[str] = "phone"
    country: str

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: str | Callable[[], str] | None = None,
        validators: Iterable[Validator[str]] = (),
        country: str = "",
        **options: Unpack[FieldOptions],
    ) -> None:
        code = str(country).removeprefix("+")
        if code and not re.fullmatch("[1-9][0-9]{0,2}", code):
            raise ValueError(f"country is a calling code such as '84', not {country!r}")
        self._bind(required, default, None, validators, options)
        self.country = code

    def normal(self, text: str) -> str:
        # "+49 (0)30 1234": the zero in brackets is dialled inside the country only
        digits = re.sub(r"[\s().\-/]", "", text.replace("(0)", "") if "+" in text else text)
        if digits.startswith("00"):
            digits = f"+{digits[2:]}"
        elif self.country and not digits.startswith("+"):
            digits = f"+{self.country}{digits.removeprefix('0')}"
        if not re.fullmatch(r"\+[1-9][0-9]{6,14}", digits):
            hint = "" if self.country else " with its country's code, e.g. +84 24 3825 1234"
            raise PydanticCustomError("phone", "not a telephone number{hint}", {"hint": hint})
        return digits


class Color(String[N]):
    """A colour as ``#rrggbb`` or ``#rrggbbaa``; ``#RGB`` and ``#RGBA`` are converted to these."""

    json_format: ClassVar[str] = "color"

    def normal(self, text: str) -> str:
        color = text.strip().lower()
        if not re.fullmatch("#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})", color):
            raise PydanticCustomError("color", "not a colour such as #ff8800 or #ff880080")
        return color if len(color) > 5 else "#" + "".join(digit * 2 for digit in color[1:])
