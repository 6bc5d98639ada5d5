"""What the adapters share: one Collection, one Cursor and one Backend over a driver's own objects.

The drivers differ only in which calls must be awaited; ``settled`` evens that out everywhere but on the hot path,
where they agree. An adapter adds its client class and its name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import isawaitable
from typing import Any, ClassVar, Final, cast

from pymongo import IndexModel, ReadPreference, UpdateOne
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.results import BulkWriteResult, DeleteResult, UpdateResult
from pymongo.write_concern import WriteConcern
from typing_extensions import override

from earnorm.backends.base import (
    CAPABILITIES,
    Backend,
    BulkUpdate,
    Collection,
    Cursor,
    Document,
    Filter,
    IndexSpec,
    ServerSettings,
    Session,
    Sort,
)
from earnorm.backends.errors import (
    CODEC,
    INDEX_CODES,
    MAX_TIME_EXPIRED,
    TRANSIENT,
    UNKNOWN_COMMIT,
    Batch,
    Server,
    Translating,
    said,
)
from earnorm.exceptions import (
    ConfigurationError,
    NotSupported,
    TransactionError,
    nearest,
)

logger: Final = logging.getLogger("earnorm.backends")

DEFAULT_FIRST_BATCH: Final = 101
"""What a server sends first when no batch size is asked for; the rest costs a second round trip."""

WHOLE_RESULT: Final = 1_000_000
"""A batch size that only the server's limit of 16 MiB for one reply cuts."""

COMMIT_SECONDS: Final = 120.0
"""How long a commit of unknown outcome is tried again; the figure of MongoDB's convenient transactions API:
https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md"""

ON_REPLICA_SETS: Final = frozenset({"transactions", "change_streams"})


async def settled(value: Any) -> Any:
    """Await what one driver returns as an awaitable and another returns at once."""
    return await value if isawaitable(value) else value


def milliseconds(seconds: float) -> int:
    """A time limit as the drivers take it; never 0, which would mean none."""
    return max(1, round(seconds * 1000))


class DriverCursor(Cursor):
    """A driver's cursor that hands out batches."""

    def __init__(self, native: Any, batch_size: int, translating: Translating) -> None:
        self._native = native
        self._batch_size = batch_size
        self._translating = translating

    @override
    async def next_batch(self) -> list[Document]:
        with self._translating:
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
        if timeout is not None:
            options["max_time_ms"] = milliseconds(timeout)
        with self._translating:
            if limit == 1:
                one: Document | None = await self._native.find_one(filter, **options)
                return [] if one is None else [one]
            if limit:
                options["limit"] = limit
            if not limit or limit > DEFAULT_FIRST_BATCH:
                # One round trip instead of two: 500 documents take 0.7 of the time.
                options["batch_size"] = limit or WHOLE_RESULT
            all_: list[Document] = await self._native.find(filter, **options).to_list(None)
        return all_

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
            "max_time_ms": None if timeout is None else milliseconds(timeout),
        }
        with self._translating:
            native = self._native.find(filter, **options)
        return DriverCursor(native, batch_size, self._translating)

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
        options = _common(session, timeout, "maxTimeMS")
        if skip:
            options["skip"] = skip
        if limit:
            options["limit"] = limit
        with self._translating:
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
        options = _common(session, timeout, "maxTimeMS")
        with self._translating:
            cursor = await settled(
                self._native.aggregate(list(pipeline), batchSize=WHOLE_RESULT, **options)
            )
            documents: list[Document] = await cursor.to_list(None)
        return documents

    @override
    async def insert(
        self, documents: Sequence[Document], *, ordered: bool = True, session: Session | None = None
    ) -> None:
        options = _common(session)
        size = len(documents)
        with Translating(self._name, self._server, Batch(size, ordered, documents)):
            if size == 1:
                await self._native.insert_one(documents[0], **options)
            elif size:
                await self._native.insert_many(documents, ordered=ordered, **options)

    @override
    async def update(
        self,
        filter: Filter,
        update: Mapping[str, Any],
        *,
        many: bool = True,
        upsert: bool = False,
        session: Session | None = None,
    ) -> int:
        options = _common(session)
        if upsert:
            options["upsert"] = True
        run = self._native.update_many if many else self._native.update_one
        with self._translating:
            result: UpdateResult = await run(filter, update, **options)
            return result.matched_count + (result.upserted_id is not None)

    @override
    async def bulk_update(
        self,
        updates: Sequence[BulkUpdate],
        *,
        ordered: bool = False,
        session: Session | None = None,
    ) -> int:
        if not updates:
            return 0
        requests = [UpdateOne(u.filter, u.update, upsert=u.upsert) for u in updates]
        with Translating(self._name, self._server, Batch(len(updates), ordered)):
            result: BulkWriteResult = await self._native.bulk_write(
                requests, ordered=ordered, **_common(session)
            )
            return result.matched_count + result.upserted_count

    @override
    async def delete(
        self, filter: Filter, *, many: bool = True, session: Session | None = None
    ) -> int:
        run = self._native.delete_many if many else self._native.delete_one
        with self._translating:
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
        with self._translating:
            plan: Document = await self._native.database.command(
                {"explain": find, "verbosity": verbosity}, codec_options=CODEC
            )
        return plan


