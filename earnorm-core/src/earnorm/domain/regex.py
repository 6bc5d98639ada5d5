"""Regular expressions that mean the same to the server (PCRE) and to Python.

Syntax that only one of them knows, or that they read differently, is refused with the reason. A
regular expression is code: it may take long, and must not come from strangers. Give them ``like``
instead.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

__all__ = ["portable_regex"]

MAX_REGEX: Final = 1000
MAX_REPEAT: Final = 1000

# A backslash may stand before punctuation and before these letters and digits. \Z, \v, \u, \N and
# octal numbers differ between the two or exist in one only.
_ESCAPES: Final = re.compile(
    r"\\(?:[dDwWsSbBAnrtf]|x[0-9a-fA-F]{2}|[1-9](?!\d)|[^0-9A-Za-z])", re.S
)
_REPEAT: Final = re.compile(r"\{(\d*),?(\d*)\}")
# Flags such as (?i) are refused, because PCRE folds é and Python with ASCII classes does not.
_FLAGS: Final = re.compile(r"\(\?[A-Za-z-]+[:)]")


def portable_regex(pattern: object) -> re.Pattern[str]:
    """Compile the pattern; ``\\d``, ``\\w``, ``\\s`` and ``\\b`` know ASCII only, as on the server.

    Raises:
        ValueError: It is not a text, too long, invalid, or not the same on the server and in
            memory.
    """
    if not isinstance(pattern, str):
        raise ValueError(
            f"a regular expression is given as a text, not as a {type(pattern).__name__}"
        )
    if len(pattern) > MAX_REGEX:
        raise ValueError(f"a regular expression has at most {MAX_REGEX:,} characters")
    if "\0" in pattern:
        raise ValueError("a regular expression cannot hold a null character; write \\x00")
    _check_portable(pattern)
    try:
        pattern.encode()
        with warnings.catch_warnings():
            # PCRE reads differently what Python warns about, such as [[a]].
            warnings.simplefilter("error")
            return re.compile(pattern, re.ASCII)
    except UnicodeEncodeError:
        raise ValueError("the regular expression contains a lone surrogate") from None
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"no valid regular expression: {error}") from None


def _check_portable(pattern: str) -> None:
    position = pattern.find("\\")
    while position >= 0:
        escape = _ESCAPES.match(pattern, position)
        if escape is None:
            raise ValueError(f"{pattern[position : position + 2]!r} is not the same on every side")
        position = pattern.find("\\", escape.end())
    plain = _ESCAPES.sub("", pattern)
    if _FLAGS.search(plain):
        raise ValueError("flags inside a regular expression are not supported; use 'ilike' or [aA]")
    for low, high in _REPEAT.findall(plain):
        if not low or int(low) > MAX_REPEAT or int(high or 0) > MAX_REPEAT:
            raise ValueError(
                f"a repetition is {{n}}, {{n,}} or {{n,m}} with at most {MAX_REPEAT:,}"
            )
