"""``@cached`` functions: what they depend on, whom they are for, and how many calls there are."""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import App, DateTime, Index, Int, Many2one, String, models
from earnorm.exceptions import ConfigurationError
from earnorm_cache import Cache, CachePlugin, CacheSettings, cached
from earnorm_security import Access, Rule, SecurityPlugin

CALLS: Counter[str] = Counter()
gate: asyncio.Event | None = None


class Person(models.BaseModel):
    _name = "cache_fn_person"

    name = String()
    age = Int(default=0)

    async def spent(self) -> int:
        return await spent_by(self)


class Sale(models.BaseModel):
    _name = "cache_fn_sale"
    _cache = False  # its records are not kept; what depends on it is

    person_id = Many2one(Person)
    amount = Int(default=0)

    @classmethod
    @cached(Person)
    async def people(cls, *, least: int = 0) -> list[str]:
        CALLS["people"] += 1
        found = await Person.search([("age", ">=", least)], order="name")
        return [person.name or "" for person in found]


class Visit(models.BaseModel):
    """The database deletes it by itself."""

    _name = "cache_fn_visit"
    _indexes = [Index("at", expire_after=60)]

    at = DateTime()


class Reading(models.BaseModel):
    """Another member than the primary gives it, which may be behind."""

    _name = "cache_fn_reading"
    _read_preference = "secondaryPreferred"


class Price(models.BaseModel):
    """No process may read an old one."""

    _name = "cache_fn_price"
    _cache = Cache(strict=True)

    cents = Int(default=0)


class Draft(models.BaseModel):
    """It does not leave the process."""

    _name = "cache_fn_draft"
    _cache = Cache(level="memory")


class Secretary(models.BaseModel):
    """A model under rules."""

    _name = "cache_fn_secretary"
    _access = [Access("user", read=True)]
    _rules = [Rule("own", lambda env: [("boss", "=", str(env.principal))])]

    boss = String()


@cached(Sale, (Person, ["name"]), ttl=30.0)
async def report(title: str, least: int = 0) -> dict[str, Any]:
    """Give the sums by person."""
    CALLS["report"] += 1
    if gate is not None:
        await gate.wait()
    names = {person.pk: person.name for person in await Person.search()}
    sums: Counter[str] = Counter()
    for sale in await Sale.search([("amount", ">=", least)]):
        sums[names[sale.__dict__["person_id"]] or ""] += sale.amount or 0
    return {"title": title, "sums": dict(sums)}


@cached(Sale)
async def spent_by(person: Person) -> int:
    CALLS["spent_by"] += 1
    return sum([sale.amount or 0 async for sale in Sale.search([("person_id", "=", person)])])


@cached(Visit)
async def visits() -> int:
    CALLS["visits"] += 1
    return await Visit.count()


@cached(Person, Reading)
async def readings() -> int:
    CALLS["readings"] += 1
    return await Reading.count()


@cached(Price, shared=True)
async def prices() -> int:
    CALLS["prices"] += 1
    return sum([price.cents or 0 async for price in Price.search()])


@cached(Draft)
async def drafts() -> int:
    CALLS["drafts"] += 1
    return await Draft.count()


@cached(Secretary)
async def secretaries() -> int:
    CALLS["secretaries"] += 1
    return await Secretary.count()


@cached(Secretary, shared=True)
async def anybody() -> int:
    CALLS["anybody"] += 1
    return 1


@cached(Person)
async def gives(value: object = None) -> object:
    CALLS["gives"] += 1
    return RESULTS.get("gives", value)


RESULTS: dict[str, object] = {}

Start = Callable[..., Awaitable[App]]


@pytest.fixture(autouse=True)
def nothing_was_called() -> None:
    global gate
    CALLS.clear()
    RESULTS.clear()
    gate = None


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
async def start(mongo_uri: str, kind: str) -> AsyncIterator[Start]:
    database = f"cache_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:

        async def start(*, has_cache: bool = True, **settings: Any) -> App:
            settings.setdefault("outside_writes", False)  # own writes come back on the stream
            if kind == "redis":
                settings |= {
                    "redis_url": os.environ["EARNORM_TEST_REDIS_URL"],
                    "redis_timeout": 5.0,
                }
            plugins: list[object] = [SecurityPlugin()]
            if has_cache:
                plugins.append(CachePlugin(CacheSettings.model_validate(settings)))
            app = App(mongo_uri, database=database, plugins=plugins)
            await app.start()
            stack.push_async_callback(app.stop)
            return app

        yield start
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


