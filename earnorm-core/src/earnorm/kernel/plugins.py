"""Find, select, load, order and list plugins. What a plugin may do stands in ``hookspecs``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import importlib_metadata
import pluggy
import pydantic

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError, nearest
from earnorm.kernel.hookspecs import API, GROUP, PROJECT, Hooks

if TYPE_CHECKING:
    from earnorm.kernel.operations import Operation

T = TypeVar("T")

CORE_DISTRIBUTION = "earnorm-core"
Plugin = object
"""An instance of a plugin's class."""
Implementation = tuple[str, Callable[..., Any]]
"""A plugin's name, and its method."""


@dataclass(slots=True)
class PluginInfo:
    """What is known of one plugin, for ``earnorm plugins`` and ``app.plugins``."""

    name: str
    distribution: str = ""
    version: str = ""
    status: str = "available"
    """``active``, ``available`` (not yet decided), ``not selected`` or ``disabled``."""
    reason: str = ""
    """Why it is not active."""
    hooks: tuple[str, ...] = ()
    """The hooks it implements; empty until it is loaded."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which plugins an App wants.

    Args:
        plugins: Names, classes and instances; None means everything that is installed.
        disabled: Names that are never loaded.
        required: Names that must be active; nothing outside the program can switch them off.
    """

    plugins: tuple[str | type | object, ...] | None = None
    disabled: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        plugins: Iterable[str | type | object] | None,
        disabled: Iterable[str],
        required: Iterable[str],
        environ: Mapping[str, str],
    ) -> Selection:
        """Merge what the program asks for with ``EARNORM_PLUGINS`` and ``EARNORM_DISABLED_PLUGINS``.

        The program's own ``plugins=`` wins over ``EARNORM_PLUGINS``; disabled names add up.

        Raises:
            ConfigurationError: A required plugin is disabled from outside, or a text was given
                where a list of names belongs.
        """
        for keyword, value in (
            ("plugins", plugins),
            ("disabled", disabled),
            ("required", required),
        ):
            if isinstance(value, str):
                raise ConfigurationError(f"{keyword}= takes a list of names: {keyword}=[{value!r}]")
        if plugins is None and environ.get("EARNORM_PLUGINS") is not None:
            plugins = _names(environ["EARNORM_PLUGINS"])
        outside = frozenset(_names(environ.get("EARNORM_DISABLED_PLUGINS", "")))
        wanted = frozenset(required)
        forbidden = wanted & (outside | frozenset(disabled))
        if forbidden:
            raise ConfigurationError(
                f"plugin {min(forbidden)!r} is required by this program and cannot be disabled; "
                f"take it out of EARNORM_DISABLED_PLUGINS and disabled="
            )
        chosen = None if plugins is None else tuple(plugins)
        if chosen is not None:
            named = {each for each in chosen if isinstance(each, str)}
            chosen += tuple(sorted(wanted - named - {plugin_name(p) for p in chosen}))
        return cls(chosen, outside | frozenset(disabled), wanted)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def plugin_name(plugin: object) -> str:
    """A plugin's name: what it says of itself, or its class name without ``Plugin``."""
    if isinstance(plugin, str):
        return plugin
    cls = plugin if isinstance(plugin, type) else type(plugin)
    name = getattr(cls, "name", None)
    return name if isinstance(name, str) else cls.__name__.removesuffix("Plugin").lower()


def installed() -> dict[str, importlib_metadata.EntryPoint]:
    """The installed plugins by name; nothing is imported.

    Raises:
        PluginError: Two distributions register a plugin by the same name.
    """
    found: dict[str, importlib_metadata.EntryPoint] = {}
    for point in importlib_metadata.entry_points(group=GROUP):
        other = found.get(point.name)
        if other is not None and _distribution(other) != _distribution(point):
            raise PluginError(
                f"{_distribution(other)[0]} and {_distribution(point)[0]} both register a plugin "
                f"named {point.name!r}; uninstall one of them"
            )
        found[point.name] = point
    return dict(sorted(found.items()))


def _distribution(point: importlib_metadata.EntryPoint) -> tuple[str, str]:
    distribution = point.dist
    return (distribution.name, distribution.version) if distribution else ("", "")


def import_classes(places: Iterable[str]) -> list[type]:
    """Import classes that are named as ``"module:Class"``, as entry points are."""
    found: list[type] = []
    for place in places:
        module, _, name = place.partition(":")
        found.append(getattr(import_module(module), name))
    return found


