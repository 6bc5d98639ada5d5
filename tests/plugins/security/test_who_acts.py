"""Who acts: each thing is done with the rights of the one who does it, when it is done."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import pickle
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pydantic
import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    ConfigurationError,
    List,
    Many2many,
    Many2one,
    NotFound,
    One2many,
    Principal,
    String,
    act_as,
    current_env,
    models,
    system,
)
from earnorm_security import Rule

ANN, EVE = Principal("ann", roles=["user"]), Principal("eve", roles=["user"])


def own(env):
    return [("owner", "=", env.principal.id if env.principal else "")]


class House(models.BaseModel):
    _name = "acts.house"
    _rules = [Rule("own", own)]
    owner = String()
    door_ids = One2many("acts.door", "house_id")


class Door(models.BaseModel):
    _name = "acts.door"
    _rules = [Rule("own", own)]
    owner = String()
    house_id = Many2one(House)


class Street(models.BaseModel):
    """Everybody's, with links to what is somebody's."""

    _name = "acts.street"
    name = String()
    first_id = Many2one(House)
    house_ids = Many2many(House)
    door_ids = Many2many(Door, through="acts.way")


class Way(models.BaseModel):
    _name = "acts.way"
    street_id = Many2one(Street)
    door_id = Many2one(Door)


class Tenanted(models.BaseModel):
    _name = "acts.tenanted"
    _rules = [Rule("tenant", lambda env: [("tenant", "=", env.context.get("tenant", "-"))])]
    tenant = String()


@pytest.fixture
async def street(opened):
    """A street of two houses: one of Ann's and one of Eve's, with a door of each in Eve's."""
    async with opened():
        with system(reason="fill"):
            anns, eves = await House.create([{"owner": "ann"}, {"owner": "eve"}])
            doors = await Door.create([{"owner": o, "house_id": eves} for o in ("ann", "eve")])
            made = await Street.create({"name": "s", "first_id": anns, "house_ids": [anns, eves]})
            await Way.create([{"street_id": made, "door_id": door} for door in doors])
        yield made.pk


async def first(record):
    try:
        return (await record.first_id).owner
    except NotFound:
        return None


async def houses(record):
    return sorted((await record.house_ids).mapped("owner"))


async def doors(record):
    return sorted((await record.door_ids).mapped("owner"))


async def inner_doors(record):
    return sorted([door.owner for house in await record.house_ids for door in await house.door_ids])


SEEN = {  # by relation: what system, Ann and Eve see
    first: ("ann", "ann", None),
    houses: (["ann", "eve"], ["ann"], ["eve"]),
    doors: (["ann", "eve"], ["ann"], ["eve"]),
    inner_doors: (["ann", "eve"], [], ["eve"]),
}


@contextmanager
def acting(number):
    with system(reason="test") if number == 0 else act_as((ANN, EVE)[number - 1]):
        yield


@pytest.mark.parametrize("look", SEEN, ids=lambda look: look.__name__)
async def test_a_relation_that_somebody_else_loaded_loads_as_who_awaits_it(street, look):
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0, 1), (2, 0, 2)):
        record = (await Street.search())[0]  # nobody acts
        for number in order:
            with acting(number):
                assert await look(record) == SEEN[look][number], (order, number)


@pytest.mark.parametrize("look", SEEN, ids=lambda look: look.__name__)
async def test_tasks_of_several_users_that_share_a_record_see_their_own(street, look):
    record = (await Street.search())[0]
    seen = {}

    async def looking(number):
        with acting(number):
            seen[number] = await look(record)

    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        await asyncio.gather(*map(looking, order))
        assert seen == dict(enumerate(SEEN[look]))


async def test_the_same_user_gets_the_same_objects(street):
    with act_as(ANN):
        record = (await Street.search())[0]
        assert await record.first_id is await record.first_id
        assert await record.house_ids is await record.house_ids
    with act_as(Principal("ann", roles=["user"])):
        assert await record.first_id is record.first_id
    assert await record.door_ids is await record.door_ids  # nobody acts


async def test_where_reading_has_no_rules_nothing_is_loaded_again(street):
    with act_as(EVE):
        way = await Way.search().first()
    assert await way.street_id is await way.street_id
    with act_as(ANN):
        assert await way.street_id is way.street_id


async def test_queries_and_pipelines_run_as_who_awaits_them(street):
    with system(reason="make"):
        query, rows = House.search(), House.search().aggregate([{"$project": {"owner": 1}}])
        stream = House.search().__aiter__()
        streamed_rows = House.search().aggregate([{"$project": {"owner": 1}}]).__aiter__()
    with act_as(EVE):
        assert (await query).mapped("owner") == ["eve"]
        assert [row["owner"] for row in await rows] == ["eve"]
        assert [house.owner async for house in stream] == ["eve"]
        assert [row["owner"] async for row in streamed_rows] == ["eve"]


