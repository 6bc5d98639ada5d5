"""@transactional: what is tried again, what is not, and what a failed try leaves behind (nothing)."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    DuplicateKey,
    Many2one,
    OperationTimeout,
    String,
    TransactionError,
)
from earnorm.kernel.transactions import retries
from earnorm.plugin import Operation, hookimpl

from .conftest import DRIVERS, Commands, Watching, default_app
from .failpoints import TRANSIENT, UNKNOWN, failing
from .shop import Person


@pytest.fixture(params=DRIVERS)
async def noted(request: pytest.FixtureRequest, database: str) -> Any:
    """An App on the server, with one record, whose commands are noted."""
    listener = Commands()
    async with default_app(request.param, database, [Watching(listener)]):
        await Person.create({"name": "Old", "age": 1})
        listener.clear()
        yield listener


class Work:
    """A transaction that reads, changes and creates, and counts its tries."""

    def __init__(self, record: Person, retries: int = 3) -> None:
        self.record = record
        self.tries = 0
        self.seen: list[int | None] = []

        @earnorm.transactional(retries=retries)
        async def run() -> None:
            self.tries += 1
            self.seen.append(record.age)
            assert record.age is not None
            record.age += 1
            await record.save()
            await Person.create({"name": "New"})

        self.run = run


async def test_a_transient_error_in_the_body_runs_it_again_on_the_records_as_they_were(
    noted: Commands, mongo_uri: str, database: str
) -> None:
    old = await Person.search([("name", "=", "Old")]).first()
    assert old is not None
    work = Work(old)
    with failing(
        mongo_uri, database, "insert", mode={"times": 2}, errorCode=112, errorLabels=[TRANSIENT]
    ):
        await work.run()
    # Without going back it would be 1, 2, 3.
    assert work.seen == [1, 1, 1]
    assert old.age == 2 and (await Person.get(old.id)).age == 2
    assert await Person.count([("name", "=", "New")]) == 1


async def test_an_assignment_that_was_not_saved_goes_back_as_well(
    noted: Commands, mongo_uri: str, database: str
) -> None:
    old = await Person.search().first()
    assert old is not None
    seen: list[int | None] = []

    @earnorm.transactional()
    async def work() -> None:
        seen.append(old.age)
        old.age = 7
        await Person.create({"name": "New"})

    with failing(
        mongo_uri, database, "insert", mode={"times": 1}, errorCode=112, errorLabels=[TRANSIENT]
    ):
        await work()
    assert seen == [1, 1] and old.age == 7 and old.is_changed


async def test_a_transient_error_of_the_commit_runs_it_again(
    noted: Commands, mongo_uri: str, database: str
) -> None:
    old = await Person.search().first()
    assert old is not None
    work = Work(old)
    with failing(
        mongo_uri,
        database,
        "commitTransaction",
        mode={"times": 1},
        errorCode=251,
        errorLabels=[TRANSIENT],
    ):
        await work.run()
    assert work.tries == 2 and old.age == 2
    assert await Person.count() == 2


@pytest.mark.parametrize("failures", [1, 3])
async def test_a_commit_of_unknown_outcome_is_repeated_alone_and_with_a_majority(
    noted: Commands, mongo_uri: str, database: str, failures: int
) -> None:
    old = await Person.search().first()
    assert old is not None
    work = Work(old)
    noted.clear()
    with failing(
        mongo_uri,
        database,
        "commitTransaction",
        mode={"times": failures},
        errorCode=64,
        errorLabels=[UNKNOWN],
    ):
        await work.run()
    assert work.tries == 1 and await Person.count() == 2
    commits = noted.named("commitTransaction")
    assert len(commits) == failures + 1
    assert "w" not in commits[0].get("writeConcern", {})
    assert [commit["writeConcern"]["w"] for commit in commits[1:]] == ["majority"] * failures


async def test_another_error_of_the_server_is_not_tried_again(
    noted: Commands, mongo_uri: str, database: str
) -> None:
    old = await Person.search().first()
    assert old is not None
    work = Work(old)
    with (
        failing(mongo_uri, database, "insert", mode={"times": 1}, errorCode=50),
        pytest.raises(OperationTimeout),
    ):
        await work.run()
    assert work.tries == 1 and old.age == 1 and not old.is_changed
    assert await Person.count() == 1


async def test_a_duplicate_in_the_body_is_not_tried_again(server_app: App) -> None:
    await Person.create({"name": "Ann", "email": "a@example.com"})
    tries = 0

    @earnorm.transactional()
    async def work() -> None:
        nonlocal tries
        tries += 1
        await Person.create({"name": "Bob", "email": "a@example.com"})

    with pytest.raises(DuplicateKey):
        await work()
    assert tries == 1


async def test_a_transient_error_that_the_body_swallows_is_tried_again_all_the_same(
    noted: Commands, mongo_uri: str, database: str
) -> None:
    tries = 0

    @earnorm.transactional()
    async def work() -> None:
        nonlocal tries
        tries += 1
        try:
            async with earnorm.transaction():
                await Person.create({"name": "New"})
        except TransactionError as error:
            assert error.transient

    with failing(
        mongo_uri, database, "insert", mode={"times": 1}, errorCode=112, errorLabels=[TRANSIENT]
    ):
        await work()
    assert tries == 2
    assert await Person.count([("name", "=", "New")]) == 1


async def test_two_that_meet_are_both_done_in_the_end(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 0})
    met = asyncio.Barrier(2)
    waited: set[int] = set()

    @earnorm.transactional(retries=20)
    async def add(who: int) -> None:
        mine = await Person.get(ann.id)
        if who not in waited:
            waited.add(who)
            await met.wait()
        assert mine.age is not None
        await mine.write({"age": mine.age + 1})

    await asyncio.gather(add(1), add(2))
    assert (await Person.get(ann.id)).age == 2


async def test_nothing_is_tried_again_when_the_time_is_over(
    noted: Commands, mongo_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "CONVENIENT_SECONDS", 0.0)
    old = await Person.search().first()
    assert old is not None
    work = Work(old, retries=1000)
    with (
        failing(mongo_uri, database, "insert", errorCode=112, errorLabels=[TRANSIENT]),
        pytest.raises(TransactionError) as caught,
    ):
        await work.run()
    assert caught.value.transient and work.tries == 1


FAILS: Any = {"errorCode": 112, "errorLabels": [TRANSIENT]}


async def test_without_a_number_it_is_tried_until_the_limit_of_the_app(
    mongo_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0
    looks = itertools.count()
    monkeypatch.setattr(retries, "clock", lambda: next(looks) / 10)

    @earnorm.transactional()
    async def work() -> None:
        nonlocal tries
        tries += 1
        await Person.create({"name": "New"})

    async with default_app("pymongo", database, retry_timeout=1.5) as app:
        await Person.count()
        with (
            failing(mongo_uri, database, "insert", **FAILS),
            pytest.raises(
                TransactionError, match=r"the limit is 1\.5 s, the retry_timeout"
            ) as told,
        ):
            await work()
        assert told.value.transient and tries > 4
        assert f"it was tried {tries} times in " in str(told.value)
        assert app.contention.retries == tries - 1 and app.contention.given_up == 1


async def test_the_error_says_the_number_of_tries_and_its_limit(
    noted: Commands, mongo_uri: str, database: str
) -> None:
    old = await Person.search().first()
    assert old is not None
    with failing(mongo_uri, database, "insert", **FAILS):
        with pytest.raises(TransactionError, match=r"tried 2 times in .* the limit is retries=1\)"):
            await Work(old, retries=1).run()
        with pytest.raises(TransactionError, match=r"tried once in .* the limit is retries=0\)"):
            await Work(old, retries=0).run()


class Vendors:
    """Tells the number of each try of a vendor's write."""

    api = 1

    def __init__(self) -> None:
        self.attempts: list[int] = []

    @hookimpl
    def before_write(self, op: Operation) -> None:
        if op.model is Vendor:
            self.attempts.append(op.attempt)


