"""A write by a condition drops what it changes, and leaves the rest of its collection in the cache."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import earnorm
from earnorm import App, Int, String, mixins, models
from earnorm.plugin import Operation
from earnorm_cache import by_domain
from earnorm_security import Access, Rule, SecurityPlugin
from tests.plugins.cache.conftest import Open
from tests.plugins.cache.probes import Probe, cache_of


class Job(models.BaseModel):
    _name = "cache_job"

    _id = Int()
    state = String(default="free")
    number = Int(default=0)


class Paper(mixins.SoftDelete, models.BaseModel):
    _name = "cache_paper"

    _id = Int()
    colour = String()


class Animal(models.BaseModel):
    _name = "cache_animal"
    _discriminator = "kind"

    _id = Int()
    name = String()


class Dog(Animal):
    _name = "cache_dog"

    tricks = Int(default=0)


class Bill(models.BaseModel):
    _name = "cache_bill"
    _access = [Access("user", read=True, write=True, create=True, unlink=True)]
    _rules = [
        Rule("own", lambda env: [("owner", "=", str(env.principal.id if env.principal else ""))])
    ]

    _id = Int()
    owner = String()
    paid = Int(default=0)


def with_redis() -> dict[str, Any]:
    return {"redis_url": os.environ["EARNORM_TEST_REDIS_URL"], "redis_timeout": 2.0}


async def jobs(number: int = 6) -> None:
    await Job.create([{"_id": n, "number": n} for n in range(number)])
    for n in range(number):
        await Job.get(n)


async def asked_again(probe: Probe, model: Any, ids: Any) -> set[int]:
    """Return the ids of the records that are read from the database."""
    again: set[int] = set()
    for pk in ids:
        probe.seen.clear()
        await model.get(pk)
        if probe.searches:
            again.add(pk)
    return again


async def update(domain: Any) -> Any:
    return await Job.search(domain).update({"state": "taken"})


async def delete(domain: Any) -> Any:
    return await Job.search(domain).delete()


@pytest.mark.parametrize("change", [update, delete])
async def test_the_rest_of_the_collection_stays(open_app: Open, probe: Probe, change: Any) -> None:
    await open_app(probe)
    await jobs()
    assert await change([("number", "<", 2)]) == 2
    left = range(2, 6) if change is delete else range(6)
    assert await asked_again(probe, Job, left) == set(left) & {0, 1}
    assert {job.state for job in await Job.search([("id", "in", [2, 3, 4, 5])])} == {"free"}
    if change is update:
        assert (await Job.get(0)).state == "taken"


async def test_a_write_that_selects_nothing_drops_nothing(open_app: Open, probe: Probe) -> None:
    await open_app(probe)
    await jobs()
    assert await update([("number", ">", 100)]) == 0
    assert await asked_again(probe, Job, range(6)) == set()


async def test_a_write_of_very_many_drops_the_collection(
    open_app: Open, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_domain, "MANY", 3)
    await open_app(probe)
    await jobs()
    assert await update([("number", "<", 4)]) == 4
    assert await asked_again(probe, Job, range(6)) == set(range(6))


async def test_nothing_is_asked_beforehand_while_nothing_is_kept(
    open_app: Open, probe: Probe
) -> None:
    await open_app(probe)
    await Job.create({"_id": 1})
    probe.seen.clear()
    await update([("number", "=", 0)])
    assert [op.name for op in probe.seen] == ["write"]


@pytest.mark.parametrize("is_rolled_back", [False, True])
async def test_a_write_in_a_transaction(
    open_on_server: Open, probe: Probe, is_rolled_back: bool
) -> None:
    await open_on_server(probe)
    await jobs()
    try:
        async with earnorm.transaction():
            await Job.create({"_id": 10})
            # It selects what the transaction itself has made, too.
            assert await update([("number", "<", 2)]) == 3
            assert await asked_again(probe, Job, range(2, 6)) == set(range(2, 6))
            if is_rolled_back:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert await asked_again(probe, Job, range(6)) == {0, 1}
    assert (await Job.get(0)).state == ("free" if is_rolled_back else "taken")


async def test_archived_records_are_left_alone_and_stay(open_app: Open, probe: Probe) -> None:
    await open_app(probe)
    await Paper.create([{"_id": n, "colour": "red"} for n in range(4)])
    with_archived = Paper.search([("id", "in", [2, 3])])
    await with_archived.update({"active": False})
    assert await Paper.search([("colour", "=", "red")]).update({"colour": "blue"}) == 2
    both = await Paper.search([("id", "in", [0, 1, 2, 3])]).with_archived()
    assert [(paper.pk, paper.colour) for paper in both] == [
        *((0, "blue"), (1, "blue")),
        *((2, "red"), (3, "red")),
    ]


@pytest.mark.parametrize("model", [Animal, Dog])
async def test_a_write_of_a_family_drops_the_records_of_its_classes(
    open_app: Open, probe: Probe, model: Any
) -> None:
    await open_app(probe)
    await Animal.create([{"_id": n, "name": "old"} for n in range(2)])
    await Dog.create([{"_id": n, "name": "old"} for n in range(2, 4)])
    for pk in range(4):
        await Animal.get(pk)
    written = await model.search([("name", "=", "old")]).update({"name": "new"})
    expected = {2, 3} if model is Dog else {0, 1, 2, 3}
    assert written == len(expected)
    names = {pk: (await Animal.get(pk)).name for pk in range(4)}
    assert names == {pk: "new" if pk in expected else "old" for pk in range(4)}


def user(name: str) -> Any:
    return earnorm.act_as(earnorm.Principal(name, roles=["user"]))


async def test_a_write_under_rules_drops_what_they_let_it_change(
    open_on_server: Open, probe: Probe
) -> None:
    one = await open_on_server(SecurityPlugin(), probe, **with_redis())
    two = await open_on_server(SecurityPlugin(), **with_redis())
    with one.activate(), earnorm.system(reason="set-up"):
        await Bill.create([{"_id": n, "owner": "ann" if n < 2 else "bob"} for n in range(4)])
        for pk in range(4):
            await Bill.get(pk)
    with two.activate(), user("ann"):
        assert await Bill.search([("paid", "=", 0)]).update({"paid": 1}) == 2
    with one.activate(), earnorm.system(reason="a look"):
        cache_of(one).clear()
        again = await asked_again(probe, Bill, range(4))
        assert again == {0, 1}
        assert [(await Bill.get(pk)).paid for pk in range(4)] == [1, 1, 0, 0]


async def test_what_comes_to_match_after_the_look_is_not_changed_behind_the_cache(
    open_on_server: Open, probe: Probe
) -> None:
    app: App = await open_on_server(probe)
    await jobs()

    async def make_another_match(op: Operation) -> None:
        if op.name == "write":
            raw = app.dangerous_raw("another program, at the worst time")
            await raw["cache_job"].update_one({"_id": 5}, {"$set": {"number": 0}})

    probe.before = make_another_match
    assert await update([("number", "<", 2)]) == 2
    probe.before = None
    cache_of(app).clear()
    assert (await Job.get(5)).state == "free"


# -- a write of one of several ----------------------------------------------------------------------


async def execute_one(app: App) -> int:
    from earnorm.domain import Domain
    from earnorm.plugin import Options, Update, find_env

    env = find_env()
    assert env is not None
    bound = app.bind(Job)
    change = Update({"$set": {"state": "taken"}})
    domain = Domain([("state", "=", "free")])
    op = Operation("write", bound.model, env, domain, change, Options(many=False))
    return await app.execute(op)  # type: ignore[no-any-return]


async def test_a_write_of_one_finds_one_as_long_as_there_is_one(
    open_on_server: Open, probe: Probe
) -> None:
    """Tasks that claim jobs look at the same ones, and yet each of them gets one."""
    app: App = await open_on_server(probe)
    await jobs(12)
    done = await asyncio.gather(*(execute_one(app) for _ in range(16)))
    assert sorted(done) == [0] * 4 + [1] * 12
    assert {job.state for job in await Job.search([("id", "in", list(range(12)))])} == {"taken"}


async def test_a_write_of_one_drops_only_those_that_it_chose_from(
    open_on_server: Open, probe: Probe
) -> None:
    app: App = await open_on_server(probe)
    await jobs()
    await update([("number", ">", 2)])
    await asked_again(probe, Job, range(6))
    assert await execute_one(app) == 1
    assert await asked_again(probe, Job, range(6)) == {0, 1, 2}
    assert await execute_one(app) + await execute_one(app) == 2
    assert await execute_one(app) == 0


async def test_a_write_of_one_whose_records_others_took_takes_a_new_one(
    open_on_server: Open, probe: Probe
) -> None:
    app: App = await open_on_server(probe)
    await jobs(2)

    async def be_quicker(op: Operation) -> None:
        if op.name == "write":
            probe.before = None
            raw = app.dangerous_raw("another program, at the worst time")["cache_job"]
            await raw.update_many({}, {"$set": {"state": "taken"}})
            await raw.insert_one({"_id": 50, "state": "free", "number": 50})

    probe.before = be_quicker
    assert await execute_one(app) == 1
    assert (await Job.get(50)).state == "taken"
