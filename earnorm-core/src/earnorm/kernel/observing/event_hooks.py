"""The layer of the ``before_…`` and ``after_…`` hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import TransactionError
from earnorm.kernel.plugins.loading import settled

if TYPE_CHECKING:
    from earnorm.kernel.operations import Call, Operation

log = logging.getLogger("earnorm")

Observer = tuple[str, Callable[..., Any]]
"""A plugin's name, and its hook."""


class Observation:
    """The layer of the before and after hooks; every way to the database passes it."""

    def __init__(
        self, hooks: tuple[str, str], before: Sequence[Observer], after: Sequence[Observer]
    ) -> None:
        self._hooks, self._before, self._after = hooks, before, after

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        """Call the hooks before and after the operation."""
        if self._before:
            seen = _read_only(op)
            for plugin, observe in self._before:
                told = observe(op=seen)
                if told is not None:  # most observers are no coroutine functions
                    await settled(told, plugin, self._hooks[0])
        result = await call_next(op)
        for plugin, observe in self._after:
            try:
                told = observe(op=op, result=result)
                if told is not None:
                    await settled(told, plugin, self._hooks[1])
            except Exception as error:
                # The write is done, so it is not reported as failed. In a transaction such an error
                # of the database means that the write is not done, and that another try may help.
                is_transient = isinstance(error, TransactionError) and error.transient
                if is_transient and op.env.transaction is not None:
                    raise
                log.exception(
                    "plugin %r failed in its hook %s; the %s of %s is done",
                    plugin,
                    self._hooks[1],
                    op.name,
                    op.model._name,
                )
        return result


def _read_only(op: Operation) -> Operation:
    """Return the operation with documents and changes that an observer cannot change.

    What is changed in them would reach the records in memory or not, by the model's fields.
    """
    values = op.values
    if isinstance(values, list):
        documents: list[Any] = list(map(MappingProxyType, values))
        return replace(op, values=documents)
    if values is None:
        return op
    return op.map_updates(
        lambda update: replace(
            update,
            operators=MappingProxyType(
                {name: MappingProxyType(spec) for name, spec in update.operators.items()}
            ),
        )
    )
