"""``python -m benchmarks.growth``: the cost of one unit among ever more of them; it has to stay flat.

Each subject (documents, conditions, records, models, plugins, tasks, lists) runs in a process of
its own. The exit code is 1 where a unit costs more than twice as much among ten times as many, and
the driver's own cost does not grow like that.
``--full`` adds the largest steps. ``--write DIR`` writes growth.md, growth.json and growth.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from benchmarks.__main__ import URI_VARIABLE
from benchmarks.growth.curves import LIMIT, Curve, failures, lower
from benchmarks.growth.report import chart, table
from benchmarks.growth.subjects import SUBJECTS, Place, run
from benchmarks.runner import ROOT, say

FULL = 1_000_000


def main() -> None:
    """Measure, print the table, and say what grows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--subject", action="append", choices=SUBJECTS, metavar="NAME")
    parser.add_argument("--largest", type=int, metavar="SIZE", help="leave larger steps out")
    parser.add_argument("--write", type=Path, metavar="DIR")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)  # in its own process
    options = parser.parse_args()
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        sys.exit(f"{URI_VARIABLE} is not set; 'nox -s bench -- growth' starts a server of its own")
    largest = {
        name: min(FULL if options.full else step, options.largest or FULL)
        for name, (_, step) in SUBJECTS.items()
    }
    if options.one:
        place = Place(uri, f"earnorm_growth_{uuid.uuid4().hex[:6]}", largest[options.one])
        with MongoClient[dict[str, Any]](uri) as client:
            try:
                found = run(options.one, place)
            finally:
                client.drop_database(place.database)
        print(json.dumps([curve.as_json() for curve in found]))
        return
    head = header(uri)
    curves: list[Curve] = []
    for name in options.subject or SUBJECTS:
        say(f"{name}, up to {largest[name]:,}")
        found = _in_its_own_process(name, largest[name])
        if failures(found):
            # Once more, and of each step the lower cost: whoever else was busy is no growth.
            say(f"{name} again")
            found = lower(found, _in_its_own_process(name, largest[name]))
        curves += found
    write(curves, head, options.write)
    told = failures(curves)
    for line in told:
        say(f"worse than linear: {line}")
    sys.exit(1 if told else 0)


def _in_its_own_process(name: str, largest: int) -> list[Curve]:
    command = [sys.executable, "-m", "benchmarks.growth", "--one", name, "--largest", str(largest)]
    done = subprocess.run([*command, "--full"], stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return [
        Curve(
            *(said[key] for key in ("subject", "name", "unit", "ours")),
            points=[(int(size), float(cost)) for size, cost in said["points"]],
        )
        for said in json.loads(done.stdout)
    ]


def header(uri: str) -> str:
    """What is measured with what; asked for before anything is measured."""
    with MongoClient[dict[str, Any]](uri) as client:
        server = str(client.admin.command("buildInfo")["version"])
    return ", ".join(
        [
            f"python {sys.version.split()[0]}",
            f"mongodb {server}",
            *(f"{name} {version(name)}" for name in ("earnorm-core", "pymongo")),
            f"{os.cpu_count()} processors",
        ]
    )


def write(curves: list[Curve], head: str, folder: Path | None) -> None:
    """Print the table; with a folder, write it there with the JSON and the picture."""
    text = "\n".join([head, "", *table(curves)])
    print(text)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.md").write_text(text)
    said = {"header": head, "limit": LIMIT, "curves": [curve.as_json() for curve in curves]}
    (folder / "growth.json").write_text(json.dumps(said, indent=1) + "\n")
    (folder / "growth.svg").write_text(
        chart(
            curves, "Cost of one unit among ever more of them; flat is linear growth of the whole"
        )
    )


if __name__ == "__main__":
    main()
