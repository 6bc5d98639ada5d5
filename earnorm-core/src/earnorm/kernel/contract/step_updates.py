"""Checks of the operators that a plugin's step merges into the change of a write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from bson import Decimal128

from earnorm.domain.paths import is_position
from earnorm.exceptions import nearest
from earnorm.kernel.steps import StepMistake, refused_id, unknown_key, valid_stored

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.kernel.views import ModelView

_ADDING: Final = frozenset({"$inc", "$mul"})
_ITEMS: Final = frozenset({"$push", "$addToSet"})
_OPERATORS: Final = (
    *("$set", "$unset", "$inc", "$mul", "$min", "$max", "$push", "$addToSet", "$pull", "$pullAll"),
    *("$pop", "$currentDate", "$bit", "$toggle"),
)
_WHOLE: Final = frozenset({"int", "long"})
_NUMBERS: Final = _WHOLE | {"double", "decimal"}
_LARGEST: Final = 2**63


def check_update(
    model: ModelView, fields: Mapping[str, Field[Any, Any]], operator: str, values: object
) -> None:
    """Check an operator with its values, which a step merges into a change.

    Args:
        model: The model, for the message.
        fields: The stored fields by stored key.
        operator: The operator's name.
        values: Its values by stored path.

    Raises:
        StepMistake: There is no such operator or field, or the field cannot have the value.
    """
    if operator not in _OPERATORS:
        raise StepMistake(
            f"it merges {operator!r} into a write of model {model.name!r}, which is no operator for one "
            f"field{nearest(str(operator), _OPERATORS)}"
        ).coded("step_value")
    if not isinstance(values, Mapping):
        raise StepMistake(
            f"it merges {operator} with a {type(values).__name__} into a write of model {model.name!r}; "
            f"values by stored key are needed, {{'price': 5}}"
        ).coded("step_value")
    for path, value in values.items():
        key, *inside = path.split(".")
        if key == "_id":
            raise refused_id(model)
        field = fields.get(key)
        if field is None:
            raise unknown_key(model, key, fields)
        place = _field_inside(model, field, inside)
        if operator in _ADDING:
            checked_amount(model, place or field, value, is_known=place is not None)
        elif place is not None:
            _check_value(model, place, operator, value)


def _check_value(model: ModelView, field: Field[Any, Any], operator: str, value: Any) -> None:
    if operator == "$set":
        valid_stored(model, field, value)
    elif operator in _ITEMS:
        item = field.contents().items
        if item is not None:
            is_each = isinstance(value, Mapping) and "$each" in value
            for stored in value["$each"] if is_each else [value]:
                valid_stored(model, item, stored)


def _field_inside(
    model: ModelView, field: Field[Any, Any], parts: list[str]
) -> Field[Any, Any] | None:
    """Return the field at stored keys inside a field's value; None where nothing is declared."""
    inside: Field[Any, Any] | None = field
    for part in parts:
        if inside is None:
            return None
        contents = inside.contents()
        if contents.model is not None and contents.kinds is None:
            stored = {field.db_name: field for field in contents.model._schema.stored}
            inside = stored.get(part)
            if inside is None:
                raise unknown_key(model, part, stored, f" in {field.name!r}")
        elif contents.items is not None and (is_position(part) or part.startswith("$[")):
            inside = contents.items
        else:
            inside = contents.values
    return inside


def checked_amount(
    model: ModelView, field: Field[Any, Any], amount: Any, *, is_known: bool = True
) -> Any:
    """Return the number that a step adds to a field, or multiplies it by, in stored form.

    Args:
        model: The model, for the message.
        field: The field.
        amount: The number.
        is_known: False if only the field around the number is known.

    Raises:
        StepMistake: The field has no numbers, or cannot have this one.
    """
    kinds = field.bson_schema().get("bsonType", _NUMBERS) if is_known else _NUMBERS
    kinds = {kinds} if isinstance(kinds, str) else {*kinds}
    number = amount.to_decimal() if isinstance(amount, Decimal128) else amount
    problem = ""
    if kinds.isdisjoint(_NUMBERS):
        problem = f"it is a {type(field).__name__}, which has no numbers"
    elif isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        problem = f"a {type(amount).__name__} is no number"
    elif not math.isfinite(number):
        problem = "a finite number is needed"
    elif isinstance(number, int) and not -_LARGEST <= number < _LARGEST:
        problem = "a number of more than 64 bits cannot be stored"
    elif not isinstance(number, int) and kinds <= _WHOLE:
        problem = "a whole number is needed"
    elif isinstance(number, Decimal) and "decimal" not in kinds:
        problem = "a Decimal is for Decimal fields only"
    if problem:
        raise StepMistake(
            f"it changes the field {field.name!r} of model {model.name!r} by a number that is not valid: "
            f"{problem}"
        ).coded("step_value")
    return Decimal128(number) if isinstance(number, Decimal) else number
