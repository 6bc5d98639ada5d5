"""Makes collections before the first transaction that writes to them begins on the server.

Of the transactions that make one collection, MongoDB commits one and refuses the others; and none can
read or write a collection that is younger than its snapshot. In a new database nearly all of
the first transactions would be refused so. A transaction's snapshot is as old as its first operation.
So this is done before that one is sent, once for each model and process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from earnorm.exceptions import EarnORMError

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel


async def make_missing(bound: BoundModel) -> None:
    """Make the collections of a model and of those that links lead to from it, in either direction.

    Those are what a transaction writes that begins with the model: targets, lines, stored counts. A
    server that refuses it refuses no more than this; the transaction is sent as it is.
    """
    async with bound.making:
        if bound.has_collection:
            return
        models = [bound, *_linked(bound)]
        with suppress(EarnORMError):
            existing = frozenset(await bound.app._backend.list_collections())
            for each in models:
                if each._collection.name not in existing:
                    await _make(each)
        for each in models:
            each.has_collection = True


async def _make(bound: BoundModel) -> None:
    if bound.model._options is None:
        await bound._collection.create({})
        return
    # Its declaration makes it as it has to be; what is made without can mostly not be changed.
    with suppress(EarnORMError):  # its own first use raises it
        await bound.prepare()


def _linked(bound: BoundModel) -> Iterator[BoundModel]:
    """Yield the other models to which links lead, also over models between them."""
    links = bound.app.catalog.links()
    found, waiting = {bound.model._name}, [bound.model._name]
    while waiting:
        for name in links.get(waiting.pop(), frozenset()) - found:
            found.add(name)
            waiting.append(name)
            model = bound.app.catalog.find(name)
            if model is not None:
                with suppress(EarnORMError):  # its own first use raises it
                    yield bound.app.bind(model)
