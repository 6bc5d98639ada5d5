"""The commands of plugins: this module finds and checks them, and gives them their App."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from types import SimpleNamespace
from typing import Annotated, Any, get_type_hints

import typer

from earnorm.application import App
from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError
from earnorm.kernel.contract import check_hooks, checked_commands, signature
from earnorm.kernel.loading import check_api, load_class
from earnorm.kernel.plugins import Selection, installed, survey

APP = "app"
"""The name of the parameter that gets the opened App."""
Function = Callable[..., object]


@dataclass(slots=True)
class Contributions:
    """The commands of the active plugins, and the problems of broken ones."""

    commands: dict[str, Any] = field(default_factory=dict[str, Any])
    """Typer's command objects, which have no public type, by name."""
    problems: list[str] = field(default_factory=list[str])


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
                    raise PluginError(
                        f"plugin {plugin!r} brings a command {name!r}, which {owners[name]} has"
                    )
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
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    try:
        single.command(name, help=inspect.getdoc(function))(_plain(function))
        return typer.main.get_command(single)
    except EarnORMError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {plugin!r}: its command {name!r} cannot be offered: {error}"
        ) from error


def _plain(function: Function) -> Function:
    """Make a synchronous function with two options for the connection instead of ``app``."""
    parameters = dict(inspect.signature(function).parameters)
    wants_app = parameters.pop(APP, None) is not None
    # The annotation of `app` is left out, as its class may be imported for type checkers only.
    stub = SimpleNamespace(
        __annotations__={
            n: p.annotation
            for n, p in parameters.items()
            if p.annotation is not inspect.Parameter.empty
        }
    )
    hints = get_type_hints(stub, function.__globals__, include_extras=True)
    parameters = {
        n: p.replace(annotation=hints.get(n, p.annotation)) for n, p in parameters.items()
    }
    if wants_app:
        parameters |= _CONNECTION

    @wraps(function)
    def command(**values: Any) -> None:
        uri, database = (values.pop(name, None) for name in _CONNECTION)
        asyncio.run(_call(function, values, wants_app, uri, database))

    keyword = inspect.Parameter.KEYWORD_ONLY
    vars(command).pop("__wrapped__")  # else inspect follows it and finds the parameter `app`
    vars(command)["__signature__"] = inspect.Signature(
        [parameter.replace(kind=keyword) for parameter in parameters.values()]
    )
    command.__annotations__ = {
        n: p.annotation
        for n, p in parameters.items()
        if p.annotation is not inspect.Parameter.empty
    }
    return command


async def _call(
    function: Function,
    values: dict[str, Any],
    wants_app: bool,
    uri: str | None,
    database: str | None,
) -> None:
    if not wants_app:
        await _settle(function(**values))
        return
    if not uri or not database:
        raise ConfigurationError(
            "this command needs a database: --uri and --database, or EARNORM_URI and EARNORM_DATABASE"
        )
    async with App(uri, database=database) as app:
        await _settle(function(**{APP: app}, **values))


async def _settle(result: object) -> None:
    if isinstance(result, Awaitable):
        await result


def _option(name: str, variable: str, help: str) -> inspect.Parameter:
    return inspect.Parameter(
        f"earnorm_{name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str | None, typer.Option(f"--{name}", envvar=variable, help=help, show_default=False)
        ],
    )


_CONNECTION: dict[str, inspect.Parameter] = {
    parameter.name: parameter
    for parameter in (
        _option("uri", "EARNORM_URI", "The server of the App."),
        _option("database", "EARNORM_DATABASE", "The database of the App."),
    )
}
