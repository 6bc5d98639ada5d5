"""Texts that match a regular expression, for the expressions that fields usually have.

Literals, classes, ``\\d``, ``\\w``, ``\\s``, ``.``, groups, alternatives and repetitions are known;
look-arounds, references and Unicode properties are not.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from typing import Final

Draw = Callable[[random.Random], str]

LONGEST: Final = 3
"""The repetitions beyond the least number that are drawn where a pattern sets no upper bound."""

_WORD: Final = string.ascii_letters + string.digits + "_"
_ESCAPES: Final = {"d": string.digits, "w": _WORD, "s": " ", "n": "\n", "t": "\t", "r": "\r"}
_ALL: Final = string.digits + string.ascii_letters + "_-. "


class UnknownPattern(ValueError):
    """The expression has something that is not known here."""


def matching(pattern: str, source: random.Random) -> str:
    """Return a text that the whole expression matches.

    Args:
        pattern: The regular expression.
        source: Decides where there is a choice.

    Raises:
        UnknownPattern: The expression has something that is not known here.
    """
    reader = _Reader(pattern)
    draw = reader.alternatives()
    if reader.rest:
        raise UnknownPattern(pattern)
    return draw(source)


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    @property
    def rest(self) -> str:
        return self._pattern[self._at :]

    def _next(self) -> str:
        if not self.rest:
            raise UnknownPattern(self._pattern)
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, text: str) -> bool:
        if self.rest.startswith(text):
            self._at += len(text)
            return True
        return False

    def alternatives(self) -> Draw:
        choices = [self._sequence()]
        while self._take("|"):
            choices.append(self._sequence())
        return lambda source: source.choice(choices)(source)

    def _sequence(self) -> Draw:
        parts: list[Draw] = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self._repeated(self._atom()))
        return lambda source: "".join(part(source) for part in parts)

    def _atom(self) -> Draw:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return _one_of(self._class())
        if character in "^$":
            return lambda source: ""
        if character == ".":
            return _one_of(_ALL)
        if character == "\\":
            return _one_of(self._escape())
        if character in "*+?{":
            raise UnknownPattern(self._pattern)
        return _one_of(character)

    def _group(self) -> Draw:
        if self._take("?"):
            if self._take("P<") or (self._take("<") and self.rest[:1] not in ("=", "!")):
                while self._next() != ">":
                    pass
            elif not self._take(":"):
                raise UnknownPattern(self._pattern)
        inside = self.alternatives()
        if not self._take(")"):
            raise UnknownPattern(self._pattern)
        return inside

    def _escape(self) -> str:
        character = self._next()
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character in "Az":
            return ""  # the ends of the text
        if character.isalnum():
            raise UnknownPattern(self._pattern)
        return character

    def _class(self) -> str:
        is_negated = self._take("^")
        allowed: list[str] = []
        while not self._take("]") or not allowed:
            first = self._member()
            if len(first) == 1 and self.rest[:1] == "-" and self.rest[1:2] not in ("]", ""):
                self._at += 1
                last = self._member()
                allowed += map(chr, range(ord(first), ord(last) + 1))
            else:
                allowed += first
        if is_negated:
            allowed = [character for character in _ALL if character not in allowed]
        if not allowed:
            raise UnknownPattern(self._pattern)
        return "".join(allowed)

    def _member(self) -> str:
        character = self._next()
        if character == "[" or (character == "&" and self.rest[:1] == "&"):
            raise UnknownPattern(self._pattern)  # the sets of Rust's expressions
        return self._escape() if character == "\\" else character

    def _repeated(self, atom: Draw) -> Draw:
        least, most = 1, 1
        if self._take("*"):
            least, most = 0, LONGEST
        elif self._take("+"):
            least, most = 1, 1 + LONGEST
        elif self._take("?"):
            least, most = 0, 1
        elif self._take("{"):
            least, most = self._bounds()
        else:
            return atom
        self._take("?")  # as few as possible is as good
        return lambda source: "".join(atom(source) for _ in range(source.randint(least, most)))

    def _bounds(self) -> tuple[int, int]:
        text = ""
        while not self._take("}"):
            text += self._next()
        low, comma, high = text.partition(",")
        try:
            least = int(low or 0)
            return least, int(high) if high else least + LONGEST if comma else least
        except ValueError:
            raise UnknownPattern(self._pattern) from None


def _one_of(characters: Sequence[str]) -> Draw:
    if not characters:
        return lambda source: ""
    return lambda source: source.choice(characters)
