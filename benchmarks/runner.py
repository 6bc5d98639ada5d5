"""The parent: fills the databases, starts the workers, lets them take turns, and keeps what they said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from benchmarks.data import SIZES, fill
from benchmarks.real import fill_real
from benchmarks.systems import SYSTEMS, Entry
from benchmarks.workloads import Workload

ROOT = Path(__file__).parents[1]
NODE_MODULES = "EARNORM_BENCH_NODE_MODULES"
SLOW = 1.0  # seconds of one run, from which on a system gets three rounds and no more
FEW = 3
PATIENCE = (
    2.0  # seconds that a short run is repeated for: of 40 ms, one round in three is disturbed
)
MANY = 61


@dataclass(slots=True)
class Series:
    """What one system needed for one workload, round by round.

    Attributes:
        wall: Seconds of each round.
        cpu: Seconds of the worker's own processor time.
        problem: Why there are none.
    """

    wall: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    problem: str = ""


Measured = dict[str, dict[str, Series]]
"""Workload, then system."""


class Worker:
    """A system in its process."""

    def __init__(self, name: str, uri: str, database: str, size: str) -> None:
        self.name = name
        entry = SYSTEMS[name]
        environment = {
            **with_byte_code(),
            "EARNORM_BENCH_URI": uri,
            "EARNORM_BENCH_DATABASE": database,
            "EARNORM_BENCH_SIZES": size,
            "EARNORM_BENCH_SIZES_JSON": json.dumps(asdict(SIZES[size])),
            "PYTHONHASHSEED": "0",
        }
        self._process = subprocess.Popen(
            command(name, entry),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.ready = self._read()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send one line, and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.name} ended with code {self._process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def command(name: str, entry: Entry) -> list[str]:
    """How a system's worker is started."""
    if entry.module == "node":
        program = ROOT / "benchmarks" / "systems" / entry.cls
        return ["node", "--expose-gc", str(program)]
    return [sys.executable, "-m", "benchmarks.worker", name]


def available(names: Iterable[str]) -> Iterator[str]:
    """The systems that this machine can run; what is missing is said on standard error."""
    for name in names:
        entry = SYSTEMS[name]
        if entry.needs == "node":
            if shutil.which("node") and os.environ.get(NODE_MODULES):
                yield name
            else:
                say(f"{name} is left out: it needs node, and {NODE_MODULES}=<folder with mongoose>")
        elif entry.needs and find_spec(entry.needs) is None:
            say(f"{name} is left out: pip install -r benchmarks/requirements.txt")
        else:
            yield name


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def started(uri: str, names: Sequence[str], size: str) -> Iterator[dict[str, Worker]]:
    """A filled database and a worker for each system; all of it is gone afterwards."""
    tag = f"earnorm_bench_{uuid.uuid4().hex[:6]}"
    with ExitStack() as stack:
        client: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(uri))
        workers: dict[str, Worker] = {}
        for number, name in enumerate(names):
            database = f"{tag}_{number}"
            stack.callback(client.drop_database, database)
            fill(client[database], SIZES[size], dbref=SYSTEMS[name].dbref)
            fill_real(client[database], SIZES[size])
            workers[name] = Worker(name, uri, database, size)
            stack.callback(workers[name].close)
            workers[name].ready["database"] = database
        yield workers


