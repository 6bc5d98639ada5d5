"""What a domain needs to know about a model: how a path resolves, and how an operand is stored.

``domain/`` knows no model and no app; models fulfil these protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

ID_PATHS: Final = frozenset({"_id", "id", "pk"})
"""The paths that mean a record's id."""

Substitute: TypeAlias = Callable[[str, str, object], Any]
"""From the rest of a path, an operator and a value to a domain that means the same."""


class FieldLike(Protocol):
    """The part of a field that conditions use."""

    name: str

    def operand(self, value: Any) -> Any:
        """The stored (BSON) form of one value of a condition.

        Raises:
            ValueError: The value can never be a value of this field (a dict, a regex, a wrong type …).
        """
        ...


@dataclass(frozen=True, slots=True)
class Path:
    """A resolved path: where it lies in the stored document, and the field at its end."""

    db_path: str
    field: FieldLike


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a path reaches another model: the first relation on it, and what remains behind it.

    Attributes:
        field: The relation.
        path: The path of the value here that leads there: the relation's own (``author_id``,
            ``address.country_id``), or ``_id`` for a relation that the other side stores.
        local: The same, in the stored document, from its root (also where ``path`` begins in a list's
            element).
        rest: The path inside the other model; empty where the path ends at the relation.
        owned: The value lies in this model's documents.
        single: It leads to one record at most.
    """

    field: Any  # a relation; domains look at none of its attributes
    path: str
    local: str
    rest: str
    owned: bool
    single: bool


class Schema(Protocol):
    """A model, seen by a domain."""

    name: str

    def resolve(self, path: str) -> Path:
        """Resolve ``"age"``, ``"id"`` or ``"address.city"``.

        Raises:
            UnresolvedDomain: The path leads into another model.
            DomainError: No such field; the message names the nearest one.
        """
        ...

    def substitute(self, path: str) -> Substitute | None:
        """What makes a condition about the path one about other fields; None where there is nothing
        to do: the path lies in the document, or in another model's."""
        ...

    def crossing(self, path: str) -> Crossing | None:
        """The first relation on a path; None where it meets none (or no such field exists)."""
        ...
