"""Computes stored fields of new documents, of records that depend on a change, of whole models.

The system reads and writes here, for a reason that names the fields, so that a stored value does
not depend on the acting principal. A value is written only if it differs.
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
from earnorm.features.computed.computing import formulas_of
from earnorm.features.computed.dependencies import Graph, Node, Plan, Recursion, Step, Trigger
from earnorm.features.computed.existing import hide_gone
from earnorm.features.computed.levels import Levels, values_at
from earnorm.features.locking.locking import lock
from earnorm.fields.base import MISSING
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.environment import Env, current_env, use_env
from earnorm.kernel.operations import (
    REQUEST,
    Operation,
    Options,
    PerRecord,
    Update,
    made_by,
)
from earnorm.kernel.requests import Stream
from earnorm.kernel.steps import WAY, HandBack, Way
from earnorm.kernel.transactions import atomic
from earnorm.model.reading.fetch import Fetch
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.recordset import RecordSet
from earnorm.model.relations.ghosts import target_of
from earnorm.model.relations.prefetch import prefetch
from earnorm.model.slots import set_fetch, set_state
from earnorm.model.writing.pending import same
from earnorm.model.writing.places import adapter

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

NAME: Final = "computed"
"""The origin of the operations that the feature makes."""

BATCH: Final = 10_000
"""The number of records that are in memory, and written with one command, at a time."""

_TRANSACTION_SIZE: Final = 2_000
"""The number of records in one transaction, when a whole model is computed."""

_ID: Final = frozenset({"_id"})
Held: TypeAlias = Mapping[str, Collection[Any]]
"""The ids that a field has, or had before the change, by the field that leads to other records."""


# -- values ---------------------------------------------------------------------------------------


class NewValues:
    """Computes the stored fields of documents that are about to be created.

    Args:
        bound: The model of the documents.
        plan: The computation of all its stored fields.
    """

    def __init__(self, bound: BoundModel, plan: Plan) -> None:
        self._bound, self._plan = bound, plan
        # Records without relations load nothing together, so one Fetch is enough for all of them.
        self._fetch = None if bound.schema.relations else Fetch(bound.app, plan.loaded)
        # No record points at a record that does not exist yet, so these relations are empty.
        self._empty = [
            (relation.name, target_of(bound.app, relation).model)
            for relation in bound.schema.to_many
            if not relation.stored
        ]

    @property
    def waits(self) -> bool:
        """True if the computation has to await something: related records, or a coroutine."""
        return bool(self._plan.tree) or self._plan.is_async

    def fill(self, batch: DocumentBatch) -> None:
        """Compute the fields of a batch, without awaiting anything."""
        documents, plan = batch.documents, self._plan
        records = self._records(documents)
        with use_env(plan.system(batch.op.env)):
            self._put(batch, documents, map(_values_of, records, repeat(plan)))

    async def wait(self, batch: DocumentBatch) -> None:
        """Compute the fields of a batch, and await related records and coroutines."""
        documents, plan = batch.documents, self._plan
        if plan.recursion and len(documents) > 1:
            await self._wait_by_level(batch, documents)
            return
        records = self._records(documents)
        with use_env(plan.system(batch.op.env)):
            self._put(batch, documents, await _values(self._bound, plan, records))

    async def _wait_by_level(self, batch: DocumentBatch, documents: list[dict[str, Any]]) -> None:
        """Compute new records that point at each other, the ones pointed at first."""
        plan, levels = self._plan, Levels(self._bound, self._plan.recursion)
        by_id = {document["_id"]: document for document in documents}
        for document in documents:
            levels.learn(document)
        others: Sequence[Any] = list(by_id)
        made: dict[Any, Any] = {}
        while others:
            ready, others = levels.split(dict.fromkeys(others))
            of_level = [by_id[pk] for pk in ready]
            records = self._records(of_level)
            for record in records:
                for name in levels.single:
                    record.__dict__[name] = made.get(value := record.__dict__.get(name), value)
            with use_env(plan.system(batch.op.env)):
                self._put(batch, of_level, await _values(self._bound, plan, records))
            made.update(zip(ready, records, strict=True))

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
        computed: Iterable[dict[str, Any]],
    ) -> None:
        fields, back = batch.fields, batch.back
        for document, values in zip(documents, computed, strict=True):
            for name, value in values.items():
                document[fields[name].db_name] = value
            if back is not None:
                back.give(document["_id"], values)


async def computed_of_values(
    bound: BoundModel, plan: Plan, values: Mapping[str, Any], env: Env
) -> dict[str, Any]:
    """Compute the plan's fields of a record from stored values, which are all that they need."""
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
    """Compute the plan's fields of each record, in stored form."""
    if plan.tree:
        await prefetch(bound, records, plan.tree)
        hide_gone(bound.schema, records, plan.tree)
    if plan.is_async:
        return [await _values_of_async(record, plan) for record in records]
    return [_values_of(record, plan) for record in records]


