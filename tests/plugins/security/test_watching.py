"""Nobody hears by watch() of what it may not read."""

from __future__ import annotations

import asyncio

import pytest

from earnorm import AccessDenied, Int, Principal, String, act_as, models, system
from earnorm.features.indexes.collection_options import CollectionOptions
from earnorm_security import Access, Rule

ANN = Principal("ann", roles=["user"])
GUEST = Principal("gil", roles=["guest"])
# What the rule of the other model says; it is asked for each event.
open_to: set[str] = set()


class Letter(models.BaseModel):
    _name = "security.watch.letter"
    _options = CollectionOptions(pre_images=True)
    _access = [Access("user", read=True, write=True, create=True, unlink=True)]
    _rules = [Rule("own", lambda env: [("owner", "=", env.principal.id)])]

    owner = String()
    size = Int()


class Room(models.BaseModel):
    _name = "security.watch.room"
    _rules = [Rule("open", lambda env: [("name", "in", sorted(open_to))])]

    name = String()


async def take(watch, number):
    return [await asyncio.wait_for(anext(watch), 20) for _ in range(number)]


async def test_only_events_of_readable_records_arrive(opened):
    async with opened():
        with act_as(ANN):
            watch = Letter.watch(before=True)
            await watch.__aenter__()
        async with watch:
            with system(reason="a test"):
                theirs = await Letter.create({"owner": "bob", "size": 1})
                mine = await Letter.create({"owner": "ann", "size": 1})
                await theirs.write({"size": 2})
                await mine.write({"size": 2})
                await theirs.write({"owner": "ann"})  # it comes in, and what it was stays hidden
                await mine.write({"owner": "bob"})  # it leaves: nothing is told
                await mine.unlink()
                await theirs.unlink()
            created, written, came, gone = await take(watch, 4)
    assert (created.kind, created.pk) == ("create", mine.pk)
    assert (written.kind, written.changed, written.before.size) == ("write", {"size"}, 1)
    assert (came.kind, came.pk, came.before) == ("write", theirs.pk, None)
    assert (gone.kind, gone.pk, gone.before.owner) == ("unlink", theirs.pk, "ann")


async def test_without_pre_images_no_deletion_is_told_where_rules_hold(opened):
    async with opened():
        with act_as(ANN):
            watch = Letter.watch()
            await watch.__aenter__()
        async with watch:
            with system(reason="a test"):
                first, second = await Letter.create([{"owner": "ann"}, {"owner": "ann"}])
                await first.unlink()
                await second.write({"size": 1})
            assert [e.kind for e in await take(watch, 3)] == ["create", "create", "write"]


async def test_who_may_not_read_may_not_watch(opened):
    async with opened():
        with act_as(GUEST), pytest.raises(AccessDenied):
            async with Letter.watch():
                pytest.fail("it was opened")


async def test_a_rule_that_changes_holds_from_the_next_event_on(opened):
    async with opened():
        open_to.clear()
        open_to.add("a")
        with act_as(ANN):
            watch = Room.watch()
            await watch.__aenter__()
        async with watch:
            with system(reason="a test"):
                await Room.create([{"name": "a"}, {"name": "b"}])
                assert [e.record.name for e in await take(watch, 1)] == ["a"]
                open_to.clear()
                open_to.add("b")
                await Room.create({"name": "a"})  # no longer
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(watch), 1.5)
                await Room.create({"name": "b"})  # from now on
                assert [e.record.name for e in await take(watch, 1)] == ["b"]
