"""Refused attempts are in the trail: outside of transactions, joined, and bounded."""

from __future__ import annotations

import asyncio
import datetime
import logging

import pytest

import earnorm
from earnorm import AccessDenied, Int, Principal, String, act_as, models, system, transaction
from earnorm_audit import AuditDenial, AuditPlugin
from earnorm_security import Access, Rule, SecurityPlugin, SecuritySettings

from .conftest import opened, server_uri

BOTH = [AuditPlugin, SecurityPlugin]
EVE = Principal("eve", ["clerk"])


class Pay(models.BaseModel):
    _name = "audit_denials.pay"
    _access = [Access("hr", read=True, write=True, create=True), Access("clerk", read=True)]
    amount = Int(default=0)


class Job(models.BaseModel):
    _name = "audit_denials.job"
    _rules = [Rule("small", [("amount", "<", 10)], operations=["write", "create"])]
    amount = Int(default=0)


class Quiet(models.BaseModel):
    _name = "audit_denials.quiet"
    _audit = False
    _access = []
    text = String()


async def rows(app, **wanted):
    with system(reason="look"):
        await app.services["audit"].denials.stored()
        found = await AuditDenial.search(order="at, id")
    return [row for row in found if all(getattr(row, k) == v for k, v in wanted.items())]


async def refused(work):
    with pytest.raises(AccessDenied):
        await work


@pytest.fixture
async def app():
    async with opened(server_uri(), plugins=BOTH) as app:
        yield app


async def test_who_tried_what_and_why_it_was_refused(app):
    with system(reason="fill"):
        job = await Job.create({"amount": 5})
    with act_as(EVE):
        await refused(Pay.create({"amount": 1}))
        await refused(job.write({"amount": 50}))
        await refused(job.write({"amount": 60}))
    by_right, by_rule = await rows(app)
    assert (by_right.model, by_right.operation, by_right.number) == (Pay._name, "create", 1)
    assert (by_right.principal, by_right.roles, by_right.system) == ("eve", ["clerk"], False)
    [reason] = by_right.reasons
    assert (reason["name"], reason["allows"], reason["roles"]) == ("create", False, ["hr"])
    assert "the right to create needs the role 'hr'" in by_right.message
    assert (by_rule.operation, by_rule.number, by_rule.record_ids) == ("write", 2, [job.id])
    assert by_rule.filter == '{"amount": {"$lt": 10}}'
    assert by_rule.expires_at - by_rule.at == datetime.timedelta(days=90)
    assert by_rule.last_at >= by_rule.at


async def test_an_attempt_outlives_the_transaction_that_is_rolled_back(app):
    with act_as(EVE):
        with pytest.raises(AccessDenied):
            async with transaction():
                await Job.create({"amount": 1})
                await Pay.create({})
        with pytest.raises(ZeroDivisionError):
            async with transaction():
                await refused(Pay.search().update({"amount": 1}))
                await app.services["audit"].denials.stored()  # before the rollback
                raise ZeroDivisionError
    assert [row.operation for row in await rows(app)] == ["create", "write"]
    assert await Job.count() == 0


async def test_an_attempt_in_a_transaction_waits_for_no_connection():
    async with opened(server_uri(), plugins=BOTH, max_pool_size=1) as app:
        with act_as(EVE):
            async with asyncio.timeout(20), transaction():
                await refused(Pay.create({}))
                await Job.create({"amount": 1})
        assert len(await rows(app)) == 1 and await Job.count() == 1


async def test_it_is_stored_without_being_asked_for(app):
    with act_as(EVE):
        await refused(Pay.create({}))
    with system(reason="look"):
        for _ in range(200):
            if await AuditDenial.count():
                break
            await asyncio.sleep(0.02)
        assert await AuditDenial.count() == 1


async def test_the_end_of_a_minute_stores_the_numbers(app):
    denials = app.services["audit"].denials
    denials.window = 0.3
    with act_as(EVE):
        for _ in range(5):
            await refused(Pay.create({}))
    with system(reason="look"):
        for _ in range(200):
            if [row.number for row in await AuditDenial.search()] == [5]:
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("the number was not stored")
    await asyncio.sleep(0.5)
    with act_as(EVE):
        await refused(Pay.create({}))
    assert [row.number for row in await rows(app)] == [5, 1]  # another minute, another row


