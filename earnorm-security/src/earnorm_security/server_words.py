"""Errors of a pipeline's evaluation, as a principal hears of them.

The core says that the server did not evaluate a pipeline, and with which code. The server's own
words, which may quote a record, are the cause of that error: for programs and for ``system``.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from earnorm import ValidationError

T = TypeVar("T")

_CODE: Final = "evaluation"


async def without_words(answer: Awaitable[T]) -> T:
    """Await an answer, and take the server's words out of an error of its evaluation.

    Neither the cause nor the traceback remains, because a log of errors shows both, with the local
    variables of each frame.
    """
    try:
        return await answer
    except ValidationError as error:
        if error.code != _CODE:
            raise
        refused = error
    refused.__cause__ = refused.__context__ = None
    raise refused.with_traceback(None)