def _values_of(record: Any, plan: Plan) -> dict[str, Any]:
    values: dict[str, Any] = {}
    state = record.__dict__
    for name in plan.names:
        state.pop(name, None)
    for node in plan.nodes:
        try:
            value = node.formula.value(record)
        except Exception as error:
            raise _error_of(node, error) from _cause(error)
        name = node.key[1]
        state[name] = values[name] = _stored_form(node, record, value)
    return values


async def _values_of_async(record: Any, plan: Plan) -> dict[str, Any]:
    values: dict[str, Any] = {}
    state = record.__dict__
    for name in plan.names:
        state.pop(name, None)
    for node in plan.nodes:
        try:
            value = node.formula.value(record)
            if node.formula.is_async:
                value = await value
        except Exception as error:
            raise _error_of(node, error) from _cause(error)
        name = node.key[1]
        state[name] = values[name] = _stored_form(node, record, value)
    return values


def _error_of(node: Node, error: Exception) -> EarnORMError:
    model, name = node.key
    method = node.formula.method
    if isinstance(error, FieldNotLoaded):
        return ConfigurationError(
            f"{model}.{name}: {method}() reads what its @depends does not name: {error}"
        )
    # The error's text is left out: it may show values that the acting principal must not see.
    message = f"{method}() could not compute it: {type(error).__name__}"
    return ValidationError(model, [{"loc": (name,), "msg": message, "type": "compute"}])


def _cause(error: Exception) -> Exception | None:
    return None if isinstance(error, FieldNotLoaded) else error


def _stored_form(node: Node, record: Any, value: Any) -> Any:
    """Validate a computed value by the field's type, and return its stored form."""
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


# -- consequences of a change ---------------------------------------------------------------------


@dataclass(eq=False)
class _Marked:
    """The fields to compute of one model and rank, and the records to compute them for."""

    fields: set[str] = field(default_factory=set[str])
    pks: dict[Any, None] = field(default_factory=dict[Any, None])
    domains: dict[Domain, None] = field(default_factory=dict[Domain, None])


