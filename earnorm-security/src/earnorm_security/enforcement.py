"""The layers: one for each kind of operation, outermost, on every way to the database.

A record that a principal cannot read does not exist for it: it is neither found nor counted, and
a change or a deletion skips it. An operation that would change a readable record without the
right to change it is refused before anything is written.
"""

from __future__ import annotations

from typing import Any

from earnorm import ConcurrencyError, Domain
from earnorm.plugin import (
    JUDGED,
    KNOWN_FIRST,
    Call,
    KnownFirst,
    Lock,
    Operation,
    Stage,
    name_of,
    pause,
)
from earnorm_security.asking import has_any
from earnorm_security.declarations import Right
from earnorm_security.field_access import check_changes, checked_read, cut, without_hidden
from earnorm_security.judging import (
    DEMAND,
    PAUSE_EVERY,
    UNJUDGED,
    Demand,
    document_refusal,
    is_judged_late,
    refusal,
    unknown,
)
from earnorm_security.policy import RIGHT_OF, Policy, right_of
from earnorm_security.residual import Residual, together, updates_of
from earnorm_security.server_words import without_words
from earnorm_security.strict import held


class Reading:
    """Restricts search, count and group to the records that may be read."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Pass the operation on, restricted."""
        if not op.env.system:
            policy, changes = self._policy, None
            right = right_of(op)
            policy.require(
                op.env, right, op.name if right in ("read", RIGHT_OF[op.name]) else right
            )
            limits = policy.limits if op.is_asked_for else None
            if limits is not None:
                limits.check(op.domain)
                limits.check_extent(op)
                op = limits.narrowed(op)
            fields = policy.fields
            if fields is not None:
                op, changes = checked_read(fields, op)
            op = await self._restricted(op, right)
            answer = await (without_words(call_next(op)) if op.name == "group" else call_next(op))
            if limits is not None:
                limits.check_answer(op, answer)
            if changes is None or fields is None:
                return answer
            return await cut(fields, changes, answer)
        return await call_next(op)

    async def _restricted(self, op: Operation, right: Right) -> Operation:
        """Return the operation on those of its records that may be read."""
        policy = self._policy
        visible = _both(op.domain, await policy.reached(op.env, right))
        if isinstance(op.request, Lock):
            # The caller's conditions on other records are resolved with the caller's rights.
            visible = await op.app.resolve(policy.model, visible, env=op.env)
            visible = await self._lockable(op, visible)
        return op if visible is op.domain else op.replace(domain=visible)

    async def _lockable(self, op: Operation, visible: Domain) -> Domain:
        """Refuse a lock unless each record may be written, because a lock stops other writers."""
        policy = self._policy
        policy.require(op.env, "write", "lock")
        changeable = await policy.reached(op.env, "write")
        if changeable is not Domain.TRUE and await has_any(op, _both(visible, ~changeable)):
            detail = "they do not allow to change every record that was to be locked"
            raise policy.refusal("write", "lock", detail, op.env, changeable)
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
            op = await held(policy, "create", op)
            allowed = await policy.reached(op.env, "create")
            in_transaction = op.env.transaction is not None
            asks_itself = in_transaction and policy.asks_itself(op.env, "create")
            if allowed is not Domain.TRUE or asks_itself:
                is_late = asks_itself or (in_transaction and is_judged_late(policy, op, allowed))
                is_open = not is_late and await self._is_open(op, allowed)
                computed = policy.computed_in(allowed)
                demand = Demand(
                    policy, "create", allowed, op.values, is_open, computed, is_late, asks_itself
                )
                op = op.with_note(DEMAND, demand)
            return await without_words(call_next(op))
        return await call_next(op)

    async def _is_open(self, op: Operation, allowed: Domain) -> bool:
        """Return whether a document still needs a filled-in value to be allowed.

        Raises:
            AccessDenied: A document cannot become allowed.
        """
        if self._policy.compares_sealed(allowed):  # and no transaction is running
            raise self._policy.refusal("create", op.name, UNJUDGED, op.env, allowed)
        matches = op.app.matcher(op.model, allowed)
        residual: Residual | None = None
        for position, document in enumerate(op.values if isinstance(op.values, list) else ()):
            if not (position + 1) % PAUSE_EVERY:
                await pause()
            if matches(document):
                continue
            if residual is None:
                residual = Residual(op.app, op.model, allowed)
            if not _is_filled_in(op) or residual.of_new(document) is Domain.FALSE:
                raise document_refusal(op, self._policy, position, allowed)
        return residual is not None


