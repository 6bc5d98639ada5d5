"""Residuals: the domain that a record must match before a change to match another one after it.

Conditions on values that the change sets are decided at once; the rest of the domain stays. So the
same write decides on the server, from the record as it is, whether the record leaves a rule. No
record has to be read and changed in memory, nor has it to stay as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from earnorm import App, BaseModel, Domain, DomainError
from earnorm.domain import And, Condition, Path, Schema
from earnorm.plugin import PerRecord, Update, overlap, without_positions
from earnorm_security.rewriting import rewritten

_Effect: TypeAlias = tuple[str, Any, bool]
"""A changed path with its new value, and whether that is known."""

_UNSET = object()
_ANY_PATH = "*"  # the path of a condition about the whole record, e.g. a full-text search


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
        self._paths = {
            node: _ANY_PATH if node.path == _ANY_PATH else schema.resolve(node.path).db_path
            for node in self._domain.conditions()
        }
        self._sealed = frozenset(node for node in self._paths if is_sealed(schema, node))
        self._keys = frozenset(path.partition(".")[0] for path in self._paths.values())
        self._terms = frozenset(_terms(self._domain))

    def after(self, update: Update) -> Domain | None:
        """Return the domain of the records that satisfy the whole domain after the update.

        Args:
            update: The change, in stored form.

        Returns:
            A domain about the records before the change, simplified. It is the whole domain itself
            if the change does not concern it. It is None if the update changes a value of the
            domain in a way whose result isn't known beforehand: an operator other than ``$set``
            and ``$unset``, a part of the value (``$set`` of ``lines.0`` for a condition about
            ``lines``), any change if a condition is about the whole record, or another value of an
            encrypted field.
        """
        if _ANY_PATH in self._keys:
            return None
        if self._keys.isdisjoint(_keys_of(update)):
            return self._domain
        try:
            return self._rest(_effect(update))
        except _UnknownError:
            return None

    def of_new(self, document: Mapping[str, Any]) -> Domain:
        """Return the conditions that a new document leaves open for values that steps may fill in.

        Args:
            document: The document, in stored form.
        """
        return self._rest([(key, v, True) for key, v in document.items() if v is not None])

    def is_implied(self, rest: Domain) -> bool:
        """Return whether the domain's terms contain those of a residual, and so imply it."""
        return self._terms.issuperset(_terms(rest))

    def _rest(self, effect: Sequence[_Effect]) -> Domain:
        return rewritten(self._domain, lambda node: self._decided(node, effect)).simplify()

    def _decided(self, node: Condition, effect: Sequence[_Effect]) -> Domain:
        """Return a condition's result after the change; the condition itself if nothing touches it.

        Raises:
            _UnknownError: The result is not known beforehand.
        """
        path = self._paths[node]
        for changed, value, is_known in effect:
            if path == changed or path.startswith(f"{changed}."):
                if not is_known or (node in self._sealed and value is not _UNSET):
                    raise _UnknownError
                document = {} if value is _UNSET else _nested(changed, value)
                return _constant(self._app.matcher(self._model, node)(document))
            if changed.startswith(f"{path}."):
                # The write sets a value inside, so there is an object afterwards.
                is_about_none = node.value is None and node.operator in ("=", "!=")
                if not is_known or not is_about_none or without_positions(changed) != changed:
                    raise _UnknownError
                if value is not _UNSET:
                    return _constant(node.operator == "!=")
            elif overlap(without_positions(path), without_positions(changed)):
                raise _UnknownError
        return node


def is_sealed(schema: Schema, node: Condition) -> bool:
    """Return whether a condition compares an encrypted value, of which only the database has the
    stored form."""
    path = None if node.value is None else secret_path(schema, node)
    field: Any = None if path is None else path.field
    return field is not None and bool(field.is_placed)


def secret_path(schema: Schema, node: Condition) -> Path | None:
    """Return the path of a condition on a secret value of the record itself; None for any other."""
    if node.path == _ANY_PATH or schema.crossing(node.path) is not None:
        return None
    try:
        path = schema.resolve(node.path)
    except DomainError:  # it follows from other values, and their conditions take its place
        return None
    return path if path.limits is not None else None


class _UnknownError(Exception):
    """The result of a change is not known beforehand."""


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


def _keys_of(update: Update) -> frozenset[str]:
    renamed = update.operators.get("$rename", {})
    return update.keys | {str(path).partition(".")[0] for path in renamed.values()}


def _effect(update: Update) -> list[_Effect]:
    """Return the changed paths, each with its new value and whether that is known."""
    effect: list[_Effect] = []
    for operator, spec in update.operators.items():
        for path, value in spec.items():
            is_known = operator in ("$set", "$unset")
            effect.append((path, _UNSET if operator == "$unset" else value, is_known))
            if operator == "$rename":
                effect.append((str(value), None, False))
    return effect


def _nested(path: str, value: Any) -> dict[str, Any]:
    """Return a document that has a value at a path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    document: dict[str, Any] = value
    return document


def _constant(is_true: bool) -> Domain:
    return Domain.TRUE if is_true else Domain.FALSE
