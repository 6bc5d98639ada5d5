"""The base class of all fields, a descriptor: its options, its typing, and how records read it.

A field knows nothing of storage, drivers or Apps. The modules beside this one define the kinds.

Two kinds of fields at run time:

- A *plain* field (``String``, ``Int`` …) is stored as it is read. It is a non-data descriptor, so
  the value in the record's ``__dict__`` wins, and reading it costs as much as a plain attribute.
- A *converting* field (``Decimal``, ``DateTime``, ``List`` …) subclasses :class:`ConvertingField`,
  a data descriptor that converts the stored value when it is first read, never for a whole batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeAlias,
    TypeGuard,
    TypeVar,
    Unpack,
    overload,
)
from typing import TypedDict as _TypedDict

import pydantic
from bson import Code, DBRef, Regex

from earnorm.domain.bson_order import key
from earnorm.exceptions import EarnORMError, ErrorDetail, UnreadableDocument
from earnorm.fields.choices import AmongChoices
from earnorm.fields.expressions import Expressions, FieldPath
from earnorm.fields.json_forms import json_form
from earnorm.fields.record_ids import id_operand
from earnorm.fields.refused import REFUSED
from earnorm.fields.secrets import guarded

V = TypeVar("V")
if TYPE_CHECKING:
    # Defaults of type parameters came with Python 3.13 (PEP 696); type checkers always know them.
    from typing_extensions import TypeVar as _TypeVar

    from earnorm.domain import Domain
    from earnorm.fields.kinds_inside import KindsInside
    from earnorm.model.embedded import EmbeddedModel
    from earnorm.model.writing.updates import Change

    N = _TypeVar("N", Literal[True], Literal[False], default=Literal[False])
else:
    N = TypeVar("N")


Validator: TypeAlias = Callable[[V], V | Awaitable[V]]
"""Gets a value after its type was checked; returns the value to store, or raises ``ValueError``."""


class CommonOptions(_TypedDict, total=False):
    """The options that every field takes beside ``required`` and ``default``."""

    unique: bool
    """No two records may share a value; an index ensures it. Unset values do not collide."""
    index: bool
    """Keep an index on the field: an ascending one, for shapes on the earth a 2dsphere index."""
    sparse: bool
    """The index leaves out documents that lack the field; alone it implies ``index``."""
    readonly: bool
    """The value can be given when a record is created and not changed afterwards."""
    copy: bool
    """``record.copy()`` copies the value (default: yes, unless ``unique``)."""
    db_name: str
    """The key in the stored document (default: the field's name)."""
    string: str
    """A label for people (default: made from the field's name)."""
    help: str
    """A sentence for people."""
    init: bool
    """False: no keyword of the constructor of a :class:`~earnorm.TypedModel`; read by type checkers alone."""


class FieldOptions(CommonOptions, total=False):
    """The options of every field that holds its value itself: all except those to many records."""

    compute: str
    """The name of the method that gives the value; see ``earnorm.depends``."""
    related: str
    """A path whose value this field has, e.g. ``"partner_id.country_id.code"``."""
    store: bool
    """Keep the computed value in the document, and recompute it when what it depends on changes."""
    recompute: Literal["now", "later"]
    """Recompute a stored value always in the transaction of the change, or always after it; without
    it the number of records decides."""
    search: str
    """The name of the class method that gives a domain for ``(operator, value)``."""
    inverse: str
    """The name of the method that takes a written value and changes other fields."""


class ValueOptions(FieldOptions, Generic[V, N], total=False):
    """All options that a field class of one's own passes on to its base, by the type of its value.

    ``N`` tells type checkers whether a value may be None. mypy takes the ``N`` that ``super()`` has
    for another one, so the call names the class::

        class Code(Field[str, N]):
            def __init__(self, *, length: int = 8, **options: Unpack[ValueOptions[str, N]]) -> None:
                super(Code, self).__init__(**options)
                self.length = length
    """

    required: N
    """The record cannot be stored without a value."""
    default: V | Callable[[], V] | None
    """The value of a new record; a callable without arguments makes a fresh one each time."""
    validators: Iterable[Validator[V]]
    """Each gets the value after its type was checked, and returns the one to store."""


@dataclass(frozen=True, slots=True)
class Computed:
    """The source of a computed value: names of methods and a path, empty if there is none.

    ``recompute`` is ``"now"`` or ``"later"``, or empty if the number of records decides.
    """

    compute: str
    related: str
    search: str
    inverse: str
    recompute: str = ""


class Contents(NamedTuple):
    """The values that lie inside a value of a field, by the fields that check them; None for none.

    Attributes:
        items: The field of the items of a list or a set.
        values: The field of the values of a dict.
        model: The class of an embedded object.
        kinds: Its kinds, where the object may be of a subclass.
    """

    items: Field[Any, Any] | None = None
    values: Field[Any, Any] | None = None
    model: type[EmbeddedModel] | None = None
    kinds: KindsInside | None = None

    @property
    def each(self) -> Field[Any, Any] | None:
        """The field of each value in a list, a set or a dict."""
        return self.values if self.items is None else self.items


_NO_CONTENTS: Final = Contents()


class Record(Protocol):
    """The part of a record that its fields use."""

    def _absent(self, field: Field[Any, Any]) -> Any: ...

    def _inside(self, field: Field[Any, Any], value: Any) -> None: ...

    def _unreadable(self, field: Field[Any, Any], problem: str) -> UnreadableDocument: ...


class _Missing:
    """The type of :data:`MISSING`."""

    def __reduce__(self) -> str:
        return "MISSING"  # there is one object, also after a copy or a pickle

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Any = _Missing()
"""Means "no such key", because None is a value."""

NO_PARTS: Mapping[str, Any] = {}

NOT_DATA = (Mapping, Regex, Code, DBRef)


class Field(Expressions[V], Generic[V, N]):
    """A typed field of a model.

    Args:
        required: The record cannot be stored without a value.
        default: The value of a new record, and of a stored document that lacks the field;
            a callable without arguments makes a fresh one each time.
        choices: The only values allowed.
        validators: Called with the value after its type was checked; each returns the value to
            store, or raises ``ValueError``. An ``async def`` is called before a record is written,
            after everything synchronous.
        **options: See :class:`FieldOptions`.

    A field class of your own needs a base with a value type, and its own methods::

        class Percent(Field[float, N]):
            def annotation(self):
                return Annotated[float, pydantic.Field(ge=0, le=100)]
    """

    python_type: ClassVar[Any] = object
    """The value's type, as pydantic understands it; ``annotation()`` adds constraints."""
    operand_types: ClassVar[tuple[type, ...]] = ()
    """The types a condition's value may have; empty means any plain value."""
    index_floor: ClassVar[Any] = MISSING
    """The lowest stored value, where ``bson_schema`` doesn't tell the one type of stored values: with
    it the database uses the unique index of an optional field, which omits unset values, in
    searches."""
    index_kind: ClassVar[int | str] = 1
    """The index that ``index=True`` makes: 1 (ascending), -1, or a kind such as ``"2dsphere"``."""
    mutable: ClassVar[bool] = False
    """The value can change in place, so ``save()`` compares it with what was loaded."""
    converts: ClassVar[bool] = False
    """Stored and read values differ; see :class:`ConvertingField`."""
    stored: bool = True
    """The value is part of the record's document."""
    structure: Any = None
    """The class of the embedded objects that the field holds, alone or in a list."""
    holds_objects: bool = False
    """The value is a container that holds embedded objects, at any depth."""
    reads_id_text: ClassVar[bool] = False
    """A condition's value may be the text that ``record.id`` shows, or a record."""
    assignable: ClassVar[bool] = True
    """A value can be given in a constructor, an assignment or a write."""
    how_to_write: ClassVar[str] = ""
    """The way to write a field that is not assignable, for messages."""
    internal: bool = False
    """A feature keeps its own data in it: nobody hands a value in."""
    identifies: bool = True
    """The id of a record can be of this kind: conditions take its stored form and its JSON text."""
    of_records: bool = False
    """Only a record can have the field, not an embedded object or a list."""
    secret: bool = False
    """The value is shown nowhere: not in dicts, JSON, exports, bodies of responses, pickles, error
    messages, caches and audit entries. Nothing is ordered, grouped or aggregated by it."""
    operators: frozenset[str] = frozenset()
    """The operators that conditions on a secret field may have."""
    is_placed: ClassVar[bool] = False
    """The operand of a condition depends on the place of the field; see ``placed``."""

    name: str
    db_name: str
    model_name: str
    required: bool
    default: Any
    choices: tuple[Any, ...]
    validators: tuple[Callable[[Any], Any], ...]
    async_validators: tuple[Callable[[Any], Awaitable[Any]], ...]
    unique: bool
    index: bool
    sparse: bool
    readonly: bool
    copy: bool
    string: str
    help: str
    delegated: str = ""
    """The relation whose record the field belongs to; see ``_inherits``."""
    computable: ClassVar[bool] = True
    """The field may have ``compute=`` or ``related=``."""
    computed: Computed | None = None
    """The source of the value if it is computed, else None."""
    _convert: Callable[[Any], Any] | None = None
    given_options: frozenset[str] = frozenset()
    """The names of the common options that the declaration gives."""
    generated: bool = False
    """The value is filled in when the record is stored, so nobody has to give it."""
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})
    """The positional and the named arguments of the declaration as they stand there, to describe it."""

    if not TYPE_CHECKING:

        def __new__(cls, *values, **named):
            # Here and not in __init__, because a kind has its own __init__ and hands on what it likes.
            field = super().__new__(cls)
            field.arguments = (values, named)
            return field

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # the default of N is Literal[False]; mypy cannot tie the two
        default: V | Callable[[], V] | None = None,
        choices: Sequence[V] | None = None,
        validators: Iterable[Validator[V]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, choices, validators, options)

    if not TYPE_CHECKING:

        def __class_getitem__(cls, given):
            # The default of N, which type checkers know, is written nowhere: Many2one["Author"].
            given = given if isinstance(given, tuple) else (given,)
            wanted = cls.__parameters__
            if wanted and wanted[-1] is N and len(given) == len(wanted) - 1:
                given += (Literal[False],)
            return super().__class_getitem__(given if len(given) > 1 else given[0])

    def _bind(
        self,
        required: bool,
        default: Any,
        choices: Sequence[Any] | None,
        validators: Iterable[Validator[Any]],
        options: CommonOptions,
    ) -> None:
        unknown = options.keys() - FieldOptions.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"{type(self).__name__}() got an unknown option {min(unknown)!r}; "
                f"options: {', '.join(sorted(FieldOptions.__annotations__))}"
            )
        self.name = self.model_name = ""
        self.given_options = frozenset(options)
        self.required = bool(required)
        self.default = default
        self.choices = tuple(choices or ())
        given = tuple(validators)
        self.validators = tuple(validator for validator in given if not is_async(validator))
        self.async_validators = tuple(validator for validator in given if is_async(validator))
        self.unique = options.get("unique", False)
        self.sparse = options.get("sparse", False)
        self.index = options.get("index", self.sparse)
        self.readonly = options.get("readonly", False)
        self.copy = options.get("copy", not self.unique)
        self.db_name = options.get("db_name", "")
        self.string = options.get("string", "")
        self.help = options.get("help", "")
        self._bind_computed(options)

    def _bind_computed(self, options: Mapping[str, Any]) -> None:
        kind = type(self).__name__
        compute, related = options.get("compute", ""), options.get("related", "")
        if not (compute or related):
            given = sorted({"store", "search", "inverse", "recompute"} & options.keys())
            if given:
                raise TypeError(f"{kind}({given[0]}=...) goes with compute= or related=")
            return
        if self.computable is False:
            raise TypeError(f"{kind}() cannot be computed")
        if compute and related:
            raise TypeError(f"{kind}() takes compute= or related=, not both")
        if self.default is not None:
            raise TypeError(f"{kind}(default=...): a computed field has the value that is computed")
        self.stored = bool(options.get("store", False))
        if not self.stored and (self.unique or self.index):
            raise TypeError(f"{kind}(index=True) of a computed field needs store=True")
        recompute = options.get("recompute", "")
        if recompute not in ("", "now", "later"):
            raise TypeError(
                f'{kind}(recompute={recompute!r}): "now" is in the transaction of the change, "later" '
                f"after it"
            )
        if recompute and not self.stored:
            raise TypeError(
                f"{kind}(recompute={recompute!r}) needs store=True: another value is computed when it "
                f"is read"
            )
        self._refuse_if_computed(options)
        self.copy = False
        self.of_records = True
        self.computed = Computed(
            compute, related, options.get("search", ""), options.get("inverse", ""), recompute
        )

    def _refuse_if_computed(self, options: Mapping[str, Any]) -> None:
        """Refuse options that say nothing about a value that is computed."""
        kind, takes_values = type(self).__name__, bool(options.get("inverse"))
        if options.get("copy"):
            raise TypeError(f"{kind}(copy=True): a computed value is computed for the copy, too")
        if self.readonly and not takes_values:
            raise TypeError(
                f"{kind}(readonly=True): a computed field without inverse= takes no value"
            )
        if self.stored:
            return
        checked = ("choices", self.choices), ("validators", self.validators + self.async_validators)
        # required= is what the method promises to whoever reads the value, and to type checkers.
        given: list[tuple[str, object]] = [("db_name", self.db_name)]
        given += [] if takes_values else checked
        for option, is_given in given:
            if is_given:
                raise TypeError(f"{kind}({option}=...) of a computed field needs store=True")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.db_name = self.db_name or name
        self.string = self.string or name.strip("_").replace("_", " ").capitalize()
        self.model_name = owner.__name__
        if name == "_id" and not self.reads_id_text:
            # Every way to name a record takes the text that ``record.id`` shows.
            vars(self)["operand"] = partial(id_operand, self)

    # -- what a kind of field defines ---------------------------------------------------------

    def annotation(self) -> Any:
        """Return the type that pydantic validates a value with."""
        return self.python_type

    def encode(self, value: Any) -> Any:
        """Convert a value to its stored (BSON) form; a stored value stays as it is."""
        return value

    def decode(self, value: Any) -> Any:
        """Convert a stored form to its value; a value stays as it is."""
        return value

    def decode_each(self, values: list[Any]) -> list[Any]:
        """Convert the stored forms in a list; see ``decode``."""
        return [self.decode(value) for value in values]

    def operand(self, value: Any) -> Any:
        """Convert a condition's value to its stored form. A value is data, never an operator.

        Raises:
            ValueError: The value can never be a value of this field.
        """
        if value is None:
            return None
        allowed = self.operand_types
        if allowed:
            # bool is an int to Python and another type to the database
            if isinstance(value, allowed) and (type(value) is not bool or bool in allowed):
                return self.encode(value)
            names = " or ".join(t.__name__ for t in allowed)
            raise ValueError(f"{self.name} is compared with {names}, not {type(value).__name__}")
        if isinstance(value, NOT_DATA):
            raise ValueError(f"a {type(value).__name__} is no value to compare {self.name} with")
        return self.encode(value)

    def comparable(self, stored: Any) -> Any:
        """Return BSON data that is the same for equal values, of the stored form that memory has."""
        return stored

    def placed(self, identity: str, db_path: str) -> Self:
        """Return the field with its place, for conditions; it is asked where ``is_placed`` is true.

        Args:
            identity: The name that identifies the model's records; see ``ModelView.identity``.
            db_path: The stored path, without positions in lists.
        """
        return self

    def json_type(self) -> Any:
        """Return the type of a value in a request or response body, as pydantic understands it."""
        return self.annotation()

    def to_json(self, value: Any) -> Any:
        """Convert a value (never None) to JSON: text, number, true, false, list or dict."""
        return json_form(value)

    def bson_schema(self) -> Mapping[str, Any]:
        """Describe the stored form of a set value in the terms of MongoDB's ``$jsonSchema``.

        Every value that the field accepts must pass; ``{}`` lets everything pass.
        """
        return {}

    @property
    def keeps_texts(self) -> bool:
        """True if every text is a value and is stored as it was given, so that choices alone decide."""
        return False

    @property
    def parts(self) -> Mapping[str, Field[Any, Any]]:
        """The fields inside a stored value, by their names in a condition's path."""
        return NO_PARTS

    @property
    def is_derived(self) -> bool:
        """True if the value is computed from other fields."""
        return self.computed is not None

    @property
    def is_given(self) -> bool:
        """True if a value can be given: it is stored, or an inverse method takes it."""
        return self.stored if self.computed is None else bool(self.computed.inverse)

    # -- what the rest of the core uses -------------------------------------------------------

    def value_annotation(self) -> Any:
        """Return the annotation of a set value, with choices and validators applied."""
        kind = self._limited(self.annotation())
        if self.validators:
            kind = Annotated[(kind, *(pydantic.AfterValidator(v) for v in self.validators))]
        if self.secret and self.contents().each is None:  # a container's items are guarded each
            kind = Annotated[kind, pydantic.WrapValidator(guarded)]
        return kind

    def json_annotation(self) -> Any:
        """Return the annotation of a value in a request or response body, with choices applied."""
        kind = self._limited(self.json_type())
        if type(self).to_json is not Field.to_json:
            form = pydantic.PlainSerializer(self.to_json, when_used="json-unless-none")
            kind = Annotated[kind, form]
        return kind

    def _limited(self, kind: Any) -> Any:
        if not self.choices:
            return kind
        if self.keeps_texts:
            return Literal[self.choices]
        # A literal takes only these types; its error message names the choices.
        if all(type(choice) in (str, int, bool, bytes) for choice in self.choices):
            return Annotated[kind, AmongChoices(self.choices)]
        return Annotated[kind, pydantic.AfterValidator(self._chosen)]

    def stored_schema(self, *, nullable: bool) -> dict[str, Any]:
        """Return ``bson_schema`` with choices applied.

        Args:
            nullable: Null is allowed as well.
        """
        schema: dict[str, Any] = dict(self.bson_schema())
        allowed: list[Any] = [self.encode(choice) for choice in self.choices]
        allowed = allowed or list(schema.get("enum", ()))
        if allowed:
            distinct: list[Any] = []  # the server refuses a list that names a value twice
            for stored in (*allowed, *((None,) if nullable else ())):
                if stored not in distinct:
                    distinct.append(stored)
            schema["enum"] = distinct
        kind: Any = schema.get("bsonType")
        if kind is not None and nullable:
            schema["bsonType"] = [*([kind] if isinstance(kind, str) else kind), "null"]
        return schema

    def _chosen(self, value: Any) -> Any:
        if value not in self.choices:
            raise ValueError(f"one of {', '.join(map(str, self.choices))} is allowed")
        return value

    def default_value(self) -> Any:
        """Return the default, or a new one if it is a factory, converted like a given value.

        A class whose ``@validates`` methods see the value as well has its own; see
        ``Schema.default_of``.
        """
        default = self.default() if callable(self.default) else self.default
        if default is None:
            return None
        if self._convert is None:
            # Made on the first use, because an annotation may name classes that are defined later.
            self._convert = pydantic.TypeAdapter(self.value_annotation()).validate_python
        return self._convert(default)

    def freeze(self, stored: Any) -> Any:
        """Copy a stored value, so that later changes in place do not reach the copy."""
        return freeze(stored)

    def own(self, value: Any) -> Any:
        """Copy a value of a record or an embedded object, so that changes in place stay apart."""
        return self.decode(self.freeze(self.encode(value))) if self.mutable else value

    # -- descriptor: the library's one set of overloads ---------------------------------------

    @overload
    def __get__(self, record: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self: Field[V, Literal[True]], record: object, owner: type[Any]) -> V: ...
    @overload
    def __get__(self: Field[V, Literal[False]], record: object, owner: type[Any]) -> V | None: ...
    def __get__(self, record: Any, owner: type[Any]) -> Any:
        if record is None:
            return self._on_class()
        return record._absent(self)

    if TYPE_CHECKING:
        # At run time a plain field must have no __set__, or reading it would cost ten times as
        # much; BaseModel.__setattr__ catches assignments.
        @overload
        def __set__(self: Field[V, Literal[True]], record: object, value: V) -> None: ...
        @overload
        def __set__(self: Field[V, Literal[False]], record: object, value: V | None) -> None: ...
        def __set__(self, record: object, value: Any) -> None: ...

        @overload
        def to(self: Field[V, Literal[True]], value: V | Change) -> dict[str, Any]: ...
        @overload
        def to(self: Field[V, Literal[False]], value: V | Change | None) -> dict[str, Any]: ...
        def to(self, value: Any) -> dict[str, Any]: ...

    # -- conditions ---------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The field's name as a condition's path."""
        return self.name

    @property
    def _condition_path(self) -> str:
        return self.name

    @property
    def has_inside(self) -> bool:
        """True if a path can continue into the field; its class attribute is then a path."""
        return bool(self.parts) or self.structure is not None

    def fields_inside(self) -> Mapping[str, Field[Any, Any]] | None:
        """Return the fields with which a path can continue, or None if they are not known (yet)."""
        return self.parts if self.structure is None else self.structure._schema.fields

    def contents(self) -> Contents:
        """Return the fields of the values that lie inside a value of this field."""
        return _NO_CONTENTS

    def _on_class(self) -> Any:
        return FieldPath(self.name, self) if self.has_inside else self

    def __repr__(self) -> str:
        where = f"{self.model_name}.{self.name}" if self.name else "unbound"
        return f"<{type(self).__name__} {where}>"


