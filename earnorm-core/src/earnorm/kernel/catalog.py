"""The models of one App: its own ones, the plugins that they come from, their extended classes.

``registry`` holds the definitions of the whole process; this module applies one App's plugins.
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
from earnorm.kernel.contract import checked_models
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
        bound: The BoundModel of each class that was used.
        brought: The plugin's name for each class that a plugin registered.
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
        registry.listen(self._report_definition)

    # -- models and extensions of plugins -----------------------------------------------------

    def open(self) -> None:
        """Register the plugins' models, and tell the plugins which models exist.

        Raises:
            PluginError: Two models or extensions clash.
            ConfigurationError: A plugin refuses a model, e.g. for a relation to an unknown model.
        """
        for plugin, models in self._app.loaded.collect("register_models", app=self._app):
            for model in checked_models(plugin, models):
                self._register(model, plugin)
        for target in self.extensions:
            base = self.find(target)
            if base is None:
                log.info("a plugin extends the model %r, which nobody has defined yet", target)
                continue
            for model in (base, *self.known()):
                if target in ModelView(model).names:
                    self.extended(model)  # a clash of extensions stops the start
        for model in self.brought:
            model._schema.check_own_kinds()  # other models are checked when they are used
        self._app.loaded.collect("models_changed", app=self._app, models=self.known())

    def _register(self, model: type[BaseModel], plugin: str) -> None:
        owner = self.brought.setdefault(model, plugin)
        if model._inherit is not None:
            self.extensions.setdefault(model._inherit, []).append(Extension(plugin, model))
            return
        same_name = self._by_name.setdefault(model._name, model)
        if same_name is not model or owner != plugin:
            raise PluginError(
                f"plugins {self.brought[same_name]!r} and {plugin!r} both bring a model named "
                f"{model._name!r}; give one another _name, or extend it with _inherit"
            )

    def close(self) -> None:
        """Forget the models when the App stops."""
        self._prepared = -1
        for table in (self.bound, self._by_name, self.extensions, self._effective, self.brought):
            table.clear()

    @contextmanager
    def described(self) -> Iterator[None]:
        """Register the models inside the block, to read them while the App is stopped."""
        self.open()
        try:
            yield
        finally:
            self.close()

    def _report_definition(self, model: type[BaseModel]) -> None:
        """Tell the plugins of a running App that a model was defined."""
        if self._app.is_started and self._is_own(model._name, model):
            self._app.loaded.collect("models_changed", app=self._app, models=[model])

    # -- classes ------------------------------------------------------------------------------

    def definitions(self) -> Mapping[str, type[BaseModel]]:
        """Return every model of the process by name; plugins' models win over others."""
        return {**registry.definitions(), **self._by_name}

    def _is_own(self, name: str, model: type[BaseModel]) -> bool:
        # A model of a plugin that this App did not select is not the App's own.
        return not model._abstract and (
            name in self._by_name or model.__module__.partition(".")[0] not in self._plugin_packages
        )

    def known(self) -> list[type[BaseModel]]:
        """Return the App's own models: all except those of plugins that it did not select."""
        return [m for name, m in self.definitions().items() if self._is_own(name, m)]

    def find(self, name: str) -> type[BaseModel] | None:
        """Return the definition of a model by its name, or None."""
        return self._by_name.get(name) or registry.definitions().get(name)

    def named(self, name: str) -> type[BaseModel]:
        """Return the definition of a model by its name.

        Raises:
            ConfigurationError: There is no such model.
        """
        model = self.find(name)
        if model is None:
            known = {*self._by_name, *registry.definitions()}
            raise ConfigurationError(f"no model is named {name!r}{nearest(name, known)}")
        return model

    def extended(self, base: type[BaseModel]) -> type[BaseModel]:
        """Return the model's class with the extensions of the App's plugins.

        Raises:
            PluginError: Two of them clash.
        """
        effective = self._effective.get(base)
        if effective is None:
            # A record of several names has the extensions of each, its own in effect first.
            names = ModelView(base).names or [base._name]
            extensions = [e for name in reversed(names) for e in self.extensions.get(name, ())]
            effective = self._effective[base] = base._in_app(extensions, self._app.attributes)
        return effective

    def usable(self) -> Iterator[type[BaseModel]]:
        """Yield the App's classes of its own models, except those that raise an error when used."""
        for model in self.known():
            try:
                yield self.extended(model)
            except EarnORMError:
                continue

    def origins(self) -> Origins:
        """Return the table that tells which plugin or package a class comes from."""
        return Origins({info.name: info for info in self._app.loaded.infos}, self.brought)

    # -- bound models -------------------------------------------------------------------------

    def bind(self, model: type[BaseModel]) -> BoundModel:
        """Make the BoundModel of a model that has none yet.

        Raises:
            ConfigurationError: The model is abstract, or not a part of this App.
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
            for name in names:  # so that the next use asks the plugins again, and is refused too
                del self.bound[name]
            raise
        return bound

    def _bind_extension(self, model: type[BaseModel], target: str) -> BoundModel:
        """Bind an extension to the BoundModel of the model that it extends, if this App has it."""
        if model not in self.brought:
            raise ConfigurationError(
                f"{model.__name__} extends {target!r}, and no plugin of App {self._app.name!r} brings "
                f"it; use the model itself (app.model({target!r}))"
            )
        bound = self.bound[model] = self._app.bind(self._app.model(target))
        return bound

    def recompose(self) -> None:
        """Discard the composed layers of every model; the plugins are asked for them again."""
        for bound in self.bound.values():
            bound.recompose()

    async def prepare(self) -> None:
        """Prepare the database for every model defined so far; done once per model."""
        version = registry.version()
        if self._prepared == version:
            return
        for model in self.known():
            if model not in self.bound or not self.bound[model].is_prepared:
                try:
                    bound = self._app.bind(model)
                except EarnORMError:
                    continue  # a model that cannot be used here raises its error when it is used
                await bound.prepare()
        # A transaction calls this each time; it need not look again until a model is defined.
        self._prepared = version


class Origins:
    """The table of one App that tells which plugin or package a class comes from."""

    def __init__(
        self, plugins: Mapping[str, PluginInfo], brought: Mapping[type[BaseModel], str]
    ) -> None:
        self._plugins = plugins
        self._brought = brought

    def of(self, cls: type) -> str:
        """Return the distribution with its version and the plugin, or the package of the class."""
        plugin = self._brought.get(cls)
        if plugin is None:
            package = cls.__module__.partition(".")[0]
            return CORE_DISTRIBUTION if package == "earnorm" else package
        info = self._plugins.get(plugin)
        if info is None or not info.distribution:
            return f"plugin {plugin}"
        return f"{info.distribution} {info.version} (plugin {plugin})"
