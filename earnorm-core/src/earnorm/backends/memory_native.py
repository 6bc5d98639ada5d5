"""The collection of the memory backend, with the methods that a driver's collection has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from bson import ObjectId
from pymongo.errors import BulkWriteError, OperationFailure, WriteError
from pymongo.results import DeleteResult, UpdateResult

from earnorm.backends.base import Document, Filter, Statement
from earnorm.backends.in_memory.codec import is_too_large, loaded, stored
from earnorm.backends.in_memory.projections import of_find
from earnorm.backends.in_memory.sorting import sorted_by
from earnorm.backends.in_memory.stages import Pipeline, by_pipeline
from earnorm.backends.in_memory.store import CollectionStore
from earnorm.backends.in_memory.updates import Change, from_filter

PAUSE_EVERY: Final = 50
"""Documents or requests between two pauses, in which the event loop runs other tasks: 0.2 ms each."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class MemoryNative:
    """One collection; documents are encoded to BSON and decoded on their way in and out.

    Args:
        mock: The collection of mongomock, which lists and drops.
        store: The documents and the unique indexes.
        collections: Finds the documents of another collection, for ``$lookup``.
    """

    def __init__(
        self, mock: Any, store: CollectionStore, collections: Callable[[str], list[Document]]
    ) -> None:
        self._mock = mock
        self._store = store
        self._collections = collections
        self.database = mock.database
        self.list_indexes: Callable[[], Any] = mock.list_indexes

    # -- reading ----------------------------------------------------------------------------------

    async def find_one(self, filter: Filter, **options: Any) -> Document | None:
        """Return the first document that a filter finds."""
        rows = self._found(filter, limit=1, **options)
        return rows[0] if rows else None

    def find(
        self,
        filter: Filter,
        projection: Mapping[str, Any] | None = None,
        *,
        batch_size: int = 0,  # no size matters: the whole result is computed at once
        collation: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> ListCursor:
        """Return a cursor over the documents that a filter finds."""

        def rows() -> list[Document]:
            if collation:
                raise OperationFailure("memory does not compare texts by a collation", 115)
            return self._found(filter, projection=projection, **options)

        return ListCursor(rows)

    def _found(
        self,
        filter: Filter,
        *,
        projection: Mapping[str, Any] | None = None,
        sort: Any = None,
        skip: int = 0,
        limit: int = 0,
    ) -> list[Document]:
        documents = self._store.matching(stored(filter))
        if sort:
            documents = sorted_by(documents, sort, lambda document: document)
        window = documents[skip : skip + limit] if limit else documents[skip:]
        project = of_find(projection)
        return [loaded(project(document)) for document in window]

    async def count_documents(self, filter: Filter, skip: int = 0, limit: int = 0) -> int:
        """Count the documents that a filter finds."""
        count = max(0, len(self._store.matching(stored(filter))) - skip)
        return min(count, limit) if limit else count

    def aggregate(self, pipeline: list[Mapping[str, Any]], **options: Any) -> ListCursor:
        """Return a cursor over the rows of a pipeline."""
        stages = stored({"pipeline": pipeline})["pipeline"]

        def rows() -> list[Document]:
            result = Pipeline(stages, self._collections).run(self._store.all())
            return [loaded(row) for row in result]

        return ListCursor(rows)

    # -- writing ----------------------------------------------------------------------------------

    async def insert_one(self, document: Document) -> None:
        """Store a document."""
        self._store.start_write()
        self._insert(document)

    def _insert(self, document: Document) -> None:
        plain = stored(document)
        self._store.insert(_with_id(plain))

    async def insert_many(self, documents: Sequence[Document], ordered: bool) -> None:
        """Store documents; a failure says which ones were refused."""
        for number, document in enumerate(documents, 1):
            stored(document)  # a server's driver encodes all before it sends any
            if not number % PAUSE_EVERY:
                await asyncio.sleep(0)
        self._store.start_write()

        async def insert(document: Document) -> None:
            self._insert(document)

        await one_by_one(insert, documents, ordered)

    async def update_one(self, filter: Filter, update: Statement, **options: Any) -> UpdateResult:
        """Change the first document that a filter finds."""
        return self._updated(filter, update, is_one=True, **options)[0]

    async def update_many(self, filter: Filter, update: Statement, **options: Any) -> UpdateResult:
        """Change all documents that a filter finds."""
        return self._updated(filter, update, is_one=False, **options)[0]

    async def find_one_and_update(
        self,
        filter: Filter,
        update: Statement,
        *,
        projection: Mapping[str, Any] | None = None,
        return_document: bool,  # after the update, always
        **options: Any,
    ) -> Document | None:
        """Change the first document that a filter finds; return it as it is afterwards."""
        _, after = self._updated(filter, update, is_one=True, **options)
        return None if after is None else loaded(of_find(projection)(after))

    def _updated(
        self,
        filter: Filter,
        update: Statement,
        *,
        is_one: bool,
        upsert: bool = False,
        array_filters: Sequence[Filter] | None = None,
    ) -> tuple[UpdateResult, Document | None]:
        """Change what the filter finds; return the server's reply, and the last changed document."""
        self._store.start_write()
        condition = stored(filter)
        apply = _change(update, array_filters)
        found = self._store.matching(condition)
        after: Document | None = None
        for before in found[:1] if is_one else found:
            after = apply(before, False)
            _check_size(after)
            self._store.replace(before, after)
        reply: dict[str, Any] = {"n": min(len(found), 1) if is_one else len(found)}
        if not found and upsert:
            after = apply(from_filter(condition), True)
            after = _with_id(after)
            _check_size(after)
            self._store.insert(after)
            reply = {"n": 1, "upserted": after["_id"]}
        return UpdateResult(reply, acknowledged=True), after

    async def delete_one(self, filter: Filter) -> DeleteResult:
        """Delete the first document that a filter finds."""
        return self._deleted(filter, 1)

    async def delete_many(self, filter: Filter) -> DeleteResult:
        """Delete all documents that a filter finds."""
        return self._deleted(filter, None)

    def _deleted(self, filter: Filter, most: int | None) -> DeleteResult:
        self._store.start_write()
        documents = self._store.matching(stored(filter))[:most]
        for document in documents:
            self._store.delete(document)
        return DeleteResult({"n": len(documents)}, acknowledged=True)

    # -- the collection ---------------------------------------------------------------------------

    async def create_index(
        self, name: str, keys: Sequence[tuple[str, Any]], options: Mapping[str, Any]
    ) -> None:
        """Create an index; see ``CollectionStore.create_index``."""
        self._store.create_index(name, keys, options)

    async def drop_index(self, name: str) -> None:
        """Drop an index."""
        await self._mock.drop_index(name)
        self._store.forget_keys()

    async def drop(self) -> None:
        """Drop the documents and the indexes."""
        await self._mock.drop()
        self._store.options.clear()
        self._store.forget_keys()


def _change(
    update: Statement, array_filters: Sequence[Filter] | None
) -> Callable[[Mapping[str, Any], bool], Document]:
    """Read an update; return the function of a document, which is told whether it is a new one."""
    if isinstance(update, Mapping):
        change = Change(stored(update), [stored(filter) for filter in array_filters or ()])
        return lambda document, is_new: change.apply(document, is_new=is_new)
    stages = stored({"stages": list(update)})["stages"]
    return lambda document, _: by_pipeline(stages, document)


def _with_id(document: Document) -> Document:
    """Return a document with its id, which it may get here, in the first place."""
    return {"_id": document["_id"] if "_id" in document else ObjectId(), **document}


def _check_size(document: Document) -> None:
    if is_too_large(document):
        text = "Resulting document after update is larger than 16777216"
        raise WriteError(text, 17419, {"code": 17419, "errmsg": text})


class ListCursor:
    """A cursor over rows that are computed at once, with the first read.

    Args:
        rows: Computes them.
    """

    def __init__(self, rows: Callable[[], list[Document]]) -> None:
        self._rows = rows
        self._rest: list[Document] | None = None

    @property
    def alive(self) -> bool:
        """True while there may be more rows."""
        return self._rest != []

    async def to_list(self, length: int | None) -> list[Document]:
        """Return the next rows; None takes all of them."""
        if self._rest is None:
            self._rest = self._rows()
        batch = self._rest[:length]
        self._rest = self._rest[len(batch) :]
        return batch

    async def close(self) -> None:
        """Forget the rest."""
        self._rest = []


async def one_by_one(
    write: Callable[[Item], Awaitable[Result]], items: Iterable[Item], ordered: bool
) -> list[Result]:
    """Write the items singly, and report failures as a server reports those of a bulk."""
    results: list[Result] = []
    failures: list[Mapping[str, Any]] = []
    for position, item in enumerate(items):
        if not (position + 1) % PAUSE_EVERY:
            await asyncio.sleep(0)  # nothing in memory waits for anything
        try:
            results.append(await write(item))
        except WriteError as error:
            failures.append({"index": position, "code": error.code, **(error.details or {})})
            if ordered:
                break
    if failures:
        raise BulkWriteError({"writeErrors": failures, "nInserted": len(results)})
    return results
