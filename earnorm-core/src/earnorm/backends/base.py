"""The Protocol that a driver adapter fulfils. Nothing above this folder mentions a driver.

Documents, filters, updates and index keys are plain BSON-encodable values. An adapter translates every
driver exception that means something to a user into one of ``earnorm.exceptions`` (chained).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from earnorm.concerns import Concerns
from earnorm.exceptions import TransactionOutcomeUnknown, UnreadableDocument
from earnorm.traffic import Traffic

if TYPE_CHECKING:
    from earnorm.backends.gridfs import FileStore

# A document holds any BSON value, so there is no narrower type.
Document = dict[str, Any]
Filter = Mapping[str, Any]
Sort = Sequence[tuple[str, int]]
KeyTree: TypeAlias = "Mapping[str, KeyTree | None]"
"""The stored keys of documents, each with those of the embedded documents under it."""
Statement = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Update operators with their arguments, or the stages of an update by pipeline."""

CAPABILITIES = frozenset(
    {"transactions", "change_streams", "text_search", "geo", "aggregation", "collation", "explain"}
)


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """One index: keys in order with their direction or kind, and the driver's index options."""

    keys: tuple[tuple[str, int | str], ...]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """The name given in the options, or MongoDB's own default name."""
        return self.options.get("name") or "_".join(f"{k}_{d}" for k, d in self.keys)


@dataclass(frozen=True, slots=True)
class SearchIndexSpec:
    """One index of the server's search process: kind (``vectorSearch``) and MongoDB definition."""

    name: str
    kind: str
    definition: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BulkUpdate:
    """One update of a bulk write: the first document that matches ``filter`` gets ``update``."""

    filter: Filter
    update: Statement
    upsert: bool = False
    array_filters: Sequence[Filter] | None = None
    """The filters of the list items in the update's paths: ``lines.$[name].qty``."""


@dataclass(frozen=True, slots=True)
class BulkInsert:
    """One insert of a bulk write: a document that has its ``_id``."""

    document: Document


@dataclass(frozen=True, slots=True)
class BulkDelete:
    """One deletion of a bulk write: the first document that matches, or all."""

    filter: Filter
    many: bool = False


BulkRequest = BulkInsert | BulkUpdate | BulkDelete


@dataclass(frozen=True, slots=True)
class BulkCounts:
    """The numbers of documents that a bulk write inserted, matched and deleted."""

    inserted: int
    matched: int
    """The number of documents that the updates matched; upserted ones count."""
    deleted: int


def _is_no_part() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of a server; an adapter passes these on to its driver."""

    uri: str
    database: str
    client: object | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Driver options in the driver's own camelCase names (``maxPoolSize`` …)."""
    event_listeners: Sequence[object] = ()
    """Driver event listeners that plugins contribute (CMAP, command monitoring)."""
    concerns: Concerns | None = None
    """The concerns of reads and writes, unless a collection has its own."""
    is_part: Callable[[], bool] = _is_no_part
    """Returns whether the running code is inside the block of a transaction. An operation outside of
    that transaction, for which it waits, does not wait for the transaction."""


Ended = Literal["committed", "rolled_back", "unknown"]
"""The way in which a transaction has ended. It is unknown if the commit was sent and nobody can tell whether the
server did it."""


class Session(Protocol):
    """A driver's session or a transaction in it, opaque above this folder but for its state."""

    @property
    def ended(self) -> Ended | None:
        """The way in which the transaction has ended; None while it runs, and for a session."""
        ...

    @property
    def problem(self) -> TransactionOutcomeUnknown | None:
        """The error that says why the outcome is unknown; None if it is known."""
        ...

    def doom(self, reason: str, *, transient: bool = False, at_once: bool = False) -> None:
        """Make sure that the transaction is not committed.

        Args:
            reason: The end of a sentence that begins with "because".
            transient: Another try may succeed.
            at_once: It takes no further operation either.
        """
        ...

    async def abort(self, reason: str) -> None:
        """End it now, because the App stops: what is under way in it is killed on the server.

        A commit that was sent is not waited for any longer, and its outcome is unknown.

        Args:
            reason: The end of a sentence that begins with "because".
        """
        ...

    def refuse(self) -> None:
        """Raise if it takes no operation.

        Raises:
            TransactionError: It has ended, or the transaction is doomed; the message says why.
        """
        ...


