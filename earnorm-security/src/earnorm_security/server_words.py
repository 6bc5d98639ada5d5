"""Errors of the server, as a principal hears of them.

The core says what was wrong: a pipeline was not evaluated, a value is taken, a document is not what the
collection demands. The server's own words, which may quote a record, are the cause of that error: for
programs and for ``system``. (A unique index over two fields quotes both, also the one that who writes the
other may not read.)
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from earnorm import ValidationError

T = TypeVar("T")

_TYPES: Final = frozenset({"evaluation", "duplicate_key", "document_validation"})
"""The types of problems of which the server has told."""


async def without_words(answer: Awaitable[T]) -> T:
    """Await an answer, and take the server's words out of an error that it caused.

    Neither the cause nor the traceback remains, because a log of errors shows both, with the local
    variables of each frame.
    """
    try:
        return await answer
    except ValidationError as error:
        types = {error.code, *(detail["type"] for detail in error.errors())}
        if types.isdisjoint(_TYPES):
            raise
        refused = error
    refused.__cause__ = refused.__context__ = None
    raise refused.with_traceback(None)
