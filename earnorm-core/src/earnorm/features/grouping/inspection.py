"""Reads the parts of a pipeline without running it: refuses what is not allowed, and finds out what
may fail and what is named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NoReturn, TypeAlias

from bson import Code

from earnorm.domain.values import encodable
from earnorm.exceptions import nearest
from earnorm.features.grouping.vocabulary import (
    CONDITIONS,
    EXPRESSIONS,
    INTERNAL,
    JAVASCRIPT,
    STAGES,
    UNSPECIFIC,
    VARIABLES,
)

Loc: TypeAlias = tuple[str | int, ...]
Stage: TypeAlias = Mapping[str, Any]
Refuse: TypeAlias = Callable[[Loc, str], NoReturn]

MAX_LEVELS: Final = 80
"""The most levels of nesting; a server allows 200, and the leading stages need some of them."""

_COMBINATIONS: Final = ("$and", "$or", "$nor")
_WHOLE: Final = ("$$ROOT", "$$CURRENT")
_DYNAMIC: Final = frozenset({"$getField", "$setField", "$unsetField"})
_SHOWN: Final = 40  # characters of a name in a message


class Inspector:
    """Refuses what a pipeline may not contain.

    Args:
        refuse: Raises the error, for a place and a message.
        strict: Refuse each word that ``vocabulary`` does not have.
    """

    def __init__(self, refuse: Refuse, *, strict: bool) -> None:
        self._refuse = refuse
        self._strict = strict

    def condition(self, value: object, loc: Loc) -> None:
        """Check the value of a ``$match``."""
        self._data(value, loc)
        if self._strict:
            self._words_of_condition(value, loc)

    def expression(self, value: object, loc: Loc) -> None:
        """Check the value of any other stage, or an expression."""
        self._data(value, loc)
        if self._strict:
            self._words_of_expression(value, loc)

    def _data(self, value: Any, loc: Loc, level: int = 0) -> None:
        """Refuse what no server takes, and JavaScript, wherever it stands."""
        if level > MAX_LEVELS:
            self._refuse(loc, "it is nested too deeply")
        if isinstance(value, Mapping):
            for key, item in value.items():
                if not isinstance(key, str) or "\0" in key:
                    self._refuse(loc, "a key is a text without NUL")
                self._text(key, loc)
                if key in JAVASCRIPT or key.startswith(INTERNAL):
                    self._refuse(
                        loc,
                        f"{key[:_SHOWN]} runs JavaScript on the server, or is a word of its own, "
                        f"which is not allowed",
                    )
                self._data(item, loc, level + 1)
        elif isinstance(value, list | tuple):
            for item in value:
                self._data(item, loc, level + 1)
        elif isinstance(value, Code):
            self._refuse(loc, "JavaScript is not allowed")
        elif isinstance(value, str):
            self._text(value, loc)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            self._refuse(loc, "a number of more than 64 bits cannot be sent")

    def _text(self, text: str, loc: Loc) -> None:
        try:
            encodable(text)
        except ValueError as error:
            self._refuse(loc, str(error))

    def _words_of_condition(self, value: Any, loc: Loc) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key == "$expr":
                    self._words_of_expression(item, loc)
                    continue
                if key == "$jsonSchema":
                    continue  # a schema has no operators
                if key.startswith("$") and key not in CONDITIONS and key not in UNSPECIFIC:
                    self._refuse_word(key, CONDITIONS, "operator of conditions", loc)
                self._words_of_condition(item, loc)
        elif isinstance(value, list | tuple):
            for item in value:
                self._words_of_condition(item, loc)

    def _words_of_expression(self, value: Any, loc: Loc) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key == "$literal":
                    continue
                if key.startswith("$") and key not in EXPRESSIONS:
                    self._refuse_word(key, EXPRESSIONS, "expression", loc)
                self._words_of_expression(item, loc)
        elif isinstance(value, list | tuple):
            for item in value:
                self._words_of_expression(item, loc)
        elif isinstance(value, str) and value.startswith("$$"):
            name = value[2:].partition(".")[0]
            if name[:1].isupper() and name not in VARIABLES:
                self._refuse_word(f"$${name}", (), "variable", loc)

    def _refuse_word(self, word: str, known: Collection[str], kind: str, loc: Loc) -> NoReturn:
        hint = nearest(word, known).removeprefix("; ") if len(word) < _SHOWN else ""
        self._refuse(
            loc,
            f"{word[:_SHOWN]} is no {kind} that is known to be safe{f': {hint}' if hint else ''}",
        )


# -- what may fail --------------------------------------------------------------------------------


def may_fail(stage: Stage) -> bool:
    """Return whether the server's evaluation of a stage may fail because of a document's values.

    The pipeline of a ``$lookup`` or ``$unionWith`` is about other documents, and is not looked at.
    """
    ((name, value),) = stage.items()
    if name == "$match":
        return condition_may_fail(value)
    if name == "$facet":
        return any(may_fail(inner) for stages in value.values() for inner in stages)
    if name == "$lookup":
        return expression_may_fail(value.get("let"))
    if name == "$graphLookup":
        return expression_may_fail(value.get("startWith"))
    if name in ("$unionWith", "$geoNear"):
        return False
    return STAGES.get(name, True) or expression_may_fail(value)


def expression_may_fail(value: object) -> bool:
    """Return whether an expression may fail for some document."""
    if isinstance(value, Mapping):
        return any(
            (key.startswith("$") and EXPRESSIONS.get(key, True)) or expression_may_fail(item)
            for key, item in value.items()
            if key != "$literal"
        )
    if isinstance(value, list | tuple):
        return any(map(expression_may_fail, value))
    return False


def condition_may_fail(value: object) -> bool:
    """Return whether a condition may fail for some document; only an expression in it may."""
    if isinstance(value, Mapping):
        return any(
            expression_may_fail(item)
            if key == "$expr"
            else condition_may_fail(item)
            or (key.startswith("$") and key not in CONDITIONS and key not in UNSPECIFIC)
            for key, item in value.items()
            if key != "$jsonSchema"
        )
    if isinstance(value, list | tuple):
        return any(map(condition_may_fail, value))
    return False


# -- what is named --------------------------------------------------------------------------------


def is_plain(value: object) -> bool:
    """Return whether a condition is about nothing but the values of the fields that it names."""
    if isinstance(value, Mapping):
        return all(
            (not key.startswith("$") or key in CONDITIONS) and is_plain(item)
            for key, item in value.items()
        )
    return all(map(is_plain, value)) if isinstance(value, list | tuple) else True


def names_of(condition: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of documents that a plain condition names; a full-text search names none."""
    for key, value in condition.items():
        if key in _COMBINATIONS:
            if isinstance(value, list | tuple):
                for part in value:
                    if isinstance(part, Mapping):
                        yield from names_of(part)
        elif key not in ("$comment", "$text"):
            yield key


def paths_read(value: object) -> frozenset[str] | None:
    """Return the paths that an expression reads; None if it may be any."""
    if isinstance(value, Mapping):
        paths: frozenset[str] = frozenset()
        for key, item in value.items():
            if key == "$literal":
                continue
            inside = None if key in _DYNAMIC else paths_read(item)
            if inside is None:
                return None
            paths |= inside
        return paths
    if isinstance(value, list | tuple):
        return paths_read(dict(enumerate(value)))
    if isinstance(value, str) and value.startswith("$"):
        if value.startswith("$$"):
            return None if value.startswith(_WHOLE) else frozenset()
        return frozenset({value[1:]})
    return frozenset()
