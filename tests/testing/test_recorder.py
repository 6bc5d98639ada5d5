"""`recording`: operations, the layers that they pass, hooks and calls, in order and readable."""

from __future__ import annotations

from typing import Any

import pytest

import earnorm
from earnorm import App, Domain, String, models
from earnorm.plugin import Call, Layer, Operation, hookimpl, made_by
from earnorm.testing import app_with, recording


class Note(models.BaseModel):
    _name = "testing.recorder.note"
    text = String()
    tenant = String()


NOTE, NOTES = "testing.recorder.note", "testing_recorder_note"


class Tenants:
    """Narrows every search to one tenant, and stamps it on new documents."""

    api = 1
    name = "tenants"

    @hookimpl
    def wrap_operation(self, operation: str) -> list[Any]:
        layers = {"search": (Layer.SECURITY, narrow), "create": (Layer.DEFAULT, stamp)}
        return [layers[operation]] if operation in layers else []

    @hookimpl
    async def after_create(self, op: Operation) -> None:
        await op.app.execute(op.child("count", op.model, origin="tenants"))

    @hookimpl
    def after_commit(self, operations: Any) -> None: ...


async def narrow(op: Operation, call_next: Call) -> Any:
    return await call_next(op.replace(domain=op.domain & [("tenant", "=", "a")]))


async def stamp(op: Operation, call_next: Call) -> Any:
    return await call_next(op.replace(values=[{**d, "tenant": "a"} for d in op.documents]))


async def test_everything_is_recorded_in_order() -> None:
    async with app_with(Tenants) as app:
        with recording(app) as seen:
            await Note.create({"text": "x"})
            assert [note.text for note in await Note.search()] == ["x"]
        await Note.create({"text": "y"})  # after the block
    assert seen.operations == [f"create {NOTE}", f"count {NOTE} by tenants", f"search {NOTE}"]
    assert seen.layers == [f"tenants DEFAULT: create {NOTE}", f"tenants SECURITY: search {NOTE}"]
    assert seen.hooks == [f"tenants.after_create {NOTE}", "tenants.after_commit"]
    assert seen.calls == [f"insert {NOTES}", f"count {NOTES}", f"find {NOTES}"]
    create, _, search = seen.sent
    assert create.documents[0]["tenant"] == "a"
    assert search.domain.simplify() == Domain([("tenant", "=", "a")])
    assert str(seen).splitlines()[:5] == [
        f"create {NOTE}",
        f"  layer tenants DEFAULT: create {NOTE}",
        f"  sent create {NOTE}",
        f"  call insert {NOTES}",
        f"  hook tenants.after_create {NOTE}",
    ]
    assert repr(seen).startswith("<Recorder: 13 events>\ncreate")


async def test_filters_and_the_operation_of_an_event() -> None:
    async with app_with(Tenants):
        with recording() as seen:
            await Note.search([("text", "=", "x")])
        [layer] = seen.filter("layer", plugin="tenants", model=NOTE)
        assert layer.operation is not None
        assert layer.operation.domain == Domain([("text", "=", "x")])
        assert seen.filter(plugin="nobody") == []
        seen.clear()
        assert seen.operations == []


async def test_layers_and_hooks_are_as_before_after_the_block() -> None:
    tenants = Tenants()
    async with app_with(tenants) as app:
        await Note.create({"text": "x"})
        bound = app.bind(Note)
        with recording(app):
            await Note.create({"text": "y"})
            with recording(app) as inner:
                await Note.count()
            assert len(inner.operations) == 1
        assert not app.observers and "execute" not in vars(app)
        assert not bound.composed
        await Note.create({"text": "z"})
        assert await Note.count() == 3


async def test_a_failed_operation_is_recorded_with_its_hooks() -> None:
    class Failures:
        api = 1
        name = "failures"

        @hookimpl
        def operation_failed(self, op: Operation, error: BaseException) -> None: ...

        @hookimpl
        def before_create(self, op: Operation) -> None:
            raise ValueError("no")

    async with app_with(Failures):
        with recording() as seen, pytest.raises(earnorm.PluginError):
            await Note.create({"text": "x"})
    assert seen.hooks == [f"failures.before_create {NOTE}", f"failures.operation_failed {NOTE}"]
    assert seen.calls == [] == seen.sent


class Log(models.BaseModel):
    _name = "testing.recorder.log"
    _bookkeeping = "logs"
    text = String()


class Logs:
    """Keeps a log, and cleans it up when it is told to, as from time to time."""

    api = 1
    name = "logs"

    @hookimpl
    async def after_create(self, op: Operation) -> None:
        await op.app.execute(op.child("count", Log, origin="logs"))


async def clean_up(app: App) -> None:
    with earnorm.system(reason="logs: clean up") as env:
        await app.execute(Operation("unlink", Log, env, Domain.FALSE, notes=made_by("logs")))


async def test_housekeeping_that_no_operation_asked_for_is_left_out() -> None:
    async with app_with(Logs) as app:
        await Note.create({"text": "x"})
        with recording(app) as seen:
            await clean_up(app)
            await Note.create({"text": "y"})
    assert seen.operations == [f"create {NOTE}", "count testing.recorder.log by logs"]
    assert seen.calls == [f"insert {NOTES}", "count testing_recorder_log"]
