"""The checked rights and rules of one model: the roles of each right, and the records it
reaches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, TypeVar, cast

from earnorm import (
    AccessDenied,
    App,
    BaseModel,
    ConfigurationError,
    Domain,
    DomainError,
    EarnORMError,
    Env,
    PluginError,
)
from earnorm.plugin import ModelView
from earnorm_security.declarations import EVERYBODY, RIGHTS, Access, Right, Rule, RuleDomain

RIGHT_OF: Final[dict[str, Right]] = {
    "search": "read",
    "count": "read",
    "group": "read",
    "create": "create",
    "write": "write",
    "unlink": "unlink",
}
"""The right that each operation needs."""

T = TypeVar("T")
_NOBODY: Final[frozenset[str]] = frozenset()


class Policy:
    """The checked declarations of one model.

    Args:
        app: The App that checks the domains that are not functions.
        model: The model's class in this App.
        default_open: The rights on a model without ``_access``: everything for everybody, or
            nothing.
        policy_of: Returns the policies of other models, for classes that share a collection.

    Raises:
        ConfigurationError: ``_access`` or ``_rules`` is malformed; the message names the model.
    """

    def __init__(
        self,
        app: App,
        model: type[BaseModel],
        default_open: bool,
        policy_of: Callable[[type[BaseModel]], Policy],
    ) -> None:
        self.model = model
        self._app = app
        self._policy_of = policy_of
        view = ModelView(model)
        self._name = view.name
        self._shares_collection = app.bind(model).classes is not None
        # The declarations of an extension are added to those of the model.
        access: object = view.declared("_access")
        # Each class that shares a collection has its own rules; domain() adds those of its bases.
        rules: object = view.declared("_rules", inherited=not self._shares_collection)
        every = frozenset({EVERYBODY}) if default_open else _NOBODY
        granted = dict.fromkeys(RIGHTS, every) if access is None else self._read_access(access)
        self._granted: dict[Right, frozenset[str]] = granted
        self._rules = () if rules is None else self._read_rules(app, model, rules)
        self._global: dict[Right, tuple[Rule, ...]] = {}
        self._by_role: dict[Right, tuple[Rule, ...]] = {}
        for right in RIGHTS:
            about = [rule for rule in self._rules if right in rule.operations]
            self._global[right] = tuple(rule for rule in about if not rule.roles)
            self._by_role[right] = tuple(rule for rule in about if rule.roles)

    @property
    def is_void(self) -> bool:
        """True if everybody may do everything, so that no operation needs a layer."""
        if self._shares_collection:
            return False  # a class with rules may be defined later in the same collection
        return not self._rules and all(EVERYBODY in roles for roles in self._granted.values())

    @property
    def has_rules(self) -> bool:
        """True if a rule may restrict the documents that are stored."""
        return bool(self._rules) or self._shares_collection

    # -- rights -------------------------------------------------------------------------------

    def missing(self, env: Env, right: Right) -> Right | None:
        """Return the right that the principal lacks to use ``right``, or None if it lacks none.

        A change or a deletion returns the number of records that matched its domain, which is a
        kind of reading; so it needs the right to read, too.
        """
        needed: tuple[Right, ...] = (right,) if right in ("read", "create") else ("read", right)
        roles = _roles(env)
        for needed_right in needed:
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
            needs = f"needs the role {_listed(holders)}" if holders else "no role has it"
            raise AccessDenied(
                f"{operation} on model {self._name!r} is denied: the right to {lacking} {needs}"
            )

    def can(self, env: Env, right: Right) -> bool:
        """Return whether the principal has the right for at least some records, judged by roles."""
        if env.system:
            return True
        if self.missing(env, right) is not None:
            return False
        return not self._by_role[right] or bool(self._for_roles(env, right))

    # -- records ------------------------------------------------------------------------------

    def reaches_the_same(self, env: Env, one: Right, other: Right) -> bool:
        """Return whether two rights have the same rules, and so the same records, for the
        principal."""
        return self._rules_of_all(env, one) == self._rules_of_all(env, other)

    def _rules_of_all(self, env: Env, right: Right) -> list[tuple[Rule, ...] | None]:
        """Return the principal's rules of each class; None for a class that it cannot reach."""
        bases, subclasses = self._family()
        policies = [(policy, True) for policy in bases]
        policies += [(policy, policy.missing(env, right) is None) for _, policy in subclasses]
        return [policy._own_rules(env, right) if granted else None for policy, granted in policies]

    def _own_rules(self, env: Env, right: Right) -> tuple[Rule, ...] | None:
        for_roles = self._for_roles(env, right)
        if self._by_role[right] and not for_roles:
            return None  # all the rules are for other roles, so no record passes
        return (*self._global[right], *for_roles)

    def _family(self) -> tuple[list[Policy], list[tuple[Domain, Policy]]]:
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

    def domain(self, env: Env, right: Right) -> Domain:
        """Return the records that the right reaches for the principal, simplified.

        For classes that share a collection, these are the records that the model's own rules and
        those of its bases allow; the records of a subclass must be allowed by its own rights and
        rules, too.

        Raises:
            PluginError: A rule's function failed, or returned no domain.
        """
        if not self._shares_collection:
            return self._own_domain(env, right)
        bases, subclasses = self._family()
        result = Domain.TRUE
        for policy in bases:
            result &= policy._own_domain(env, right)
        for concerned, policy in subclasses:
            granted = policy.missing(env, right) is None
            allowed = policy._own_domain(env, right) if granted else Domain.FALSE
            if allowed is not Domain.TRUE:
                result &= ~concerned | allowed
        return result.simplify()

    def _own_domain(self, env: Env, right: Right) -> Domain:
        result = Domain.TRUE
        for rule in self._global[right]:
            result &= self._domain_of(rule, env)
        if self._by_role[right]:
            allowed = Domain.FALSE
            for rule in self._for_roles(env, right):
                allowed |= self._domain_of(rule, env)
            result &= allowed
        return result.simplify()

    def refusal(self, right: Right, operation: str, detail: str) -> AccessDenied:
        """Make the error for records that the rules exclude; it reveals nothing about them."""
        names = [rule.name for rule in (*self._global[right], *self._by_role[right])]
        roles = sorted({role for rule in self._by_role[right] for role in rule.roles})
        for_roles = f"; its rules are for the role {_listed(roles)}" if roles else ""
        return AccessDenied(
            f"{operation} on model {self._name!r} is denied by its record rules "
            f"({', '.join(names)}): {detail}{for_roles}"
        )

    def _for_roles(self, env: Env, right: Right) -> tuple[Rule, ...]:
        roles = _roles(env)
        return tuple(rule for rule in self._by_role[right] if not roles.isdisjoint(rule.roles))

    def _domain_of(self, rule: Rule, env: Env) -> Domain:
        source = rule.domain
        if not callable(source):
            return Domain(source)
        where = f"rule {rule.name!r} of model {self._name!r}"
        try:
            return _domain(source(env), where)
        except EarnORMError:
            raise
        except Exception as error:
            # This is no AccessDenied, because the rule is broken; the operation is not done.
            raise PluginError(
                f"{where}: its domain function raised {type(error).__name__}"
            ) from error

    # -- checks -------------------------------------------------------------------------------

    def _read_access(self, rows: object) -> dict[Right, frozenset[str]]:
        granted: dict[Right, set[str]] = {right: set() for right in RIGHTS}
        for row in _items(rows, self._name, "_access", Access):
            where = f"model {self._name!r}: Access({row.role!r})"
            _texts([row.role], f"{where}: a role")
            for right in RIGHTS:
                flag: object = getattr(row, right)
                if not isinstance(flag, bool):
                    raise ConfigurationError(f"{where}: {right} is True or False")
                if flag:
                    granted[right].add(row.role)
        return {right: frozenset(roles) for right, roles in granted.items()}

    def _read_rules(self, app: App, model: type[BaseModel], rules: object) -> tuple[Rule, ...]:
        seen: set[str] = set()
        checked = _items(rules, self._name, "_rules", Rule)
        for rule in checked:
            _texts([rule.name], f"model {self._name!r}: a rule's name")
            where = f"rule {rule.name!r} of model {self._name!r}"
            if rule.name in seen:
                raise ConfigurationError(f"{where}: another rule of the model has this name")
            seen.add(rule.name)
            _texts(rule.roles, f"{where}: roles")
            if EVERYBODY in rule.roles:
                raise ConfigurationError(f"{where}: a rule for everybody is one without roles")
            _texts(rule.operations, f"{where}: operations")
            unknown = sorted(set(rule.operations) - set(RIGHTS))
            if unknown or not rule.operations:
                raise ConfigurationError(
                    f"{where}: operations are some of {', '.join(RIGHTS)}, not {_listed(unknown)}"
                )
            if not callable(rule.domain):
                try:
                    app.check(model, _domain(rule.domain, where))
                except PluginError as error:
                    raise ConfigurationError(str(error)) from None
                except DomainError as error:
                    raise ConfigurationError(f"{where}: {error}") from error
        return checked


