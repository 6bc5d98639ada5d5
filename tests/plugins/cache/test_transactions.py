"""A transaction reads past the cache, and nothing of what it wrote is kept before its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import earnorm_cache.plugin as cache_plugin
import earnorm_cache.writing as cache_writing
from earnorm import App, Int, TransactionOutcomeUnknown, hookimpl, models, transaction
from earnorm.backends import transacting
from tests.plugins.cache.conftest import Open
from tests.plugins.cache.probes import Probe, cache_of


class Account(models.BaseModel):
    _name = "cache_account"

    balance = Int(default=0)


async def _balance(app: App, account: Account) -> int | None:
    """What a reader outside of the transaction gets."""
    with app.activate():
        return (await Account.get(account.id)).balance


@pytest.fixture
async def app(open_on_server: Open, probe: Probe) -> App:
    return await open_on_server(probe)


@pytest.fixture
async def account(app: App) -> Account:
    account = await Account.create({"balance": 1})
    await Account.get(account.id)
    return account


async def test_a_commit_is_seen_by_the_next_read(app: App, account: Account) -> None:
    async with transaction():
        await Account.search([("id", "=", account.id)]).update({"balance": 2})
        assert (await Account.get(account.id)).balance == 2
        assert await _balance(app, account) == 1
        assert cache_of().statistics().entries == 0
    assert await _balance(app, account) == 2
    await _balance(app, account)
    assert cache_of().statistics().entries == 1


async def test_a_rollback_leaves_the_old_value_and_the_id_open(app: App, account: Account) -> None:
    with pytest.raises(RuntimeError):
        async with transaction():
            await Account.search([("balance", "=", 1)]).update({"balance": 2})
            assert (await Account.get(account.id)).balance == 2
            raise RuntimeError
    assert await _balance(app, account) == 1
    await _balance(app, account)
    assert cache_of().statistics().entries == 1


@pytest.mark.parametrize("end", ["in time", "at the stop"])
async def test_after_an_unknown_outcome_an_id_stays_closed_while_the_commit_may_arrive(
    app: App, account: Account, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    commit = transacting.DriverTransaction._commit

    async def unconfirmed(self: Any, limit: list[float]) -> None:
        await commit(self, limit)
        raise transacting._unknown("nobody confirmed it")

    monkeypatch.setattr(transacting.DriverTransaction, "_commit", unconfirmed)
    monkeypatch.setattr(cache_writing, "UNKNOWN_SECONDS", 0.1 if end == "in time" else 60)
    with pytest.raises(TransactionOutcomeUnknown):
        async with transaction():
            await account.write({"balance": 2})
    await _balance(app, account)
    assert cache_of().statistics().entries == 0
    if end == "in time":
        await asyncio.sleep(0.15)
    else:
        await app.stop()
        await app.start()
    await _balance(app, account)
    assert cache_of(app).statistics().entries == 1


async def test_every_end_of_a_transaction_leaves_the_books_empty(
    app: App, account: Account
) -> None:
    (plugin,) = (
        p for p in app.loaded.manager.get_plugins() if isinstance(p, cache_plugin.CachePlugin)
    )
    before = cache_of().statistics().hits
    committed = asyncio.Event()

    async def never_ends() -> None:
        committed.set()
        await asyncio.sleep(30)

    async def work() -> None:
        async with transaction() as running:
            running.after_commit(never_ends)
            await account.write({"balance": 2})

    task = asyncio.create_task(work())
    await committed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not plugin._writer._open
    await _balance(app, account)
    await _balance(app, account)
    assert cache_of().statistics().hits == before + 1


async def test_what_a_transaction_reads_is_not_kept(account: Account, probe: Probe) -> None:
    before = cache_of().statistics()
    probe.seen.clear()
    async with transaction():
        await Account.get(account.id)
    assert probe.searches == 1
    assert cache_of().statistics() == before


class Alarm:
    """An observer that hears of a commit before the cache does."""

    api = 1
    name = "alarm"
    watched: Account | None = None

    def __init__(self) -> None:
        self.heard: list[int | None] = []
        self.fails = False

    @hookimpl
    async def after_commit(self, app: App, operations: object) -> None:
        if self.watched is not None:
            self.heard.append(await _balance(app, self.watched))
        if self.fails:
            raise OSError("the bell is broken")


async def test_an_observer_that_hears_of_the_commit_first_reads_the_new_value(
    open_on_server: Open,
) -> None:
    alarm = Alarm()
    app = await open_on_server(alarm)
    account = await Account.create({"balance": 1})
    await _balance(app, account)
    alarm.watched = account
    async with transaction():
        await Account.search([("id", "=", account.id)]).update({"balance": 2})
    assert alarm.heard == [2]


async def test_an_observer_that_fails_cannot_make_a_read_stale(
    open_on_server: Open, caplog: pytest.LogCaptureFixture
) -> None:
    alarm = Alarm()
    app = await open_on_server(alarm)
    account = await Account.create({"balance": 1})
    await _balance(app, account)
    alarm.fails = True
    async with transaction():
        await Account.search([("id", "=", account.id)]).update({"balance": 2})
    assert "the bell is broken" in caplog.text
    assert await _balance(app, account) == 2


async def test_a_later_transaction_keeps_its_own_ids_closed(app: App, account: Account) -> None:
    async with transaction():
        await Account.search([("id", "=", account.id)]).update({"balance": 2})
    async with transaction():
        await Account.search([("id", "=", account.id)]).update({"balance": 3})
        assert await _balance(app, account) == 2
        assert cache_of().statistics().entries == 0
    assert await _balance(app, account) == 3
