"""``earnorm recompute``: computes stored fields again after a formula was changed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from earnorm.application import App
from earnorm.cli.indexes import AsJson, Database, DryRun, Modules, Uri, run_with_app
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
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compute stored fields anew, and write the values that differ. Reads in batches, in bounded memory."""
    if field and model is None:
        raise typer.BadParameter("--field goes with --model")

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


def _has_stored(model: type) -> bool:
    fields = getattr(model, "_fields", {})
    return any(field.computed is not None and field.stored for field in fields.values())
