"""The ``text`` operator: MongoDB's full-text search, which uses a collection's text index.

The index, not the condition, decides which fields are searched, so the condition has the path
``*``: ``("*", "text", "coffee -decaf")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from earnorm.domain.values import encodable, is_dict, shorten
from earnorm.exceptions import NotSupported

__all__ = ["has_text", "text_filter", "text_operand"]

MAX_WORDS: Final = 1000
"""The most characters of a search."""

# EarnORM's name of each option, the server's name, and the type of its value.
_OPTIONS: Final[dict[str, tuple[str, type]]] = {
    "language": ("$language", str),
    "case_sensitive": ("$caseSensitive", bool),
    "diacritic_sensitive": ("$diacriticSensitive", bool),
}


def text_operand(_: object, value: Any) -> dict[str, Any]:
    """Read ``"words"`` or ``{"words": …}``.

    The dict may have ``language``, ``case_sensitive`` and ``diacritic_sensitive``.

    Raises:
        ValueError: It is neither.
    """
    given: dict[str, Any] = dict(value) if is_dict(value) else {"words": value}
    words = given.pop("words", None)
    if not isinstance(words, str) or not words.strip():
        raise ValueError(f"a full-text search is for words, not for {shorten(words)}")
    if len(words) > MAX_WORDS or "\0" in words:
        raise ValueError(f"a full-text search has at most {MAX_WORDS:,} characters, and no NUL")
    encodable(words)
    search: dict[str, Any] = {"$search": words}
    for name, option in given.items():
        key, kind = _OPTIONS.get(name, ("", type(None)))
        if not key or type(option) is not kind:
            raise ValueError(
                f"{shorten(name)} is no option of a full-text search, or has no such value; "
                f"options: {', '.join(_OPTIONS)}"
            )
        if isinstance(option, str):
            encodable(option)
        search[key] = option
    return search


def text_filter(_: str, operand: dict[str, Any]) -> dict[str, Any]:
    """Make the server's ``$text``."""
    return {"$text": dict(operand)}


def has_text(_: object) -> Callable[[Sequence[object]], bool]:
    """Refuse the test in memory: only the server knows its stems and stop words.

    Raises:
        NotSupported: Always.
    """
    return _refuse()


def _refuse() -> NoReturn:
    raise NotSupported(
        "'text' is answered by the server's text index, not in memory; search the database, or use "
        "'ilike'"
    )
