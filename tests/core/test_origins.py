"""Each operation says who made it and for what; docs/plugins.md has the list of origins."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

import earnorm
from earnorm import (
    BaseModel,
    Command,
    ConcurrencyError,
    ConfigurationError,
    File,
    Inc,
    Int,
    Many2many,
    Many2one,
    NotFound,
    One2many,
    String,
    ValidationError,
    constrains,
    depends,
    hookimpl,
    plugin,
)
from earnorm.kernel.environment import current_env
from earnorm.kernel.layers import Middleware
from earnorm.kernel.operations import Call, Operation

from .conftest import default_app

_ROOT = Path(__file__).parents[2]
_FEATURES = _ROOT / "earnorm-core" / "src" / "earnorm" / "features"
Made = tuple[str, str, str, str | None]
"""An operation's name, model and origin, and the name of its parent."""


class Tag(BaseModel):
    _name = "origin.tag"
    name = String(required=True)


class House(BaseModel):
    _name = "origin.house"
    name = String()
    floor_ids = One2many["Floor"]("origin.floor", "house_id")
    tag_ids = Many2many(Tag)
    area = Int(compute="_area", store=True)

    @depends("floor_ids.area")
    def _area(self) -> int:
        return sum(floor.area or 0 for floor in self.floor_ids)


class Floor(BaseModel):
    _name = "origin.floor"
    area = Int()
    house_id = Many2one(House)

    @constrains("area")
    async def _check(self) -> None:
        """Accept every area; that it exists makes updates by a domain read the records."""


class Key(BaseModel):
    _name = "origin.key"
    house_id = Many2one(House, on_delete="cascade")


class Stock(BaseModel):
    _name = "origin.stock"
    units = Int(max_value=100)


class Node(BaseModel):
    _name = "origin.node"
    _parent_store = True
    parent_id = Many2one("origin.node", on_delete="restrict")


class Partner(BaseModel):
    _name = "origin.partner"
    city = String()


class Member(BaseModel):
    _name = "origin.member"
    _inherits = {"origin.partner": "partner_id"}
    partner_id = Many2one(Partner, required=True)
    login = String(unique=True)


class Paper(BaseModel):
    _name = "origin.paper"
    _versioned = True
    text = String()
    content = File()


class Animal(BaseModel):
    _name = "origin.animal"
    _discriminator = "kind"
    name = String()


class Cat(Animal):
    _name = "origin.cat"


class Recorder:
    """Notes every operation, outside of all other layers."""

    api = 1
    hears_bookkeeping = True

    def __init__(self) -> None:
        self.made: list[Made] = []

    @hookimpl
    def wrap_operation(self, model: Any) -> Iterable[tuple[int, Middleware]]:
        async def note(op: Operation, call_next: Call) -> Any:
            parent = None if op.parent is None else op.parent.name
            name = op.model._name.removeprefix("origin.")
            self.made.append((op.name, name, op.origin, parent))
            return await call_next(op)

        return [(1, note)]

    def take(self) -> list[Made]:
        """Return what was noted since the last time, each once, in order."""
        made, self.made = list(dict.fromkeys(self.made)), []
        return made


@pytest.fixture
async def made(database: str) -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with default_app("pymongo", database, [recorder]):
        yield recorder


async def test_the_program(made: Recorder) -> None:
    tag = await Tag.create({"name": "a"})
    await tag.write({"name": "b"})
    tag.name = "c"
    await tag.save()
    await tag.refresh()
    await Tag.search().count()
    await Tag.search().update({"name": "d"})
    await Tag.search().page()
    await Tag.search().group("name")
    await Tag.search().explain()
    async for _ in Tag.search():
        pass
    await tag.unlink()
    assert {(origin, parent) for _, _, origin, parent in made.take()} == {("program", None)}


async def test_conditions_and_orders_in_other_records(made: Recorder) -> None:
    await Floor.search([("house_id.name", "=", "x")])
    assert made.take() == [
        ("search", "floor", "program", None),
        ("search", "house", "model", "search"),
    ]
    await Floor.search(order="house_id.name")
    assert made.take() == [
        ("search", "floor", "program", None),
        ("search", "house", "model", "search"),
    ]


async def test_what_a_write_looks_up(made: Recorder) -> None:
    stocks = await Stock.create([{"units": 90}, {"units": 95}])
    made.take()
    with pytest.raises(ValidationError):
        await stocks.write({"units": Inc(50)})
    assert made.take() == [("count", "stock", "model", "write")]
    await stocks.write({"units": Inc(1)})
    assert ("search", "stock", "model", "write") in made.take()
    await Floor.create({"area": 1})
    await Floor.search([("area", ">", 0)]).update({"area": 3})
    assert ("search", "floor", "model", "write") in made.take()


