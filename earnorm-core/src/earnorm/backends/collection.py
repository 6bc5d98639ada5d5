"""The Collection and the Cursor over a driver's own objects, for every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal

from bson.errors import InvalidBSON
from pymongo import DeleteMany, DeleteOne, IndexModel, InsertOne, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
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
    DocumentKeys,
    Filter,
    IndexSpec,
    SearchIndexSpec,
    Session,
    Sort,
    Statement,
)
from earnorm.backends.broken import RAW, OnBroken, decoded, find_broken
from earnorm.backends.bson_form import CODEC, from_bson, to_bson
from earnorm.backends.changes import DriverChangeCursor, open_changes
from earnorm.backends.conversions import milliseconds, settled
from earnorm.backends.errors import (
    DUPLICATE_CODE,
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
from earnorm.backends.in_sessions import DriverSession
from earnorm.backends.left_reads import LeftReads
from earnorm.backends.shielding import outlasting, ring
from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    NotSupported,
    UnreadableDocument,
    cut,
)

_SHARING: Final = 3  # documents that an error about a unique index names
DEFAULT_FIRST_BATCH: Final = 101
"""Documents in a server's first batch by default; the rest costs a second round trip."""

PART: Final = 5001
"""Documents of one part of a large result, which the driver decodes without a pause. Of 10,000 documents in two parts, the server prepares
the second while the first is processed (0.93 of the time of one reply, measured), and the event
loop stalls half as long. It is one more than a round number, so that a result of exactly 5,000 or
10,000 documents needs no further round trip to find its end."""


WRITTEN_PART: Final = 2_000
"""Documents or requests of one command of a large write. The driver encodes a command without a
pause, at 4 µs for a document of common size; each further command costs 0.3 ms."""


RemoveKeys = Callable[[list[Document]], list[Document]]


class DriverCursor(Cursor):
    """A driver's cursor that gives batches.

    Args:
        native: The driver's cursor.
        batch_size: The number of documents of a batch.
        translating: Translates the driver's exceptions.
        timeout: The time limit of a batch in seconds.
        open_raw: Opens the same search again, to find documents that cannot be decoded.
        left: Takes the reads that are cancelled, and the close; None if a session waits for them.
        only: Removes the keys that were not asked for from the documents.
    """

    def __init__(
        self,
        native: Any,
        batch_size: int,
        translating: Translating,
        timeout: float | None,
        open_raw: Callable[[], Awaitable[Any]] | None = None,
        left: LeftReads | None = None,
        only: RemoveKeys | None = None,
    ) -> None:
        self._native = native
        self._batch_size = batch_size
        self._translating = translating
        self._timeout = timeout
        self._open_raw = open_raw
        self._left = left
        self._only = only
        self._is_left = False
        """A read that was cancelled closes the cursor when it comes back."""

    @override
    async def next_batch(self) -> list[Document]:
        batch = await self._batch()
        return batch if self._only is None else self._only(batch)

    async def _batch(self) -> list[Document]:
        work = self._translating
        with work.within(self._timeout) or await work.in_turn(self._timeout):
            try:
                batch: list[Document] = await self._read()
            except InvalidBSON:
                if self._open_raw is not None:
                    await _refuse_broken(self._translating.subject, await self._open_raw())
                raise
        return batch

    @override
    async def close(self) -> None:
        if self._is_left:
            return
        with self._translating:
            if self._left is None:
                await self._native.close()
            elif self._native.alive:  # else it has come to its end, and the server has closed it
                await self._left.close(self._close_native())

    async def _read(self) -> list[Document]:
        reading: Awaitable[list[Document]] = self._native.to_list(self._batch_size)
        if self._left is None:
            return await reading
        try:
            return await self._left.read(reading, self._close_native)
        except asyncio.CancelledError:
            self._is_left = True
            raise

    async def _close_native(self, _: object = None) -> None:
        await settled(self._native.close())


class RawCursor(DriverCursor):
    """A cursor that decodes each document on its own, and reads on after a broken one."""

    def __init__(
        self,
        native: Any,
        batch_size: int,
        translating: Translating,
        timeout: float | None,
        on_broken: OnBroken,
        left: LeftReads | None = None,
        only: RemoveKeys | None = None,
    ) -> None:
        super().__init__(native, batch_size, translating, timeout, None, left, only)
        self._on_broken = on_broken

    @override
    async def _batch(self) -> list[Document]:
        documents: list[Document] = []
        while not documents and (raws := await super()._batch()):
            for raw in raws:
                try:
                    documents.append(decoded(self._translating.subject, raw))
                except UnreadableDocument as error:
                    await self._on_broken(error)
        return documents


