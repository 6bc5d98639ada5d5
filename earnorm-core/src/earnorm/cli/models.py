"""``earnorm models``: lists models' parts with their packages, or what other plugins change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from earnorm.application import App
from earnorm.cli.app_source import NO_MODEL, AppSource
from earnorm.cli.options import AsJson, takes_source
from earnorm.exceptions import ConfigurationError
from earnorm.features.provenance.provenance import Contributions, Part, difference

Name = Annotated[str | None, typer.Argument(help="A model's name; without it every model.")]
With = Annotated[
    list[str] | None,
    typer.Option("--with", help="Show what selecting this installed plugin as well would change."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", help="Show what leaving this plugin out would change."),
]


@takes_source
def models(
    source: AppSource,
    name: Name = None,
    with_: With = None,
    without: Without = None,
    as_json: AsJson = False,
) -> None:
    """List fields, indexes and rules of models and the package that each is of; needs no database.

    With --with or --without a dry run: only what would come and what would go.
    """
    before, change = asyncio.run(_looked_at(source, name, with_ or (), without or ()))
    if change is None:
        _print(before, as_json, {"": before})
        return
    groups = {"+": list(change.added), "-": list(change.removed)}
    _print([*change.added, *change.removed], as_json, groups)
    if not as_json and not any(groups.values()):
        typer.echo("Nothing would change in the models.")


async def _looked_at(
    source: AppSource, name: str | None, more: Sequence[str], less: Sequence[str]
) -> tuple[list[Part], Contributions | None]:
    async with source.made() as app:
        before = _parts(app, name)
        if not more and not less:
            return before, None
        selected = dict(app.loaded.instances())
        selected |= {plugin: plugin for plugin in more if plugin not in selected}
        for plugin in less:
            selected.pop(plugin, None)
        other = App(
            "mongodb://localhost:27017",
            database="models",
            plugins=list(selected.values()),
            disabled=app.features.keys() - app.loaded.available,
        )
        return before, difference(before, _parts(other, name))


def _parts(app: App, name: str | None) -> list[Part]:
    with app.described():
        if name is None and not app.known_models():
            raise ConfigurationError(NO_MODEL)
        return app.parts(name)


def _print(parts: Sequence[Part], as_json: bool, groups: dict[str, list[Part]]) -> None:
    if as_json:
        if "" in groups:
            typer.echo(json.dumps([asdict(part) for part in parts], indent=2))
            return
        named = {"added": groups["+"], "removed": groups["-"]}
        shown = {key: [asdict(part) for part in group] for key, group in named.items()}
        typer.echo(json.dumps(shown, indent=2))
        return
    for sign, group in groups.items():
        for part in group:
            typer.echo(f"{sign} {part}" if sign else str(part))
