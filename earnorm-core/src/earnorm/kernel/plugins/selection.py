"""Discovery and selection of plugins, by metadata only: no plugin is imported.

``loading`` loads the selected plugins into an App.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import importlib_metadata

from earnorm.exceptions import ConfigurationError, PluginError, nearest
from earnorm.kernel.plugins.metadata import distribution_of, entry_points
from earnorm.kernel.plugins.project import NOTHING, ProjectSelection, project_selection

CORE_DISTRIBUTION = "earnorm-core"
HOUSE_PLUGINS: Final = ("audit", "cache", "pool", "security")
"""EarnORM's own plugins, which messages and programs may name before they are installed."""


@dataclass(slots=True)
class PluginInfo:
    """The information about one plugin, for ``earnorm plugins`` and ``app.plugins``."""

    name: str
    distribution: str = ""
    version: str = ""
    status: str = "available"
    """``active``, ``available`` (not yet decided), ``not selected``, ``disabled``, or ``ambiguous``
    where two distributions register the name."""
    reason: str = ""
    """The reason why it is not active."""
    hooks: tuple[str, ...] = ()
    """The hooks it implements; empty until it is loaded."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The plugins that an App wants.

    Args:
        plugins: Names, classes and instances; None means every installed plugin.
        disabled: Names that are never loaded.
        required: Names that must be active; nothing outside the program can switch them off.
        disabled_here: The part of ``disabled`` that the program itself names.
        project: The project's own selection, as far as it counts.
        chosen_by: The place that names the plugins: ``plugins=``, ``EARNORM_PLUGINS`` or the
            project's file; empty where every installed plugin is wanted.
    """

    plugins: tuple[str | type | object, ...] | None = None
    disabled: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    disabled_here: frozenset[str] = frozenset()
    project: ProjectSelection = NOTHING
    chosen_by: str = ""

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Selection:
        """Return the selection that the environment and the project make, without a program's."""
        return cls.of(None, (), (), environ, project=project_selection())

    @classmethod
    def of(
        cls,
        plugins: Iterable[str | type | object] | None,
        disabled: Iterable[str],
        required: Iterable[str],
        environ: Mapping[str, str],
        known: Installed | None = None,
        project: ProjectSelection = NOTHING,
    ) -> Selection:
        """Merge the selections of the program, of the environment and of the project.

        The program's own ``plugins=`` wins over ``EARNORM_PLUGINS``, and this over the project's.
        Names that the program and ``EARNORM_DISABLED_PLUGINS`` disable all count; those that the
        project disables count where that variable is not set, and neither the program nor
        ``EARNORM_PLUGINS`` names them.

        Raises:
            ConfigurationError: A required plugin is disabled from outside, or a text was given
                instead of a list of names.
        """
        for keyword, value in (
            ("plugins", plugins),
            ("disabled", disabled),
            ("required", required),
        ):
            if isinstance(value, str):
                raise ConfigurationError(f"{keyword}= takes a list of names: {keyword}=[{value!r}]")
        chosen_by = "" if plugins is None else "plugins="
        if plugins is None and environ.get("EARNORM_PLUGINS") is not None:
            plugins, chosen_by = _names(environ["EARNORM_PLUGINS"]), "EARNORM_PLUGINS"
        if plugins is not None:
            project = project._replace(plugins=None)
        outside = frozenset(_names(environ.get("EARNORM_DISABLED_PLUGINS", "")))
        wanted = frozenset(required)
        here = frozenset(disabled)
        forbidden = wanted & (outside | here)
        if forbidden:
            raise ConfigurationError(
                f"plugin {min(forbidden)!r} is required by this program and cannot be disabled; "
                f"take it out of EARNORM_DISABLED_PLUGINS and disabled="
            )
        chosen = None if plugins is None else tuple(plugins)
        if chosen is not None:
            named = {item for item in chosen if isinstance(item, str)}
            handed_in = [plugin for plugin in chosen if not isinstance(plugin, str)]
            known = installed() if known is None and handed_in else known
            handed_in_names = {plugin_name(p, known) for p in handed_in}
            chosen += tuple(sorted(wanted - named - handed_in_names))
            project = project._replace(disabled=project.disabled - named - handed_in_names)
        elif project.plugins is not None:
            chosen = (*project.plugins, *sorted(wanted.difference(project.plugins)))
            chosen_by = str(project.file)
        is_said = environ.get("EARNORM_DISABLED_PLUGINS") is not None
        project = project._replace(disabled=frozenset() if is_said else project.disabled - wanted)
        disabled_names = outside | here | project.disabled
        return cls(chosen, disabled_names, wanted, here, project, chosen_by)

    def source_of(self, name: str) -> str:
        """Return the part of a message that says which file selects a plugin; else an empty text."""
        return f" of {self.project.file}" if name in (self.project.plugins or ()) else ""

    def without(self, names: Collection[str]) -> Selection:
        """Return a copy that selects and requires none of these names."""
        plugins = self.plugins
        if plugins is not None:
            plugins = tuple(p for p in plugins if not (isinstance(p, str) and p in names))
        return replace(self, plugins=plugins, required=self.required.difference(names))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class Installed(Mapping[str, importlib_metadata.EntryPoint]):
    """The entry points of the installed plugins by name; nothing is imported.

    Args:
        points: Every entry point of the group.

    Attributes:
        rivals: The distributions that register one name, for each name that several register.
    """

    def __init__(self, points: Iterable[importlib_metadata.EntryPoint]) -> None:
        by_name: dict[str, importlib_metadata.EntryPoint] = {}
        rivals: dict[str, set[str]] = {}
        for point in points:
            same_name = by_name.setdefault(point.name, point)
            if same_name is point:  # to ask for its distribution reads a file
                continue
            if distribution_of(same_name) != distribution_of(point):
                both = {distribution_of(same_name)[0], distribution_of(point)[0]}
                rivals.setdefault(point.name, set()).update(both)
        self._points = dict(sorted(by_name.items()))
        self._by_class: dict[type, importlib_metadata.EntryPoint | None] = {}
        self.rivals = {name: sorted(rivals[name]) for name in sorted(rivals)}

    def __getitem__(self, name: str) -> importlib_metadata.EntryPoint:
        return self._points[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def point_of(self, cls: type) -> importlib_metadata.EntryPoint | None:
        """Return the entry point that names a class, or None."""
        if cls not in self._by_class:  # each plugin's name is asked for several times
            self._by_class[cls] = None
            for point in self._points.values():
                if _names_class(point, cls):
                    self._by_class[cls] = point
                    break
        return self._by_class[cls]

    def clash(self, name: str) -> str:
        """Return the sentence about the distributions that register one name; else an empty one."""
        if name not in self.rivals:
            return ""
        return (
            f"{' and '.join(self.rivals[name])} both register a plugin named {name!r}; "
            f"uninstall one of them"
        )


def _names_class(point: importlib_metadata.EntryPoint, cls: type) -> bool:
    """Return whether an entry point names a class. A module that nobody imported stays so."""
    module = sys.modules.get(point.module)
    if module is None:
        return (point.module, point.attr) == (cls.__module__, cls.__qualname__)
    value: object = module
    for part in point.attr.split("."):
        value = getattr(value, part, None)
    return value is cls


def installed() -> Installed:
    """Return the installed plugins; it reads metadata only."""
    return Installed(entry_points())


def plugin_name(plugin: object, known: Installed | None = None) -> str:
    """Return a plugin's name.

    It is the name of the entry point that names its class; else the class attribute ``name``; else
    the class's own name in lower case, without ``Plugin`` at its end.

    Args:
        plugin: A name, a class or an instance.
        known: The installed plugins; None means to look for them.

    Raises:
        PluginError: The class attribute ``name`` is no name.
    """
    if isinstance(plugin, str):
        return plugin
    cls = plugin if isinstance(plugin, type) else type(plugin)
    point = (installed() if known is None else known).point_of(cls)
    if point is not None:
        return point.name
    name = getattr(cls, "name", None)
    if name is not None:
        if not isinstance(name, str) or not name.strip():
            shown = repr(name) if isinstance(name, str | int) else f"a {type(name).__name__}"
            raise PluginError(
                f"plugin {cls.__module__}.{cls.__qualname__}: its class attribute 'name' is {shown}, not "
                f"a name; without it the plugin is named after its class"
            ).coded("hook_contract")
        return name
    return (cls.__name__.removesuffix("Plugin") or cls.__name__).lower()


def survey(selection: Selection, known: Installed | None = None) -> list[PluginInfo]:
    """List the installed plugins with their status in this selection; it reads metadata only."""
    known = installed() if known is None else known
    rows: list[PluginInfo] = []
    named = (
        None
        if selection.plugins is None
        else {plugin_name(plugin, known) for plugin in selection.plugins}
    )
    for name, point in known.items():
        info = PluginInfo(name, *distribution_of(point))
        if name in selection.disabled:
            info.status, info.reason = "disabled", "disabled= or EARNORM_DISABLED_PLUGINS names it"
            if name in selection.project.disabled:
                info.reason = f"{selection.project.file} disables it"
        elif named is not None and name not in named:
            info.status = "not selected"
            info.reason = f"{selection.chosen_by or 'plugins='} leaves it out"
        elif known.clash(name):
            info.status, info.reason = "ambiguous", known.clash(name)
        else:
            info.status = "active"
        rows.append(info)
    return rows


def install_hint(name: str) -> str:
    """Return the command that installs a plugin."""
    try:
        extras = importlib_metadata.metadata(CORE_DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib_metadata.PackageNotFoundError:
        extras = []
    package = f'"{CORE_DISTRIBUTION}[{name}]"' if name in extras else f"earnorm-{name}"
    return f"pip install {package}"


def remedy(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a missing plugin: the nearest name, else how to install it.

    To install a misspelt name would install whatever has it.
    """
    if name in HOUSE_PLUGINS:
        return f": {install_hint(name)}"
    hint = nearest(name, {*known, *HOUSE_PLUGINS})
    return hint if "did you mean" in hint else f": {install_hint(name)}"


def selected(selection: Selection, known: Installed) -> list[tuple[str, object]]:
    """Return the selected plugins by name, in order: a class, an instance or an entry point each.

    A plugin that is named and also handed in is one plugin.

    Raises:
        PluginError: One is not installed, or two have one name.
    """
    wanted: Iterable[object]
    wanted = list(known) if selection.plugins is None else list(selection.plugins)
    wanted = [*wanted, *sorted(selection.required)]
    names = [plugin_name(plugin, known) for plugin in wanted]
    chosen: dict[str, object] = {}
    for name, plugin in zip(names, wanted, strict=True):
        if name in selection.disabled:
            continue
        if not isinstance(plugin, str) and chosen.setdefault(name, plugin) is not plugin:
            raise PluginError(
                f"two plugins named {name!r} are selected; give one another name"
            ).coded("name_taken")
    for name in names:
        if name in selection.disabled or name in chosen:
            continue
        if name not in known:
            raise PluginError(
                f"plugin {name!r}{selection.source_of(name)} is not installed{remedy(name, known)}"
            )
        if known.clash(name):
            raise PluginError(known.clash(name)).coded("name_taken")
        chosen[name] = known[name]
    return sorted(chosen.items())
