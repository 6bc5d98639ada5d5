"""``_parent_store``: keeps the paths of trees in step, on every way to the database.

A node gets its path when it is created. A write of a parent moves the node with everything below it:
one query for what moves, one bulk write for its paths, in one transaction where the backend has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Operation, PerRecord, Update
from earnorm.kernel.reading import Reading
from earnorm.kernel.steps import DocumentBatch, Stage, Step
from earnorm.model.relations.trees import parent_name

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.views import ModelView


class ParentStorePlugin:
    """Keeps ``_parent_path`` of the models that ask for it."""

    api = API
    name = "parent_store"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Models that keep the paths of their tree."""
        return "_parent_store" if model.attribute("_parent_store") else None

    @hookimpl
    def models_changed(self, app: App) -> None:
        """Refuse a start with a model that asks for paths and is no tree."""
        if not app.is_started:
            for model in app.usable_models():
                if model._parent_store:
                    check_tree(model)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Models with ``_parent_store = True`` only: every other one keeps its way."""
        if not model.attribute("_parent_store"):
            return ()
        return [
            Step(Stage.STAMP, "parent_store", _place, on="create"),
            Step(Stage.GUARD, "parent_store", _plan, on="write", atomic=_writes_parent),
            Step(Stage.PROPAGATE, "parent_store", _move, on="write"),
        ]

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Below a node of such a model lies a range of an index."""
        return Reading(below=descendants) if model.attribute("_parent_store") else None


def _key(bound: BoundModel) -> str:
    return bound.schema.fields[parent_name(bound)].db_name


def _no_parent(bound: BoundModel) -> ValidationError:
    detail: Any = {"loc": (parent_name(bound),), "msg": "no such parent", "type": "parent"}
    return ValidationError(bound.model._name, [detail])


async def _place(batch: DocumentBatch) -> None:
    op = batch.op
    bound = op.app.bind(op.model)
    key = _key(bound)
    parents = {document["_id"]: document.get(key) for document in batch.documents}
    outside = [p for p in parents.values() if p is not None and p not in parents]
    paths = {}
    if outside:
        paths = await paths_of(bound, op.env.replace(system=True, reason=REASON), outside)
        if len(paths) < len(set(outside)):
            raise _no_parent(bound)
    found = placed(parents, paths, bound)
    for row in batch.rows:
        row.put(PATH, found[row.pk])


# -- moves ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """How nodes move, by their ids.

    Attributes:
        old: The paths that they and their new parents have.
        new: The paths that they get.
    """

    old: Mapping[Any, str]
    new: Mapping[Any, str]


_PLAN: Note[_Plan] = Note("parent_store")


def _writes_parent(op: Operation) -> bool:
    return _key(op.app.bind(op.model)) in op.written


async def _plan(batch: DocumentBatch) -> None:
    op = batch.operation
    bound = op.app.bind(op.model)
    key = _key(bound)
    if key not in op.written:
        return
    env = op.env.replace(system=True, reason=REASON)
    known = await nodes(bound, env, op.domain, 0 if op.options.many else 1)
    moved = {
        pk: parent
        for pk, (before, _) in known.items()
        if (parent := _new_parent(op, pk, key, before)) != before
    }
    if not moved:
        return
    named = {parent for parent in moved.values() if parent is not None}
    old = await paths_of(bound, env, [*moved, *named])
    if not named <= old.keys():
        raise _no_parent(bound)
    batch.notes[_PLAN] = _Plan(old, _moved(bound, moved, old))


async def _move(batch: DocumentBatch) -> None:
    plan: _Plan | None = batch.notes.get(_PLAN)
    if plan is None:
        return
    op, old, new = batch.op, plan.old, plan.new
    bound = op.app.bind(op.model)
    env = op.env.replace(system=True, reason=REASON)
    starts = Or([below(old[pk]) for pk in new]).simplify()
    by_step = {step(pk): pk for pk in new}
    paths = dict(new)
    for pk, (_, path) in (await nodes(bound, env, starts)).items():
        if path is not None and pk not in paths:
            paths[pk] = _rebased(path, by_step, new, old)
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


def _moved(bound: BoundModel, moved: Mapping[Any, Any], old: Mapping[Any, str]) -> dict[Any, str]:
    """The new paths of the nodes that move, which may hang on each other.

    Raises:
        ValidationError: A node would lie below itself.
    """
    by_step = {step(pk): pk for pk in moved}
    # For each moved node the nearest moved one above its new parent; beyond it nothing changes.
    hangs_on = {
        pk: None if parent is None else _nearest(old[parent], by_step)
        for pk, parent in moved.items()
    }
    placed(hangs_on, {}, bound)  # raises where they hang on each other
    found: dict[Any, str] = {}

    def path(pk: Any) -> str:
        if pk not in found:
            parent, anchor = moved[pk], hangs_on[pk]
            above = "" if parent is None else old[parent]
            if anchor is not None:
                above = path(anchor) + above[len(old[anchor]) :]
            found[pk] = above + step(pk)
        return found[pk]

    for pk in moved:
        path(pk)
    return found


def _nearest(path: str, by_step: Mapping[str, Any]) -> Any:
    for part in reversed(path.rstrip("/").split("/")):
        if f"{part}/" in by_step:
            return by_step[f"{part}/"]
    return None


def _rebased(
    path: str, by_step: Mapping[str, Any], new: Mapping[Any, str], old: Mapping[Any, str]
) -> str:
    anchor = _nearest(path, by_step)
    return path if anchor is None else new[anchor] + path[len(old[anchor]) :]
