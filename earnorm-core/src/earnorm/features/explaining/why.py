"""``await query.why()``: asks the plugins why somebody may do something, without doing it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Domain
from earnorm.exceptions import AccessDenied, ConfigurationError, NotSupported, PluginError, nearest
from earnorm.kernel.acting import principal_of
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.observing.verdicts import Verdict, without_secrets
from earnorm.kernel.operations import (
    PURPOSE,
    REQUEST,
    Operation,
    OperationName,
    Update,
    made_by,
)
from earnorm.kernel.plugins.loading import settled
from earnorm.kernel.serving.requests import DryRun

if TYPE_CHECKING:
    from earnorm.model.query import Query

_OPERATIONS: Final[dict[str, OperationName]] = {
    **{name: name for name in ("search", "count", "group", "create", "write", "unlink")},
    "read": "search",
    "aggregate": "group",
    **dict.fromkeys(("export", "watch", "explain"), "search"),
}
_PURPOSES: Final = frozenset({"export", "watch", "explain"})
_REASON: Final = "why(): the filter of the rules"


async def why(query: Query[Any], operation: str, principal: object) -> Verdict:
    """Explain the access to the records of a query; see ``Query.why``."""
    need_feature("explaining", "why()")
    env = current_env()
    if not env.system:
        raise AccessDenied(
            'why() shows the rules: only inside earnorm.system(reason="..."), with principal= or inside '
            "act_as() for whose rights it is about"
        )
    name = _OPERATIONS.get(operation)
    if name is None:
        hint = nearest(operation, _OPERATIONS) if isinstance(operation, str) else ""
        raise ConfigurationError(f"why(): no operation {str(operation)[:40]!r}{hint}")
    op = _operation(query, name, operation, _env_of(env, principal))
    verdicts = [verdict async for verdict in _asked(op)]
    verdict = _together(op, operation, verdicts)
    if verdict.domain is not None and verdict.allowed is not False:
        verdict = replace(verdict, filter=await _filter(op, verdict.domain))
    return without_secrets(env.app.bind(op.model), verdict)


def _env_of(env: Env, principal: object) -> Env:
    """Return the Env of the one whose rights the question is about."""
    env = env.as_principal()
    if principal is None:
        return env
    return env.replace(principal=principal_of(env, principal))


def _operation(query: Query[Any], name: OperationName, asked: str, env: Env) -> Operation:
    _, op = query._operation("search", env)
    if asked in _PURPOSES:
        return op.with_note(PURPOSE, asked)
    if name == "create":
        return replace(op, name=name, values=[], domain=Domain.TRUE)
    return replace(op, name=name, values=Update({}) if name == "write" else None)


async def _asked(op: Operation) -> AsyncIterator[Verdict]:
    for plugin, hook in op.app.loaded.implementations("explain_access"):
        verdict = await settled(hook(op=op), plugin, "explain_access")
        if verdict is None:
            continue
        if not isinstance(verdict, Verdict):
            raise PluginError(
                f"plugin {plugin!r} returned a {type(verdict).__name__} in explain_access(self, op), "
                f"and not a Verdict or None"
            ).coded("hook_contract")
        yield verdict


def _together(op: Operation, operation: str, verdicts: list[Verdict]) -> Verdict:
    """Return one verdict of those of all plugins: each of them must allow it."""
    answers = {verdict.allowed for verdict in verdicts} or {True}
    allowed = False if False in answers else None if None in answers else True
    domain = Domain.TRUE
    for verdict in verdicts:
        if verdict.domain is not None:
            domain &= verdict.domain
    principal = op.env.principal
    first = verdicts[0] if verdicts else Verdict(op.model._name, operation)
    return replace(
        first,
        operation=operation,
        principal=None if principal is None else principal.id,
        roles=frozenset[str]().union(*(verdict.roles for verdict in verdicts)),
        allowed=allowed,
        reasons=tuple(reason for verdict in verdicts for reason in verdict.reasons),
        fields=tuple(reason for verdict in verdicts for reason in verdict.fields),
        domain=domain.simplify(),
        filter=None,
    )


async def _filter(op: Operation, domain: Domain) -> dict[str, Any] | None:
    """Return the filter that a search with these rules would send; None if no filter can say it."""
    dry_run, env = DryRun(), op.env.as_system(_REASON)
    notes = {**made_by("explaining", op), REQUEST: dry_run}
    try:
        await op.app.execute(Operation("search", op.model, env, op.domain & domain, notes=notes))
    except NotSupported:
        return None
    return None if dry_run.op is None else dict(dry_run.filter)
