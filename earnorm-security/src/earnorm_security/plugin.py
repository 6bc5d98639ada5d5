"""The plugin: it checks each model's declarations when the App first uses it, and makes the
layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, cast

import pydantic

from earnorm import App, BaseModel, ConfigurationError, Env
from earnorm.plugin import (
    Layer,
    Middleware,
    ModelView,
    OperationName,
    Stage,
    Step,
    hookimpl,
    name_of,
)
from earnorm_security.declarations import RIGHTS, Right
from earnorm_security.enforcement import layer_for
from earnorm_security.judging import judge
from earnorm_security.policy import RIGHT_OF, Policy

_RIGHTS: Final[Mapping[str, Right]] = {**RIGHT_OF, **{right: right for right in RIGHTS}}


class SecuritySettings(pydantic.BaseModel):
    """``init(..., security={...})``.

    Attributes:
        default: The rights on a model without ``_access``: ``"open"`` grants everything to
            everybody, ``"closed"`` grants nothing to anybody but ``earnorm.system``.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    default: Literal["open", "closed"] = "open"


class Security:
    """The service ``app.services["security"]``: tells what a principal may do, without doing it."""

    def __init__(self, app: App, settings: SecuritySettings) -> None:
        self._app = app
        self._default_open = settings.default == "open"
        self._policies: dict[type[BaseModel], Policy] = {}

    def can(self, env: Env, model: type[BaseModel] | str, operation: str) -> bool:
        """Return whether the principal may do this with some record of the model, judged by roles.

        The rules decide which records, so an operation may still find or change none.

        Args:
            env: The Env of the principal; ``earnorm.current_env()`` is the acting one.
            model: A model's class or name.
            operation: A right (read, write, create, unlink) or an operation (search, count …).

        Raises:
            ConfigurationError: There is no such operation.
        """
        right = _RIGHTS.get(operation)
        if right is None:
            known = ", ".join(sorted(_RIGHTS))
            raise ConfigurationError(f"no operation {operation!r}; known: {known}")
        name = model if isinstance(model, str) else name_of(model)
        return self.policy(self._app.model(name)).can(env, right)

    def policy(self, model: type[BaseModel]) -> Policy:
        """Return the checked declarations of a model in this App."""
        policy = self._policies.get(model)
        if policy is None:
            policy = self._policies[model] = Policy(
                self._app, model, self._default_open, self.policy
            )
        return policy

    def forget(self, model: type[BaseModel]) -> None:
        """Drop what is kept of a model and of the classes made of it."""
        for cls in [cls for cls in self._policies if issubclass(cls, model)]:
            del self._policies[cls]


class SecurityPlugin:
    """Rights on models and rules on records.

    ``Layer.SECURITY`` enforces them on every operation, and ``Stage.JUDGE`` on the final values.

    Args:
        settings: See :class:`SecuritySettings`.
    """

    api = 1

    def __init__(self, settings: SecuritySettings | None = None) -> None:
        self._settings = settings or SecuritySettings()

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        """Return the model of the settings."""
        return SecuritySettings

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Offer ``app.services["security"]``."""
        # Each start makes a new service, because a restarted App may have other extensions. The App
        # holds it, since several Apps may share one plugin instance.
        return {"security": Security(app, self._settings)}

    @hookimpl
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        """Check the model's declarations, so that a mistake in them stops the start."""
        _service_of(app).policy(model)

    @hookimpl
    def model_forgotten(self, app: App, model: type[BaseModel]) -> None:
        """Drop the policies of a model."""
        _service_of(app).forget(model)

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return a layer for the operation; none if the model allows everything to everybody."""
        policy = _service_of(app).policy(model)
        return () if policy.is_void else ((Layer.SECURITY, layer_for(policy, operation)),)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the step that judges final values, for a model with rules."""
        policy = _service_of(app).policy(model.cls)
        return (Step(Stage.JUDGE, "security", judge),) if policy.has_rules else ()


def _service_of(app: App) -> Security:
    return cast("Security", app.services["security"])
