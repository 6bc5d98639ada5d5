"""The indexes of fields with ``unique``, ``index`` or ``sparse``, wherever the fields stand.

A unique index leaves out unset values by a partial filter, so that they do not collide: a missing
key, a stored null, a list without items. The filter names the lowest value of the stored type
where it can, because the planner then uses the index for each search by a value.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from bson import ObjectId

from earnorm.backends.base import IndexSpec
from earnorm.fields.base import MISSING
from earnorm.fields.places import Place, is_array, places
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

_NUMBER: Final = float("-inf")
_LOWEST: Final[Mapping[str, Any]] = {
    "string": "",
    "int": _NUMBER,
    "long": _NUMBER,
    "double": _NUMBER,
    "decimal": _NUMBER,
    "number": _NUMBER,
    "bool": False,
    "object": {},
    "objectId": ObjectId("0" * 24),
    "date": datetime.datetime(1, 1, 1),
    "binData": b"",
}
"""The lowest value of each stored type; a comparison with it finds values of this type only."""

_SET_TYPES: Final = [
    *("double", "string", "object", "array", "binData", "objectId", "bool", "date", "regex"),
    *("int", "timestamp", "long", "decimal"),
]


def field_indexes(model: type[BaseModel]) -> Iterator[IndexSpec]:
    """Yield the indexes that a model's fields ask for, those inside other fields included."""
    root = ModelView(model).root
    for place in places(model._schema.stored):
        field = place.field
        if place.path == "_id" or not (field.unique or field.index or field.sparse):
            continue
        # In a collection of several classes, documents of the others lack the fields of this one.
        everywhere = root is None or place.path.partition(".")[0] in root.fields
        yield IndexSpec(
            ((place.db_path, 1 if field.unique else field.index_kind),),
            _options(place, everywhere=everywhere),
        )


def _options(place: Place, *, everywhere: bool) -> dict[str, Any]:
    field = place.field
    if not field.unique:
        return {"sparse": True} if field.sparse else {}
    if place.is_given and not place.lists and not is_array(field):
        # A required field is missing in documents of other classes, but never null.
        return (
            {"unique": True}
            if everywhere and not field.sparse
            else {"unique": True, "sparse": True}
        )
    return {"unique": True, "partialFilterExpression": _is_set(place)}


def _is_set(place: Place) -> dict[str, Any]:
    """Return the filter of the documents in which a field has a value."""
    field, path = place.field, place.db_path
    in_array = place.is_item or is_array(field)
    schema = field.bson_schema()
    if field.index_floor is not MISSING:
        lowest = field.index_floor
    else:
        lowest = _lowest(schema.get("items") or {} if is_array(field) else schema)
    if lowest is not MISSING:
        return {path: {"$gte": lowest}}
    # An empty array has a key in an index, too, so two of them would collide.
    return {f"{path}.0": {"$exists": True}} if in_array else {path: {"$type": list(_SET_TYPES)}}


def _lowest(schema: Mapping[str, Any]) -> Any:
    """Return the lowest value of the one type that a stored form has, or MISSING."""
    kind: Any = schema.get("bsonType")
    if kind is None:
        kind = {_type_of(value) for value in schema.get("enum", ())}
    names = [kind] if isinstance(kind, str) else list(kind)
    lowest = [_LOWEST.get(name, MISSING) for name in names]
    same = bool(lowest) and all(type(v) is type(lowest[0]) for v in lowest)
    return lowest[0] if same else MISSING


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else ""
