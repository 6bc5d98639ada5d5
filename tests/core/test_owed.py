"""Recomputes beyond the limit: owed in the transaction of the change, worked off in chunks after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    FieldNotLoaded,
    Int,
    Many2one,
    One2many,
    String,
    TransactionError,
    ValidationError,
    depends,
    hookimpl,
)
from earnorm.domain import Condition
from earnorm.features.computed.owed import chunks, documents, worker
from earnorm.features.computed.owed.chunks import Settlement
from earnorm.features.computed.owed.documents import LeaseLost, Owed, claim, owed_in
from earnorm.features.computed.plugin import graph_of, worker_of
from earnorm.features.computed.recomputing import lagging_fields
from earnorm.kernel.environment import use_env
from earnorm.kernel.operations import Operation
from earnorm.kernel.time import use_clock

from .conftest import DRIVERS, default_app, definitions

LIMIT = 10
TICKETS = 25


class Region(BaseModel):
    _name = "owed.region"
    name = String(required=True)


class Team(BaseModel):
    _name = "owed.team"
    name = String(required=True)
    region_id = Many2one(Region)
    region_name = String(related="region_id.name", store=True)
    ticket_ids = One2many("owed.ticket", "team_id")
    letters = Int(compute="_compute_letters", store=True)

    @depends("ticket_ids.label")
    def _compute_letters(self) -> int:
        return sum(len(ticket.label or "") for ticket in self.ticket_ids)


class Ticket(BaseModel):
    _name = "owed.ticket"
    number = Int(default=0)
    team_id = Many2one(Team, index=True)
    team_name = String(related="team_id.name", store=True)
    label = String(compute="_compute_label", store=True)
    slow = String(compute="_compute_slow", store=True, recompute="later")
    quick = String(related="team_id.region_name", store=True, recompute="now")

    @depends("team_name", "number")
    def _compute_label(self) -> str:
        if self.team_name == f"bad {self.number}":
            raise ZeroDivisionError
        return f"{self.team_name} {self.number}"

    @depends("number")
    def _compute_slow(self) -> str:
        return f"slow {self.number}"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 8)
    monkeypatch.setattr(chunks, "_WINDOW", 20)
    monkeypatch.setattr(worker, "_POLL", 0.02)


@pytest.fixture(params=DRIVERS)
async def small_app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    async with default_app(request.param, database, recompute_limit=LIMIT) as started:
        yield started


@pytest.fixture
async def one_app(database: str) -> AsyncIterator[App]:
    async with default_app("pymongo", database, recompute_limit=LIMIT) as started:
        yield started


@contextmanager
def resting(app: App) -> Iterator[None]:
    """Let nothing be worked off inside the block."""
    of_app = worker_of(app)
    assert of_app is not None
    of_app.wake = lambda: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del of_app.wake  # type: ignore[method-assign]


async def shop(number: int = TICKETS) -> Team:
    region = await Region.create({"name": "north"})
    team = await Team.create({"name": "one", "region_id": region})
    await Ticket.create({"team_id": team, "number": n} for n in range(number))
    await earnorm.current_env().app.settled()
    return team


async def names(field: str = "team_name") -> set[str]:
    return set((await Ticket.search()).mapped(field))


async def rows(app: App) -> list[Owed]:
    return [owed async for owed in owed_in(app.env.as_system("test"), ids=True)]


async def in_step() -> None:
    """Compare every stored value with the one that its formula gives."""
    teams = {team.pk: team for team in await Team.search().prefetch("region_id")}
    letters = dict.fromkeys(teams, 0)
    for ticket in await Ticket.search():
        team = teams.get(ticket.__dict__["team_id"])
        name = team.name if team else None
        assert ticket.team_name == name
        assert ticket.label == f"{name} {ticket.number}" and ticket.slow == f"slow {ticket.number}"
        if team:
            letters[team.pk] += len(ticket.label or "")
    assert {pk: team.letters for pk, team in teams.items()} == letters


# -- the change and what is owed ------------------------------------------------------------------


async def test_a_recompute_within_the_limit_is_part_of_the_transaction(small_app: App) -> None:
    team = await shop(LIMIT - 1)  # and the team, whose letters change
    with resting(small_app):
        await team.write({"name": "two"})
        assert await rows(small_app) == []
        await in_step()


async def test_a_recompute_beyond_the_limit_is_owed_and_settled(small_app: App) -> None:
    team = await shop()
    with resting(small_app):
        await team.write({"name": "two"})
        assert await names() == {"one"}
        [owed] = await rows(small_app)
        assert (owed.model, owed.path, owed.ids) == ("owed.ticket", "team_id", (team.pk,))
        health = (await small_app.health())["recompute"]
        assert (health["status"], health["owed"], health["apart"]) == ("ok", 1, 0)
        assert health["oldest_seconds"] >= 0  # type: ignore[operator]
    await small_app.settled()
    await in_step()
    assert await rows(small_app) == []
    assert (await small_app.health())["recompute"]["owed"] == 0


async def test_it_is_worked_off_without_anybody_waiting(one_app: App) -> None:
    team = await shop()
    await team.write({"name": "two"})
    of_app = worker_of(one_app)
    assert of_app is not None and of_app._task is not None
    await of_app._task
    await in_step()


async def test_what_follows_from_what_is_owed_follows(small_app: App) -> None:
    team = await shop()
    await Ticket.search().update({"number": 7})  # the label, and the letters of the team
    await team.write({"name": "three"})
    await (await Ticket.search([("number", "=", 7)], limit=3)).unlink()
    await small_app.settled()
    await in_step()


async def test_a_rollback_takes_back_what_is_owed(one_app: App) -> None:
    team = await shop()
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            await team.write({"name": "two"})
            with pytest.raises(TransactionError, match=r"settled\(\): a transaction is running"):
                await one_app.settled()
            raise RuntimeError
    await one_app.settled()
    assert await names() == {"one"} and await rows(one_app) == []


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
async def test_each_way_to_change_records_may_owe(kind: str, database: str) -> None:
    async with default_app(kind, database, recompute_limit=3) as app:
        with definitions():

            class Shelf(BaseModel):
                _name = "owed.shelf"
                book_ids = One2many("owed.book", "shelf_id")
                size = Int(compute="_compute_size", store=True)

                @depends("book_ids")
                def _compute_size(self) -> int:
                    return len(self.book_ids)

            class Book(BaseModel):
                _name = "owed.book"
                shelf_id = Many2one(Shelf)

            async def sizes() -> set[int | None]:
                await app.settled()
                return set((await Shelf.search()).mapped("size"))

            shelves = await Shelf.create([{} for _ in range(6)])
            with resting(app):
                await Book.create([{"shelf_id": shelf} for shelf in shelves])
                assert len(await rows(app)) == 1
            assert await sizes() == {1}
            with resting(app):
                await Book.create_many({"shelf_id": shelf} for shelf in shelves)
                assert await rows(app)
            assert await sizes() == {2}
            with resting(app):
                await Book.search().update({"shelf_id": shelves[0]})
                assert await rows(app)
            assert await sizes() == {12, 0}
            with resting(app):
                await Book.search().update({"shelf_id": None})
                assert await rows(app) == []  # it is one shelf
                await Book.create([{"shelf_id": shelf} for shelf in shelves])
            assert await sizes() == {1}
            with resting(app):
                await Book.search().delete()
                assert await rows(app)
            assert await sizes() == {0}


async def test_a_tree_is_worked_off_level_by_level(small_app: App) -> None:
    with definitions():

        class Folder(BaseModel):
            _name = "owed.folder"
            name = String(required=True)
            parent_id = Many2one("owed.folder", index=True)
            path = String(compute="_compute_path", store=True)

            @depends("name", "parent_id.path")
            def _compute_path(self) -> str:
                return f"{self.parent_id.path}/{self.name}" if self.parent_id else self.name

        top = await Folder.create({"name": "a"})
        level = [top]
        for width in (3, 12, 24):
            level = list(
                await Folder.create(
                    [{"name": "x", "parent_id": level[n % len(level)]} for n in range(width)]
                )
            )
        await top.write({"name": "b"})
        await small_app.settled()
        paths = (await Folder.search()).mapped("path")
        assert sorted(set(paths)) == ["b", "b/x", "b/x/x", "b/x/x/x"] and len(paths) == 40


async def test_records_that_depend_on_each_other_in_a_circle_come_to_an_end(
    one_app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chunks, "_MOST_HOPS", 5)
    with definitions():

        class Ring(BaseModel):
            _name = "owed.ring"
            name = String(required=True)
            next_id = Many2one("owed.ring", index=True)
            path = String(compute="_compute_path", store=True, recompute="later")

            @depends("name", "next_id.path")
            def _compute_path(self) -> str:
                return f"{self.next_id.path}/{self.name}" if self.next_id else self.name

        one, two = await Ring.create([{"name": "1"}, {"name": "2"}])
        raw = one_app.dangerous_raw("links that no write would make")[Ring._collection]
        await raw.update_one({"_id": one.pk}, {"$set": {"next_id": two.pk}})
        await raw.update_one({"_id": two.pk}, {"$set": {"next_id": one.pk}})
        await one.write({"name": "3"})
        await one_app.settled()
        assert "depend on each other in a circle" in caplog.text
        assert (await one_app.health())["recompute"]["status"] == "degraded"


# -- what a field says ----------------------------------------------------------------------------


async def test_a_field_may_say_that_it_is_computed_now_or_later(small_app: App) -> None:
    team = await shop()
    with resting(small_app):
        region = await Region.search()
        await region.write({"name": "south"})
        assert await names("quick") == {"south"} and await rows(small_app) == []
        ticket = (await Ticket.search(limit=1)).ensure_one()
        await ticket.write({"number": 99})
        assert [owed.names for owed in await rows(small_app)] == [("slow",)]
        assert (await Ticket.get(ticket.pk)).label == "one 99"
    await small_app.settled()
    await in_step()
    assert team.pk


async def test_what_is_computed_now_takes_along_only_what_it_needs(small_app: App) -> None:
    with definitions():

        class Desk(BaseModel):
            _name = "owed.desk"
            team_id = Many2one(Team, index=True)
            now = String(related="team_id.name", store=True, recompute="now")
            then = String(compute="_compute_then", store=True)

            @depends("team_id.name", "team_id.region_id")
            def _compute_then(self) -> str:
                return self.team_id.name if self.team_id else ""

        team = await Team.create({"name": "one"})
        await Desk.create([{"team_id": team} for _ in range(TICKETS)])
        with resting(small_app):
            await team.write({"name": "two"})
            desks = await Desk.search()
            assert set(desks.mapped("now")) == {"two"} and set(desks.mapped("then")) == {"one"}
            assert [owed.names for owed in await rows(small_app)] == [("then",)]
        await small_app.settled()
        assert set((await Desk.search()).mapped("then")) == {"two"}


async def test_an_owed_field_of_a_loaded_record_is_not_loaded(small_app: App) -> None:
    await shop(1)
    ticket = (await Ticket.search()).ensure_one()
    assert ticket.slow == "slow 0"
    ticket.number = 5
    with resting(small_app):
        await ticket.save()
        with pytest.raises(FieldNotLoaded):
            _ = ticket.slow
        assert ticket.label == "one 5"
    await small_app.settled()
    await ticket.refresh()
    assert ticket.slow == "slow 5"
    many = await Ticket.create([{"number": n} for n in range(TICKETS)])
    await many.write({"team_id": None, "number": 3})
    with pytest.raises(FieldNotLoaded):
        _ = many[0].label
    await small_app.settled()
    await many.refresh()
    assert many[0].label == "None 3"


async def test_what_follows_from_what_is_owed_is_not_loaded_in_the_written_record(
    database: str,
) -> None:
    with definitions():

        class Firm(BaseModel):
            rate = Int(required=True, default=1)
            bonus = Int(required=True, default=0)
            line_ids = One2many("firm_line", "firm_id")
            total = Int(compute="_compute_total", store=True)
            plain = Int(compute="_compute_plain", store=True)

            @depends("line_ids.worth", "bonus")
            def _compute_total(self) -> int:
                return self.bonus + sum(line.worth or 0 for line in self.line_ids)

            @depends("bonus")
            def _compute_plain(self) -> int:
                return self.bonus

        class FirmLine(BaseModel):
            firm_id = Many2one(Firm, index=True)
            worth = Int(compute="_compute_worth", store=True)

            @depends("firm_id.rate")
            def _compute_worth(self) -> int:
                return self.firm_id.rate if self.firm_id else 0

        for kind in ("pymongo", "memory"):
            async with default_app(kind, database, recompute_limit=LIMIT) as app:
                firm = await Firm.create({})
                await FirmLine.create([{"firm_id": firm}] * TICKETS)
                await app.settled()
                await firm.refresh()
                assert firm.total == TICKETS
                with resting(app):
                    await firm.write({"rate": 2, "bonus": 5})
                    assert (firm.rate, firm.plain) == (2, 5)
                    with pytest.raises(FieldNotLoaded):
                        _ = firm.total
                await app.settled()
                await firm.refresh()
                assert firm.total == 2 * TICKETS + 5


async def test_what_is_owed_because_of_a_record_written_along_is_not_loaded(database: str) -> None:
    with definitions():

        class Holder(BaseModel):
            name = String(required=True)

        class Login(BaseModel):
            _inherits = {"holder": "holder_id"}
            holder_id = Many2one(Holder, required=True, index=True)
            login = String(required=True)
            shown = String(compute="_compute_shown", store=True)

            @depends("login", "holder_id.name")
            def _compute_shown(self) -> str:
                return f"{self.login}<{self.holder_id.name}>"

        for kind in ("pymongo", "memory"):
            for limit in (0, LIMIT):
                async with default_app(kind, database, recompute_limit=limit) as app:
                    user = await Login.create({"login": "l", "name": "A"})
                    assert user.shown == "l<A>"
                    with resting(app):
                        await user.write({"name": "B"})
                        if limit:
                            assert user.shown == "l<B>"
                        else:
                            with pytest.raises(FieldNotLoaded):
                                _ = user.shown
                    await app.settled()
                    await user.refresh()
                    assert user.shown == "l<B>"


def test_an_option_that_says_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match=r"recompute='soon'\): \"now\" is in the transaction"):
        String(compute="_x", store=True, recompute="soon")  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(TypeError, match=r"recompute='now'\) needs store=True"):
        String(compute="_x", recompute="now")
    with pytest.raises(TypeError, match=r"recompute=\.\.\.\) goes with compute= or related="):
        String(recompute="now")


@pytest.mark.parametrize("limit", [-1, 10_001, True, 2.5, "10"])
def test_a_limit_is_a_number_of_records(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="recompute_limit is the number of records"):
        App("mongomock://", database="x", plugins=[], recompute_limit=limit)


@pytest.mark.parametrize("interval", [0, -1, "soon"])
def test_an_interval_is_a_time(interval: Any) -> None:
    with pytest.raises(ConfigurationError, match="recompute_interval is a time in seconds"):
        App("mongomock://", database="x", plugins=[], recompute_interval=interval)


async def test_the_first_ones_that_owe_at_once_get_through(small_app: App) -> None:
    """A collection that appears during a transaction would end it."""
    teams = await Team.create([{"name": "one"} for _ in range(5)])
    await Ticket.create([{"team_id": team} for team in teams for _ in range(LIMIT + 1)])

    async def rename(team: Team) -> None:
        async with earnorm.transaction():  # which nobody can run again
            await team.write({"name": "two"})

    await asyncio.gather(*map(rename, teams))
    await small_app.settled()
    assert await Ticket.count([("team_name", "!=", "two")]) == 0


async def test_what_is_owed_is_read_to_its_end(one_app: App) -> None:
    """However much it is; what matters here comes last."""
    env = one_app.env.as_system("test")
    owed = [
        document
        for name in ["label"] * 2_000 + ["slow"]
        for document in documents.owed_documents(
            "owed.ticket", [name], [f"owed.ticket.{name}"], [ObjectId()], ()
        )
    ]
    told = worker_of(one_app)
    assert told is not None
    with resting(one_app):
        model = documents.owed_model(one_app)
        await one_app.execute(Operation("create", model, env, values=owed))
        assert (await told.health())["owed"] == len(owed)
        assert [part.fields for part in await told.listed()][-1] == ("slow",)
        lagging = await lagging_fields(env, graph_of(one_app), "owed.ticket")
        assert lagging == {"label", "slow"}
        await documents.delete(env, documents.WAITING)


async def test_what_comes_while_it_is_read_is_read(
    one_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what follows from a chunk of another process does, whatever its id."""
    monkeypatch.setattr(documents, "_PART", 2)
    env, model = one_app.env.as_system("test"), documents.owed_model(one_app)
    owed = documents.owed_documents("owed.ticket", ["label"], [], [], [Condition("_id", "in", [1])])
    late, *early = ({**owed[0], "_id": ObjectId()} for _ in range(4))
    with resting(one_app):
        await one_app.execute(Operation("create", model, env, values=early))
        read = list[Any]()
        async for row in owed_in(env):
            read.append(row.pk)
            if len(read) == 2:
                await one_app.execute(Operation("create", model, env, values=[late]))
        assert read == [*(document["_id"] for document in early), late["_id"]]
        await documents.delete(env, documents.WAITING)


