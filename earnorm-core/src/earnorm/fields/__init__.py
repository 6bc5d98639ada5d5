"""The kinds of fields. A model's class body declares its fields with them."""

from earnorm.fields.base import ConvertingField, Field, FieldOptions, MutableField
from earnorm.fields.command import Command
from earnorm.fields.many2many import Many2many
from earnorm.fields.numeric import Boolean, Decimal, Float, Int
from earnorm.fields.relational import Many2one, One2many
from earnorm.fields.structured import (
    UUID,
    Binary,
    Dict,
    Embedded,
    Json,
    List,
    ObjectIdField,
)
from earnorm.fields.temporal import Date, DateTime
from earnorm.fields.text import Email, Selection, String, Text, Url

__all__ = [
    "UUID",
    "Binary",
    "Boolean",
    "Command",
    "ConvertingField",
    "Date",
    "DateTime",
    "Decimal",
    "Dict",
    "Email",
    "Embedded",
    "Field",
    "FieldOptions",
    "Float",
    "Int",
    "Json",
    "List",
    "Many2many",
    "Many2one",
    "MutableField",
    "ObjectIdField",
    "One2many",
    "Selection",
    "String",
    "Text",
    "Url",
]
