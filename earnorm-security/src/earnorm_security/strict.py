"""Strict rules: what they look at in other records is held until the operation is committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from earnorm import Domain, NotSupported
from earnorm.plugin import (
    JUDGED,
    DocumentBatch,
    Note,
    Operation,
    Stage,
    Step,
    name_of,
)
from earnorm_security.declarations import Right
from earnorm_security.judging import has_unsure_changes, is_judged_late
from earnorm_security.policy import RIGHT_OF, Policy
from earnorm_security.written import note_written, stored, written

STRICT: Final[Note[Sequence[Domain]]] = Note("security: strict rules")
"""The domains whose other records are held when the new documents are stored."""
_REASON: Final = "security: what a strict rule looks at"


def needs_transaction(policy: Policy, op: Operation) -> bool:
    """Return whether an operation and the judgement of its rules are one transaction.

    The rules look at other records, or only the server can judge what it has stored.
    """
    if op.env.system or op.notes.get(JUDGED) or op.options.concerns is not None:
        return False
    right = RIGHT_OF[op.name]
    if policy.looks_at_others(op.env, right):
        return True
    if op.name == "unlink":
        return False
    is_unsure = policy.may_be_unsure or (op.name == "write" and has_unsure_changes(op))
    return is_unsure and is_judged_late(policy, op, policy.domain(op.env, right))


async def held(policy: Policy, right: Right, op: Operation) -> Operation:
    """Hold what strict rules look at for the records of an operation, as they are before it.

    Returns:
        The operation, with a note of what is to be held for the records as they are after it.

    Raises:
        NotSupported: No transaction is running, because the database has none.
    """
    domains = policy.strict_domains(op.env, right)
    if not domains:
        return op
    if op.env.transaction is None:
        raise NotSupported(
            f"{op.name} on model {name_of(op.model)!r}: a strict rule holds what it looks at until the "
            f"end of a transaction, and none is running: a server alone has none, and an operation "
            f"with concerns of its own takes part in none"
        )
    if op.name != "create":
        await _hold(op, domains, await written(op))
    return op.with_note(STRICT, domains)


def steps_of_strict_rules() -> list[Step]:
    """Return the steps that hold what strict rules look at for the records as they are stored."""
    return [
        Step(Stage.GUARD, "security: strict rules", _note_written, on="write"),
        Step(Stage.SETTLE, "security: strict rules", _hold_stored),
    ]


async def _hold_stored(batch: DocumentBatch) -> None:
    """Hold what strict rules look at for the records as they are stored now."""
    domains = batch.op.note(STRICT)
    if domains is not None:
        await _hold(batch.op, domains, stored(batch))


async def _note_written(batch: DocumentBatch) -> None:
    if batch.op.note(STRICT) is not None:
        await note_written(batch)


async def _hold(op: Operation, domains: Sequence[Domain], pks: Sequence[Any]) -> None:
    env = op.env.as_system(_REASON)
    for domain in domains:
        await op.app.hold(op.model, domain, pks, env=env)
