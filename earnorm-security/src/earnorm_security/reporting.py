"""``earnorm security report`` and ``earnorm doctor``: who may do what, by model and role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from earnorm import App
from earnorm.plugin import Finding, ModelView
from earnorm_security.declarations import EVERYBODY, RIGHTS, Rule
from earnorm_security.field_rights import FieldPolicy
from earnorm_security.policy import Policy

if TYPE_CHECKING:
    from earnorm_security.stored.current import CurrentPolicies
    from earnorm_security.stored.policies import Row, StoredPart

NAMED: Final = 20
"""The most models that one finding names."""


@dataclass(frozen=True, slots=True)
class RuleReport:
    """One rule of a model.

    Attributes:
        name: Its name.
        kind: ``"restriction"`` or ``"permission"``.
        roles: The roles that it is for; empty means everybody.
        operations: The rights that it is about.
        reads: The paths that its domain looks at; None where a function makes the domain.
    """

    name: str
    kind: str
    roles: Sequence[str]
    operations: Sequence[str]
    reads: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class FieldReport:
    """The rights on one field.

    Attributes:
        name: Its name.
        rights: For each right that not everybody has the roles that have it, as a list of lists: a
            principal needs a role of each. An empty inner list is nobody.
        masked: Those who may not read it see another text in its place.
    """

    name: str
    rights: dict[str, Sequence[Sequence[str]]]
    masked: bool

    def line(self) -> str:
        """Return it as a line of text."""
        by_roles: dict[str, list[str]] = {}
        for right, demands in self.rights.items():
            told = " and ".join(" or ".join(roles) or "nobody" for roles in demands)
            by_roles.setdefault(told, []).append(right)
        parts = [f"{', '.join(rights)}: {roles}" for roles, rights in by_roles.items()]
        masked = "; others read it masked" if self.masked else ""
        return f"field {self.name!r}: {'; '.join(parts)}{masked}"


@dataclass(frozen=True, slots=True)
class StoredReport:
    """One stored policy of a model.

    Attributes:
        name: Its name.
        kind: ``"right"``, ``"permission"`` or ``"restriction"``.
        version: The number of its edits.
        active: It is not switched off.
        problem: Why it cannot be read, and so allows nothing; empty if it can.
    """

    name: str
    kind: str
    version: object
    active: bool
    problem: str

    @classmethod
    def of(cls, row: Row, problem: str) -> StoredReport:
        """Return what there is to tell of a policy as it was read."""
        return cls(row.name, row.kind, row.version, row.active, problem)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The rights and rules of one model.

    Attributes:
        model: Its name.
        is_open: Nobody has declared a right or a rule, and everybody may do everything.
        bookkeeping: The plugin or feature whose own records they are, if it is one.
        roles: For each role that has a right, its rights; ``"*"`` is everybody.
        rules: Its own rules; those of its bases in a family hold, too.
        fields: Its fields with rights of their own, computed ones that follow from such fields included.
        stored: The stored policies, whose rights and rules are among the others.
        tenant: The field that tells whose each record is; None if they belong to no tenants.
    """

    model: str
    is_open: bool
    bookkeeping: str | None
    roles: dict[str, Sequence[str]]
    rules: Sequence[RuleReport]
    fields: Sequence[FieldReport] = ()
    stored: Sequence[StoredReport] = ()
    tenant: str | None = None

    def lines(self) -> Iterable[str]:
        """Yield it as lines of text."""
        owner = f" (bookkeeping of {self.bookkeeping})" if self.bookkeeping else ""
        state = ": open to everybody" if self.is_open else "" if self.roles else ": closed"
        yield f"{self.model}{owner}{state}"
        if self.tenant is not None:
            yield f"  each record belongs to its {self.tenant}"
        if not self.is_open:
            for role, rights in self.roles.items():
                yield f"  {_named(role)}: {', '.join(rights)}"
        for rule in self.rules:
            roles = ", ".join(rule.roles) or "everybody"
            reads = "a function" if rule.reads is None else ", ".join(rule.reads) or "nothing"
            yield (
                f"  {rule.kind} {rule.name!r} for {roles}, on {', '.join(rule.operations)}; "
                f"reads {reads}"
            )
        for field in self.fields:
            yield f"  {field.line()}"
        for policy in self.stored:
            state = "" if policy.active else ", switched off"
            problem = f"; it allows nothing: {policy.problem}" if policy.problem else ""
            yield f"  stored {policy.kind} {policy.name!r}, version {policy.version}{state}{problem}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def _named(role: str) -> str:
    return "everybody" if role == EVERYBODY else role


def reported(view: ModelView, policy: Policy) -> ModelReport:
    """Return what is granted on a model; no function of a rule is called."""
    granted = policy.granted
    roles = sorted(set[str]().union(*granted.values()))
    return ModelReport(
        view.name,
        policy.is_open,
        view.bookkeeping,
        {role: [right for right in RIGHTS if role in granted[right]] for role in roles},
        [_rule(rule, policy) for rule in policy.rules],
        [] if policy.fields is None else list(_fields(policy.fields)),
        [] if policy.stored is None else _stored(policy.stored),
        None if policy.tenants is None else policy.tenants.name,
    )


def _fields(policy: FieldPolicy) -> Iterator[FieldReport]:
    for name in policy.restricted:
        rights: dict[str, Sequence[Sequence[str]]] = {
            right: [sorted(roles) for roles in demands]
            for right, demands in policy.demanded(name).items()
            if demands
        }
        yield FieldReport(name, rights, policy.is_masked(name))


def _stored(part: StoredPart) -> list[StoredReport]:
    return [StoredReport.of(row, part.problems.get(row.name, "")) for row in part.rows]


def of_unknown(name: str, rows: Sequence[Row]) -> ModelReport:
    """Return the stored policies of a model that the App does not have."""
    problem = "this App has no such model"
    stored = [StoredReport.of(row, problem) for row in rows]
    return ModelReport(name, False, None, {}, [], stored=stored)


def _rule(rule: Rule, policy: Policy) -> RuleReport:
    reads = policy.paths_of(rule)
    kind = "restriction" if rule.restricts else "permission"
    return RuleReport(rule.name, kind, sorted(rule.roles), sorted(rule.operations), reads)


def open_models(reports: Iterable[ModelReport]) -> Iterable[Finding]:
    """Yield the finding that names the open models, if there are any."""
    names = [report.model for report in reports if report.is_open]
    if names:
        count = "1 model is" if len(names) == 1 else f"{len(names)} models are"
        yield Finding(
            "warning",
            f"{count} open, with neither rights nor rules: {listed(names)}",
            'give them _access or _rules, or say security={"default": "closed"}',
        )


def listed(names: Sequence[str]) -> str:
    """Return the names of models for a finding; of very many, the first ones and how many follow."""
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def models_of(app: App) -> list[ModelView]:
    """Return the models of an App, by name."""
    return sorted(map(ModelView, app.usable_models()), key=lambda view: view.name)


def stored_policies(current: CurrentPolicies | None) -> Iterable[Finding]:
    """Yield what there is to tell of stored policies: doctor itself does not read them."""
    if current is not None:
        yield Finding(
            "ok",
            "policies are stored in the database, too (stored_policies=True)",
            "earnorm security report reads them, and names those that allow nothing",
        )
