"""Policies in the database: their models, and what a row means.

A row is read as untrusted data is, by names from lists and within bounds. One that cannot be read, or not
any more, because a field has another name by now, allows nothing: a right and a permission in it are
none, and a restriction lets no record pass.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, cast

from earnorm import (
    App,
    BaseModel,
    Boolean,
    ConfigurationError,
    DateTime,
    Domain,
    DomainError,
    Index,
    Int,
    Json,
    List,
    NotFound,
    RecordSet,
    Selection,
    String,
    models,
)
from earnorm.plugin import ModelView, nearest
from earnorm_security.declarations import (
    EVERYBODY,
    RECORD_RIGHTS,
    RIGHTS,
    Access,
    RecordRight,
    Right,
    Rule,
)
from earnorm_security.reading import paths_of
from earnorm_security.stored.roles import NAME
from earnorm_security.variables import Template, variable

log: Final = logging.getLogger("earnorm.security")

POLICY: Final = "security.policy"
VERSION: Final = "security.policy.version"
KINDS: Final = ("right", "permission", "restriction")
OPERATORS: Final = frozenset(
    {
        *("=", "!=", "<", "<=", ">", ">=", "in", "not in"),
        *("like", "not like", "ilike", "not ilike", "child_of", "parent_of"),
    }
)
"""The operators of a stored domain: each asks one question, and none runs a pattern."""
BOUNDS: Final = {"depth": 10, "conditions": 100, "values": 1_000, "length": 1_000}
MOST_TEXT: Final = 1_000
CONTENT: Final = ("name", "model", "kind", "roles", "operations", "domain", "active", "note")
"""The fields that a version keeps."""
_VARIABLE: Final = re.compile(r"(user|context)\.[A-Za-z]\w*")


class StoredPolicy(models.BaseModel):
    """A right on a model, or a rule about its records, that counts together with those in Python."""

    _name = POLICY
    _collection = "security_policies"
    _bookkeeping = "security"
    _audit = True
    _read_preference = "primary"
    _cache = False
    _indexes = [Index("model", "name", unique=True)]

    name = String(required=True, min_length=1, max_length=200, help="Its name; unique in its model")
    model = String(required=True, help="The name of the model that it is about")
    kind = Selection(
        choices=KINDS,
        required=True,
        help="right: roles may do operations; permission and restriction: rules about records",
    )
    roles = List(
        String(pattern=rf"\*|{NAME}"),
        help="Who it is for; everybody is * in a right, and no role in a rule",
    )
    operations = List(
        Selection(choices=RIGHTS),
        required=True,
        help="read, write, create, unlink; rights also others",
    )
    domain = Json(help='The records: [["owner", "=", {"var": "user.id"}]]; a right has none')
    active = Boolean(default=True, help="False switches it off, and opens nothing by that")
    note = String(max_length=MOST_TEXT, help="Why; for people")
    version = Int(help="The number of its edits, filled in")
    held = List(String(), help="Each operation that it has ever named, filled in")

    async def versions(self) -> RecordSet[PolicyVersion]:
        """Return what stood in it after each edit, the oldest first."""
        return await PolicyVersion.search([("policy", "=", str(self.pk))], order="number")

    async def restore(self, number: int) -> None:
        """Write what stood in a version, which is a new version then.

        Raises:
            NotFound: There is no such version, or not for who acts.
        """
        found = await PolicyVersion.search([("policy", "=", str(self.pk)), ("number", "=", number)])
        if not found:
            raise NotFound(f"{POLICY}: no version {number} of {self.name!r}")
        [version] = found
        await self.write({name: getattr(version, name) for name in CONTENT})


class PolicyVersion(models.BaseModel):
    """The content of a stored policy after one edit; only the plugin adds them, and nobody changes one."""

    _name = VERSION
    _collection = "security_policy_versions"
    _bookkeeping = "security"
    _indexes = [Index("policy", "number", unique=True)]

    policy = String(required=True, help="The id of the policy as text")
    number = Int(required=True, help="1 is what was created")
    at = DateTime(required=True)
    by = String(help="The id of who has edited it; unset for nobody")
    system = Boolean(required=True, default=False, help="Access rules were off")
    reason = String(help="Why they were off")
    name = String()
    model = String()
    kind = String()
    roles = List(String())
    operations = List(String())
    domain = Json()
    active = Boolean()
    note = String()


@dataclass(frozen=True, slots=True)
class Row:
    """A stored policy as it was read; what cannot be read of it is the problem."""

    name: str
    model: str
    kind: str
    roles: tuple[str, ...]
    operations: tuple[str, ...]
    held: frozenset[str]
    domain: object
    active: bool
    version: object
    problem: str = ""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Row:
        """Return what a stored document says."""
        roles, operations = _texts(document.get("roles")), _texts(document.get("operations"))
        kind, active = document.get("kind"), document.get("active")
        problem = ""
        if kind not in KINDS:
            problem, kind = "its kind is none", "restriction"
        elif roles is None or operations is None or not operations:
            problem = "its roles and operations are no lists of texts"
        elif not set(operations) <= set(RIGHTS if kind == "right" else RECORD_RIGHTS):
            problem = (
                f"a {kind} is not about {' or '.join(sorted(set(operations) - set(RECORD_RIGHTS)))}"
            )
        elif kind == "right" and not roles:
            problem = "a right is for roles, or for *, and it names none"
        elif kind != "right" and EVERYBODY in roles:
            problem = f"a {kind} for everybody is one without roles"
        elif not isinstance(active, bool | None):
            problem = "active is true or false"
        return cls(
            str(document.get("name")),
            str(document.get("model")),
            cast("str", kind),
            () if problem and kind != "right" and roles is None else tuple(roles or ()),
            tuple(operations or ()) if not problem else (),
            frozenset(_texts(document.get("held")) or ()) | frozenset(operations or ()),
            document.get("domain"),
            active is not False,
            document.get("version"),
            problem,
        )

    @property
    def label(self) -> str:
        """Its name among the rules of the model."""
        return f"{self.name} (stored)"


class PolicyRows:
    """All stored policies at one moment.

    Args:
        documents: The stored documents.
    """

    def __init__(self, documents: Iterable[Mapping[str, Any]] = ()) -> None:
        by_model: defaultdict[str, list[Row]] = defaultdict(list)
        for row in sorted(map(Row.of, documents), key=lambda row: row.name):
            by_model[row.model].append(row)
        self._by_model = dict(by_model)

    def of(self, model: str) -> Sequence[Row]:
        """Return the policies of a model."""
        return self._by_model.get(model, ())

    def models(self) -> Set[str]:
        """Return the names of the models that they are about."""
        return self._by_model.keys()


NO_POLICIES: Final = PolicyRows()


@dataclass(slots=True)
class StoredPart:
    """The rights and rules that the stored policies of one model add to its declarations.

    Attributes:
        access: The rights. It is not empty if there has ever been one, so a model that was closed by
            one stays closed without it.
        rules: The rules.
        templates: Their domains.
        rows: The stored policies.
        problems: Why one cannot be read, by the name of the policy.
    """

    access: list[Access] = field(default_factory=list[Access])
    rules: list[Rule] = field(default_factory=list[Rule])
    templates: dict[str, Template] = field(default_factory=dict[str, Template])
    rows: Sequence[Row] = ()
    problems: dict[str, str] = field(default_factory=dict[str, str])
    _of_rules: dict[str, Row] = field(default_factory=dict[str, Row])

    def of_rule(self, name: str) -> str:
        """Return what there is to say of a rule that is one of them; an empty text of others."""
        row = self._of_rules.get(name)
        if row is None:
            return ""
        problem = self.problems.get(row.name)
        if problem:
            return f"version {row.version} cannot be read, and allows nothing: {problem}"
        return f"version {row.version}" if row.active else f"version {row.version} is switched off"

    def granting(self, right: Right, roles: Collection[str]) -> Iterator[str]:
        """Yield the names of those that give a right to one of these roles."""
        for row in self.rows:
            is_right = row.kind == "right" and row.active and not row.problem
            if is_right and right in row.operations and not set(roles).isdisjoint(row.roles):
                yield f"{row.name!r} (version {row.version})"

    def add_rule(
        self, row: Row, template: Template, operations: Collection[str], taken: Collection[str]
    ) -> None:
        """Add a rule of a row; its name is another one than those of the model's own rules."""
        name = row.label
        while name in self.templates or name in taken:
            name += "'"
        restrict = row.kind == "restriction"
        about: list[RecordRight] = [right for right in RECORD_RIGHTS if right in operations]
        rule = Rule(name, template.domain, roles=row.roles, operations=about, restrict=restrict)
        self.rules.append(rule)
        self.templates[name] = template
        self._of_rules[name] = row