def measure(
    uri: str,
    workers: Mapping[str, Worker],
    workloads: Sequence[Workload],
    rounds: int,
    patience: float = 0.0,
) -> Measured:
    """Every workload on every system, interleaved; the order turns round with each round.

    Args:
        rounds: Of each system; less where one takes long.
        patience: Seconds for which the short runs of a system are repeated beyond that.

    Raises:
        AssertionError: Two systems did not see the same, so a ratio would mean nothing.
    """
    measured: Measured = {}
    with MongoClient[dict[str, Any]](uri) as client:
        for workload in workloads:
            series = measured[workload.name] = {name: Series() for name in workers}
            seen: dict[str, str] = {}
            wanted = dict.fromkeys(workers, rounds)
            turn = 0  # which only warms up
            while turn <= max(wanted.values()):
                for name in in_turn(workers, turn):
                    if series[name].problem or turn > wanted[name]:
                        continue
                    if workload.empties:
                        _empty(client[workers[name].ready["database"]])
                    said = workers[name].ask(run=workload.name, turn=turn)
                    if "wall" not in said:
                        series[name].problem = str(said.get("error", "n/a"))
                        continue
                    seen[name] = said["digest"]
                    if turn:
                        series[name].wall.append(said["wall"])
                        series[name].cpu.append(said["cpu"])
                    else:
                        wanted[name] = how_often(said["wall"], rounds, patience)
                _agree(workload, seen)
                turn += 1
            _tell(workload, series)
    return measured


def in_turn(names: Iterable[str], turn: int) -> list[str]:
    """The order of a round: it turns round each time, so that nobody always comes after the same one."""
    return list(names) if turn % 2 else list(names)[::-1]


def how_often(seconds: float, rounds: int, patience: float) -> int:
    """How many rounds a system gets whose run takes so long."""
    if seconds > SLOW:
        return min(rounds, FEW)
    return max(rounds, min(MANY, int(patience / seconds)))


def _empty(database: Database[dict[str, Any]]) -> None:
    database["inserted"].delete_many({})


def _agree(workload: Workload, seen: Mapping[str, str]) -> None:
    if len(set(seen.values())) > 1:
        raise AssertionError(f"{workload.name}: not everybody saw the same: {dict(seen)}")


def _tell(workload: Workload, series: Mapping[str, Series]) -> None:
    from benchmarks.report import ratio

    said = []
    for name, each in series.items():
        if each.problem and each.problem != "n/a":
            said.append(f"{name}: {each.problem[:80]}")
        elif each.wall and (figure := ratio(workload.name, name, {workload.name: dict(series)})):
            said.append(f"{name} {figure.median:.2f}")
    say(f"  {workload.title}: " + ", ".join(said))


def with_byte_code() -> dict[str, str]:
    """The environment of a program whose modules are compiled, as those of an installed package are."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def cold_starts(uri: str, names: Sequence[str], size: str, rounds: int) -> dict[str, list[float]]:
    """Seconds that fresh workers need from their imports to their first operation, on an empty database."""
    found: dict[str, list[float]] = {name: [] for name in names}
    database = f"earnorm_bench_{uuid.uuid4().hex[:6]}"
    with MongoClient[dict[str, Any]](uri) as client:
        for turn in range(rounds + 1):  # the first one writes the byte code
            for name in in_turn(names, turn):
                worker = Worker(name, uri, database, size)
                worker.close()
                client.drop_database(database)
                if turn:
                    found[name].append(worker.ready["opened"])
    return found


def import_times(names: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds that a fresh Python needs to import each system, above an empty program."""
    imports = {name: SYSTEMS[name].imports for name in names if SYSTEMS[name].imports}
    found: dict[str, list[float]] = {name: [] for name in imports}
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    environment = with_byte_code()
    for turn in range(rounds + 1):  # the first one writes the byte code
        for name in in_turn(imports, turn):
            done = subprocess.run(
                [sys.executable, "-c", code.format(imports[name])],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            if turn:
                found[name].append(float(done.stdout))
    return found


def memory_after_import(names: Sequence[str]) -> dict[str, int]:
    """KiB of resident memory after the import, above an empty program; nothing but on Linux."""
    if not sys.platform.startswith("linux"):
        return {}
    # Not ru_maxrss: a child begins with what its parent had at the fork.
    code = (
        "{}\nprint(next(x for x in open('/proc/self/status') if x.startswith('VmRSS')).split()[1])"
    )
    imports = {name: SYSTEMS[name].imports for name in names if SYSTEMS[name].imports}

    def most(statement: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code.format(statement)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    empty = most("")
    return {name: most(f"import {what}") - empty for name, what in imports.items()}
