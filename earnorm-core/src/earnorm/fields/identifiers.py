"""Opaque values: ObjectIdField, UUID, Binary."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Unpack

import pydantic
from bson import Binary as BsonBinary
from bson import ObjectId
from pydantic_core import PydanticCustomError

from earnorm.domain.schema import keeps
from earnorm.fields.base import Field, FieldOptions, N, Validator

if TYPE_CHECKING:
    from earnorm.domain import Domain


def _object_id(value: Any) -> ObjectId:
    if isinstance(value, ObjectId):
        return value
    if isinstance(value, str) and ObjectId.is_valid(value):
        return ObjectId(value)
    raise PydanticCustomError("object_id", "not an ObjectId, nor its 24 hexadecimal digits")


def _id_text(value: Any) -> Any:
    return str(value) if isinstance(value, ObjectId) else value


class ObjectIdField(Field[ObjectId, N]):
    """An ObjectId; its 24 hexadecimal digits are accepted and converted."""

    reads_id_text: ClassVar[bool] = True
    python_type: ClassVar[Any] = ObjectId

    if TYPE_CHECKING:
        # A condition takes its text, too, and a record that has it.
        def __eq__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions
        def __ne__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions

        __hash__ = Field.__hash__

    def annotation(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(_object_id)]

    def json_type(self) -> Any:
        return Annotated[
            str,
            pydantic.BeforeValidator(_id_text),
            pydantic.Field(pattern="^[0-9a-fA-F]{24}$"),
        ]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "objectId"}

    @keeps(ObjectId)
    def operand(self, value: Any) -> Any:
        if value is None or isinstance(value, ObjectId):
            return value
        if isinstance(value, str):
            # A text that is not an ObjectId is no error; it finds nothing among ObjectIds.
            return ObjectId(value) if ObjectId.is_valid(value) else value
        pk = getattr(value, "pk", None)
        if isinstance(pk, ObjectId):
            refuse_other_app = getattr(value, "_refuse_other_app", None)
            if refuse_other_app is not None:
                refuse_other_app()
            return pk
        raise ValueError(
            f"{self.name} is compared with an ObjectId or its text, not {type(value).__name__}"
        )


class UUID(Field[uuid.UUID, N]):
    """A UUID, stored as BSON binary subtype 4; its text is accepted and converted."""

    python_type: ClassVar[Any] = uuid.UUID

    if TYPE_CHECKING:
        # A condition takes its text, too.
        def __eq__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions
        def __ne__(self, value: object) -> Domain: ...  # type: ignore[override] # see Expressions

        __hash__ = Field.__hash__

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "binData"}

    def operand(self, value: Any) -> Any:
        if value is None or isinstance(value, uuid.UUID):
            return value
        if isinstance(value, str):
            try:
                return uuid.UUID(value)
            except ValueError:
                return value
        raise ValueError(
            f"{self.name} is compared with a UUID or its text, not {type(value).__name__}"
        )


class Binary(Field[bytes, N]):
    """Bytes.

    Args:
        max_length: The most bytes allowed (a whole document holds 16 MB; use a File for more).
    """

    python_type: ClassVar[Any] = bytes
    operand_types = (bytes, BsonBinary)
    identifies = False
    max_length: int | None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: bytes | Callable[[], bytes] | None = None,
        validators: Iterable[Validator[bytes]] = (),
        max_length: int | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        self.max_length = max_length

    def annotation(self) -> Any:
        return Annotated[bytes, pydantic.Field(strict=True, max_length=self.max_length)]

    def json_type(self) -> Any:
        shown = {"type": "string", "contentEncoding": "base64"}
        return Annotated[
            self.annotation(),
            pydantic.BeforeValidator(_from_base64),
            pydantic.PlainSerializer(self.to_json, when_used="json-unless-none"),
            pydantic.WithJsonSchema(shown),
        ]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "binData"}


def _from_base64(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise PydanticCustomError("base64", "not base64") from None
