"""The preparation of one model in one App: the hook ``prepare_model``, once, while its operations wait.

An operation that the hook itself begins on the model would wait for the hook, which waits for it.
So a preparation knows for which others it waits, and refuses to wait in a circle.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final
from weakref import ref

from earnorm.exceptions import PluginError
from earnorm.kernel.plugins.loading import settled

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView


class Preparation:
    """The preparation of a model's database, done once.

    Args:
        app: The App.
        model: The model.
    """

    __slots__ = ("__weakref__", "_app", "_is_done", "_lock", "_model", "_plugin", "_waits_for")

    def __init__(self, app: App, model: ModelView) -> None:
        self._app, self._model = app, model
        self._lock = asyncio.Lock()
        self._is_done = False
        self._plugin = ""
        self._waits_for: list[Preparation] = []

    async def run(self) -> None:
        """Call the hook of every feature and plugin, or wait until somebody else has done so.

        Raises:
            PluginError: This is called from within the hook, which would wait for itself.
        """
        under_way = _UNDER_WAY.get()
        outer = None if under_way is None else under_way()
        if outer is None or not outer._lock.locked():  # a task that the hook began goes on after it
            await self._run()
            return
        if self._leads_to(outer):
            raise outer._waits_for_itself()
        outer._waits_for.append(self)
        try:
            await self._run()
        finally:
            outer._waits_for.remove(self)

    async def _run(self) -> None:
        async with self._lock:
            if self._is_done:
                return
            token = _UNDER_WAY.set(ref(self))
            try:
                for name, call in self._app.loaded.implementations("prepare_model"):
                    self._plugin = name
                    await settled(call(app=self._app, model=self._model), name, "prepare_model")
            finally:
                _UNDER_WAY.reset(token)
            self._is_done = True

    def _leads_to(self, other: Preparation) -> bool:
        """Return whether this one is another one, or waits for it."""
        return self is other or any(each._leads_to(other) for each in tuple(self._waits_for))

    def _waits_for_itself(self) -> PluginError:
        return PluginError(
            f"plugin {self._plugin!r}: prepare_model(self, app, model) of model {self._model.name!r} begins "
            f"an operation on this model or a transaction, or waits for a model whose hook does: they "
            f"wait until every prepare_model has ended. Make what the database needs by "
            f"app.dangerous_raw(reason), and store or read records in startup(), or at the first "
            f"operation, in a layer"
        ).coded("prepare_waits")


_UNDER_WAY: Final[ContextVar[ref[Preparation] | None]] = ContextVar(
    "earnorm_preparing", default=None
)
"""The preparation whose hook runs, also for the tasks that it begins, which may outlive the model."""
