"""Refuses the models and the calls that need what an App leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from earnorm.exceptions import ConfigurationError, PluginError
from earnorm.kernel.environment import find_env

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView


class LeftOut:
    """A plugin that an App leaves out although its class can be imported.

    Args:
        kind: ``"feature"`` or ``"plugin"``.
        name: Its name.
        source: Its class, or an instance.
    """

    def __init__(self, kind: str, name: str, source: object) -> None:
        self.kind, self.name = kind, name
        self._needed_by: Callable[[ModelView], str | None] | None
        self._needed_by = getattr(source, "needed_by", None)

    @property
    def asks(self) -> bool:
        """True if the plugin tells which models need it."""
        return self._needed_by is not None

    def refuse(self, model: ModelView, app: str) -> None:
        """Refuse a model that needs the plugin.

        Raises:
            ConfigurationError: The model needs it.
            PluginError: The plugin's answer is neither a text nor None.
        """
        needing_part: object = self._needed_by(model) if self._needed_by is not None else None
        if needing_part is None:
            return
        if not isinstance(needing_part, str) or not needing_part:
            raise PluginError(
                f"plugin {self.name!r}: its hook needed_by(model) gave {needing_part!r}; it has to give a "
                f"text that says what of the model needs the plugin, or None"
            ).coded("hook_result")
        raise left_out_error(f"{model.name}: {needing_part}", self.kind, self.name, app)


def need_feature(name: str, call: str, app: App | None = None) -> None:
    """Refuse a call whose feature an App leaves out.

    The methods of Model, Query and RecordSet hand over to features in one line each. The function
    of the feature begins with this check, so that a call without the feature pays nothing for it.

    Args:
        name: The feature's name.
        call: The call as its user writes it, e.g. ``"page()"``.
        app: The App; None means the current one. Outside of every App nothing is left out.

    Raises:
        ConfigurationError: The App leaves the feature out.
    """
    if app is None:
        env = find_env()
        if env is None:
            return
        app = env.app
    if name not in app.loaded.available:
        raise left_out_error(call, "feature", name, app.name)


def left_out_error(needing: str, kind: str, name: str, app: str) -> ConfigurationError:
    """Return the error for a model or a call that needs what an App leaves out."""
    return ConfigurationError(
        f"{needing} needs the {kind} {name!r}, which App {app!r} leaves out"
    ).coded("left_out")
