"""The layers: one for each kind of operation, outermost, on every way to the database.

A record that a principal cannot read does not exist for it: it is neither found nor counted, and
a change or a deletion skips it. An operation that would change a readable record without the
right to change it is refused before anything is written.
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
    """Restricts search, count and group to the records that may be read."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Pass the operation on, restricted."""
        if not op.env.system:
            policy = self._policy
            policy.require(op.env, "read", op.name)
            visible = _both(op.domain, await _reached(policy, op.env, "read"))
            if isinstance(op.request, Lock):
                # The caller's conditions on other records are resolved with the caller's rights.
                visible = await op.app.resolve(policy.model, visible, env=op.env)
                visible = await self._lockable(op, visible)
            op = op.replace(domain=visible)
        return await call_next(op)

    async def _lockable(self, op: Operation, visible: Domain) -> Domain:
        """Refuse a lock unless each record may be written, because a lock stops other writers."""
        policy = self._policy
        policy.require(op.env, "write", "lock")
        changeable = await _reached(policy, op.env, "write")
        if changeable is not Domain.TRUE and await has_any(op, _both(visible, ~changeable)):
            raise policy.refusal(
                "write", "lock", "they do not allow to change every record that was to be locked"
            )
        return _both(visible, changeable)


class Creating:
    """Refuses documents that no filled-in value can make allowed; one of them refuses all."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Refuse, or pass the operation on with a demand on its final documents."""
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
        """Return whether a document still needs a filled-in value to be allowed.

        Raises:
            AccessDenied: A document cannot become allowed.
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
    """Restricts write and unlink to readable records, and refuses if one must not be changed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Refuse, or pass the operation on, restricted, with a demand on its final values."""
        if op.env.system or op.notes.get(JUDGED):
            return await call_next(op)
        policy, env, right = self._policy, op.env, RIGHT_OF[op.name]
        policy.require(env, right, op.name)
        # The caller's conditions on other records are resolved with the caller's rights; the check
        # below runs as the system.
        op = op.replace(domain=await op.app.resolve(policy.model, op.domain, env=env))
        readable = await _reached(policy, env, "read")
        same = policy.reaches_the_same(env, "read", right)
        changeable = readable if same else await _reached(policy, env, right)
        visible = _both(op.domain, readable)

        # Each demand is a part of the write itself, so the write skips a record that changes
        # between the check and the write. The check turns skipped records into an error.
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
        """Return the conditions on a record before this write so that it does not leave the rule.

        The conditions of the rule itself are left out.
        """
        updates = updates_of(op.values)
        if changeable is Domain.TRUE or not updates:
            return Domain.TRUE
        residual = Residual(op.app, self._policy.model, changeable)
        residuals: dict[Domain, list[Any]] = {}
        for pk, update in updates.items():
            rest = residual.after(update)
            if rest is None:
                raise self._policy.refusal(right, op.name, UNKNOWN)
            # The rest of a change of other fields is the rule itself, which is demanded anyway.
            if not residual.is_implied(rest):
                residuals.setdefault(rest, []).append(pk)
        return together(residuals)


def _is_filled_in(op: Operation) -> bool:
    """Return whether steps of the model or of its subclasses may fill in values before JUDGE."""
    bound = op.app.bind(op.model)
    below = [] if bound.classes is None else [subclass for _, subclass in bound.classes.below()]
    return any(
        Stage.IDENTITY <= step.stage < Stage.JUDGE and step.on in (None, op.name)
        for class_bound in (bound, *below)
        for step in class_bound.steps()
    )


async def _reached(policy: Policy, env: Env, right: Right) -> Domain:
    """Return the records that a right reaches, without conditions about other models.

    A rule may refer to records that the principal cannot read, so they are searched with access
    rules off.
    """
    domain = policy.domain(env, right)
    if domain is Domain.TRUE or domain is Domain.FALSE:
        return domain
    return await env.app.resolve(policy.model, domain, env=env.replace(system=True, reason=_RULES))


def layer_for(policy: Policy, operation: str) -> Reading | Creating | Changing:
    """Return the layer that enforces a policy on one kind of operation."""
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
