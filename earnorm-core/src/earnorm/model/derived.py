"""The part that values which follow from others have in a record in memory, as a feature fulfils it."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
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
        """By name, how a condition about such a field becomes one about others."""
        ...

    def read(self, record: Any, field: Field[Any, Any]) -> Any:
        """The value of such a field that a record's state lacks."""
        ...

    def assign(self, record: Any, field: Field[Any, Any], value: Any) -> None:
        """Take a value that is assigned to such a field."""
        ...

    def following(self, names: Iterable[str]) -> Collection[str]:
        """The names of the stored fields whose values follow from these."""
        ...

    def changed(self, record: Any, name: str) -> None:
        """Note that a field was assigned, from which others may follow."""
        ...

    def settle_new(self, record: Any) -> None:
        """Take what a new record was given for such fields, and let it settle what it has to."""
        ...
