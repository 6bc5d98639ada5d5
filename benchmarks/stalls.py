"""How long the event loop stands still: ``python -m benchmarks.stalls [records ...]``.

Prints, for each awaited operation on so many records (10,000 and 30,000 unless said otherwise), the
longest time in which no other task could run, median of three rounds, beside that of the raw driver
for the same batch. It is the processor's time of the thread, which does not depend on what else the
machine does, and Python's garbage collector rests meanwhile; the last column is with its pauses.
``--case TEXT`` measures only the cases with this text in their names. It needs
EARNORM_TEST_MONGO_URI, fills a database of its own and drops it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final

from pymongo import UpdateOne

import earnorm
from benchmarks.data import person
from benchmarks.pulse import longest_stall
from earnorm import (
    App,
    Command,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2many,
    Many2one,
    One2many,
    String,
    depends,
    mixins,
    models,
)
from earnorm.fields import Boolean, Float

SIZES: Final = (10_000, 30_000)
ROUNDS: Final = 3

Work = Callable[[], Awaitable[object]]


# -- the models -----------------------------------------------------------------------------------


class Person(models.BaseModel):
    """Ten plain fields."""

    _name = "stalls.person"

    name = String(required=True)
    email = String()
    age = Int()
    city = String()
    street = String()
    phone = String()
    score = Float()
    visits = Int()
    active = Boolean()
    note = String()


class Stamped(mixins.Timestamps, models.BaseModel):
    """Values that steps fill in with each create and write."""

    _name = "stalls.stamped"
    _versioned = True

    name = String(required=True)
    age = Int()


class Account(models.BaseModel):
    """A record that an upsert finds."""

    _name = "stalls.account"

    key = String(unique=True)
    name = String()


class Line(EmbeddedModel):
    """An item of an order."""

    product = String(required=True)
    qty = Int()
    price = Float()


class Order(models.BaseModel):
    """A list of embedded objects."""

    _name = "stalls.order"

    name = String(required=True)
    lines = List(Embedded(Line))


class Team(models.BaseModel):
    """The record that all tickets follow."""

    _name = "stalls.team"

    name = String(required=True)
    ticket_ids: One2many[Ticket] = One2many("stalls.ticket", "team_id")


class Label(models.BaseModel):
    """The other end of a Many2many."""

    _name = "stalls.label"

    name = String(required=True)


class Ticket(models.BaseModel):
    """Stored computed fields, of its own values and of its team's, and relations."""

    _name = "stalls.ticket"

    title = String(required=True)
    qty = Int(default=1)
    price = Int(default=1)
    total = Int(compute="_total", store=True)
    team_id = Many2one(Team, index=True)
    team_name = String(related="team_id.name", store=True)
    label_ids = Many2many(Label)

    @depends("qty", "price")
    def _total(self) -> int:
        return (self.qty or 0) * (self.price or 0)


class Author(models.BaseModel):
    """As many as posts, so that a prefetch makes a record for each."""

    _name = "stalls.author"

    name = String(required=True)
    post_ids: One2many[Post] = One2many("stalls.post", "author_id")


class Post(models.BaseModel):
    """Each has an author of its own."""

    _name = "stalls.post"

    title = String(required=True)
    author_id = Many2one(Author, index=True, on_delete="cascade")


def order(number: int) -> dict[str, Any]:
    """Return an order with five lines."""
    lines = [{"product": f"P{n}", "qty": n, "price": n / 4} for n in range(5)]
    return {"name": f"Order {number}", "lines": lines}


# -- measuring ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _milliseconds(work: Work) -> float:
    """Return the longest stall by the processor's time of this thread."""
    return await longest_stall(work, time.thread_time) * 1e3


# -- the cases ------------------------------------------------------------------------------------

Prepared = tuple[Work, Work | None]
"""What is measured, and the raw driver's way to do the same."""
Case = Callable[[Any, int], Awaitable[Prepared]]
CASES: dict[str, Case] = {}


def case(title: str) -> Callable[[Case], Case]:
    """Add a case."""

    def add(prepare: Case) -> Case:
        CASES[title] = prepare
        return prepare

    return add


