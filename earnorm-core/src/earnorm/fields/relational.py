"""The base of the fields that point to other models, and the simplest: Many2one and One2many."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Unpack,
    cast,
    get_args,
    overload,
)

import pydantic
from bson import ObjectId
from pydantic_core import PydanticCustomError

from earnorm.exceptions import ConfigurationError, ErrorDetail, ValidationError, located
from earnorm.fields.base import (
    CommonOptions,
    ConvertingField,
    Field,
    FieldOptions,
    N,
    V,
    is_refused,
)
from earnorm.fields.command import Command
from earnorm.fields.comodels import MODELS
from earnorm.fields.expressions import Expressions
from earnorm.fields.record_ids import given_id
from earnorm.fields.refused import REFUSED

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    from earnorm.domain import Domain
    from earnorm.fields.expressions import FieldPath
    from earnorm.model.base import BaseModel
    from earnorm.model.recordset import RecordSet  # noqa: F401 - named in the base of One2many
    from earnorm.model.writing.updates import Change

    # A field that names its model by text has records of any class, unless it is annotated.
    C = _TypeVar("C", bound=BaseModel, default=Any)
else:
    C = TypeVar("C", bound="BaseModel")


RecordId: TypeAlias = str | int | ObjectId | uuid.UUID
"""An id of a record that is linked, as :class:`Many2one` takes it."""


if TYPE_CHECKING:
    L = TypeVar("L", covariant=True)
    M = TypeVar("M", bound=BaseModel)
else:
    L = M = TypeVar("L")


class Link(Expressions[L], Generic[L]):
    """A relation to one record, as it is read from its class: it is compared with a record or with its id."""

    if TYPE_CHECKING:

        def __eq__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions
        def __ne__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions

        __hash__ = Expressions.__hash__

        def to(self, value: L | RecordId | Change | None) -> dict[str, Any]: ...  # pyright: ignore[reportGeneralTypeIssues] # see Expressions

        @property
        def _(self: Link[M | None]) -> type[M]:
            """The other model, whose fields are paths behind the relation: ``Ticket.team_id._.name``."""
            raise NotImplementedError


class Links(Expressions["RecordSet[M]"], Generic[M]):
    """A relation to many records, as it is read from its class."""

    if TYPE_CHECKING:

        def __eq__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions
        def __ne__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions

        __hash__ = Expressions.__hash__

        @property
        def _(self) -> type[M]:
            """The other model, whose fields are paths behind the relation: ``Team.tickets._.title``."""
            raise NotImplementedError


class Join(NamedTuple):
    """The two fields that join two models: their values are equal, or one is a list with the other.

    Attributes:
        local: The name of a field of the relation's own model; its value may be a list.
        foreign: The name of a field of the other model.

    They are names, not stored keys: each side's schema resolves its own (``schema.path_of(name)``).
    """

    local: str
    foreign: str


OnDelete: TypeAlias = Literal["restrict", "set_null", "cascade"]


def checked_on_delete(
    field: Relation[Any, Any], on_delete: OnDelete | None, options: CommonOptions
) -> OnDelete | None:
    """Check the declared ``on_delete``, and give the field an index unless its ``index`` is False.

    The index serves the search of the field at each deletion of a record to which it points.

    Raises:
        TypeError: The option contradicts the field.
    """
    kind = type(field).__name__
    if on_delete is None:
        return None
    allowed = get_args(OnDelete)
    if on_delete not in allowed:
        raise TypeError(f"{kind}(on_delete={on_delete!r}): one of {', '.join(allowed)}")
    if on_delete == "set_null" and field.required:
        raise TypeError(
            f'{kind}(required=True, on_delete="set_null"): the record cannot be without a value; '
            f'choose "restrict" or "cascade"'
        )
    if on_delete == "cascade" and field.to_many:
        raise TypeError(
            f'{kind}(on_delete="cascade"): one of several links is no reason to delete a record; '
            f'choose "set_null" (the id leaves the list) or "restrict"'
        )
    field.index = options.get("index", True)
    return on_delete


def checked_exists(field: Relation[Any, Any], exists: bool, options: CommonOptions) -> bool:
    """Check the declared ``exists``.

    Raises:
        TypeError: The field stores no links that a caller hands in, so none can be looked for.
    """
    kind = type(field).__name__
    if not isinstance(exists, bool):
        raise TypeError(f"{kind}(exists={exists!r}): True or False")
    computed = next((name for name in ("compute", "related") if options.get(name)), None)
    if exists and computed is not None:
        raise TypeError(f"{kind}({computed}=, exists=True): nobody hands in a computed link")
    return exists


class _LaterModel:
    """The model of a relation to which it is given as a function; what is in the field's ``__dict__`` goes before it."""

    def __get__(self, field: Relation[Any, Any] | None, owner: type[Any]) -> type[Any]:
        if field is None or "_comodel_later" not in vars(field):
            raise AttributeError("comodel")
        model = field.comodel = _asked(field, vars(field)["_comodel_later"])
        return model


