"""The layers: one per kind of operation, outermost, around every way to the database.

What a principal cannot read doesn't exist for it: it is neither found nor counted, and a change or a
deletion passes by it. What it can read but not change is refused, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from earnorm import App, Domain, Env
from earnorm.plugin import JUDGED, Call, Lock, Operation, Options, PerRecord, Update
from earnorm_security.declarations import Right
from earnorm_security.policy import RIGHT_OF, Policy
from earnorm_security.residual import residual

_ONE = Options(limit=1)
_RULES = "security: the records that a rule refers to"
_REASON = "security: are there records that may be read but not changed?"


class Reading:
    """Narrows search, count and group to the records that may be read."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Pass the operation on, narrowed."""
        if not op.env.system:
            policy = self._policy
            policy.require(op.env, "read", op.name)
            visible = _both(op.domain, await _reach(policy, op.env, "read"))
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
        changeable = await _reach(policy, op.env, "write")
        if changeable is not Domain.TRUE and await _any(op, _both(visible, ~changeable)):
            raise policy.refusal(
                "write", "lock", "they do not allow to change every record that was to be locked"
            )
        return _both(visible, changeable)


class Creating:
    """Refuses documents that the create rules don't allow; all of them, when one is refused."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Check every document, then pass the operation on as it is."""
        if not op.env.system:
            policy = self._policy
            policy.require(op.env, "create", op.name)
            allowed = await _reach(policy, op.env, "create")
            if allowed is not Domain.TRUE:
                matches = op.app.matcher(policy.model, allowed)
                documents = op.values if isinstance(op.values, list) else []
                for position, document in enumerate(documents):
                    if not matches(document):
                        raise policy.refusal(
                            "create", op.name, f"they do not allow document {position}"
                        )
        return await call_next(op)


class Changing:
    """Narrows write and unlink to the records that may be changed, and refuses the readable rest."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Refuse, or pass the operation on, narrowed."""
        if op.env.system or op.notes.get(JUDGED):
            return await call_next(op)
        policy, env, right = self._policy, op.env, RIGHT_OF[op.name]
        policy.require(env, right, op.name)
        # What the caller asks of other records is answered as the caller; the check below is not.
        op = op.replace(domain=await op.app.resolve(policy.model, op.domain, env=env))
        readable = await _reach(policy, env, "read")
        same = policy.reaches_the_same(env, "read", right)
        changeable = readable if same else await _reach(policy, env, right)
        visible = _both(op.domain, readable)

        # Each demand is part of the write itself, so a record that changes between the check and
        # the write is left alone. The check is there to refuse aloud what would be left alone.
        remains = self._remaining(op, right, changeable)
        check = remains if same else _both(changeable, remains)
        if check is not Domain.TRUE and await _any(op, _both(visible, ~check)):
            raise policy.refusal(right, op.name, _DETAIL[right])
        return await call_next(op.replace(domain=_both(visible, check)))

    def _remaining(self, op: Operation, right: Right, changeable: Domain) -> Domain:
        """What a record must fulfil so that it doesn't leave the rule by this write."""
        if changeable is Domain.TRUE:
            return Domain.TRUE
        groups: dict[Domain, list[Any]] = {}
        for key, update in _updates(op):
            rest = residual(op.app, self._policy.model, changeable, update)
            if rest is None:
                raise self._policy.refusal(
                    right,
                    op.name,
                    "whether this change is allowed is known only for whole values that are set "
                    "or unset; set the whole field instead",
                )
            # A change of other fields leaves the rule itself, and that is demanded anyway.
            if rest != changeable and rest is not Domain.TRUE:
                groups.setdefault(rest, []).append(key)
        if isinstance(op.values, Update):
            return next(iter(groups), Domain.TRUE)
        result = Domain.TRUE
        for rest, keys in groups.items():
            result &= Domain([("_id", "not in", keys)]) | rest
        return result.simplify()


async def _reach(policy: Policy, env: Env, right: Right) -> Domain:
    """The records that a right reaches, with nothing left to ask of other models.

    What a rule says of other records it says whoever may read those, so they are asked for with
    access rules off.
    """
    domain = policy.domain(env, right)
    if domain is Domain.TRUE or domain is Domain.FALSE:
        return domain
    return await env.app.resolve(policy.model, domain, env=env.replace(system=True, reason=_RULES))


def layer_for(policy: Policy, operation: str) -> Reading | Creating | Changing:
    """The layer that enforces a policy on one kind of operation."""
    return _LAYERS[RIGHT_OF[operation]](policy)


_LAYERS: dict[Right, type[Reading] | type[Creating] | type[Changing]] = {
    "read": Reading,
    "create": Creating,
    "write": Changing,
    "unlink": Changing,
}
_DETAIL: dict[Right, str] = {
    "write": "they do not allow to change every record that was asked for, or to change it so",
    "unlink": "they do not allow to delete every record that was asked for",
}


def _updates(op: Operation) -> Iterator[tuple[Any, Update]]:
    if isinstance(op.values, PerRecord):
        yield from op.values.items()
    elif isinstance(op.values, Update):
        yield None, op.values


def _both(domain: Domain, rule: Domain) -> Domain:
    if rule is Domain.TRUE:
        return domain
    return domain & rule


async def _any(op: Operation, domain: Domain) -> bool:
    """Whether such a record exists; asked in the operation's own transaction."""
    simple = domain.simplify()
    if simple is Domain.FALSE:
        return False
    env = op.env.replace(system=True, reason=_REASON)
    app: App = op.app
    found: int = await app.execute(Operation("count", op.model, env, simple, options=_ONE))
    return found > 0
