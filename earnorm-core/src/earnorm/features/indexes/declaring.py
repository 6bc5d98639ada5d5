"""What a class body says of its collection: indexes are those of all bases, rules are checked as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from earnorm.model.declaring import Declaration

Strictness: TypeAlias = Literal["strict", "warn"]
ACTIONS: Final[Mapping[Strictness, Literal["error", "warn"]]] = {"strict": "error", "warn": "warn"}


def merge(declaration: Declaration) -> None:
    """Let ``_indexes`` have those of the class and of all its bases, those of a base first."""
    model = declaration.model
    if len(model.__bases__) == 1 and "_indexes" not in declaration.body:
        return  # it has its base's
    merged: list[Any] = []
    for ancestor in reversed(model.__mro__):
        entries = vars(ancestor).get("_indexes", ())
        if not isinstance(entries, list | tuple):
            return  # malformed: whoever reads it says so
        merged += [e for e in entries if not any(e is known for known in merged)]
    model._indexes = merged


def refuse_unknown(declaration: Declaration) -> None:
    """Look at ``_validation`` where it is written.

    Raises:
        TypeError: It is neither ``"strict"`` nor ``"warn"`` nor None.
    """
    if declaration.value not in ACTIONS:
        raise TypeError(
            f'{declaration.model.__name__}._validation is "strict", "warn" or None, '
            f"not {declaration.value!r}"
        )
