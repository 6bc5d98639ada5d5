"""Changes of values that the server makes: ``Inc``, ``Push`` and the like.

Values stay data: an item to push or to pull is never read as a condition or a modifier.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from typing_extensions import override

from earnorm.domain import Domain, DomainSource
from earnorm.domain.ast import TRUTH_VALUES, truth_value
from earnorm.domain.bson_order import key as bson_key
from earnorm.domain.paths import is_position
from earnorm.fields.adapters import adapter
from earnorm.fields.base import MISSING, Field, is_embedded
from earnorm.fields.numeric import Boolean, Decimal, Int
from earnorm.fields.secrets import holds_secrets
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.fields.temporal import DateTime
from earnorm.kernel.known_values import TOGGLE
from earnorm.kernel.time import clock
from earnorm.model.schema import Schema
from earnorm.model.writing.bounds import Number, checked_number, within_bounds, works_on
from earnorm.model.writing.pending import changed_fields
from earnorm.model.writing.places import Place, RefusedError
from earnorm.model.writing.restoring import own

_LARGEST: Final = 2**63 - 1
"""The largest whole number that a server takes."""


class Change:
    """A change that the server makes to a value: the base of ``Inc``, ``Push`` …

    ``write``, ``save`` and ``Query.update`` take it in the place of a value.
    """

    __slots__ = ()

    operator: ClassVar[str]
    """MongoDB's update operator."""

    def operand(self, place: Place) -> Any:
        """Return the operand of the operator, in stored form.

        Raises:
            RefusedError: The field's type or its checks do not allow this change.
            pydantic.ValidationError: A value in it is not valid.
        """
        raise NotImplementedError

    def within(self, place: Place) -> Domain:
        """Return the condition on the old value that keeps the result within the field's bounds."""
        return Domain.TRUE

    def first(self, field: Field[Any, Any]) -> Any:
        """Return the value that the change makes of a missing one: that of a new record.

        It is not validated yet. MISSING means that the field stays without a value.
        """
        return MISSING

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # the values may be secret and must not reach a log


# -- numbers --------------------------------------------------------------------------------------


class Inc(Change):
    """Add to a number; an unset one counts as 0.

    The bounds of the field are part of the write: a result outside of them is refused.

    Args:
        amount: The number to add; negative to subtract.
    """

    __slots__ = ("amount",)
    operator = "$inc"

    def __init__(self, amount: Number = 1) -> None:
        self.amount = amount

    @override
    def operand(self, place: Place) -> Any:
        return place.field.encode(checked_number(type(self).__name__, place.field, self.amount))

    @override
    def within(self, place: Place) -> Domain:
        amount = checked_number(type(self).__name__, place.field, self.amount)
        return within_bounds(
            place,
            lambda value: value + amount,
            lambda bound: bound - amount,
            moves_up=amount > 0,
            moves_down=amount < 0,
        )

    @override
    def first(self, field: Field[Any, Any]) -> Any:
        return self.amount


class Mul(Change):
    """Multiply a number; an unset one becomes 0. Bounds work as for :class:`Inc`.

    Args:
        factor: The factor.
    """

    __slots__ = ("factor",)
    operator = "$mul"

    def __init__(self, factor: Number) -> None:
        self.factor = factor

    @override
    def operand(self, place: Place) -> Any:
        field, factor = place.field, checked_number(type(self).__name__, place.field, self.factor)
        if isinstance(field, Decimal) and field.decimal_places is not None and factor % 1:
            raise RefusedError("the result may have more decimal places than the field allows")
        return field.encode(factor)

    @override
    def within(self, place: Place) -> Domain:
        factor = checked_number(type(self).__name__, place.field, self.factor)
        if factor == 0:
            return within_bounds(
                place, lambda value: value * 0, None, moves_up=True, moves_down=True
            )
        divide = operator.floordiv if isinstance(place.field, Int) else operator.truediv
        return within_bounds(
            place,
            lambda value: value * factor,
            lambda bound: divide(bound, factor),
            moves_up=factor != 1,
            moves_down=factor != 1,
            turned=factor < 0,
        )

    @override
    def first(self, field: Field[Any, Any]) -> Any:
        return 0


# -- any value ------------------------------------------------------------------------------------


class Bounding(Change):
    """The base of ``Min`` and ``Max`` as changes, which ``aggregation`` also computes over groups.

    Attributes:
        argument: The value; validated as a whole field's value is.
    """

    __slots__ = ()
    argument: Any

    @override
    def operand(self, place: Place) -> Any:
        if (
            self.argument is None
            or isinstance(place.field, List | Dict | Embedded | Json)
            or place.field.secret
        ):
            raise RefusedError(works_on(type(self).__name__, "comparable", place.field))
        return place.checked(self.argument)

    @override
    def first(self, field: Field[Any, Any]) -> Any:
        return self.argument


