"""Stored computed fields: up to date after every way to create, write and delete.

A layer of the models that such a field depends on, and of no other. It sits inside the access rules, which
judge what somebody asked for, and outside the audit, which records what is stored. A new record has its
values in the same insert. A write whose own values are all that is needed has them in the same write; else
they follow, with what other models' records depend on, in the same transaction where the backend has them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain import Condition
from earnorm.domain.ids import ids_of
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import BatchRefused, ConfigurationError
from earnorm.features.computed.dependencies import Dependencies, Graph, Trigger
from earnorm.features.computed.recomputing import (
    Recomputation,
    computed_new,
    computed_of_values,
    values_at,
)
from earnorm.kernel.environment import current_env, use_env
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation, Options, PerRecord, Update
from earnorm.kernel.steps import HAND_BACK, WAY, Way
from earnorm.kernel.transactions import atomic

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

_REASON = "recompute: what deleted and written records belong to"
Links = dict[str, dict[Any, None]]


class RecomputePlugin:
    """Keeps stored computed fields up to date."""

    api = API
    name = "recompute"

    def __init__(self) -> None:
        self._dependencies: Dependencies | None = None

    def graph(self) -> Graph:
        """The computed fields of the App's models; see :class:`Dependencies`."""
        assert self._dependencies is not None  # no operation comes before the models are known
        return self._dependencies.graph()

    @hookimpl
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """Ask for layers again where a model that is defined later computes: others may have got somebody
        who depends on them."""
        if not app.is_started:
            self._dependencies = Dependencies(app)
        elif any(map(_computes, models)):
            app.recompose()

    @hookimpl
    def startup(self, app: App) -> None:
        """Refuse circles and paths that lead nowhere, before the first operation."""
        if any(_computes(app.extended(model)) for model in app.known_models()):
            self.graph()

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Operations that may change a stored computed value: every other one keeps its way."""
        layer = _LAYERS.get(operation)
        if layer is not None and self.graph().concerns(model._name, operation):
            return [(Layer.STEPS + 10, layer(self))]
        return ()


def _computes(model: type[BaseModel]) -> bool:
    return any(field.computed is not None for field in model._schema.fields.values())


def graph_of(app: App) -> Graph:
    """The computed fields of an App's models.

    Raises:
        ConfigurationError: The App leaves the feature out.
    """
    plugin = app.loaded.of_type(RecomputePlugin)
    if plugin is None:
        raise ConfigurationError(f"App {app.name!r} leaves out the feature 'recompute'")
    return plugin.graph()


class _Keeping:
    """What the layers of the three operations share."""

    def __init__(self, plugin: RecomputePlugin) -> None:
        self._plugin = plugin

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        if op.notes.get(WAY) is Way.DERIVED:
            return await call_next(op)
        return await self.run(op, call_next, self._plugin.graph())

    async def run(self, op: Operation, call_next: Call, graph: Graph) -> Any:
        """Do the operation, and what follows from it."""
        raise NotImplementedError


async def _together(op: Operation, work: Callable[[Operation], Awaitable[Any]]) -> Any:
    """Do the work in the running transaction, or in one of its own."""
    if op.env.transaction is not None or op.options.concerns is not None:
        return await work(op)

    async def run() -> Any:
        return await work(op.replace(env=op.env.replace(transaction=current_env().transaction)))

    with use_env(op.env):
        return await atomic(run)


def _held(
    triggers: Iterable[Trigger], bound: BoundModel, documents: Iterable[Mapping[str, Any]]
) -> Links:
    """The ids of other records that documents hold, by the field that says whose they are."""
    links = {t.link: bound.schema.fields[t.link].db_name for t in triggers if t.link is not None}
    held: Links = {name: {} for name in links}
    for document in documents:
        for name, key in links.items():
            held[name].update(dict.fromkeys(values_at(document, key)))
    return held


def _names(bound: BoundModel, op: Operation) -> Iterable[str]:
    renamed = bound.schema.renamed
    return [renamed.get(key, key) for key in op.written]


# -- create ---------------------------------------------------------------------------------------


class _Creating(_Keeping):
    async def run(self, op: Operation, call_next: Call, graph: Graph) -> Any:
        bound = op.app.bind(op.model)
        documents = op.values
        assert isinstance(documents, list)
        formulas = bound.schema.formulas
        if formulas is not None and formulas.stored:
            documents = await computed_new(bound, graph, documents, op.env)
            op = op.replace(values=documents)
            back = op.notes.get(HAND_BACK)
            if back is not None:
                keys = {each.field.name: each.field.db_name for each in formulas.stored}
                for document in documents:
                    back.give(document["_id"], {n: document[key] for n, key in keys.items()})
        triggers = graph.created.get(op.model._name, {})
        held = _held(triggers, bound, documents)
        if not any(held.values()):
            return await call_next(op)
        pks = [document["_id"] for document in documents]

        async def work(inside: Operation) -> Any:
            follow = Recomputation(graph, inside.env)
            try:
                result = await call_next(inside)
            except BatchRefused:
                if inside.env.transaction is None:  # some of them may have been stored
                    await follow.mark(triggers, pks, held)
                    await follow.run()
                raise
            await follow.mark(triggers, pks, held)
            await follow.run()
            return result

        return await _together(op, work)


# -- write ----------------------------------------------------------------------------------------


class _Writing(_Keeping):
    async def run(self, op: Operation, call_next: Call, graph: Graph) -> Any:
        bound = op.app.bind(op.model)
        names = set(_names(bound, op))
        triggers = {
            trigger: None
            for name in names
            for trigger in graph.written.get((op.model._name, name), ())
        }
        if not triggers:
            return await call_next(op)
        whole = await self._in_the_same_write(op, bound, graph, triggers)
        if whole is not None:
            return await call_next(whole)

        async def work(inside: Operation) -> Any:
            pks, held = await _before(inside, bound, triggers)
            result = await call_next(inside)
            if not pks:
                return result
            for name, ids in (await _after(inside, bound, pks, names & held.keys())).items():
                held[name].update(ids)
            follow = Recomputation(graph, inside.env)
            follow.tell(inside.model._name, inside.notes.get(HAND_BACK))
            await follow.mark(triggers, pks, held)
            await follow.run()
            return result

        return await _together(op, work)

    async def _in_the_same_write(
        self, op: Operation, bound: BoundModel, graph: Graph, triggers: Mapping[Trigger, None]
    ) -> Operation | None:
        """The write with the computed values in it, where it brings all that they are made of."""
        model, values = op.model._name, op.values
        if any(trigger.steps for trigger in triggers):
            return None
        plan = graph.plan(model, [trigger.field for trigger in triggers])
        own = {node.key[1] for node in plan.nodes}
        if plan.tree or plan.reads is None or _goes_on(graph, model, own):
            return None
        needed = {bound.schema.fields[name].db_name for name in plan.reads - own}
        updates = values.values() if isinstance(values, PerRecord) else [values]
        for update in updates:
            assert isinstance(update, Update)
            if update.operators.keys() != {"$set"} or not needed <= update.operators["$set"].keys():
                return None
        new: dict[int, Update] = {}
        for update in updates:
            assert isinstance(update, Update)
            found = await computed_of_values(bound, plan, update.operators["$set"], op.env)
            keys = {bound.schema.fields[n].db_name: v for n, v in found.items()}
            new[id(update)] = update.merged("$set", keys)
            back = op.notes.get(HAND_BACK)
            if back is not None:
                for pk in _pks_of(op, bound, update):
                    back.give(pk, found)
        return op.map_updates(lambda update: new[id(update)])


def _goes_on(graph: Graph, model: str, names: Iterable[str]) -> bool:
    """Whether anything beyond these fields depends on one of them."""
    known = set(names)
    return any(
        trigger.steps or trigger.field not in known
        for name in known
        for trigger in graph.written.get((model, name), ())
    )


def _pks_of(op: Operation, bound: BoundModel, update: Update) -> Sequence[Any]:
    if isinstance(op.values, PerRecord):
        return [pk for pk, each in op.values.items() if each is update]
    return ids_of(op.domain, bound.schema) or ()


async def _before(
    op: Operation, bound: BoundModel, triggers: Iterable[Trigger]
) -> tuple[list[Any], Links]:
    """The ids of the records that the operation is about, and of those that they belong to."""
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
    documents = await op.app.execute(Operation("search", op.model, env, op.domain, options=options))
    held = _held(triggers, bound, documents)
    return [document["_id"] for document in documents], held


async def _after(
    op: Operation, bound: BoundModel, pks: Sequence[Any], names: Iterable[str]
) -> Links:
    """The ids that fields hold which were written: as the write says, or as they are read."""
    found: Links = {}
    asked: list[str] = []
    updates = list(op.values.values()) if isinstance(op.values, PerRecord) else [op.values]
    for name in names:
        key = bound.schema.fields[name].db_name
        given: dict[Any, None] = {}
        for update in updates:
            assert isinstance(update, Update)
            touching = [o for o, spec in update.operators.items() if _touches(spec, key)]
            if touching and (touching != ["$set"] or key not in update.operators["$set"]):
                asked.append(name)
                break
            if touching:
                given.update(dict.fromkeys(values_at(update.operators["$set"], key)))
        found[name] = given
    if asked:
        env = op.env.replace(system=True, reason=_REASON)
        for chunk in chunks(pks):
            look = Operation("search", op.model, env, Condition("_id", "in", list(chunk)))
            look = look.replace(options=Options(fields=frozenset({"_id", *asked})))
            for document in await op.app.execute(look):
                for name in asked:
                    ids = values_at(document, bound.schema.fields[name].db_name)
                    found[name].update(dict.fromkeys(ids))
    return found


def _touches(spec: Mapping[str, Any], key: str) -> bool:
    return any(each.partition(".")[0] == key for each in spec)


# -- unlink ---------------------------------------------------------------------------------------


class _Deleting(_Keeping):
    async def run(self, op: Operation, call_next: Call, graph: Graph) -> Any:
        bound = op.app.bind(op.model)
        triggers = graph.deleted.get(op.model._name, {})

        async def work(inside: Operation) -> Any:
            pks, held = await _before(inside, bound, triggers)
            result = await call_next(inside)
            follow = Recomputation(graph, inside.env)
            await follow.mark(triggers, pks, held)
            await follow.run()
            return result

        return await _together(op, work)


_LAYERS: Mapping[str, Callable[[RecomputePlugin], Middleware]] = {
    "create": _Creating,
    "write": _Writing,
    "unlink": _Deleting,
}