async def people() -> tuple[Person, Person]:
    ann, bob = await Person.create([{"name": "Ann", "age": 30}, {"name": "Bob", "age": 40}])
    await Sale.create([{"person_id": ann, "amount": 3}, {"person_id": bob, "amount": 4}])
    return ann, bob


async def test_a_result_is_kept_until_something_that_it_depends_on_is_written(start: Start) -> None:
    app = await start()
    with app.activate():
        ann, bob = await people()
        first = await report("A")
        assert first == {"title": "A", "sums": {"Ann": 3, "Bob": 4}}
        first["sums"]["Ann"] = 99  # whoever was given it may change it
        assert (await report("A"))["sums"] == {"Ann": 3, "Bob": 4}
        assert CALLS["report"] == 1
        await ann.write({"age": 31})  # is no part of it
        await report("A")
        assert CALLS["report"] == 1
        await ann.write({"name": "Anna"})
        assert (await report("A"))["sums"] == {"Anna": 3, "Bob": 4}
        await Sale.search([("amount", ">", 3)]).update({"amount": 5})
        assert (await report("A"))["sums"] == {"Anna": 3, "Bob": 5}
        await Sale.create({"person_id": bob, "amount": 1})
        assert (await report("A"))["sums"] == {"Anna": 3, "Bob": 6}
        await Sale.search([("person_id", "=", ann)]).delete()
        assert (await report("A"))["sums"] == {"Bob": 6}
        assert CALLS["report"] == 5


async def test_arguments_tell_calls_apart_by_their_types_as_well(start: Start) -> None:
    app = await start()
    moment = datetime.datetime(2030, 1, 1, 12, 0, 0, 1)
    values: list[Any] = [
        *(None, 0, 0.0, False, "0", b"0", [], (), {}, frozenset(), [0], [False], {"a": 1}),
        *({"a": 1.0}, moment, moment.replace(microsecond=2), moment.replace(tzinfo=datetime.UTC)),
        *(moment.date(), 2**70, uuid.UUID(int=0), Person, Sale),
    ]
    with app.activate():
        RESULTS["gives"] = None
        for value in values:
            await gives(value)
        assert CALLS["gives"] == len(values)
        for value in values:
            await gives(value=value)  # named or not, it is the same
        await gives()
        assert CALLS["gives"] == len(values)
        ann, bob = await people()
        await gives(ann)
        await gives(bob)
        assert CALLS["gives"] == len(values) + 2
        await gives(await Person.get(ann.pk))
        assert CALLS["gives"] == len(values) + 2


@pytest.mark.parametrize(
    "value",
    [object(), Person(name="new"), [object()], {"a": object()}, len],
    ids=["object", "record", "list", "dict", "function"],
)
async def test_an_argument_that_tells_nothing_is_refused(start: Start, value: object) -> None:
    app = await start()
    with app.activate(), pytest.raises(ConfigurationError, match="argument 'value'") as refused:
        await gives(value)
    assert refused.value.code == "cached_call"


@pytest.mark.parametrize(
    "value",
    [
        (1,),
        {1},
        object(),
        datetime.datetime(2030, 1, 1, 0, 0, 0, 7),
        datetime.date(2030, 1, 1),
        [(1,)],
    ],
    ids=["tuple", "set", "object", "microseconds", "date", "inside"],
)
async def test_a_result_that_would_come_back_as_another_is_refused(
    start: Start, value: object
) -> None:
    app = await start()
    RESULTS["gives"] = value
    with app.activate(), pytest.raises(ConfigurationError, match="does not come back") as refused:
        await gives()
    assert refused.value.code == "cached_result"


async def test_what_may_change_unseen_is_not_kept(start: Start) -> None:
    app = await start()
    with app.activate():
        for _ in range(2):
            await visits()
            await readings()
    assert (CALLS["visits"], CALLS["readings"]) == (2, 2)


