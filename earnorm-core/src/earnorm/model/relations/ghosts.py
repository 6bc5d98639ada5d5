"""Ghosts: unloaded records and RecordSets that load together with all their siblings.

Records of one query share a :class:`Fetch`, and so do the embedded objects in one field of them. A
field that one of them needs is loaded for all of them, with one query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

from bson import ObjectId

from earnorm.exceptions import ConfigurationError, FieldNotLoaded, NotFound, nearest
from earnorm.fields.base import MISSING, Field
from earnorm.fields.command import Command
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import (
    Commands,
    Many2one,
    One2many,
    Relation,
    ToMany,
    is_kind,
    is_record,
    is_recordset,
)
from earnorm.kernel import pauses
from earnorm.kernel.environment import current_env, find_env
from earnorm.kernel.observing.asking import OBSERVED, start_task
from earnorm.kernel.operations import RELATION, made_by
from earnorm.kernel.pauses import parts, pause
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.fetch import ID_ONLY, Fetch, part_of
from earnorm.model.reading.hydrate import fill, ghosts, hydrate
from earnorm.model.reading.ordering import order_of
from earnorm.model.reading.parts import embedded_in, inside
from earnorm.model.recordset import RecordSet
from earnorm.model.relations.assigned import assigned_members
from earnorm.model.slots import pending_of, set_fetch, set_state
from earnorm.model.unreadable import are_plain_ids, refuse_no_links
from earnorm.model.writing.tracking import touch_older

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

RELATIONS: Final = made_by("relations")
"""The notes of the operations that load and write links."""


# -- the model at the other end -------------------------------------------------------------------


def target_of(app: App, field: Field[Any, Any]) -> BoundModel:
    """Return the model at the other end of a relation, as the App binds it."""
    assert isinstance(field, Relation)
    return bound_of(app, field.comodel)


def bound_of(app: App, model: type[Any] | str) -> BoundModel:
    """Return a model as the App binds it, by its class or its name."""
    return app.bind(app.model(model) if isinstance(model, str) else model)


def link_of(app: App, owner: type[Any], field: Many2many[Any]) -> tuple[BoundModel, Any, Any]:
    """Return the link model of a Many2many, and its Many2ones to the own and to the other model.

    Args:
        app: The App that binds the models.
        owner: The model that has the field.
        field: A Many2many with ``through``.

    Raises:
        ConfigurationError: There is not exactly one for each end, and none is named.
    """
    assert field.through is not None
    bound = bound_of(app, field.through)
    ends = [
        link_end(bound.schema.fields, bound.model._name, field, "near", owner, field.near),
        link_end(
            bound.schema.fields, bound.model._name, field, "far", field.comodel_name, field.far
        ),
    ]
    return bound, ends[0], ends[1]


def link_end(
    fields: Any,
    link: str,
    field: Many2many[Any],
    option: str,
    model: type[Any] | str,
    named: str | None,
) -> Many2one[Any, Any]:
    """Return the Many2one of a link model that points at one end.

    One to a base class in the same collection points at the records of a class, too.
    """
    name_of_model = model if isinstance(model, str) else model._name
    ends = {
        name: field_of_link
        for name, field_of_link in fields.items()
        if isinstance(field_of_link, Many2one) and points_at(field_of_link, model)
    }
    if named is not None:
        if named in ends:
            return ends[named]
        raise ConfigurationError(
            f"{field.model_name}.{field.name}: {link} has no Many2one to {name_of_model!r} named {named!r}"
            f"{nearest(named, ends)}"
        )
    if len(ends) == 1:
        return next(iter(ends.values()))
    how_many = "no Many2one" if not ends else f"several Many2ones ({', '.join(ends)})"
    raise ConfigurationError(
        f"{field.model_name}.{field.name}: {link} has {how_many} to {name_of_model!r}"
        + (f"; name one: {option}={next(iter(ends))!r}" if ends else "")
    )


def points_at(link: Relation[Any, Any], model: type[Any] | str) -> bool:
    """Return whether a relation leads to a model, or to a base class of it in the same collection."""
    name = link.comodel_name
    return name == model if isinstance(model, str) else name == model._name or is_kind(model, name)


def inverse_of(bound: BoundModel, field: ToMany[Any]) -> Any:
    """Return the field of the other model of which a relation is the inverse.

    Raises:
        ConfigurationError: There is no such field.
    """
    name = field.inverse or ""
    inverse = bound.schema.fields.get(name)
    kind = Many2one if isinstance(field, One2many) else Many2many
    if not isinstance(inverse, kind) or not inverse.stored:
        raise ConfigurationError(
            f"{field.model_name}.{field.name}: {bound.model._name} has no {kind.__name__} named "
            f"{name!r}{nearest(name, bound.schema.fields)}"
        )
    return inverse


# -- making ghosts --------------------------------------------------------------------------------


def _app_of(structure: Any) -> App:
    fetch: Fetch | None = getattr(structure, "_fetch", None)
    return fetch.app if fetch is not None else current_env().app


def ghost_of(structure: Any, field: Relation[Any, Any], pk: Any) -> BaseModel:
    """Return the unloaded record at the end of a Many2one or a Reference; all siblings share it."""
    fetch: Fetch | None = getattr(structure, "_fetch", None)
    key, comodel = field.name, field.comodel
    if not comodel:  # a Reference has one group for each of its models
        comodel, pk = pk["model"], pk["id"]
        key = f"{key}:{comodel}"
    if fetch is None:
        ghost: BaseModel = ghosts(bound_of(current_env().app, comodel), [pk])[0]
        return ghost
    group = fetch.related.get(key) or _group(structure, fetch, field, key)
    record = group.by_id.get(pk)
    if record is None:
        (record,) = _join(group, bound_of(fetch.app, comodel), [pk])
    return cast("BaseModel", record)


def _group(structure: Any, fetch: Fetch, field: Relation[Any, Any], key: str) -> Fetch:
    group = fetch.related[key] = Fetch(fetch.app, ID_ONLY, [])
    group.origin = f"{_name_of(structure)}.{field.name}"
    # An id was seen with the record that has it, which may be older than the running transaction.
    group.seen_in = fetch.seen_in
    if not field.to_many:
        # A closure over the structure would keep it alive with its siblings.
        group.complete = _completer(lambda: fetch.siblings(None, field.name), field)
    return group


def _name_of(structure: Any) -> str:
    return getattr(type(structure), "_name", None) or type(structure).__name__


def _join(group: Fetch, bound: BoundModel, pks: Iterable[Any]) -> list[Any]:
    """Return the ghosts of a group with these ids, and make the missing ones."""
    missing = [pk for pk in dict.fromkeys(pks) if pk not in group.by_id]
    assert group.records is not None
    for pk, ghost in zip(missing, ghosts(bound, missing) if missing else (), strict=True):
        object.__setattr__(ghost, "_fetch", group)
        group.records.append(ghost)
        group.by_id[pk] = ghost
    return [group.by_id[pk] for pk in pks]


async def make_ghosts(structures: Sequence[Any], field: Many2one[Any, Any]) -> list[Any]:
    """Read a Many2one of many records at once; return the records that it points at, each once.

    The result is the same as reading record by record, in a fraction of the time. This is most of
    the cost of a prefetch.
    """
    name, new = field.name, object.__new__
    pointed: dict[int, Any] = {}
    kinds: set[type] = set()  # classes of records
    group: Fetch | None = None
    fetch: Fetch | None = None
    model: Any = None
    for part in parts(structures):
        for structure in part:
            state = structure.__dict__
            value = state.get(name)
            kind = type(value)
            if kind is not ObjectId and (kind in kinds or is_record(value)):
                kinds.add(kind)
            elif value is None:
                # A missing value may be unset or not fetched; only reading the attribute tells which.
                if name not in state:
                    value = getattr(structure, name)
            else:
                own: Fetch | None = getattr(structure, "_fetch", None)
                if own is None:
                    value = getattr(structure, name)
                else:
                    if group is None or own is not fetch:
                        fetch, model = own, target_of(own.app, field).model
                        group = own.related.get(name) or _group(structure, own, field, name)
                    try:
                        ghost = group.by_id.get(value)
                    except TypeError:
                        continue  # a dict or a list is no id, and reading the field says so
                    if ghost is None:
                        ghost = group.by_id[value] = new(model)
                        set_state(ghost, {"_id": value})
                        set_fetch(ghost, group)
                        assert group.records is not None
                        group.records.append(ghost)
                    value = state[name] = ghost
            if value is not None:
                pointed[id(value)] = value
        if part is not structures:
            await pause()
    return list(pointed.values())


def _completer(
    siblings: Callable[[], list[Any]], field: Field[Any, Any]
) -> Callable[[Sequence[Any]], Awaitable[None]]:
    async def complete(made_of: Sequence[Any]) -> None:
        structures = siblings()
        if structures is made_of or set(map(id, structures)) <= set(map(id, made_of)):
            return
        # A list of its own: others may join the siblings, or leave them, in a pause.
        structures = list(structures)
        if isinstance(field, Many2one):
            await make_ghosts(structures, field)
            return
        for part in parts(structures):
            for record in part:
                if record.__dict__.get(field.name) is not None:
                    getattr(record, field.name)  # reading it makes the ghost
            if part is not structures:
                await pause()

    return complete


def ghosts_of(record: Any, field: ToMany[Any], value: Any) -> RecordSet[Any]:
    """Return a to-many field's value: the assigned members, or records that are not loaded yet."""
    model = target_of(_app_of(record), field).model
    if value is None and not field.stored and field.name not in record.__dict__:
        return _read(record, field, model, None) if record.is_stored else RecordSet(model, [])
    is_default = value is None and field.name not in record.__dict__
    if is_default:
        value = field.given(record._absent(field))
    if not value:
        # The state is left as it is: unset, null and an empty list differ for a domain.
        load = partial(load_many, record, field) if record.is_stored else None
        return RecordSet(model, [], load=load, pks=())
    records = _read(record, field, model, value)
    if is_default:
        records._is_default = True
        record.__dict__[field.name] = records
    return records


