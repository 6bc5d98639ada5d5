"""The steps and the layer that keep stored computed fields up to date.

Only models that such a field depends on have them. A new record gets its computed values in the same
insert. A write gets them in the same write if it has all the values that they need. Otherwise they
are written afterwards, together with those of other models' records, in the same transaction if the
backend has transactions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from earnorm.domain import TRUE, Condition
from earnorm.domain.ids import ID_TYPES, split_ids
from earnorm.domain.long_lists import chunks
from earnorm.features.computed.computing import formulas_of
from earnorm.features.computed.dependencies import Graph, Plan, Trigger
from earnorm.features.computed.inverting import inverse_steps
from earnorm.features.computed.known_first import compute_first
from earnorm.features.computed.levels import values_at
from earnorm.features.computed.new_values import NewValues, computed_of_values
from earnorm.features.computed.owed.documents import delete
from earnorm.features.computed.recomputing import NAME, Recomputation
from earnorm.fields.relational import is_record
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Call, Operation, Options, PerRecord, Update, touched
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.steps import HAND_BACK, KNOWN_FIRST, WAY, HandBack, Stage, Step, Way
from earnorm.kernel.transactions.layer import in_transaction_if

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

_REASON = "recompute: what deleted and written records belong to"
_NO_VALUES: Final[Mapping[str, Any]] = MappingProxyType({})
_NOTHING: Final[Mapping[Trigger, None]] = MappingProxyType({})
Links = dict[str, dict[Any, None]]


def steps_of(bound: BoundModel, graph: Graph) -> list[Step]:
    """Return the steps of a model, if it has computed fields, or if a stored one depends on it."""
    return [
        *inverse_steps(bound.view, graph),
        *_steps_of_creates(bound, graph),
        *_steps_of_writes(bound, graph),
    ]


def layers_of_deletions(bound: BoundModel, graph: Graph) -> list[tuple[int, Middleware]]:
    """Return the layers of a model's deletions, if a stored computed field depends on it."""
    triggers = graph.deleted.get(bound.model._name)
    if not triggers:
        return []
    return [
        # The transaction lies outside the audit, so that it contains the audit's entries.
        (Layer.TRANSACTION, in_transaction_if(_may_have_transaction)),
        (Layer.STEPS, _Deleting(bound, graph, triggers)),
    ]


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


def _pointed_at(
    triggers: Iterable[Trigger],
    bound: BoundModel,
    documents: Iterable[Mapping[str, Any]],
    records: Iterable[Any] = (),
) -> Iterator[tuple[str, Any]]:
    """Yield the records that others point at, each with the name of its model.

    Fields of theirs are computed again, or fields of records that only they lead to.

    Args:
        triggers: The triggers of a change.
        bound: The model of the changed records.
        documents: Stored values that the changed records get.
        records: Changed records as the program holds them. Their links may be older than those that
            are stored, which is good enough for a queue.
    """
    links = {(t.steps[-1].source, t.link): None for t in triggers if t.link is not None}
    keys = [(model, bound.schema.fields[name].db_name) for model, name in links]
    for document in documents:
        for model, key in keys:
            for pk in values_at(document, key):
                yield model, pk
    for record in records:
        for model, name in links:
            value = record.__dict__.get(name)
            pk = value.pk if is_record(value) else value
            if type(pk) in ID_TYPES:
                yield model, pk


def _waiting(op: Operation) -> Sequence[Any]:
    back = op.note(HAND_BACK)
    return () if back is None else back.records


