"""The core's commands, and the group to which plugins add theirs.

``plugins``, ``doctor`` and ``version`` are found without importing a plugin. A plugin is imported
only for a name that the core doesn't know, for ``--help``, and by ``doctor``.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup
from typing_extensions import override

from earnorm.cli import doctor as checks
from earnorm.cli.contributed import Contributions, contributions
from earnorm.cli.indexes import indexes
from earnorm.cli.models import models
from earnorm.cli.recompute import recompute
from earnorm.exceptions import EarnORMError
from earnorm.kernel.plugins import PluginInfo, Selection, install_hint, survey

STYLES: Mapping[str, str] = {
    "active": "green",
    "ok": "green",
    "warning": "yellow",
    "not selected": "yellow",
    "disabled": "yellow",
    "error": "bold red",
    "not installed": "bold red",
}


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
        command = self.contributed.commands.get(cmd_name)
        if command is None:
            # The missing command may belong to a plugin that did not load.
            _warn(self.contributed.problems)
        return command

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EarnORMError as error:
            typer.echo(f"earnorm: {error}", err=True)
            raise typer.Exit(1) from None


def _warn(problems: Sequence[str]) -> None:
    for problem in problems:
        typer.echo(f"warning: {problem}", err=True)


application = typer.Typer(
    name="earnorm",
    help="Look at an EarnORM deployment: its plugins, its server, what is wrong with it.",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

application.add_typer(indexes)
application.command()(models)
application.command()(recompute)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@application.callback()
def earnorm() -> None:
    """Look at an EarnORM deployment: its plugins, its server, what is wrong with it."""


@application.command()
def version() -> None:
    """Print the versions of EarnORM, its drivers and Python."""
    for name, number in checks.versions().items():
        typer.echo(f"{name} {number}")
    typer.echo(f"Python {platform.python_version()}")


@application.command()
def plugins(as_json: AsJson = False) -> None:
    """List the installed plugins, which of them are active here, and why the others are not.

    Reads metadata only: no plugin is imported.
    """
    rows = plugin_rows(os.environ)
    if as_json:
        columns = ("name", "distribution", "version", "status", "reason")
        typer.echo(json.dumps([{c: getattr(row, c) for c in columns} for row in rows], indent=2))
    elif not rows:
        typer.echo(f"No plugin is installed. One is, for example, by: {install_hint('cache')}")
    else:
        _print_table(
            ("plugin", "distribution", "version", "status", "reason"),
            [(r.name, r.distribution, r.version, r.status, r.reason) for r in rows],
            status=3,
        )


def plugin_rows(environ: Mapping[str, str]) -> list[PluginInfo]:
    """List the installed plugins, and those that the environment asks for and are not installed."""
    selection = Selection.of_environment(environ)
    rows = survey(selection)
    known = {row.name for row in rows}
    missing = {str(name) for name in selection.plugins or ()} - known - selection.disabled
    rows += [
        PluginInfo(name, status="not installed", reason=install_hint(name)) for name in missing
    ]
    return sorted(rows, key=lambda row: row.name)


@application.command()
def doctor(
    uri: Annotated[
        str | None,
        typer.Option(envvar="EARNORM_URI", show_envvar=True, help="The server to check."),
    ] = None,
    database: Annotated[
        str | None, typer.Option(envvar="EARNORM_DATABASE", help="The database to check.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with this deployment, and what to do about it; exit 1 where there is an error."""
    findings = asyncio.run(checks.examine(os.environ, uri, database))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print_table(
            ("level", "what", "what to do"),
            [(f.level, f.what, f.what_to_do) for f in findings],
            status=0,
        )
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, status: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Text, not str, because rich would read a message in brackets as markup.
        cells = [Text(cell) for cell in row]
        cells[status].stylize(STYLES.get(row[status], ""))
        table.add_row(*cells)
    Console().print(table)


def run() -> None:
    """Run the command line with this process's arguments."""
    application(prog_name="earnorm")
