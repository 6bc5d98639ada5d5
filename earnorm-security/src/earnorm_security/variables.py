"""Values in the domains of rules that are known when a rule is used: ``user.id``, ``context.tenant``.

A domain with variables is parsed once, when the rule is checked, and the values are put into it for
each operation. They are data, as any value of a domain: none can become an operator.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Final, cast

from earnorm import Domain, Env
from earnorm.domain import Condition
from earnorm_security.rewriting import rewritten

_MARK: Final = "\0earnorm:"  # no value of a domain begins so by accident


class Variable(str):
    """A value that is known when the rule is used; it stands for itself in a domain."""

    __slots__ = ()

    def __repr__(self) -> str:
        return self.removeprefix(_MARK)


def variable(name: str) -> Variable:
    """Return the variable of a source and a name: ``user.id``."""
    return Variable(f"{_MARK}{name}")


class _Source:
    """The variables of one source: ``user.company_ids`` is one of them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Variable:
        if name.startswith("_"):
            raise AttributeError(name)
        return variable(f"{self._name}.{name}")

    def __repr__(self) -> str:
        return self._name


user: Final = _Source("user")
"""The acting principal: ``user.id``, ``user.roles``, and its attributes by their names."""
context: Final = _Source("context")
"""The Env's context: ``context.tenant``."""


class Template:
    """A domain with variables.

    Args:
        domain: The domain, in which variables stand for values.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.variables = tuple(dict.fromkeys(_variables_in(domain)))

    def values(self, env: Env) -> dict[str, object] | None:
        """Return the values of the variables; None if one has no value."""
        values: dict[str, object] = {}
        for variable in self.variables:
            value = value_of(variable, env)
            if value is None:
                return None
            values[variable] = value
        return values

    def bind(self, env: Env) -> Domain:
        """Return the domain of an operation; no record matches if a variable has no value."""
        values = self.values(env)
        if values is None:
            return Domain.FALSE

        def bound(node: Condition) -> Domain:
            value = _put_in(node.value, values)
            return node if value is node.value else Condition(node.path, node.operator, value)

        return rewritten(self.domain, bound)

    def checkable(self) -> Domain:
        """Return the domain without the conditions whose values are not known yet.

        In their place stand conditions that name the same paths.
        """

        def known(node: Condition) -> Domain:
            return Condition(node.path, "=", None) if any(_variables_of(node.value)) else node

        return rewritten(self.domain, known)


def _put_in(value: object, values: dict[str, object]) -> object:
    if isinstance(value, str):
        return values.get(value, value) if value.startswith(_MARK) else value
    if isinstance(value, tuple):
        items = cast("tuple[object, ...]", value)
        put = [_put_in(item, values) for item in items]
        return value if all(map(operator.is_, put, items)) else put
    return value


def _variables_in(domain: Domain) -> Iterator[str]:
    for condition in domain.conditions():
        yield from _variables_of(condition.value)


def _variables_of(value: object) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(_MARK):
        yield str(value)
    elif isinstance(value, tuple):
        for item in cast("tuple[object, ...]", value):
            yield from _variables_of(item)


def value_of(variable: str, env: Env) -> object:
    """Return the value of a variable; None if it has none."""
    source, _, name = variable.removeprefix(_MARK).partition(".")
    if source == "context":
        return env.context.get(name)
    principal = env.principal
    if principal is None:
        return None
    if name == "id":
        return principal.id
    if name == "roles":
        return sorted(principal.roles)
    return principal.attributes.get(name)
