"""What grows: documents, conditions, records, models, plugins, tasks and lists of ids.

Each subject is a coroutine that gives its curves; it runs in a process of its own, so that a
thousand models are nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count as count_from
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

import earnorm
from benchmarks.data import PEOPLE, oid, person
from benchmarks.growth.curves import Curve, lowest, lowest_of_calls
from earnorm import BaseModel, Boolean, Domain, Float, Int, Many2one, String, hookimpl
from earnorm.exceptions import EarnORMError


class Person(BaseModel):
    """A document of ten flat values."""

    _name, _collection = "growth.person", "people"
    name = String(required=True)
    email = String(required=True)
    age = Int(required=True)
    city = String(required=True)
    street = String(required=True)
    phone = String()
    score = Float(required=True)
    visits = Int(required=True)
    active = Boolean(required=True)
    note = String()


class Written(BaseModel):
    """What the writes store."""

    _name, _collection = "growth.written", "written"
    name = String(required=True)
    visits = Int(required=True)


class Team(BaseModel):
    """What members point at."""

    _name, _collection = "growth.team", "teams"
    name = String(required=True)


class Member(BaseModel):
    """With a team of its own, so that a prefetch has as many on either side."""

    _name, _collection = "growth.member", "members"
    name = String(required=True)
    team = Many2one(Team, required=True, on_delete="cascade")


@dataclass(frozen=True, slots=True)
class Place:
    """Where is measured.

    Attributes:
        uri: The server's.
        database: The subject's own.
        largest: No step is larger.
    """

    uri: str
    database: str
    largest: int

    def steps(self, *sizes: int) -> Iterator[int]:
        """The sizes that this run goes to."""
        return (size for size in sizes if size <= self.largest)

    def app(self, **keywords: Any) -> earnorm.App:
        """An App of the core alone."""
        return earnorm.App(
            self.uri, database=self.database, **{"plugins": [], "driver": "pymongo", **keywords}
        )

    def fill(self, number: int) -> None:
        """Store so many people, with the driver alone."""
        with MongoClient[dict[str, Any]](self.uri) as client:
            people = client[self.database]["people"]
            for start in range(0, number, 50_000):
                end = min(start + 50_000, number)
                people.insert_many({"_id": oid(PEOPLE, n), **person(n)} for n in range(start, end))

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[Any]:
        """The driver's own collection of people."""
        async with AsyncMongoClient[dict[str, Any]](self.uri) as client:
            yield client[self.database]["people"]


async def documents(place: Place) -> list[Curve]:
    """Finds of ever more documents, two fields touched."""
    sizes = list(place.steps(100, 1_000, 10_000, 100_000, 1_000_000))
    place.fill(sizes[-1])
    raw = Curve("documents of a find", "PyMongo", "document", ours=False)
    found = Curve(raw.subject, "EarnORM", "document")
    streamed = Curve(raw.subject, "EarnORM, streamed", "document")
    async with place.raw() as people, place.app():
        for size in sizes:
            end = oid(PEOPLE, size)

            async def by_driver(end: Any = end) -> None:
                each = await people.find({"_id": {"$lt": end}}, batch_size=2**31 - 1).to_list(None)
                _ = [(d["name"], d["age"]) for d in each]

            async def awaited(end: Any = end) -> None:
                _ = [(r.name, r.age) for r in await Person.search([("id", "<", end)])]

            async def iterated(end: Any = end) -> None:
                _ = sum([r.age async for r in Person.search([("id", "<", end)])])

            for curve, step in ((raw, by_driver), (found, awaited), (streamed, iterated)):
                curve.points.append((size, await lowest(step, size)))
    return [raw, found, streamed]


