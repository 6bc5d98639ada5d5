"""Models that are a plugin's own bookkeeping: observers hear of them only where they ask."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

import earnorm
from earnorm import App, String, models
from earnorm.features.sequences.counters import sequence
from earnorm.plugin import ModelView, Operation, hookimpl


class Ledger(models.BaseModel):
    _name = "contract.ledger"
    _bookkeeping = "ledger"
    text = String(required=True)


class Order(models.BaseModel):
    _name = "contract.order"
    text = String(required=True)


class Hearing:
    """An observer that notes what it hears."""

    api = 1
    name = "hearing"

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def _note(self, hook: str, op: Operation) -> None:
        self.heard.append((hook, ModelView(op.model).name))

    @hookimpl
    def before_create(self, op: Operation) -> None:
        self._note("before_create", op)

    @hookimpl
    def after_create(self, op: Operation) -> None:
        self._note("after_create", op)

    @hookimpl
    def after_write(self, op: Operation) -> None:
        self._note("after_write", op)

    @hookimpl
    def before_unlink(self, op: Operation) -> None:
        self._note("before_unlink", op)

    @hookimpl
    def after_commit(self, operations: Sequence[Operation]) -> None:
        self.heard.append(("after_commit", [ModelView(op.model).name for op in operations]))

    @hookimpl
    def after_rollback(self, operations: Sequence[Operation]) -> None:
        self.heard.append(("after_rollback", [ModelView(op.model).name for op in operations]))


class Asking(Hearing):
    """One that wants to hear of bookkeeping, too."""

    name = "asking"
    hears_bookkeeping = True


async def test_observers_hear_of_bookkeeping_where_they_ask_only() -> None:
    hearing, asking = Hearing(), Asking()
    async with App("mongomock://", database="books", plugins=[hearing, asking]):
        entry = await Ledger.create({"text": "a"})
        await entry.write({"text": "b"})
        await entry.unlink()
        assert hearing.heard == []
        ledger = "contract.ledger"
        assert asking.heard == [
            ("before_create", ledger),
            ("after_create", ledger),
            ("after_commit", [ledger]),
            ("after_write", ledger),
            ("after_commit", [ledger]),
            ("before_unlink", ledger),
            ("after_commit", [ledger]),
        ]
        await Order.create({"text": "a"})
        assert hearing.heard == [
            ("before_create", "contract.order"),
            ("after_create", "contract.order"),
            ("after_commit", ["contract.order"]),
        ]


async def test_lists_of_a_transaction_leave_bookkeeping_out() -> None:
    hearing, asking = Hearing(), Asking()
    uri, database = os.environ["EARNORM_TEST_MONGO_URI"], f"books_{uuid.uuid4().hex[:12]}"
    async with App(uri, database=database, plugins=[hearing, asking]) as app:
        async with earnorm.transaction():
            await Ledger.create({"text": "a"})
            await Order.create({"text": "a"})
        assert hearing.heard[-1] == ("after_commit", ["contract.order"])
        assert asking.heard[-1] == ("after_commit", ["contract.ledger", "contract.order"])
        hearing.heard.clear()
        with pytest.raises(ZeroDivisionError):
            async with earnorm.transaction():
                await Ledger.create({"text": "a"})
                raise ZeroDivisionError
        assert hearing.heard == []
        assert asking.heard[-1] == ("after_rollback", ["contract.ledger"])
        await app.dangerous_raw("the test is over").client.drop_database(database)


async def test_the_counters_of_sequences_are_bookkeeping() -> None:
    hearing = Hearing()
    async with App("mongomock://", database="books", plugins=[hearing]):
        assert await sequence("order").next() == 1
        assert hearing.heard == []


def test_a_view_tells_whose_bookkeeping_a_model_is() -> None:
    assert ModelView(Ledger).bookkeeping == "ledger"
    assert ModelView(Order).bookkeeping is None
