"""The protocols of models for domains: how a path resolves, and how an operand is stored.

``domain/`` knows no model and no App; models fulfil these protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

ID_PATHS: Final = frozenset({"_id", "id", "pk"})
"""The paths that mean a record's id."""

Substitute: TypeAlias = Callable[[str, str, object], Any]
"""Makes a domain with the same meaning from the rest of a path, an operator and a value."""


class FieldLike(Protocol):
    """The part of a field that conditions use."""

    name: str

    def operand(self, value: Any) -> Any:
        """Convert one value of a condition to its stored (BSON) form.

        Raises:
            ValueError: The value can never be a value of this field (a dict, a regex, a wrong type …).
        """
        ...


_UNCHANGED: Final = "_earnorm_unchanged"
_NO_TYPES: Final[frozenset[type]] = frozenset()
Convert = TypeVar("Convert", bound=Callable[..., Any])


def keeps(*types: type) -> Callable[[Convert], Convert]:
    """Mark an ``operand`` that returns each value of exactly these types as it is.

    Lists of such values are not converted item by item.
    """

    def mark(operand: Convert) -> Convert:
        setattr(operand, _UNCHANGED, frozenset(types))
        return operand

    return mark


def kept_types(operand: Callable[..., Any]) -> frozenset[type]:
    """Return the types whose values an ``operand`` returns as they are."""
    kept: frozenset[type] = getattr(operand, _UNCHANGED, _NO_TYPES)
    return kept


@dataclass(frozen=True, slots=True)
class Path:
    """A resolved path: the path in the stored document, and the field at its end."""

    db_path: str
    field: FieldLike
    limits: Callable[[str, object], str] | None = None
    """Returns why a condition with this operator and value is refused; None where all may be."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """The point at which a path enters another model: the first relation on it, and the rest.

    Attributes:
        field: The relation.
        path: The path of this model's value that leads to the other model: the relation's own
            (``author_id``, ``address.country_id``), or ``_id`` for a relation that the other side
            stores.
        local: The same path in the stored document, from its root (even if ``path`` begins in an
            element of a list).
        rest: The path inside the other model; empty if the path ends at the relation.
        owned: The value lies in this model's documents.
        single: The relation leads to one record at most.
    """

    field: Any  # a relation; domains look at none of its attributes
    path: str
    local: str
    rest: str
    owned: bool
    single: bool


class Schema(Protocol):
    """The part of a model that a domain uses."""

    name: str

    def resolve(self, path: str) -> Path:
        """Resolve ``"age"``, ``"id"`` or ``"address.city"``.

        Raises:
            UnresolvedDomain: The path leads into another model.
            DomainError: No such field; the message names the nearest one.
        """
        ...

    def substitute(self, path: str) -> Substitute | None:
        """Return the function that replaces a condition on the path by one on other fields.

        It is None if there is nothing to replace: the path lies in this model's document or in
        another model's.
        """
        ...

    def crossing(self, path: str) -> Crossing | None:
        """Return the first relation on a path, or None if it has none (or no such field exists)."""
        ...