def _read(record: Any, field: ToMany[Any], model: type[Any], value: Any) -> RecordSet[Any]:
    if not record.is_stored or (value is not None and not _are_ids(value)):
        return _assigned(record, field, model, value)
    records: RecordSet[Any] = RecordSet(
        model,
        None,
        load=partial(load_many, record, field),
        origin=f"{type(record)._name}.{field.name}",
        pks=value,
        owner=record._fetch,
    )
    record.__dict__[field.name] = records
    return records


def _are_ids(value: Sequence[Any]) -> bool:
    return are_plain_ids(map(type, value)) or all(map(_is_id, value))


def _is_id(item: Any) -> bool:
    return not is_record(item) and not isinstance(item, Command | Mapping)


def _assigned(record: Any, field: ToMany[Any], model: type[Any], value: Any) -> RecordSet[Any]:
    """Return a RecordSet of assigned records and ids; the field checks them when it is saved.

    Raises:
        FieldNotLoaded: Commands were assigned, and only the save knows what they leave.
    """
    members = _members(record, field, value)
    pks = [member for member in members if not is_record(member)]
    if record.is_stored and record._fetch.related.get(field.name) is not None:
        unloaded = iter(ghosts_with(record, field, pks))
    else:
        unloaded = iter(ghosts(_app_of(record).bind(model), pks))
    return RecordSet(model, [member if is_record(member) else next(unloaded) for member in members])


