"""The choices of a field: the last check of a value, and the choices themselves as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue

    from earnorm.fields.base import Field


@dataclass(frozen=True)
class AmongChoices:
    """The last check of a value that a kind of field has converted: it is one of the choices.

    pydantic-core makes it for texts and numbers, and names the choices in its message.
    """

    choices: tuple[Any, ...]

    def __get_pydantic_core_schema__(
        self, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        literal = core_schema.literal_schema(list(self.choices))
        return core_schema.chain_schema([handler(source), literal])

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(core_schema.literal_schema(list(self.choices)))


def convert_choices(field: Field[Any, Any]) -> None:
    """Convert the choices of a field as its values are converted, so that equal ones meet.

    Raises:
        ValueError: The field takes no such value.
    """
    if field.keeps_texts and all(type(choice) is str for choice in field.choices):
        "".join(field.choices).encode()  # a lone surrogate cannot be stored
        return
    convert = pydantic.TypeAdapter[Any](field.annotation()).validate_python
    converted: list[Any] = []
    for choice in field.choices:
        try:
            converted.append(convert(choice))
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"{choice!r} is no value of the field: {reason}") from None
    field.choices = tuple(converted)