def stored_part(
    app: App, model: type[BaseModel], rows: Sequence[Row], taken: Collection[str]
) -> StoredPart:
    """Return what stored policies add to a model; one that cannot be read allows nothing.

    Args:
        app: The App that checks the domains.
        model: The model's class in this App.
        rows: Its stored policies.
        taken: The names of its other rules.
    """
    part = StoredPart(rows=rows)
    nothing = Template(Domain.FALSE)
    for row in rows:
        problem, template = row.problem, nothing
        if not problem and row.kind != "right":
            try:
                template = template_of(app, model, row.domain)
            except (DomainError, ConfigurationError) as error:
                problem = str(error)
        if problem:
            part.problems[row.name] = problem
            log.error(
                "the stored policy %r of model %r allows nothing: %s", row.name, row.model, problem
            )
        is_live = row.active and not problem
        if row.kind == "right":
            roles = row.roles or ("(nobody)",)
            part.access += [
                Access(role, **{right: is_live and right in row.operations for right in RIGHTS})
                for role in roles
            ]
        elif row.kind == "restriction":
            if row.active:
                about = row.operations if is_live else RECORD_RIGHTS
                part.add_rule(row, template, about, taken)
        else:
            live = row.operations if is_live else ()
            if live:
                part.add_rule(row, template, live, taken)
            # Without this one there might be no permission left, and restrictions alone would decide.
            dead = row.held.difference(live)
            if dead:
                part.add_rule(row, nothing, dead, taken)
    return part


