"""The embedded adapter, ``mongomock://``: mongomock-motor, for a first try and for unit tests.

Every document is encoded to BSON and decoded on its way in and out, so it comes back as from a
server: naive datetimes in milliseconds, lists for tuples, UUIDs, and never an object that the store
still holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

import bson
from bson.codec_options import CodecOptions
from pymongo.errors import (
    BulkWriteError,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    WriteError,
)
from pymongo.results import UpdateResult
from typing_extensions import override

from earnorm.backends.array_filters import at_positions
from earnorm.backends.base import (
    BulkCounts,
    BulkDelete,
    BulkInsert,
    BulkRequest,
    Cursor,
    Document,
    Filter,
    IndexSpec,
    SearchIndexSpec,
    ServerSettings,
    Session,
    Sort,
    Statement,
)
from earnorm.backends.broken import OnBroken
from earnorm.backends.bson_form import CODEC
from earnorm.backends.collection import DriverCollection, DriverCursor
from earnorm.backends.driver import DriverBackend
from earnorm.backends.errors import (
    MAX_DOCUMENT_BYTES,
    UNSTORABLE,
    Batch,
    Translating,
    refuse_unstorable_of,
)
from earnorm.backends.viable_paths import changed_paths, dead_end
from earnorm.concerns import Concerns
from earnorm.exceptions import ConfigurationError, EarnORMError, NotSupported

ELSEWHERE: Final = "use a MongoDB server (mongodb://…)"

MOCK_CODEC: Final[CodecOptions[Document]] = CodecOptions(document_class=dict)
"""The default options, with which a UUID is a plain ``Binary``, the only form that mongomock
knows."""

MOCK_TYPES: Final = frozenset(
    {
        *("double", "string", "object", "array", "binData", "objectId", "bool", "date"),
        *("int", "long", "decimal", "number"),
    }
)
"""The types that mongomock's ``$type`` knows; it stores no other type."""

