"""Records are what the layers around a search give, whenever they were made."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import App, BaseModel, Int, RecordSet, hookimpl
from earnorm.backends.collection import PART
from earnorm.kernel.operations import Operation
from earnorm.kernel.serving import prepared

from .conftest import Keeping, default_app
from .laws import world

Documents = list[dict[str, Any]]


class Numbered(BaseModel):
    _name = "hydrate.numbered"
    number = Int()


def reverse_in_place(found: Documents) -> Documents:
    found.reverse()
    return found


def remove_in_place(found: Documents) -> Documents:
    del found[::2]
    return found


def replace_in_place(found: Documents) -> Documents:
    found[:1] = [dict(each, number=-1) for each in found[:1]]
    return found


def double_in_place(found: Documents) -> Documents:
    found += [dict(each) for each in found]
    return found


CHANGES: dict[str, Callable[[Documents], Documents]] = {
    "as it is": lambda found: found,
    "reversed": lambda found: found[::-1],
    "half of it": lambda found: found[: len(found) // 2],
    "nothing": lambda found: [],
    "changed values": lambda found: [dict(each, number=each["number"] + 1) for each in found],
    "reversed in place": reverse_in_place,
    "some removed in place": remove_in_place,
    "one replaced in place": replace_in_place,
    "doubled in place": double_in_place,
}


class Changing:
    """A layer that changes what a search found, and notes what it gave."""

    api = 1
    name = "changing"

    def __init__(self) -> None:
        self.how: list[str] = []
        self.given: list[dict[str, Any]] = []

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def change(op: Operation, call_next: Callable[[Operation], Awaitable[Any]]) -> Any:
            found = await call_next(op)
            for how in self.how:
                found = CHANGES[how](found)
            self.given = [dict(each) for each in found]
            return found

        return [(100, change)] if operation == "search" else []


def test_records_are_what_the_layers_gave() -> None:
    changing = Changing()
    # As if each result were a part of a large one.
    with patch.object(prepared, "_FEW", 0), world("pymongo", (changing,)) as w:

        @given(st.integers(0, 5), st.lists(st.sampled_from(sorted(CHANGES)), max_size=3))
        def law(count: int, how: list[str]) -> None:
            async def example() -> None:
                changing.how = []
                await Numbered.search().delete()
                await Numbered.create([{"number": n} for n in range(count)])
                changing.how = how
                found = await Numbered.search(order="number")
                assert [vars(each) for each in found] == changing.given
                assert len(set(map(id, found))) == len(found)
                assert all(type(each) is Numbered and each.is_stored for each in found)

            w.run(example)

        law()


async def test_a_list_that_is_given_twice_makes_other_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepared, "_FEW", 0)
    async with default_app("pymongo", f"core_{uuid.uuid4().hex[:12]}", [Keeping("search")]):
        await Numbered.create([{"number": n} for n in range(3)])
        first, second = await Numbered.search(), await Numbered.search()
        assert first == second and not any(a is b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("extra", [-1, 0, 1, PART + 1])
async def test_records_of_several_parts(app: App, extra: int) -> None:
    count = PART + extra
    await Numbered.create([{"number": n} for n in range(count)])
    found = await Numbered.search(order="number")
    assert [each.number for each in found] == list(range(count))
    assert len(set(map(id, found))) == count
    await Numbered.search([("number", "=", count - 1)]).update({"number": -1})
    assert [each.number for each in (await Numbered.search(order="number"))[:2]] == [-1, 0]
    few: RecordSet[Numbered] = await Numbered.search().only("number")
    assert len(few) == count and {"_id", "number"} == vars(few[0]).keys()
