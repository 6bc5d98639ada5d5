"""Loading of plugins into an App: their classes, settings and instances, and calls of their hooks.

``hookspecs`` defines the hooks; ``plugins`` finds and selects the plugins.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import importlib_metadata
import pluggy
import pydantic

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError, nearest
from earnorm.kernel.hookspecs import API, PROJECT, Hooks
from earnorm.kernel.plugins import (
    PluginInfo,
    Selection,
    distribution_of,
    install_hint,
    installed,
    plugin_name,
    selected,
    survey,
)

if TYPE_CHECKING:
    from earnorm.kernel.operations import Operation
    from earnorm.kernel.views import ModelView

T = TypeVar("T")

Plugin = object
"""An instance of a plugin's class."""
Implementation = tuple[str, Callable[..., Any]]
"""A plugin's name, and its method."""

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def import_class(place: str) -> type:
    """Import a class by its place, which is written as in entry points: ``"module:Class"``."""
    module, _, name = place.partition(":")
    cls: type = getattr(import_module(module), name)
    return cls


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
        """
        needing_part = self._needed_by(model) if self._needed_by is not None else None
        if needing_part is not None:
            raise ConfigurationError(
                f"{model.name}: {needing_part} needs the {self.kind} {self.name!r}, which App {app!r} leaves out"
            ).coded("left_out")


@dataclass(slots=True)
class LoadedPlugins:
    """The plugins of one App, registered with the App's own PluginManager."""

    manager: pluggy.PluginManager
    infos: list[PluginInfo] = field(default_factory=list[PluginInfo])
    left_out: Sequence[LeftOut] = ()
    hearing: frozenset[str] = frozenset()
    """The names of the plugins that observe the bookkeeping models of others."""
    _found: dict[str, Sequence[Implementation]] = field(
        default_factory=dict[str, "Sequence[Implementation]"], init=False, repr=False
    )

    def of_type(self, kind: type[T]) -> T | None:
        """Return the plugin that is an instance of ``kind``; None if the App has none."""
        return next((p for p in self.manager.get_plugins() if isinstance(p, kind)), None)

    def names(self) -> list[str]:
        """Return the names of the active plugins, in order."""
        return [info.name for info in self.infos if info.status == "active"]

    def implements(self, hook: str) -> bool:
        """Return whether any plugin implements the hook."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def implementations(self, hook: str) -> Sequence[Implementation]:
        """Return each plugin's name and implementation of a hook, which takes all of its arguments.

        They are sorted by plugin name, so that nothing depends on the order of installation. The
        result is kept, because every commit asks for it.
        """
        known = self._found.get(hook)
        if known is None:
            known = self._found[hook] = self._implementations(hook)
        return known

    def _implementations(self, hook: str) -> Sequence[Implementation]:
        implementations: list[Implementation] = []
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            name = str(implementation.plugin_name)
            implementations.append((name, _by_keyword(name, hook, implementation)))
        return sorted(implementations, key=lambda pair: pair[0])

    def observers(self, hook: str, *, bookkeeping: bool) -> Sequence[Implementation]:
        """Return the implementations of a hook that observe a model.

        A bookkeeping model (``_bookkeeping``) is observed only by plugins with
        ``hears_bookkeeping = True``.
        """
        implementations = self.implementations(hook)
        return (
            [pair for pair in implementations if pair[0] in self.hearing]
            if bookkeeping
            else implementations
        )

    def collect(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        """Call a synchronous hook; return each plugin's name and its result."""
        return [(name, call(**arguments)) for name, call in self.implementations(hook)]

    async def notify(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        """Call a hook that may be async, one plugin after the other."""
        results: list[tuple[str, Any]] = []
        for name, call in self.implementations(hook):
            results.append((name, await settled(call(**arguments), name, hook)))
        return results

    async def broadcast(self, hook: str, app: object, operations: Sequence[Operation]) -> None:
        """Tell every plugin the result of operations, even if one plugin fails.

        Raises:
            EarnORMError: The first failure, after all plugins were called.
        """
        failure: EarnORMError | None = None
        ordinary = [op for op in operations if op.model._bookkeeping is None]
        for name, call in self.implementations(hook):
            observed = operations if name in self.hearing else ordinary
            if not observed:
                continue
            try:
                await settled(call(app=app, operations=observed), name, hook)
            except EarnORMError as error:
                failure = failure or error
        if failure is not None:
            raise failure


async def settled(result: Any, plugin: str, hook: str) -> Any:
    """Await a hook's result if it is awaitable; an error names the plugin and the hook."""
    if not isinstance(result, Awaitable):
        return result
    try:
        return await result
    except EarnORMError:
        raise
    except Exception as error:
        raise _failure(plugin, hook, error) from error


def _by_keyword(name: str, hook: str, implementation: pluggy.HookImpl) -> Callable[..., Any]:
    function, takes = implementation.function, implementation.argnames

    def call(**arguments: object) -> Any:
        try:
            return function(*(arguments[argument] for argument in takes))
        except EarnORMError:
            raise
        except Exception as error:
            raise _failure(name, hook, error) from error

    return call


def _failure(plugin: str, hook: str, error: Exception) -> PluginError:
    return PluginError(
        f"plugin {plugin!r} failed in its hook {signature(hook)}: {type(error).__name__}: {error}"
    ).coded("plugin_failed")


def signature(hook: str) -> str:
    """Return a hook with its expected signature, for messages."""
    parameters = list(inspect.signature(getattr(Hooks, hook)).parameters)
    return f"{hook}({', '.join(parameters)})"


def load(
    selection: Selection,
    settings: Mapping[str, object],
    built_in: Mapping[str, str] = _NOTHING,
    left_out: Collection[str] = (),
) -> LoadedPlugins:
    """Load and register the selected plugins.

    Args:
        selection: The plugins that the App wants.
        settings: Each plugin's keyword argument to ``init``.
        built_in: The core's own plugins, which are active unless left out: the class of each by
            its name, as ``"module:Class"``.
        left_out: Names of core plugins that the App leaves out.

    Raises:
        PluginError: A plugin is not installed, fails to load, or breaks the contract.
        ConfigurationError: Settings are not valid, or belong to no plugin; a feature to leave out
            does not exist.
    """
    for name in left_out:
        if name not in built_in:
            raise ConfigurationError(
                f"App.left_out: there is no feature {name!r}{nearest(name, built_in)}"
            ).coded("unknown_feature")
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    loaded = LoadedPlugins(manager)
    known = installed()
    missing: list[LeftOut] = []
    for name, place in built_in.items():
        cls = import_class(place)
        if name in left_out:
            missing.append(LeftOut("feature", name, cls))
        else:
            _register(manager, name, cls())
    for name, source in selected(selection, known):
        if name in built_in and name not in left_out:
            raise PluginError(
                f"a feature of the core has the name {name!r}; give the plugin another"
            ).coded("name_taken")
        point = known.get(name)
        distribution = distribution_of(point) if point is not None and source is point else ("", "")
        info = PluginInfo(name, *distribution, status="active")
        plugin = _instance(name, source, settings.get(name))
        _register(manager, name, plugin)
        hooks = manager.get_hookcallers(plugin) or []
        info.hooks = tuple(sorted(caller.name for caller in hooks))
        loaded.infos.append(info)
    loaded.hearing = frozenset(
        name
        for name, plugin in manager.list_name_plugin()
        if getattr(plugin, "hears_bookkeeping", False)
    )
    active = set(loaded.names())
    _check_settings(settings, active, selection, known)
    for row in survey(selection, known):
        if row.name not in active:
            loaded.infos.append(row)
    # A plugin that is only named is not imported, so it cannot be asked which models need it.
    importable = (item for item in selection.plugins or () if not isinstance(item, str))
    missing += [LeftOut("plugin", plugin_name(item), item) for item in importable]
    loaded.left_out = tuple(item for item in missing if item.asks and item.name not in active)
    return loaded


def _instance(name: str, source: object, settings: object) -> Plugin:
    cls = load_class(name, source) if isinstance(source, importlib_metadata.EntryPoint) else source
    check_api(name, cls)
    if not isinstance(cls, type):
        if settings is not None:
            raise ConfigurationError(
                f"plugin {name!r} was handed in as an instance, which has its settings; "
                f"drop the keyword {name}=, or hand in the class"
            ).coded("plugin_settings")
        return cls
    ask = getattr(cls, "settings", None)
    try:
        model = ask() if ask is not None else None
        if model is None:
            if settings is not None:
                raise ConfigurationError(f"plugin {name!r} takes no settings; drop {name}=").coded(
                    "plugin_settings"
                )
            return cls()
        return cls(_validated(name, model, settings))
    except EarnORMError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {name!r} could not be instantiated: {type(error).__name__}: {error}"
        ).coded("plugin_failed") from error


