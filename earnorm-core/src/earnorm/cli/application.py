"""The core's commands, and the group to which plugins add theirs.

``plugins``, ``doctor`` and ``version`` are found without importing a plugin. A plugin is imported
only for a name that the core doesn't know, for ``--help``, and by ``doctor``.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from earnorm.cli import doctor as checks
from earnorm.cli.app_source import AppSource
from earnorm.cli.contributed import Contributions, contributions
from earnorm.cli.failures import reported
from earnorm.cli.indexes import indexes
from earnorm.cli.models import models
from earnorm.cli.new import new
from earnorm.cli.options import AsJson, TracebackOption, takes_source
from earnorm.cli.plugins import plugins
from earnorm.cli.recompute import recompute
from earnorm.cli.table import print_table
from earnorm.exceptions import PluginError


class _Commands(TyperGroup):
    """The group of the core's commands; plugins' commands are loaded when they are needed."""

    _contributed: Contributions | None = None

    @property
    def contributed(self) -> Contributions:
        """The plugins' commands; the plugins are loaded on the first access."""
        if self._contributed is None:
            self._contributed = contributions(frozenset(self.commands))
        return self._contributed

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        # --help calls this and must stay useful if a plugin is broken, so problems are warnings.
        _warn(self.contributed.problems)
        return [*self.commands, *sorted(self.contributed.commands)]

    @override
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if cmd_name in self.contributed.contested:
            raise PluginError(self.contributed.contested[cmd_name]).coded("name_taken")
        command = self.contributed.commands.get(cmd_name)
        if command is None:
            # The missing command may belong to a plugin that did not load.
            _warn(self.contributed.problems)
        return command

    @override
    def main(self, *args: Any, **options: Any) -> Any:
        with reported():
            return super().main(*args, **options)


def _warn(problems: Sequence[str]) -> None:
    for problem in problems:
        typer.echo(f"warning: {problem}", err=True)


application = typer.Typer(
    name="earnorm",
    help="Look at an EarnORM deployment: its plugins, its server, what is wrong with it.",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

application.add_typer(indexes)
application.add_typer(new)
application.command()(models)
application.command()(recompute)


def _print_versions() -> None:
    for name, number in {**checks.versions(), **checks.plugin_versions()}.items():
        typer.echo(f"{name} {number}")
    typer.echo(f"Python {platform.python_version()}")


def _version_asked(is_asked: bool) -> None:
    if is_asked:
        _print_versions()
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Print the versions of EarnORM, its drivers, the installed plugins and Python.",
        callback=_version_asked,
        is_eager=True,
        show_default=False,
    ),
]


@application.callback()
def earnorm(traceback: TracebackOption = False, version: VersionOption = False) -> None:
    """Look at an EarnORM deployment: its plugins, its server, what is wrong with it."""


@application.command()
def version() -> None:
    """Print the versions of EarnORM, its drivers, the installed plugins and Python."""
    _print_versions()


application.command()(plugins)


@application.command()
@takes_source
def doctor(source: AppSource, as_json: AsJson = False) -> None:
    """Say what is wrong with this deployment, and what to do about it; exit 1 where there is an error."""
    findings = asyncio.run(checks.examine(os.environ, source))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_table(
            ("level", "what", "what to do"),
            [(f.level, f.what, f.what_to_do) for f in findings],
            status=0,
        )
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def run() -> None:
    """Run the command line with this process's arguments."""
    application(prog_name="earnorm")