def _asked(field: Relation[Any, Any], later: Callable[[], object]) -> type[Any]:
    """Return the model that a function given to a relation returns.

    Raises:
        ConfigurationError: It returns none, or the class is not defined yet.
    """
    where = f"{field.model_name}.{field.name}"
    try:
        comodel = later()
    except NameError as error:
        raise ConfigurationError(
            f"{where}: {error}; the function is called when the relation is first used, so define the model before that"
        ) from error
    if not (
        isinstance(comodel, type) and hasattr(comodel, "_schema") and hasattr(comodel, "_name")
    ):
        raise ConfigurationError(f"{where}: the function returns {comodel!r}, which is no model")
    return comodel


class Relation(ConvertingField[V, N]):
    """The base of the relational fields: it knows the other model, by class or by name."""

    to_many: ClassVar[bool] = False
    on_delete: OnDelete | None = None
    must_exist: bool = False
    """True if a link that somebody hands in must lead to a record that exists (``exists=True``)."""
    copies_target: bool = False
    """True if a copy of the record gets a copy of the linked record, not the same one."""
    if TYPE_CHECKING:
        comodel: type[Any] | str
        """The other model. One that was given as a function is asked for when it is first needed."""
    else:
        comodel = _LaterModel()

    def _point_at(self, comodel: type[Any] | str | Callable[[], type[Any]]) -> None:
        """Take the other model as it is given to the field."""
        if isinstance(comodel, str | type):
            self.comodel = comodel
        elif callable(comodel):
            self._comodel_later = comodel
        else:
            raise TypeError(
                f"{type(self).__name__}() takes a model, its name or a function that returns it, not {comodel!r}"
            )

    @property
    def comodel_name(self) -> str:
        """The ``_name`` of the other model."""
        return self.comodel if isinstance(self.comodel, str) else self.comodel._name

    @property
    def has_inside(self) -> bool:
        return True

    def fields_inside(self) -> Mapping[str, Field[Any, Any]] | None:
        target = self._target()
        return None if target is None else target._schema.fields

    if TYPE_CHECKING:
        # Reading the field from the class gives a path into the other model (see FieldPath), in
        # which ``name`` is a field of the other model; so it cannot be the text that it is
        # elsewhere.
        name: Any

        def __getattr__(self, name: str) -> FieldPath: ...

    @property
    def needs_target(self) -> bool:
        """True if a record is deleted when it loses the link, instead of being left without it."""
        return self.required or self.on_delete == "cascade"

    def names(self) -> Iterable[str]:
        """Return the models that the field names, by their ``_name``."""
        return (self.comodel_name,)

    def is_decoded(self, value: Any) -> bool:
        return is_record(value)

    def json_type(self) -> Any:
        return Annotated[str, pydantic.BeforeValidator(_id_text)]

    def bson_schema(self) -> Mapping[str, Any]:
        target = self._target()
        return {} if target is None else target._schema.fields["_id"].bson_schema()

    def _target(self) -> type[Any] | None:
        """Return the other model, or None if a plugin of an App brings it."""
        comodel = self.comodel
        return MODELS.get(comodel) if isinstance(comodel, str) else comodel

    def _checked(self, value: Any) -> Any:
        """Read a record of the other model, or an id of the kind that it declares."""
        if hasattr(type(value), "_schema"):  # is_record() and _reference() would cost two calls
            return self._record_checked(value)
        reference = _reference(value)
        if is_record(reference):
            return self._record_checked(reference)
        target = self._target()
        if target is None:
            message = "no class defines the model {name} yet, so the kind of its ids is not known"
            raise PydanticCustomError("reference", message, {"name": self.comodel_name})
        return given_id(target, reference)

    def _record_checked(self, record: Any) -> Any:
        name = self.comodel_name
        if getattr(type(record), "_name", None) != name and not is_kind(type(record), name):
            raise PydanticCustomError("reference", "not a record of {name}", {"name": name})
        fetch = getattr(record, "_fetch", None)
        if fetch is not None:
            fetch.refuse_other_app()
        else:
            record._be_linked()
        return record

    def _pk(self, value: Any) -> Any:
        """Return the stored id of a record; any other value is an id already.

        Raises:
            ValidationError: The record is not stored, and a link to it would lead nowhere.
        """
        if not is_record(value):
            return value
        pk = value.__dict__.get("_id")
        if pk is None or not (hasattr(value, "_fetch") or value._is_being_made()):
            message = "the record is not saved yet; save() it first"
            if self.to_many:
                message += (
                    ", or give the record itself in place of a command, and it is saved along"
                )
            # Whoever asks adds the place of the value.
            detail: ErrorDetail = {"loc": (), "msg": message, "type": "unsaved"}
            raise ValidationError(self.model_name, [detail])
        return pk

    def operand(self, value: Any) -> Any:
        if value is None or type(value) is ObjectId:  # fast, as a sub-query has thousands of ids
            return value
        reference = _reference(value)
        if is_record(reference):
            reference._refuse_other_app()
            pk = reference.__dict__.get("_id")
            if pk is not None:
                return pk
            try:
                return self._pk(reference)
            except ValidationError as error:
                raise ValidationError(error.subject, located(error.errors(), self.name)) from None
        target = self._target()
        if target is None:
            raise ValueError(
                f"{self.name}: no class defines the model {self.comodel_name!r} yet, so the kind of "
                f"its ids is not known; give an ObjectId or a record"
            )
        try:
            return target._schema.fields["_id"].operand(reference)
        except ValueError:
            raise ValueError(
                f"{self.name} is compared with a record or its id, not {type(value).__name__}"
            ) from None


