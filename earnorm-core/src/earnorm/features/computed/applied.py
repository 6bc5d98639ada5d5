"""Applies an update to a stored document in memory, as far as the server's result is sure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earnorm.kernel.known_values import UnknownResult, changed
from earnorm.kernel.operations import Update


def applied(
    document: Mapping[str, Any], update: Update, *, has_collation: bool = False
) -> dict[str, Any] | None:
    """Return a stored document as it is after an update; None if only the server can tell.

    Args:
        document: The document, which stays as it is; it has the keys that the update changes.
        update: The update.
        has_collation: True if the collection compares texts in a way of its own.
    """
    if update.items:
        return None
    result: Any = dict(document)
    try:
        for operator, spec in update.operators.items():
            for path, operand in spec.items():
                result = changed(
                    result, path.split("."), operator, operand, has_collation=has_collation
                )
    except UnknownResult:
        return None
    return dict(result)
