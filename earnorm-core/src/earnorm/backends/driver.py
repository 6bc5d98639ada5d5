"""The base of the adapters, a Backend over a client. Each adds its driver's class and its name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakSet

from bson.codec_options import CodecOptions
from pymongo import monitoring
from pymongo.errors import PyMongoError
from typing_extensions import override

from earnorm.backends.base import (
    CAPABILITIES,
    Backend,
    DocumentKeys,
    ServerSettings,
    Session,
)
from earnorm.backends.bson_form import CODEC
from earnorm.backends.changes import DriverChangeCursor, open_changes
from earnorm.backends.collection import DriverCollection
from earnorm.backends.conversions import milliseconds, settled
from earnorm.backends.errors import (
    Translating,
)
from earnorm.backends.gridfs import FileStore
from earnorm.backends.hearing import Hear, start_hearing, stop_hearing
from earnorm.backends.in_sessions import DriverSession
from earnorm.backends.left_reads import Leftovers, LeftReads
from earnorm.backends.plain_operations import PlainOperations
from earnorm.backends.sessions import (
    native_concerns,
    open_session,
    open_transaction,
    transaction_options,
)
from earnorm.bounded import Bounded
from earnorm.concerns import Concerns
from earnorm.exceptions import (
    ConfigurationError,
    NotSupported,
)
from earnorm.traffic import Traffic

if TYPE_CHECKING:
    from earnorm.backends.native.loading import Decision

logger: Final = logging.getLogger("earnorm.backends")

LEFTOVER_SECONDS: Final = 5.0
"""The time for which a close waits for what did not end with its session."""

LISTENERS: Final = (
    monitoring.CommandListener,
    monitoring.ConnectionPoolListener,
    monitoring.ServerHeartbeatListener,
    monitoring.ServerListener,
    monitoring.TopologyListener,
)
"""The classes of which the drivers take an object as a listener of their events."""

ON_REPLICA_SETS: Final = frozenset({"transactions", "change_streams"})


class DriverBackend(Backend):
    """A driver's client and one database behind the ``Backend`` protocol.

    Args:
        settings: The server, the database and, optionally, the application's own client.

    Raises:
        ConfigurationError: The driver refuses the URI or an option; credentials are never quoted.
    """

    kind: ClassVar[str]
    publishes_events: ClassVar[bool] = True
    reads_replies: ClassVar[bool] = True
    """Its documents come in replies of a server."""
    ends_cancelled: ClassVar[bool] = True
    """A call that is cancelled ends, instead of going on in a thread."""

    def __init__(self, settings: ServerSettings) -> None:
        self._owned = settings.client is None
        attached = self._owned and self.publishes_events
        self._unheard = () if attached else tuple(settings.event_listeners)
        self.operations = PlainOperations(settings.is_part)
        self._client: Any = settings.client
        if self._owned:
            self._client = self._new_client(settings)
        elif self._unheard:
            logger.warning(
                "%d event listeners are not attached: a client that the application made takes "
                "listeners only when it is made (event_listeners=…)",
                len(self._unheard),
            )
        self._limit_operations()
        self._translating = Translating(settings.database, self)
        with self._translating:
            self._database = self._get_database(settings.database)
            if settings.concerns is not None:
                self._database = self._with_concerns(self._database, settings.concerns)
        self._buckets: Bounded[str, FileStore] = Bounded()
        # A model keeps its own; these are for the concerns of single queries.
        self._collections: Bounded[tuple[str, Concerns | None], DriverCollection] = Bounded(
            most=256, longest=1000
        )
        # Those in use, also where the above has let them go.
        self._in_use: WeakSet[DriverCollection] = WeakSet()
        self.leftovers: Leftovers = set()
        self.left_reads = LeftReads(self.leftovers, ends_cancelled=self.ends_cancelled)
        self._capabilities: frozenset[str] = CAPABILITIES - ON_REPLICA_SETS
        self._hearing: list[Hear] = []
        self._decoder: Decision | None = None

    @property
    @override
    def name(self) -> str:
        return self.kind

    @classmethod
    def client_class(cls) -> Callable[..., Any]:
        """Return the class of the driver's client, which takes a URI and camelCase options."""
        raise NotImplementedError

    def _new_client(self, settings: ServerSettings) -> Any:
        return new_client(self.client_class(), settings)

    def _limit_operations(self) -> None:
        self.operations.limit(*pool_limits(self._client))

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
        """Return facts for error messages: hosts without credentials, time limits, pool size."""
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
        if self.reads_replies:
            from earnorm.backends.native.loading import decision

            self._decoder = decision()
        hello = await self._ask("hello")
        if hello.get("setName") or hello.get("msg") == "isdbgrid":
            self._capabilities = CAPABILITIES

    def decoding(self, keys: DocumentKeys) -> CodecOptions[Any] | None:
        """Return the codec options of the compiled decoder; None if the driver decodes."""
        if self._decoder is None or not self._decoder.is_on:
            return None
        from earnorm.backends.native.replies import options_for

        return options_for(keys)

    @override
    def traffic(self) -> Traffic:
        return self.operations.traffic()

    @override
    async def close(self) -> None:
        until = time.monotonic() + LEFTOVER_SECONDS
        while self.leftovers and time.monotonic() < until:  # one may begin another
            await asyncio.wait(self.leftovers, timeout=until - time.monotonic())
        for task in self.leftovers:
            task.cancel()
        if self._owned:
            await settled(self._client.close())
        self.operations.call_all()

    @override
    def collection(self, name: str, concerns: Concerns | None = None) -> DriverCollection:
        if (existing := self._collections.get((name, concerns))) is not None:
            return existing
        with Translating(name, self):
            made = self._make_collection(name, concerns)
        if self._hearing:
            start_hearing(made, self._hearing)
        self._collections[name, concerns] = made
        self._in_use.add(made)
        return made

    @override
    @contextmanager
    def hearing(self, hear: Hear) -> Iterator[None]:
        if not self._hearing:
            for collection in tuple(self._in_use):
                start_hearing(collection, self._hearing)
        self._hearing.append(hear)
        try:
            yield
        finally:
            self._hearing.remove(hear)
            if not self._hearing:
                for collection in tuple(self._in_use):
                    stop_hearing(collection)

    def _make_collection(self, name: str, concerns: Concerns | None) -> DriverCollection:
        native = self._database.get_collection(name)
        if concerns is not None:
            native = self._with_concerns(native, concerns)
        return DriverCollection(native, name, self)

    def _with_concerns(self, native: Any, concerns: Concerns) -> Any:
        return native.with_options(**native_concerns(concerns))

    @override
    def files(self, bucket: str) -> FileStore:
        if (store := self._buckets.get(bucket)) is None:
            files, chunks = (self.collection(f"{bucket}.{part}") for part in ("files", "chunks"))
            store = self._buckets[bucket] = FileStore(files, chunks)
        return store

    @override
    def raw_database(self) -> Any:
        return self._database

    @property
    @override
    def read_preference(self) -> str:
        mode: str = self._database.read_preference.mongos_mode
        return mode

    @override
    async def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        resume_after: Mapping[str, Any] | None = None,
        max_await: float = 1.0,
    ) -> DriverChangeCursor:
        missing = self.lacks("change_streams")
        if missing:
            raise NotSupported(missing)
        options: dict[str, Any] = {"max_await_time_ms": milliseconds(max_await)}
        if resume_after is not None:
            options["resume_after"] = resume_after
        return await open_changes(
            self._database, self._translating, self.left_reads, pipeline, options
        )

    @override
    async def ping(self) -> Mapping[str, Any]:
        hello = await self._ask("hello")
        return {
            "backend": self.name,
            "decoder": str(self._decoder or "the driver's"),
            "version": (await self._ask("buildInfo"))["version"],
            "replica_set": hello.get("setName"),
            "sharded": hello.get("msg") == "isdbgrid",
            "hosts": list(hello.get("hosts") or str(self.facts()["hosts"]).split(", ")),
        }

    async def _ask(self, command: str) -> Mapping[str, Any]:
        with self._translating:
            # By default a command needs a primary, which an App that reads from secondaries may
            # lack.
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
    def session(
        self, *, causal: bool = True, snapshot: bool = False
    ) -> AbstractAsyncContextManager[Session]:
        if missing := self.lacks("transactions"):
            raise NotSupported(missing.replace("transactions", "sessions", 1))
        return open_session(
            self._client,
            # The driver refuses both together; a snapshot is consistent without the other.
            {"causal_consistency": causal and not snapshot, "snapshot": snapshot},
            self._translating,
            self.leftovers,
            self.operations,
        )

    @override
    def transaction(
        self, options: Mapping[str, Any], session: Session | None = None
    ) -> AbstractAsyncContextManager[Session]:
        if missing := self.lacks("transactions"):
            raise NotSupported(missing)
        native = transaction_options(options)
        until: float | None = native.pop("commit_until", None)
        assert session is None or isinstance(session, DriverSession)
        return open_transaction(
            self._client,
            native,
            self._translating,
            self.leftovers,
            self.operations,
            session,
            until,
        )

    def lacks(self, capability: str) -> str | None:
        """Return a message why the server lacks the capability, or None if it has it."""
        if capability in self._capabilities:
            return None
        return (
            f"the MongoDB server at {self.facts()['hosts']} (backend {self.name}) has no "
            f"{capability.replace('_', ' ')}: it is "
            "no replica set and no sharded cluster. Start it with --replSet and run rs.initiate() "
            "once; if it is one already, connect first"
        )


def pool_limits(client: Any) -> tuple[int | None, float | None]:
    """Return the highest number of a client's connections, and the longest wait for one in seconds."""
    options = client.options.pool_options
    size = options.max_pool_size
    return (size if isinstance(size, int) and size > 0 else None), options.wait_queue_timeout


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
    # Raised outside the handler, because the driver's text may quote a part of an unescaped
    # password.
    raise ConfigurationError(f"the MongoDB URI or one of its options is not valid: {problem}")


def _problem_without_credentials(
    make: Callable[..., Any], uri: str, options: Mapping[str, Any]
) -> str:
    """Try the driver again without the credentials: if it succeeds, they were the problem."""
    scheme, _, rest = uri.partition("://")
    # Credentials end at the last "@", because an unescaped password may hold "@", "/" and "?".
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