async def test_a_flood_is_a_bounded_number_of_rows(caplog):
    caplog.set_level(logging.WARNING, "earnorm.audit")
    settings = {"denials_per_minute": 3, "denials_days": 1}
    async with opened(server_uri(), plugins=BOTH, audit=settings) as app:
        for number in range(50):
            with act_as(f"user{number}"):
                await refused(Pay.create({}))
        found = await rows(app)
        assert [row.number for row in found] == [1, 1, 1, 47]
        others = found[-1]
        assert (others.model, others.operation, others.principal) == ("*", "*", None)
        assert others.expires_at - others.at == datetime.timedelta(days=1)
    assert len([r for r in caplog.records if "refused to" in r.getMessage()]) == 4


async def test_what_is_noted_at_a_stop_is_no_error(caplog):
    app = earnorm.App(server_uri(), database="audit_denials_stop", plugins=BOTH)
    async with app:
        with act_as(EVE):
            await refused(Pay.create({}))
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    async with app:
        assert await rows(app)
        await app.dangerous_raw("the end").client.drop_database("audit_denials_stop")


async def test_what_is_noted_at_a_stop_is_stored():
    async with opened(server_uri(), plugins=BOTH) as app:
        again = earnorm.App(
            server_uri(), database=app.settings.database, plugins=BOTH, name="another"
        )
        async with again:
            with again.activate(), act_as(EVE):
                for _ in range(3):
                    await refused(Pay.create({}))
        assert [row.number for row in await rows(app)] == [3]


async def test_the_rows_are_closed_and_append_only(app):
    with act_as(EVE):
        await refused(Pay.create({}))
    [row] = await rows(app)
    with act_as(EVE):
        await refused(AuditDenial.search())
    with system(reason="tamper"):
        await refused(row.write({"number": 0}))
        await refused(row.unlink())
    seen = await rows(app)
    assert {(r.model, r.operation, r.system) for r in seen[1:]} == {
        ("audit.denial", "search", False),
        ("audit.denial", "write", True),
        ("audit.denial", "unlink", True),
    }


@pytest.mark.parametrize("settings", [{"denials": False}, {"models": ["audit_denials.job"]}])
async def test_models_and_settings_leave_attempts_out(settings):
    async with opened(server_uri(), plugins=BOTH, audit=settings) as app:
        with act_as(EVE):
            await refused(Pay.create({}))
        assert await rows(app) == []


async def test_a_model_without_audit_has_none(app):
    with act_as(EVE):
        await refused(Quiet.search())
    assert await rows(app) == []


async def test_rows_that_cannot_be_stored_wait_and_are_told(app, monkeypatch, caplog):
    denials = app.services["audit"].denials
    monkeypatch.setattr("earnorm_audit.denials.RETRY", 0.05)
    execute, fails = type(denials)._execute, True

    async def failing(self, name, values):
        if fails:
            raise earnorm.exceptions.ServerUnavailable("gone")
        await execute(self, name, values)

    monkeypatch.setattr(type(denials), "_execute", failing)
    with act_as(EVE):
        await refused(Pay.create({}))
    await asyncio.sleep(0.2)
    assert len([r for r in caplog.records if "cannot be stored" in r.getMessage()]) == 1
    fails = False
    assert [row.number for row in await rows(app)] == [1]
    fails = True
    with act_as(EVE):
        await refused(Pay.create({}))
    await denials.close()
    assert (await app.health())["audit"]["lost_denials"] == 1
    assert "1 refused attempts are not in the audit trail" in caplog.text
    fails = False


async def test_it_is_so_in_memory_too():
    security = SecurityPlugin(SecuritySettings())
    async with earnorm.App(
        "mongomock://", database="denials", plugins=[AuditPlugin, security]
    ) as app:
        with act_as(EVE):
            await refused(Pay.create({}))
        assert [row.number for row in await rows(app)] == [1]


@pytest.mark.parametrize(
    "wrong", [{"denials_per_minute": 0}, {"denials_days": 0}, {"denails": True}]
)
async def test_a_wrong_setting_is_an_error(wrong):
    with pytest.raises(earnorm.ConfigurationError):
        earnorm.App("mongomock://", database="denials", plugins=[AuditPlugin], audit=wrong)
