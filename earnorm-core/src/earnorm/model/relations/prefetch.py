"""Relations of whole models: checks that their other ends exist, and prefetches paths of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain.paths import MAX_LENGTH, MAX_PARTS, check_length
from earnorm.domain.values import shorten
from earnorm.exceptions import ConfigurationError, DomainError, nearest
from earnorm.fields.base import Field
from earnorm.fields.many2many import Many2many
from earnorm.fields.places import Place
from earnorm.fields.places import inside as inside_of
from earnorm.fields.relational import Many2one, One2many, Relation, ToMany
from earnorm.kernel.life.in_flight import UNIT
from earnorm.kernel.naming import nearest_field
from earnorm.kernel.pauses import parts, pause
from earnorm.model.reading.fetch import ID_ONLY, Fetch
from earnorm.model.reading.ordering import refuse
from earnorm.model.reading.parts import inside
from earnorm.model.relations.ghosts import (
    link_end,
    load_group,
    load_many,
    make_ghosts,
    points_at,
    target_of,
)
from earnorm.model.relations.windows import Window, load_window

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.serving.reading import RecordClasses
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema


# -- at the start of an App -----------------------------------------------------------------------

Fields = Mapping[str, Field[Any, Any]]


def relations_of(fields: Fields) -> Iterator[tuple[str, Relation[Any, Any]]]:
    """Yield a model's relations with their paths: its own, and those inside of other fields."""
    for field in fields.values():
        for place in inside_of(Place(field, field.name, field.db_name)):
            if isinstance(place.field, Relation):
                yield place.path, place.field


def check_relations(models: Iterable[type[BaseModel]], known: Mapping[str, Fields]) -> None:
    """Refuse relations whose other end does not exist.

    Args:
        models: The models whose relations are checked.
        known: The fields of every model by its name, those that plugins add included.

    Raises:
        ConfigurationError: It names the model, the field and the nearest name.
    """
    for model in models:
        for path, field in relations_of(known.get(model._name) or model._schema.fields):
            where = f"{model._name}.{path}"
            for comodel in field.names():
                if comodel not in known:
                    raise ConfigurationError(
                        f"{where} points at a model {comodel!r} that does not exist"
                        f"{nearest(comodel, known)}"
                    )
            if isinstance(field, ToMany):
                _check_other_side(model, where, field, known)


def _check_other_side(
    owner: type[BaseModel], where: str, field: ToMany[Any], known: Mapping[str, Fields]
) -> None:
    comodel = field.comodel_name
    if isinstance(field, Many2many) and field.through is not None:
        link = field.through_name
        link_end(known[link], link, field, "near", owner, field.near)
        link_end(known[link], link, field, "far", comodel, field.far)
        return
    kind = Many2one if isinstance(field, One2many) else Many2many
    name = field.inverse
    if name is None:
        return
    other = known[comodel].get(name)
    if not isinstance(other, kind) or not other.stored:
        raise ConfigurationError(
            f"{where}: {comodel} has no {kind.__name__} named {name!r}"
            f"{nearest(name, known[comodel])}"
        )
    if not points_at(other, owner):
        raise ConfigurationError(
            f"{where}: {comodel}.{name} points at {other.comodel_name!r}, not at {owner._name!r}"
        )


# -- prefetch -------------------------------------------------------------------------------------


class Branch(dict[str, "Branch"]):
    """A relation to load: the relations below it, and the part of it that is loaded.

    Attributes:
        window: None for the whole relation.
        is_named: True if a path ends here, and does not only lead through.
    """

    window: Window | None = None
    is_named = False


Wanted = str | tuple[str, Window]
"""A path of relations, or one with the window of the relation at its end."""


def prefetch_tree(paths: Iterable[Wanted]) -> Branch:
    """Return dotted paths as nested mappings, with each relation once per level.

    Raises:
        DomainError: One relation is wanted in two ways, or a path is none.
    """
    tree = Branch()
    for wanted in paths:
        path, window = (wanted, None) if not isinstance(wanted, tuple) else wanted
        if not isinstance(path, str):
            refuse("prefetch", f"takes paths of relations, not {shorten(path)}")
        names = path.split(".")
        if len(path) > MAX_LENGTH or len(names) > MAX_PARTS:
            check_length(path)
        if not all(names):
            raise DomainError(f"prefetch: {path!r} has an empty name beside a dot, or is empty")
        level = tree
        for name in names:
            level = level.setdefault(name, Branch())
        if level.is_named and level.window != window:
            raise DomainError(
                f"prefetch: {path!r} is wanted twice, with different limits or orders; a record has "
                f"one value of it"
            )
        level.is_named, level.window = True, window
    return tree


