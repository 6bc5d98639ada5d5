"""Turns values and unsaved records into one create operation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard
from weakref import WeakSet

from bson import ObjectId

from earnorm.exceptions import ConcurrencyError, ErrorDetail, ValidationError, located
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.relational import is_record
from earnorm.kernel.durable import LATER, tell
from earnorm.kernel.environment import current_env, find_env
from earnorm.kernel.notes import NO_NOTES, Note
from earnorm.kernel.operations import Operation
from earnorm.kernel.steps import Loc, Way
from earnorm.kernel.value_steps import NOTHING, ValueBatch, ValueRow, ValueSteps, ValueWays
from earnorm.model.identity import draw_ids, find_id
from earnorm.model.reading.fetch import Fetch
from earnorm.model.slots import set_fetch, set_state
from earnorm.model.validation.checking import checked_new
from earnorm.model.writing.handing_back import give_new, on_its_way
from earnorm.model.writing.objectids import object_ids
from earnorm.model.writing.pending import changed_fields, unvalidated
from earnorm.model.writing.pipeline import carry_out, check_new, names_of, together
from earnorm.model.writing.restoring import duplicate
from earnorm.model.writing.sending import placed, relocated
from earnorm.model.writing.snapshots import Snapshot, settle_new
from earnorm.model.writing.tracking import touch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


Checked: TypeAlias = tuple[list[dict[str, Any]], list[dict[str, Any]]]
Values: TypeAlias = Sequence["Mapping[str, Any] | BaseModel"]
Held: TypeAlias = "Sequence[Snapshot | None] | None"


async def create(
    bound: BoundModel, values: Values, notes: Mapping[Note[Any], Any] = NO_NOTES
) -> list[Any]:
    """Validate all, then store all with one insert; return the records in the order of the values.

    Args:
        bound: Their model.
        values: Dicts of values, and unsaved records.
        notes: The notes of the operation, e.g. who makes it if not the program.
    """
    if not values:
        return []
    steps = bound.ways.create
    if steps is None or not steps.concern(names_of(values)):
        held = None if set(map(type, values)) == {dict} else snapshots(values)
        states, documents = await checked_documents(bound, values)
        return await store(bound, values, states, documents, notes=notes, held=held)
    return await (await prepared(bound, values, notes=notes)).execute()


async def create_with(bound: BoundModel, record: BaseModel, values: Mapping[str, Any]) -> None:
    """Store an unsaved record with more values, as if its own values were given beside them."""
    await (await prepared_with(bound, record, values)).execute()


async def prepared_with(
    bound: BoundModel,
    record: BaseModel,
    values: Mapping[str, Any],
    locs: Sequence[Loc] | None = None,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> Creation:
    """Check an unsaved record with more values; the arguments are those of :func:`prepared`."""
    values = dict(values)
    for name in ("_id", "id"):
        if values.get(name) is not None:
            record._id = values.pop(name)  # refused where another id is fixed
    own, known = _given(bound, 0, record, [record])
    held = snapshots([record])
    creation = await prepared(bound, [{**own, **values}], locs, notes=notes, known=[known])
    creation.values, creation.held = [record], held
    return creation


@dataclass(eq=False, slots=True)
class Creation:
    """Checked new records with the work that their creation needs; nothing is written yet.

    Attributes:
        bound: Their model.
        values: The values and unsaved records of the call.
        states: Their validated states, with ids.
        documents: The stored forms of the states.
        batch: The batch of the model's steps; None where no step concerns these values.
        notes: The notes of the operation.
        way: The way of the create operation.
        locs: The location of each in the caller's input; None where ``values`` is that input.
        held: The snapshots of the given records; None where only dicts were given.
        given: The validated values of each before commands were taken out of them, for a rollback
            of the running transaction; None without one.
        records: The records; empty until they are made.
        op: The operation; None until it is executed.
    """

    bound: BoundModel
    values: Values
    states: list[dict[str, Any]]
    documents: list[dict[str, Any]]
    batch: ValueBatch | None = None
    notes: Mapping[Note[Any], Any] = NO_NOTES
    way: Way = Way.CREATE
    locs: Sequence[Loc] | None = None
    held: Held = None
    given: list[dict[str, Any]] | None = None
    records: list[Any] = field(default_factory=list[Any])
    op: Operation | None = None

    def make(self) -> list[Any]:
        """Make the records before they are stored, so that others can hold them."""
        self.records = _empty_records(self.bound, self.values, _are_dicts(self.values))
        for record, value, state in zip(self.records, self.values, self.states, strict=True):
            if record is value:  # it gets its state when it is stored
                record.__dict__["_id"] = state["_id"]
            else:
                set_state(record, state)
            _MADE.add(record)
        return self.records

    async def execute(self) -> list[Any]:
        """Write all or nothing; return the records in the order of the values."""
        return await self.run() if self.batch is None else await together(self.batch, self.run)

    async def run(self) -> list[Any]:
        """Write all; the caller has opened a transaction where one is needed."""
        if self.batch is None:
            await self._store()
        else:
            await carry_out(self.batch, self._store)
        return self.records

    async def _store(self) -> None:
        made = self.records or None
        model, env = self.bound.model, current_env()
        op = Operation("create", model, env, values=self.documents, notes=self.notes)
        self.op = op = on_its_way(self.bound, op, self.way, [])
        try:
            self.records = await store(
                self.bound,
                self.values,
                self.states,
                self.documents,
                made,
                op=op,
                held=self.held,
                given=self.given,
            )
        except ValidationError as error:
            raise relocated(error, self.locs or ()) from error.__cause__
        if self.batch is not None:
            for row, record in zip(self.batch.rows, self.records, strict=True):
                row.record = record


async def prepared(
    bound: BoundModel,
    values: Values,
    locs: Sequence[Loc] | None = None,
    way: Way = Way.CREATE,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
    passed: Collection[int] = (),
    known: Sequence[Mapping[str, Any]] = (),
    copied: Sequence[Collection[str]] = (),
) -> Creation:
    """Check new records, and prepare the work that their creation needs.

    Args:
        bound: Their model.
        values: Dicts of values, and unsaved records.
        locs: The location of each in the caller's input; None where ``values`` is that input.
        way: The way of the values: CREATE, CREATE_MANY, BULK or UPSERT. The new record of an upsert
            takes the steps of a CREATE.
        passed: The positions of values that have passed the steps of their way before VALIDATE.
        notes: The notes of the operation, e.g. who makes it if not the program.
        known: For each of the values, those inside it that are validated; by default the values that
            an unsaved record has.
        copied: If they are copies of records, the names of those in ``known`` for each of the
            values that asynchronous validators have passed, too.

    Raises:
        ValidationError: With every problem found.
    """
    steps = _STEPS[way](bound.ways)
    if copied:
        steps = steps or ValueSteps(())
    held = None if set(map(type, values)) == {dict} else snapshots(values)
    if steps is None or not (copied or steps.concern(names_of(values))):
        try:
            states, documents = await checked_documents(bound, values, known)
        except ValidationError as error:
            if locs is None:
                raise
            raise ValidationError(error.subject, placed(error.errors(), locs)) from None
        return Creation(bound, values, states, documents, None, notes, way, locs, held)
    given_locs = locs
    if locs is None:
        locs = [(place,) for place in range(len(values))] if len(values) > 1 else [()]
    rows: list[ValueRow] = []
    for position, value in enumerate(values):
        given, known_values = _given(bound, position, value, values)
        row = ValueRow(dict(given), locs[position], value if is_record(value) else None)
        row.known = known[position] if known else known_values
        if copied:
            row.copied = copied[position]
        rows.append(row)
    steps_way = Way.CREATE if way is Way.UPSERT else way
    batch = ValueBatch(current_env(), steps_way, bound.view, rows, is_new=True)
    done = {id(rows[position]): way for position in passed}
    try:
        as_given = await check_new(bound, steps, batch, give_ids, done)
        states = [row.values for row in rows]
        documents = documents_of(bound, states)
    finally:
        # The links are in the documents now; if one of these records is never stored, no other
        # document may link to it.
        _MADE.difference_update(batch.made)
    return Creation(bound, values, states, documents, batch, notes, way, given_locs, held, as_given)


_STEPS: Mapping[Way, Callable[[ValueWays], ValueSteps | None]] = {
    Way.CREATE: attrgetter("create"),
    Way.CREATE_MANY: attrgetter("create_many"),
    Way.BULK: attrgetter("bulk"),
    Way.UPSERT: attrgetter("create"),
}


def snapshots(values: Values) -> Held:
    """Return a snapshot of each given record, and None for each dict."""
    records: Sequence[Any] = values
    return [Snapshot(v, list(v.__dict__), deep=True) if is_record(v) else None for v in records]


def _empty_records(bound: BoundModel, values: Values, are_dicts: bool) -> list[Any]:
    """Return the given records, and new ones without a state in place of dicts."""
    if are_dicts:
        return list(map(object.__new__, repeat(bound.model, len(values))))
    return [v if is_record(v) else object.__new__(bound.model) for v in values]


async def store(
    bound: BoundModel,
    values: Values,
    states: list[dict[str, Any]],
    documents: list[dict[str, Any]],
    records: list[Any] | None = None,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
    op: Operation | None = None,
    held: Held = None,
    given: list[dict[str, Any]] | None = None,
) -> list[Any]:
    """Store validated states that have ids; return the given records, or new ones.

    Args:
        bound: Their model.
        values: The dicts and unsaved records of the call.
        states: Their validated states.
        documents: The stored forms of the states.
        records: The records, if they are made already.
        notes: The notes of the operation.
        op: The operation, if it is made already.
        held: The snapshots of the given records.
        given: The values of each as they were given, for a rollback; None if the states are that.

    Raises:
        ConcurrencyError: Another task is storing one of the records.
    """
    env = current_env()
    are_dicts = _are_dicts(values)
    if records is None:
        records = _empty_records(bound, values, are_dicts)
    if op is None:
        op = Operation("create", bound.model, env, values=documents, notes=notes)
        op = on_its_way(bound, op, Way.CREATE, [])
    unsaved: list[Any] = [] if are_dicts else [value for value in values if is_record(value)]
    numbers: Collection[int] = ()
    if unsaved:
        _refuse_twice(bound, unsaved)
        touch(env, unsaved)
        numbers = set(map(id, unsaved))
        _BEING_STORED.update(numbers)
    later = op.notes.get(LATER)
    try:
        await env.app.execute(op)
        adopt(bound, records, states, op, held, given)
    finally:
        if numbers:
            _BEING_STORED.difference_update(numbers)
        if later:
            await tell(later)
    return records


_BEING_STORED: Final[set[int]] = set()
"""The ``id()`` of each unsaved record that is on its way to the database."""


_MADE: Final[WeakSet[BaseModel]] = WeakSet()
"""The records that were made before they are stored, while others that link to them are checked."""


def is_made(record: BaseModel) -> bool:
    """Return whether a record that is not stored yet will be stored before those that link to it."""
    return record in _MADE


def _refuse_twice(bound: BoundModel, unsaved: Sequence[Any]) -> None:
    for record in unsaved:
        if record.is_stored or id(record) in _BEING_STORED:
            raise ConcurrencyError(
                f"{bound.model._name}: another task saves this new record at the same time, and one "
                f"document is made of it; await that save() first"
            ).coded("being_stored")


def adopt(
    bound: BoundModel,
    records: Sequence[BaseModel],
    states: Sequence[dict[str, Any]],
    op: Operation,
    held: Held,
    given: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Mark records as stored by an operation, with these states.

    Args:
        bound: Their model.
        records: The records.
        states: Their states.
        op: The operation.
        held: The snapshots of those that the program held before, None for others.
        given: The values of each as they were given, for a rollback; None if the states are that.
    """
    transaction = op.env.transaction
    if transaction is not None:
        transaction.created(records, map(duplicate, states if given is None else given))
    give_new(bound.schema, states, op)
    fetch = Fetch(bound.app)
    if bound.schema.relations and len(records) > 1:
        fetch.hold(records)
    if held is None:
        deque(map(set_state, records, states), maxlen=0)
    else:
        for record, state, sent in zip(records, states, held, strict=True):
            if sent is None:
                set_state(record, state)
            else:
                settle_new(sent, state)
    deque(map(set_fetch, records, repeat(fetch)), maxlen=0)


