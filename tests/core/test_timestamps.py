"""auto_now and auto_now_add: on every way to the database, and in memory."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Date,
    DateTime,
    EmbeddedModel,
    Inc,
    Int,
    List,
    String,
    ValidationError,
    current_app,
    transaction,
)

from .conftest import Commands

OLD = datetime.datetime(2001, 2, 3, tzinfo=datetime.UTC)


class Timed(BaseModel):
    _name = "core.timed"

    title = String()
    stars = Int(default=0)
    created_at = DateTime(auto_now_add=True, required=True, readonly=True)
    changed_at = DateTime(auto_now=True, required=True, db_name="ch")
    changed_on = Date(auto_now=True)


class Keyed(BaseModel):
    _name = "core.timed_key"

    code = String(required=True, unique=True)
    stars = Int()
    created_at = DateTime(auto_now_add=True, required=True)
    changed_at = DateTime(auto_now=True, required=True)


class Untimed(BaseModel):
    _name = "core.untimed"

    title = String()


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def aged(**values: Any) -> Timed:
    """A record that was created and changed long ago."""
    old = {"created_at": OLD, "changed_at": OLD, "changed_on": OLD.date()}
    return await Timed.create({**old, **values})


async def test_creating_sets_both_and_the_record_holds_what_is_stored(app: App) -> None:
    before = now() - datetime.timedelta(milliseconds=1)
    one = await Timed.create({"title": "a"})
    many = await Timed.create([{"title": "b"}, {"title": "c"}])
    saved = await Timed(title="d").save()
    for record in (one, *many, saved):
        found = await Timed.get(record.id)
        assert before <= record.created_at <= now()
        assert record.created_at == record.changed_at
        assert record.changed_on == record.changed_at.date()
        for name in ("created_at", "changed_at", "changed_on"):
            assert getattr(found, name) == getattr(record, name)
        assert not record.is_changed


async def test_a_given_value_stands(app: App) -> None:
    record = await aged()
    assert (record.created_at, record.changed_at) == (OLD, OLD)
    await record.write({"changed_at": OLD + datetime.timedelta(1)})
    assert (await Timed.get(record.id)).changed_at == OLD + datetime.timedelta(1)


@pytest.mark.parametrize("way", ["save", "write", "inc", "records", "batch", "query", "prepared"])
async def test_every_way_of_writing_sets_auto_now_only(app: App, way: str) -> None:
    record, other = await aged(title="a"), await aged(title="a")
    both = await Timed.search().order("id")
    if way == "save":
        record.title = "b"
        await record.save()
    elif way == "write":
        await record.write({"title": "b"})
    elif way == "inc":
        await record.write({"stars": Inc(1)})
    elif way == "records":
        await both.write({"title": "b"})
        record = both[0]
    elif way == "batch":
        for each in both:
            each.title = "b"
        await both.save()
        record = both[0]
    elif way == "query":
        assert await Timed.search([("title", "=", "a")]).update({"title": "b"}) == 2
        await record.refresh()
    else:
        record = Timed.browse([record.pk])[0]
        await record.write({"title": "b"})
        await record
    found = await Timed.get(record.id)
    assert found.created_at == OLD
    assert now() - found.changed_at < datetime.timedelta(minutes=5)
    assert found.changed_on == found.changed_at.date()
    for name in ("created_at", "changed_at", "changed_on"):
        assert getattr(record, name) == getattr(found, name)
    assert not record.is_changed
    untouched = way in ("save", "write", "inc", "prepared")
    assert ((await Timed.get(other.id)).changed_at == OLD) is untouched


async def test_upsert_and_bulk_pass_the_clock_too(app: App) -> None:
    new, _ = await Keyed.upsert({"code": "a", "stars": 1}, on="code")
    assert new.created_at == new.changed_at == (await Keyed.get(new.id)).changed_at
    await Keyed.search().update({"changed_at": OLD})
    await Keyed.upsert({"code": "a", "stars": 2}, on="code")
    found = await Keyed.get(new.id)
    assert found.created_at == new.created_at and found.changed_at > OLD and found.stars == 2


async def test_saving_an_unchanged_record_writes_nothing(commands: Commands) -> None:
    record = await aged()
    commands.clear()
    await record.save()
    await record.write({})
    assert commands.of("core_timed") == []
    assert record.changed_at == OLD


async def test_a_rollback_takes_the_time_back(server_app: App) -> None:
    record = await aged(title="a")
    with pytest.raises(ZeroDivisionError):
        async with transaction():
            await record.write({"title": "b"})
            assert record.changed_at > OLD
            raise ZeroDivisionError
    assert record.changed_at == OLD == (await Timed.get(record.id)).changed_at


async def test_one_record_read_in_part_learns_only_what_it_has(app: App) -> None:
    record = await aged(title="a")
    part = (await Timed.search([("id", "=", record.id)]).only("title"))[0]
    part.title = "b"
    await part.save()
    assert "changed_at" not in part.__dict__
    await record.refresh()
    assert record.changed_at > OLD


async def test_a_model_without_them_has_no_such_step(memory_app: App) -> None:
    await Untimed.create({"title": "a"})
    app = current_app()
    plugins = {name for name, _ in app.loaded.implementations("register_steps")}
    assert "timestamps" in plugins
    assert "timestamps" not in {step.name for step in app.bind(Untimed).steps()}
    assert "timestamps" in {step.name for step in app.bind(Timed).steps()}
    pairs = app.loaded.collect("wrap_operation", app=app, model=Timed, operation="create")
    assert not [pair for name, pair in pairs if name == "timestamps" and pair]


async def test_readonly_refuses_a_forged_value_afterwards(memory_app: App) -> None:
    record = await Timed.create({})
    with pytest.raises(ValidationError, match="created_at"):
        await record.write({"created_at": OLD})


def test_where_the_clock_cannot_reach_is_refused_when_it_is_declared() -> None:
    with pytest.raises(TypeError, match=r"at \(DateTime\).*belongs in a model"):

        class Part(EmbeddedModel):
            at = DateTime(auto_now=True)

    with pytest.raises(TypeError, match="List"):
        List(DateTime(auto_now=True))
    with pytest.raises(TypeError, match="no default"):
        DateTime(auto_now=True, default=OLD)


async def test_concurrent_writers_each_store_their_own_time(server_app: App) -> None:
    record = await aged()
    copies = [await Timed.get(record.id) for _ in range(5)]
    await asyncio.gather(*(each.write({"stars": n}) for n, each in enumerate(copies)))
    found = await Timed.get(record.id)
    assert found.changed_at == copies[found.stars].changed_at
