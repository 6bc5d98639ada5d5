"""The models of one App: its own ones, the plugins that they come from, their extended classes.

``registry`` holds the definitions of the whole process; this module applies one App's plugins.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError, nearest
from earnorm.fields.relational import Relation
from earnorm.kernel import registry
from earnorm.kernel.binding import BoundModel
from earnorm.kernel.contract.handed_in import checked_models
from earnorm.kernel.life.in_flight import UNIT
from earnorm.kernel.operations import OPERATIONS
from earnorm.kernel.plugins.selection import CORE_DISTRIBUTION, PluginInfo
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm")


_MISSPELT: Final = 0.8
"""The likeness from which a name counts as a misspelt one: 'usr' has 0.86 of 'user'."""


class Extension(NamedTuple):
    """A class that a plugin adds to a model.

    Attributes:
        plugin: The plugin's name.
        model: The class with ``_inherit``.
    """

    plugin: str
    model: type[BaseModel]

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} ({self.model.__module__}.{self.model.__qualname__})"


_owners: weakref.WeakKeyDictionary[type[BaseModel], tuple[str, weakref.ref[Catalog]]] = (
    weakref.WeakKeyDictionary()
)
"""For each class that one App made of a model: the App's name and its catalog."""


class _Leaving(NamedTuple):
    """A class of a dropped model, for the operations that were under way when it was dropped.

    Attributes:
        bound: The class's BoundModel, which the operations hold.
        units: Their keys, and those of the operations that they made since.
    """

    bound: weakref.ref[BoundModel]
    units: set[object]


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
        self._adopted: weakref.WeakSet[type[BaseModel]] = weakref.WeakSet()
        self._unprepared: dict[type[BaseModel], None] = {}
        self._relied_on: dict[str, dict[str, str]] = {}
        self._leaving: weakref.WeakKeyDictionary[type[BaseModel], _Leaving] = (
            weakref.WeakKeyDictionary()
        )
        self._prepared = -1
        self._links: tuple[int, Mapping[str, Set[str]]] = (-1, {})
        self._absent = {info.name for info in app.loaded.infos if info.status != "active"}
        registry.listen(self)

    # -- models and extensions of plugins -----------------------------------------------------

    def open(self) -> None:
        """Register the plugins' models, and tell the plugins which models exist.

        Raises:
            PluginError: Two models or extensions clash.
            ConfigurationError: A plugin refuses a model, e.g. for a relation to an unknown model; or
                two models have one name.
        """
        for plugin, models in self._app.loaded.collect("register_models", app=self._app):
            returned = list(checked_models(plugin, models))
            for model in returned:
                self._register(model, plugin)
            registry.bring(model for model in returned if model._inherit is None)
        for target in self.extensions:
            base = self.find(target)
            if base is None:
                self._refuse_misspelt(target)
                continue
            for model in (base, *self.known()):
                if target in ModelView(model).names:
                    self.extended(model)  # a clash of extensions stops the start
        for model in self.brought:
            # Other models are checked when they are used. Attributes may declare fields.
            usable = (
                model if model._inherit is not None or model._abstract else self.extended(model)
            )
            usable._schema.check_own_kinds()
        self._app.loaded.collect("models_changed", app=self._app, models=self.known())
        self._unprepared |= dict.fromkeys(self.known())

    def _refuse_misspelt(self, target: str) -> None:
        """Refuse extensions of a model that does not exist if their target is nearly one that does.

        A target that is like no other may be a model of a plugin that this App does not have, or
        one that is defined later.

        Raises:
            PluginError: The target is nearly the name of a model.
        """
        names = [model._name for model in self.known()]
        for extension in self.extensions[target]:
            if difflib.get_close_matches(target, names, n=1, cutoff=_MISSPELT):
                raise PluginError(
                    f"{extension} extends the model {target!r}, and there is none"
                    f"{nearest(target, names)} If {target!r} is right, import it before the App "
                    f"starts; if it may be missing, register_models(self, app) returns the extension only "
                    f"where it is there"
                ).coded("extends_nothing")
            log.warning("%s extends the model %r, which nobody has defined yet", extension, target)

    def check_brought(self) -> None:
        """Ask for the layers, steps and readings of the models that plugins bring, and keep them.

        Those of other models are asked for when they are used: 100 plugins and 50 models would be
        40,000 calls at each start.

        Raises:
            PluginError: A plugin fails, or gives something else than it has to give.
        """
        for fault in self.faults(tuple(self.brought)):
            if isinstance(fault, PluginError):
                raise fault  # any other error the model raises when it is used

    def faults(self, models: Iterable[type[BaseModel]]) -> Iterator[EarnORMError]:
        """Ask for the layers, steps and readings of models, and keep them.

        Yields:
            The errors of models that cannot be used, and about which a plugin is wrong; one may come
            for several operations.
        """
        for model in models:
            try:
                bound = self._app.bind(model)
            except EarnORMError as error:
                yield error
                continue
            for operation in OPERATIONS:
                try:
                    bound.call(operation)
                    bound.steps()
                except EarnORMError as error:
                    yield error

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

    def rely_on(self, model: str, path: str, reason: str) -> None:
        """Note a value that somebody relies on; see ``App.rely_on``."""
        self._relied_on.setdefault(model, {}).setdefault(path, reason)

    def relied_on(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield the paths from models of these names that somebody relies on, each with the reason."""
        for name in names:
            yield from self._relied_on.get(name, {}).items()

    def close(self) -> None:
        """Forget the models when the App stops."""
        self._prepared = -1
        self._adopted.clear()
        for table in (self.bound, self._by_name, self.extensions, self._effective, self.brought):
            table.clear()
        self._relied_on.clear()
        self._unprepared.clear()
        self._leaving.clear()

    @contextmanager
    def described(self) -> Iterator[None]:
        """Register the models inside the block, to read them while the App is stopped."""
        self.open()
        try:
            yield
        finally:
            self.close()

    def model_defined(self, model: type[BaseModel]) -> None:
        """Tell the plugins of a running App that a model was defined."""
        if self._app.is_started and self._is_own(model):
            self.find(model._name)
            self._app.loaded.collect("models_changed", app=self._app, models=[model])
            self._unprepared[model] = None

    def model_forgotten(self, model: type[BaseModel]) -> None:
        """Drop a model, and tell the plugins of a running App."""
        self._unprepared.pop(model, None)
        self._adopted.discard(model)
        self.brought.pop(model, None)
        self._effective.pop(model, None)
        if self._by_name.get(model._name) is model:
            del self._by_name[model._name]
        units = set(self._app.in_flight.operations)
        for cls in [cls for cls in self.bound if cls is model or cls._base is model]:
            bound = self.bound.pop(cls)
            if units:
                self._leaving[cls] = _Leaving(weakref.ref(bound), units)
        if self._app.is_started:
            self._app.loaded.collect("model_forgotten", app=self._app, model=model)
            self.recompose()  # steps and layers of other models may be about it

    # -- classes ------------------------------------------------------------------------------

    def definitions(self) -> Mapping[str, type[BaseModel]]:
        """Return every model of the process by name; the App's own ones win over others.

        Raises:
            ConfigurationError: Two of the App's own models have one name.
        """
        contested = {name: self._choose(name) for name in registry.contested()}
        return {**registry.definitions(), **contested, **self._by_name}

    def _is_own(self, model: type[BaseModel]) -> bool:
        """Return whether a model is the App's own.

        A model that a plugin returned in some App is the own one of the Apps with this plugin, and
        of an App that uses it or another one of these models.
        """
        if model._abstract or registry.is_forgotten(model):
            return False
        if model in self.brought or model in self._adopted:
            return True
        if model._bookkeeping in self._absent or registry.brought_with(model):
            return False
        return self._app._takes(model)

    def known(self) -> list[type[BaseModel]]:
        """Return the App's own models: all except those of plugins that it did not select."""
        return [model for model in self.definitions().values() if self._is_own(model)]

    def links(self) -> Mapping[str, Set[str]]:
        """Return, by a model's name, the models to which its links lead and whose links lead to it."""
        version = registry.version()
        if self._links[0] != version:
            self._links = (version, _links_of(self.known()))
        return self._links[1]

    def _adopt(self, model: type[BaseModel]) -> None:
        """Take a model of a plugin that the App did not select as an own one, because it is used."""
        new = [m for m in registry.brought_with(model) or (model,) if not self._is_own(m)]
        self._adopted.update(new)
        self._unprepared |= dict.fromkeys(new)
        registry.touch()
        self._app.loaded.collect("models_changed", app=self._app, models=new)

    def _choose(self, name: str) -> type[BaseModel]:
        """Return the App's model of a name that several classes have.

        Raises:
            ConfigurationError: Two of them are the App's own, and nothing decides between them.
        """
        latest = next(
            filter(self._is_own, reversed(registry.candidates(name))), registry.latest(name)
        )
        both = None if registry.is_local(latest) else registry.rivals(name, self._is_own)
        if both is not None:
            one, other = (f"{model.__module__}.{model.__qualname__}" for model in both)
            raise ConfigurationError(
                f"two models are named {name!r}: {one} and {other}; give one of them another _name, "
                f"import each under one module name only, or drop one with earnorm.forget()"
            ).coded("model_name_taken")
        return self._by_name.get(name, latest)

    def find(self, name: str) -> type[BaseModel] | None:
        """Return the definition of a model by its name, or None.

        Raises:
            ConfigurationError: Two of the App's own models have this name.
        """
        if registry.is_contested(name):
            return self._choose(name)
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
            if effective is not base:
                _owners[effective] = (self._app.name, weakref.ref(self))
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

    def bind(self, model: type[BaseModel], unit: object = None) -> BoundModel:
        """Make the BoundModel of a model that has none yet.

        Args:
            model: The model's class.
            unit: The key of the operation that it is for, which goes on to its end although the
                model is dropped meanwhile; None if it is for no new operation.

        Raises:
            ConfigurationError: The model is abstract, not a part of this App, or was forgotten.
        """
        if model._inherit is not None:
            return self._bind_extension(model, model._inherit)
        self._refuse_other_app(model)
        base = model._base or model
        if registry.is_forgotten(base):
            leaving = self._leaving.get(model)
            bound = None if leaving is None else leaving.bound()
            if leaving is not None and bound is not None and self._is_under_way(leaving.units):
                leaving.units.add(unit)
                return bound
            raise ConfigurationError(
                f"the model {base._name!r} was dropped with earnorm.forget()"
            ).coded("forgotten_model")
        if base._abstract:
            raise ConfigurationError(f"{base.__name__} is abstract; use a model that inherits it")
        if not self._is_own(base):
            self._adopt(base)
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

    def _is_under_way(self, units: Collection[object]) -> bool:
        """Return whether this is part of one of these operations, which is not over."""
        operations = self._app.in_flight.operations
        now = [unit for unit in units if unit in operations]
        if UNIT.get() in now:
            return True
        try:
            task = asyncio.current_task()
        except RuntimeError:  # a thread without a loop, where no operation is
            return False
        return any(operations[unit] is task for unit in now)

    def _refuse_other_app(self, model: type[BaseModel]) -> None:
        """Refuse a class that another App made of a model, which that App's program meant."""
        owner = _owners.get(model)
        if owner is not None and owner[1]() is not self:
            name = model._name
            raise ConfigurationError(
                f"this class of the model {name!r} belongs to App {owner[0]!r}, and App "
                f"{self._app.name!r} is current: use it inside 'with app.activate():' of its App, or "
                f"use app.model({name!r}) of the current one"
            ).coded("other_app")

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
        for model in tuple(self._unprepared):
            if self.find(model._name) is model:
                try:
                    bound = self._app.bind(model)
                except EarnORMError:
                    continue  # it raises its error when it is used, unless a new model mends it
                if not bound.is_prepared:
                    await bound.prepare()
            self._unprepared.pop(model, None)
        # A transaction calls this each time; it need not look again until a model is defined.
        self._prepared = version


def _links_of(models: Iterable[type[BaseModel]]) -> Mapping[str, Set[str]]:
    links: dict[str, set[str]] = defaultdict(set)
    for model in models:
        with suppress(EarnORMError):  # its own first use raises it
            for field in model._schema.fields.values():
                for name in field.names() if isinstance(field, Relation) else ():
                    links[model._name].add(name)
                    links[name].add(model._name)
    return links


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