def _roles(env: Env) -> frozenset[str]:
    return env.principal.roles if env.principal is not None else _NOBODY


def _domain(source: object, where: str) -> Domain:
    # Domain(None) is always true, and a function without a return must not open the model.
    if not isinstance(source, Domain | list | tuple | bool):
        raise PluginError(
            f"{where}: a domain is a list of conditions, a Domain, True or False, "
            f"not {type(source).__name__}"
        )
    return Domain(cast("RuleDomain", source))


def _items(value: object, model: str, attribute: str, kind: type[T]) -> tuple[T, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigurationError(
            f"model {model!r}: {attribute} is a list of {kind.__name__}(...), "
            f"not {type(value).__name__}"
        )
    checked: list[T] = []
    for item in cast("Sequence[object]", value):
        if not isinstance(item, kind):
            raise ConfigurationError(
                f"model {model!r}: {attribute} is a list of {kind.__name__}(...); "
                f"it contains {type(item).__name__}"
            )
        checked.append(item)
    return tuple(checked)


def _texts(values: object, what: str) -> None:
    if isinstance(values, Collection) and not isinstance(values, str | bytes):
        names = cast("Collection[object]", values)
        if all(isinstance(name, str) and name.strip() for name in names):
            return
    raise ConfigurationError(f"{what}: names are texts and not empty, in a list or tuple")


def _listed(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in names) or "none"
