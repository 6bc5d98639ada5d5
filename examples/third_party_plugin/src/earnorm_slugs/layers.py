"""The layer around creates: another process may take a slug between the choice and the store."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from earnorm import DuplicateKey
from earnorm.plugin import Layer

if TYPE_CHECKING:
    from earnorm.plugin import Call, Operation

RETRY = Layer.STEPS - 5
"""Right outside of the steps, which choose again."""


class RetryLayer:
    """Tries the create of one record again whose slug was taken meanwhile.

    Args:
        fields: The names of the fields with slugs.
        tries: How often it is tried.
    """

    def __init__(self, fields: Collection[str], tries: int) -> None:
        self._fields, self._tries = frozenset(fields), tries

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Pass the operation on, a few times if need be."""
        # The error of a transaction ends it, and of several records some may be stored.
        tries = self._tries if op.env.transaction is None and len(op.documents) == 1 else 1
        for _ in range(tries - 1):
            try:
                return await call_next(op)
            except DuplicateKey as error:
                if self._fields.isdisjoint(error.fields):
                    raise
        return await call_next(op)
