"""Loading of plugins into an App: their classes, settings and instances, and calls of their hooks.

``hookspecs`` defines the hooks; ``selection`` finds and selects the plugins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import importlib_metadata
import pluggy
import pydantic

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError, nearest
from earnorm.kernel.contract.cancellations import ESCAPED, delivered, is_escaped
from earnorm.kernel.contract.handed_in import (
    HOOKS,
    check_constructor,
    check_hooks,
    check_instance,
    check_settings_model,
    refuse_awaitable,
    signature,
    unknown_settings,
)
from earnorm.kernel.contract.left_out import LeftOut
from earnorm.kernel.hookspecs import API, PROJECT, Hooks
from earnorm.kernel.plugins.built_in import BuiltIn
from earnorm.kernel.plugins.manager import Manager
from earnorm.kernel.plugins.metadata import distribution_of, distribution_version
from earnorm.kernel.plugins.selection import (
    CORE_DISTRIBUTION,
    HOUSE_PLUGINS,
    Installed,
    PluginInfo,
    Selection,
    install_hint,
    installed,
    plugin_name,
    selected,
    survey,
)
from earnorm.kernel.plugins.start_order import Available, start_order
from earnorm.kernel.plugins.tracing import HookTimes

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from earnorm.kernel.observing.observers import Observer
    from earnorm.kernel.operations import Operation

log = logging.getLogger("earnorm")

T = TypeVar("T")

Plugin = object
"""An instance of a plugin's class."""
Implementation = tuple[str, Callable[..., Any]]
"""A plugin's name, and its method."""


