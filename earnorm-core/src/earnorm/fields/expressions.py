"""Conditions written with fields: ``User.age > 20``, ``User.address.city == "Hanoi"``.

Each method builds the same condition that the list notation writes; what it means is said in
docs/domains.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from earnorm.domain import Domain, DomainSource, condition
from earnorm.domain.schema import ID_PATHS
from earnorm.exceptions import nearest

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.fields.geo import Geometry

V = TypeVar("V")


class Expressions(Generic[V]):
    """What can be asked of a field, or of what a path leads to."""

    if TYPE_CHECKING:

        @property
        def _condition_path(self) -> str: ...

    def __eq__(self, value: object) -> Domain:  # type: ignore[override] # a condition, as in SQLAlchemy
        return condition(self._condition_path, "=", value)

    def __ne__(self, value: object) -> Domain:  # type: ignore[override] # a condition, as in SQLAlchemy
        return condition(self._condition_path, "!=", value)

    __hash__ = object.__hash__

    def __gt__(self, value: V) -> Domain:
        return condition(self._condition_path, ">", value)

    def __ge__(self, value: V) -> Domain:
        return condition(self._condition_path, ">=", value)

    def __lt__(self, value: V) -> Domain:
        return condition(self._condition_path, "<", value)

    def __le__(self, value: V) -> Domain:
        return condition(self._condition_path, "<=", value)

    def in_(self, values: Iterable[V]) -> Domain:
        """The value is one of these."""
        return condition(self._condition_path, "in", list(values))

    def not_in(self, values: Iterable[V]) -> Domain:
        """The value is none of these, or unset."""
        return condition(self._condition_path, "not in", list(values))

    def like(self, pattern: str) -> Domain:
        """The text contains the pattern; ``%`` and ``_`` are wildcards."""
        return condition(self._condition_path, "like", pattern)

    def not_like(self, pattern: str) -> Domain:
        """The text doesn't contain the pattern, or is unset."""
        return condition(self._condition_path, "not like", pattern)

    def ilike(self, pattern: str) -> Domain:
        """As ``like``, whatever the case."""
        return condition(self._condition_path, "ilike", pattern)

    def not_ilike(self, pattern: str) -> Domain:
        """As ``not_like``, whatever the case."""
        return condition(self._condition_path, "not ilike", pattern)

    def eq_like(self, pattern: str) -> Domain:
        """The whole text is as the pattern says (``=like``)."""
        return condition(self._condition_path, "=like", pattern)

    def eq_ilike(self, pattern: str) -> Domain:
        """As ``eq_like``, whatever the case."""
        return condition(self._condition_path, "=ilike", pattern)

    def regex(self, pattern: str) -> Domain:
        """The text fits a regular expression, which must never come from a stranger."""
        return condition(self._condition_path, "regex", pattern)

    def exists(self, wanted: bool = True) -> Domain:
        """The document has such a key, be it null."""
        return condition(self._condition_path, "exists", wanted)

    def size(self, number: int) -> Domain:
        """The list has so many items."""
        return condition(self._condition_path, "size", number)

    def all(self, values: Iterable[Any]) -> Domain:
        """The list holds every one of these."""
        return condition(self._condition_path, "all", list(values))

    def elem(self, domain: DomainSource) -> Domain:
        """One item of the list fulfils the whole domain."""
        return condition(self._condition_path, "elem", Domain(domain))

    def any(self, domain: DomainSource) -> Domain:
        """Some record that the relation leads to fulfils the domain."""
        return condition(self._condition_path, "any", Domain(domain))

    def not_any(self, domain: DomainSource) -> Domain:
        """No record that the relation leads to fulfils the domain."""
        return condition(self._condition_path, "not any", Domain(domain))

    def child_of(self, records: object) -> Domain:
        """The value lies below these records (or ids) in their tree, or is one of them."""
        return condition(self._condition_path, "child_of", records)

    def parent_of(self, records: object) -> Domain:
        """The value lies above these records (or ids) in their tree, or is one of them."""
        return condition(self._condition_path, "parent_of", records)


class Places:
    """What can be asked of a place."""

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
        """It lies around a position: at most (and at least) so many metres away."""
        value = [longitude, latitude, max_distance, *([min_distance] if min_distance else [])]
        return condition(self._condition_path, "near", value)

    def within(self, area: Sequence[Sequence[float]] | Mapping[str, Any] | Geometry) -> Domain:
        """It lies in an area: a ring of (longitude, latitude), or a GeoJSON Polygon or MultiPolygon."""
        return condition(self._condition_path, "within", area)


class _Leaf(Expressions[Any], Places):
    """The end of a path."""

    def __init__(self, path: str, field: Field[Any, Any]) -> None:
        self._at = path
        self._field = field

    @property
    def _condition_path(self) -> str:
        return self._at

    def __repr__(self) -> str:
        return f"<path {self._condition_path}>"


class FieldPath(_Leaf):
    """A field that has something inside, as it is read from its class: an embedded object, a list of
    them, a relation.

    ``User.address.city`` and ``Post.author_id.name`` are paths into it. A name that a field inside has
    means that field, whatever else is called so; any other is the field's own attribute.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    else:

        def __getattribute__(self, name):
            if name.startswith("_") and name not in ID_PATHS:
                return object.__getattribute__(self, name)
            field, path = self._field, self._condition_path
            inside = field.fields_inside()
            if inside is not None and (name in inside or name in ID_PATHS):
                return _step(f"{path}.{name}", inside.get("_id" if name in ID_PATHS else name))
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