def _common(
    session: Session | None, timeout: float | None = None, time_option: str = "max_time_ms"
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if session is not None:
        options["session"] = session
    if timeout is not None:
        options[time_option] = milliseconds(timeout)
    return options


class DriverBackend(Backend):
    """A driver's client and one database behind the ``Backend`` protocol.

    Args:
        settings: The server, the database, and perhaps the application's own client.

    Raises:
        ConfigurationError: The driver refuses the URI or an option; credentials are never quoted.
    """

    kind: ClassVar[str]
    publishes_events: ClassVar[bool] = True

    def __init__(self, settings: ServerSettings) -> None:
        self._owned = settings.client is None
        heard = self._owned and self.publishes_events
        self._unheard = () if heard else tuple(settings.event_listeners)
        self._client: Any = settings.client
        if self._owned:
            self._client = new_client(self.client_class(), settings)
        elif self._unheard:
            logger.warning(
                "%d event listeners are not attached: a client that the application made takes "
                "listeners only when it is made (event_listeners=…)",
                len(self._unheard),
            )
        self._translating = Translating(settings.database, self)
        with self._translating:
            self._database = self._get_database(settings.database)
        self._collections: dict[str, DriverCollection] = {}
        self._capabilities: frozenset[str] = CAPABILITIES - ON_REPLICA_SETS

    @property
    @override
    def name(self) -> str:
        return self.kind

    @classmethod
    def client_class(cls) -> Callable[..., Any]:
        """The driver's client, made with a URI and camelCase options."""
        raise NotImplementedError

    def _get_database(self, name: str) -> Any:
        return self._client.get_database(name, codec_options=CODEC)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._database.name!r} at {self.facts()['hosts']}>"

    @property
    @override
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    @property
    @override
    def unheard_listeners(self) -> tuple[object, ...]:
        return self._unheard

    def facts(self) -> Mapping[str, object]:
        """What an error message may say: hosts without credentials, time limits, the size of the pool."""
        options = self._client.options
        servers = self._client.topology_description.server_descriptions()
        hosts = (host if port is None else f"{host}:{port}" for host, port in servers)
        queue = options.pool_options.wait_queue_timeout
        limits = (options.server_selection_timeout, options.timeout)
        return {
            "hosts": ", ".join(sorted(hosts)),
            "selection": f"{min(limit for limit in limits if limit is not None):g} s",
            "queue": "no limit" if queue is None else f"{queue:g} s",
            "pool": options.pool_options.max_pool_size,
        }

    @override
    async def connect(self) -> None:
        hello = await self._ask("hello")
        if hello.get("setName") or hello.get("msg") == "isdbgrid":
            self._capabilities = CAPABILITIES

    @override
    async def close(self) -> None:
        if self._owned:
            await settled(self._client.close())

    @override
    def collection(self, name: str) -> DriverCollection:
        if (known := self._collections.get(name)) is not None:
            return known
        with Translating(name, self):
            made = self._make_collection(name)
        self._collections[name] = made
        return made

    def _make_collection(self, name: str) -> DriverCollection:
        return DriverCollection(self._database.get_collection(name), name, self)

    @override
    def raw_database(self) -> Any:
        return self._database

    @override
    async def ping(self) -> Mapping[str, Any]:
        hello = await self._ask("hello")
        return {
            "backend": self.name,
            "version": (await self._ask("buildInfo"))["version"],
            "replica_set": hello.get("setName"),
            "sharded": hello.get("msg") == "isdbgrid",
            "hosts": list(hello.get("hosts") or str(self.facts()["hosts"]).split(", ")),
        }

    async def _ask(self, command: str) -> Mapping[str, Any]:
        with self._translating:
            # By default a command needs a primary; an App that only reads secondaries must not.
            answer: Mapping[str, Any] = await self._client.admin.command(
                command, read_preference=self._client.read_preference
            )
        return answer

    @override
    async def list_collections(self) -> Sequence[str]:
        with self._translating:
            names: Sequence[str] = await self._database.list_collection_names()
        return names

    @override
    def transaction(self, options: Mapping[str, Any]) -> AbstractAsyncContextManager[Session]:
        if "transactions" not in self._capabilities:
            raise NotSupported(self._no_transactions())
        return self._transaction(transaction_options(options))

    def _no_transactions(self) -> str:
        return (
            f"the MongoDB server at {self.facts()['hosts']} (backend {self.name}) has no transactions: it is "
            "no replica set and no sharded cluster. Start it with --replSet and run rs.initiate() "
            "once; if it is one already, connect first"
        )

    @asynccontextmanager
    async def _transaction(self, options: Mapping[str, Any]) -> AsyncGenerator[Session]:
        with self._translating:
            session = await settled(self._client.start_session())
            try:
                await settled(session.start_transaction(**options))
                try:
                    yield session
                except BaseException:
                    if session.in_transaction:
                        await session.abort_transaction()
                    raise
                if session.in_transaction:
                    await commit(session)
            finally:
                await session.end_session()


