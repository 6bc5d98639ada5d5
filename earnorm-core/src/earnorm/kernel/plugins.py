"""Discovery and selection of plugins, by metadata only: no plugin is imported.

``loading`` loads the selected plugins into an App.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import importlib_metadata

from earnorm.exceptions import ConfigurationError, PluginError, nearest
from earnorm.kernel.hookspecs import GROUP

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
    """``active``, ``available`` (not yet decided), ``not selected`` or ``disabled``."""
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
    """

    plugins: tuple[str | type | object, ...] | None = None
    disabled: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    disabled_here: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        plugins: Iterable[str | type | object] | None,
        disabled: Iterable[str],
        required: Iterable[str],
        environ: Mapping[str, str],
    ) -> Selection:
        """Merge the program's selection with ``EARNORM_PLUGINS`` and ``EARNORM_DISABLED_PLUGINS``.

        The program's own ``plugins=`` wins over ``EARNORM_PLUGINS``; all disabled names count.

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
        if plugins is None and environ.get("EARNORM_PLUGINS") is not None:
            plugins = _names(environ["EARNORM_PLUGINS"])
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
            chosen += tuple(sorted(wanted - named - {plugin_name(p) for p in chosen}))
        return cls(chosen, outside | here, wanted, here)

    def without(self, names: Collection[str]) -> Selection:
        """Return a copy that selects and requires none of these names."""
        plugins = self.plugins
        if plugins is not None:
            plugins = tuple(p for p in plugins if not (isinstance(p, str) and p in names))
        return replace(self, plugins=plugins, required=self.required.difference(names))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def plugin_name(plugin: object) -> str:
    """Return a plugin's name: its ``name``, or its class name without ``Plugin``."""
    if isinstance(plugin, str):
        return plugin
    cls = plugin if isinstance(plugin, type) else type(plugin)
    name = getattr(cls, "name", None)
    return name if isinstance(name, str) else cls.__name__.removesuffix("Plugin").lower()


def installed() -> dict[str, importlib_metadata.EntryPoint]:
    """Return the installed plugins by name; nothing is imported.

    Raises:
        PluginError: Two distributions register plugins of the same name.
    """
    points: dict[str, importlib_metadata.EntryPoint] = {}
    for point in importlib_metadata.entry_points(group=GROUP):
        same_name = points.get(point.name)
        if same_name is not None and distribution_of(same_name) != distribution_of(point):
            raise PluginError(
                f"{distribution_of(same_name)[0]} and {distribution_of(point)[0]} both register a plugin "
                f"named {point.name!r}; uninstall one of them"
            )
        points[point.name] = point
    return dict(sorted(points.items()))


def distribution_of(point: importlib_metadata.EntryPoint) -> tuple[str, str]:
    """Return the name and the version of the distribution that registers a plugin."""
    distribution = point.dist
    return (distribution.name, distribution.version) if distribution else ("", "")


def survey(
    selection: Selection, known: Mapping[str, importlib_metadata.EntryPoint] | None = None
) -> list[PluginInfo]:
    """List the installed plugins with their status in this selection; it reads metadata only."""
    rows: list[PluginInfo] = []
    named = None if selection.plugins is None else {plugin_name(p) for p in selection.plugins}
    for name, point in (installed() if known is None else known).items():
        info = PluginInfo(name, *distribution_of(point))
        if name in selection.disabled:
            info.status, info.reason = "disabled", "disabled= or EARNORM_DISABLED_PLUGINS names it"
        elif named is not None and name not in named:
            info.status, info.reason = "not selected", "plugins= or EARNORM_PLUGINS leaves it out"
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


def selected(
    selection: Selection, known: Mapping[str, importlib_metadata.EntryPoint]
) -> list[tuple[str, object]]:
    """Return the selected plugins by name, in order: a class, an instance or an entry point each.

    Raises:
        PluginError: One is not installed, or two have one name.
    """
    wanted: Iterable[object]
    wanted = list(known) if selection.plugins is None else list(selection.plugins)
    wanted = [*wanted, *(name for name in sorted(selection.required) if name not in wanted)]
    chosen: dict[str, object] = {}
    for plugin in wanted:
        name = plugin_name(plugin)
        if name in selection.disabled:
            continue
        if isinstance(plugin, str):
            if plugin not in known:
                hint = nearest(plugin, known)
                also = "" if not hint or plugin in hint else f"{hint}"
                raise PluginError(
                    f"plugin {plugin!r} is not installed: {install_hint(plugin)}{also}"
                )
            chosen.setdefault(name, known[plugin])
        elif name in chosen and chosen[name] is not plugin:
            raise PluginError(f"two plugins named {name!r} are selected; give one another name")
        else:
            chosen[name] = plugin
    return sorted(chosen.items())
