"""File: content of any size in GridFS, with its description in the record's document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Unpack

import pydantic
from pydantic_core import PydanticCustomError

from earnorm.fields.base import CommonOptions, ConvertingField, Field
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.numeric import Int
from earnorm.fields.temporal import DateTime
from earnorm.fields.text import String

if TYPE_CHECKING:
    from earnorm.features.files.stored import StoredFile
    from earnorm.fields.expressions import FieldPath

_HOW_TO_WRITE = "use 'await record.{name}.write(...)' or '.delete()'"


def _refuse(value: object) -> Any:
    raise PydanticCustomError(
        "file", "a file is no plain value; " + _HOW_TO_WRITE.format(name="field")
    )


class File(ConvertingField["StoredFile", Literal[True]]):
    """A file, or none yet: its content in GridFS, its description in the record.

    Its value is always a :class:`~earnorm.features.files.stored.StoredFile`, which is false if
    there is no file.

    Args:
        content_types: The content types allowed, e.g. ``("image/*", "application/pdf")``. The
            writer states the type; the content itself is not checked.
        max_size: The most bytes allowed.
        bucket: The bucket's name (default: the collection's and the field's, with a dot).
        **options: The options of every field, without ``unique``, ``index`` and ``sparse``.
    """

    assignable: ClassVar[bool] = False
    how_to_write: ClassVar[str] = _HOW_TO_WRITE.format(name="field")
    of_records: bool = True
    computable: ClassVar[bool] = False
    value_type: ClassVar[type[StoredFile]]
    """The class of the value, made of a record and the field; the feature of files sets it."""
    content_types: tuple[str, ...]
    max_size: int | None
    bucket: str

    def __init__(
        self,
        *,
        content_types: Sequence[str] = (),
        max_size: int | None = None,
        bucket: str = "",
        **options: Unpack[CommonOptions],
    ) -> None:
        refused = {"unique", "index", "sparse"} & options.keys()
        if refused:
            raise TypeError(f"File() takes no {min(refused)!r}; index a part of it in _indexes")
        if isinstance(content_types, str):
            raise TypeError('content_types is a sequence: content_types=["image/*"]')
        # A content belongs to one record and is deleted with it, so a copy must not share it.
        self._bind(False, None, None, (), {**options, "copy": False})
        self.content_types = tuple(content_types)
        self.max_size = max_size
        self.bucket = bucket
        self._parts: Mapping[str, Field[Any, Any]] = {
            "_id": ObjectIdField(),
            "length": Int(),
            "content_type": String(),
            "filename": String(),
            "sha256": String(),
            "uploaded_at": DateTime(),
        }

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        for part, field in self._parts.items():
            field.name, field.db_name, field.model_name = f"{name}.{part}", part, owner.__name__

    @property
    def parts(self) -> Mapping[str, Field[Any, Any]]:
        return self._parts

    def annotation(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(_refuse), pydantic.WithJsonSchema(_SCHEMA)]

    def json_type(self) -> Any:
        return Annotated[
            Any,
            pydantic.PlainSerializer(self.to_json, when_used="unless-none"),
            pydantic.WithJsonSchema(_SCHEMA),
        ]

    def to_json(self, value: Any) -> Any:
        return value._json_form() if hasattr(value, "_json_form") else value

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "object", "required": ["_id", "length", "sha256"]}

    def is_decoded(self, value: Any) -> bool:
        return True

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        raise ValueError(
            f"{self.name} is compared with None, or by the path of a part of it: "
            f"{', '.join(f'{self.name}.{part}' for part in self._parts if part != '_id')}"
        )

    if TYPE_CHECKING:
        # Reading the field from the class gives a path into the description; see FieldPath.

        def __getattr__(self, name: str) -> FieldPath: ...

    else:

        def __get__(self, record, owner=None):
            if record is None:
                return self._on_class()
            if self.name not in record.__dict__:
                record._absent(self)  # raises if the field was not fetched
            return self.value_type(record, self)


_SCHEMA: dict[str, Any] = {
    "type": ["object", "null"],
    "readOnly": True,
    "properties": {
        "filename": {"type": ["string", "null"]},
        "content_type": {"type": ["string", "null"]},
        "length": {"type": "integer"},
        "sha256": {"type": "string"},
        "uploaded_at": {"type": "string", "format": "date-time"},
    },
}
