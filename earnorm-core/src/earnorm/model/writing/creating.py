"""Turns values and unsaved records into one create operation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard
from weakref import WeakSet

from bson import ObjectId

from earnorm.exceptions import (
    ConcurrencyError,
    DuplicateKey,
    ErrorDetail,
    ValidationError,
    located,
)
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.relational import is_record
from earnorm.kernel import pauses
from earnorm.kernel.environment import current_env, find_env
from earnorm.kernel.notes import NO_NOTES, Note
from earnorm.kernel.operations import Operation
from earnorm.kernel.pauses import (
    Finishing,
    each_part,
    free_later,
    parts,
    pause,
)
from earnorm.kernel.serving.sending import ARRIVAL, Arrival
from earnorm.kernel.steps import Loc, Way
from earnorm.kernel.transactions.durable import LATER, tell
from earnorm.kernel.value_steps import NOTHING, ValueBatch, ValueRow, ValueSteps, ValueWays
from earnorm.model.identity import draw_ids, find_id
from earnorm.model.reading.fetch import Fetch
from earnorm.model.slots import set_fetch, set_state
from earnorm.model.validation.checking import checked_new
from earnorm.model.writing.handing_back import (
    give_new,
    on_its_way,
    unload_unknown,
)
from earnorm.model.writing.in_doubt import note_interrupted, refuse_stored
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


Values: TypeAlias = Sequence["Mapping[str, Any] | BaseModel"]
Held: TypeAlias = "Sequence[Snapshot | None] | None"
Checked: TypeAlias = tuple[list[dict[str, Any]], list[dict[str, Any]], Held]
Given: TypeAlias = tuple[dict[str, Any], Mapping[str, Any]]
"""The values given for one new record, and those of them that are validated."""


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
        states, documents, held = await checked_documents(bound, values)
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
    held = [_snapshot(record)]
    own, known = _given(bound, (), record, [record])
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
        if self.batch is None:
            return await self.run()
        return await together(self.batch, self.run, self._queues_for())

    def _queues_for(self) -> Iterator[tuple[str, Any]]:
        op = Operation("create", self.bound.model, current_env(), values=self.documents)
        yield from self.bound.queues_for(op)

    async def run(self) -> list[Any]:
        """Write all; the caller has opened a transaction where one is needed."""
        if self.batch is None:
            await self._store()
        else:
            await carry_out(self.batch, self._store)
            free_later([*self.batch.rows])
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
    if steps is None or not (copied or steps.concern(names_of(values))):
        try:
            states, documents, held = await checked_documents(bound, values, known)
        except ValidationError as error:
            if locs is None:
                raise
            raise ValidationError(error.subject, placed(error.errors(), locs)) from None
        return Creation(bound, values, states, documents, None, notes, way, locs, held)
    given_locs = locs
    if locs is None:
        locs = [(place,) for place in range(len(values))] if len(values) > 1 else [()]
    held, taken = await _take(bound, values)
    if len(values) > pauses.EVERY:
        await pause()
    rows: list[ValueRow] = []
    for part in parts(values):
        for value in part:
            position = len(rows)
            given, known_values = _of(taken[position])
            row = ValueRow(dict(given), locs[position], value if is_record(value) else None)
            row.known = known[position] if known else known_values
            if copied:
                row.copied = copied[position]
            rows.append(row)
        if part is not values:
            await pause()
    steps_way = Way.CREATE if way is Way.UPSERT else way
    batch = ValueBatch(current_env(), steps_way, bound.view, rows, is_new=True)
    done = {id(rows[position]): way for position in passed}
    try:
        as_given = await check_new(bound, steps, batch, give_ids, done)
        states = [row.values for row in rows]
        documents = await documents_of(bound, states)
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


async def _take(
    bound: BoundModel, values: Values
) -> tuple[Held, Sequence[Given | ValidationError]]:
    """Return a snapshot of each given record, and the values given for each, or the problem of them.

    A record's snapshot is taken together with its values, so that no change comes between them.
    """
    if _are_dicts(values):
        return None, [(dict(value), NOTHING) for value in values]
    held: list[Snapshot | None] = []
    taken: list[Given | ValidationError] = []
    many = len(values) > 1
    for part in parts(values):
        for value in part:
            held.append(_snapshot(value) if is_record(value) else None)
            try:
                taken.append(_given(bound, (len(taken),) if many else (), value, part))
            except ValidationError as error:
                taken.append(error)
        if part is not values:
            await pause()
    return held, taken


def _of(taken: Given | ValidationError) -> Given:
    """Return the values that were taken, or raise their problem."""
    if isinstance(taken, ValidationError):
        raise taken
    return taken


def _snapshot(record: Any) -> Snapshot:
    return Snapshot(record, list(record.__dict__), deep=True)


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
        held: The snapshots of the given records; None where only dicts were given.
        given: The values of each as they were given, for a rollback; None if the states are that.

    Raises:
        ConcurrencyError: Another task is storing one of the records.
    """
    env = current_env()
    are_dicts = held is None
    if records is None:
        records = _empty_records(bound, values, are_dicts)
    if op is None:
        op = Operation("create", bound.model, env, values=documents, notes=notes)
        op = on_its_way(bound, op, Way.CREATE, [])
    unsaved: list[Any] = [] if are_dicts else [value for value in values if is_record(value)]
    numbers: Collection[int] = ()
    arrival: Arrival | None = None
    if unsaved:
        if len(unsaved) > pauses.EVERY:
            await pause()
        arrival = Arrival()
        _refuse_twice(bound, unsaved)
        numbers = set(map(id, unsaved))
        _BEING_STORED.update(numbers)
        op = op.with_note(ARRIVAL, arrival)
    later = op.notes.get(LATER)
    try:
        if unsaved:
            await touch(env, unsaved)
        await env.app.execute(op)
        await adopt(bound, records, states, op, held, given)
    except BaseException as error:
        if arrival is not None:
            note_interrupted(env, records, error, arrival)
            if isinstance(error, DuplicateKey) and not arrival.has_arrived:
                refuse_stored(bound, unsaved, error)
        raise
    finally:
        if numbers:
            _BEING_STORED.difference_update(numbers)
        if later:
            await tell(later)
    if len(records) > pauses.EVERY:
        free_later([*documents])
        free_later([*(held or ())])
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
        if hasattr(record, "_fetch") or id(record) in _BEING_STORED:
            raise ConcurrencyError(
                f"{bound.model._name}: another task saves this new record at the same time, and one "
                f"document is made of it; await that save() first"
            ).coded("being_stored")


