"""Query: order, window, fields, counting, pages, groups, update, delete, streaming; immutable, and run on each await."""

from __future__ import annotations

import datetime

import pytest

from earnorm import (
    App,
    Avg,
    Count,
    DomainError,
    FieldNotLoaded,
    Max,
    Min,
    MultipleRecords,
    NotFound,
    NotSupported,
    Query,
    RecordSet,
    Sum,
    ValidationError,
)

from .conftest import Commands
from .shop import Country, Person

PEOPLE = [
    {"name": "Ann", "age": 30, "active": True, "address": {"city": "Rome"}, "born": "2001-01-01"},
    {"name": "Bob", "age": 20, "active": False, "address": {"city": "Oslo"}, "born": "2001-01-01"},
    {"name": "Cid", "age": 30, "active": True, "address": {"city": "Bonn"}},
    {"name": "Dan", "active": True},
]


@pytest.fixture
async def people(app: App) -> RecordSet[Person]:
    return await Person.create(PEOPLE)


def names(records: RecordSet[Person]) -> str:
    return "".join(name[0] for name in records.mapped("name"))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("name", "ABCD"),
        ("-name", "DCBA"),
        ("age,name", "DBAC"),
        ("-age, -name", "CABD"),
        (["-age", "name"], "ACBD"),
        ("address.city", "DCBA"),
    ],
    ids=str,
)
async def test_order(people: RecordSet[Person], order: str | list[str], expected: str) -> None:
    assert names(await Person.search(order=order)) == expected
    assert names(await Person.search().order(order)) == expected


async def test_order_by_an_unknown_field_is_an_error(app: App) -> None:
    with pytest.raises(DomainError, match="did you mean 'age'"):
        await Person.search(order="-agee")


async def test_limit_and_offset_make_a_window(people: RecordSet[Person]) -> None:
    assert names(await Person.search(order="name", limit=2, offset=1)) == "BC"
    assert names(await Person.search().order("name").limit(0).offset(3)) == "D"
    assert names(await Person.search().offset(9)) == ""


