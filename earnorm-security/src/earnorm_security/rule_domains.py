"""The domains of a model's rules for who is acting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, cast

from bson import ObjectId

from earnorm import App, ConfigurationError, Domain, EarnORMError, Env, PluginError
from earnorm.plugin import Bounded
from earnorm_security.declarations import Rule
from earnorm_security.reading import domain_of, paths_of
from earnorm_security.variables import Template, value_of


class _Plan(NamedTuple):
    """The parts of a principal's rules that are known only when they are used."""

    variables: tuple[str, ...]
    functions: tuple[Rule, ...]


class _Made(NamedTuple):
    """A domain, and the paths of functions in it that may lag, each with the rule's place."""

    domain: Domain
    lagging: tuple[tuple[str, str], ...]


class RuleDomains:
    """Makes the domains of one model's rules, once for equal values and answers of functions.

    Args:
        app: The App.
        model: The model's name.
        templates: The domains of rules that are no functions, by the rules' names.
    """

    def __init__(self, app: App, model: str, templates: Mapping[str, Template]) -> None:
        self._app, self._name, self._templates = app, model, templates
        self._answers: Bounded[tuple[object, ...], Domain] = Bounded()
        self._made: Bounded[tuple[object, ...], _Made] = Bounded(longest=_LONGEST_KEY)
        self._plans: Bounded[tuple[str, object], _Plan] = Bounded()
        fields = app.view(model).fields.values()
        self._own = frozenset(field.name for field in fields if not field.is_derived)
        """The fields of the model that follow from no others, so that their values never lag."""

    def joined(
        self,
        key: tuple[str, object],
        rules: Callable[[], Sequence[Rule]],
        env: Env,
        make: Callable[[Mapping[str, Domain]], Domain],
    ) -> Domain:
        """Return the domain that is made of some rules.

        The functions among them are called each time. What they return is mostly the same, so the
        domain is made once for it.

        Args:
            key: The right that the rules are about, and what else tells which ones they are.
            rules: Returns the rules.
            env: The Env of the principal.
            make: Makes the domain from those of the functions, by the rules' names.

        Raises:
            PluginError: A rule's function failed, or returned no domain.
        """
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(rules())
        if not plan.functions:
            values = (*key, *[_keyed(value_of(name, env)) for name in plan.variables])
            return self._answer(values, lambda: make({}))
        answers = [
            self.domain(rule, env) if rule.pure else self._asked(rule, env)
            for rule in plan.functions
        ]
        try:
            exact = (
                *key,
                *[_keyed(value_of(name, env)) for name in plan.variables],
                *map(_exact, answers),
            )
            made = self._made.get(exact)
        except TypeError:  # something else than a plain value
            return make(self._read(plan.functions, answers))
        if made is None:
            domains = self._read(plan.functions, answers)
            made = _Made(make(domains), tuple(self._may_lag(plan.functions, domains)))
            if all(_is_exact(domain) for domain in domains.values()):
                self._made[exact] = made
            return made.domain
        for path, where in made.lagging:
            self._refuse_lagging(path, where)
        return made.domain

    def _plan(self, rules: Sequence[Rule]) -> _Plan:
        templates = [self._templates.get(rule.name) for rule in rules]
        names = (name for template in templates if template for name in template.variables)
        functions = [rule for rule in rules if rule.name not in self._templates]
        return _Plan(tuple(dict.fromkeys(names)), tuple(functions))

    def _read(self, rules: Sequence[Rule], answers: Sequence[object]) -> dict[str, Domain]:
        """Return the domains that functions have answered with, by the rules' names."""
        return {
            rule.name: self._checked(rule, answer)
            for rule, answer in zip(rules, answers, strict=True)
        }

    def _may_lag(
        self, rules: Sequence[Rule], domains: Mapping[str, Domain]
    ) -> Iterator[tuple[str, str]]:
        for rule in rules:
            for path in paths_of(domains[rule.name]):
                if path not in self._own:
                    yield path, self._place_of(rule)

    def domain(self, rule: Rule, env: Env) -> Domain:
        """Return the domain of a rule for the principal of an Env.

        Raises:
            PluginError: The rule's function failed, or returned no domain.
        """
        template = self._templates.get(rule.name)
        if template is not None:
            if not template.variables:
                return template.domain
            values = template.values(env)
            if values is None:
                return Domain.FALSE  # without its values, a rule opens nothing
            key = (rule.name, *map(_keyed, values.values()))
            return self._answer(key, lambda: template.bind(env))
        if rule.pure:
            context = tuple(sorted(env.context.items(), key=_first))
            return self._answer(
                (rule.name, env.principal, *context), lambda: self._called(rule, env)
            )
        return self._called(rule, env)

    def _answer(self, key: tuple[object, ...], make: Callable[[], Domain]) -> Domain:
        """Return the domain that was made for these values, or make it."""
        try:
            known = self._answers.get(key)
        except TypeError:  # a list, a dict: no key
            return make()
        if known is None:
            known = self._answers[key] = make()
        return known

    def _called(self, rule: Rule, env: Env) -> Domain:
        """Return the domain that a rule's function makes."""
        return self._checked(rule, self._asked(rule, env))

    def _asked(self, rule: Rule, env: Env) -> object:
        """Return what a rule's function returns."""
        source = rule.domain
        assert callable(source)
        try:
            return source(env)
        except EarnORMError:
            raise
        except Exception as error:
            raise self._failed(rule, error) from error

    def _checked(self, rule: Rule, answer: object) -> Domain:
        """Return the domain that a rule's function has returned."""
        where = self._place_of(rule)
        try:
            domain = domain_of(answer, where)
        except EarnORMError:
            raise
        except Exception as error:
            raise self._failed(rule, error) from error
        for path in paths_of(domain):
            self._refuse_lagging(path, where)
        return domain

    def _failed(self, rule: Rule, error: Exception) -> PluginError:
        # This is no AccessDenied, because the rule is broken; the operation is not done.
        where, kind = self._place_of(rule), type(error).__name__
        return PluginError(f"{where}: its domain function raised {kind}")

    def _place_of(self, rule: Rule) -> str:
        return f"rule {rule.name!r} of model {self._name!r}"

    def _refuse_lagging(self, path: str, where: str) -> None:
        """Refuse a path to a value that may be older than the change it follows."""
        if path in self._own:
            return
        lagging = self._app.may_lag(self._name, path)
        if lagging is not None:
            raise ConfigurationError(
                f"{where}: its function reads {lagging}, a stored computed field that may be recomputed "
                f"after a change, so the rule would judge by an older value; give the field "
                f'recompute="now"'
            )