async def test_without_a_limit_nothing_is_owed(database: str) -> None:
    async with default_app("pymongo", database, recompute_limit=None) as app:
        team = await shop()
        with resting(app):
            await team.write({"name": "two"})
            await Ticket.search().update({"number": 4})
            assert await rows(app) == []
            await in_step()


class Relying:
    """Relies on values of tickets, as access rules do."""

    api = 1
    name = "relying"

    @hookimpl
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        if model._name == "owed.ticket":
            app.rely_on("owed.ticket", "team_id.region_name", "the rule 'near' reads it")
            app.rely_on("owed.ticket", "label", "the rule 'mine' reads it")
            app.rely_on("owed.ticket", "nothing.at.all", "a rule that is refused elsewhere")


async def test_what_a_plugin_relies_on_is_never_owed_and_the_start_says_so(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "earnorm.recompute"):
        async with default_app("pymongo", database, [Relying()], recompute_limit=LIMIT) as app:
            team = await shop()
            with resting(app):
                await team.write({"name": "two"})
                assert await names("label") == {f"two {n}" for n in range(TICKETS)}
                assert {row.model for row in await rows(app)} == {"owed.team"}
            await app.settled()
            await in_step()
    said = {record.getMessage().partition(": ")[2] for record in caplog.records}
    assert "owed.ticket.label is never owed: the rule 'mine' reads it" in said
    assert "owed.team.region_name is never owed: the rule 'near' reads it" in said
    told = "owed.ticket.team_name is never owed: owed.ticket.label reads it, and the rule 'mine' reads it"
    assert told in said
    assert not any("quick" in line for line in said)  # that field says it itself


