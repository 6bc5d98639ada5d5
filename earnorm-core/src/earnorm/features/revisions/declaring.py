"""The field with the revision of a versioned model's records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from earnorm.fields.numeric import Int

if TYPE_CHECKING:
    from earnorm.model.declaring import Declaration

REVISION: Final = "_revision"


def add_revision(declaration: Declaration) -> None:
    """Add the field ``_revision`` for ``_versioned = True``.

    Raises:
        TypeError: An extension makes a model versioned that is not; other Apps also write its
            records.
    """
    base = declaration.base
    if base is not None and not base._versioned:
        declaration.refuse("an extension cannot make a model versioned")
    if REVISION not in declaration.fields:
        revision: Int[Any] = Int(default=0, readonly=True, copy=False)
        revision.internal = True
        declaration.add_field(REVISION, revision)
