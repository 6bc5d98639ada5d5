"""``earnorm indexes``: compares the declared indexes with a database, for a shell and for CI."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from earnorm.application import App
from earnorm.cli.app_source import AppSource
from earnorm.cli.options import AsJson, DryRun, takes_source
from earnorm.exceptions import ConfigurationError
from earnorm.features.indexes.advice import SAMPLE, Advice
from earnorm.features.indexes.catalog import IndexAction, IndexDiff
from earnorm.features.indexes.comparison import shown
from earnorm.features.slow_queries.query_shape import QueryShape
from earnorm.kernel.acting import system

indexes = typer.Typer(
    name="indexes",
    help="Compare the indexes and collections of models with a database, and bring them in step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@indexes.command()
@takes_source
def diff(
    source: AppSource,
    allow_unused: Annotated[
        bool, typer.Option("--allow-unused", help="Indexes that no model declares are no failure.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print where the database is not as declared; exit 1 where it is not. Changes nothing."""
    diffs = source.run(lambda app: app.indexes.diff())
    if as_json:
        typer.echo(json.dumps([_diff_as_json(difference) for difference in diffs], indent=2))
    else:
        for difference in diffs:
            if difference.lines():
                typer.echo(str(difference))
        typer.echo(_summary(diffs))
    if not all(_is_accepted(difference, allow_unused) for difference in diffs):
        raise typer.Exit(1)


@indexes.command()
@takes_source
def sync(
    source: AppSource,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also change indexes that are not as declared.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Create what is declared and missing; exit 1 where a difference is left as it is."""

    async def run(app: App) -> list[IndexAction]:
        with app.activate(), system(reason="earnorm indexes sync"):
            return await app.indexes.sync(replace=replace, dry_run=dry_run)

    actions = source.run(run)
    _print_actions(actions, dry_run, as_json)
    if any(action.kind == "leave" for action in actions):
        raise typer.Exit(1)


@indexes.command("drop-unused")
@takes_source
def drop_unused(
    source: AppSource,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Drop the indexes that no model declares, in the collections of the models. Asks first."""

    async def run(app: App) -> list[IndexAction]:
        planned = await app.indexes.drop_unused(dry_run=True)
        if dry_run or not planned:
            return planned
        if not yes:
            for action in planned:
                typer.echo(str(action), err=True)
            typer.confirm(f"drop {_number(len(planned), 'index')}?", abort=True, err=True)
        with app.activate(), system(reason="earnorm indexes drop-unused"):
            return await app.indexes.drop_unused()

    _print_actions(source.run(run), dry_run, as_json)


@indexes.command()
@takes_source
def advise(
    source: AppSource,
    shapes: Annotated[
        Path | None,
        typer.Option("--shapes", help="The file that an App wrote (slow_query_file=)."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Or one search: its model,")] = None,
    domain: Annotated[
        str, typer.Option("--domain", help="its domain: \"[('age', '>', 20)]\",")
    ] = "[]",
    order: Annotated[str, typer.Option("--order", help='and its order: "-age,name".')] = "",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Try each index on copies of some documents in a scratch collection of the database.",
        ),
    ] = False,
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many to copy.")] = SAMPLE,
    as_json: AsJson = False,
) -> None:
    """Say which indexes slow queries lack. Creates none; --verify asks the server before and after."""
    if (shapes is None) == (model is None):
        raise ConfigurationError("give either --shapes FILE, or --model with --domain and --order")

    async def run(app: App) -> list[Advice]:
        wanted = (
            _read_shapes(shapes)
            if shapes is not None
            else [app.indexes.shape(app.model(str(model)), _literal(domain), order)]
        )
        with app.activate(), system(reason="earnorm indexes advise"):
            return await app.indexes.advise(wanted, verify=verify, sample=sample)

    advices = source.run(run)
    if as_json:
        typer.echo(json.dumps([_advice_as_json(advice) for advice in advices], indent=2))
        return
    for advice in advices:
        typer.echo(str(advice))


# -- its arguments ---------------------------------------------------------------------------------


def _read_shapes(path: Path) -> list[QueryShape]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"--shapes {path}: {error.strerror}") from None
    return [QueryShape.from_json(line) for line in lines if line.strip()]


def _literal(domain: str) -> Any:
    try:
        return ast.literal_eval(domain)
    except (ValueError, SyntaxError):
        raise ConfigurationError(
            "--domain is a Python list of conditions: \"[('age', '>', 20)]\""
        ) from None


# -- printing -------------------------------------------------------------------------------------


def _is_accepted(difference: IndexDiff, allow_unused: bool) -> bool:
    if allow_unused:
        return not (
            difference.missing or difference.different or difference.options or difference.search
        )
    return difference.is_in_step


def _summary(diffs: Sequence[IndexDiff]) -> str:
    figures = {
        "as declared": sum(len(difference.ok) for difference in diffs),
        "missing": sum(len(difference.missing) + len(difference.search) for difference in diffs),
        "different": sum(
            len(difference.different) + len(difference.options) for difference in diffs
        ),
        "not declared": sum(len(difference.unused) for difference in diffs),
    }
    counted = ", ".join(f"{number} {what}" for what, number in figures.items())
    return f"{_number(len(diffs), 'collection')}: {counted}"


def _number(count: int, noun: str) -> str:
    plural = {"index": "indexes"}.get(noun, f"{noun}s")
    return f"{count} {noun if count == 1 else plural}"


def _print_actions(actions: Sequence[IndexAction], dry_run: bool, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "action": action.kind,
                "collection": action.collection,
                "index": action.index,
                "detail": action.detail,
                "done": action.is_done,
            }
            for action in actions
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for action in actions:
        would = "would " if dry_run and action.kind != "leave" else ""
        typer.echo(f"{would}{action}")
    if not actions:
        typer.echo("nothing to do")


def _diff_as_json(collection_diff: IndexDiff) -> dict[str, Any]:
    return {
        "collection": collection_diff.collection,
        "models": collection_diff.models,
        "exists": collection_diff.exists,
        "in_step": collection_diff.is_in_step,
        "ok": [spec.name for spec in collection_diff.ok],
        "missing": [spec.name for spec in collection_diff.missing]
        + [spec.name for spec in collection_diff.search],
        "different": [
            {"index": difference.existing.name, "what": difference.what}
            for difference in collection_diff.different
        ],
        "unused": [
            {"index": index.name, "keys": shown(index.keys)} for index in collection_diff.unused
        ],
        "options": collection_diff.options,
        "notes": collection_diff.notes,
    }


def _advice_as_json(advice: Advice) -> dict[str, Any]:
    return {
        "shape": str(advice.shape),
        "indexes": [spec.name for spec in advice.indexes],
        "declaration": advice.declaration,
        "reason": advice.reason,
        "before": None if advice.before is None else str(advice.before),
        "after": None if advice.after is None else str(advice.after),
        "helps": advice.helps,
    }
