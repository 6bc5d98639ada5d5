"""Keeps stored computed fields up to date in every create, write and delete.

Only models that such a field depends on have the steps. A new record gets its computed values in
the same insert. A write gets them in the same write if it has all the values that they need.
Otherwise they are written afterwards, together with those of other models' records, in the same
transaction if the backend has transactions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition
from earnorm.domain.ids import ids_of
from earnorm.domain.long_lists import chunks
from earnorm.features.computed.computing import formulas_of
from earnorm.features.computed.dependencies import Dependencies, Graph, Plan, Trigger
from earnorm.features.computed.inverting import inverse_steps
from earnorm.features.computed.levels import values_at
from earnorm.features.computed.recomputing import (
    NAME,
    NewValues,
    Recomputation,
    computed_of_values,
)
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.left_out import left_out_error
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Call, Operation, Options, PerRecord, Update
from earnorm.kernel.steps import WAY, Stage, Step, Way
from earnorm.kernel.transactions import in_transaction_if

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel

_REASON = "recompute: what deleted and written records belong to"
_NOTHING: Final[Mapping[Trigger, None]] = MappingProxyType({})
Links = dict[str, dict[Any, None]]


class RecomputePlugin:
    """Keeps stored computed fields up to date."""

    api = API
    name = "recompute"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the model's first computed field."""
        return next(
            (f"the field {f.name!r}" for f in model.fields.values() if f.computed is not None), None
        )

    def __init__(self) -> None:
        self._dependencies: Dependencies | None = None

    def graph(self) -> Graph:
        """Return the computed fields of the App's models; see :class:`Dependencies`."""
        assert self._dependencies is not None  # the models are known before the first operation
        return self._dependencies.graph()

    def _depends(self) -> bool:
        return self._dependencies is not None and self._dependencies.is_needed

    @hookimpl
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """Make the steps again if a model is defined later: steps depend on other models."""
        if not app.is_started:
            self._dependencies = Dependencies(app)
        elif any(map(_computes, models)) or self._depends():
            app.recompose()

    @hookimpl
    def model_forgotten(self, app: App) -> None:
        """Drop the graph, which holds the models; the next use makes it anew."""
        self._dependencies = Dependencies(app)

    @hookimpl
    def startup(self, app: App) -> None:
        """Refuse circles and unknown paths, before the first operation."""
        if any(map(_computes, app.usable_models())):
            self.graph()

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the steps, for models with computed fields or on which a stored one depends."""
        bound, graph = app.bind(model.cls), self.graph()
        return [
            *inverse_steps(model),
            *_steps_of_creates(bound, graph),
            *_steps_of_writes(bound, graph),
        ]

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layers for deletions, for models on which a stored computed field depends."""
        if operation != "unlink":
            return ()
        triggers = self.graph().deleted.get(model._name)
        if not triggers:
            return ()
        following = _Deleting(app.bind(model), self.graph(), triggers)
        return [
            # The transaction lies outside the audit, so that it contains the audit's entries.
            (Layer.TRANSACTION, in_transaction_if(_may_have_transaction)),
            (Layer.STEPS, following),
        ]


def _computes(model: type[BaseModel]) -> bool:
    return any(field.computed is not None for field in model._schema.fields.values())


def graph_of(app: App) -> Graph:
    """Return the computed fields of an App's models.

    Raises:
        ConfigurationError: The App leaves the feature out.
    """
    plugin = app.loaded.of_type(RecomputePlugin)
    if plugin is None:
        raise left_out_error("recompute()", "feature", "recompute", app.name)
    return plugin.graph()


def _may_have_transaction(op: Operation) -> bool:
    # A transaction has its own concerns, so an operation with concerns cannot run in one.
    return op.options.concerns is None and not _is_recomputation(op)


def _is_recomputation(op: Operation) -> bool:
    """Return whether an operation writes what was recomputed, and not what an inverse was given."""
    return op.origin == NAME and op.note(WAY) is Way.DERIVED


def _ids_held(
    triggers: Iterable[Trigger], bound: BoundModel, documents: Iterable[Mapping[str, Any]]
) -> Links:
    """Return the ids that documents have of other records, by the field that has them."""
    links = {t.link: bound.schema.fields[t.link].db_name for t in triggers if t.link is not None}
    held: Links = {name: {} for name in links}
    for document in documents:
        for name, key in links.items():
            held[name].update(dict.fromkeys(values_at(document, key)))
    return held


# -- create ---------------------------------------------------------------------------------------


