"""Lets a cache that hears what other processes write say at once that roles or policies were edited.

Nobody has to have one: each process asks for the number of edits every half second as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from earnorm import App, BaseModel
from earnorm_security.stored.versions import STATE


@runtime_checkable
class ChangeService(Protocol):
    """The part of the service ``cache`` that is needed, whichever plugin offers it."""

    def on_change(
        self, model: type[BaseModel], callback: Callable[[Any], object]
    ) -> Callable[[], None]:
        """Call a function whenever records of a model were written, in any process."""
        ...


def hear_edits(app: App, forget: Callable[[], None]) -> None:
    """Call a function at each edit that the cache of this App hears of.

    Args:
        app: The App, which is about to start.
        forget: Lets the next operation read anew.
    """
    service = dict(app.services).get("cache")
    if isinstance(service, ChangeService):
        service.on_change(app.model(STATE), lambda ids: forget())