async def test_methods_of_models_and_of_records_are_cached(start: Start) -> None:
    app = await start()
    with app.activate():
        ann, bob = await people()
        for _ in range(2):
            assert await Sale.people(least=35) == ["Bob"]
            assert await Sale.people() == ["Ann", "Bob"]
            assert (await ann.spent(), await bob.spent()) == (3, 4)
        assert (CALLS["people"], CALLS["spent_by"]) == (2, 2)


async def test_nobody_gets_what_was_made_for_somebody_else(start: Start) -> None:
    app = await start()
    with app.activate(), earnorm.system(reason="set-up"):
        await Secretary.create([{"boss": "ann"}, {"boss": "ann"}, {"boss": "bob"}])
    principals = [
        earnorm.Principal("ann", roles=["user"]),
        earnorm.Principal("bob", roles=["user"]),
        earnorm.Principal("ann", roles=["user", "other"]),
        earnorm.Principal("ann", roles=["user"], attributes={"tenant": 1}),
    ]
    with app.activate():
        for _ in range(2):
            for principal, expected in zip(principals, (2, 1, 2, 2), strict=True):
                with earnorm.act_as(principal):
                    assert await secretaries() == expected
            with earnorm.system(reason="all of them"):
                assert await secretaries() == 3
        if app.services["cache"].shared is not None:  # type: ignore[attr-defined] # it is the service
            # In Redis; without it nothing under rules is kept.
            assert CALLS["secretaries"] == 5
        with earnorm.act_as("ann", lang="de"):
            await anybody()
        with earnorm.act_as("bob", lang="de"):
            await anybody()
        assert CALLS["anybody"] == 1
        with earnorm.act_as("bob", lang="en"):
            await anybody()
        assert CALLS["anybody"] == 2


async def test_a_result_of_one_app_is_no_result_of_another(start: Start, mongo_uri: str) -> None:
    one = await start()
    with one.activate():
        await people()
        assert (await report("A"))["sums"]
    async with App(
        mongo_uri, database=f"cache_{uuid.uuid4().hex[:12]}", plugins=["cache"]
    ) as other:
        assert (await report("A"))["sums"] == {}
        await other.dangerous_raw("the test is over").client.drop_database(other.settings.database)


async def test_inside_of_a_transaction_nothing_is_kept_or_given(start: Start) -> None:
    app = await start()
    with app.activate():
        ann, _ = await people()
        assert (await report("A"))["sums"]["Ann"] == 3
        with pytest.raises(ZeroDivisionError):
            async with earnorm.transaction():
                await Sale.search([("person_id", "=", ann)]).update({"amount": 50})
                assert (await report("A"))["sums"]["Ann"] == 50
                await report("A")
                assert CALLS["report"] == 3
                raise ZeroDivisionError
        assert (await report("A"))["sums"]["Ann"] == 3
        async with earnorm.transaction():
            await Sale.search([("person_id", "=", ann)]).update({"amount": 60})
        assert (await report("A"))["sums"]["Ann"] == 60


async def test_without_the_plugin_a_function_is_simply_called(start: Start) -> None:
    app = await start(has_cache=False)
    with app.activate():
        await people()
        assert await report("A") == await report("A")
        RESULTS["gives"] = (1, object)
        assert await gives(object()) == (1, object)
    assert CALLS["report"] == 2


async def test_many_who_call_at_once_wait_for_one_call(start: Start) -> None:
    global gate
    app = await start()
    with app.activate():
        await people()
        await report("warm")  # the streams are heard by now
        gate = asyncio.Event()
        calls = [asyncio.ensure_future(report("A")) for _ in range(50)]
        await asyncio.sleep(0.1)
        gate.set()
        results = await asyncio.gather(*calls)
    assert all(result == results[0] for result in results)
    assert CALLS["report"] == 2
    results[0]["sums"].clear()
    assert results[1]["sums"]


async def test_who_calls_after_a_write_does_not_join_a_call_from_before(start: Start) -> None:
    global gate
    app = await start()
    with app.activate():
        ann, _ = await people()
        gate = asyncio.Event()
        early = asyncio.ensure_future(report("A"))
        await asyncio.sleep(0.05)
        await Sale.search([("person_id", "=", ann)]).update({"amount": 7})
        late = asyncio.ensure_future(report("A"))
        await asyncio.sleep(0.05)
        gate.set()
        await early
        assert (await late)["sums"]["Ann"] == 7
        assert (await report("A"))["sums"]["Ann"] == 7