class Changing:
    """Restricts write and unlink to readable records, and refuses if one must not be changed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Refuse, or pass the operation on, restricted, with a demand on its final values."""
        if op.env.system or op.notes.get(JUDGED):
            return await call_next(op)
        read: dict[Any, Any] | None = None
        while True:
            restricted = await self._restricted(op)
            result = await without_words(call_next(restricted))
            known = restricted.note(KNOWN_FIRST)
            if known is None or result >= len(known.read) or op.env.transaction is not None:
                return result
            if result:
                raise ConcurrencyError(
                    f"{name_of(op.model)}: {result} of {len(known.read)} records were written; the others "
                    f"were changed meanwhile, so their computed values have to be judged again"
                )
            if known.read == read:
                return result  # nothing has changed, so the write has another condition of its own
            read = known.read

    async def _restricted(self, op: Operation) -> Operation:
        """Return the operation, restricted, with a demand on its final values.

        Raises:
            AccessDenied: It would change a record that may be read but not changed so.
        """
        policy, env, right = self._policy, op.env, RIGHT_OF[op.name]
        policy.require(env, right, op.name)
        if policy.fields is not None:
            check_changes(policy.fields, op)
            without_hidden(policy.fields, op)
        if op.is_asked_for:
            policy.limits.check(op.domain)
        # The caller's conditions on other records are resolved with the caller's rights; the check
        # below runs as the system.
        op = op.replace(domain=await op.app.resolve(policy.model, op.domain, env=env))
        readable = await policy.reached(env, "read")
        same = policy.reaches_the_same(env, "read", right)
        changeable = readable if same else await policy.reached(env, right)
        visible = _both(op.domain, readable)

        # Each demand is a part of the write itself, so the write skips a record that changes
        # between the check and the write. The check turns skipped records into an error.
        before = Domain.TRUE if same else changeable
        in_transaction = op.name == "write" and env.transaction is not None
        asks_itself = in_transaction and policy.asks_itself(env, right)
        is_late = asks_itself or (in_transaction and is_judged_late(policy, op, changeable))
        rest = Domain.TRUE if is_late else await self._rest(op, right, changeable)
        check, is_open = _both(before, rest), False
        if check is not Domain.TRUE and await has_any(op, visible & ~check):
            is_open = rest is not Domain.TRUE and rest is not Domain.FALSE and _is_filled_in(op)
            if not is_open or (before is not Domain.TRUE and await has_any(op, visible & ~before)):
                raise refusal(op, policy, right, changeable)
            check = before
        if op.name == "write" and (changeable is not Domain.TRUE or asks_itself):
            computed = policy.computed_in(changeable)
            demand = Demand(
                policy, right, changeable, op.values, is_open, computed, is_late, asks_itself
            )
            op = op.with_note(DEMAND, demand)
            if computed:
                op = op.with_note(KNOWN_FIRST, KnownFirst(computed))
        return await held(policy, right, op.replace(domain=_both(visible, check)))

    async def _rest(self, op: Operation, right: Right, changeable: Domain) -> Domain:
        """Return the conditions on a record before this write so that it does not leave the rule.

        The conditions of the rule itself are left out.
        """
        updates = updates_of(op.values)
        if changeable is Domain.TRUE or not updates:
            return Domain.TRUE
        residual = Residual(op.app, self._policy.model, changeable)
        residuals: dict[Domain, list[Any]] = {}
        for number, (pk, update) in enumerate(updates.items(), 1):
            if not number % PAUSE_EVERY:
                await pause()
            rest = residual.after(update)
            if rest is None:
                raise self._policy.refusal(
                    right, op.name, unknown(self._policy, changeable), op.env, changeable
                )
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


def layer_for(policy: Policy, operation: str) -> Reading | Creating | Changing:
    """Return the layer that enforces a policy on one kind of operation."""
    return _LAYERS[RIGHT_OF[operation]](policy)


_LAYERS: dict[Right, type[Reading] | type[Creating] | type[Changing]] = {
    "read": Reading,
    "aggregate": Reading,
    "create": Creating,
    "write": Changing,
    "unlink": Changing,
}


def _both(domain: Domain, rule: Domain) -> Domain:
    if rule is Domain.TRUE:
        return domain
    return rule if domain is Domain.TRUE else domain & rule
