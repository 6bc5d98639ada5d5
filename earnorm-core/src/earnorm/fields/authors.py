"""Author: the acting principal, as a field that a document step fills in (``features/authors``)."""

from __future__ import annotations

from typing import Literal, Unpack

from earnorm.fields.base import FieldOptions
from earnorm.fields.text import String


class Author(String[Literal[False]]):
    """The id of the principal who created the record, or wrote it last; None without a principal.

    A given value must be the acting principal's own id; under ``earnorm.system`` any id may be
    given.

    Args:
        on_write: Every write sets it, not only the creation.
    """

    on_write: bool

    def __init__(self, *, on_write: bool = False, **options: Unpack[FieldOptions]) -> None:
        super().__init__(**options)
        self.on_write = on_write
