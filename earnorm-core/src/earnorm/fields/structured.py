"""Everything with an inner shape or an opaque one: ids, UUID, Binary, Json, Dict, List, Embedded."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar, Unpack

import pydantic
from bson import Binary as BsonBinary
from bson import ObjectId
from pydantic_core import PydanticCustomError

from earnorm.fields.base import ConvertingField, Field, FieldOptions, MutableField, N, Validator
from earnorm.fields.json_forms import json_form
from earnorm.fields.numeric import _INT_MAX, _INT_MIN

if TYPE_CHECKING:
    from earnorm.models import EmbeddedModel

T = TypeVar("T")
E = TypeVar("E", bound="EmbeddedModel")

_MAX_DEPTH = 90  # BSON allows 100 levels in all; the document itself and its updates need some


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

    python_type: ClassVar[Any] = Annotated[Any, pydantic.PlainValidator(_object_id)]
    index_floor: ClassVar[Any] = ObjectId("0" * 24)

    def json_type(self) -> Any:
        return Annotated[
            str,
            pydantic.BeforeValidator(_id_text),
            pydantic.Field(pattern="^[0-9a-fA-F]{24}$"),
        ]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "objectId"}

    def operand(self, value: Any) -> Any:
        if value is None or isinstance(value, ObjectId):
            return value
        if isinstance(value, str):
            # A text that is no ObjectId finds nothing where ids are ObjectIds; it is no error.
            return ObjectId(value) if ObjectId.is_valid(value) else value
        pk = getattr(value, "pk", None)
        if isinstance(pk, ObjectId):
            return pk
        raise ValueError(
            f"{self.name} is compared with an ObjectId or its text, not {type(value).__name__}"
        )


class UUID(Field[uuid.UUID, N]):
    """A UUID, stored as BSON binary subtype 4; its text is accepted and converted."""

    python_type: ClassVar[Any] = uuid.UUID
    index_floor: ClassVar[Any] = uuid.UUID(int=0)

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
        max_length: Most bytes allowed (a whole document holds 16 MB; use a File for more).
    """

    python_type: ClassVar[Any] = bytes
    operand_types = (bytes, BsonBinary)
    index_floor: ClassVar[Any] = b""
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


def check_json(value: Any, depth: int = 0) -> Any:
    """Refuse what JSON has not, and keys that a database could take for an operator or a path."""
    kind = type(value)
    if depth > _MAX_DEPTH:
        raise PydanticCustomError("json_depth", "nested more than {n} levels", {"n": _MAX_DEPTH})
    if value is None or kind is str or kind is bool or kind is float:
        return value
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:
            return value
        raise PydanticCustomError("json_int", "a number of more than 64 bits cannot be stored")
    if kind is list or kind is tuple:
        return [check_json(item, depth + 1) for item in value]
    if kind is dict:
        for key in value:
            check_key(key)
        return {key: check_json(item, depth + 1) for key, item in value.items()}
    raise PydanticCustomError("json_type", "{kind} is not a JSON value", {"kind": kind.__name__})


def check_key(key: Any) -> str:
    """A key that is a text, and can be taken neither for an operator nor for a path."""
    if type(key) is not str:
        raise PydanticCustomError("key_type", "a key is a text")
    if key.startswith("$") or "." in key or "\0" in key:
        raise PydanticCustomError("key", "a key must not start with '$' or contain '.' or NUL")
    return key


class Json(MutableField[Any, N]):
    """Any JSON value: text, number, true, false, null, list, object."""

    python_type: ClassVar[Any] = Annotated[Any, pydantic.PlainValidator(check_json)]

    def json_type(self) -> Any:
        return Any

    def operand(self, value: Any) -> Any:
        try:
            return check_json(value)
        except PydanticCustomError as error:
            raise ValueError(f"{self.name}: {error.message()}") from None