def _steps_of_creates(bound: BoundModel, graph: Graph) -> Iterator[Step]:
    model = bound.model._name
    formulas = formulas_of(bound.schema)
    if formulas is not None and formulas.stored:
        values = NewValues(
            bound, graph.plan(model, [formula.field.name for formula in formulas.stored])
        )
        yield Step(Stage.COMPUTE, NAME, values.wait if values.waits else values.fill, on="create")
    triggers = graph.created.get(model)
    if triggers:
        creating = _Creating(bound, graph, triggers)
        yield Step(
            Stage.PROPAGATE,
            NAME,
            creating.follow,
            on="create",
            atomic=creating.needs_transaction,
            also_refused=True,
        )


class _Creating:
    """Computes fields of other records after new records that point at them are created."""

    def __init__(self, bound: BoundModel, graph: Graph, triggers: Mapping[Trigger, None]) -> None:
        self._bound, self._graph, self._triggers = bound, graph, triggers
        self._links = {
            bound.schema.fields[t.link].db_name: bound.schema.fields[t.link]
            for t in triggers
            if t.link is not None
        }
        self._may_be_filled = any(f.is_derived or f.generated for f in self._links.values())

    def needs_transaction(self, op: Operation) -> bool:
        documents: Any = op.values
        points = self._may_be_filled or any(
            values_at(document, key) for document in documents for key in self._links
        )
        return points and _may_have_transaction(op)

    async def follow(self, batch: DocumentBatch) -> None:
        documents: Any = batch.operation.values
        held = _ids_held(self._triggers, self._bound, documents)
        if any(held.values()):
            follow = Recomputation(self._graph, batch.env, batch.op)
            await follow.mark(self._triggers, [document["_id"] for document in documents], held)
            await follow.run()


# -- write ----------------------------------------------------------------------------------------


def _steps_of_writes(bound: BoundModel, graph: Graph) -> Iterable[Step]:
    triggers = {
        field.db_name: triggered
        for name, field in bound.schema.fields.items()
        if (triggered := graph.written.get((bound.model._name, name)))
    }
    if not triggers:
        return ()
    writing = _Writing(bound, graph, triggers)
    return [
        Step(Stage.COMPUTE, NAME, writing.compute, on="write"),
        Step(Stage.GUARD, NAME, writing.look, on="write", atomic=writing.needs_transaction),
        Step(Stage.PROPAGATE, NAME, writing.follow, on="write"),
    ]


@dataclass(frozen=True, slots=True)
class _Before:
    """The records of a write as they are before it.

    Attributes:
        triggers: The triggers of the write.
        pks: The ids of the records.
        held: The ids of other records that they have, by field.
    """

    triggers: Mapping[Trigger, None]
    pks: Sequence[Any]
    held: Links


_BEFORE: Note[_Before] = Note("computed")


class _Writing:
    """Computes fields in the write itself if it has all values they need, and otherwise afterwards.

    Args:
        bound: The model.
        graph: The computed fields of the App.
        triggers: The triggers of each written field, by its stored key.
    """

    def __init__(
        self, bound: BoundModel, graph: Graph, triggers: Mapping[str, Mapping[Trigger, None]]
    ) -> None:
        self._bound, self._graph, self._triggers = bound, graph, triggers
        self._filled = frozenset(
            key
            for key in triggers
            if bound.schema.fields[bound.schema.renamed.get(key, key)].generated
        )

    def _triggers_of(self, keys: Iterable[str]) -> dict[Trigger, None]:
        followed: dict[Trigger, None] = {}
        for key in keys:
            followed.update(self._triggers.get(key, _NOTHING))
        return followed

    def needs_transaction(self, op: Operation) -> bool:
        if not _may_have_transaction(op):
            return False
        # Later steps may also write the fields that they always fill in.
        followed = self._triggers_of(op.written | self._filled)
        return bool(followed) and self._plan_for(followed, _updates(op)) is None

    def _plan_for(
        self, triggers: Mapping[Trigger, None], updates: Collection[Update]
    ) -> Plan | None:
        """Return the plan that computes the fields in the write itself; None if it lacks values."""
        if any(trigger.steps for trigger in triggers):
            return None
        bound, model = self._bound, self._bound.model._name
        plan = self._graph.plan(model, [trigger.field for trigger in triggers])
        own = {node.key[1] for node in plan.nodes}
        if plan.tree or plan.reads is None or _has_dependents(self._graph, model, own):
            return None
        needed = {bound.schema.fields[name].db_name for name in plan.reads - own}
        for update in updates:
            if update.operators.keys() != {"$set"} or not needed <= update.operators["$set"].keys():
                return None
        return plan

    async def compute(self, batch: DocumentBatch) -> None:
        op = batch.op
        if _is_recomputation(op):
            return
        updates: list[Update] = [row.update for row in batch.rows if row.update is not None]
        triggers = self._triggers_of({key for update in updates for key in update.keys})
        if not triggers:
            return
        bound = self._bound
        plan = self._plan_for(triggers, updates)
        if plan is None:
            batch.notes[_BEFORE] = _Before(triggers, (), {})
            return
        fields = bound.schema.fields
        for row, update in zip(batch.rows, updates, strict=True):
            computed = await computed_of_values(bound, plan, update.operators["$set"], op.env)
            row.merge("$set", {fields[name].db_name: value for name, value in computed.items()})

    async def look(self, batch: DocumentBatch) -> None:
        before: _Before | None = batch.notes.get(_BEFORE)
        if before is not None:
            pks, held = await _before(batch.op, self._bound, before.triggers)
            batch.notes[_BEFORE] = _Before(before.triggers, pks, held)

    async def follow(self, batch: DocumentBatch) -> None:
        before: _Before | None = batch.notes.get(_BEFORE)
        if before is None or not before.pks:
            return
        op, held = batch.operation, before.held
        renamed = self._bound.schema.renamed
        written = {renamed.get(key, key) for key in op.written} & held.keys()
        for name, ids in (await _after(op, self._bound, before.pks, written)).items():
            held[name].update(ids)
        follow = Recomputation(self._graph, op.env, op)
        follow.tell(op.model._name, batch.back)
        await follow.mark(before.triggers, before.pks, held)
        await follow.run()