class ConvertingField(Field[V, N]):
    """A field whose stored and read values differ; the value converts when it is first read.

    It is a data descriptor at run time: without ``__set__``, reading would silently give the raw
    value in the record's ``__dict__``.
    """

    converts: ClassVar[bool] = True
    lossy: ClassVar[bool] = False
    """Another program's values may change when they are converted; see ``is_exact``."""

    if TYPE_CHECKING:
        # A condition takes other forms of a value, too: an id, an item of a list, a text of an enum.
        def __eq__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions
        def __ne__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions

        __hash__ = Field.__hash__

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            if record is None:
                return self._on_class()
            state = record.__dict__
            try:
                value = state[self.name]
            except KeyError:
                return record._absent(self)
            if value is None or self.is_decoded(value):
                return value
            if REFUSED and is_refused(record, self.name):
                return value
            try:
                decoded = self.decode(value)
            except Exception as error:
                raise unreadable(record, self, error) from None
            # A value that conversion changes stays as it is stored, for the database's answers, and
            # so does an id.
            if (not self.lossy or self.is_exact(value, decoded)) and self.name != "_id":
                state[self.name] = decoded
            return decoded

        def __set__(self, record, value):
            raise AssertionError("BaseModel.__setattr__ writes fields")

    def is_decoded(self, value: Any) -> bool:
        """Return whether the value is converted already (a cheap check, made on each read)."""
        raise NotImplementedError

    def is_exact(self, stored: Any, value: Any) -> bool:
        """Return whether a stored value and its converted form mean the same to the database.

        It is asked where ``lossy`` is true.
        """
        return key(self.encode(value)) == key(stored)


