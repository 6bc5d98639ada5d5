"""The Collection and the Cursor over a driver's own objects, for every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, Final, Literal

import bson
from bson.errors import InvalidBSON
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
from earnorm.backends.broken import RAW, OnBroken, decoded, find_broken
from earnorm.backends.changes import DriverChangeCursor
from earnorm.backends.conversions import milliseconds, settled
from earnorm.backends.errors import (
    CODEC,
    INDEX_CODES,
    INDEX_NOT_FOUND,
    NAMESPACE_EXISTS,
    NAMESPACE_NOT_FOUND,
    UNAUTHORISED,
    UNSTORABLE,
    Batch,
    Server,
    Translating,
    refuse_unstorable,
    refuse_unstorable_of,
    said,
)
from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    NotSupported,
    UnreadableDocument,
)

DEFAULT_FIRST_BATCH: Final = 101
"""Documents in a server's first batch by default; the rest costs a second round trip."""

WHOLE_RESULT: Final = 1_000_000
"""A batch size so large that only the server's limit of 16 MiB for one reply cuts a result."""

PART: Final = 5001
"""Documents of one part of a large result. Of 10,000 documents in two parts, the server prepares
the second while the first is processed (0.93 of the time of one reply, measured), and the event
loop stalls half as long. It is one more than a round number, so that a result of exactly 5,000 or
10,000 documents needs no further round trip to find its end."""


