"""The domains of a model's rules for who is acting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from earnorm import App, ConfigurationError, Domain, EarnORMError, Env, PluginError
from earnorm.plugin import Bounded
from earnorm_security.declarations import Rule
from earnorm_security.reading import domain_of, paths_of
from earnorm_security.variables import Template, value_of


class RuleDomains:
    """Makes the domains of one model's rules, and keeps those that depend on values alone.

    Args:
        app: The App.
        model: The model's name.
        templates: The domains of rules that are no functions, by the rules' names.
    """

    def __init__(self, app: App, model: str, templates: Mapping[str, Template]) -> None:
        self._app, self._name, self._templates = app, model, templates
        self._answers: Bounded[tuple[object, ...], Domain] = Bounded()
        self._variables: dict[str, tuple[str, ...] | None] = {}
        fields = app.view(model).fields.values()
        self._own = frozenset(field.name for field in fields if not field.is_derived)
        """The fields of the model that follow from no others, so that their values never lag."""

    def joined(
        self, key: tuple[str, object], rules: Sequence[Rule], env: Env, make: Callable[[], Domain]
    ) -> Domain:
        """Return the domain that is made of some rules, once for the values of their variables.

        Args:
            key: The right that the rules are about, and what else tells what is made of them.
            rules: The rules; a domain with a function among them is made each time.
            env: The Env of the principal.
            make: Makes the domain.
        """
        right = key[0]
        if right not in self._variables:
            self._variables[right] = self._variables_of(rules)
        variables = self._variables[right]
        if variables is None:
            return make()
        return self._answer((*key, *[_keyed(value_of(name, env)) for name in variables]), make)

    def _variables_of(self, rules: Sequence[Rule]) -> tuple[str, ...] | None:
        """Return the variables in the domains of rules; None if a function makes one of them."""
        templates = [self._templates.get(rule.name) for rule in rules]
        if None in templates:
            return None
        names = (name for template in templates if template for name in template.variables)
        return tuple(dict.fromkeys(names))

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
        source = rule.domain
        assert callable(source)
        where = f"rule {rule.name!r} of model {self._name!r}"
        try:
            domain = domain_of(source(env), where)
        except EarnORMError:
            raise
        except Exception as error:
            # This is no AccessDenied, because the rule is broken; the operation is not done.
            raise PluginError(
                f"{where}: its domain function raised {type(error).__name__}"
            ) from error
        for path in paths_of(domain):
            self._refuse_lagging(path, where)
        return domain

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


def _keyed(value: object) -> tuple[object, ...]:
    """Return a key of a value; 1, 1.0 and True are three, and a list has one, too."""
    if isinstance(value, list | tuple):
        items = tuple(cast("Sequence[object]", value))
        return (type(value), *map(type, items), *items)
    return (type(value), value)


def _first(item: tuple[str, object]) -> str:
    return item[0]
