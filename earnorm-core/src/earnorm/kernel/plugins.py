"""Find, select and list plugins; nothing of theirs is imported. Their way into an App stands in ``loading``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import importlib_metadata

from earnorm.exceptions import ConfigurationError, PluginError, nearest
from earnorm.kernel.hookspecs import GROUP

CORE_DISTRIBUTION = "earnorm-core"


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
        if other is not None and distribution_of(other) != distribution_of(point):
            raise PluginError(
                f"{distribution_of(other)[0]} and {distribution_of(point)[0]} both register a plugin "
                f"named {point.name!r}; uninstall one of them"
            )
        found[point.name] = point
    return dict(sorted(found.items()))


def distribution_of(point: importlib_metadata.EntryPoint) -> tuple[str, str]:
    """The name and the version of the distribution that registers a plugin."""
    distribution = point.dist
    return (distribution.name, distribution.version) if distribution else ("", "")


def survey(
    selection: Selection, known: Mapping[str, importlib_metadata.EntryPoint] | None = None
) -> list[PluginInfo]:
    """What is installed, and what this selection makes of it; reads metadata only."""
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
    """The command that brings a plugin."""
    try:
        extras = importlib_metadata.metadata(CORE_DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib_metadata.PackageNotFoundError:
        extras = []
    package = f'"{CORE_DISTRIBUTION}[{name}]"' if name in extras else f"earnorm-{name}"
    return f"pip install {package}"


def selected(
    selection: Selection, known: Mapping[str, importlib_metadata.EntryPoint]
) -> list[tuple[str, object]]:
    """The selected plugins by name, in order: each a class, an instance, or the entry point of one.

    Raises:
        PluginError: One is not installed, or two have one name.
    """
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
