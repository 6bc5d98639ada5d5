"""The patterns of ``like``: ``%`` is any text, ``_`` one character, ``\\`` escapes the next one.

One parsed pattern has two forms, a regular expression for the server and a matcher in memory. Both
take each part between two ``%`` at its first place and never backtrack, which is correct for such
patterns and makes both linear in the text. On the server this is needed for more than speed: a
regular expression that reaches the server's match limit counts as no match, so ``not like`` would
find the record.
"""

from __future__ import annotations

import re
from typing import Final

from earnorm.domain.folding import fold, fold_mates
from earnorm.domain.values import encodable

__all__ = ["LikePattern"]

MAX_PATTERN: Final = 1000
"""The most characters of a pattern; a longer one is a mistake or an attack."""

# The part of a pattern between two ``%``: a text or, if it has a ``_``, its characters with None
# for ``_``.
_Part = str | tuple[str | None, ...]

_SPECIAL: Final = re.compile(r"[%_\\]")
_META: Final = re.compile(r"[\\.^$*+?{}\[\]|()\0]")
_ESCAPED: Final = {ord(c): f"\\{c}" for c in "\\.^$*+?{}[]|()"} | {0: "\\x00"}


class LikePattern:
    """A parsed pattern.

    Args:
        pattern: As the user wrote it.
        anchored: The pattern describes the whole text (``=like``), else a part of it (``like``).
        ignore_case: True for ``ilike`` and ``=ilike``.

    Raises:
        ValueError: The pattern is not a text, longer than 1,000 characters, or not encodable.
    """

    __slots__ = ("_ignore_case", "_parts")

    def __init__(self, pattern: object, *, anchored: bool, ignore_case: bool) -> None:
        text = _checked(pattern)
        if ignore_case:
            text = fold(text)
        self._ignore_case = ignore_case
        # The first part stands at the beginning of the text, the last one at its end.
        parts: list[_Part] = [text] if _SPECIAL.search(text) is None else _split(text)
        self._parts = parts if anchored else ["", *parts, ""]
        if len(self._parts) > 3:
            # An empty part between two % fits everywhere.
            self._parts[1:-1] = filter(None, self._parts[1:-1])

    @property
    def literal(self) -> str | None:
        """The only text that matches, or None if there are several."""
        first = self._parts[0]
        if len(self._parts) == 1 and not self._ignore_case and isinstance(first, str):
            return first
        return None

    def matches(self, text: str) -> bool:
        """Return whether the text matches, in time linear in its length."""
        if self._ignore_case:
            text = fold(text)
        first, *rest = self._parts
        if not rest:
            return len(text) == len(first) and _matches_at(first, text, 0)
        *middle, last = rest
        position, end = len(first), len(text) - len(last)
        if position > end or not _matches_at(first, text, 0) or not _matches_at(last, text, end):
            return False
        for part in middle:
            position = _find(part, text, position, end)
            if position < 0:
                return False
            position += len(part)
        return True

    def regex(self) -> str:
        """Make the regular expression that means the same to PCRE (and to Python's ``re``).

        Flags are inside it, so that it needs no ``$options``, which some stages don't take.
        """
        flag = "(?i)" if self._ignore_case else ""
        parts = self._parts
        if len(parts) == 3 and not parts[0] and not parts[2]:
            return flag + _dotall(self._quoted(parts[1]))  # a single part, anywhere
        first, *rest = parts
        # A leading text stays outside the group, because the server makes index bounds of it.
        lead = first if isinstance(first, str) else _lead(first)
        tail = self._quoted(first[len(lead) :])
        if rest:
            *middle, last = rest
            tail += "".join(f"(?>.*?{self._quoted(part)})" for part in middle)
            if last:
                tail += f"(?=.{{{len(last)}}}).*+(?<={self._quoted(last)})(?!.)"
        else:
            tail += "(?!.)"
        return f"{flag}\\A{self._quoted(lead)}{_dotall(tail)}"

    def _quoted(self, part: _Part) -> str:
        if not isinstance(part, str):
            return "".join(self._quoted(c) if c is not None else "." for c in part)
        if self._ignore_case and not part.isascii():
            return "".join(map(_quoted_letter, part))
        return part if _META.search(part) is None else part.translate(_ESCAPED)


def _checked(pattern: object) -> str:
    if not isinstance(pattern, str):
        raise ValueError(f"a pattern is a text, not a {type(pattern).__name__}")
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN:,} characters")
    if not pattern.isascii():
        encodable(pattern)
    return pattern


def _split(pattern: str) -> list[_Part]:
    parts: list[_Part] = []
    part: list[str | None] = []
    letters = iter(pattern)
    for letter in letters:
        if letter == "%":
            parts.append(_part(part))
            part = []
        elif letter == "_":
            part.append(None)
        elif letter == "\\":
            part.append(next(letters, "\\"))  # at the end of the pattern it is literal
        else:
            part.append(letter)
    parts.append(_part(part))
    return parts


def _part(letters: list[str | None]) -> _Part:
    text = [letter for letter in letters if letter is not None]
    return "".join(text) if len(text) == len(letters) else tuple(letters)


def _lead(letters: tuple[str | None, ...]) -> str:
    return "".join(letters[: letters.index(None)])  # type: ignore[arg-type]  # texts up to there


def _quoted_letter(letter: str) -> str:
    mates = fold_mates(letter)
    return f"[{mates}]" if len(mates) > 1 and not letter.isascii() else letter.translate(_ESCAPED)


def _dotall(regex: str) -> str:
    return f"(?s:{regex})" if "." in regex else regex


def _matches_at(part: _Part, text: str, start: int) -> bool:
    if isinstance(part, str):
        return text.startswith(part, start)
    return all(c is None or c == text[start + i] for i, c in enumerate(part))


def _find(part: _Part, text: str, start: int, end: int) -> int:
    """Return the first position of ``part`` in ``text[start:end]``, or -1."""
    if isinstance(part, str):
        return text.find(part, start, end)
    # Shift-and (Baeza-Yates and Gonnet 1992): bit i of `alive` says that the last i + 1 characters
    # match the first i + 1 of the part. It is linear in the text, even if the part repeats itself.
    anything = sum(1 << i for i, c in enumerate(part) if c is None)
    masks: dict[str, int] = {}
    for i, c in enumerate(part):
        if c is not None:
            masks[c] = masks.get(c, anything) | 1 << i
    complete = 1 << (len(part) - 1)
    alive = 0
    for position in range(start, end):
        alive = (alive << 1 | 1) & masks.get(text[position], anything)
        if alive & complete:
            return position - len(part) + 1
    return -1