class MutableField(ConvertingField[V, N]):
    """A field whose value can change in place: the first read keeps a copy for ``save()``."""

    mutable: ClassVar[bool] = True
    is_as_stored: bool = False
    """True if the read form of a value is its stored form, so that the first read converts nothing."""

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            if record is None:
                return self._on_class()
            state = record.__dict__
            name = self.name
            try:
                value = state[name]
            except KeyError:
                return record._absent(self)
            pending = getattr(record, "_pending", None) or record._pending_or_new()
            originals = pending.originals
            if name not in originals and name not in pending.refused:
                if self.is_as_stored:
                    originals[name] = freeze(value)
                    return value
                try:
                    decoded = None if value is None else self.decode(value)
                    if self.holds_objects:  # they note their own changes
                        originals[name] = Marks(freeze(decoded))
                    else:
                        originals[name] = self.freeze(self.encode(decoded))
                except Exception as error:
                    raise unreadable(record, self, error) from None
                value = state[name] = decoded
                if value and self.structure is not None and self.structure._schema.relations:
                    record._inside(self, value)
            return value

    def is_decoded(self, value: Any) -> bool:
        return False


class Marks:
    """The embedded objects that a container held when it was read; each notes its own changes."""

    __slots__ = ("tree",)

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        """Containers like the original ones, with the same objects in them."""


