"""Where in a document a dotted path leads, and what a value there must be."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Optional

import pydantic
from pydantic_core import PydanticCustomError

from earnorm.domain import Domain, condition
from earnorm.exceptions import nearest
from earnorm.fields.base import Field, not_written
from earnorm.fields.keys import KeyTexts, check_key
from earnorm.fields.relational import Many2one
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.model.schema import Schema

_ALIASES = {"id": "_id", "pk": "_id"}
# In a list, a comparison with None also looks for the position as a key in every other item, finds
# none, and takes that for unset; "exists" does not.
_PRESENT = ("exists", True)


class RefusedError(ValueError):
    """Why a change cannot be applied at a place; becomes one detail of a ValidationError."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: a field, or a path into one.

    Attributes:
        path: The path as it was given.
        db_path: The stored path.
        field: The field of the value at the path.
        root: The name of the model's field that the path begins with.
        inside: What a record must fulfil so that the path leads somewhere.
        nullable: Whether None may stand there.
    """

    path: str
    db_path: str
    field: Field[Any, Any]
    root: str
    inside: Domain = Domain.TRUE
    nullable: bool = True

    def checked(self, value: Any) -> Any:
        """The stored form of a value for this place, validated as a plain value is.

        Raises:
            pydantic.ValidationError: It is not acceptable.
        """
        return self.field.encode(adapter(self.field, self.nullable).validate_python(value))


def find_place(schema: Schema, path: str) -> Place:
    """Where a path leads.

    Raises:
        RefusedError: It leads nowhere, across a relation, or to what cannot be changed.
    """
    head, *rest = path.split(".")
    found = _field_of(schema, head)
    db_path, walked, inside = found.db_name, found.name, Domain.TRUE
    root, nullable = found.name, not found.required
    for part in rest:
        if isinstance(found, Embedded):
            inside &= condition(walked, *_PRESENT)
            below: Schema = found.model._schema
            if below.rules is not None:
                raise RefusedError(
                    f"{found.model.__name__} has rules of its own, which look at the whole object: "
                    f"write all of {walked!r}"
                )
            found = _field_of(below, part)
            part, step, nullable = found.name, found.db_name, not found.required
        elif isinstance(found, List):
            if not part.isdecimal():
                raise RefusedError(
                    f"{walked!r} is a list: name the position of an item, '{walked}.0.{part}'"
                )
            found, step, nullable = found._item, part, False
            inside &= condition(f"{walked}.{part}", *_PRESENT)

        elif isinstance(found, Dict | Json):
            texts: KeyTexts | None = getattr(found, "_texts", None)
            found, step = getattr(found, "_values", None) or _free(path), _key(part, texts)
            nullable = False
        elif isinstance(found, Many2one):
            raise RefusedError(f"the path crosses the relation {walked!r}; write the other record")
        else:
            raise RefusedError(f"a {type(found).__name__} has no fields of its own")
        db_path, walked = f"{db_path}.{step}", f"{walked}.{part}"
    return Place(walked, db_path, found, root, inside, nullable)


def _field_of(schema: Schema, name: str) -> Any:
    found = schema.fields.get(_ALIASES.get(name, name))
    if found is None:
        raise RefusedError(f"unknown field {name!r}{nearest(name, schema.fields)}")
    if found.computed is not None:
        raise RefusedError(not_written(found)["msg"])
    if not found.stored:
        raise RefusedError("it is not stored here; write the records themselves")
    if not found.assignable:
        raise RefusedError(found.how_to_write)
    if found.readonly or found.name == "_id":
        raise RefusedError("can be set only on a new record")
    return found


def _key(part: str, texts: KeyTexts | None) -> str:
    if not part:
        raise RefusedError("a path has no empty part")
    try:
        return check_key(part) if texts is None else texts.stored(part)
    except PydanticCustomError as error:
        raise RefusedError(error.message()) from None


def _free(path: str) -> Json[Any]:
    free: Json[Any] = Json()
    free.__set_name__(Json, path)
    return free


@functools.lru_cache(maxsize=4096)
def adapter(field: Field[Any, Any], nullable: bool) -> pydantic.TypeAdapter[Any]:
    """What validates one value of a field."""
    kind: Any = field.value_annotation()
    # Optional, and not kind | None: an annotation need not be a class.
    optional: Any = Optional
    return pydantic.TypeAdapter(optional[kind] if nullable else kind)
