"""The ids of records: one conversion of what is given as an id, by the field that the model declares.

A given id is a record, the stored form, the value, or the text that ``record.id`` shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pydantic
from bson import Code, DBRef, ObjectId, Regex
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from earnorm.fields.base import Field


def id_text(field: Field[Any, Any], pk: Any) -> str:
    """Return a stored id as text.

    Args:
        field: The model's ``_id``.
        pk: The id in its stored form.
    """
    if type(pk) is ObjectId or type(pk) is str:
        return str(pk)
    form = field.to_json(field.decode(pk))
    return form if isinstance(form, str) else str(form)


def id_operand(field: Field[Any, Any], value: Any) -> Any:
    """Convert a condition's value for an ``_id`` to its stored form.

    A text that is no id of the model is no error; it finds nothing.

    Raises:
        ValueError: The value can never be an id of the model.
    """
    pk = _pk_of(value)
    if pk is not None:
        return pk
    if type(value) is not str or not _takes_any_operand(field):
        try:
            return type(field).operand(field, value)
        except ValueError:
            if type(value) is not str:
                raise
    for kind in (field.annotation(), field.json_type()):
        try:
            return field.encode(pydantic.TypeAdapter(kind).validate_python(value))
        except pydantic.ValidationError:
            continue
    return value


def _takes_any_operand(field: Field[Any, Any]) -> bool:
    """Return whether the kind does not say which values its conditions take."""
    from earnorm.fields.base import Field  # which imports this module

    return not field.operand_types and type(field).operand is Field.operand


def given_id(model: type[Any], value: Any) -> Any:
    """Convert a given id of a model's record to its stored form.

    The validators of the id are not called, because the record has passed them.

    Raises:
        PydanticCustomError: It is no id of the model.
    """
    field = model._schema.fields["_id"]
    if type(value) is bool or isinstance(value, Regex | Code | DBRef):
        raise _refused(model)
    try:
        return field.encode(_adapter(field).validate_python(value))
    except pydantic.ValidationError:
        # A stored form, or the text of one, is accepted too.
        try:
            stored = id_operand(field, value) if isinstance(value, str) else value
            return field.encode(_adapter(field).validate_python(field.decode(stored)))
        except (pydantic.ValidationError, ValueError):
            raise _refused(model) from None


def _adapter(field: Field[Any, Any]) -> pydantic.TypeAdapter[Any]:
    adapter: pydantic.TypeAdapter[Any] | None = vars(field).get("_id_adapter")
    if adapter is None:
        adapter = pydantic.TypeAdapter(field.annotation())
        vars(field)["_id_adapter"] = adapter
    return adapter


def _pk_of(value: Any) -> Any:
    return value.pk if hasattr(type(value), "is_stored") else None


def _refused(model: type[Any]) -> PydanticCustomError:
    return PydanticCustomError("reference", "not an id of {name}", {"name": model._name})