@pytest.mark.parametrize("rows", [False, True], ids=["records", "rows"])
async def test_a_stream_does_not_go_on_as_somebody_else(street, rows, monkeypatch):
    monkeypatch.setattr("earnorm.model.reading.streaming.BATCH", 1)
    monkeypatch.setattr("earnorm.features.grouping.pipeline.BATCH", 1)
    query = House.search(order="owner")
    with system(reason="begin"):
        stream = aiter(query.aggregate([{"$project": {"owner": 1}}]) if rows else query)
        await anext(stream)
    with act_as(EVE), pytest.raises(ConfigurationError, match=r"begun as system .* as eve") as told:
        await anext(stream)
    assert told.value.code == "stream_of_another"


async def test_callbacks_run_as_who_registered_them_outside_of_the_transaction(street):
    seen = []

    async def look():
        env = current_env()
        seen.append((str(env.principal), env.system, env.is_in_session, env.context.get("tenant")))

    with act_as("boss", tenant="b"):
        async with earnorm.transaction() as tx:
            await House.count()
            with act_as(EVE, tenant="e"):
                await earnorm.after_commit(look)
                tx.after_commit(lambda: seen.append(str(current_env().principal)))
            with system(reason="inner"):
                await earnorm.after_commit(look)
        with pytest.raises(KeyError):
            async with earnorm.transaction():
                await House.count()
                with act_as(EVE):
                    await earnorm.after_rollback(look)
                raise KeyError
    assert seen == [
        ("eve", False, False, "e"),
        "eve",
        ("boss", True, False, "b"),
        ("eve", False, False, None),
    ]


async def test_a_context_of_another_principal_ends_with_its_block(street):
    with system(reason="fill"):
        await Tenanted.create([{"tenant": "a"}, {"tenant": "e"}])
    with act_as(ANN, tenant="a", tz="Asia/Ho_Chi_Minh", lang="vi"):
        with act_as(EVE) as env:
            assert await Tenanted.count() == 0
            assert env.context == {"tz": "Asia/Ho_Chi_Minh", "lang": "vi"}
            with system(reason="still Eve's"), act_as(EVE, more=1) as env:
                assert env.context == {"tz": "Asia/Ho_Chi_Minh", "lang": "vi", "more": 1}
        with act_as(EVE, keep_context=True):
            assert (await Tenanted.search()).mapped("tenant") == ["a"]
        with act_as(Principal("ann", roles=["user"])) as env:
            assert env.context["tenant"] == "a"
        with act_as(Principal("ann", roles=["user"], attributes={"tenant": "z"})) as env:
            assert "tenant" not in env.context


async def test_a_task_loses_the_rights_of_system_with_the_block(street, caplog):
    has_begun, block_is_over = asyncio.Event(), asyncio.Event()
    seen = []

    async def work():
        seen.append(await House.count())
        has_begun.set()
        await block_is_over.wait()
        seen.append(await House.count())
        with system(reason="of its own"):
            seen.append(await House.count())
        seen.append((current_env().system, str(current_env().principal)))

    with act_as(EVE), caplog.at_level(logging.WARNING, logger="earnorm"):
        with system(reason="the list"):
            task = asyncio.create_task(work())
            await has_begun.wait()
        block_is_over.set()
        await task
    assert seen == [2, 1, 2, (False, "eve")]
    [warning] = [r.getMessage() for r in caplog.records if "goes on after" in r.getMessage()]
    assert "system(reason='the list')" in warning and "rights of eve" in warning


def of_block():
    return ("system" if current_env().system else str(current_env().principal),)


def lines():
    with system(reason="sync"):
        yield of_block()
        yield of_block()


async def alines():
    with system(reason="async"):
        yield of_block()
        await asyncio.sleep(0)
        yield of_block()


async def gathering():
    """Begin tasks inside the block, and wait for them."""
    with act_as(ANN):
        await asyncio.sleep(0)
        yield tuple(await asyncio.gather(as_task(), as_task()))


async def as_task():
    await asyncio.sleep(0)
    return of_block()[0]


def stacked():
    with ExitStack() as stack:
        stack.enter_context(wrapped())
        yield of_block()


@contextmanager
def wrapped():
    with system(reason="wrapped"):
        yield


@asynccontextmanager
async def awrapped():
    with act_as(ANN):
        yield of_block()


async def taken(generator):
    """Return what a generator yields, and who acts where it is taken."""
    found = []
    if hasattr(generator, "__anext__"):
        async for value in generator:
            found.append((value, of_block()))
            await asyncio.sleep(0)
            assert await House.count() == 1
    else:
        for value in generator:
            found.append((value, of_block()))
            assert await House.count() == 1
    return found


@pytest.mark.parametrize(
    ("generator", "inside"),
    [
        (lines, ("system",)),
        (alines, ("system",)),
        (gathering, ("ann", "ann")),
        (stacked, ("system",)),
    ],
)
async def test_the_consumer_of_a_generator_is_outside_of_its_block(street, generator, inside):
    with act_as(EVE):
        for value, outside in await taken(generator()):
            assert (value, outside) == (inside, ("eve",))
        assert of_block() == ("eve",)


