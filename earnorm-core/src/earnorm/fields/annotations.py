"""Annotations of fields, as the users of a model see them: ``title: Value[str] = String(required=True)``.

They are for type checkers alone: at run time a field is what its class makes of it. docs/typed-models.md shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from earnorm.fields.command import Command
    from earnorm.fields.expressions import Expressions
    from earnorm.fields.relational import Link, Links, RecordId
    from earnorm.model.base import BaseModel
    from earnorm.model.recordset import RecordSet

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
M = TypeVar("M", bound="BaseModel")


class Value(Protocol[T]):
    """A field with this value: ``Value[str]`` is always set, ``Value[str | None]`` may be unset."""

    @overload
    def __get__(self, record: None, owner: type[Any]) -> Expressions[T]: ...
    @overload
    def __get__(self, record: object, owner: type[Any]) -> T: ...
    def __get__(self, record: Any, owner: type[Any]) -> Any:
        """Return the field, or the value of a record."""

    def __set__(self, record: Any, value: T) -> None:
        """Change the value of a record."""


class ReadOnly(Protocol[T_co]):
    """A field that nobody assigns: it is computed, or filled in when the record is stored."""

    @overload
    def __get__(self, record: None, owner: type[Any]) -> Expressions[T_co]: ...
    @overload
    def __get__(self, record: object, owner: type[Any]) -> T_co: ...
    def __get__(self, record: Any, owner: type[Any]) -> Any:
        """Return the field, or the value of a record."""

    def __set__(self, record: Any, value: Never) -> None:
        """Take no value: without this method mypy would let an assignment pass."""


class One(Protocol[T]):
    """A relation to one record, which also takes its id: ``One[Team]``, ``One[Team | None]``."""

    @overload
    def __get__(self, record: None, owner: type[Any]) -> Link[T]: ...
    @overload
    def __get__(self, record: object, owner: type[Any]) -> T: ...
    def __get__(self, record: Any, owner: type[Any]) -> Any:
        """Return the field, or the other record."""

    def __set__(self, record: Any, value: T | RecordId) -> None:
        """Link the record to another one."""


class Many(Protocol[M]):
    """A relation to any number of records: ``Many[Tag]``."""

    @overload
    def __get__(self, record: None, owner: type[Any]) -> Links[M]: ...
    @overload
    def __get__(self, record: object, owner: type[Any]) -> RecordSet[M]: ...
    def __get__(self, record: Any, owner: type[Any]) -> Any:
        """Return the field, or the other records."""

    def __set__(
        self, record: Any, value: Iterable[M | Command | RecordId | Mapping[str, Any]]
    ) -> None:
        """Link the record to others."""
