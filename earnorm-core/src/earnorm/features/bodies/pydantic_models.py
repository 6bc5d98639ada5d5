"""Pydantic models made from a model's fields: request and response bodies, and JSON Schema.

They say what a value may be; what a rule of the model says (``validators=``, ``@validates``, ``@constrains``) is
checked where the record is written, once, and not again on what is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

import pydantic
from pydantic.errors import PydanticInvalidForJsonSchema

from earnorm.fields.base import MISSING, Field
from earnorm.fields.relational import is_record
from earnorm.model.reading import serializing

if TYPE_CHECKING:
    from earnorm.model.schema import Schema
    from earnorm.model.structures import Structure


_MADE: WeakKeyDictionary[type[Structure], dict[tuple[object, ...], type[pydantic.BaseModel]]] = (
    WeakKeyDictionary()
)
"""The models made so far, by class and by what was asked for."""


class Body(pydantic.BaseModel):
    """The base of every body: it also takes a record, as ``Out.model_validate(record)``."""

    model_config = pydantic.ConfigDict(from_attributes=True, protected_namespaces=())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_record(cls, value: Any) -> Any:
        # Not by attribute: FieldNotLoaded is an AttributeError, which pydantic would take for a
        # missing value and fill a default in.
        if not is_record(value):
            return value
        return dict(_values(value, cls.model_fields))


def body_model(
    cls: type[Structure],
    include: Iterable[str] | None,
    exclude: Iterable[str] | None,
    optional: Iterable[str] | bool,
    name: str | None,
) -> type[pydantic.BaseModel]:
    """See ``BaseModel.pydantic_model``; the same class for the same arguments."""
    wanted = None if include is None else tuple(_names(include))
    unwanted = None if exclude is None else frozenset(_names(exclude))
    loose = optional if isinstance(optional, bool) else frozenset(_names(optional))
    key = (wanted, unwanted, loose, name)
    made = _MADE.setdefault(cls, {})
    found = made.get(key)
    if found is None:
        found = made[key] = _make(cls, wanted, unwanted, loose, name)
    return found


def _names(names: Iterable[str]) -> Iterable[str]:
    return [names] if isinstance(names, str) else names


def _make(
    cls: type[Structure],
    include: tuple[str, ...] | None,
    exclude: frozenset[str] | None,
    optional: frozenset[str] | bool,
    name: str | None,
) -> type[pydantic.BaseModel]:
    schema = cls._schema
    names = serializing.chosen(schema, include, exclude)
    if names is None:
        names = list(serializing.public_names(schema))
    if include is None:
        # What cannot be written is no part of what is sent; a response may ask for it by name.
        names = [n for n in names if n not in schema.fields or _is_written(schema.fields[n])]
    if not isinstance(optional, bool):
        known = serializing.public_names(schema)
        optional = frozenset(serializing.checked(schema, known, optional, "optional"))
    fields: dict[str, Any] = {}
    for each in names:
        if each in schema.fields:
            loose = optional if isinstance(optional, bool) else each in optional
            fields[each] = _field(schema.fields[each], loose)
        elif hasattr(cls, "_id"):  # an embedded object has none
            fields["id"] = (str | None, _ID)
    plain = include is None and exclude is None and optional is False
    title = name or (cls.__name__ if plain else f"{cls.__name__}Part")
    with warnings.catch_warnings():
        # A field may be named as one of pydantic's own methods ("json", "copy"): it wins.
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        return pydantic.create_model(
            title, __base__=Body, __module__=cls.__module__, __doc__=cls.__doc__, **fields
        )


_ID: Any = pydantic.Field(default=None, title="Id", json_schema_extra={"readOnly": True})


def _field(field: Field[Any, Any], optional: bool) -> tuple[Any, Any]:
    kind = _shown(field)
    is_read_only = field.generated or not (field.assignable and _is_given(field))
    optional = optional or is_read_only
    if optional or not field.required:
        kind = kind | None
    about: dict[str, Any] = {"title": field.string, "description": field.help or None}
    if is_read_only:
        about["json_schema_extra"] = {"readOnly": True}
    if optional or (field.default is None and not field.required):
        return kind, pydantic.Field(default=None, **about)
    if field.default is None:
        return kind, pydantic.Field(**about)
    if callable(field.default) or field.mutable:
        factory: Any = field.default_value
        return kind, pydantic.Field(default_factory=factory, validate_default=True, **about)
    return kind, pydantic.Field(default=field.default, validate_default=True, **about)


def _is_written(field: Field[Any, Any]) -> bool:
    return field.is_given and (field.is_derived or field.assignable)


def _is_given(field: Field[Any, Any]) -> bool:
    return field.is_given or not field.is_derived


def _shown(field: Field[Any, Any]) -> Any:
    """The field's annotation; where pydantic has no JSON Schema for it, one that lets all pass."""
    kind = field.json_annotation()
    try:
        pydantic.TypeAdapter(kind).json_schema(mode="serialization")
        pydantic.TypeAdapter(kind).json_schema(mode="validation")
    except PydanticInvalidForJsonSchema:
        form = pydantic.PlainSerializer(field.to_json, when_used="json-unless-none")
        return Annotated[kind, form, pydantic.WithJsonSchema({})]
    return kind


def _values(record: Structure, names: Mapping[str, object]) -> Iterable[tuple[str, Any]]:
    schema: Schema = type(record)._schema
    for name in names:
        field = schema.fields.get(name)
        if name == "id" and field is None:
            yield name, getattr(record, "id", None)
        elif field is not None:
            value = serializing.read(record, field)
            if value is MISSING:  # records that point here: reading their ids says how to load them
                value = getattr(record, name)
            ids = getattr(type(value), "ids", None)
            yield name, value if ids is None else value.ids