def is_record(value: object) -> bool:
    """Return whether the value is a record (and not an id)."""
    return hasattr(type(value), "_schema")


def is_recordset(value: object) -> bool:
    """Return whether the value is a RecordSet."""
    return hasattr(type(value), "ensure_one") and not is_record(value)


def _reference(value: Any) -> Any:
    """Return the record of a RecordSet of one; anything else as it is."""
    return value.ensure_one() if is_recordset(value) else value


def _id_text(value: Any) -> Any:
    """Return an id as text, like ``record.id``."""
    if is_record(value):
        return value.id
    return str(value) if isinstance(value, ObjectId | uuid.UUID | int) else value


class Many2one(Relation[C, N], Link[C], Generic[C, N]):
    """One record of another model, stored as its id.

    Until it is loaded, its value is a *ghost*: a record that knows its id only. ``await`` it, or
    name the field in ``search(...).prefetch()``.

    Args:
        comodel: The other model: its class, a function that returns it (``lambda: Post``), for a class that
            comes later, or its ``_name``.
        required: The record cannot be stored without a value.
        default: The value of a new record, or a callable that gives it.
        on_delete: What happens to this record when the other one is deleted: ``"restrict"`` refuses
            the deletion, ``"set_null"`` empties this field, ``"cascade"`` deletes this record too.
            Without it nothing happens, as in MongoDB, and the id stays. The option makes an index.
        exists: A link that somebody sets must lead to a record that exists; one query for each
            operation looks for it. Without it only who may not read every record of the other model
            is held to it.
    """

    def __init__(
        self,
        comodel: type[C] | Callable[[], type[C]] | str,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: C | Callable[[], C] | None = None,
        on_delete: OnDelete | None = None,
        exists: bool = False,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, (), options)
        self._point_at(comodel)
        self.on_delete = checked_on_delete(self, on_delete, options)
        self.must_exist = checked_exists(self, exists, options)

    @property
    def join(self) -> Join:
        """The join of the field's own value with the other record's id."""
        return Join(self.name, "_id")

    def annotation(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(self._checked)]

    def encode(self, value: Any) -> Any:
        return self._pk(value)

    if TYPE_CHECKING:

        @overload
        def __set__(
            self: Many2one[C, Literal[True]], record: object, value: C | RecordId
        ) -> None: ...
        @overload
        def __set__(
            self: Many2one[C, Literal[False]], record: object, value: C | RecordId | None
        ) -> None: ...
        def __set__(self, record: object, value: Any) -> None: ...

        @overload
        def to(
            self: Many2one[C, Literal[True]], value: C | RecordId | Change
        ) -> dict[str, Any]: ...
        @overload
        def to(
            self: Many2one[C, Literal[False]], value: C | RecordId | Change | None
        ) -> dict[str, Any]: ...
        def to(self, value: Any) -> dict[str, Any]: ...

        @property
        def _(self) -> type[C]:
            """The other model, whose fields are paths behind the relation: ``Ticket.team_id._.name``."""
            raise NotImplementedError

    else:

        def __get__(self, record, owner=None):
            if record is None:
                return self._on_class()
            state = record.__dict__
            try:
                value = state[self.name]
            except KeyError:
                value = record._absent(self)
                return value if value is None or is_record(value) else record._ghost(self, value)
            # Most values are loaded records; this test saves a call for each read.
            if value is None or hasattr(type(value), "_schema"):
                return value
            if REFUSED and is_refused(record, self.name):
                return value
            value = state[self.name] = record._ghost(self, value)
            return value