async def test_relations(made: Recorder) -> None:
    house = await House.create(
        {"floor_ids": [Command.create({"area": 1})], "tag_ids": [Command.create({"name": "t"})]}
    )
    by_model = {(name, model): (origin, parent) for name, model, origin, parent in made.take()}
    assert by_model["create", "house"] == ("program", None)
    assert by_model["create", "floor"] == ("relations", None)
    assert by_model["create", "tag"] == ("relations", None)
    (floor,) = await house.floor_ids
    made.take()
    await house.write({"floor_ids": [Command.update(floor, {"area": 2})]})
    assert ("write", "floor", "relations", None) in made.take()
    await house.write({"floor_ids": [Command.unlink(floor)]})
    assert ("write", "floor", "relations", None) in made.take()
    await House.search().prefetch("floor_ids", "tag_ids")
    assert made.take() == [
        ("search", "house", "program", None),
        ("search", "floor", "relations", None),
        ("search", "tag", "relations", None),
    ]


async def test_computed(made: Recorder) -> None:
    house = await House.create({})
    made.take()
    floor = await Floor.create({"area": 5, "house_id": house})
    of_computed = [each for each in made.take() if each[2] == "computed"]
    assert ("write", "house", "computed", "create") in of_computed
    assert {each[3] for each in of_computed} == {"create"}
    await floor.write({"area": 6})
    assert ("write", "house", "computed", "write") in made.take()
    await floor.unlink()
    assert ("write", "house", "computed", "unlink") in made.take()
    await current_env().app.recompute(House)
    assert {each[2:] for each in made.take() if each[2] != "relations"} == {("computed", None)}


async def test_on_delete(made: Recorder) -> None:
    house = await House.create({})
    await Key.create({"house_id": house})
    made.take()
    await house.unlink()
    noted = made.take()
    assert ("unlink", "key", "on_delete", "unlink") in noted
    assert ("search", "key", "on_delete", "unlink") in noted


async def test_parent_store(made: Recorder) -> None:
    one, two = await Node.create([{}, {}])
    made.take()
    child = await Node.create({"parent_id": one})
    assert ("search", "node", "parent_store", "create") in made.take()
    await child.write({"parent_id": two})
    noted = made.take()
    assert ("write", "node", "parent_store", "write") in noted
    assert ("search", "node", "parent_store", "write") in noted
    await Node.search([("id", "child_of", one.id)])
    assert made.take() == [
        ("search", "node", "program", None),
        ("search", "node", "parent_store", None),
    ]


async def test_delegation(made: Recorder) -> None:
    member: Any = await Member.create({"login": "a", "city": "Hue"})
    assert made.take() == [
        ("create", "partner", "delegation", None),
        ("create", "member", "program", None),
    ]
    await member.write({"city": "Da Nang"})
    assert ("write", "partner", "delegation", None) in made.take()


async def test_revisions(made: Recorder) -> None:
    paper = await Paper.create({"text": "a"})
    again = await Paper.get(paper.pk)
    await again.write({"text": "b"})
    made.take()
    with pytest.raises(ConcurrencyError):
        await paper.write({"text": "c"})
    assert ("count", "paper", "revisions", "write") in made.take()


async def test_files(made: Recorder) -> None:
    paper = await Paper.create({})
    made.take()
    await paper.content.write(b"one")
    await paper.content.read()
    await paper.content.write(b"two")
    assert {each[2:] for each in made.take()} == {("files", None)}
    await paper.unlink()
    noted = made.take()
    assert ("unlink", "paper", "program", None) in noted
    assert ("search", "paper", "files", "unlink") in noted


async def test_sequences(made: Recorder) -> None:
    await earnorm.sequence("invoice").next()
    await earnorm.sequence("invoice").next()
    await earnorm.sequence("invoice").last()
    noted = made.take()
    assert {each[0] for each in noted} == {"write", "create", "search"}
    assert {each[2:] for each in noted} == {("sequences", None)}


async def test_bulk(made: Recorder) -> None:
    one, two = await Tag.create([{"name": "1"}, {"name": "2"}])
    made.take()
    async with Tag.bulk() as bulk:
        bulk.create({"name": "3"})
        bulk.write(one, {"name": "4"})
        bulk.unlink(two)
    noted = made.take()
    assert {each[0] for each in noted} == {"create", "write", "unlink"}
    assert {each[2:] for each in noted} == {("bulk", None)}
    await Tag.create_many([{"name": "5"}])
    assert made.take() == [("create", "tag", "bulk", None)]
    await two.unlink()
    made.take()
    with pytest.raises(NotFound):
        async with Tag.bulk() as bulk:
            bulk.write(two, {"name": "6"})
    assert ("search", "tag", "bulk", "write") in made.take()