async def _closed(cursor: Any) -> None:
    """Close a cursor, if there is one."""
    if cursor is not None:
        await settled(cursor.close())


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
        self._plain = Translating(name, server, None, server.operations)
        self._pipeline = Translating(name, server, None, server.operations, is_pipeline=True)
        self._pipeline_inside = Translating(name, server, is_pipeline=True)
        self._decoding: dict[DocumentKeys, Any] = {}
        """The driver's collection for each model's reads, with the compiled decoder if it is on."""

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
        keys: DocumentKeys | None = None,
    ) -> list[Document]:
        options: dict[str, Any] = {}
        if projection is not None:
            options["projection"] = projection
        if sort:
            options["sort"] = sort
        if skip:
            options["skip"] = skip
        if limit and limit != 1:
            options["limit"] = limit
        native, work = self._native, self._plain
        only: RemoveKeys | None = None
        if keys is not None:
            native = self._decoding.get(keys)  # without a call for each search
            if native is None:
                native = self._reading(keys)
            if projection is None and native is self._native:
                only = keys.only
        if session is not None:
            native, work = self._inside(session, timeout, native)
        with work.within(timeout) or await work.in_turn(timeout):
            try:
                if limit == 1:
                    one: Document | None = await native.find_one(filter, **options)
                    documents: list[Document] = [] if one is None else [one]
                elif limit and limit <= DEFAULT_FIRST_BATCH:
                    documents = await native.find(filter, **options).to_list(None)
                else:
                    cursor = native.find(filter, batch_size=PART, **options)
                    # A session waits for its reads, and closes its cursors.
                    left = self._server.left_reads if session is None else None
                    return await _read_in_parts(cursor, only, each_part, left)
            except InvalidBSON:
                raw = native.with_options(codec_options=RAW)
                await _refuse_broken(self._name, raw.find(filter, **{**options, "limit": limit}))
                raise
        if only is not None:
            documents = only(documents)
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
        keys: DocumentKeys | None = None,
    ) -> DriverCursor:
        options: dict[str, Any] = {
            "projection": projection,
            "sort": sort,
            "skip": skip,
            "limit": limit,
            "batch_size": batch_size,
        }
        source, work = self._native, self._plain
        only: RemoveKeys | None = None
        if keys is not None:
            source = self._reading(keys)
            if projection is None and (source is self._native or on_broken is not None):
                only = keys.only
        if session is not None:
            source, work = self._inside(session, timeout, source)
        with self._translating:
            native = source.find(filter, **options) if on_broken is None else None

        async def open_raw() -> Any:
            return source.with_options(codec_options=RAW).find(filter, **options)

        left = self._server.left_reads if session is None else None
        if on_broken is not None:
            raw = await open_raw()
            return RawCursor(raw, batch_size, work, timeout, on_broken, left, only)
        return DriverCursor(native, batch_size, work, timeout, open_raw, left, only)

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
        options: dict[str, Any] = {}
        if skip:
            options["skip"] = skip
        if limit:
            options["limit"] = limit
        native, work = self._native, self._plain
        if session is not None:
            native, work = self._inside(session, timeout)
        with work.within(timeout) or await work.in_turn(timeout):
            count: int = await native.count_documents(filter, **options)
        return count

    @override
    async def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: Session | None = None,
        timeout: float | None = None,
        keys: DocumentKeys | None = None,
    ) -> list[Document]:
        native, work = self._native if keys is None else self._reading(keys), self._pipeline
        if session is not None:
            native, work = self._inside(session, timeout, native, pipeline=True)
        with work.within(timeout) or await work.in_turn(timeout):
            try:
                opening = settled(native.aggregate(list(pipeline), batchSize=PART))
                documents = await self._all_of(opening, session)
            except InvalidBSON:
                raw = native.with_options(codec_options=RAW)
                cursor = await settled(raw.aggregate(list(pipeline)))
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
        keys: DocumentKeys | None = None,
    ) -> Cursor:
        source, work = self._native if keys is None else self._reading(keys), self._pipeline
        if session is not None:
            source, work = self._inside(session, timeout, source, pipeline=True)

        async def open_raw() -> Any:
            raw = source.with_options(codec_options=RAW)
            opening = settled(raw.aggregate(list(pipeline), batchSize=batch_size))
            return await self._opened(opening, session)

        # Motor asks the server only with the first read.
        left = self._server.left_reads if session is None else None
        with work.within(timeout) or await work.in_turn(timeout):
            if on_broken is not None:
                raw = await open_raw()
                return RawCursor(raw, batch_size, work, timeout, on_broken, left)
            try:
                opening = settled(source.aggregate(list(pipeline), batchSize=batch_size))
                native = await self._opened(opening, session)
            except InvalidBSON:  # the first batch comes with the answer
                await _refuse_broken(self._name, await open_raw())
                raise
        return DriverCursor(native, batch_size, work, timeout, open_raw, left)

    def _reading(self, keys: DocumentKeys) -> Any:
        """Return the driver's collection for reads of documents with these keys."""
        reading = self._decoding.get(keys)
        if reading is None:
            options = self._server.decoding(keys)
            reading = self._native
            # Options that are not ours say that documents are to be decoded in another way.
            if options is not None and reading.codec_options == CODEC:
                reading = reading.with_options(codec_options=options)
            self._decoding[keys] = reading
        return reading

    def _inside(
        self,
        session: Session,
        timeout: float | None,
        native: Any = None,
        *,
        pipeline: bool = False,
    ) -> tuple[Any, Translating]:
        """Return the driver's collection, and the context, for an operation in a session."""
        assert isinstance(session, DriverSession)  # of this folder
        if pipeline:
            work = self._pipeline if session.is_plain else self._pipeline_inside
        else:
            work = self._plain if session.is_plain else self._translating
        return session.on(self._native if native is None else native, timeout), work

    async def _opened(self, opening: Awaitable[Any], session: Session | None) -> Any:
        """Return the driver's cursor over a pipeline, which comes with the first batch."""
        if session is not None:  # it waits for its reads, and closes its cursors
            return await opening
        return await self._server.left_reads.read(opening, _closed)

    async def _all_of(self, opening: Awaitable[Any], session: Session | None) -> list[Document]:
        """Return all documents of the driver's cursor over a pipeline."""
        cursor: Any = None

        async def documents() -> list[Document]:
            nonlocal cursor
            cursor = await opening
            result: list[Document] = await cursor.to_list(None)
            return result

        if session is not None:
            return await documents()
        return await self._server.left_reads.read(documents(), lambda _: _closed(cursor))

    @override
    async def insert(
        self,
        documents: Sequence[Document],
        *,
        ordered: bool = True,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> None:
        native, work = self._native, self._plain
        if session is not None:
            native, work = self._inside(session, timeout)
        size = len(documents)
        batch = Batch(size, ordered, documents)
        work = Translating(self._name, self._server, batch, work.operations)
        with work.within(timeout) or await work.in_turn(timeout):
            if size == 1:
                await native.insert_one(documents[0])
            elif size:
                await _write_in_parts(
                    documents,
                    lambda part: native.insert_many(part, ordered=ordered),
                    stops=ordered or session is not None,
                )

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
        options: dict[str, Any] = {}
        if upsert:
            options["upsert"] = True
        if array_filters is not None:
            options["array_filters"] = array_filters
        native, work = self._native, self._plain
        if session is not None:
            native, work = self._inside(session, timeout)
        run = native.update_many if many else native.update_one
        with work.within(timeout) or await work.in_turn(timeout):
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
        options: dict[str, Any] = {}
        if projection is not None:
            options["projection"] = projection
        if array_filters is not None:
            options["array_filters"] = array_filters
        native, work = self._native, self._plain
        if session is not None:
            native, work = self._inside(session, timeout)
        with work.within(timeout) or await work.in_turn(timeout):
            try:
                document: Document | None = await native.find_one_and_update(
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
        native, work = self._native, self._plain
        if session is not None:
            native, work = self._inside(session, timeout)
        work = Translating(self._name, self._server, batch, work.operations)
        with work.within(timeout) or await work.in_turn(timeout):
            try:
                results: list[BulkWriteResult] = await _write_in_parts(
                    requests,
                    lambda part: native.bulk_write(list(map(_native, part)), ordered=ordered),
                    stops=ordered or session is not None,
                )
            except UNSTORABLE:
                refuse_unstorable_of(self._name, requests)
                raise
            return BulkCounts(
                sum(result.inserted_count for result in results),
                sum(result.matched_count + result.upserted_count for result in results),
                sum(result.deleted_count for result in results),
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
        native, work = self._native, self._plain
        if session is not None:
            native, work = self._inside(session, timeout)
        run = native.delete_many if many else native.delete_one
        with work.within(timeout) or await work.in_turn(timeout):
            result: DeleteResult = await run(filter)
            return result.deleted_count

    @override
    async def create_indexes(self, indexes: Sequence[IndexSpec]) -> None:
        if not indexes:
            return
        with self._plain.within() or await self._plain.in_turn():
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
                is_duplicate = refused.code == DUPLICATE_CODE
                which = await self._sharing(index, refused) if is_duplicate else ""
                message = (
                    f"{self._name}: index {index.name!r} on {', '.join(k for k, _ in index.keys)} "
                    f"cannot be created: {INDEX_CODES[refused.code]}{which} (code {refused.code})"
                )
                # The server's text about a duplicate quotes the value.
                raise ConfigurationError(message) from None if is_duplicate else refused

    async def _sharing(self, index: IndexSpec, refused: OperationFailure) -> str:
        """Return the part of a message that says which documents share a value, by their ids."""
        values = (refused.details or {}).get("keyValue")
        ids: list[str] = []
        if isinstance(values, Mapping):
            found = self._native.find(
                {"$and": [index.options.get("partialFilterExpression", {}), dict(values)]},
                {"_id": 1},
                limit=_SHARING,
                collation=index.options.get("collation"),
            )
            with suppress(PyMongoError):  # the ids are a help beside an error that there is anyhow
                ids = [cut(repr(document["_id"])) for document in await found.to_list(None)]
        named = f", for example {' and '.join(ids)}" if len(ids) > 1 else ""
        return (
            f"{named}; until then an App with create_indexes=False does without the index, and "
            f"'earnorm indexes sync' creates it"
        )

    @override
    async def list_indexes(self) -> list[Document]:
        with self._plain.within() or await self._plain.in_turn():
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
        left = self._server.left_reads
        return await open_changes(self._native, self._translating, left, pipeline, options)

    @override
    async def drop_index(self, name: str) -> None:
        with self._plain.within() or await self._plain.in_turn():
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
        with self._plain.within() or await self._plain.in_turn():
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
        as_kept: Document = from_bson(to_bson(wanted))
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
        with self._plain.within() or await self._plain.in_turn():
            reply: Document = await self._native.database.command(command, codec_options=CODEC)
        return reply

    @override
    async def drop(self) -> None:
        with self._plain.within() or await self._plain.in_turn():
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
        with self._plain.within() or await self._plain.in_turn():
            plan: Document = await self._native.database.command(
                {"explain": command, "verbosity": verbosity}, codec_options=CODEC
            )
        return plan


async def _write_in_parts(
    items: Sequence[Any], write: Callable[[Sequence[Any]], Awaitable[Any]], *, stops: bool
) -> list[Any]:
    """Send documents or requests in several commands if there are many; return the results.

    Args:
        items: The documents or requests.
        write: Sends a part of them.
        stops: The first failure ends it: the write is ordered, or in a transaction, which is over.

    Raises:
        BulkWriteError: As if all had been sent with one command.
    """
    results: list[Any] = []
    failure: dict[str, Any] = {}
    for start in range(0, len(items), WRITTEN_PART):
        part = items if len(items) <= WRITTEN_PART else items[start : start + WRITTEN_PART]
        try:
            result = await write(part)
        except BulkWriteError as refused:
            if part is items:
                raise
            _join(failure, refused.details, start)
            if stops and failure["writeErrors"]:
                break
        else:
            results.append(result)
    if failure:
        for result in results:
            _join(failure, getattr(result, "bulk_api_result", {}), 0)
        raise BulkWriteError(failure)
    return results


def _join(whole: dict[str, Any], reply: Mapping[str, Any], start: int) -> None:
    """Add the server's reply about a part of a write to that about the whole.

    Args:
        whole: The reply about the whole so far; empty at first.
        reply: The reply about the part.
        start: The position of the part.
    """
    for key, value in reply.items():
        if isinstance(value, list):
            moved = [
                {**each, "index": each["index"] + start} if "index" in each else each
                for each in value
            ]
            whole[key] = [*whole.get(key, ()), *moved]
        elif key in whole and isinstance(value, int):
            whole[key] += value
        else:
            whole[key] = value


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
    cursor: Any,
    only: RemoveKeys | None,
    each_part: Callable[[list[Document]], list[Document]] | None,
    left: LeftReads | None,
) -> list[Document]:
    """Return all documents of a cursor; process each part while the server prepares the next.

    Args:
        cursor: The driver's cursor.
        only: Removes undeclared keys from the documents of a part.
        each_part: Processes a part.
        left: Takes the read if this task is cancelled; None for a cursor that is closed with its
            session.
    """
    documents: list[Document] = []
    next_part: asyncio.Future[list[Document]] | None = None
    try:
        if left is None:
            part: list[Document] = await cursor.to_list(PART)
        else:
            # As outlasting(), whose frame would be one more call of each search.
            first = next_part = asyncio.ensure_future(cursor.to_list(PART))
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            first.add_done_callback(partial(ring, waiting))
            await waiting
            part, next_part = first.result(), None
        while part:
            if len(part) == PART:
                next_part = asyncio.ensure_future(cursor.to_list(PART))
                await asyncio.sleep(0)  # gives the task the time to send its request
            if only is not None:
                part = only(part)
            documents += part if each_part is None else each_part(part)
            if next_part is None:
                break
            wait = next_part if left is None else outlasting(next_part)
            part, next_part = await wait, None
    except asyncio.CancelledError:
        if next_part is not None and left is not None:
            left.leave(next_part, lambda _: cursor.close())
            next_part = None
        raise
    finally:
        if next_part is not None:
            next_part.cancel()
    return documents
