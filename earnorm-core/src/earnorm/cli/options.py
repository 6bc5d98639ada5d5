"""The options with which every command is told its App, and how a command takes them.

A command of the core has a parameter ``source`` for it, one of a plugin a parameter ``app``. On the
command line it has these options instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal, get_type_hints

import typer

from earnorm.cli.app_source import AppSource
from earnorm.cli.failures import show_tracebacks

Function = Callable[..., object]
Run = Callable[[Callable[..., object], AppSource | None], object]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]
TracebackOption = Annotated[
    bool,
    typer.Option(
        "--traceback",
        help="Show the traceback of an error (also EARNORM_DEBUG=1).",
        callback=show_tracebacks,
        show_default=False,
    ),
]

_Part = Literal["app", "uri", "database", "settings", "models"]
_OPTIONS: Final[Mapping[_Part, tuple[Any, tuple[str, ...], str]]] = {
    "app": (
        str | None,
        ("--app",),
        "The program's own App, or the function that makes it: shop.main:make_app. "
        "It needs no --uri, --database or --settings.",
    ),
    "uri": (str | None, ("--uri",), "The server."),
    "database": (str | None, ("--database",), "The database."),
    "settings": (
        Path | None,
        ("--settings",),
        "A TOML or JSON file with the keywords of App, settings of plugins among them.",
    ),
    "models": (
        list[str] | None,
        ("--models", "-m"),
        "A module that defines models; may be repeated.",
    ),
}
"""The type, the names and the help of each option, by the part of the source that it gives."""
_BESIDE_AN_APP: Final[tuple[_Part, ...]] = ("uri", "database", "settings")
"""The parts that an App of the program has itself."""
_CONTEXT: Final = "earnorm_context"
_TRACEBACK: Final = "earnorm_traceback"


def takes_source(function: Function) -> Function:
    """Give a command of the core the options of its App in the place of its ``source``."""
    return command_of(function, "source", lambda call, source: call(source))


def command_of(
    function: Function, parameter: str, run: Run, taken: Collection[str] | None = ()
) -> Function:
    """Make the function of a command, in the form that typer takes.

    Args:
        function: The function of the command's author.
        parameter: The parameter in the place of which the command has the options of its App; a
            function without it has none of them.
        run: Runs the command. It is called with the author's function, which then takes the value
            of ``parameter`` alone (or nothing), and with the source of the App (or None).
        taken: Names of options that the author's function has itself. An option of the App with
            such a name is ``--earnorm-models`` instead of ``--models``. None adds no option.
    """
    own = dict(inspect.signature(function).parameters)
    wants_app = own.pop(parameter, None) is not None
    # The annotation of `parameter` is left out: its class may be imported for type checkers only.
    stub = SimpleNamespace(
        __annotations__={
            n: p.annotation for n, p in own.items() if p.annotation is not inspect.Parameter.empty
        }
    )
    hints = get_type_hints(stub, function.__globals__, include_extras=True)
    parameters = [p.replace(annotation=hints.get(n, p.annotation)) for n, p in own.items()]
    if taken is not None:
        parameters += _parameters(wants_app, taken)

    @wraps(function)
    def command(**values: Any) -> None:
        values.pop(_TRACEBACK, None)
        context = values.pop(_CONTEXT, None)
        given: dict[_Part, Any] = {
            part: values.pop(_keyword(part), None) for part in _OPTIONS if wants_app
        }

        def call(*value: object) -> object:
            return function(**dict(zip([parameter], value, strict=False)), **values)

        run(call, _source(context, given) if wants_app else None)

    vars(command).pop("__wrapped__")  # else inspect follows it and finds the replaced parameter
    vars(command)["__signature__"] = inspect.Signature(
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    command.__annotations__ = {
        p.name: p.annotation for p in parameters if p.annotation is not inspect.Parameter.empty
    }
    return command


def _keyword(part: _Part) -> str:
    return f"earnorm_{part}"


def _parameters(wants_app: bool, taken: Collection[str]) -> list[inspect.Parameter]:
    """Return the parameters that a command has beside those of its author."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters: list[inspect.Parameter] = []
    if wants_app:
        parameters.append(inspect.Parameter(_CONTEXT, keyword, annotation=typer.Context))
        for part, (kind, names, text) in _OPTIONS.items():
            free = [name for name in names if name not in taken]
            if names[0] in taken:
                free.insert(0, f"--earnorm-{part}")
            option = typer.Option(
                *free, envvar=f"EARNORM_{part.upper()}", help=text, show_default=False
            )
            parameters.append(
                inspect.Parameter(
                    _keyword(part), keyword, default=None, annotation=Annotated[kind, option]
                )
            )
    if "--traceback" not in taken:
        parameters.append(
            inspect.Parameter(_TRACEBACK, keyword, default=False, annotation=TracebackOption)
        )
    return parameters


def _source(context: typer.Context, given: Mapping[_Part, Any]) -> AppSource:
    """Return the source that options and environment give; an option wins over the environment.

    Raises:
        typer.BadParameter: They contradict each other, or one cannot be right.
    """
    typed = {part for part in given if given[part] and _is_typed(context, part)}
    beside = [f"--{part}" for part in _BESIDE_AN_APP if part in typed]
    models = tuple(given["models"] or ())
    factory: str | None = given["app"] or None
    if "app" in typed and beside:
        raise typer.BadParameter(
            f"--app gives the whole App: leave out {' and '.join(beside)}, or leave out --app"
        )
    if factory is None or beside:
        return AppSource(None, given["uri"], given["database"], models, given["settings"] or None)
    module, colon, attribute = factory.partition(":")
    if not (module and colon and attribute):
        raise typer.BadParameter(
            "--app (or EARNORM_APP) names a module and a function or an App in it: shop.main:make_app"
        )
    return AppSource(factory, models=models)


def _is_typed(context: typer.Context, part: _Part) -> bool:
    source = context.get_parameter_source(_keyword(part))
    return source is not None and source.name == "COMMANDLINE"
