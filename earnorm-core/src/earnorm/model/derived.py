"""The interface of fields whose values follow from other fields; a feature implements it."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from earnorm.domain.schema import Substitute
    from earnorm.fields.base import Field


class DerivedValues(Protocol):
    """The fields of one class whose values follow from other fields."""

    @property
    def by_name(self) -> Container[str]:
        """The names of these fields."""
        ...

    @property
    def substitutes(self) -> Mapping[str, Substitute]:
        """For each such field, by name, the way to rewrite a condition on it for other fields."""
        ...

    def read(self, record: Any, field: Field[Any, Any]) -> Any:
        """Return the value of such a field that a record's state lacks."""
        ...

    def can_read(self, record: Any, field: Field[Any, Any]) -> bool:
        """Return whether everything that such a field's value follows from was fetched."""
        ...

    def depends(self, name: str) -> Sequence[str]:
        """Return the paths of the values that such a field's value follows from."""
        ...

    def sources(self, names: Iterable[str]) -> Collection[str]:
        """Return the record's stored fields that must be fetched to read those of such fields that
        are not stored.
        """
        ...

    def assign(self, record: Any, field: Field[Any, Any], value: Any) -> None:
        """Take a value that is assigned to such a field."""
        ...

    def following(self, names: Iterable[str]) -> Collection[str]:
        """Return the names of the stored fields whose values follow from these."""
        ...

    def changed(self, record: Any, name: str) -> None:
        """Note the assignment of a field from which other values may follow."""
        ...

    def settle_new(self, record: Any) -> None:
        """Take the values that a new record was given for such fields, and finish the record."""
        ...
