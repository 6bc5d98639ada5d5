"""Fields that point at records of another model: Many2one and One2many."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar, Unpack

import pydantic
from bson import ObjectId
from pydantic_core import PydanticCustomError

from earnorm import registry
from earnorm.exceptions import ValidationError
from earnorm.fields.base import ConvertingField, Field, FieldOptions, N

if TYPE_CHECKING:
    from earnorm.models import BaseModel
    from earnorm.recordset import RecordSet  # noqa: F401 - named in the base of One2many

C = TypeVar("C", bound="BaseModel")


@dataclass(frozen=True, slots=True)
class Join:
    """How two models hang together: the records here whose ``local`` value is (or, where it is a
    list, holds) the ``foreign`` value of the records there.

    Attributes:
        local: The name of a field of the relation's own model.
        foreign: The name of a field of the other model.

    Names, not stored keys: each side's schema resolves its own (``schema.path_of(name)``).
    """

    local: str
    foreign: str


class Relation(Field[Any, N]):
    """What the relational fields share: the model at the other end, by class or by name."""

    comodel: type[Any] | str


def _reference(value: Any) -> Any:
    """A record as it is (it may still be unsaved), an id in its stored form."""
    if isinstance(value, str):
        return ObjectId(value) if ObjectId.is_valid(value) else value
    if isinstance(value, ObjectId) or hasattr(type(value), "_schema"):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # the other model declares an Int as its _id
    ensure_one = getattr(value, "ensure_one", None)
    if ensure_one is not None:
        return ensure_one()
    raise PydanticCustomError(
        "reference", "not a record, nor its id ({kind})", {"kind": type(value).__name__}
    )


def _id_text(value: Any) -> Any:
    """An id as text, as ``record.id`` is."""
    if hasattr(type(value), "_schema"):
        return value.id
    return str(value) if isinstance(value, ObjectId | uuid.UUID | int) else value


class Many2one(ConvertingField[C, N], Generic[C, N]):
    """One record of another model, stored as its id.

    Until it is loaded, its value is a *ghost*: a record that knows its id only. ``await`` it, or
    name the field in ``search(...).prefetch()``.

    Args:
        comodel: The other model: its class, or its ``_name``.
    """

    python_type: ClassVar[Any] = Annotated[Any, pydantic.PlainValidator(_reference)]
    index_floor: ClassVar[Any] = ObjectId("0" * 24)
    comodel: type[C] | str

    def __init__(
        self,
        comodel: type[C] | str,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: C | Callable[[], C] | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, (), options)
        self.comodel = comodel
        self._id_of: tuple[type[Any], pydantic.TypeAdapter[Any]] | None = None

    @property
    def join(self) -> Join:
        """Its own value is the other record's id."""
        return Join(self.name, "_id")

    def annotation(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(self._checked)]

    def json_type(self) -> Any:
        return Annotated[str, pydantic.BeforeValidator(_id_text)]

    def bson_schema(self) -> Mapping[str, Any]:
        target = self._target()
        return {} if target is None else target._schema.fields["_id"].bson_schema()

    def _target(self) -> type[Any] | None:
        """The other model; None where it is one that an App's plugin brings."""
        comodel = self.comodel
        return registry.definitions().get(comodel) if isinstance(comodel, str) else comodel

    def _checked(self, value: Any) -> Any:
        """A record of the other model, or an id of the kind that it declares."""
        found = _reference(value)
        comodel = self.comodel
        name = comodel if isinstance(comodel, str) else comodel._name
        if self.is_decoded(found):
            if getattr(type(found), "_name", None) != name:
                raise PydanticCustomError("reference", "not a record of {name}", {"name": name})
            return found
        target = self._target()
        if target is None:
            return found
        if self._id_of is None or self._id_of[0] is not target:
            ids = pydantic.TypeAdapter(target._schema.fields["_id"].value_annotation())
            self._id_of = (target, ids)
        try:
            return self._id_of[1].validate_python(found)
        except pydantic.ValidationError:
            raise PydanticCustomError("reference", "not an id of {name}", {"name": name}) from None

    def is_decoded(self, value: Any) -> bool:
        return hasattr(type(value), "_schema")

    def encode(self, value: Any) -> Any:
        if not self.is_decoded(value):
            return value
        pk = value.__dict__.get("_id")
        if pk is None:
            raise ValidationError(
                self.model_name,
                [{"loc": (self.name,), "msg": "the record is not saved yet", "type": "unsaved"}],
            )
        return pk

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        try:
            found = self.encode(_reference(value))
        except PydanticCustomError:
            raise ValueError(
                f"{self.name} is compared with a record or its id, not {type(value).__name__}"
            ) from None
        return found

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            if record is None:
                return self
            state = record.__dict__
            try:
                value = state[self.name]
            except KeyError:
                return record._absent(self)
            if value is None or self.is_decoded(value):
                return value
            value = state[self.name] = record._ghost(self, value)
            return value


class One2many(ConvertingField["RecordSet[C]", Literal[True]], Generic[C]):
    """The records of another model that point here with a Many2one; nothing is stored.

    Args:
        comodel: The other model: its class, or its ``_name``.
        inverse: The name of its Many2one field.
    """

    stored: ClassVar[bool] = False
    comodel: type[C] | str
    inverse: str

    def __init__(
        self, comodel: type[C] | str, inverse: str, **options: Unpack[FieldOptions]
    ) -> None:
        self._bind(False, None, None, (), options)
        self.comodel = comodel
        self.inverse = inverse

    @property
    def join(self) -> Join:
        """The inverse field's value is this record's id."""
        return Join("_id", self.inverse)

    def json_type(self) -> Any:
        return list[Annotated[str, pydantic.BeforeValidator(_id_text)]]

    def operand(self, value: Any) -> Any:
        raise ValueError(
            f"{self.name} is not stored here; search the other model by its {self.inverse!r}"
        )

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            if record is None:
                return self
            value = record.__dict__.get(self.name)
            if value is None:
                value = record.__dict__[self.name] = record._ghosts(self)
            return value
