"""Places: the positions in a record's document at which fields keep their values, with their paths.

A field stands in a record, in an embedded object, in a list, or in a mixture of these. The database
searches and indexes all of them by one path, except values of a Dict (their key is not known) and
what lies in a list inside a list (a path leads through one list at a time).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from earnorm.fields.base import Field

IN_DICT: Final = "in a Dict, whose values no path of the database reaches without their keys"
IN_NESTED_LIST: Final = "in a list inside a list, which no path of the database reaches"


@dataclass(frozen=True, slots=True)
class Place:
    """A field, and the way to its value in a document.

    Attributes:
        field: The field.
        path: The path of conditions; a list's items have the path of the list.
        db_path: The same path of stored keys.
        lists: The number of lists on the way.
        is_given: Nothing on the way is optional, neither the field; inside a list, counted from
            the list's item.
        is_item: The field is that of a list's items.
        min_length: The fewest items of this list; 0 elsewhere.
        unreachable: The reason why no path leads to the value; empty where one does.
    """

    field: Any  # a type checker would read a Field here as a descriptor
    path: str
    db_path: str
    lists: int = 0
    is_given: bool = True
    is_item: bool = False
    min_length: int = 0
    unreachable: str = ""


def places(fields: Iterable[Field[Any, Any]]) -> Iterator[Place]:
    """Yield the place of each stored field, and of all fields inside of it."""
    for field in fields:
        if field.stored:
            yield from inside(Place(field, field.name, field.db_name, is_given=field.required))


def inside(place: Place) -> Iterator[Place]:
    """Yield a place, and those of all fields inside of its field."""
    yield place
    field = place.field
    contents = field.contents()
    item, value = contents.items, contents.values
    if item is not None:
        # A list among the items of a list is out of reach, and all that it holds.
        reason = place.unreachable or (IN_NESTED_LIST if is_array(item) else "")
        yield from inside(
            replace(
                place,
                field=item,
                lists=place.lists + 1,
                is_given=True,
                is_item=True,
                min_length=getattr(field, "min_length", None) or 0,
                unreachable=reason,
            )
        )
    elif value is not None:
        reason = place.unreachable or IN_DICT
        yield from inside(
            replace(place, field=value, is_given=True, is_item=False, unreachable=reason)
        )
    elif field.structure is not None:
        for inner in field.structure._schema.stored:
            yield from inside(
                replace(
                    place,
                    field=inner,
                    path=f"{place.path}.{inner.name}",
                    db_path=f"{place.db_path}.{inner.db_name}",
                    is_given=place.is_given and inner.required,
                    is_item=False,
                    min_length=0,
                )
            )


def is_array(field: Field[Any, Any]) -> bool:
    """Return whether a field's value is stored as an array."""
    if field.structure is not None:  # its schema would be made for nothing
        return hasattr(field, "_item")
    return bool(field.bson_schema().get("bsonType") == "array")
