"""Relations without N+1: ghosts, loading them for all siblings at once, and prefetching paths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from earnorm.domain import condition
from earnorm.environment import current_env
from earnorm.exceptions import ConfigurationError, DomainError, NotFound, nearest
from earnorm.fetch import ID_ONLY, Fetch
from earnorm.fields.base import Field
from earnorm.fields.relational import Many2one, One2many
from earnorm.hydrate import fill, ghosts, hydrate
from earnorm.operations import Operation
from earnorm.recordset import RecordSet

if TYPE_CHECKING:
    from earnorm.app import App
    from earnorm.binding import BoundModel
    from earnorm.models import BaseModel

# Ids of one query: far below the 16 MB that a filter may have.
_CHUNK = 100_000


def target_of(app: App, field: Field[Any, Any]) -> BoundModel:
    """The model at the other end of a relation, as the App sees it."""
    assert isinstance(field, Many2one | One2many)
    comodel = field.comodel
    return app.bind(app.model(comodel) if isinstance(comodel, str) else comodel)


def check_relations(app: App, models: Iterable[type[BaseModel]]) -> None:
    """Find relations to models that do not exist.

    Raises:
        ConfigurationError: Naming the model, the field and the nearest name.
    """
    known = {model._name: model for model in models}
    for model in known.values():
        for field in model._schema.relations:
            comodel = getattr(field, "comodel", None)
            if isinstance(comodel, str) and comodel not in known:
                raise ConfigurationError(
                    f"{model._name}.{field.name} points at a model {comodel!r} that does not exist"
                    f"{nearest(comodel, known)}"
                )


# -- ghosts ---------------------------------------------------------------------------------------


def ghost_of(record: BaseModel, field: Field[Any, Any], pk: Any) -> BaseModel:
    """The record that a Many2one points at, not loaded yet; shared by all siblings."""
    fetch: Fetch | None = getattr(record, "_fetch", None)
    app = fetch.app if fetch is not None else current_env().app
    if fetch is None:
        ghost: BaseModel = ghosts(target_of(app, field), [pk])[0]
        return ghost
    group = fetch.related.get(field.name)
    if group is None:
        group = fetch.related[field.name] = Fetch(app, ID_ONLY, [])
        group.origin = f"{type(record)._name}.{field.name}"
        group.complete = _completer(fetch.records or [record], field)
    found = group.by_id.get(pk)
    if found is None:
        (found,) = ghosts(target_of(app, field), [pk])
        assert group.records is not None
        object.__setattr__(found, "_fetch", group)
        group.records.append(found)
        group.by_id[pk] = found
    return cast("BaseModel", found)


def _completer(records: list[Any], field: Field[Any, Any]) -> Callable[[], None]:
    def complete() -> None:
        for record in records:
            if record.__dict__.get(field.name) is not None:
                getattr(record, field.name)  # reading it makes the ghost

    return complete


def ghosts_of(record: BaseModel, field: One2many[Any]) -> RecordSet[Any]:
    """The records that point at this one, not loaded yet."""
    fetch: Fetch | None = getattr(record, "_fetch", None)
    app = fetch.app if fetch is not None else current_env().app
    model = target_of(app, field).model
    if not record.is_stored:
        return RecordSet(model, [])
    return RecordSet(
        model,
        None,
        load=lambda: load_many(record, field),
        origin=f"{type(record)._name}.{field.name}",
    )


async def load_ghost(record: Any) -> Any:
    """Load a ghost together with its siblings; a record that is loaded is given back as it is.

    Raises:
        NotFound: It does not exist (or not for the acting principal).
    """
    fetch: Fetch | None = getattr(record, "_fetch", None)
    if fetch is None or not fetch.is_ghost:
        return record
    await _load_group(record)
    if record._fetch.is_ghost:
        raise NotFound(f"{type(record)._name}: no record with the id {record.pk}")
    return record


async def _load_group(ghost: Any) -> None:
    fetch: Fetch = ghost._fetch
    await _once(fetch, "", lambda: _load_ghosts(fetch, type(ghost)))


async def _once(fetch: Fetch, key: str, load: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Tasks that ask for the same at the same time share one load; a cancelled one leaves it be."""
    task = fetch.loading.get(key)
    if task is None:
        task = fetch.loading[key] = asyncio.ensure_future(load())
        task.add_done_callback(lambda _: fetch.loading.pop(key, None))
    await asyncio.shield(task)