@dataclass(slots=True)
class LoadedPlugins:
    """The plugins of one App, registered with the App's own PluginManager."""

    manager: pluggy.PluginManager
    held: dict[str, Plugin] = field(default_factory=dict[str, Plugin])
    """The plugins and features by name."""
    infos: list[PluginInfo] = field(default_factory=list[PluginInfo])
    left_out: Sequence[LeftOut] = ()
    available: frozenset[str] = frozenset()
    """The names of the features and plugins that the App has."""
    start_order: Sequence[str] = ()
    """The names of all plugins, the core's own included, in the order of their start."""
    hearing: frozenset[str] = frozenset()
    """The names of the plugins that observe the bookkeeping models of others."""
    selection: Selection = field(default_factory=Selection)
    """The selection that was asked for."""
    times: HookTimes | None = None
    """The times of hooks; None if nobody sees the trace of plugins."""
    _by_hook: dict[str, Sequence[Implementation]] = field(
        default_factory=dict[str, "Sequence[Implementation]"], init=False, repr=False
    )
    _by_type: dict[type, Any] = field(default_factory=dict[type, Any], init=False, repr=False)

    _told: Sequence[Observer] = field(default=(), init=False, repr=False)

    def tell_hooks(self, observers: Sequence[Observer]) -> None:
        """Tell these observers, and no others, of each hook of a plugin from now on."""
        self._told = observers
        self._by_hook.clear()

    def of_type(self, kind: type[T]) -> T | None:
        """Return the plugin that is an instance of ``kind``; None if the App has none.

        The result is kept, because operations ask for it.
        """
        if kind not in self._by_type:
            self._by_type[kind] = next((p for p in self.held.values() if isinstance(p, kind)), None)
        result: T | None = self._by_type[kind]
        return result

    def names(self) -> list[str]:
        """Return the names of the active plugins, in order."""
        return [info.name for info in self.infos if info.status == "active"]

    def instances(self) -> Mapping[str, Plugin]:
        """Return the active plugins by name; the core's own features are none of them."""
        return {name: self.held[name] for name in self.names()}

    def implements(self, hook: str) -> bool:
        """Return whether any plugin implements the hook."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def implementations(self, hook: str) -> Sequence[Implementation]:
        """Return each plugin's name and implementation of a hook, which takes all of its arguments.

        They are sorted by plugin name, so that nothing depends on the order of installation. The
        result is kept, because every commit asks for it.
        """
        known = self._by_hook.get(hook)
        if known is None:
            known = self._by_hook[hook] = self._implementations(hook)
        return known

    def _implementations(self, hook: str) -> Sequence[Implementation]:
        implementations: list[Implementation] = []
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            name = str(implementation.plugin_name)
            call = _by_keyword(name, hook, implementation)
            if self.times is not None:
                call = self.times.timed(name, hook, call)
            if self._told and name in self.names():
                call = _telling(self._told, name, hook, call)
            implementations.append((name, call))
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
        results: list[tuple[str, Any]] = []
        for name, call in self.implementations(hook):
            result = call(**arguments)
            refuse_awaitable(name, hook, result)
            results.append((name, result))
        return results

    async def notify(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        """Call a hook that may be async, one plugin after the other."""
        results: list[tuple[str, Any]] = []
        for name, call in self.implementations(hook):
            results.append((name, await settled(call(**arguments), name, hook)))
        return results

    async def broadcast(
        self, hook: str, app: object, operations: Sequence[Operation], **more: object
    ) -> None:
        """Tell every plugin the result of operations; log what a plugin raises.

        The operations are done or rolled back already, and nobody may hear the contrary. If this
        task is cancelled, the hook that runs hears it, and the others are called.
        """
        ordinary = [op for op in operations if op.model._bookkeeping is None]
        cancellation: asyncio.CancelledError | None = None
        for name, call in self.implementations(hook):
            observed = operations if name in self.hearing else ordinary
            if not observed:
                continue
            try:
                await settled(call(app=app, operations=observed, **more), name, hook)
            except asyncio.CancelledError as error:
                cancellation = cancellation or error
            except Exception:
                log.exception("plugin %r failed in its hook %s; the others are called", name, hook)
        if cancellation is not None:
            raise cancellation


async def settled(result: Any, plugin: str, hook: str) -> Any:
    """Await a hook's result if it is awaitable; an error names the plugin and the hook.

    A CancelledError that is not a cancellation of this task is such an error, too.
    """
    if not isinstance(result, Awaitable):
        return result
    before = delivered()
    try:
        return await result
    except EarnORMError:
        raise
    except Exception as error:
        raise _failure(plugin, hook, error) from error
    except asyncio.CancelledError as error:
        if is_escaped(error, before):
            raise _failure(plugin, hook, error) from error
        raise


def _by_keyword(name: str, hook: str, implementation: pluggy.HookImpl) -> Callable[..., Any]:
    function, takes = implementation.function, implementation.argnames
    # Each write calls each observer: a loop over the names would be half of the cost of one.
    one = takes[0] if len(takes) == 1 else None
    several = itemgetter(*takes) if len(takes) > 1 else None

    def call(**arguments: object) -> Any:
        try:
            if several is not None:
                return function(*several(arguments))
            return function() if one is None else function(arguments[one])
        except EarnORMError:
            raise
        except (Exception, asyncio.CancelledError) as error:  # a task is cancelled where it awaits
            raise _failure(name, hook, error) from error

    return call


def _telling(
    observers: Sequence[Observer], plugin: str, hook: str, call: Callable[..., Any]
) -> Callable[..., Any]:
    def telling(**arguments: object) -> Any:
        for observer in observers:
            observer.hook_begins(plugin, hook, arguments)
        return call(**arguments)

    return telling


def _failure(plugin: str, hook: str, error: BaseException) -> PluginError:
    escaped = isinstance(error, asyncio.CancelledError)
    what = ESCAPED if escaped else f"{type(error).__name__}: {error}"
    return PluginError(f"plugin {plugin!r} failed in its hook {signature(hook)}: {what}").coded(
        "plugin_failed"
    )


_NOTHING: Final = BuiltIn({}, {})


def load(
    selection: Selection,
    settings: Mapping[str, object],
    built_in: BuiltIn = _NOTHING,
    among: Sequence[PluginInfo] = (),
    known: Installed | None = None,
) -> LoadedPlugins:
    """Load and register the core's own plugins and the selected ones.

    Args:
        selection: The plugins that the App wants.
        settings: Each plugin's keyword argument to ``init``.
        built_in: The core's own plugins.
        among: Plugins that are not loaded here, and that ``requires`` may name where one plugin is
            looked at alone.
        known: The installed plugins; None means to look for them.

    Raises:
        PluginError: A plugin is not installed, fails to load, breaks the contract, or requires what
            the App has not.
        ConfigurationError: Settings are not valid, or belong to no plugin; a plugin to disable or a
            feature to leave out does not exist.
    """
    known = installed() if known is None else known
    built_in = built_in.checked(selection)
    _check_disabled(selection, known, built_in)
    features = built_in.names
    manager = Manager(PROJECT)
    manager.add_hookspecs(Hooks)
    loaded = LoadedPlugins(manager, selection=selection)
    missing: list[LeftOut] = []
    for name, cls in built_in.classes():
        if name in features:
            _register(loaded, name, cls(**built_in.settings.get(name, {})))
        else:
            missing.append(LeftOut("feature", name, cls))
    classes: dict[object, str] = {}
    plugins: dict[str, Plugin] = {}
    # A built-in name stands for what is built in, unless an installed plugin claims it, too.
    for name, source in selected(selection.without(features - known.keys()), known):
        info = _info_of(name, source, known)
        built_in.refuse_name(name, info.distribution)
        plugin = plugins[name] = _instance(name, source, settings.get(name))
        same = classes.setdefault(type(plugin), name)
        if same != name:
            raise PluginError(
                f"plugins {same!r} and {name!r} are one class, {_place(type(plugin))}, which would "
                f"run twice; select one of them"
            ).coded("name_taken")
        _register(loaded, name, plugin)
        loaded.infos.append(info)
    _check_pending(manager)
    hooks = _hooks_by_plugin(manager)
    for info in loaded.infos:
        info.hooks = tuple(sorted(hooks.get(info.name, ())))
    loaded.hearing = frozenset(
        name for name, plugin in loaded.held.items() if getattr(plugin, "hears_bookkeeping", False)
    )
    active = set(loaded.names())
    loaded.available = features | active
    rows = survey(selection, known)
    versions = dict.fromkeys(features, distribution_version(CORE_DISTRIBUTION))
    versions |= {
        info.name: info.version for info in (*among, *loaded.infos) if info.status == "active"
    }
    loaded.start_order = [
        *sorted(features),
        *start_order(plugins, Available(versions, _absence(rows, built_in, active))),
    ]
    _check_settings(settings, active, selection, known)
    for row in rows:
        if row.name not in active:
            loaded.infos.append(row)
    # A plugin that is only named is not imported, so it cannot be asked which models need it.
    for item in selection.plugins or ():
        if not isinstance(item, str) and (name := plugin_name(item, known)) not in active:
            missing.append(LeftOut("plugin", name, item))
    loaded.left_out = tuple(item for item in missing if item.asks and item.name not in active)
    return loaded


def _info_of(name: str, source: object, known: Installed) -> PluginInfo:
    """Return the information about a selected plugin: an entry point, a class or an instance."""
    if isinstance(source, importlib_metadata.EntryPoint):
        return PluginInfo(name, *distribution_of(source), status="active")
    cls = source if isinstance(source, type) else type(source)
    point = known.point_of(cls)
    if point is not None:
        return PluginInfo(name, *distribution_of(point), status="active")
    version = getattr(cls, "version", "")
    return PluginInfo(name, "", version if isinstance(version, str) else "", status="active")


def _absence(
    rows: Sequence[PluginInfo], built_in: BuiltIn, active: Collection[str]
) -> dict[str, str]:
    """Return, by name, the reason why an App has not a plugin or feature that is at hand."""
    absent = {row.name: f"is {row.status}: {row.reason}" for row in rows if row.name not in active}
    return absent | dict.fromkeys(
        built_in.features.keys() - built_in.present, "is a feature that this App leaves out"
    )


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _check_disabled(selection: Selection, known: Installed, built_in: BuiltIn) -> None:
    """Refuse a name in the program's ``disabled=`` that no plugin and no feature has."""
    given = {plugin_name(plugin, known) for plugin in selection.plugins or ()}
    names = given | known.keys() | built_in.features.keys() | set(HOUSE_PLUGINS)
    said = [("disabled= names", selection.disabled_here)]
    said.append((f"{selection.project.file}: disabled names", selection.project.disabled))
    for where, disabled in said:
        for name in sorted(disabled - names):
            if name in built_in.always:
                raise ConfigurationError(f"{where} {name!r}, which no App can leave out").coded(
                    "unknown_plugin"
                )
            raise ConfigurationError(
                f"{where} {name!r}, and no plugin or feature has this name{nearest(name, names)}"
            ).coded("unknown_plugin")