async def test_what_a_unique_index_reads_is_never_owed(one_app: App) -> None:
    with definitions():

        class Badge(BaseModel):
            _name = "owed.badge"
            _indexes = [
                earnorm.Index("code", unique=True, partial=[("open", "=", True)], name="one"),
            ]
            number = Int()
            code = String(compute="_compute_code", store=True, db_name="c")
            open = earnorm.Boolean(compute="_compute_open", store=True)
            other = String(compute="_compute_code", store=True)

            @depends("number")
            def _compute_code(self) -> str:
                return f"c{self.number}"

            @depends("number")
            def _compute_open(self) -> bool:
                return bool(self.number)

        urgent = graph_of(one_app).urgent
        assert urgent["owed.badge", "code"] == "a unique index reads it"
        assert ("owed.badge", "open") in urgent and ("owed.badge", "other") not in urgent


async def test_a_value_that_may_not_lag_behind_cannot_be_computed_later(one_app: App) -> None:
    with definitions():

        class Wrong(BaseModel):
            _name = "owed.wrong"
            number = Int()
            code = String(compute="_compute_code", store=True, unique=True, recompute="later")

            @depends("number")
            def _compute_code(self) -> str:
                return f"c{self.number}"

        with pytest.raises(
            ConfigurationError, match=r'owed.wrong.code says recompute="later", and .* unique index'
        ):
            async with App("mongomock://", database="wrong", plugins=[]):
                pass