async def _load_ghosts(fetch: Fetch, model: type[Any]) -> None:
    _own_app(fetch.app)
    if fetch.complete is not None:
        fetch.complete()
    bound = fetch.app.bind(model)
    assert fetch.records is not None
    waiting = {r.__dict__["_id"]: r for r in fetch.records if r._fetch is fetch}
    loaded = Fetch(fetch.app, None, [] if bound.schema.relations else None)
    for documents in await _by_ids(bound, "_id", list(waiting)):
        states = bound.schema.states(documents)
        records = [waiting[document["_id"]] for document in documents]
        fill(records, states, loaded)
        if loaded.records is not None:
            loaded.records.extend(records)


async def load_many(record: BaseModel, field: One2many[Any]) -> None:
    """Load a One2many of a record and of all its siblings, with one query."""
    fetch = record._fetch
    await _once(fetch, field.name, lambda: _load_many(fetch.records or [record], field))


async def _load_many(parents: Sequence[Any], field: One2many[Any]) -> None:
    app = parents[0]._fetch.app
    _own_app(app)
    bound = target_of(app, field)
    inverse = bound.schema.fields.get(field.inverse)
    if not isinstance(inverse, Many2one):
        raise ConfigurationError(
            f"{field.model_name}.{field.name}: {bound.model._name} has no Many2one named "
            f"{field.inverse!r}{nearest(field.inverse, bound.schema.fields)}"
        )
    by_id = {parent.pk: parent for parent in parents if parent.is_stored}
    children: dict[Any, list[Any]] = {pk: [] for pk in by_id}
    documents = [d for part in await _by_ids(bound, inverse.name, list(by_id)) for d in part]
    for child in hydrate(bound, documents):
        parent = by_id[child.__dict__[inverse.name]]
        child.__dict__[inverse.name] = parent
        children[parent.pk].append(child)
    for parent in parents:
        if parent.is_stored:
            getattr(parent, field.name)._become(children[parent.pk])


async def _by_ids(bound: BoundModel, path: str, pks: list[Any]) -> list[list[dict[str, Any]]]:
    env = current_env()
    found: list[list[dict[str, Any]]] = []
    for start in range(0, len(pks), _CHUNK):
        chunk = condition(path, "in", pks[start : start + _CHUNK])
        found.append(await env.app.execute(Operation("search", bound.model, env, chunk)))
    return found


def _own_app(app: App) -> None:
    if current_env().app is not app:
        raise ConfigurationError(
            f"the records belong to App {app.name!r}, and App {current_env().app.name!r} is "
            f"current; work inside 'with app.activate():'"
        )


# -- prefetch -------------------------------------------------------------------------------------


def prefetch_tree(paths: Iterable[str]) -> dict[str, Any]:
    """Dotted paths as nested mappings: each relation once per level."""
    tree: dict[str, Any] = {}
    for path in paths:
        level = tree
        for name in path.split("."):
            level = level.setdefault(name, {})
    return tree


async def prefetch(bound: BoundModel, records: Sequence[Any], tree: Mapping[str, Any]) -> None:
    """Load the relations of a tree: one query per relation and level.

    Raises:
        DomainError: A name that is no relation.
    """
    for name, below in tree.items():
        field = bound.schema.fields.get(name)
        if field is None or not _is_relation(field):
            relations = [f.name for f in bound.schema.relations]
            raise DomainError(
                f"prefetch: {bound.model._name} has no relation {name!r}{nearest(name, relations)}"
            )
        if not records:
            continue
        targets = list(await _load_relation(records, field))
        if below and targets:
            await prefetch(target_of(bound.app, field), targets, below)


def _is_relation(field: Field[Any, Any]) -> bool:
    return isinstance(field, Many2one | One2many)


async def _load_relation(records: Sequence[Any], field: Field[Any, Any]) -> Iterator[Any]:
    if isinstance(field, One2many):
        await load_many(records[0], field)
        return (child for record in records for child in getattr(record, field.name))
    pointed = [t for record in records if (t := getattr(record, field.name)) is not None]
    groups = {id(t._fetch): t for t in pointed if t.is_stored and t._fetch.is_ghost}
    for ghost in groups.values():
        await _load_group(ghost)
    unique = {id(t): t for t in pointed if not (t.is_stored and t._fetch.is_ghost)}
    return iter(unique.values())
