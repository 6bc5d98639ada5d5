"""Judges what was stored, in its transaction, where its values are known only then.

The values of a record may follow from those of other records, which follow from this very record or
are written by the same call: the total of an order whose lines are created along. They are known only
when all of it is stored; so are the results of some changes, and of comparisons that memory does not
make as the server does. A refusal then undoes all; where nothing can be undone, nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from earnorm import Domain
from earnorm.plugin import (
    KNOWN_FIRST,
    DocumentBatch,
    Operation,
    Stage,
    Step,
    at_end_of_call,
    chunks,
    is_in_unit,
)
from earnorm_security.judging import DEMAND, LATE, Demand, document_refusal, refusal
from earnorm_security.written import note_written, stored

_REASON: Final = "security: are there stored records that rules do not allow?"


def steps_afterwards() -> list[Step]:
    """Return the steps that judge what was stored."""
    return [
        Step(Stage.GUARD, "security", _note_written, on="write"),
        Step(Stage.SETTLE, "security", _judge_stored),
    ]


def _concerns(batch: DocumentBatch) -> Demand | None:
    """Return the demand if values that it reads are known only after the operation."""
    op = batch.op
    demand = op.note(DEMAND)
    if demand is None or op.env.transaction is None:
        return None
    if demand.is_late or batch.notes.get(LATE):
        return demand
    if not demand.computed:
        return None
    if is_in_unit():
        return demand
    known = op.note(KNOWN_FIRST)
    late = set(known.unknown) if known is not None else set[str]()
    names = None
    if op.name == "write":
        fields = batch.model.stored
        names = [fields[key].name for key in batch.operation.written if key in fields]
    late.update(op.app.follows_from(batch.model.name, names))
    return None if late.isdisjoint(demand.computed) else demand


async def _note_written(batch: DocumentBatch) -> None:
    if _concerns(batch) is not None:
        await note_written(batch)


async def _judge_stored(batch: DocumentBatch) -> None:
    demand = _concerns(batch)
    if demand is None:
        return
    pks = stored(batch)
    if pks:
        await at_end_of_call(partial(_judge_later, batch.op, demand, pks))


async def _judge_later(op: Operation, demand: Demand, pks: Sequence[Any]) -> None:
    async with demand.policy.knowing(op.env):
        await _refuse_stored(op, demand, pks)


async def _refuse_stored(op: Operation, demand: Demand, pks: Sequence[Any]) -> None:
    """Refuse if a stored record does not fulfil the demand.

    Raises:
        AccessDenied: One does not; the transaction is not committed.
    """
    allowed = demand.allowed
    if demand.asks_itself:
        allowed = await demand.policy.reached(op.env, demand.right)
    for chunk in chunks(pks):
        there = Domain([("_id", "in", list(chunk))])
        if await _count(op, there & allowed) < await _count(op, there):
            assert op.env.transaction is not None
            op.env.transaction.doom("access rules do not allow what was stored in it")
            if op.name == "create" and len(pks) == 1:
                raise document_refusal(op, demand.policy, 0, allowed)
            raise refusal(op, demand.policy, demand.right, allowed)


async def _count(op: Operation, domain: Domain) -> int:
    env = op.env.as_system(_REASON)
    count = op.child("count", op.model, domain, origin="security", env=env)
    number: int = await op.app.execute(count)
    return number
