"""What a record must still fulfil so that it satisfies a domain after a change.

The conditions on what the change sets are decided now; the rest of the domain stays. So whether a
record leaves a rule is a question that the server answers about the record as it is, in the same
write, and no record has to be read, changed in memory and trusted to stay as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from earnorm import App, BaseModel, Domain
from earnorm.domain import And, Condition, Not, Or
from earnorm.plugin import Update

Decide = Callable[[Domain], bool | None]


def residual(app: App, model: type[BaseModel], domain: Domain, update: Update) -> Domain | None:
    """The domain of the records that satisfy ``domain`` once ``update`` was applied to them.

    Args:
        app: Whose operators decide a condition.
        model: The model that both are about.
        domain: What shall hold afterwards.
        update: The change, in stored form.

    Returns:
        A domain about the records before the change, simplified; None where the change does
        something to a field of ``domain`` whose outcome isn't known beforehand: an operator other
        than ``$set`` and ``$unset``, or a part of a value (``$set`` of ``address.city``).
    """
    values, unknown = _effect(update)
    if not values and not unknown:
        return domain

    undecidable = False

    def rest(node: Domain) -> Domain:
        nonlocal undecidable
        if isinstance(node, Condition):
            key = app.bind(model).schema.resolve(node.path).db_path.partition(".")[0]
            if key in unknown:
                undecidable = True
                return Domain.FALSE
            if key not in values:
                return node
            return Domain(app.matcher(model, node)(_document(key, values)))
        if isinstance(node, And):
            return And(rest(child) for child in node.children)
        if isinstance(node, Or):
            return Or(rest(child) for child in node.children)
        return ~rest(node.child) if isinstance(node, Not) else node

    result = rest(domain).simplify()
    return None if undecidable else result


_UNSET = object()


def _document(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {} if values[key] is _UNSET else {key: values[key]}


def _effect(update: Update) -> tuple[dict[str, Any], frozenset[str]]:
    """The keys whose values are known afterwards, and those that change in another way."""
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
