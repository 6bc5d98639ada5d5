"""The way-in law for One2many, whose links other documents store.

Every way that may take several operations makes the same links of a value, or refuses it by the
same error; the ways that make one operation refuse all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import BaseModel, Command, Int, Many2one, One2many, RecordSet, String, ValidationError

from .laws import law, world
from .test_way_in_law import (
    PARENTS,
    WAYS,
    Way,
    assigned_twice,
    bulk_create,
    bulk_write,
    create_many,
    differences,
    save_set,
    update,
    upsert_new,
    upsert_old,
    write_many,
)


class Child(BaseModel):
    _name = "wayin_links.child"

    name = String(required=True)
    owner_id = Many2one("wayin_links.owner", db_name="o")


class Owner(BaseModel):
    _name = "wayin_links.owner"

    key = Int()
    parent_id = Many2one("wayin_links.parent")
    f = One2many(Child, "owner_id")


class Parent(BaseModel):
    _name = "wayin_links.parent"

    child_ids = One2many(Owner, "parent_id")


ONE_OPERATION: tuple[Way, ...] = (
    create_many,
    bulk_create,
    bulk_write,
    write_many,
    update,
    upsert_new,
    upsert_old,
)
SHAPES: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "list": list,
    "generator": lambda members: (member for member in members),
    "records": lambda members: RecordSet(Child, [m for m in members if isinstance(m, Child)]),
    "set command": lambda members: [Command.set([m for m in members if isinstance(m, Child)])],
    "cleared": lambda members: [*members, Command.clear()],
    "one": lambda members: members[0] if members and isinstance(members[0], Child) else [],
    "none": lambda members: None,
}
MEMBERS: Mapping[str, Callable[[Any], Any]] = {
    "record": lambda child: child,
    "id": lambda child: child.pk,
    "text": lambda child: child.id,
    "link": Command.link,
    "dict": lambda child: {"name": "new"},
    "command": lambda child: Command.create({"name": "new"}),
    "new record": lambda child: Child(name="new"),
}
REFUSED: Sequence[Any] = (
    *(3, "x", ["x"], [None], [3], {"name": "x"}, float("nan"), b"x"),
    *([{"name": 3}], [{}], [Command.create({"nope": 1})]),
)
members = st.lists(st.tuples(st.sampled_from([*MEMBERS]), st.integers(0, 1)), max_size=3)
cases = st.tuples(st.sampled_from([*SHAPES]), members) | st.tuples(
    st.just("refused"), st.sampled_from(REFUSED)
)


async def outcome(way: Way, case: tuple[str, Any]) -> Any:
    """Return the names of the links that a way stores, or the error by which it refuses them."""
    shape, drawn = case
    children = await Child.create([{"name": "a"}, {"name": "b"}])
    value = drawn
    if shape != "refused":
        value = SHAPES[shape]([MEMBERS[kind](children[number]) for kind, number in drawn])
    try:
        record = await way(Owner, value)
    except ValidationError:  # any other error is a failure of the law
        return "refused"
    stored = await Child.search([("owner_id", "=", record)], order="name")
    shown = await record.f
    assert sorted(shown.mapped("name")) == stored.mapped("name")
    assert await Child.search([("id", "in", children.pks)]).count() == 2
    return stored.mapped("name")


def is_taken(way: Way, case: tuple[str, Any]) -> bool:
    """Return whether the law speaks about a way and a value."""
    shape, drawn = case
    named = {kind for kind, _ in drawn} if shape not in ("refused", "none") else set[str]()
    if way is assigned_twice:
        # What commands and values of new records leave can't be read before the save.
        with_commands = {"set command", "cleared", "refused"}
        return shape not in with_commands and not named & {"dict", "command", "link"}
    if way is save_set:
        # One new record, or one generator, is not for two owners.
        return "new record" not in named and shape != "generator"
    return not (shape == "none" and way in (create_many, bulk_create))  # nothing to do


@pytest.mark.fuzz
def test_every_way_makes_the_same_links_of_a_value() -> None:
    PARENTS[Owner] = Parent
    with world() as here:

        async def check(case: tuple[str, Any]) -> None:
            ways = [way for way in WAYS if is_taken(way, case)]
            results = await asyncio.gather(*(outcome(way, case) for way in ways))
            outcomes = dict(zip(ways, results, strict=True))
            refused = [outcomes.pop(way) for way in ONE_OPERATION if way in outcomes]
            assert {*refused} == {"refused"}
            shown = {way.__name__: result for way, result in outcomes.items()}
            assert not differences(shown), shown
            assert case[0] != "refused" or all(o == "refused" for o in outcomes.values())

        @law(50)
        @given(cases)
        def holds(case: tuple[str, Any]) -> None:
            here.run(lambda: check(case))

        holds()
