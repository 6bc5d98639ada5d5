"""Keeps stored computed fields up to date in every create, write and delete.

The rest of the feature is loaded with the first model that has a computed field.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from earnorm.features.computed.limits import INTERVAL, LIMIT, check_limit
from earnorm.kernel.contract.left_out import left_out_error
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.life.settings import check_time
from earnorm.kernel.steps import Stage, Step

if TYPE_CHECKING:
    from earnorm.features.computed.dependencies import Dependencies, Graph
    from earnorm.features.computed.owed.worker import Worker
    from earnorm.kernel.app import App
    from earnorm.kernel.document_steps import DocumentBatch
    from earnorm.kernel.layers import Middleware
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm.recompute")


class RecomputePlugin:
    """Keeps stored computed fields up to date."""

    api = API
    name = "recompute"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the model's first computed field."""
        return next(
            (f"the field {f.name!r}" for f in model.fields.values() if f.computed is not None), None
        )

    def __init__(
        self, *, recompute_limit: int | None = LIMIT, recompute_interval: float | None = INTERVAL
    ) -> None:
        check_limit(recompute_limit)
        check_time("recompute_interval", recompute_interval)
        self._limit, self._interval = recompute_limit, recompute_interval
        self._app: App | None = None
        self._is_used = False
        """A model of the App has a computed field."""
        self._dependencies: Dependencies | None = None
        self._running: App | None = None
        self._worker: Worker | None = None

    def graph(self) -> Graph:
        """Return the computed fields of the App's models; see :class:`Dependencies`."""
        if self._dependencies is None:
            from earnorm.features.computed.dependencies import Dependencies

            assert self._app is not None  # the models are known before the first operation
            self._dependencies = Dependencies(self._app, self._limit)
        return self._dependencies.graph()

    def _depends(self) -> bool:
        return self._dependencies is not None and self._dependencies.is_needed

    @hookimpl
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """Make the steps again if a model is defined later: steps depend on other models.

        The model of what is owed is there with the first one that stores a computed field, so that
        its collection is prepared before a transaction begins.
        """
        found = list(models if app.is_started else app.usable_models())
        if any(map(_stores, found)):
            from earnorm.features.computed.owed.documents import make_model

            make_model()
        computes = any(map(_computes, found))
        if not app.is_started:
            self._app, self._dependencies, self._is_used = app, None, computes
        elif computes or self._depends():
            self._is_used = True
            app.recompose()

    @hookimpl
    def model_forgotten(self, app: App) -> None:
        """Drop the graph, which holds the models; the next use makes it anew."""
        self._dependencies = None

    @hookimpl
    def startup(self, app: App) -> None:
        """Refuse circles and unknown paths, before the first operation, and look for what is owed."""
        self._running = app
        if self._is_used:
            graph = self.graph()
            _tell_urgent(app, graph)
            worker = self.worker
            if any(graph.stored) and worker is not None:
                worker.start()

    @hookimpl
    async def shutdown(self) -> None:
        """Hand back what this App works off."""
        worker, self._worker, self._running = self._worker, None, None
        if worker is not None:
            await worker.stop()

    @hookimpl
    async def health(self) -> Mapping[str, object]:
        """Return what is owed, and for how long."""
        worker = self.worker
        if worker is None or not any(self.graph().stored):
            return {"status": "ok"}
        return await worker.health()

    @property
    def worker(self) -> Worker | None:
        """The worker on owed recomputes; None while the App is stopped."""
        if self._worker is None and self._running is not None:
            from earnorm.features.computed.owed.worker import Worker

            self._worker = Worker(self._running, self.graph, self._interval)
        return self._worker

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the steps, for models with computed fields or on which a stored one depends."""
        if model.bookkeeping == self.name:
            return [Step(Stage.DURABLE, "owed", self._wake, on="create")]
        if not self._is_used:
            return ()
        from earnorm.features.computed.following import steps_of

        return steps_of(app.bind(model.cls), self.graph())

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layers for deletions, for models on which a stored computed field depends."""
        if operation != "unlink" or not self._is_used:
            return ()
        from earnorm.features.computed.following import layers_of_deletions

        return layers_of_deletions(app.bind(model), self.graph())

    def _wake(self, batch: DocumentBatch) -> None:
        worker = self.worker
        if worker is not None:
            worker.wake()


def _tell_urgent(app: App, graph: Graph) -> None:
    """Say which fields are never owed for a reason that is not their own declaration."""
    from earnorm.features.computed.owed.urgent import recompute_of

    for (model, name), reason in graph.urgent.items():
        if recompute_of(graph.nodes[model, name]) != "now":
            log.info("App %s: %s.%s is never owed: %s", app.name, model, name, reason)


def _computes(model: type[BaseModel]) -> bool:
    return any(field.computed is not None for field in model._schema.fields.values())


def _stores(model: type[BaseModel]) -> bool:
    """Return whether a model stores a computed field."""
    return any(f.computed is not None and f.stored for f in model._schema.fields.values())


def graph_of(app: App) -> Graph:
    """Return the computed fields of an App's models.

    Raises:
        ConfigurationError: The App leaves the feature out.
    """
    return _plugin_of(app, "recompute()").graph()


def worker_of(app: App) -> Worker | None:
    """Return the worker on an App's owed recomputes; None while the App is stopped.

    Raises:
        ConfigurationError: The App leaves the feature out.
    """
    return _plugin_of(app, "settled()").worker


def _plugin_of(app: App, asked: str) -> RecomputePlugin:
    plugin = app.loaded.of_type(RecomputePlugin)
    if plugin is None:
        raise left_out_error(asked, "feature", "recompute", app.name)
    return plugin
