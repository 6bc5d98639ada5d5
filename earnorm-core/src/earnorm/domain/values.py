"""Values of conditions: frozen for the AST, thawed for a field, and restricted to plain BSON data.

A value is data. Everything that could act as an operator (a regex, code, a ``$`` key in a position
where the server reads operators) is refused here, so that no other module has to check for it.
"""

from __future__ import annotations

import datetime as dt
import re
import reprlib
import uuid
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Final, TypeGuard

from bson import Binary, Code, DatetimeMS, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex
from bson.timestamp import Timestamp

__all__ = [
    "PLAIN",
    "PLAIN_STORED",
    "FrozenDict",
    "encodable",
    "freeze",
    "hashable",
    "identity",
    "is_dict",
    "is_list",
    "is_tuple",
    "shorten",
    "stored",
    "thaw",
]

MAX_NESTING: Final = 30
"""The most levels of lists and dicts inside one value; with ``ast.MAX_DEPTH`` it keeps a filter
below the 200 levels that a MongoDB server accepts."""

PLAIN: Final = frozenset(
    {
        *(str, int, float, bool, type(None), bytes, Decimal, uuid.UUID),
        *(dt.datetime, dt.date, dt.time, dt.timedelta),
        *(ObjectId, Decimal128, Int64, Binary, DatetimeMS, Timestamp),
    }
)
"""Types whose values are immutable and hashable as they are; the common case costs one set lookup."""

# These are not data, because the server gives them a meaning of their own.
_NO_DATA: Final = (re.Pattern, Regex, Code, DBRef, MinKey, MaxKey)

PLAIN_STORED: Final = frozenset(
    {
        *(str, int, float, bool, type(None), bytes, uuid.UUID, dt.datetime),
        *(ObjectId, Decimal128, Int64, Binary, DatetimeMS, Timestamp),
    }
)
"""Types of stored values that a filter may hold without an operator before them."""

_INT64: Final = 2**63

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def shorten(value: object) -> str:
    """Return a repr of bounded length and depth, for messages."""
    try:
        return _repr.repr(value)
    except Exception:  # a repr that raises must not hide the message that it is part of
        return f"<{type(value).__name__}>"


