"""One Collection and one Cursor over a driver's own objects, whichever driver it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, Final, Literal

import bson
from pymongo import DeleteMany, DeleteOne, IndexModel, InsertOne, ReturnDocument, UpdateOne
from pymongo.errors import OperationFailure
from pymongo.results import BulkWriteResult, DeleteResult, UpdateResult
from typing_extensions import override

from earnorm.backends.base import (
    BulkCounts,
    BulkDelete,
    BulkInsert,
    BulkRequest,
    BulkUpdate,
    Collection,
    Cursor,
    Document,
    Filter,
    IndexSpec,
    SearchIndexSpec,
    Session,
    Sort,
    Statement,
)
from earnorm.backends.changes import DriverChangeCursor
from earnorm.backends.conversions import milliseconds, settled
from earnorm.backends.errors import (
    CODEC,
    INDEX_CODES,
    INDEX_NOT_FOUND,
    NAMESPACE_EXISTS,
    NAMESPACE_NOT_FOUND,
    UNAUTHORISED,
    Batch,
    Server,
    Translating,
    said,
)
from earnorm.exceptions import ConfigurationError, EarnORMError, NotSupported

DEFAULT_FIRST_BATCH: Final = 101
"""What a server sends first when no batch size is asked for; the rest costs a second round trip."""

WHOLE_RESULT: Final = 1_000_000
"""A batch size that only the server's limit of 16 MiB for one reply cuts."""

PART: Final = 5001
"""Documents of one part of a large result. Of 10,000 documents in two parts, the second is prepared
while the first is looked at (0.93 of the time of one reply, measured), and the event loop stalls half
as long. One more than a round number: where nothing is left, asking costs a round trip."""


class DriverCursor(Cursor):
    """A driver's cursor that hands out batches."""

    def __init__(
        self, native: Any, batch_size: int, translating: Translating, timeout: float | None
    ) -> None:
        self._native = native
        self._batch_size = batch_size
        self._translating = translating
        self._timeout = timeout

    @override
    async def next_batch(self) -> list[Document]:
        with self._translating.within(self._timeout):
            batch: list[Document] = await self._native.to_list(self._batch_size)
        return batch

    @override
    async def close(self) -> None:
        with self._translating:
            await self._native.close()


