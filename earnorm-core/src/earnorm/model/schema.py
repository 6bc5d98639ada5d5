"""The schema of a model's class body, compiled once: its fields, validators and stored form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard, cast

import pydantic
from pydantic_core import PydanticCustomError, SchemaValidator, core_schema

from earnorm.bounded import Bounded
from earnorm.domain.paths import check_length, is_position, without_positions
from earnorm.domain.schema import Crossing, Path, Substitute
from earnorm.domain.values import encodable
from earnorm.exceptions import (
    ConfigurationError,
    DomainError,
    EarnORMError,
    ErrorDetail,
    UnresolvedDomain,
    ValidationError,
    located,
)
from earnorm.fields.adapters import kind_problem
from earnorm.fields.base import INTERNAL, MISSING, Field, not_searched
from earnorm.fields.places import places
from earnorm.fields.relational import Relation, ToMany
from earnorm.fields.secrets import holds_secrets, limits_of, refused_order
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.kernel.naming import may_name, nearest_field
from earnorm.model.problems import missing, problems_of

if TYPE_CHECKING:
    from earnorm.model.derived import DerivedValues
    from earnorm.model.validation.constraints import Rules, When

State = dict[str, Any]
_ALIASES = {"id": "_id", "pk": "_id"}


class Schema:
    """The fields of one class, with the validators, paths and stored forms made from them.

    Args:
        name: The model's name, for messages.
        fields: Fields by name, in the order of their declaration.
        added: Names of the fields that a feature or a plugin added, and no class body has.
    """

    __slots__ = (
        "_are_given",
        "_check_new",
        "_constants",
        "_crossings",
        "_db_names",
        "_encoders",
        "_encoding",
        "_find_field",
        "_renamed_paths",
        "_transient",
        "_validators",
        "added",
        "as_it_is",
        "checks_of_one",
        "default_order",
        "derived",
        "embedded",
        "fields",
        "freely_assigned",
        "identity",
        "is_flat",
        "is_known",
        "is_of_model",
        "may_cross",
        "mutable",
        "name",
        "projection",
        "readonly",
        "rechecked",
        "relations",
        "renamed",
        "required",
        "resolved_paths",
        "rules",
        "secrets",
        "stored",
        "to_many",
        "to_many_names",
    )  # the attributes are more than a dict of an object has room for at full speed

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Field[Any, Any]],
        added: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.is_of_model = False
        """True for the fields of a model; False for those of embedded objects."""
        self.identity = name
        """The name that identifies the records; see ``ModelView.identity``."""
        self.fields = dict(fields)
        self.added = added
        stored = [f for f in fields.values() if f.stored]
        self.stored = tuple(stored)
        self.required = tuple(f for f in stored if f.required)
        self.embedded = tuple(f for f in stored if isinstance(f, Embedded))
        relations = tuple(f for f in fields.values() if isinstance(f, Relation))
        self.mutable = frozenset(f.name for f in stored if f.mutable)
        """The names of fields whose values can change in place."""
        self.readonly = frozenset(f.name for f in stored if f.readonly)
        """The names of fields that are set only on a new record."""
        self.to_many = tuple(f for f in relations if isinstance(f, ToMany))
        self.to_many_names = frozenset(f.name for f in self.to_many)
        inside = tuple(f for f in stored if f.structure and f.structure._schema.relations)
        self.relations = relations + inside
        """The relations, and the fields whose embedded objects have relations.

        With any of them, the records of a fetch hold each other as siblings.
        """
        self.freely_assigned = frozenset(
            f.name
            for f in stored
            if f.assignable and not (f.readonly or f.mutable or f.name == "_id")
        ).difference(self.to_many_names)
        """The fields of whose assignment nothing is asked but that the value is valid."""
        self.rechecked = self.mutable | {f.name for f in self.relations}
        """The fields whose values may need another validation after that of their assignment."""
        self.projection: Mapping[str, int] = {f.db_name: 1 for f in stored}
        self.is_known = frozenset(self.projection).issuperset
        """A function that returns whether all of a document's keys are declared."""
        self.secrets = frozenset(f.name for f in stored if holds_secrets(f))
        """The names of the fields whose values are secret, or hold a secret value."""
        self._encoders = tuple((f.db_name, f.encode) for f in stored if f.converts)
        self._encoding = frozenset(
            n for n, f in fields.items() if type(f).encode is not Field.encode
        )
        """The names of fields with a stored form of their own; this saves a call for the others."""
        self._transient = tuple(
            f.name for f in fields.values() if not f.stored and not f.is_derived
        )
        renamed = {f.db_name: f.name for f in stored if f.db_name != f.name}
        self.renamed = renamed
        """Stored keys that differ from their field's name, with that name."""
        self._renamed_paths: Mapping[str, str] | None = None
        self._db_names = {name: key for key, name in renamed.items()}
        self.is_flat = not (self._encoders or self._transient or renamed)
        self.as_it_is = frozenset(
            f.name
            for f in stored
            if not (f.converts or f.secret) and type(f).to_json is Field.to_json
        )
        """The fields whose texts and whole numbers are their own JSON form."""
        self.default_order: tuple[tuple[str, int], ...] = ()
        """The model's ``_order``: paths with 1 (ascending) or -1."""
        self.rules: Rules | None = None
        """The methods under ``@validates`` and ``@constrains``; None where there are none."""
        self.derived: DerivedValues | None = None
        """The values that follow from other fields; None where there are none."""
        self.resolved_paths: Bounded[str, Path] = Bounded()
        self._crossings: Bounded[str, Crossing | None] = Bounded()
        self.may_cross = any(map(_may_cross, fields.values()))
        """True if any path leads into another model."""
        self._validators: dict[str, SchemaValidator] = {}
        self.checks_of_one: dict[tuple[str, When], Callable[[Any], Any]] = {}
        """The validations of single fields that are made already; see ``one``."""
        self._constants: dict[str, Any] = {}
        self._find_field: Callable[[str], Field[Any, Any] | None] | None = None
        self._check_new: Callable[[Any], State] | None = None
        self._are_given = frozenset(f.name for f in _input_fields(self)).issuperset
        """A function that returns whether a new record accepts values for all of these names."""

    @property
    def renamed_paths(self) -> Mapping[str, str]:
        """The stored paths that differ from the path of conditions, each with that path."""
        if self._renamed_paths is None:
            renamed = {p.db_path: p.path for p in places(self.stored) if p.db_path != p.path}
            self._renamed_paths = renamed
        return self._renamed_paths

    # -- validation: values that come from callers --------------------------------------------

    def validate(self, values: Mapping[str, Any]) -> State:
        """Return a complete, converted state for a new record.

        Raises:
            ValidationError: With every problem found.
        """
        check = self._check_new or self._new_checker()
        try:
            # The constructor takes this fast path, with only the work that every new record needs.
            if self._are_given(values):
                return check(values)
            state: State = self._validator("new").validate_python(self._unaliased(values))
        except pydantic.ValidationError as error:
            raise self._translate(error) from None
        return state

    def _new_checker(self) -> Callable[[Any], State]:
        # The names are known to be fields, so pydantic need not look for unknown ones: 0.7 µs for
        # ten fields instead of 1.0.
        check: Callable[[Any], State] = self._validator("named").validate_python
        self._check_new = check
        return check

    def validate_many(self, values: Sequence[Mapping[str, Any]]) -> list[State]:
        """Validate a batch in one call; each problem has its position in the batch."""
        batch = [
            values_of_record
            if type(values_of_record) is dict and "id" not in values_of_record
            else self._unaliased(values_of_record)
            for values_of_record in values
        ]
        try:
            states: list[State] = self._validator("many").validate_python(batch)
        except pydantic.ValidationError as error:
            raise self._translate(error) from None
        return states

    def validate_partial(self, values: Mapping[str, Any], when: When = "write") -> State:
        """Validate some fields; nothing is required or filled in.

        Args:
            values: The values of these fields.
            when: ``write`` for a record that exists, ``create`` for a new one.
        """
        try:
            state: State = self._validator(when).validate_python(self._unaliased(values))
        except pydantic.ValidationError as error:
            raise self._translate(error) from None
        return state

    def validate_others(
        self, values: Mapping[str, Any], known: Mapping[str, Any], when: When
    ) -> State:
        """Return the values after validating those that are not known as validated.

        Args:
            values: Values by field.
            known: Validated values; one that ``values`` has as the same object is not validated
                again, because a validator may change a value (hash a password, say).
            when: See ``validate_partial``.
        """
        if values is known:
            return dict(values)
        others = {n: v for n, v in values.items() if n not in known or known[n] is not v}
        return {**values, **self.validate_partial(others, when)} if others else dict(values)

    def completed(self, values: Mapping[str, Any], known: Mapping[str, Any]) -> State:
        """Return the complete state of a new record of which some values are validated.

        Args:
            values: Values by field.
            known: The validated values; see ``validate_others``.

        Raises:
            ValidationError: With every problem found.
        """
        problems: list[ErrorDetail] = []
        state: State = dict(values)
        try:
            state = self.validate_others(values, known, "create")
        except ValidationError as error:
            problems += error.errors()
        for field in _input_fields(self):
            if field.name not in state:
                if field.default is not None:
                    state[field.name] = self.default_of(field)
                elif field.required and not (field.generated or field.is_derived):
                    problems.append(missing(self, field.name))
        if problems:
            raise ValidationError(self.name, problems)
        # The keys have the order of the fields, as those of any new record have.
        ordered = {name: state[name] for name in self.fields if name in state}
        return {**ordered, **state}

    def one(self, name: str, when: When) -> Callable[[Any], Any]:
        """Return the validation of one field's value, which raises pydantic's own errors."""
        check = self.checks_of_one.get((name, when))
        if check is None:
            shape: Any = _shape_of_one(self, self.fields[name], when)
            built = pydantic.TypeAdapter(shape).validator
            assert built is not None  # see _validator
            check = self.checks_of_one[name, when] = built.validate_python
        return check

    def _unaliased(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        # The test for dict comes first: one against an ABC takes as long as validating a field.
        if (type(values) is dict or isinstance(values, Mapping)) and "id" in values:
            return {self.name_of(key): value for key, value in values.items()}
        return values

    def name_of(self, name: str) -> str:
        """Return the field's name for ``id`` and ``pk``, unless a field has that name itself."""
        return name if name in self.fields else _ALIASES.get(name, name)

    def _validator(self, form: str) -> SchemaValidator:
        validator = self._validators.get(form)
        if validator is None:
            # The first use builds it: an annotation may name classes that are defined later.
            when: When = "write" if form == "write" else "create"
            partial = form in ("write", "create")
            shape: Any = _shape(self, when, partial=partial, named=form == "named")
            kind: Any = list.__class_getitem__(shape) if form == "many" else shape
            built = pydantic.TypeAdapter(kind).validator
            assert built is not None  # it is None only while its building is deferred
            # A pydantic plugin may wrap it in an object of the same methods.
            validator = self._validators[form] = cast(SchemaValidator, built)
        return validator

    def check_own_kinds(self) -> None:
        """Look at the class of each field that is not one of EarnORM's own.

        Raises:
            ConfigurationError: Its methods do not fit, or pydantic cannot build its annotation; the
                first write or read would fail.
        """
        for field in _input_fields(self):
            if type(field).__module__.partition(".")[0] == "earnorm":
                continue
            problem = kind_problem(field)
            if problem is not None:
                raise ConfigurationError(f"{self.name}.{field.name}: {problem}").coded(
                    "field_annotation"
                )

    def default_of(self, field: Field[Any, Any]) -> Any:
        """Return a field's default, or a new one if it is a factory or may change in place.

        It is converted and checked like a value that is handed in.

        Raises:
            ValidationError: The default is not valid.
        """
        name, default = field.name, field.default
        if name in self._constants:
            return self._constants[name]
        made = default() if callable(default) else default
        if made is not None and not field.internal:
            try:
                made = self.one(name, "create")(made)
            except pydantic.ValidationError as error:
                raise _wrong_default(field, error) from None
        if default is None or not (callable(default) or field.mutable):
            self._constants[name] = made
        return made

    def _translate(self, error: pydantic.ValidationError) -> ValidationError:
        return ValidationError(self.name, problems_of(error, self))

    # -- stored form --------------------------------------------------------------------------

    def document(self, state: State) -> dict[str, Any]:
        """Return the stored form of a record's state: the state itself if nothing differs."""
        if self.is_flat:
            return state
        if self.renamed:
            # The keys keep their order, because comparing a read and a stored document needs it.
            stored = self._db_names
            names = self._transient
            document = {stored.get(k, k): v for k, v in state.items() if k not in names}
        else:
            document = dict(state)
            for name in self._transient:
                document.pop(name, None)
        db_name = ""
        try:
            for db_name, encode in self._encoders:
                value = document.get(db_name, MISSING)
                if value is not MISSING:
                    document[db_name] = encode(value)
        except ValidationError as error:  # a link to a record that is not stored
            name = self.renamed.get(db_name, db_name)
            raise ValidationError(self.name, located(error.errors(), name)) from None
        except Exception as error:
            self._note_kind(error, self.renamed.get(db_name, db_name))
            raise
        return document

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the stored form of some validated values."""
        fields, encoding, name = self.fields, self._encoding, ""
        stored: dict[str, Any] = {}
        try:
            for name, value in values.items():
                field = fields[name]
                stored[field.db_name] = field.encode(value) if name in encoding else value
        except ValidationError as error:  # a link to a record that is not stored
            raise ValidationError(self.name, located(error.errors(), name)) from None
        except Exception as error:
            self._note_kind(error, name)
            raise
        return stored

    def _note_kind(self, error: Exception, name: str) -> None:
        """Name the field in an exception of its class's ``encode`` that is none of EarnORM's."""
        field = self.fields.get(name)
        if field is not None and not isinstance(error, EarnORMError):
            error.add_note(f"in encode() of {self.name}.{name}, a {type(field).__name__}")

    def stored_schema(self) -> dict[str, Any]:
        """Return the rules of a stored document as MongoDB's ``$jsonSchema``.

        The key of a field with a default, or with a value that only a new record is given, need not
        be there: a document that is older than the field lacks it, and has to stay writable.
        """
        required = [
            field.db_name
            for field in self.stored
            if field.required and field.default is None and not field.generated
        ]
        properties = {f.db_name: f.stored_schema(nullable=not f.required) for f in self.stored}
        if "_id" in self.fields:
            properties["_id"] = dict(self.fields["_id"].bson_schema())  # never null
        shown = {"properties": {key: rules for key, rules in properties.items() if rules}}
        return {"bsonType": "object", **({"required": required} if required else {}), **shown}

    def states(self, documents: list[dict[str, Any]]) -> list[State]:
        """Return documents as records' states: the same objects unless a stored key is renamed.

        The documents have no unknown keys, because every search names the declared ones.
        """
        return list(map(self.state, documents)) if self.renamed else documents

    def state(self, document: dict[str, Any]) -> State:
        """Return one document as the state of a record; see ``states``."""
        renamed = self.renamed
        return {renamed.get(k, k): v for k, v in document.items()} if renamed else document

    # -- domains ------------------------------------------------------------------------------

    def resolve(self, path: str) -> Path:
        """Return the stored path and field of a path; see ``earnorm.domain.schema.Schema``."""
        resolved = self.resolved_paths.get(path)
        if resolved is None:
            resolved = self._found(path)
            _check_parts(path, resolved.db_path)
            resolved = self._limited(resolved)
            self.resolved_paths[path] = resolved
        return resolved

    def _found(self, path: str) -> Path:
        try:
            return self._resolve(path)
        except UnresolvedDomain:
            raise
        except DomainError:
            head = self.field_at(path)
            if head in self.fields and not may_name(self, head):
                raise DomainError(f"{self.name}: there is no path {path!r}", loc=(path,)) from None
            raise

    def _limited(self, resolved: Path) -> Path:
        """Return a path with the limits of conditions on it, and with a field that knows its place."""
        field: Any = resolved.field
        if field.is_placed:
            field = field.placed(self.identity, without_positions(resolved.db_path))
        limits = limits_of(field)
        return resolved if limits is None else Path(resolved.db_path, field, limits)

    def _resolve(self, path: str) -> Path:
        check_length(path)
        head, _, rest = path.partition(".")
        field = self._field(head)
        if field is None:
            raise DomainError(f"{self.name} has no field {head!r}{nearest_field(self, head)}")
        crossing = self.crossing(path)
        if crossing is not None and (crossing.rest or not crossing.owned):
            raise UnresolvedDomain(
                f"{self.name}.{path} lies in other records; 'await app.resolve(model, domain)' "
                f"makes a condition about it one about this record",
                loc=(path,),
            )
        if not field.stored and field.is_derived:
            error = UnresolvedDomain if self.substitute(path) else DomainError
            raise error(not_searched(self.name, field))
        if not field.stored:
            raise DomainError(
                f"{self.name}.{head} is not stored, so the database cannot search by it"
            )
        if not rest:
            return Path(field.db_name, field)
        way = self._descend(field, head, rest, path)
        if not way.rest:
            return Path(way.local, way.field)
        inner = self._inside(way.field, path)
        if inner is None:  # a free-form value accepts any path and any JSON value
            return Path(f"{way.local}.{way.rest}", _free_form(path))
        below = inner.resolve(way.rest)
        return Path(f"{way.local}.{below.db_path}", below.field)

    def _descend(self, outer: Field[Any, Any], head: str, rest: str, path: str) -> _Way:
        """Follow a path into lists, by position or not, and into the values of a Dict, by key.

        Raises:
            DomainError: The path leads into a list inside a list.
        """
        way = _Way(outer, head, outer.db_name, rest)
        in_list = False
        while True:
            step, _, deeper = way.rest.partition(".")
            if isinstance(way.field, List):
                way.is_single = False
                if is_position(step):
                    way.past(step, deeper)
                elif in_list and way.rest:
                    raise DomainError(
                        f"{self.name}.{path}: {head!r} is a list of lists, and the database looks for no "
                        f"values in a list inside a list; name a position: '{head}.0.{rest}'",
                        loc=(path,),
                    )
                in_list = not is_position(step)
                way.field = way.field.contents().items
            elif isinstance(way.field, Dict) and way.field.contents().values is not None and step:
                in_list = False
                way.past(step, deeper)
                way.field = way.field.contents().values
            else:
                return way

    def _field(self, head: str) -> Field[Any, Any] | None:
        name = self.name_of(head)
        field = self.fields.get(name)
        if field is None and self._find_field is not None:
            return self._find_field(name)
        return field

    def widened(self, find_field: Callable[[str], Field[Any, Any] | None]) -> Self:
        """Return a copy whose conditions may also name fields that this class does not declare.

        Args:
            find_field: Finds such a field by its name. It is called each time, because fields may
                be added later.
        """
        copied = copy.copy(self)
        copied.resolved_paths = self.resolved_paths.empty()
        copied._crossings = self._crossings.empty()
        copied._find_field = find_field
        return copied

    def _inside(self, field: Field[Any, Any], path: str) -> Schema | None:
        if isinstance(field, Embedded):
            return schema_inside(field)
        if isinstance(field, Json | Dict):
            return None
        if isinstance(field, Relation) and not field.parts:
            raise DomainError(f"{path!r}: what the relation {field.name!r} leads to has no fields")
        if field.parts:
            return Schema(f"{self.name}.{field.name}", field.parts)
        raise DomainError(f"{self.name}.{field.name} has no fields of its own ({path!r})")

    def substitute(self, path: str) -> Substitute | None:
        """Return the substitute of a derived field; see :class:`earnorm.domain.schema.Schema`."""
        derived = self.derived
        return None if derived is None else derived.substitutes.get(path.partition(".")[0])

    def crossing(self, path: str) -> Crossing | None:
        """Return the first relation that a path crosses; see ``earnorm.domain.schema.Schema``."""
        try:
            return self._crossings[path]
        except KeyError:
            first_crossing = self._crossings[path] = self._crossing(path)
            return first_crossing

    def _crossing(self, path: str) -> Crossing | None:
        check_length(path)
        head, _, rest = path.partition(".")
        outer = self._field(head)
        if outer is None or (outer.is_derived and not outer.stored):
            return None
        way = self._descend(outer, head, rest, path)
        field = way.field
        if _crosses(field):
            if outer.stored:
                single = way.is_single and not field.to_many
                return Crossing(field, way.path, way.local, way.rest, owned=True, single=single)
            # The other model, or a link model, stores this record's id.
            return Crossing(field, "_id", "_id", way.rest, owned=False, single=False)
        if not isinstance(field, Embedded) or not way.rest:
            return None
        below: Crossing | None = field.model._schema.crossing(way.rest)
        if below is None or not below.owned:
            return None
        return Crossing(
            below.field,
            f"{way.path}.{below.path}",
            f"{way.local}.{below.local}",
            below.rest,
            owned=True,
            single=below.single and way.is_single,
        )

    def field_at(self, path: str) -> str:
        """Return the name of the field that a path begins with."""
        return self.name_of(path.partition(".")[0])

    def path_of(self, name: str) -> str:
        """Return the stored path of a field's path, e.g. for an index.

        Raises:
            DomainError: No such field.
        """
        return self.resolve(name).db_path

    def order_path_of(self, name: str) -> str:
        """Return the stored path of a field's path, for an order.

        Raises:
            DomainError: No such field, or a secret one.
        """
        resolved = self.resolve(name)
        if resolved.limits is not None:
            field: Any = resolved.field
            raise DomainError(f"{self.name}.{name}: {refused_order(field)}", loc=(name,))
        return resolved.db_path

    def __repr__(self) -> str:
        return f"<Schema {self.name}: {', '.join(self.fields)}>"


def _check_parts(path: str, db_path: str) -> None:
    """Refuse a path with a part that the server reads as an operator, or cannot read at all.

    Only the parts inside a Json or a Dict can be any text.
    """
    if not all(path.split(".")):
        raise DomainError(f"{path!r} has an empty part beside a dot", loc=(path,))
    for part in db_path.split("."):
        if part.startswith("$") or "\0" in part:
            raise DomainError(
                f"{path!r}: a part must not start with '$' or contain NUL", loc=(path,)
            )
    try:
        encodable(db_path)
    except ValueError as error:
        raise DomainError(f"{path!a}: {error}", loc=(ascii(path),)) from None


def schema_inside(field: Embedded[Any, Any]) -> Schema:
    """Return the fields with which a path continues into an embedded object, of every kind."""
    schema: Schema = field.model._schema
    if field.kinds is None:
        return schema
    fields = field.kinds.fields()
    if len(fields) == len(schema.fields):
        return schema
    known: Schema | None = vars(field).get("_schema_inside")
    if known is None or len(known.fields) != len(fields):
        known = vars(field)["_schema_inside"] = Schema(schema.name, fields)
    return known


def _free_form(path: str) -> Json[Any]:
    """Return a field for any JSON value inside a free-form one."""
    free: Json[Any] = Json()
    free.__set_name__(Schema, path)
    return free


def _crosses(field: Field[Any, Any]) -> TypeGuard[Relation[Any, Any]]:
    return isinstance(field, Relation) and hasattr(type(field), "join")


def _may_cross(field: Field[Any, Any]) -> bool:
    while isinstance(field, List | Dict):
        inside = field.contents().each
        if inside is None:
            return False
        field = inside
    inner: Schema | None = field.model._schema if isinstance(field, Embedded) else None
    substituted = field.is_derived and not field.stored
    return substituted or _crosses(field) or (inner is not None and inner.may_cross)


@dataclass(slots=True)
class _Way:
    """A point on a path: the field there, the path so far, as it is stored too, and the rest."""

    field: Any  # a type checker would read a Field here as a descriptor
    path: str
    local: str
    rest: str
    is_single: bool = True

    def past(self, step: str, rest: str) -> None:
        """Move a step, the position in a list or the key in a dict, from the rest into the path."""
        self.path, self.local, self.rest = f"{self.path}.{step}", f"{self.local}.{step}", rest


def _shape(schema: Schema, when: When, *, partial: bool, named: bool) -> type[Any]:
    """Return a type whose pydantic schema is that of the model's state.

    Args:
        schema: The model's fields.
        when: The operation that the values are for.
        partial: Validate some fields; nothing is required or filled in.
        named: The caller passes only field names, so pydantic need not refuse others.
    """

    class Shape:
        @classmethod
        def __get_pydantic_core_schema__(
            cls, source: object, handler: pydantic.GetCoreSchemaHandler
        ) -> core_schema.CoreSchema:
            fields: dict[str, core_schema.TypedDictField] = {}
            # Commands on relations stored elsewhere are values too; the write path takes them out.
            elsewhere = tuple(f for f in schema.to_many if not f.stored)
            for field in (*_input_fields(schema), *elsewhere):
                inner, is_checked = _checked_schema(schema, field, when, handler)
                has_default = field.default is not None and not partial
                if has_default:
                    inner = _with_default(inner, field, checked=is_checked)
                must_be_given = not (partial or has_default or field.generated or field.is_derived)
                required = field.required and must_be_given
                fields[field.name] = core_schema.typed_dict_field(inner, required=required)
            others: Literal["ignore", "forbid"] = "ignore" if named else "forbid"
            return core_schema.typed_dict_schema(fields, extra_behavior=others)

    return Shape


def _shape_of_one(schema: Schema, field: Field[Any, Any], when: When) -> type[Any]:
    """Return a type whose pydantic schema is that of one field's value."""

    class Shape:
        @classmethod
        def __get_pydantic_core_schema__(
            cls, source: object, handler: pydantic.GetCoreSchemaHandler
        ) -> core_schema.CoreSchema:
            return _checked_schema(schema, field, when, handler)[0]

    return Shape


def _checked_schema(
    schema: Schema, field: Field[Any, Any], when: When, handler: pydantic.GetCoreSchemaHandler
) -> tuple[core_schema.CoreSchema, bool]:
    """Return the schema of a given value, and whether ``@validates`` methods are part of it."""
    if field.internal:
        return core_schema.no_info_plain_validator_function(_refuse_internal), False
    inner = handler.generate_schema(field.value_annotation())
    checks = schema.rules.checks(field, when) if schema.rules else []
    for check in checks:
        inner = core_schema.no_info_after_validator_function(check, inner)
    may_be_none = not field.required or (field.generated and when == "create")
    if may_be_none and field.assignable:
        inner = core_schema.nullable_schema(inner)
    return inner, bool(checks)


def _refuse_internal(value: object) -> object:
    raise PydanticCustomError("internal", INTERNAL)


def _input_fields(schema: Schema) -> Iterator[Field[Any, Any]]:
    """Return the fields that accept a value from the caller."""
    return (field for field in schema.fields.values() if field.is_given)


def _with_default(
    inner: core_schema.CoreSchema, field: Field[Any, Any], *, checked: bool
) -> core_schema.CoreSchema:
    default = field.default
    if callable(default):
        factory: Callable[[], Any] = default
        return core_schema.with_default_schema(
            inner, default_factory=factory, validate_default=True
        )
    # A constant is checked once, here; a mutable one is checked each time, which also copies it.
    if not field.mutable:
        adapter = pydantic.TypeAdapter(field.value_annotation())
        try:
            default = adapter.validate_python(default)
        except pydantic.ValidationError as error:
            raise _wrong_default(field, error) from None
        return core_schema.with_default_schema(inner, default=default, validate_default=checked)
    return core_schema.with_default_schema(inner, default=default, validate_default=True)


def _wrong_default(field: Field[Any, Any], error: pydantic.ValidationError) -> ValidationError:
    return ValidationError(
        f"{field.model_name}.{field.name}",
        [
            {"loc": ("default",), "msg": p["msg"], "type": p["type"]}
            for p in error.errors(include_url=False, include_input=False)
        ],
    )