# After a plain isinstance, a strict type checker does not know the type of the items.
def is_list(value: object) -> TypeGuard[list[Any]]:
    """Return whether the value is a list."""
    return isinstance(value, list)


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    """Return whether the value is a tuple."""
    return isinstance(value, tuple)


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether the value is a dict; in a document its keys are texts."""
    return isinstance(value, dict)


class FrozenDict:
    """A dict given as a value, in an immutable and hashable form; the order of keys counts, as in BSON."""

    __slots__ = ("items",)

    items: tuple[tuple[str, object], ...]

    def __init__(self, items: Iterable[tuple[str, object]]) -> None:
        object.__setattr__(self, "items", tuple(items))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a value of a condition is immutable")

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[object, ...]]:
        return FrozenDict, (self.items,)

    def __eq__(self, other: object) -> bool:
        return type(other) is FrozenDict and identity(self) == identity(other)

    def __hash__(self) -> int:
        return hash(hashable(self))

    def __repr__(self) -> str:
        return repr(thaw(self))


def freeze(value: object, level: int = 0) -> object:
    """Return the immutable, hashable form: lists and sets as tuples, dicts as ``FrozenDict``.

    Args:
        value: The value of a condition.
        level: The depth of this part inside the whole value.

    Raises:
        ValueError: The value is not data, not hashable, or nested too deeply.
    """
    if type(value) in PLAIN:
        return value
    if level > MAX_NESTING:
        raise ValueError(f"the value is nested deeper than {MAX_NESTING} levels")
    for kinds, frozen in _FREEZE:
        if isinstance(value, kinds):
            return frozen(value, level + 1)
    return _checked_scalar(value)


def _frozen_items(items: Iterable[object], level: int) -> object:
    frozen = tuple(items)
    if PLAIN.issuperset(map(type, frozen)):  # 1,000 ids are looked at in a third of the time
        return frozen
    return tuple([v if type(v) in PLAIN else freeze(v, level) for v in frozen])


def _frozen_set(items: Iterable[object], level: int) -> object:
    # A set has no order of its own; the same set must give the same domain.
    return tuple(sorted((freeze(v, level) for v in items), key=_set_order))


def _frozen_mapping(mapping: Mapping[object, object], level: int) -> object:
    return FrozenDict([(_checked_key(k), freeze(v, level)) for k, v in mapping.items()])


# The views of a dict come before the sets: they are sets too, but have an order.
_FREEZE: Final[tuple[tuple[tuple[type, ...], Callable[[Any, int], object]], ...]] = (
    ((list, tuple, range, KeysView, ValuesView), _frozen_items),
    ((AbstractSet,), _frozen_set),
    ((Mapping,), _frozen_mapping),
)


def thaw(value: object) -> Any:
    """Return the value as the user may have written it: tuples as lists, ``FrozenDict`` as dict."""
    if is_tuple(value):
        if PLAIN.issuperset(map(type, value)):
            return list(value)
        return [v if type(v) in PLAIN else thaw(v) for v in value]
    if isinstance(value, FrozenDict):
        return {key: thaw(item) for key, item in value.items}
    return value


def identity(value: object) -> object:
    """Return a key that only equal frozen values share: ``1``, ``1.0`` and ``True`` differ."""
    if is_tuple(value):
        return tuple(map(identity, value))
    if isinstance(value, FrozenDict):
        return FrozenDict, tuple((key, identity(item)) for key, item in value.items)
    return type(value), value


def hashable(value: object) -> object:
    """Replace ``Decimal128``, the only plain type without a hash, by its bits in a frozen value."""
    if is_tuple(value):
        return tuple(map(hashable, value))
    if isinstance(value, FrozenDict):
        return tuple((key, hashable(item)) for key, item in value.items)
    return value.bid if isinstance(value, Decimal128) else value


def stored(value: object) -> Any:
    """Return the value after checking that it is plain BSON data, which a server takes literally.

    Raises:
        ValueError: It is something else, which could not be sent or would not be data.
    """
    if type(value) is str:
        if not value.isascii():
            encodable(value)
    elif type(value) is int:
        if not -_INT64 <= value < _INT64:
            raise ValueError(f"{shorten(value)} is outside the 64-bit integers that MongoDB stores")
    elif type(value) not in PLAIN_STORED:
        _check_container(value)
    return value


def _check_container(value: object, level: int = 0) -> None:
    if level > MAX_NESTING:
        raise ValueError(f"the value is nested deeper than {MAX_NESTING} levels")
    if is_dict(value):
        for key, item in value.items():
            _checked_key(key)
            _check_container(item, level + 1)
    elif is_list(value):
        for item in value:
            _check_container(item, level + 1)
    elif type(value) in PLAIN_STORED:
        stored(value)
    else:
        raise ValueError(f"{shorten(value)} ({type(value).__name__}) is no value that is stored")


def _checked_scalar(value: object) -> object:
    kind = type(value).__name__
    if isinstance(value, _NO_DATA):
        raise ValueError(f"a {kind} is no data; to match a pattern use 'like' or 'regex'")
    if isinstance(value, Iterator):
        raise ValueError(f"a {kind} can be read only once; give a list")
    try:
        hash(value)
    except TypeError:
        raise ValueError(f"{shorten(value)} ({kind}) cannot be the value of a condition") from None
    return value


def _checked_key(key: object) -> str:
    if type(key) is not str:
        raise ValueError(f"the key {shorten(key)} of a dict is no text")
    if "\0" in key:
        raise ValueError("the key of a dict contains a null character")
    encodable(key)
    return key


def encodable(text: str) -> None:
    """Refuse a text that UTF-8, and so BSON, cannot hold.

    Raises:
        ValueError: The text has half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text contains a lone surrogate, which UTF-8 cannot hold") from None


def _set_order(value: object) -> tuple[str, str]:
    return type(value).__name__, repr(value)