async def prefetch(bound: BoundModel, records: Sequence[Any], tree: Mapping[str, Any]) -> None:
    """Load the relations of a tree, with one query per relation and level.

    Raises:
        DomainError: A name is not that of a relation.
    """
    # A stop waits for it as for the search before it; whole() would be one call more.
    in_flight, key, outer = bound.app.in_flight, object(), UNIT.get()
    in_flight.operations[key] = asyncio.current_task()
    UNIT.set(key)
    try:
        await _prefetch(bound.app, bound.schema, records, tree, bound.classes)
    except asyncio.CancelledError as error:
        told = in_flight.told(error)
        if told is error:
            raise
        raise told from None
    finally:
        UNIT.set(outer)
        in_flight.operations.pop(key, None)


async def _prefetch(
    app: App,
    schema: Schema,
    structures: Sequence[Any],
    tree: Mapping[str, Any],
    classes: RecordClasses | None = None,
) -> None:
    all_structures = structures
    for name, below in tree.items():
        field, structures = schema.fields.get(name), all_structures
        if field is None and classes is not None:
            field = classes.find_field(name)  # of a class that only some of the records have
            structures = [s for s in structures if name in type(s)._schema.fields]
        if isinstance(field, Relation):
            window: Window | None = getattr(below, "window", None)
            if window is not None:
                window.check(name, field, target_of(app, field) if field.comodel else None)
            if structures:
                await _prefetch_relation(app, structures, field, below, window)
        elif field is not None and field.structure is not None and below and not _is_window(below):
            await _prefetch(app, field.structure._schema, inside(structures, field), below)
        else:
            relations = [relation.name for relation in schema.relations]
            raise DomainError(
                f"prefetch: {schema.name} has no relation {name!r}{nearest_field(schema, name, relations)}"
            )


def _is_window(below: Mapping[str, Any]) -> bool:
    return getattr(below, "window", None) is not None


async def _prefetch_relation(
    app: App,
    structures: Sequence[Any],
    field: Relation[Any, Any],
    below: Mapping[str, Any],
    window: Window | None,
) -> None:
    pointed = await _load_relation(structures, field, window)
    if not below:
        return
    if isinstance(field, ToMany):
        pointed = await _members(structures, field)
    # Those that were looked for and not found stay unloaded.
    targets = []
    for target in pointed:
        fetch: Fetch | None = getattr(target, "_fetch", None)
        if fetch is None or fetch.loaded is not ID_ONLY:
            targets.append(target)
    if not targets:
        return
    if field.comodel:
        bound = target_of(app, field)
        await _prefetch(app, bound.schema, targets, below, bound.classes)
        return
    by_model: dict[Any, list[Any]] = {}  # a Reference points at records of several models
    for target in targets:
        by_model.setdefault(type(target), []).append(target)
    for model, records in by_model.items():
        deeper_tree = {
            name: deeper for name, deeper in below.items() if name in model._schema.fields
        }
        await _prefetch(app, model._schema, records, deeper_tree)


async def _load_relation(
    records: Sequence[Any], field: Relation[Any, Any], window: Window | None
) -> list[Any]:
    """Load a relation; return what a Many2one or a Reference points at, and of others nothing."""
    if isinstance(field, ToMany):
        if window is not None:
            await load_window(records, field, window)
            return []
        for part in parts(records):
            for record in part:
                if getattr(record, field.name)._records is None:
                    await load_many(record, field)
            if part is not records:
                await pause()
        return []
    if isinstance(field, Many2one):
        pointed = await make_ghosts(records, field)
    else:
        found: dict[int, Any] = {}
        for part in parts(records):
            for record in part:
                target = getattr(record, field.name)
                if target is not None:
                    found[id(target)] = target
            if part is not records:
                await pause()
        pointed = list(found.values())
    waiting: dict[int, Any] = {}
    for target in pointed:
        fetch: Fetch | None = getattr(target, "_fetch", None)
        if fetch is not None and fetch.loaded is ID_ONLY:
            waiting[id(fetch)] = target
    made_of = records if isinstance(field, Many2one) else ()
    for one in waiting.values():
        if one._fetch.is_waiting:
            await load_group(one, made_of)
    return pointed


async def _members(records: Sequence[Any], field: ToMany[Any]) -> list[Any]:
    """Return the members of a loaded to-many relation of all records, each once."""
    members: dict[int, Any] = {}
    for part in parts(records):
        for record in part:
            for member in getattr(record, field.name):
                members[id(member)] = member
        if part is not records:
            await pause()
    return list(members.values())
