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
