"""``earnorm plugins``: the installed plugins, which are active, and why the others are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Annotated

import typer

from earnorm.application import App
from earnorm.cli.app_source import AppSource
from earnorm.cli.options import AsJson, takes_source
from earnorm.cli.table import print_table
from earnorm.kernel.contract.handed_in import HOOKS
from earnorm.kernel.layers import outermost_first
from earnorm.kernel.operations import OPERATIONS
from earnorm.kernel.plugins.selection import PluginInfo, Selection, install_hint, remedy, survey
from earnorm.kernel.plugins.tracing import layer_name

_COLUMNS = ("name", "distribution", "version", "status", "reason")

Hooks = Annotated[
    bool,
    typer.Option(
        "--hooks",
        help="Load the active plugins, and list the hooks of each; with models also the layers and "
        "steps that each has around their operations.",
    ),
]


@takes_source
def plugins(source: AppSource, hooks: Hooks = False, as_json: AsJson = False) -> None:
    """List the installed plugins, which of them are active here, and why the others are not.

    Without --hooks it reads metadata only: no plugin is imported, except by the program of --app.
    """
    if hooks:
        _print_hooks(asyncio.run(_contracts(source)), as_json)
        return
    rows = asyncio.run(_rows(source))
    if as_json:
        typer.echo(json.dumps([{c: getattr(row, c) for c in _COLUMNS} for row in rows], indent=2))
    elif not rows:
        typer.echo(f"No plugin is installed. One is, for example, by: {install_hint('cache')}")
    else:
        cells = [(r.name, r.distribution, r.version, r.status, r.reason) for r in rows]
        print_table(("plugin", *_COLUMNS[1:]), cells, status=3)


async def _rows(source: AppSource) -> list[PluginInfo]:
    if source.factory is None:
        return _selected(source.selection())
    async with source.made() as app:
        return sorted(app.plugins, key=lambda row: row.name)


def _selected(selection: Selection) -> list[PluginInfo]:
    """List the installed plugins, and those that are asked for and are not installed."""
    rows = survey(selection)
    known = {row.name for row in rows}
    missing = {str(name) for name in selection.plugins or ()} - known - selection.disabled
    rows += [
        PluginInfo(name, status="not installed", reason=remedy(name, known).lstrip(";: "))
        for name in missing
    ]
    return sorted(rows, key=lambda row: row.name)


# -- hooks, layers and steps ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that a plugin has around an operation of a model."""

    model: str
    operation: str
    layer: str
    number: int


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that a plugin has in the write path of a model."""

    model: str
    stage: str
    step: str


@dataclass(frozen=True, slots=True)
class _Contract:
    """The part that one plugin takes in an App."""

    name: str
    distribution: str
    version: str
    hooks: dict[str, str]
    """The meaning of each hook that it implements."""
    layers: list[_Layer] = field(default_factory=list[_Layer])
    steps: list[_Step] = field(default_factory=list[_Step])


async def _contracts(source: AppSource) -> list[_Contract]:
    async with source.made() as app:
        contracts = {
            info.name: _Contract(
                info.name,
                info.distribution,
                info.version,
                {hook: _meaning(hook) for hook in info.hooks},
            )
            for info in app.plugins
            if info.status == "active"
        }
        if source.models or source.factory is not None:
            async with nullcontext() if app.is_started else app._lifecycle.described():
                _add_places(app, contracts)
        return [contracts[name] for name in sorted(contracts)]


def _meaning(hook: str) -> str:
    """Return the first line of a hook's documentation."""
    return (HOOKS[hook].__doc__ or "").strip().partition("\n")[0]


def _add_places(app: App, contracts: dict[str, _Contract]) -> None:
    for model in sorted(app.known_models(), key=lambda model: model._name):
        bound = app.bind(model)
        for operation in OPERATIONS:
            for placed in outermost_first(bound.layers(operation)):
                if placed.plugin in contracts:
                    contracts[placed.plugin].layers.append(
                        _Layer(model._name, operation, layer_name(placed.layer), int(placed.layer))
                    )
        for step in bound.steps():
            if step.plugin in contracts:
                contracts[step.plugin].steps.append(_Step(model._name, step.stage.name, step.name))


def _print_hooks(contracts: Sequence[_Contract], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(contract) for contract in contracts], indent=2))
        return
    if not contracts:
        typer.echo("No plugin is active.")
        return
    print_table(
        ("plugin", "hook", "what it does"),
        [(c.name, hook, meaning) for c in contracts for hook, meaning in c.hooks.items()],
    )
    layers = [
        (c.name, layer.model, layer.operation, f"{layer.layer} {layer.number}")
        for c in contracts
        for layer in c.layers
    ]
    steps = [(c.name, step.model, step.stage, step.step) for c in contracts for step in c.steps]
    if layers:
        typer.echo()
        print_table(("plugin", "model", "operation", "layer"), layers)
    if steps:
        typer.echo()
        print_table(("plugin", "model", "stage", "step"), steps)