async def test_upserts(made: Recorder) -> None:
    await Member.search()
    made.take()
    partner = await Partner.create({"city": "Hue"})
    made.take()
    values = {"login": "a", "partner_id": partner}
    await Member.upsert(values, on="login")
    await Member.upsert(values, on="login")
    await Member.upsert_many([values, {**values, "login": "b"}], on="login")
    noted = [each for each in made.take() if each[1] == "member"]
    assert noted and {each[2:] for each in noted} == {("upserts", None)}


async def test_grouping_and_watching(made: Recorder) -> None:
    stage = {
        "$lookup": {
            "from": "origin.house",
            "localField": "house_id",
            "foreignField": "_id",
            "as": "houses",
        }
    }
    await Floor.search().aggregate([stage])
    assert ("search", "house", "grouping", None) in made.take()
    async with Tag.watch():
        pass
    assert made.take() == [("search", "tag", "watching", None)]


async def test_a_part_of_an_operation_is_that_operation(made: Recorder) -> None:
    await Animal.create({"name": "a"})
    await Cat.create({"name": "b"})
    await Animal.search().update({"name": "c"})
    assert {each[2:] for each in made.take()} == {("program", None)}
    animals = await Animal.search()
    made.take()
    await animals.write({"name": "d"})
    noted = made.take()
    looked = ("search", "animal", "polymorphism", "write")
    assert looked in noted
    assert {each[2:] for each in noted if each != looked} == {("program", None)}


# -- blocks ---------------------------------------------------------------------------------------


async def test_what_a_plugin_does_in_its_block_by_models_is_its_own(made: Recorder) -> None:
    app = current_env().app
    with plugin.use_origin("quotas") as env:
        assert current_env() is env
        tag = await Tag.create({"name": "a"})
        await tag.write({"name": "b"})
        await Tag.search().count()
        async with Tag.bulk() as bulk:
            bulk.create({"name": "c"})
        await Tag.create_many([{"name": "d"}])
        with app.activate(), earnorm.act_as("ann"), earnorm.system(reason="a test"):
            await Tag.search().update({"name": "e"})
        async with earnorm.transaction():
            await Tag.create({"name": "f"})
        await tag.unlink()
    assert {(origin, parent) for _, _, origin, parent in made.take()} == {("quotas", None)}
    await Tag.create({"name": "g"})
    assert made.take() == [("create", "tag", "program", None)]


async def test_in_a_block_what_a_feature_does_stays_the_features(made: Recorder) -> None:
    with plugin.use_origin("quotas"):
        house = await House.create({})
        await Key.create({"house_id": house})
        made.take()
        await house.unlink()
    noted = made.take()
    assert ("unlink", "house", "quotas", None) in noted
    assert ("unlink", "key", "on_delete", "unlink") in noted


async def test_a_block_is_that_of_its_task_and_says_for_what(database: str) -> None:
    noted: list[tuple[str, str, str | None]] = []

    class Bookkeeper:
        api = 1
        name = "bookkeeper"

        @hookimpl
        def wrap_operation(self, model: Any) -> Iterable[tuple[int, Middleware]]:
            if model is Tag:
                yield plugin.Layer.STEPS + 10, self.enter
            yield 1, self.note

        async def note(self, op: Operation, call_next: Call) -> Any:
            parent = None if op.parent is None else op.parent.name
            noted.append((op.model._name, op.origin, parent))
            return await call_next(op)

        async def enter(self, op: Operation, call_next: Call) -> Any:
            if op.name == "create":
                with plugin.use_origin(self.name, op):
                    await Stock.create({"units": 1})
            return await call_next(op)

    async with default_app("pymongo", database, [Bookkeeper()]):
        await asyncio.gather(Tag.create({"name": "a"}), Key.create({}))
    assert sorted(noted, key=str) == [
        ("origin.key", "program", None),
        ("origin.stock", "bookkeeper", "create"),
        ("origin.tag", "program", None),
    ]


async def test_a_block_needs_a_name(made: Recorder) -> None:
    with pytest.raises(ConfigurationError, match="name of the plugin"), plugin.use_origin(""):
        pass


# -- budgets --------------------------------------------------------------------------------------