class DriverCursor(Cursor):
    """A driver's cursor that gives batches."""

    def __init__(
        self,
        native: Any,
        batch_size: int,
        translating: Translating,
        timeout: float | None,
        open_raw: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self._native = native
        self._batch_size = batch_size
        self._translating = translating
        self._timeout = timeout
        self._open_raw = open_raw

    @override
    async def next_batch(self) -> list[Document]:
        with self._translating.within(self._timeout):
            try:
                batch: list[Document] = await self._native.to_list(self._batch_size)
            except InvalidBSON:
                if self._open_raw is not None:
                    await _refuse_broken(self._translating.subject, await self._open_raw())
                raise
        return batch

    @override
    async def close(self) -> None:
        with self._translating:
            await self._native.close()


class RawCursor(DriverCursor):
    """A cursor that decodes each document on its own, and reads on after a broken one."""

    def __init__(
        self,
        native: Any,
        batch_size: int,
        translating: Translating,
        timeout: float | None,
        on_broken: OnBroken,
    ) -> None:
        super().__init__(native, batch_size, translating, timeout)
        self._on_broken = on_broken

    @override
    async def next_batch(self) -> list[Document]:
        documents: list[Document] = []
        while not documents and (raws := await super().next_batch()):
            for raw in raws:
                try:
                    documents.append(decoded(self._translating.subject, raw))
                except UnreadableDocument as error:
                    await self._on_broken(error)
        return documents


async def _refuse_broken(subject: str, cursor: Any) -> None:
    """Raise the error that names the broken documents of a raw cursor, if it has any."""
    error = await find_broken(subject, cursor, PART)
    if error is not None:
        raise error from None


class DriverCollection(Collection):
    """A driver's collection behind the ``Collection`` protocol.

    Only arguments that are set are passed on, because each keyword costs the driver some time.
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
            try:
                if limit == 1:
                    one: Document | None = await self._native.find_one(filter, **options)
                    documents: list[Document] = [] if one is None else [one]
                elif limit and limit <= DEFAULT_FIRST_BATCH:
                    documents = await self._native.find(filter, **options).to_list(None)
                else:
                    cursor = self._native.find(filter, batch_size=PART, **options)
                    return await _read_in_parts(cursor, each_part or _unchanged)
            except InvalidBSON:
                raw = self._native.with_options(codec_options=RAW)
                await _refuse_broken(self._name, raw.find(filter, **{**options, "limit": limit}))
                raise
        return documents if each_part is None else each_part(documents)

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
        on_broken: OnBroken | None = None,
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
            native = self._native.find(filter, **options) if on_broken is None else None

        async def open_raw() -> Any:
            return self._native.with_options(codec_options=RAW).find(filter, **options)

        if on_broken is not None:
            return RawCursor(await open_raw(), batch_size, self._translating, timeout, on_broken)
        return DriverCursor(native, batch_size, self._translating, timeout, open_raw)

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
        options = _session_option(session)
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
        options = _session_option(session)
        with self._translating.within(timeout):
            try:
                cursor = await settled(
                    self._native.aggregate(list(pipeline), batchSize=WHOLE_RESULT, **options)
                )
                documents: list[Document] = await cursor.to_list(None)
            except InvalidBSON:
                raw = self._native.with_options(codec_options=RAW)
                cursor = await settled(raw.aggregate(list(pipeline), **options))
                await _refuse_broken(self._name, cursor)
                raise
        return documents

    @override
    async def open_pipeline(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        batch_size: int = 2000,
        session: Session | None = None,
        timeout: float | None = None,
        on_broken: OnBroken | None = None,
    ) -> Cursor:
        options = {"batchSize": batch_size, **_session_option(session)}

        async def open_raw() -> Any:
            raw = self._native.with_options(codec_options=RAW)
            return await settled(raw.aggregate(list(pipeline), **options))

        with self._translating.within(timeout):
            if on_broken is not None:
                native = await open_raw()
                return RawCursor(native, batch_size, self._translating, timeout, on_broken)
            try:
                native = await settled(self._native.aggregate(list(pipeline), **options))
            except InvalidBSON:  # the first batch comes with the answer
                await _refuse_broken(self._name, await open_raw())
                raise
        return DriverCursor(native, batch_size, self._translating, timeout, open_raw)

    @override
    async def insert(
        self,
        documents: Sequence[Document],
        *,
        ordered: bool = True,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> None:
        options = _session_option(session)
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
        array_filters: Sequence[Filter] | None = None,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        options = _session_option(session)
        if upsert:
            options["upsert"] = True
        if array_filters is not None:
            options["array_filters"] = array_filters
        run = self._native.update_many if many else self._native.update_one
        with self._translating.within(timeout):
            try:
                result: UpdateResult = await run(filter, update, **options)
            except UNSTORABLE:
                refuse_unstorable(self._name, update)
                raise
            return result.matched_count + (result.upserted_id is not None)

    @override
    async def find_and_update(
        self,
        filter: Filter,
        update: Statement,
        *,
        projection: Mapping[str, Any] | None = None,
        array_filters: Sequence[Filter] | None = None,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> Document | None:
        options = _session_option(session)
        if projection is not None:
            options["projection"] = projection
        if array_filters is not None:
            options["array_filters"] = array_filters
        with self._translating.within(timeout):
            try:
                document: Document | None = await self._native.find_one_and_update(
                    filter, update, return_document=ReturnDocument.AFTER, **options
                )
            except UNSTORABLE:
                refuse_unstorable(self._name, update)
                raise
        return document

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
            try:
                result: BulkWriteResult = await self._native.bulk_write(
                    [_native(request) for request in requests],
                    ordered=ordered,
                    **_session_option(session),
                )
            except UNSTORABLE:
                refuse_unstorable_of(self._name, requests)
                raise
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
            result: DeleteResult = await run(filter, **_session_option(session))
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
        """Create the indexes singly, to find the one for which the server refused all of them."""
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
                # The server's text about a duplicate quotes the value.
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
            raw = self._native.with_options(codec_options=RAW)
            opening = raw.watch(list(pipeline), **options)
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
        descriptions: list[Document] = reply["cursor"]["firstBatch"]
        return descriptions[0] if descriptions else None

    @override
    async def set_validator(
        self, validator: Mapping[str, Any], action: Literal["error", "warn"]
    ) -> bool:
        wanted = {
            "validator": validator,
            "validationLevel": "strict",
            "validationAction": action,
        }
        description = await self.describe()
        if description is None:
            if await self.create(wanted):
                return True
            # The collection exists now, because another process created it in the meantime.
            description = await self.describe()
        options = (description or {}).get("options", {})
        # Convert it as the server stores it: tuples become lists, and numbers take BSON's types.
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
    if request.array_filters is None:
        return UpdateOne(request.filter, request.update, upsert=request.upsert)
    return UpdateOne(
        request.filter,
        request.update,
        upsert=request.upsert,
        array_filters=list(request.array_filters),
    )


def _batch(requests: Sequence[BulkRequest], ordered: bool) -> Batch:
    documents = [
        request.document if isinstance(request, BulkInsert) else {} for request in requests
    ]
    return Batch(len(requests), ordered, documents)


async def _read_in_parts(
    cursor: Any, each_part: Callable[[list[Document]], list[Document]]
) -> list[Document]:
    """Return all documents of a cursor; process each part while the server prepares the next."""
    part: list[Document] = await cursor.to_list(PART)
    documents: list[Document] = []
    next_part: asyncio.Future[list[Document]] | None = None
    try:
        while part:
            if len(part) == PART:
                next_part = asyncio.ensure_future(cursor.to_list(PART))
                await asyncio.sleep(0)  # gives the task the time to send its request
            documents += each_part(part)
            if next_part is None:
                break
            part, next_part = await next_part, None
    finally:
        if next_part is not None:
            next_part.cancel()
    return documents


def _unchanged(documents: list[Document]) -> list[Document]:
    return documents


def _session_option(session: Session | None) -> dict[str, Any]:
    return {} if session is None else {"session": session}
