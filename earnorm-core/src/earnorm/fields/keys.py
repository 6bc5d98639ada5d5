"""Keys of a Dict as texts, which is all that BSON knows, and back."""

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


def check_key(key: Any) -> str:
    """A key that is a text, and can be taken neither for an operator nor for a path."""
    if type(key) is not str:
        raise PydanticCustomError("key_type", "a key is a text")
    if key.startswith("$") or "." in key or "\0" in key:
        raise PydanticCustomError("key", "a key must not start with '$' or contain '.' or NUL")
    return key


def _same(key: Any) -> Any:
    return key


# By the kind of field: the value's type, its text, and the value of a text.
_KINDS: dict[type[Field[Any, Any]], tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    Int: (int, str, int),
    UUID: (uuid.UUID, str, uuid.UUID),
    ObjectIdField: (ObjectId, str, ObjectId),
    Date: (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
}


class KeyTexts:
    """How the keys of one Dict are written and read.

    Args:
        field: The field of the keys; None for texts.

    Raises:
        TypeError: Values of this kind make no keys.
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
        """The key, if its text can be one.

        Raises:
            PydanticCustomError: See :func:`check_key`.
        """
        check_key(self.encode(key))
        return key

    def stored(self, part: str) -> str:
        """A key that a path names, in its stored form.

        Raises:
            PydanticCustomError: It can be no key of this Dict.
        """
        found = check_key(self.encode(self.decode(part)))
        if not self.is_plain and not isinstance(self.decode(part), self._type):
            raise PydanticCustomError("key_type", "not a key of the kind that the field declares")
        return found

    def encode(self, key: Any) -> Any:
        """A key's text; a text stays as it is."""
        return self._text(key) if isinstance(key, self._type) else key

    def decode(self, key: Any) -> Any:
        """The key of a text; one that another program stored stays as it is."""
        if type(key) is not str:
            return key
        try:
            return self._value(key)
        except (ValueError, KeyError, InvalidId):
            return key