async def conditions(place: Place) -> list[Curve]:
    """Domains of ever more conditions: read, compiled, combined, resolved, matched, asked."""
    place.fill(10)
    subject, unit = "conditions of a domain", "condition"
    names = ("and", "or", "combined with &", "matched in memory", "filtered_domain()", "sent")
    curves = {name: Curve(subject, name, unit) for name in names}
    async with place.app() as app:
        bound = app.bind(Person)
        document = {"_id": oid(PEOPLE, 0), **person(0)}
        records = await Person.search()
        for size in place.steps(1, 10, 100, 1_000):
            fields = ("age", "visits", "score")
            terms: list[object] = [(fields[n % 3], "!=", n + 10_000) for n in range(size)]
            either: list[object] = [*"|" * (size - 1), *terms]
            joined = _joined(terms)
            matches = app.matcher(Person, terms)
            steps: dict[str, Callable[[], Any]] = {
                "and": lambda terms=terms: bound.filter(Domain(terms)),
                "or": lambda either=either: bound.filter(Domain(either)),
                "combined with &": lambda terms=terms: bound.filter(_joined(terms)),
                "matched in memory": lambda matches=matches: matches(document),
                "filtered_domain()": lambda joined=joined: records.filtered_domain(joined),
            }
            for name, step in steps.items():
                repeats = max(1, 3_000 // size)
                curves[name].points.append(
                    (size, await lowest(_often(step, repeats), size * repeats))
                )

            async def sent(domain: Domain = joined) -> None:
                await Person.search(domain)

            curves["sent"].points.append((size, await lowest_of_calls(sent) / size))
    return list(curves.values())


def _joined(terms: list[object]) -> Domain:
    domain = Domain()
    for term in terms:
        domain &= [term]
    return domain


def _often(step: Callable[[], Any], repeats: int) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        for _ in range(repeats):
            step()

    return run


async def records(place: Place) -> list[Curve]:
    """What is done with ever more records at once."""
    # Not more: a cascade of 100,000 is a transaction that the tests' server has no room for in its cache.
    sizes = list(place.steps(10, 100, 1_000, 10_000))
    subject, unit = "records of a RecordSet", "record"
    names = (
        *("create", "change and save", "write", "refresh", "union and difference", "unlink"),
        *("prefetch a relation", "lazy relation", "cascading unlink"),
    )
    curves = {name: Curve(subject, name, unit) for name in names}
    async with place.app() as app:
        for size in sizes:
            values = [{"name": f"n{n}", "visits": n} for n in range(size)]
            kept: list[Any] = [await Written.search()]

            async def create(values: Any = values, kept: Any = kept) -> None:
                kept[0] = await Written.create(values)

            async def save(kept: Any = kept) -> None:
                for record in kept[0]:
                    record.visits += 1
                await kept[0].save()

            async def write(kept: Any = kept) -> None:
                await kept[0].write({"visits": 5})

            async def refresh(kept: Any = kept) -> None:
                await kept[0].refresh()

            async def algebra(kept: Any = kept) -> None:
                assert not (kept[0] | kept[0]) - kept[0]

            async def unlink(kept: Any = kept) -> None:
                await kept[0].unlink()

            for name, step, before in (
                ("create", create, None),
                ("change and save", save, None),
                ("write", write, None),
                ("refresh", refresh, None),
                ("union and difference", algebra, None),
                ("unlink", unlink, create),
            ):
                curves[name].points.append((size, await lowest(step, size, before=before, runs=3)))
            await app.dangerous_raw("an empty collection")["written"].delete_many({})

            async def members(values: Any = values) -> None:
                teams = await Team.create([{"name": each["name"]} for each in values])
                await Member.create([{"name": team.name, "team": team} for team in teams])

            async def prefetch() -> None:
                _ = [member.team.name for member in await Member.search().prefetch("team")]

            async def lazy() -> None:
                _ = [(await member.team).name for member in await Member.search()]

            async def cascade() -> None:
                await Team.search().delete()

            await members()
            for name, step, before in (
                ("prefetch a relation", prefetch, None),
                ("lazy relation", lazy, None),
                ("cascading unlink", cascade, members),
            ):
                curves[name].points.append((size, await lowest(step, size, before=before, runs=2)))
    return list(curves.values())


async def models(place: Place) -> list[Curve]:
    """Ever more models, each with ten fields, an index, and one that points at it (itself)."""
    subject = "models"
    names = {
        "define": "model",
        "App start": "model",
        "first search of each": "model",
        "first unlink of each": "model",
        "get by id": "get",
        "unlink": "unlink",
        "transaction": "transaction",
    }
    curves = {name: Curve(subject, name, unit) for name, unit in names.items()}
    place.fill(10)
    made: list[type[BaseModel]] = []
    for size in place.steps(1, 10, 100, 1_000):

        async def define(size: int = size) -> None:
            while len(made) < size:
                made.append(_model(len(made)))

        before = len(made)
        start = asyncio.get_running_loop().time()
        await define()
        curves["define"].points.append(
            (size, (asyncio.get_running_loop().time() - start) / (size - before))
        )

        async def start_app() -> None:
            async with place.app():
                pass

        curves["App start"].points.append((size, await lowest(start_app, size)))
        # Before the database has as many collections: this is about what the App does.
        async with place.app(create_indexes=False):

            async def get() -> None:
                await Person.get(oid(PEOPLE, 3))

            async def unlink() -> None:
                await Written.search().delete()

            async def transaction() -> None:
                async with earnorm.transaction():
                    await Person.get(oid(PEOPLE, 3))

            for name, step in (
                ("get by id", get),
                ("unlink", unlink),
                ("transaction", transaction),
            ):
                curves[name].points.append((size, await lowest_of_calls(step)))
        async with place.app():
            start = asyncio.get_running_loop().time()
            for model in made:
                await model.search().limit(1)
            searched = asyncio.get_running_loop().time()
            for model in made:
                await model.search().delete()
            deleted = asyncio.get_running_loop().time()
            curves["first search of each"].points.append((size, (searched - start) / size))
            curves["first unlink of each"].points.append((size, (deleted - searched) / size))
    return list(curves.values())


def _model(number: int) -> type[BaseModel]:
    name = f"growth.model{number}"
    fields: dict[str, Any] = {f"field_{n}": String() for n in range(9)}
    fields["parent"] = Many2one(name, on_delete="set_null")
    return type(f"Model{number}", (BaseModel,), {"__module__": __name__, "_name": name, **fields})


async def plugins(place: Place) -> list[Curve]:
    """Ever more plugins: those that do nothing, and those whose hooks are called and do nothing."""
    place.fill(10)
    names = {
        "App start": "plugin",
        "get by id": "get",
        "write": "write",
        "write, observed by each": "plugin",
    }
    curves = {name: Curve("plugins", name, unit) for name, unit in names.items()}
    for size in place.steps(1, 10, 100):
        idle = [_plugin(f"idle{n}", {}) for n in range(size)]
        hooks = {"before_write": _before_write, "after_write": _after_write}
        watching = [_plugin(f"watching{n}", hooks) for n in range(size)]

        async def start_app(idle: Any = idle) -> None:
            async with place.app(plugins=idle):
                pass

        async def get() -> None:
            await Person.get(oid(PEOPLE, 3))

        async def write() -> None:
            await Person.search([("id", "=", oid(PEOPLE, 3))]).update({"visits": 3})

        curves["App start"].points.append((size, await lowest(start_app, size)))
        async with place.app(plugins=idle):
            curves["get by id"].points.append((size, await lowest_of_calls(get)))
            curves["write"].points.append((size, await lowest_of_calls(write)))
        async with place.app(plugins=watching):
            curves["write, observed by each"].points.append(
                (size, await lowest_of_calls(write) / size)
            )
    return list(curves.values())


@hookimpl
def _before_write(self: object, op: object) -> None:
    return


@hookimpl
def _after_write(self: object, op: object, result: object) -> None:
    return


def _plugin(name: str, hooks: dict[str, Any]) -> type:
    return type(name, (), {"api": 1, "name": name, **hooks})


async def tasks(place: Place) -> list[Curve]:
    """Ever more tasks at once, each with one get by id."""
    sizes = list(place.steps(1, 10, 100, 1_000, 10_000))
    place.fill(sizes[-1])
    raw = Curve("tasks at once", "PyMongo", "get", ours=False)
    pooled = Curve(raw.subject, "EarnORM", "get")
    coalesced = Curve(raw.subject, "EarnORM, coalescing", "get")
    async with place.raw() as people, place.app():
        for size in sizes:
            pks = [oid(PEOPLE, n) for n in range(size)]

            async def by_driver(pks: Any = pks) -> None:
                await asyncio.gather(*(people.find_one({"_id": pk}) for pk in pks))

            async def gets(pks: Any = pks) -> None:
                await asyncio.gather(*map(Person.get, pks))

            async def joined(pks: Any = pks) -> None:
                with earnorm.coalescing():
                    await asyncio.gather(*map(Person.get, pks))

            for curve, step in ((raw, by_driver), (pooled, gets), (coalesced, joined)):
                curve.points.append((size, await lowest(step, size)))
    return [raw, pooled, coalesced]


async def lists(place: Place) -> list[Curve]:
    """Ever longer lists under ``in``; every tenth id exists."""
    sizes = list(place.steps(10, 100, 1_000, 10_000, 100_000, 1_000_000))
    place.fill(max(1, sizes[-1] // 10))
    subject, unit = "ids of an 'in' list", "id"
    raw = Curve(subject, "PyMongo, in parts of 200,000", unit, ours=False)
    names = ("compile", "matched in memory", "search", "count", "update")
    curves = {name: Curve(subject, name, unit) for name in names}
    async with place.raw() as people, place.app() as app:
        bound = app.bind(Person)
        document = {"_id": oid(PEOPLE, 0)}
        new = count_from(7)  # a value that is there already is not written again
        for size in sizes:
            pks = [oid(PEOPLE, n // 10) if n % 10 == 0 else oid(90, n) for n in range(size)]
            domain: list[object] = [("id", "in", pks)]

            async def by_driver(pks: Any = pks) -> None:
                for start in range(0, len(pks), 200_000):
                    part = {"_id": {"$in": pks[start : start + 200_000]}}
                    await people.find(part, batch_size=2**31 - 1).to_list(None)

            async def compiled(domain: Any = domain) -> None:
                with suppress(
                    EarnORMError
                ):  # too long for one filter: what it takes to find that out
                    bound.filter(Domain(domain))

            async def matched(domain: Any = domain) -> None:
                assert app.matcher(Person, domain)(document)

            async def search(domain: Any = domain) -> None:
                await Person.search(domain)

            async def count(domain: Any = domain) -> None:
                await Person.search(domain).count()

            async def update(domain: Any = domain) -> None:
                await Person.search(domain).update({"visits": next(new)})

            raw.points.append((size, await lowest(by_driver, size)))
            for name, step in (
                ("compile", compiled),
                ("matched in memory", matched),
                ("search", search),
                ("count", count),
                ("update", update),
            ):
                curves[name].points.append((size, await lowest(step, size)))
    return [raw, *curves.values()]


Subject = Callable[[Place], Awaitable[list[Curve]]]

SUBJECTS: dict[str, tuple[Subject, int]] = {
    "documents": (documents, 100_000),
    "conditions": (conditions, 1_000),
    "records": (records, 10_000),
    "models": (models, 1_000),
    "plugins": (plugins, 100),
    "tasks": (tasks, 10_000),
    "lists": (lists, 1_000_000),
}
"""Each subject with its largest step; ``--full`` goes as far as there are steps."""


def run(name: str, place: Place) -> list[Curve]:
    """Measure one subject, in this process."""
    logging.getLogger("earnorm").setLevel(logging.ERROR)
    return asyncio.run(SUBJECTS[name][0](place))  # type: ignore[arg-type] # each is a coroutine function
