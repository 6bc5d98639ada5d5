"""Vector: an embedding, a list of numbers of a fixed length."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Unpack

import pydantic
from bson.binary import VECTOR_SUBTYPE, Binary, BinaryVectorDtype

from earnorm.fields.base import FieldOptions, MutableField, N, Validator

_LARGEST_FLOAT32 = 3.4028234663852886e38


def _listed(value: Any) -> Any:
    """Convert an array of numpy, torch or a similar library to a list."""
    to_list = getattr(value, "tolist", None)
    return value if to_list is None else to_list()


def _as_float32(value: list[float]) -> list[float]:
    return array("f", value).tolist()


class Vector(MutableField[list[float], N]):
    """A list of finite numbers of a fixed length, such as an embedding.

    It is stored as an array of doubles, which keeps the numbers exactly and which every server,
    stage and tool can read. ``packed=True`` stores float32 numbers in a BSON vector (binary,
    subtype 9), which takes a third of the space and which vector search accepts too. Values are
    then rounded to float32 when they are set, so that the saved value is the one that is read.

    Args:
        dimensions: The number of numbers in the list.
        packed: Store as a binary vector of float32.
    """

    dimensions: int
    packed: bool

    def __init__(
        self,
        dimensions: int,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: list[float] | Callable[[], list[float]] | None = None,
        validators: Iterable[Validator[list[float]]] = (),
        packed: bool = False,
        **options: Unpack[FieldOptions],
    ) -> None:
        if type(dimensions) is not int or dimensions < 1:
            raise ValueError(f"dimensions is a whole number from 1, not {dimensions!r}")
        self._bind(required, default, None, validators, options)
        if self.unique and not packed:
            raise TypeError(
                "Vector(unique=True): the index of an array compares single numbers, not the vector; "
                "packed=True can be unique"
            )
        self.dimensions = dimensions
        self.packed = packed

    def annotation(self) -> Any:
        largest = _LARGEST_FLOAT32 if self.packed else None
        low = None if largest is None else -largest
        number: Any = Annotated[float, pydantic.Field(allow_inf_nan=False, ge=low, le=largest)]
        parts: list[Any] = [
            list.__class_getitem__(number),
            pydantic.Field(min_length=self.dimensions, max_length=self.dimensions),
            pydantic.BeforeValidator(_listed),
        ]
        if self.packed:
            parts.append(pydantic.AfterValidator(_as_float32))
        return Annotated[tuple(parts)]

    def bson_schema(self) -> Mapping[str, Any]:
        if self.packed:
            return {"bsonType": "binData"}
        length = self.dimensions
        return {
            "bsonType": "array",
            "minItems": length,
            "maxItems": length,
            "items": {"bsonType": "double"},
        }

    def encode(self, value: Any) -> Any:
        if self.packed and type(value) is list:
            try:
                return Binary.from_vector(value, BinaryVectorDtype.FLOAT32)
            except (struct.error, OverflowError):  # another program stored other items
                return value
        return value

    def decode(self, value: Any) -> Any:
        if isinstance(value, Binary) and value.subtype == VECTOR_SUBTYPE:
            try:
                return list(value.as_vector().data)
            except (ValueError, struct.error):  # stored by another program
                return value
        return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        numbers = _listed(value)
        if not isinstance(numbers, list | tuple) or len(numbers) != self.dimensions:
            raise ValueError(f"{self.name} is compared with a list of {self.dimensions} numbers")
        if not all(isinstance(n, int | float) and type(n) is not bool for n in numbers):
            raise ValueError(f"{self.name} is compared with a list of numbers only")
        return self.encode(_as_float32(list(numbers)) if self.packed else list(map(float, numbers)))
