"""The stored keys of a projection that fetches only some fields of embedded objects.

``Options.inside`` has paths into fields that ``Options.fields`` names, e.g. ``main.qty``. Each of these
fields is fetched as far as one of its paths leads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earnorm.fields.base import Field

Tree = dict[str, "Tree"]
"""Names of fields, each with the names below it; a field without any is fetched whole."""


def tree_of(paths: Iterable[str]) -> Tree:
    """Return paths, none of which leads into another one, as a tree of names."""
    tree: Tree = {}
    for path in paths:
        below = tree
        for name in path.split("."):
            below = below.setdefault(name, {})
    return tree


def outermost(paths: Collection[str]) -> frozenset[str]:
    """Return the paths without those that lead into what another one names whole."""
    known = set(paths)
    return frozenset(path for path in paths if known.isdisjoint(_above(path)))


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def head_of(path: str) -> str:
    """Return the name of the field that a path begins with."""
    return path.partition(".")[0]


def holder_of(field: Field[Any, Any]) -> Any:
    """Return the Embedded field in a field: itself, or its items' field; None where it is neither."""
    item = field.contents().items or field
    return None if item.contents().model is None else item


def stored_keys(
    fields: Mapping[str, Field[Any, Any]], names: Iterable[str], tree: Tree
) -> dict[str, int]:
    """Return the stored keys of these fields, as far as the tree leads, as a projection.

    A field with a default is fetched whole: a server gives neither the null nor the missing key at the
    beginning of a path, and they mean different values.

    Args:
        fields: Fields by name.
        names: The names of those to fetch.
        tree: The paths into some of them.
    """
    keys: dict[str, int] = {}
    for name in names:
        field = fields[name]
        if not field.stored:
            continue
        below = tree.get(name)
        holder = holder_of(field) if below and field.default is None else None
        if holder is None or not below:
            keys[field.db_name] = 1
            continue
        inside: Mapping[str, Field[Any, Any]] = holder.fields_inside()
        for key in stored_keys(inside, below, below):
            keys[f"{field.db_name}.{key}"] = 1
        if holder.kinds is not None:  # it tells the class of the object
            keys[f"{field.db_name}.{holder.kinds.key}"] = 1
    return keys
