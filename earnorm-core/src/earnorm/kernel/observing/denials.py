"""Tells plugins of a refused operation, with the reason that was noted beside its error."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from earnorm.exceptions import AccessDenied, EarnORMError
from earnorm.kernel.observing.event_hooks import Observer
from earnorm.kernel.observing.verdicts import Verdict, verdict_of, without_secrets
from earnorm.kernel.operations import JUDGED, Operation
from earnorm.kernel.plugins.loading import settled

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

_told: Final[WeakSet[AccessDenied]] = WeakSet()
"""The refusals that plugins have been told of."""

log = logging.getLogger("earnorm")


async def announce_denial(
    bound: BoundModel, op: Operation, error: AccessDenied, observers: Sequence[Observer]
) -> None:
    """Call the hook ``access_denied``.

    Args:
        bound: The model of the operation.
        op: The refused operation. One that is a part of another is announced with the whole.
        error: The refusal.
        observers: The implementations of the hook.
    """
    if op.note(JUDGED):
        return
    _told.add(error)
    verdict = verdict_of(error)
    why = None if verdict is None else _shown(bound, verdict)
    for plugin, observe in observers:
        try:
            await settled(observe(op=op, error=error, why=why), plugin, "access_denied")
        except Exception:  # it must not replace the refusal
            log.exception("plugin %r failed in its hook access_denied", plugin)


async def announce_refusal(op: Operation, error: AccessDenied) -> None:
    """Call the hook ``access_denied`` for a refusal that comes before the operation is executed.

    Args:
        op: The operation as far as it is known.
        error: The refusal. One that has been told already is not told again.
    """
    observers = op.app.denial_observers
    if observers and error not in _told:
        await announce_denial(op.app.bind(op.model), op, error, observers)


def _shown(bound: BoundModel, verdict: Verdict) -> Verdict:
    """Return a verdict with the filter of its domain, and without secret values."""
    if verdict.domain is not None and verdict.filter is None:
        with suppress(EarnORMError):  # a condition that only a search can answer
            verdict = replace(verdict, filter=bound.filter(verdict.domain))
    return without_secrets(bound, verdict)
