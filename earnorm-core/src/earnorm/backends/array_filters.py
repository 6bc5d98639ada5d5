"""Array filters for the memory backend, as mongomock has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from earnorm.backends.base import Document, Filter
from earnorm.domain.paths import is_position


def at_positions(
    document: Mapping[str, Any], update: Mapping[str, Any], filters: Sequence[Filter]
) -> dict[str, Document]:
    """Return an update with the positions of the matching items in the place of their names.

    Args:
        document: The document to update, as mongomock stores it.
        update: The update; its paths may have names of items: ``lines.$[name].qty``.
        filters: The filter of each name.
    """
    named = {_name_of(condition): condition for condition in filters}
    positioned: dict[str, Document] = {}
    for operator, spec in update.items():
        for path, value in spec.items():
            for found in _paths(document, path.split("."), 0, named):
                positioned.setdefault(operator, {})[found] = value
    return positioned


def _name_of(condition: Filter) -> str:
    for key, value in condition.items():
        return _name_of(value[0]) if key == "$and" else key.partition(".")[0]
    raise AssertionError("an array filter names its items")


def _paths(
    value: Any, parts: Sequence[str], start: int, named: Mapping[str, Filter]
) -> Iterator[str]:
    import mongomock.filtering

    filter_applies: Callable[[Filter, Document], bool] = cast(
        "Any", mongomock.filtering
    ).filter_applies
    for number, part in enumerate(parts[start:], start):
        if part.startswith("$["):
            name = part[2:-1]
            for position, item in enumerate(value if isinstance(value, list) else ()):
                if filter_applies(named[name], {name: item}):
                    here = [*parts[:number], str(position), *parts[number + 1 :]]
                    yield from _paths(item, here, number + 1, named)
            return
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and is_position(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            value = None
    yield ".".join(parts)
