"""The models as one App sees them: which are its own, who brings them, and their classes with all extensions.

The definitions of the whole process lie in ``registry``; here is what one App's plugins make of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError, nearest
from earnorm.kernel import registry
from earnorm.kernel.binding import BoundModel
from earnorm.kernel.plugins import CORE_DISTRIBUTION, PluginInfo, installed
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm")


@dataclass(frozen=True, slots=True)
class Extension:
    """A class that a plugin adds to a model.

    Attributes:
        plugin: The plugin's name.
        model: The class with ``_inherit``.
    """

    plugin: str
    model: type[BaseModel]

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} ({self.model.__module__}.{self.model.__qualname__})"


class Catalog:
    """The models of one App.

    Attributes:
        bound: Each class that was used, with its BoundModel.
        brought: Each class that a plugin brings, with the plugin's name.
        extensions: The classes that plugins add to models, by the name of the model.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.bound: dict[type[BaseModel], BoundModel] = {}
        self.brought: dict[type[BaseModel], str] = {}
        self.extensions: dict[str, list[Extension]] = {}
        self._by_name: dict[str, type[BaseModel]] = {}
        self._effective: dict[type[BaseModel], type[BaseModel]] = {}
        self._plugin_packages = {point.module.partition(".")[0] for point in installed().values()}
        self._prepared = -1
        registry.listen(self._defined)

    # -- what plugins bring -------------------------------------------------------------------

    def open(self) -> None:
        """Let the plugins register their models, and tell them which models there are.

        Raises:
            PluginError: Two models or extensions clash.
            ConfigurationError: A plugin refuses a model, e.g. for a relation that leads nowhere.
        """
        for plugin, models in self._app.loaded.collect("register_models", app=self._app):
            for model in models or ():
                self._register(model, plugin)
        for target in self.extensions:
            base = self.find(target)
            if base is None:
                log.info("a plugin extends the model %r, which nobody has defined yet", target)
            else:
                self.extended(base)  # what clashes stops the start
        self._app.loaded.collect("models_changed", app=self._app, models=self.known())

    def _register(self, model: type[BaseModel], plugin: str) -> None:
        other = self.brought.setdefault(model, plugin)
        if model._inherit is not None:
            self.extensions.setdefault(model._inherit, []).append(Extension(plugin, model))
            return
        first = self._by_name.setdefault(model._name, model)
        if first is not model or other != plugin:
            raise PluginError(
                f"plugins {self.brought[first]!r} and {plugin!r} both bring a model named "
                f"{model._name!r}; give one another _name, or extend it with _inherit"
            )

    def close(self) -> None:
        """Forget the models, as when the App stops."""
        self._prepared = -1
        for known in (self.bound, self._by_name, self.extensions, self._effective, self.brought):
            known.clear()

    @contextmanager
    def described(self) -> Iterator[None]:
        """Inside the block models can be looked at though the App is not started."""
        self.open()
        try:
            yield
        finally:
            self.close()

    def _defined(self, model: type[BaseModel]) -> None:
        """Tell the plugins of a running App that a model was defined."""
        if self._app.is_started and self._is_own(model._name, model):
            self._app.loaded.collect("models_changed", app=self._app, models=[model])

    # -- classes ------------------------------------------------------------------------------

    def definitions(self) -> Mapping[str, type[BaseModel]]:
        """Every model that is defined in the process by its name, those of the App's plugins first."""
        return {**registry.definitions(), **self._by_name}

    def _is_own(self, name: str, model: type[BaseModel]) -> bool:
        # The models of a plugin that this App did not select are none of its own.
        return not model._abstract and (
            name in self._by_name or model.__module__.partition(".")[0] not in self._plugin_packages
        )

    def known(self) -> list[type[BaseModel]]:
        """The models that are the App's own: all but those of plugins that it did not select."""
        return [m for name, m in self.definitions().items() if self._is_own(name, m)]

    def find(self, name: str) -> type[BaseModel] | None:
        """The definition of a model by its name, or None."""
        return self._by_name.get(name) or registry.definitions().get(name)

    def named(self, name: str) -> type[BaseModel]:
        """The definition of a model by its name.

        Raises:
            ConfigurationError: No such model.
        """
        found = self.find(name)
        if found is None:
            known = {*self._by_name, *registry.definitions()}
            raise ConfigurationError(f"no model is named {name!r}{nearest(name, known)}")
        return found

    def extended(self, base: type[BaseModel]) -> type[BaseModel]:
        """The model's class with the extensions that the App's plugins bring.

        Raises:
            PluginError: Two of them clash.
        """
        found = self._effective.get(base)
        if found is None:
            found = self._effective[base] = base._in_app(
                self.extensions.get(base._name, ()), self._app.attributes
            )
        return found

    def usable(self) -> Iterator[type[BaseModel]]:
        """The App's classes of its own models, but of those that cannot be used: they say so when they are."""
        for model in self.known():
            try:
                yield self.extended(model)
            except EarnORMError:
                continue

    def origins(self) -> Origins:
        """Whose class a class is."""
        return Origins({info.name: info for info in self._app.loaded.infos}, self.brought)

    # -- bound models -------------------------------------------------------------------------

    def bind(self, model: type[BaseModel]) -> BoundModel:
        """Make the BoundModel of a model that was not used yet.

        Raises:
            ConfigurationError: The model is abstract, or no part of this App.
        """
        if model._inherit is not None:
            return self._bind_extension(model, model._inherit)
        base = model._base or model
        if base._abstract:
            raise ConfigurationError(f"{base.__name__} is abstract; use a model that inherits it")
        effective = self.extended(base)
        view = ModelView(effective)
        for plugin in self._app.loaded.left_out:
            plugin.refuse(view, self._app.name)
        bound = BoundModel(self._app.env.app, effective)
        names = {base, effective, model}
        self.bound |= dict.fromkeys(names, bound)
        try:
            self._app.loaded.collect("model_registered", app=self._app, model=effective)
        except BaseException:
            for name in names:  # a model that a plugin refuses is refused again next time
                del self.bound[name]
            raise
        return bound

    def _bind_extension(self, model: type[BaseModel], target: str) -> BoundModel:
        """Let an extension stand for the model that it is a part of, in the Apps that have it."""
        if model not in self.brought:
            raise ConfigurationError(
                f"{model.__name__} extends {target!r}, and no plugin of App {self._app.name!r} brings "
                f"it; use the model itself (app.model({target!r}))"
            )
        bound = self.bound[model] = self._app.bind(self._app.model(target))
        return bound

    def recompose(self) -> None:
        """Let every model ask the plugins for their layers again."""
        for bound in self.bound.values():
            bound.recompose()

    async def prepare(self) -> None:
        """Create the declared indexes of every model defined so far; done once per model."""
        version = registry.version()
        if self._prepared == version:
            return
        for model in self.known():
            if model not in self.bound or not self.bound[model].is_prepared:
                try:
                    bound = self._app.bind(model)
                except EarnORMError:
                    continue  # a model that cannot be used here says so when it is used
                await bound.prepare()
        # Nothing to look through again, at each transaction, until another model is defined.
        self._prepared = version


class Origins:
    """Tells in one App which plugin or package a class is of."""

    def __init__(
        self, plugins: Mapping[str, PluginInfo], brought: Mapping[type[BaseModel], str]
    ) -> None:
        self._plugins = plugins
        self._brought = brought

    def of(self, cls: type) -> str:
        """A distribution with its version and the plugin, or the package of the class."""
        plugin = self._brought.get(cls)
        if plugin is None:
            package = cls.__module__.partition(".")[0]
            return CORE_DISTRIBUTION if package == "earnorm" else package
        info = self._plugins.get(plugin)
        if info is None or not info.distribution:
            return f"plugin {plugin}"
        return f"{info.distribution} {info.version} (plugin {plugin})"
