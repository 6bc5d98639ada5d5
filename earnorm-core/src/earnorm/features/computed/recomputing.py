"""Computes stored fields of the records that depend on a change, or owes it.

The system reads and writes here, for a reason that names the fields, so that a stored value does
not depend on the acting principal. A value is written only if it differs.

Up to a limit the records are computed at once, in the transaction of the change. What is beyond it
becomes an owed document (``owed/``) in the same transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from earnorm.domain import Domain, Or, condition
from earnorm.domain.long_lists import chunks
from earnorm.features.computed.dependencies import Graph, Key, Node, Plan, Recursion, Step, Trigger
from earnorm.features.computed.levels import Levels, values_at
from earnorm.features.computed.limits import BATCH
from earnorm.features.computed.new_values import values_of
from earnorm.features.computed.owed.documents import WAITING, owed_documents, owed_in, owed_model
from earnorm.features.locking.locking import lock
from earnorm.fields.base import MISSING
from earnorm.kernel.environment import Env, use_env
from earnorm.kernel.operations import (
    REQUEST,
    Operation,
    Options,
    PerRecord,
    Update,
    made_by,
)
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.serving.requests import Stream
from earnorm.kernel.steps import UNKNOWN, WAY, HandBack, Way
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.writing.pending import same

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.transactions.running import Transaction

NAME: Final = "computed"
"""The origin of the operations that the feature makes."""

_ID: Final = frozenset({"_id"})
Held: TypeAlias = Mapping[str, Collection[Any]]
"""The ids that a field has, or had before the change, by the field that leads to other records."""


_OWED: WeakKeyDictionary[Transaction, set[Key]] = WeakKeyDictionary()
"""The fields that are owed in a running transaction, and those that follow from them."""


async def lagging_fields(env: Env, graph: Graph, model: str) -> Collection[str]:
    """Return the fields of a model whose stored values may be older than what was just written.

    In a transaction, they are those that it owes; else those that anybody owes.
    """
    keys: Collection[Key]
    if env.transaction is not None:
        keys = _OWED.get(env.transaction, ())
    else:
        keys = set[Key]()
        async for row in owed_in(env.as_system("recompute: what is owed"), WAITING):
            keys |= graph.following_keys(row.model, row.names)
    return {name for key, name in keys if key == model}


def of_own_class(bound: BoundModel, domain: Domain) -> Domain:
    """Restrict a domain to a model's records that are of no subclass.

    Each class of a family computes its own records, because a subclass may compute them otherwise.
    """
    below = [] if bound.classes is None else [domain for domain, _ in bound.classes.below()]
    return domain & ~Or(below) if below else domain


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
        limit: The number of records up to which they are computed at once, not counting fields that
            are never owed; None means any number.
        hops: The number of recomputations in a row that were owed because of each other.
    """

    def __init__(
        self,
        graph: Graph,
        env: Env,
        parent: Operation | None = None,
        *,
        write: bool = True,
        limit: int | None = None,
        hops: int = 0,
    ) -> None:
        self.changed = 0
        """The number of records that had another value."""
        self._notes = made_by(NAME, parent)
        self._graph = graph
        self._env = env
        self._write = write
        self._left = limit
        self._hops = hops
        self._marked: dict[tuple[int, str], _Marked] = {}
        self._told: tuple[str, HandBack] | None = None
        self._new: Collection[Any] = ()
        self._lagging: dict[Any, set[str]] = {}
        """The fields of told records that may follow from what is owed, by the record's id."""
        self._levels: dict[tuple[str, Recursion], Levels] = {}
        self._later: dict[tuple[int, str], _Marked] = {}

    def tell(self, model: str, back: HandBack | None, new: Collection[Any] = ()) -> None:
        """Give the computed values of the model's records to ``back``, for records in memory.

        Args:
            model: The model's name.
            back: Takes the values; None if nobody wants them.
            new: The ids of records that will be in memory, beside those that ``back`` has.
        """
        self._told = None if back is None else (model, back)
        self._new = new

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
        env = self._env.as_system("recompute: what depends on changed records")
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
        self,
        env: Env,
        model: str,
        domains: Iterable[Domain],
        fields: frozenset[str],
        limit: int = 0,
    ) -> AsyncIterator[Mapping[str, Any]]:
        bound = self._bound(model)
        for domain in domains:
            options = Options(fields=fields, limit=limit)
            op = Operation("search", bound.model, env, domain, None, options, self._notes)
            for document in await env.app.execute(op):
                yield document

    def _bound(self, model: str) -> BoundModel:
        return self._env.app.bind(self._env.app.model(model))

    # -- passes -------------------------------------------------------------------------------

    async def run(self) -> int:
        """Compute all marked and dependent fields, and return the number of changed records.

        What is beyond the limit is owed instead.
        """
        while self._marked:
            # The fields of other records that these depend on have a lower rank, so they are done.
            key = min(self._marked)
            marked = self._marked.pop(key)
            if self._graph.plan(key[1], marked.fields).recursion:
                marked = self._one_direction(key, marked)
            if self._left is None:
                await self._compute(key[1], marked, None)
            else:
                await self._compute_or_owe(key[1], marked, self._left)
            if key not in self._marked and key in self._later:
                self._marked[key] = self._later.pop(key)
        return self.changed

    async def compute(self, model: str, names: Iterable[str], pks: Iterable[Any]) -> int:
        """Compute fields of these records, whatever the limit, then what follows from it.

        Returns:
            The number of changed records.
        """
        await self._pass(model, _Marked({*names}, dict.fromkeys(pks)), None)
        return await self.run()

    async def _compute_or_owe(self, model: str, marked: _Marked, left: int) -> None:
        """Compute fields if there are no more records than ``left``; else owe those that may be."""
        later = self._graph.later(model, marked.fields)
        owed, rest = marked.fields & later, marked.fields - later
        if rest and not await self._compute(model, replace(marked, fields=rest), left):
            urgent = {name for name in rest if (model, name) in self._graph.urgent}
            if urgent:
                await self._compute(model, replace(marked, fields=urgent), None)
                rest = rest.difference(self._graph.plan(model, urgent).names)
            owed |= rest
        if owed:
            await self._owe(model, replace(marked, fields=owed))

    async def _compute(self, model: str, marked: _Marked, left: int | None) -> bool:
        """Compute fields; return False, and do nothing, if there are more records than ``left``."""
        if left is not None and len(marked.pks) > left:
            return False
        if self._graph.plan(model, marked.fields).recursion:
            ready = await self._level(model, marked, left)
            if ready is None:
                return False
            marked = ready
        return await self._pass(model, marked, left)

    # -- what is owed -------------------------------------------------------------------------

    async def owe_beforehand(self) -> Collection[Any]:
        """Owe what is marked and beyond the limit, in the name of a writer that is about to begin.

        This is for a database without transactions, where a process may die between the change and
        the owed document. Nobody works it off as long as the writer may be at work.

        Returns:
            The ids of the documents; the writer deletes them when :meth:`run` is done.
        """
        documents: list[dict[str, Any]] = []
        for (_, model), marked in self._marked.items():
            assert self._left is not None
            names = self._graph.later(model, marked.fields)
            if len(names) < len(marked.fields) and await self._exceeds(model, marked, self._left):
                names = {n for n in marked.fields if (model, n) not in self._graph.urgent}
            if names:
                follows = self._graph.following(model, names)
                documents += owed_documents(
                    model, names, follows, marked.pks, marked.domains, held=True
                )
        await self._create(documents)
        return [document["_id"] for document in documents]

    async def _exceeds(self, model: str, marked: _Marked, left: int) -> bool:
        number = len(marked.pks)
        if number <= left and marked.domains:
            env = self._env.as_system(f"recompute {model}: how much it is")
            own = of_own_class(self._bound(model), Or(marked.domains))
            async for _ in self._look(env, model, [own], _ID, left + 1 - number):
                number += 1
        return number > left

    async def _owe(self, model: str, marked: _Marked) -> None:
        following = self._graph.following_keys(model, marked.fields)
        if self._env.transaction is not None:
            _OWED.setdefault(self._env.transaction, set()).update(following)
        await self._tell_lagging(model, marked, following)
        await self._create(
            owed_documents(
                model,
                marked.fields,
                sorted(map(".".join, following)),
                marked.pks,
                marked.domains,
                hops=self._hops,
            )
        )

    async def _tell_lagging(self, model: str, marked: _Marked, following: Collection[Key]) -> None:
        """Tell the waiting records which of their values are not known before the end of what is owed."""
        if self._told is None:
            return
        told, back = self._told
        waiting = {*self._new, *(record.pk for record in back.records)}
        if not waiting:
            return
        plan = self._graph.plan(model, marked.fields)
        every = {name for key, name in following if key == told}
        if told == model:
            marked_pks = waiting & marked.pks.keys()
            if marked.domains:
                env = self._env.as_system(f"recompute {model}: what is owed")
                of_waiting = Or(marked.domains) & condition("_id", "in", list(waiting))
                async for document in self._look(env, model, [of_waiting], _ID):
                    marked_pks.add(document["_id"])
            for pk in marked_pks:
                self._lag(pk, plan.names)
            # Nothing leads along a tree back to the same record, but to another one that waits.
            if not plan.recursion or len(waiting) == 1:
                every -= marked.fields
        for pk in waiting if every else ():
            self._lag(pk, every)

    def _lag(self, pk: Any, names: Collection[str]) -> None:
        assert self._told is not None
        self._lagging.setdefault(pk, set()).update(names)
        self._told[1].give(pk, dict.fromkeys(names, UNKNOWN))

    async def _create(self, documents: list[dict[str, Any]]) -> None:
        if documents:
            env = self._env.as_system("recompute: note what is owed")
            model = owed_model(env.app)
            await env.app.execute(
                Operation("create", model, env, values=documents, notes=self._notes)
            )

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

    async def _level(self, model: str, marked: _Marked, left: int | None) -> _Marked | None:
        """Return those of the records that depend on no other of them, and mark the others again.

        Returns:
            None, and nothing is marked, if there are more records than ``left``.

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
        most = 0 if left is None else left + 1
        for domain in (*domains, *marked.domains):
            async for document in self._look(env, model, [domain], links, most):
                levels.learn(document)
                pks[document["_id"]] = None
            if left is not None and len(pks) > left:
                return None
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

    async def _pass(self, model: str, marked: _Marked, left: int | None) -> bool:
        """Compute fields; return False, and do nothing, if there are more records than ``left``."""
        bound = self._bound(model)
        plan = self._graph.plan(model, marked.fields)
        domains = [condition("_id", "in", list(part)) for part in chunks(list(marked.pks))]
        domains += marked.domains
        if len(domains) > 1 and (left is not None or len(marked.pks) <= BATCH):
            domains = [Or(domains)]
        env = plan.system(self._env)
        fields = plan.loaded
        size = BATCH if left is None else left + 1
        for domain in domains:
            own, stream = of_own_class(bound, domain), Stream(size)
            options, notes = Options(fields=fields), {**self._notes, REQUEST: stream}
            op = Operation("search", bound.model, env, own, None, options, notes)
            try:
                while documents := await env.app.execute(op):
                    if left is not None and len(documents) > left:
                        return False
                    await self._batch(bound, plan, env, documents)
                    if len(documents) < size:
                        break
            finally:
                await stream.close()
        return True

    async def _batch(
        self, bound: BoundModel, plan: Plan, env: Env, documents: list[dict[str, Any]]
    ) -> None:
        fields = bound.schema.fields
        keys = {node.key[1]: fields[node.key[1]].db_name for node in plan.nodes}
        links = {name: fields[name].db_name for name in plan.links}
        # The records keep the documents as their state and change them, so old values are copied.
        before: list[dict[str, Any]] = []
        held: list[dict[str, list[Any]]] = []
        for part in parts(documents):
            for document in part:
                before.append({n: document.get(key, MISSING) for n, key in keys.items()})
                held.append({n: values_at(document, key) for n, key in links.items()})
            if part is not documents:
                await pause()
        loaded = plan.loaded
        with use_env(env):
            records = hydrate(bound, documents, loaded)
            if records and records[0]._fetch.records is None:
                records[0]._fetch.records = records
            computed = await values_of(bound, plan, records)
        if self._left is not None:
            self._left = max(0, self._left - len(records))
        updates = PerRecord()
        differing: dict[str, list[int]] = {}
        unchanged: list[Any] = []
        results = [*enumerate(zip(records, before, computed, strict=True))]
        for of_part in parts(results):
            for number, (record, old, new) in of_part:
                pk = record.__dict__["_id"]
                changed_values = {n: v for n, v in new.items() if not _is_same(old[n], v)}
                for name in changed_values:
                    differing.setdefault(name, []).append(number)
                if changed_values:
                    updates[pk] = Update({"$set": {keys[n]: v for n, v in changed_values.items()}})
                else:
                    unchanged.append({"_id": pk})
                if self._told is not None and self._told[0] == bound.model._name:
                    lagging = self._lagging.get(pk, ())
                    self._told[1].give(pk, {n: v for n, v in new.items() if n not in lagging})
            if of_part is not results:
                await pause()
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
            # Records that repeat one value of another record all get the same.
            values = (_shared(updates) if len(updates) > 1 else None) or updates
            op = Operation("write", bound.model, env, domain, values, notes=notes)
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
        for part in parts(changed):
            for record, own in part:
                for name, ids in own.items():
                    known = held.setdefault(name, {})
                    known.update(dict.fromkeys(ids))
                    new = record.__dict__.get(name)
                    stored = bound.schema.fields[name].encode(new)
                    known.update(dict.fromkeys(values_at({"": stored}, "")))
            if part is not changed:
                await pause()
        await self.mark(triggers, pks, held)


def _shared(updates: PerRecord) -> Update | None:
    """Return the update that all records get; None if they get different ones."""
    each = iter(updates.values())
    first = next(each)
    values = first.operators["$set"]
    alike = all(same(values, update.operators["$set"]) for update in each)
    return first if alike else None


def _is_same(old: Any, new: Any) -> bool:
    return new is None if old is MISSING else same(old, new)
