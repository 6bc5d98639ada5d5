"""Reads records again: all of their fields, or some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import NotFound, ValidationError
from earnorm.fields.base import MISSING
from earnorm.kernel.binding import BoundModel
from earnorm.kernel.naming import nearest_field
from earnorm.kernel.pauses import free_later, parts, pause
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.fetch import Fetch
from earnorm.model.reading.hydrate import refill
from earnorm.model.reading.ordering import texts
from earnorm.model.slots import set_fetch
from earnorm.model.writing.snapshots import Snapshot, settle_taken
from earnorm.model.writing.tracking import env_of, pks_of, touch_older

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


async def refresh(
    records: Sequence[BaseModel], model: type[BaseModel], names: Sequence[str]
) -> None:
    """Read records again; see ``RecordSet.refresh``.

    Args:
        records: The records.
        model: The model of the set.
        names: The fields; all if there is none.
    """
    fields = _checked(model, names)
    held: list[Snapshot] = []
    for part in parts(records):
        for record in part:
            held.append(Snapshot(record, fields or record.__dict__))
        if part is not records:
            await pause()
    env = env_of(records, stale=True)
    bound = env.app.bind(model)
    only = None if fields is None else frozenset(fields)
    pks = [pk for pk in await pks_of(records) if pk is not None]
    read = await by_ids(bound, "_id", pks, env=env, fields=only)
    documents: dict[Any, Mapping[str, Any]] = {}
    for part_read in parts(read):
        for document in part_read:
            documents[document["_id"]] = document
        if part_read is not read:
            await pause()
    found: list[dict[str, Any]] = []
    for part in parts(records):
        for record in part:
            its_document = documents.get(record.pk)
            if its_document is not None:
                found.append(dict(its_document))
        if part is not records:
            await pause()
    missing = len(records) - len(found)
    if missing:
        raise NotFound(f"{model._name}: {missing} of {len(records)} records do not exist any more")
    if fields is not None:
        states: dict[Fetch, tuple[Fetch, list[Any]]] = {}
        for held_of_part, documents_of_part in zip(parts(held), parts(found), strict=True):
            older: list[Any] = [before.structure for before in held_of_part]
            touch_older(older)
            for before, document in zip(held_of_part, documents_of_part, strict=True):
                _take(bound, before, document, fields, states)
            if held_of_part is not held:
                await pause()
        if bound.schema.relations or bound.classes:
            for state, members in states.values():
                state.hold(members)
        return
    fetch = Fetch(env.app, bound.shown(env))
    fetch.is_mixed = bound.classes is not None
    await refill(bound, held, found, fetch)
    if bound.schema.relations or bound.classes:
        fetch.hold(records)
    free_later(held)
    free_later(read)


def _checked(model: type[BaseModel], names: Sequence[str]) -> list[str] | None:
    known = model._schema.fields
    for name in texts("refresh", names, 'names: refresh("name", "age")'):
        if name not in known or not known[name].stored:
            message = (
                f"unknown field {name!r}{nearest_field(model._schema, str(name))}"
                if name not in known
                else f"{name!r} is not stored in the record, so it cannot be read again alone"
            )
            details: Any = [{"loc": (name,), "msg": message, "type": "unknown_field"}]
            raise ValidationError(model._name, details)
    return list(dict.fromkeys(("_id", *names))) if names else None


def _take(
    bound: BoundModel,
    before: Snapshot,
    document: dict[str, Any],
    names: Sequence[str],
    states: dict[Fetch, tuple[Fetch, list[Any]]],
) -> None:
    """Give a record the values of some fields, which are loaded from now on.

    Args:
        bound: The model.
        before: The record, as it was before it was read.
        document: What was read.
        names: The fields.
        states: New loading states by the old ones, with their records; what is missing is added.
    """
    record: Any = before.structure
    schema = type(record)._schema
    state = schema.state(document)
    settle_taken(before, {name: state.get(name, MISSING) for name in names if name != "_id"})
    if schema.derived is not None:
        for name in names:
            schema.derived.changed(record, name)
    fetch: Fetch = record._fetch
    # The records at the other end of a link may have changed, too: they are not loaded any more.
    are_links = any(field.name in names for field in schema.relations)
    if are_links or not all(map(fetch.has, names)):
        if fetch not in states:
            loaded = None if fetch.loaded is None else fetch.loaded.union(names)
            new = Fetch(bound.app, loaded)
            new.is_mixed = fetch.is_mixed
            new.seen_in = fetch.seen_in  # the other fields are as stale as before
            new.parts = {name: part for name, part in fetch.parts.items() if name not in names}
            states[fetch] = new, []
        state, members = states[fetch]
        set_fetch(record, state)
        members.append(record)