class DriverCollection(Collection):
    """A driver's collection behind the ``Collection`` protocol.

    Only arguments that are set are passed on: each keyword costs the driver some work.
    """

    def __init__(self, native: Any, name: str, server: Server) -> None:
        self._native = native
        self._name = name
        self._server = server
        self._translating = Translating(name, server)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r} on {self._server.name}>"

    @property
    @override
    def name(self) -> str:
        return self._name

    @override
    async def find(
        self,
        filter: Filter,
        *,
        projection: Mapping[str, Any] | None = None,
        sort: Sort | None = None,
        skip: int = 0,
        limit: int = 0,
        session: Session | None = None,
        timeout: float | None = None,
        each_part: Callable[[list[Document]], list[Document]] | None = None,
    ) -> list[Document]:
        options: dict[str, Any] = {}
        if projection is not None:
            options["projection"] = projection
        if sort:
            options["sort"] = sort
        if skip:
            options["skip"] = skip
        if session is not None:
            options["session"] = session
        if limit and limit != 1:
            options["limit"] = limit
        with self._translating.within(timeout):
            if limit == 1:
                one: Document | None = await self._native.find_one(filter, **options)
                found: list[Document] = [] if one is None else [one]
            elif limit and limit <= DEFAULT_FIRST_BATCH:
                found = await self._native.find(filter, **options).to_list(None)
            else:
                cursor = self._native.find(filter, batch_size=PART, **options)
                return await _parts(cursor, each_part or _as_it_is)
        return found if each_part is None else each_part(found)

    @override
    async def open_cursor(
        self,
        filter: Filter,
        *,
        projection: Mapping[str, Any] | None = None,
        sort: Sort | None = None,
        skip: int = 0,
        limit: int = 0,
        batch_size: int = 2000,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> DriverCursor:
        options: dict[str, Any] = {
            "projection": projection,
            "sort": sort,
            "skip": skip,
            "limit": limit,
            "batch_size": batch_size,
            "session": session,
        }
        with self._translating:
            native = self._native.find(filter, **options)
        return DriverCursor(native, batch_size, self._translating, timeout)

    @override
    async def count(
        self,
        filter: Filter,
        *,
        skip: int = 0,
        limit: int = 0,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        options = _common(session)
        if skip:
            options["skip"] = skip
        if limit:
            options["limit"] = limit
        with self._translating.within(timeout):
            count: int = await self._native.count_documents(filter, **options)
        return count

    @override
    async def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> list[Document]:
        options = _common(session)
        with self._translating.within(timeout):
            cursor = await settled(
                self._native.aggregate(list(pipeline), batchSize=WHOLE_RESULT, **options)
            )
            documents: list[Document] = await cursor.to_list(None)
        return documents

    @override
    async def open_pipeline(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        batch_size: int = 2000,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> Cursor:
        with self._translating.within(timeout):
            native = await settled(
                self._native.aggregate(list(pipeline), batchSize=batch_size, **_common(session))
            )
        return DriverCursor(native, batch_size, self._translating, timeout)

    @override
    async def insert(
        self,
        documents: Sequence[Document],
        *,
        ordered: bool = True,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> None:
        options = _common(session)
        size = len(documents)
        batch = Batch(size, ordered, documents)
        with Translating(self._name, self._server, batch).within(timeout):
            if size == 1:
                await self._native.insert_one(documents[0], **options)
            elif size:
                await self._native.insert_many(documents, ordered=ordered, **options)

    @override
    async def update(
        self,
        filter: Filter,
        update: Statement,
        *,
        many: bool = True,
        upsert: bool = False,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        options = _common(session)
        if upsert:
            options["upsert"] = True
        run = self._native.update_many if many else self._native.update_one
        with self._translating.within(timeout):
            result: UpdateResult = await run(filter, update, **options)
            return result.matched_count + (result.upserted_id is not None)

    @override
    async def find_and_update(
        self,
        filter: Filter,
        update: Statement,
        *,
        projection: Mapping[str, Any] | None = None,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> Document | None:
        options = _common(session)
        if projection is not None:
            options["projection"] = projection
        with self._translating.within(timeout):
            found: Document | None = await self._native.find_one_and_update(
                filter, update, return_document=ReturnDocument.AFTER, **options
            )
        return found

    @override
    async def bulk_update(
        self,
        updates: Sequence[BulkUpdate],
        *,
        ordered: bool = False,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        counts = await self.bulk_write(updates, ordered=ordered, session=session, timeout=timeout)
        return counts.matched

    @override
    async def bulk_write(
        self,
        requests: Sequence[BulkRequest],
        *,
        ordered: bool = False,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> BulkCounts:
        if not requests:
            return BulkCounts(0, 0, 0)
        batch = _batch(requests, ordered)
        with Translating(self._name, self._server, batch).within(timeout):
            result: BulkWriteResult = await self._native.bulk_write(
                [_native(each) for each in requests], ordered=ordered, **_common(session)
            )
            return BulkCounts(
                result.inserted_count,
                result.matched_count + result.upserted_count,
                result.deleted_count,
            )

    @override
    async def delete(
        self,
        filter: Filter,
        *,
        many: bool = True,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        run = self._native.delete_many if many else self._native.delete_one
        with self._translating.within(timeout):
            result: DeleteResult = await run(filter, **_common(session))
            return result.deleted_count

    @override
    async def create_indexes(self, indexes: Sequence[IndexSpec]) -> None:
        if not indexes:
            return
        with self._translating:
            try:
                await self._create(indexes)
            except OperationFailure as refused:
                if refused.code not in INDEX_CODES:
                    raise
                await self._create_one_by_one(indexes)

    async def _create(self, indexes: Sequence[IndexSpec]) -> None:
        await self._native.create_indexes([IndexModel(list(i.keys), **i.options) for i in indexes])

    async def _create_one_by_one(self, indexes: Sequence[IndexSpec]) -> None:
        """The server refused the lot without naming the culprit: find it."""
        for index in indexes:
            try:
                await self._create([index])
            except OperationFailure as refused:
                if refused.code not in INDEX_CODES:
                    raise
                message = (
                    f"{self._name}: index {index.name!r} on {', '.join(k for k, _ in index.keys)} "
                    f"cannot be created: {INDEX_CODES[refused.code]} (code {refused.code})"
                )
                # A duplicate's text quotes the value.
                cause = None if refused.code == 11000 else refused
                raise ConfigurationError(message) from cause

    @override
    async def list_indexes(self) -> list[Document]:
        with self._translating:
            cursor = await settled(self._native.list_indexes())
            return [{**index, "key": dict(index["key"])} for index in await cursor.to_list(None)]

    @override
    async def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        resume_after: Mapping[str, Any] | None = None,
        full_document: str | None = None,
        before: bool = False,
        max_await: float = 1.0,
    ) -> DriverChangeCursor:
        missing = self._server.lacks("change_streams")
        if missing:
            raise NotSupported(missing)
        options: dict[str, Any] = {"max_await_time_ms": milliseconds(max_await)}
        if full_document is not None:
            options["full_document"] = full_document
        if before:
            options["full_document_before_change"] = "whenAvailable"
        if resume_after is not None:
            options["resume_after"] = resume_after
        with self._translating:
            opening = self._native.watch(list(pipeline), **options)
            cursor = DriverChangeCursor(await settled(opening), self._translating)
            await cursor.open(lazily=not isawaitable(opening))
        return cursor

    @override
    async def drop_index(self, name: str) -> None:
        with self._translating:
            try:
                await self._native.drop_index(name)
            except OperationFailure as refused:
                if refused.code not in (INDEX_NOT_FOUND, NAMESPACE_NOT_FOUND):
                    raise

    @override
    async def modify_index(self, name: str, changes: Mapping[str, Any]) -> None:
        await self._command({"collMod": self._name, "index": {"name": name, **changes}})

    @override
    async def create_search_indexes(self, indexes: Sequence[SearchIndexSpec]) -> None:
        described = [
            {"name": index.name, "type": index.kind, "definition": index.definition}
            for index in indexes
        ]
        await self._command({"createSearchIndexes": self._name, "indexes": described})

    @override
    async def list_search_indexes(self) -> list[Document]:
        return await self.aggregate([{"$listSearchIndexes": {}}])

    @override
    async def create(self, options: Mapping[str, Any]) -> bool:
        with self._translating:
            try:
                await self._native.database.command(
                    {"create": self._name, **options}, codec_options=CODEC
                )
            except OperationFailure as refused:
                if refused.code == NAMESPACE_EXISTS:
                    return False
                if refused.code == UNAUTHORISED:
                    raise
                raise ConfigurationError(
                    f"{self._name}: the collection cannot be created as declared: {said(refused)}"
                ) from refused
        return True

    @override
    async def describe(self) -> Document | None:
        reply = await self._command({"listCollections": 1, "filter": {"name": self._name}})
        found: list[Document] = reply["cursor"]["firstBatch"]
        return found[0] if found else None

    @override
    async def set_validator(
        self, validator: Mapping[str, Any], action: Literal["error", "warn"]
    ) -> bool:
        wanted = {
            "validator": validator,
            "validationLevel": "strict",
            "validationAction": action,
        }
        found = await self.describe()
        if found is None:
            if await self.create(wanted):
                return True
            found = await self.describe()  # another process was first
        options = (found or {}).get("options", {})
        # As the server keeps it: lists for tuples, its own kinds of numbers.
        as_kept: Document = bson.decode(bson.encode(wanted, codec_options=CODEC), CODEC)
        if all(options.get(name) == value for name, value in as_kept.items()):
            return False
        try:
            await self._command({"collMod": self._name, **wanted})
        except EarnORMError as refused:
            if type(refused) is not EarnORMError:
                raise
            raise ConfigurationError(f"{refused} (validator)") from refused.__cause__
        return True

    async def _command(self, command: Mapping[str, Any]) -> Document:
        with self._translating:
            reply: Document = await self._native.database.command(command, codec_options=CODEC)
        return reply

    @override
    async def drop(self) -> None:
        with self._translating:
            await self._native.drop()

    @override
    async def explain(
        self,
        filter: Filter,
        *,
        sort: Sort | None = None,
        skip: int = 0,
        limit: int = 0,
        verbosity: str = "executionStats",
    ) -> Document:
        find: dict[str, Any] = {"find": self._name, "filter": filter}
        if sort:
            find["sort"] = dict(sort)
        if skip:
            find["skip"] = skip
        if limit:
            find["limit"] = limit
        return await self._explain(find, verbosity)

    @override
    async def explain_pipeline(
        self, pipeline: Sequence[Mapping[str, Any]], *, verbosity: str = "executionStats"
    ) -> Document:
        aggregate = {"aggregate": self._name, "pipeline": list(pipeline), "cursor": {}}
        return await self._explain(aggregate, verbosity)

    async def _explain(self, command: Mapping[str, Any], verbosity: str) -> Document:
        with self._translating:
            plan: Document = await self._native.database.command(
                {"explain": command, "verbosity": verbosity}, codec_options=CODEC
            )
        return plan


_NativeRequest = InsertOne[Document] | UpdateOne | DeleteOne | DeleteMany


def _native(request: BulkRequest) -> _NativeRequest:
    if isinstance(request, BulkInsert):
        return InsertOne(request.document)
    if isinstance(request, BulkDelete):
        return (DeleteMany if request.many else DeleteOne)(request.filter)
    return UpdateOne(request.filter, request.update, upsert=request.upsert)


def _batch(requests: Sequence[BulkRequest], ordered: bool) -> Batch:
    documents = [each.document if isinstance(each, BulkInsert) else {} for each in requests]
    return Batch(len(requests), ordered, documents)


async def _parts(
    cursor: Any, each_part: Callable[[list[Document]], list[Document]]
) -> list[Document]:
    """All documents of a cursor, each part looked at while the server prepares the next."""
    part: list[Document] = await cursor.to_list(PART)
    found: list[Document] = []
    coming: asyncio.Future[list[Document]] | None = None
    try:
        while part:
            if len(part) == PART:
                coming = asyncio.ensure_future(cursor.to_list(PART))
                await asyncio.sleep(0)  # let it send its request
            found += each_part(part)
            if coming is None:
                break
            part, coming = await coming, None
    finally:
        if coming is not None:
            coming.cancel()
    return found


def _as_it_is(documents: list[Document]) -> list[Document]:
    return documents


def _common(session: Session | None) -> dict[str, Any]:
    return {} if session is None else {"session": session}
