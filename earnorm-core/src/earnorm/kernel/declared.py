"""Keys that a model doesn't declare stay out of its records, whoever wrote them.

A stored key named ``save`` must not shadow the method, and one that nobody declared must not be
readable by accident. A projection on each search would see to that, for 6 to 9 % of the time of a
large one and for some 20 µs of a small one. So the keys of what came are checked instead, all
documents in one call; a collection in which others were found once is asked with a projection from
then on, so that what nobody declared is not even sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.reading import RecordClasses
    from earnorm.model.schema import Schema


_NO_KEYS: Final[frozenset[str]] = frozenset()


class DeclaredKeys:
    """The declared keys of one model in one App."""

    __slots__ = ("_is_known", "_schema", "projection")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._is_known = schema.is_known
        self.projection: Mapping[str, int] | None = None
        """What a search for whole records names; None while no other keys were seen."""

    def only(self, documents: list[Document]) -> list[Document]:
        """The documents without keys that are not declared; the list itself where there are none."""
        if len(documents) < 2:
            if not documents or self._is_known(documents[0]):
                return documents
        elif self._is_known(_NO_KEYS.union(*documents)):
            return documents
        declared = self.projection = self._schema.projection
        return [{k: v for k, v in each.items() if k in declared} for each in documents]


class SharedKeys:
    """As :class:`DeclaredKeys`, of a model whose documents become records of several classes.

    A document may have the keys of any of them, so which of these are its own is told with its class.
    """

    __slots__ = ("_classes", "_is_closed")

    def __init__(self, classes: RecordClasses) -> None:
        self._classes = classes
        self._is_closed = False

    @property
    def projection(self) -> Mapping[str, int] | None:
        """What a search for whole records names; None while no other keys were seen."""
        return self._classes.keys if self._is_closed else None

    def only(self, documents: list[Document]) -> list[Document]:
        """The documents without keys that no class declares."""
        declared = self._classes.keys
        if documents and not declared.keys() >= _NO_KEYS.union(*documents):
            self._is_closed = True
            return [{k: v for k, v in each.items() if k in declared} for each in documents]
        return documents
