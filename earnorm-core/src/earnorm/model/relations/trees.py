"""The trees that a model's records form by pointing at their parents: what lies below, what above.

Which relation that is says the model's ``_parent_name``; without it, ``parent_id``. A walk goes level
by level and never visits a record twice, so cycles end it. It runs with access rules off, since, as
in Odoo, they apply to the search that asks; what it gives are ids only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import DomainError
from earnorm.model.reading.by_ids import by_ids

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

_REASON: Final = "domain: the ids of a tree, for child_of and parent_of"


def parent_name(bound: BoundModel) -> str:
    """The name of the relation from a record to its parent.

    Raises:
        DomainError: The model has no such relation to itself.
    """
    name = bound.model._parent_name
    field: Any = bound.schema.fields.get(name)
    comodel = getattr(field, "comodel", None)
    own = comodel if isinstance(comodel, str) or comodel is None else comodel._name
    if own != bound.model._name or not field.stored:
        raise DomainError(
            f"{bound.model._name} is no tree: {name!r} is no relation to itself; name the one that "
            f"is in _parent_name"
        )
    return name


async def walk(bound: BoundModel, env: Env, starts: Iterable[Any], *, upwards: bool) -> list[Any]:
    """The ids of the start records and of all that lie below (``upwards``: above) them.

    The one place where a tree is followed, unless a feature knows a shorter way.
    """
    parent = parent_name(bound)
    env = env.replace(system=True, reason=_REASON)
    if bound.reading is not None and bound.reading.below is not None and not upwards:
        known = await bound.reading.below(bound, env, list(dict.fromkeys(starts)))
        if known is not None:
            return known
    asked, told = ("_id", parent) if upwards else (parent, "_id")
    key = bound.schema.fields[told].db_name
    seen = dict.fromkeys(starts)
    frontier = list(seen)
    while frontier:
        found: dict[Any, None] = {}
        fields = frozenset({"_id", told})
        for document in await by_ids(bound, asked, frontier, env=env, fields=fields):
            value = document.get(key)
            found.update(dict.fromkeys(value if isinstance(value, list) else [value]))
        found.pop(None, None)
        frontier = [pk for pk in found if pk not in seen]
        seen.update(dict.fromkeys(frontier))
    return list(seen)
