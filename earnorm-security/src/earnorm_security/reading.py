"""Reads and checks ``_access`` and ``_rules``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar, cast

from earnorm import App, BaseModel, ConfigurationError, Domain, DomainError, PluginError
from earnorm.domain import Schema
from earnorm.plugin import ModelView
from earnorm_security.declarations import (
    EVERYBODY,
    READING_RIGHTS,
    RECORD_RIGHTS,
    RIGHTS,
    Access,
    Right,
    Rule,
)
from earnorm_security.residual import secret_path
from earnorm_security.variables import Template

T = TypeVar("T")


def read_access(model: str, rows: object) -> dict[Right, frozenset[str]]:
    """Return the roles of each right.

    Args:
        model: The model's name.
        rows: Its ``_access``.

    Raises:
        ConfigurationError: It is malformed; the message names the model.
    """
    granted: dict[Right, set[str]] = {right: set() for right in RIGHTS}
    for row in _items(rows, model, "_access", Access):
        where = f"model {model!r}: Access({row.role!r})"
        _texts([row.role], f"{where}: a role")
        for right in RIGHTS:
            flag: object = getattr(row, right)
            if flag is None and right in READING_RIGHTS:
                flag = row.read
            if not isinstance(flag, bool):
                raise ConfigurationError(f"{where}: {right} is True or False")
            if flag:
                granted[right].add(row.role)
    return {right: frozenset(roles) for right, roles in granted.items()}


def read_rules(
    app: App, model: type[BaseModel], rules: object
) -> tuple[tuple[Rule, ...], dict[str, Template]]:
    """Return the checked rules, and the domains of those that are no functions by their names.

    Args:
        app: The App that checks the domains.
        model: The model's class in this App.
        rules: Its ``_rules``.

    Raises:
        ConfigurationError: They are malformed; the message names the model.
    """
    name = ModelView(model).name
    templates: dict[str, Template] = {}
    seen: set[str] = set()
    checked = _items(rules, name, "_rules", Rule)
    for rule in checked:
        _texts([rule.name], f"model {name!r}: a rule's name")
        where = f"rule {rule.name!r} of model {name!r}"
        if rule.name in seen:
            raise ConfigurationError(f"{where}: another rule of the model has this name")
        seen.add(rule.name)
        _texts(rule.roles, f"{where}: roles")
        if EVERYBODY in rule.roles:
            raise ConfigurationError(f"{where}: a rule for everybody is one without roles")
        _texts(rule.operations, f"{where}: operations")
        if not isinstance(rule.strict, bool):
            raise ConfigurationError(f"{where}: strict is True or False")
        unknown = sorted(set(rule.operations) - set(RECORD_RIGHTS))
        if unknown or not rule.operations:
            raise ConfigurationError(
                f"{where}: operations are some of {', '.join(RECORD_RIGHTS)}, not {listed(unknown)}"
            )
        for option in ("restrict", "pure"):
            if not isinstance(getattr(rule, option), bool | None):
                raise ConfigurationError(f"{where}: {option} is True or False")
        if not callable(rule.domain):
            try:
                template = Template(domain_of(rule.domain, where))
                templates[rule.name] = template
                app.check(model, template.checkable())
                _refuse_incomparable(app.bind(model).schema, template.domain)
                for path in paths_of(template.domain):
                    app.rely_on(name, path, f"{where} reads it")
            except PluginError as error:
                raise ConfigurationError(str(error)) from None
            except DomainError as error:
                raise ConfigurationError(f"{where}: {error}") from error
    return checked, templates


def _refuse_incomparable(schema: Schema, domain: Domain) -> None:
    """Refuse a condition that no value of its variable makes possible.

    Raises:
        DomainError: It compares a secret field by what that field does not take.
    """
    for condition in domain.conditions():
        path = secret_path(schema, condition)
        if path is None or path.limits is None:
            continue
        problem = path.limits(condition.operator, condition.value)
        if problem:
            raise DomainError(f"({condition.path!r}, {condition.operator!r}): {problem}")


def joined(declared: object, added: Sequence[object] | None) -> object:
    """Return a model's own declarations and those of the settings; a value of another kind as it is."""
    if not added:
        return declared
    own = () if declared is None else declared
    return (*own, *added) if isinstance(own, list | tuple) else own


def domain_of(source: object, where: str) -> Domain:
    """Return a rule's domain.

    Raises:
        PluginError: It is no domain.
    """
    # Domain(None) is always true, and a function without a return must not open the model.
    if not isinstance(source, Domain | list | tuple | bool):
        raise PluginError(
            f"{where}: a domain is a list of conditions, a Domain, True or False, "
            f"not {type(source).__name__}"
        )
    if isinstance(source, bool):
        return Domain.TRUE if source else Domain.FALSE
    return Domain(source)


def paths_of(domain: Domain) -> Iterator[str]:
    """Yield the paths that a domain reads, those of conditions about related records included."""
    for condition in domain.conditions():
        value = condition.value
        if condition.operator in ("any", "not any") and isinstance(value, tuple):
            for path in paths_of(Domain(list(cast("tuple[object, ...]", value)))):
                yield f"{condition.path}.{path}"
        yield condition.path


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


def listed(names: Iterable[str]) -> str:
    """Return names for a message."""
    return " or ".join(repr(name) for name in names) or "none"
