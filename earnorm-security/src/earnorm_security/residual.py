"""Residuals: the domain that a record must match before a change to match another one after it.

Conditions on values that the change sets are decided at once; the rest of the domain stays. So the
same write decides on the server, from the record as it is, whether the record leaves a rule. No
record has to be read and changed in memory, nor has it to stay as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from earnorm import App, BaseModel, Domain
from earnorm.domain import And, Condition, Not, Or
from earnorm.plugin import PerRecord, Update

_UNSET = object()
_ANY_KEY = "*"  # the path of a condition about the whole record, e.g. a full-text search


class Residual:
    """The residuals of one domain.

    Args:
        app: The App whose operators decide the conditions.
        model: The model that the domain is about.
        domain: The domain that must hold after the change.
    """

    def __init__(self, app: App, model: type[BaseModel], domain: Domain) -> None:
        self._app, self._model, self._domain = app, model, domain.simplify()
        schema = app.bind(model).schema
        self._keys = {
            node: _ANY_KEY
            if node.path == _ANY_KEY
            else schema.resolve(node.path).db_path.partition(".")[0]
            for node in self._domain.conditions()
        }
        self._looked_at = frozenset(self._keys.values())
        self._terms = frozenset(_terms(self._domain))

    def after(self, update: Update) -> Domain | None:
        """Return the domain of the records that satisfy the whole domain after the update.

        Args:
            update: The change, in stored form.

        Returns:
            A domain about the records before the change, simplified. It is the whole domain itself
            if
            the change does not concern it. It is None if the update changes a field of the domain
            in a
            way whose result isn't known beforehand: an operator other than ``$set`` and ``$unset``,
            a
            part of a value (``$set`` of ``address.city``), or any change if a condition is about
            the
            whole record.
        """
        values, unknown = _effect(update)
        if _ANY_KEY in self._looked_at or not unknown.isdisjoint(self._looked_at):
            return None
        return self._domain if self._looked_at.isdisjoint(values) else self._rest(values)

    def of_new(self, document: Mapping[str, Any]) -> Domain:
        """Return the conditions that a new document leaves open for values that steps may fill in.

        Args:
            document: The document, in stored form.
        """
        return self._rest({key: value for key, value in document.items() if value is not None})

    def is_implied(self, rest: Domain) -> bool:
        """Return whether the domain's terms contain those of a residual, and so imply it."""
        return self._terms.issuperset(_terms(rest))

    def _rest(self, values: Mapping[str, Any]) -> Domain:
        def rest(node: Domain) -> Domain:
            if isinstance(node, Condition):
                key = self._keys[node]
                if key not in values:
                    return node
                document = {} if values[key] is _UNSET else {key: values[key]}
                return Domain(self._app.matcher(self._model, node)(document))
            if isinstance(node, And):
                return And(rest(child) for child in node.children)
            if isinstance(node, Or):
                return Or(rest(child) for child in node.children)
            return ~rest(node.child) if isinstance(node, Not) else node

        return rest(self._domain).simplify()


def updates_of(values: object) -> Mapping[Any, Update]:
    """Return the updates of a write by record id; an update for all that match is under None."""
    if isinstance(values, PerRecord):
        return values
    return {None: values} if isinstance(values, Update) else {}


def together(residuals: Mapping[Domain, list[Any]]) -> Domain:
    """Combine residuals into one domain that all records must fulfil.

    Args:
        residuals: For each residual the ids of its records; None is the id of all that match.
    """
    result = Domain.TRUE
    for rest, pks in residuals.items():
        result &= rest if pks == [None] else Domain([("_id", "not in", pks)]) | rest
    return result.simplify()


def _terms(domain: Domain) -> Iterable[Domain]:
    if isinstance(domain, And):
        return domain.children
    return () if domain is Domain.TRUE else (domain,)


def _effect(update: Update) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the keys with their known new values, and the keys that change in another way."""
    values: dict[str, Any] = {}
    unknown: set[str] = set()
    for operator, spec in update.operators.items():
        for path, value in spec.items():
            key, _, inner = path.partition(".")
            if inner or operator not in ("$set", "$unset"):
                unknown.add(key)
            else:
                values[key] = value if operator == "$set" else _UNSET
            if operator == "$rename":
                unknown.add(str(value).partition(".")[0])
    return values, frozenset(unknown)
