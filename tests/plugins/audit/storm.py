"""A storm of cancellations: works of several kinds, each cancelled at any of its awaits, against an oracle.

Run it alone, and with a fault planted to see that it is found:

    python -m tests.servers -- python -m tests.plugins.audit.storm --driver motor --cancellations 1000
    python -m tests.servers -- python -m tests.plugins.audit.storm --plant unshielded
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import sys
import uuid
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import earnorm
from earnorm import (
    App,
    BaseModel,
    Int,
    Many2one,
    One2many,
    Operation,
    String,
    TransactionOutcomeUnknown,
    depends,
    hookimpl,
)
from earnorm import (
    Sequence as SequenceField,
)
from earnorm.backends import in_sessions, session_calls, transacting
from earnorm.features.computed.recomputing import Recomputation
from earnorm.kernel.transactions import running as kernel_running
from earnorm.model.reading import streaming
from earnorm.plugin import Transaction
from earnorm_audit import AuditPlugin


class Team(BaseModel):
    _name = "storm.team"
    token = String(required=True)
    title = String()
    motto = String()
    member_ids = One2many("storm.member", "team_id")
    size = Int(compute="_count", store=True)

    @depends("member_ids")
    def _count(self) -> int:
        return len(self.member_ids)


class Member(BaseModel):
    _name = "storm.member"
    token = String(required=True)
    team_id = Many2one(Team, on_delete="cascade")
    title = String(related="team_id.title", store=True)
    motto = String(related="team_id.motto", store=True, recompute="later")


class Invoice(BaseModel):
    _name = "storm.invoice"
    _audit = False
    number = SequenceField("{number}", gap_free=True, unique=True)


MODELS = (Team, Member, Invoice)


class Ear:
    """A plugin that notes the story of each transaction by its token."""

    api = 1
    name = "ear"

    def __init__(self) -> None:
        self.stories: dict[str, list[str]] = {}

    def _note(self, operations: Sequence[Operation], story: str) -> None:
        for running in {op.env.transaction for op in operations} - {None}:
            token = str(operations[0].env.context.get("token"))
            if running is not None:
                self.stories.setdefault(token, []).append(story)

    @hookimpl
    async def after_commit(self, app: App, operations: Sequence[Operation]) -> None:
        await asyncio.sleep(0)
        self._note(operations, "committed")

    @hookimpl
    async def after_rollback(self, app: App, operations: Sequence[Operation]) -> None:
        self._note(operations, "rolled back")

    @hookimpl
    def transaction_unknown(
        self, app: App, operations: Sequence[Operation], error: TransactionOutcomeUnknown
    ) -> None:
        self._note(operations, "unknown")


@dataclass(eq=False, slots=True)
class Cancelling:
    """An awaitable that has its task cancelled when it waits for the nth time.

    Args:
        coroutine: The work.
        moments: The numbers of the waits, each with the seconds that pass before the cancellation.
    """

    coroutine: Coroutine[Any, Any, object]
    moments: dict[int, float]
    waits: int = 0

    def __await__(self) -> Generator[Any, Any, object]:
        send: Callable[[Any], Any] = self.coroutine.send
        throw = self.coroutine.throw
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        step, given = send, None
        while True:
            try:
                waiting = step(given)
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits in self.moments:
                loop.call_later(self.moments[self.waits], task.cancel)
            try:
                given, step = (yield waiting), send
            except BaseException as error:
                given, step = error, throw


@dataclass(slots=True)
class Findings:
    """What the oracle found."""

    cancellations: int = 0
    ends: Counter[str] = field(default_factory=Counter[str])
    half: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])

    @property
    def faults(self) -> list[str]:
        return [*self.half, *self.wrong, *self.left]


class Storm:
    """The works, what each was told, and the questions of the oracle."""

    def __init__(self, app: App, ear: Ear, seed: int) -> None:
        self.app, self.ear = app, ear
        self.random = random.Random(seed)
        self.database: Any = app.dangerous_raw("the oracle looks at what is stored")
        self.found = Findings()
        self.kinds: dict[str, Callable[[str], Awaitable[Check]]] = {
            "transaction": self.transaction,
            "stream": self.stream,
            "swallowed": self.swallowed,
            "sequence": self.sequence,
            "plain": self.plain,
            "cascade": self.cascade,
            "recompute": self.recompute,
            "owed": self.owed,
        }
        self.waits: dict[str, int] = {}
        """How often a work of each kind waits, as far as one came to its end."""

    async def stored(self, model: type[BaseModel], token: str) -> list[dict[str, Any]]:
        cursor = self.database[model._collection].find({"token": token})
        documents: list[dict[str, Any]] = await cursor.to_list(None)
        return documents

    async def hog(self, connections: int) -> None:
        """Keep so many connections busy for a moment, so that operations wait for one."""
        slow = {"$where": "sleep(20) || true"}
        own = self.database["hogs"]
        await asyncio.gather(*(own.find_one(slow) for _ in range(connections)))

    async def strike(self, kind: str) -> None:
        """Carry out a work of this kind, and cancel it once or twice; the first one is not cancelled."""
        token = uuid.uuid4().hex
        prepared = await self.kinds[kind](token)
        draw = self.random
        first = draw.randint(1, self.waits.get(kind, 1))
        moments = {first: draw.choice((0.0, 0.0, 0.001, 0.003, 0.01))}
        if draw.random() < 0.4:
            moments[first + draw.randint(1, 3)] = draw.choice((0.0, 0.0005, 0.002))

        if kind not in self.waits:
            moments = {}

        async def run() -> None:
            with earnorm.act_as("storm", token=token):
                cancelling = Cancelling(prepared.work(), moments)
                await cancelling
                self.waits[kind] = max(self.waits.get(kind, 0), cancelling.waits)

        task = asyncio.ensure_future(run())
        try:
            await task
            end = "finished"
        except asyncio.CancelledError:
            end = "cancelled"
            self.found.cancellations += 1
        except earnorm.EarnORMError as error:
            end = type(error).__name__
            self.found.cancellations += 1
        self.found.ends[f"{kind} {end}"] += 1
        await prepared.check(end)

    def half(self, what: str) -> None:
        self.found.half.append(what)

    def wrong(self, what: str) -> None:
        self.found.wrong.append(what)

    # -- the works ----------------------------------------------------------------------------

    async def transaction(self, token: str) -> Check:
        team = await Team.create({"token": token, "title": "old"})
        told: list[str] = []
        box: list[Transaction] = []
        made: list[Member] = []

        async def work() -> None:
            async with earnorm.transaction() as running:
                box.append(running)

                async def committed() -> None:
                    await asyncio.sleep(0)
                    told.append("committed")

                running.after_commit(committed)
                running.after_commit(lambda: told.append("last"))
                running.after_rollback(lambda: told.append("rolled back"))
                await team.write({"title": "newer"})
                made.append(await Member.create({"token": token, "team_id": team}))
                made.append(await Member.create({"token": token, "team_id": team}))
                [_ async for _ in Member.search([("token", "=", token)])]
                await team.write({"title": "new"})

        async def check(end: str) -> None:
            members = await self.stored(Member, token)
            (document,) = await self.stored(Team, token)
            is_new = document["title"] == "new"
            if len(members) not in (0, 2) or is_new != (len(members) == 2):
                self.half(f"transaction: {len(members)} members, team {document['title']}")
            if not box:
                return
            outcome = box.pop().outcome
            # A callback that was cancelled heard that, and is not called again.
            stories = {name for name in told if name != "last"}
            hook = self.ear.stories.pop(token, [])
            if is_new and not (outcome.committed or outcome.unknown):
                self.wrong(f"transaction: stored, and told {told} {outcome!r}")
            if not is_new and not (outcome.rolled_back or outcome.unknown):
                self.wrong(f"transaction: not stored, and told {told} {outcome!r}")
            if outcome.unknown and told:
                self.wrong(f"transaction: unknown, and told {told}")
            if outcome.committed and ("last" not in told or "rolled back" in told):
                self.wrong(f"transaction: committed, and told {told}")
            if outcome.rolled_back and stories != {"rolled back"}:
                self.wrong(f"transaction: rolled back, and told {told}")
            if len(set(hook)) > 1 or (is_new and hook == ["rolled back"]):
                self.wrong(f"transaction: the hooks were told {hook}")
            if team.title != document["title"] and not team.is_stale:
                self.wrong(f"transaction: the record says {team.title}, not {document['title']}")
            for record in made:
                if record.is_stored != is_new and not record.is_stale:
                    self.wrong(f"transaction: stored {is_new}, and the record {record.is_stored}")

        return Check(work, check)

    async def stream(self, token: str) -> Check:
        await Member.create([{"token": token} for _ in range(3)])

        async def work() -> None:
            async with earnorm.session():
                async for _ in Member.search([("token", "=", token)]):
                    await Member.count([("token", "=", token)])

        async def check(end: str) -> None: ...  # the cursors are counted when the storm is over

        return Check(work, check)

    async def swallowed(self, token: str) -> Check:
        """The cancellation arrives inside the block, which goes on as if nothing had happened."""

        async def work() -> None:
            async with earnorm.transaction():
                with contextlib.suppress(asyncio.CancelledError):
                    await Member.create({"token": token})
                    await Member.create({"token": token})
                with contextlib.suppress(asyncio.CancelledError):
                    await Member.create({"token": token})

        async def check(end: str) -> None:
            members = len(await self.stored(Member, token))
            if members not in (0, 3):
                self.half(f"swallowed: {members} of 3 members, and the block {end}")
            if end == "finished" and members != 3:
                self.wrong(f"swallowed: the block {end}, and {members} of 3 are stored")

        return Check(work, check)

    async def sequence(self, token: str) -> Check:
        @earnorm.transactional(retries=100)
        async def make() -> None:
            await Invoice.create({})

        async def work() -> None:
            await make()

        async def check(end: str) -> None: ...  # the numbers are looked at when the storm is over

        return Check(work, check)

    async def plain(self, token: str) -> Check:
        """A record and its entries; there is no transaction in the program."""

        async def work() -> None:
            team = await Team.create({"token": token, "title": "old"})
            await team.write({"title": "new"})

        async def check(end: str) -> None:
            teams = await self.stored(Team, token)
            ids = [str(team["_id"]) for team in teams]
            trail = self.database["audit_entries"]
            entries = await trail.find({"record_id": {"$in": ids}}).to_list(None)
            changes = Counter(entry["operation"] for entry in entries)
            wanted: Counter[str] = Counter()
            for team in teams:
                wanted["create"] += 1
                wanted["write"] += team["title"] == "new"
            if +changes != +wanted:
                self.half(f"plain: {dict(wanted)} happened, and entries say {dict(changes)}")

        return Check(work, check)

    async def cascade(self, token: str) -> Check:
        team = await Team.create({"token": token})
        await Member.create([{"token": token, "team_id": team} for _ in range(3)])

        async def work() -> None:
            await team.unlink()

        async def check(end: str) -> None:
            teams = len(await self.stored(Team, token))
            members = len(await self.stored(Member, token))
            if (teams, members) not in ((0, 0), (1, 3)):
                self.half(f"cascade: {teams} teams and {members} members are left")

        return Check(work, check)

    async def recompute(self, token: str) -> Check:
        team = await Team.create({"token": token, "title": "old"})
        await Member.create({"token": token, "team_id": team})

        async def work() -> None:
            await Member.create({"token": token, "team_id": team})
            await team.write({"title": "new"})

        async def check(end: str) -> None:
            (document,) = await self.stored(Team, token)
            members = await self.stored(Member, token)
            if document["size"] != len(members):
                self.half(f"recompute: size {document['size']} of {len(members)} members")
            if {member["title"] for member in members} != {document["title"]}:
                self.half(f"recompute: members have another title than {document['title']}")

        return Check(work, check)

    async def owed(self, token: str) -> Check:
        team = await Team.create({"token": token, "motto": "old"})
        await Member.create([{"token": token, "team_id": team} for _ in range(2)])

        async def work() -> None:
            await team.write({"motto": "new"})
            await self.app.settled()

        async def check(end: str) -> None:
            await self.app.settled()
            (document,) = await self.stored(Team, token)
            members = await self.stored(Member, token)
            if {member["motto"] for member in members} != {document["motto"]}:
                self.half(f"owed: members have another motto than {document['motto']}")

        return Check(work, check)

    # -- what is left -------------------------------------------------------------------------

    async def look_for_leftovers(self) -> None:
        """Look at what the storm has left on the server and in the App."""
        numbers = sorted(
            [int(d["number"]) async for d in self.database[Invoice._collection].find({})]
        )
        if numbers != list(range(1, len(numbers) + 1)):
            self.half(f"sequence: the numbers of {len(numbers)} invoices are not 1, 2, 3 …")
        for _ in range(10):  # the driver closes some cursors in the background, once a second
            left = await self._left_on_server()
            if not left:
                break
            await asyncio.sleep(0.2)
        self.found.left += left
        gc.collect()
        if transactions := kept(self.app, Transaction):
            self.found.left.append(f"in the App: {len(transactions)} transactions")

    async def _left_on_server(self) -> list[str]:
        admin, name = self.database.client.admin, self.database.name
        stages: list[dict[str, Any]] = [
            {"$currentOp": {"allUsers": True, "idleSessions": True, "idleCursors": True}},
            {"$match": {"$or": [{"appName": name}, {"ns": {"$regex": f"^{name}\\."}}]}},
        ]
        left: list[str] = []
        for document in await self._aggregated(admin, stages):
            if "aggregate" in document.get("command", {}):  # this question itself
                continue
            if "transaction" in document:
                left.append("on the server: a transaction")
            if "cursor" in document:
                about = document["cursor"].get("originatingCommand", {})
                left.append(f"on the server: a cursor of {about.get('find') or 'a pipeline'}")
        return left

    @staticmethod
    async def _aggregated(database: Any, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        cursor = database.aggregate(stages)
        if asyncio.iscoroutine(cursor):
            cursor = await cursor
        documents: list[dict[str, Any]] = await cursor.to_list(None)
        return documents


@dataclass(frozen=True, slots=True)
class Check:
    """A work, and what to look at after it."""

    work: Callable[[], Coroutine[Any, Any, object]]
    check: Callable[[str], Awaitable[None]]


def kept(start: object, kind: type) -> list[object]:
    """Return the objects of a kind that containers of an object hold, however deep."""
    seen: set[int] = set()
    result: list[object] = []
    rest = [start]
    while rest:
        one = rest.pop()
        if (
            id(one) in seen
            or isinstance(one, type)
            or (callable(one) and not hasattr(one, "__self__"))
        ):
            continue
        seen.add(id(one))
        if isinstance(one, kind):
            result.append(one)
        elif type(one).__module__.startswith(("earnorm", "builtins", "collections", "weakref")):
            rest += gc.get_referents(one)
    return result


async def connections(uri: str, name: str) -> int:
    """Return the number of connections that an App has left."""
    from pymongo import AsyncMongoClient

    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        for _ in range(20):
            stages: list[dict[str, Any]] = [
                {"$currentOp": {"allUsers": True, "idleConnections": True}},
                {"$match": {"appName": name}},
            ]
            number = len(await (await client.admin.aggregate(stages)).to_list(None))
            if not number:
                return 0
            await asyncio.sleep(0.1)
        return number


# -- planted faults -------------------------------------------------------------------------------


def _unshielded() -> contextlib.AbstractContextManager[object]:
    async def carry(self: Any, begin: Any, timeout: float | None) -> Any:
        self.refuse()
        return await begin()

    return mock.patch.object(in_sessions.DriverSession, "carry", carry)


def _cut_short() -> contextlib.AbstractContextManager[object]:
    async def uncancelled(task: Any, **_: Any) -> None:
        await task

    return mock.patch.object(transacting, "uncancelled", uncancelled)


def _undoomed() -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(transacting.DriverTransaction, "doom", lambda *a, **k: None)


def _first_callback_only() -> contextlib.AbstractContextManager[object]:
    async def each(calls: Any) -> None:
        for call in calls:
            await call()

    return mock.patch.object(kernel_running, "each", each)


def _told_wrongly() -> contextlib.AbstractContextManager[object]:
    end = Transaction.end

    async def told(self: Transaction, app: App, error: BaseException | None) -> None:
        session: Any = self._session
        if error is not None:
            session._ended = "rolled_back"
        await end(self, app, error)

    return mock.patch.object(Transaction, "end", told)


def _cursors() -> contextlib.AbstractContextManager[object]:
    async def nothing(self: Any) -> None: ...

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(in_sessions.DriverSession, "close_cursors", nothing))
    stack.enter_context(mock.patch.object(session_calls.SessionCursor, "close", nothing))
    return stack


def _nothing_owed() -> contextlib.AbstractContextManager[object]:
    async def nothing(*_: Any) -> None: ...

    return mock.patch.object(Recomputation, "_owe", nothing)


def _books() -> contextlib.AbstractContextManager[object]:
    marker = AuditPlugin._marker

    def keeping(self: Any, env: Any) -> str | None:
        self.__dict__.setdefault("_strong", []).append(env.transaction)
        return marker(self, env)

    return mock.patch.object(AuditPlugin, "_marker", keeping)


PLANTS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "unshielded": _unshielded,
    "cut short": _cut_short,
    "undoomed": _undoomed,
    "first callback only": _first_callback_only,
    "told wrongly": _told_wrongly,
    "strong books": _books,
    "cursors left open": _cursors,
    "nothing owed": _nothing_owed,
}


@contextlib.contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Plant a fault of a kind that the storm has to find."""
    with contextlib.nullcontext() if fault is None else PLANTS[fault]():
        yield


