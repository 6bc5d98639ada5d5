"""Set: values of one field, each once, in no order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Unpack

import pydantic

from earnorm.domain.bson_order import key
from earnorm.fields.base import Contents, Field, FieldOptions, MutableField, N, Validator
from earnorm.fields.json_forms import json_form
from earnorm.fields.reference import Reference
from earnorm.fields.structured import always_set, item_field

T = TypeVar("T")


class Set(MutableField[set[T], N], Generic[T, N]):
    """A set of values of one field, stored as an array without duplicates, in the order of BSON.

    The order makes equal sets equal arrays, so that whole sets can be compared. ``AddToSet`` on the
    server appends out of order, until the record is saved again; conditions on single values and
    ``all`` do not depend on the order.

    Args:
        item: The field that checks each value, e.g. ``Set(String())``.
        min_length: The fewest values allowed.
        max_length: The most values allowed.
    """

    refused_changes: ClassVar[frozenset[str]] = frozenset({"Push", "Pop"})
    """Changes on the server that a set refuses: it has no first or last value, and no value
    twice."""
    min_length: int | None
    max_length: int | None

    def __init__(
        self,
        item: Field[T, Any],
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: set[T] | Callable[[], set[T]] | None = None,
        validators: Iterable[Validator[set[T]]] = (),
        min_length: int | None = None,
        max_length: int | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        checked = item_field(self, item)
        # A Reference is stored, and given by (model, id), as a mapping, which no set can hold.
        if checked is None or checked.mutable or isinstance(checked, Reference):
            raise TypeError(
                "Set() needs the field of its values, of an immutable kind: Set(String())"
            )
        if checked.secret:
            raise TypeError("Set() compares its values, which is no place for secret ones: List()")
        self._item: Any = checked
        if checked.unique and "copy" not in options:
            self.copy = False
        self.min_length = min_length
        self.max_length = max_length

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self._item.__set_name__(owner, name)

    def contents(self) -> Contents:
        return Contents(items=self._item)

    def annotation(self) -> Any:
        kind: Any = set.__class_getitem__(self._item.value_annotation())
        return Annotated[
            kind, pydantic.Field(min_length=self.min_length, max_length=self.max_length)
        ]

    def json_type(self) -> Any:
        kind: Any = set.__class_getitem__(self._item.json_annotation())
        return Annotated[
            kind, pydantic.Field(min_length=self.min_length, max_length=self.max_length)
        ]

    def to_json(self, value: Any) -> Any:
        if not isinstance(value, set):
            return json_form(value)
        item = self._item
        return [item.to_json(item.decode(stored)) for stored in self.encode(value)]

    def bson_schema(self) -> Mapping[str, Any]:
        bounds = {
            "items": always_set(self._item) or None,
            "minItems": self.min_length,
            "maxItems": self.max_length,
        }
        return {"bsonType": "array", **{k: v for k, v in bounds.items() if v is not None}}

    def encode(self, value: Any) -> Any:
        if isinstance(value, set):
            return _in_order(map(self._item.encode, value))
        # An array that another program stored in another order is not a change.
        return _in_order(value) if type(value) is list else value

    def decode(self, value: Any) -> Any:
        if type(value) is not list:
            return value
        try:
            return set(map(self._item.decode, value))
        except TypeError:  # another program stored lists or objects in it
            return value

    def operand(self, value: Any) -> Any:
        if isinstance(value, list | tuple | set | frozenset):
            return _in_order(map(self._item.operand, value))
        return self._item.operand(value)


def _in_order(values: Iterable[Any]) -> list[Any]:
    by_key = {key(value): value for value in values}
    return [by_key[bson_key] for bson_key in sorted(by_key)]
