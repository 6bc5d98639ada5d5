"""The bodies of a router's requests: the class for PATCH that is made of the one for POST, and the values in a body."""

import inspect
from types import new_class
from typing import Annotated, Any, Final

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticUndefined

from earnorm.exceptions import ValidationError
from earnorm.features.bodies.body import Body
from earnorm.features.bodies.pydantic_fields import is_read_only
from earnorm.fields.base import Field
from earnorm.fields.relational import Relation
from earnorm.model.base import BaseModel

__all__ = ["change_of", "values_in"]

_SAID: Final = tuple(
    name
    for name in inspect.signature(pydantic.Field).parameters
    if name not in ("default", "default_factory", "validate_default", "extra")
)
"""The options of a ``pydantic.Field()`` beside its default."""


class _Omissible:
    """Declares each field of the class beside it anew, as one that may be left out.

    It comes before that class among the bases. Pydantic reads the fields after ``__init_subclass__``.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        body = next(base for base in cls.__bases__ if issubclass(base, pydantic.BaseModel))
        cls.__annotations__ = {
            name: Annotated[(info.annotation, *info.metadata, _without_default(info))]
            for name, info in body.model_fields.items()
        }
        for name in body.model_fields:
            setattr(cls, name, None)
        if issubclass(cls, Body):  # a default that the class names is no change
            cls._own_defaults = frozenset()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        shown = handler(schema)
        for described in handler.resolve_ref_schema(shown).get("properties", {}).values():
            described.pop("default", None)  # what is left out has no value
        return shown


def _without_default(info: FieldInfo) -> Any:
    said = {name: getattr(info, name, None) for name in _SAID}
    given = {n: v for n, v in said.items() if v is not None and v is not PydanticUndefined}
    # A setting of the class may check defaults, and None stands only for what was left out.
    return pydantic.Field(validate_default=False, **given)


def change_of(body: type[pydantic.BaseModel], name: str) -> type[pydantic.BaseModel]:
    """Return a subclass of a body each field of which may be left out.

    Types, constraints, aliases, validators, settings and nested classes are those of the body. None
    is a value only where the body takes it. A validator of the whole body sees None for what was
    left out.
    """
    made: type[pydantic.BaseModel] = new_class(
        name, (_Omissible, body), {}, lambda space: space.update(__module__=body.__module__)
    )
    return made


def values_in(
    body: pydantic.BaseModel, model: type[BaseModel], *, defaults: bool = False
) -> dict[str, Any]:
    """Return the values that a client has given, of the fields that the body's class declares.

    Keys that the class allows without declaring them are never values: they could name any field of
    the model. Fields that only the body has, and those that nobody writes, are left out.

    Args:
        body: The body.
        model: The model.
        defaults: Whether the defaults of a class that is no :class:`~earnorm.Body` are values, as
            those that a Body names are.

    Raises:
        ValidationError: None was sent for a relation to many records.
    """
    fields = model._schema.fields
    values: dict[str, Any] = (
        body.to_values()
        if isinstance(body, Body)
        else _declared(body, body.model_dump(by_alias=False, exclude_unset=not defaults))
    )
    given = {n: v for n, v in values.items() if n in fields and not is_read_only(fields[n])}
    no_lists = [n for n, v in given.items() if v is None and _is_to_many(fields[n])]
    if no_lists:
        # It would unlink every record, which a client may not have meant.
        message = "a list is needed: [] links no record"
        raise ValidationError(
            model._name, [{"loc": (n,), "msg": message, "type": "list_type"} for n in no_lists]
        )
    return given


def _is_to_many(field: Field[Any, Any]) -> bool:
    return isinstance(field, Relation) and field.to_many


def _declared(value: Any, dumped: Any) -> Any:
    """Return what pydantic has made of a value, without the keys that no class declares."""
    if isinstance(value, Body):
        return value.to_values()
    if isinstance(value, pydantic.BaseModel) and isinstance(dumped, dict):
        declared = type(value).model_fields
        return {n: _declared(getattr(value, n), d) for n, d in dumped.items() if n in declared}
    if isinstance(value, list | tuple) and isinstance(dumped, list | tuple):
        return [_declared(*pair) for pair in zip(value, dumped, strict=True)]
    if isinstance(value, dict) and isinstance(dumped, dict):
        return {key: _declared(value[key], d) if key in value else d for key, d in dumped.items()}
    return dumped