@pytest.mark.parametrize("bad", [-1, 1.5, "3", True, None])
def test_a_window_is_of_whole_numbers(bad: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        Person.search().limit(bad)  # type: ignore[arg-type] # that is the point
    with pytest.raises(ValueError, match="whole number"):
        Person.search().offset(bad)  # type: ignore[arg-type] # that is the point


async def test_only_fetches_what_was_named(people: RecordSet[Person]) -> None:
    found = (await Person.search([("name", "=", "Ann")]).only("age", "badge"))[0]
    assert found.age == 30 and found.badge is None and found.id == people[0].id
    with pytest.raises(FieldNotLoaded):
        _ = found.name
    with pytest.raises(DomainError, match="no field 'agee'"):
        await Person.search().only("agee")


async def test_a_record_of_some_fields_saves_its_changes(people: RecordSet[Person]) -> None:
    ann = (await Person.search([("name", "=", "Ann")]).only("age"))[0]
    ann.age = 31
    await ann.save()
    assert (await Person.get(ann.id)).name == "Ann" and (await Person.get(ann.id)).age == 31


async def test_only_goes_to_the_server(commands: Commands) -> None:
    await Person.create({"name": "Ann"})
    await Person.search().only("age")
    assert commands.named("find")[0]["projection"] == {"_id": 1, "age": 1}


async def test_count_and_exists(people: RecordSet[Person]) -> None:
    old = Person.search([("age", "=", 30)])
    assert await old.count() == 2 == await Person.count([("age", "=", 30)])
    assert await old.exists() and not await Person.search([("age", ">", 99)]).exists()
    assert await Person.search(limit=3).count() == 3 and await Person.search(offset=3).count() == 1


async def test_first_and_find_one(people: RecordSet[Person]) -> None:
    first = await Person.search(order="-name").first()
    assert first is not None and first.name == "Dan"
    assert await Person.search([("age", ">", 99)]).first() is None
    found = await Person.find_one([("name", "=", "Bob")])
    assert found.exists() and found.ensure_one().age == 20
    assert not (await Person.find_one([("name", "=", "Zoe")])).exists()


async def test_ensure_one_of_none_and_of_many(people: RecordSet[Person]) -> None:
    with pytest.raises(NotFound):
        (await Person.search([("age", ">", 99)])).ensure_one()
    with pytest.raises(MultipleRecords, match="4 records"):
        (await Person.search()).ensure_one()


async def test_pages(people: RecordSet[Person]) -> None:
    query = Person.search(order="name")
    page = await query.page(2, size=3)
    assert (names(page.records), page.number, page.size, page.total, page.pages) == (
        "D",
        2,
        3,
        4,
        2,
    )
    assert names((await query.page(5, size=3)).records) == ""
    with pytest.raises(ValueError, match="from 1"):
        await query.page(0)


async def test_group(people: RecordSet[Person]) -> None:
    rows = await Person.search().group(
        "age", number=Count(), total=Sum("age"), mean=Avg("age"), low=Min("name"), high=Max("name")
    )
    assert rows == [
        {"age": None, "number": 1, "total": 0, "mean": None, "low": "Dan", "high": "Dan"},
        {"age": 20, "number": 1, "total": 20, "mean": 20.0, "low": "Bob", "high": "Bob"},
        {"age": 30, "number": 2, "total": 60, "mean": 30.0, "low": "Ann", "high": "Cid"},
    ]
    assert await Person.search([("age", "=", 30)]).group(number=Count()) == [{"number": 2}]


async def test_group_gives_keys_and_values_in_their_python_types(people: RecordSet[Person]) -> None:
    rows = await Person.search([("born", "!=", None)]).group("born", first=Min("born"))
    day = datetime.date(2001, 1, 1)
    assert rows == [{"born": day, "first": day}]


async def test_group_checks_its_arguments(app: App) -> None:
    with pytest.raises(DomainError, match="did you mean 'age'"):
        await Person.search().group("agee")
    with pytest.raises(DomainError, match="did you mean 'age'"):
        await Person.search().group(total=Sum("agee"))
    with pytest.raises(ValidationError, match="takes an aggregate"):
        await Person.search().group(total="age")  # type: ignore[arg-type] # that is the point


async def test_update_and_delete_reach_all_that_match(people: RecordSet[Person]) -> None:
    assert await Person.search([("age", "=", 30)]).update({"age": 31}) == 2
    assert await Person.search([("age", "=", 31)]).count() == 2
    assert await Person.search([("age", "=", 31)]).delete() == 2
    assert names(await Person.search(order="name")) == "BD"
    assert await Person.search([("age", ">", 99)]).delete() == 0


async def test_update_validates_and_refuses_a_window(people: RecordSet[Person]) -> None:
    with pytest.raises(ValidationError, match="age"):
        await Person.search().update({"age": "x"})
    with pytest.raises(ValidationError, match="unknown field"):
        await Person.search().update({"$set": {"age": 1}})
    with pytest.raises(NotSupported, match="limit"):
        await Person.search(limit=1).update({"age": 1})
    with pytest.raises(NotSupported, match="offset"):
        await Person.search(offset=1).delete()
    assert await Person.search([("age", "=", 30)]).count() == 2


async def test_a_query_is_immutable_and_runs_on_each_await(people: RecordSet[Person]) -> None:
    query: Query[Person] = Person.search([("age", "=", 30)])
    for made in (
        query.limit(1),
        query.order("name"),
        query.where([("name", "=", "Ann")]),
        query.only("name"),
    ):
        assert made is not query
    before = await query
    assert len(before) == 2
    await Person.create({"name": "Eve", "age": 30})
    assert len(before) == 2 and len(await query) == 3


async def test_where_narrows(people: RecordSet[Person]) -> None:
    assert names(await Person.search([("age", "=", 30)]).where(Person.name == "Cid")) == "C"
    assert (
        names(
            await Person.search(["|", ("name", "=", "Ann"), ("name", "=", "Bob")]).where(
                [("age", "=", 20)]
            )
        )
        == "B"
    )


async def test_expressions_and_lists_mean_the_same(people: RecordSet[Person]) -> None:
    expression = ((Person.age > 25) | (Person.name == "Bob")) & ~(Person.name == "Cid")
    prefix = ["|", ("age", ">", 25), ("name", "=", "Bob"), "!", ("name", "=", "Cid")]
    assert names(await Person.search(expression, order="name")) == "AB"
    assert names(await Person.search(prefix, order="name")) == "AB"


async def test_conditions_reach_into_embedded_objects_and_lists(people: RecordSet[Person]) -> None:
    await people[0].write({"tags": ["red", "blue"], "extra": {"size": {"cm": 3}}})
    assert names(await Person.search([("address.city", "ilike", "RO")])) == "A"
    assert names(await Person.search([("tags", "=", "blue")])) == "A"
    assert names(await Person.search([("extra.size.cm", ">", 2)])) == "A"
    with pytest.raises(DomainError, match="did you mean 'city'"):
        await Person.search([("address.citty", "=", "x")])


async def test_streaming_gives_every_record_once(app: App) -> None:
    await Country.create([{"name": f"{n:05}"} for n in range(4500)])
    query = Country.search([("name", ">=", "00100")], order="name").only("name")
    assert [p.name async for p in query] == [f"{n:05}" for n in range(100, 4500)]


async def test_a_stream_that_is_left_early_closes_its_cursor(commands: Commands) -> None:
    await Person.create([{"name": f"{n:05}"} for n in range(4500)])
    stream = Person.search().__aiter__()
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined] # an async generator
    assert len(commands.named("find")) == 1 and len(commands.named("killCursors")) == 1
    assert commands.named("getMore") == []


async def test_explain_shows_the_plan(server_app: App) -> None:
    await Person.create({"name": "Ann", "email": "a@example.com"})
    plan = await Person.search([("email", "=", "a@example.com")]).explain()
    assert plan.uses_index and "email_1" in str(plan)


async def test_explain_in_memory_is_not_supported(memory_app: App) -> None:
    with pytest.raises(NotSupported):
        await Person.search().explain()


async def test_a_timeout_goes_to_the_server(commands: Commands) -> None:
    await Person.search().timeout(1.5)
    # The driver takes off what the way to the server and back costs.
    assert 1000 < commands.named("find")[0]["maxTimeMS"] <= 1500
    with pytest.raises(ValueError, match="above 0"):
        Person.search().timeout(0)


async def test_values_never_become_operators(people: RecordSet[Person]) -> None:
    assert names(await Person.search([("name", "=", "$name")])) == ""
    assert names(await Person.search([("name", "like", ".*")])) == ""
    with pytest.raises(DomainError):
        await Person.search([("name", "=", {"$ne": None})])