_EXACT: Final = frozenset({str, int, float, bool, type(None), bytes, ObjectId})
"""Types of values of which equal ones mean the same to every field; two times may be equal and have
different dates."""

_LONGEST: Final = 50
_LONGEST_KEY: Final = 4_000
"""Characters; the types of values are among them."""


def _exact(answer: object) -> tuple[object, ...]:
    """Return a key of what a function has returned; equal ones mean the same domain.

    Raises:
        TypeError: There is something else in it than lists, tuples, domains and plain values.
    """
    kind = type(answer)
    if kind is list or kind is tuple:
        items = cast("Sequence[object]", answer)
        if len(items) > _LONGEST:  # to compare it costs more than to read it
            raise TypeError
        kinds = tuple(map(type, items))
        if _EXACT.issuperset(kinds):
            return (kind, kinds, *items)
        return (kind, *map(_exact, items))
    if kind in _EXACT or (isinstance(answer, Domain) and not answer.is_untrusted):
        return (kind, answer)
    raise TypeError


def _is_exact(domain: Domain) -> bool:
    """Return whether equal domains mean the same to every field."""
    return all(_has_exact(condition.value) for condition in domain.conditions())


def _has_exact(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_has_exact, cast("tuple[object, ...]", value)))
    return type(value) in _EXACT


def _keyed(value: object) -> tuple[object, ...]:
    """Return a key of a value; 1, 1.0 and True are three, and a list has one, too."""
    if isinstance(value, list | tuple):
        items = tuple(cast("Sequence[object]", value))
        return (type(value), *map(type, items), *items)
    return (type(value), value)


def _first(item: tuple[str, object]) -> str:
    return item[0]
