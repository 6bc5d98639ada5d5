"""The stored fields that are never owed, because something relies on them in every moment.

Those are the fields that say ``recompute="now"``, those of a unique index, those that a plugin
relies on (an access rule, say), and the computed fields that one of these is computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConfigurationError, EarnORMError
from earnorm.features.indexes.declarations import declared_indexes

if TYPE_CHECKING:
    from earnorm.features.computed.dependencies import Graph, Key, Node
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel


def recompute_of(node: Node) -> str:
    """Return what the field says with ``recompute=``, or nothing."""
    computed = node.formula.field.computed
    return "" if computed is None else computed.recompute


def urgent_fields(app: App, graph: Graph) -> Mapping[Key, str]:
    """Return the stored fields that are never owed, each with the reason.

    Raises:
        ConfigurationError: Such a field says ``recompute="later"``.
    """
    reasons: dict[Key, str] = {}
    for key, reason in _relied_on(app, graph):
        reasons.setdefault(key, reason)
    waiting = list(reasons)
    while waiting:
        key = waiting.pop()
        for read in graph.inputs(key):
            if read not in reasons:
                reasons[read] = f"{'.'.join(key)} reads it, and {reasons[key]}"
                waiting.append(read)
    urgent = {key: reasons[key] for key in graph.stored if key in reasons}
    for (model, name), reason in urgent.items():
        if recompute_of(graph.nodes[model, name]) == "later":
            raise ConfigurationError(
                f'{model}.{name} says recompute="later", and its value may never lag behind: {reason}'
            )
    return urgent


def _relied_on(app: App, graph: Graph) -> Iterator[tuple[Key, str]]:
    for key in graph.stored:
        if recompute_of(graph.nodes[key]) == "now":
            yield key, 'it says recompute="now"'
    for model in {model for model, _ in graph.stored}:
        for name in _in_unique_indexes(app.bind(app.model(model))):
            if (model, name) in graph.nodes:
                yield (model, name), "a unique index reads it"
    for bound in graph.models:  # also one without such fields may be judged by those of others
        for path, reason in app.relied_on(bound.view.names):
            with suppress(EarnORMError):  # the model's first use raises it
                for key in graph.computed_along(bound.model._name, path):
                    yield key, reason


def _in_unique_indexes(bound: BoundModel) -> Iterator[str]:
    """Yield the fields in the keys of the model's unique indexes, and in their conditions."""
    renamed = bound.schema.renamed
    try:
        specs = declared_indexes(bound.model, bound.operators)
    except EarnORMError:
        return  # the model's first use raises it
    for spec in specs:
        if spec.options.get("unique"):
            condition = spec.options.get("partialFilterExpression", {})
            for path in (*(key for key, _ in spec.keys), *_paths(condition)):
                head = path.partition(".")[0]
                yield renamed.get(head, head)


def _paths(expression: Any) -> Iterator[str]:
    if isinstance(expression, Mapping):
        for key, value in expression.items():
            if not key.startswith("$"):
                yield key
            yield from _paths(value)
    elif isinstance(expression, list | tuple):
        for each in expression:
            yield from _paths(each)
