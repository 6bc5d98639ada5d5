"""Instructions of the processor for each run of a workload: ``python -m benchmarks.instructions [workload ...]``.

They are the same on a busy machine as on a quiet one, where times differ by a tenth, so that two states of the code
can be told apart by a hundredth. What they leave out: the waiting for the server, and the garbage collector. One line
for each workload: instructions of EarnORM and of PyMongo, in millions, and their ratio. With no names: those that
write and read records. It needs valgrind (each run takes about fifty times as long under it) and
EARNORM_TEST_MONGO_URI, fills databases of its own and drops them.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import re
import shutil
import subprocess
import sys
import uuid
from typing import Any

import pymongo

from benchmarks.data import Sizes, fill
from benchmarks.real import fill_real
from benchmarks.systems import SYSTEMS
from benchmarks.systems.base import System

SIZES = Sizes(people=1_000, stream=1_000, posts=500, calls=50, inserts=100)
WORKLOADS = (
    *("insert_one", "insert_many", "find_two", "find_flat", "find_embedded", "get"),
    *("filtered", "save", "save_many", "update", "posts_eager", "three_levels", "construct"),
    *("real_insert", "real_find", "real_construct", "tasks", "sheets", "sheets_only"),
    *("create_computed", "follow", "move", "set_null", "some_refused"),
)
FEW, MANY = 2, 5
"""The numbers of runs of two processes; their difference has no imports and no first time in it."""
COUNTED = re.compile(r"I +refs: +([0-9,]+)")


async def work(name: str, workload: str, runs: int) -> None:
    """Do a workload a number of times."""
    entry = SYSTEMS[name]
    module = importlib.import_module(f"benchmarks.systems.{entry.module}")
    make: type[System] = getattr(module, entry.cls)
    uri, database = os.environ["EARNORM_TEST_MONGO_URI"], f"instructions_{uuid.uuid4().hex[:8]}"
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        fill(client[database], SIZES, dbref=False)
        fill_real(client[database], SIZES)
        system = make(uri, database, SIZES, **entry.options)
        await system.open()
        gc.disable()
        for turn in range(runs):
            system.between(workload, turn)
            client[database].drop_collection("inserted")
            await getattr(system, workload)()
        await system.close()
        client.drop_database(database)


def counted(name: str, workload: str, runs: int) -> int:
    """Return the instructions of a process that does so."""
    command = (
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        *(sys.executable, "-m", "benchmarks.instructions", "--work", name, workload, str(runs)),
    )
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = COUNTED.search(done.stderr)
    if done.returncode or found is None:
        raise SystemExit(done.stderr)
    return int(found[1].replace(",", ""))


def main(arguments: list[str]) -> None:
    """Print a line for each workload."""
    if arguments[:1] == ["--work"]:
        asyncio.run(work(arguments[1], arguments[2], int(arguments[3])))
        return
    unknown = set(arguments).difference(WORKLOADS)
    if unknown:
        raise SystemExit(
            f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}"
        )
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed; Debian has it as valgrind")
    print(f"{'workload':<14}{'EarnORM':>10}{'PyMongo':>10}{'ratio':>8}")
    for workload in arguments or WORKLOADS:
        ours, raw = (
            (counted(name, workload, MANY) - counted(name, workload, FEW)) / (MANY - FEW) / 1e6
            for name in ("EarnORM", "PyMongo")
        )
        print(f"{workload:<14}{ours:>10.2f}{raw:>10.2f}{ours / raw:>8.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
