"""bulk(): creations, changes and deletions in one call of the driver."""

from __future__ import annotations

from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BatchRefused,
    Bulk,
    ConcurrencyError,
    DuplicateKey,
    Inc,
    NotFound,
    Operation,
    Push,
    ValidationError,
    fields,
    hookimpl,
    models,
)

from .conftest import Commands, default_app
from .shop import Address, Person, Stock


async def three() -> Any:
    return await Person.create([{"name": n, "age": 1, "email": f"{n}@x.org"} for n in "abc"])


async def test_everything_is_done_at_the_end_of_the_block(app: App) -> None:
    a, b, c = await three()
    async with Person.bulk() as bulk:
        new = bulk.create({"name": "new"})
        bulk.write(a, {"age": 5})
        bulk.write(b, {"age": Inc(9), "tags": ["x"]})
        bulk.write(a, {"name": "A"})
        bulk.unlink(c)
        assert not new.is_stored and await Person.count() == 3 and a.age == 1
    assert (bulk.created, bulk.written, bulk.deleted) == (1, 2, 1)
    assert new.is_stored and (a.age, a.name, b.age, b.tags) == (5, "A", 10, ["x"])
    found = await Person.search(order="name")
    assert found.mapped("name") == ["A", "b", "new"] and found.mapped("age") == [5, 10, None]
    assert not any(record.is_changed for record in (new, a, b))


async def test_it_is_one_call_and_a_command_for_each_kind(commands: Commands) -> None:
    a, b, c = await three()
    commands.clear()
    async with Person.bulk() as bulk:
        bulk.create({"name": "new"})
        bulk.write(a, {"age": 5})
        bulk.write(b, {"age": 6})
        bulk.unlink(c)
    assert [name for name, _ in commands.all] == ["insert", "update", "delete"]
    commands.clear()
    async with Person.bulk() as bulk:
        for number in range(50):
            bulk.create({"name": f"n{number}"})
    assert [name for name, _ in commands.all] == ["insert"]
    commands.clear()
    async with Person.bulk():
        pass
    assert commands.all == []


async def test_what_the_program_changes_in_its_values_is_not_written(app: App) -> None:
    a, b, _ = await three()
    tags, address = ["x"], Address(city="Hue")
    extra: dict[str, Any] = {"k": [1]}
    values: dict[str, Any] = {"tags": tags, "extra": extra, "address": address}
    async with Person.bulk() as bulk:
        new = bulk.create({"name": "new", **values})
        bulk.write(a, values)
        bulk.write(b, {"tags": Push("y", "z"), "extra.k": extra["k"]})
        tags.append("later")
        extra["k"].append(2)
        address.city = "later"
        values["age"] = 99
    for person in (new, a, await Person.get(new.id), await Person.get(a.id)):
        assert (person.tags, person.extra) == (["x"], {"k": [1]}) and person.age != 99
        assert person.address == Address(city="Hue")
    assert (await Person.get(b.id)).extra == {"k": [1]} and address.city == "later"


async def test_recordsets_and_unsaved_records_are_taken(app: App) -> None:
    people = await three()
    one = Person(name="one")
    async with Person.bulk() as bulk:
        assert bulk.create(one) is one
        bulk.write(people[:2], {"age": 7})
        bulk.unlink(people[2:])
    assert one.is_stored and people.mapped("age") == [7, 7, 1]
    assert sorted((await Person.search()).mapped("name")) == ["a", "b", "one"]


async def test_an_exception_in_the_block_sends_nothing(app: App) -> None:
    a, *_ = await three()
    with pytest.raises(RuntimeError):
        async with Person.bulk() as bulk:
            bulk.write(a, {"age": 5})
            raise RuntimeError
    assert (await Person.get(a.id)).age == 1 == a.age


