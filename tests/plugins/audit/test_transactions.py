"""A change and its entry exist together or not at all."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import earnorm
from earnorm import Layer, hookimpl
from earnorm.backends import transacting
from earnorm_audit import AuditEntry, AuditPlugin
from tests.plugins.audit.conftest import Opening
from tests.plugins.audit.shop import Account, Article, entries, told


class NoEntries:
    """Refuses to store an entry, as a full disk would."""

    api = 1
    name = "no_entries"

    @hookimpl
    def wrap_operation(self, model: Any, operation: str) -> Any:
        async def refuse(op: Any, call_next: Any) -> Any:
            raise earnorm.ServerUnavailable("no space for an entry")

        return (
            [(Layer.DEFAULT, refuse)]
            if (model._name, operation) == ("audit.entry", "create")
            else []
        )


async def test_a_rollback_leaves_neither_change_nor_entry(server_app: earnorm.App) -> None:
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction():
            article = await Article.create({"title": "Pen"})
            await article.write({"stock": 1})
            assert len(await entries()) == 2
            raise ZeroDivisionError
    assert await entries() == []
    assert await Article.count([]) == 0


async def test_entries_of_one_transaction_carry_the_same_mark(server_app: earnorm.App) -> None:
    async with earnorm.transaction():
        article = await Article.create({"title": "Pen"})
        await article.write({"stock": 1})
    await article.write({"stock": 2})
    first, second, third = [e.transaction for e in await entries()]
    assert first is not None
    assert first == second
    assert third not in (None, first)


async def test_the_marks_of_ended_transactions_are_forgotten(server: Opening) -> None:
    plugin = AuditPlugin()
    async with server(plugins=[plugin]):
        for n in range(5):
            await Article.create({"title": f"a{n}"})
        with pytest.raises(ZeroDivisionError):
            async with earnorm.transaction():
                await Article.create({"title": "gone"})
                raise ZeroDivisionError
        assert not plugin._marks
        assert len({e.transaction for e in await entries()}) == 5


async def test_an_unknown_outcome_is_logged_with_its_mark_and_counted(
    server: Opening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = transacting.DriverTransaction._commit

    async def unconfirmed(self: Any, limit: list[float]) -> None:
        await commit(self, limit)
        raise transacting._unknown("nobody confirmed it")

    plugin = AuditPlugin()
    async with server(plugins=[plugin]) as app:
        with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "earnorm.audit"):
            patched.setattr(transacting.DriverTransaction, "_commit", unconfirmed)
            with pytest.raises(earnorm.TransactionOutcomeUnknown):
                await Article.create({"title": "Pen"})
        (entry,) = await entries()
        assert entry.transaction is not None and entry.transaction in caplog.text
        assert "nobody confirmed it" in caplog.text
        assert not plugin._marks
        assert (await app.health())["audit"]["unknown_transactions"] == 1


async def test_without_transactions_entries_carry_no_mark() -> None:
    async with earnorm.App("mongomock://", database="x", plugins=[AuditPlugin]):
        await Article.create({"title": "Pen"})
        [entry] = await entries()
        assert entry.transaction is None


async def test_a_change_whose_entry_cannot_be_stored_is_not_made(server: Opening) -> None:
    async with server(plugins=[AuditPlugin, NoEntries]):
        with pytest.raises(earnorm.ServerUnavailable, match="no space"):
            await Article.create({"title": "Pen"})
        assert await Article.count([]) == 0


async def test_catching_the_error_does_not_save_the_change(server: Opening) -> None:
    async with server(plugins=[AuditPlugin, NoEntries]):
        with pytest.raises(earnorm.TransactionError):
            async with earnorm.transaction():
                with pytest.raises(earnorm.ServerUnavailable):
                    await Article.create({"title": "Pen"})
        assert await Article.count([]) == 0


async def test_a_failed_change_leaves_no_entry(server_app: earnorm.App) -> None:
    await Account.create({"login": "ann"})
    with pytest.raises(earnorm.DuplicateKey):
        await Account.create([{"login": "bob"}, {"login": "ann"}])
    assert len(await entries()) == await Account.count([]) == 1


async def test_in_memory_what_was_written_before_an_error_is_recorded() -> None:
    async with earnorm.App("mongomock://", database="x", plugins=[AuditPlugin]):
        ann = await Account.create({"login": "ann"})
        with pytest.raises(earnorm.DuplicateKey):
            await Account.create([{"login": "bob"}, {"login": "ann"}])
        recorded = {e.record_id for e in await entries(operation="create")}
        assert recorded == {a.id for a in await Account.search([])}
        assert len(await entries()) == len(recorded)
        assert len(await told(ann.ensure_one())) == 1


async def test_in_memory_a_record_whose_id_was_taken_is_not_recorded_again() -> None:
    async with earnorm.App("mongomock://", database="x", plugins=[AuditPlugin]):
        ann = await Account.create({"login": "ann"})
        with pytest.raises(earnorm.DuplicateKey):
            await Account.create({"id": ann.pk, "login": "bob"})
        assert [operation for operation, _ in await told(ann)] == ["create"]


async def test_changes_that_meet_are_tried_again_and_all_recorded(server_app: earnorm.App) -> None:
    article = (await Article.create({"title": "Pen", "stock": 0})).ensure_one()

    async def increment() -> None:
        op = earnorm.Operation(
            "write",
            Article,
            earnorm.current_env(),
            earnorm.Domain([("id", "=", article.pk)]),
            earnorm.Update({"$inc": {"st": 1}}),
        )
        await server_app.execute(op)

    await asyncio.gather(*(increment() for _ in range(10)))
    news = [changes["stock"]["new"] for _, changes in await told(article)]
    assert news == list(range(11))


async def test_tasks_at_one_record_queue_for_it_and_none_is_refused(
    server_app: earnorm.App,
) -> None:
    article = await Article.create({"title": "Pen", "stock": 0})
    copies = [await Article.get(article.id) for _ in range(16)]
    await asyncio.gather(*(copy.write({"stock": earnorm.Inc(1)}) for copy in copies))
    figures = (await server_app.health())["transactions"]
    assert figures["retries"] == 0 and figures["queue_waits"] == 15
    changes = [entry.changes["stock"] for entry in await entries(operation="write")]
    assert [(c["old"], c["new"]) for c in changes] == [(n, n + 1) for n in range(16)]


async def test_the_first_change_of_all_works_inside_a_transaction(server: Opening) -> None:
    async with server():
        async with earnorm.transaction():
            await Account.create({"login": "ann"})
        assert await AuditEntry.count([]) == 1
