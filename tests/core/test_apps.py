"""An App's life: left in another context than it was entered in, and refused models."""

from __future__ import annotations

import asyncio
import contextvars
import os
import uuid

import bson
import pytest
from pymongo import monitoring

from earnorm import (
    App,
    ConfigurationError,
    DuplicateKey,
    Int,
    Layer,
    current_env,
    hookimpl,
    models,
)


class AppLifeItem(models.BaseModel):
    number = Int(required=True)


async def test_an_app_left_in_another_context_is_stopped_all_the_same():
    app = App("mongomock://", database="life", plugins=[])
    await app.__aenter__()
    leave = app.__aexit__(None, None, None)
    other = contextvars.Context()
    with pytest.raises(StopIteration):
        while True:
            other.run(leave.send, None)
    assert not app.is_started


async def test_a_model_that_a_plugin_refuses_is_refused_each_time():
    class Picky:
        api = 1

        @hookimpl
        def model_registered(self, app, model):
            raise ConfigurationError(f"not {model._name}")

    async with App("mongomock://", database="life", plugins=[Picky]):
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="not app_life_item"):
                await AppLifeItem.count()


async def test_a_plugin_hears_of_all_models_at_the_start_and_of_each_one_that_is_defined_later():
    heard: list[tuple[bool, list[str]]] = []

    class Hearing:
        api = 1

        @hookimpl
        def models_changed(self, app, models):
            heard.append((app.is_started, [model._name for model in models]))

    app = App("mongomock://", database="life", plugins=[Hearing])
    async with app:
        ((started, names),) = heard
        assert not started and "app_life_item" in names

        class AppLifeBase(models.BaseModel):
            _abstract = True

        class AppLifeLater(AppLifeBase):
            number = Int()

        class AppLifeMore(models.BaseModel):
            _inherit = "app_life_later"

        assert heard[1:] == [(True, ["app_life_later"])]
    async with app:
        assert heard[2][0] is False and "app_life_later" in heard[2][1]

    class AppLifeLast(models.BaseModel):
        number = Int()

    assert len(heard) == 3


async def test_every_plugin_hears_of_a_commit_also_where_another_fails(caplog):
    heard: list[str] = []

    class Failing:
        api = 1
        name = "a"

        @hookimpl
        def after_commit(self, app):
            raise RuntimeError("boom")

    class Hearing:
        api = 1
        name = "b"

        @hookimpl
        async def after_commit(self, operations):
            heard.extend(op.name for op in operations)

    async with App("mongomock://", database="life", plugins=[Failing, Hearing]):
        await AppLifeItem.create({"number": 1})
        assert "plugin 'a' failed in its hook after_commit" in caplog.text
        assert heard == ["create"]
        assert await AppLifeItem.count() == 1
        assert current_env().app.is_started


async def test_a_plugin_hears_of_errors_and_cancellations_and_cannot_replace_them(caplog):
    heard: list[tuple[str, str]] = []
    never = asyncio.Event()

    class Failing:
        api = 1
        name = "a"

        @hookimpl
        def operation_failed(self):
            raise RuntimeError("boom")

    class Hearing:
        api = 1
        name = "b"

        @hookimpl
        def operation_failed(self, op, error):
            heard.append((op.name, type(error).__name__))

        @hookimpl
        def wrap_operation(self, operation):
            async def wait(op, call_next):
                await never.wait()

            return [(Layer.DEFAULT, wait)] if operation == "group" else []

    async with App("mongomock://", database="life", plugins=[Failing, Hearing]):
        item = await AppLifeItem.create({"number": 1})
        assert heard == []
        with pytest.raises(DuplicateKey):
            await AppLifeItem.create({"_id": item.id, "number": 2})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await AppLifeItem.search().group("number")
    assert heard == [("create", "DuplicateKey"), ("group", "CancelledError")]
    assert caplog.text.count("plugin 'a' failed when it heard of a failed") == 2


async def test_saving_many_records_sends_each_id_once():
    """A filter per record with the list of all ids would be quadratic: 20 MB for a thousand."""
    sent: list[int] = []

    class Commands(monitoring.CommandListener):
        def started(self, event):
            if event.command_name == "update":
                sent.append(len(bson.encode(event.command)))

        def succeeded(self, event):
            pass

        def failed(self, event):
            pass

    class Listening:
        api = 1

        @hookimpl
        def register_listeners(self):
            return [Commands()]

    uri, name = os.environ["EARNORM_TEST_MONGO_URI"], f"apps_{uuid.uuid4().hex[:12]}"
    async with App(uri, database=name, plugins=[Listening]) as app:
        items = await AppLifeItem.create([{"number": n} for n in range(500)])
        for item in items:
            item.number += 1
        assert await items.save() == 500
        assert await AppLifeItem.search().count() == 500
        assert [i.number for i in await AppLifeItem.search(order="number")] == list(range(1, 501))
        await app.dangerous_raw("to look at the database itself").client.drop_database(name)
    assert len(sent) == 1
    assert sent[0] < 500 * 200