def _members(record: Any, field: ToMany[Any], value: Any) -> list[Any]:
    members = assigned_members(value or (), field, _members_before(record, field))
    if members is None:
        raise FieldNotLoaded(
            f"{type(record)._name}.{field.name} was given commands; 'await record.save()' "
            f"carries them out, and {_unknown(field, value)}"
        )
    return members


def _members_before(record: Any, field: ToMany[Any]) -> Sequence[Any] | None:
    """Return what a field held before it was assigned; None where memory does not know."""
    if not record.is_stored:
        return ()
    before = pending_of(record).changes.get(field.name, MISSING)
    if is_recordset(before):
        links: RecordSet[Any] = before
        return links._records if links._is_whole else links._pks
    if not field.stored or (before is MISSING and not record._fetch.has(field.name)):
        return None
    if before is MISSING or before is None:
        return () if field.default is None else None
    return before if _are_ids(before) else None


def _unknown(field: ToMany[Any], value: Any) -> str:
    """Return what memory lacks to say which records commands leave."""
    if any(
        isinstance(item, Mapping)
        or (isinstance(item, Command) and item.kind == "create" and not is_record(item.values))
        for item in value
    ):
        return "creates a record of it"
    return f"its other records are known only where 'await record.{field.name}' came before the commands"


def stored_links(record: Any, field: ToMany[Any]) -> Any:
    """Return the stored form of the links that reading a to-many field would give.

    A stored form that is made for a pickle keeps commands. An order and a domain have no meaning
    for them.

    Raises:
        FieldNotLoaded: Commands were assigned, and only the save knows what they leave.
        UnreadableDocument: Another program stored an item that is no id.
    """
    value = record.__dict__[field.name]
    if not isinstance(value, list) or all(map(_is_id, value)):
        return field.encode(value)
    refuse_no_links(record, field, value)
    return field.encode(_members(record, field, value))


