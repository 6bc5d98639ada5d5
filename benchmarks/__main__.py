"""``python -m benchmarks``: EarnORM against the raw driver, both drivers, one table.

``--rounds N`` (at least 7 for figures that are quoted), ``--driver pymongo|motor``, ``--json FILE``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import uuid
from pathlib import Path

from benchmarks.report import table, versions
from benchmarks.rounds import Figures, compare
from benchmarks.workloads import check_inserted, comparisons, fill
from earnorm import App

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"
DRIVERS = ("pymongo", "motor")


async def measure(uri: str, driver: str, rounds: int) -> tuple[list[Figures], str]:
    """Every comparison with one driver, and the server's version."""
    name = f"earnorm_bench_{uuid.uuid4().hex[:8]}"
    async with App(uri, database=name, driver=driver, plugins=[]) as app:
        # The same client, so that both ways share its connections and options.
        database = app.dangerous_raw("the benchmark's raw side")
        try:
            info = await database.command("buildInfo")
            await fill(database)
            await check_inserted(database)
            found: list[Figures] = []
            for what in await comparisons(database):
                found.append(await compare(what, driver, rounds))
                median = found[-1].as_dict()["median"]
                print(f"  {driver}: {what.name}: {median:.2f}", file=sys.stderr, flush=True)
            return found, str(info["version"])
        finally:
            await database.client.drop_database(name)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--driver", choices=DRIVERS, action="append")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        sys.exit(f"{URI_VARIABLE} is not set; python -m nox -s bench starts a server of its own")
    logging.getLogger("earnorm").setLevel(logging.ERROR)
    figures: list[Figures] = []
    server = ""
    for driver in options.driver or DRIVERS:
        found, server = asyncio.run(measure(uri, driver, options.rounds))
        figures += found
    header = versions(server)
    print(", ".join(f"{name} {value}" for name, value in header.items()))
    print(
        f"{options.rounds} rounds, interleaved in alternating order; EarnORM's time ÷ the driver's\n"
    )
    print("\n".join(table(figures)))
    if options.json:
        said = {"versions": header, "figures": [each.as_dict() for each in figures]}
        options.json.write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
