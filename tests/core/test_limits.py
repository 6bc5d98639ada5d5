"""What a client sends costs a bounded amount, and names that are none are refused in one way."""

from __future__ import annotations

import difflib
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Count,
    Dict,
    DomainError,
    EarnORMError,
    Int,
    LimitExceeded,
    Many2many,
    Many2one,
    Max,
    String,
    Sum,
    ValidationError,
    system,
)
from earnorm.domain import And, Condition, Domain, Not, Or
from earnorm.exceptions import MOST_LINES
from earnorm.model.reading import serializing
from earnorm.model.reading.resolution import MOST_QUESTIONS

from .conftest import Commands


class Friend(BaseModel):
    _name = "limits.friend"
    name = String()
    extra = Dict()
    number = Int()
    friend_ids = Many2many("limits.friend")
    best_id = Many2one("limits.friend")


class Ruled(BaseModel):
    _name = "limits.ruled"
    _versioned = True
    _parent_store = True
    name = String(unique=True, sparse=True)
    parent_id = Many2one("limits.ruled", on_delete="cascade")


# -- names ----------------------------------------------------------------------------------------

BAD_NAMES = (
    *("extra.$gt", "extra.", "extra..k", "extra.k\0", "", "name\0", ".", "$where", "best_id."),
    "extra." + ".".join(["k"] * 300),
    "extra." + "k" * 5_000,
    "x" * 1_000_000,
)
PLACES = {
    "domain": lambda n: Friend.count([(n, "=", "x")]),
    "a domain across a relation": lambda n: Friend.count([("best_id." + n, "=", "x")]),
    "order": lambda n: Friend.search(order=[n])._run(),
    "group": lambda n: Friend.search().group(n, c=Count()),
    "max": lambda n: Friend.search().group(c=Max(n)),
    "sum": lambda n: Friend.search().group(c=Sum(n)),
    "having": lambda n: Friend.search().group("name", c=Count(), having=[(n, "=", 1)]),
    "only": lambda n: Friend.search().only(n)._run(),
    "pagination": lambda n: Friend.search(order=[n]).paginate(2),
    "update": lambda n: Friend.search().update({n: 1}),
    "create": lambda n: Friend.create({n: 1}),
    "prefetch": lambda n: Friend.search(prefetch=[n])._run(),
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_name_that_is_none_is_refused_in_every_place(memory_app: App, place: str) -> None:
    await Friend.create({"name": "x", "extra": {"k": "x"}})
    for name in BAD_NAMES:
        if not name and place in ("order", "pagination"):
            continue  # it asks for nothing
        with pytest.raises(ValidationError) as caught:
            await PLACES[place](name)
            pytest.fail(f"not refused: {name[:50]!r}")
        assert len(str(caught.value)) < 10_000
        assert all(len(str(d["loc"])) < 2_000 for d in caught.value.errors())


async def test_a_path_that_is_too_long_is_beyond_a_limit(memory_app: App) -> None:
    for name in BAD_NAMES[-3:-1]:
        with pytest.raises(LimitExceeded, match="at most 1,000 characters and 100 names"):
            await Friend.count([(name, "=", 1)])


async def test_hints_are_looked_for_a_bounded_number_of_times(
    memory_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = difflib.get_close_matches

    def counted(word: str, *more: Any, **options: Any) -> Any:
        asked.append(word)
        return original(word, *more, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    with pytest.raises(ValidationError) as caught:
        await Friend.create({f"numbe{n}": 1 for n in range(10_000)})
    assert len(caught.value.errors()) == 10_000 and len(asked) <= 20
    assert str(caught.value).count("\n") == MOST_LINES + 1 and "9,900 more" in str(caught.value)
    asked.clear()
    for place, ask in PLACES.items():
        with pytest.raises(ValidationError):
            await ask("number" * 50_000)
        assert all(len(word) <= 64 for word in asked), place


# -- internal fields ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_revision", "_parent_path"])
async def test_nobody_sets_an_internal_field(app: App, name: str) -> None:
    value: Any = 77 if name == "_revision" else "x/"
    record = await Ruled.create({"name": "a"})
    ways = {
        "create": lambda: Ruled.create({"name": "n", name: value}),
        "create many": lambda: Ruled.create_many([{"name": "n", name: value}]),
        "none": lambda: Ruled.create({"name": "n", name: None}),
        "write": lambda: record.write({name: value}),
        "update": lambda: Ruled.search().update({name: value}),
        "write many": lambda: Ruled.write_many({record.pk: {name: value}}),
        "assign": lambda: _assign(record, name, value),
        "save new": lambda: Ruled(name="n", **{name: value}).save(),
        "bulk": lambda: _bulk(name, value),
        "upsert": lambda: Ruled.upsert({"name": "new", name: value}, on="name"),
    }
    with system(reason="nor does the system"):
        for label, way in ways.items():
            with pytest.raises(ValidationError, match="kept by EarnORM itself") as caught:
                await way()
            assert {d["type"] for d in caught.value.errors()} <= {"internal", "change"}, label
    stored = await app.dangerous_raw("to look")[Ruled._collection].find().to_list(None)
    assert [document["name"] for document in stored] == ["a"]
    await record.write({"name": "b"})  # it goes on by itself
    copied = await record.copy({"name": "c", "parent_id": record})
    assert copied._parent_path == f"{record.pk}/{copied.pk}/" and copied._revision == 0


async def _assign(record: Any, name: str, value: Any) -> None:
    setattr(record, name, value)
    await record.save()


async def _bulk(name: str, value: Any) -> None:
    async with Ruled.bulk() as bulk:
        bulk.create({"name": "n", name: value})


# -- questions about other records ----------------------------------------------------------------


def any_of(path: str, number: int, operator: str = "any") -> list[Any]:
    return [(path, operator, [("name", "=", str(n))]) for n in range(number)]


async def test_negated_conditions_on_one_relation_are_one_question(commands: Commands) -> None:
    a, _, c = await Friend.create([{"name": "1"}, {"name": "2"}, {"name": "c"}])
    await Friend.create([{"name": "x", "friend_ids": [a, c]}, {"name": "y", "friend_ids": [c]}])
    await Friend.create([{"name": "z", "best_id": a}, {"name": "w"}])
    commands.clear()
    found = await Friend.search(any_of("friend_ids", 2000, "not any"), order="name")
    assert len(commands.named("find")) == 2
    assert found.mapped("name") == ["1", "2", "c", "w", "y", "z"]
    commands.clear()
    single = Or([Condition("best_id", "not any", [("name", "=", n)]) for n in ("1", "2")])
    assert await Friend.count(single & Domain([("name", "in", ["z", "w"])])) == 2
    assert len(commands.named("find")) == 1


async def test_a_condition_asks_a_bounded_number_of_questions(memory_app: App) -> None:
    many = any_of("friend_ids", MOST_QUESTIONS + 1)
    assert await Friend.count(many[:-1]) == 0
    nested = [("friend_ids", "any", any_of("friend_ids", 30)) for _ in range(1)]
    nested += [("friend_ids", "any", [*any_of("friend_ids", 30), ("number", "=", n)]) for n in range(3)]  # fmt: skip
    for domain in (many, nested):
        with pytest.raises(LimitExceeded, match="questions") as caught:
            await Friend.count(domain)
        assert caught.value.code == "limit" and isinstance(caught.value, DomainError)
        with system(reason="no limit"):
            assert await Friend.count(domain) == 0


async def test_merged_conditions_mean_the_same(app: App) -> None:
    a, b = await Friend.create([{"name": "1"}, {"name": "2"}])
    for friends in ([], [a], [b], [a, b]):
        await Friend.create({"name": "x", "friend_ids": friends, "best_id": (friends or [None])[0]})
    terms = {
        (path, n): Condition(path, "any", [("name", "=", n)])
        for path in ("friend_ids", "best_id")
        for n in ("1", "2")
    }
    for path in ("friend_ids", "best_id"):
        one, two = terms[path, "1"], terms[path, "2"]
        no_one, no_two = (Condition(path, "not any", [("name", "=", n)]) for n in ("1", "2"))
        for merged, apart in (
            (And([no_one, no_two]), Not(Or([one, two]))),
            (Or([no_one, no_two]), Not(And([one, two]))),
        ):
            ids = [set((await Friend.search(domain)).pks) for domain in (merged, apart)]
            assert ids[0] == ids[1]


def test_the_one_error_is_part_of_the_tree() -> None:
    assert issubclass(LimitExceeded, EarnORMError) and LimitExceeded.status == 422


async def test_nested_dicts_of_loaded_records_have_one_limit(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    friends = await Friend.create([{"name": str(n)} for n in range(8)])
    for friend in friends:
        friend.friend_ids = friends
    assert len(friends[0].to_dict(depth=1)["friend_ids"]) == 8
    # Each one leads to all others, so 8! dicts would be made of each record.
    monkeypatch.setattr(serializing, "MAX_NESTED", 1_000)
    for make in (friends.to_dict, friends[0].to_dict, friends.to_json, friends[0].to_json):
        with pytest.raises(LimitExceeded, match="more than 1,000 related records"):
            make(depth=10**9)
    assert len(friends.to_dict(depth=1)) == 8


async def test_nested_dicts_end_before_the_limit_of_recursion(app: App) -> None:
    chain = await Friend.create({"name": "0"})
    for number in range(1, 62):
        chain = await Friend.create({"name": str(number), "best_id": chain})
    for make in (chain.to_dict, chain.to_json):
        assert make(depth=60)
        with pytest.raises(LimitExceeded, match="at most 60 levels"):
            make(depth=10**9)