async def adopt(
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
    transaction, finishing = op.env.transaction, Finishing()
    withholding = bound.withholding
    withheld = () if withholding is None else withholding.altered(op.env)
    # What who acts may not read is not loaded, as if the records had been read.
    shown = frozenset(bound.schema.fields).difference(withheld) if withheld else None
    fetch = Fetch(bound.app, shown)
    start = 0
    for part in parts(records):
        end = start + len(part)
        states_of_part = states if part is records else states[start:end]
        if transaction is not None:
            as_given = states_of_part if given is None else given[start:end]
            transaction.created(part, map(duplicate, as_given))
        if withheld:  # in flat models a state is the document of the operation, too
            states_of_part = [
                {name: value for name, value in state.items() if name not in withheld}
                for state in states_of_part
            ]
        is_unknown = give_new(bound.schema, states_of_part, op)
        if held is None:
            deque(map(set_state, part, states_of_part), maxlen=0)
        else:
            for record, state, sent in zip(part, states_of_part, held[start:end], strict=True):
                if sent is None:
                    set_state(record, state)
                else:
                    settle_new(sent, state)
        deque(map(set_fetch, part, repeat(fetch)), maxlen=0)
        if is_unknown:
            unload_unknown(part, op)
        start = end
        if part is not records:
            await finishing.pause()
    if bound.schema.relations and len(records) > 1:
        fetch.hold(records)
    if finishing.cancelled is not None:
        raise finishing.cancelled


async def checked_documents(
    bound: BoundModel,
    values: Sequence[Mapping[str, Any] | BaseModel],
    known: Sequence[Mapping[str, Any]] = (),
) -> Checked:
    """Return the states of new records, each with its id, their stored forms, and their snapshots.

    Args:
        bound: Their model.
        values: Dicts of values, and unsaved records.
        known: See :func:`prepared`.

    Raises:
        ValidationError: With every problem of the batch and its position.
    """
    held: Held = None
    if not known and _are_dicts(values):  # the common case needs no loop over the values
        states = await checked_new(bound, values, _validated)
    else:
        held, taken = await _take(bound, values)
        if known:
            taken = [(_of(each)[0], own) for each, own in zip(taken, known, strict=True)]
        states = await checked_new(bound, taken, _checked_states)
    if len(states) <= pauses.EVERY:
        give_ids(bound, states)
    else:
        await each_part(partial(give_ids, bound), states)
    if bound.schema.is_flat:  # as documents_of() says, without a coroutine
        return states, states, held
    return states, await documents_of(bound, states), held


async def documents_of(bound: BoundModel, states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stored forms of validated states."""
    schema = bound.schema
    if schema.is_flat:
        return states
    documents: list[dict[str, Any]] = []
    for part in parts(states):
        documents += map(schema.document, part)
        if part is not states:
            await pause()
    return documents


def _are_dicts(
    values: Sequence[Mapping[str, Any] | BaseModel],
) -> TypeGuard[Sequence[dict[str, Any]]]:
    return set(map(type, values)) == {dict}


async def _checked_states(
    bound: BoundModel, taken: Sequence[Given | ValidationError]
) -> list[dict[str, Any]]:
    """Return the validated states.

    A record's constructor and its assignments have validated its values, so only those that were
    refused, or were changed in place since, are validated again.
    """
    plain: list[tuple[int, Mapping[str, Any]]] = []
    states: list[dict[str, Any]] = [{}] * len(taken)
    problems: list[ErrorDetail] = []
    many = len(taken) > 1
    numbered = [*enumerate(taken)]
    for part in parts(numbered):
        for position, each in part:
            given, known = _of(each)
            if not known or not known.keys() <= given.keys():
                plain.append((position, given))
                continue
            try:
                states[position] = bound.schema.validate_others(given, known, "create")
            except ValidationError as error:
                problems += located(error.errors(), *((position,) if many else ()))
        if part is not numbered:
            await pause()
    if plain:
        try:
            batch, positions = [value for _, value in plain], [p for p, _ in plain]
            checked = await _validate(bound, batch, positions, many=many)
        except ValidationError as error:
            problems += error.errors()
        else:
            for (position, _), state in zip(plain, checked, strict=True):
                states[position] = state
    if problems:
        problems.sort(key=lambda detail: int(detail["loc"][0]) if many else 0)
        raise ValidationError(bound.schema.name, problems)
    return states


def _given(bound: BoundModel, loc: Loc, value: Any, values: Sequence[object]) -> Given:
    """Return the values given for one new record, and those of them that are validated.

    Args:
        bound: The model.
        loc: The position of the value in the caller's input.
        value: A dict or an unsaved record.
        values: The values that get an id together, this one among them.
    """
    if isinstance(value, Mapping):
        return dict(value), NOTHING
    base = bound.model._base or bound.model
    if not isinstance(value, base):
        raise _error(bound, loc, f"a {type(value).__name__} is no dict and no {base.__name__}")
    if value.is_stored:
        raise _error(bound, loc, "is stored already; save() or write() it")
    record: Any = value
    if record._name != bound.model._name:
        kind, name = type(value).__name__, record._name
        message = (
            f"a {kind} is a record of {name}, which has fields and rules of its own: "
            f"'await record.save()', or {kind}.create(record)"
        )
        raise _error(bound, loc, message)
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


async def _validated(
    bound: BoundModel, values: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    if len(values) == 1:
        return [bound.schema.validate(values[0])]
    return await _validate(bound, values, range(len(values)), many=True)


async def _validate(
    bound: BoundModel,
    batch: Sequence[Mapping[str, Any]],
    positions: Sequence[int],
    *,
    many: bool,
) -> list[dict[str, Any]]:
    """Validate values into states.

    Args:
        bound: The model.
        batch: The values.
        positions: Their positions in the caller's list, which the errors name.
        many: The caller's list has several.
    """
    if not many:
        return [bound.schema.validate(batch[0])]
    states: list[dict[str, Any]] = []
    problems: list[ErrorDetail] = []
    for part, places in zip(parts(batch), parts(positions), strict=True):
        try:
            states += bound.schema.validate_many(part)
        except ValidationError as error:
            for detail in error.errors():
                placed = detail.copy()
                if detail["loc"]:
                    placed["loc"] = (places[int(detail["loc"][0])], *detail["loc"][1:])
                problems.append(placed)
        if part is not batch:
            await pause()
    if problems:
        raise ValidationError(bound.schema.name, problems)
    return states


def _error(bound: BoundModel, loc: Loc, message: str) -> ValidationError:
    return ValidationError(bound.model._name, [{"loc": loc, "msg": message, "type": "type"}])


def give_ids(bound: BoundModel, states: Sequence[dict[str, Any]]) -> None:
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
    ids: list[ObjectId] = object_ids(len(missing))[::-1]  # the first one is taken from the end
    env = find_env()
    if env is not None and env.transaction is not None:
        env.transaction.drawn_ids.update(ids)
    for state in missing:
        state["_id"] = ids.pop()