def load_class(name: str, point: importlib_metadata.EntryPoint) -> object:
    """Import the class of an entry point.

    Raises:
        PluginError: It cannot be imported.
    """
    try:
        return point.load()
    except Exception as error:
        distribution, version = distribution_of(point)
        raise PluginError(
            f"plugin {name!r} from {distribution} {version} failed to load: "
            f"{type(error).__name__}: {error}; repair it, or disable it "
            f"(disabled=[{name!r}] or EARNORM_DISABLED_PLUGINS={name})"
        ).coded("plugin_failed") from error


def check_api(name: str, plugin: object) -> None:
    """Refuse a plugin that was written for another version of the contract.

    Raises:
        PluginError: The plugin was written for another version, or names none.
    """
    api = getattr(plugin, "api", None)
    if api is None:
        raise PluginError(
            f"plugin {name!r} does not say which API it was written for: 'api = {API}'"
        ).coded("plugin_api")
    if api != API:
        raise PluginError(
            f"plugin {name!r} was written for plugin API {api}, this is {API}; "
            f"install a version of it that fits"
        ).coded("plugin_api")


def _validated(name: str, model: type[pydantic.BaseModel], settings: object) -> pydantic.BaseModel:
    if isinstance(settings, model):
        return settings
    if settings is not None and not isinstance(settings, Mapping):
        raise ConfigurationError(
            f"{name}= takes a mapping of settings or a {model.__name__}, "
            f"not {type(settings).__name__}"
        ).coded("plugin_settings")
    try:
        return model.model_validate(dict(settings or {}))
    except pydantic.ValidationError as error:
        # The message leaves out the values, because a setting may be a password.
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc']))}: {_setting_problem(p['type'], p['msg'], p['loc'], model)}"
            for p in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(f"settings of plugin {name!r}: {problems}").coded(
            "plugin_settings"
        ) from None


