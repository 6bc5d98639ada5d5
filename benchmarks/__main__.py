"""``python -m benchmarks``: EarnORM, the raw drivers and the peers, in one run.

Quick without arguments (small sizes, 3 rounds). ``--full`` is what figures are quoted from (full
sizes, 9 rounds, and short runs for 2 seconds). ``--write DIR`` writes the tables, the charts and the
JSON there. ``--system NAME``, also several times, measures these only; "+ cache, idle", "+ security, idle"
and "+ audit, idle" are measured only so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from benchmarks.data import SIZES
from benchmarks.report import as_json, chart, details, header, matrix
from benchmarks.runner import (
    PATIENCE,
    Measured,
    Worker,
    available,
    cold_starts,
    import_times,
    measure,
    memory_after_import,
    say,
    started,
)
from benchmarks.systems import ASKED_FOR, OURS, PEERS, PLUGINS, RAW, SYSTEMS
from benchmarks.workloads import BY_NAME, WORKLOADS

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"
CHART_TITLE = "Time ÷ the raw driver's (PyMongo asyncio); shorter is faster"
FIRST_SHOWN = ("find_flat", "save_many", "posts_eager")
"""The workloads of the README's chart."""


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--system", action="append", choices=SYSTEMS, metavar="NAME")
    parser.add_argument("--workload", action="append", choices=BY_NAME, metavar="NAME")
    parser.add_argument("--write", type=Path, metavar="DIR")
    options = parser.parse_args()
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        sys.exit(f"{URI_VARIABLE} is not set; python -m nox -s bench starts a server of its own")
    size = "full" if options.full else "quick"
    rounds = options.rounds or (9 if options.full else 3)
    asked = options.system or [name for name in SYSTEMS if name not in ASKED_FOR]
    names = list(available(dict.fromkeys([*RAW, *asked])))
    workloads = [BY_NAME[name] for name in options.workload] if options.workload else WORKLOADS
    say(f"{size} sizes, {rounds} rounds; {len(names)} systems, {len(workloads)} workloads")
    with started(uri, names, size) as workers:
        with MongoClient[dict[str, Any]](uri) as client:
            server = str(client.admin.command("buildInfo")["version"])
        head = header(server, workers)
        patience = PATIENCE if options.full else 0.0
        measured = measure(uri, workers, workloads, rounds, patience)
        others = process_figures(uri, workers, size, rounds)
    write(measured, names, size, rounds, head, others, options.write)


def process_figures(
    uri: str, workers: dict[str, Worker], size: str, rounds: int
) -> dict[str, dict[str, float]]:
    """Import, memory, cold start, stalls: figures of a whole process."""
    names = list(workers)
    starts = cold_starts(uri, names, size, rounds if size == "full" else 1)  # a second each
    found: dict[str, dict[str, float]] = {
        "import, ms": {
            n: statistics.median(t) * 1e3 for n, t in import_times(names, rounds).items()
        },
        "memory after import, MiB": {n: k / 1024 for n, k in memory_after_import(names).items()},
        "cold start, from the imports to the first operation, ms": {
            n: statistics.median(t) * 1e3 for n, t in starts.items()
        },
    }
    for title, question, factor in (
        ("peak of holding the found records, MiB", {"peak": "hold"}, 2**-20),
        ("longest stall of the event loop in that find, ms", {"stall": "hold"}, 1e3),
    ):
        found[title] = {}
        for name, worker in workers.items():
            answers = [worker.ask(**question) for _ in range(rounds)]
            values = [v for a in answers if (v := a.get("bytes", a.get("seconds"))) is not None]
            if values:
                found[title][name] = statistics.median(values) * factor
    return found


def write(
    measured: Measured,
    names: list[str],
    size: str,
    rounds: int,
    head: dict[str, str],
    others: dict[str, dict[str, float]],
    folder: Path | None,
) -> None:
    """Print everything; with a folder, also write it there."""
    sizes = SIZES[size]
    ours = [n for n in names if n in OURS or n in RAW]
    peers = [n for n in names if n in PEERS]
    plugins = [n for n in names if n in PLUGINS]
    lines = [
        ", ".join(f"{name} {value}" for name, value in head.items()),
        f"{size} sizes, {rounds} rounds or more, interleaved; time ÷ the raw driver's, the median of the rounds.",
        "",
        *matrix(measured, [*RAW, *(n for n in ours if n not in RAW), *peers], sizes),
        "",
    ]
    if plugins:
        lines += ["With plugins:", "", *matrix(measured, ["EarnORM", *plugins], sizes), ""]
    lines += ["The spread:", "", *details(measured, [*ours, *plugins], sizes), ""]
    lines += ["Of the whole process:", "", *_process_table(others, names), ""]
    text = "\n".join(lines)
    print(text)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.md").write_text(text)
    said = {"header": head, "size": size, "rounds": rounds, "process": others}
    said["rows"] = as_json(measured, names, sizes)  # type: ignore[assignment] # a table of its own
    (folder / "benchmarks.json").write_text(json.dumps(said, indent=1) + "\n")
    shown = ["EarnORM", *peers]
    first = {name: series for name, series in measured.items() if name in FIRST_SHOWN}
    for name, chosen in (("benchmarks", measured), ("first", first)):
        (folder / f"{name}.svg").write_text(chart(chosen, shown, CHART_TITLE))


def _process_table(others: dict[str, dict[str, float]], names: list[str]) -> list[str]:
    shown = [n for n in names if any(n in figures for figures in others.values())]
    rows = [f"| what | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    for title, figures in others.items():
        cells = [f"{figures[n]:,.1f}" if n in figures else "n/a" for n in shown]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    main()
