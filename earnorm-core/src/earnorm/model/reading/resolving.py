"""The layer of ASK and RESOLVE: resolves conditions, orders and group keys in other records.

A condition about other records becomes one about this record, or a pipeline stage where a filter
could not hold the ids.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import TRUE, And, Condition
from earnorm.domain.long_lists import chunks
from earnorm.domain.relational import asks_others
from earnorm.kernel.operations import PerRecord
from earnorm.kernel.serving.searches import STAGES
from earnorm.model.reading.across import ACROSS, lookups
from earnorm.model.reading.resolution import Selection, select

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Call, Operation

_BATCH: Final = 100_000  # ids in one batch


class ResolveLayer:
    """Resolves an operation's conditions about other records, before a filter is made of them."""

    def __init__(self, bound: BoundModel) -> None:
        self._bound = bound
        self._schema = bound.schema
        self._operators = bound.operators
        self._plain = frozenset(
            operator.name
            for operator in bound.operators.values()
            if not (operator.relational or operator.nested or operator.pathless)
        )

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Resolve the operation's domain, and call the next layer."""
        return self.around(call_next)(op)

    def around(self, call_next: Call) -> Call:
        """Return the layer's call: one function, and no coroutine where it resolves nothing."""
        schema, operators, plain, resolve = (
            self._schema,
            self._operators,
            self._plain,
            self._resolve,
        )
        known = schema.resolved_paths

        def call(op: Operation) -> Awaitable[Any]:
            domain = op.domain
            for node in domain.children if type(domain) is And else (domain,):
                if type(node) is Condition:
                    # Only paths inside this model's documents get into resolved_paths.
                    if node.path in known and node.operator in plain:
                        continue
                elif node is TRUE:
                    continue
                if asks_others(domain, schema, operators):
                    return resolve(op, call_next, asks=True)
                break
            if op.notes and ACROSS in op.notes:
                return resolve(op, call_next, asks=False)
            return call_next(op)

        return call

    async def _resolve(self, op: Operation, call_next: Call, *, asks: bool) -> Any:
        request = op.request
        if request is not None and request.is_under_way:
            return await call_next(op)
        bound, across = self._bound, op.note(ACROSS)
        if across and op.name not in ("search", "group"):
            # The order changes neither a count nor which records a write changes.
            across, op = None, replace(op, options=op.options.replace(order=()))
        selection = await select(bound, op) if asks else Selection(op.domain)
        added = await lookups(bound, op, across) if across else []
        if not (selection.lookups or added):
            return await call_next(replace(op, domain=selection.domain))
        if op.name in ("write", "unlink"):
            return await self._change(op, selection, call_next)
        return await call_next(op.with_note(STAGES, (*selection.stages(bound), *added)))

    async def _change(self, op: Operation, selection: Selection, call_next: Call) -> int:
        """Write or delete in chunks of ids, after all ids were read."""
        bound = self._bound
        stages = [*selection.stages(bound), {"$project": {"_id": 1}}]
        if not op.options.many:
            stages.append({"$limit": 1})
        cursor = await bound._collection_of(op).open_pipeline(
            stages,
            batch_size=_BATCH,
            session=op.env._database_session,
            timeout=op.options.timeout or bound.timeout,
        )
        pks: list[Any] = []
        while documents := await cursor.next_batch():
            pks += [document["_id"] for document in documents]
        done = 0
        for chunk in chunks(pks):
            # The write repeats the conditions about its own record, which may have changed since.
            part = replace(op, domain=selection.first & Condition("_id", "in", chunk))
            if isinstance(op.values, PerRecord):
                own = {pk: op.values[pk] for pk in chunk if pk in op.values}
                part = replace(part, values=PerRecord(own))
            done += await call_next(part)
        return done