async def test_an_exception_is_not_kept_and_others_call_again(start: Start) -> None:
    app = await start()

    @cached(Person)
    async def fails() -> int:
        CALLS["fails"] += 1
        is_first = CALLS["fails"] == 1
        await asyncio.sleep(0.02)
        if is_first:
            raise ZeroDivisionError
        return 5

    with app.activate():
        results = await asyncio.gather(fails(), fails(), fails(), return_exceptions=True)
        assert sorted(map(str, results)) == ["", "5", "5"]
        assert await fails() == 5
    assert CALLS["fails"] == 2


@pytest.mark.parametrize("moment", [0.0, 0.05])
async def test_where_the_one_that_calls_is_cancelled_another_one_calls(
    start: Start, moment: float
) -> None:
    global gate
    app = await start()
    with app.activate():
        await people()
        gate = asyncio.Event()
        tasks = [asyncio.ensure_future(report("A")) for _ in range(5)]
        await asyncio.sleep(moment)
        tasks[0].cancel()
        await asyncio.sleep(moment)
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, dict) and result["sums"] for result in results[1:])
    assert CALLS["report"] <= 2


def test_a_function_without_models_and_one_that_is_not_async_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs the models"):
        cached()
    with pytest.raises(ConfigurationError, match="neither a model"):
        cached("cache_fn_person")  # type: ignore[arg-type] # it is no model
    with pytest.raises(ConfigurationError, match="neither a model"):
        cached((Person, "name"))
    with pytest.raises(ConfigurationError, match="seconds"):
        cached(Person, ttl=0)
    with pytest.raises(ConfigurationError, match="no async function"):
        cached(Person)(len)  # type: ignore[arg-type] # it is none


@pytest.mark.parametrize("name", ["nmae", "id.x"])
async def test_a_field_that_is_not_there_is_named(start: Start, name: str) -> None:
    app = await start()

    @cached((Person, [name]))
    async def wrong() -> None:
        pass

    with app.activate(), pytest.raises(ConfigurationError, match=f"no field '{name}'") as refused:
        await wrong()
    assert refused.value.code == "cached_field"


async def test_who_knows_newer_tokens_of_another_collection_asks_for_himself(
    start: Start, kind: str
) -> None:
    if kind == "memory":
        pytest.skip("it is about Redis")
    app = await start()
    results: Any = app.services["cache"].levels.results  # type: ignore[attr-defined] # it is the service

    def load(value: bytes) -> Callable[[], Awaitable[bytes]]:
        async def load() -> bytes:
            CALLS["load"] += 1
            return value

        return load

    key = uuid.uuid4().bytes
    await results.fetch("cache_fn_sale", key, ("a",), load(b"old"), 9.0, b"tokens 1")
    await results._shared.idle()
    # In one turn of the loop: what the second knows was written after the first had asked.
    first, second = await asyncio.gather(
        results.fetch("cache_fn_sale", key, ("a",), load(b"old"), 9.0, b"tokens 1"),
        results.fetch("cache_fn_sale", key, ("a",), load(b"new"), 9.0, b"tokens 2"),
    )
    assert (first, second) == (b"old", None)
    assert CALLS["load"] == 2


async def test_what_follows_from_strict_models_is_kept_in_redis_alone(
    start: Start, kind: str
) -> None:
    one, two = await start(), await start()
    with one.activate():
        price = await Price.create({"cents": 1})
    for app in (one, two, one, two):
        with app.activate():
            assert await prices() == 1
    assert CALLS["prices"] == (1 if kind == "redis" else 4)
    for cents in range(2, 12):
        with one.activate():
            await price.write({"cents": cents})
        if kind == "redis":
            with two.activate():
                assert await prices() == cents
    memory: Any = two.services["cache"].levels.shelves.memory  # type: ignore[attr-defined] # it is the service
    assert len(memory) == 0