def held(records: Iterable[Any], field: ToMany[Any], pk: Any) -> list[Any]:
    """Return the loaded objects of one record that these records hold in a to-many field."""
    objects: dict[int, Any] = {}
    for record in records:
        before = pending_of(record).changes
        for value in (record.__dict__.get(field.name), before.get(field.name)):
            if value is not None and is_recordset(value):
                objects.update((id(m), m) for m in value._records or () if m.pk == pk)
        group = record._fetch.related.get(field.name)
        if group is not None and pk in group.by_id:
            objects[id(group.by_id[pk])] = group.by_id[pk]
    return [held for held in objects.values() if held.is_stored and not held._fetch.is_ghost]


# -- embedded objects -----------------------------------------------------------------------------


def note_inside(structure: Any, field: Field[Any, Any], value: Any) -> None:
    """Connect the embedded objects of a field with each other and with those of all siblings."""
    outer: Fetch | None = getattr(structure, "_fetch", None)
    if outer is None:
        return
    inner = outer.inside.get(field.name)
    if inner is None:
        inner = outer.inside[field.name] = Fetch(outer.app)
        inner.peers = lambda: inside(outer.siblings(None, field.name), field)
    for embedded in embedded_in(value):
        if part_of(embedded) is None:
            object.__setattr__(embedded, "_fetch", inner)


def ghosts_with(record: Any, field: ToMany[Any], pks: Iterable[Any]) -> list[Any]:
    """Return the ghosts of a to-many field with these ids; all siblings of the record share them."""
    fetch: Fetch = record._fetch
    group = fetch.related.get(field.name) or _group(record, fetch, field, field.name)
    return _join(group, target_of(fetch.app, field), pks)


# -- loading --------------------------------------------------------------------------------------


async def load_ghost(record: Any) -> Any:
    """Load a ghost together with its siblings, and return the record; a loaded one is unchanged.

    A record that was loaded as somebody else, who may see more or less of it, is looked for again
    as the one who acts, and is another object.

    Raises:
        NotFound: It does not exist (or not for the acting principal).
    """
    stored: Fetch | None = getattr(record, "_fetch", None)
    if stored is None:
        return record
    fetch = stored
    if fetch.loaded is ID_ONLY:
        await load_group(record)
        fetch = record._fetch
    env = find_env()
    if (
        env is not None
        and fetch.seen_by is not ("system" if env.system else env.principal)
        and is_of_other(fetch.seen_by, fetch.app, type(record))
    ):
        (record,) = ghosts(fetch.app.bind(type(record)), [record.pk])
        await load_group(record)
        fetch = record._fetch
    if fetch.loaded is ID_ONLY:
        raise NotFound(f"{type(record)._name}: no record with the id {record.pk}")
    return record


def is_of_other(seen_by: object, app: App, model: type[Any]) -> bool:
    """Return whether somebody else than who acts has loaded records whose reading has rules."""
    env = find_env()
    if env is None or env.actor == seen_by:
        return False
    return app.bind(model).is_restricted


async def load_group(ghost: Any, made_of: Sequence[Any] = ()) -> None:
    """Load a ghost and its group with one query; records that are not found are gone.

    Args:
        ghost: One of the group.
        made_of: The records whose ghosts have been made; those of their siblings are made first.
    """
    fetch: Fetch = ghost._fetch
    await _once(fetch, "", lambda: _load_ghosts(fetch, type(ghost), made_of))


