"""The plugin's class: each hook names a part of it, which has a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from earnorm import ConfigurationError
from earnorm.plugin import Stage, Step, hookimpl

from earnorm_slugs.commands import fill
from earnorm_slugs.fields import AutoSlug
from earnorm_slugs.layers import RETRY, RetryLayer
from earnorm_slugs.models import FormerSlug
from earnorm_slugs.services import Slugs, fields_of
from earnorm_slugs.settings import SlugsSettings
from earnorm_slugs.steps import FillSlugs

if TYPE_CHECKING:
    from earnorm import Field
    from earnorm.models import BaseModel
    from earnorm.plugin import Middleware, ModelView, OperationName


class SlugsPlugin:
    """Makes slugs for records, finds records by them, and remembers the ones that they had."""

    api = 1
    name = "slugs"

    def __init__(self, settings: SlugsSettings) -> None:
        self.given = settings

    @staticmethod
    @hookimpl
    def settings() -> type[SlugsSettings]:
        """Return the model of the settings."""
        return SlugsSettings

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the field that stays empty without the plugin."""
        return next((f"the field {field.name!r}" for field in fields_of(model)), None)

    @hookimpl
    def register_fields(self) -> Mapping[str, type[Field[Any, Any]]]:
        """Return the field type."""
        return {"AutoSlug": AutoSlug}

    @hookimpl
    def register_models(self) -> Iterable[type[BaseModel]]:
        """Return the model of former slugs."""
        return [FormerSlug]

    @hookimpl
    def register_services(self) -> Mapping[str, object]:
        """Return the service."""
        return {"slugs": Slugs(self.given)}

    @staticmethod
    @hookimpl
    def register_commands() -> Mapping[str, Callable[..., object]]:
        """Return the command."""
        return {"slugs-fill": fill}

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        """Return the step that fills slugs in, for models that have any."""
        fields = fields_of(model)
        for field in fields:
            if field.source not in model.fields:
                raise ConfigurationError(
                    f"{model.name}: {field.name} = AutoSlug(source={field.source!r}), and the model "
                    f"has no such field"
                )
        if fields:
            yield Step(Stage.STAMP, "slugs", FillSlugs(fields, self.given), on="create")

    @hookimpl
    def wrap_operation(
        self, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layer around creates of models that have slugs."""
        names = [field.name for field in fields_of(model)]
        if operation == "create" and names:
            return [(RETRY, RetryLayer(names, self.given.tries))]
        return []