class DocumentKeys(Protocol):
    """The stored keys that a model declares, for a read whose documents become records."""

    @property
    def tree(self) -> KeyTree | None:
        """The keys in their order; None if not all documents have the same."""
        ...

    def only(self, documents: list[Document]) -> list[Document]:
        """Remove undeclared keys from the documents; return the list itself if there are none."""
        ...

    def note_others(self) -> None:
        """Note that there were undeclared keys, which the backend has left out."""
        ...


class Cursor(Protocol):
    """A server cursor that gives its documents in batches."""

    async def next_batch(self) -> list[Document]:
        """Return the next batch, in order; it is empty when the cursor is exhausted."""
        ...

    async def close(self) -> None:
        """Tell the server to drop the cursor; harmless if it is exhausted or closed."""
        ...


class ChangeCursor(Protocol):
    """A change stream, which has no end; if it breaks off, the driver resumes it once."""

    @property
    def token(self) -> Mapping[str, Any] | None:
        """The token that continues after the last change that ``next`` gave."""
        ...

    async def next(self) -> Document | None:
        """Return the next change in the server's form, or None if none came within ``max_await``.

        Raises:
            ServerUnavailable: The stream broke off, and the driver could not resume it.
            StopAsyncIteration: The collection was dropped or renamed.
        """
        ...

    async def close(self) -> None:
        """Tell the server to drop the stream; harmless if it is closed."""
        ...


