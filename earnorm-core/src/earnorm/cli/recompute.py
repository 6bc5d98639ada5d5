"""``earnorm recompute``: computes stored fields again, and stores defaults that documents lack."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from earnorm.application import App
from earnorm.cli.indexes import AsJson, Database, DryRun, Modules, Uri, run_with_app
from earnorm.features.backfilling.backfill import Backfilled, backfill, fields_with_default
from earnorm.features.computed.recomputing import Recomputed


def recompute(
    uri: Uri = None,
    database: Database = None,
    models: Modules = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Only this model, by its name.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", help="Only this field; may be repeated.")
    ] = None,
    defaults: Annotated[
        bool,
        typer.Option(
            "--defaults", help="Store the defaults of fields that documents lack, instead."
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compute stored fields anew, and write the values that differ. Reads in batches, in bounded memory."""
    if field and model is None:
        raise typer.BadParameter("--field goes with --model")

    if defaults:
        _store_defaults(uri, database, models, model, field or [], dry_run, as_json)
        return

    def tell(done: Recomputed) -> None:
        typer.echo(f"{done.model}: {done.seen} records, {done.changed} differ", err=True)

    async def run(app: App) -> list[Recomputed]:
        wanted = app.known_models() if model is None else [app.model(model)]
        computing = [item for item in wanted if _has_stored(item)]
        return [
            await app.recompute(item, fields=field or None, dry_run=dry_run, progress=tell)
            for item in (wanted if field else computing)
        ]

    results = run_with_app(uri, database, models, run)
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in results], indent=2))
        return
    what = "would be written" if dry_run else "written"
    for item in results:
        typer.echo(
            f"{item.model} ({', '.join(item.fields)}): {item.changed} {what}, {item.seen} looked at"
        )
    if not results:
        typer.echo("no model has stored computed fields")


def _store_defaults(
    uri: str | None,
    database: str | None,
    modules: list[str] | None,
    model: str | None,
    names: list[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    def tell(done: Backfilled) -> None:
        typer.echo(f"{done.model}: {done.written} defaults", err=True)

    async def run(app: App) -> list[Backfilled]:
        wanted = app.known_models() if model is None else [app.model(model)]
        with app.activate():
            return [
                await backfill(app.bind(item), names, dry_run=dry_run, progress=tell)
                for item in wanted
                if names or fields_with_default(item._schema.fields)
            ]

    results = run_with_app(uri, database, modules, run)
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in results], indent=2))
        return
    what = "lack it" if dry_run else "written"
    for item in results:
        for name, number in item.fields.items():
            typer.echo(f"{item.model}.{name}: {number} {what}")
    if not results:
        typer.echo("no model has a field with a default")


def _has_stored(model: type) -> bool:
    fields = getattr(model, "_fields", {})
    return any(field.computed is not None and field.stored for field in fields.values())