def _instance(name: str, source: object, settings: object) -> Plugin:
    cls = load_class(name, source) if isinstance(source, importlib_metadata.EntryPoint) else source
    check_api(name, cls)
    check_hooks(name, cls)
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
        check_settings_model(name, model)
        check_constructor(name, cls, model)
        if model is None:
            if settings is not None:
                raise ConfigurationError(f"plugin {name!r} takes no settings; drop {name}=").coded(
                    "plugin_settings"
                )
            made = cls()
        else:
            made = cls(_validated(name, model, settings))
        check_instance(name, made)
        return made
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
    distribution, version = distribution_of(point)
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # a module that exits must not end the program
        raise PluginError(
            f"plugin {name!r} from {distribution} {version} failed to load: "
            f"{type(error).__name__}: {error}; repair it, or disable it "
            f"(disabled=[{name!r}] or EARNORM_DISABLED_PLUGINS={name})"
        ).coded("plugin_failed") from error
    if isinstance(loaded, ModuleType):
        raise PluginError(
            f"plugin {name!r} from {distribution} {version}: its entry point names the module "
            f'{point.module!r}; it names a class: {name} = "{point.module}:ClassName"'
        ).coded("plugin_failed")
    return loaded


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
    if type(api) is not int:
        raise PluginError(
            f"plugin {name!r} says api = {api!r}, and the version is a whole number: api = {API}"
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
    unknown = unknown_settings(model, settings or {})
    if unknown:
        hints = "; ".join(
            f"{key}: {_setting_problem('extra_forbidden', '', (key,), model)}" for key in unknown
        )
        raise ConfigurationError(f"settings of plugin {name!r}: {hints}").coded("plugin_settings")
    try:
        return model.model_validate(dict(settings or {}))
    except pydantic.ValidationError as error:
        # The message leaves out the values, because a setting may be a password.
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc']))}: {_problem_of(p, model)}"
            for p in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(f"settings of plugin {name!r}: {problems}").coded(
            "plugin_settings"
        ) from None


_QUOTING: Final[Mapping[str, str]] = {
    "import_error": "Input should be the path of something that can be imported",
    "union_tag_invalid": "Input should have one of the kinds {expected_tags} in {discriminator}",
    "uuid_parsing": "Input should be a valid UUID",
}
"""The messages for problems whose own message, in pydantic, quotes a part of the value."""


def _problem_of(problem: ErrorDetails, model: type[pydantic.BaseModel]) -> str:
    message = _QUOTING.get(problem["type"])
    if message is not None:
        # Of the context it uses what the model declares, never what was given.
        return message.format_map(problem.get("ctx", {}))
    return _setting_problem(problem["type"], problem["msg"], problem["loc"], model)


def _setting_problem(
    kind: str, message: str, loc: tuple[str | int, ...], model: type[pydantic.BaseModel]
) -> str:
    if kind == "extra_forbidden":
        return f"unknown setting{nearest(str(loc[-1]), model.model_fields)}"
    return message


def _register(loaded: LoadedPlugins, name: str, plugin: Plugin) -> None:
    loaded.held[name] = plugin
    try:
        loaded.manager.register(plugin, name=name)
    except pluggy.PluginValidationError as error:  # what check_hooks does not know of
        raise _not_valid(name, error) from error


def _check_pending(manager: pluggy.PluginManager) -> None:
    """Look for hooks that do not exist, once for all plugins."""
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise _not_valid(manager.get_name(error.plugin) or "", error) from error


def _not_valid(name: str, error: pluggy.PluginValidationError) -> PluginError:
    return PluginError(f"plugin {name!r} breaks the contract: {error}").coded("hook_contract")


def _hooks_by_plugin(manager: pluggy.PluginManager) -> dict[str, set[str]]:
    """Return the names of each plugin's hooks, in one pass over all hooks."""
    hooks: dict[str, set[str]] = {}
    for name in HOOKS:
        caller: pluggy.HookCaller = getattr(manager.hook, name)
        for implementation in caller.get_hookimpls():
            hooks.setdefault(implementation.plugin_name, set()).add(name)
    return hooks


def _check_settings(
    settings: Mapping[str, object],
    active: set[str],
    selection: Selection,
    known: Installed,
) -> None:
    for name in settings:
        if name in active or name in selection.disabled:
            continue
        if name in known:
            raise ConfigurationError(
                f"{name}= configures a plugin that is not selected; "
                f"add {name!r} to plugins=, or drop the keyword"
            ).coded("plugin_settings")
        if name in HOUSE_PLUGINS:
            raise PluginError(
                f"{name}= configures a plugin that is not installed: {install_hint(name)}"
            ).coded("plugin_missing")
        # A package of this name may be anybody's, so the message names none to install.
        raise PluginError(
            f"no plugin is named {name!r}, which {name}= would configure"
            f"{nearest(name, {*known, *active})}"
        ).coded("plugin_missing")
