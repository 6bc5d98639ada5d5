"""Finds the place in a document that a dotted path names, and checks values for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pydantic_core import PydanticCustomError

from earnorm.domain import Domain, condition
from earnorm.domain.paths import TOO_LONG, is_position, is_too_long
from earnorm.domain.values import shorten
from earnorm.exceptions import cut
from earnorm.fields.adapters import adapter
from earnorm.fields.base import INTERNAL, Field, not_written
from earnorm.fields.keys import KeyTexts, check_key
from earnorm.fields.kinds_inside import KindsInside
from earnorm.fields.relational import Many2one
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.kernel.naming import nearest_field
from earnorm.model.schema import Schema, schema_inside

# In a list, MongoDB compares None also with a key of that position's name in every other item. No
# item has such a key, so the comparison takes the place for unset; "exists" does not.
_PRESENT = ("exists", True)


class RefusedError(ValueError):
    """The reason why a change cannot be applied; it becomes one detail of a ValidationError."""


class Place(NamedTuple):
    """The place of a value: a field, or a path into one.

    Attributes:
        path: The path as it was given.
        db_path: The stored path.
        field: The field of the value at the path.
        root: The name of the model's field that the path begins with.
        inside: The condition on a record under which the path exists.
        nullable: None is a valid value there.
    """

    path: str
    db_path: str
    field: Field[Any, Any]
    root: str
    inside: Domain = Domain.TRUE
    nullable: bool = True

    def checked(self, value: Any) -> Any:
        """Validate a value as a whole field's value is validated, and return its stored form.

        Raises:
            pydantic.ValidationError: The value is not valid.
        """
        return self.field.encode(adapter(self.field, self.nullable).validate_python(value))


def find_place(schema: Schema, path: str) -> Place:
    """Find the place that a path names.

    Raises:
        RefusedError: It names no field, crosses a relation, or names a value that cannot change.
    """
    _refuse_other_names(path)
    head, *rest = path.split(".")
    field = _field_of(schema, head)
    start = Place(field.name, field.db_name, field, field.name, nullable=not field.required)
    return _followed(start, rest, path)


def find_place_in_item(item: Embedded[Any, Any], path: str) -> Place:
    """Find the place in an item of a list that a path names; its paths begin in the item.

    Raises:
        RefusedError: It names no field, crosses a relation, or names a value that cannot change.
    """
    _refuse_other_names(path)
    return _followed(Place("", "", item, ""), path.split("."), path)


def _refuse_other_names(path: object) -> None:
    if not isinstance(path, str):
        raise RefusedError(f"unknown field {shorten(path)}; a name is a text")
    if is_too_long(path):
        raise RefusedError(f"unknown field {cut(path)!r}: {TOO_LONG}")


def _followed(start: Place, rest: Sequence[str], path: str) -> Place:
    """Follow the rest of a path from a place."""
    current_field: Any = start.field
    db_path, walked, inside = start.db_path, start.path, start.inside
    root, nullable = start.root, start.nullable
    for part in rest:
        if isinstance(current_field, Embedded):
            if walked:
                inside &= condition(walked, *_PRESENT)
            inner_schema = schema_inside(current_field)
            if inner_schema.rules is not None:
                raise RefusedError(
                    f"{current_field.model.__name__} has rules of its own, "
                    f"which look at the whole object: {_whole(walked)}"
                )
            kinds = current_field.kinds
            current_field = _field_of(inner_schema, part)
            if kinds is not None:
                inside &= _of_kinds(kinds, walked, current_field.name)
            part, step, nullable = (
                current_field.name,
                current_field.db_name,
                not current_field.required,
            )
        elif isinstance(current_field, List):
            if not is_position(part):
                if part.isdecimal():
                    raise RefusedError(
                        f"{walked!r} is a list, and {part} is no position in it: a position has at "
                        f"most 9 digits, and no zero before them"
                    )
                raise RefusedError(
                    f"{walked!r} is a list: name the position of an item, '{walked}.0.{part}', or "
                    f"change the items that fulfil a domain: {{{walked!r}: UpdateItems(domain, "
                    f"{{{part!r}: …}})}}"
                )
            current_field, step, nullable = current_field.contents().items, part, False
            inside &= condition(f"{walked}.{part}", *_PRESENT)

        elif isinstance(current_field, Dict | Json):
            texts: KeyTexts | None = getattr(current_field, "_texts", None)
            current_field, step = (
                current_field.contents().values or _FREE_FORM,
                _key(part, texts),
            )
            nullable = False
        elif isinstance(current_field, Many2one):
            raise RefusedError(f"the path crosses the relation {walked!r}; write the other record")
        else:
            raise RefusedError(f"a {type(current_field).__name__} has no fields of its own")
        db_path, walked = _joined(db_path, step), _joined(walked, part)
    return Place(walked, db_path, current_field, root, inside, nullable)


def _joined(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part


def _whole(path: str) -> str:
    return f"write all of {path!r}" if path else "write the whole list"


def _of_kinds(kinds: KindsInside, path: str, name: str) -> Domain:
    """Return the condition that the object at a path is of a kind that has the field."""
    if name == kinds.name:
        raise RefusedError(f"the kind of an object does not change: {_whole(path)}")
    classes = kinds.classes()
    ruled = [cls.__name__ for cls in classes.values() if cls._schema.rules is not None]
    if ruled:
        raise RefusedError(
            f"{ruled[0]} has rules of its own, which look at the whole object: {_whole(path)}"
        )
    names = kinds.kinds_with(name)
    return Domain.TRUE if names is None else condition(_joined(path, kinds.name), "in", names)


def _field_of(schema: Schema, name: str) -> Any:
    field = schema.fields.get(schema.name_of(name))
    if field is None:
        raise RefusedError(f"unknown field {name!r}{nearest_field(schema, name)}")
    if field.is_derived:
        raise RefusedError(not_written(field)["msg"])
    if not field.stored:
        raise RefusedError("it is not stored here; write the records themselves")
    if not field.assignable:
        raise RefusedError(field.how_to_write)
    if field.internal:
        raise RefusedError(INTERNAL)
    if field.readonly or field.name == "_id":
        raise RefusedError("can be set only on a new record")
    return field


def _key(part: str, texts: KeyTexts | None) -> str:
    if not part:
        raise RefusedError("a path has no empty part")
    try:
        return check_key(part) if texts is None else texts.stored(part)
    except PydanticCustomError as error:
        raise RefusedError(error.message()) from None


_FREE_FORM: Final[Json[Any]] = Json()
"""The field of any JSON value inside a free-form one. All have the same, so its validator is made once."""
