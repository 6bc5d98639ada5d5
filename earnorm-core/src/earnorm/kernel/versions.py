"""Versions against specifiers such as ``>=0.1,<0.2``: the part of PEP 440 that releases use.

A library for the rest would be one more dependency of everybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt, ne
from typing import Final

_Release = tuple[int, ...]
_ONE: Final = r"(>=|<=|==|!=|>|<|~=)\s*([0-9.]*[0-9])(\.\*)?"
_CLAUSE: Final = re.compile(_ONE)
_CLAUSES: Final = re.compile(rf"\s*{_ONE}\s*(,\s*{_ONE}\s*)*")
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?)\s*(.*)", re.DOTALL)
_COMPARISONS: Mapping[str, Callable[[_Release, _Release], bool]] = {
    ">=": ge,
    "<=": le,
    "==": eq,
    "!=": ne,
    ">": gt,
    "<": lt,
}


def fits(version: str, specifier: str) -> bool:
    """Return whether a version fits a specifier such as ``<0.2,>=0.1``; it reads releases only."""
    return all(_within(release(version), *clause) for clause in _CLAUSE.findall(specifier))


def parse_requirement(text: str) -> tuple[str, str] | None:
    """Return the name and the specifier of a requirement such as ``security>=0.1``.

    The specifier is empty if the text has none. A text of another form gives None.
    """
    match = _REQUIREMENT.fullmatch(text)
    if match is None:
        return None
    specifier = match[2].strip()
    return (match[1], specifier) if not specifier or _CLAUSES.fullmatch(specifier) else None


def _within(have: _Release, sign: str, number: str, wildcard: str) -> bool:
    want = release(number)
    if sign == "~=":
        series = number.count(".")
        return have >= want and have[:series] == want[:series]
    if wildcard:
        series = number.count(".") + 1
        return _COMPARISONS[sign](have[:series], want[:series])
    return _COMPARISONS[sign](have, want)


def release(version: str) -> _Release:
    """Return the numbers of a version's release, at least four: ``(1, 10, 0, 0)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    return (*numbers, *[0] * (4 - len(numbers)))
