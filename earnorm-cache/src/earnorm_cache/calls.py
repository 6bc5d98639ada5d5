"""The key of a call: which function, with which arguments, and for whom. Two calls share a result only if it is equal.

What stands in a key keeps its type: 1, True and 1.0 are three arguments, and so are two moments that differ in a
microsecond, or one of which has a time zone.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import inspect
import uuid
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from bson import Decimal128, ObjectId

from earnorm import BaseModel, ConfigurationError, Env, RecordSet
from earnorm.plugin import name_of, to_bson

_AS_THEY_ARE: Final = frozenset(
    [type(None), bool, float, str, bytes, ObjectId, uuid.UUID, Decimal128]
)
_AS_TEXT: Final = frozenset(
    [int, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal]
)


class Unnamed(Exception):
    """A value has no name in a key; its text says which one."""


def key_of_value(value: object) -> object:
    """Return a value in the form in which it stands in a key.

    Raises:
        Unnamed: Nobody can tell by it which value it is.
    """
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind in _AS_TEXT:
        return [kind.__name__, repr(value)]
    if isinstance(value, BaseModel):
        if not value.is_stored:
            raise Unnamed("a record that is not stored")
        return ["record", name_of(value), key_of_value(value.pk)]
    if isinstance(value, RecordSet):
        return ["records", [key_of_value(record) for record in value]]
    if isinstance(value, type) and issubclass(value, BaseModel):
        return ["model", name_of(value)]
    if isinstance(value, Enum):
        return ["enum", f"{kind.__module__}.{kind.__qualname__}", value.name]
    if kind in (list, tuple):
        return [kind.__name__, [key_of_value(each) for each in value]]  # type: ignore[attr-defined]
    if kind in (set, frozenset):
        return ["set", _sorted(key_of_value(each) for each in value)]  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return ["dict", _sorted([key_of_value(k), key_of_value(v)] for k, v in value.items())]
    raise Unnamed(f"a {kind.__qualname__}")


def _sorted(keys: Iterable[object]) -> list[object]:
    return sorted(keys, key=lambda key: to_bson({"": key}))


def who(env: Env) -> object:
    """Return what tells those apart who act: by their rights alone, also of one id."""
    principal = env.principal
    if principal is None:
        return [env.system]
    attributes = key_of_value(principal.attributes)
    return [env.system, principal.id, sorted(principal.roles), attributes]


class Calls:
    """Makes the keys of the calls of one function.

    Args:
        function: The function.
        is_shared: Its results are the same for whoever acts.
    """

    def __init__(self, function: Callable[..., object], is_shared: bool) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._signature = inspect.signature(function)
        self._is_shared = is_shared
        self._release = _release(function)
        self._function = function

    def key(
        self, env: Env, arguments: tuple[Any, ...], named: Mapping[str, Any], more: object
    ) -> bytes:
        """Return the key of a call.

        Args:
            env: Who calls it, in which App.
            arguments: Its arguments.
            named: Those by their names.
            more: What else tells calls apart, as BSON has it.

        Raises:
            ConfigurationError: An argument cannot be told from others.
            TypeError: The function does not take these arguments.
        """
        bound = self._signature.bind(*arguments, **named)
        bound.apply_defaults()
        parts: list[object] = [self.name, self._release, more]
        what = "context"
        try:
            parts.append(key_of_value(env.context))
            what = "surroundings, a variable of the function around it,"
            parts.append(_captured(self._function, set()))
            what = "principal"
            parts.append(None if self._is_shared else who(env))
            for name, value in bound.arguments.items():
                what = f"argument {name!r}"
                parts.append([name, key_of_value(value)])
            said = to_bson({"": parts})
        except (Unnamed, OverflowError, ValueError) as error:
            raise ConfigurationError(
                f"cached function {self.name}: its {what} has {error}, by which calls cannot be told apart; use texts, "
                f"numbers, dates, ids, stored records, and lists and dicts of them"
            ).coded("cached_call") from None
        return hashlib.blake2b(said, digest_size=16).digest()


def _captured(function: Callable[..., object], seen: set[int]) -> list[object]:
    """Return the values that a function has of the functions around it, in the form in which they stand in a key.

    Raises:
        Unnamed: Nobody can tell by one of them which value it is.
    """
    if id(function) in seen:
        return []
    seen.add(id(function))
    parts: list[object] = []
    code = getattr(function, "__code__", None)
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        parts.append(f"{owner.__module__}.{owner.__qualname__}")
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # it has no value yet
            continue
        if isinstance(value, type) and not issubclass(value, BaseModel):
            parts.append([name, f"{value.__module__}.{value.__qualname__}"])
        elif isinstance(value, FunctionType | MethodType):
            called = f"{value.__module__}.{value.__qualname__}"
            parts.append([name, called, _release(value), _captured(value, seen)])
        else:
            parts.append([name, key_of_value(value)])
    return parts


def _release(function: Callable[..., object]) -> str:
    """Return a text that is another one where the body of the function is."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return hashlib.blake2b(repr(_shape(code)).encode(), digest_size=8).hexdigest()


def _shape(code: object) -> object:
    if isinstance(code, CodeType):
        return [code.co_code, code.co_names, [_shape(each) for each in code.co_consts]]
    if isinstance(code, frozenset):
        return sorted(map(repr, code))
    return repr(code)
