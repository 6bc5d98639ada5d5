"""Removal of keys that a model doesn't declare from the documents that are read.

A stored key named ``save`` must not shadow the method, and an undeclared key must not be readable
by accident. A projection on each search would ensure that, at a cost of 6 to 9 % of a large search
and some 20 µs of a small one. So the keys of the documents are checked instead, all documents in
one call. Once a collection has returned undeclared keys, each later search of it has a projection,
so that the server does not even send them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from earnorm.backends.base import Document, KeyTree
    from earnorm.kernel.serving.reading import RecordClasses
    from earnorm.model.schema import Schema


_DEEPEST: Final = 8  # embedded documents inside of each other whose keys are told

_NO_KEYS: Final[frozenset[str]] = frozenset()


class DeclaredKeys:
    """The declared keys of one model in one App."""

    __slots__ = ("_is_known", "_schema", "_tree", "projection")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._is_known = schema.is_known
        self._tree: KeyTree | None = None
        self.projection: Mapping[str, int] | None = None
        """The projection of a search for whole records; None until an undeclared key was seen."""

    @property
    def tree(self) -> KeyTree:
        """The declared keys in their order, those of embedded documents included."""
        if self._tree is None:
            self._tree = _tree_of(self._schema)
        return self._tree

    def note_others(self) -> None:
        """Note that the backend has left out undeclared keys."""
        self.projection = self._schema.projection

    def only(self, documents: list[Document]) -> list[Document]:
        """Remove undeclared keys from the documents; return the list itself if there are none."""
        if len(documents) < 2:
            if not documents or self._is_known(documents[0]):
                return documents
        elif self._is_known(_NO_KEYS.union(*documents)):
            return documents
        declared = self.projection = self._schema.projection
        return [{k: v for k, v in document.items() if k in declared} for document in documents]


class SharedKeys:
    """The same as :class:`DeclaredKeys`, for a model whose records are of several classes.

    A document may have the keys of any of these classes; a record takes those of its own class.
    """

    __slots__ = ("_classes", "_is_closed")
    tree = None  # each class has other keys

    def __init__(self, classes: RecordClasses) -> None:
        self._classes = classes
        self._is_closed = False

    @property
    def projection(self) -> Mapping[str, int] | None:
        """The projection of a search for whole records; None until an undeclared key was seen."""
        return self._classes.keys if self._is_closed else None

    def note_others(self) -> None:
        """Note that the backend has left out keys that no class declares."""
        self._is_closed = True

    def only(self, documents: list[Document]) -> list[Document]:
        """Remove the keys that no class declares from the documents."""
        declared = self._classes.keys
        if documents and not declared.keys() >= _NO_KEYS.union(*documents):
            self._is_closed = True
            return [{k: v for k, v in document.items() if k in declared} for document in documents]
        return documents


def _tree_of(schema: Schema, depth: int = 0) -> KeyTree:
    below = None if depth == _DEEPEST else depth + 1
    return {
        field.db_name: None
        if field.structure is None or below is None
        else _tree_of(field.structure._schema, below)
        for field in schema.stored
    }
