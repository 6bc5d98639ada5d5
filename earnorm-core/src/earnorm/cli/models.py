"""``earnorm models``: lists models' parts with their packages, or what other plugins change."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from earnorm.application import App
from earnorm.cli.indexes import AsJson, Modules, import_modules
from earnorm.exceptions import ConfigurationError
from earnorm.features.provenance.provenance import Part, difference
from earnorm.kernel import registry
from earnorm.kernel.plugins import Selection, survey

Name = Annotated[str | None, typer.Argument(help="A model's name; without it every model.")]
With = Annotated[
    list[str] | None,
    typer.Option("--with", help="Show what selecting this installed plugin as well would change."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", help="Show what leaving this plugin out would change."),
]


def models(
    name: Name = None,
    modules: Modules = None,
    with_: With = None,
    without: Without = None,
    as_json: AsJson = False,
) -> None:
    """List fields, indexes and rules of models and the package that each is of; needs no database.

    With --with or --without a dry run: only what would come and what would go.
    """
    import_modules(modules or ())
    active = [r.name for r in survey(Selection.of_environment(os.environ)) if r.status == "active"]
    before = _parts(active, name)
    if not with_ and not without:
        _print(before, as_json, {"": before})
        return
    selected = [plugin for plugin in [*active, *(with_ or ())] if plugin not in (without or ())]
    change = difference(before, _parts(list(dict.fromkeys(selected)), name))
    groups = {"+": list(change.added), "-": list(change.removed)}
    _print([*change.added, *change.removed], as_json, groups)
    if not as_json and not any(groups.values()):
        typer.echo("Nothing would change in the models.")


def _parts(plugins: Sequence[str], name: str | None) -> list[Part]:
    app = App("mongomock://", database="models", plugins=plugins)
    with app.described():
        if name is None and not registry.definitions():
            raise ConfigurationError(
                "no model is defined: name the modules that define them, "
                "--models shop.models or EARNORM_MODELS"
            )
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