async def _empty(*collections: type[models.BaseModel]) -> None:
    for model in collections:
        await model.search().delete()


async def _people(number: int) -> Any:
    await _empty(Person)
    await Person.create([person(n) for n in range(number)])
    return await Person.search()


async def _orders(number: int) -> Any:
    await _empty(Order)
    await Order.create([order(n) for n in range(number)])
    return await Order.search()


async def _tickets(number: int) -> Any:
    await _empty(Ticket, Team, Label)
    team = await Team.create({"name": "team"})
    labels = await Label.create([{"name": f"label {n}"} for n in range(10)])
    await Ticket.create(
        [
            {"title": f"{n}", "qty": n, "team_id": team, "label_ids": [labels[n % 10]]}
            for n in range(number)
        ]
    )
    return team


async def _posts(number: int) -> None:
    await _empty(Post, Author)
    authors = await Author.create([{"name": f"author {n}"} for n in range(number)])
    await Post.create([{"title": f"{n}", "author_id": a} for n, a in enumerate(authors)])


@case("create")
async def _create(raw: Any, number: int) -> Prepared:
    await _empty(Person)
    values, documents = [[person(n) for n in range(number)] for _ in range(2)]
    return lambda: Person.create(values), lambda: raw["stalls_person"].insert_many(documents)


@case("create in a transaction")
async def _create_in_transaction(raw: Any, number: int) -> Prepared:
    await _empty(Person)
    values = [person(n) for n in range(number)]

    async def work() -> None:
        async with earnorm.transaction():
            await Person.create(values)

    return work, None


@case("create records that exist as objects")
async def _create_objects(raw: Any, number: int) -> Prepared:
    await _empty(Person)
    people = [Person(**person(n)) for n in range(number)]
    documents = [person(n) for n in range(number)]
    return lambda: Person.create(people), lambda: raw["stalls_person"].insert_many(documents)


@case("create lists of embedded")
async def _create_embedded(raw: Any, number: int) -> Prepared:
    await _empty(Order)
    values, documents = [[order(n) for n in range(number)] for _ in range(2)]
    return lambda: Order.create(values), lambda: raw["stalls_order"].insert_many(documents)


@case("create, computed and linked")
async def _create_computed(raw: Any, number: int) -> Prepared:
    team = await _tickets(1)
    values = [{"title": f"{n}", "qty": n, "team_id": team} for n in range(number)]
    return lambda: Ticket.create(values), None


@case("create, stamped and versioned")
async def _create_stamped(raw: Any, number: int) -> Prepared:
    await _empty(Stamped)
    values = [{"name": f"{n}", "age": n} for n in range(number)]
    return lambda: Stamped.create(values), None


@case("create with their children")
async def _create_children(raw: Any, number: int) -> Prepared:
    await _empty(Author, Post)
    values = [{"name": f"{n}", "post_ids": [{"title": "t"}]} for n in range(number)]
    return lambda: Author.create(values), None


@case("search")
async def _search(raw: Any, number: int) -> Prepared:
    await _people(number)

    async def work() -> object:
        return await Person.search()

    return work, lambda: raw["stalls_person"].find().to_list(None)


@case("search lists of embedded")
async def _search_embedded(raw: Any, number: int) -> Prepared:
    await _orders(number)

    async def work() -> object:
        return await Order.search()

    return work, lambda: raw["stalls_order"].find().to_list(None)


@case("stream")
async def _stream(raw: Any, number: int) -> Prepared:
    await _people(number)

    async def work() -> None:
        async for _ in Person.search():
            pass

    async def driver() -> None:
        async for _ in raw["stalls_person"].find():
            pass

    return work, driver


@case("prefetch a Many2one")
async def _prefetch_one(raw: Any, number: int) -> Prepared:
    await _posts(number)

    async def work() -> object:
        return await Post.search().prefetch("author_id")

    async def driver() -> None:
        posts = await raw["stalls_post"].find().to_list(None)
        ids = [post["author_id"] for post in posts]
        await raw["stalls_author"].find({"_id": {"$in": ids}}).to_list(None)

    return work, driver