async def commit(session: Any) -> None:
    """Commit, and try again while the outcome is unknown; the driver asks for a majority from the second time on.

    Raises:
        TransactionError: It was not committed, or after ``COMMIT_SECONDS`` nobody can tell.
    """
    deadline = time.monotonic() + COMMIT_SECONDS
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            unknown = error.has_error_label(UNKNOWN_COMMIT)
            expired = getattr(error, "code", None) == MAX_TIME_EXPIRED
            if unknown and not expired and time.monotonic() < deadline:
                continue
            outcome = "its outcome is unknown" if unknown else "nothing was written"
            raise TransactionError(
                f"the transaction could not be committed, {outcome}: {said(error)}",
                transient=error.has_error_label(TRANSIENT),
            ) from error
        return


def _write_concern(value: Any) -> WriteConcern:
    if isinstance(value, WriteConcern):
        return value
    if isinstance(value, Mapping):
        return WriteConcern(**cast("Mapping[str, Any]", value))
    return WriteConcern(value)


_READ_PREFERENCES: Final = {
    "primary": ReadPreference.PRIMARY,
    "primaryPreferred": ReadPreference.PRIMARY_PREFERRED,
    "secondary": ReadPreference.SECONDARY,
    "secondaryPreferred": ReadPreference.SECONDARY_PREFERRED,
    "nearest": ReadPreference.NEAREST,
}

_TRANSACTION_OPTIONS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "read_concern": (
        "read_concern",
        lambda value: value if isinstance(value, ReadConcern) else ReadConcern(value),
    ),
    "write_concern": ("write_concern", _write_concern),
    "read_preference": (
        "read_preference",
        lambda value: _READ_PREFERENCES[value] if isinstance(value, str) else value,
    ),
    "max_commit_time": ("max_commit_time_ms", milliseconds),
}


def transaction_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as a driver wants them.

    Args:
        options: ``read_concern`` (a level), ``write_concern`` (a number, ``"majority"``, or a mapping with
            ``w``, ``wtimeout``, ``j``), ``read_preference`` (a mode such as ``"primary"``) and
            ``max_commit_time`` (seconds). The driver's own objects are taken as they are.

    Raises:
        ConfigurationError: An unknown option, or a value that the driver refuses.
    """
    native: dict[str, Any] = {}
    for key, value in options.items():
        if key not in _TRANSACTION_OPTIONS:
            hint = nearest(key, _TRANSACTION_OPTIONS)
            raise ConfigurationError(f"transaction: unknown option {key!r}{hint}")
        if value is None:
            continue
        name, convert = _TRANSACTION_OPTIONS[key]
        try:
            native[name] = convert(value)
        except (PyMongoError, TypeError, ValueError, KeyError) as error:
            raise ConfigurationError(f"transaction: {key}={value!r} is not valid") from error
    return native


def new_client(make: Callable[..., Any], settings: ServerSettings) -> Any:
    """Make a driver's client; nothing is connected yet.

    Raises:
        ConfigurationError: The driver refuses the URI or an option.
    """
    options = dict(settings.options)
    if settings.event_listeners:
        options["event_listeners"] = list(settings.event_listeners)
    try:
        return make(settings.uri, **options)
    except (PyMongoError, TypeError, ValueError, OSError):
        problem = _problem_without_credentials(make, settings.uri, options)
    # Outside the handler: the driver's text may quote a part of a password that is not escaped.
    raise ConfigurationError(f"the MongoDB URI or one of its options is not valid: {problem}")


def _problem_without_credentials(
    make: Callable[..., Any], uri: str, options: Mapping[str, Any]
) -> str:
    """Ask the driver again without the credentials: if it is content, they were the problem."""
    scheme, _, rest = uri.partition("://")
    # The last "@" of all: an unescaped password may hold "@", "/" and "?".
    _, at, address = rest.rpartition("@")
    try:
        make(f"{scheme}://{'user:password@' if at else ''}{address}", **options)
    except OSError as error:
        return f"a file that it names cannot be read ({error})"
    except (PyMongoError, TypeError, ValueError) as error:
        return str(error)
    return (
        "the user name or the password holds a character that must be percent-encoded, "
        "such as '@', ':', '/', '?' or '%' (urllib.parse.quote_plus does it)"
    )
