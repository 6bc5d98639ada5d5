"""Conditions written with fields: ``User.age > 20``, ``User.address.city == "Hanoi"``.

Each method makes the same condition as the list notation; docs/domains.md says what it means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from earnorm.domain import Domain, DomainSource, condition
from earnorm.domain.schema import ID_PATHS
from earnorm.exceptions import nearest

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.fields.geo import Geometry
    from earnorm.model.writing.updates import Change

V = TypeVar("V", covariant=True)


class Expressions(Generic[V]):
    """The conditions on a field, or on the field at the end of a path."""

    if TYPE_CHECKING:

        @property
        def _condition_path(self) -> str: ...

    # Two rules of checkers do not fit conditions: that == takes any object and says a bool, and that the type of a value
    # that is read (a text or None) is no type of what it is compared with.
    def __eq__(self, value: V | None) -> Domain:  # type: ignore[override] # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleMethodOverride]
        return condition(self._condition_path, "=", value)

    def __ne__(self, value: V | None) -> Domain:  # type: ignore[override] # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleMethodOverride]
        return condition(self._condition_path, "!=", value)

    __hash__ = object.__hash__

    def __neg__(self) -> str:
        """Return the descending order by this field: ``order(-Ticket.number)``."""
        return f"-{self._condition_path}"

    def to(self, value: V | Change | None) -> dict[str, Any]:  # pyright: ignore[reportGeneralTypeIssues] # as above
        """Return the values that set this field: ``ticket.write(Ticket.title.to("x") | Ticket.state.to("new"))``."""
        return {self._condition_path: value}

    def __gt__(self, value: V) -> Domain:  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
        return condition(self._condition_path, ">", value)

    def __ge__(self, value: V) -> Domain:  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
        return condition(self._condition_path, ">=", value)

    def __lt__(self, value: V) -> Domain:  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
        return condition(self._condition_path, "<", value)

    def __le__(self, value: V) -> Domain:  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
        return condition(self._condition_path, "<=", value)

    def in_(self, values: Iterable[V]) -> Domain:
        """Match a value that is one of these."""
        return condition(self._condition_path, "in", list(values))

    def not_in(self, values: Iterable[V]) -> Domain:
        """Match a value that is none of these, or unset."""
        return condition(self._condition_path, "not in", list(values))

    def like(self: Texts, pattern: str) -> Domain:
        """Match a text that contains the pattern; ``%`` and ``_`` are wildcards."""
        return condition(self._condition_path, "like", pattern)

    def not_like(self: Texts, pattern: str) -> Domain:
        """Match a text that doesn't contain the pattern, or is unset."""
        return condition(self._condition_path, "not like", pattern)

    def ilike(self: Texts, pattern: str) -> Domain:
        """Match like ``like``, ignoring case."""
        return condition(self._condition_path, "ilike", pattern)

    def not_ilike(self: Texts, pattern: str) -> Domain:
        """Match like ``not_like``, ignoring case."""
        return condition(self._condition_path, "not ilike", pattern)

    def eq_like(self: Texts, pattern: str) -> Domain:
        """Match a text that fits the pattern as a whole (``=like``)."""
        return condition(self._condition_path, "=like", pattern)

    def eq_ilike(self: Texts, pattern: str) -> Domain:
        """Match like ``eq_like``, ignoring case."""
        return condition(self._condition_path, "=ilike", pattern)

    def regex(self: Texts, pattern: str) -> Domain:
        """Match a text that fits a regular expression, which must never come from a stranger."""
        return condition(self._condition_path, "regex", pattern)

    def exists(self, wanted: bool = True) -> Domain:
        """Match a document that has such a key, even with null."""
        return condition(self._condition_path, "exists", wanted)

    def size(self, number: int) -> Domain:
        """Match a list with this number of items."""
        return condition(self._condition_path, "size", number)

    def all(self, values: Iterable[Any]) -> Domain:
        """Match a list that holds all of these."""
        return condition(self._condition_path, "all", list(values))

    def elem(self, domain: DomainSource) -> Domain:
        """Match a list of which one item fulfils the whole domain."""
        return condition(self._condition_path, "elem", Domain(domain))

    def any(self, domain: DomainSource) -> Domain:
        """Match if some record that the relation leads to fulfils the domain."""
        return condition(self._condition_path, "any", Domain(domain))

    def not_any(self, domain: DomainSource) -> Domain:
        """Match if no record that the relation leads to fulfils the domain."""
        return condition(self._condition_path, "not any", Domain(domain))

    def child_of(self, records: object) -> Domain:
        """Match one of these records (or ids), or a value below one of them in their tree."""
        return condition(self._condition_path, "child_of", records)

    def parent_of(self, records: object) -> Domain:
        """Match one of these records (or ids), or a value above one of them in their tree."""
        return condition(self._condition_path, "parent_of", records)


Texts: TypeAlias = "Expressions[str | None] | Expressions[list[str]] | Expressions[set[str]]"
"""The fields and paths that hold texts."""


class Places:
    """The conditions on a place."""

    if TYPE_CHECKING:

        @property
        def _condition_path(self) -> str: ...

    def near(
        self,
        longitude: float,
        latitude: float,
        *,
        max_distance: float,
        min_distance: float = 0,
    ) -> Domain:
        """Match a place at most (and at least) this number of metres from a position."""
        value = [longitude, latitude, max_distance, *([min_distance] if min_distance else [])]
        return condition(self._condition_path, "near", value)

    def within(self, area: Sequence[Sequence[float]] | Mapping[str, Any] | Geometry) -> Domain:
        """Match a place in a ring of (longitude, latitude), a GeoJSON Polygon or MultiPolygon."""
        return condition(self._condition_path, "within", area)


def path_of(value: str | Expressions[Any]) -> str:
    """Return the path of a field or of a path that is read from a class; a text as it is."""
    return value._condition_path if isinstance(value, Expressions) else value


def find_path(value: object) -> str | None:
    """Return the path that a text, a field or a path that is read from a class means; None for anything else."""
    return path_of(value) if isinstance(value, str | Expressions) else None


class _Leaf(Expressions[Any], Places):
    """The end of a path."""

    def __init__(self, path: str, field: Field[Any, Any]) -> None:
        self._path = path
        self._field = field

    @property
    def _condition_path(self) -> str:
        return self._path

    def __repr__(self) -> str:
        return f"<path {self._condition_path}>"


class FieldPath(_Leaf):
    """A field with other fields inside, read from its class: an object, a list of them, a relation.

    ``User.address.city`` and ``Post.author_id.name`` are paths into it. The name of a field inside
    always means that field; any other name is an attribute of the outer field itself.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    else:

        def __getattribute__(self, name):
            if name.startswith("_") and name not in ID_PATHS:
                return self if name == "_" else object.__getattribute__(self, name)
            field, path = self._field, self._condition_path
            inside = field.fields_inside()
            if inside is not None and (name in inside or name in ID_PATHS):
                return _step(f"{path}.{name}", inside.get(name) or inside.get("_id"))
            try:
                return object.__getattribute__(self, name)
            except AttributeError:
                pass
            try:
                return getattr(field, name)
            except AttributeError:
                known = nearest(name, inside or ())
                raise AttributeError(f"{path!r} leads to no field {name!r}{known}") from None

    def __repr__(self) -> str:
        return repr(self._field)


def _step(path: str, field: Field[Any, Any] | None) -> FieldPath | _Leaf:
    assert field is not None
    return FieldPath(path, field) if field.has_inside else _Leaf(path, field)