class Dict(MutableField[dict[str, T], N], Generic[T, N]):
    """A mapping of texts to values of one field.

    Args:
        values: The field that each value is checked by; without it, any JSON value.
    """

    def __init__(
        self,
        values: Field[T, Any] | None = None,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: dict[str, T] | Callable[[], dict[str, T]] | None = None,
        validators: Iterable[Validator[dict[str, T]]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        self._values: Any = _item(self, values)

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        if self._values is not None:
            self._values.__set_name__(owner, name)

    def annotation(self) -> Any:
        key: Any = Annotated[str, pydantic.BeforeValidator(check_key)]
        value = Json.python_type if self._values is None else self._values.value_annotation()
        return dict.__class_getitem__((key, value))

    def json_type(self) -> Any:
        value: Any = Any if self._values is None else self._values.json_annotation()
        return dict.__class_getitem__((str, value))

    def to_json(self, value: Any) -> Any:
        form = json_form if self._values is None else self._values.to_json
        return {key: None if each is None else form(each) for key, each in value.items()}

    def bson_schema(self) -> Mapping[str, Any]:
        values = {} if self._values is None else _always_set(self._values)
        return {"bsonType": "object", **({"additionalProperties": values} if values else {})}

    def encode(self, value: Any) -> Any:
        item = self._values
        if item is None or not item.converts or type(value) is not dict:
            return value
        return {key: item.encode(each) for key, each in value.items()}

    def decode(self, value: Any) -> Any:
        item = self._values
        if item is None or not item.converts or type(value) is not dict:
            return value
        return {key: item.decode(each) for key, each in value.items()}

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ValueError(f"{self.name} is compared with a dict, not {type(value).__name__}")
        try:
            for key in value:
                check_key(key)
        except PydanticCustomError as error:
            raise ValueError(f"{self.name}: {error.message()}") from None
        item = self._values
        if item is None:
            return {key: check_json(each) for key, each in value.items()}
        return {key: item.operand(each) for key, each in value.items()}


class List(MutableField[list[T], N], Generic[T, N]):
    """A list of values of one field.

    Args:
        item: The field that each item is checked by, e.g. ``List(String())``.
        min_length: Fewest items allowed.
        max_length: Most items allowed.
    """

    min_length: int | None
    max_length: int | None

    def __init__(
        self,
        item: Field[T, Any],
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: list[T] | Callable[[], list[T]] | None = None,
        validators: Iterable[Validator[list[T]]] = (),
        min_length: int | None = None,
        max_length: int | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        checked = _item(self, item)
        if checked is None:
            raise TypeError("List() needs the field of its items, e.g. List(String())")
        # Any: a type checker would take a field in an attribute for a descriptor of the list
        self._item: Any = checked
        self.structure = getattr(checked, "structure", None)
        self.min_length = min_length
        self.max_length = max_length

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self._item.__set_name__(owner, name)

    def annotation(self) -> Any:
        kind: Any = list.__class_getitem__(self._item.value_annotation())
        bounds = pydantic.Field(min_length=self.min_length, max_length=self.max_length)
        return Annotated[kind, bounds]

    def json_type(self) -> Any:
        kind: Any = list.__class_getitem__(self._item.json_annotation())
        bounds = pydantic.Field(min_length=self.min_length, max_length=self.max_length)
        return Annotated[kind, bounds]

    def to_json(self, value: Any) -> Any:
        form = self._item.to_json
        return [None if each is None else form(each) for each in value]

    def bson_schema(self) -> Mapping[str, Any]:
        items = _always_set(self._item)
        bounds = {"items": items or None, "minItems": self.min_length, "maxItems": self.max_length}
        return {"bsonType": "array", **{k: v for k, v in bounds.items() if v is not None}}

    def encode(self, value: Any) -> Any:
        item = self._item
        if not item.converts or type(value) is not list:
            return value
        return [item.encode(each) for each in value]

    def decode(self, value: Any) -> Any:
        item = self._item
        if not item.converts or type(value) is not list:
            return value
        return [item.decode(each) for each in value]

    def operand(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._item.operand(each) for each in value]
        return self._item.operand(value)


class Embedded(ConvertingField[E, N], Generic[E, N]):
    """A document inside the document, as an object of an :class:`~earnorm.models.EmbeddedModel`.

    Args:
        model: The class of the embedded object.
    """

    # It notes its own changes, so no copy of what was read has to be kept: adopting the stored
    # document is all that the first read does.
    mutable: ClassVar[bool] = True
    model: type[E]

    def __init__(
        self,
        model: type[E],
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: E | Callable[[], E] | None = None,
        validators: Iterable[Validator[E]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        if not (isinstance(model, type) and hasattr(model, "_schema")):
            raise TypeError("Embedded() needs an EmbeddedModel class, e.g. Embedded(Address)")
        self.model = self.structure = model

    def annotation(self) -> Any:
        return self.model

    def json_type(self) -> Any:
        return self.model.pydantic_model()

    def bson_schema(self) -> Mapping[str, Any]:
        return self.model._schema.stored_schema()

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            if record is None:
                return self
            state = record.__dict__
            try:
                value = state[self.name]
            except KeyError:
                return record._absent(self)
            if type(value) is dict:
                value = state[self.name] = self.decode(value)
                if self.model._schema.relations:
                    record._inside(self, value)
            return value

    def is_decoded(self, value: Any) -> bool:
        return type(value) is not dict

    def encode(self, value: Any) -> Any:
        return value._stored() if isinstance(value, self.model) else value

    def decode(self, value: Any) -> Any:
        return self.model._adopt(value) if type(value) is dict else value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, self.model):
            return self.encode(value)
        raise ValueError(
            f"{self.name} is compared with a {self.model.__name__}, or by the path of one of its "
            f"fields ('{self.name}.…'), not with {type(value).__name__}"
        )


def _always_set(item: Field[Any, Any]) -> dict[str, Any]:
    """The schema of an item: unlike a field, it is never null."""
    schema = dict(item.bson_schema())
    if item.choices:
        schema["enum"] = [item.encode(choice) for choice in item.choices]
    return schema


def _item(owner: Field[Any, Any], item: Any) -> Any:
    if item is None or isinstance(item, Field):
        return item
    raise TypeError(
        f"{type(owner).__name__}() takes a field, e.g. {type(owner).__name__}(String()), "
        f"not {item!r}"
    )