def survey(
    selection: Selection, known: Mapping[str, importlib_metadata.EntryPoint] | None = None
) -> list[PluginInfo]:
    """What is installed, and what this selection makes of it; reads metadata only."""
    rows: list[PluginInfo] = []
    named = None if selection.plugins is None else {plugin_name(p) for p in selection.plugins}
    for name, point in (installed() if known is None else known).items():
        info = PluginInfo(name, *_distribution(point))
        if name in selection.disabled:
            info.status, info.reason = "disabled", "disabled= or EARNORM_DISABLED_PLUGINS names it"
        elif named is not None and name not in named:
            info.status, info.reason = "not selected", "plugins= or EARNORM_PLUGINS leaves it out"
        else:
            info.status = "active"
        rows.append(info)
    return rows


def install_hint(name: str) -> str:
    """The command that brings a plugin."""
    try:
        extras = importlib_metadata.metadata(CORE_DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib_metadata.PackageNotFoundError:
        extras = []
    package = f'"{CORE_DISTRIBUTION}[{name}]"' if name in extras else f"earnorm-{name}"
    return f"pip install {package}"


@dataclass(slots=True)
class LoadedPlugins:
    """The plugins of one App, registered with a PluginManager of its own."""

    manager: pluggy.PluginManager
    infos: list[PluginInfo] = field(default_factory=list[PluginInfo])
    hearing: frozenset[str] = frozenset()
    """The names of the plugins that want to hear of the bookkeeping of others."""
    _found: dict[str, Sequence[Implementation]] = field(
        default_factory=dict[str, "Sequence[Implementation]"], init=False, repr=False
    )

    def of_type(self, kind: type[T]) -> T | None:
        """The plugin that is a ``kind``; None where the App has none."""
        return next((p for p in self.manager.get_plugins() if isinstance(p, kind)), None)

    def names(self) -> list[str]:
        """The names of the active plugins, in order."""
        return [info.name for info in self.infos if info.status == "active"]

    def implements(self, hook: str) -> bool:
        """Whether any plugin implements the hook."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def implementations(self, hook: str) -> Sequence[Implementation]:
        """Each plugin's implementation by plugin name, taking every argument of the hook.

        Ordered by plugin name, so that nothing depends on the order of installation. Looked for once:
        a commit asks for them each time.
        """
        known = self._found.get(hook)
        if known is None:
            known = self._found[hook] = self._implementations(hook)
        return known

    def _implementations(self, hook: str) -> Sequence[Implementation]:
        found: list[Implementation] = []
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            name = str(implementation.plugin_name)
            found.append((name, _named(name, hook, implementation)))
        return sorted(found, key=lambda pair: pair[0])

    def observers(self, hook: str, *, bookkeeping: bool) -> Sequence[Implementation]:
        """The implementations that hear of a model: those of bookkeeping models (``_bookkeeping``) are
        heard of only by plugins that say ``hears_bookkeeping = True``."""
        found = self.implementations(hook)
        return [each for each in found if each[0] in self.hearing] if bookkeeping else found

    def collect(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        """Call a synchronous hook: each plugin's name and its result."""
        return [(name, call(**arguments)) for name, call in self.implementations(hook)]

    async def notify(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        """Call a hook that may be async, one plugin after the other."""
        results: list[tuple[str, Any]] = []
        for name, call in self.implementations(hook):
            results.append((name, await settled(call(**arguments), name, hook)))
        return results

    async def broadcast(self, hook: str, app: object, operations: Sequence[Operation]) -> None:
        """Tell every plugin what became of operations, also where one of them fails.

        Raises:
            EarnORMError: The first failure, after all were told.
        """
        failure: EarnORMError | None = None
        plain = [op for op in operations if op.model._bookkeeping is None]
        for name, call in self.implementations(hook):
            told = operations if name in self.hearing else plain
            if not told:
                continue
            try:
                await settled(call(app=app, operations=told), name, hook)
            except EarnORMError as error:
                failure = failure or error
        if failure is not None:
            raise failure


async def settled(result: Any, plugin: str, hook: str) -> Any:
    """Await a hook's result where it is awaitable; an error says whose it is."""
    if not isinstance(result, Awaitable):
        return result
    try:
        return await result
    except EarnORMError:
        raise
    except Exception as error:
        raise _failure(plugin, hook, error) from error


def _named(name: str, hook: str, implementation: pluggy.HookImpl) -> Callable[..., Any]:
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
    )


def signature(hook: str) -> str:
    """A hook with its expected signature, for messages."""
    parameters = list(inspect.signature(getattr(Hooks, hook)).parameters)
    return f"{hook}({', '.join(parameters)})"


def load(
    selection: Selection,
    settings: Mapping[str, object],
    builtin: Sequence[type] = (),
) -> LoadedPlugins:
    """Load and register the selected plugins.

    Args:
        selection: Which.
        settings: Each plugin's keyword to ``init``.
        builtin: Classes of the core's own plugins; they are always active.

    Raises:
        PluginError: A plugin is not installed, fails to load, or breaks the contract.
        ConfigurationError: Settings are not valid, or belong to no plugin.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    loaded = LoadedPlugins(manager)
    known = installed()
    for cls in builtin:
        _register(manager, plugin_name(cls), cls())
    for name, source in _selected(selection, known):
        point = known.get(name)
        distribution = _distribution(point) if point is not None and source is point else ("", "")
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
    return loaded


def _selected(
    selection: Selection, known: Mapping[str, importlib_metadata.EntryPoint]
) -> list[tuple[str, object]]:
    wanted: Iterable[object]
    wanted = list(known) if selection.plugins is None else list(selection.plugins)
    wanted = [*wanted, *(name for name in sorted(selection.required) if name not in wanted)]
    chosen: dict[str, object] = {}
    for each in wanted:
        name = plugin_name(each)
        if name in selection.disabled:
            continue
        if isinstance(each, str):
            if each not in known:
                hint = nearest(each, known)
                also = "" if not hint or each in hint else f"{hint}"
                raise PluginError(f"plugin {each!r} is not installed: {install_hint(each)}{also}")
            chosen.setdefault(name, known[each])
        elif name in chosen and chosen[name] is not each:
            raise PluginError(f"two plugins named {name!r} are selected; give one another name")
        else:
            chosen[name] = each
    return sorted(chosen.items())


def _instance(name: str, source: object, settings: object) -> Plugin:
    cls = _load(name, source) if isinstance(source, importlib_metadata.EntryPoint) else source
    _check_api(name, cls)
    if not isinstance(cls, type):
        if settings is not None:
            raise ConfigurationError(
                f"plugin {name!r} was handed in as an instance, which has its settings; "
                f"drop the keyword {name}=, or hand in the class"
            )
        return cls
    ask = getattr(cls, "settings", None)
    try:
        model = ask() if ask is not None else None
        if model is None:
            if settings is not None:
                raise ConfigurationError(f"plugin {name!r} takes no settings; drop {name}=")
            return cls()
        return cls(_validated(name, model, settings))
    except EarnORMError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {name!r} could not be instantiated: {type(error).__name__}: {error}"
        ) from error


def _load(name: str, point: importlib_metadata.EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        distribution, version = _distribution(point)
        raise PluginError(
            f"plugin {name!r} from {distribution} {version} failed to load: "
            f"{type(error).__name__}: {error}; repair it, or disable it "
            f"(disabled=[{name!r}] or EARNORM_DISABLED_PLUGINS={name})"
        ) from error


def _check_api(name: str, plugin: object) -> None:
    api = getattr(plugin, "api", None)
    if api is None:
        raise PluginError(
            f"plugin {name!r} does not say which API it was written for: 'api = {API}'"
        )
    if api != API:
        raise PluginError(
            f"plugin {name!r} was written for plugin API {api}, this is {API}; "
            f"install a version of it that fits"
        )


def _validated(name: str, model: type[pydantic.BaseModel], settings: object) -> pydantic.BaseModel:
    if isinstance(settings, model):
        return settings
    if settings is not None and not isinstance(settings, Mapping):
        raise ConfigurationError(
            f"{name}= takes a mapping of settings or a {model.__name__}, "
            f"not {type(settings).__name__}"
        )
    try:
        return model.model_validate(dict(settings or {}))
    except pydantic.ValidationError as error:
        # The input is left out: a setting may be a password.
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc']))}: {_setting_problem(p['type'], p['msg'], p['loc'], model)}"
            for p in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(f"settings of plugin {name!r}: {problems}") from None


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
        raise PluginError(f"plugin {name!r} breaks the contract: {error}{expected}") from error


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
            )
        raise PluginError(
            f"{name}= configures a plugin that is not installed: {install_hint(name)}"
        )