class Commands(list["Command"]):
    """A validated value of a to-many field that needs more than storing a list of ids."""


_NO_LISTS: Final[tuple[type[Any], ...]] = (str, bytes, Mapping, Commands)


def listed(value: Any) -> Any:
    """Return the caller's list (or set, or generator) of a to-many field as an own list.

    One record means a list of it. A RecordSet, which nobody changes, and a value that is no such
    collection stay as they are.
    """
    if is_record(value):
        return [value]
    if hasattr(type(value), "ensure_one"):
        return value
    is_collection = isinstance(value, Iterable) and not isinstance(value, _NO_LISTS)
    return list(value) if is_collection else value


class ToMany(Relation["RecordSet[C]", Literal[True]], Links[C], Generic[C]):
    """A relation whose value is a RecordSet; commands change it."""

    to_many: ClassVar[bool] = True
    computable: ClassVar[bool] = False
    order: str | None = None
    inverse: str | None = None

    def is_decoded(self, value: Any) -> bool:
        return is_recordset(value)

    def json_type(self) -> Any:
        return list.__class_getitem__(super().json_type())

    def annotation(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(self.given)]

    def given(self, value: Any) -> Any:
        """Read a given value as :class:`Commands`, or as a list of ids if storing that is enough.

        A value that was read already stays as it is.
        """
        if value is None or isinstance(value, Commands):
            return value
        commands: list[Command] = []
        plain: dict[Any, None] = {}
        for item in self._items(value):
            command = self._command(item)
            if isinstance(command, Command):
                commands.append(command)
            else:
                plain[command] = None
        if commands and plain:
            raise PydanticCustomError(
                "commands", "a list of records and ids, or one of commands and new records"
            )
        if commands:
            return Commands(commands)
        return list(plain) if self.stored else Commands([Command("set", tuple(plain))])

    @staticmethod
    def _items(value: Any) -> Iterable[Any]:
        if is_recordset(value):
            value._refuse_other_app()
            return cast("Iterable[Any]", value._members())
        if is_record(value):
            return [value]
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise PydanticCustomError(
                "commands",
                "takes a list of records, ids or commands, not {kind}",
                {"kind": type(value).__name__},
            )
        return value

    def _command(self, item: Any) -> Any:
        if isinstance(item, Mapping):
            return Command("create", (), item)
        if not isinstance(item, Command):
            reference = self._checked(item)
            if not is_record(reference):
                return reference
            pk = reference.__dict__.get("_id") if reference.is_stored else None
            return Command("create", (), reference) if pk is None else pk
        records = tuple(self._pk(self._checked(record)) for record in item.records)
        if item.kind in ("create", "update") and not isinstance(item.values, Mapping):
            raise PydanticCustomError("commands", "the values of a command are a dict")
        return replace(item, records=tuple(dict.fromkeys(records)))

    if TYPE_CHECKING:

        def __set__(  # it takes more types than are read, as Field's own takes None
            self,
            record: object,
            value: Iterable[C | Command | RecordId | Mapping[str, Any]] | None,
        ) -> None: ...
        def to(
            self, value: Iterable[C | Command | RecordId | Mapping[str, Any]] | Change | None
        ) -> dict[str, Any]: ...

        @property
        def _(self) -> type[C]:
            """The other model, whose fields are paths behind the relation: ``Team.tickets._.title``."""
            raise NotImplementedError

    else:

        def __get__(self, record, owner=None):
            if record is None:
                return self._on_class()
            value = record.__dict__.get(self.name)
            if is_recordset(value):
                return value
            return record._ghosts(self, value)


class One2many(ToMany[C], Generic[C]):
    """The records of another model that point here with a Many2one; nothing is stored.

    Args:
        comodel: The other model: its class, a function that returns it (``lambda: Post``), for a class that
            comes later, or its ``_name``.
        inverse: The name of its Many2one field.
        order: How the records are sorted, e.g. ``"sequence,-date"``.
    """

    def __init__(
        self,
        comodel: type[C] | Callable[[], type[C]] | str,
        inverse: str,
        *,
        order: str | None = None,
        **options: Unpack[CommonOptions],
    ) -> None:
        self._bind(False, None, None, (), options)
        self.stored = False
        self._point_at(comodel)
        self.inverse = inverse
        self.order = order

    @property
    def join(self) -> Join:
        """The join of this record's id with the inverse field's value."""
        return Join("_id", self.inverse or "")


def is_kind(model: type[Any], name: str) -> bool:
    """Return whether a class is a subclass of the named one and stored in the same collection."""
    identity = getattr(model, "_identity", None)
    return identity is not None and any(
        vars(cls).get("_name") == name and vars(cls).get("_identity") == identity
        for cls in model.__mro__
    )
