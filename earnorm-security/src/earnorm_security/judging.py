"""The JUDGE step: access rules judge the final values, including those that other steps filled in.

The outermost layer refuses operations by the values that were asked for, and leaves a demand on the
operation. An operation without a demand (of the system, or of a model whose rules allow all
records) is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from earnorm import AccessDenied, Domain
from earnorm.plugin import DocumentBatch, Note, Operation, Options
from earnorm_security.declarations import Right
from earnorm_security.policy import Policy
from earnorm_security.residual import Residual, together, updates_of

UNKNOWN: Final = (
    "whether this change is allowed is known only for whole values that are set or unset; "
    "set the whole field instead"
)
_ONE: Final = Options(limit=1)
_REASON: Final = "security: are there records that may be read but not changed?"
_DETAIL: Final[Mapping[str, str]] = {
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
    """

    policy: Policy
    right: Right
    allowed: Domain
    asked: object
    is_open: bool


DEMAND: Final[Note[Demand]] = Note("security demand")


async def judge(batch: DocumentBatch) -> None:
    """Refuse an operation whose final values would take a record out of the rules.

    Raises:
        AccessDenied: The rules do not allow a document, or a change of a record.
    """
    demand = batch.op.note(DEMAND)
    if demand is None:
        return
    op = batch.operation
    if op.values is demand.asked and not demand.is_open:
        return
    if op.name == "create":
        _judge_documents(op, demand)
        return
    rest = _left_open(op, demand)
    if rest is Domain.TRUE:
        return
    # As in the layer, the condition is a part of the write, and the check makes it an error.
    if await has_any(op, op.domain & ~rest):
        raise refusal(op, demand.policy, demand.right)
    batch.narrow(rest)


def _judge_documents(op: Operation, demand: Demand) -> None:
    matches = op.app.matcher(op.model, demand.allowed)
    for position, document in enumerate(op.values if isinstance(op.values, list) else ()):
        if not matches(document):
            raise document_refusal(op, demand.policy, position)


def _left_open(op: Operation, demand: Demand) -> Domain:
    """Return the condition on the records before the write that its domain does not contain yet."""
    residual = Residual(op.app, op.model, demand.allowed)
    asked = updates_of(demand.asked)
    residuals: dict[Domain, list[Any]] = {}
    for pk, update in updates_of(op.values).items():
        known = asked.get(pk)
        if update is known and not demand.is_open:
            continue
        rest = residual.after(update)
        if rest is None:
            raise demand.policy.refusal(demand.right, op.name, UNKNOWN)
        if residual.is_implied(rest):
            continue
        if known is None or demand.is_open or rest != residual.after(known):
            residuals.setdefault(rest, []).append(pk)
    return together(residuals)


def document_refusal(op: Operation, policy: Policy, position: int) -> AccessDenied:
    """Make the error for a document that may not be created."""
    return policy.refusal("create", op.name, f"they do not allow document {position}")


def refusal(op: Operation, policy: Policy, right: Right) -> AccessDenied:
    """Make the error for readable records that may not be changed in this way."""
    return policy.refusal(right, op.name, _DETAIL[right])


async def has_any(op: Operation, domain: Domain) -> bool:
    """Return whether such a record exists, asked in the operation's own transaction."""
    simple = domain.simplify()
    if simple is Domain.FALSE:
        return False
    env = op.env.replace(system=True, reason=_REASON)
    count = op.child("count", op.model, simple, options=_ONE, origin="security", env=env)
    number: int = await op.app.execute(count)
    return number > 0
