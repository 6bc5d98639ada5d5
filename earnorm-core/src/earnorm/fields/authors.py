"""Author: who acted, as a field that a layer fills in (``builtin.authors``)."""

from __future__ import annotations

from typing import Literal, Unpack

from earnorm.fields.base import FieldOptions
from earnorm.fields.text import String


class Author(String[Literal[False]]):
    """The id of the principal who created the record, or who wrote it last; None for nobody in particular.

    A value that somebody gives must be the acting principal's own id; ``earnorm.system`` may give any.

    Args:
        on_write: Every write sets it, not only the creation.
    """

    on_write: bool

    def __init__(self, *, on_write: bool = False, **options: Unpack[FieldOptions]) -> None:
        super().__init__(**options)
        self.on_write = on_write
