"""Sequence: a number that a document step fills in on creation (``features/sequences``)."""

from __future__ import annotations

import datetime
import string
from typing import Literal, Unpack

from earnorm.fields.base import FieldOptions
from earnorm.fields.text import String

_DATES = ("year", "month", "day")


class Sequence(String[Literal[True]]):
    """A text with a running number, e.g. ``INV-2026-00042``; a value that is given is kept.

    Args:
        format: ``{number}`` with any format, and ``{year}``, ``{month}``, ``{day}`` (in UTC). With
            one of these the numbers begin again at 1 in each year, month or day that the text
            names.
        scope: The name of a field of the model: the records with each of its values are numbered on
            their own, from 1. With ``unique=True`` a number is unique among these records.
        gap_free: No number is left out, even if a record's creation is rolled back. The record must
            be created in a transaction, and such transactions wait for each other.
        sequence: The name of its counter (default: the model's and the field's).
    """

    generated = True
    of_records = True

    def __init__(
        self,
        format: str = "{number}",
        *,
        scope: str = "",
        gap_free: bool = False,
        sequence: str = "",
        **options: Unpack[FieldOptions],
    ) -> None:
        try:
            parsed = [(name, spec) for _, name, spec, _ in string.Formatter().parse(format) if name]
            names = [name for name, _ in parsed]
            format.format(number=1, year=2000, month=1, day=1)
        except (ValueError, LookupError, AttributeError) as error:
            raise ValueError(f"Sequence({format!r}): {error}") from None
        if names.count("number") != 1 or not set(names) <= {"number", *_DATES}:
            raise ValueError(
                f"Sequence({format!r}): a format has {{number}} once, and may have "
                f"{', '.join(f'{{{name}}}' for name in _DATES)}"
            )
        if not isinstance(scope, str):
            raise TypeError(f"Sequence(scope={scope!r}): scope is the name of a field of the model")
        options.setdefault("copy", False)
        super().__init__(required=True, **options)
        self.format = format
        self.scope = scope
        self.gap_free = gap_free
        self.sequence = sequence
        self._dated = [name for name in _DATES if name in names]

    def counter(self, model: str, at: datetime.datetime, scopes: str = "") -> str:
        """Return the name of the counter that numbers a record of this time.

        Args:
            model: The name of the model that counts.
            at: The time.
            scopes: What tells the values of the scopes; see ``counter_name``.
        """
        period = [f"{getattr(at, name):02}" for name in self._dated]
        return ":".join([self.sequence or f"{model}.{self.name}", *period]) + scopes

    def text(self, number: int, at: datetime.datetime) -> str:
        """Return the value with this number."""
        dates = {name: getattr(at, name) for name in self._dated}
        return self.format.format(number=number, **dates)
