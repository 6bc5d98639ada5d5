"""A transaction reads past the cache, and nothing of what it wrote is kept before its end."""

from __future__ import annotations

import pytest

from earnorm import App, Int, hookimpl, models, transaction
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
