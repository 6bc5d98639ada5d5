"""``in_parts()``: what is synchronous on records, done part by part while other tasks run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar, overload

from earnorm.kernel.pauses import parts, pause
from earnorm.model.base import BaseModel
from earnorm.model.recordset import RecordSet

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


@overload
def in_parts(records: RecordSet[M]) -> AsyncIterator[RecordSet[M]]: ...
@overload
def in_parts(records: Sequence[T]) -> AsyncIterator[Sequence[T]]: ...
async def in_parts(records: Any) -> AsyncIterator[Any]:
    """Yield records in parts of some dozens, and let other tasks run between two parts.

    What is synchronous (``to_dict()``, ``filtered_domain()``, a loop that assigns) works on all of
    its records before any other task runs. On a part of them it takes some milliseconds at most::

        async for part in earnorm.in_parts(orders):
            rows += part.to_dict()

    Other tasks may change the records meanwhile.

    Args:
        records: A RecordSet, whose parts are RecordSets; or any other sequence.
    """
    for part in parts(records):
        yield part
        await pause()
