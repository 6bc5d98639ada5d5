"""From values and records to create, write and unlink operations, and from documents to records.

The one write pipeline: a record, a RecordSet and a query all write through here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from bson import ObjectId

from earnorm.domain import condition
from earnorm.environment import Env, current_env
from earnorm.exceptions import ConfigurationError, NotFound, ValidationError
from earnorm.fetch import ID_ONLY, Fetch
from earnorm.fields.base import MISSING, Field
from earnorm.fields.structured import ObjectIdField
from earnorm.objectids import object_ids
from earnorm.operations import PLAIN, Operation, Options, PerRecord, Update

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.binding import BoundModel
    from earnorm.models import BaseModel, _Structure

REVISION = "_revision"
_FIRST = Options(many=False)


# -- documents to records -------------------------------------------------------------------------

_Setter = Callable[[Any, Any], None]
_setters: list[_Setter] = []


def _slots() -> list[_Setter]:
    if not _setters:
        from earnorm.models import _Structure  # the slots belong to the class, which imports us

        _setters.extend(vars(_Structure)[name].__set__ for name in ("__dict__", "_fetch"))
    return _setters


def hydrate(
    bound: BoundModel, documents: list[Document], loaded: frozenset[str] | None = None
) -> list[Any]:
    """Records that adopt the documents. No Python code runs per document: 0.2 µs each."""
    set_state, set_fetch = _slots()
    model = bound.model
    records = list(map(object.__new__, repeat(model, len(documents))))
    deque(map(set_state, records, bound.schema.states(documents)), maxlen=0)
    together = bound.schema.relations or loaded is ID_ONLY
    fetch = Fetch(bound.app, loaded, records if together else None)
    deque(map(set_fetch, records, repeat(fetch)), maxlen=0)
    return records


def fill(records: Sequence[BaseModel], states: Iterable[dict[str, Any]], fetch: Fetch) -> None:
    """Give records that exist new states: ghosts that were loaded, records that were refreshed."""
    set_state, set_fetch = _slots()
    for record, state in zip(records, states, strict=True):
        set_state(record, state)
        set_fetch(record, fetch)
        for slot in ("_changes", "_originals"):
            if hasattr(record, slot):
                object.__delattr__(record, slot)


def ghosts(bound: BoundModel, pks: Iterable[Any]) -> list[Any]:
    """Records that know only their ids, without asking the database."""
    return hydrate(bound, [{"_id": pk} for pk in pks], ID_ONLY)


# -- create ---------------------------------------------------------------------------------------


async def create(bound: BoundModel, values: Sequence[Mapping[str, Any] | BaseModel]) -> list[Any]:
    """Validate all, then store all with one insert; the records in the order given."""
    if not values:
        return []
    env = current_env()
    states = _states(bound, values)
    _give_ids(bound, states)
    schema = bound.schema
    documents = states if schema.is_flat else [schema.document(state) for state in states]
    records: list[Any] = [v if _is_record(v) else object.__new__(bound.model) for v in values]
    _touch(env, records, values)
    await env.app.execute(Operation("create", bound.model, env, values=documents))
    set_state, set_fetch = _slots()
    fetch = Fetch(bound.app, None, records if schema.relations else None)
    for record, state in zip(records, states, strict=True):
        set_state(record, state)
        set_fetch(record, fetch)
        _settle(record)
    return records


def _is_record(value: object) -> bool:
    return hasattr(type(value), "_schema")


def _states(
    bound: BoundModel, values: Sequence[Mapping[str, Any] | BaseModel]
) -> list[dict[str, Any]]:
    """The validated states. Records were validated by their constructor; only what was changed
    since then is looked at again."""
    plain: list[tuple[int, Mapping[str, Any]]] = []
    states: list[dict[str, Any]] = [{}] * len(values)
    base = bound.model._base or bound.model
    for position, value in enumerate(values):
        if isinstance(value, Mapping):
            plain.append((position, value))
        elif isinstance(value, base):
            if value.is_stored:
                raise _refused(bound, position, "is stored already; save() or write() it", values)
            record: Any = value
            if type(record) is not bound.model:  # made before this App was started
                record.__class__ = bound.model
            if changed_fields(record):
                plain.append((position, _loaded_values(record)))
            else:
                states[position] = dict(record.__dict__)
        else:
            kind = type(value).__name__
            raise _refused(bound, position, f"a {kind} is no dict and no {base.__name__}", values)
    if plain:
        checked = _validate(bound, [value for _, value in plain], [p for p, _ in plain], values)
        for (position, _), state in zip(plain, checked, strict=True):
            states[position] = state
    return states


def _loaded_values(record: Any) -> dict[str, Any]:
    state = record.__dict__
    return {f.name: getattr(record, f.name) for f in type(record)._schema.stored if f.name in state}


def _validate(
    bound: BoundModel,
    batch: list[Mapping[str, Any]],
    positions: list[int],
    values: Sequence[object],
) -> list[dict[str, Any]]:
    if len(values) == 1:
        return [bound.schema.validate(batch[0])]
    try:
        return bound.schema.validate_many(batch)
    except ValidationError as error:
        # Positions in the list that was given, records among the dicts included.
        raise ValidationError(
            error.subject,
            [
                {**d, "loc": (positions[int(d["loc"][0])], *d["loc"][1:])} if d["loc"] else d
                for d in error.errors()
            ],
        ) from None


def _refused(
    bound: BoundModel, position: int, message: str, values: Sequence[object]
) -> ValidationError:
    loc = (position,) if len(values) > 1 else ()
    return ValidationError(bound.model._name, [{"loc": loc, "msg": message, "type": "type"}])


def _give_ids(bound: BoundModel, states: list[dict[str, Any]]) -> None:
    missing = [state for state in states if state.get("_id") is None]
    if not missing:
        return
    field = bound.schema.fields["_id"]
    if not isinstance(field, ObjectIdField):
        raise ValidationError(
            bound.model._name,
            [{"loc": ("_id",), "msg": "a value is required", "type": "missing"}],
        )
    ids: list[ObjectId] = object_ids(len(missing))
    for state, oid in zip(missing, ids, strict=True):
        state["_id"] = oid


# -- write ----------------------------------------------------------------------------------------


def embedded_objects(record: _Structure) -> Iterator[_Structure]:
    """The embedded objects that were read or assigned; one never read is still a plain dict."""
    state = record.__dict__
    for field in type(record)._schema.embedded:
        value = state.get(field.name)
        if isinstance(value, field.model):
            yield cast("_Structure", value)


def changed_fields(record: _Structure) -> list[str]:
    """The names of the fields whose values differ from what was loaded, mutable ones included."""
    names: list[str] = list(getattr(record, "_changes", ()))
    fields, state = type(record)._schema.fields, record.__dict__
    for name, original in getattr(record, "_originals", {}).items():
        if name in names:
            continue
        value = state.get(name)
        if original is MISSING:
            # A default that was read: written once it was filled.
            if value != fields[name].default_value():
                names.append(name)
        elif not same(fields[name].encode(value), original):
            names.append(name)
    for field in type(record)._schema.embedded:
        value = state.get(field.name)
        if not isinstance(value, field.model) or field.name in names:
            continue
        if changed_fields(cast("_Structure", value)):
            names.append(field.name)
    return names


def same(one: Any, other: Any) -> bool:
    """Whether two stored values are equal and of the same types (1, 1.0 and True differ)."""
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return list(one) == list(other) and all(same(v, other[k]) for k, v in one.items())
    if type(one) is list:
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


async def save(records: Sequence[BaseModel]) -> int:
    """Write each record's own changes, all in one round trip; how many were written."""
    changed = [(record, names) for record in records if (names := changed_fields(record))]
    if not changed:
        return 0
    env = env_of(records)
    bound = env.app.bind(type(records[0]))
    prepared: list[tuple[BaseModel, dict[str, Any], Update]] = []
    problems: list[Any] = []
    for position, (record, names) in enumerate(changed):
        try:
            values = bound.schema.validate_partial({n: getattr(record, n) for n in names})
        except ValidationError as error:
            prefix = (position,) if len(changed) > 1 else ()
            problems += [{**d, "loc": (*prefix, *d["loc"])} for d in error.errors()]
            continue
        update = Update({"$set": bound.schema.encode(values)}, _expected(record))
        prepared.append((record, values, update))
    if problems:
        raise ValidationError(bound.model._name, problems)
    _touch(env, [record for record, _, _ in prepared])
    if len(prepared) == 1:
        record, _, update = prepared[0]
        op = Operation("write", bound.model, env, condition("_id", "=", record.pk), update)
        op = op.replace(options=_FIRST)
    else:
        pks = [record.pk for record, _, _ in prepared]
        values_by_pk = PerRecord({r.pk: update for r, _, update in prepared})
        op = Operation("write", bound.model, env, condition("_id", "in", pks), values_by_pk)
    matched = await env.app.execute(op)
    _check_matched(bound, matched, len(prepared))
    for record, values, _ in prepared:
        record.__dict__.update(values)
        _written(record)
    return len(prepared)


