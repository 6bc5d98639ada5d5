"""The places of secret values in the documents of a model, as a tree to walk along a document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from earnorm.fields import Field
from earnorm.plugin import without_positions
from earnorm_security.secrets.encryption import Encrypted
from earnorm_security.secrets.passwords import Password

Convert = Callable[[Any, Any, str], Any]
"""Gets the field, the value (never None) and the path with its positions; returns another value."""


@dataclass(slots=True)
class Node:
    """A value on the way to secret ones.

    Attributes:
        secret: The field of a secret value; None on the way to some.
        keys: By stored key, the values in a document.
        each: The items of a list, or the values of a dict.
        is_dict: ``each`` is about a dict.
    """

    secret: Any = None
    keys: dict[str, Node] = field(default_factory=dict[str, "Node"])
    each: Node | None = None
    is_dict: bool = False

    def walk(self, value: Any, path: str, convert: Convert) -> Any:
        """Return a value with each secret one in it converted; containers with some are new ones."""
        if value is None:
            return None
        if self.secret is not None:
            return convert(self.secret, value, path)
        if self.each is not None:
            each = self.each
            if isinstance(value, list) and not self.is_dict:
                return [each.walk(v, f"{path}.{n}", convert) for n, v in enumerate(value)]
            if isinstance(value, dict) and self.is_dict:
                return {k: each.walk(v, f"{path}.{k}", convert) for k, v in value.items()}
            return value
        if not isinstance(value, dict):
            return value
        return self.document(value, convert, f"{path}.")

    def document(self, document: Mapping[str, Any], convert: Convert, prefix: str = "") -> Any:
        """Return a document with each secret value in it converted."""
        changed = {
            key: node.walk(document[key], f"{prefix}{key}", convert)
            for key, node in self.keys.items()
            if key in document
        }
        return {**document, **changed} if changed else document

    def at(self, path: str) -> Node | None:
        """Return the node of a stored path, which may have positions; None where it has no secret."""
        node: Node | None = self
        for part in path.split("."):
            if node is None:
                return None
            if node.each is not None:
                is_position = not node.is_dict and without_positions(part) == ""
                if is_position or node.is_dict:
                    node = node.each
                    continue
                node = node.each
            node = None if node is None else node.keys.get(part)
        return node


def tree_of(fields: Iterable[Field[Any, Any]]) -> Node:
    """Return the places of the passwords and the encrypted values of these fields."""
    root = Node()
    for one in fields:
        node = _node(one) if one.stored else None
        if node is not None:
            root.keys[one.db_name] = node
    return root


def _node(one: Field[Any, Any]) -> Node | None:
    if isinstance(one, Password | Encrypted):
        return Node(secret=one)
    contents = one.contents()
    if contents.each is not None:
        inner = _node(contents.each)
        return None if inner is None else Node(each=inner, is_dict=contents.values is not None)
    if contents.model is None:
        return None
    inside = tree_of((one.fields_inside() or {}).values())
    return inside if inside.keys else None