# -- chunks ---------------------------------------------------------------------------------------


async def test_a_record_whose_formula_fails_is_set_apart_and_holds_up_no_other(
    small_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    team = await shop()
    [bad] = await Ticket.search([("number", "=", 13)])
    await team.write({"name": "bad 13"})
    await small_app.settled()
    assert await Ticket.count([("team_name", "=", "bad 13")]) == TICKETS - 1
    [apart] = await rows(small_app)
    assert apart.ids == (bad.pk,) and "ZeroDivisionError" in (apart.error or "")
    health = (await small_app.health())["recompute"]
    assert (health["status"], health["owed"], health["apart"]) == ("degraded", 0, 1)
    assert health["apart_records"] == [
        {
            "model": "owed.ticket",
            "fields": ["team_name"],
            "ids": [str(bad.pk)],
            "error": apart.error,
        }
    ]
    assert f"the record {bad.pk} is set apart" in caplog.text
    of_app = worker_of(small_app)
    assert of_app is not None
    await of_app.retry()  # it fails again
    assert [row.error for row in await rows(small_app)] == [apart.error]
    await team.write({"name": "good"})
    await small_app.settled()
    assert await rows(small_app) == []  # it has its value
    await in_step()


async def test_a_record_is_set_apart_once_whatever_the_number_of_changes(small_app: App) -> None:
    team = await shop()
    for name in ("bad 13", "bad 14", "bad 13", "bad 13"):
        await team.write({"name": name})
        await small_app.settled()
    [apart] = await rows(small_app)
    assert apart.ids == (next(iter(await Ticket.search([("number", "=", 13)]))).pk,)


async def test_a_chunk_of_slow_formulas_is_small(
    small_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = await shop()
    sizes: list[int] = []
    chunk, spent = Settlement._chunk, 0.0

    async def slow(self: Settlement, pks: Any, is_last: bool) -> Owed:
        nonlocal spent
        sizes.append(len(pks))
        spent += 0.6 * len(pks)  # seconds
        return await chunk(self, pks, is_last)

    monkeypatch.setattr(Settlement, "_chunk", slow)
    monkeypatch.setattr(chunks, "monotonic", lambda: spent)
    with resting(small_app):
        await team.write({"name": "two"})
        [owed] = [row for row in await rows(small_app) if row.names == ("team_name",)]
        env = small_app.env.as_system("test")
        held = await claim(env, owed, take_over=False)
        assert held is not None
        with use_env(env):
            await Settlement(graph_of(small_app), held, chunks.Figures()).run()
    assert sizes[0] == 8 and set(sizes[1:-1]) == {3}
    await small_app.settled()
    await in_step()


async def test_many_owed_documents_of_the_same_records_are_one_work(small_app: App) -> None:
    team = await shop()
    of_app = worker_of(small_app)
    assert of_app is not None
    with resting(small_app):
        for number in range(5):
            await team.write({"name": f"name {number}"})
        assert len(await rows(small_app)) == 5
    before = of_app.figures.chunks
    await small_app.settled()
    await in_step()
    assert of_app.figures.chunks - before <= 2 * (TICKETS // 8 + 2)


async def test_a_chunk_that_meets_others_is_halved_until_it_gets_through(small_app: App) -> None:
    team = await shop()
    stop = False
    of_app = worker_of(small_app)
    assert of_app is not None

    async def write(number: int) -> None:
        while not stop:
            await Ticket.search([("number", "=", number)]).update({"team_id": team})
            await asyncio.sleep(0)

    writers = [asyncio.create_task(write(number)) for number in range(5)]
    for number in range(50):
        await team.write({"name": f"name {number}"})  # none fails
    await small_app.settled()
    stop = True
    await asyncio.gather(*writers)
    await small_app.settled()
    await in_step()


# -- several processes ----------------------------------------------------------------------------


@asynccontextmanager
async def second_app(first: App, **settings: Any) -> AsyncIterator[App]:
    """Another process, as far as the database knows."""
    async with App(
        first._lifecycle.uri,
        database=first.settings.database,
        plugins=[],
        recompute_limit=LIMIT,
        **{"recompute_interval": None, **settings},
    ) as app:
        yield app


async def test_an_app_looks_for_what_others_owe(one_app: App) -> None:
    team = await shop()
    with resting(one_app):
        await team.write({"name": "two"})
        async with second_app(one_app, recompute_interval=0.05) as other:
            while await rows(other):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await in_step()


async def test_what_a_living_process_works_off_is_left_to_it(one_app: App) -> None:
    team = await shop()
    with resting(one_app):
        await team.write({"name": "two"})
        env = one_app.env.as_system("test")
        [owed] = [owed async for owed in owed_in(env)]
        held = await claim(env, owed, take_over=False)
        assert held is not None and held.token == 1 and held.ids == (team.pk,)
        assert await claim(env, owed, take_over=False) is None  # somebody was faster
        [owed] = [owed async for owed in owed_in(env)]
        assert owed.holder and await claim(env, owed, take_over=True) is None


async def test_a_dead_process_is_followed_and_what_it_writes_late_is_refused(
    one_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = await shop()
    env = one_app.env.as_system("test")
    with resting(one_app), one_app.activate():
        await team.write({"name": "two"})
        [owed] = [owed async for owed in owed_in(env)]
        held = await claim(env, owed, take_over=False)
        assert held is not None
        with earnorm.system(reason="test"):
            late = chunks.Settlement(graph_of(one_app), held, chunks.Figures())
            pks = await late._window()
            assert await late._try(pks[:8], False) == 8
            monkeypatch.setattr(documents, "LEASE", timedelta(0))
            [owed, follows] = [owed async for owed in owed_in(env)]
            assert owed.after == pks[7] and follows.model == "owed.team"
            heir = await claim(env, owed, take_over=True)
            assert heir is not None and heir.token == 2 and heir.after == pks[7]
            before = await names()
            with pytest.raises(LeaseLost):
                await late._try(pks[8:16], False)
            assert await names() == before and await Ticket.count([("team_name", "=", "two")]) == 8
            await chunks.Settlement(graph_of(one_app), heir, chunks.Figures()).run()
        assert await names() == {"two"}
    await one_app.settled()
    await in_step()


async def test_the_clock_of_a_process_has_no_say_in_a_lease(one_app: App) -> None:
    team = await shop()
    env = one_app.env.as_system("test")
    with resting(one_app):
        await team.write({"name": "two"})
        with use_clock(lambda: datetime(2001, 1, 1, tzinfo=UTC)):
            [owed] = [owed async for owed in owed_in(env)]
            assert await claim(env, owed, take_over=False) is not None
        [owed] = [owed async for owed in owed_in(env)]
        assert await claim(env, owed, take_over=True) is None


async def test_a_stop_hands_back_what_is_not_done(
    one_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = await shop()
    begun = asyncio.Event()
    chunk = chunks.Settlement._chunk

    async def slow(self: Any, pks: Any, is_last: bool) -> Owed:
        if self.owed.after is not None:
            begun.set()
            await asyncio.sleep(60)
        return await chunk(self, pks, is_last)

    with resting(one_app):
        await team.write({"name": "two"})
        async with second_app(one_app) as other:
            of_other = worker_of(other)
            assert of_other is not None
            monkeypatch.setattr(chunks.Settlement, "_chunk", slow)
            of_other.wake()
            await begun.wait()
            await other.stop(grace=0.01)
        monkeypatch.undo()
        owed = (await rows(one_app))[0]
        assert owed.alive_at is None and owed.after is not None and owed.token == 1
    await one_app.settled()
    await in_step()


async def test_what_this_app_does_not_know_is_left_to_others(one_app: App) -> None:
    team = await shop()
    with resting(one_app):
        await team.write({"name": "two"})
    env = one_app.env.as_system("test")
    unknown = documents.owed_documents("of.tomorrow", ["name"], ["of.tomorrow.name"], [1], ())
    unknown += documents.owed_documents(
        "owed.ticket", ["of_tomorrow"], ["owed.ticket.of_tomorrow"], [1], ()
    )
    model = documents.owed_model(one_app)
    # Who works this off without the badge, which follows, would lose it.
    follows = ["owed.ticket.team_name", "owed.ticket.badge"]
    unknown += documents.owed_documents("owed.ticket", ["team_name"], follows, [1], ())
    await one_app.execute(Operation("create", model, env, values=unknown))
    await one_app.settled()
    await in_step()
    assert {row.model for row in await rows(one_app)} == {"of.tomorrow", "owed.ticket"}
    health = (await one_app.health())["recompute"]
    assert (health["owed"], health["foreign"], health["oldest_seconds"]) == (0, 3, 0.0)
    worker = worker_of(one_app)
    assert worker is not None and all(part.foreign for part in await worker.listed())
    with resting(one_app):
        await team.write({"name": "three"})
    await worker.forget()
    assert {row.names for row in await rows(one_app)} == {("team_name",)}


async def test_what_is_owed_names_all_that_follows(small_app: App) -> None:
    graph = graph_of(small_app)
    assert graph.following("owed.team", ["region_name"]) == [
        "owed.team.region_name",
        "owed.ticket.quick",
    ]
    assert set(graph.following("owed.ticket", ["team_name"])) == {
        "owed.ticket.team_name",
        "owed.ticket.label",
        "owed.team.letters",
    }


async def test_an_app_without_the_feature_says_so(database: str) -> None:
    async with App("mongomock://", database=database, plugins=[], disabled=["recompute"]) as app:
        with pytest.raises(ConfigurationError, match=r"settled\(\).*'recompute'"):
            await app.settled()
    with pytest.raises(ConfigurationError, match="not started"):
        await app.settled()


# -- a server alone -------------------------------------------------------------------------------


async def test_without_transactions_it_is_owed_before_the_change(
    memory_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_of(memory_app), "limit", LIMIT)
    team = await shop()
    seen: list[int] = []

    class Stop(Exception):
        pass

    async def die(op: Operation, call_next: Any) -> Any:
        seen.append(len(await rows(memory_app)))
        await call_next(op)
        raise Stop  # as a process that dies after the change

    bound = memory_app.bind(Team)
    original = bound._write

    async def write(op: Operation) -> Any:
        return await die(op, original)

    with resting(memory_app):
        monkeypatch.setattr(bound, "_write", write)
        memory_app.recompose()
        with pytest.raises(Stop):
            await team.write({"name": "two"})
        assert seen == [1] and await names() == {"one"}
        [owed] = await rows(memory_app)
        assert owed.alive_at is not None  # nobody works it off before the change
    monkeypatch.undo()
    memory_app.recompose()
    monkeypatch.setattr(documents, "LEASE", timedelta(0))
    of_app = worker_of(memory_app)
    assert of_app is not None
    of_app.look()
    await memory_app.settled()
    assert await names() == {"two"}


async def test_without_transactions_too_it_settles(memory_app: App, monkeypatch: Any) -> None:
    monkeypatch.setattr(graph_of(memory_app), "limit", LIMIT)
    team = await shop()
    await team.write({"name": "two"})
    await Ticket.search().update({"number": 5})
    await memory_app.settled()
    await in_step()
    assert await rows(memory_app) == []
    with pytest.raises(ValidationError):
        await Ticket.create({"number": "x"})
