"""The kinds of fields. A model's class body declares its fields with them."""

from importlib import import_module
from typing import TYPE_CHECKING

from earnorm.fields.base import (
    ConvertingField,
    Field,
    FieldOptions,
    MutableField,
    N,
    ValueOptions,
)
from earnorm.fields.files import File
from earnorm.fields.identifiers import UUID, Binary, ObjectIdField
from earnorm.fields.many2many import Many2many
from earnorm.fields.numeric import Boolean, Decimal, Float, Int
from earnorm.fields.relational import Many2one, One2many
from earnorm.fields.sequences import Sequence
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.fields.temporal import Date, DateTime, Duration, Time
from earnorm.fields.text import Color, Email, Phone, Selection, Slug, String, Text, Url

if TYPE_CHECKING:
    from earnorm.fields.command import Command
    from earnorm.fields.enumerated import Enum
    from earnorm.fields.geo import Geo, Geometry, LineString, MultiPolygon, Point, Polygon
    from earnorm.fields.money import Money, MoneyValue
    from earnorm.fields.network import IPAddress
    from earnorm.fields.reference import Reference
    from earnorm.fields.sets import Set
    from earnorm.fields.vector import Vector
else:
    # Few models use these kinds, so each is imported on its first use.
    _LAZY_KINDS = {
        "command": "Command",
        "enumerated": "Enum",
        "geo": "Geo Geometry LineString MultiPolygon Point Polygon",
        "money": "Money MoneyValue",
        "network": "IPAddress",
        "reference": "Reference",
        "sets": "Set",
        "vector": "Vector",
    }
    _MODULES = {name: module for module, names in _LAZY_KINDS.items() for name in names.split()}

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module 'earnorm.fields' has no attribute {name!r}")
        module = import_module(f"earnorm.fields.{_MODULES[name]}")
        kind = globals()[name] = getattr(module, name)
        return kind

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "UUID",
    "Binary",
    "Boolean",
    "Color",
    "Command",
    "ConvertingField",
    "Date",
    "DateTime",
    "Decimal",
    "Dict",
    "Duration",
    "Email",
    "Embedded",
    "Enum",
    "Field",
    "FieldOptions",
    "File",
    "Float",
    "Geo",
    "Geometry",
    "IPAddress",
    "Int",
    "Json",
    "LineString",
    "List",
    "Many2many",
    "Many2one",
    "Money",
    "MoneyValue",
    "MultiPolygon",
    "MutableField",
    "N",
    "ObjectIdField",
    "One2many",
    "Phone",
    "Point",
    "Polygon",
    "Reference",
    "Selection",
    "Sequence",
    "Set",
    "Slug",
    "String",
    "Text",
    "Time",
    "Url",
    "ValueOptions",
    "Vector",
]
