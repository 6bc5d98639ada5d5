"""The materialised paths of trees: ``a/b/c/`` for the node c below b below a.

A model with ``_parent_store = True`` stores them in ``_parent_path``, so that the nodes below a
node are one range of an index. The steps in ``plugin`` keep them up to date; this module computes,
finds and stores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition, Domain, Or
from earnorm.domain.long_lists import chunks, slices
from earnorm.exceptions import ConfigurationError, ValidationError
from earnorm.features.trees.declaring import PATH
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.operations import Operation, Options, PerRecord, Update, made_by
from earnorm.kernel.steps import WAY, Way
from earnorm.model.relations.trees import parent_name, tree_of

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

NAME: Final = "parent_store"
REASON: Final = "_parent_store: the paths of a tree"
_BATCH: Final = 10_000  # updates of one bulk write


def step(pk: Any) -> str:
    """Return an id as a part of a path."""
    return str(pk).replace("%", "%25").replace("/", "%2F") + "/"


def below(path: str) -> Domain:
    """Return the domain of a node and all below it: a range, because "0" is the next after "/"."""
    return Condition(PATH, ">=", path) & Condition(PATH, "<", path[:-1] + "0")


def cycle(bound: BoundModel, parent: str) -> ValidationError:
    """Make the error for a node that would lie below itself."""
    message = "a record cannot lie below itself: this parent is the record, or lies below it"
    return ValidationError(bound.model._name, [{"loc": (parent,), "msg": message, "type": "cycle"}])


async def nodes(
    bound: BoundModel,
    env: Env,
    domain: Domain,
    limit: int = 0,
    parent: Operation | None = None,
) -> dict[Any, tuple[Any, str | None]]:
    """Return the parent and the path of each matching node, by the node's id.

    Args:
        bound: The model.
        env: The environment of the search.
        domain: The domain of the nodes.
        limit: The highest number of nodes; 0 means all.
        parent: The operation that the nodes are looked up for.
    """
    relation = bound.schema.fields[parent_name(bound)]
    options = Options(fields=frozenset({"_id", PATH, relation.name}), limit=limit)
    notes = made_by(NAME, parent)
    op = Operation("search", bound.model, env, domain, None, options, notes)
    documents = await env.app.execute(op)
    return {d["_id"]: (d.get(relation.db_name), d.get(PATH)) for d in documents}


async def paths_of(
    bound: BoundModel, env: Env, pks: Iterable[Any], parent: Operation
) -> dict[Any, str]:
    """Return the paths of nodes by their ids; a node that does not exist is left out.

    A path that is not stored yet (because the model had none before) is computed from the parents.

    Args:
        bound: The model.
        env: The environment of the searches.
        pks: The ids of the nodes.
        parent: The operation that the paths are looked up for.
    """
    known: dict[Any, tuple[Any, str | None]] = {}
    wanted = list(dict.fromkeys(pks))
    asked: set[Any] = set()
    missing = wanted
    while missing:
        asked.update(missing)
        for chunk in chunks(missing):
            known.update(await nodes(bound, env, Condition("_id", "in", chunk), 0, parent))
        above = (node for node, path in known.values() if path is None and node is not None)
        missing = [pk for pk in dict.fromkeys(above) if pk not in asked]
    paths = placed({pk: above for pk, (above, _) in known.items()}, _stored(known), bound)
    return {pk: paths[pk] for pk in wanted if pk in known}


def _stored(known: Mapping[Any, tuple[Any, str | None]]) -> dict[Any, str]:
    return {pk: path for pk, (_, path) in known.items() if path is not None}


def placed(
    parents: Mapping[Any, Any], paths: Mapping[Any, str], bound: BoundModel
) -> dict[Any, str]:
    """Compute the path of every node from the parents and the known paths.

    Raises:
        ValidationError: The parents form a cycle.
    """
    placed_paths = dict(paths)
    for start in parents:
        trail: dict[Any, None] = {}
        node = start
        while node is not None and node not in placed_paths:
            if node in trail:
                raise cycle(bound, parent_name(bound))
            trail[node] = None
            node = parents.get(node)
        path = "" if node is None else placed_paths[node]
        for pk in reversed(trail):
            path = placed_paths[pk] = path + step(pk)
    return placed_paths


async def store(
    bound: BoundModel, env: Env, paths: Mapping[Any, str], parent: Operation | None = None
) -> None:
    """Write paths by the ids of their nodes.

    Args:
        bound: The model.
        env: The environment of the writes.
        paths: The paths.
        parent: The operation that changed the paths.
    """
    notes = {**made_by(NAME, parent), WAY: Way.DERIVED}
    for part in slices(list(paths), _BATCH):
        updates = PerRecord({pk: Update({"$set": {PATH: paths[pk]}}) for pk in part})
        domain = Condition("_id", "in", part)
        op = Operation("write", bound.model, env, domain, updates, notes=notes)
        await env.app.execute(op)


async def descendants(bound: BoundModel, env: Env, starts: Sequence[Any]) -> list[Any] | None:
    """Return the ids of nodes and of all nodes below them; None if a path is not stored."""
    known = await nodes(bound, env, Condition("_id", "in", starts))
    paths = [path for _, path in known.values() if path is not None]
    if len(paths) < len(known):
        return None
    if not paths:
        return list(starts)
    inside = await nodes(bound, env, Or([below(path) for path in paths]).simplify())
    return list(dict.fromkeys([*starts, *inside]))


async def rebuild_parent_paths(model: type[BaseModel]) -> int:
    """Correct the wrong paths of a model with ``_parent_store``, and return their number.

    Call it after the model gets ``_parent_store``, or after a write without the App.

    Raises:
        AccessDenied: Access rules restrict the model, and not ``system`` calls it.
        ConfigurationError: The model keeps no paths.
        ValidationError: The parents form a cycle.
    """
    env = current_env()
    bound = env.app.bind(model)
    bound.need_system(env, "rebuild_parent_paths")
    if not bound.model._parent_store:
        raise ConfigurationError(f"{bound.model._name} keeps no paths: _parent_store = True")
    bound, env = tree_of(bound), env.as_system(REASON)
    known = await nodes(bound, env, Domain.TRUE)
    paths = placed({pk: parent for pk, (parent, _) in known.items()}, {}, bound)
    wrong = {pk: paths[pk] for pk, (_, path) in known.items() if path != paths[pk]}
    await store(bound, env, wrong)
    return len(wrong)
