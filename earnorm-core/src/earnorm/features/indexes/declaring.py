"""``_indexes`` and ``_validation`` of a class: merges the bases' indexes, checks the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from earnorm.model.declaring import Declaration

Strictness: TypeAlias = Literal["strict", "warn"]
ACTIONS: Final[Mapping[Strictness, Literal["error", "warn"]]] = {"strict": "error", "warn": "warn"}


def merge(declaration: Declaration) -> None:
    """Set ``_indexes`` to the indexes of all bases and then those of the class."""
    model = declaration.model
    if len(model.__bases__) == 1 and "_indexes" not in declaration.body:
        return  # the class inherits those of its only base
    merged: list[Any] = []
    for ancestor in reversed(model.__mro__):
        entries = vars(ancestor).get("_indexes", ())
        if not isinstance(entries, list | tuple):
            return  # the code that reads a malformed value raises the error
        merged += [e for e in entries if not any(e is known for known in merged)]
    model._indexes = merged


def refuse_unknown(declaration: Declaration) -> None:
    """Check the value of ``_validation`` when the class is made.

    Raises:
        TypeError: The value is neither ``"strict"`` nor ``"warn"`` nor None.
    """
    if declaration.value not in ACTIONS:
        raise TypeError(
            f'{declaration.model.__name__}._validation is "strict", "warn" or None, '
            f"not {declaration.value!r}"
        )