async def write(records: Sequence[BaseModel], values: Mapping[str, Any]) -> int:
    """Write the same values to every record; how many were written."""
    if not records:
        return 0
    env = env_of(records)
    bound = env.app.bind(type(records[0]))
    unsaved = [record for record in records if not record.is_stored]
    if unsaved:
        raise ValidationError(
            bound.model._name,
            [{"loc": (), "msg": "write() needs saved records; save() it first", "type": "unsaved"}],
        )
    checked = _checked_update(bound, values)
    if not checked:
        return len(records)
    update = Update({"$set": bound.schema.encode(checked)})
    pks = list(dict.fromkeys(record.pk for record in records))
    _touch(env, records)
    if len(pks) == 1:
        update = Update(update.operators, _expected(records[0]))
        op = Operation("write", bound.model, env, condition("_id", "=", pks[0]), update)
        op = op.replace(options=_FIRST)
    elif bound.model._versioned:
        each = PerRecord({r.pk: Update(update.operators, _expected(r)) for r in records})
        op = Operation("write", bound.model, env, condition("_id", "in", pks), each)
    else:
        op = Operation("write", bound.model, env, condition("_id", "in", pks), update)
    matched = await env.app.execute(op)
    _check_matched(bound, matched, len(pks))
    fields = bound.schema.fields
    for record in records:
        for name, value in checked.items():
            field = fields[name]
            # Each record has a value of its own: one list in two records would be changed in both.
            own = field.decode(field.freeze(field.encode(value))) if field.mutable else value
            record.__dict__[name] = own
            getattr(record, "_changes", {}).pop(name, None)
            getattr(record, "_originals", {}).pop(name, None)
        _count_revision(record)
    return len(pks)


