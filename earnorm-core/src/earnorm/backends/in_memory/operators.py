"""The table of all operators of expressions."""

from __future__ import annotations

from earnorm.backends.in_memory import (
    array_operators,
    conversions,
    date_operators,
    general_operators,
    text_operators,
)
from earnorm.backends.in_memory.expressions import OPERATORS


def load() -> None:
    """Fill the table that ``expression`` looks operators up in; a second call changes nothing."""
    for module in (general_operators, array_operators, text_operators, date_operators, conversions):
        OPERATORS.update(module.OPERATORS)
