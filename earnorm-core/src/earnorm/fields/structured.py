"""Fields with values inside: Json, Dict, List, Embedded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Generic, TypeVar, Unpack

import pydantic
from bson import Int64
from pydantic_core import PydanticCustomError

from earnorm.exceptions import ValidationError, located
from earnorm.fields.base import (
    Contents,
    ConvertingField,
    Field,
    FieldOptions,
    MutableField,
    N,
    Validator,
    is_refused,
)
from earnorm.fields.json_forms import json_form
from earnorm.fields.keys import KeyTexts, check_key, check_text
from earnorm.fields.kinds_inside import KindsInside
from earnorm.fields.numeric import _INT_MAX, _INT_MIN
from earnorm.fields.option_rules import check_item
from earnorm.fields.refused import REFUSED
from earnorm.fields.text import String

if TYPE_CHECKING:
    from earnorm.fields.expressions import FieldPath
    from earnorm.model.embedded import EmbeddedModel

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    T = _TypeVar("T", default=Any)
    K = _TypeVar("K", default=str)
else:
    T = TypeVar("T")
    K = TypeVar("K")
E = TypeVar("E", bound="EmbeddedModel")

_MAX_DEPTH = 90  # BSON allows 100 levels in all; the document itself and its updates need some


def check_json(value: Any, depth: int = 0) -> Any:
    """Refuse what JSON can't hold, and keys that a database could read as an operator or a path."""
    kind = type(value)
    if depth > _MAX_DEPTH:
        raise PydanticCustomError("json_depth", "nested more than {n} levels", {"n": _MAX_DEPTH})
    if value is None or kind is bool or kind is float:
        return value
    if kind is str:
        return check_text(value)
    if kind is int or kind is Int64:  # the driver reads an Int64 if 32 bits are too few
        if _INT_MIN <= value <= _INT_MAX:
            return int(value)
        raise PydanticCustomError("json_int", "a number of more than 64 bits cannot be stored")
    if kind is list or kind is tuple:
        return [check_json(item, depth + 1) for item in value]
    if kind is dict:
        for key in value:
            check_key(key)
        return {key: check_json(item, depth + 1) for key, item in value.items()}
    raise PydanticCustomError("json_type", "{kind} is not a JSON value", {"kind": kind.__name__})


class Json(MutableField[Any, N]):
    """Any JSON value: text, number, true, false, null, list, object."""

    python_type: ClassVar[Any] = Any

    def annotation(self) -> Any:
        return _json_value()

    def json_type(self) -> Any:
        return _json_type()

    def operand(self, value: Any) -> Any:
        try:
            return check_json(value)
        except PydanticCustomError as error:
            raise ValueError(f"{self.name}: {error.message()}") from None


def _json_value() -> Any:
    return Annotated[Any, pydantic.PlainValidator(check_json)]


def _json_type() -> Any:
    # A stored document may hold what only BSON has, such as a timestamp, which pydantic cannot write.
    form = pydantic.PlainSerializer(json_form, when_used="json-unless-none")
    return Annotated[Any, form, pydantic.WithJsonSchema({})]


TEXT_KEYS: Field[str, Any] = String()


