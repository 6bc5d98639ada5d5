"""Operators of expressions on texts. A server changes the case of the letters a to z only."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any, Final

from bson import Decimal128

from earnorm.backends.in_memory.expressions import (
    Make,
    Variables,
    arguments,
    is_null,
    named,
    of_values,
)
from earnorm.backends.in_memory.filters import regex_search
from earnorm.backends.in_memory.values import Evaluate, is_number, lacking, refused, type_name

_UPPER: Final = {ord(letter): letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"}
_LOWER: Final = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_SPACES: Final = (
    "\0 \t\n\v\f\r\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)


def _text(value: Any, name: str, code: int) -> str:
    if not isinstance(value, str):
        raise refused(code, f"{name} requires a string, not {type_name(value)}")
    return value


def coerced(value: Any, name: str) -> str:
    """Return a value as the text that a server's operators on texts take it for."""
    if is_null(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, Decimal128):
        return str(value)
    if is_number(value) and not isinstance(value, float):
        return str(int(value))
    if isinstance(value, float):
        raise lacking(f"{name} of a binary fraction")
    raise refused(16007, f"can't convert from BSON type {type_name(value)} to String")


def _concatenated(spec: Any) -> Evaluate:
    parts = arguments(spec, 0, 10_000)

    def evaluate(known: Variables) -> Any:
        values = [part(known) for part in parts]
        for value in values:  # the first null decides, before a wrong type behind it
            if is_null(value):
                return None
            _text(value, "$concat", 16702)
        return "".join(values)

    return evaluate


def _sub_code_points(value: Any, start: Any, count: Any) -> str:
    text = coerced(value, "$substrCP")
    for number in (start, count):
        if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
            raise refused(34450, "$substrCP takes whole numbers")
    if start < 0 or count < 0:
        raise refused(34454, "$substrCP: start and length must not be negative")
    return text[int(start) : int(start) + int(count)]


def _split(value: Any, separator: Any) -> Any:
    if is_null(value) or is_null(separator):
        return None
    text, by = _text(value, "$split", 40085), _text(separator, "$split", 40086)
    if not by:
        raise refused(40087, "$split requires a non-empty separator")
    return text.split(by)


def _trimmed(name: str, strip: Callable[[str, str], str]) -> Make:
    def make(spec: Any) -> Evaluate:
        parts = named(spec, ("input",), ("chars",))

        def evaluate(known: Variables) -> Any:
            value = parts["input"](known)
            letters = parts["chars"](known) if "chars" in parts else _SPACES
            if is_null(value) or is_null(letters):
                return None
            return strip(_text(value, name, 50699), _text(letters, name, 50700))

        return evaluate

    return make


def _index(value: Any, wanted: Any, start: Any = 0, end: Any = None) -> Any:
    if is_null(value):
        return None
    text, part = _text(value, "$indexOfCP", 40093), _text(wanted, "$indexOfCP", 40094)
    stop = len(text) if end is None else min(int(end), len(text))
    return text.find(part, int(start), stop) if start <= stop else -1


def _compared(one: Any, other: Any) -> int:
    first, second = (coerced(value, "$strcasecmp").translate(_UPPER) for value in (one, other))
    return (first > second) - (first < second)


def _replaced(name: str, count: int) -> Make:
    def make(spec: Any) -> Evaluate:
        parts = named(spec, ("input", "find", "replacement"))

        def evaluate(known: Variables) -> Any:
            values = [parts[part](known) for part in ("input", "find", "replacement")]
            for value in values:
                if not is_null(value):
                    _text(value, name, 51746)
            if any(map(is_null, values)):
                return None
            text, find, replacement = values
            if not find:
                raise lacking(f"{name} of an empty text")
            return text.replace(find, replacement, count)

        return evaluate

    return make


def _matches(spec: Any) -> Evaluate:
    parts = named(spec, ("input", "regex"), ("options",))

    def evaluate(known: Variables) -> bool:
        value, pattern = parts["input"](known), parts["regex"](known)
        options = parts["options"](known) if "options" in parts else ""
        if is_null(value) or is_null(pattern):
            return False
        text = _text(value, "$regexMatch", 51104)
        return regex_search(pattern, options)(text) is not None

    return evaluate


OPERATORS: Final[Mapping[str, Make]] = {
    "$concat": _concatenated,
    "$toUpper": of_values(1, 1, lambda value: coerced(value, "$toUpper").translate(_UPPER)),
    "$toLower": of_values(1, 1, lambda value: coerced(value, "$toLower").translate(_LOWER)),
    "$substrCP": of_values(3, 3, _sub_code_points),
    "$strLenCP": of_values(1, 1, lambda value: len(_text(value, "$strLenCP", 34471))),
    "$strLenBytes": of_values(
        1, 1, lambda value: len(_text(value, "$strLenBytes", 34473).encode())
    ),
    "$split": of_values(2, 2, _split),
    "$trim": _trimmed("$trim", str.strip),
    "$ltrim": _trimmed("$ltrim", str.lstrip),
    "$rtrim": _trimmed("$rtrim", str.rstrip),
    "$indexOfCP": of_values(2, 4, _index),
    "$strcasecmp": of_values(2, 2, _compared),
    "$replaceOne": _replaced("$replaceOne", 1),
    "$replaceAll": _replaced("$replaceAll", -1),
    "$regexMatch": _matches,
}