PAUSE_EVERY: Final = 50
"""Documents or requests between two pauses, in which the event loop runs other tasks: 0.2 ms each."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class MemoryBackend(DriverBackend):
    """``AsyncMongoMockClient`` behind the ``Backend`` protocol.

    It has a store of its own, unless the application gives a client.
    """

    kind = "memory"
    publishes_events = False

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self.index_options: dict[str, dict[str, Mapping[str, Any]]] = {}
        """By collection and index, the options that mongomock accepts and forgets."""

    @classmethod
    @override
    def client_class(cls) -> Callable[..., Any]:
        try:
            from mongomock_motor import AsyncMongoMockClient
        except ModuleNotFoundError as missing:
            raise ConfigurationError(
                'mongomock:// needs the package mongomock-motor: pip install "earnorm-core[memory]"'
            ) from missing

        # A store in memory needs neither the URI nor pool options.
        def make(uri: str, **options: Any) -> Any:
            client: AsyncMongoMockClient[Document] = AsyncMongoMockClient()
            return client

        return make

    @override
    def _limit_operations(self) -> None:
        """Keep no limit: there are no connections."""

    @override
    def _get_database(self, name: str) -> Any:
        return self._client.get_database(name)  # mongomock refuses codec options

    @override
    def _with_concerns(self, native: Any, concerns: Concerns) -> Any:
        return native  # each is fulfilled, because every read of the single copy sees every write

    @override
    def _make_collection(self, name: str, concerns: Concerns | None) -> MemoryCollection:
        return MemoryCollection(_BsonCollection(self._database.get_collection(name)), name, self)

    @property
    @override
    def read_preference(self) -> str:
        return "primary"

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return frozenset({"aggregation"})

    @override
    def facts(self) -> Mapping[str, object]:
        return {"hosts": "memory", "selection": "0 s", "queue": "0 s", "pool": 0}

    @override
    async def _ask(self, command: str) -> Mapping[str, Any]:
        # mongomock has no hello and no buildInfo: there is no set and no cluster, and its own
        # version.
        return {"version": (await self._client.server_info())["version"], "hosts": ["memory"]}

    @override
    def lacks(self, capability: str) -> str | None:
        if capability in self.capabilities:
            return None
        return (
            f"the memory backend (mongomock://) has no {capability.replace('_', ' ')}; "
            "use a MongoDB replica set (mongodb://…/?replicaSet=…)"
        )


class MemoryCollection(DriverCollection):
    """A collection of mongomock: it writes bulks and creates indexes singly, and has no plans."""

    def __init__(self, native: Any, name: str, server: MemoryBackend) -> None:
        super().__init__(native, name, server)
        self._index_options = server.index_options.setdefault(name, {})
        """Options that mongomock accepts and forgets; ``list_indexes`` adds them."""

    @override
    async def bulk_write(
        self,
        requests: Sequence[BulkRequest],
        *,
        ordered: bool = False,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> BulkCounts:
        with Translating(self._name, self._server, Batch(len(requests), ordered)):
            try:
                counts = await _one_by_one(self._write_one, requests, ordered)
            except UNSTORABLE:
                refuse_unstorable_of(self._name, requests)
                raise
        inserted, matched, deleted = map(sum, zip((0, 0, 0), *counts, strict=True))
        return BulkCounts(inserted, matched, deleted)

    async def _write_one(self, request: BulkRequest) -> tuple[int, int, int]:
        """Carry out one request; return the numbers of inserted, matched and deleted documents."""
        native = self._native
        if isinstance(request, BulkInsert):
            await native.insert_one(request.document)
            return 1, 0, 0
        if isinstance(request, BulkDelete):
            run = native.delete_many if request.many else native.delete_one
            return 0, 0, (await run(request.filter)).deleted_count
        result: UpdateResult = await native.update_one(
            request.filter,
            request.update,
            upsert=request.upsert,
            array_filters=request.array_filters,
        )
        return 0, result.matched_count + (result.upserted_id is not None), 0

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
        on_broken: OnBroken | None = None,  # a document in memory was encoded, so it decodes
    ) -> DriverCursor:
        return await super().open_cursor(
            filter,
            projection=projection,
            sort=sort,
            skip=skip,
            limit=limit,
            batch_size=batch_size,
            session=session,
            timeout=timeout,
        )

    @override
    async def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> list[Document]:
        try:
            return await super().aggregate(_wrap_set_values(pipeline))
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            # If mongomock's pipelines lack something, any of these errors of Python may come out.
            if isinstance(error, EarnORMError):
                raise
            raise NotSupported(
                f"{self._name}: the memory backend cannot compute this "
                f"({type(error).__name__}: {error}); {ELSEWHERE}"
            ) from error

    @override
    async def open_pipeline(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        batch_size: int = 2000,
        session: Session | None = None,
        timeout: float | None = None,
        on_broken: OnBroken | None = None,  # a document in memory was encoded, so it decodes
    ) -> Cursor:
        # The class's own method, because whoever hears of this call need not hear of another one.
        return _Rows(await MemoryCollection.aggregate(self, pipeline), batch_size)

    async def _create(self, indexes: Sequence[IndexSpec]) -> None:
        # mongomock's own create_indexes forgets partialFilterExpression.
        for index in indexes:
            options = {**index.options}
            if "partialFilterExpression" in options:
                condition = _split_types(options["partialFilterExpression"])
                options["partialFilterExpression"] = condition
            try:
                await self._native.create_index(list(index.keys), **options)
            except OperationFailure as refused:
                if refused.code is not None:
                    raise
                # mongomock refuses only a known name with other options, and gives no code.
                raise OperationFailure(str(refused), 86) from refused
            self._index_options[index.name] = index.options

    @override
    async def list_indexes(self) -> list[Document]:
        listed = await super().list_indexes()
        return [{**index, **self._index_options.get(index["name"], {})} for index in listed]

    @override
    async def modify_index(self, name: str, changes: Mapping[str, Any]) -> None:
        raise NotSupported(
            f"{self._name}: the memory backend changes no index in place; {ELSEWHERE}"
        )

    @override
    async def create_search_indexes(self, indexes: Sequence[SearchIndexSpec]) -> None:
        raise NotSupported(f"{self._name}: the memory backend has no vector search; {ELSEWHERE}")

    @override
    async def list_search_indexes(self) -> list[Document]:
        raise NotSupported(f"{self._name}: the memory backend has no vector search; {ELSEWHERE}")

    @override
    async def create(self, options: Mapping[str, Any]) -> bool:
        if options:
            raise NotSupported(
                f"{self._name}: the memory backend has plain collections only, without "
                f"{', '.join(sorted(options))}; {ELSEWHERE}"
            )
        return True

    @override
    async def describe(self) -> Document | None:
        if self._name not in await self._native.database.list_collection_names():
            return None
        return {"name": self._name, "type": "collection", "options": {}}

    @override
    async def set_validator(
        self, validator: Mapping[str, Any], action: Literal["error", "warn"]
    ) -> bool:
        raise NotSupported(f"{self._name}: the memory backend checks no documents; {ELSEWHERE}")

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
        raise self._no_plans()

    @override
    async def explain_pipeline(
        self, pipeline: Sequence[Mapping[str, Any]], *, verbosity: str = "executionStats"
    ) -> Document:
        raise self._no_plans()

    def _no_plans(self) -> NotSupported:
        return NotSupported(f"{self._name}: the memory backend has no query plans; {ELSEWHERE}")


class _BsonCollection:
    """mongomock's collection; documents are encoded to BSON and decoded on their way in and out."""

    def __init__(self, mock: Any) -> None:
        self._mock = mock
        self.database = mock.database
        self.create_index: Callable[..., Awaitable[str]] = mock.create_index
        self.drop_index: Callable[[str], Awaitable[None]] = mock.drop_index
        self.list_indexes: Callable[[], Any] = mock.list_indexes
        self.drop: Callable[[], Awaitable[None]] = mock.drop

    async def find_one(self, filter: Filter, **options: Any) -> Document | None:
        document = await self._mock.find_one(_stored(_split_types(filter)), **options)
        return None if document is None else _loaded(document)

    def find(self, filter: Filter, **options: Any) -> _ListCursor:
        return _ListCursor(self._mock.find(_stored(_split_types(filter)), **options))

    def aggregate(self, pipeline: list[Mapping[str, Any]], **options: Any) -> _ListCursor:
        try:
            return _ListCursor(self._mock.aggregate(_stored({"pipeline": pipeline})["pipeline"]))
        except OperationFailure as refused:
            if "Unrecognized" in str(
                refused
            ):  # mongomock's text about an unknown stage or operator
                raise NotImplementedError(str(refused)) from refused
            raise

    async def count_documents(self, filter: Filter, **options: Any) -> int:
        count: int = await self._mock.count_documents(_stored(filter), **options)
        return count

    async def insert_one(self, document: Document) -> None:
        stored = _stored(document)
        try:
            await self._mock.insert_one(stored)
        except DuplicateKeyError as error:
            if await self._mock.find_one({"_id": stored["_id"]}):
                raise _duplicate(["_id"]) from error
            raise

    async def insert_many(self, documents: Sequence[Document], ordered: bool) -> None:
        for number, document in enumerate(documents, 1):
            _stored(document)  # a server's driver encodes all before it sends any
            if not number % PAUSE_EVERY:
                await asyncio.sleep(0)
        await _one_by_one(self.insert_one, documents, ordered)

    async def update_one(
        self,
        filter: Filter,
        update: Statement,
        *,
        array_filters: Sequence[Filter] | None = None,
        **options: Any,
    ) -> Any:
        run = self._mock.update_one
        if array_filters is not None:
            filter, update = await self._at_positions(filter, update, array_filters)
        return await self._update(run, filter, update, options)

    async def update_many(
        self,
        filter: Filter,
        update: Statement,
        *,
        array_filters: Sequence[Filter] | None = None,
        **options: Any,
    ) -> Any:
        if array_filters is None:
            return await self._update(self._mock.update_many, filter, update, options)
        matched = 0
        for found in await self._mock.find(_stored(filter), {"_id": 1}).to_list(None):
            one = {"$and": [{"_id": found["_id"]}, filter]}
            result = await self.update_one(one, update, array_filters=array_filters, **options)
            matched += result.matched_count
        return UpdateResult({"n": matched}, acknowledged=True)

    async def find_one_and_update(
        self,
        filter: Filter,
        update: Statement,
        *,
        array_filters: Sequence[Filter] | None = None,
        **options: Any,
    ) -> Document | None:
        if array_filters is not None:
            filter, update = await self._at_positions(filter, update, array_filters)
        document = await self._update(self._mock.find_one_and_update, filter, update, options)
        return None if document is None else _loaded(document)

    async def _at_positions(
        self, filter: Filter, update: Statement, array_filters: Sequence[Filter]
    ) -> tuple[Filter, Statement]:
        """Return the update of the first document that matches, with positions of its list items.

        mongomock knows no array filters. Nothing else runs before the update that comes next.
        """
        assert isinstance(update, Mapping)
        document = await self._mock.find_one(_stored(filter))
        if document is None:
            return filter, update
        changes = at_positions(document, update, list(map(_stored, array_filters)))
        # An update without operators is an error; this one changes no document that exists.
        return {"_id": document["_id"]}, changes or {"$setOnInsert": {"_id": document["_id"]}}

    async def _update(
        self,
        run: Callable[..., Awaitable[Any]],
        filter: Filter,
        update: Statement,
        options: Mapping[str, Any],
    ) -> Any:
        if not isinstance(update, Mapping):
            raise NotImplementedError("mongomock has no updates by pipeline")
        if "$mul" in update:
            raise NotImplementedError("mongomock has no $mul")
        condition, changes = _stored(filter), _stored(update)
        if paths := changed_paths(changes):
            many = run == self._mock.update_many
            found = self._mock.find(condition) if many else self._mock.find(condition).limit(1)
            path = dead_end(await found.to_list(None), paths)
            if path is not None:
                text = f"Cannot create field in {path!r}"
                raise WriteError(text, 28, {"code": 28, "errmsg": text})
        try:
            return await run(condition, changes, **options)
        except DuplicateKeyError as error:
            raise _duplicate(await self._violated(update)) from error
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            # These are mongomock's own: it neither adds nor compares decimals, and takes a key of
            # a list for a number.
            raise NotImplementedError(f"{type(error).__name__} in mongomock: {error}") from error

    async def _violated(self, update: Mapping[str, Any]) -> Sequence[str]:
        """Return the fields of the unique index that the update touches.

        mongomock names its first index instead.
        """
        touched = {path.partition(".")[0] for values in update.values() for path in values}
        candidates = [
            [key for key, _ in index["key"]]
            for index in (await self._mock.index_information()).values()
            if index.get("unique") and touched & {key.partition(".")[0] for key, _ in index["key"]}
        ]
        return candidates[0] if len(candidates) == 1 else ()

    async def delete_one(self, filter: Filter) -> Any:
        return await self._mock.delete_one(_stored(filter))

    async def delete_many(self, filter: Filter) -> Any:
        return await self._mock.delete_many(_stored(filter))