class Dict(MutableField[dict[K, T], N], Generic[T, K, N]):
    """A mapping of keys to values of one field.

    Args:
        values: The field that checks each value; without it, any JSON value is allowed.
        keys: The field that checks each key: String (the default), Int, UUID, ObjectIdField, Date
            or Enum. BSON knows texts only, so the other kinds are stored as their text.
    """

    def __init__(
        self,
        values: Field[T, Any] | None = None,
        *,
        keys: Field[K, Any] = TEXT_KEYS,  # type: ignore[assignment] # the default of K is str; mypy cannot tie the two
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: dict[K, T] | Callable[[], dict[K, T]] | None = None,
        validators: Iterable[Validator[dict[K, T]]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        self._values: Any = item_field(self, values, "value")
        self._keys: Any = None if keys is TEXT_KEYS else item_field(self, keys, "key")
        self._texts = KeyTexts(self._keys)
        self.holds_objects = _are_objects(self._values)
        self.secret = self._values is not None and self._values.secret

    def contents(self) -> Contents:
        return Contents(values=self._values)

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        for field in (self._values, self._keys):
            if field is not None:
                field.__set_name__(owner, name)

    def annotation(self) -> Any:
        key: Any = Annotated[str, pydantic.BeforeValidator(check_key)]
        if self._keys is not None:
            key = Annotated[
                self._keys.value_annotation(),
                pydantic.BeforeValidator(self._texts.decode),
                pydantic.AfterValidator(self._texts.check),
            ]
        value = _json_value() if self._values is None else self._values.value_annotation()
        return dict.__class_getitem__((key, value))

    def json_type(self) -> Any:
        value: Any = _json_type() if self._values is None else self._values.json_annotation()
        key: Any = str
        if self._keys is not None:
            read = pydantic.BeforeValidator(self._texts.decode)
            key = Annotated[self._keys.json_annotation(), read]
        return dict.__class_getitem__((key, value))

    def to_json(self, value: Any) -> Any:
        if type(value) is not dict:
            return json_form(value)
        form = json_form if self._values is None else self._values.to_json
        text = self._texts.encode
        return {text(key): None if item is None else form(item) for key, item in value.items()}

    def bson_schema(self) -> Mapping[str, Any]:
        values = {} if self._values is None else always_set(self._values)
        return {"bsonType": "object", **({"additionalProperties": values} if values else {})}

    def _convert_items(
        self, value: Any, key: Callable[[Any], Any], item: Callable[[Any], Any]
    ) -> Any:
        if type(value) is not dict:
            return value
        try:
            return {key(k): item(v) for k, v in value.items()}
        except ValidationError as error:
            raise _placed(error, value.items(), item) from None

    def encode(self, value: Any) -> Any:
        item = self._values
        if item is None or not item.converts:
            if self._texts.is_plain:
                return value
            return self._convert_items(value, self._texts.encode, _unchanged)
        return self._convert_items(value, self._texts.encode, item.encode)

    def decode(self, value: Any) -> Any:
        item = self._values
        if item is None or not item.converts:
            if self._texts.is_plain:
                return value
            return self._convert_items(value, self._texts.decode, _unchanged)
        return self._convert_items(value, self._texts.decode, item.decode)

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ValueError(f"{self.name} is compared with a dict, not {type(value).__name__}")
        item = self._values
        try:
            texts = {check_key(self._texts.encode(k)): entry for k, entry in value.items()}
            return {k: check_json(v) if item is None else item.operand(v) for k, v in texts.items()}
        except PydanticCustomError as error:
            raise ValueError(f"{self.name}: {error.message()}") from None


def _unchanged(value: Any) -> Any:
    return value


class List(MutableField[list[T], N], Generic[T, N]):
    """A list of values of one field.

    Args:
        item: The field that checks each item, e.g. ``List(String())``.
        min_length: The fewest items allowed.
        max_length: The most items allowed.
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
        checked = item_field(self, item)
        if checked is None:
            raise TypeError("List() needs the field of its items, e.g. List(String())")
        # It is Any, because a type checker would read a field here as a descriptor of the list.
        self._item: Any = checked
        if not checked.copy and "copy" not in options:
            self.copy = False
        self.structure = getattr(checked, "structure", None)
        self.holds_objects = _are_objects(checked)
        kind = type(self)
        self.is_as_stored = (
            not checked.converts and (kind.encode, kind.decode, kind.freeze) == _AS_IT_IS
        )
        self.secret, self.operators = checked.secret, checked.operators
        self.min_length = min_length
        self.max_length = max_length

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self._item.__set_name__(owner, name)

    def contents(self) -> Contents:
        return Contents(items=self._item)

    @property
    def has_inside(self) -> bool:
        inside: bool = self._item.has_inside
        return inside

    def fields_inside(self) -> Mapping[str, Field[Any, Any]] | None:
        fields: Mapping[str, Field[Any, Any]] | None = self._item.fields_inside()
        return fields

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> FieldPath: ...

    def annotation(self) -> Any:
        kind: Any = list.__class_getitem__(self._item.value_annotation())
        bounds = pydantic.Field(min_length=self.min_length, max_length=self.max_length)
        return Annotated[kind, bounds]

    def json_type(self) -> Any:
        kind: Any = list.__class_getitem__(self._item.json_annotation())
        bounds = pydantic.Field(min_length=self.min_length, max_length=self.max_length)
        return Annotated[kind, bounds]

    def to_json(self, value: Any) -> Any:
        if type(value) is not list:
            return json_form(value)
        form = self._item.to_json
        return [None if entry is None else form(entry) for entry in value]

    def bson_schema(self) -> Mapping[str, Any]:
        items = always_set(self._item)
        bounds = {"items": items or None, "minItems": self.min_length, "maxItems": self.max_length}
        return {"bsonType": "array", **{k: v for k, v in bounds.items() if v is not None}}

    def encode(self, value: Any) -> Any:
        item = self._item
        if not item.converts or type(value) is not list:
            return value
        try:
            return [item.encode(entry) for entry in value]
        except ValidationError as error:
            raise _placed(error, enumerate(value), item.encode) from None

    def decode(self, value: Any) -> Any:
        item = self._item
        if not item.converts or type(value) is not list:
            return value
        return item.decode_each(value)

    def operand(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._item.operand(entry) for entry in value]
        return self._item.operand(value)


_AS_IT_IS: Final = (List.encode, List.decode, List.freeze)


class Embedded(ConvertingField[E, N], Generic[E, N]):
    """A document inside the document, as an object of an :class:`~earnorm.model.base.EmbeddedModel`.

    Args:
        model: The class of the embedded object.
        discriminator: The name of a text of the class that tells its subclasses apart. The field
            takes objects of each of them then; the text is the class's ``_kind``, by default its
            name in snake case, and need not be given with an object.

    Without a discriminator an object of a subclass is refused, because the stored document would not
    tell its class.
    """

    # The object notes its own changes, so the first read keeps no copy; it only adopts the stored
    # document.
    mutable: ClassVar[bool] = True
    model: type[E]

    def __init__(
        self,
        model: type[E],
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: E | Callable[[], E] | None = None,
        validators: Iterable[Validator[E]] = (),
        discriminator: str | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, None, validators, options)
        if not (isinstance(model, type) and hasattr(model, "_schema")):
            raise TypeError("Embedded() needs an EmbeddedModel class, e.g. Embedded(Address)")
        self.model = self.structure = model
        self.kinds: KindsInside | None = (
            None if discriminator is None else KindsInside(model, discriminator)
        )
        self._adopt: Callable[[dict[str, Any]], E] = (
            model._adopter() if self.kinds is None else self.kinds.adopt
        )
        self._has_relations = bool(model._schema.relations)

    if TYPE_CHECKING:
        # Reading the field from the class gives a path into the object; see FieldPath.
        name: Any

        def __getattr__(self, name: str) -> FieldPath: ...

    def annotation(self) -> Any:
        if self.kinds is None:
            return self.model
        return Annotated[Any, pydantic.PlainValidator(self.kinds.checked)]

    def json_type(self) -> Any:
        return self.model.pydantic_model() if self.kinds is None else self.kinds.body()

    def bson_schema(self) -> Mapping[str, Any]:
        return (
            self.model._schema.stored_schema() if self.kinds is None else self.kinds.bson_schema()
        )

    def contents(self) -> Contents:
        return Contents(model=self.model, kinds=self.kinds)

    def fields_inside(self) -> Mapping[str, Field[Any, Any]] | None:
        return self.model._schema.fields if self.kinds is None else self.kinds.fields()

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            if record is None:
                return self._on_class()
            state = record.__dict__
            try:
                value = state[self.name]
            except KeyError:
                return record._absent(self)
            if type(value) is dict and not (REFUSED and is_refused(record, self.name)):
                value = state[self.name] = self._adopt(value)
                if self._has_relations:
                    record._inside(self, value)
            return value

    def is_decoded(self, value: Any) -> bool:
        return type(value) is not dict

    def encode(self, value: Any) -> Any:
        return value._stored() if isinstance(value, self.model) else value

    def decode(self, value: Any) -> Any:
        return self._adopt(value) if type(value) is dict else value

    def decode_each(self, values: list[Any]) -> list[Any]:
        adopt = self._adopt  # ``decode`` without a call of it
        return [adopt(value) if type(value) is dict else value for value in values]

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, self.model):
            value._refuse_part()
            return self.encode(value)
        raise ValueError(
            f"{self.name} is compared with a {self.model.__name__}, or by the path of one of its "
            f"fields ('{self.name}.…'), not with {type(value).__name__}"
        )


def _placed(
    error: ValidationError, items: Iterable[tuple[Any, Any]], convert: Callable[[Any], Any]
) -> ValidationError:
    """Return the error for a link to a record that is not stored, with its place in a container."""
    for place, item in items:
        try:
            convert(item)
        except ValidationError as own:
            return ValidationError(own.subject, located(own.errors(), place))
    return error


def _are_objects(item: Any) -> bool:
    """Return whether the items of such a field are embedded objects, or contain some."""
    return isinstance(item, Embedded) or (item is not None and item.holds_objects)


def always_set(item: Field[Any, Any]) -> dict[str, Any]:
    """Return the schema of an item, which, unlike a field, is never null."""
    return item.stored_schema(nullable=False)


def item_field(owner: Field[Any, Any], item: Any, what: str = "item") -> Any:
    """Return the field of a container's items after checking it.

    Args:
        owner: The container.
        item: The field of its items, or None.
        what: The word for what it describes: an item, a value or a key.

    Raises:
        TypeError: It is not a field, one that only a record can have, or one with an option that
            an item cannot have.
    """
    if item is None:
        return None
    name = type(owner).__name__
    if not isinstance(item, Field):
        raise TypeError(f"{name}() takes a field, e.g. {name}(String()), not {item!r}")
    check_item(owner, item, what)
    return item
