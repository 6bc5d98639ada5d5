"""after_commit and after_rollback callbacks; sessions without a transaction."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

import earnorm
from earnorm import App, NotSupported, Operation, TransactionError, hookimpl

from .conftest import Commands, default_app
from .failpoints import TRANSIENT, failing
from .shop import Person


async def test_a_callback_runs_when_everything_is_durable(server_app: App) -> None:
    seen: list[object] = []

    async def count() -> None:
        assert earnorm.current_env().transaction is None
        seen.append(await Person.count())

    async with earnorm.transaction() as outer:
        outer.after_commit(count)
        outer.after_rollback(lambda: seen.append("rolled back"))
        async with earnorm.transaction() as inner:
            inner.after_commit(lambda: seen.append("inner"))
        await earnorm.after_commit(lambda: seen.append("module"))
        await Person.create({"name": "Ann"})
        assert seen == []
    assert seen == [1, "inner", "module"]


async def test_a_callback_of_a_rollback_runs_then_only(server_app: App) -> None:
    seen: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction() as running:
            running.after_commit(lambda: seen.append("committed"))
            await earnorm.after_rollback(lambda: seen.append("rolled back"))
            raise ZeroDivisionError
    assert seen == ["rolled back"]


async def test_outside_of_a_transaction_a_callback_runs_at_once(app: App) -> None:
    seen: list[str] = []

    async def later() -> None:
        seen.append("async")

    await earnorm.after_commit(lambda: seen.append("sync"))
    await earnorm.after_commit(later)
    await earnorm.after_rollback(lambda: seen.append("never"))
    assert seen == ["sync", "async"]
    with pytest.raises(ZeroDivisionError):
        await earnorm.after_commit(lambda: 1 / 0)


async def test_a_callback_that_fails_stops_nothing_and_is_logged(
    server_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def broken() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "earnorm"):
        async with earnorm.transaction() as running:
            running.after_commit(broken)
            running.after_commit(lambda: seen.append("second"))
            await Person.create({"name": "Ann"})
    assert seen == ["second"] and await Person.count() == 1
    assert "after_commit callback" in caplog.text and "broken" in caplog.text


async def test_only_the_callbacks_of_the_try_that_was_committed_run(
    server_app: App, mongo_uri: str, database: str
) -> None:
    seen: list[str] = []
    tries = 0

    @earnorm.transactional()
    async def work() -> None:
        nonlocal tries
        tries += 1
        name = f"try {tries}"
        await earnorm.after_commit(lambda: seen.append(name))
        await earnorm.after_rollback(lambda: seen.append(f"not {name}"))
        await Person.create({"name": name})

    await Person.count()
    with failing(
        mongo_uri, database, "insert", mode={"times": 1}, errorCode=112, errorLabels=[TRANSIENT]
    ):
        await work()
    assert seen == ["not try 1", "try 2"]


async def test_callbacks_run_behind_the_hooks_of_plugins_whatever_those_do(database: str) -> None:
    seen: list[str] = []

    class Told:
        api = 1
        name = "told"

        @hookimpl
        async def after_commit(self, app: App, operations: Sequence[Operation]) -> None:
            seen.append("hook")
            raise ZeroDivisionError

    async with default_app("pymongo", database, [Told()]), earnorm.transaction() as running:
        running.after_commit(lambda: seen.append("callback"))
        await Person.create({"name": "Ann"})
    assert seen == ["hook", "callback"]


async def test_a_transaction_that_is_over_takes_no_callback(server_app: App) -> None:
    async with earnorm.transaction() as running:
        with pytest.raises(TypeError, match="function"):
            running.after_commit("send")  # type: ignore[arg-type] # that is the point
    with pytest.raises(TransactionError, match="is over"):
        running.after_commit(lambda: None)


# -- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "snapshot"])
async def test_everything_in_a_block_goes_through_one_session(
    commands: Commands, kind: str
) -> None:
    async with earnorm.session(causal=kind == "causal", snapshot=kind == "snapshot"):
        await Person.count()
        await Person.search().limit(1)
        assert [p async for p in Person.search()] == []
    finds = [*commands.named("aggregate"), *commands.named("find")]
    assert len({str(command["lsid"]) for command in finds}) == 1
    key = "afterClusterTime" if kind == "causal" else "atClusterTime"
    assert key in finds[-1]["readConcern"]
    await Person.count()
    assert key not in commands.named("aggregate")[-1].get("readConcern", {})


async def test_a_transaction_joins_the_session_around_it(commands: Commands) -> None:
    async with earnorm.session():
        await Person.create({"name": "Ann"})
        async with earnorm.transaction():
            await Person.create({"name": "Bob"})
            with pytest.raises(TransactionError, match="its own session"):
                async with earnorm.session():
                    pytest.fail("the block was entered")
        assert await Person.count() == 2
    inserts = commands.named("insert")
    assert inserts[0]["lsid"] == inserts[1]["lsid"]
    assert inserts[1]["readConcern"]["afterClusterTime"]


async def test_a_snapshot_stays_what_it_was(server_app: App) -> None:
    await Person.create({"name": "Ann"})
    async with earnorm.session(snapshot=True):
        assert await Person.count() == 1
        with server_app.activate():
            await Person.create({"name": "Bob"})
        assert await Person.count() == 1
    assert await Person.count() == 2


async def test_memory_has_no_sessions(memory_app: App) -> None:
    with pytest.raises(NotSupported, match="session"):
        async with earnorm.session():
            pytest.fail("the block was entered")