async def checked_documents(
    bound: BoundModel,
    values: Sequence[Mapping[str, Any] | BaseModel],
    known: Sequence[Mapping[str, Any]] = (),
) -> Checked:
    """Return the states of new records, each with its id, and their stored forms.

    Args:
        bound: Their model.
        values: Dicts of values, and unsaved records.
        known: See :func:`prepared`.

    Raises:
        ValidationError: With every problem of the batch and its position.
    """
    validate = partial(checked_states, known=known) if known else checked_states
    states = await checked_new(bound, values, validate)
    give_ids(bound, states)
    return states, documents_of(bound, states)


def documents_of(bound: BoundModel, states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stored forms of validated states."""
    schema = bound.schema
    return states if schema.is_flat else [schema.document(state) for state in states]


def _are_dicts(
    values: Sequence[Mapping[str, Any] | BaseModel],
) -> TypeGuard[Sequence[dict[str, Any]]]:
    return set(map(type, values)) == {dict}


def checked_states(
    bound: BoundModel,
    values: Sequence[Mapping[str, Any] | BaseModel],
    known: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return the validated states.

    A record's constructor and its assignments have validated its values, so only those that were
    refused, or were changed in place since, are validated again.
    """
    if _are_dicts(values) and not known:  # the common case needs no loop over the values
        return _validate(bound, values, range(len(values)), values)
    plain: list[tuple[int, Mapping[str, Any]]] = []
    states: list[dict[str, Any]] = [{}] * len(values)
    problems: list[ErrorDetail] = []
    for position, value in enumerate(values):
        given, known_values = _given(bound, position, value, values)
        known_values = known[position] if known else known_values
        if not known_values or not known_values.keys() <= given.keys():
            plain.append((position, given))
            continue
        try:
            states[position] = bound.schema.validate_others(given, known_values, "create")
        except ValidationError as error:
            loc = (position,) if len(values) > 1 else ()
            problems += located(error.errors(), *loc)
    if plain:
        try:
            checked = _validate(bound, [value for _, value in plain], [p for p, _ in plain], values)
        except ValidationError as error:
            problems += error.errors()
        else:
            for (position, _), state in zip(plain, checked, strict=True):
                states[position] = state
    if problems:
        problems.sort(key=lambda detail: int(detail["loc"][0]) if len(values) > 1 else 0)
        raise ValidationError(bound.schema.name, problems)
    return states


def _given(
    bound: BoundModel, position: int, value: Any, values: Sequence[object]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the values given for one new record, and those of them that are validated."""
    if isinstance(value, Mapping):
        return dict(value), NOTHING
    base = bound.model._base or bound.model
    if not isinstance(value, base):
        kind = type(value).__name__
        raise _error(bound, position, f"a {kind} is no dict and no {base.__name__}", values)
    if value.is_stored:
        raise _error(bound, position, "is stored already; save() or write() it", values)
    record: Any = value
    if record._name != bound.model._name:
        kind, name = type(value).__name__, record._name
        message = (
            f"a {kind} is a record of {name}, which has fields and rules of its own: "
            f"'await record.save()', or {kind}.create(record)"
        )
        raise _error(bound, position, message, values)
    if find_id(record) is None:
        draw_ids([v for v in values if isinstance(v, base) and not v.is_stored])
    is_foreign = type(record) is not bound.model  # made before this App was started
    if is_foreign:
        object.__setattr__(record, "__class__", bound.model)
    if is_foreign or _links_elsewhere(record):
        return _with_id(_loaded_values(record), record), NOTHING
    names = changed_fields(record)
    pending = unvalidated(record, names) if names else ()
    state, mutable = record.__dict__, record._schema.mutable
    if mutable.isdisjoint(state):
        given = dict(state)
    else:  # what is sent must not change while the program goes on with the record
        given = {n: duplicate(v) if n in mutable else v for n, v in state.items()}
    _with_id(given, record)
    if not pending:
        return given, given
    given |= _loaded_values(record, pending)
    return given, {name: value for name, value in given.items() if name not in pending}


def _with_id(values: dict[str, Any], record: BaseModel) -> dict[str, Any]:
    """Add a record's drawn id to its values."""
    if values.get("_id") is None and (pk := find_id(record)) is not None:
        values["_id"] = pk
    return values


def _links_elsewhere(structure: Any) -> bool:
    """Return whether a link leads to a record of another App, which validation then refuses."""
    state = structure.__dict__
    for relation in type(structure)._schema.relations:
        value = state.get(relation.name)
        for one in value if isinstance(value, list) else (value,):
            if is_record(one):
                fetch: Fetch | None = getattr(one, "_fetch", None)
                if fetch is not None and fetch.app is not current_env().app:
                    return True
                if relation.structure is not None and _links_elsewhere(one):
                    return True
    return False


def _loaded_values(record: Any, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the values as the record's attributes give them: all, or those of some fields."""
    state = record.__dict__
    schema = type(record)._schema
    # Commands cannot be read as a value, so to-many fields are taken as they were assigned.
    to_many = schema.to_many_names
    values = {
        name: state[name] if name in to_many else getattr(record, name)
        for name in (schema.fields if names is None else names)
        if name in state and (name in to_many or schema.fields[name].stored)
    }
    if names is not None:
        return values
    # Another App's class may have more fields; validation refuses them, so that no value is lost.
    return values | {n: v for n, v in state.items() if n not in schema.fields and v is not None}


def _validate(
    bound: BoundModel,
    batch: Sequence[Mapping[str, Any]],
    positions: Sequence[int],
    values: Sequence[object],
) -> list[dict[str, Any]]:
    if len(values) == 1:
        return [bound.schema.validate(batch[0])]
    try:
        return bound.schema.validate_many(batch)
    except ValidationError as error:
        # The error names positions in the caller's list, which may hold records among the dicts.
        raise ValidationError(
            error.subject,
            [
                {**d, "loc": (positions[int(d["loc"][0])], *d["loc"][1:])} if d["loc"] else d
                for d in error.errors()
            ],
        ) from None


def _error(
    bound: BoundModel, position: int, message: str, values: Sequence[object]
) -> ValidationError:
    loc = (position,) if len(values) > 1 else ()
    return ValidationError(bound.model._name, [{"loc": loc, "msg": message, "type": "type"}])


def give_ids(bound: BoundModel, states: list[dict[str, Any]]) -> None:
    """Give an id to every state that has none, and put given ones into their stored form."""
    field = bound.schema.fields["_id"]
    if field.converts:
        for state in states:
            state["_id"] = field.encode(state.get("_id"))
    missing = [state for state in states if state.get("_id") is None]
    if not missing:
        return
    if not isinstance(field, ObjectIdField):
        raise ValidationError(
            bound.model._name,
            [{"loc": ("_id",), "msg": "a value is required", "type": "missing"}],
        )
    ids: list[ObjectId] = object_ids(len(missing))
    env = find_env()
    if env is not None and env.transaction is not None:
        env.transaction.drawn_ids.update(ids)
    for state, oid in zip(missing, ids, strict=True):
        state["_id"] = oid