async def test_an_operation_is_tried_until_it_succeeds_and_its_hooks_hear_each_try(
    mongo_uri: str, database: str
) -> None:
    vendors = Vendors()
    async with default_app("pymongo", database, [vendors]):
        vendor = await Vendor.create({"name": "a"})
        await Offer.create({"vendor_id": vendor})
        with failing(mongo_uri, database, "commitTransaction", mode={"times": 6}, **FAILS):
            await vendor.write({"name": "b"})
        assert vendors.attempts == [1, 2, 3, 4, 5, 6, 7]
        assert (await Offer.search())[0].vendor == "b"


@pytest.mark.parametrize("limit", [0, -1, 121, True, None, "30"])
def test_a_limit_is_a_time_within_that_of_mongodb(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="retry_timeout is a time in seconds"):
        App("mongomock://", database="x", retry_timeout=limit)


async def test_a_hook_that_fails_after_the_commit_does_not_run_it_again(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def committed(operations: object) -> None:
        raise TransactionError("of a hook", transient=True)

    @earnorm.transactional()
    async def work() -> None:
        nonlocal tries
        tries += 1
        await Person.create({"name": "Ann"})

    monkeypatch.setattr(server_app, "committed", committed)
    with pytest.raises(TransactionError, match="of a hook"):
        await work()
    monkeypatch.undo()
    assert tries == 1 and await Person.count() == 1


async def test_an_unknown_option_is_said_before_the_function_runs(server_app: App) -> None:
    @earnorm.transactional(read_concerns="majority")
    async def work() -> None:
        pytest.fail("it ran")

    with pytest.raises(TypeError, match="read_concerns"):
        await work()


class Vendor(BaseModel):
    _name = "retries.vendor"
    _versioned = True
    name = String()


class Offer(BaseModel):
    _name = "retries.offer"
    vendor_id = Many2one(Vendor)
    vendor = String(related="vendor_id.name", store=True)


@pytest.mark.parametrize("kind", DRIVERS)
async def test_a_record_gets_back_what_the_last_try_handed_back_and_no_more(
    mongo_uri: str, database: str, kind: str
) -> None:
    async with default_app(kind, database):
        vendor = await Vendor.create({"name": "a"})
        offer = await Offer.create({"vendor_id": vendor})
        # The write of the vendor and that of its offers are a transaction, which is tried again.
        with failing(
            mongo_uri, database, "update", mode={"times": 2}, errorCode=112, errorLabels=[TRANSIENT]
        ):
            await vendor.write({"name": "b"})
        with failing(
            mongo_uri,
            database,
            "commitTransaction",
            mode={"times": 1},
            errorCode=112,
            errorLabels=[TRANSIENT],
        ):
            vendor.name = "c"
            await vendor.save()
        assert (await offer.refresh()).vendor == "c"
        assert vendor.name == "c"
        assert (
            vendor._stored()["_revision"]
            == (await Vendor.get(vendor.id))._stored()["_revision"]
            == 2
        )
        await vendor.write({"name": "d"})  # a revision of its own would be a lost update
