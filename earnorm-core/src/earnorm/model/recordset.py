"""RecordSet: ordered records of one model, and Odoo's algebra on them."""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast, overload

from earnorm.domain import OPERATORS, Domain, DomainSource
from earnorm.domain.ast import TRUTH_VALUES, truth_value
from earnorm.exceptions import (
    FieldNotLoaded,
    MultipleRecords,
    NotFound,
)
from earnorm.fields.expressions import Expressions, path_of
from earnorm.fields.json_forms import json_text
from earnorm.fields.record_ids import id_text
from earnorm.fields.relational import is_record
from earnorm.kernel.environment import find_env
from earnorm.kernel.naming import nearest_field
from earnorm.model import writing
from earnorm.model.reading import serializing
from earnorm.model.reading.arranging import Nulls, by_fields, group, is_true, map_path, reader
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.ordering import Order
from earnorm.model.writing.tracking import env_of
from earnorm.model.writing.updates import Toggle

# Most programs use no tables and no filtered_domain(), so their methods import the code.
if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from earnorm.fields.base import Field
    from earnorm.fields.expressions import FieldPath
    from earnorm.fields.reference import Reference
    from earnorm.fields.relational import C, Link, Links
    from earnorm.model.base import BaseModel
    from earnorm.model.reading.fetch import Fetch

M = TypeVar("M", bound="BaseModel")
T = TypeVar("T")


def yields_to_fields(method: Callable[[RecordSet[M]], T]) -> Callable[[RecordSet[M]], T]:
    """Mark the getter of a property that gives a field of its name, if the model has one.

    A property or method that RecordSets get after their first release must not change the meaning
    of ``records.name`` for a model that has a field of this name.
    """
    name = method.__name__

    @wraps(method)
    def get(records: RecordSet[M]) -> T:
        if name in records._model._schema.fields:
            value: T = getattr(records.ensure_one(), name)
            return value
        return method(records)

    return get


