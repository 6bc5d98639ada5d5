"""Kill -9 of processes that owe recomputes and work them off, and the law that holds afterwards.

As a program, with servers (``python -m tests.servers -- python -m tests.core.owed_storm``)::

    --kills 100 --seed 7

In each round two processes are forked. One waits until nothing is owed, compares every stored value with
the one that its formula gives, and goes on changing records; the other only works off what is owed.
Each is killed at a random command, before or after the server has done it. The next round finds
what the dead have left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final

from pymongo.monitoring import CommandListener

from earnorm import App, hookimpl
from earnorm.features.computed.owed import chunks, documents, worker
from earnorm.features.computed.owed.chunks import Settlement
from earnorm.features.computed.owed.documents import Owed
from earnorm.features.computed.recomputing import Recomputation
from earnorm.kernel.environment import current_env
from tests.core.orders import Country, Label, Line, Order, Partner, as_stored, from_scratch

BROKEN, FAILED = 3, 4  # exit codes
STEPS = 25
COMMANDS, COMMITS = 300, 30  # at most so many before a kill
ROUND_SECONDS = 60.0
COUNTRIES, PARTNERS, ORDERS, LINES = 2, 3, 12, 30


class Killing(CommandListener):
    """Kills its process at a command, before it is sent or when its answer has come.

    Args:
        left: The number of commands up to that one.
        after: Kill when the answer has come.
        only: The name of the commands that count; empty counts all.
    """

    def __init__(self, left: int, after: bool, only: str = "") -> None:
        self.left, self.after, self.only = left, after, only

    def started(self, event: Any) -> None:
        if self.only in ("", event.command_name):
            self.left -= 1
            if self.left == 0 and not self.after:
                self.kill()

    def succeeded(self, event: Any) -> None:
        if self.left <= 0 and self.only in ("", event.command_name):
            self.kill()

    def failed(self, event: Any) -> None:
        self.succeeded(event)

    @staticmethod
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KillingPlugin:
    """Hands the listener to the driver."""

    api = 1
    name = "killing"

    def __init__(self, listener: Killing) -> None:
        self.listener = listener

    @hookimpl
    def register_listeners(self) -> list[object]:
        return [self.listener]


# -- planted faults ---------------------------------------------------------------------------------


def owe_after_the_commit() -> None:
    """Write down what is owed behind the transaction."""
    create = Recomputation._create

    async def late(self: Recomputation, documents: list[dict[str, Any]]) -> None:
        env = self._env
        if env.transaction is None:
            await create(self, documents)
            return

        async def then() -> None:
            self._env = env.replace(transaction=None)
            await create(self, documents)

        env.transaction.after_commit(then)

    Recomputation._create = late  # type: ignore[method-assign]


def advance_before_the_chunk() -> None:
    """Note that records are done outside of the transaction that does them."""
    chunk, advance = Settlement._chunk, chunks.advance

    async def early(self: Settlement, pks: Any, is_last: bool) -> Owed:
        if is_last:
            return await chunk(self, pks, is_last)
        outside = current_env().replace(transaction=None)
        self.owed = await advance(outside, self.owed, pks[-1])
        return await chunk(self, pks, is_last)

    async def ignore(env: Any, owed: Owed, after: Any) -> Owed:
        return owed

    Settlement._chunk = early  # type: ignore[method-assign]
    chunks.advance = ignore


def forget_what_follows() -> None:
    """Compute the records of a chunk, and owe nothing of what depends on them."""
    compute = Recomputation.compute

    async def alone(self: Recomputation, model: str, names: Any, pks: Any) -> int:
        async def nothing(documents: list[dict[str, Any]]) -> None:
            pass

        self._create = nothing  # type: ignore[method-assign]
        return await compute(self, model, names, pks)

    Recomputation.compute = alone  # type: ignore[method-assign]


FAULTS: Final[dict[str, tuple[Callable[[], None], str]]] = {
    fault.__name__: (fault, command)
    for fault, command in (
        (owe_after_the_commit, "commitTransaction"),
        (advance_before_the_chunk, "findAndModify"),
        (forget_what_follows, ""),
    )
}
"""Each fault with the command after which a kill shows it; one that needs no kill has none."""


# -- one process ------------------------------------------------------------------------------------


def small(fault: str | None) -> None:
    """Make everything so small that a few dozen records are a large recompute."""
    chunks.CHUNK, chunks._WINDOW = 4, 10  # type: ignore[misc]
    documents.LEASE = timedelta(milliseconds=300)  # type: ignore[misc]
    worker._POLL = 0.02  # type: ignore[misc]
    if fault is not None:
        FAULTS[fault][0]()


class Round:
    """What one process does.

    Args:
        uri: The server.
        name: The database's name.
        seed: Of what it does, and when it is killed; a process with seed 0 is not.
        others: The processes that are dead, or may die.
        aim: The command after which it is killed; empty for any, before or after.
    """

    def __init__(self, uri: str, name: str, seed: int, others: list[int], aim: str = "") -> None:
        self.uri, self.name, self.others, self.aim = uri, name, others, aim
        self.chance = random.Random(seed)
        self.spared = not seed

    def app(self) -> App:
        # Most can go wrong around a commit.
        only, most = self.chance.choice([("", COMMANDS), ("commitTransaction", COMMITS)])
        left = 10**9 if self.spared else self.chance.randrange(1, most)
        killing = Killing(left, self.chance.random() < 0.5, only)
        if self.aim and not self.spared:
            killing = Killing(self.chance.randrange(1, COMMITS), True, self.aim)
        return App(
            self.uri,
            database=self.name,
            plugins=[KillingPlugin(killing)],
            recompute_limit=3,
            recompute_interval=0.05,
            client_options={"appName": process_name(self.name, os.getpid())},
        )

    async def write(self) -> int:
        async with self.app() as app, asyncio.TaskGroup() as group:
            burying = group.create_task(self.bury(app))
            result = await self.work(app)
            burying.cancel()
        return result

    async def work(self, app: App) -> int:
        if await Country.count() < COUNTRIES or await Line.count() < LINES:
            await self.prepare()
        await app.settled()
        expected, stored = await from_scratch(), await as_stored()
        for model, rows in expected.items():
            if sorted(rows) != sorted(stored[model]):
                print(f"{model}: stored {stored[model]}, expected {rows}", file=sys.stderr)
                return BROKEN
        for _ in range(0 if self.spared else STEPS):
            await self.step()
        return 0

    async def help(self) -> int:
        async with self.app():
            await asyncio.sleep(ROUND_SECONDS)
        return 0

    async def bury(self, app: App) -> None:
        """End the transactions of the dead, which the server would keep open for a minute."""
        admin = app.dangerous_raw("sessions of the dead").client.admin
        every = {"$currentOp": {"allUsers": True, "idleSessions": True}}
        while True:
            dead = [process_name(self.name, pid) for pid in self.others if not is_alive(pid)]
            match = {"$match": {"appName": {"$in": dead}, "lsid": {"$exists": True}}}
            async for operation in await admin.aggregate([every, match]):
                await admin.command("killSessions", [{"id": operation["lsid"]["id"]}])
            await asyncio.sleep(0.2)

    async def prepare(self) -> None:
        for model in (Line, Order, Partner, Label, Country):
            await model.search().delete()
        countries = await Country.create([{"vat": n, "code": f"c{n}"} for n in range(COUNTRIES)])
        partners = await Partner.create(
            [{"country_id": countries[n % COUNTRIES]} for n in range(PARTNERS)]
        )
        labels = await Label.create([{"weight": n} for n in range(3)])
        orders = await Order.create(
            [{"partner_id": partners[n % PARTNERS], "label_ids": labels} for n in range(ORDERS)]
        )
        await Line.create([{"order_id": orders[n % ORDERS], "qty": n} for n in range(LINES)])

    async def step(self) -> None:
        number = self.chance.randrange(1_000)
        country = self.chance.choice(list(await Country.search(order="_id")))
        partner = self.chance.choice(list(await Partner.search(order="_id")))
        order = self.chance.choice(list(await Order.search(order="_id")))
        work: Callable[[], Any] = self.chance.choice(
            [
                lambda: country.write({"vat": number, "code": f"c{number}"}),
                lambda: Line.search([("qty", ">", number % 20)]).update({"price": number}),
                lambda: Order.search().update({"fee": number}),
                lambda: order.write({"partner_id": partner}),
                lambda: Order.search([("partner_id", "=", partner)]).update({"fee": number}),
                lambda: Line.search([("order_id", "=", order)]).update({"qty": number}),
                lambda: Label.search().update({"weight": number}),
                lambda: partner.write({"country_id": country}),
            ]
        )
        await work()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def process_name(name: str, pid: int) -> str:
    return f"{name}-{pid}"


async def told(work: Coroutine[Any, Any, int]) -> int:
    """Do the work; a signal prints where its tasks wait."""

    def tell() -> None:
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    return await work


# -- the storm --------------------------------------------------------------------------------------


class Storm:
    """Rounds of two processes each.

    Args:
        uri: The server.
        seed: Of everything random.
        fault: The name of a planted fault, or None.
    """

    def __init__(self, uri: str, seed: int = 1, fault: str | None = None) -> None:
        self.uri, self.fault = uri, fault
        self.chance = random.Random(seed)
        self.name = f"owed_storm_{uuid.uuid4().hex[:10]}"
        self.ends: Counter[str] = Counter()

    def run(self, kills: int) -> Counter[str]:
        """Kill so many processes, then let one come to its end; stop where the law is broken."""
        small(self.fault)
        # What the first use of an App imports, each process then has from its fork.
        asyncio.run(Round(self.uri, self.name, 0, []).write())
        others: list[int] = []
        while self.ends["killed"] < kills and not self.ends["broken"] + self.ends["failed"]:
            helper = self.fork(self.chance.randrange(1, 10**9), [], Round.help)
            others.append(helper)
            writer = self.fork(self.chance.randrange(1, 10**9), others, Round.write)
            others.append(writer)
            self.ends[self.end_of(writer, helper)] += 1
            self.ends["killed"] += 1
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                os.kill(helper, signal.SIGKILL)
                os.waitpid(helper, 0)
        last = self.fork(0, others, Round.write)
        self.ends[self.end_of(last)] += 1
        return self.ends

    def fork(self, seed: int, others: list[int], what: Callable[[Round], Any]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = FAILED
        try:
            aim = "" if self.fault is None else FAULTS[self.fault][1]
            code = asyncio.run(told(what(Round(self.uri, self.name, seed, others, aim))))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def end_of(self, pid: int, other: int | None = None) -> str:
        """Wait for the end of a process, and bury another one that ends meanwhile."""
        until = time.monotonic() + ROUND_SECONDS
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if other is not None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(other, os.WNOHANG)
            if time.monotonic() > until:
                print(f"process {pid} hangs", file=sys.stderr)
                os.kill(pid, signal.SIGUSR1)
                time.sleep(1)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return "failed"
            time.sleep(0.002)
        if os.WIFSIGNALED(status):
            return "killed"
        return {0: "done", BROKEN: "broken"}.get(os.waitstatus_to_exitcode(status), "failed")

    def clean(self) -> None:
        from pymongo import MongoClient

        with MongoClient[dict[str, Any]](self.uri) as client:
            client.drop_database(self.name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", choices=sorted(FAULTS))
    asked = parser.parse_args()
    storm = Storm(os.environ["EARNORM_TEST_MONGO_URI"], asked.seed, asked.fault)
    try:
        print(json.dumps(storm.run(asked.kills)))
    finally:
        storm.clean()


if __name__ == "__main__":
    main()
