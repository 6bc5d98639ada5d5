"""Computes stored fields anew: for new documents, for what a change means elsewhere, and for all of a model.

Reads and writes here are the system's, for a reason that names the fields: whoever acts, a stored value is the
same. A value is written where it differs.
"""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pydantic

from earnorm.domain import Domain, Or, condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    ErrorDetail,
    FieldNotLoaded,
    ValidationError,
    nearest,
)
from earnorm.features.computed.dependencies import Graph, Node, Plan, Step, Trigger
from earnorm.features.locking.locking import lock
from earnorm.fields.base import MISSING
from earnorm.fields.relational import Relation, ToMany
from earnorm.kernel.environment import Env, current_env, use_env
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import (
    ORIGIN,
    PARENT,
    REQUEST,
    Operation,
    Options,
    PerRecord,
    Update,
)
from earnorm.kernel.requests import Stream
from earnorm.kernel.steps import WAY, DocumentBatch, HandBack, Way
from earnorm.kernel.transactions import atomic
from earnorm.model.reading.fetch import Fetch
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.recordset import RecordSet
from earnorm.model.relations.ghosts import inside, target_of
from earnorm.model.relations.prefetch import prefetch
from earnorm.model.slots import set_fetch, set_state
from earnorm.model.writing.places import adapter
from earnorm.model.writing.tracking import same

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

NAME: Final = "computed"
"""The origin of the operations that the feature makes."""

BATCH: Final = 10_000
"""Records that are held, and written with one command, at a time."""

_AT_ONCE: Final = 2_000
"""Records of one transaction, where a whole model is computed anew."""

_ID: Final = frozenset({"_id"})
Held: TypeAlias = Mapping[str, Collection[Any]]
"""By the field that leads to other records: the ids that it holds, or held before."""


def values_at(document: Mapping[str, Any], key: str) -> list[Any]:
    """The ids under a stored key: of a Many2one, or of a list of ids."""
    value = document.get(key)
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


# -- values ---------------------------------------------------------------------------------------


class NewValues:
    """Computes the stored fields of documents that are about to be created.

    Args:
        bound: Their model.
        plan: How all its stored fields are computed.
    """

    def __init__(self, bound: BoundModel, plan: Plan) -> None:
        self._bound, self._plan = bound, plan
        # Records without relations have nothing to load together, so one serves all of them.
        self._fetch = None if bound.schema.relations else Fetch(bound.app, plan.loaded)
        # Nothing points at a record that does not exist yet.
        self._empty = [
            (each.name, target_of(bound.app, each).model)
            for each in bound.schema.to_many
            if not each.stored
        ]

    @property
    def waits(self) -> bool:
        """Whether something may have to be waited for: related records, or a coroutine."""
        return bool(self._plan.tree) or self._plan.is_async

    def fill(self, batch: DocumentBatch) -> None:
        """The step, where nothing has to be waited for."""
        documents, plan = batch.documents, self._plan
        records = self._records(documents)
        with use_env(plan.system(batch.op.env)):
            self._put(batch, documents, map(_of_record, records, repeat(plan)))

    async def wait(self, batch: DocumentBatch) -> None:
        """The step, where something may have to be waited for."""
        documents, plan = batch.documents, self._plan
        records = self._records(documents)
        with use_env(plan.system(batch.op.env)):
            self._put(batch, documents, await _values(self._bound, plan, records))

    def _records(self, documents: Iterable[dict[str, Any]]) -> list[Any]:
        states = self._bound.schema.states(list(map(dict, documents)))
        records = _records(self._bound, states, self._plan, self._fetch)
        for name, model in self._empty:
            for record in records:
                record.__dict__[name] = RecordSet(model, [])
        return records

    def _put(
        self,
        batch: DocumentBatch,
        documents: Iterable[dict[str, Any]],
        found: Iterable[dict[str, Any]],
    ) -> None:
        fields, back = batch.fields, batch.back
        for document, values in zip(documents, found, strict=True):
            for name, value in values.items():
                document[fields[name].db_name] = value
            if back is not None:
                back.give(document["_id"], values)


async def computed_of_values(
    bound: BoundModel, plan: Plan, values: Mapping[str, Any], env: Env
) -> dict[str, Any]:
    """The plan's fields of a record that has these stored values, which are all that is needed."""
    state = dict(bound.schema.state(dict(values)))
    with use_env(plan.system(env)):
        return (await _values(bound, plan, _records(bound, [state], plan)))[0]


def _records(
    bound: BoundModel, states: list[dict[str, Any]], plan: Plan, fetch: Fetch | None = None
) -> list[Any]:
    records: list[Any] = list(map(object.__new__, repeat(bound.model, len(states))))
    loaded = plan.loaded
    if fetch is None:
        fetch = Fetch(bound.app, loaded, list(records))
    for record, state in zip(records, states, strict=True):
        if loaded is not None:
            for name in state.keys() - loaded:
                del state[name]
        set_state(record, state)
        set_fetch(record, fetch)
    return records