@contextlib.asynccontextmanager
async def _batches_of_one() -> AsyncIterator[None]:
    with mock.patch.object(streaming, "BATCH", 1):
        yield


async def storm(
    uri: str,
    driver: str,
    cancellations: int,
    *,
    seed: int = 1,
    at_once: int = 6,
    pool: int = 5,
    kinds: Sequence[str] = (),
    stop_at_fault: bool = False,
) -> Findings:
    """Cancel so many works, and return what the oracle found."""
    name = f"storm_{uuid.uuid4().hex[:10]}"
    ear = Ear()
    app = App(
        uri,
        database=name,
        driver=driver,
        plugins=[AuditPlugin(), ear],
        max_pool_size=pool,
        client_options={"appName": name},
    )
    # A batch of one document leaves a cursor open in every stream of several.
    async with app, _batches_of_one():
        here = Storm(app, ear, seed)
        found = here.found
        try:
            await app.prepare_models()
            await here.database["hogs"].insert_one({})
            names = [*(kinds or here.kinds)]
            while found.cancellations < cancellations and not (stop_at_fault and found.faults):
                chosen = here.random.choices(names, k=at_once)
                hogs = here.random.choice((0, 0, pool))
                await asyncio.gather(here.hog(hogs), *map(here.strike, chosen))
            await here.look_for_leftovers()
        finally:
            await here.database.client.drop_database(name)
    if left := await connections(uri, name):
        found.left.append(f"on the server: {left} connections")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", default="pymongo")
    parser.add_argument("--cancellations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pool", type=int, default=5)
    parser.add_argument("--plant", choices=PLANTS)
    parser.add_argument("--kinds", nargs="*", default=())
    asked = parser.parse_args()
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    with planted(asked.plant):
        found = asyncio.run(
            storm(
                uri,
                asked.driver,
                asked.cancellations,
                seed=asked.seed,
                pool=asked.pool,
                kinds=asked.kinds,
                stop_at_fault=asked.plant is not None,
            )
        )
    for fault in found.faults[:20]:
        print("FAULT", fault)
    print(dict(sorted(found.ends.items())))
    print(
        f"{asked.driver}, pool {asked.pool}: {found.cancellations} cancellations, "
        f"{len(found.half)} half written, {len(found.wrong)} wrong stories, {len(found.left)} left"
    )
    sys.exit(bool(found.faults) != (asked.plant is not None))


if __name__ == "__main__":
    main()