class Collection(Protocol):
    """One collection, in the adapter's codec options (standard UUIDs, naive UTC datetimes)."""

    @property
    def name(self) -> str:
        """The collection's name in the database."""
        ...

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
        """Return every matching document. ``limit`` 0 means all.

        A large result comes in parts; ``each_part`` gets each while the server prepares the next
        one, and replaces it by what it returns.

        With ``keys``, and no projection, other keys are left out of the documents. They let the
        backend decode the documents in a faster way; a projection names some of them.

        ``timeout``, in seconds here and below, limits the whole operation: waiting for a server and
        a connection, the server's work, and the driver's retries.

        Raises:
            OperationTimeout: The operation did not finish within ``timeout``.
        """
        ...

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
        on_broken: Callable[[UnreadableDocument], Awaitable[None]] | None = None,
        keys: DocumentKeys | None = None,
    ) -> Cursor:
        """Open the same search in batches, each within ``timeout``.

        Nothing is sent before the first ``next_batch``. ``on_broken`` is told of each document that
        cannot be decoded, and the others are read; without it, the first one is an error.
        """
        ...

    async def count(
        self,
        filter: Filter,
        *,
        skip: int = 0,
        limit: int = 0,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        """Count the matching documents, after ``skip`` and up to ``limit`` (0 means no limit)."""
        ...

    async def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: Session | None = None,
        timeout: float | None = None,
        keys: DocumentKeys | None = None,
    ) -> list[Document]:
        """Return every document that the pipeline gives.

        ``keys`` are those of the documents; the pipeline must leave no others.
        """
        ...

    async def open_pipeline(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        batch_size: int = 2000,
        session: Session | None = None,
        timeout: float | None = None,
        on_broken: Callable[[UnreadableDocument], Awaitable[None]] | None = None,
        keys: DocumentKeys | None = None,
    ) -> Cursor:
        """Open the documents that the pipeline gives, in batches."""
        ...

    async def explain_pipeline(
        self, pipeline: Sequence[Mapping[str, Any]], *, verbosity: str = "executionStats"
    ) -> Document:
        """Explain a pipeline; see ``explain``."""
        ...

    async def insert(
        self,
        documents: Sequence[Document],
        *,
        ordered: bool = True,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> None:
        """Insert documents that have their ``_id``: one with an insert, several with one bulk.

        Raises:
            DuplicateKey: A unique index refused a document. For several documents the error is a
                ``BatchDuplicateKey``: ``positions`` were refused, ``written`` were written.
            ValidationError: A document was refused for another reason (several: a ``BatchRefused``).
        """
        ...

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
        """Update, and return the number of documents that matched (an upserted one counts)."""
        ...

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
        """Update the first matching document and return its new form, or None if none matched."""
        ...

    async def bulk_update(
        self,
        updates: Sequence[BulkUpdate],
        *,
        ordered: bool = False,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        """Send all updates in one round trip; return the number of matches, upserts included."""
        ...

    async def bulk_write(
        self,
        requests: Sequence[BulkRequest],
        *,
        ordered: bool = False,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> BulkCounts:
        """Send all requests in one call.

        If they are unordered, a server gets one command for each kind (inserts, then updates, then
        deletions). The errors are those of ``insert``, with positions among the requests.
        """
        ...

    async def delete(
        self,
        filter: Filter,
        *,
        many: bool = True,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> int:
        """Delete the matching documents, or the first of them, and return their number."""
        ...

    async def create_indexes(self, indexes: Sequence[IndexSpec]) -> None:
        """Create missing indexes. A clash with an existing index is a ``ConfigurationError``."""
        ...

    async def list_indexes(self) -> list[Document]:
        """Return the existing indexes as the server describes them (``key``, ``name``, options)."""
        ...

    async def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        resume_after: Mapping[str, Any] | None = None,
        full_document: str | None = None,
        before: bool = False,
        max_await: float = 1.0,
    ) -> ChangeCursor:
        """Open a change stream; every write after this returns arrives in it.

        Args:
            pipeline: The stages that the server applies to each change.
            resume_after: A token of an earlier stream.
            full_document: ``"updateLookup"`` for the whole document with an update; None for none.
            before: Give the document before the change too, if the collection keeps it.
            max_await: The seconds that ``next`` waits on the server.

        Raises:
            NotSupported: The backend or the server has no change streams.
            ValidationError: The token cannot be used any more.
        """
        ...

    async def drop_index(self, name: str) -> None:
        """Drop one index; harmless when it does not exist."""
        ...

    async def modify_index(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change ``hidden`` or ``expireAfterSeconds`` in place (``collMod``)."""
        ...

    async def create_search_indexes(self, indexes: Sequence[SearchIndexSpec]) -> None:
        """Create indexes of the server's search process.

        Raises:
            NotSupported: The server has none.
        """
        ...

    async def list_search_indexes(self) -> list[Document]:
        """Return the search indexes as the server describes them.

        Each has ``name``, ``type`` and ``latestDefinition``.

        Raises:
            NotSupported: The server has none.
        """
        ...

    async def create(self, options: Mapping[str, Any]) -> bool:
        """Create the collection with these options of MongoDB; return False if it exists already.

        Raises:
            ConfigurationError: The server refuses the options.
        """
        ...

    async def describe(self) -> Document | None:
        """Return the server's description (``type``, ``options``), or None without a collection."""
        ...

    async def set_validator(
        self, validator: Mapping[str, Any], action: Literal["error", "warn"]
    ) -> bool:
        """Set the validator that the server checks every document with; return False if it is set.

        A missing collection is created. Stored documents are not checked.

        Args:
            validator: A query expression, e.g. ``{"$jsonSchema": …}``.
            action: ``"error"`` makes the server refuse a document that does not match, ``"warn"``
                log it.

        Raises:
            ConfigurationError: The server refuses the validator.
            NotSupported: The backend has no validators.
        """
        ...

    async def drop(self) -> None:
        """Drop the collection with its indexes; harmless when it does not exist."""
        ...

    async def explain(
        self,
        filter: Filter,
        *,
        sort: Sort | None = None,
        skip: int = 0,
        limit: int = 0,
        verbosity: str = "executionStats",
    ) -> Document:
        """Return the server's query plan.

        ``"executionStats"`` runs the search; ``"queryPlanner"`` only plans it.
        """
        ...


class Backend(Protocol):
    """A driver adapter: one client and one database."""

    @property
    def name(self) -> str:
        """``pymongo``, ``motor`` or ``memory``."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """The available ones of ``CAPABILITIES``; complete only after ``connect``."""
        ...

    @property
    def unheard_listeners(self) -> tuple[object, ...]:
        """The event listeners that could not be attached.

        These are all for the application's own client (a driver takes listeners only when the
        client is made) and for ``memory``, else none.
        """
        ...

    async def connect(self) -> None:
        """Ask the server once, so that a wrong address fails here, and note its capabilities.

        Raises:
            ServerUnavailable: No server answered in time; the message names host and port.
        """
        ...

    async def close(self) -> None:
        """Close the client, unless it is the application's own."""
        ...

    def hearing(self, hear: Callable[[str, str], None]) -> AbstractContextManager[None]:
        """Tell a function of each call of a collection that reads or writes documents.

        It is told inside the block, before the call is made, with the call's kind (``find``,
        ``count``, ``aggregate``, ``insert``, ``update``, ``find_and_update``, ``bulk_write`` or
        ``delete``) and the name of the collection. A cursor is one call.
        """
        ...

    def collection(self, name: str, concerns: Concerns | None = None) -> Collection:
        """Return the collection of that name with these concerns, always the same object.

        Nothing is sent.
        """
        ...

    def files(self, bucket: str) -> FileStore:
        """Return the GridFS bucket of that name, always the same object. Nothing is sent."""
        ...

    def raw_database(self) -> Any:
        """Return the driver's own database object, for ``App.dangerous_raw`` only."""
        ...

    @property
    def read_preference(self) -> str:
        """The members that a read asks if nothing closer to it says so: a mode such as ``"primary"``."""
        ...

    def traffic(self) -> Traffic:
        """Return the numbers of operations that are under way, and that wait for a connection."""
        ...

    def session(
        self, *, causal: bool = True, snapshot: bool = False
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session without a transaction.

        Args:
            causal: A read sees everything that the session wrote and read before, whichever member
                answers.
            snapshot: Every read sees the same moment; nothing can be written.

        Raises:
            NotSupported: The backend or the server has no sessions of this kind.
        """
        ...

    def transaction(
        self, options: Mapping[str, Any], session: Session | None = None
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session with a transaction: the block's end commits it, an exception aborts it.

        Args:
            session: An open session to use instead of a new one.
            options: ``read_concern`` (a level), ``write_concern`` (a number, ``"majority"`` or a
                mapping with ``w``, ``wtimeout``, ``j``), ``read_preference`` (a mode),
                ``max_commit_time`` (seconds), ``commit_until`` (the time to give up on a commit of
                unknown outcome, as ``time.monotonic()`` counts).

        Raises:
            ConfigurationError: An option is unknown or its value not valid.
            NotSupported: The backend or the server has no transactions.
            TransactionError: The commit failed; ``.transient`` says whether a retry may succeed.
            TransactionOutcomeUnknown: Nobody can tell whether the server has committed.
            CancelledError: The task was cancelled, also while the transaction ended. ``ended`` of
                the session says what became of it.
        """
        ...

    async def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        resume_after: Mapping[str, Any] | None = None,
        max_await: float = 1.0,
    ) -> ChangeCursor:
        """Open the change stream of the whole database; every write after this returns arrives in it.

        Args:
            pipeline: The stages that the server applies to each change.
            resume_after: A token of an earlier stream.
            max_await: The seconds that ``next`` waits on the server.

        Raises:
            NotSupported: The backend or the server has no change streams.
            ValidationError: The token cannot be used any more.
        """
        ...

    async def ping(self) -> Mapping[str, Any]:
        """Return the server's answer to a hello: version, replica set, hosts (no credentials)."""
        ...

    async def list_collections(self) -> Sequence[str]:
        """Return the names of the collections in the database."""
        ...
