"""Conversion of a Dict's keys to texts, the only keys that BSON knows, and back."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from pydantic_core import PydanticCustomError

from earnorm.fields.base import Field
from earnorm.fields.enumerated import Enum
from earnorm.fields.identifiers import UUID, ObjectIdField
from earnorm.fields.numeric import Int
from earnorm.fields.temporal import Date
from earnorm.fields.text import String


def check_text(text: str) -> str:
    """Refuse a text that UTF-8, and so BSON, cannot hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError(
                "string_unicode", "the text has a lone surrogate, which UTF-8 cannot hold"
            ) from None
    return text


def check_key(key: Any) -> str:
    """Refuse a key that is not a text, or that could be read as an operator or a path."""
    if type(key) is not str:
        raise PydanticCustomError("key_type", "a key is a text")
    if key.startswith("$") or "." in key or "\0" in key:
        raise PydanticCustomError("key", "a key must not start with '$' or contain '.' or NUL")
    return check_text(key)


def _same(key: Any) -> Any:
    return key


# For each kind of field: the value's type, and its conversions to a text and back.
_KINDS: dict[type[Field[Any, Any]], tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    Int: (int, str, int),
    UUID: (uuid.UUID, str, uuid.UUID),
    ObjectIdField: (ObjectId, str, ObjectId),
    Date: (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
}


class KeyTexts:
    """The conversions of one Dict's keys to texts and back.

    Args:
        field: The field of the keys; None for texts.

    Raises:
        TypeError: Values of this kind cannot be keys.
    """

    def __init__(self, field: Field[Any, Any] | None) -> None:
        self.is_plain = field is None or isinstance(field, String)
        self._type: type = str
        self._text: Callable[[Any], str] = _same
        self._value: Callable[[str], Any] = _same
        if field is None or self.is_plain:
            return
        if isinstance(field, Enum):
            kind: Any = field.enum  # type[Enum] is iterable; mypy forgets it behind the TypeVar
            members: list[Any] = list(kind)
            by_text = {str(member.value): member for member in members}
            self._type, self._value = field.enum, by_text.__getitem__
            self._text = lambda member: str(member.value)
            if len(by_text) != len(members):
                raise TypeError(f"two values of {field.enum.__name__} have the same text")
            return
        for kind, (self._type, self._text, self._value) in _KINDS.items():
            if isinstance(field, kind):
                return
        names = ", ".join(kind.__name__ for kind in _KINDS)
        raise TypeError(f"keys= is a String, Enum, {names}; not a {type(field).__name__}")

    def check(self, key: Any) -> Any:
        """Return the key after checking its text.

        Raises:
            PydanticCustomError: See :func:`check_key`.
        """
        check_key(self.encode(key))
        return key

    def stored(self, part: str) -> str:
        """Convert a key in a path to its stored form.

        Raises:
            PydanticCustomError: It cannot be a key of this Dict.
        """
        text = check_key(self.encode(self.decode(part)))
        if not self.is_plain and not isinstance(self.decode(part), self._type):
            raise PydanticCustomError("key_type", "not a key of the kind that the field declares")
        return text

    def encode(self, key: Any) -> Any:
        """Convert a key to its text; a text stays as it is."""
        return self._text(key) if isinstance(key, self._type) else key

    def decode(self, key: Any) -> Any:
        """Convert a text to its key; another program's text that is not a key stays as it is."""
        if type(key) is not str:
            return key
        try:
            return self._value(key)
        except (ValueError, KeyError, InvalidId):
            return key
