"""BaseModel: what a model's class body declares, and what one record can do.

What records share with embedded objects lies in ``structures``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, overload

from earnorm.concerns import ReadConcern, ReadPreference, WriteConcern
from earnorm.domain import Domain, DomainSource
from earnorm.exceptions import (
    ConfigurationError,
    NotFound,
    ValidationError,
)
from earnorm.fields.base import Field
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.json_forms import json_text
from earnorm.fields.relational import ToMany
from earnorm.kernel import registry
from earnorm.kernel.environment import current_env, find_env
from earnorm.kernel.operations import ONE, Operation
from earnorm.model.declaring import Declaration, declare_options
from earnorm.model.extension import class_in_app
from earnorm.model.query import Query, asked
from earnorm.model.reading import serializing
from earnorm.model.reading.hydrate import ghosts, hydrate_one
from earnorm.model.recordset import RecordSet
from earnorm.model.relations.ghosts import load_ghost
from earnorm.model.schema import Schema
from earnorm.model.structures import Structure, declared_fields, reserved_names
from earnorm.model.validation.constraints import rules_of
from earnorm.model.writing import creating
from earnorm.model.writing import records as writing
from earnorm.model.writing.copying import copies
from earnorm.model.writing.tracking import changed_fields
from earnorm.model.writing.updates import Toggle

# What few programs do (watch, upsert, batches, bulks) is imported by its method.
if TYPE_CHECKING:
    import pydantic

    from earnorm.features.bulk.batches import BatchResult, Progress
    from earnorm.features.bulk.bulk import Bulk
    from earnorm.features.indexes.collection_options import CollectionOptions
    from earnorm.features.indexes.declarations import IndexEntry
    from earnorm.features.watching.watching import Watch
    from earnorm.kernel.attributes import BroughtAttribute
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.catalog import Extension
    from earnorm.model.reading.ordering import Order

# Documents of one operation of create_many: at 1,000 the rate is 0.9 of this one's, at 10,000 it is no
# higher, and the memory grows with it.
_BATCH = 2000

_SNAKE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Declared(Structure):
    """What the classes of records and of embedded objects can say of themselves."""

    __slots__ = ()

    @classmethod
    def pydantic_model(
        cls,
        *,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        optional: Iterable[str] | bool = False,
        name: str | None = None,
    ) -> type[pydantic.BaseModel]:
        """A pydantic model of the fields, for request and response bodies; made once per arguments.

        It takes records (``Out.model_validate(record)``): ids as text, relations as ids, embedded
        objects nested. A field that cannot be written is part of it only where ``include`` names it.

        Args:
            include: Only these fields.
            exclude: Not these, e.g. ``{"id"}`` for what a client sends.
            optional: Fields that need not be given, or True for all: the body of a partial update.
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
        """The JSON Schema of :meth:`pydantic_model`.

        Args:
            mode: Of what is taken in (``validation``), or of what is given out.
        """
        return cls.pydantic_model().model_json_schema(mode=mode)