class Budget:
    """Counts what the program asks for."""

    api = 1

    def __init__(self) -> None:
        self.asked: list[str] = []

    @hookimpl
    def wrap_operation(self) -> Iterable[tuple[int, Middleware]]:
        return [(10, plugin.for_program(self.count))]

    async def count(self, op: Operation, call_next: Call) -> Any:
        self.asked.append(f"{op.name} {op.model._name.removeprefix('origin.')}")
        return await call_next(op)

    def take(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
async def budget(database: str) -> AsyncIterator[Budget]:
    budget = Budget()
    async with default_app("pymongo", database, [budget]):
        yield budget


async def test_a_budget_counts_what_the_program_asks_for(budget: Budget) -> None:
    house = await House.create(
        {"floor_ids": [Command.create({"area": 1})], "tag_ids": [Command.create({"name": "t"})]}
    )
    assert budget.take() == ["create house"]
    await Key.create({"house_id": house})
    await Floor.create({"area": 5, "house_id": house})
    assert budget.take() == ["create key", "create floor"]
    await House.search([("floor_ids.area", "=", 5)]).prefetch("floor_ids", "tag_ids")
    await house.write({"name": "b", "floor_ids": [Command.clear()]})
    await Floor.search([("area", ">", 0)]).update({"area": 3})
    await house.unlink()
    assert budget.take() == ["search house", "write house", "write floor", "unlink house"]


async def test_a_budget_counts_each_write_of_bulks_and_upserts(budget: Budget) -> None:
    tag = await Tag.create({"name": "1"})
    budget.take()
    async with Tag.bulk() as bulk:
        bulk.create({"name": "3"})
        bulk.write(tag, {"name": "4"})
    assert budget.take() == ["create tag", "write tag"]
    await Tag.create_many([{"name": "5"}])
    assert budget.take() == ["create tag"]
    partner = await Partner.create({"city": "Hue"})
    values = {"login": "a", "partner_id": partner}
    await Member.upsert(values, on="login")
    await Member.upsert_many([values, {**values, "login": "b"}], on="login")
    assert budget.take() == [
        "create partner",
        "write member",
        "create member",
        "write member",
        "create member",
    ]


async def test_a_budget_counts_streams_families_and_tries_once(budget: Budget) -> None:
    await Tag.create([{"name": str(n)} for n in range(5)])
    await Animal.create({"name": "a"})
    await Cat.create({"name": "b"})
    budget.take()
    async for _ in Tag.search():
        pass
    await Animal.search().update({"name": "d"})  # a part for each class, behind Layer.MEMBERS
    assert budget.take() == ["search tag", "write animal"]
    await (await Animal.search()).write({"name": "e"})  # the values of each class are another write
    assert sorted(budget.take()) == ["search animal", "write animal", "write cat"]
    await earnorm.sequence("invoice").next()
    assert budget.take() == []


# -- all of them ----------------------------------------------------------------------------------


async def test_a_plugin_says_that_it_made_an_operation(made: Recorder) -> None:
    env = current_env()
    op = Operation("count", env.app.bind(Tag).model, env, notes=plugin.made_by("tidying"))
    assert await env.app.execute(op) == 0
    assert made.take() == [("count", "tag", "tidying", None)]


def test_the_page_lists_each_origin() -> None:
    page = (_ROOT / "docs" / "plugins.md").read_text()
    table = page.partition("| `op.origin` |")[2].partition("\n\n")[0]
    listed = {
        origin
        for row in table.splitlines()[2:]
        for origin in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert listed - {"program"} == _origins()


def _origins() -> set[str]:
    """Return what the sources of the core give as an origin."""
    origins: set[str] = set()
    for path in (_FEATURES.parent).rglob("*.py"):
        text = path.read_text()
        for name in re.findall(r"(?:made_by\(|origin=|ORIGIN: )(\"\w+\"|NAME|_ORIGIN)", text):
            if name.startswith('"'):
                origins.add(name.strip('"'))
            else:
                origins |= set(re.findall(rf'^{name}: Final = "(\w+)"', text, re.MULTILINE))
    return origins


def test_no_feature_and_no_plugin_makes_an_operation_without_an_origin() -> None:
    folders = [_FEATURES, *(p / "src" for p in _ROOT.glob("earnorm-*") if p.name != "earnorm-core")]
    nameless = [
        f"{path.relative_to(_ROOT)}:{node.lineno}"
        for folder in folders
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) == "Operation"
        and len(node.args) < 7
        and "notes" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not nameless


async def test_a_budget_passes_by_what_a_plugin_does_in_its_block(budget: Budget) -> None:
    with plugin.use_origin("quotas"):
        tag = await Tag.create({"name": "a"})
        async with Tag.bulk() as bulk:
            bulk.write(tag, {"name": "b"})
        async for _ in Tag.search():
            pass
    assert budget.take() == []
    await tag.refresh()
    assert budget.take() == ["search tag"]