class Recomputation:
    """All computations that follow from one operation, or from the recomputation of a model.

    Args:
        graph: The computed fields of the App.
        env: The environment, with the principal and the transaction.
        parent: The operation that causes the computations.
        write: True to write differing values; False to count them only.
    """

    def __init__(
        self, graph: Graph, env: Env, parent: Operation | None = None, *, write: bool = True
    ) -> None:
        self.changed = 0
        """The number of records that had another value."""
        self._notes = made_by(NAME, parent)
        self._graph = graph
        self._env = env
        self._write = write
        self._marked: dict[tuple[int, str], _Marked] = {}
        self._told: tuple[str, HandBack] | None = None
        self._levels: dict[tuple[str, Recursion], Levels] = {}
        self._later: dict[tuple[int, str], _Marked] = {}

    def tell(self, model: str, back: HandBack | None) -> None:
        """Give the computed values of the model's records to ``back``, for records in memory."""
        self._told = None if back is None else (model, back)

    async def mark(self, triggers: Iterable[Trigger], pks: Sequence[Any], held: Held) -> None:
        """Mark the fields and records that depend on changed records.

        Args:
            triggers: The triggers of the change.
            pks: The ids of the changed records.
            held: The ids of other records that they have, or had before.
        """
        affected: dict[tuple[Step, ...], tuple[Sequence[Any], Sequence[Domain]]] = {}
        for trigger in triggers:
            if trigger.steps not in affected:
                affected[trigger.steps] = await self._affected(trigger.steps, pks, held)
            ids, domains = affected[trigger.steps]
            if ids or domains:
                marked = self._of(trigger.model, trigger.field)
                marked.pks.update(dict.fromkeys(ids))
                marked.domains.update(dict.fromkeys(domains))

    def mark_ids(self, model: str, name: str, pks: Iterable[Any]) -> None:
        """Mark a field of records to be computed."""
        self._of(model, name).pks.update(dict.fromkeys(pks))

    def _of(self, model: str, name: str) -> _Marked:
        rank = self._graph.nodes[model, name].rank
        marked = self._marked.setdefault((rank, model), _Marked())
        marked.fields.add(name)
        return marked

    async def _affected(
        self, steps: tuple[Step, ...], pks: Sequence[Any], held: Held
    ) -> tuple[Sequence[Any], Sequence[Domain]]:
        """Return the records at the beginning of the steps: their ids, or domains for them."""
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
                holders: dict[Any, None] = {}
                async for document in self._look(env, step.target, domains, _ID | {step.head}):
                    holders.update(dict.fromkeys(values_at(document, key)))
                ids = list(holders)
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
        """Compute all marked and dependent fields, and return the number of changed records."""
        while self._marked:
            # The fields of other records that these depend on have a lower rank, so they are done.
            key = min(self._marked)
            marked = self._marked.pop(key)
            if self._graph.plan(key[1], marked.fields).recursion:
                marked = await self._level(key[1], self._one_direction(key, marked))
            await self._pass(key[1], marked)
            if key not in self._marked and key in self._later:
                self._marked[key] = self._later.pop(key)
        return self.changed

    def _one_direction(self, key: tuple[int, str], marked: _Marked) -> _Marked:
        """Return the fields that follow a tree towards its leaves; keep the others for later.

        No order of records serves both, and the records of the one are not those of the other.
        """
        ways: dict[bool, set[str]] = {True: set(), False: set()}
        for name in marked.fields:
            recursion = self._graph.nodes[key[1], name].recursion
            ways[any(steps[0].forward for steps in recursion)].add(name)
        if not (ways[True] and ways[False]):
            return marked
        later = self._later.setdefault(key, _Marked())
        later.fields |= ways[False]
        later.pks.update(marked.pks)
        later.domains.update(marked.domains)
        return _Marked(ways[True], marked.pks, marked.domains)

    async def _level(self, model: str, marked: _Marked) -> _Marked:
        """Return those of the records that depend on no other of them, and mark the others again.

        Raises:
            ValidationError: The records depend on each other in a circle.
        """
        plan = self._graph.plan(model, marked.fields)
        levels = self._levels.get((model, plan.recursion))
        if levels is None:
            levels = Levels(self._bound(model), plan.recursion)
            self._levels[model, plan.recursion] = levels
        domains = [condition("_id", "in", list(c)) for c in chunks(levels.unknown(marked.pks))]
        env = plan.system(self._env)
        links = _ID | levels.names
        pks = dict(marked.pks)
        for domain in (*domains, *marked.domains):
            async for document in self._look(env, model, [domain], links):
                levels.learn(document)
                pks[document["_id"]] = None
        ready, others = levels.split(pks)
        repeated = levels.count(ready)
        while repeated:  # a circle, or a record below several that changed: its ancestors tell
            above = levels.unknown(levels.above(repeated))
            for chunk in chunks(above):
                async for document in self._look(
                    env, model, [condition("_id", "in", list(chunk))], links
                ):
                    levels.learn(document)
            if not above:
                levels.refuse_circle(repeated)
                break
            levels.forget(above)
        if others:
            for name in marked.fields:
                self.mark_ids(model, name, others)
        return _Marked(marked.fields, dict.fromkeys(ready))

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
            options, notes = Options(fields=fields), {**self._notes, REQUEST: stream}
            op = Operation("search", bound.model, env, domain, None, options, notes)
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
        # The records keep the documents as their state and change them, so old values are copied.
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
            computed = await _values(bound, plan, records)
        updates = PerRecord()
        differing: dict[str, list[int]] = {}
        unchanged: list[Any] = []
        for number, (record, old, new) in enumerate(zip(records, before, computed, strict=True)):
            pk = record.__dict__["_id"]
            changed_values = {n: v for n, v in new.items() if not _is_same(old[n], v)}
            for name in changed_values:
                differing.setdefault(name, []).append(number)
            if changed_values:
                updates[pk] = Update({"$set": {keys[n]: v for n, v in changed_values.items()}})
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
            notes = {**self._notes, WAY: Way.DERIVED}
            op = Operation("write", bound.model, env, domain, updates, notes=notes)
            await env.app.execute(op)
        if unchanged and env.transaction is not None:
            # If two transactions change fields that one record depends on, the second must see the
            # first. A write to that record makes them conflict, so a record whose value stays is
            # locked.
            op = Operation("search", bound.model, env, notes=self._notes)
            await lock(bound._collection, unchanged, op)

    async def _follow(
        self,
        bound: BoundModel,
        plan: Plan,
        node: Node,
        changed: Sequence[tuple[Any, Mapping[str, list[Any]]]],
    ) -> None:
        done = {planned.key for planned in plan.nodes}
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
    """The result of a recomputation.

    Attributes:
        model: The model's name.
        fields: The fields that were computed.
        seen: The number of the model's records that were computed.
        changed: The number of records that had another value, with those of other models that
            depend on it.
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
    formulas = formulas_of(bound.schema)
    stored = [formula.field.name for formula in formulas.stored] if formulas is not None else []
    wanted = stored if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in stored:
            raise ConfigurationError(
                f"{model}.{name} is no stored computed field, so there is nothing to recompute"
                f"{nearest(name, stored)}"
            )
    result = Recomputed(model, tuple(wanted))
    if not wanted:
        return result
    stream = Stream(_TRANSACTION_SIZE)
    search = Operation(
        "search",
        bound.model,
        env.replace(system=True, reason=f"recompute {model}"),
        domain,
        options=Options(fields=_ID, order=(("_id", 1),)),
        notes={**made_by(NAME), REQUEST: stream},
    )
    try:
        while documents := await env.app.execute(search):
            pks = [document["_id"] for document in documents]

            async def run(pks: Sequence[Any] = pks) -> int:
                follow = Recomputation(graph, current_env(), write=not dry_run)
                for name in wanted:
                    follow.mark_ids(model, name, pks)
                return await follow.run()

            result.changed += await (run() if dry_run else atomic(run))
            result.seen += len(pks)
            if progress is not None:
                awaitable = progress(result)
                if inspect.isawaitable(awaitable):
                    await awaitable
    finally:
        await stream.close()
    return result
