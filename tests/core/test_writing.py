"""Writing: create of one and of many, write, save, unlink, refresh, and what a refused write leaves behind."""

from __future__ import annotations

import pytest

from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    DuplicateKey,
    Int,
    List,
    NotFound,
    String,
    ValidationError,
)

from .conftest import Commands
from .shop import Person, Stock


async def test_create_of_one_gives_the_record(app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 30})
    assert (ann.name, ann.age, ann.is_stored) == ("Ann", 30, True)
    assert (await Person.get(ann.id)).to_dict() == ann.to_dict()


async def test_create_of_many_keeps_the_order(app: App) -> None:
    people = await Person.create([{"name": name} for name in "cab"])
    assert people.mapped("name") == list("cab")
    assert len(set(people.ids)) == 3


async def test_create_of_many_is_one_round_trip(commands: Commands) -> None:
    await Person.create({"name": "x"})
    commands.clear()
    await Person.create([{"name": str(n)} for n in range(500)])
    assert commands.of("core_person") == ["insert"]


async def test_create_of_nothing_is_an_empty_recordset(app: App) -> None:
    assert len(await Person.create([])) == 0


async def test_create_takes_dicts_and_records_together(app: App) -> None:
    bob = Person(name="Bob")
    bob.age = 5
    people = await Person.create([{"name": "Ann"}, bob, Person(name="Cid")])
    assert people.mapped("name") == ["Ann", "Bob", "Cid"]
    assert people[1] is bob and bob.is_stored and not bob.is_changed
    assert (await Person.get(bob.id)).age == 5


async def test_a_batch_names_the_position_of_every_problem_and_writes_nothing(app: App) -> None:
    bad = Person(name="Bob")
    bad.age = -1
    with pytest.raises(ValidationError) as caught:
        await Person.create([{"name": "Ann"}, {}, bad, {"name": "Eve", "email": "no"}])
    places = [problem["loc"] for problem in caught.value.errors()]
    assert places == [(1, "name"), (2, "age"), (3, "email")]
    assert not bad.is_stored and await Person.count() == 0