def _setting_problem(
    kind: str, message: str, loc: tuple[str | int, ...], model: type[pydantic.BaseModel]
) -> str:
    if kind == "extra_forbidden":
        return f"unknown setting{nearest(str(loc[-1]), model.model_fields)}"
    return message


def _register(manager: pluggy.PluginManager, name: str, plugin: Plugin) -> None:
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = [h for h in vars(Hooks) if not h.startswith("_")]
        wrong = next((h for h in hooks if f"'{h}'" in str(error)), None)
        expected = f"; expected {signature(wrong)}" if wrong else f"; hooks: {', '.join(hooks)}"
        raise PluginError(f"plugin {name!r} breaks the contract: {error}{expected}").coded(
            "hook_contract"
        ) from error


def _check_settings(
    settings: Mapping[str, object],
    active: set[str],
    selection: Selection,
    known: Mapping[str, importlib_metadata.EntryPoint],
) -> None:
    for name in settings:
        if name in active or name in selection.disabled:
            continue
        if name in known:
            raise ConfigurationError(
                f"{name}= configures a plugin that is not selected; "
                f"add {name!r} to plugins=, or drop the keyword"
            ).coded("plugin_settings")
        raise PluginError(
            f"{name}= configures a plugin that is not installed: {install_hint(name)}"
        ).coded("plugin_missing")
