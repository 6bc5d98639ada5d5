"""The order of documents, as a server sorts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from earnorm.backends.in_memory.values import lacking, refused
from earnorm.domain.bson_order import sort_keys

Item = TypeVar("Item")


def sorted_by(
    items: Iterable[Item],
    order: Mapping[str, Any] | Iterable[tuple[str, Any]],
    document: Callable[[Item], Mapping[str, Any]],
) -> list[Item]:
    """Return the items in the order of their documents; equal ones stay as they are.

    Raises:
        NotImplementedError: Memory does not have this order.
        OperationFailure: A server refuses it, too.
    """
    result = list(items)
    pairs: list[Any] = list(order.items() if isinstance(order, Mapping) else order)
    for path, direction in reversed(pairs):
        if isinstance(direction, bool) or direction not in (1, -1):
            if isinstance(direction, Mapping):
                raise lacking("order by $meta")
            raise refused(15975, "$sort key ordering must be 1 or -1")
        parts = path.split(".")
        if direction == 1:
            result.sort(key=lambda item: min(sort_keys(document(item), parts)))
        else:
            result.sort(key=lambda item: max(sort_keys(document(item), parts)), reverse=True)
    return result
