"""Gets by id of one tick become one query, with the same results and errors as without."""

from __future__ import annotations

import asyncio

import pytest
from bson import ObjectId

import earnorm
from earnorm import App, NotFound, RecordSet
from earnorm.exceptions import DomainError, EarnORMError
from tests.core.conftest import Commands, default_app
from tests.core.shop import Author, Person, Post


async def several(number: int) -> RecordSet[Person]:
    return await Person.create([{"name": f"P{n}", "tags": ["a"]} for n in range(number)])


async def test_gets_of_one_tick_are_two_queries(commands: Commands) -> None:
    people = await several(50)
    commands.clear()

    with earnorm.coalescing():
        found = await asyncio.gather(*(Person.get(p.id) for p in people))

    assert found == list(people)
    # the first went out at once, so that a lone get waits for nobody
    assert commands.of("core_person") == ["find", "find"]


async def test_a_crowd_stays_one_query_from_tick_to_tick(commands: Commands) -> None:
    people = await several(10)
    commands.clear()

    async def task(own: Person) -> None:
        for _ in range(3):
            assert await Person.get(own.id) == own

    with earnorm.coalescing():
        await asyncio.gather(*map(task, people))

    asked = [command["filter"]["_id"] for command in commands.named("find")]
    # Nobody of the nine that came second in the first tick goes out alone in the next ones.
    crowds = [each for each in asked if isinstance(each, dict) and len(each["$in"]) >= 9]
    assert len(crowds) == 3
    await asyncio.sleep(0.01)
    commands.clear()
    with earnorm.coalescing():
        await Person.get(people[0].id)
    assert commands.named("find")[0]["filter"] == {"_id": people[0].pk}  # it waits for no crowd


async def test_without_being_asked_nothing_is_joined(commands: Commands) -> None:
    people = await several(3)
    commands.clear()

    await asyncio.gather(*(Person.get(p.id) for p in people))

    assert commands.of("core_person") == ["find"] * 3


async def test_an_app_can_ask_for_it_always(database: str) -> None:
    async with default_app("memory", database, coalesce=True) as app:
        people = await several(5)
        assert app.settings.coalesce
        assert await asyncio.gather(*(Person.get(p.id) for p in people)) == list(people)


async def test_what_does_not_exist_is_missed_by_its_own_get_only(app: App) -> None:
    people = await several(3)
    asked = [people[0].id, people[1].id, ObjectId(), people[2].id, "nobody"]

    with earnorm.coalescing():
        found = await asyncio.gather(*(Person.get(pk) for pk in asked), return_exceptions=True)

    assert [found[0], found[1], found[3]] == list(people)
    assert isinstance(found[2], NotFound) and isinstance(found[4], NotFound)


async def test_an_id_that_is_none_fails_alone(app: App) -> None:
    people = await several(3)
    asked: list[object] = [people[0].id, people[1].id, {"$gt": ""}, people[2].id]

    with earnorm.coalescing():
        found = await asyncio.gather(*(Person.get(pk) for pk in asked), return_exceptions=True)

    assert isinstance(found[2], DomainError)
    assert [found[0], found[1], found[3]] == list(people)


async def test_two_gets_of_one_id_share_nothing_that_can_change(app: App) -> None:
    [first] = await several(1)

    with earnorm.coalescing():
        records = await asyncio.gather(*(Person.get(first.id) for _ in range(4)))
    assert records[2].tags is not None
    records[2].tags.append("b")
    records[3].name = "changed"

    assert [r.tags for r in records] == [["a"], ["a"], ["a", "b"], ["a"]]
    assert [r.name for r in records] == ["P0", "P0", "P0", "changed"]


async def test_gets_of_other_fields_or_models_are_not_mixed_up(app: App) -> None:
    people = await several(3)
    authors = await Author.create([{"name": f"A{n}"} for n in range(3)])

    with earnorm.coalescing():
        thin = [Person.search([("id", "=", p.id)]).only("name").first() for p in people]
        whole = [Person.get(p.id) for p in people]
        others = [Author.get(a.id) for a in authors]
        found = await asyncio.gather(*thin, *whole, *others)

    with pytest.raises(EarnORMError, match="was not fetched"):
        found[1].age  # noqa: B018
    assert [found[3], found[4], found[5]] == list(people) and found[4].age is None
    assert list(found[6:]) == list(authors)


async def test_a_search_that_asks_for_more_than_an_id_keeps_its_condition(app: App) -> None:
    people = await several(4)

    def both(name: str, person: Person) -> object:
        return Person.search([("id", "=", person.id), ("name", "=", name)]).first()

    with earnorm.coalescing():
        found = await asyncio.gather(
            *(both("P1", p) for p in people),  # type: ignore[call-overload]
            *(both("P2", p) for p in people),
        )

    assert [f and f.name for f in found] == [None, "P1", None, None, None, None, "P2", None]


async def test_who_is_cancelled_leaves_the_others_alone(server_app: App) -> None:
    people = await several(6)

    with earnorm.coalescing():
        tasks = [asyncio.ensure_future(Person.get(p.id)) for p in people]
        await asyncio.sleep(0)
        tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(found[1], asyncio.CancelledError)
    assert [r for n, r in enumerate(found) if n != 1] == [p for n, p in enumerate(people) if n != 1]


async def test_a_failing_query_fails_every_get_that_it_served(server_app: App) -> None:
    people = await several(4)
    await server_app.stop()

    async def get(person: Person) -> object:
        with server_app.activate():
            return await Person.get(person.id)

    with earnorm.coalescing():
        found = await asyncio.gather(*map(get, people), return_exceptions=True)
    assert all(isinstance(each, EarnORMError) for each in found)
    await server_app.start()


async def test_a_transaction_is_left_alone(commands: Commands) -> None:
    people = await several(2)
    with earnorm.coalescing():
        async with earnorm.transaction():
            await people[0].write({"name": "inside"})
            commands.clear()
            first = await Person.get(people[0].id)
            second = await Person.get(people[1].id)
    assert (first.name, second.name) == ("inside", "P1")
    assert commands.of("core_person") == ["find", "find"]


async def test_lazy_relations_of_many_lone_records_are_joined(commands: Commands) -> None:
    authors = await Author.create([{"name": f"A{n}"} for n in range(5)])
    posts = await Post.create([{"title": f"T{a.name}", "author_id": a} for a in authors])
    alone = [await Post.get(p.id) for p in posts]
    commands.clear()

    async def name(post: Post) -> str:
        author = post.author_id
        assert author is not None
        return (await author).name

    with earnorm.coalescing():
        names = await asyncio.gather(*map(name, alone))

    assert names == [a.name for a in authors]
    assert len(commands.of("core_author")) == 2
