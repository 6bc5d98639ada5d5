"""What a domain needs to know about a model: how a path resolves, and how an operand is stored.

``domain/`` knows no model and no app; models fulfil these protocols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


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


class Schema(Protocol):
    """A model, seen by a domain."""

    name: str

    def resolve(self, path: str) -> Path:
        """Resolve ``"age"``, ``"id"`` or ``"address.city"``.

        Raises:
            DomainError: No such field; the message names the nearest one.
        """
        ...
