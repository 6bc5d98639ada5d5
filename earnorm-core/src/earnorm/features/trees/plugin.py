"""``_parent_store``: keeps the paths of trees up to date in every create and write.

A node gets its path when it is created. A write of a parent moves the node with all nodes below it:
one query for these nodes, one bulk write for their paths, in one transaction if the backend has
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from earnorm.domain import Or
from earnorm.exceptions import ValidationError
from earnorm.features.trees.declaring import PATH, check_tree
from earnorm.features.trees.parent_paths import (
    REASON,
    below,
    descendants,
    nodes,
    paths_of,
    placed,
    step,
    store,
)
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Operation, PerRecord, Update
from earnorm.kernel.serving.reading import Reading
from earnorm.kernel.steps import Stage, Step
from earnorm.model.relations.trees import parent_name, tree_of

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.views import ModelView


class ParentStorePlugin:
    """Keeps ``_parent_path`` up to date, in models with ``_parent_store``."""

    api = API
    name = "parent_store"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return ``_parent_store`` if the model has it."""
        return "_parent_store" if model.attribute("_parent_store") else None

    @hookimpl
    def models_changed(self, app: App) -> None:
        """Refuse to start with a model that has ``_parent_store`` and is no tree."""
        if not app.is_started:
            for model in app.usable_models():
                if model._parent_store:
                    check_tree(model)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the steps, for models with ``_parent_store`` only: the others pay nothing."""
        if not model.attribute("_parent_store"):
            return ()
        return [
            Step(Stage.STAMP, "parent_store", _place, on="create"),
            Step(Stage.GUARD, "parent_store", _plan, on="write", atomic=_writes_parent),
            Step(Stage.PROPAGATE, "parent_store", _move, on="write"),
        ]

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Return the way to find the nodes below a node, by a range of an index."""
        return Reading(below=descendants) if model.attribute("_parent_store") else None


def _parent_key(bound: BoundModel) -> str:
    return bound.schema.fields[parent_name(bound)].db_name


def _no_parent(bound: BoundModel) -> ValidationError:
    detail: Any = {"loc": (parent_name(bound),), "msg": "no such parent", "type": "parent"}
    return ValidationError(bound.model._name, [detail])


async def _place(batch: DocumentBatch) -> None:
    op = batch.op
    bound = tree_of(op.app.bind(op.model))
    key = _parent_key(bound)
    parents = {document["_id"]: document.get(key) for document in batch.documents}
    outside = [p for p in parents.values() if p is not None and p not in parents]
    paths = {}
    if outside:
        paths = await paths_of(bound, op.env.as_system(REASON), outside, op)
        if len(paths) < len(set(outside)):
            raise _no_parent(bound)
    placed_paths = placed(parents, paths, bound)
    for row in batch.rows:
        row.put(PATH, placed_paths[row.pk])


# -- moves ----------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """The paths of nodes that move, by the ids of the nodes.

    Attributes:
        old: The present paths of the nodes and of their new parents.
        new: The new paths of the nodes.
    """

    old: Mapping[Any, str]
    new: Mapping[Any, str]


_PLAN: Note[_Plan] = Note("parent_store")


def _writes_parent(op: Operation) -> bool:
    return _parent_key(op.app.bind(op.model)) in op.written


async def _plan(batch: DocumentBatch) -> None:
    op = batch.operation
    bound = tree_of(op.app.bind(op.model))
    key = _parent_key(bound)
    if key not in op.written:
        return
    env = op.env.as_system(REASON)
    known = await nodes(bound, env, op.domain, 0 if op.options.many else 1, op)
    moved = {
        pk: parent
        for pk, (before, _) in known.items()
        if (parent := _new_parent(op, pk, key, before)) != before
    }
    if not moved:
        return
    new_parents = {parent for parent in moved.values() if parent is not None}
    old = await paths_of(bound, env, [*moved, *new_parents], op)
    if not new_parents <= old.keys():
        raise _no_parent(bound)
    batch.notes[_PLAN] = _Plan(old, _new_paths(bound, moved, old))


async def _move(batch: DocumentBatch) -> None:
    plan: _Plan | None = batch.notes.get(_PLAN)
    if plan is None:
        return
    op, old, new = batch.op, plan.old, plan.new
    bound = tree_of(op.app.bind(op.model))
    env = op.env.as_system(REASON)
    starts = Or([below(old[pk]) for pk in new]).simplify()
    by_step = {step(pk): pk for pk in new}
    paths = dict(new)
    for pk, (_, path) in (await nodes(bound, env, starts, 0, op)).items():
        if path is not None and pk not in paths:
            paths[pk] = _new_path(path, by_step, new, old)
    await store(bound, env, paths, op)
    if batch.back is not None:
        for pk, path in new.items():
            batch.back.give(pk, {PATH: path})


def _new_parent(op: Operation, pk: Any, key: str, before: Any) -> Any:
    values = op.values
    update = values.get(pk) if isinstance(values, PerRecord) else values
    if not isinstance(update, Update):
        return before
    if key in update.operators.get("$set", {}):
        return update.operators["$set"][key]
    return None if key in update.operators.get("$unset", {}) else before


def _new_paths(
    bound: BoundModel, moved: Mapping[Any, Any], old: Mapping[Any, str]
) -> dict[Any, str]:
    """Compute the new paths of nodes that move; one may move below another one that moves.

    Raises:
        ValidationError: A node would lie below itself.
    """
    by_step = {step(pk): pk for pk in moved}
    # For each moved node, this has the nearest moved node above it; the path between stays the
    # same.
    moved_ancestors = {
        pk: None if parent is None else _nearest(old[parent], by_step)
        for pk, parent in moved.items()
    }
    placed(moved_ancestors, {}, bound)  # raises an error if the moves form a cycle
    new_paths: dict[Any, str] = {}

    def path(pk: Any) -> str:
        if pk not in new_paths:
            parent, anchor = moved[pk], moved_ancestors[pk]
            above = "" if parent is None else old[parent]
            if anchor is not None:
                above = path(anchor) + above[len(old[anchor]) :]
            new_paths[pk] = above + step(pk)
        return new_paths[pk]

    for pk in moved:
        path(pk)
    return new_paths


def _nearest(path: str, by_step: Mapping[str, Any]) -> Any:
    for part in reversed(path.rstrip("/").split("/")):
        if f"{part}/" in by_step:
            return by_step[f"{part}/"]
    return None


def _new_path(
    path: str, by_step: Mapping[str, Any], new: Mapping[Any, str], old: Mapping[Any, str]
) -> str:
    anchor = _nearest(path, by_step)
    return path if anchor is None else new[anchor] + path[len(old[anchor]) :]