async def test_bad_calls_are_refused_where_they_are_made(app: App) -> None:
    a, b, _ = await three()
    bulk: Bulk[Person] = Person.bulk()
    bulk.write(a, {"age": 5})
    bulk.unlink(b)
    attempts: list[tuple[Any, str]] = [
        (lambda: bulk.create({"age": 1}), "name"),
        (lambda: bulk.create(a), "a dict or an unsaved record"),
        (lambda: bulk.write(a, {"age": -1}), "age"),
        (lambda: bulk.write(a, {"age": 6}), "written twice"),
        (lambda: bulk.write(b, {"age": 6}), "deleted in the same bulk"),
        (lambda: bulk.unlink(a), "written in the same bulk"),
        (lambda: bulk.unlink(Person(name="u")), "stored records"),
        (lambda: bulk.write(a, {"nmae": 6}), "did you mean 'name'"),
    ]
    for attempt, message in attempts:
        with pytest.raises(ValidationError, match=message):
            attempt()
    assert repr(bulk) == "<Bulk core.person: 0 to create, 1 to write, 1 to delete>"


async def test_a_duplicate_is_told_with_the_position_of_its_call(app: App) -> None:
    _, b, c = await three()
    with pytest.raises(DuplicateKey) as caught:
        async with Person.bulk() as bulk:
            bulk.write(b, {"age": 5})
            good = bulk.create({"name": "good"})
            bad = bulk.create({"name": "bad", "email": "a@x.org"})
            bulk.unlink(c)
    assert isinstance(caught.value, BatchRefused)
    assert caught.value.positions == (2,) and caught.value.fields == ("email",)
    assert good.is_stored and not bad.is_stored and b.age == 5
    assert (bulk.created, bulk.written, bulk.deleted) == (1, 1, 1)
    assert sorted((await Person.search()).mapped("name")) == ["a", "b", "good"]


async def test_records_that_are_gone_are_named_by_their_calls(app: App) -> None:
    a, b, c = await three()
    await b.unlink()
    with pytest.raises(NotFound, match=r"1 of 2 records to write do not exist \(calls 1\)"):
        async with Person.bulk() as bulk:
            bulk.write(a, {"age": 5})
            bulk.write(b, {"age": 5})
            bulk.unlink(c)
    assert (await Person.get(a.id)).age == 5 and await Person.count() == 1


async def test_a_bound_that_would_be_broken_stops_everything(app: App) -> None:
    a, b, _ = await three()
    with pytest.raises(ValidationError, match="out of bounds") as caught:
        async with Person.bulk() as bulk:
            bulk.create({"name": "new"})
            bulk.write(a, {"age": Inc(1)})
            bulk.write(b, {"age": Inc(-2)})
    assert caught.value.errors()[0]["loc"] == (2, "age")
    assert await Person.count() == 3 and (await Person.get(a.id)).age == 1


async def test_versioned_records_refuse_a_lost_update(app: App) -> None:
    a, b = await Stock.create([{"number": 1}, {"number": 1}])
    await (await Stock.get(a.id)).write({"number": 2})
    with pytest.raises(ConcurrencyError, match="1 of 2"):
        async with Stock.bulk() as bulk:
            bulk.write(a, {"number": 5})
            bulk.write(b, {"number": 5})
    await b.refresh()
    with pytest.raises(ConcurrencyError, match="1 of 2 records were changed"):
        async with Stock.bulk() as bulk:
            bulk.unlink(a)
            bulk.unlink(await Stock.create({"number": 0}))
    await a.refresh()
    async with Stock.bulk() as bulk:
        bulk.write(a, {"number": 6})
        bulk.write(b, {"number": 7})
    await a.write({"number": 8})
    assert (await Stock.search(order="number")).mapped("number") == [7, 8]


async def test_inside_a_transaction_it_belongs_to_it(server_app: App) -> None:
    a, _, c = await three()
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            async with Person.bulk() as bulk:
                new = bulk.create({"name": "new"})
                bulk.write(a, {"age": 5})
                bulk.unlink(c)
            assert a.age == 5 and await Person.count() == 3
            raise RuntimeError
    assert a.age == 1 and not new.is_stored and (await Person.get(c.id)).age == 1