class Unset(Change):
    """Remove the value from the document: the field is read as its default afterwards."""

    __slots__ = ()
    operator = "$unset"

    @override
    def operand(self, place: Place) -> Any:
        if place.field.required:
            raise RefusedError("a value is required, so it cannot be unset")
        if is_position(place.path.rpartition(".")[2]) and place.inside is not Domain.TRUE:
            raise RefusedError("an item of a list cannot be unset; Pull it")
        return True


class CurrentDate(Change):
    """Set the server's own time, independent of this machine's clock."""

    __slots__ = ()
    operator = "$currentDate"

    @override
    def operand(self, place: Place) -> Any:
        field = place.field
        if not isinstance(field, DateTime):
            raise RefusedError(works_on(type(self).__name__, "DateTime", field))
        if field.validators or field.choices:
            raise RefusedError("the server's time cannot be checked by the field's own validators")
        return {"$type": "date"}

    @override
    def first(self, field: Field[Any, Any]) -> Any:
        return clock()  # a new record is made here, and not by the server


class Toggle(Change):
    """Flip the Boolean that the server has at that moment. An unset one counts as its default.

    The same write may hold values of whole fields and ``Inc`` beside it, and nothing else.
    """

    __slots__ = ()
    operator = TOGGLE

    @override
    def operand(self, place: Place) -> Any:
        if not isinstance(place.field, Boolean) or place.field.validators or place.field.choices:
            raise RefusedError(works_on("Toggle", "Boolean", place.field))
        return bool(place.field.default_value())

    @override
    def first(self, field: Field[Any, Any]) -> Any:
        return not field.default_value()


# -- lists ----------------------------------------------------------------------------------------


class OfItems(Change):
    """A change that takes items, each validated by the field of the list's items."""

    __slots__ = ("items",)

    def __init__(self, *items: Any) -> None:
        if not items:
            raise TypeError(f"{type(self).__name__}() takes at least one item")
        self.items = own(items)

    def checked_items(self, place: Place, *, grows: bool | None) -> list[Any]:
        """Return the items in stored form.

        Args:
            place: The place of the list.
            grows: True if the list may become too long, False if it may become too short, None for
                neither.
        """
        inner = _list_item(self, place.field, grows=grows)
        return [inner.encode(adapter(inner).validate_python(item)) for item in self.items]


def _list_item(change: Change, field: Any, *, grows: bool | None) -> Field[Any, Any]:
    item = field.contents().items
    if item is None or type(change).__name__ in getattr(field, "refused_changes", ()):
        raise RefusedError(works_on(type(change).__name__, "List", field))
    limit = {True: "max_length", False: "min_length", None: ""}[grows]
    if field.validators or (limit and getattr(field, limit, None) is not None):
        raise RefusedError(
            f"the result of {type(change).__name__} cannot be checked by the field's "
            f"{'validators' if field.validators else limit}; read the record, change it and save() "
            f"it"
        )
    if holds_secrets(item) and not isinstance(change, Push | Pop):
        raise RefusedError("the items are secret, and the server cannot compare them")
    field_of_items: Field[Any, Any] = item
    return field_of_items


class Push(OfItems):
    """Append items to a list; an unset list is created.

    Args:
        *items: Each validated by the field of the list's items.
        position: The position of the first new item; 0 is the beginning. The default is the end.
        sort: 1 or -1 to sort the whole list afterwards, or for a list of embedded objects a
            mapping of their fields, ``{"score": -1}``.
        slice: The number of items to keep, from the beginning, or with a minus sign from the end.
    """

    __slots__ = ("position", "slice", "sort")
    operator = "$push"

    def __init__(
        self,
        *items: Any,
        position: int | None = None,
        sort: Literal[1, -1] | Mapping[str, Literal[1, -1]] | None = None,
        slice: int | None = None,
    ) -> None:
        super().__init__(*items)
        for name, number in (("position", position), ("slice", slice)):
            if number is not None and type(number) is not int:
                raise TypeError(f"Push({name}=) takes a whole number")
        self.position = position
        self.sort = own(sort)
        self.slice = slice

    @override
    def operand(self, place: Place) -> Any:
        for name, number in (("position", self.position), ("slice", self.slice)):
            if number is not None and abs(number) > _LARGEST:
                raise RefusedError(
                    f"{name}={number} has more than 64 bits; it is at most 2**63 - 1"
                )
        longest = getattr(place.field, "max_length", None)
        shortest = getattr(place.field, "min_length", None)
        is_kept = self.slice is not None and longest is not None and abs(self.slice) <= longest
        if self.slice is not None and shortest is not None and abs(self.slice) < shortest:
            raise RefusedError(f"slice={self.slice} keeps fewer items than the field's min_length")
        spec: dict[str, Any] = {"$each": self.checked_items(place, grows=None if is_kept else True)}
        if self.position is not None:
            spec["$position"] = self.position
        if self.sort is not None:
            spec["$sort"] = self._sort(place)
        if self.slice is not None:
            spec["$slice"] = self.slice
        return spec

    @override
    def first(self, field: Field[Any, Any]) -> Any:
        if self.sort is None:
            items = list(self.items)
        else:
            items = self._sorted_items(field)
        if self.slice is None:
            return items
        return items[: self.slice] if self.slice >= 0 else items[self.slice :]

    def _sorted_items(self, field: Field[Any, Any]) -> list[Any]:
        """Return the items in the server's order of their stored forms."""
        inner = _list_item(self, field, grows=None)
        pairs = [(inner.encode(adapter(inner).validate_python(i)), i) for i in self.items]
        ways: Mapping[str, int] = (
            self.sort if isinstance(self.sort, Mapping) else {"": self.sort or 1}
        )
        for name, way in reversed(list(ways.items())):
            key = (
                inner.model._schema.order_path_of(name)
                if name and isinstance(inner, Embedded)
                else ""
            )
            pairs.sort(
                key=lambda pair: bson_key(pair[0].get(key) if key else pair[0]), reverse=way < 0
            )
        return [item for _, item in pairs]

    def _sort(self, place: Place) -> Any:
        item = place.field.contents().items
        if item is not None and holds_secrets(item) and not isinstance(self.sort, Mapping):
            raise RefusedError("nothing is sorted by a secret value")
        if self.sort in (1, -1):
            return self.sort
        if not isinstance(self.sort, Mapping) or not isinstance(item, Embedded):
            raise RefusedError("sort= is 1, -1, or a mapping of an embedded object's fields")
        schema: Schema = item.model._schema
        if not self.sort or any(way not in (1, -1) for way in self.sort.values()):
            raise RefusedError("sort= maps fields to 1 or -1")
        return {schema.order_path_of(name): way for name, way in self.sort.items()}