class RecordSet(Generic[M]):
    """Ordered records of one model. It is immutable; set operations return new ones.

    A relation that is not loaded is a RecordSet too: ``await`` it before you read it.
    """

    __slots__ = (
        "__weakref__",
        "_is_default",
        "_load",
        "_loaded_by",
        "_model",
        "_origin",
        "_owner",
        "_part_of",
        "_pks",
        "_records",
    )

    _loaded_by: object

    def __init__(
        self,
        model: type[M],
        records: Sequence[M] | None,
        *,
        load: Callable[[Any], Coroutine[Any, Any, Any]] | None = None,
        origin: str = "",
        pks: Sequence[Any] | None = None,
        part_of: str = "",
        owner: Fetch | None = None,
    ) -> None:
        self._model = model
        self._records = records
        self._load = load
        self._origin = origin
        # These are the stored ids of the relation, also of records that do not exist or are hidden.
        self._pks = pks
        # The relation of which this is a part, or is made from one; empty for all other sets.
        self._part_of = part_of
        self._owner = owner  # the loading state of the record whose relation it is
        self._is_default = False  # True: the document has no key, and the field's default is read

    def __copy__(self) -> Self:
        return self  # it is immutable, and the loading state stays its own

    def __getstate__(self) -> tuple[None, Mapping[str, Any]]:
        # The loading state belongs to one process, as that of a record does: see ``pickling``.
        return None, {
            "_model": self._model,
            "_records": None if self._records is None else list(self._records),
            "_load": None,
            "_origin": self._origin,
            "_pks": None if self._pks is None else list(self._pks),
            "_part_of": self._part_of,
            "_is_default": self._is_default,
        }

    def __setstate__(self, state: tuple[None, Mapping[str, Any]]) -> None:
        # A pickle of version 0.1 does not have these.
        self._part_of, self._owner, self._is_default = "", None, False
        for name, value in state[1].items():
            object.__setattr__(self, name, value)

    @property
    def _loaded(self) -> Sequence[M]:
        if self._records is None:
            field = self._origin.rpartition(".")[2]
            raise FieldNotLoaded(
                f"{self._origin} is not loaded; 'await record.{field}' loads it for all records "
                f"fetched together, or search(...).prefetch({field!r})"
            )
        return self._records

    @property
    def _is_whole(self) -> bool:
        return self._records is not None and not self._part_of

    def _become(self, records: Sequence[M], part_of: str = "") -> None:
        self._records, self._part_of = records, part_of

    def _unloader(self) -> Callable[[], None]:
        """Return a function that makes it as unloaded as it is now."""
        records, part_of, pks = self._records, self._part_of, self._pks

        def unload() -> None:
            self._records, self._part_of, self._pks = records, part_of, pks

        return unload

    def _refuse_other_app(self) -> None:
        """Refuse the ids as a value where another App than their record's is current."""
        if self._owner is not None:
            self._owner.refuse_other_app()

    def _members(self) -> Sequence[Any]:
        """Return the values that a field stores for it: its ids if known, else the records.

        Raises:
            FieldNotLoaded: It is a part of a relation, and must not be taken for the whole.
        """
        if self._pks is not None:
            return self._pks
        records = self._loaded
        self._refuse_part("store it")
        return records

    def _refuse_part(self, why: str) -> None:
        if self._part_of:
            name = self._part_of.rpartition(".")[2]
            raise FieldNotLoaded(
                f"{self._part_of} is loaded in part, by prefetch({name!r}, limit=…), and to {why} "
                f"takes all of its records: 'await record.{name}' loads them; list(…) of the part "
                f"stands for its own records only"
            ).coded("part_of_relation")

    def _of(self, records: Sequence[M], other: object = None) -> RecordSet[M]:
        part_of = self._part_of or (other._part_of if isinstance(other, RecordSet) else "")
        return RecordSet(self._model, records, part_of=part_of)

    def __await__(self) -> Generator[Any, None, Self]:
        """Load a relation that is not loaded, or in part, for all records fetched together."""
        return self._loading().__await__()

    async def _loading(self) -> Self:
        return self if self._load is None else cast("Self", await self._load(self))

    @property
    def _actor(self) -> object:
        """The one as whom it was loaded: its record's reader if that is nobody else."""
        return getattr(self, "_loaded_by", None if self._owner is None else self._owner.seen_by)

    @property
    @yields_to_fields
    def is_partial(self) -> bool:
        """True for a part of a relation that ``prefetch`` loaded with a limit, and sets made of it.

        A part cannot be assigned to a relation, and no domain is evaluated on it. ``await`` of the
        relation loads the whole.
        """
        return bool(self._part_of)

    # -- reading ------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[M]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def __bool__(self) -> bool:
        return bool(self._loaded)

    @overload
    def __getitem__(self, index: int) -> M: ...
    @overload
    def __getitem__(self, index: slice) -> RecordSet[M]: ...
    def __getitem__(self, index: int | slice) -> M | RecordSet[M]:
        selected = self._loaded[index]
        return self._of(selected) if isinstance(selected, Sequence) else selected

    def __contains__(self, record: object) -> bool:
        return record in self._loaded

    @property
    def ids(self) -> list[str | None]:
        """The ids as text, in order; None for a record that is not stored.

        A Many2many that stores ids knows them before it is loaded.
        """
        if self._records is None and self._pks is not None:
            field = self._model._schema.fields["_id"]
            return [id_text(field, pk) for pk in self._pks]
        return [record.id for record in self._loaded]

    @property
    def pks(self) -> list[Any]:
        """The stored ids, in order; see ``ids``."""
        if self._records is None and self._pks is not None:
            return list(self._pks)
        return [record.pk for record in self._loaded]

    def exists(self) -> bool:
        """Return whether there is any record here. No query is sent; see ``still_exists``."""
        return bool(self._loaded)

    @property
    def is_stale(self) -> bool:
        """True if any record is stale; see ``BaseModel.is_stale``."""
        return any(record.is_stale for record in self._records or ())

    def ensure_one(self) -> M:
        """Return the only record.

        Raises:
            NotFound: There is no record.
            MultipleRecords: There are several.
        """
        records = self._loaded
        if len(records) == 1:
            return records[0]
        if not records:
            raise NotFound(f"{self._model._name}: no record where exactly one was asked for")
        raise MultipleRecords(
            f"{self._model._name}: {len(records)} records where exactly one was asked for"
        )

    if not TYPE_CHECKING:
        # This is a convenience for a RecordSet of one record, and type checkers must not see it.
        def __getattr__(self, name):
            own = getattr(type(self), name, None)
            if isinstance(own, property):
                # FieldNotLoaded is an AttributeError, so Python calls this when a property raises it.
                return own.fget(self)
            if name.startswith("_"):
                raise AttributeError(name)
            fields = self._model._schema.fields
            if name not in fields and name not in ("id", "pk") and not hasattr(self._model, name):
                raise AttributeError(
                    f"RecordSet[{self._model.__name__}] has no attribute {name!r}"
                    f"{nearest_field(self._model._schema, name)}"
                )
            return getattr(self.ensure_one(), name)

    def to_dict(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return each record's loaded fields as Python values; see ``BaseModel.to_dict``.

        It is synchronous: no other task runs until all records are done, 10 µs each or more.
        ``await query.to_dict()`` and ``earnorm.in_parts()`` let others run in between.
        """
        names = (_listed(include), _listed(exclude))
        return serializing.as_dicts(self._loaded, depth, *names)

    def to_json(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> str:
        """Return the records as the text of a JSON array; see ``BaseModel.to_json``.

        It is synchronous, as :meth:`to_dict` is.
        """
        names = (_listed(include), _listed(exclude))
        return json_text(serializing.as_json_dicts(self._loaded, depth, *names))

    def _json_form(self) -> list[str | None]:
        return self.ids

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas DataFrame of the records.

        It has a column for each field that all of them have loaded. It is synchronous: no other task
        runs until it is done. ``await query.to_pandas()`` lets others run in between.

        Raises:
            ConfigurationError: pandas is not installed: ``pip install "earnorm-core[pandas]"``.
        """
        from earnorm.features.exporting.tables import records_to_pandas

        return records_to_pandas(self)

    def to_polars(self) -> polars.DataFrame:
        """Return a Polars DataFrame; see ``to_pandas``: ``pip install "earnorm-core[polars]"``."""
        from earnorm.features.exporting.tables import records_to_polars

        return records_to_polars(self)

    def to_arrow(self) -> pyarrow.Table:
        """Return an Arrow table; see ``to_pandas``: ``pip install "earnorm-core[arrow]"``."""
        from earnorm.features.exporting.tables import records_to_arrow

        return records_to_arrow(self)

    # -- choosing and arranging ---------------------------------------------------------------

    def filtered(self, key: str | Callable[[M], object]) -> RecordSet[M]:
        """Return the records for which the callable, or the field at the dotted path, is true.

        A path with several values is true if any of them is. It is synchronous: no other task runs
        until all records are done; see ``earnorm.in_parts()``.
        """
        test = key if callable(key) else reader(key)
        return self._of([record for record in self._loaded if is_true(test(record))])

    def filtered_domain(self, domain: DomainSource) -> RecordSet[M]:
        """Return the records that the database would match, without a query.

        It is synchronous: no other task runs until all records are done. On a large set use
        ``earnorm.in_parts()``, or ask the database.

        Raises:
            DomainError: An unknown field or operator.
            FieldNotLoaded: The domain needs a field that was not fetched.
        """
        from earnorm.model.reading.loaded import judge

        if type(domain) in TRUTH_VALUES:
            raise truth_value(domain)
        wanted = Domain(domain)
        env = find_env()
        app = env.app if env is not None and env.app.is_started else None
        operators = OPERATORS if app is None else app.operators
        model = self._model if app is None else app.bind(self._model).model
        matches = judge(model, wanted, operators, self._loaded)
        return self._of([record for record in self._loaded if matches(record)])

    @overload
    def mapped(self, key: Link[C | None] | Links[C]) -> RecordSet[C]: ...  # type: ignore[overload-overlap] # pyright: ignore[reportOverlappingOverload] # the first that fits is meant
    @overload
    def mapped(self, key: Field[T, Literal[True]]) -> list[T]: ...
    @overload
    def mapped(self, key: Field[T, Literal[False]]) -> list[T | None]: ...
    @overload
    def mapped(self, key: str | FieldPath) -> Any: ...
    @overload
    def mapped(self, key: Expressions[T]) -> list[T]: ...
    @overload
    def mapped(self, key: Callable[[M], T]) -> list[T]: ...
    def mapped(self, key: str | Expressions[Any] | Callable[[M], Any]) -> Any:
        """Return each record's value, with duplicates; a relation gives a RecordSet without them.

        ``mapped("title")`` and ``mapped(Ticket.title)`` are the same; of the latter, type checkers know the result.

        On the way through a relation each record counts once, as in Odoo, and lists of embedded
        objects are flattened. It is synchronous, as :meth:`filtered` is.
        """
        if callable(key):
            return [key(record) for record in self._loaded]
        return map_path(self, path_of(key))

    def sorted(
        self,
        key: Order | Callable[[M], Any] = None,
        reverse: bool = False,
        *,
        nulls: Nulls | None = None,
    ) -> RecordSet[M]:
        """Return the records sorted; the sort is stable.

        It is synchronous, and cannot be done in parts: no other task runs until all are sorted. A
        query's ``order()`` lets the database sort.

        Args:
            key: A callable, or paths: ``"-age,country_id.name"``. The default is the model's
                ``_order``, else the id.
            reverse: Sort in the opposite direction.
            nulls: The place of unset values in either direction, ``"first"`` or ``"last"``. By
                default they are lowest, as in the database.
        """
        if callable(key):
            return self._of(sorted(self._loaded, key=key, reverse=reverse))
        order = self._model._order if key is None else key
        return self._of(by_fields(self._loaded, order, reverse, nulls))

    @overload
    def grouped(self, key: Field[T, Literal[True]]) -> dict[T, RecordSet[M]]: ...
    @overload
    def grouped(self, key: Field[T, Literal[False]]) -> dict[T | None, RecordSet[M]]: ...
    @overload
    def grouped(self, key: Expressions[T]) -> dict[T, RecordSet[M]]: ...
    @overload
    def grouped(self, key: str) -> dict[Any, RecordSet[M]]: ...
    @overload
    def grouped(self, key: Callable[[M], T]) -> dict[T, RecordSet[M]]: ...
    def grouped(self, key: str | Expressions[Any] | Callable[[M], Any]) -> dict[Any, RecordSet[M]]:
        """Return RecordSets by the value of a callable or of the field at a dotted path.

        A relation loaded in one of them is loaded in all, because the records stay fetched
        together. It is synchronous, as :meth:`filtered` is.
        """
        groups = group(self._loaded, key if callable(key) else path_of(key))
        return {value: self._of(records) for value, records in groups.items()}

    # -- algebra ------------------------------------------------------------------------------

    def _other(self, other: object, symbol: str) -> Sequence[M]:
        model: Any = type(other) if is_record(other) else getattr(other, "_model", None)
        if model is not None and (
            model._name == self._model._name or _is_kind_of(model, self._model)
        ):
            others: Any = [other] if is_record(other) else other
            return others._loaded if isinstance(others, RecordSet) else cast("Sequence[M]", others)
        kind = (
            f"RecordSet[{other._model.__name__}]"
            if isinstance(other, RecordSet)
            else type(other).__name__
        )
        raise TypeError(f"RecordSet[{self._model.__name__}] {symbol} {kind}: not the same model")

    def __add__(self, other: RecordSet[M] | M) -> RecordSet[M]:
        """Return the records of both, one after the other, with duplicates."""
        return self._of([*self._loaded, *self._other(other, "+")], other)

    def __or__(self, other: RecordSet[M] | M) -> RecordSet[M]:
        """Return the union without duplicates, in the order of first occurrence."""
        return self._of(list(dict.fromkeys([*self._loaded, *self._other(other, "|")])), other)

    def __and__(self, other: RecordSet[M] | M) -> RecordSet[M]:
        """Return the intersection without duplicates, in the order of the left side."""
        wanted = set(self._other(other, "&"))
        return self._of(list(dict.fromkeys(r for r in self._loaded if r in wanted)), other)

    def __sub__(self, other: RecordSet[M] | M) -> RecordSet[M]:
        """Return the difference, in the order of the left side."""
        unwanted = set(self._other(other, "-"))
        return self._of([record for record in self._loaded if record not in unwanted], other)

    def __le__(self, other: RecordSet[M] | M) -> bool:
        """Return whether every record is in the other."""
        return set(self._loaded) <= set(self._other(other, "<="))

    def __lt__(self, other: RecordSet[M] | M) -> bool:
        """Return whether every record is in the other, and the other has more."""
        return set(self._loaded) < set(self._other(other, "<"))

    def __ge__(self, other: RecordSet[M] | M) -> bool:
        """Return whether it has every record of the other."""
        return set(self._loaded) >= set(self._other(other, ">="))

    def __gt__(self, other: RecordSet[M] | M) -> bool:
        """Return whether it has every record of the other, and more."""
        return set(self._loaded) > set(self._other(other, ">"))

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same records, in any order."""
        if not isinstance(other, RecordSet) or other._model._identity != self._model._identity:
            return False
        return set(self._loaded) == set(other._loaded)

    def __hash__(self) -> int:
        return hash((self._model._identity, frozenset(self._loaded)))

    # -- writing ------------------------------------------------------------------------------

    async def write(self, values: Mapping[str, Any]) -> int:
        """Write the same values to every record in one round trip; return the number written.

        Raises:
            ValidationError: A value is not valid; nothing is written.
            NotFound: Some do not exist any more; the others were written.
            AccessDenied: A rule refuses it; nothing is written.
        """
        records = self._loaded
        classes: set[type[BaseModel]] = {*map(type, records)}
        for model in classes:
            if "write" in model._overridden:
                return await self._one_by_one("write", lambda record: record.write(values))
        turn = writing.turns.begin(records) or await writing.turns.wait(records)
        try:
            return await writing.records.write(records, values)
        finally:
            writing.turns.end(turn)

    async def _one_by_one(self, name: str, call: Callable[[M], Awaitable[object]]) -> int:
        """Call an overridden method of each record, in one transaction; return the number.

        Args:
            name: The method.
            call: Calls it.
        """
        records = list({id(record): record for record in self._loaded}.values())

        async def run() -> int:
            number = 0
            for record in records:
                counts = name != "save" or record.is_changed
                result = await call(record)
                number += result if isinstance(result, int) else counts
            return number

        from earnorm.kernel.transactions.blocks import atomic  # loaded with the first App
        from earnorm.model.writing.pipeline import to_queue_for

        return await atomic(run, queues_for=to_queue_for(records))

    async def save(self) -> int:
        """Write each record's own changes in one round trip, and create the new records.

        A record that is here twice is saved once; changes of several copies of it are written
        together. Changes of several models, and new records beside changed ones, are written in one
        transaction where there are transactions.

        Returns:
            The number of records written or created.

        Raises:
            ValidationError: A value is not valid, or two copies of one record have different values
                for a field; nothing is written.
            NotFound: Some do not exist any more (``error.ids``); the others were written.
            ConcurrencyError: The model is versioned, and somebody else changed some of the records
                (``error.ids``); the others were written.
            AccessDenied: A rule refuses it; nothing is written.
        """
        classes: set[type[BaseModel]] = {*map(type, self._loaded)}
        for model in classes:
            if "save" in model._overridden:
                return await self._one_by_one("save", lambda record: record.save())
        records = self._loaded
        turn = writing.turns.begin(records) or await writing.turns.wait(records)
        try:
            return await writing.sets.save(self._model, records)
        finally:
            writing.turns.end(turn)

    async def toggle(self, field: str) -> int:
        """Flip a Boolean of each record, atomically on the server; return the number written.

        Raises:
            ValidationError: The field is not a Boolean.
            NotFound: Some do not exist any more; the others were written.
        """
        return await self.write({field: Toggle()})

    async def archive(self) -> int:
        """Leave the records out of searches from now on; return the number written.

        Raises:
            ConfigurationError: The model does not inherit from ``mixins.SoftDelete``.
        """
        from earnorm.features.archive.archiving import set_active

        return await set_active(self, False)

    async def unarchive(self) -> int:
        """Include the records in searches again; return the number written, as ``archive`` does."""
        from earnorm.features.archive.archiving import set_active

        return await set_active(self, True)

    async def copy(self, default: Mapping[str, Any] | None = None) -> RecordSet[M]:
        """Create a copy of each record, with one insert; see ``record.copy()``."""
        made = await writing.copying.copies(self._loaded, default or {})
        return RecordSet(self._model, made)

    async def read(self, fields: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Read these fields from the database, as dicts like those of ``to_dict()``.

        The dicts are in the order of the records, which themselves do not change.

        Args:
            fields: Names; the default is all. The id is always included.

        Raises:
            NotFound: A record does not exist any more (or not for the acting principal).
            ValidationError: A record is not stored.
        """
        return await writing.copying.read_values(self._loaded, self._model, fields)

    async def unlink(self) -> int:
        """Delete the records; return the number deleted."""
        records = self._loaded
        classes: set[type[BaseModel]] = {*map(type, records)}
        for model in classes:
            if "unlink" in model._overridden:
                return await self._one_by_one("unlink", lambda record: record.unlink())
        return await writing.records.unlink(records)

    async def refresh(self, *fields: str) -> Self:
        """Load fields again, and drop their unsaved changes.

        What the program changes while it waits stays a change.

        Args:
            *fields: Names of fields; without any, all fields. Other fields keep their changes.

        Raises:
            NotFound: A record does not exist any more (or not for the acting principal).
            ValidationError: A name is unknown.
        """
        from earnorm.model.reading.refreshing import refresh

        records = list(self._loaded)
        turn = writing.turns.begin(records) or await writing.turns.wait(records)
        try:
            await refresh(records, self._model, fields)
        finally:
            writing.turns.end(turn)
        return self

    if TYPE_CHECKING:

        @overload
        async def load(self, relation: Link[C | None] | Links[C]) -> RecordSet[C]: ...
        @overload
        async def load(self, relation: Reference[Any]) -> RecordSet[Any]: ...
        @overload
        async def load(self, relation: str) -> RecordSet[Any]: ...
        async def load(self, relation: object) -> Any:
            """See ``_load_relation``."""

    else:

        @property
        @yields_to_fields
        def load(self):  # noqa: D102  see _load_relation
            return self._load_relation

    async def _load_relation(self, relation: object) -> RecordSet[Any]:
        """Load a relation of all records: ``await posts.load(Post.author_id)``.

        It is one query for all records that were fetched together.

        Args:
            relation: A relation of the model: the field, or its name.

        Returns:
            What it leads to, without duplicates; what is gone is left out.

        Raises:
            DomainError: The model has no such relation.
        """
        from earnorm.model.relations.loading import load_each, name_of

        name = name_of(self._model, relation)
        await load_each(self._loaded, name)
        loaded: RecordSet[Any] = map_path(self, name)
        return loaded

    async def still_exists(self) -> RecordSet[M]:
        """Return the records that the database still has (and shows to the acting principal)."""
        documents = await self._documents(only=frozenset())
        return self._of([record for record in self._loaded if record.pk in documents])

    async def _documents(self, only: frozenset[str] | None = None) -> dict[Any, dict[str, Any]]:
        env = env_of(self._loaded, stale=True)
        bound = env.app.bind(self._model)
        pks = [record.pk for record in self._loaded if record.is_stored]
        documents = await by_ids(bound, "_id", pks, env=env, fields=only)
        return {document["_id"]: document for document in documents}

    def __repr__(self) -> str:
        if self._records is None:
            return f"<RecordSet[{self._model.__name__}] not loaded>"
        return f"<RecordSet[{self._model.__name__}] of {len(self._records)}>"


def is_default(value: object) -> bool:
    """Return whether a value is the default of a to-many field that the document does not have."""
    return isinstance(value, RecordSet) and value._is_default


def _listed(names: Iterable[str] | None) -> Iterable[str] | None:
    """Return names that can be iterated once for each record."""
    return names if names is None or isinstance(names, str) else list(names)


def _is_kind_of(model: type[BaseModel], base: type[BaseModel]) -> bool:
    """Return whether a class shares another one's collection, as a subclass of it."""
    return model._identity == base._identity and issubclass(model, base._base or base)
