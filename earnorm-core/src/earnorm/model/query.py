"""Query: the result of ``search()`` before it is awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, overload

from earnorm.concerns import Concerns, ReadConcern, ReadPreference, WriteConcern
from earnorm.domain import Domain, DomainSource
from earnorm.domain.ast import TRUTH_VALUES, by_client, truth_value
from earnorm.domain.client_text import ClientOrder, ClientText
from earnorm.domain.values import shorten
from earnorm.exceptions import DomainError, NotSupported
from earnorm.fields.expressions import Expressions, path_of
from earnorm.fields.relational import Relation
from earnorm.kernel.environment import Env, Principal, current_env, use_env
from earnorm.kernel.naming import nearest_field
from earnorm.kernel.operations import (
    CACHING,
    EXTENT,
    REQUEST,
    Caching,
    Extent,
    Operation,
    OperationName,
    Options,
)
from earnorm.kernel.serving.projecting import head_of
from earnorm.model import relations, writing
from earnorm.model.reading.across import ACROSS, Across
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.reading.ordering import (
    Order,
    checked_seconds,
    checked_size,
    parse_order,
    refuse,
    texts,
)
from earnorm.model.recordset import RecordSet

# Most programs use no groups, pages, pipelines, tables and plans, so their methods import them.
if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from earnorm.backends.base import Document
    from earnorm.features.explaining.query_plan import Plan
    from earnorm.features.grouping.aggregation import Aggregate
    from earnorm.features.grouping.grouping import GroupKey
    from earnorm.features.grouping.inspection import Stage
    from earnorm.features.grouping.pipeline import Aggregation
    from earnorm.features.paging.paging import CursorPage, Page
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.observing.verdicts import Verdict
    from earnorm.kernel.serving.requests import OnError, Request
    from earnorm.model.base import BaseModel
    from earnorm.model.relations.prefetch import Wanted

M = TypeVar("M", bound="BaseModel")
R = TypeVar("R")


_PLAIN: Final = Extent()


class Query(Generic[M]):
    """A search that runs when it is awaited (a RecordSet) or iterated with ``async for``.

    A query is immutable: each method returns a new one. Each ``await`` runs it again.
    """

    _only_inside: frozenset[str] = frozenset()
    """The paths of ``only()`` into embedded objects."""
    _extent: Extent = _PLAIN
    """The page that it is for, and the depth of its dicts."""
    _caching: Caching | None = None
    """The wish of ``cached()`` or ``uncached()``; None without them."""

    def __init__(
        self,
        model: type[M],
        domain: Domain,
        *,
        order: Order = None,
        limit: int = 0,
        offset: int = 0,
        only: Iterable[str | Expressions[Any]] | None = None,
        prefetch: Iterable[str | Expressions[Any]] = (),
        timeout: float | None = None,
        concerns: Concerns | None = None,
    ) -> None:
        self._model = model
        self._domain = domain
        # None means the model's default order, () none at all.
        self._order: tuple[tuple[str, int], ...] | None = (
            None if order is None else parse_order(order)
        )
        self._limit = 0 if limit in _ALL else checked_size("limit", limit)
        self._offset = 0 if offset in _ALL else checked_size("offset", offset)
        self._only: frozenset[str] | None = None
        is_client = order is not None and type(self._order) is ClientOrder
        if only is not None:
            self._only, self._only_inside, are_clients = _wanted(only)
            is_client = is_client or are_clients
        self._prefetch: tuple[Wanted, ...] = (
            tuple(cast("Iterable[str]", prefetch))
            if type(prefetch) in _LISTS and _PATHS.issuperset(map(type, prefetch))
            else _paths(prefetch)
        )
        if is_client or (self._prefetch and ClientText in map(type, self._prefetch)):
            self._domain = by_client(domain)
        self._timeout = None if timeout is None else checked_seconds("timeout", timeout)
        self._concerns = concerns
        self._request: Request | None = None
        self._is_whole = False

    def _with(self, /, **changes: object) -> Self:
        new: Self = object.__new__(type(self))
        # This takes a fifth of the time of copy.copy(), which looks up the class's copy methods.
        new.__dict__.update(self.__dict__, **changes)
        return new

    def _by_client(self, is_client: bool = True) -> Self:
        """Return a query with the principal's rights, if a client has sent a part of it."""
        return self._with(_domain=by_client(self._domain)) if is_client else self

    # -- shaping ------------------------------------------------------------------------------

    def where(self, domain: object) -> Self:
        """Select only the records that match this domain as well."""
        if type(domain) in TRUTH_VALUES:
            raise truth_value(domain)
        return self._with(_domain=self._domain & Domain(domain))  # type: ignore[arg-type] # Domain() says what it takes

    def with_archived(self) -> Self:
        """Include archived records, if the model can archive (``mixins.SoftDelete``)."""
        return self._with(_is_whole=True)

    def order(self, *order: Order) -> Self:
        """Sort: ``order("-age", "name")`` or ``order("-age,name")``.

        It replaces the model's default order (``_order``); ``order()`` means none.
        """
        parsed = parse_order(*order)
        return self._with(_order=parsed)._by_client(type(parsed) is ClientOrder)

    def limit(self, limit: int) -> Self:
        """Return at most this number of records; 0 means all."""
        return self._with(_limit=checked_size("limit", limit))

    def offset(self, offset: int) -> Self:
        """Leave out this number of records at the beginning."""
        return self._with(_offset=checked_size("offset", offset))

    def only(self, *fields: str | Expressions[Any]) -> Self:
        """Fetch only these fields (and the id); reading another raises ``FieldNotLoaded``.

        A path fetches only that field of an embedded object, or of each object in a list:
        ``only("name", "address.city", "lines.qty")``.
        """
        names, inside, is_client = _wanted(fields, 'names: only("name", "age")')
        return self._with(_only=names, _only_inside=inside)._by_client(is_client)

    def prefetch(self, *paths: str | Expressions[Any], limit: int = 0, order: Order = None) -> Self:
        """Load relations with the records: ``prefetch("author_id", "comment_ids.author_id")``.

        Args:
            *paths: Paths of relations, or relations: ``prefetch(Post.author_id)``.
            limit: The most records of each parent that the last relation of each path loads; 0
                means all. ``prefetch("comment_ids", limit=3)`` is still one query.
            order: The order of these records, by their own fields; the default is the relation's.

        Raises (when it runs):
            DomainError: No such relation; a limit or an order of a relation to one record.
        """
        named = tuple(map(path_of, paths))
        wanted: tuple[Wanted, ...] = named
        is_client = ClientText in map(type, named)
        if limit or order:
            from earnorm.model.relations.windows import Window

            parsed = parse_order(order)
            is_client = is_client or type(parsed) is ClientOrder
            window = Window(checked_size("limit", limit), parsed)
            wanted = tuple([(path, window) for path in named])
        return self._with(_prefetch=(*self._prefetch, *wanted))._by_client(is_client)

    def timeout(self, seconds: float) -> Self:
        """Limit the time of the query, in seconds; for a stream, the time of each batch.

        Awaiting it raises ``OperationTimeout`` if it takes longer.
        """
        return self._with(_timeout=checked_seconds("timeout", seconds))

    def read_concern(self, level: ReadConcern) -> Self:
        """Require a read concern of the data that it reads: ``"majority"``, ``"linearizable"`` …"""
        return self._with_concerns(concerns_of(read_concern=level))

    def write_concern(self, concern: WriteConcern) -> Self:
        """Set the members that must confirm the writes of ``update`` and ``delete``."""
        return self._with_concerns(concerns_of(write_concern=concern))

    def read_preference(self, mode: ReadPreference) -> Self:
        """Choose the member to read from: ``"secondary"``, ``"nearest"`` …

        Raises:
            ConfigurationError: No such mode; the two methods above: no such level or concern.
        """
        return self._with_concerns(concerns_of(read_preference=mode))

    def _with_concerns(self, concerns: Concerns | None) -> Self:
        return self if concerns is None else self._with(_concerns=concerns.over(self._concerns))

    def cached(self, ttl: float | None = None) -> Self:
        """Allow a plugin that caches to keep the answer: the records, their number, or the rows of a group.

        It does nothing where no such plugin is installed, or where the plugin cannot keep this answer.

        Args:
            ttl: The most seconds that it is kept; None means the plugin's own limit.
        """
        seconds = None if ttl is None else checked_seconds("ttl", ttl)
        return self._with(_caching=Caching(True, seconds))

    def uncached(self) -> Self:
        """Ask the database, whatever a plugin has kept; the answer is not kept either.

        What it prefetches is not concerned.
        """
        return self._with(_caching=Caching(False))

    def lock(self) -> Self:
        """Lock the records, so that no other transaction writes them before this one ends.

        No transaction waits for a lock: of two transactions that lock or write the same record, the
        later one fails at once with a transient error, and ``@transactional`` tries it again.
        Awaiting the query outside of a transaction raises ``TransactionError``.
        """
        from earnorm.features.locking.locking import Lock

        return self._with(_request=Lock())

    # -- running ------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, RecordSet[M]]:
        return self._run().__await__()

    def _operation(
        self,
        name: OperationName,
        env: Env,
        request: Request | None = None,
        across: Across | None = None,
    ) -> tuple[BoundModel, Operation]:
        bound = env.app.bind(self._model)
        order: tuple[tuple[str, int], ...] = ()
        paths: tuple[tuple[str, str], ...] = ()
        wanted = self._order
        if wanted is None and name in _ORDERED:
            wanted = bound.schema.default_order
        if wanted:
            across = across or Across(bound)
            order = tuple([(across.key(path), direction) for path, direction in wanted])
            paths = across.paths
        options = Options(
            order=order,
            limit=self._limit,
            offset=self._offset,
            fields=self._only and self._fetched(bound, self._only),
            timeout=self._timeout,
            concerns=self._concerns,
        )
        if self._only_inside:
            options = self._narrowed(bound, options)
        domain = self._domain
        if bound.reading is not None and not self._is_whole:
            domain = bound.reading.narrowed(domain)
        op = Operation(name, bound.model, env, domain, None, options)
        if self._prefetch or self._extent is not _PLAIN:
            page, shown, _ = self._extent
            op = op.with_note(EXTENT, Extent(page, shown, self._prefetch))
        if self._caching is not None:
            op = op.with_note(CACHING, self._caching)
        if paths:
            op = op.with_note(ACROSS, paths)
        if self._request is not None:
            self._request.check(op, request)
            request = self._request
        return bound, op if request is None else op.with_note(REQUEST, request)

    def _fetched(self, bound: BoundModel, names: frozenset[str]) -> frozenset[str]:
        """Return the names of ``only()``, and of the fields that reading what it asks for needs."""
        fields = bound.schema.fields
        names = frozenset("_id" if name in ("id", "pk") else name for name in names)
        unknown = names - fields.keys()
        if unknown:
            name = min(unknown)
            hint = nearest_field(bound.schema, name)
            raise DomainError(f"{bound.model._name} has no field {name!r}{hint}")
        if bound.schema.derived is not None:
            names = names.union(bound.schema.derived.sources(names))
        if self._prefetch:
            heads = {head_of(w if isinstance(w, str) else w[0]) for w in self._prefetch}
            names |= {n for n in heads if isinstance(fields.get(n), Relation) and fields[n].stored}
        return names if bound.reading is None else names | bound.reading.needs

    def _narrowed(self, bound: BoundModel, options: Options) -> Options:
        """Return the options with the paths of ``only()`` into fields that are not wanted whole."""
        from earnorm.model.reading.parts import checked_inside  # few programs use it

        whole = options.fields or frozenset()
        paths = checked_inside(bound, self._only_inside)
        inside = frozenset(path for path in paths if head_of(path) not in whole)
        return options.replace(fields=whole.union(map(head_of, inside)), inside=inside)

    async def _run(self) -> RecordSet[M]:
        env = current_env()
        if self._domain.is_untrusted and env.system:
            with use_env(env.as_principal()):  # what is prefetched belongs to it
                return await self._run()
        bound, op = self._operation("search", env)
        return await self._records(bound, await env.app.execute(op), op.options)

    async def _records(
        self, bound: BoundModel, documents: list[Document], options: Options
    ) -> RecordSet[M]:
        fields = options.fields
        if bound.withholding is not None:
            fields = bound.withholding.shown(self._reader(current_env()), fields)
        records = hydrate(bound, documents, fields, options.inside)
        if self._prefetch:
            await relations.prefetch.prefetch(
                bound, records, relations.prefetch.prefetch_tree(self._prefetch)
            )
        # This App's class is the model or a subclass of it.
        return RecordSet(cast(type[M], bound.model), records)

    def _reader(self, env: Env) -> Env:
        """Return the Env that a search in an Env has, which is the principal's for a client's domain."""
        return env.as_principal() if env.system and self._domain.is_untrusted else env

    def __aiter__(self) -> AsyncIterator[M]:
        """Stream the records in batches, with constant memory."""
        return self.stream()

    async def stream(self, *, on_error: OnError = "raise") -> AsyncIterator[M]:
        """Stream the records as ``async for`` over the query does.

        Args:
            on_error: What happens at a document that cannot be decoded, because another program
                stored a date beyond the year 9999, a broken text or the like: ``"raise"`` is an
                ``UnreadableDocument``, ``"skip"`` goes on to the others, and a function, which may
                be async, is called with that error before the stream goes on.
        """
        if not callable(on_error) and on_error not in ("raise", "skip"):
            refuse("on_error", f'is "raise", "skip" or a function, not {shorten(on_error)}')
        from earnorm.kernel.serving.requests import Stream  # few programs stream
        from earnorm.model.reading.streaming import BATCH, batches

        bound, op = self._operation("search", current_env(), Stream(BATCH, on_error))
        tree = relations.prefetch.prefetch_tree(self._prefetch)
        reader, fields = self._reader(op.env), op.options.fields
        if bound.withholding is not None:
            await bound.withholding.ready(reader)
        fields = bound.shown(reader, fields)
        async with aclosing(batches(op)) as stream:
            async for documents in stream:
                if bound.withholding is not None:  # what is hidden by now is in no document
                    fields = bound.withholding.shown(reader, fields)
                records = hydrate(bound, documents, fields, op.options.inside)
                if tree:
                    is_demoted = self._domain.is_untrusted and op.env.system
                    with use_env(op.env.as_principal()) if is_demoted else nullcontext():
                        await relations.prefetch.prefetch(bound, records, tree)
                for record in records:
                    yield record
                del documents, records  # memory is freed before the next batch arrives

    async def count(self) -> int:
        """Return the number of records that match (after offset, at most limit)."""
        env = current_env()
        _, op = self._operation("count", env)
        counted: int = await env.app.execute(op)
        return counted

    async def exists(self) -> bool:
        """Return whether any record matches."""
        return bool(await self.limit(1).count())

    async def first(self) -> M | None:
        """Return the first record, or None."""
        records = await self.limit(1)
        return records[0] if records else None

    async def page(self, number: int = 1, size: int = 50) -> Page[M]:
        """Return one page, numbered from 1, with the total."""
        from earnorm.features.paging.paging import numbered_page

        return await numbered_page(self, number, size)

    async def paginate(
        self, size: int = 50, *, after: str | None = None, before: str | None = None
    ) -> CursorPage[M]:
        """Return the page after or before a cursor; without a cursor, the first page.

        Unlike a numbered page, its cost does not grow with its position, and it neither repeats nor
        leaves out a record while others are inserted and deleted. Records that are equal in the
        order are ordered by id. A client may get a cursor: it only marks a position in the records
        that the query and the access rules show. It holds the last record's id and the values of
        its order.

        Args:
            size: The most records on the page.
            after: A page's ``next``.
            before: A page's ``previous``.

        Raises:
            ValidationError: The cursor was changed or belongs to another query or order, or the
                query is ordered by a list or by values in other records.
            NotSupported: The query has a limit or an offset.
        """
        from earnorm.features.paging.paging import cursor_page

        return await cursor_page(self, size, after, before)

    @overload
    async def group(
        self,
        *keys: GroupKey,
        having: DomainSource = None,
        order: Order = None,
        limit: int = 0,
        into: None = None,
        **aggregates: Aggregate,
    ) -> list[dict[str, Any]]: ...
    @overload
    async def group(
        self,
        *keys: GroupKey,
        having: DomainSource = None,
        order: Order = None,
        limit: int = 0,
        into: Callable[..., R],
        **aggregates: Aggregate,
    ) -> list[R]: ...
    async def group(
        self,
        *keys: GroupKey,
        having: DomainSource = None,
        order: Order = None,
        limit: int = 0,
        into: Callable[..., Any] | None = None,
        **aggregates: Aggregate,
    ) -> list[Any]:
        """Return a row for each combination of the keys' values, in their order.

        Args:
            *keys: Field paths, or buckets of dates: ``"created_at:month"`` (year, quarter, month,
                week, day, hour). Without keys, all records that match make one row. A record counts
                once for each item of a list that a key leads through. What ``untrusted.group()``
                has read stands for all arguments.
            having: A domain over the result names: ``[("total", ">", 100)]``.
            order: Result names, ``"-total"``; rows that are equal in it are ordered by the keys.
            limit: The most rows to return; 0 means all.
            into: What to make of each row, a NamedTuple or a dataclass say; it is called with the result names. None
                makes dicts.
            **aggregates: Result names, e.g. ``total=Sum("price")``, ``number=Count()``.

        Raises:
            DomainError: A path names no field, or a condition does not fit its field.
            ValidationError: A value is not an aggregate, or a name is used twice.
            NotSupported: The backend cannot compute it.
        """
        from earnorm.features.grouping.grouping import group

        return await group(self, keys, aggregates, having, order, limit, into)

    def aggregate(self, pipeline: Sequence[Stage]) -> Aggregation:
        """Return MongoDB's own pipeline over the matching records: ``await`` it, or ``async for``.

        It begins with the query's condition, restricted by the access rules, then its order, window
        and ``only()``. Fields have their stored names, and rows are in stored form. ``$lookup``,
        ``$unionWith`` and ``$graphLookup`` name another model (``"from": "core.author"``), whose
        own rules apply. Writing and JavaScript are refused.

        Raises:
            ValidationError: A stage is not allowed or has JavaScript, or a model is unknown.
            NotSupported: The backend cannot compute it.
        """
        from earnorm.features.grouping.pipeline import aggregation

        return aggregation(self, pipeline)

    async def to_dict(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the records that match as dicts; see :meth:`RecordSet.to_dict`.

        Other tasks run between two parts of the records.
        """
        from earnorm.features.exporting.texts import dicts_of  # few programs export

        return await dicts_of(self, depth, include, exclude)

    async def to_json(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> str:
        """Return the records that match as the text of a JSON array; see :meth:`RecordSet.to_json`.

        Other tasks run between two parts of the records.
        """
        from earnorm.features.exporting.texts import json_of

        return await json_of(self, depth, include, exclude)

    async def to_pandas(self) -> pandas.DataFrame:
        """Return the records that match as a pandas DataFrame, with a column for each field.

        Raises:
            ConfigurationError: pandas is not installed: ``pip install "earnorm-core[pandas]"``.
            ValidationError: A stored value is not valid for its field.
        """
        from earnorm.features.exporting.tables import query_to_pandas

        return await query_to_pandas(self)

    async def to_polars(self) -> polars.DataFrame:
        """Return a Polars DataFrame; see ``to_pandas``: ``pip install "earnorm-core[polars]"``."""
        from earnorm.features.exporting.tables import query_to_polars

        return await query_to_polars(self)

    async def to_arrow(self) -> pyarrow.Table:
        """Return an Arrow table; see ``to_pandas``: ``pip install "earnorm-core[arrow]"``."""
        from earnorm.features.exporting.tables import query_to_arrow

        return await query_to_arrow(self)

    async def update(self, values: Mapping[str, Any]) -> int:
        """Write the same values to every record that matches; return their number.

        Raises:
            ValidationError: A value is not valid; nothing is written.
        """
        env = current_env()
        acting = self._reader(env)
        if acting is not env:
            with use_env(acting):  # the values and links are checked for it
                return await self.update(values)
        _, op = self._operation("write", env)
        self._refuse_window("update")
        return await writing.records.update(op, values)

    async def delete(self) -> int:
        """Delete every record that matches; return their number."""
        env = current_env()
        self._refuse_window("delete")
        _, op = self._operation("unlink", env)
        deleted: int = await env.app.execute(op)
        return deleted

    def _refuse_window(self, what: str) -> None:
        if self._limit or self._offset:
            raise NotSupported(f"{what}() with a limit or an offset: {_WINDOW[what]}")

    async def explain(self, *, principal: Principal | str | None = None) -> Plan:
        """Return the database's query plan of this search, as the plugins' layers rewrite it.

        ``str()`` of it names the index in words; the object is also the server's own plan, a
        mapping. Only ``system`` gets the figures of its execution, because the number of examined
        documents reveals records that an access rule hides, and the effect of each layer
        (``plan.layers``), because it shows the rules. Where a layer has changed the search, anybody
        else gets the stages of the plan with their indexes, and none of its values.

        Args:
            principal: Explain the search of this principal, with its access rules; for ``system``
                only.

        Raises:
            NotSupported: The backend has no query plans.
            AccessDenied: A principal was given, and ``system`` does not ask.
        """
        from earnorm.features.explaining.explanation import explain

        return await explain(self, principal)

    async def why(self, operation: str = "read", *, principal: object = None) -> Verdict:
        """Return why somebody may do something with these records, or may not; for ``system`` only.

        Nothing is done. It names each right and rule that has a say, the roles that are missing, and
        the records that the rules reach, with the filter of the database. If the query names one
        record by its id, it says which rule this record does not fulfil.

        Args:
            operation: ``"read"``, ``"write"``, ``"create"``, ``"unlink"``, ``"aggregate"``,
                ``"export"``, ``"watch"``, ``"explain"``, or the name of an operation.
            principal: The one whose rights count, as ``act_as()`` takes it; the default is the
                principal of the Env, nobody where there is none.

        Raises:
            AccessDenied: ``system`` does not ask.
            ConfigurationError: There is no such operation.
        """
        from earnorm.features.explaining.why import why

        return await why(self, operation, principal)

    def __repr__(self) -> str:
        # The domain's values may be secret and must not reach a log.
        return (
            f"<Query {self._model.__name__} by {', '.join(sorted(self._domain.paths())) or 'all'}>"
        )


_ORDERED = ("search", "group")
"""The operations that a default order concerns; others give no records in an order."""

_IN_ONE_STEP = "the database cannot do it in one step; await the query first and use the RecordSet"
_WINDOW = {
    "update": _IN_ONE_STEP,
    "delete": _IN_ONE_STEP,
    "paginate": "a page is a window already; give its size",
}


_ALL = (0, None)  # no limit, and no offset
_LISTS = frozenset({tuple, list})  # prefetch_tree() looks at each path in them
_PATHS = frozenset({str, ClientText})


def concerns_of(**concern: object) -> Concerns | None:
    """Return the concerns of a search's arguments; None where there are none.

    Raises:
        ConfigurationError: No such mode, level or concern.
    """
    return Concerns.of("search()", **concern)


def _wanted(
    fields: Iterable[str | Expressions[Any]], example: str = '"name" or ["name", "age"]'
) -> tuple[frozenset[str], frozenset[str], bool]:
    """Return the names of ``only()``, its paths into embedded objects, and if a client sent one."""
    listed = texts("only", fields, example)
    names = frozenset(listed)
    inside = frozenset(name for name in names if "." in name)
    return names - inside | {"_id"}, inside, ClientText in map(type, listed)


def _paths(paths: Iterable[str | Expressions[Any]]) -> tuple[str, ...]:
    if type(paths) in _LISTS:
        return tuple(map(path_of, paths))
    return tuple(texts("prefetch", paths, '"author_id" or ["author_id", "tag_ids"]'))