_has_no_container: Final = frozenset((list, dict)).isdisjoint


def freeze(value: Any) -> Any:
    """Copy the containers in a value, at every level, with the same objects and values in them."""
    kind = type(value)
    if kind is list:
        # Most have no container inside; to see that takes a fifth of the time of looking at each.
        if _has_no_container(map(type, value)):
            return value[:]
        return [freeze(item) for item in value]
    if kind is dict:
        if _has_no_container(map(type, value.values())):
            return value.copy()
        return {key: freeze(item) for key, item in value.items()}
    return value


def map_inside(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Copy the containers in a value, at every level, with each other value in them converted."""
    kind = type(value)
    if kind is list:
        return [map_inside(item, convert) for item in value]
    if kind is dict:
        return {key: map_inside(item, convert) for key, item in value.items()}
    return convert(value)


def is_embedded(value: object) -> TypeGuard[EmbeddedModel]:
    """Return whether the value is an embedded object."""
    return getattr(type(value), "_is_embedded", False)


def unreadable(record: Record, field: Field[Any, Any], error: Exception) -> EarnORMError:
    """Return the error for a stored value that a field cannot convert."""
    if isinstance(error, EarnORMError):
        return error
    return record._unreadable(
        field, f"a {type(field).__name__} cannot read it ({type(error).__name__})"
    )


def is_refused(record: Any, name: str) -> bool:
    """Return whether the record keeps a value that was assigned and refused, as it was given.

    It need not be called where ``REFUSED`` is empty.
    """
    pending = getattr(record, "_pending", None)
    return pending is not None and name in pending.refused


def is_async(function: object) -> bool:
    """Return whether calling the function gives a coroutine."""
    while isinstance(function, partial):  # inspect knows no partial of a bound method
        function = function.func
    call = getattr(function, "__call__", None)  # noqa: B004 - its definition is needed
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


INTERNAL: Final = "is kept by EarnORM itself, and takes no value"
"""The message about a value that is given for an internal field."""


def not_written(field: Field[Any, Any]) -> ErrorDetail:
    """Make the error for a value that is given for a computed field."""
    computed = field.computed
    assert computed is not None
    if field.delegated:
        message = f"belongs to the record of {field.delegated}: create() and write() take it"
        return {"loc": (field.name,), "msg": message, "type": "readonly"}
    if computed.inverse:
        message = f"{computed.inverse}() takes the whole value, and no part or change of it"
        return {"loc": (field.name,), "msg": message, "type": "readonly"}
    how = f"by {computed.compute}()" if computed.compute else f"from {computed.related}"
    message = f"is computed {how} and cannot be written; inverse= names a method that takes a value"
    return {"loc": (field.name,), "msg": message, "type": "readonly"}


def not_fetched(field: Field[Any, Any]) -> tuple[str, str]:
    """Say of a computed field that is not stored where its value is, and how to have it."""
    assert field.computed is not None
    related = field.computed.related
    if related:
        link = related.partition(".")[0]
        return f"is that of {related!r}", f"only({link!r}).prefetch({link!r}) loads that record"
    return "is computed when it is read", "name the fields that it depends on"


def not_searched(schema: str, field: Field[Any, Any]) -> str:
    """Make the message for a search, order or group by a computed field that is not stored."""
    return (
        f"{schema}.{field.name} is computed when it is read, so the database cannot search by it: give "
        f"it store=True, or search= with the name of a class method (operator, value) that gives a domain"
    )
