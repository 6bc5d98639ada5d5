"""Text: String, Text, Email, Url, and Selection among fixed texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Unpack
from urllib.parse import urlsplit

import pydantic
from pydantic_core import PydanticCustomError

from earnorm.fields.base import Field, FieldOptions, N, Validator

# The WHATWG pattern for <input type=email>, with a dot asked for in the domain. RFC 5322 allows
# more, and nobody has such an address; deliverability is not a validator's to know.
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)


class String(Field[str, N]):
    """A text.

    Args:
        min_length: Fewest characters allowed.
        max_length: Most characters allowed.
        pattern: A regular expression that the whole text must match (Rust syntax, linear time).
        strip: Cut white space off both ends before anything else is checked.
    """

    python_type: ClassVar[Any] = str
    operand_types = (str,)
    index_floor: ClassVar[Any] = ""
    min_length: int | None
    max_length: int | None
    pattern: str | None
    strip: bool

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
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, choices, validators, options)
        self.min_length = min_length
        self.max_length = max_length
        self.pattern = pattern
        self.strip = strip

    def annotation(self) -> Any:
        constraints = pydantic.StringConstraints(
            min_length=self.min_length,
            max_length=self.max_length,
            pattern=f"^(?:{self.pattern})$" if self.pattern is not None else None,
            strip_whitespace=self.strip or None,
        )
        plain = self.min_length is self.max_length is self.pattern is None and not self.strip
        return str if plain else Annotated[str, constraints]

    def bson_schema(self) -> Mapping[str, Any]:
        # Not the pattern: the server's regular expressions are of another dialect.
        bounds = {"minLength": self.min_length, "maxLength": self.max_length}
        return {"bsonType": "string", **{k: v for k, v in bounds.items() if v is not None}}


class Text(String[N]):
    """A long text; the same as String, named for what it holds."""


def _email(value: str) -> str:
    if len(value) > 254 or not _EMAIL.fullmatch(value):
        raise PydanticCustomError("email", "not a valid email address")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(c.isspace() or not c.isprintable() for c in value):
        raise PydanticCustomError("url", "not a valid http or https address")
    return value


class Email(String[N]):
    """An email address, kept as it was written."""

    def annotation(self) -> Any:
        return Annotated[super().annotation(), pydantic.AfterValidator(_email)]

    def json_type(self) -> Any:
        return Annotated[self.annotation(), pydantic.Field(json_schema_extra={"format": "email"})]


class Url(String[N]):
    """An http or https address, kept as it was written."""

    def annotation(self) -> Any:
        return Annotated[super().annotation(), pydantic.AfterValidator(_url)]

    def json_type(self) -> Any:
        return Annotated[self.annotation(), pydantic.Field(json_schema_extra={"format": "uri"})]


class Selection(String[N]):
    """One of a fixed list of texts.

    Args:
        choices: The texts allowed; at least one.
    """

    def __init__(
        self,
        choices: Sequence[str],
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: str | Callable[[], str] | None = None,
        validators: Iterable[Validator[str]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        if not choices or isinstance(choices, str):
            raise TypeError('Selection() needs its choices: Selection(["draft", "done"])')
        self._bind(required, default, choices, validators, options)
        self.min_length = self.max_length = self.pattern = None
        self.strip = False
