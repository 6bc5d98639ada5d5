"""Enum: one member of a Python enum class. (A list of fixed texts is a Selection, in ``text``.)"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, Unpack

from earnorm.fields.base import ConvertingField, FieldOptions, N, Validator

M = TypeVar("M", bound=enum.Enum)

_STORABLE = (str, int, float, bool)


class Enum(ConvertingField[M, N], Generic[M, N]):
    """A member of a Python enum, stored as its value; the value is accepted too, and converted.

    A stored value that is not, or no longer, a member is read as it is, so that old documents can
    be found and repaired.

    Args:
        members: The enum class; its values are texts or numbers.
    """

    lossy = True
    enum: type[M]

    def __init__(
        self,
        members: type[M],
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: M | Callable[[], M] | None = None,
        validators: Iterable[Validator[M]] = (),
        **options: Unpack[FieldOptions],
    ) -> None:
        if not (isinstance(members, type) and issubclass(members, enum.Enum)):
            raise TypeError("Enum() takes an enum class, e.g. Enum(Color)")
        unstorable = [m.name for m in members if not isinstance(m.value, _STORABLE)]
        if unstorable:
            raise TypeError(
                f"{members.__name__}.{unstorable[0]}: its value is no text and no number"
            )
        self._bind(required, default, None, validators, options)
        self.enum = members
        self._types = {type(member.value) for member in members}
        self.identifies = self._types == {str}  # the text of an id is no number

    def annotation(self) -> Any:
        return self.enum

    def bson_schema(self) -> Mapping[str, Any]:
        kind: Any = self.enum  # mypy doesn't know that an enum class behind a TypeVar is iterable
        return {"enum": [member.value for member in kind]}

    def is_decoded(self, value: Any) -> bool:
        return type(value) is self.enum

    def encode(self, value: Any) -> Any:
        return value.value if isinstance(value, self.enum) else value

    def decode(self, value: Any) -> Any:
        try:
            return self.enum(value)
        except ValueError:
            return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, self.enum):
            return value.value
        if isinstance(value, enum.Enum) or type(value) not in self._types:
            raise ValueError(
                f"{self.name} is compared with a member of {self.enum.__name__} or its value, "
                f"not {type(value).__name__}"
            )
        return value
