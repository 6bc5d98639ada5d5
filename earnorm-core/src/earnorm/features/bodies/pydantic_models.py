"""Pydantic models made from a model's fields: request and response bodies, and JSON Schema.

They check the types and bounds of values. The model's own rules (``validators=``, ``@validates``,
``@constrains``) are checked once, when the record is written, and not when it is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import pydantic
from pydantic.errors import PydanticInvalidForJsonSchema

from earnorm.bounded import Bounded
from earnorm.fields.base import MISSING, Field
from earnorm.fields.relational import is_record
from earnorm.kernel.contract.left_out import need_feature
from earnorm.model.reading import serializing

if TYPE_CHECKING:
    from earnorm.model.schema import Schema
    from earnorm.model.structures import Structure


_MOST: Final = 128
"""The number of pydantic models of one class that are kept; one takes about 50 kB."""

_Models: TypeAlias = Bounded[tuple[object, ...], type[pydantic.BaseModel]]
_MODELS: WeakKeyDictionary[type[Structure], _Models] = WeakKeyDictionary()
"""The pydantic models made last, by class and by the arguments."""


class Body(pydantic.BaseModel):
    """The base class of every body. It also takes a record: ``Out.model_validate(record)``."""

    model_config = pydantic.ConfigDict(from_attributes=True, protected_namespaces=())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_record(cls, value: Any) -> Any:
        # pydantic must not read the attributes itself: FieldNotLoaded is an AttributeError, which
        # pydantic would take for a missing value and replace by the default.
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
    """Make a pydantic model, or return the one made before with the same arguments.

    See ``BaseModel.pydantic_model``.
    """
    need_feature("bodies", "pydantic_model()")
    included = None if include is None else tuple(_names(include))
    excluded = None if exclude is None else frozenset(_names(exclude))
    optional_names = optional if isinstance(optional, bool) else frozenset(_names(optional))
    key = (included, excluded, optional_names, name)
    models = _MODELS.get(cls)
    if models is None:
        models = _MODELS[cls] = Bounded(_MOST, longest=10_000)
    model = models.get(key)
    if model is None:
        model = models[key] = _make(cls, included, excluded, optional_names, name)
    return model


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
    names = serializing.chosen(schema, include, exclude, secret=True)
    if names is None:
        names = list(serializing.public_names(schema))
    if include is None:
        # A request cannot contain a field that nobody can write; a response may include it by name.
        names = [n for n in names if n not in schema.fields or _is_written(schema.fields[n])]
    if not isinstance(optional, bool):
        known = serializing.public_names(schema, secret=True)
        optional = frozenset(serializing.checked(schema, known, optional, "optional"))
    fields: dict[str, Any] = {}
    for field_name in names:
        if field_name in schema.fields:
            is_optional = optional if isinstance(optional, bool) else field_name in optional
            fields[field_name] = _field(schema.fields[field_name], is_optional)
        elif hasattr(cls, "_id"):  # an embedded object has no id
            fields["id"] = (str | None, _id_info(schema.fields["_id"]))
    is_whole = include is None and exclude is None and optional is False
    title = name or (cls.__name__ if is_whole else f"{cls.__name__}Part")
    with warnings.catch_warnings():
        # A field may have the name of one of pydantic's methods ("json", "copy"): the field wins.
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        return pydantic.create_model(
            title, __base__=Body, __module__=cls.__module__, __doc__=cls.__doc__, **fields
        )


def _id_info(field: Field[Any, Any]) -> Any:
    return pydantic.Field(
        default=None,
        title=field.string,
        description=field.help or None,
        json_schema_extra={"readOnly": True},
    )


def _field(field: Field[Any, Any], optional: bool) -> tuple[Any, Any]:
    annotation = _annotation(field)
    is_read_only = field.generated or not (field.assignable and _is_given(field))
    optional = optional or is_read_only
    if optional or not field.required:
        annotation = annotation | None
    info: dict[str, Any] = {"title": field.string, "description": field.help or None}
    if is_read_only:
        info["json_schema_extra"] = {"readOnly": True}
    if field.secret:  # a client gives it, and no response has it
        info["json_schema_extra"], info["repr"] = {"writeOnly": True}, False
        never = pydantic.PlainSerializer(lambda value: None, when_used="json")
        annotation = Annotated[annotation, never]
    if optional or (field.default is None and not field.required):
        return annotation, pydantic.Field(default=None, **info)
    if field.default is None:
        return annotation, pydantic.Field(**info)
    if callable(field.default) or field.mutable:
        factory: Any = field.default_value
        return annotation, pydantic.Field(default_factory=factory, validate_default=True, **info)
    return annotation, pydantic.Field(default=field.default, validate_default=True, **info)


def _is_written(field: Field[Any, Any]) -> bool:
    return field.is_given and (field.is_derived or field.assignable)


def _is_given(field: Field[Any, Any]) -> bool:
    return field.is_given or not field.is_derived


def _annotation(field: Field[Any, Any]) -> Any:
    """Return the field's annotation, with a JSON Schema for any value if pydantic has none."""
    annotation = field.json_annotation()
    try:
        pydantic.TypeAdapter(annotation).json_schema(mode="serialization")
        pydantic.TypeAdapter(annotation).json_schema(mode="validation")
    except PydanticInvalidForJsonSchema:
        serializer = pydantic.PlainSerializer(field.to_json, when_used="json-unless-none")
        return Annotated[annotation, serializer, pydantic.WithJsonSchema({})]
    return annotation


def _values(record: Structure, names: Mapping[str, object]) -> Iterable[tuple[str, Any]]:
    schema: Schema = type(record)._schema
    for name in names:
        field = schema.fields.get(name)
        if name == "id" and field is None:
            yield name, getattr(record, "id", None)
        elif field is not None and field.secret:
            continue
        elif field is not None:
            value = serializing.read(record, field)
            if value is MISSING:  # inverse relations: the error of getattr() says how to load them
                value = getattr(record, name)
            ids = getattr(type(value), "ids", None)
            yield name, value if ids is None else value.ids