class AddingToSet(OfItems):
    """The base of ``AddToSet`` as a change, which ``aggregation`` also computes over groups."""

    __slots__ = ()

    @override
    def operand(self, place: Place) -> Any:
        return {"$each": self.checked_items(place, grows=True)}

    @override
    def first(self, field: Field[Any, Any]) -> Any:
        inner = _list_item(self, field, grows=None)
        validated = [adapter(inner).validate_python(item) for item in self.items]
        keys = [bson_key(inner.encode(item)) for item in validated]
        return [item for n, item in enumerate(self.items) if keys[n] not in keys[:n]]


class Pull(OfItems):
    """Remove every item of a list that equals one of these.

    Args:
        *items: Each validated by the field of the list's items.
    """

    __slots__ = ()
    operator = "$pullAll"  # by value; $pull would read a document as a condition

    @override
    def operand(self, place: Place) -> Any:
        items = self.checked_items(place, grows=False)
        # An object that was read is pulled as it is stored, whatever its validation would fill in.
        return [
            given._stored() if is_embedded(given) and not changed_fields(given) else item
            for given, item in zip(self.items, items, strict=True)
        ]


class Pop(Change):
    """Remove the last item of a list, or the first.

    Args:
        which: ``"last"`` or ``"first"``.
    """

    __slots__ = ("which",)
    operator = "$pop"

    def __init__(self, which: Literal["first", "last"] = "last") -> None:
        if which not in ("first", "last"):
            raise ValueError('Pop() takes "first" or "last"')
        self.which = which

    @override
    def operand(self, place: Place) -> Any:
        _list_item(self, place.field, grows=False)
        return 1 if self.which == "last" else -1


class UpdateItems(Change):
    """Change fields of the items of a list that fulfil a domain; the others stay as they are.

    The server looks for the items in the list that it has at that moment. If none fulfils the
    domain, the list stays as it is.

    Args:
        domain: The condition about the fields of an item, as for ``elem``; ``[]`` means every item.
        values: Values or changes, by the item's fields or by paths into them.
    """

    __slots__ = ("parts",)

    def __init__(self, domain: DomainSource, values: Mapping[str, Any]) -> None:
        self.parts: tuple[tuple[Domain, Mapping[str, Any]], ...] = (_part(domain, values),)

    def also(self, domain: DomainSource, values: Mapping[str, Any]) -> UpdateItems:
        """Return a change that gives other items of the same list other values, too.

        Args:
            domain: The condition about these items.
            values: As for the first ones. An item that fulfils both domains is refused if both
                change the same value of it.
        """
        both = UpdateItems(domain, values)
        both.parts = (*self.parts, *both.parts)
        return both


def _part(domain: DomainSource, values: Mapping[str, Any]) -> tuple[Domain, Mapping[str, Any]]:
    given: Any = values
    if not isinstance(given, Mapping) or not given:
        raise TypeError('UpdateItems() takes a domain and a dict of values: {"qty": 5}')
    if type(domain) in TRUTH_VALUES:
        raise truth_value(domain)
    return Domain(domain), {path: own(value) for path, value in given.items()}