async def _values(bound: BoundModel, plan: Plan, records: Sequence[Any]) -> list[dict[str, Any]]:
    """The stored forms of the plan's fields for each record."""
    if plan.tree:
        await prefetch(bound, records, plan.tree)
        _drop_dangling(bound, records, plan.tree)
    if plan.is_async:
        return [await _of_record_later(record, plan) for record in records]
    return [_of_record(record, plan) for record in records]


def _of_record(record: Any, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    state = record.__dict__
    for name in plan.names:
        state.pop(name, None)
    for node in plan.nodes:
        try:
            value = node.formula.value(record)
        except Exception as error:
            raise _refused(node, error) from _cause(error)
        name = node.key[1]
        state[name] = found[name] = _stored_form(node, record, value)
    return found


async def _of_record_later(record: Any, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    state = record.__dict__
    for name in plan.names:
        state.pop(name, None)
    for node in plan.nodes:
        try:
            value = node.formula.value(record)
            if node.formula.is_async:
                value = await value
        except Exception as error:
            raise _refused(node, error) from _cause(error)
        name = node.key[1]
        state[name] = found[name] = _stored_form(node, record, value)
    return found


def _refused(node: Node, error: Exception) -> EarnORMError:
    model, name = node.key
    method = node.formula.method
    if isinstance(error, FieldNotLoaded):
        return ConfigurationError(
            f"{model}.{name}: {method}() reads what its @depends does not name: {error}"
        )
    # Not what it says: it may name values that the acting principal does not see.
    message = f"{method}() could not compute it: {type(error).__name__}"
    return ValidationError(model, [{"loc": (name,), "msg": message, "type": "compute"}])


def _cause(error: Exception) -> Exception | None:
    return None if isinstance(error, FieldNotLoaded) else error


def _stored_form(node: Node, record: Any, value: Any) -> Any:
    """A computed value, held to the field's type, in stored form."""
    formula = node.formula
    if getattr(record, "_changes", None):
        raise TypeError(
            f"{node.key[0]}.{formula.method}: a compute method returns the value and changes nothing"
        )
    field = formula.field
    try:
        value = adapter(field, not field.required).validate_python(value)
    except pydantic.ValidationError as error:
        details: list[ErrorDetail] = [
            {"loc": (field.name, *p["loc"]), "msg": p["msg"], "type": "compute"}
            for p in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise ValidationError(field.model_name, details) from None
    if value is None and field.required:
        message = f"{formula.method or 'its path'} gave None, and a value is required"
        detail: ErrorDetail = {"loc": (node.key[1],), "msg": message, "type": "compute"}
        raise ValidationError(node.key[0], [detail])
    return field.encode(value)


def _drop_dangling(bound: BoundModel, records: Sequence[Any], tree: Mapping[str, Any]) -> None:
    """Let relations to records that do not exist be unset: a computed value is about what there is."""
    _drop(bound.schema, records, tree)


def _drop(schema: Any, structures: Sequence[Any], tree: Mapping[str, Any]) -> None:
    for name, below in tree.items():
        found = schema.fields[name]
        if not isinstance(found, Relation):
            if below:
                _drop(found.structure._schema, inside(structures, found), below)
            continue
        targets: dict[int, Any] = {}
        for each in structures:
            value = getattr(each, name)
            if isinstance(found, ToMany):
                targets.update((id(one), one) for one in value)
            elif value is not None and value.is_stored and value._fetch.is_ghost:
                each.__dict__[name] = None
            elif value is not None:
                targets[id(value)] = value
        if below and targets:
            by_model: dict[Any, list[Any]] = {}
            for target in targets.values():
                by_model.setdefault(type(target), []).append(target)
            for model, there in by_model.items():
                known = {n: d for n, d in below.items() if n in model._schema.fields}
                _drop(model._schema, there, known)


# -- what follows from a change -------------------------------------------------------------------


@dataclass(eq=False)
class _Marked:
    """Fields of one model and rank, and the records to compute them for."""

    fields: set[str] = field(default_factory=set[str])
    pks: dict[Any, None] = field(default_factory=dict[Any, None])
    domains: dict[Domain, None] = field(default_factory=dict[Domain, None])


class Recomputation:
    """Everything that follows from one operation, or from the recomputation of a model.

    Args:
        graph: The computed fields of the App.
        env: Who acts, and in which transaction.
        parent: The operation that it follows from.
        write: Whether differing values are written; otherwise they are counted only.
    """

    def __init__(
        self, graph: Graph, env: Env, parent: Operation | None = None, *, write: bool = True
    ) -> None:
        self.changed = 0
        """How many records had another value."""
        self._notes: dict[Note[Any], Any] = {ORIGIN: NAME}
        if parent is not None:
            self._notes[PARENT] = parent
        self._graph = graph
        self._env = env
        self._write = write
        self._marked: dict[tuple[int, str], _Marked] = {}
        self._told: tuple[str, HandBack] | None = None

    def tell(self, model: str, back: HandBack | None) -> None:
        """Leave what the model's records have afterwards here, for who holds them."""
        self._told = None if back is None else (model, back)

    async def mark(self, triggers: Iterable[Trigger], pks: Sequence[Any], held: Held) -> None:
        """Note what depends on changed records.

        Args:
            triggers: What follows from their change.
            pks: Their ids.
            held: The ids of other records that they hold, or held before.
        """
        found: dict[tuple[Step, ...], tuple[Sequence[Any], Sequence[Domain]]] = {}
        for trigger in triggers:
            if trigger.steps not in found:
                found[trigger.steps] = await self._affected(trigger.steps, pks, held)
            ids, domains = found[trigger.steps]
            if ids or domains:
                marked = self._of(trigger.model, trigger.field)
                marked.pks.update(dict.fromkeys(ids))
                marked.domains.update(dict.fromkeys(domains))

    def mark_ids(self, model: str, name: str, pks: Iterable[Any]) -> None:
        """Note records whose field is to be computed."""
        self._of(model, name).pks.update(dict.fromkeys(pks))

    def _of(self, model: str, name: str) -> _Marked:
        rank = self._graph.nodes[model, name].rank
        marked = self._marked.setdefault((rank, model), _Marked())
        marked.fields.add(name)
        return marked

    async def _affected(
        self, steps: tuple[Step, ...], pks: Sequence[Any], held: Held
    ) -> tuple[Sequence[Any], Sequence[Domain]]:
        """The records at the beginning of the steps: their ids, or domains that find them."""
        ids: Sequence[Any] = list(pks)
        env = self._env.replace(system=True, reason="recompute: what depends on changed records")
        for step in reversed(steps):
            if step.forward:
                domains = [condition(step.holder, "in", list(chunk)) for chunk in chunks(ids)]
                if step is steps[0]:
                    return (), domains
                ids = [d["_id"] async for d in self._look(env, step.source, domains, _ID)]
            elif step is steps[-1]:
                ids = list(held.get(step.head, ()))
            else:
                domains = [condition("_id", "in", list(chunk)) for chunk in chunks(ids)]
                key = self._bound(step.target).schema.fields[step.head].db_name
                found: dict[Any, None] = {}
                async for document in self._look(env, step.target, domains, _ID | {step.head}):
                    found.update(dict.fromkeys(values_at(document, key)))
                ids = list(found)
            if not ids:
                return (), ()
        return ids, ()

    async def _look(
        self, env: Env, model: str, domains: Sequence[Domain], fields: frozenset[str]
    ) -> AsyncIterator[Mapping[str, Any]]:
        bound = self._bound(model)
        for domain in domains:
            options = Options(fields=fields)
            op = Operation("search", bound.model, env, domain, None, options, self._notes)
            for document in await env.app.execute(op):
                yield document

    def _bound(self, model: str) -> BoundModel:
        return self._env.app.bind(self._env.app.model(model))

    # -- passes -------------------------------------------------------------------------------

    async def run(self) -> int:
        """Compute what is marked and all that follows; how many records had another value."""
        while self._marked:
            # Whatever it depends on in other records has a lower rank, and is done.
            key = min(self._marked)
            await self._pass(key[1], self._marked.pop(key))
        return self.changed

    async def _pass(self, model: str, marked: _Marked) -> None:
        bound = self._bound(model)
        plan = self._graph.plan(model, marked.fields)
        domains = [condition("_id", "in", list(part)) for part in chunks(list(marked.pks))]
        domains += marked.domains
        if len(domains) > 1 and len(marked.pks) <= BATCH:
            domains = [Or(domains)]
        env = plan.system(self._env)
        fields = plan.loaded
        for domain in domains:
            stream = Stream(BATCH)
            op = Operation("search", bound.model, env, domain, options=Options(fields=fields))
            op = op.replace(notes={**self._notes, REQUEST: stream})
            try:
                while documents := await env.app.execute(op):
                    await self._batch(bound, plan, env, documents)
                    if len(documents) < BATCH:
                        break
            finally:
                await stream.close()

    async def _batch(
        self, bound: BoundModel, plan: Plan, env: Env, documents: list[dict[str, Any]]
    ) -> None:
        fields = bound.schema.fields
        keys = {node.key[1]: fields[node.key[1]].db_name for node in plan.nodes}
        # The records adopt the documents and change them.
        before = [
            {n: document.get(key, MISSING) for n, key in keys.items()} for document in documents
        ]
        links = {name: fields[name].db_name for name in plan.links}
        held = [{n: values_at(document, key) for n, key in links.items()} for document in documents]
        loaded = plan.loaded
        with use_env(env):
            records = hydrate(bound, documents, loaded)
            if records and records[0]._fetch.records is None:
                records[0]._fetch.records = records
            found = await _values(bound, plan, records)
        updates = PerRecord()
        differing: dict[str, list[int]] = {}
        unchanged: list[Any] = []
        for number, (record, old, new) in enumerate(zip(records, before, found, strict=True)):
            pk = record.__dict__["_id"]
            other = {n: v for n, v in new.items() if not _is_same(old[n], v)}
            for name in other:
                differing.setdefault(name, []).append(number)
            if other:
                updates[pk] = Update({"$set": {keys[n]: v for n, v in other.items()}})
            else:
                unchanged.append({"_id": pk})
            if self._told is not None and self._told[0] == bound.model._name:
                self._told[1].give(pk, new)
        self.changed += len(updates)
        if not self._write:
            return
        await self._store(bound, env, updates, unchanged)
        for node in plan.nodes:
            numbers = differing.get(node.key[1])
            if numbers:
                await self._follow(bound, plan, node, [(records[n], held[n]) for n in numbers])

    async def _store(
        self, bound: BoundModel, env: Env, updates: PerRecord, unchanged: Sequence[Any]
    ) -> None:
        if updates:
            domain = condition("_id", "in", list(updates))
            op = Operation("write", bound.model, env, domain, updates)
            op = op.replace(notes={**self._notes, WAY: Way.DERIVED})
            await env.app.execute(op)
        if unchanged and env.transaction is not None:
            # Of two transactions that change what one record depends on, the second must see the first:
            # a write of the record itself makes them clash, so its value is locked where it stays.
            op = Operation("search", bound.model, env)
            await lock(bound.collection, unchanged, op)

    async def _follow(
        self,
        bound: BoundModel,
        plan: Plan,
        node: Node,
        changed: Sequence[tuple[Any, Mapping[str, list[Any]]]],
    ) -> None:
        done = {each.key for each in plan.nodes}
        pks = [record.__dict__["_id"] for record, _ in changed]
        triggers = [
            trigger
            for trigger in self._graph.written.get(node.key, ())
            if trigger.steps or (trigger.model, trigger.field) not in done
        ]
        held: dict[str, dict[Any, None]] = {}
        for record, own in changed:
            for name, ids in own.items():
                known = held.setdefault(name, {})
                known.update(dict.fromkeys(ids))
                new = record.__dict__.get(name)
                stored = bound.schema.fields[name].encode(new)
                known.update(dict.fromkeys(values_at({"": stored}, "")))
        await self.mark(triggers, pks, held)


def _is_same(old: Any, new: Any) -> bool:
    return new is None if old is MISSING else same(old, new)


# -- all of a model -------------------------------------------------------------------------------

Progress: TypeAlias = Callable[["Recomputed"], Awaitable[None] | None]


@dataclass(slots=True)
class Recomputed:
    """What became of a recomputation.

    Attributes:
        model: The model's name.
        fields: The fields that were computed.
        seen: How many of its records were looked at.
        changed: How many records had another value, those of other models that depend on it included.
    """

    model: str
    fields: tuple[str, ...]
    seen: int = 0
    changed: int = 0


async def recompute(
    bound: BoundModel,
    graph: Graph,
    names: Iterable[str] | None,
    domain: Domain,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Recomputed:
    """Compute fields of all records that match; see ``App.recompute``."""
    model, env = bound.model._name, current_env()
    formulas = bound.schema.formulas
    stored = [each.field.name for each in formulas.stored] if formulas is not None else []
    wanted = stored if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in stored:
            raise ConfigurationError(
                f"{model}.{name} is no stored computed field, so there is nothing to recompute"
                f"{nearest(name, stored)}"
            )
    done = Recomputed(model, tuple(wanted))
    if not wanted:
        return done
    stream = Stream(_AT_ONCE)
    look = Operation(
        "search",
        bound.model,
        env.replace(system=True, reason=f"recompute {model}"),
        domain,
        options=Options(fields=_ID, order=(("_id", 1),)),
    ).with_note(REQUEST, stream)
    try:
        while documents := await env.app.execute(look):
            pks = [document["_id"] for document in documents]

            async def run(pks: Sequence[Any] = pks) -> int:
                follow = Recomputation(graph, current_env(), write=not dry_run)
                for name in wanted:
                    follow.mark_ids(model, name, pks)
                return await follow.run()

            done.changed += await (run() if dry_run else atomic(run))
            done.seen += len(pks)
            if progress is not None:
                told = progress(done)
                if inspect.isawaitable(told):
                    await told
    finally:
        await stream.close()
    return done
