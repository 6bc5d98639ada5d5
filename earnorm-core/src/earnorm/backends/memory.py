"""The embedded adapter, ``mongomock://``, for a first try and for unit tests.

mongomock-motor has the documents; filters, updates, pipelines and unique indexes are those of
``in_memory``, which answers as a server does or says that it cannot. Every document is encoded to
BSON and decoded on its way in and out, so it comes back as from a server: naive datetimes in
milliseconds, lists for tuples, UUIDs, and never an object that the store still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from pymongo.results import UpdateResult
from typing_extensions import override

from earnorm.backends.base import (
    BulkCounts,
    BulkDelete,
    BulkInsert,
    BulkRequest,
    Cursor,
    Document,
    DocumentKeys,
    Filter,
    IndexSpec,
    SearchIndexSpec,
    ServerSettings,
    Session,
    Sort,
)
from earnorm.backends.broken import OnBroken
from earnorm.backends.collection import DriverCollection, DriverCursor
from earnorm.backends.driver import DriverBackend
from earnorm.backends.errors import (
    UNSTORABLE,
    Batch,
    Translating,
    refuse_unstorable_of,
)
from earnorm.backends.in_memory.store import CollectionStore, server_store
from earnorm.backends.memory_native import MemoryNative, one_by_one
from earnorm.concerns import Concerns
from earnorm.exceptions import ConfigurationError, EarnORMError, NotSupported

ELSEWHERE: Final = "use a MongoDB server (mongodb://…)"


class MemoryBackend(DriverBackend):
    """``AsyncMongoMockClient`` behind the ``Backend`` protocol.

    It has a store of its own, unless the application gives a client.
    """

    kind = "memory"
    reads_replies = False
    publishes_events = False

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._stored = server_store(self._client)[settings.database]
        self._stores: dict[str, CollectionStore] = {}
        self._is_shared = not self._owned
        """True if others may write into the documents."""

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
        mock = self._database.get_collection(name)
        return MemoryCollection(MemoryNative(mock, self.store(name), self._documents), name, self)

    def store(self, name: str) -> CollectionStore:
        """Return the documents of a collection."""
        if (store := self._stores.get(name)) is None:
            store = self._stores[name] = CollectionStore(self._stored[name])
            store.is_shared = self._is_shared
        return store

    def _documents(self, name: str) -> list[Document]:
        return self.store(name).all()

    @override
    def raw_database(self) -> Any:
        self._is_shared = True
        for store in self._stores.values():
            store.is_shared = True
        return super().raw_database()

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

    def __init__(self, native: MemoryNative, name: str, server: MemoryBackend) -> None:
        super().__init__(native, name, server)
        self._store = server.store(name)

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
                counts = await one_by_one(self._write_one, requests, ordered)
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
        keys: DocumentKeys | None = None,
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
            keys=keys,
        )

    @override
    async def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: Session | None = None,
        timeout: float | None = None,
        keys: DocumentKeys | None = None,
    ) -> list[Document]:
        try:
            return await super().aggregate(pipeline)
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            # A pipeline of the program's own may have any form, which a server refuses with words.
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
        keys: DocumentKeys | None = None,
    ) -> Cursor:
        # The class's own method, because whoever hears of this call need not hear of another one.
        return _Rows(await MemoryCollection.aggregate(self, pipeline), batch_size)

    async def _create(self, indexes: Sequence[IndexSpec]) -> None:
        for index in indexes:
            await self._native.create_index(index.name, index.keys, index.options)

    @override
    async def list_indexes(self) -> list[Document]:
        listed = await super().list_indexes()
        return [{**index, **self._store.options.get(index["name"], {})} for index in listed]

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
