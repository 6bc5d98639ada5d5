"""A value with several stored forms, as the operand of an equality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from earnorm.domain.values import stored

__all__ = ["OneOf"]


@dataclass(frozen=True, slots=True)
class OneOf:
    """The operand of a value that may be stored in any of several forms.

    A field's ``operand`` returns it where a stored value equals the one of a condition if it is one
    of these forms: ``=`` and ``in`` find each of them, ``!=`` and ``not in`` find none of them. Other
    operators take no such value.

    Raises:
        ValueError: A form is no plain BSON data.
    """

    forms: tuple[Any, ...]

    def __post_init__(self) -> None:
        for form in self.forms:
            stored(form)

    def __repr__(self) -> str:
        return f"<OneOf {len(self.forms)} stored forms>"
