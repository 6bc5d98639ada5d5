"""Verdicts: why an operation is allowed or refused. They are for ``system`` and for plugins.

What a verdict says of rules is no part of an error that a user may see. It is kept beside the error,
and only the hook ``access_denied`` is given it. Secret values are left out of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

from typing_extensions import override

from earnorm.domain import And, Condition, Domain, Not, Or
from earnorm.domain.paths import overlap, without_positions

if TYPE_CHECKING:
    from earnorm.exceptions import EarnORMError
    from earnorm.kernel.binding import BoundModel

E = TypeVar("E", bound="EarnORMError")

HIDDEN: Final = "(secret)"
"""It stands in the place of a secret value."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One right or rule that has a say in an operation.

    Attributes:
        kind: ``"right"``, ``"restriction"``, ``"permission"``, or a plugin's own word.
        name: The name of the right or the rule.
        allows: Whether it allows the operation; None where that depends on the record.
        model: The model whose right or rule it is.
        right: The right that it is about: a rule for two rights is a reason for each.
        roles: The roles that have the right, or that the rule is for; empty means nobody for a
            right, and everybody for a rule.
        domain: The records that a rule allows; None for what is no rule, and for a rule that does not
            concern the principal.
        failing: The conditions of the rule that the record does not fulfil.
        detail: What else helps, in words: ``"the link 'project_id' is not set"``.
    """

    kind: str
    name: str
    allows: bool | None
    _: KW_ONLY
    model: str = ""
    right: str = ""
    roles: Collection[str] = ()
    domain: Domain | None = None
    failing: Sequence[Domain] = ()
    detail: str = ""

    @property
    def is_optional(self) -> bool:
        """True for a permission: it is enough that one of them allows."""
        return self.kind == "permission"

    @override
    def __str__(self) -> str:
        word = (
            "does not allow" if self.allows is False and self.is_optional else _WORDS[self.allows]
        )
        about = f" to {self.right}" if self.right and self.right != self.name else ""
        parts = [f"{self.kind} {self.name!r} of {self.model}{about}: {word}"]
        if self.roles:
            parts.append(f"for {', '.join(sorted(self.roles))}")
        if self.domain is not None:
            parts.append(f"records {self.domain.to_list()}")
        if self.failing:
            parts.append(f"not fulfilled: {[one.to_list() for one in self.failing]}")
        if self.detail:
            parts.append(self.detail)
        return "; ".join(parts)


_WORDS: Final[Mapping[bool | None, str]] = {True: "allows", False: "refuses", None: "decides"}


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """Why somebody may do something with records of a model, or may not.

    ``str()`` of it is a text of several lines. Its values are those of rules, so it is for those who
    may see everything.

    Attributes:
        model: The name of the model.
        operation: What was asked: ``"search"``, ``"write"``, ``"export"`` …
        principal: The id of who acts; None for nobody.
        roles: The roles of who acts, with those that they imply.
        allowed: Whether it is allowed; None where it depends on the record, and no record was named.
        reasons: The rights and rules that have a say.
        fields: The rights that are lacking on single fields, one reason for each field and right.
            They refuse no operation that does not use the field: it is left out, or read masked.
        record: The id of the record that was asked about, as text.
        domain: The records that the operation reaches; None where nobody looked.
        filter: MongoDB's filter of the operation; None where it is not known.
    """

    model: str
    operation: str
    _: KW_ONLY
    principal: str | None = None
    roles: Collection[str] = ()
    allowed: bool | None = None
    reasons: Sequence[Reason] = ()
    fields: Sequence[Reason] = ()
    record: str | None = None
    domain: Domain | None = None
    filter: Mapping[str, Any] | None = None

    @property
    def refusing(self) -> Sequence[Reason]:
        """The rights and rules that refuse it.

        Permissions are among them where none of the same model for the same right may allow it.
        """
        enough = {
            (reason.model, reason.right)
            for reason in self.reasons
            if reason.is_optional and reason.allows is not False
        }
        return [
            reason
            for reason in self.reasons
            if reason.allows is False
            and not (reason.is_optional and (reason.model, reason.right) in enough)
        ]

    @override
    def __str__(self) -> str:
        about = f" {self.record}" if self.record else ""
        roles = f" with the roles {', '.join(sorted(self.roles))}" if self.roles else ""
        lines = [f"{self.operation} on {self.model}{about} by {self.principal or 'nobody'}{roles}"]
        lines[0] += f": {_ALLOWED[self.allowed]}"
        lines += [f"  {reason}" for reason in self.reasons]
        lines += [f"  {reason}" for reason in self.fields]
        if self.domain is not None:
            lines.append(f"  reaches {self.domain.to_list()}")
        if self.filter is not None:
            lines.append(f"  filter {dict(self.filter)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        # Values are left out, because they must not get into a log by accident.
        return f"<Verdict {self.operation} on {self.model}: {_ALLOWED[self.allowed]}>"


_ALLOWED: Final[Mapping[bool | None, str]] = {
    True: "allowed",
    False: "refused",
    None: "depends on the record",
}

_of_errors: WeakKeyDictionary[EarnORMError, Verdict] = WeakKeyDictionary()


def because(error: E, verdict: Verdict) -> E:
    """Note why an operation is refused, and return the error.

    The hook ``access_denied`` is given the verdict. The error itself says nothing of it, since it may
    be shown to the one who is refused.

    Args:
        error: The error that is about to be raised.
        verdict: The reason.
    """
    _of_errors[error] = verdict
    return error


def verdict_of(error: EarnORMError) -> Verdict | None:
    """Return what was noted with ``because``."""
    return _of_errors.get(error)


# -- secrets --------------------------------------------------------------------------------------


def without_secrets(bound: BoundModel, verdict: Verdict) -> Verdict:
    """Return a verdict in whose conditions and filter no secret value stands."""
    reasons = [
        replace(
            reason,
            domain=None if reason.domain is None else _masked(bound, reason.domain),
            failing=[_masked(bound, one) for one in reason.failing],
        )
        for reason in verdict.reasons
    ]
    domain = None if verdict.domain is None else _masked(bound, verdict.domain)
    condition = None if verdict.filter is None else masked_filter(bound, verdict.filter)
    return replace(verdict, reasons=reasons, domain=domain, filter=condition)


def _masked(bound: BoundModel, domain: Domain) -> Domain:
    if isinstance(domain, Condition):
        return _masked_condition(bound, domain)
    if isinstance(domain, And):
        return And(_masked(bound, child) for child in domain.children)
    if isinstance(domain, Or):
        return Or(_masked(bound, child) for child in domain.children)
    return ~_masked(bound, domain.child) if isinstance(domain, Not) else domain


def _masked_condition(bound: BoundModel, condition: Condition) -> Domain:
    at, path = bound, condition.path
    while path and (crossing := at.schema.crossing(path)) is not None:
        model: Any = getattr(crossing.field, "comodel", None)
        if not model:
            break  # a Reference leads into several models
        name: str = model if isinstance(model, str) else model._name
        at, path = at.app.bind(at.app.model(name)), crossing.rest
    if condition.operator in ("any", "not any") and isinstance(condition.value, tuple):
        inner = Domain(list(condition.value))
        is_secret = _masked(at, inner) != inner
    else:
        is_secret = path.partition(".")[0] in at.schema.secrets
    return Condition(condition.path, "=", HIDDEN) if is_secret else condition


def masked_filter(bound: BoundModel, condition: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filter in which no secret value stands."""
    paths = bound.secret_paths
    shown: dict[str, Any] = dict(condition) if not paths else _shown(condition, paths)
    return shown


def _shown(value: Any, paths: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _is_secret(str(key), paths) else _shown(inner, paths)
            for key, inner in cast("Mapping[str, Any]", value).items()
        }
    if isinstance(value, list):
        return [_shown(inner, paths) for inner in value]
    return value


def _is_secret(key: str, paths: Sequence[str]) -> bool:
    return not key.startswith("$") and any(overlap(without_positions(key), path) for path in paths)
