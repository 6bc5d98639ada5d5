"""Relations of whole models: checks that their other ends exist, and prefetches paths of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain.values import shorten
from earnorm.exceptions import ConfigurationError, DomainError, nearest
from earnorm.fields.base import Field
from earnorm.fields.many2many import Many2many
from earnorm.fields.places import Place
from earnorm.fields.places import inside as inside_of
from earnorm.fields.relational import Many2one, One2many, Relation, ToMany
from earnorm.model.reading.ordering import refuse
from earnorm.model.reading.parts import inside
from earnorm.model.relations.ghosts import (
    link_end,
    load_group,
    load_many,
    make_ghosts,
    target_of,
)
from earnorm.model.relations.windows import Window, load_window

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
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
                _check_other_side(model._name, where, field, known)


def _check_other_side(
    owner: str, where: str, field: ToMany[Any], known: Mapping[str, Fields]
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
    if other.comodel_name != owner:
        raise ConfigurationError(
            f"{where}: {comodel}.{name} points at {other.comodel_name!r}, not at {owner!r}"
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
        DomainError: One relation is wanted in two ways.
    """
    tree = Branch()
    for wanted in paths:
        path, window = (wanted, None) if not isinstance(wanted, tuple) else wanted
        if not isinstance(path, str):
            refuse("prefetch", f"takes paths of relations, not {shorten(path)}")
        level = tree
        for name in path.split("."):
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
    await _prefetch(bound.app, bound.schema, records, tree)


async def _prefetch(
    app: App, schema: Schema, structures: Sequence[Any], tree: Mapping[str, Any]
) -> None:
    for name, below in tree.items():
        field = schema.fields.get(name)
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
                f"prefetch: {schema.name} has no relation {name!r}{nearest(name, relations)}"
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
    targets = list(await _load_relation(structures, field, window))
    if not below or not targets:
        return
    if field.comodel:
        await _prefetch(app, target_of(app, field).schema, targets, below)
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
) -> Iterator[Any]:
    if isinstance(field, ToMany):
        if window is not None:
            await load_window(records, field, window)
        else:
            for record in records:
                if getattr(record, field.name)._records is None:
                    await load_many(record, field)
        children = [child for record in records for child in getattr(record, field.name)]
        return iter({id(child): child for child in children}.values())
    if isinstance(field, Many2one):
        pointed = make_ghosts(records, field)
    else:
        pointed = [t for record in records if (t := getattr(record, field.name)) is not None]
    groups = {id(t._fetch): t for t in pointed if t.is_stored}
    for one in groups.values():
        if one._fetch.is_waiting:
            await load_group(one)
    unique = {id(t): t for t in pointed if not (t.is_stored and t._fetch.is_ghost)}
    return iter(unique.values())
