"""The commands of plugins: this module finds and checks them, and gives them their App."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import typer

from earnorm.cli.app_source import AppSource
from earnorm.cli.options import Function, command_of
from earnorm.exceptions import EarnORMError, PluginError
from earnorm.kernel.contract.handed_in import check_hooks, checked_commands, signature
from earnorm.kernel.plugins.loading import check_api, load_class
from earnorm.kernel.plugins.selection import Selection, installed, survey

APP = "app"
"""The name of the parameter that gets the opened App."""


@dataclass(slots=True)
class Contributions:
    """The commands of the active plugins, and the problems of broken ones."""

    commands: dict[str, Any] = field(default_factory=dict[str, Any])
    """Typer's command objects, which have no public type, by name."""
    problems: list[str] = field(default_factory=list[str])
    contested: dict[str, str] = field(default_factory=dict[str, str])
    """The commands that two plugins bring, each with the problem; neither plugin's is offered."""


def contributions(taken: frozenset[str]) -> Contributions:
    """Load the active plugins and collect their commands; a broken plugin becomes a problem.

    Args:
        taken: The names of the core's own commands.
    """
    result = Contributions()
    owners: dict[str, str] = dict.fromkeys(taken, "earnorm itself")
    try:
        points = installed()
        rows = survey(Selection.of_environment(os.environ), points)
    except EarnORMError as error:
        result.problems.append(str(error))
        return result
    result.problems += [row.reason for row in rows if row.status == "ambiguous"]
    for plugin in (row.name for row in rows if row.status == "active"):
        try:
            functions = commands_of(plugin, load_class(plugin, points[plugin]))
            for name, function in functions.items():
                if name in owners:
                    told = f"plugin {plugin!r} brings a command {name!r}, which {owners[name]} has"
                    if name not in taken:
                        result.contested[name] = told
                        result.commands.pop(name, None)
                    raise PluginError(told)
                result.commands[name] = typer_command(plugin, name, function)
                owners[name] = f"plugin {plugin!r}"
        except EarnORMError as error:
            result.problems.append(str(error))
    return result


def commands_of(plugin: str, cls: object) -> Mapping[str, Function]:
    """Return the commands of a plugin's class.

    Raises:
        PluginError: The class was written for another API, or its hook fails.
    """
    check_api(plugin, cls)
    check_hooks(plugin, cls)
    hook = getattr(cls, "register_commands", None)
    if hook is None:
        return {}
    expected = f"@staticmethod {signature('register_commands').replace('self', '')}"
    try:
        functions = hook()
    except Exception as error:
        raise PluginError(
            f"plugin {plugin!r} failed in its hook {expected}: {type(error).__name__}: {error}"
        ) from error
    return dict(checked_commands(plugin, functions))


def typer_command(plugin: str, name: str, function: Function) -> Any:
    """Make a command of a function: parameters become options and arguments, ``app`` an opened App.

    Raises:
        PluginError: A parameter's annotation cannot be resolved, or typer doesn't know the type.
    """
    try:
        # Without the options of the App, to see which names its author has taken.
        bare = _offered(name, function, None)
        taken = {option for parameter in bare.params for option in parameter.opts}
        return _offered(name, function, taken)
    except EarnORMError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {plugin!r}: its command {name!r} cannot be offered: {error}"
        ) from error


def _offered(name: str, function: Function, taken: Collection[str] | None) -> Any:
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command = command_of(function, APP, _run, taken)
    single.command(name, help=inspect.getdoc(function))(command)
    return typer.main.get_command(single)


def _run(call: Callable[..., object], source: AppSource | None) -> None:
    async def run() -> None:
        if source is None:
            await _settle(call())
            return
        async with source.opened() as app:
            await _settle(call(app))

    asyncio.run(run())


async def _settle(result: object) -> None:
    if isinstance(result, Awaitable):
        await result
