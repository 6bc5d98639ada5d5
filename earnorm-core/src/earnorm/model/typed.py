"""TypedModel: a model whose constructor type checkers know, for those who annotate each field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, dataclass_transform

from earnorm.fields.base import Field
from earnorm.fields.files import File
from earnorm.fields.identifiers import UUID, Binary, ObjectIdField
from earnorm.fields.many2many import Many2many
from earnorm.fields.numeric import Boolean, Decimal, Float, Int
from earnorm.fields.relational import Many2one, One2many
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.fields.temporal import Date, DateTime, Duration, Time
from earnorm.fields.text import Color, Email, Phone, Selection, Slug, String, Text, Url
from earnorm.model.base import BaseModel

M = TypeVar("M", bound=BaseModel)


@dataclass_transform(
    kw_only_default=True,
    # Records compare and hash by their id, and not as dataclasses do.
    eq_default=False,
    # Type checkers read no name of a tuple here. The kinds that are missing have a value without being given one
    # (Sequence, Author): what is no specifier is a default.
    field_specifiers=(
        Field,
        String,
        Text,
        Email,
        Url,
        Slug,
        Phone,
        Color,
        Selection,
        Int,
        Float,
        Decimal,
        Boolean,
        Date,
        DateTime,
        Time,
        Duration,
        Binary,
        UUID,
        ObjectIdField,
        Json,
        Dict,
        List,
        Embedded,
        Many2one,
        One2many,
        Many2many,
        File,
    ),
)
class TypedModel(BaseModel):
    """A model whose constructor is checked: each field has an annotation (``Value``, ``ReadOnly``, ``One``, ``Many``)::

        class Ticket(TypedModel):
            title: Value[str] = String(required=True)
            body: Value[str | None] = String(default=None)

        Ticket(titel="x")  # type checkers flag the name

    At run time it is a ``BaseModel``. A field with ``default=`` (None is one) may be left out of the constructor, and one
    with ``init=False`` is no part of it.
    """

    _abstract = True


@dataclass_transform(
    kw_only_default=True,
    # Records compare and hash by their id, and not as dataclasses do.
    eq_default=False,
    # Type checkers read no name of a tuple here. The kinds that are missing have a value without being given one
    # (Sequence, Author): what is no specifier is a default.
    field_specifiers=(
        Field,
        String,
        Text,
        Email,
        Url,
        Slug,
        Phone,
        Color,
        Selection,
        Int,
        Float,
        Decimal,
        Boolean,
        Date,
        DateTime,
        Time,
        Duration,
        Binary,
        UUID,
        ObjectIdField,
        Json,
        Dict,
        List,
        Embedded,
        Many2one,
        One2many,
        Many2many,
        File,
    ),
)
def keywords(*, init: Literal[False]) -> Callable[[type[M]], type[M]]:
    """Make the annotated fields of a base class keywords of the typed models that derive from it, for type checkers.

    Args:
        init: False: the constructor of a model of another style stays as it is.
    """
    return lambda model: model