async def update(op: Operation, values: Mapping[str, Any]) -> int:
    """Write the same values to every record that a domain matches."""
    bound = op.app.bind(op.model)
    checked = _checked_update(bound, values)
    if not checked:
        return 0
    changed = op.replace(values=Update({"$set": bound.schema.encode(checked)}))
    matched: int = await op.app.execute(changed)
    return matched


def _checked_update(bound: BoundModel, values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValidationError(
            bound.model._name,
            [{"loc": (), "msg": "write() takes a dict of field values", "type": "type"}],
        )
    fields = bound.schema.fields
    fixed: list[Any] = []
    for name in values:
        field: Field[Any, Any] | None = fields.get("_id" if name in ("id", "pk") else name)
        if field is not None and (field.readonly or field.name in ("_id", REVISION)):
            fixed.append(
                {"loc": (name,), "msg": "can be set only on a new record", "type": "readonly"}
            )
    if fixed:
        raise ValidationError(bound.model._name, fixed)
    return bound.schema.validate_partial(values)


def _expected(record: BaseModel) -> dict[str, Any]:
    """What a versioned record must still have in the database for its write to apply."""
    if not type(record)._versioned or not record._fetch.has(REVISION):
        return {}  # a ghost: nothing was read that could be outdated
    # None stands for a document from before the model was versioned: it has no revision.
    return {REVISION: record.__dict__.get(REVISION)}


def _check_matched(bound: BoundModel, matched: int, expected: int) -> None:
    if matched < expected:
        if expected == 1:
            raise NotFound(f"{bound.model._name}: the record to write does not exist")
        raise NotFound(
            f"{bound.model._name}: {expected - matched} of {expected} records to write do not exist; "
            f"the others were written"
        )


# -- unlink ---------------------------------------------------------------------------------------


async def unlink(records: Sequence[BaseModel]) -> int:
    """Delete the records; how many were there."""
    stored = [record for record in records if record.is_stored]
    if not stored:
        return 0
    env = env_of(stored)
    bound = env.app.bind(type(stored[0]))
    pks = list(dict.fromkeys(record.pk for record in stored))
    domain = condition("_id", "=", pks[0]) if len(pks) == 1 else condition("_id", "in", pks)
    options = _FIRST if len(pks) == 1 else PLAIN
    op = Operation("unlink", bound.model, env, domain, options=options)
    deleted: int = await env.app.execute(op)
    return deleted


# -- what they share ------------------------------------------------------------------------------


def env_of(records: Sequence[BaseModel]) -> Env:
    """The current Env, if its App is the one that the records belong to."""
    env = current_env()
    for record in records:
        fetch: Fetch | None = getattr(record, "_fetch", None)
        if fetch is not None and fetch.app is not env.app:
            raise ConfigurationError(
                f"the record belongs to App {fetch.app.name!r}, and App {env.app.name!r} is current; "
                f"work inside 'with app.activate():'"
            )
    return env


def only(names: frozenset[str]) -> Options:
    """The options of a search for some fields."""
    return Options(fields=names)


def _touch(env: Env, records: Sequence[BaseModel], given: Sequence[object] = ()) -> None:
    if env.transaction is not None:
        for record in records:
            if not given or any(record is each for each in given):
                env.transaction.touch(record)


def _written(record: BaseModel) -> None:
    _settle(record)
    _count_revision(record)


def _count_revision(record: BaseModel) -> None:
    if type(record)._versioned and record._fetch.has(REVISION):
        record.__dict__[REVISION] = (record.__dict__.get(REVISION) or 0) + 1


def _settle(record: _Structure) -> None:
    """What the record holds is what is stored now."""
    for embedded in embedded_objects(record):
        _settle(embedded)
    changes = getattr(record, "_changes", None)
    if changes:
        changes.clear()
    originals = getattr(record, "_originals", None)
    if originals:
        fields, state = type(record)._schema.fields, record.__dict__
        for name in originals:
            # A copy again: somebody may hold the list and change it in place later.
            field = fields[name]
            originals[name] = field.freeze(field.encode(state.get(name)))
