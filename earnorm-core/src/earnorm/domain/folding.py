"""Case folding: one rule for ``ilike`` on the server and in memory.

A letter folds to Unicode's case folding if that is a single letter, else to its lower case if that
is a single letter, else to itself. So é and É, K and the Kelvin sign, ß and ẞ fold together; ß and
ss do not, nor i with and without its dot. Accents are kept.

The regular expressions of MongoDB 6.0 (PCRE 8) know the foldings of Unicode 7 only. Letters beyond
ASCII are therefore spelled out (``[éÉ]``), so that every server version folds like Python.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import Final

__all__ = ["fold", "fold_mates"]

# Hangul, the Han ideographs and the unassigned planes have no case.
# Leaving them out shortens the scan from 150 ms to 20 ms.
_MAY_HAVE_CASE: Final = (range(0x80, 0x3400), range(0xA000, 0xAC00), range(0xF900, 0x20000))


def fold(text: str) -> str:
    """Fold every letter of a text; the result is as long as the text."""
    if text.isascii():
        return text.lower()
    folded = text.casefold()
    # Case folding never shortens a letter, so an equal length means that each became one letter.
    if len(folded) == len(text):
        return folded
    return "".join(map(_fold_letter, text))


def fold_mates(letter: str) -> str:
    """Return every letter that folds like this one, including the letter itself."""
    folded = _fold_letter(letter)
    return _mates().get(folded, folded)


def _fold_letter(letter: str) -> str:
    folded = letter.casefold()
    if len(folded) == 1:
        return folded
    lower = letter.lower()
    return lower if len(lower) == 1 else letter


@cache
def _mates() -> dict[str, str]:
    mates: dict[str, str] = {}
    for letter in map(chr, chain(range(0x41, 0x5B), *_MAY_HAVE_CASE)):
        if letter.casefold() != letter:
            folded = _fold_letter(letter)
            if folded != letter:
                mates[folded] = mates.get(folded, folded) + letter
    return mates
