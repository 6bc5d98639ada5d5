"""``earnorm cache …``: what the cache holds, what is written, and how to empty it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from earnorm import App, ConfigurationError
from earnorm_cache.service import CacheService


async def cache_command(
    app: App, action: str, model: str | None = None, id: str | None = None
) -> None:
    """Say what the cache holds, or empty it for all processes.

    stats prints the figures of all processes that run now, together: hits and hit ratios by model and level, bytes, loads that
    others waited for.

    clear empties Redis and the memory of each process that uses it, after a change that did not go through EarnORM
    (a script in the shell of the database, say).

    inspect --model M [--id X] says what each level has of a record, or of a model; never the content.

    watch [--model M] prints what is written, until Ctrl-C.
    """
    cache = app.services.of_type(CacheService)
    if action == "clear":
        await cache.clear_everywhere()
        print("The cache is empty, in Redis and in all processes.")
    elif action == "stats":
        number, figures = await cache.everywhere()
        own = (await app.health())["cache"]
        print(f"status  {own['status']}")
        print(f"redis  {own.get('redis', 'none')}")
        print(f"other processes  {number}")
        for line in (*_lines("", figures), *_ratios(figures)):
            print(line)
    elif action == "inspect":
        if model is None:
            raise ConfigurationError(
                "cache inspect: name a model with --model, and a record with --id"
            )
        rows = await cache.inspect(app.model(model), id)
        if not rows:
            print("Nothing is kept.")
        for row in rows:
            print("  ".join(f"{name}={value}" for name, value in row.items()))
    elif action == "watch":
        models = [app.model(model)] if model is not None else []
        async for write in cache.watch(*models):
            said = (
                "all records"
                if write.ids is None
                else ", ".join(map(_shown, write.ids)) or "new records"
            )
            names = ["came or went"] if write.is_membership else []
            names += ["any field"] if write.fields is None else sorted(write.fields)
            moment = datetime.datetime.now().astimezone()
            print(f"{moment:%H:%M:%S}  {write.collection}  {said}  {', '.join(names)}", flush=True)
    else:
        raise ConfigurationError(
            f"cache: {action!r} is none of 'stats', 'clear', 'inspect' and 'watch'"
        )


def _lines(name: str, value: object) -> list[str]:
    """Return a line for each figure."""
    if not isinstance(value, Mapping):
        shown = round(value, 3) if isinstance(value, float) else value
        return [f"{name}  {shown}"]
    lines: list[str] = []
    for key, inner in value.items():
        key = str(key)
        lines += _lines(name if key.startswith("by_") else f"{name} {key}".strip(), inner)
    return lines


def _ratios(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each model, with the shares of its records that came from each level."""
    lines: list[str] = []
    for model, told in figures["records"]["by_model"].items():
        levels = {level: numbers["hits"] for level, numbers in told["by_level"].items()}
        if asked := sum(levels.values()):
            shares = "  ".join(f"{level} {hits / asked:.1%}" for level, hits in levels.items())
            lines.append(f"hit ratio {model}  {shares}")
    for kind in ("queries", "functions"):
        for by_name in figures.get(kind, {}).values():
            for name, told in by_name.items():
                hits = told["hits"]
                if asked := hits + told["misses" if kind == "queries" else "calls"]:
                    lines.append(f"hit ratio {kind} {name}  {hits / asked:.1%}")
    return lines


def _shown(pk: object) -> str:
    """Return an id as a terminal may show it: what a client has chosen writes no lines and no controls."""
    text = str(pk)
    return text if text.isprintable() else ascii(text)
