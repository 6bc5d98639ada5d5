"""A third party's steps in the write path: they take values, fill in, check, hand back, and are part of the transaction."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    Domain,
    Int,
    Many2one,
    NotFound,
    NotSupported,
    One2many,
    PluginError,
    String,
    ValidationError,
    depends,
)
from earnorm.plugin import (
    CHANGES,
    DocumentBatch,
    Layer,
    ModelView,
    Stage,
    Step,
    ValueBatch,
    Way,
    hookimpl,
    in_transaction,
)
from tests.plugins.contract.conftest import Opener


class Box(BaseModel):
    _name = "steps.box"
    _stepped = True

    code = String(unique=True)
    number = Int(default=0, min_value=0)
    double = Int(compute="_compute_double", store=True)
    seen = String()
    item_ids = One2many["Item"]("steps.item", "box_id")

    @depends("number")
    def _compute_double(self) -> int:
        return 2 * (self.number or 0)


class Item(BaseModel):
    _name = "steps.item"
    _stepped = True

    code = String()
    number = Int()
    seen = String()
    box_id = Many2one(Box)


class Entry(BaseModel):
    _name = "steps.entry"

    text = String()


class Plain(BaseModel):
    _name = "steps.plain"

    code = String()


class ValuePlugin:
    """Value steps: ``sku`` means ``code``, ``dozens`` fills ``number``; ``logged`` creates an entry."""

    api = 1
    name = "values"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ways: list[Way | None] = []

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        self.asked.append(model.name)
        if not model.attribute("_stepped"):
            return []
        return [
            Step(Stage.ALIAS, "sku", self.alias, names={"sku"}),
            Step(Stage.DEFAULT, "dozens", self.fill, names={"dozens"}),
            Step(Stage.VALIDATE, "check", self.check, names={"code"}),
            Step(Stage.PLAN, "log", self.log, Way.CREATE | Way.SAVE | Way.WRITE, names=()),
            Step(Stage.PLAN, "tell", self.tell),
        ]

    def alias(self, batch: ValueBatch) -> None:
        self.ways.append(batch.way)
        for row in batch.rows:
            if "sku" in row.values:
                row.values["code"] = row.take("sku")

    def fill(self, batch: ValueBatch) -> None:
        for row in batch.rows:
            dozens = row.take("dozens", None)
            if dozens is not None:
                row.fill("number", 12 * dozens)

    async def check(self, batch: ValueBatch) -> None:
        await asyncio.sleep(0)
        for row in batch.rows:
            if row.values.get("code") == "bad":
                row.refuse("code", "no bad codes", "bad_code")

    def log(self, batch: ValueBatch) -> None:
        for row in batch.rows:
            text = row.values.get("code")
            if text is not None:
                batch.after(lambda text=text: Entry.create({"text": text}))  # type: ignore[misc] # mypy infers no type for the default

    def tell(self, batch: ValueBatch) -> None:
        for row in batch.rows:
            row.hand_back("seen", f"{batch.way.name}")


Make = Callable[[dict[str, Any]], Awaitable[Any]]


async def _create(values: dict[str, Any]) -> Any:
    return await Box.create(values)


async def _create_many(values: dict[str, Any]) -> Any:
    assert (await Box.create_many([values])).written == 1
    return await Box.search().first()


async def _nested(values: dict[str, Any]) -> Any:
    box = await Box.create({"code": "outer", "item_ids": [values]})
    return box.item_ids[0]


async def _upsert_new(values: dict[str, Any]) -> Any:
    return (await Box.upsert(values, "code"))[0]


async def _save_new(values: dict[str, Any]) -> Any:
    return await Box(**values).save()


async def _write(values: dict[str, Any]) -> Any:
    return await (await Box.create({"code": "old"})).write(values)


async def _save(values: dict[str, Any]) -> Any:
    return await (await Box.create({"code": "old"})).save(values)


async def _write_several(values: dict[str, Any]) -> Any:
    items = await Item.create([{"code": "a"}, {"code": "b"}])
    await items.write(values)
    assert items[0].code == items[1].code
    return items[1]


async def _write_many(values: dict[str, Any]) -> Any:
    box = await Box.create({"code": "old"})
    await Box.write_many({box: values})
    return box


async def _update(values: dict[str, Any]) -> Any:
    box = await Box.create({"code": "old"})
    assert await Box.search([("code", "=", "old")]).update(values) == 1
    return await box.refresh()


async def _upsert(values: dict[str, Any]) -> Any:
    await Box.create({"code": values["sku"]})
    return (await Box.upsert(values, "code"))[0]


async def _upsert_many(values: dict[str, Any]) -> Any:
    await Box.create({"code": values["sku"]})
    records, created = await Box.upsert_many([values, {"sku": "another"}], "code")
    assert created == 1
    return records[0]


class Waiting(ValuePlugin):
    """As the other one, with a step that waits and leaves out bulks."""

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        for step in super().register_steps(app, model):
            ways = ~Way.BULK if step.name == "check" else step.ways
            yield Step(step.stage, step.name, step.run, ways, after=step.after, names=step.names)


async def _bulk_new(values: dict[str, Any]) -> Any:
    async with Box.bulk() as bulk:
        return bulk.create(values)


async def _bulk(values: dict[str, Any]) -> Any:
    box = await Box.create({"code": "old"})
    async with Box.bulk() as bulk:
        bulk.write(box, values)
    return box


WAYS: list[tuple[Make, str]] = [
    (_create, "CREATE"),
    (_nested, "CREATE"),
    (_upsert_new, "UPSERT"),
    (_write, "WRITE"),
    (_save, "WRITE"),
    (_write_several, "WRITE"),
    (_write_many, "EACH"),
    (_upsert, "UPSERT"),
    (_upsert_many, "UPSERT"),
    (_bulk_new, "BULK"),
    (_bulk, "BULK"),
    (_create_many, ""),
    (_update, ""),
]
"""Each way to hand in values, and the one that its steps are told; empty where no record waits for anything."""


@pytest.mark.parametrize(("make", "way"), WAYS, ids=[make.__name__ for make, _ in WAYS])
async def test_a_step_takes_a_value_fills_one_in_and_hands_one_back(
    opened: Opener, make: Make, way: str
) -> None:
    async with opened(plugins=[Waiting()]):
        record = await make({"sku": "x", "dozens": 2})
        assert (record.code, record.number) == ("x", 24)
        assert not record.is_changed
        if way:
            assert record.seen == way  # though nothing of it is stored
        again = await type(record).get(record.id)
        assert (again.code, again.number, again.seen) == ("x", 24, None)
        if isinstance(record, Box):
            assert record.double == again.double == 48  # it saw what was filled in


class Counting:
    """Steps that are wrong if they see the same values twice: prices in cents, and one entry per call."""

    api = 1
    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        if model.attribute("_stepped"):
            yield Step(Stage.ALIAS, "cents", self.cents, names={"number"})

    def cents(self, batch: ValueBatch) -> None:
        self.calls += 1
        for row in batch.rows:
            if "number" in row.values:
                row.values["number"] *= 100


async def _save_with(values: dict[str, Any]) -> Any:
    return await Box().save(values)


async def _bulk_unsaved(values: dict[str, Any]) -> Any:
    async with Box.bulk() as bulk:
        bulk.create({"code": "first", "number": 0})
        return bulk.create(Box(**values))


async def _upsert_many_new(values: dict[str, Any]) -> Any:
    records, created = await Box.upsert_many([values], "code")
    assert created == 1
    return records[0]


async def _upsert_only_new(values: dict[str, Any]) -> Any:
    return (await Box.upsert({"code": values["code"]}, "code", new=values))[0]


async def _upsert_old(values: dict[str, Any]) -> Any:
    await Box.create({"code": values["code"]})
    return (await Box.upsert(values, "code"))[0]


async def _upsert_many_old(values: dict[str, Any]) -> Any:
    await Box.create({"code": values["code"]})
    return (await Box.upsert_many([values], "code"))[0][0]


ONCE: list[Make] = [
    *(_create, _create_many, _nested, _save_new, _save_with, _write, _save, _write_several),
    *(_write_many, _update, _bulk, _bulk_new, _bulk_unsaved),
    *(_upsert_new, _upsert_many_new, _upsert_only_new, _upsert_old, _upsert_many_old),
]


@pytest.mark.parametrize("make", ONCE, ids=lambda make: make.__name__)
async def test_values_pass_a_step_once(opened: Opener, make: Make) -> None:
    plugin = Counting()
    async with opened(plugins=[plugin]):
        record = await make({"code": "x", "number": 3})
        assert record.number == 300 == (await type(record).get(record.id)).number
        unsaved = make is _bulk_unsaved  # its steps run at the end, those of the first at the call
        assert plugin.calls == (2 if unsaved else 1)


async def test_the_values_of_a_new_record_alone_fill_in_nothing_over_those_of_all(
    opened: Opener,
) -> None:
    class Filling(Counting):
        def cents(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                row.fill("seen", "filled in")

    async with opened(plugins=[Filling()]):
        values = {"code": "x", "seen": "given"}
        box, _ = await Box.upsert(values, "code", new={"number": 1})
        assert (box.seen, box.number) == ("given", 1)


@pytest.mark.parametrize(
    "make",
    [_upsert_new, _upsert_many_new, _upsert_old, _upsert_many_old],
    ids=lambda make: make.__name__,
)
async def test_an_upsert_hands_back_what_every_step_fills_in(opened: Opener, make: Make) -> None:
    class Back:
        api = 1
        name = "back"

        @hookimpl
        def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
            if model.name == "steps.box":
                yield Step(Stage.PLAN, "plan", self.plan)
                yield Step(Stage.SETTLE, "settle", self.settle, Way.UPSERT)

        def plan(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                row.hand_back("number", 5)

        def settle(self, batch: DocumentBatch) -> None:
            for row in batch.rows:
                row.hand_back("seen", "handed back")

    async with opened(plugins=[Back()]):
        box = await make({"code": "x", "number": 3})
        assert not box.is_changed
        assert (box.number, box.seen) == (5, "handed back")
        again = await Box.get(box.id)
        assert (again.number, again.seen) == (3, None)


async def test_a_new_record_is_saved_with_other_names_as_it_is_created(opened: Opener) -> None:
    async with opened(plugins=[ValuePlugin()]):
        box = Box(number=1)
        assert await box.save({"sku": "x", "item_ids": [{"code": "a"}]}) is box
        assert (box.code, box.number, box.seen, box.is_changed) == ("x", 1, "CREATE", False)
        again = await Box.get(box.id)
        assert (again.code, again.number, again.double) == ("x", 1, 2)
        assert (await again.item_ids).mapped("code") == ["a"]
        with pytest.raises(ValidationError, match="unknown field 'cod'"):
            await Box().save({"cod": "y"})


async def test_a_step_is_run_for_the_saves_of_changes(opened: Opener) -> None:
    async with opened(plugins=[ValuePlugin()]):
        box = await Box.create({"code": "a"})
        box.number = 5
        await box.save()
        assert box.seen == "SAVE" and not box.is_changed
        one, two = await Item.create([{"code": "a"}, {"code": "b"}])
        one.code, two.code = "bad", "c"
        with pytest.raises(ValidationError, match="no bad codes") as caught:
            await earnorm.RecordSet(Item, [one, two]).save()
        assert [each["loc"] for each in caught.value.errors()] == [(0, "code")]
        assert (await Item.get(two.id)).code == "b"


@pytest.mark.parametrize(
    "make", [make for make, _ in WAYS if make not in (_bulk, _bulk_new)], ids=lambda m: m.__name__
)
async def test_what_a_step_refuses_is_not_written(opened: Opener, make: Make) -> None:
    async with opened(plugins=[ValuePlugin()]):
        with pytest.raises(ValidationError, match="no bad codes") as caught:
            await make({"sku": "bad", "dozens": 1})
        assert caught.value.errors()[0]["type"] == "bad_code"
        written = [("code", "in", ["bad", "x", "outer"]), ("number", ">", 0)]
        assert not await Box.search(written) and not await Item.search(written)


async def test_problems_of_steps_and_of_fields_are_told_together(opened: Opener) -> None:
    class Strict(ValuePlugin):
        def alias(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                if row.take("sku", None) == "?":
                    row.refuse("sku", "what is that", "sku")

    async with opened(plugins=[Strict()]):
        with pytest.raises(ValidationError) as caught:
            await Box.create([{"code": "a"}, {"number": -1}, {"sku": "?", "number": "many"}])
        places = [each["loc"] for each in caught.value.errors()]
        assert places == [(1, "number"), (2, "sku"), (2, "number")]


async def test_what_goes_with_a_write_is_one_transaction_with_it(opened: Opener) -> None:
    async with opened(plugins=[ValuePlugin()]):
        box = await Box.create({"code": "one"})
        assert (await Entry.search()).mapped("text") == ["one"]
        other = await Box.create({"code": "two"})
        for attempt in (other.write({"code": "one"}), Box.create({"code": "one"})):
            with pytest.raises(earnorm.DuplicateKey):
                await attempt
        with pytest.raises(earnorm.DuplicateKey):
            await Box.create([{"code": "three"}, {"code": "one", "item_ids": [{"code": "x"}]}])
        assert (await Entry.search(order="text")).mapped("text") == ["one", "two"]
        assert await Item.count() == 0 and await Box.count() == 2 and box.code == "one"


async def test_a_failure_of_what_follows_takes_the_write_back(opened: Opener) -> None:
    class Failing(ValuePlugin):
        def log(self, batch: ValueBatch) -> None:
            batch.before(lambda: Entry.create({"text": "before"}))
            batch.after(self.fail)

        async def fail(self) -> None:
            assert await Box.search([("code", "=", "x")])  # it is written, in this transaction
            raise RuntimeError("no")

    async with opened(plugins=[Failing()]):
        with pytest.raises(RuntimeError):
            await Box.create({"code": "x", "dozens": 1})
        assert await Box.count() == 0 == await Entry.count()


async def test_where_nothing_goes_with_a_write_is_said(opened: Opener) -> None:
    class Everywhere:
        api = 1
        name = "everywhere"

        @hookimpl
        def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
            return [Step(Stage.PLAN, "more", self.more)]

        def more(self, batch: ValueBatch) -> None:
            batch.after(lambda: asyncio.sleep(0))

    async with opened(plugins=[Everywhere()]):
        item = await Item.create({"code": "a"})
        with pytest.raises(NotSupported, match=r"takes_more is False"):
            await Item.write_many({item: {"code": "b"}})
        with pytest.raises(NotSupported, match=r"UPDATE"):
            await Item.search().update({"code": "b"})
        assert await item.unlink() == 1


async def test_a_step_that_waits_is_no_step_of_a_bulk(opened: Opener) -> None:
    async with opened(plugins=[ValuePlugin()]):
        box = await Box.create({"code": "a"})
        with pytest.raises(NotSupported, match=r"'check' waits, .* leave BULK out"):
            async with Box.bulk() as bulk:
                bulk.write(box, {"code": "b"})


async def test_a_record_must_still_have_what_a_step_expects(opened: Opener) -> None:
    class Guarding:
        api = 1
        name = "guarding"

        @hookimpl
        def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
            if model.name == "steps.item":
                yield Step(Stage.PLAN, "guard", self.guard, CHANGES | Way.UNLINK)

        def guard(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                if row.record is not None:
                    row.expect("number", row.read("number"))

    async with opened(plugins=[Guarding()]):
        items = await Item.create([{"number": 1}, {"number": 2}])
        await items.write({"code": "same"})
        await Item.search([("number", "=", 2)]).update({"number": 3})
        with pytest.raises(earnorm.ConcurrencyError, match="1 of 1 records were changed"):
            await items[1].write({"code": "x"})
        with pytest.raises(earnorm.ConcurrencyError, match="1 of 2 records were changed"):
            await Item.write_many({items[1]: {"code": "x"}, items[0]: {"box_id": None}})
        with pytest.raises(earnorm.ConcurrencyError):
            await items[1].unlink()
        assert await items[0].unlink() == 1
        assert (await Item.search()).mapped("code") == ["same"]


async def test_a_bulk_writes_only_what_still_is_as_a_step_expects(opened: Opener) -> None:
    class Guarding:
        api = 1
        name = "guarding"

        @hookimpl
        def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
            if model.name == "steps.item":
                yield Step(Stage.PLAN, "guard", self.guard, CHANGES)

        def guard(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                if row.record is not None:
                    row.expect("number", row.read("number"))

    async with opened(plugins=[Guarding()]):
        one, two = await Item.create([{"number": 1}, {"number": 2}])
        await Item.search([("number", "=", 2)]).update({"number": 3})
        with pytest.raises(earnorm.ConcurrencyError, match="1 of 2 records were changed"):
            async with Item.bulk() as bulk:
                bulk.write(one, {"code": "x"})
                bulk.write(two, {"code": "x"})
        await two.unlink()
        with pytest.raises(NotFound, match=r"\(calls 0\)"):
            async with Item.bulk() as bulk:
                bulk.write(two, {"code": "x"})


async def test_a_model_without_steps_is_asked_once_and_pays_nothing(opened: Opener) -> None:
    plugin = ValuePlugin()
    async with opened(plugins=[plugin]) as app:
        for code in "ab":
            await (await Plain.create({"code": code})).write({"code": code * 2})
        assert plugin.asked.count("steps.plain") == 1
        assert app.bind(Plain).ways.create is None and app.bind(Plain).ways.write is None
        assert plugin.ways == []


# -- document steps -------------------------------------------------------------------------------


class DocumentPlugin:
    """Document steps: a number is filled in before computed fields read it; entries follow in the transaction."""

    api = 1
    name = "documents"

    def __init__(self) -> None:
        self.seen: list[tuple[str, Way]] = []

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        if model.name != "steps.box":
            return []
        return [
            Step(Stage.STAMP, "number", self.stamp),
            Step(Stage.CONSTRAIN, "limit", self.constrain, after=("other",)),
            Step(Stage.CONSTRAIN, "other", lambda _: None),
            Step(Stage.PROPAGATE, "entries", self.follow, CHANGES | Way.CREATE, atomic=self.atomic),
        ]

    def atomic(self, op: earnorm.Operation) -> bool:
        return True

    def stamp(self, batch: DocumentBatch) -> None:
        self.seen.append((batch.op.name, batch.way))
        for row in batch.rows:
            if row.get("code") == "stamped":
                row.put("number", 7)

    async def constrain(self, batch: DocumentBatch) -> None:
        await asyncio.sleep(0)
        for row in batch.rows:
            if row.get("number") == 13:
                row.refuse("number", "an unlucky number", "unlucky")

    async def follow(self, batch: DocumentBatch) -> None:
        for row in batch.rows:
            code = row.get("code")
            if isinstance(code, str):
                document = {"_id": ObjectId(), "text": code}
                op = batch.op.child("create", Entry, values=[document], origin="documents")
                await batch.env.app.execute(op)
                if code == "fails":
                    raise RuntimeError("no")


DOCUMENT_WAYS: list[Make] = [_create, _save_new, _write, _save, _write_many, _bulk_new, _bulk]


@pytest.mark.parametrize("make", DOCUMENT_WAYS, ids=lambda make: make.__name__)
async def test_what_a_document_step_fills_in_is_computed_with_and_handed_back(
    opened: Opener, make: Make
) -> None:
    async with opened(plugins=[DocumentPlugin()]):
        box = await make({"code": "stamped"})
        assert (box.number, box.double) == (7, 14) and not box.is_changed
        assert ((await Box.get(box.id)).number, (await Box.get(box.id)).double) == (7, 14)


async def test_a_document_step_checks_on_every_way(opened: Opener) -> None:
    plugin = DocumentPlugin()
    async with opened(plugins=[plugin]):
        box = await Box.create({"code": "a"})
        attempts = [
            lambda: Box.create([{"code": "b"}, {"code": "c", "number": 13}]),
            lambda: box.write({"number": 13}),
            lambda: Box.search().update({"number": 13}),
            lambda: Box.upsert({"code": "a", "number": 13}, "code"),
            lambda: Box.write_many({box: {"number": 13}}),
        ]
        for attempt in attempts:
            with pytest.raises(ValidationError, match="unlucky"):
                await attempt()
        assert await Box.count() == 1 and (await Box.get(box.id)).number == 0
        ways = {way for _, way in plugin.seen}
        assert ways == {Way.CREATE, Way.WRITE, Way.UPDATE, Way.UPSERT, Way.EACH}


class Locking:
    """A step that leaves locked boxes alone, whatever a write asks for."""

    api = 1
    name = "sparing"

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        if model.name != "steps.box":
            return []
        return [
            Step(Stage.JUDGE, "locking", self.narrow, on="write"),
            Step(Stage.GUARD, "open", self.narrow_further, on="write"),
        ]

    def narrow(self, batch: DocumentBatch) -> None:
        batch.narrow(Domain([("seen", "!=", "locked")]))

    def narrow_further(self, batch: DocumentBatch) -> None:
        batch.narrow(Domain([("code", "!=", "closed")]))
        assert {c.path for c in batch.operation.domain.conditions()} >= {"seen", "code"}


async def test_a_document_step_narrows_the_records_of_a_write(opened: Opener) -> None:
    async with opened(plugins=[Locking()]):
        values: list[dict[str, Any]] = [{"code": "a"}, {"code": "b", "seen": "locked"}]
        free, locked, closed = await Box.create([*values, {"code": "closed"}])
        assert await Box.search().update({"number": 1}) == 1
        await free.write({"number": 2})
        for box in (locked, closed):
            with pytest.raises(earnorm.ConcurrencyError, match="1 of 1 records were changed"):
                await box.write({"number": 2})
        with pytest.raises(earnorm.ConcurrencyError, match="1 of 2 records were changed"):
            await Box.write_many({free: {"number": 3}, locked: {"number": 3}})
        with pytest.raises(earnorm.ConcurrencyError, match="1 of 2 records were changed"):
            async with Box.bulk() as bulk:
                bulk.write(free, {"number": 3})
                bulk.write(closed, {"number": 3})
        gone = await Box.create({"code": "gone"})
        await Box.search([("code", "=", "gone")]).delete()
        with pytest.raises(NotFound):
            await gone.write({"number": 3})
        assert (await Box.search(order="code")).mapped("number") == [3, 0, 0]


async def test_what_follows_from_a_document_step_is_part_of_the_transaction(
    opened: Opener,
) -> None:
    async with opened(plugins=[DocumentPlugin()]):
        box = await Box.create({"code": "a"})
        assert (await Entry.search()).mapped("text") == ["a"]
        with pytest.raises(RuntimeError):
            await box.write({"code": "fails"})
        with pytest.raises(RuntimeError):
            await Box.create({"code": "fails"})
        assert (await Entry.search()).mapped("text") == ["a"]
        assert (await Box.search()).mapped("code") == ["a"]


class Atomic:
    """A document step that needs a transaction, and counts its calls."""

    api = 1
    name = "atomic"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool]] = []

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        if model.name == "steps.item":
            yield Step(Stage.PLAN, "value", self.value)
            yield Step(Stage.STAMP, "document", self.document, atomic=lambda op: True)

    def value(self, batch: ValueBatch) -> None:
        self.seen.append(("value", batch.way.name or "", batch.env.transaction is not None))

    def document(self, batch: DocumentBatch) -> None:
        self.seen.append(("document", batch.op.name, batch.env.transaction is not None))


async def test_a_bulk_that_needs_a_transaction_runs_its_steps_once(opened: Opener) -> None:
    plugin = Atomic()
    async with opened(plugins=[plugin]):
        item = await Item.create({"code": "a"})
        for _ in range(2):
            plugin.seen.clear()
            async with Item.bulk() as bulk:
                bulk.create({"code": "b"})
                bulk.write(item, {"code": "c"})
            assert plugin.seen == [
                ("value", "BULK", False),
                ("value", "BULK", False),
                ("document", "create", True),
                ("document", "write", True),
            ]


async def test_a_layer_that_opens_a_transaction_inside_a_bulk_is_told(opened: Opener) -> None:
    class Opening:
        api = 1
        name = "opening"

        def __init__(self, layer: Any) -> None:
            self.calls = 0
            self.layer = layer

        @hookimpl
        def wrap_operation(self, app: App, model: type[BaseModel], operation: str) -> Any:
            return [self.layer] if model._name == "steps.item" and operation == "write" else []

    async def own(op: earnorm.Operation, call_next: Any) -> Any:
        async with earnorm.transaction() as running:
            return await call_next(op.replace(env=op.env.replace(transaction=running)))

    async with opened(plugins=[Opening((Layer.DEFAULT, own))]):
        item = await Item.create({"code": "a"})
        with pytest.raises(earnorm.TransactionError, match="in_transaction_if"):
            async with Item.bulk() as bulk:
                bulk.write(item, {"code": "b"})
        assert (await Item.get(item.id)).code == "a"
        async with earnorm.transaction(), Item.bulk() as bulk:
            bulk.write(item, {"code": "b"})
        assert (await Item.get(item.id)).code == "b"
    async with opened(plugins=[Opening((Layer.TRANSACTION, in_transaction))]):
        item = await Item.create({"code": "a"})
        async with Item.bulk() as bulk:
            bulk.write(item, {"code": "b"})
        assert (await Item.get(item.id)).code == "b"


async def test_a_refusal_in_a_nested_create_names_the_whole_way(opened: Opener) -> None:
    class Limiting:
        api = 1
        name = "limiting"

        @hookimpl
        def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
            if model.name == "steps.item":
                yield Step(Stage.CONSTRAIN, "limit", self.limit)

        def limit(self, batch: DocumentBatch) -> None:
            for row in batch.rows:
                if row.get("number") == 13:
                    row.refuse("number", "an unlucky number", "unlucky")

    async with opened(plugins=[Limiting()]):
        items = [{"number": 1}, {"number": 13}]
        cases: list[tuple[Any, tuple[str | int, ...]]] = [
            ([{}, {"item_ids": items}], (1, "item_ids", 1, "number")),
            ({"item_ids": items}, ("item_ids", 1, "number")),
            ({"item_ids": items[1:]}, ("item_ids", 0, "number")),
        ]
        for values, loc in cases:
            with pytest.raises(ValidationError, match="unlucky") as caught:
                await Box.create(values)
            assert [each["loc"] for each in caught.value.errors()] == [loc]
        box = await Box.create({})
        with pytest.raises(ValidationError, match="unlucky") as caught:
            await box.write({"item_ids": [Command.create(items[1])]})
        assert [each["loc"] for each in caught.value.errors()] == [("item_ids", 0, "number")]
        assert await Item.count() == 0


# -- what is handed in ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([lambda: None], "Steps with a function to run"),
        ([Step(Stage.ALIAS, "x", "run")], "Steps with a function to run"),  # type: ignore[arg-type]
        (
            [
                Step(Stage.ALIAS, "x", lambda _: None, after=("y",)),
                Step(Stage.ALIAS, "y", lambda _: None, after=("x",)),
            ],
            "in a circle: x, y",
        ),
    ],
)
async def test_what_are_no_steps_is_refused(opened: Opener, given: Any, told: str) -> None:
    class Bad:
        api = 1
        name = "bad"

        @hookimpl
        def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
            return given  # type: ignore[no-any-return]

    async with opened(plugins=[Bad()]):
        with pytest.raises(PluginError, match=told):
            await Plain.create({"code": "a"})


async def _fill_later(box: str, batch: DocumentBatch) -> None:
    await asyncio.sleep(0)
    batch.fill("code", box)


class _Filler:
    """Functions that wait, in every form that Python has."""

    async def fill(self, box: str, batch: DocumentBatch) -> None:
        await _fill_later(box, batch)

    async def __call__(self, batch: DocumentBatch) -> None:
        await _fill_later("called", batch)


@pytest.mark.parametrize(
    ("run", "seen"),
    [
        (functools.partial(_fill_later, "function"), "function"),
        (functools.partial(_Filler().fill, "method"), "method"),
        (functools.partial(functools.partial(_Filler().fill, "twice")), "twice"),
        (_Filler(), "called"),
        (functools.partial(_Filler()), "called"),
    ],
)
async def test_a_step_that_waits_may_be_a_partial_or_an_object(
    run: Callable[..., Any], seen: str
) -> None:
    class PartialPlugin:
        api = 1

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            return [Step(Stage.STAMP, "x", run)] if model.name == "steps.plain" else []

    async with App("mongomock://", database="partial", plugins=[PartialPlugin]):
        plain = await Plain.create({})
        assert plain.code == seen
