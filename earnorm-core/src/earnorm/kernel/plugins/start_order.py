"""The order in which an App starts its plugins, from what each requires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from earnorm.exceptions import PluginError
from earnorm.kernel.plugins.selection import remedy
from earnorm.kernel.plugins.versions import fits, parse_requirement


class Available(NamedTuple):
    """The plugins that an App has and has not, to judge what others require.

    Attributes:
        versions: The version of each active plugin and feature by name; empty if it has none.
        absent: The reason for each other known name.
    """

    versions: Mapping[str, str]
    absent: Mapping[str, str]


def start_order(plugins: Mapping[str, object], available: Available) -> list[str]:
    """Return the names of plugins in the order of their start: each after what it requires.

    Plugins that do not depend on each other come in the order of their names.

    Args:
        plugins: The instance of each active plugin by name.
        available: What the App has.

    Raises:
        PluginError: A requirement cannot be met, or plugins require each other.
    """
    needs = {
        name: [
            required for required in requirements(name, plugin, available) if required in plugins
        ]
        for name, plugin in sorted(plugins.items())
    }
    order: dict[str, None] = {}

    def add(name: str, dependents: tuple[str, ...]) -> None:
        if name in dependents:
            circle = [*dependents[dependents.index(name) :], name]
            raise PluginError(
                f"plugins require each other: {' -> '.join(circle)}; one of them must do without"
            ).coded("plugin_requires")
        if name not in order:
            for required in needs[name]:
                add(required, (*dependents, name))
            order[name] = None

    for name in needs:
        add(name, ())
    return list(order)


def requirements(name: str, plugin: object, available: Available) -> list[str]:
    """Return the names that a plugin requires (``requires = ["security>=0.1"]``), sorted.

    Raises:
        PluginError: A requirement cannot be met, or is none.
    """
    texts = getattr(plugin, "requires", ())
    if not isinstance(texts, list | tuple):
        _refuse(
            name,
            f"'requires' is a list of names, as in requires = ['security>=0.1'], not {texts!r}",
        )
    names: set[str] = set()
    for text in texts:
        parsed = parse_requirement(text) if isinstance(text, str) else None
        if parsed is None:
            _refuse(
                name, f"{text!r} in 'requires' is no name with a version, as in 'security>=0.1'"
            )
        required, specifier = parsed
        _check(name, text, required, specifier, available)
        names.add(required)
    return sorted(names)


def _check(name: str, text: str, required: str, specifier: str, available: Available) -> None:
    version = available.versions.get(required)
    if version is None:
        reason = available.absent.get(required)
        if reason is None:
            known = {*available.versions, *available.absent}
            reason = f"is not installed{remedy(required, known)}"
        _refuse(name, f"it requires {text!r}, and {required!r} {reason}")
    if not specifier:
        return
    if not version:
        _refuse(
            name,
            f"it requires {text!r}, and {required!r} has no version; "
            f"give its class one: version = '1.0'",
        )
    if not fits(version, specifier):
        _refuse(name, f"it requires {text!r}, and this is {required} {version}; install another")


def _refuse(name: str, text: str) -> NoReturn:
    raise PluginError(f"plugin {name!r}: {text}").coded("plugin_requires")