def _split_types(filter: Filter) -> Document:
    """Split each list of types in a filter: mongomock's $type takes only one, and not every one."""
    remaining: Document = {}
    alternatives: list[list[Document]] = []
    for path, value in filter.items():
        if path in ("$and", "$or", "$nor"):
            remaining[path] = [_split_types(part) for part in value]
        elif type(value) is dict and type(value.get("$type")) is list:
            rest = {name: operand for name, operand in value.items() if name != "$type"}
            types = [name for name in value["$type"] if name in MOCK_TYPES]
            alternatives.append([{path: {**rest, "$type": name}} for name in types])
        else:
            remaining[path] = value
    if not alternatives:
        return remaining
    either: list[Document] = [
        {"$or": variants} if variants else {"_id": {"$in": []}} for variants in alternatives
    ]
    return {"$and": [remaining, *either]}


def _wrap_set_values(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Wrap the values of $addToSet in a pipeline: mongomock's takes 0, False and "" for null."""
    stages: list[Mapping[str, Any]] = []
    for stage in pipeline:
        group: Any = stage.get("$group")
        if not isinstance(group, Mapping):
            stages.append(stage)
            continue
        wrapped: dict[str, Any] = {}
        unwrap: dict[str, Any] = {}
        for name, accumulator in cast("Mapping[str, Any]", group).items():
            wrapped[name] = accumulator
            if isinstance(accumulator, Mapping) and "$addToSet" in accumulator:
                wrapped[name] = {"$addToSet": {"value": accumulator["$addToSet"]}}
                unwrap[name] = {"$map": {"input": f"${name}", "as": "each", "in": "$$each.value"}}
        stages.append({"$group": wrapped})
        if unwrap:
            stages.append({"$addFields": unwrap})
    return stages


class _Rows(Cursor):
    """A cursor over rows in memory, in batches."""

    def __init__(self, rows: list[Document], batch_size: int) -> None:
        self._rows = rows
        self._batch_size = batch_size

    @override
    async def next_batch(self) -> list[Document]:
        batch, self._rows = self._rows[: self._batch_size], self._rows[self._batch_size :]
        return batch

    @override
    async def close(self) -> None:
        self._rows = []


class _ListCursor:
    """A cursor that gives mongomock's result, which comes as a whole, in batches."""

    def __init__(self, mock: Any) -> None:
        self._mock = mock
        self._rest: list[Document] | None = None

    @property
    def alive(self) -> bool:
        return self._rest != []

    async def to_list(self, length: int | None) -> list[Document]:
        if self._rest is None:
            self._rest = [_loaded(document) for document in await self._mock.to_list(None)]
        batch = self._rest[:length]
        self._rest = self._rest[len(batch) :]
        return batch

    async def close(self) -> None:
        self._rest = []


def _stored(document: Mapping[str, Any]) -> Document:
    """Convert a document to the form that mongomock stores."""
    data = bson.encode(document, codec_options=CODEC)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLarge(f"BSON document too large ({len(data)} bytes)")
    return _decode(data, MOCK_CODEC)


def _loaded(document: Mapping[str, Any]) -> Document:
    """Convert a document from mongomock to the form that a server's driver gives."""
    return _decode(bson.encode(document, codec_options=MOCK_CODEC), CODEC)


# The annotation of bson.decode has an mmap and an array of unknown items.
_decode: Final[Callable[[bytes, CodecOptions[Document]], Document]] = cast("Any", bson).decode


async def _one_by_one(
    write: Callable[[Item], Awaitable[Result]], items: Iterable[Item], ordered: bool
) -> list[Result]:
    """Write the items singly, and report failures as a server reports those of a bulk."""
    results: list[Result] = []
    failures: list[Mapping[str, Any]] = []
    for position, item in enumerate(items):
        if not (position + 1) % PAUSE_EVERY:
            await asyncio.sleep(0)  # mongomock itself waits for nothing
        try:
            results.append(await write(item))
        except WriteError as error:
            failures.append({"index": position, "code": error.code, **(error.details or {})})
            if ordered:
                break
    if failures:
        raise BulkWriteError({"writeErrors": failures, "nInserted": len(results)})
    return results


def _duplicate(fields: Iterable[str]) -> DuplicateKeyError:
    details = {"keyPattern": dict.fromkeys(fields, 1)}
    return DuplicateKeyError("E11000 duplicate key error", 11000, details)