def _updates(op: Operation) -> Collection[Update]:
    values = op.values
    if isinstance(values, PerRecord):
        return values.values()
    return [values] if isinstance(values, Update) else ()


def _has_dependents(graph: Graph, model: str, names: Iterable[str]) -> bool:
    """Return True if a field other than these depends on one of them."""
    known = set(names)
    return any(
        trigger.steps or trigger.field not in known
        for name in known
        for trigger in graph.written.get((model, name), ())
    )


async def _before(
    op: Operation, bound: BoundModel, triggers: Iterable[Trigger]
) -> tuple[list[Any], Links]:
    """Return the ids of the operation's records, and the ids that they have of other records."""
    links = {trigger.link for trigger in triggers if trigger.link is not None}
    values = op.values
    pks = list(values) if isinstance(values, PerRecord) else ids_of(op.domain, bound.schema)
    if pks is not None and not links:
        return pks, {}
    options = Options(
        fields=frozenset({"_id", *links}),
        limit=0 if op.options.many else 1,
        timeout=op.options.timeout,
    )
    env = op.env.replace(system=True, reason=_REASON)
    search = op.child("search", op.model, op.domain, options=options, origin=NAME, env=env)
    documents = await op.app.execute(search)
    held = _ids_held(triggers, bound, documents)
    return [document["_id"] for document in documents], held


async def _after(
    op: Operation, bound: BoundModel, pks: Sequence[Any], names: Iterable[str]
) -> Links:
    """Return the ids in written fields: those of the write's values if known, else by a search."""
    ids_by_name: Links = {}
    unknown: list[str] = []
    updates = _updates(op)
    for name in names:
        key = bound.schema.fields[name].db_name
        given: dict[Any, None] = {}
        for update in updates:
            touching = [o for o, spec in update.operators.items() if _touches(spec, key)]
            if touching and (touching != ["$set"] or key not in update.operators["$set"]):
                unknown.append(name)
                break
            if touching:
                given.update(dict.fromkeys(values_at(update.operators["$set"], key)))
        ids_by_name[name] = given
    if unknown:
        env = op.env.replace(system=True, reason=_REASON)
        for chunk in chunks(pks):
            domain = Condition("_id", "in", list(chunk))
            options = Options(fields=frozenset({"_id", *unknown}))
            search = op.child("search", op.model, domain, None, options, origin=NAME, env=env)
            for document in await op.app.execute(search):
                for name in unknown:
                    ids = values_at(document, bound.schema.fields[name].db_name)
                    ids_by_name[name].update(dict.fromkeys(ids))
    return ids_by_name


def _touches(spec: Mapping[str, Any], key: str) -> bool:
    return any(path.partition(".")[0] == key for path in spec)


# -- unlink ---------------------------------------------------------------------------------------


class _Deleting:
    """The layer of deletions: computes fields of the records that the deleted ones pointed at."""

    def __init__(self, bound: BoundModel, graph: Graph, triggers: Mapping[Trigger, None]) -> None:
        self._bound, self._graph, self._triggers = bound, graph, triggers

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        pks, held = await _before(op, self._bound, self._triggers)
        result = await call_next(op)
        follow = Recomputation(self._graph, op.env, op)
        await follow.mark(self._triggers, pks, held)
        await follow.run()
        return result
