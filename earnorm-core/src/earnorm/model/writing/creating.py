"""From values and unsaved records to one create operation."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from bson import ObjectId

from earnorm.exceptions import ErrorDetail, ValidationError
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.relational import is_record
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import Operation
from earnorm.kernel.steps import Way
from earnorm.model.reading.fetch import Fetch
from earnorm.model.reading.hydrate import slots
from earnorm.model.validation.checking import checked_new
from earnorm.model.writing.handing_back import give_new, on_its_way
from earnorm.model.writing.objectids import object_ids
from earnorm.model.writing.tracking import changed_fields, settle, touch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


Checked: TypeAlias = tuple[list[dict[str, Any]], list[dict[str, Any]]]


async def create(
    bound: BoundModel,
    values: Sequence[Mapping[str, Any] | BaseModel],
    checked: Checked | None = None,
) -> list[Any]:
    """Validate all, then store all with one insert; the records in the order given.

    Args:
        bound: Their model.
        values: Dicts of values, and unsaved records.
        checked: What ``checked_documents`` gave for them, where that was asked for already.
    """
    if not values:
        return []
    if bound.model._inherits and checked is None:
        from earnorm.features.delegation import delegation  # which creates with the functions here

        return await delegation.create(bound, values)
    return await create_own(bound, values, checked)


async def create_own(
    bound: BoundModel,
    values: Sequence[Mapping[str, Any] | BaseModel],
    checked: Checked | None = None,
) -> list[Any]:
    """As ``create``, where nothing is delegated to other records."""
    if bound.schema.formulas is not None and checked is None:
        from earnorm.features.computed import inverting  # which creates with the functions here

        if inverting.has_late(bound, values):
            return await inverting.create(bound, values)
    states, documents = checked or await checked_documents(bound, values)
    if bound.schema.to_many:
        from earnorm.model.relations import commands, nested

        given = nested.taken(bound, states)
        if given:
            return await commands.create(bound, values, states, given)
    return await store(bound, values, states, documents)


async def store(
    bound: BoundModel,
    values: Sequence[Mapping[str, Any] | BaseModel],
    states: list[dict[str, Any]],
    documents: list[dict[str, Any]],
) -> list[Any]:
    """Store states that were validated and have their ids; the records that were given, or new ones."""
    env = current_env()
    records: list[Any]
    if _are_dicts(values):
        records = list(map(object.__new__, repeat(bound.model, len(values))))
    else:
        records = [v if is_record(v) else object.__new__(bound.model) for v in values]
        given: list[Any] = [value for value in values if is_record(value)]
        touch(env, given)
    op = on_its_way(bound, Operation("create", bound.model, env, values=documents), Way.CREATE)
    await env.app.execute(op)
    adopt(bound, records, states, op)
    return records


def adopt(
    bound: BoundModel, records: Sequence[BaseModel], states: Sequence[dict[str, Any]], op: Operation
) -> None:
    """Let records know that an operation stored them, with these states."""
    give_new(bound.schema, states, op)
    set_state, set_fetch = slots()
    env = current_env()
    if env.transaction is not None:
        env.transaction.created(records)
    fetch = Fetch(bound.app, None, list(records) if bound.schema.relations else None)
    deque(map(set_state, records, states), maxlen=0)
    deque(map(set_fetch, records, repeat(fetch)), maxlen=0)
    embeds = bool(bound.schema.embedded)
    for record in records:
        # One that was made of a dict just now has noted nothing yet.
        if embeds or hasattr(record, "_changes") or hasattr(record, "_originals"):
            settle(record)


async def checked_documents(
    bound: BoundModel, values: Sequence[Mapping[str, Any] | BaseModel]
) -> Checked:
    """The states of new records, each with its id, and their stored forms.

    Raises:
        ValidationError: With every problem of the batch and its position.
    """
    states = await checked_new(bound, values, checked_states)
    give_ids(bound, states)
    return states, documents_of(bound, states)


async def plain_documents(
    bound: BoundModel, values: Sequence[Mapping[str, Any] | BaseModel]
) -> Checked:
    """As ``checked_documents``, where a record is one document: no commands on to-many fields."""
    states, documents = await checked_documents(bound, values)
    if not bound.schema.to_many:
        return states, documents
    from earnorm.model.relations import (
        nested,  # which stores what it creates with the functions here
    )

    many = len(states) > 1
    problems: list[ErrorDetail] = [
        {
            "loc": (position, name) if many else (name,),
            "msg": "commands are for create(): they may take many operations",
            "type": "command",
        }
        for position, state in enumerate(states)
        for name in nested.take(bound, state)
    ]
    if problems:
        raise ValidationError(bound.model._name, problems)
    return states, documents_of(bound, states)


def documents_of(bound: BoundModel, states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stored forms of validated states."""
    schema = bound.schema
    return states if schema.is_flat else [schema.document(state) for state in states]


def _are_dicts(
    values: Sequence[Mapping[str, Any] | BaseModel],
) -> TypeGuard[Sequence[dict[str, Any]]]:
    return set(map(type, values)) == {dict}


def checked_states(
    bound: BoundModel, values: Sequence[Mapping[str, Any] | BaseModel]
) -> list[dict[str, Any]]:
    """The validated states. Records were validated by their constructor; only what was changed
    since then is looked at again."""
    if _are_dicts(values):  # the common case, without a look at each
        return _validate(bound, values, range(len(values)), values)
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
            is_foreign = type(record) is not bound.model  # made before this App was started
            if is_foreign:
                object.__setattr__(record, "__class__", bound.model)
            if is_foreign or changed_fields(record):
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
    schema = type(record)._schema
    found = {f.name: getattr(record, f.name) for f in schema.stored if f.name in state}
    # What another App's class of the model has beside it: refused as unknown, not left out in silence.
    found |= {n: v for n, v in state.items() if n not in schema.fields and v is not None}
    # What was assigned, as it is: commands cannot be read.
    return found | {f.name: state[f.name] for f in schema.to_many if f.name in state}


def _validate(
    bound: BoundModel,
    batch: Sequence[Mapping[str, Any]],
    positions: Sequence[int],
    values: Sequence[object],
) -> list[dict[str, Any]]:
    states = _validated(bound, batch, positions, values)
    if bound.schema.formulas is not None and bound.schema.formulas.inverses:
        from earnorm.features.computed import inverting  # which creates with the functions here

        inverting.new_states(bound, states)
    return states


def _validated(
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


def give_ids(bound: BoundModel, states: list[dict[str, Any]]) -> None:
    """Give every state that has none an id."""
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