@dataclass(frozen=True, slots=True)
class _Change:
    """Changed records, and what is computed because of them.

    Attributes:
        graph: The computed fields of the App.
        op: The operation that changes them.
        triggers: The triggers of the change.
        pks: The ids of the records.
        held: The ids of other records that they have, or had before, by field.
    """

    graph: Graph
    op: Operation
    triggers: Mapping[Trigger, None]
    pks: Sequence[Any]
    held: Links

    async def owe_beforehand(self) -> Collection[Any]:
        """Before the change: owe what is too large for it, if no transaction holds both together.

        Returns:
            The ids of the owed documents.
        """
        if not self.pks or self.op.env.transaction is not None or self.graph.limit is None:
            return ()
        return await (await self._marked()).owe_beforehand()

    async def follow(
        self,
        beforehand: Collection[Any],
        back: HandBack | None = None,
        new: Collection[Any] = (),
    ) -> None:
        """After the change: compute or owe what depends on it.

        Args:
            beforehand: The ids of the documents that were owed before it.
            back: Takes the values of the changed records themselves.
            new: The ids of new records, which are made when their documents are stored.
        """
        if self.pks:
            follow = await self._marked()
            follow.tell(self.op.model._name, back, new)
            await follow.run()
        if beforehand:
            await delete(self.op.env.as_system(_REASON), Condition("_id", "in", list(beforehand)))

    async def _marked(self) -> Recomputation:
        follow = Recomputation(self.graph, self.op.env, self.op, limit=self.graph.limit)
        await follow.mark(self.triggers, self.pks, self.held)
        return follow


_BEFOREHAND: Note[Collection[Any]] = Note("computed beforehand")


# -- create ---------------------------------------------------------------------------------------


def _steps_of_creates(bound: BoundModel, graph: Graph) -> Iterator[Step]:
    model = bound.model._name
    formulas = formulas_of(bound.schema)
    if formulas is not None and formulas.stored:
        values = NewValues(
            bound, graph.plan(model, [formula.field.name for formula in formulas.stored])
        )
        if values.waits:
            yield Step(Stage.COMPUTE, NAME, values.wait, on="create")
        else:
            yield Step(Stage.COMPUTE, NAME, values.fill, on="create", in_parts=True)
    triggers = graph.created.get(model)
    if triggers:
        creating = _Creating(bound, graph, triggers)
        yield Step(
            Stage.PROPAGATE,
            NAME,
            creating.follow,
            on="create",
            atomic=creating.needs_transaction,
            queues_for=creating.queues_for,
            also_refused=True,
        )
        if "transactions" not in bound.app.capabilities:
            yield Step(Stage.GUARD, NAME, creating.look, on="create")


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

    def queues_for(self, op: Operation) -> Iterator[tuple[str, Any]]:
        """Yield the records that the new ones point at."""
        yield from _pointed_at(self._triggers, self._bound, op.documents)

    async def look(self, batch: DocumentBatch) -> None:
        op = batch.operation
        batch.notes[_BEFOREHAND] = await self._change(op).owe_beforehand()

    def _change(self, op: Operation) -> _Change:
        held = _ids_held(self._triggers, self._bound, op.documents)
        pks = [document["_id"] for document in op.documents] if any(held.values()) else []
        return _Change(self._graph, op, self._triggers, pks, held)

    async def follow(self, batch: DocumentBatch) -> None:
        change = self._change(batch.operation)
        await change.follow(batch.notes.get(_BEFOREHAND, ()), batch.back, change.pks)


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
        Step(
            Stage.GUARD,
            NAME,
            writing.look,
            on="write",
            atomic=writing.needs_transaction,
            queues_for=writing.queues_for,
        ),
        Step(Stage.PROPAGATE, NAME, writing.follow, on="write"),
    ]


