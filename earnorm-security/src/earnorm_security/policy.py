"""The checked rights and rules of one model: the roles of each right, and the records it
reaches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from earnorm import (
    AccessDenied,
    App,
    BaseModel,
    Domain,
    Env,
)
from earnorm.plugin import PURPOSE, ModelView, Operation, Reason, Verdict, because
from earnorm_security.declarations import (
    EVERYBODY,
    READING_RIGHTS,
    RIGHTS,
    Right,
    Rule,
)
from earnorm_security.field_rights import FieldPolicy
from earnorm_security.inheriting import added_up, with_extensions
from earnorm_security.reading import domain_of, joined, listed, paths_of, read_access, read_rules
from earnorm_security.residual import is_sealed
from earnorm_security.rewriting import unnamed
from earnorm_security.roles import NO_ROLES, Roles
from earnorm_security.rule_domains import RuleDomains
from earnorm_security.settings import SecuritySettings
from earnorm_security.tenants import Tenants

if TYPE_CHECKING:
    from earnorm_security.stored.policies import StoredPart

RIGHT_OF: Final[dict[str, Right]] = {
    "search": "read",
    "count": "read",
    "group": "aggregate",
    "create": "create",
    "write": "write",
    "unlink": "unlink",
}
"""The right that each operation needs; a search that says its ``PURPOSE`` may need another one."""

_REFERRED: Final = "security: the records that a rule refers to"
_OF_THE_SERVER: Final = frozenset({"text", "near", "within"})
"""The operators that need an index, or whose borders memory may draw otherwise than the database."""

Known: TypeAlias = "dict[tuple[type[BaseModel], str], Domain]"
"""The domains of rules that are known for a principal, by the rules' models and names."""