async def test_what_follows_from_models_of_the_memory_alone_does_not_reach_redis(
    start: Start, kind: str
) -> None:
    one, two = await start(), await start()
    for app in (one, two):
        with app.activate():
            assert await drafts() == 0
    assert CALLS["drafts"] == 2
    if kind == "redis":
        assert one.services["cache"].shared.query_hits == 0  # type: ignore[attr-defined] # it is the service
        assert two.services["cache"].shared.query_hits == 0  # type: ignore[attr-defined] # it is the service


@cached((Person, ["age"]), ttl=30.0)
async def oldest() -> int:
    CALLS["oldest"] += 1
    found = max([person.age or 0 async for person in Person.search()], default=0)
    await asyncio.sleep(random.random() * 0.004)  # what was read takes a while to arrive
    return found


async def test_no_call_is_answered_with_what_is_older_than_an_acknowledged_write(
    start: Start, kind: str
) -> None:
    apps = [await start() for _ in range(2 if kind == "redis" else 1)]
    acknowledged = 0
    with apps[0].activate():
        person = await Person.create({"name": "Ann"})

    async def write() -> None:
        nonlocal acknowledged
        for age in range(1, 60):
            app = random.choice(apps)
            with app.activate():
                await Person.search([("id", "=", person.pk)]).update({"age": age})
            acknowledged = age
            await asyncio.sleep(random.random() * 0.01)

    async def read(app: App) -> None:
        while not writing.done():
            if kind == "redis":  # the memory of another process may be some milliseconds old
                app.services["cache"].clear()  # type: ignore[attr-defined] # it is the service
            least = acknowledged
            with app.activate():
                assert await oldest() >= least
            await asyncio.sleep(random.random() * 0.002)

    writing = asyncio.ensure_future(write())
    await asyncio.gather(writing, *(read(app) for app in apps for _ in range(6)))
    with apps[0].activate():
        assert await oldest() == 59
    assert CALLS["oldest"] > 59


class Crew(models.BaseModel):
    _name = "cache_fn_crew"
    _cache = False

    lead = String()


class Job(models.BaseModel):
    """A rule leads from it to another model."""

    _name = "cache_fn_job"
    _access = [Access("user", read=True)]
    _rules = [Rule("own crew", lambda env: [("crew_id.lead", "=", str(env.principal))])]

    crew_id = Many2one(Crew)
    title = String()


@cached(Job)
async def jobs() -> list[str | None]:
    CALLS["jobs"] += 1
    return [job.title for job in await Job.search()]


@cached(Job, Crew)
async def jobs_of_crews() -> list[str | None]:
    CALLS["jobs_of_crews"] += 1
    return [job.title for job in await Job.search()]


async def test_a_right_that_another_model_gives_does_not_outlive_it(
    start: Start, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = await start()

    def ann() -> Any:
        return earnorm.act_as(earnorm.Principal("ann", roles=["user"]))

    with app.activate():
        with earnorm.system(reason="set-up"):
            crew = await Crew.create({"lead": str(earnorm.Principal("ann", roles=["user"]))})
            await Job.create({"crew_id": crew, "title": "secret"})
        with ann():
            for _ in range(3):
                assert await jobs() == ["secret"]
                assert await jobs_of_crews() == ["secret"]
        assert CALLS["jobs"] == 3
        if kind == "redis":
            assert "not kept, because it also depends on cache_fn_crew" in caplog.text
            assert CALLS["jobs_of_crews"] == 1
        else:
            assert "not kept for who acts under access rules" in caplog.text
        with earnorm.system(reason="taken away"):
            await crew.write({"lead": "bob"})
        with ann():
            assert (await jobs(), await jobs_of_crews()) == ([], [])


def factory(region: str, log: object = None) -> Callable[[], Awaitable[str]]:
    @cached(Person)
    async def of_region() -> str:
        CALLS["of_region"] += 1
        return f"{region} {log}"

    return of_region


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    async def total(self) -> str:
        return self.name


async def test_functions_of_one_factory_have_results_of_their_own(start: Start) -> None:
    app = await start()
    with app.activate():
        north, south = factory("north"), factory("south")
        for _ in range(2):
            assert (await north(), await south()) == ("north None", "south None")
        assert CALLS["of_region"] == 2
        with pytest.raises(ConfigurationError, match="a variable of the function around it"):
            await factory("east", object())()
    with pytest.raises(ConfigurationError, match="a method of an object"):
        cached(Person)(Shop("north").total)