async def test_a_stored_record_cannot_be_created_again(app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    with pytest.raises(ValidationError, match=r"is stored already; save\(\) or write\(\) it"):
        await Person.create(ann)


async def test_the_document_does_not_share_values_with_the_record(app: App) -> None:
    tags = ["a"]
    ann = await Person.create({"name": "Ann", "tags": tags})
    tags.append("b")
    assert (await Person.get(ann.id)).tags == ["a"]


async def test_a_list_changed_after_create_is_written_by_save(app: App) -> None:
    for ann in (
        await Person.create({"name": "Ann", "tags": ["a"]}),
        await Person(name="B", tags=["a"]).save(),
    ):
        assert ann.tags is not None
        ann.tags.append("b")
        await ann.save()
        assert (await Person.get(ann.id)).tags == ["a", "b"]


async def test_a_duplicate_key_on_write_and_save_changes_nothing(app: App) -> None:
    _, bob = await Person.create(
        [{"name": "Ann", "email": "ann@example.com"}, {"name": "Bob", "email": "bob@example.com"}]
    )
    with pytest.raises(DuplicateKey) as caught:
        await bob.write({"email": "ann@example.com"})
    assert "example" not in str(caught.value)
    assert bob.email == "bob@example.com"
    bob.email = "ann@example.com"
    with pytest.raises(DuplicateKey):
        await bob.save()
    assert bob.is_changed
    assert (await Person.get(bob.id)).email == "bob@example.com"


async def test_write_of_a_recordset_reaches_database_and_records(app: App) -> None:
    people = await Person.create([{"name": n} for n in "abc"])
    assert await people[:2].write({"age": "7", "tags": ["x"]}) == 2
    assert people.mapped("age") == [7, 7, None]
    assert (await Person.search(order="name")).mapped("age") == [7, 7, None]
    people[0].tags.append("y")  # type: ignore[union-attr] # it is set
    assert people[1].tags == ["x"]


async def test_write_drops_the_change_that_it_overwrote_and_keeps_the_others(app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    ann.age, ann.score = 1, 2.5
    await ann.write({"age": 3})
    assert ann.is_changed and ann.age == 3
    await ann.save()
    again = await Person.get(ann.id)
    assert (again.age, again.score) == (3, 2.5)


async def test_write_of_an_invalid_value_writes_nothing(app: App) -> None:
    people = await Person.create([{"name": n, "age": 1} for n in "ab"])
    with pytest.raises(ValidationError, match="age"):
        await people.write({"name": "x", "age": -5})
    with pytest.raises(ValidationError, match="name"):
        await people.write({"name": None})
    assert (await Person.search(order="name")).mapped("name") == ["a", "b"]


async def test_write_to_an_unsaved_record_says_to_save_it(app: App) -> None:
    with pytest.raises(ValidationError, match=r"save\(\) it first"):
        await Person(name="Ann").write({"age": 3})


async def test_ids_cannot_be_written(app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    for name in ("id", "_id"):
        with pytest.raises(ValidationError, match="only on a new record"):
            await ann.write({name: "0" * 24})


async def test_save_of_many_is_one_round_trip_with_each_ones_own_changes(
    commands: Commands,
) -> None:
    people = await Person.create([{"name": n, "age": 1} for n in "abc"])
    people[0].age, people[2].name = 5, "z"
    commands.clear()
    assert await people.save() == 2
    (command,) = commands.named("update")
    assert [update["u"]["$set"] for update in command["updates"]] == [{"age": 5}, {"name": "z"}]
    assert (await Person.search(order="name")).mapped("age") == [5, 1, 1]


async def test_save_of_a_recordset_creates_the_new_ones(app: App) -> None:
    from earnorm import RecordSet

    old = await Person.create({"name": "old"})
    old.age = 9
    both = RecordSet(Person, [old, Person(name="new")])
    assert await both.save() == 2
    assert await Person.search([("age", "=", 9)]).count() == 1 and await Person.count() == 2


async def test_save_with_a_problem_writes_nothing(app: App) -> None:
    people = await Person.create([{"name": n, "age": 1} for n in "ab"])
    people[0].age, people[1].age = 2, "no"  # type: ignore[assignment] # that is the point
    with pytest.raises(ValidationError) as caught:
        await people.save()
    assert [problem["loc"] for problem in caught.value.errors()] == [(1, "age")]
    assert (await Person.search()).mapped("age") == [1, 1]
    assert people[0].is_changed


async def test_save_converts_what_was_assigned(app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    ann.age = "42"  # type: ignore[assignment] # text is converted
    await ann.save()
    assert ann.age == 42 and (await Person.get(ann.id)).age == 42


async def test_unlink_deletes_and_says_how_many(app: App) -> None:
    people = await Person.create([{"name": n} for n in "abc"])
    assert await people[:2].unlink() == 2
    assert await people.unlink() == 1
    assert await people[0].unlink() == 0
    assert await Person.count() == 0


async def test_writing_to_what_is_gone_is_not_found(app: App) -> None:
    people = await Person.create([{"name": n} for n in "ab"])
    await people[0].unlink()
    people[0].age = 3
    for attempt in (people[0].save, people[0].refresh, lambda: people[0].write({"age": 1})):
        with pytest.raises(NotFound):
            await attempt()
    with pytest.raises(NotFound, match="1 of 2 records"):
        await people.write({"age": 1})


async def test_refresh_takes_the_database_and_drops_changes(app: App) -> None:
    ann = await Person.create({"name": "Ann", "tags": ["a"]})
    await (await Person.get(ann.id)).write({"age": 50})
    ann.name = "x"
    ann.tags.append("b")  # type: ignore[union-attr] # it is set
    assert await ann.refresh() is ann
    assert (ann.name, ann.age, ann.tags, ann.is_changed) == ("Ann", 50, ["a"], False)


async def test_still_exists_asks_the_database(app: App) -> None:
    people = await Person.create([{"name": n} for n in "ab"])
    await people[0].unlink()
    assert (await people.still_exists()).mapped("name") == ["b"]
    assert people.exists()


async def test_a_versioned_record_refuses_a_lost_update(app: App) -> None:
    mine = await Stock.create({"name": "nail", "number": 10})
    theirs = await Stock.get(mine.id)
    await theirs.write({"number": 9})
    mine.number = 8
    with pytest.raises(ConcurrencyError, match="refresh"):
        await mine.save()
    with pytest.raises(ConcurrencyError):
        await mine.write({"number": 8})
    assert (await Stock.get(mine.id)).number == 9
    await mine.refresh()
    await mine.write({"number": 8})
    mine.number = 7
    await mine.save()
    assert (await Stock.get(mine.id)).number == 7


async def test_a_versioned_recordset_refuses_a_lost_update(app: App) -> None:
    both = await Stock.create([{"name": "a"}, {"name": "b"}])
    await (await Stock.get(both[0].id)).write({"number": 1})
    with pytest.raises(ConcurrencyError, match="1 of 2"):
        await both.write({"number": 5})


async def test_unset_unique_values_do_not_collide(app: App) -> None:
    await Person.create([{"name": n} for n in "abc"])
    await Person.create({"name": "d", "email": None})
    assert await Person.count() == 4


async def test_a_validator_and_choices_hold_on_every_way_in(app: App) -> None:
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("an even number is needed")
        return value

    class CoreEven(BaseModel):
        _name = "core.even"
        number = Int(validators=[even])
        kind = String(choices=["a", "b"], default="a")
        many = List(Int(validators=[even]))

    one = await CoreEven.create({"number": 2})
    for attempt in (
        lambda: CoreEven.create({"number": 3}),
        lambda: one.write({"number": 3}),
        lambda: CoreEven.search().update({"number": 3}),
        lambda: one.write({"many": [2, 3]}),
        lambda: one.write({"kind": "c"}),
    ):
        with pytest.raises(ValidationError):
            await attempt()
    one.number = 5
    with pytest.raises(ValidationError, match="an even number is needed"):
        await one.save()
