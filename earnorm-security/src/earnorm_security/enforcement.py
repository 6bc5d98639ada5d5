"""The layers: one per kind of operation, outermost, around every way to the database.

What a principal cannot read doesn't exist for it: it is neither found nor counted, and a change or a
deletion passes by it. What it can read but not change is refused, before anything is written.
"""

from __future__ import annotations

from typing import Any

from earnorm import Domain, Env
from earnorm.plugin import JUDGED, Call, Lock, Operation, Stage
from earnorm_security.declarations import Right
from earnorm_security.judging import (
    DEMAND,
    UNKNOWN,
    Demand,
    document_refusal,
    has_any,
    refusal,
)
from earnorm_security.policy import RIGHT_OF, Policy
from earnorm_security.residual import Residual, together, updates_of

_RULES = "security: the records that a rule refers to"


class Reading:
    """Narrows search, count and group to the records that may be read."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Pass the operation on, narrowed."""
        if not op.env.system:
            policy = self._policy
            policy.require(op.env, "read", op.name)
            visible = _both(op.domain, await _reached(policy, op.env, "read"))
            if isinstance(op.request, Lock):
                # What the caller asks of other records is answered as the caller.
                visible = await op.app.resolve(policy.model, visible, env=op.env)
                visible = await self._lockable(op, visible)
            op = op.replace(domain=visible)
        return await call_next(op)

    async def _lockable(self, op: Operation, visible: Domain) -> Domain:
        """A lock keeps others from writing, so it takes the right to write each of the records."""
        policy = self._policy
        policy.require(op.env, "write", "lock")
        changeable = await _reached(policy, op.env, "write")
        if changeable is not Domain.TRUE and await has_any(op, _both(visible, ~changeable)):
            raise policy.refusal(
                "write", "lock", "they do not allow to change every record that was to be locked"
            )
        return _both(visible, changeable)


class Creating:
    """Refuses documents that the create rules cannot allow, whatever is filled in; all of them, when one is refused."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Refuse, or pass the operation on with the demand that its documents have to fulfil in the end."""
        if not op.env.system:
            policy = self._policy
            policy.require(op.env, "create", op.name)
            allowed = await _reached(policy, op.env, "create")
            if allowed is not Domain.TRUE:
                is_open = self._is_open(op, allowed)
                demand = Demand(policy, "create", allowed, op.values, is_open)
                op = op.with_note(DEMAND, demand)
        return await call_next(op)

    def _is_open(self, op: Operation, allowed: Domain) -> bool:
        """Say whether a document has to get a value yet that makes it allowed.

        Raises:
            AccessDenied: One cannot be allowed.
        """
        matches = op.app.matcher(op.model, allowed)
        residual: Residual | None = None
        for position, document in enumerate(op.values if isinstance(op.values, list) else ()):
            if matches(document):
                continue
            if residual is None:
                residual = Residual(op.app, op.model, allowed)
            if not _is_filled_in(op) or residual.of_new(document) is Domain.FALSE:
                raise document_refusal(op, self._policy, position)
        return residual is not None


class Changing:
    """Narrows write and unlink to the records that may be changed, and refuses the readable rest."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Refuse, or pass the operation on, narrowed, with the demand that its records have to fulfil in the end."""
        if op.env.system or op.notes.get(JUDGED):
            return await call_next(op)
        policy, env, right = self._policy, op.env, RIGHT_OF[op.name]
        policy.require(env, right, op.name)
        # What the caller asks of other records is answered as the caller; the check below is not.
        op = op.replace(domain=await op.app.resolve(policy.model, op.domain, env=env))
        readable = await _reached(policy, env, "read")
        same = policy.reaches_the_same(env, "read", right)
        changeable = readable if same else await _reached(policy, env, right)
        visible = _both(op.domain, readable)

        # Each demand is part of the write itself, so a record that changes between the check and
        # the write is left alone. The check is there to refuse aloud what would be left alone.
        before = Domain.TRUE if same else changeable
        rest = self._rest(op, right, changeable)
        check, is_open = _both(before, rest), False
        if check is not Domain.TRUE and await has_any(op, visible & ~check):
            is_open = rest is not Domain.TRUE and rest is not Domain.FALSE and _is_filled_in(op)
            if not is_open or (before is not Domain.TRUE and await has_any(op, visible & ~before)):
                raise refusal(op, policy, right)
            check = before
        if op.name == "write" and changeable is not Domain.TRUE:
            op = op.with_note(DEMAND, Demand(policy, right, changeable, op.values, is_open))
        return await call_next(op.replace(domain=_both(visible, check)))

    def _rest(self, op: Operation, right: Right, changeable: Domain) -> Domain:
        """Make the condition, beside the rule itself, under which this write takes no record out of the rule."""
        updates = updates_of(op.values)
        if changeable is Domain.TRUE or not updates:
            return Domain.TRUE
        residual = Residual(op.app, self._policy.model, changeable)
        residuals: dict[Domain, list[Any]] = {}
        for pk, update in updates.items():
            rest = residual.after(update)
            if rest is None:
                raise self._policy.refusal(right, op.name, UNKNOWN)
            # The rule itself is demanded anyway; it remains where a change does not concern it.
            if not residual.is_implied(rest):
                residuals.setdefault(rest, []).append(pk)
        return together(residuals)


def _is_filled_in(op: Operation) -> bool:
    """Say whether steps of the model, or of a class below it, may fill values in before they are judged."""
    bound = op.app.bind(op.model)
    below = [] if bound.classes is None else [each for _, each in bound.classes.below()]
    return any(
        Stage.IDENTITY <= step.stage < Stage.JUDGE and step.on in (None, op.name)
        for each in (bound, *below)
        for step in each.steps()
    )


async def _reached(policy: Policy, env: Env, right: Right) -> Domain:
    """Make the domain of the records that a right reaches, with nothing left to ask of other models.

    A rule means the same whoever may read the other records that it refers to, so they are asked for with
    access rules off.
    """
    domain = policy.domain(env, right)
    if domain is Domain.TRUE or domain is Domain.FALSE:
        return domain
    return await env.app.resolve(policy.model, domain, env=env.replace(system=True, reason=_RULES))


def layer_for(policy: Policy, operation: str) -> Reading | Creating | Changing:
    """Make the layer that enforces a policy on one kind of operation."""
    return _LAYERS[RIGHT_OF[operation]](policy)


_LAYERS: dict[Right, type[Reading] | type[Creating] | type[Changing]] = {
    "read": Reading,
    "create": Creating,
    "write": Changing,
    "unlink": Changing,
}


def _both(domain: Domain, rule: Domain) -> Domain:
    if rule is Domain.TRUE:
        return domain
    return domain & rule
