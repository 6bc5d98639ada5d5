"""BaseModel: the declarations of a model's class body, and the methods of one record.

``structures`` has its common base with embedded objects.
"""

from __future__ import annotations

import re
from collections.abc import (
    AsyncIterable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, cast, overload

from bson import ObjectId

from earnorm.concerns import ReadConcern, ReadPreference, WriteConcern
from earnorm.domain import Condition, Domain, DomainSource
from earnorm.domain.ast import TRUTH_VALUES, truth_value
from earnorm.domain.values import stored
from earnorm.exceptions import (
    ConfigurationError,
    ErrorDetail,
    NotFound,
    ValidationError,
)
from earnorm.fields.base import INTERNAL, Field
from earnorm.fields.expressions import Expressions
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.json_forms import json_text
from earnorm.fields.option_rules import check_options
from earnorm.fields.reference import Reference
from earnorm.fields.relational import C, Link, Links, Many2one, ToMany
from earnorm.kernel import registry
from earnorm.kernel.environment import current_env, find_env
from earnorm.kernel.operations import ONE, Operation
from earnorm.kernel.transactions.held_records import HOLDERS, note_assigned
from earnorm.model import writing
from earnorm.model.declaring import Declaration, declare_options
from earnorm.model.extension import called_in_app, class_in_app
from earnorm.model.identity import (
    IdStored,
    IdText,
    are_same,
    draw_ids,
    find_id,
    has_id,
    hash_of,
    keep_as_drawn,
)
from earnorm.model.query import Query, concerns_of
from earnorm.model.reading import serializing
from earnorm.model.reading.fetch import Fetch
from earnorm.model.reading.hydrate import ghosts, hydrate, hydrate_one
from earnorm.model.reading.ordering import Order, parse_order
from earnorm.model.recordset import RecordSet
from earnorm.model.relations.ghosts import load_ghost
from earnorm.model.schema import Schema
from earnorm.model.slots import pending_of, set_fetch
from earnorm.model.structures import Structure, declared_fields, reserved_names, yields_to_fields
from earnorm.model.validation.constraints import rules_of
from earnorm.model.writing.pending import changed_fields, take_back
from earnorm.model.writing.updates import Toggle

# Few programs use watch, upsert, batches and bulks, so their methods import them.
if TYPE_CHECKING:
    from earnorm.features.backfilling.backfill import Backfilled
    from earnorm.features.backfilling.backfill import Progress as BackfillProgress
    from earnorm.features.bodies.body import Body
    from earnorm.features.bulk.batches import BatchResult, Progress
    from earnorm.features.bulk.bulk import Bulk
    from earnorm.features.indexes.collection_options import CollectionOptions
    from earnorm.features.indexes.declarations import IndexEntry
    from earnorm.features.watching.watching import Watch
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.catalog import Extension
    from earnorm.kernel.contract.attributes import BroughtAttribute
    from earnorm.kernel.transactions.outcome import Outcome
    from earnorm.kernel.views import Scope
    from earnorm.model.validation.constraints import When

T = TypeVar("T")

# The documents of one operation of create_many: at 1,000 the rate is 0.9 of this one's; at 10,000
# it is no higher and needs more memory.
_BATCH = 2000

_SNAKE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Declared(Structure):
    """The class methods that models and embedded models share."""

    __slots__ = ()

    @classmethod
    def pydantic_model(
        cls,
        *,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        optional: Iterable[str] | bool = False,
        name: str | None = None,
    ) -> type[Body]:
        """Return a pydantic model of the fields, for HTTP bodies; it is made once per arguments.

        It takes records (``Out.model_validate(record)``): ids as text, relations as ids, embedded
        objects nested. A field that cannot be written is included only if ``include`` names it.

        Args:
            include: Only these fields.
            exclude: Not these fields, e.g. ``{"id"}`` for a client's request.
            optional: Optional fields, or True for all: the body of a partial update.
            name: The class's name, which an OpenAPI page shows.

        Raises:
            ValidationError: A name is unknown.
        """
        from earnorm.features.bodies.pydantic_models import body_model  # loads the rest of pydantic

        return body_model(cls, include, exclude, optional, name)

    @classmethod
    def json_schema(
        cls, *, mode: Literal["validation", "serialization"] = "validation"
    ) -> dict[str, Any]:
        """Return the JSON Schema of :meth:`pydantic_model`.

        Args:
            mode: ``validation`` for the input, ``serialization`` for the output.
        """
        return cls.pydantic_model().model_json_schema(mode=mode)


class BaseModel(Declared):
    """A model: subclass it and declare fields.

    Class attributes:
        _name: The model's name (default: the class name in snake case).
        _collection: Its collection (default: the name, with dots as underscores).
        _indexes: Indexes beside those of ``unique`` and ``index``, e.g. ``[{"email": 1}]`` or
            ``[Index("email", unique=True)]``. Those of every base class are part of it.
        _validation: ``"strict"`` or ``"warn"``: the server, too, refuses (or logs) documents that
            break the rules of the fields, from every client.
        _options: The options of the collection (``CollectionOptions``): capped, time series and
            others.
        _versioned: Refuse lost updates: writes carry a revision.
        _order: The order of searches and of relations that have none of their own, and of
            ``sorted()``: ``"-date,name"`` or ``["-date", "name"]``.
        _read_concern, _write_concern, _read_preference: The demands of its reads and writes on a
            replica set, e.g. ``_read_preference = "secondaryPreferred"``; else the App's.
        _parent_name: The Many2one to the own model that makes a tree (``"parent_id"``).
        _parent_store: Keep the path of each record's ancestors in ``_parent_path``.
        _bookkeeping: The name of the plugin or feature that keeps its own data in these records:
            observers are not told of them unless they ask; see ``docs/plugins.md``.
        _soft_delete: Searches leave out records that are not ``active``; see ``mixins.SoftDelete``.
        _discriminator: The field that distinguishes the classes of one collection: the subclasses
            of this class share its collection; see ``docs/extension.md``.
        _kind: The field's value for this class (default: its ``_name``).
        _inherits: Models whose fields this one has, each with the Many2one to its record:
            ``{"partner": "partner_id"}``.
        _abstract: A base for other models, without a collection.
        _inherit: The name of a model that this class extends; see ``hookspecs.register_models``.

    The constructor validates its values, and raises ``ValidationError`` (a ``ValueError``).
    Nothing is stored before ``save()``.
    """

    # The id that was drawn for a record, not given; see ``identity``.
    __slots__ = ("_drawn_id",)

    _name: ClassVar[str] = ""
    _collection: ClassVar[str] = ""
    _indexes: ClassVar[Sequence[IndexEntry]] = ()
    _validation: ClassVar[Literal["strict", "warn"] | None] = None
    _options: ClassVar[CollectionOptions | Mapping[str, Any] | None] = None
    _versioned: ClassVar[bool] = False
    _order: ClassVar[Order] = None
    _parent_name: ClassVar[str] = "parent_id"
    _parent_store: ClassVar[bool] = False
    _bookkeeping: ClassVar[str | None] = None
    _read_concern: ClassVar[ReadConcern | None] = None
    _write_concern: ClassVar[WriteConcern | None] = None
    _read_preference: ClassVar[ReadPreference | None] = None
    _soft_delete: ClassVar[bool] = False
    _discriminator: ClassVar[str | None] = None
    _kind: ClassVar[str] = ""
    _root: ClassVar[type[BaseModel] | None] = None
    _identity: ClassVar[str] = ""
    _inherits: ClassVar[Mapping[str, str]] = {}
    _abstract: ClassVar[bool] = True
    _inherit: ClassVar[str | None] = None
    _base: ClassVar[type[BaseModel] | None] = None
    _overridden: ClassVar[frozenset[str]] = frozenset()
    _unique_scope: ClassVar[Scope | None] = None

    _id: Field[Any, Any] = ObjectIdField()  # a model may declare another kind

    def __init_subclass__(
        cls, brought_attributes: Sequence[BroughtAttribute] = (), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        body = dict(vars(cls))
        cls._take_names(body)
        declaration = Declaration(cls, body, declared_fields(cls, _RECORD_NAMES), _RECORD_NAMES)
        declaration.run(BaseModel, brought_attributes)
        check_options(cls.__name__, declaration.fields.values(), of_records=True)
        cls._schema = Schema(cls._name, declaration.fields, declaration.added)
        cls._schema.is_of_model = True
        cls._schema.rules = rules_of(cls)
        cls._schema.default_order = parse_order(cls._order)
        declare_options(cls)
        cls._schema.identity = cls._identity
        own_create = body.get("create")
        if isinstance(own_create, classmethod):
            type.__setattr__(cls, "create", called_in_app(own_create))
        # A set of records calls these methods of each record, if the class has its own; create() of
        # the model calls that of the App's class.
        cls._overridden = frozenset(
            name for name in _OVERRIDABLE if getattr_static(cls, name) is not vars(BaseModel)[name]
        )
        cls._fields = cls._schema.fields
        if declaration.is_model:
            registry.define(cls)

    @classmethod
    def _take_names(cls, body: Mapping[str, Any]) -> None:
        cls._abstract = body.get("_abstract", False)
        if "_base" in body:  # one App's class of a model that plugins extend
            return
        if cls._inherit is not None and "_inherit" in body:
            cls._name = f"{cls._inherit}+{cls.__name__}"
            return
        cls._inherit = None
        cls._name = body.get("_name") or _SNAKE.sub("_", cls.__name__).lower()
        cls._collection = body.get("_collection") or cls._name.replace(".", "_")
        cls._identity = cls._name

    @classmethod
    def _in_app(
        cls, extensions: Sequence[Extension], attributes: Sequence[BroughtAttribute]
    ) -> type[BaseModel]:
        """Return one App's class of the model; see :func:`class_in_app`."""
        return class_in_app(cls, extensions, attributes)

    # -- one record ---------------------------------------------------------------------------

    if TYPE_CHECKING:
        # A checker sees properties: one that is compared on the class is flagged, and works.

        @property
        def id(self) -> str:
            """The id as text. Before the record is stored it is None, which no type says: nearly all records are."""
            ...

        @property
        def pk(self) -> Any:
            """The id as it is stored (an ObjectId unless the model declares its own ``_id``)."""

    else:
        id = IdText(doc="The id as text; None before the record is stored.")
        pk = IdStored(
            doc="The id as it is stored (an ObjectId unless the model declares its own ``_id``)."
        )

    @property
    def is_stored(self) -> bool:
        """True if the record came from the database or was saved."""
        return hasattr(self, "_fetch")

    @property
    def is_stale(self) -> bool:
        """True if the values were read in a transaction that was rolled back.

        Such values may never have existed. They can be read; call ``refresh()`` before a write.
        """
        return self.is_stored and self._fetch.is_stale

    @property
    def is_changed(self) -> bool:
        """True if ``save()`` would write something."""
        return not self.is_stored or bool(changed_fields(self))

    def _refuse_other_app(self) -> None:
        """Refuse the record as a value where another App than its own is current."""
        if self.is_stored:
            self._fetch.refuse_other_app()

    def _be_linked(self) -> None:
        """Draw the id of an unsaved record, because a link asks which record it is."""
        draw_ids([self])

    def _is_being_made(self) -> bool:
        """Return whether the record is stored together with one that links to it."""
        return writing.creating.is_made(self)

    def exists(self) -> bool:
        """Return False if the record was looked for and not found. No query is sent.

        A link may lead to such a record: one that was deleted, or that who is acting may not see.
        """
        return not (self.is_stored and self._fetch.is_gone)

    def ensure_one(self) -> Self:
        """Return the record itself, so that it can be used like a RecordSet of one record."""
        return self

    def to_dict(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """Return the id as text and the loaded fields as Python values; embedded objects are dicts.

        Args:
            depth: The number of nested relations whose loaded records become dicts. Deeper records,
                and relations that are not loaded, become ids (text). Nothing is loaded.
            include: Only these fields.
            exclude: Not these fields.

        Raises:
            ValidationError: A name is unknown.
            FieldNotLoaded: A field of ``include`` was not fetched.
            LimitExceeded: More than 60 levels, or 100,000 related records, would become dicts.
        """
        return serializing.as_dict(self, depth, include, exclude)

    def to_json(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> str:
        """Return :meth:`to_dict` as JSON text.

        Times are in ISO 8601 (UTC, with Z), decimals, ids and UUIDs are text, bytes are in base64.
        """
        return json_text(serializing.as_json(self, depth, include, exclude))

    def _json_form(self) -> str | None:
        return self.id

    async def save(self, values: Mapping[str, Any] | None = None) -> Self:
        """Store the record: create it, or write its changes.

        Args:
            values: More values to write in the same round trip; as for :meth:`write`.

        Raises:
            ValidationError: A value is not valid; nothing is written.
            DuplicateKey: Another record has a value that must be unique.
            NotFound: The record does not exist any more (or not for the acting principal).
            ConcurrencyError: The model is versioned, and another write came first.
        """
        records = (self,)
        turn = writing.turns.begin(records) or await writing.turns.wait(records)
        try:
            if values:
                await writing.records.save_with(self, values)
            elif self.is_stored:
                saving = await writing.records.prepared_save(records)
                if saving is not None:
                    await saving[1]()
            else:
                await writing.creating.create(_bound(type(self)), records)
        finally:
            writing.turns.end(turn)
        return self

    async def write(self, values: Mapping[str, Any]) -> Self:
        """Change some fields, in the database and in this object. Errors are those of :meth:`save`.

        Args:
            values: Values by field, or by a dotted path into one (``{"address.city": "Huế"}``); a
                value may be a change that the server makes, such as ``Inc(1)``.
        """
        records = (self,)
        turn = writing.turns.begin(records) or await writing.turns.wait(records)
        try:
            await writing.records.write(records, values)
        finally:
            writing.turns.end(turn)
        return self

    async def toggle(self, field: str) -> Self:
        """Flip a Boolean, atomically on the server. Errors are those of :meth:`write`."""
        return await self.write({field: Toggle()})

    async def copy(self, default: Mapping[str, Any] | None = None) -> Self:
        """Create a new record with this one's values, unsaved changes included.

        The copy leaves out the id, values that lie in other records, and fields with
        ``copy=False``, the default of unique fields. A field that was not fetched is read first. A
        record that this one delegates to (``_inherits``) is copied with it.

        Args:
            default: Values that replace the record's own.

        Raises:
            ValidationError: A required field is left out, and has no default.
            NotFound: This record, or one that it delegates to, does not exist any more.
        """
        new: Self = (await writing.copying.copies([self], default or {}))[0]
        return new

    async def read(self, fields: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the stored values of these fields; see :meth:`RecordSet.read`."""
        return (await RecordSet(type(self), [self]).read(fields))[0]

    async def unlink(self) -> int:
        """Delete the record; return the number deleted (0 if it did not exist any more)."""
        return await writing.records.unlink([self])

    async def refresh(self, *fields: str) -> Self:
        """Load fields again, and drop their unsaved changes.

        What the program changes while it waits stays a change.

        Args:
            *fields: Names of fields; without any, all fields. Other fields keep their changes.

        Raises:
            NotFound: The record does not exist any more (or not for the acting principal).
            ValidationError: A name is unknown.
        """
        await RecordSet(type(self), [self]).refresh(*fields)
        return self

    @overload
    async def load(self, relation: Many2one[C, Literal[True]]) -> C: ...
    @overload
    async def load(self, relation: Many2one[C, Literal[False]]) -> C | None: ...
    @overload
    async def load(self, relation: Links[C]) -> RecordSet[C]: ...
    @overload
    async def load(self, relation: Link[T]) -> T: ...
    @overload
    async def load(self, relation: Reference[Any]) -> BaseModel | None: ...
    @overload
    async def load(self, relation: str) -> Any: ...
    @yields_to_fields
    async def load(self, relation: object) -> Any:
        """Return what a relation leads to, loaded: ``await post.load(Post.author_id)``.

        It is loaded for all records that were fetched together, with one query.

        Args:
            relation: A relation of the model: the field, or its name.

        Returns:
            The record, or None if the relation is unset; the RecordSet of a to-many field.

        Raises:
            DomainError: The model has no such relation.
            NotFound: The other record does not exist any more (or not for the acting principal).
        """
        from earnorm.model.relations.loading import load_of

        return await load_of(self, relation)

    def __await__(self) -> Generator[Any, None, Self]:
        """Load a ghost, and with it the ghosts of all records that were fetched together."""
        return load_ghost(self).__await__()

    def _assign(self, field: Field[Any, Any], value: Any, when: When = "create") -> None:
        name, schema = field.name, type(self)._schema
        if schema.derived is not None and name in schema.derived.by_name:
            schema.derived.assign(self, field, value)
            return
        if hasattr(self, "_fetch"):  # it is stored
            when = "write"
        if name not in schema.freely_assigned:
            if not field.stored or not field.assignable:
                is_elsewhere = not field.stored and not isinstance(field, ToMany)
                if is_elsewhere or not field.assignable:
                    raise ValidationError(type(self)._name, [_not_assigned(field, is_elsewhere)])
            if when == "write" and (field.readonly or name == "_id"):
                raise ValidationError(type(self)._name, [_readonly(field)])
            if name == "_id":
                # It is validated at once, because the hash is that of the stored value.
                value = schema.validate_partial({"_id": value}, "create")["_id"]
                if value is None or has_id(self, value):
                    return
                if find_id(self) is not None:
                    raise ValidationError(type(self)._name, [_fixed_id()])
        env = find_env()
        if env is not None and env.transaction is not None:
            env.transaction.touch(self)
        if name == "_id":
            self._set_valid("_id", value)
            return
        Structure._assign(self, field, value, when)
        if HOLDERS:
            note_assigned(self, name)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, BaseModel) and are_same(self, other)

    def __hash__(self) -> int:
        return hash_of(self)

    def _restorer(self) -> Callable[[], None]:
        restore = super()._restorer()

        def restore_all_but_id() -> None:
            pk = self.__dict__.get("_id")
            restore()
            if pk is not None and find_id(self) is None:
                self.__dict__["_id"] = pk  # it was given in the transaction, and is fixed

        return restore_all_but_id

    def _unstore(self, state: dict[str, Any], drawn_ids: Collection[Any] = ()) -> None:
        """Make a record that was created unsaved again; it keeps its id.

        Args:
            state: The state that it was given.
            drawn_ids: Ids that were drawn and not given.
        """
        super()._unstore(state)
        pk = self.__dict__.get("_id")
        if type(pk) is ObjectId and pk in drawn_ids:
            keep_as_drawn(self, pk)

    def __repr__(self) -> str:
        # The values may be secret and must not reach a log.
        return f"<{type(self).__name__} {self.id or 'unsaved'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        from earnorm.model.pickling import reduced

        return reduced(self)

    def __setstate__(self, links: Mapping[str, BaseModel]) -> None:
        # The links to records that are not stored, which ``reduced`` gives apart from the values.
        self.__dict__.update(links)

    def _make_stale(self, outcome: Outcome) -> None:
        """Say that the values may never have existed, because a transaction was rolled back."""
        fetch = self._fetch
        if not fetch.is_ghost:
            stale = Fetch(fetch.app, fetch.loaded)
            stale.parts, stale.seen_in = fetch.parts, outcome
            set_fetch(self, stale)

    def _assigned_names(self) -> frozenset[str]:
        """Return the names of the fields that were assigned and are not stored."""
        return frozenset(pending_of(self).changes)

    def _take_back_assigned(self, names: Iterable[str]) -> None:
        """Take back what was assigned to these fields and is not stored."""
        take_back(self, names)

    # -- the model ----------------------------------------------------------------------------

    @classmethod
    def of(cls, record: BaseModel) -> Self:
        """Return the same record, typed as this class for type checkers: with an extension's fields.

        Raises:
            ConfigurationError: This class is not part of the record's model in its App.
        """
        if not isinstance(record, cls):
            raise ConfigurationError(
                f"{cls.__name__} is no part of {type(record)._name!r} here: the plugin that brings it "
                f"is not selected in this App, or the record was made before the App was started"
            )
        return record

    @classmethod
    def search(
        cls,
        domain: DomainSource = None,
        *,
        order: Order = None,
        limit: int = 0,
        offset: int = 0,
        only: Iterable[str | Expressions[Any]] | None = None,
        prefetch: Iterable[str | Expressions[Any]] = (),
        timeout: float | None = None,
        read_concern: ReadConcern | None = None,
        read_preference: ReadPreference | None = None,
    ) -> Query[Self]:
        """Return a query of the records that match, which runs when it is awaited or iterated.

        Args:
            domain: A list such as ``[("age", ">", 20)]``, an expression, or None for all.
            order: ``"-age,name"``; see ``Query.order``.
            limit: The most records to return; 0 means all.
            offset: The number of records to leave out first.
            only: The fields to fetch.
            prefetch: Relations to load together with the records.
            timeout: The time limit in seconds.
            read_concern: See ``Query.read_concern``.
            read_preference: See ``Query.read_preference``.
        """
        if type(domain) in TRUTH_VALUES:
            raise truth_value(domain)
        return Query(
            cls,
            Domain(domain),
            order=order,
            limit=limit,
            offset=offset,
            only=only,
            prefetch=prefetch,
            timeout=timeout,
            concerns=concerns_of(read_concern=read_concern, read_preference=read_preference),
        )

    @classmethod
    async def find_one(cls, domain: DomainSource = None, *, order: Order = None) -> RecordSet[Self]:
        """Return the first record that matches, as a RecordSet of none or one."""
        return await cls.search(domain, order=order, limit=1)

    @classmethod
    async def get(cls, id: object) -> Self:
        """Return the record with this id (text or stored form).

        Raises:
            NotFound: It does not exist, or not for the acting principal.
        """
        env = current_env()
        bound = env.app.bind(cls)
        op = Operation("search", bound.model, env, Condition("_id", "=", id), None, ONE)
        documents = await env.app.execute(op)
        if not documents:
            raise NotFound(f"{cls._name}: no record with the id {_shortened(id)}")
        if bound.withholding is not None:
            shown: Self = hydrate(bound, documents, bound.withholding.shown(env, None))[0]
            return shown
        record: Self = hydrate_one(bound, documents[0])
        return record

    @classmethod
    def browse(cls, ids: Iterable[object]) -> RecordSet[Self]:
        """Return records by their ids without a query: ghosts, in the given order.

        Raises:
            ValidationError: A value can never be an id of this model.
        """
        if isinstance(ids, str):
            ids = [ids]
        bound = _bound(cls)
        operand = bound.schema.fields["_id"].operand
        try:
            pks = [stored(operand(given_id)) for given_id in ids]
        except ValueError as error:
            detail: ErrorDetail = {"loc": ("id",), "msg": str(error), "type": "type"}
            raise ValidationError(cls._name, [detail]) from None
        # This App's class is the model or a subclass of it.
        return RecordSet(cast(type[Self], bound.model), ghosts(bound, pks))

    @classmethod
    async def count(cls, domain: DomainSource = None) -> int:
        """Return the number of records that match."""
        return await cls.search(domain).count()

    @classmethod
    def watch(
        cls,
        domain: DomainSource = None,
        *,
        resume_token: str | None = None,
        full_document: bool = True,
        before: bool = False,
        patience: float = 120.0,
    ) -> Watch[Self]:
        """Return the changes of matching records as a stream: ``async for event in User.watch():``.

        A write makes an event if the record matches after it. Where a domain or an access rule
        restricts the records, a deletion makes one only with ``before``, if the record matched
        before it.

        Args:
            domain: The records to watch; None for all.
            resume_token: ``event.token`` of an earlier event, to continue after it.
            full_document: Include the record in the event of a write (one more read on the server).
            before: Include the record before the change, where the collection keeps pre-images.
            patience: The seconds for which a broken stream is opened again.

        Raises:
            ValidationError: The token is invalid, or the events after it are lost; when it is
                opened.
            NotSupported: The backend has no change streams; when it is opened.
        """
        from earnorm.features.watching.watching import Watch

        return Watch(
            cls,
            Domain(domain),
            resume_token=resume_token,
            full_document=full_document,
            before=before,
            patience=patience,
        )

    @overload
    @classmethod
    async def create(cls, values: Mapping[str, Any] | Self) -> Self: ...
    @overload
    @classmethod
    async def create(cls, values: Sequence[Mapping[str, Any] | Self]) -> RecordSet[Self]: ...
    @classmethod
    async def create(cls, values: Any) -> Any:
        """Store a new record, or several at once.

        Args:
            values: A mapping of field values or an unsaved record; or a list of them.

        Returns:
            The record, or a RecordSet in the order of the list.

        Raises:
            ValidationError: With every problem of the batch and its position; nothing is written.
            DuplicateKey: A value that must be unique exists already.
        """
        bound = _bound(cls)
        if bound.model is not cls and "create" in bound.model._overridden:
            return await bound.model.create(values)  # an extension has its own
        if type(values) is dict or isinstance(values, Mapping | BaseModel):
            return (await writing.creating.create(bound, [values]))[0]
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise ValidationError(
                cls._name,
                [{"loc": (), "msg": "create() takes a dict or a list of them", "type": "type"}],
            )
        return RecordSet(bound.model, await writing.creating.create(bound, list(values)))

    @classmethod
    async def create_many(
        cls,
        values: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        batch_size: int = _BATCH,
        ordered: bool = True,
        progress: Progress | None = None,
    ) -> BatchResult:
        """Create any number of records from a stream of dicts, in bounded memory.

        Args:
            values: An iterable or an async iterable; at most two batches of it are held at a time.
            batch_size: The number of records that one operation creates.
            ordered: Stop at the first refused record; otherwise continue with the others.
            progress: Called after each batch with the result so far; may be async.

        Returns:
            The number of records written, and the refused ones.

        Raises:
            BatchRefused: With ``ordered``: the position and the reason; all records before it were
                written.
        """
        from earnorm.features.bulk.batches import CreateMany

        return await CreateMany(_bound(cls), ordered, progress).run(values, batch_size)

    @classmethod
    async def upsert(
        cls,
        values: Mapping[str, Any],
        on: str | Sequence[str],
        *,
        new: Mapping[str, Any] | None = None,
    ) -> tuple[Self, bool]:
        """Write the record that has these values in ``on``, or create it.

        Args:
            values: The values to write. Only a new record gets those of read-only fields. A change
                such as ``Inc(1)`` gives a new record what the server makes of a missing value: 1.
            on: The fields that identify a record: those of a unique index.
            new: Values that only a new record gets, also in the place of changes.

        Returns:
            The record, and whether it was created. Of one that who acts may not read afterwards
            nothing is loaded.

        Raises:
            ConfigurationError: No unique index has exactly these fields.
            ValidationError: A value is not valid.
            DuplicateKey: Another unique index refuses it, or the record exists and is hidden.
        """
        from earnorm.features.upserts.upserts import upsert

        return await upsert(_bound(cls), on, values, new or {})

    @classmethod
    async def upsert_many(
        cls,
        values: Sequence[Mapping[str, Any]],
        on: str | Sequence[str],
        *,
        new: Mapping[str, Any] | None = None,
    ) -> tuple[RecordSet[Self], int]:
        """Upsert many records as :meth:`upsert` does; 1,000 take a fixed number of round trips.

        Returns:
            The records in the given order, and the number of created ones.
        """
        from earnorm.features.upserts.upserts import upsert_many

        return await upsert_many(_bound(cls), on, values, new or {})

    @classmethod
    async def write_many(cls, values: Mapping[Any, Mapping[str, Any]]) -> int:
        """Write to each of many records its own values, in one round trip.

        Args:
            values: Records or their ids, each with values as for :meth:`write`.

        Returns:
            The number of records written.

        Raises:
            ValidationError: With every problem and the record's position; nothing is written.
            NotFound: Some do not exist; the others were written.
        """
        from earnorm.model.writing.per_record import write_many

        return await write_many(_bound(cls), values)

    @classmethod
    @yields_to_fields
    async def backfill(
        cls, *names: str, dry_run: bool = False, progress: BackfillProgress | None = None
    ) -> Backfilled:
        """Store the defaults of fields in documents that lack them, e.g. after a field was added.

        Reading such a document gives the default, but a search compares what is stored. It writes
        in batches, as the system, and only where the key is still missing: a value written
        meanwhile stays, and the next call goes on where one was broken off.

        Args:
            *names: Fields with a default, or paths of such fields inside embedded objects
                (``"lines.qty"``); a field that holds objects means those inside of it, too. None
                means all of the model's.
            dry_run: Only count the documents that lack the key.
            progress: Called after each batch with the result so far; may be async.

        Raises:
            AccessDenied: Access rules restrict the model, and not ``system`` calls it.
            ConfigurationError: A name is not that of a stored field with a default.
        """
        from earnorm.features.backfilling.backfill import backfill

        return await backfill(_bound(cls), names, dry_run=dry_run, progress=progress)

    @classmethod
    def bulk(cls) -> Bulk[Self]:
        """Collect creations, changes and deletions, and send them together; see :class:`Bulk`."""
        from earnorm.features.bulk.bulk import Bulk

        return Bulk(_bound(cls), cls)


_OVERRIDABLE = ("create", "save", "unlink", "write")
_RECORD_NAMES = reserved_names(BaseModel) - {"_id"}
BaseModel._id.__set_name__(BaseModel, "_id")


def _readonly(field: Field[Any, Any]) -> Any:
    if field.internal:
        return {"loc": (field.name,), "msg": INTERNAL, "type": "internal"}
    return {"loc": (field.name,), "msg": "can be set only on a new record", "type": "readonly"}


def _not_assigned(field: Field[Any, Any], is_elsewhere: bool) -> Any:
    how = "is not stored here; write the records themselves"
    message = how if is_elsewhere else f"takes no assignment; {field.how_to_write}"
    return {"loc": (field.name,), "msg": message, "type": "readonly"}


def _fixed_id() -> Any:
    message = "the record has an id already, which is fixed; make a new record to give another one"
    return {"loc": ("_id",), "msg": message, "type": "readonly"}


def _shortened(id: object) -> str:
    text = str(getattr(id, "pk", id))
    return text if len(text) <= 60 else f"{text[:60]}…"


def _bound(model: type[BaseModel]) -> BoundModel:
    return current_env().app.bind(model)