async def test_a_task_of_a_generator_never_gets_the_rights_of_system_from_outside(street):
    """Nobody can tell whether the generator or its consumer has begun a task."""
    seen, goes_on = [], asyncio.Event()

    async def work():
        seen.append(of_block()[0])
        await goes_on.wait()
        seen.append(of_block()[0])

    async def generator():
        with act_as(ANN):
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            yield task

    async def consumed(generator):
        async for task in generator:
            assert of_block() == ("system",)  # its own block
            own = asyncio.create_task(as_task())
            assert await own != "ann"
            goes_on.set()
            await task
        assert of_block() == ("system",)

    with act_as(EVE), system(reason="the consumer"):
        await consumed(generator())
    assert seen == ["ann", "eve"]


async def test_an_abandoned_generator_leaves_nothing(street, caplog):
    with act_as(EVE):
        generator, other = lines(), alines()
        next(generator)
        await anext(other)
        assert of_block() == ("eve",)
        del generator
        await other.aclose()
        assert of_block() == ("eve",)
        abandoned = alines()
        await anext(abandoned)
        del abandoned
        for _ in range(5):
            await asyncio.sleep(0)  # the loop closes it in a task of its own
        assert of_block() == ("eve",)
    assert "left_elsewhere" not in caplog.text and "goes on after" not in caplog.text


async def test_a_function_that_stands_for_a_block_holds_for_the_code_in_it(street):
    with act_as(EVE):
        with wrapped():
            assert of_block() == ("system",)
        async with awrapped() as inside:
            assert inside == of_block() == ("ann",)
        assert of_block() == ("eve",)


def test_a_principal_can_be_pickled() -> None:
    one = Principal("ann", roles=["user"], attributes={"tenant": "a"})
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != Principal("ann", roles=["user"])


class Account(models.BaseModel):
    _name = "acts.account"
    login = String()
    roles = List(String())
    house_id = Many2one(House)


@dataclasses.dataclass
class Token:
    id: int
    roles: tuple[str, ...] = ()
    tenant: str = "t"


class Slotted:
    __slots__ = ("_hidden", "id", "tenant")

    def __init__(self) -> None:
        self.id, self.tenant, self._hidden = ObjectId("65a000000000000000000001"), "t", 1


class Model(pydantic.BaseModel):
    id: str = "7"
    roles: list[str] = ["user"]
    tenant: str = "t"


USERS = {
    "mapping": ({"id": "7", "roles": ["user"], "tenant": "t"}, "7", {"user"}),
    "dataclass": (Token(7, ("user",)), "7", {"user"}),
    "dataclass without roles": (Token(7), "7", set()),
    "pydantic": (Model(), "7", {"user"}),
    "slots": (Slotted(), "65a000000000000000000001", set()),
}


@pytest.mark.parametrize("kind", USERS)
async def test_any_object_with_an_id_may_act(street, kind):
    user, id_, roles = USERS[kind]
    with act_as(user) as env:
        assert (env.principal.id, env.principal.roles) == (id_, roles)
        assert env.principal.attributes == {"tenant": "t"}


async def test_a_record_may_act(street):
    made = await Account.create({"login": "ann", "roles": ["user"]})
    with act_as(made) as env:
        assert env.principal.id == made.id and env.principal.roles == {"user"}
        assert env.principal.attributes["login"] == "ann"
    with act_as((await Account.search(limit=1).only("login"))[0]) as env:
        assert env.principal.id == made.id and env.principal.roles == set()


@pytest.mark.parametrize(
    ("user", "says"),
    [
        (Account(login="new"), "has none"),
        ({"roles": ["user"]}, "has none"),
        (object(), "this object has none"),
        (None, "has none"),
        ({"id": ""}, "has none"),
        ({"id": 1, "roles": "admin"}, "collection of names"),
        ({"id": 1, "roles": [1]}, "names, as texts"),
        ({"id": 1, "roles": 5}, "collection of names"),
    ],
)
async def test_who_has_no_id_cannot_act(street, user, says):
    with pytest.raises(TypeError, match=says), act_as(user):
        pass
    assert of_block() == ("None",)


async def test_the_setting_makes_the_principal(opened):
    def resolve(user):
        return Principal(user["sub"], user["groups"]) if "sub" in user else user.get("wrong")

    async with opened(principal_resolver=resolve):
        with act_as({"sub": "ann", "groups": ["user"]}) as env:
            assert env.principal == ANN
        with act_as({"id": "eve"}) as env:
            assert env.principal.id == "eve"
        wrong = pytest.raises(ConfigurationError, match="a Principal or None, not str")
        with wrong, act_as({"wrong": "eve"}):
            pass
