"""``python -m benchmarks.idle_plugins``: the cost of 100 plugins that do nothing, against none in the same run.

Three Apps take turns: one without plugins, one with 100 classes that have no hook, one with 100 observers whose
``after_create`` does nothing. It prints the start of each (a new App that connects) and a create, by the clock, and the
processor's time that an observer takes, which other programs on the machine disturb less.
"""

from __future__ import annotations

import gc
import time
import uuid
from typing import Any

import earnorm
from benchmarks.in_turns import run
from earnorm import App, BaseModel, Int, String, hookimpl

NUMBER, ROUNDS, CREATES = 100, 15, 200


class Row(BaseModel):
    """A record with two plain fields."""

    _name = "benchmarks.idle_row"
    text = String()
    number = Int()


@hookimpl
def _after_create(self: object, op: object, result: object) -> None:
    return


def plugin(name: str, **hooks: Any) -> type:
    """Make a plugin's class with these hooks."""
    return type(name, (), {"api": 1, "name": name, **hooks})


async def started(uri: str, database: str, plugins: list[type]) -> float:
    """Return the seconds that an App takes to be made and to start."""
    gc.collect()
    begin = time.perf_counter()
    app = earnorm.App(uri, database=database, plugins=plugins)
    await app.start()
    taken = time.perf_counter() - begin
    await app.stop()
    return taken


async def created(app: App) -> tuple[float, float]:
    """Return the seconds of one create, and those of the processor."""
    gc.collect()
    with app.activate():
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for number in range(CREATES):
            await Row.create({"text": "a", "number": number})
        taken, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    return taken / CREATES, cpu / CREATES


async def main(uri: str) -> None:
    """Measure, and print the lowest figure of each round."""
    database = f"bench_{uuid.uuid4().hex[:8]}"
    kinds: dict[str, list[type]] = {
        "none": [],
        "idle": [plugin(f"idle{n}") for n in range(NUMBER)],
        "observers": [plugin(f"observer{n}", after_create=_after_create) for n in range(NUMBER)],
    }
    starts: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS + 1):
        for kind, plugins in kinds.items():
            starts[kind].append(await started(uri, database, plugins))
    start = {kind: min(times[1:]) for kind, times in starts.items()}
    apps = {k: earnorm.App(uri, database=database, plugins=p, name=k) for k, p in kinds.items()}
    creates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for app in apps.values():
        await app.start()
    for _ in range(ROUNDS + 1):
        for kind, app in apps.items():
            creates[kind].append(await created(app))
    create = {kind: min(taken for taken, _ in times[1:]) for kind, times in creates.items()}
    busy = {kind: min(cpu for _, cpu in times[1:]) for kind, times in creates.items()}
    raw: Any = apps["none"].dangerous_raw("the benchmark is over")
    await raw.client.drop_database(database)
    for app in apps.values():
        await app.stop()
    print(f"start, without plugins: {start['none'] * 1e3:.1f} ms")
    print(
        f"  {NUMBER} idle plugins: {start['idle'] / start['none']:.2f} ×, "
        f"{(start['idle'] - start['none']) / NUMBER * 1e6:.0f} µs each"
    )
    print(f"  {NUMBER} observers: {start['observers'] / start['none']:.2f} ×")
    print(
        f"create, without plugins: {create['none'] * 1e6:.0f} µs, of the processor {busy['none'] * 1e6:.0f}"
    )
    print(
        f"  {NUMBER} idle plugins: {create['idle'] / create['none']:.2f} ×, of the processor {busy['idle'] / busy['none']:.2f} ×"
    )
    print(
        f"  {NUMBER} observers: {(busy['observers'] - busy['none']) / NUMBER * 1e6:.2f} µs each, of the processor"
    )


if __name__ == "__main__":
    run(main, "idle_plugins")
