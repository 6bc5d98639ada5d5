"""The JUDGE step: access rules judge the final values, including those that other steps filled in.

The outermost layer refuses operations by the values that were asked for, and leaves a demand on the
operation. An operation without a demand (of the system, or of a model whose rules allow all
records) is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, methodcaller
from typing import Any, Final

from earnorm import AccessDenied, Domain
from earnorm.plugin import KNOWN_FIRST, DocumentBatch, Note, Operation, pause
from earnorm_security.asking import has_any
from earnorm_security.declarations import Right
from earnorm_security.policy import Policy
from earnorm_security.residual import Residual, together, updates_of

PAUSE_EVERY: Final = 50
"""The number of documents or changes that are judged between two pauses, at 10 µs each."""
UNKNOWN: Final = (
    "whether this change is allowed is known only for whole values that are set or unset; "
    "set the whole field instead"
)
UNCOMPUTED: Final = (
    "a computed value that they read follows from this change in a way that only the server knows; set "
    "the whole value instead, or use a database with transactions"
)
UNJUDGED: Final = (
    "they compare an encrypted value, which can be judged only when it is stored, in a transaction; a "
    "server alone has none, and an operation with concerns of its own takes part in none"
)
_DETAIL: Final[Mapping[str, str]] = {
    "create": "they do not allow every document that was to be created",
    "write": "they do not allow to change every record that was asked for, or to change it so",
    "unlink": "they do not allow to delete every record that was asked for",
}


@dataclass(frozen=True, slots=True)
class Demand:
    """The condition that every stored record must fulfil after an operation.

    Attributes:
        policy: The policy with the rules.
        right: The right that the operation uses.
        allowed: The records that the right reaches, without conditions about other models. A
            write's own domain demands the same of the records before the write.
        asked: The values of the operation, as they were asked for.
        is_open: True if the values that were asked for do not fulfil it, but filled-in values may.
        computed: The names of the stored computed fields that it reads.
        is_late: True if only the server can judge it, when the documents are stored.
        asks_itself: True if the operation can change which records are allowed; they are asked for
            again when it is judged.
    """

    policy: Policy
    right: Right
    allowed: Domain
    asked: object
    is_open: bool
    computed: frozenset[str] = frozenset()
    is_late: bool = False
    asks_itself: bool = False


DEMAND: Final[Note[Demand]] = Note("security demand")
LATE: Final[Note[bool]] = Note("security: judged when stored")
"""In the notes of a batch: what a step fills in can be judged only when it is stored."""


def is_judged_late(policy: Policy, op: Operation, allowed: Domain) -> bool:
    """Return whether only the server can tell if documents are allowed, when it has stored them.

    That is so where its comparisons are not those of memory, and where a change has a result that
    only the server knows.

    Args:
        policy: The policy of the model.
        op: A create or a write.
        allowed: The condition on the stored documents, without conditions about other records.
    """
    if allowed is Domain.TRUE or allowed is Domain.FALSE:
        return False
    if not policy.is_sure_of(allowed):
        return True
    is_sealed = policy.compares_sealed(allowed)
    if op.name != "write":
        return is_sealed
    if not is_sealed and not has_unsure_changes(op):
        return False
    residual = Residual(op.app, op.model, allowed)
    return any(residual.after(update) is None for update in op.updates)


def has_unsure_changes(op: Operation) -> bool:
    """Return whether a write has changes whose results may be unknown beforehand."""
    # It is asked several times of a set, so nothing of it is Python for each record.
    changes = list(map(attrgetter("operators"), op.updates))
    paths = set[str]().union(*chain.from_iterable(map(methodcaller("values"), changes)))
    return not _SURE.issuperset(chain.from_iterable(changes)) or any("." in path for path in paths)


_SURE: Final = frozenset({"$set", "$unset"})


async def judge(batch: DocumentBatch) -> None:
    """Refuse an operation whose final values would take a record out of the rules.

    Raises:
        AccessDenied: The rules do not allow a document, or a change of a record.
    """
    demand = batch.op.note(DEMAND)
    if demand is None or demand.is_late:
        return
    op = batch.operation
    known = op.note(KNOWN_FIRST)
    if known is not None and known.unknown and op.env.transaction is None:
        # In a transaction it is judged when it is stored.
        raise _unknown(op, demand, UNCOMPUTED)
    if op.values is demand.asked and not demand.is_open:
        return
    if op.name == "create":
        await _judge_documents(op, demand)
        return
    rest = await _left_open(op, demand)
    if rest is None:
        if op.env.transaction is None:
            raise _unknown(op, demand, unknown(demand.policy, demand.allowed))
        batch.notes[LATE] = True
        return
    if rest is Domain.TRUE:
        return
    # As in the layer, the condition is a part of the write, and the check makes it an error.
    if await has_any(op, op.domain & ~rest):
        raise refusal(op, demand.policy, demand.right, demand.allowed)
    batch.narrow(rest)


async def _judge_documents(op: Operation, demand: Demand) -> None:
    matches = op.app.matcher(op.model, demand.allowed)
    for position, document in enumerate(op.values if isinstance(op.values, list) else ()):
        if not (position + 1) % PAUSE_EVERY:
            await pause()
        if not matches(document):
            raise document_refusal(op, demand.policy, position, demand.allowed)


async def _left_open(op: Operation, demand: Demand) -> Domain | None:
    """Return the condition on the records before the write that its domain does not contain yet.

    None if only the server knows the result of a change.
    """
    residual = Residual(op.app, op.model, demand.allowed)
    asked = updates_of(demand.asked)
    residuals: dict[Domain, list[Any]] = {}
    for number, (pk, update) in enumerate(updates_of(op.values).items(), 1):
        if not number % PAUSE_EVERY:
            await pause()
        known = asked.get(pk)
        if update is known and not demand.is_open:
            continue
        rest = residual.after(update)
        if rest is None:
            return None
        if residual.is_implied(rest):
            continue
        if known is None or demand.is_open or rest != residual.after(known):
            residuals.setdefault(rest, []).append(pk)
    return together(residuals)


def unknown(policy: Policy, allowed: Domain) -> str:
    """Return why it is not known, without a transaction, what a change would leave."""
    return UNJUDGED if policy.compares_sealed(allowed) else UNKNOWN


def document_refusal(op: Operation, policy: Policy, position: int, allowed: Domain) -> AccessDenied:
    """Make the error for a document that may not be created; the rules allow other ones."""
    detail = f"they do not allow document {position}"
    return policy.refusal("create", op.name, detail, op.env, allowed)


def refusal(op: Operation, policy: Policy, right: Right, allowed: Domain) -> AccessDenied:
    """Make the error for readable records that may not be changed so; the rules allow other ones."""
    return policy.refusal(right, op.name, _DETAIL[right], op.env, allowed)


def _unknown(op: Operation, demand: Demand, detail: str) -> AccessDenied:
    return demand.policy.refusal(demand.right, op.name, detail, op.env, demand.allowed)