class Policy:
    """The checked declarations of one model.

    Args:
        app: The App that checks the domains that are not functions.
        model: The model's class in this App.
        settings: What holds for a model without ``_access``, and what is added to declarations. The
            bookkeeping of plugins and features is closed without them.
        policy_of: Returns the policies of other models, for classes that share a collection.
        roles: Tells the roles of a principal.
        fields: The rights on its fields; None if everybody may do everything with all of them.
        tenants: The tenants of its records; None if they have none.
        stored: Makes what stored policies add, from the names of the rules; None if there are none.

    Raises:
        ConfigurationError: ``_access`` or ``_rules`` is malformed; the message names the model.
    """

    def __init__(
        self,
        app: App,
        model: type[BaseModel],
        settings: SecuritySettings,
        policy_of: Callable[[type[BaseModel]], Policy],
        roles: Roles,
        fields: FieldPolicy | None = None,
        tenants: Tenants | None = None,
        stored: Callable[[Collection[str]], StoredPart] | None = None,
    ) -> None:
        self.model = model
        self.fields = fields
        self.tenants = tenants
        self.limits = settings.limits
        self._app = app
        self._policy_of = policy_of
        self._roles = roles
        view = ModelView(model)
        self._name = view.name
        self._shares_collection = app.bind(model).classes is not None
        # domain() adds the rules of the bases in the same collection.
        declared = added_up(view, "_rules", without=self._of_bases())
        rules = joined(declared, settings.rules.get(self._name))
        self._of_tenants: tuple[Rule, ...] = ()
        # The rules of a family's root hold for its subclasses, too.
        if tenants is not None and (view.root is None or view.root.name == view.name):
            self._of_tenants = tuple(tenants.rules())
            if rules is None or isinstance(rules, list | tuple):
                rules = joined(self._of_tenants, cast("Sequence[object]", rules or ()))
        self._rules, self._templates = ((), {}) if rules is None else read_rules(app, model, rules)
        self.stored = None if stored is None else stored({rule.name for rule in self._rules})
        """The rights and rules that stored policies add to the declarations."""
        self._added: Sequence[object] = settings.access.get(self._name) or ()
        if self.stored is not None:
            self._added = [*self._added, *self.stored.access]
            self._rules = (*self._rules, *self.stored.rules)
            self._templates = {**self._templates, **self.stored.templates}
        # The declarations of an extension are added to those of the model.
        access = joined(with_extensions(view, "_access"), list(self._added_rights()))
        self._is_declared = access is not None or bool(self._rules)
        is_open = settings.default == "open" and view.bookkeeping is None
        every = frozenset({EVERYBODY}) if is_open else NO_ROLES
        self._granted: dict[Right, frozenset[str]] = (
            dict.fromkeys(RIGHTS, every) if access is None else read_access(self._name, access)
        )
        self._domains = RuleDomains(app, self._name, self._templates)
        self._has_collation = view.has_collation
        self.may_be_unsure = self._has_collation or not all(
            not view.secrets
            if callable(rule.domain)
            else self._is_judged_in_memory(domain_of(rule.domain, rule.name))
            for rule in self._rules
        )
        """True if memory may judge documents otherwise than the database does."""
        self._has_strict = any(rule.strict for rule in self._rules)
        self._may_look_at_others = self._shares_collection or any(
            callable(rule.domain) or app.asks_others(model, self._templates[rule.name].domain)
            for rule in self._rules
            if rule not in self._of_tenants
        )
        self._restrictions: dict[Right, tuple[Rule, ...]] = {}
        self._permissions: dict[Right, tuple[Rule, ...]] = {}
        for right in RIGHTS:
            ruled = "read" if right in READING_RIGHTS else right
            about = [rule for rule in self._rules if ruled in rule.operations]
            self._restrictions[right] = tuple(rule for rule in about if rule.restricts)
            self._permissions[right] = tuple(rule for rule in about if not rule.restricts)
        self._for_roles = frozenset(
            right
            for right in RIGHTS
            if any(rule.roles for rule in (*self._restrictions[right], *self._permissions[right]))
        )

    def _of_bases(self) -> set[type]:
        """Return the classes of which the model's bases in its collection are made."""
        classes = self._app.bind(self.model).classes
        if classes is None:
            return set()
        bases = (base.model for base in classes.bases() if base.model is not self.model)
        return {cls for base in bases for cls in base.__mro__}

    def _added_rights(self) -> Iterator[object]:
        """Yield the rights that settings and stored policies add to the declared ones.

        A class that shares a collection has its base's rights unless it declares its own, so it has
        what is added to these, too.
        """
        classes = self._app.bind(self.model).classes
        if classes is None:
            yield from self._added
            return
        models = [base.model for base in classes.bases()]
        for position, model in enumerate(models):
            yield from (self if model is self.model else self._policy_of(model))._added
            others = {cls for base in models[position + 1 :] for cls in base.__mro__}
            own = [vars(cls) for cls in model.__mro__ if cls not in others]
            if any("_access" in part and part.get("_inherit") is None for part in own):
                return

    @property
    def is_void(self) -> bool:
        """True if everybody may do everything, so that no operation needs a layer."""
        if self._shares_collection:
            return False  # a class with rules may be defined later in the same collection
        if self.fields is not None:
            return False
        return not self._rules and all(EVERYBODY in roles for roles in self._granted.values())

    @property
    def is_open(self) -> bool:
        """True if nobody has declared a right or a rule for the model, and everybody may do everything."""
        bases, _ = self.family()
        return all(not base._is_declared for base in bases) and EVERYBODY in self._granted["read"]

    @property
    def granted(self) -> Mapping[Right, frozenset[str]]:
        """The roles that have each right."""
        return self._granted

    @property
    def rules(self) -> Sequence[Rule]:
        """The model's own rules."""
        return self._rules

    def paths_of(self, rule: Rule) -> Sequence[str] | None:
        """Return the paths that a rule looks at; None if a function makes its domain."""
        if self.tenants is not None and rule in self._of_tenants:
            return [self.tenants.name]
        template = self._templates.get(rule.name)
        return None if template is None else sorted(set(paths_of(template.domain)))

    def strict_domains(self, env: Env, right: Right) -> list[Domain]:
        """Return the domains of the principal's strict rules, which look at other records."""
        if not self._has_strict and not self._shares_collection:
            return []
        if not self._app.asks_others(self.model, self.domain(env, right)):
            return []  # beside the other rules, what they look at decides nothing
        bases, subclasses = self.family()
        policies = [*bases, *(p for _, p in subclasses if p.missing(env, right) is None)]
        domains = [
            policy._domain_of(rule, env)
            for policy in policies
            for rule in policy._own_rules(env, right) or ()
            if rule.strict
        ]
        return [domain for domain in domains if self._app.asks_others(self.model, domain)]

    def looks_at_others(self, env: Env, right: Right) -> bool:
        """Return whether the principal's rules for reading or for a right look at other records."""
        if not self._may_look_at_others:
            return False
        rights: tuple[Right, ...] = (right,) if right == "create" else ("read", right)
        return any(self._app.asks_others(self.model, self.domain(env, r)) for r in rights)

    def _is_judged_in_memory(self, domain: Domain) -> bool:
        return self.is_sure_of(domain) and not self.compares_sealed(domain)

    def compares_sealed(self, domain: Domain) -> bool:
        """Return whether a domain compares values whose stored form only the database has: encrypted
        ones."""
        schema = self._app.bind(self.model).schema
        return any(is_sealed(schema, condition) for condition in domain.conditions())

    def is_sure_of(self, domain: Domain) -> bool:
        """Return whether memory judges documents by a domain as the database does."""
        if domain is Domain.TRUE or domain is Domain.FALSE:
            return True
        return not self._has_collation and all(
            condition.operator not in _OF_THE_SERVER for condition in domain.conditions()
        )

    def computed_in(self, domain: Domain) -> frozenset[str]:
        """Return the stored computed fields of the model that a domain about its records reads."""
        if domain is Domain.TRUE or domain is Domain.FALSE:
            return frozenset()
        bound = self._app.bind(self.model)
        find = bound.schema.fields.get if bound.classes is None else bound.classes.find_field
        names = {path.partition(".")[0] for path in domain.paths()}
        fields = [field for field in map(find, names) if field is not None]
        return frozenset(f.name for f in fields if f.stored and f.is_derived)

    @property
    def has_strict_rules(self) -> bool:
        """True if a rule may hold what it looks at."""
        return self._has_strict or self._shares_collection

    @property
    def hides_nothing(self) -> bool:
        """True if everybody may read every record."""
        if self._shares_collection:
            return False  # a class with rules may be defined later in the same collection
        has_rules = self._restrictions["read"] or self._permissions["read"]
        return not has_rules and EVERYBODY in self._granted["read"]

    def hides(self, env: Env) -> bool:
        """Return whether the principal may be unable to read some of the records."""
        if env.system:
            return False
        return self.missing(env, "read") is not None or self.domain(env, "read") is not Domain.TRUE

    @property
    def has_rules(self) -> bool:
        """True if a rule may restrict the documents that are stored."""
        return bool(self._rules) or self._shares_collection

    # -- rights -------------------------------------------------------------------------------

    @staticmethod
    def needed(right: Right) -> tuple[Right, ...]:
        """Return the rights that somebody needs to use one."""
        return (right,) if right in ("read", "create") else ("read", right)

    def missing(self, env: Env, right: Right) -> Right | None:
        """Return the right that the principal lacks to use ``right``, or None if it lacks none.

        A change or a deletion returns the number of records that matched its domain, which is a
        kind of reading; so it needs the right to read, too. So do a group, an export and the like.
        """
        roles = self._roles.of(env)
        for needed_right in self.needed(right):
            granted = self._granted[needed_right]
            if EVERYBODY not in granted and granted.isdisjoint(roles):
                return needed_right
        return None

    def require(self, env: Env, right: Right, operation: str) -> None:
        """Refuse an operation whose right the principal lacks.

        Raises:
            AccessDenied: It lacks the right, or the right to read that it needs as well.
        """
        lacking = self.missing(env, right)
        if lacking is not None:
            holders = sorted(self._granted[lacking])
            why = (
                f"the right to {lacking} needs the role {listed(holders)}"
                if holders
                else f"no role has the right to {lacking}"
            )
            raise because(
                AccessDenied(f"{operation} on model {self._name!r} is denied: {why}"),
                self._refused(env, right, operation, None),
            )

    def can(self, env: Env, right: Right) -> bool:
        """Return whether the principal has the right for at least some records, judged by roles."""
        if env.system:
            return True
        if self.missing(env, right) is not None:
            return False
        return not self._permissions[right] or bool(self._permitting(env, right))

    # -- records ------------------------------------------------------------------------------

    def reaches_the_same(self, env: Env, one: Right, other: Right) -> bool:
        """Return whether two rights have the same rules, and so the same records, for the
        principal."""
        return self._rules_of_all(env, one) == self._rules_of_all(env, other)

    def _rules_of_all(self, env: Env, right: Right) -> list[tuple[Rule, ...] | None]:
        """Return the principal's rules of each class; None for a class that it cannot reach."""
        bases, subclasses = self.family()
        policies = [(policy, True) for policy in bases]
        policies += [(policy, policy.missing(env, right) is None) for _, policy in subclasses]
        return [policy._own_rules(env, right) if granted else None for policy, granted in policies]

    def _own_rules(self, env: Env, right: Right) -> tuple[Rule, ...] | None:
        permissions = self._permitting(env, right)
        if self._permissions[right] and not permissions:
            return None  # all permissions are for other roles, so no record passes
        return (*self._restricting(env, right), *permissions)

    def family(self) -> tuple[list[Policy], list[tuple[Domain, Policy]]]:
        """Return the policies of the model and its bases in its collection, and of its subclasses.

        Each policy of a subclass comes with the domain of its records.
        """
        classes = self._app.bind(self.model).classes
        if classes is None:
            return [self], []
        bases = [
            self if base.model is self.model else self._policy_of(base.model)
            for base in classes.bases()
        ]
        subclasses = [
            (concerned, self._policy_of(below.model)) for concerned, below in classes.below()
        ]
        return bases, subclasses

    def domain(self, env: Env, right: Right, known: Known | None = None) -> Domain:
        """Return the records that the right reaches for the principal, simplified.

        For classes that share a collection, these are the records that the model's own rules and
        those of its bases allow; the records of a subclass must be allowed by its own rights and
        rules, too.

        Args:
            env: The Env of the principal.
            right: The right.
            known: The domains of rules that were made before; new ones are put into it. So the
                function of each rule is called once for several rights.

        Raises:
            PluginError: A rule's function failed, or returned no domain.
        """
        if not self._shares_collection:
            return self._own_domain(env, right, known)
        bases, subclasses = self.family()
        result = Domain.TRUE
        for policy in bases:
            result &= policy._own_domain(env, right, known)
        granted = [policy for _, policy in subclasses if policy.missing(env, right) is None]
        for concerned, policy in subclasses:
            if not any(policy._name in ModelView(each.model).names for each in granted):
                result &= ~concerned
                continue
            allowed = policy._own_domain(env, right, known)
            if allowed is not Domain.TRUE:
                result &= ~concerned | allowed
            if policy not in granted:  # and a class below it is
                classes = self._app.bind(policy.model).classes
                assert classes is not None
                result &= ~classes.own()
        return result.simplify()

    async def reached(self, env: Env, right: Right) -> Domain:
        """Return the records that a right reaches, without conditions about other models.

        A rule may refer to records that the principal cannot read, so they are searched with access
        rules off.
        """
        domain = self.domain(env, right)
        # The Env of the system is made only where somebody needs it: 4 µs.
        if not self._may_look_at_others or not self._app.asks_others(self.model, domain):
            return domain
        resolved = await env.app.resolve(self.model, domain, env=env.as_system(_REFERRED))
        return unnamed(resolved, domain)

    def asks_itself(self, env: Env, right: Right) -> bool:
        """Return whether a write or create can change which records the right reaches."""
        if not self._may_look_at_others:
            return False
        return self._app.asks_itself(self.model, self.domain(env, right))

    def _own_domain(self, env: Env, right: Right, known: Known | None = None) -> Domain:
        if known is not None:
            return self._made_domain(env, right, known)
        if not (self._restrictions[right] or self._permissions[right]):
            return Domain.TRUE
        roles = self._roles.of(env) if right in self._for_roles else NO_ROLES

        def rules() -> list[Rule]:
            return [*self._restricting(env, right), *self._permitting(env, right)]

        def make(functions: Mapping[str, Domain]) -> Domain:
            known = {(self.model, name): domain for name, domain in functions.items()}
            return self._made_domain(env, right, known)

        return self._domains.joined((right, roles), rules, env, make)

    def _made_domain(self, env: Env, right: Right, known: Known) -> Domain:
        result = Domain.TRUE
        for rule in self._restricting(env, right):
            result &= self._domain_of(rule, env, known)
        if self._permissions[right]:
            allowed = Domain.FALSE
            for rule in self._permitting(env, right):
                allowed |= self._domain_of(rule, env, known)
            result &= allowed
        return result.simplify()

    def refusal(
        self, right: Right, operation: str, detail: str, env: Env, domain: Domain
    ) -> AccessDenied:
        """Make the error for records that the rules exclude; it reveals nothing about them.

        Args:
            right: The right that was used.
            operation: The name of the operation.
            detail: What the rules do not allow, for the message.
            env: The Env of the principal.
            domain: The records that the right reaches; it is not for the message.
        """
        permissions = self._permissions[right]
        bases, subclasses = self.family()
        policies = [*bases, *(policy for _, policy in subclasses)]
        of_all = [r for p in policies for r in (*p._restrictions[right], *p._permissions[right])]
        names = dict.fromkeys(rule.name for rule in of_all)
        roles = sorted({role for rule in permissions for role in rule.roles})
        if any(not rule.roles for rule in permissions):
            roles = []
        for_roles = f"; its rules are for the role {listed(roles)}" if roles else ""
        error = AccessDenied(
            f"{operation} on model {self._name!r} is denied by its record rules "
            f"({', '.join(names)}): {detail}{for_roles}"
        )
        return because(error, self._refused(env, right, operation, domain))

    def knowing(self, env: Env) -> AbstractAsyncContextManager[object]:
        """Make the block in which the policy is asked about an Env after the end of an operation."""
        return self._roles.knowing(env)

    # -- reasons ------------------------------------------------------------------------------

    def roles_of(self, env: Env) -> frozenset[str]:
        """Return the roles of the principal, with those that they imply."""
        return self._roles.of(env)

    def reasons(self, env: Env, rights: Sequence[Right], known: Known) -> Iterator[Reason]:
        """Yield the model's own rights and rules that have a say.

        Args:
            env: The Env of the principal.
            rights: The rights that are used.
            known: The domains of the rules, as far as they are known; no function is called.
        """
        roles = self._roles.of(env)
        for right in rights:
            holders = self._granted[right]
            has_it = EVERYBODY in holders or not holders.isdisjoint(roles)
            detail = "" if holders else "no role has it"
            if self.stored is not None:
                granting = ", ".join(self.stored.granting(right, {EVERYBODY, *roles}))
                detail = f"by the stored policy {granting}" if granting else detail
            yield Reason(
                "right",
                right,
                has_it,
                model=self._name,
                right=right,
                roles=holders,
                detail=detail,
            )
            for rule in (*self._restrictions[right], *self._permissions[right]):
                domain = known.get((self.model, rule.name))
                allows, detail = _decided(domain), ""
                if rule.roles and roles.isdisjoint(rule.roles):
                    allows, detail = rule.restricts, "none of its roles is the principal's"
                if self.stored is not None:
                    detail = "; ".join(filter(None, (self.stored.of_rule(rule.name), detail)))
                yield Reason(
                    "restriction" if rule.restricts else "permission",
                    rule.name,
                    allows,
                    model=self._name,
                    right=right,
                    roles=rule.roles,
                    domain=domain,
                    detail=detail,
                )

    def _refused(self, env: Env, right: Right, operation: str, domain: Domain | None) -> Verdict:
        """Return what is known of a refusal; nothing is asked or called for it."""
        return Verdict(
            self._name,
            operation,
            principal=None if env.principal is None else env.principal.id,
            roles=self._roles.of(env),
            allowed=False,
            reasons=tuple(self.reasons(env, self.needed(right), {})),
            domain=domain,
        )

    def _permitting(self, env: Env, right: Right) -> tuple[Rule, ...]:
        return self._of_principal(self._permissions[right], env)

    def _restricting(self, env: Env, right: Right) -> tuple[Rule, ...]:
        return self._of_principal(self._restrictions[right], env)

    def _of_principal(self, rules: tuple[Rule, ...], env: Env) -> tuple[Rule, ...]:
        """Return the rules that are for everybody or for a role of the principal."""
        if not any(rule.roles for rule in rules):
            return rules
        roles = self._roles.of(env)
        return tuple(rule for rule in rules if not rule.roles or not roles.isdisjoint(rule.roles))

    def _domain_of(self, rule: Rule, env: Env, known: Known | None = None) -> Domain:
        """Return the domain of a rule for the principal."""
        if known is None:
            return self._domains.domain(rule, env)
        key = (self.model, rule.name)
        if key not in known:
            known[key] = self._domains.domain(rule, env)
        return known[key]


def right_of(op: Operation) -> Right:
    """Return the right that an operation needs, besides the one to read."""
    return RIGHT_OF[op.name] if op.name != "search" else _FOR.get(op.note(PURPOSE), "read")


_FOR: Final[Mapping[str | None, Right]] = {right: right for right in READING_RIGHTS}


def _decided(domain: Domain | None) -> bool | None:
    """Return what a rule says of all records: it allows them, refuses them, or decides on each."""
    return True if domain is Domain.TRUE else False if domain is Domain.FALSE else None
