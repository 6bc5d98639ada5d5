"""Versions against specifiers such as ``>=0.1,<0.2``: the part of PEP 440 that releases use.

A pre-release comes before its release: ``1.0rc1`` does not fit ``>=1``, and ``1.1rc1`` does, since
somebody has installed it. That is the answer of ``pip check``, too. A library for the rest would be one more dependency of everybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Final

_Release = tuple[int, ...]
_ONE: Final = r"(>=|<=|==|!=|>|<|~=)\s*([0-9.]*[0-9](?:(?:a|b|rc)[0-9]+)?)(\.\*)?"
# The patterns are compiled when they are first used, since few Apps ask for versions.
_CLAUSES: Final = rf"\s*{_ONE}\s*(,\s*{_ONE}\s*)*"
_REQUIREMENT: Final = r"(?s)\s*([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?)\s*(.*)"
_Key = tuple[_Release, tuple[int, int, int]]
_SUFFIX: Final = (
    r"(?i)v?[\d.]*\d(?:[-_.]?(?P<pre>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<number>\d*))?"
    r"(?P<post>-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?(?P<dev>[-_.]?dev)?"
)
_PHASES: Final = {"a": -3, "b": -2, "c": -1, "r": -1, "p": -1}  # p: "pre" is one more word for rc
_DEV, _FINAL, _POST = -4, 0, 1
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": ge,
    "<=": le,
    "==": eq,
    "!=": ne,
    ">": gt,
    "<": lt,
}


def fits(version: str, specifier: str) -> bool:
    """Return whether a version fits a specifier such as ``<0.2,>=0.1``."""
    return all(_within(version, *clause) for clause in re.findall(_ONE, specifier))


def parse_requirement(text: str) -> tuple[str, str] | None:
    """Return the name and the specifier of a requirement such as ``security>=0.1``.

    The specifier is empty if the text has none. A text of another form gives None.
    """
    match = re.fullmatch(_REQUIREMENT, text)
    if match is None:
        return None
    specifier = match[2].strip()
    return (match[1], specifier) if not specifier or re.fullmatch(_CLAUSES, specifier) else None


def _within(version: str, sign: str, number: str, wildcard: str) -> bool:
    have, want = _key(version), _key(number)
    series = number.count(".") + (1 if wildcard else 0)
    have_series, want_series = release(version)[:series], release(number)[:series]
    if wildcard:
        return _COMPARISONS[sign](have_series, want_series)
    if sign == "~=":
        return have >= want and have_series == want_series
    if have[0] == want[0]:
        # A pre-release of 1.0 is not below 1.0 for a pin, and a post-release of it not above.
        if sign == "<" and have[1][0] < _FINAL <= want[1][0]:
            return False
        is_post = have[1][0] == _POST and want[1][0] == _FINAL
        if sign == ">" and (is_post or (have[1][:2] == want[1][:2] and have[1][2] > 0)):
            return False
    return _COMPARISONS[sign](have, want)


def _key(version: str) -> _Key:
    """Return what orders versions: the release, the phase before or after it, and its number."""
    numbers = list(release(version))
    while numbers and numbers[-1] == 0:
        numbers.pop()
    match = re.match(_SUFFIX, version)
    pre, post, dev = (match["pre"], match["post"], match["dev"]) if match else (None, None, None)
    if pre and match:
        step = -1 if dev and not post else 1 if post else 0
        return tuple(numbers), (_PHASES[pre[0].lower()], int(match["number"] or 0), step)
    if post:
        return tuple(numbers), (_POST, int(re.sub(r"\D", "", post) or 0), -1 if dev else 0)
    return tuple(numbers), (_DEV if dev else _FINAL, 0, 0)


def release(version: str) -> _Release:
    """Return the numbers of a version's release, at least four: ``(1, 10, 0, 0)``."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in match[1].split(".")] if match else []
    return (*numbers, *[0] * (4 - len(numbers)))
