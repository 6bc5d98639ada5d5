"""Reads records before somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from earnorm.domain import DomainSource

if TYPE_CHECKING:
    from earnorm import BaseModel

AT_A_TIME: Final = 500
"""The records of one question, which is by their ids, so that each level keeps them."""


async def warm(
    model: type[BaseModel],
    domain: DomainSource,
    limit: int,
    progress: Callable[[int], object] | None,
) -> int:
    """Read records by their ids, and return their number; see ``CacheService.warm``."""
    read, last = 0, None
    while read < limit:
        query = model.search(domain, order="id", limit=min(AT_A_TIME, limit - read)).only("id")
        found = await (query if last is None else query.where([("id", ">", last)]))
        pks = [record.pk for record in found]
        if not pks:
            break
        read += len(await model.search([("id", "in", pks)]))
        last = pks[-1]
        if progress is not None:
            progress(read)
    return read