def template_of(app: App, model: type[BaseModel], data: object) -> Template:
    """Read a stored domain.

    Raises:
        DomainError: It is malformed or too large, or names something that it may not.
        ConfigurationError: It reads a computed value that may lag behind.
    """
    if not isinstance(data, list):
        raise DomainError("its domain is a list of conditions; [] is every record")
    plain = _with_variables(cast("list[object]", data))
    domain = Domain(plain)
    paths = {condition.path for condition in domain.conditions()}
    unknown = sorted({c.operator for c in domain.conditions()} - OPERATORS)
    if unknown:
        raise DomainError(
            f"a stored domain has no operator {unknown[0]!r}; known: {', '.join(sorted(OPERATORS))}"
        )
    Domain.untrusted(plain, fields=paths, operators=OPERATORS, **BOUNDS)
    template = Template(domain)
    app.check(model, template.checkable())
    name = ModelView(model).name
    for path in paths_of(domain):
        lagging = app.may_lag(name, path)
        if lagging is not None:
            raise ConfigurationError(
                f"it reads {lagging}, a stored computed field that may be recomputed after a change, so "
                f'it would judge by an older value; give the field recompute="now"'
            )
    return template


def problems_of(app: App, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a policy that is about to be stored: the field and the problem."""
    row = Row.of(document)
    try:
        model = app.model(row.model)
    except ConfigurationError:
        known = [ModelView(model).name for model in app.usable_models()]
        yield "model", f"no model is named {row.model!r}{nearest(row.model, known)}"
        return
    if row.problem:
        yield "operations", row.problem
    elif row.kind == "right":
        if row.domain is not None:
            yield "domain", "a right has no domain; a permission or a restriction has one"
    else:
        try:
            template_of(app, model, row.domain)
        except (DomainError, ConfigurationError) as error:
            yield "domain", str(error)


def _with_variables(items: list[object], depth: int = 0) -> list[object]:
    if depth > 3 * BOUNDS["depth"]:
        raise DomainError(f"a stored domain has at most {BOUNDS['depth']} levels")
    return [_value(item, depth) for item in items]


def _value(item: object, depth: int) -> object:
    if isinstance(item, list):
        return _with_variables(cast("list[object]", item), depth + 1)
    if isinstance(item, Mapping):
        given = cast("Mapping[object, object]", item)
        name = given.get("var")
        if set(given) == {"var"} and isinstance(name, str) and _VARIABLE.fullmatch(name):
            return str(variable(name))
        raise DomainError(
            'a value is a text, a number, true, false, null, a list of those, or {"var": "user.id"} with '
            "a name after user. or context."
        )
    if isinstance(item, str) and "\0" in item:
        raise DomainError("a text has no character 0")
    return item


def _texts(value: object) -> list[str] | None:
    """Return a list of texts, empty for nothing; None if it is something else."""
    if value is None:
        return []
    if not isinstance(value, list):
        return None
    texts = [item for item in cast("list[object]", value) if isinstance(item, str) and item.strip()]
    return texts if len(texts) == len(cast("list[object]", value)) else None
