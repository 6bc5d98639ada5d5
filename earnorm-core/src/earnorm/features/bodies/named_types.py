"""Compares the type that a body names for a field with the field's own, and joins the two into one annotation.

The result takes what both take: the type that the body names, within the bounds of the field.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeAliasType

from earnorm.fields.base import Field
from earnorm.fields.relational import Relation, is_kind

_UNIONS = (Union, types.UnionType)


class OtherType(Exception):
    """The two types do not agree; its text says what the field has."""


@dataclass(frozen=True)
class _Also:
    """Checks a value with the type that the body names, after the field's own checks.

    It is for the bounds of ``Annotated[str, ...]``: pydantic would put such a bound in the place of the field's.
    """

    named: Any

    def __get_pydantic_core_schema__(
        self, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> CoreSchema:
        inner, named = handler(source), handler.generate_schema(self.named)
        # The last step leaves a value alone: it is there because a chain is written as its last step says.
        as_inner = core_schema.no_info_wrap_validator_function(lambda value, _: value, inner)
        return core_schema.chain_schema([inner, named, as_inner])

    def __get_pydantic_json_schema__(
        self, schema: Any, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        inner, named, _ = schema["steps"]
        return {**handler(inner), **handler(named)}


def split_optional(named: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether it had it."""
    named = _unaliased(named)
    if get_origin(named) is Annotated:
        kind, has_none = split_optional(get_args(named)[0])
        return (Annotated[(kind, *named.__metadata__)] if has_none else named), has_none
    if get_origin(named) not in _UNIONS or type(None) not in get_args(named):
        return named, False
    kinds = tuple(kind for kind in get_args(named) if kind is not type(None))
    return Union[kinds], True  # noqa: UP007 - of any number of types


def split_info(named: Any) -> tuple[Any, FieldInfo | None]:
    """Return a type with its bounds alone, and the last ``pydantic.Field()`` in it, which also describes it."""
    if get_origin(named) is not Annotated:
        return named, None
    infos = [each for each in named.__metadata__ if isinstance(each, FieldInfo)]
    bounds: list[Any] = []
    for each in named.__metadata__:
        bounds += each.metadata if isinstance(each, FieldInfo) else [each]
    kind = get_args(named)[0]
    return (Annotated[(kind, *bounds)] if bounds else kind), infos[-1] if infos else None


def joined(field: Field[Any, Any], annotation: Any, named: Any) -> Any:
    """Return the annotation for a field of the type that a body names, within the field's bounds.

    Args:
        field: The field of the model.
        annotation: The annotation of a value of the field in a body.
        named: The type that the body names, without None.

    Raises:
        OtherType: The types do not agree.
    """
    if isinstance(field, Relation):
        body = nested_body(named)
        if body is not None:
            return _relation(field, named, body)
    return _join(annotation, named)


def nested_body(named: Any) -> Any:
    """Return the body that stands for the records of a relation, alone or in a list; None if there is none."""
    named = _unaliased(named)
    if get_origin(named) is Annotated:
        return nested_body(get_args(named)[0])
    if get_origin(named) is list:
        return nested_body(get_args(named)[0])
    is_body = isinstance(named, type) and getattr(named, "_model", None) is not None
    return named if is_body and issubclass(named, pydantic.BaseModel) else None


def _relation(field: Relation[Any, Any], named: Any, body: Any) -> Any:
    name, model = field.comodel_name, body._model
    if getattr(model, "_name", None) != name and not is_kind(model, name):
        raise OtherType(f"{body.__name__} is a body of {model.__name__}, and not of {name!r}")
    kind = get_args(named)[0] if get_origin(named) is Annotated else named
    if (get_origin(kind) is list) is not field.to_many:
        wanted = f"list[{body.__name__}]" if field.to_many else body.__name__
        raise OtherType(f"it is {wanted}")
    return named


def _join(model: Any, named: Any) -> Any:
    named = _unaliased(named)
    if named is Any or _same(model, named):
        return model
    if get_origin(named) is Annotated:
        return Annotated[_join(model, get_args(named)[0]), _Also(named)]
    if get_origin(model) is Annotated:
        kind, *metadata = get_args(model)
        if kind is Any:  # the field says in its metadata what it takes
            return Annotated[model, _Also(named)]
        if get_origin(named) is Literal:
            return _literal(model, named)
        return Annotated[(_join(kind, named), *metadata)]
    if get_origin(named) is Literal:
        return _literal(model, named)
    if get_origin(model) is Literal:
        if {type(value) for value in get_args(model)} == {named}:
            return model
        raise _other(model)
    if _is_body(model) and _is_body(named) and issubclass(named._model, model._model):
        return named
    arguments, own = get_args(model), get_args(named)
    if get_origin(model) is not get_origin(named) or len(arguments) != len(own) or not own:
        raise _other(model)
    try:
        inside = [_join(argument, kind) for argument, kind in zip(arguments, own, strict=True)]
    except OtherType:
        raise _other(model) from None
    return typing.cast(Any, get_origin(model)).__class_getitem__(
        tuple(inside) if len(inside) > 1 else inside[0]
    )


def _literal(model: Any, named: Any) -> Any:
    """Take a literal whose values the field takes, each as it is."""
    check = pydantic.TypeAdapter(model).validate_python
    for value in get_args(named):
        try:
            is_value = check(value) == value
        except ValueError:
            is_value = False
        if not is_value:
            raise OtherType(f"{value!r} is no value of {shown(model)}")
    return named


def _is_body(kind: Any) -> bool:
    return isinstance(kind, type) and getattr(kind, "_model", None) is not None


def _same(model: Any, named: Any) -> bool:
    return bool(model == named)


def _unaliased(named: Any) -> Any:
    if isinstance(named, TypeAliasType):
        return _unaliased(named.__value__)
    return _unaliased(named.__supertype__) if isinstance(named, NewType) else named


def _other(model: Any) -> OtherType:
    return OtherType(f"it is {shown(model)}")


def shown(annotation: Any) -> str:
    """Return a type as a class body would name it."""
    if get_origin(annotation) is Annotated:
        return shown(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(annotation)))}]"
    if annotation is type(None):
        return "None"
    arguments = get_args(annotation)
    if get_origin(annotation) in _UNIONS:
        return " | ".join(map(shown, arguments))
    name = getattr(get_origin(annotation) or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(shown, arguments))}]" if arguments else name
