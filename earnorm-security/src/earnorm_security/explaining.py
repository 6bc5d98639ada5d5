"""Why an operation is allowed or refused: verdicts for ``query.why()`` and for ``access_denied``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from earnorm import AccessDenied, BaseModel, Domain
from earnorm.domain import And, Condition
from earnorm.plugin import Operation, Options, Reason, Verdict, ids_of, name_of, verdict_of
from earnorm_security.asking import has_any
from earnorm_security.field_access import check_uses
from earnorm_security.field_rights import FieldPolicy
from earnorm_security.policy import Known, Policy, right_of

MOST: Final = 20
"""The most conditions of one rule that a record is compared with."""
_REASON: Final = "why(): the record that is asked about"
_ONE: Final = Options(limit=1)


async def explained(policy: Policy, op: Operation) -> Verdict:
    """Return why the principal of an operation may do it, or may not; the operation is not done.

    The function of each rule is called once.

    Args:
        policy: The policy of the model.
        op: The operation. If its domain names one record, the verdict is about it.
    """
    right, env, name = right_of(op), op.env, name_of(op.model)
    if policy.is_void:
        open_to_all = Reason("right", right, True, model=name, detail="everybody has it")
        return Verdict(name, right, allowed=True, reasons=(open_to_all,))
    known: Known = {}
    rights = policy.needed(right)
    domain = Domain.TRUE
    for needed in rights:
        domain &= policy.domain(env, needed, known)
    domain = domain.simplify()
    is_lacking = policy.missing(env, right) is not None
    named = ids_of(op.domain, op.app.bind(op.model).schema)
    record = _Record(op, named[0]) if named is not None and len(named) == 1 else None
    if record is not None:
        await record.load()
    reasons: list[Reason] = []
    for concerned, each in _policies(policy):
        if record is None or await record.fulfils(concerned):
            for reason in each.reasons(env, rights, known):
                reasons.append(reason if record is None else await record.judged(reason))
    refused = () if policy.fields is None else _uses(policy.fields, op)
    reasons += refused
    allowed: bool | None = None
    if is_lacking or refused or domain is Domain.FALSE:
        allowed = False
    elif record is not None:
        allowed = record.document is not None and await record.fulfils(domain)
    elif domain is Domain.TRUE:
        allowed = True
    return Verdict(
        name,
        right,
        roles=policy.roles_of(env),
        allowed=allowed,
        reasons=tuple(reasons),
        fields=() if policy.fields is None else tuple(policy.fields.reasons(env)),
        record=None if record is None else str(record.pk),
        domain=None if is_lacking else domain,
    )


def _policies(policy: Policy) -> Iterator[tuple[Domain, Policy]]:
    """Yield the policies that have a say, each with the domain of its records."""
    bases, subclasses = policy.family()
    for base in bases:
        yield Domain.TRUE, base
    yield from subclasses


def _uses(fields: FieldPolicy, op: Operation) -> Sequence[Reason]:
    """Return the right on a field that the operation uses and the principal lacks, if there is one."""
    try:
        check_uses(fields, op)
    except AccessDenied as error:
        verdict = verdict_of(error)
        return () if verdict is None else verdict.reasons
    return ()


class _Record:
    """One record that is asked about; the database judges it, with access rules off."""

    def __init__(self, op: Operation, pk: Any) -> None:
        self.pk = pk
        self.document: dict[str, Any] | None = None
        self._op = op
        self._by_id = Domain([("_id", "=", pk)])
        self._answers: dict[Domain, bool] = {}

    async def load(self) -> None:
        """Read the record."""
        op = self._op
        env = op.env.as_system(_REASON)
        search = op.child("search", op.model, self._by_id, options=_ONE, origin="security", env=env)
        documents: list[dict[str, Any]] = await op.app.execute(search)
        self.document = documents[0] if documents else None

    async def fulfils(self, domain: Domain) -> bool:
        """Return whether the record matches a domain."""
        if domain is Domain.TRUE:
            return True
        answer = self._answers.get(domain)
        if answer is None:
            answer = self._answers[domain] = await has_any(self._op, self._by_id & domain)
        return answer

    async def judged(self, reason: Reason) -> Reason:
        """Return a rule's reason with what it says of this record."""
        domain = reason.domain
        if domain is None:
            return reason
        if self.document is None:
            return replace(reason, allows=False, detail="there is no such record")
        if await self.fulfils(domain):
            return replace(reason, allows=True)
        failing = [one for one in _conditions(domain) if not await self.fulfils(one)]
        details = filter(None, (self._link_of(one) for one in failing))
        detail = "; ".join(dict.fromkeys(details))
        return replace(reason, allows=False, failing=tuple(failing), detail=detail)

    def _link_of(self, condition: Domain) -> str:
        """Return what a condition about another record fails by, in words."""
        if not isinstance(condition, Condition) or self.document is None:
            return ""
        crossing = self._op.app.bind(self._op.model).schema.crossing(condition.path)
        if crossing is None or not crossing.owned:
            return ""
        head = condition.path.removesuffix(f".{crossing.rest}") if crossing.rest else condition.path
        value: Any = self.document
        for key in crossing.path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        how = "is not set" if value is None else "leads to no record that fulfils it"
        return f"the link {head!r} {how}"


def _conditions(domain: Domain) -> list[Domain]:
    """Return the parts of a domain all of which a record has to match, so many as are compared."""
    return list(domain.children)[:MOST] if isinstance(domain, And) else [domain]


async def why(record: BaseModel, operation: str = "read", *, principal: object = None) -> Verdict:
    """Return why somebody may do something with a record, or may not; for ``system`` only.

    It is ``query.why()`` of the query for this one record: see there.

    Args:
        record: A stored record.
        operation: ``"read"``, ``"write"``, ``"unlink"``, ``"export"`` …
        principal: The one whose rights count; the default is the principal of the Env.

    Raises:
        AccessDenied: ``system`` does not ask.
        ConfigurationError: There is no such operation.
    """
    query = type(record).search([("id", "=", record.pk)]).with_archived()
    return await query.why(operation, principal=principal)