class _Before(NamedTuple):
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
        if not followed:
            return False
        plan = self._plan_for(followed, _updates(op))
        # What is read of other records must not change before the write.
        return plan is None or bool(plan.tree)

    def queues_for(self, op: Operation) -> Iterator[tuple[str, Any]]:
        """Yield the records that the written ones point at, or will point at."""
        triggers = self._triggers_of(op.written | self._filled)
        given = [update.operators.get("$set", _NO_VALUES) for update in op.updates]
        yield from _pointed_at(triggers, self._bound, given, _waiting(op))

    def _plan_for(
        self, triggers: Mapping[Trigger, None], updates: Collection[Update]
    ) -> Plan | None:
        """Return the plan that computes the fields in the write itself; None if it lacks values."""
        if any(trigger.steps for trigger in triggers):
            return None
        bound, model = self._bound, self._bound.model._name
        plan = self._graph.plan(model, [trigger.field for trigger in triggers])
        own = {node.key[1] for node in plan.nodes}
        if plan.recursion or plan.reads is None or _has_dependents(self._graph, model, own):
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
        triggers = self._triggers_of(touched(updates))
        if not triggers:
            return
        bound = self._bound
        plan = self._plan_for(triggers, updates)
        if plan is None:
            batch.notes[_BEFORE] = _Before(triggers, (), {})
            known = op.notes.get(KNOWN_FIRST)
            if known is not None:
                await compute_first(batch, bound, self._graph, triggers, known)
            return
        fields = bound.schema.fields
        given = [update.operators["$set"] for update in updates]
        computed = await computed_of_values(bound, plan, given, op.env)
        pairs = [*zip(batch.rows, computed, strict=True)]
        for part in parts(pairs):
            for row, values in part:
                row.merge("$set", {fields[name].db_name: value for name, value in values.items()})
            if part is not pairs:
                await pause()

    async def look(self, batch: DocumentBatch) -> None:
        before: _Before | None = batch.notes.get(_BEFORE)
        if before is not None:
            op = batch.op
            pks, held = await _before(op, self._bound, self._graph, before.triggers)
            batch.notes[_BEFORE] = _Before(before.triggers, pks, held)
            change = _Change(self._graph, op, before.triggers, pks, held)
            batch.notes[_BEFOREHAND] = await change.owe_beforehand()

    async def follow(self, batch: DocumentBatch) -> None:
        before: _Before | None = batch.notes.get(_BEFORE)
        if before is None or not before.pks:
            return
        op, held = batch.operation, before.held
        if not batch.result:  # nothing was written, so nothing follows
            await _Change(self._graph, op, {}, (), {}).follow(batch.notes[_BEFOREHAND])
            return
        renamed = self._bound.schema.renamed
        written = {renamed.get(key, key) for key in op.written} & held.keys()
        for name, ids in (await _after(op, self._bound, before.pks, written)).items():
            held[name].update(ids)
        change = _Change(self._graph, op, before.triggers, before.pks, held)
        await change.follow(batch.notes[_BEFOREHAND], batch.back)


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
    op: Operation, bound: BoundModel, graph: Graph, triggers: Iterable[Trigger]
) -> tuple[list[Any], Links]:
    """Return the ids of the operation's records, and the ids that they have of other records."""
    links = {trigger.link for trigger in triggers if trigger.link is not None}
    pks = None if links else _named(op, bound, graph)
    if pks is not None:
        return pks, {}
    options = Options(
        fields=frozenset({"_id", *links}),
        limit=0 if op.options.many else 1,
        timeout=op.options.timeout,
    )
    env = op.env.as_system(_REASON)
    search = op.child("search", op.model, op.domain, options=options, origin=NAME, env=env)
    documents = await op.app.execute(search)
    if isinstance(op.values, PerRecord):
        documents = [document for document in documents if document["_id"] in op.values]
    held = _ids_held(triggers, bound, documents)
    return [document["_id"] for document in documents], held


def _named(op: Operation, bound: BoundModel, graph: Graph) -> list[Any] | None:
    """Return the ids of the records that an operation names; None if it may leave some of them out.

    What follows is looked for by these ids. A record that a rule hides must not be among them, because
    the number of queries would tell that it is there.
    """
    split = split_ids(op.domain, bound.schema)
    if split is None:
        return None
    pks, rest = split
    if rest is TRUE:
        return pks
    # Of one record, the result says whether it was left out, before anything is looked for.
    is_told_later = op.env.transaction is not None or graph.limit is None
    return pks if len(pks) == 1 and is_told_later else None


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
        env = op.env.as_system(_REASON)
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

    def queues_for(self, op: Operation) -> Iterator[tuple[str, Any]]:
        """Yield the records that the deleted ones point at."""
        yield from _pointed_at(self._triggers, self._bound, (), _waiting(op))

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        pks, held = await _before(op, self._bound, self._graph, self._triggers)
        change = _Change(self._graph, op, self._triggers, pks, held)
        beforehand = await change.owe_beforehand()
        result = await call_next(op)
        if not result:
            change = replace(change, pks=())
        await change.follow(beforehand)
        return result
