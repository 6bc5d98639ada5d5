"""Records that delegate: a parent that is not stored is stored along, and computed values follow its writes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    FieldNotLoaded,
    Inc,
    Int,
    Many2many,
    Many2one,
    RecordSet,
    String,
    ValidationError,
    depends,
)

from .conftest import Commands


class Being(BaseModel):
    _name = "delsave.being"
    kingdom = String(default="animals")


class Human(BaseModel):
    _name = "delsave.human"
    _inherits = {"delsave.being": "being_id"}
    being_id = Many2one(Being, required=True)
    name = String(required=True)
    age = Int(default=0)
    twice = Int(compute="_compute_twice", inverse="_set_twice")

    @depends("age")
    def _compute_twice(self) -> int:
        return (self.age or 0) * 2

    def _set_twice(self, value: int) -> None:
        self.age = value // 2


class Tool(BaseModel):
    _name = "delsave.tool"
    name = String()


class Twin(BaseModel):
    _name = "delsave.twin"
    name = String()
    twin_id = Many2one("delsave.twin")


class Worker(BaseModel):
    _name = "delsave.worker"
    _inherits = {"delsave.human": "human_id"}
    human_id = Many2one(Human, required=True)
    login = String(required=True)
    friend_id = Many2one(Human)
    tool_ids = Many2many(Tool)
    label = String(compute="_compute_label", store=True)
    kingdom_label = String(compute="_compute_kingdom", store=True)

    @depends("login", "human_id.name", "human_id.age")
    def _compute_label(self) -> str:
        return f"{self.login} {self.human_id.name} {self.human_id.age}"

    @depends("human_id.being_id.kingdom")
    def _compute_kingdom(self) -> str:
        return f"of {self.human_id.being_id.kingdom}"


class Plain(BaseModel):
    """A record that delegates, with no value that depends on its parent."""

    _name = "delsave.plain"
    _inherits = {"delsave.human": "human_id"}
    human_id = Many2one(Human, required=True)
    login = String()


def person(name: str = "Ann", **values: Any) -> Human:
    """Return a record that is not stored, nor is the one that it delegates to."""
    return Human(name=name, being_id=Being(), **values)


async def numbers() -> tuple[int, int, int]:
    return await Worker.count(), await Human.count(), await Being.count()


async def agrees() -> None:
    """Assert that what is stored is complete: each link leads to a record, and labels are right."""
    for worker in await Worker.search().prefetch("human_id.being_id"):
        human: Any = worker.human_id
        assert human.exists() and human.being_id.exists()
        assert worker.label == f"{worker.login} {human.name} {human.age}"
        assert worker.kingdom_label == f"of {human.being_id.kingdom}"


# -- a parent that is not stored -------------------------------------------------------------------


async def test_what_was_created_and_rolled_back_is_saved_with_its_parents(server_app: App) -> None:
    first: Any = await Worker.create({"login": "a", "name": "Ann"})
    made: list[Any] = []
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            made.append(await Worker.create({"login": "b", "name": "Bob", "kingdom": "robots"}))
            made += await Worker.create([{"login": n, "name": n} for n in "cd"])
            made.append(await first.copy({"login": "e"}))
            raise RuntimeError
    assert await numbers() == (1, 1, 1)
    assert not any(worker.is_stored or worker.human_id.is_stored for worker in made)
    await made[0].save()
    assert (made[0].name, made[0].label, made[0].kingdom) == ("Bob", "b Bob 0", "robots")
    await RecordSet(Worker, made).save()
    assert await numbers() == (5, 5, 5)
    assert all(not worker.is_changed and worker.human_id.is_stored for worker in made)
    await agrees()


async def test_a_parent_that_is_not_stored_is_stored_along(app: App) -> None:
    human = Human(name="Ann", being_id=Being(kingdom="robots"))
    worker: Any = Worker(login="a", human_id=human)
    await worker.save()
    assert worker.human_id is human and human.is_stored and human.kingdom == "robots"
    other: Any = await Worker.create({"login": "b", "human_id": person("B"), "age": 3})
    assert (other.human_id.name, other.human_id.age, other.label) == ("B", 3, "b B 3")
    third: Any = await Worker(login="c", human_id=person("C")).save({"age": 4})
    assert third.label == "c C 4"
    assert await numbers() == (3, 3, 3)
    await agrees()


async def test_two_records_share_the_parent_that_is_stored_along(app: App) -> None:
    human = person()
    workers = RecordSet(Worker, [Worker(login=n, human_id=human) for n in "ab"])
    await workers.save()
    assert await numbers() == (2, 1, 1)
    assert workers[0].human_id is workers[1].human_id is human
    await agrees()


async def test_a_parent_that_is_refused_is_named_and_nothing_is_stored(app: App) -> None:
    human = person(age=1)
    human.age = "no number"  # type: ignore[assignment] # the test is about it
    worker: Any = Worker(login="a", human_id=human)
    with pytest.raises(ValidationError) as raised:
        await worker.save()
    assert [detail["loc"] for detail in raised.value.errors()] == [("age",)]
    assert await numbers() == (0, 0, 0)
    human.age = 2
    await worker.save()
    assert await numbers() == (1, 1, 1) and worker.label == "a Ann 2"


async def test_after_a_refusal_nothing_links_to_the_parent_before_it_is_stored(app: App) -> None:
    human = person()
    worker: Any = Worker(login="a", human_id=human)
    worker.login = None
    with pytest.raises(ValidationError):
        await worker.save()
    with pytest.raises(ValidationError, match="not saved yet"):
        await Worker.create({"login": "b", "name": "Bob", "friend_id": human})
    assert await numbers() == (0, 0, 0)
    worker.login = "a"
    await worker.save()
    assert await numbers() == (1, 1, 1) and worker.human_id is human
    await agrees()


COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda record: pickle.loads(pickle.dumps(record)),
]


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
async def test_the_copy_of_an_unsaved_record_is_saved_with_its_unsaved_parents(
    app: App, copied: Callable[[Any], Any]
) -> None:
    worker = Worker(login="a", human_id=Human(name="Ann", being_id=Being(kingdom="robots")))
    other = copied(worker)
    await other.save()
    assert (other.name, other.kingdom, other.label) == ("Ann", "robots", "a Ann 0")
    assert await numbers() == (1, 1, 1)
    assert worker.human_id.is_stored == (copied is copy.copy)  # which copies one object only
    await agrees()
    stored = await Worker.get(other.pk)
    stored.friend_id = person("Bob")
    again = copied(stored)
    await again.friend_id.save()
    await again.save()
    assert (await (await Worker.get(other.pk)).friend_id).name == "Bob"


async def test_unsaved_records_that_link_to_each_other_are_copied(memory_app: App) -> None:
    one, other = Twin(name="a"), Twin(name="b")
    one.twin_id, other.twin_id = other, one
    for copied in COPIES:
        new = copied(one)
        assert (new.name, new.twin_id.name) == ("a", "b") and new is not one
        assert new.twin_id.twin_id is (one if copied is copy.copy else new)


# -- values that are computed from the parent ------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"name": "B"},
        {"name": "B", "login": "b"},
        {"age": Inc(3)},
        {"twice": 10},
        {"kingdom": "robots"},
        {"kingdom": "robots", "name": "B", "tool_ids": [Command.create({"name": "axe"})]},
    ],
)
@pytest.mark.parametrize("way", ["write", "set", "copy", "save"])
async def test_a_write_of_the_parent_shows_what_is_computed_from_it(
    app: App, values: dict[str, Any], way: str
) -> None:
    await Worker.create({"login": "a", "name": "A"})
    workers = await Worker.search().prefetch("human_id.being_id")
    worker: Any = workers[0]
    assert (worker.label, worker.kingdom_label) == ("a A 0", "of animals")
    if way == "write":
        await worker.write(values)
    elif way == "save":
        await worker.save(values)
    else:
        workers = workers if way == "set" else workers + await Worker.search()
        await workers.write(values)
    stored: Any = (await Worker.search())[0]
    for each in workers:
        assert (each.label, each.kingdom_label) == (stored.label, stored.kingdom_label)
        assert not each.is_changed
    assert stored.label != "a A 0" or stored.kingdom_label != "of animals"
    await agrees()


async def test_what_is_not_loaded_stays_so(app: App) -> None:
    await Worker.create({"login": "a", "name": "A"})
    worker: Any = (await Worker.search(only=["login", "human_id", "kingdom_label"]))[0]
    await worker.write({"name": "B", "kingdom": "robots"})
    assert worker.kingdom_label == "of robots"
    with pytest.raises(FieldNotLoaded):
        _ = worker.label


async def test_a_value_of_unsaved_changes_is_not_replaced(app: App) -> None:
    worker: Any = await Worker.create({"login": "a", "name": "A"})
    worker.login = "unsaved"
    await worker.write({"name": "B"})
    assert worker.label == "unsaved B 0" and worker.is_changed
    await worker.save()
    await agrees()


async def test_only_a_write_of_the_parent_reads_again(commands: Commands) -> None:
    worker: Any = await Worker.create({"login": "a", "name": "A"})
    plain: Any = await Plain.create({"login": "a", "name": "A"})

    async def searches(record: Any, values: dict[str, Any]) -> int:
        commands.clear()
        await record.write(values)
        return commands.of(type(record)._collection).count("find")

    assert await searches(plain, {"name": "B"}) == 0
    assert await searches(worker, {"tool_ids": [Command.create({"name": "axe"})]}) == 0
    one, both = await searches(worker, {"name": "B"}), await searches(worker, {"login": "b"})
    assert (one - both) >= 1
    await agrees()