@case("prefetch a One2many")
async def _prefetch_many(raw: Any, number: int) -> Prepared:
    await _posts(number)

    async def work() -> object:
        return await Author.search().prefetch("post_ids")

    async def driver() -> None:
        authors = await raw["stalls_author"].find().to_list(None)
        ids = [author["_id"] for author in authors]
        await raw["stalls_post"].find({"author_id": {"$in": ids}}).to_list(None)

    return work, driver


@case("prefetch a Many2many")
async def _prefetch_stored(raw: Any, number: int) -> Prepared:
    await _tickets(number)

    async def work() -> object:
        return await Ticket.search().prefetch("label_ids")

    return work, None


@case("load a relation of all")
async def _lazy(raw: Any, number: int) -> Prepared:
    await _posts(number)
    posts = await Post.search()

    async def work() -> None:
        author: Any = posts[0].author_id
        await author

    return work, None


@case("assign and save")
async def _save(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    for one in people:
        one.age = 91
    updates = [UpdateOne({"_id": one.pk}, {"$set": {"age": 92}}) for one in people]
    return people.save, lambda: raw["stalls_person"].bulk_write(updates, ordered=False)


@case("change in lists of embedded and save")
async def _save_embedded(raw: Any, number: int) -> Prepared:
    orders = await _orders(number)
    for one in orders:
        one.lines[0].qty = 91
    updates = [UpdateOne({"_id": one.pk}, {"$set": {"lines.0.qty": 92}}) for one in orders]
    return orders.save, lambda: raw["stalls_order"].bulk_write(updates, ordered=False)


@case("save computed")
async def _save_computed(raw: Any, number: int) -> Prepared:
    await _tickets(number)
    tickets = await Ticket.search()
    for one in tickets:
        one.price = 7
    return tickets.save, None


@case("save, stamped and versioned")
async def _save_stamped(raw: Any, number: int) -> Prepared:
    await _empty(Stamped)
    await Stamped.create([{"name": f"{n}", "age": n} for n in range(number)])
    stamped = await Stamped.search()
    for one in stamped:
        one.age = 91
    return stamped.save, None


@case("link one to all")
async def _link(raw: Any, number: int) -> Prepared:
    await _tickets(number)
    label = await Label.create({"name": "new"})
    tickets = await Ticket.search()
    return lambda: tickets.write({"label_ids": [Command.link(label)]}), None


@case("write")
async def _write(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    ids = people.pks
    change = {"$set": {"age": 92}}
    return (
        lambda: people.write({"age": 91}),
        lambda: raw["stalls_person"].update_many({"_id": {"$in": ids}}, change),
    )


@case("write_many")
async def _write_many(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    values = {one: {"age": n} for n, one in enumerate(people)}
    return lambda: Person.write_many(values), None


@case("bulk")
async def _bulk(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    bulk = await Person.bulk().__aenter__()
    for one in people:
        bulk.write(one, {"age": 5})
    return lambda: bulk.__aexit__(None, None, None), None


@case("upsert")
async def _upsert(raw: Any, number: int) -> Prepared:
    await _empty(Account)
    await Account.create([{"key": f"{n}", "name": "x"} for n in range(0, number, 2)])
    values = [{"key": f"{n}", "name": "y"} for n in range(number)]
    return lambda: Account.upsert_many(values, "key"), None


@case("refresh")
async def _refresh(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    return people.refresh, None


@case("read")
async def _read(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    return people.read, None


@case("copy")
async def _copy(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    return people.copy, None


@case("unlink")
async def _unlink(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    return people.unlink, None


@case("unlink, cascading")
async def _cascade(raw: Any, number: int) -> Prepared:
    await _posts(number)
    authors = await Author.search()
    return authors.unlink, None


async def _rolled_back(work: Work) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with earnorm.transaction():
            await work()
            raise ZeroDivisionError


@case("save and roll back")
async def _roll_back_saved(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    for one in people:
        one.age = 91
    return lambda: _rolled_back(people.save), None


@case("write and roll back")
async def _roll_back_written(raw: Any, number: int) -> Prepared:
    people = await _people(number)
    return lambda: _rolled_back(lambda: people.write({"age": 91})), None


@case("write lists of embedded and roll back")
async def _roll_back_embedded(raw: Any, number: int) -> Prepared:
    orders = await _orders(number)
    return lambda: _rolled_back(lambda: orders.write({"name": "x"})), None


@case("create and roll back")
async def _roll_back_created(raw: Any, number: int) -> Prepared:
    await _empty(Person)
    values = [person(n) for n in range(number)]
    return lambda: _rolled_back(lambda: Person.create(values)), None


@case("load relations and roll back")
async def _roll_back_loaded(raw: Any, number: int) -> Prepared:
    await _posts(number)
    authors = await Author.search()

    async def load() -> None:
        await authors[0].post_ids

    return lambda: _rolled_back(load), None


@case("rename what a stored field follows")
async def _rename(raw: Any, number: int) -> Prepared:
    team = await _tickets(number)
    return lambda: team.write({"name": "renamed"}), None


@case("recompute")
async def _recompute(raw: Any, number: int) -> Prepared:
    await _tickets(number)
    await raw["stalls_ticket"].update_many({}, {"$set": {"total": -1, "team_name": "?"}})
    return lambda: earnorm.current_env().app.recompute(Ticket), None


@case("recompute one field in a transaction")
async def _recompute_in_transaction(raw: Any, number: int) -> Prepared:
    team = await _tickets(number)

    async def work() -> None:
        async with earnorm.transaction():
            await team.write({"name": "renamed"})

    return work, None


if find_spec("pandas") is not None:

    @case("a query's to_pandas")
    async def _to_pandas(raw: Any, number: int) -> Prepared:
        await _people(number)
        return lambda: Person.search().to_pandas(), None


@dataclass(slots=True)
class Figures:
    """The longest stalls of some rounds, in milliseconds."""

    ours: list[float] = field(default_factory=list[float])
    drivers: list[float] = field(default_factory=list[float])
    with_collector: list[float] = field(default_factory=list[float])

    def row(self, title: str, number: int) -> str:
        """Return the row of the table."""
        columns = (self.ours, self.drivers, self.with_collector)
        medians = [f"{statistics.median(column):.0f}" if column else "" for column in columns]
        return f"| {title} | {number:,} | {' | '.join(medians)} |"


async def _measured(raw: Any, prepare: Case, number: int) -> Figures:
    figures = Figures()
    for _ in range(ROUNDS):
        work, driver = await prepare(raw, number)
        with _without_collector():
            figures.ours.append(await _milliseconds(work))
        if driver is not None:
            work, driver = await prepare(raw, number)
            assert driver is not None
            with _without_collector():
                figures.drivers.append(await _milliseconds(driver))
        work, driver = await prepare(raw, number)
        figures.with_collector.append(await _milliseconds(work))
        del work, driver
    return figures


async def main(sizes: list[int], wanted: str, plugins: list[str]) -> None:
    """Run the cases, and print their figures."""
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    database = f"stalls_{uuid.uuid4().hex[:8]}"
    async with App(uri, database=database, plugins=plugins, recompute_limit=None) as app:
        raw = app.dangerous_raw("the raw driver's part of the benchmark")
        print(
            "| longest stall, ms | records | EarnORM | raw driver | EarnORM, with the collector |"
        )
        print("|---|---|---|---|---|")
        try:
            for title, prepare in CASES.items():
                if wanted in title:
                    for number in sizes:
                        figures = await _measured(raw, prepare, number)
                        print(figures.row(title, number), flush=True)
        finally:
            await raw.client.drop_database(database)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stalls", description=__doc__)
    parser.add_argument("records", type=int, nargs="*", default=SIZES)
    parser.add_argument("--case", default="")
    parser.add_argument("--plugin", action="append", default=[])
    options = parser.parse_args()
    asyncio.run(main(list(options.records), options.case, options.plugin))