async def _once(fetch: Fetch, key: str, load: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run one load for all tasks that need it at once; a cancelled task does not stop it."""
    task = fetch.loading.get(key)
    if task is None:
        # While nobody observes, this saves a call of each load.
        start = start_task if OBSERVED else asyncio.ensure_future
        task = fetch.loading[key] = start(load())
        task.add_done_callback(partial(_loaded, fetch.loading, key))
    await asyncio.shield(task)


def _loaded(loading: dict[str, asyncio.Task[None]], key: str, task: asyncio.Task[None]) -> None:
    loading.pop(key, None)
    if not task.cancelled():
        task.exception()  # asyncio would log it if each task that waited was cancelled


async def _load_ghosts(fetch: Fetch, model: type[Any], made_of: Sequence[Any] = ()) -> None:
    own_app(fetch.app)
    if fetch.complete is not None:
        await fetch.complete(made_of)
    bound = fetch.app.bind(model)
    waiting = {
        r.__dict__["_id"]: r
        for r in fetch.members()
        if r._fetch is fetch and type(r) is bound.model
    }
    if len(waiting) > pauses.EVERY:
        await pause()
    if bound.withholding is not None:
        await bound.withholding.ready(current_env())
    loaded = Fetch(fetch.app, bound.shown(current_env()))
    loaded.is_mixed = bound.classes is not None
    notes = {**RELATIONS, RELATION: fetch.origin} if fetch.origin else RELATIONS
    documents = await by_ids(bound, "_id", list(waiting), notes=notes)
    records = [waiting[document["_id"]] for document in documents]
    await fill(bound, records, documents, loaded)
    if bound.schema.relations or bound.classes:
        siblings = loaded.hold(records)
        if fetch.records is not None:  # it keeps the ghosts alive; their list saves weak references
            fetch.lists = (*fetch.lists, siblings)
    if len(records) < len(waiting) and not fetch.is_gone:
        _note_gone(fetch, [record for record in waiting.values() if record._fetch is fetch])


def _note_gone(fetch: Fetch, records: list[Any]) -> None:
    """Mark ghosts as looked for and not found; awaiting one of them looks for all of them again."""
    touch_older(records)
    gone = Fetch(fetch.app, ID_ONLY)
    gone.hold(records)
    gone.not_found, gone.origin = True, fetch.origin
    for record in records:
        set_fetch(record, gone)


async def load_many(
    record: BaseModel, field: ToMany[Any], value: RecordSet[Any] | None = None
) -> RecordSet[Any] | None:
    """Load a to-many relation of a record and of all its siblings.

    Args:
        record: The record.
        field: The relation.
        value: The RecordSet that is awaited; it is loaded only if it is not whole.

    Returns:
        The RecordSet that is awaited, or another one if somebody else has loaded it; see
        :func:`load_ghost`.
    """
    fetch = record._fetch
    # A relation that is known to be empty loads that of the other records, too.
    if value is None or not value._is_whole or value._pks == ():
        await _once(fetch, field.name, lambda: _load_many(record, field))
    if value is None or not is_of_other(value._actor, fetch.app, value._model):
        return value
    (own,) = ghosts(fetch.app.bind(type(record)), [record.pk])
    stored = list(value._pks or ()) if field.stored else None
    fresh = _read(own, field, value._model, stored)
    await _load_many(own, field)
    return fresh


async def _load_many(record: BaseModel, field: ToMany[Any]) -> None:
    fetch = record._fetch
    own_app(fetch.app)
    waiting: list[tuple[Any, RecordSet[Any]]] = []
    siblings = list(fetch.siblings(record, field.name))
    for part in parts(siblings):
        for sibling in part:
            if sibling.is_stored and type(sibling.__dict__.get(field.name)) is not Commands:
                value = getattr(sibling, field.name)
                if (value._records is None or value._part_of) and value._load is not None:
                    waiting.append((sibling, value))
        if part is not siblings:
            await pause()
    await hold_unloaded([value for _, value in waiting])
    if field.stored:
        await load_listed(record, field, [value for _, value in waiting])
    elif isinstance(field, Many2many) and field.through is not None:
        await _load_through(record, field, waiting)
    else:
        await _load_inverse(fetch.app, field, waiting)
    env = current_env()
    if env.actor != fetch.seen_by:
        for _, value in waiting:
            value._loaded_by = env.actor


async def hold_unloaded(values: Sequence[RecordSet[Any]]) -> None:
    """Make a rollback unload what is loaded now for records older than the running transaction."""
    env = find_env()
    if env is not None and env.transaction is not None:
        running = env.transaction
        for part in parts(values):
            for value in part:
                if value._owner is None or value._owner.seen_in is not running.outcome:
                    running.undo(value._unloader())
            if part is not values:
                await pause()


async def load_listed(
    record: BaseModel, field: ToMany[Any], waiting: Sequence[RecordSet[Any]]
) -> None:
    """Load RecordSets that know their ids with one query."""
    fetch = record._fetch
    bound = target_of(fetch.app, field)
    group = fetch.related.get(field.name) or _group(record, fetch, field, field.name)
    wanted: dict[Any, None] = {}
    listed: list[Sequence[Any]] = []
    for part in parts(waiting):
        of_part = [value._pks or () for value in part]
        wanted.update(dict.fromkeys(chain.from_iterable(of_part)))
        listed += of_part
        if part is not waiting:
            await pause()
    joined = dict(zip(wanted, _join(group, bound, wanted), strict=True))
    if any(ghost._fetch.is_waiting for ghost in joined.values()):
        await _load_ghosts(group, bound.model)
    # A record that is gone is left out; the field goes on to store its id.
    found = {pk: record for pk, record in joined.items() if not record._fetch.is_ghost}
    for part, pks_of_part in zip(parts(waiting), parts(listed), strict=True):
        for value, pks in zip(part, pks_of_part, strict=True):
            value._become([one for pk in pks if (one := found.get(pk)) is not None])
        if part is not waiting:
            await pause()


async def _load_inverse(
    app: App, field: ToMany[Any], waiting: list[tuple[Any, RecordSet[Any]]]
) -> None:
    """Load the records whose inverse field points at these records with one query."""
    bound = target_of(app, field)
    inverse = inverse_of(bound, field)
    if len(waiting) > pauses.EVERY:
        await pause()
    parents = {parent.__dict__["_id"]: parent for parent, _ in waiting}
    children: dict[Any, list[Any]] = {pk: [] for pk in parents}
    order = _order(bound, field.order)
    notes = {**RELATIONS, RELATION: f"{field.model_name}.{field.name}"}
    stored_children = await by_ids(bound, inverse.name, list(parents), order=order, notes=notes)
    # A Many2many child of several parents may be found once for each chunk of their ids.
    documents = {document["_id"]: document for document in stored_children}
    # Where a part of them is loaded, its records stay the same objects.
    loaded: dict[Any, Any] = {}
    for _, value in waiting:
        if value._records:
            loaded.update((child.pk, child) for child in value._records)
    if len(documents) > pauses.EVERY:
        await pause()
    records = hydrate(bound, list(documents.values()), bound.shown(current_env()))
    is_many2one = isinstance(inverse, Many2one)
    for of_part in parts(records):
        for fresh in of_part:
            state = fresh.__dict__
            value, child = state[inverse.name], loaded.get(state["_id"], fresh)
            if is_many2one:
                child.__dict__[inverse.name] = parents[value]
                children[value].append(child)
            else:
                for pk in dict.fromkeys(value):
                    if pk in children:
                        children[pk].append(child)
        if of_part is not records:
            await pause()
    for part in parts(waiting):
        for parent, value in part:
            value._become(children[parent.__dict__["_id"]])
        if part is not waiting:
            await pause()


async def _load_through(
    record: BaseModel, field: Many2many[Any], waiting: list[tuple[Any, RecordSet[Any]]]
) -> None:
    """Load the links, then the records that they point at, with two queries."""
    app = record._fetch.app
    bound, near, far = link_of(app, type(record), field)
    linked: dict[Any, list[Any]] = {parent.pk: [] for parent, _ in waiting}
    order = _order(bound, field.order) or (("_id", 1),)
    names = frozenset({"_id", near.name, far.name})
    notes = {**RELATIONS, RELATION: f"{field.model_name}.{field.name}"}
    links = await by_ids(bound, near.name, list(linked), order=order, fields=names, notes=notes)
    for of_part in parts(links):
        for link in of_part:
            if link.get(far.db_name) is not None:
                linked[link[near.db_name]].append(link[far.db_name])
        if of_part is not links:
            await pause()
    for part in parts(waiting):
        for parent, value in part:
            value._pks = list(dict.fromkeys(linked[parent.pk]))
        if part is not waiting:
            await pause()
    await load_listed(record, field, [value for _, value in waiting])
    for _, value in waiting:
        value._pks = None  # the record itself stores no ids of this field


def _order(bound: BoundModel, order: str | None) -> tuple[tuple[str, int], ...]:
    """Return stored paths with their directions."""
    schema = bound.schema
    return tuple((schema.order_path_of(path), way) for path, way in order_of(schema, order))


def own_app(app: App) -> None:
    """Refuse to load records of an App that is not the current one."""
    if current_env().app is not app:
        raise ConfigurationError(
            f"the records belong to App {app.name!r}, and App {current_env().app.name!r} is "
            f"current; work inside 'with app.activate():'"
        )