class BaseModel(Declared):
    """A model: subclass it and declare fields.

    Class attributes:
        _name: The model's name (default: the class name in snake case).
        _collection: Its collection (default: the name, with dots as underscores).
        _indexes: Indexes beside those of ``unique`` and ``index``, e.g. ``[{"email": 1}]`` or
            ``[Index("email", unique=True)]``. Those of every base class are part of it.
        _validation: ``"strict"`` or ``"warn"``: the server, too, refuses (or logs) documents that break the
            rules of the fields, whoever writes them.
        _options: How the collection is kept (``CollectionOptions``): capped, time series and the like.
        _versioned: Refuse lost updates: writes carry a revision.
        _read_concern, _write_concern, _read_preference: What its reads and writes ask of a replica
            set, e.g. ``_read_preference = "secondaryPreferred"``; else the App's.
        _parent_name: The Many2one to the own model that makes a tree (``"parent_id"``).
        _parent_store: Keep the path of each record's ancestors in ``_parent_path``.
        _bookkeeping: The name of the plugin or feature whose own bookkeeping the records are: observers are
            not told of them unless they ask; see ``docs/plugins.md``.
        _soft_delete: Searches leave records out that are not ``active``; see ``mixins.SoftDelete``.
        _discriminator: The field that tells the classes of one collection apart: the subclasses of
            this one are kept with it; see ``docs/extension.md``.
        _kind: What the field says of this class (default: its ``_name``).
        _inherits: Models whose fields this one has, each with the Many2one to its record:
            ``{"partner": "partner_id"}``.
        _abstract: A base for other models, without a collection.
        _inherit: The name of a model that this class extends; see ``hookspecs.register_models``.

    The constructor validates what it is given, and raises ``ValidationError`` (a ``ValueError``).
    Nothing is stored before ``save()``.
    """

    __slots__ = ()

    _name: ClassVar[str] = ""
    _collection: ClassVar[str] = ""
    _indexes: ClassVar[Sequence[IndexEntry]] = ()
    _validation: ClassVar[Literal["strict", "warn"] | None] = None
    _options: ClassVar[CollectionOptions | Mapping[str, Any] | None] = None
    _versioned: ClassVar[bool] = False
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

    _id = ObjectIdField()

    def __init_subclass__(
        cls, brought_attributes: Sequence[BroughtAttribute] = (), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        body = dict(vars(cls))
        cls._take_names(body)
        declaration = Declaration(cls, body, declared_fields(cls, _RECORD_NAMES), _RECORD_NAMES)
        declaration.run(BaseModel, brought_attributes)
        cls._schema = Schema(cls._name, declaration.fields, declaration.added)
        cls._schema.rules = rules_of(cls)
        declare_options(cls)
        cls._fields = cls._schema.fields
        if declaration.is_model:
            registry.define(cls)

    @classmethod
    def _take_names(cls, body: Mapping[str, Any]) -> None:
        cls._abstract = body.get("_abstract", False)
        if "_base" in body:  # one App's class of a model that its plugins add to
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
        """One App's class of the model; see :func:`class_in_app`."""
        return class_in_app(cls, extensions, attributes)

    # -- one record ---------------------------------------------------------------------------

    @property
    def id(self) -> str | None:
        """The id as text; None before the record is stored."""
        pk = self.__dict__.get("_id")
        return None if pk is None or not self.is_stored else str(pk)

    @property
    def pk(self) -> Any:
        """The id as it is stored (an ObjectId unless the model declares its own ``_id``)."""
        return self.__dict__.get("_id") if self.is_stored else None

    @property
    def is_stored(self) -> bool:
        """Whether the record came from the database or was saved."""
        return hasattr(self, "_fetch")

    @property
    def is_stale(self) -> bool:
        """Whether the values were read in a transaction that was rolled back, so that they may never
        have been. They can be read; ``refresh()`` before anything is written."""
        return self.is_stored and self._fetch.is_stale

    @property
    def is_changed(self) -> bool:
        """Whether ``save()`` would write something."""
        return not self.is_stored or bool(changed_fields(self))

    def exists(self) -> bool:
        """True: a record is not empty, as a RecordSet may be. Asks nothing of the database."""
        return True

    def ensure_one(self) -> Self:
        """The record itself, so that a record can stand where a RecordSet of one is expected."""
        return self

    def to_dict(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """The id as text, then the loaded fields as Python values; embedded objects as dicts.

        Args:
            depth: How many relations deep loaded records are dicts of their own; beyond, and where
                a relation is not loaded, they are ids (text). Nothing is loaded.
            include: Only these fields.
            exclude: Not these.

        Raises:
            ValidationError: A name is unknown.
            FieldNotLoaded: A field of ``include`` was not fetched.
        """
        return serializing.as_dict(self, depth, include, exclude)

    def to_json(
        self,
        *,
        depth: int = 0,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> str:
        """As :meth:`to_dict`, as JSON text: times in ISO 8601 (UTC, with Z), decimals, ids and UUIDs
        as text, bytes in base64."""
        return json_text(serializing.as_json(self, depth, include, exclude))

    def _json_form(self) -> str | None:
        return self.id

    async def save(self, values: Mapping[str, Any] | None = None) -> Self:
        """Store the record: create it, or write what was changed.

        Args:
            values: What to write as well, in the same round trip; as for :meth:`write`.

        Raises:
            ValidationError: A value is not acceptable; nothing is written.
            DuplicateKey: Another record has a value that must be unique.
            NotFound: The record does not exist any more (or not for the acting principal).
            ConcurrencyError: The model is versioned and somebody else wrote it first.
        """
        if values:
            await writing.save_with(self, values)
        elif self.is_stored:
            await writing.save([self])
        else:
            await creating.create(_bound(type(self)), [self])
        return self

    async def write(self, values: Mapping[str, Any]) -> Self:
        """Change some fields, in the database and here. Errors as for :meth:`save`.

        Args:
            values: Values by field, or by a dotted path into one (``{"address.city": "Huế"}``); a
                value may be a change that the server makes, such as ``Inc(1)``.
        """
        await writing.write([self], values)
        return self

    async def toggle(self, field: str) -> Self:
        """Flip a Boolean, atomically on the server. Errors as for :meth:`write`."""
        return await self.write({field: Toggle()})

    async def copy(self, default: Mapping[str, Any] | None = None) -> Self:
        """Create a new record with this one's values, unsaved changes included.

        Left out are fields with ``copy=False``, which unique ones are unless they say otherwise,
        the id, and what lies in other records. A field that was not fetched is read first.

        Args:
            default: Values in the place of the record's own.

        Raises:
            ValidationError: A required field is left out, and has no default.
        """
        new: Self = (await copies([self], default or {}))[0]
        return new

    async def read(self, fields: Iterable[str] | None = None) -> dict[str, Any]:
        """What the database has of these fields; see :meth:`RecordSet.read`."""
        return (await RecordSet(type(self), [self]).read(fields))[0]

    async def unlink(self) -> int:
        """Delete the record; how many were deleted (0 where it was gone already)."""
        return await writing.unlink([self])

    async def refresh(self) -> Self:
        """Load every field again; unsaved changes are dropped.

        Raises:
            NotFound: The record does not exist any more (or not for the acting principal).
        """
        await RecordSet(type(self), [self]).refresh()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Load a ghost, and with it the ghosts of all records that were fetched together."""
        return load_ghost(self).__await__()

    def _assign(self, field: Field[Any, Any], value: Any) -> None:
        derived = type(self)._schema.derived
        if derived is not None and field.name in derived.by_name:
            derived.assign(self, field, value)
            return
        if not field.stored and not isinstance(field, ToMany):
            raise AttributeError(f"{field.name} is not stored here; write the records themselves")
        if not field.assignable:
            raise AttributeError(f"{field.name} takes no assignment; {field.how_to_write}")
        if self.is_stored and (field.readonly or field.name == "_id"):
            raise ValidationError(type(self)._name, [_readonly(field)])
        env = find_env()
        if env is not None and env.transaction is not None:
            env.transaction.touch(self)
        super()._assign(field, value)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, BaseModel) or self._identity != other._identity:
            return False
        return self.is_stored and other.is_stored and self.pk == other.pk

    def __hash__(self) -> int:
        return hash((self._identity, self.pk)) if self.is_stored else object.__hash__(self)

    def __repr__(self) -> str:
        # No values: a record may hold what must not reach a log.
        return f"<{type(self).__name__} {self.id or 'unsaved'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        from earnorm.model.pickling import reduced

        return reduced(self)

    # -- the model ----------------------------------------------------------------------------

    @classmethod
    def of(cls, record: BaseModel) -> Self:
        """The same record, known by this class: what an extension adds, for type checkers.

        Raises:
            ConfigurationError: This class is no part of the record's model in its App.
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
        only: Iterable[str] | None = None,
        prefetch: Iterable[str] = (),
        timeout: float | None = None,
        read_concern: ReadConcern | None = None,
        read_preference: ReadPreference | None = None,
    ) -> Query[Self]:
        """The records that match, as a query that runs when it is awaited or iterated.

        Args:
            domain: A list such as ``[("age", ">", 20)]``, an expression, or None for all.
            order: ``"-age,name"``; see ``Query.order``.
            limit: At most so many; 0 means all.
            offset: How many to leave out first.
            only: The fields to fetch.
            prefetch: Relations to load together with the records.
            timeout: Seconds that it may take.
            read_concern: See ``Query.read_concern``.
            read_preference: See ``Query.read_preference``.
        """
        return Query(
            cls,
            Domain(domain),
            order=order,
            limit=limit,
            offset=offset,
            only=only,
            prefetch=prefetch,
            timeout=timeout,
            concerns=asked(read_concern=read_concern, read_preference=read_preference),
        )

    @classmethod
    async def find_one(cls, domain: DomainSource = None, *, order: Order = None) -> RecordSet[Self]:
        """The first record that matches, as a RecordSet of none or one."""
        return await cls.search(domain, order=order, limit=1)

    @classmethod
    async def get(cls, id: object) -> Self:
        """The record with this id (text or stored form).

        Raises:
            NotFound: There is none, or not for the acting principal.
        """
        env = current_env()
        bound = env.app.bind(cls)
        op = Operation("search", bound.model, env, Domain([("_id", "=", id)]), None, ONE)
        documents = await env.app.execute(op)
        if not documents:
            raise NotFound(f"{cls._name}: no record with the id {_shown(id)}")
        record: Self = hydrate_one(bound, documents[0])
        return record

    @classmethod
    def browse(cls, ids: Iterable[object]) -> RecordSet[Self]:
        """Records by their ids, without asking the database: ghosts, in the order given."""
        if isinstance(ids, str):
            ids = [ids]
        bound = _bound(cls)
        operand = bound.schema.fields["_id"].operand
        # The class as this App sees it is the model or a subclass of it.
        return RecordSet(
            cast(type[Self], bound.model), ghosts(bound, [operand(each) for each in ids])
        )

    @classmethod
    async def count(cls, domain: DomainSource = None) -> int:
        """How many records match."""
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
        """The changes of records that match, as they happen: ``async for event in User.watch():``.

        A write is told where the record matches after it; a deletion, where a domain or an access
        rule says which records, only with ``before`` and where the record matched before it.

        Args:
            domain: Which records; None for all.
            resume_token: ``event.token`` of an earlier event, to go on behind it.
            full_document: Give the record with a write as well (one more read on the server).
            before: Give the record before the change, where the collection keeps pre-images.
            patience: Seconds for which a stream that broke off is taken up again.

        Raises:
            ValidationError: The token is none, or what followed it is gone; when it is opened.
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
        if isinstance(values, Mapping | BaseModel):
            return (await creating.create(_bound(cls), [values]))[0]
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise ValidationError(
                cls._name,
                [{"loc": (), "msg": "create() takes a dict or a list of them", "type": "type"}],
            )
        bound = _bound(cls)
        return RecordSet(bound.model, await creating.create(bound, list(values)))

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
            values: An iterable or an async iterable; so many of it are held at a time as two
                batches have.
            batch_size: How many are created with one operation.
            ordered: Stop at the first one that is refused; otherwise go on with the others.
            progress: Called after each batch with the result so far; may be async.

        Returns:
            How many were written, and what was refused.

        Raises:
            BatchRefused: With ``ordered``: its position and why; every one before it was written.
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
            values: What it shall have. Read-only fields are given to a new record only.
            on: The fields that tell records apart: those of a unique index.
            new: What only a new record gets, e.g. the first value where ``values`` has a change
                such as ``Inc(1)``.

        Returns:
            The record, and whether it was created.

        Raises:
            ConfigurationError: No unique index has exactly these fields.
            ValidationError: A value is not acceptable.
            DuplicateKey: Another unique index refuses it, or the record is there and hidden.
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
        """As :meth:`upsert` for many, in a fixed number of round trips for each 1,000.

        Returns:
            The records in the order given, and how many were created.
        """
        from earnorm.features.upserts.upserts import upsert_many

        return await upsert_many(_bound(cls), on, values, new or {})

    @classmethod
    async def write_many(cls, values: Mapping[Any, Mapping[str, Any]]) -> int:
        """Write to many records, each its own values, in one round trip.

        Args:
            values: Records or their ids, each with values as for :meth:`write`.

        Returns:
            How many were written.

        Raises:
            ValidationError: With every problem and the record's position; nothing is written.
            NotFound: Some do not exist; the others were written.
        """
        from earnorm.model.writing.per_record import write_many

        return await write_many(_bound(cls), values)

    @classmethod
    def bulk(cls) -> Bulk[Self]:
        """Collect creations, changes and deletions, and send them together; see :class:`Bulk`."""
        from earnorm.features.bulk.bulk import Bulk

        return Bulk(_bound(cls), cls)


_RECORD_NAMES = reserved_names(BaseModel) - {"_id"}
BaseModel._id.__set_name__(BaseModel, "_id")


def _readonly(field: Field[Any, Any]) -> Any:
    return {"loc": (field.name,), "msg": "can be set only on a new record", "type": "readonly"}


def _shown(id: object) -> str:
    text = str(getattr(id, "pk", id))
    return text if len(text) <= 60 else f"{text[:60]}…"


def _bound(model: type[BaseModel]) -> BoundModel:
    return current_env().app.bind(model)
