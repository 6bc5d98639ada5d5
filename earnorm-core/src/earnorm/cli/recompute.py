"""``earnorm recompute``: computes stored fields again, works off what is owed, stores defaults that documents lack."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from earnorm.application import App
from earnorm.cli.app_source import AppSource
from earnorm.cli.options import AsJson, DryRun, takes_source
from earnorm.features.backfilling.backfill import Backfilled, backfill, fields_with_default
from earnorm.features.computed.owed.worker import OwedPart
from earnorm.features.computed.plugin import worker_of
from earnorm.features.computed.whole_models import Recomputed
from earnorm.kernel.acting import system

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


@takes_source
def recompute(
    source: AppSource,
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
    owed: Annotated[
        bool,
        typer.Option(
            "--owed",
            help="Work off what is owed, and try again what is set apart, instead; --dry-run lists it.",
        ),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="With --owed: delete what is owed for fields that this program does not have.",
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compute stored fields anew, and write the values that differ. Reads in batches, in bounded memory."""
    if owed:
        if model is not None or field or defaults:
            raise typer.BadParameter("--owed goes with --forget, --dry-run and --json only")
        _work_off(source, forget, dry_run, as_json)
        return

    if forget:
        raise typer.BadParameter("--forget goes with --owed")

    if field and model is None:
        raise typer.BadParameter("--field goes with --model")

    if defaults:
        _store_defaults(source, model, field or [], dry_run, as_json)
        return

    def tell(done: Recomputed) -> None:
        typer.echo(f"{done.model}: {done.seen} records, {done.changed} differ", err=True)

    async def run(app: App) -> list[Recomputed]:
        wanted = app.known_models() if model is None else [app.model(model)]
        computing = [item for item in wanted if _has_stored(item)]
        # The records of a subclass are computed with those of its base.
        computing = [item for item in computing if not _has_base_in(item, computing)]
        with app.activate(), system(reason="earnorm recompute"):
            return [
                await app.recompute(item, fields=field or None, dry_run=dry_run, progress=tell)
                for item in (wanted if field else computing)
            ]

    results = source.run(run)
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


def _work_off(source: AppSource, forget: bool, dry_run: bool, as_json: bool) -> None:
    async def run(app: App) -> list[OwedPart]:
        worker = worker_of(app)
        assert worker is not None  # the App is started
        if not dry_run:
            await worker.retry()
            if forget:
                await worker.forget()
        return await worker.listed()

    parts = source.run(run)
    if as_json:
        typer.echo(json.dumps([asdict(part) for part in parts], indent=2))
    for part in () if as_json else parts:
        told = f"{part.model} ({', '.join(part.fields)}): owed for {part.seconds:.0f} s"
        if part.holder is not None:
            told += f", {part.holder} is at it"
        if part.foreign:
            told += ", this program lacks a field of it and leaves it alone"
        if part.error is not None:
            told += f", set apart: {', '.join(part.ids)}: {part.error}"
        typer.echo(told)
    if not parts and not as_json:
        typer.echo("nothing is owed")
    if not dry_run and not all(part.foreign for part in parts):
        raise typer.Exit(1)


def _store_defaults(
    source: AppSource,
    model: str | None,
    names: list[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    def tell(done: Backfilled) -> None:
        typer.echo(f"{done.model}: {done.written} defaults", err=True)

    async def run(app: App) -> list[Backfilled]:
        wanted = app.known_models() if model is None else [app.model(model)]
        with app.activate(), system(reason="earnorm recompute --defaults"):
            return [
                await backfill(app.bind(item), names, dry_run=dry_run, progress=tell)
                for item in wanted
                if names or fields_with_default(item._schema.fields)
            ]

    results = source.run(run)
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in results], indent=2))
        return
    what = "lack it" if dry_run else "written"
    for item in results:
        for name, number in item.fields.items():
            typer.echo(f"{item.model}.{name}: {number} {what}")
    if not results:
        typer.echo("no model has a field with a default")


def _has_base_in(model: type[BaseModel], models: Iterable[type[BaseModel]]) -> bool:
    return any(
        base is not model and base._root is model._root is not None and issubclass(model, base)
        for base in models
    )


def _has_stored(model: type) -> bool:
    fields = getattr(model, "_fields", {})
    return any(field.computed is not None and field.stored for field in fields.values())