class Listening:
    api = 1
    name = "listening"

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    @hookimpl
    def before_create(self, op: Operation) -> None:
        self.heard.append(("before_create", op.model._name))

    @hookimpl
    def after_write(self, op: Operation, result: Any) -> None:
        self.heard.append(("after_write", result))

    @hookimpl
    def after_unlink(self, op: Operation, result: Any) -> None:
        self.heard.append(("after_unlink", result))


async def test_hooks_hear_of_each_kind_once(database: str) -> None:
    listening = Listening()
    async with default_app("memory", database, [listening]):
        a, b, c = await three()
        listening.heard.clear()
        async with Person.bulk() as bulk:
            bulk.create({"name": "x"})
            bulk.create({"name": "y"})
            bulk.write(a, {"age": 2})
            bulk.write(b, {"age": 3})
            bulk.unlink(c)
    assert listening.heard == [
        ("before_create", "core.person"),
        ("after_write", 2),
        ("after_unlink", 1),
    ]


class Refusing:
    api = 1
    name = "refusing"

    @hookimpl
    async def before_unlink(self, op: Operation) -> None:
        raise earnorm.AccessDenied("no")


async def test_what_a_layer_refuses_stops_everything_before_it_is_sent(database: str) -> None:
    async with default_app("pymongo", database, [Refusing()]):
        a, b, _ = await three()
        with pytest.raises(earnorm.AccessDenied):
            async with Person.bulk() as bulk:
                new = bulk.create({"name": "new"})
                bulk.write(a, {"age": 5})
                bulk.unlink(b)
        assert not new.is_stored and a.age == 1 and await Person.count() == 3
        assert (await Person.get(a.id)).age == 1


class Node(models.BaseModel):
    _name = "bulk_node"

    name = fields.String(required=True)
    cascade_id = fields.Many2one("bulk_node", on_delete="cascade")
    restrict_id = fields.Many2one("bulk_node", on_delete="restrict")
    set_null_id = fields.Many2one("bulk_node", on_delete="set_null")


@pytest.mark.parametrize("kept", [True, False])
async def test_the_consequences_of_a_deletion_see_what_the_block_has_written(
    app: App, kept: bool
) -> None:
    doomed, other = await Node.create([{"name": "doomed"}, {"name": "other"}])
    old = {"cascade_id": doomed, "set_null_id": doomed}
    moved = await Node.create({"name": "moved", **old, "restrict_id": doomed})
    if kept:  # it points away before the deletion
        async with Node.bulk() as bulk:
            bulk.write(moved, dict.fromkeys((*old, "restrict_id"), other))
            bulk.unlink(doomed)
        assert (bulk.written, bulk.deleted) == (1, 1)
    else:  # a new one points at it
        async with Node.bulk() as bulk:
            bulk.write(moved, {"restrict_id": None, "cascade_id": None})
            bulk.create({"name": "cascade", "cascade_id": doomed})
            bulk.create({"name": "set_null", "set_null_id": doomed})
            bulk.unlink(doomed)
    nodes = {node.name: node for node in await Node.search()}
    assert set(nodes) == ({"moved", "other"} if kept else {"moved", "other", "set_null"})
    expected = other if kept else None
    assert nodes["moved"].set_null_id == nodes["moved"].cascade_id == expected
    if not kept:
        assert nodes["set_null"].set_null_id is None


async def test_a_restricted_deletion_leaves_records_that_know_what_is_stored(app: App) -> None:
    doomed = await Node.create({"name": "doomed"})
    with pytest.raises(ValidationError, match="restrict_id still points at it"):
        async with Node.bulk() as bulk:
            new = bulk.create({"name": "new", "restrict_id": doomed})
            bulk.unlink(doomed)
    rolled_back = "transactions" in app.capabilities
    assert await Node.count() == (1 if rolled_back else 2)
    assert new.is_stored is not rolled_back
