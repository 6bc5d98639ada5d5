"""Turns the fields of a model into fields of a pydantic model: types, bounds, defaults, titles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic.errors import PydanticInvalidForJsonSchema

from earnorm.fields.base import MISSING, Field
from earnorm.model.reading import serializing

if TYPE_CHECKING:
    from earnorm.model.schema import Schema
    from earnorm.model.structures import Structure

Extra: TypeAlias = Literal["allow", "ignore", "forbid"]

EXTRA: ContextVar[Extra | None] = ContextVar("EXTRA", default=None)
"""The setting of pydantic for unknown keys, for the bodies that are made at this moment; None for its default."""


@contextmanager
def unknown_keys(extra: Extra | None) -> Iterator[None]:
    """Make the bodies of embedded objects with this setting: a field makes them, and takes no argument."""
    token = EXTRA.set(extra)
    try:
        yield
    finally:
        EXTRA.reset(token)


def chosen_names(
    cls: type[Structure], include: Iterable[str] | None, exclude: Iterable[str] | None
) -> list[str]:
    """Return the names of a body's fields; those of a set, which has no order, in the model's order.

    Raises:
        ValidationError: A name is unknown.
    """
    schema = cls._schema
    known = serializing.public_names(schema, secret=True)
    if isinstance(include, Set):
        serializing.checked(schema, known, sorted(include, key=str), "include")
        include = [name for name in known if name in include]
    if isinstance(exclude, Set):
        exclude = sorted(exclude, key=str)  # so that an error is the same in each run
    names = serializing.chosen(schema, include, exclude, secret=True)
    names = serializing.public_names(schema) if names is None else names
    if include is None:
        # A request cannot contain a field that nobody can write; a response may include it by name.
        names = [n for n in names if n not in schema.fields or is_written(schema.fields[n])]
    # An embedded object has no id.
    return [name for name in names if name in schema.fields or hasattr(cls, "_id")]


def optional_names(cls: type[Structure], optional: Iterable[str], option: str) -> frozenset[str]:
    """Return the names of fields that may be left out.

    Raises:
        ValidationError: A name is unknown.
    """
    schema = cls._schema
    known = serializing.public_names(schema, secret=True)
    optional = sorted(optional, key=str) if isinstance(optional, Set) else optional
    return frozenset(serializing.checked(schema, known, optional, option))


def is_written(field: Field[Any, Any]) -> bool:
    """Return whether a request may have a value of the field."""
    return field.is_given and (field.is_derived or field.assignable)


def is_read_only(field: Field[Any, Any]) -> bool:
    """Return whether the field's value is only shown: the database or a method makes it."""
    return field.generated or not (field.assignable and (field.is_given or not field.is_derived))


def described(field: Field[Any, Any]) -> dict[str, Any]:
    """Return what a page of an API says of a field, as arguments of ``pydantic.Field``."""
    info: dict[str, Any] = {"title": field.string, "description": field.help or None}
    if field.name == "_id" or is_read_only(field):
        info["json_schema_extra"] = {"readOnly": True}
    if field.secret:  # a client gives it, and no response has it
        info["json_schema_extra"], info["repr"] = {"writeOnly": True}, False
    return info


def default_of(field: Field[Any, Any]) -> dict[str, Any]:
    """Return the default of a field, as arguments of ``pydantic.Field``; none if it has to be given."""
    if field.default is None:
        return {} if field.required else {"default": None}
    if callable(field.default) or field.mutable:
        return {"default_factory": field.default_value, "validate_default": True}
    return {"default": field.default, "validate_default": True}


def guarded(field: Field[Any, Any], annotation: Any) -> Any:
    """Return an annotation whose values no response shows if the field is secret."""
    if not field.secret:
        return annotation
    never = pydantic.PlainSerializer(lambda value: None, when_used="json")
    return Annotated[annotation, never]


def annotation_of(field: Field[Any, Any]) -> Any:
    """Return the field's annotation, with a JSON Schema for any value if pydantic has none."""
    annotation = field.json_annotation()
    try:
        pydantic.TypeAdapter(annotation).json_schema(mode="serialization")
        pydantic.TypeAdapter(annotation).json_schema(mode="validation")
    except PydanticInvalidForJsonSchema:
        serializer = pydantic.PlainSerializer(field.to_json, when_used="json-unless-none")
        return Annotated[annotation, serializer, pydantic.WithJsonSchema({})]
    return annotation


def pydantic_field(field: Field[Any, Any], optional: bool) -> tuple[Any, Any]:
    """Return the annotation and the ``pydantic.Field`` of a field of ``pydantic_model()``."""
    annotation = annotation_of(field)
    optional = optional or is_read_only(field)
    if optional or not field.required:
        annotation = annotation | None
    default = {"default": None} if optional else default_of(field)
    return guarded(field, annotation), pydantic.Field(**default, **described(field))


def id_field(field: Field[Any, Any]) -> tuple[Any, Any]:
    """Return the annotation and the ``pydantic.Field`` of the id."""
    return str | None, pydantic.Field(default=None, **described(field))


def values_of(
    record: Structure, fields: Mapping[str, Any], nested: Set[str] = frozenset()
) -> Iterator[tuple[str, Any]]:
    """Yield the values of a record by the names of a body's fields.

    Args:
        record: A record, or an embedded object.
        fields: The body's fields, by name.
        nested: The names of relations whose records are bodies themselves; the others are ids.

    Raises:
        FieldNotLoaded: A field was not fetched, or records of ``nested`` are not loaded.
    """
    schema: Schema = type(record)._schema
    for name in fields:
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
            if ids is not None:
                value = list(value) if name in nested else value.ids
            yield name, value
