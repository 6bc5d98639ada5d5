"""op.after_durable: one call for each operation that succeeded, once its outcome stays; op.attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    BatchRefused,
    DuplicateKey,
    Operation,
    PluginError,
    String,
    hookimpl,
)
from earnorm.kernel.layers import Layer
from earnorm.kernel.steps import Stage, Step
from earnorm.kernel.transactions.layer import in_transaction

from .conftest import DRIVERS, default_app
from .failpoints import TRANSIENT, failing


class Letter(BaseModel):
    _name = "durable.letter"
    text = String(required=True)


class Plain(BaseModel):
    _name = "durable.plain"
    text = String()


class Posting:
    """A plugin whose layer asks for a call before the letter is stored, and for another one behind it."""

    api = 1
    name = "posting"

    def __init__(self, *more: tuple[int, Any]) -> None:
        self.seen: list[Any] = []
        self.ops: list[Operation] = []
        self._more = more

    @hookimpl
    def wrap_operation(self, app: App, model: type[BaseModel], operation: str) -> Iterable[Any]:
        if model._name != "durable.letter" or operation in ("search", "count", "group"):
            return ()
        return [(Layer.DEFAULT, self._layer), *self._more]

    async def _layer(self, op: Operation, call_next: Any) -> Any:
        self.ops.append(op)
        op.after_durable(lambda: self.seen.append(("early", op.name)))
        result = await call_next(op)

        async def late() -> None:
            assert earnorm.current_env().transaction is None
            self.seen.append(("late", op.name, await Letter.count()))

        op.after_durable(late)
        assert not self.seen
        return result


@pytest.mark.parametrize("kind", [*DRIVERS, "memory"])
async def test_without_a_transaction_calls_are_made_at_the_operations_end(
    kind: str, database: str
) -> None:
    posting = Posting()
    async with default_app(kind, database, [posting]):
        letter = await Letter.create({"text": "a"})
        assert posting.seen == [("early", "create"), ("late", "create", 1)]
        posting.seen.clear()
        await letter.write({"text": "b"})
        assert posting.seen == [("early", "write"), ("late", "write", 1)]
        posting.seen.clear()
        await letter.unlink()
        assert posting.seen == [("early", "unlink"), ("late", "unlink", 0)]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_in_a_transaction_they_are_made_at_the_commit_or_never(
    driver: str, database: str
) -> None:
    posting = Posting()
    async with default_app(driver, database, [posting]):
        async with earnorm.transaction():
            await Letter.create({"text": "a"})
            assert posting.seen == []
        assert posting.seen == [("early", "create"), ("late", "create", 1)]
        posting.seen.clear()
        with pytest.raises(ZeroDivisionError):
            async with earnorm.transaction():
                await Letter.create({"text": "b"})
                raise ZeroDivisionError
        assert posting.seen == []


async def test_of_several_tries_the_one_that_was_committed_calls(
    database: str, mongo_uri: str
) -> None:
    posting = Posting()
    async with default_app("pymongo", database, [posting]):

        @earnorm.transactional()
        async def work() -> None:
            await Letter.create({"text": "a"})

        await Letter.count()
        with failing(
            mongo_uri, database, "insert", mode={"times": 2}, errorCode=112, errorLabels=[TRANSIENT]
        ):
            await work()
        assert posting.seen == [("early", "create"), ("late", "create", 1)]
        assert [op.attempt for op in posting.ops] == [1, 2, 3]
        posting.seen.clear()
        await Letter.create({"text": "b"})
        assert posting.ops[-1].attempt == 1


async def test_a_transaction_that_a_layer_opens_counts_as_well(
    database: str, mongo_uri: str
) -> None:
    posting = Posting((Layer.TRANSACTION, in_transaction))
    async with default_app("pymongo", database, [posting]):
        await Letter.count()
        with failing(
            mongo_uri, database, "insert", mode={"times": 1}, errorCode=112, errorLabels=[TRANSIENT]
        ):
            await Letter.create({"text": "a"})
        assert [op.attempt for op in posting.ops] == [1, 2]
        assert posting.seen == [("early", "create"), ("late", "create", 1)]


async def refuse(op: Operation, call_next: Any) -> Any:
    await call_next(op)
    raise ZeroDivisionError


async def test_an_operation_that_fails_calls_nothing(database: str) -> None:
    posting = Posting((Layer.SECURITY, refuse))
    async with default_app("pymongo", database, [posting]):
        with pytest.raises(ZeroDivisionError):
            await Letter.create({"text": "a"})
        async with earnorm.transaction():
            with pytest.raises(ZeroDivisionError):
                await Letter.create({"text": "a"})
        assert posting.seen == []


async def test_the_error_of_a_call_is_logged_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    async def broken() -> None:
        raise ZeroDivisionError

    async def asking(op: Operation, call_next: Any) -> Any:
        op.after_durable(broken)
        op.after_durable(lambda: seen.append("second"))
        return await call_next(op)

    posting = Posting((Layer.AUDIT, asking))
    async with App("mongomock://", database="d", plugins=[posting]):
        with caplog.at_level(logging.ERROR, "earnorm"):
            await Letter.create({"text": "a"})
    assert seen == ["second"] and "broken" in caplog.text


async def test_only_a_write_on_its_way_takes_calls() -> None:
    kept: list[Operation] = []

    async def keep(op: Operation, call_next: Any) -> Any:
        kept.append(op)
        with pytest.raises(TypeError, match="function"):
            op.after_durable("post")  # type: ignore[arg-type] # that is the point
        return await call_next(op)

    async with App("mongomock://", database="d", plugins=[Posting((Layer.AUDIT, keep))]) as app:
        await Letter.create({"text": "a"})
        with pytest.raises(PluginError, match="over"):
            kept[0].after_durable(print)
        with pytest.raises(PluginError, match="search"):
            Operation("search", Letter, app.env).after_durable(print)


async def test_a_durable_step_runs_then(database: str) -> None:
    seen: list[Any] = []

    class Telling:
        api = 1
        name = "telling"

        @hookimpl
        def register_steps(self, app: App, model: Any) -> Iterable[Step]:
            if model.name == "durable.letter":
                return [Step(Stage.DURABLE, "tell", self._tell)]
            return ()

        async def _tell(self, batch: Any) -> None:
            seen.append((batch.op.name, batch.result, await Letter.count()))

    async with default_app("pymongo", database, [Telling()]):
        async with earnorm.transaction():
            letter = await Letter.create({"text": "a"})
            assert seen == []
        assert seen == [("create", [letter.pk], 1)]


async def test_a_model_without_layers_pays_nothing(
    memory_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(write: Callable[..., Any]) -> Callable[..., Any]:
        raise AssertionError("nobody needs it")

    monkeypatch.setattr("earnorm.kernel.binding.settling", never)
    plain = await Plain.create({"text": "a"})
    await plain.write({"text": "b"})


class Mailing:
    """Mails for each stored letter, also for those of a batch that was refused in part."""

    api = 1
    name = "mailing"

    def __init__(self) -> None:
        self.mails: list[str] = []

    @hookimpl
    def wrap_operation(self, model: type[BaseModel], operation: str) -> Iterable[Any]:
        is_asked = model._name == "durable.code" and operation == "create"
        return [(Layer.DEFAULT, self._layer)] if is_asked else []

    async def _layer(self, op: Operation, call_next: Any) -> Any:
        stored = [document["code"] for document in op.documents]

        def mail() -> None:
            self.mails += stored

        op.after_durable(mail)
        try:
            return await call_next(op)
        except BatchRefused as error:
            stored[:] = [stored[position] for position in error.written or ()]
            raise


class Code(BaseModel):
    _name = "durable.code"
    code = String(unique=True)


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
async def test_what_is_stored_of_a_refused_batch_is_told(kind: str, database: str) -> None:
    plugin = Mailing()
    async with default_app(kind, database, [plugin]):
        await Code.create({"code": "a"})
        with pytest.raises(DuplicateKey):
            await Code.create({"code": "a"})
        assert plugin.mails == ["a"]
        for ordered in (True, False):
            plugin.mails.clear()
            codes = [f"b{ordered}", "a", f"c{ordered}"]
            with suppress(BatchRefused):  # unordered, it returns what was refused
                await Code.create_many([{"code": code} for code in codes], ordered=ordered)
            stored = [c for c in codes if await Code.count([("code", "=", c)]) and c != "a"]
            assert plugin.mails == stored and stored
        plugin.mails.clear()
        with pytest.raises(DuplicateKey):
            async with Code.bulk() as bulk:
                bulk.create({"code": "d"})
                bulk.create({"code": "a"})
        assert plugin.mails == ["d"] * await Code.count([("code", "=", "d")])
        if kind == "memory":
            return
        plugin.mails.clear()
        with pytest.raises(DuplicateKey):
            async with earnorm.transaction():
                await Code.create_many([{"code": "e"}, {"code": "a"}], ordered=False)
        assert plugin.mails == [] and not await Code.count([("code", "=", "e")])


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
@pytest.mark.parametrize("also_refused", [True, False])
async def test_a_durable_step_hears_of_a_refused_batch_if_it_says_so(
    kind: str, also_refused: bool, database: str
) -> None:
    seen: list[str] = []

    class Stepping:
        api = 1
        name = "stepping"

        @hookimpl
        def register_steps(self, model: Any) -> Iterable[Step]:
            if model.name == "durable.code":
                step = lambda batch: seen.append(batch.op.name)  # noqa: E731
                yield Step(Stage.DURABLE, "tell", step, also_refused=also_refused)

    async with default_app(kind, database, [Stepping()]):
        await Code.create({"code": "a"})
        with suppress(BatchRefused):
            await Code.create_many([{"code": "b"}, {"code": "a"}], ordered=False)
        with pytest.raises(DuplicateKey):
            await Code.create({"code": "a"})
    assert seen == ["create"] * (1 + also_refused)


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
async def test_a_call_may_ask_for_one_more_which_follows_it(kind: str, database: str) -> None:
    seen: list[str] = []
    kept: list[Operation] = []

    class Stepping:
        api = 1
        name = "stepping"

        @hookimpl
        def register_steps(self, model: Any) -> Iterable[Step]:
            if model.name == "durable.code":
                yield Step(Stage.DURABLE, "one", self._one)
                yield Step(Stage.DURABLE, "two", lambda batch: seen.append("two"))

        def _one(self, batch: Any) -> None:
            seen.append("one")
            kept.append(batch.op)
            batch.op.after_durable(self._mail)

        async def _mail(self) -> None:
            seen.append("mail")
            kept[0].after_durable(lambda: seen.append("copy"))
            raise ConnectionError

    async with default_app(kind, database, [Stepping()]):
        await Code.create({"code": "a"})
        assert seen == ["one", "mail", "copy", "two"]
        with pytest.raises(PluginError, match="over"):
            kept[0].after_durable(print)
        if kind == "memory":
            return
        seen.clear()
        kept.clear()
        async with earnorm.transaction():
            await Code.create({"code": "b"})
            assert seen == []
        assert seen == ["one", "mail", "copy", "two"]
