"""Defaults are stored in documents that lack them: in batches, once, and never over another's value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    Dict,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    String,
    ValidationError,
    depends,
    hookimpl,
)
from earnorm.features.backfilling import backfill
from earnorm.mixins import Timestamps

from .conftest import default_app
from .laws import World, law, world

_numbers = itertools.count()


class Ticket(Timestamps):
    _name = "backfill.ticket"

    title = String()
    state = String(default="new", db_name="st")
    tags = List(String(), default=list)
    number = Int(default=lambda: next(_numbers))
    plain = Int()
    shown = String(compute="_shown", store=True)

    @depends("title")
    def _shown(self) -> str:
        return self.title or ""


class Wrong(BaseModel):
    _name = "backfill.wrong"

    number = Int(default=lambda: -1, min_value=0)


def stored(app: App, name: str = "backfill_ticket") -> Any:
    return app.dangerous_raw("documents of an older program")[name]


async def old(app: App, number: int, **values: Any) -> None:
    await stored(app).insert_many([{"title": f"t{n}", **values} for n in range(number)])


async def test_a_search_sees_a_default_after_it_was_stored(app: App) -> None:
    await old(app, 3)
    await old(app, 1, st="open")
    await old(app, 1, st=None)
    assert await Ticket.search([("state", "=", "new")]).count() == 0
    done = await Ticket.backfill("state")
    assert (done.model, done.fields, done.written) == ("backfill.ticket", {"state": 3}, 3)
    assert await Ticket.search([("state", "=", "new")]).count() == 3
    assert await Ticket.search([("state", "exists", True)]).count() == 5
    assert (await Ticket.backfill("state")).written == 0
    assert await stored(app).count_documents({"updated_at": {"$exists": True}}) == 0


async def test_without_names_every_default_is_stored_and_a_callable_gives_each_its_own(
    app: App,
) -> None:
    await old(app, 4)
    done = await Ticket.backfill()
    assert done.fields == {"state": 4, "tags": 4, "number": 4}
    documents = await stored(app).find().to_list(None)
    assert len({document["number"] for document in documents}) == 4
    assert all(document["tags"] == [] for document in documents)


async def test_it_goes_in_batches_tells_its_progress_and_can_be_broken_off(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH", 3)
    await old(app, 8)
    assert (await Ticket.backfill("state", dry_run=True)).fields == {"state": 8}
    assert await stored(app).count_documents({"st": "new"}) == 0

    def stop(done: backfill.Backfilled) -> None:
        if done.written >= 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await Ticket.backfill("state", progress=stop)
    seen: list[int] = []

    async def tell(done: backfill.Backfilled) -> None:
        seen.append(done.written)

    left = await stored(app).count_documents({"st": {"$exists": False}})
    assert left == 2
    assert (await Ticket.backfill("state", progress=tell)).written == left
    assert seen[-1] == left


class Racing:
    """Somebody writes a value into one document between the search and the write of a backfill."""

    api = 1
    name = "racing"

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def race(op: Any, call_next: Any) -> Any:
            if op.origin == "backfilling":
                await stored(app).update_one(
                    {"title": "t1"}, {"$set": {"st": "mine", "number": 99}}
                )
            return await call_next(op)

        return [(500, race)] if operation == "write" else []


@pytest.mark.parametrize("kind", ["pymongo", "motor", "memory"])
async def test_a_value_that_is_written_meanwhile_stays(kind: str, database: str) -> None:
    async with default_app(kind, database, [Racing()]) as app:
        await old(app, 3)
        done = await Ticket.backfill("state", "number")
        assert done.fields == {"state": 2, "number": 2}
        document = await stored(app).find_one({"title": "t1"})
        assert (document["st"], document["number"]) == ("mine", 99)


async def test_a_wrong_name_and_a_wrong_default_write_nothing(app: App) -> None:
    await old(app, 1)
    with pytest.raises(
        ConfigurationError,
        match=r"ticket\.stat: there is no such field.*'state'",
    ):
        await Ticket.backfill("state", "stat")
    for name in ("plain", "shown", "_id", "updated_at"):
        with pytest.raises(ConfigurationError, match="no default to store"):
            await Ticket.backfill(name)
    assert await stored(app).count_documents({"st": {"$exists": True}}) == 0
    await stored(app, "backfill_wrong").insert_one({})
    with pytest.raises(ValidationError):
        await Wrong.backfill()


class Size(EmbeddedModel):
    width = Int(default=1, db_name="w")
    height = Int()


class Part(EmbeddedModel):
    kind = String()
    weight = Int(default=2)
    size = Embedded(Size)
    number = Int(default=lambda: next(_numbers))


class Wheel(Part):
    _kind = "wheel"
    spokes = Int(default=8)


class Machine(BaseModel):
    _name = "backfill.machine"

    main = Embedded(Size, db_name="m", default=lambda: Size(height=5))
    sizes = List(Embedded(Size))
    named = Dict(Embedded(Size))
    nested = List(List(Embedded(Size)))
    part = Embedded(Part, discriminator="kind")
    parts = List(Embedded(Part, discriminator="kind"))
    plain = Embedded(Size, copy=False)


_SIZE = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {}, optional={"w": st.sampled_from([None, 1, 7]), "height": st.just(3), "odd": st.just(1)}
    ),
)
_PART = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from(["wheel", "part", "unknown"]),
            "weight": st.sampled_from([None, 4]),
            "size": _SIZE,
            "spokes": st.just(9),
            "number": st.just(1),
        },
    ),
)
_MACHINE = st.fixed_dictionaries(
    {},
    optional={
        "m": _SIZE,
        "sizes": st.lists(_SIZE, max_size=3) | st.none(),
        "named": st.dictionaries(st.sampled_from("ab"), _SIZE) | st.none(),
        "nested": st.lists(st.lists(_SIZE, max_size=2), max_size=2),
        "part": _PART,
        "parts": st.lists(_PART, max_size=3),
        "plain": _SIZE,
    },
)


async def test_fields_inside_objects_are_named_by_their_paths(app: App) -> None:
    raw = stored(app, "backfill_machine")
    machine = {"sizes": [{}, {"w": 3}, {}], "part": {"size": {}, "odd": 1}, "m": {}}
    await raw.insert_many([dict(machine), {"plain": None, "m": None}])
    assert (await Machine.backfill("sizes.width", "part.weight")).fields == {
        "sizes.width": 1,
        "part.weight": 1,
    }
    document = await raw.find_one({"sizes": {"$exists": True}})
    assert document["sizes"] == [{"w": 1}, {"w": 3}, {"w": 1}]
    assert document["part"] == {"size": {}, "odd": 1, "weight": 2} and document["m"] == {}
    done = await Machine.backfill("part")
    assert set(done.fields) == {f"part.{n}" for n in ("number", "size.width", "spokes", "weight")}
    assert await Machine.search([("sizes.width", "=", 1)]).count() == 1
    for name, why in (
        ("sizes.height", "no default to store"),
        ("sizes.heigth", "there is no such field"),
        ("nothing.width", "there is no such field"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            await Machine.backfill(name)


class RacingInside:
    """Somebody writes the list before the first write of a backfill arrives."""

    api = 1
    name = "racing_inside"

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def race(op: Any, call_next: Any) -> Any:
            self.calls += 1
            if op.origin == "backfilling" and self.calls == 1:
                await stored(app, "backfill_machine").update_one(
                    {"n": 1}, {"$set": {"sizes": [{"height": 9}, {}]}}
                )
            return await call_next(op)

        return [(500, race)] if operation == "write" else []


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
async def test_a_list_that_is_written_meanwhile_is_filled_in_as_it_is_then(
    kind: str, database: str
) -> None:
    async with default_app(kind, database, [RacingInside()]) as app:
        raw = stored(app, "backfill_machine")
        await raw.insert_many([{"n": n, "sizes": [{"height": n}]} for n in range(3)])
        assert (await Machine.backfill("sizes.width")).fields == {"sizes.width": 3}
        documents = await raw.find().sort("n", 1).to_list(None)
        assert [document["sizes"] for document in documents] == [
            [{"height": 0, "w": 1}],
            [{"height": 9, "w": 1}, {"w": 1}],
            [{"height": 2, "w": 1}],
        ]


class Revised(BaseModel):
    _name = "backfill.revised"
    _versioned = True

    state = String(default="new")


async def test_a_revision_is_no_default_to_fill_in(app: App) -> None:
    raw = app.dangerous_raw("documents of another program")["backfill_revised"]
    await raw.insert_one({})
    assert (await Revised.backfill(dry_run=True)).fields == {"state": 1}
    await Revised.backfill()
    found = await raw.find_one({})
    assert found["state"] == "new" and "_revision" not in found


@pytest.fixture(scope="module")
def lawful() -> Iterator[World]:
    with world() as started:
        yield started


@law(40)
@hypothesis.given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "st": st.sampled_from([None, "new", "open"]),
                "tags": st.sampled_from([None, [], ["a"]]),
                "number": st.sampled_from([None, 0, 3]),
            },
        ),
        max_size=6,
    )
)
def test_afterwards_a_search_finds_what_reading_shows_and_nothing_stored_changed(
    lawful: World, documents: list[dict[str, Any]]
) -> None:
    async def example() -> None:
        await Ticket.search().delete()
        if documents:
            await stored(lawful.app).insert_many([dict(document) for document in documents])
        ids = [d["_id"] for d in await stored(lawful.app).find().sort("_id", 1).to_list(None)]
        done = await Ticket.backfill("state", "tags")
        lacking = sum(("st" not in d) for d in documents)
        assert done.fields["state"] == lacking
        for pk, before in zip(ids, documents, strict=True):
            after = await stored(lawful.app).find_one({"_id": pk})
            assert {k: v for k, v in after.items() if k in before} == before
        records = await Ticket.search()
        for value in ("new", "open", None):
            found = await Ticket.search([("state", "=", value)]).count()
            assert found == sum(record.state == value for record in records)

    lawful.run(example)


@law(40)
@hypothesis.given(st.lists(_MACHINE, max_size=4))
def test_objects_get_the_defaults_that_reading_shows_and_keep_all_that_they_have(
    lawful: World, documents: list[dict[str, Any]]
) -> None:
    async def example() -> None:
        raw = stored(lawful.app, "backfill_machine")
        await Machine.search().delete()
        if documents:
            await raw.insert_many([dict(document) for document in documents])
        before = await raw.find().sort("_id", 1).to_list(None)
        shown = [values(record) for record in await Machine.search(order="_id")]
        counted = (await Machine.backfill(dry_run=True)).fields
        assert await raw.find().sort("_id", 1).to_list(None) == before
        done = (await Machine.backfill()).fields
        # A default of the whole object brings defaults of its own, which a dry run does not see.
        assert done == {**counted, "main.width": done["main.width"]}
        after = await raw.find().sort("_id", 1).to_list(None)
        for old_one, new_one in zip(before, after, strict=True):
            assert kept(old_one, new_one) == old_one
            assert all(complete(new_one))
        assert [values(record) for record in await Machine.search(order="_id")] == shown
        assert set((await Machine.backfill()).fields.values()) == {0}

    lawful.run(example)


def values(record: Any) -> Any:
    """What reading shows, without the numbers that each call of the default makes."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k != "number"}
        return value

    return plain(record.to_dict())


def kept(old_one: Any, new_one: Any) -> Any:
    """The part of the new value that the old one has."""
    if isinstance(old_one, list):
        return [kept(one, other) for one, other in zip(old_one, new_one, strict=True)]
    if isinstance(old_one, dict):
        return {key: kept(value, new_one[key]) for key, value in old_one.items()}
    return new_one


def complete(document: dict[str, Any]) -> Iterator[bool]:
    """Tell of each object in the document whether it has the keys of all defaults."""
    sizes = [document.get("m"), document.get("plain"), *(document.get("sizes") or ())]
    sizes += (document.get("named") or {}).values()
    sizes += [size for row in document.get("nested") or () for size in row]
    for part in [document.get("part"), *(document.get("parts") or ())]:
        if part is not None:
            yield {"weight", "number"} <= part.keys()
            yield part.get("kind") != "wheel" or "spokes" in part
            sizes.append(part.get("size"))
    for size in sizes:
        yield size is None or "w" in size
