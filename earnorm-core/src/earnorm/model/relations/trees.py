"""The trees of records that point at their parents: finds descendants and ancestors.

The model's ``_parent_name`` names that relation; the default is ``parent_id``. A walk goes level by
level and never visits a record twice, so cycles end it. It runs with access rules off because, as
in Odoo, they apply to the search that uses the result; the walk returns only ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import DomainError
from earnorm.fields.relational import Relation
from earnorm.kernel.notes import NO_NOTES, Note
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.relations.ghosts import points_at, target_of

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

_REASON: Final = "domain: the ids of a tree, for child_of and parent_of"


def parent_name(bound: BoundModel) -> str:
    """Return the name of the relation from a record to its parent.

    Raises:
        DomainError: The model has no such relation to itself.
    """
    name = bound.model._parent_name
    field: Any = bound.schema.fields.get(name)
    if not (isinstance(field, Relation) and points_at(field, bound.model) and field.stored):
        raise DomainError(
            f"{bound.model._name} is no tree: {name!r} is no relation to itself; name the one that "
            f"is in _parent_name"
        )
    return name


def tree_of(bound: BoundModel) -> BoundModel:
    """Return the model of all nodes of a model's tree.

    It is a base class where a class of a family has its parents among all classes.
    """
    return target_of(bound.app, bound.schema.fields[parent_name(bound)])


async def walk(
    bound: BoundModel,
    env: Env,
    starts: Iterable[Any],
    *,
    upwards: bool,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> list[Any]:
    """Return the ids of the start records and of all their descendants (``upwards``: ancestors).

    A feature that stores paths may answer instead, with fewer queries.
    """
    bound = tree_of(bound)
    parent = parent_name(bound)
    env = env.as_system(_REASON)
    if bound.reading is not None and bound.reading.below is not None and not upwards:
        known = await bound.reading.below(bound, env, list(dict.fromkeys(starts)))
        if known is not None:
            return known
    by_field, to_field = ("_id", parent) if upwards else (parent, "_id")
    key = bound.schema.fields[to_field].db_name
    seen = dict.fromkeys(starts)
    frontier = list(seen)
    while frontier:
        pks: dict[Any, None] = {}
        fields = frozenset({"_id", to_field})
        for document in await by_ids(
            bound, by_field, frontier, env=env, fields=fields, notes=notes
        ):
            value = document.get(key)
            pks.update(dict.fromkeys(value if isinstance(value, list) else [value]))
        pks.pop(None, None)
        frontier = [pk for pk in pks if pk not in seen]
        seen.update(dict.fromkeys(frontier))
    return list(seen)
