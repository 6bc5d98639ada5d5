"""Values for dotted paths beside unsaved changes of the same field: one write has both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from .laws import World, law, world
from .pending import Kept, Line, line

ROOTS = ("main", "lines", "by", "prices", "data", "box")

VALUES: dict[str, Any] = {
    "main.sku": "new",
    "main.qty": 70,
    "main.marks": ["x", "y"],
    "main.address": {"city": "far"},
    "main.address.zip": "7",
    "lines.0.qty": 71,
    "lines.1.address.city": "near",
    "by.a.qty": 72,
    "by.new": {"sku": "n"},
    "prices.p": "7.5",
    "data.deep.k": [1],
    "data.list.0": 9,
    "box.label": "big",
    "box.lines.0.marks": ["z"],
}


@pytest.fixture(scope="module")
def app_world() -> Iterator[World]:
    with world() as started:
        yield started


def given() -> dict[str, Any]:
    return {
        "n": 1,
        "text": "t",
        "main": line(1),
        "lines": [line(2), line(3)],
        "by": {"a": line(4)},
        "prices": {"p": "1.5", "o": "2"},
        "data": {"deep": {"k": 1, "l": 2}, "list": [1, 2]},
        "box": {"lines": [line(5)], "label": "small"},
    }


def change(record: Kept, root: str, how: str) -> None:
    """Change a field of a record, in place or by an assignment."""
    value: Any = getattr(record, root)
    if how == "assign":
        setattr(record, root, given()[root])
    elif root == "main":
        value.qty, value.address.city = 50, "changed"
    elif root == "lines":
        value[0].sku = "changed"
        value.append(Line(sku="more"))
    elif root == "by":
        value["a"].sku = "changed"
    elif root == "prices":
        value["o"] = value["p"]
    elif root == "data":
        value["deep"]["l"] = "changed"
    else:
        value.lines[0].qty = 51


def put(record: Kept, path: str) -> None:
    """Set the value for a path in memory."""
    value: Any = record
    *outer, last = path.split(".")
    for name in outer:
        value = _below(value, name)
    if isinstance(value, list):
        value[int(last)] = VALUES[path]
    elif isinstance(value, dict):
        value[last] = VALUES[path]
    else:
        setattr(value, last, VALUES[path])


def _below(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return value[int(name)]
    return value[name] if isinstance(value, dict) else getattr(value, name)


async def raw(record: Kept) -> dict[str, Any]:
    found = await record._fetch.app.dangerous_raw("to look at the database itself")[
        "pending_kept"
    ].find_one(record.pk)
    assert found is not None
    return {key: value for key, value in found.items() if key != "_id"}


@pytest.mark.fuzz
@law(150)
@hypothesis.given(
    changes=st.dictionaries(st.sampled_from(ROOTS), st.sampled_from(["assign", "in place"])),
    paths=st.sets(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4),
    is_save=st.booleans(),
)
def test_a_path_is_set_in_the_change_that_is_not_saved_yet(
    app_world: World, changes: dict[str, str], paths: set[str], is_save: bool
) -> None:
    if {"main.address", "main.address.zip"} <= paths:
        paths = paths - {"main.address"}

    async def example() -> None:
        record, twin = await Kept.create([given(), given()])
        record, twin = await Kept.get(record.id), await Kept.get(twin.id)
        held = [record.main, record.main.address, record.lines, record.lines[1], record.data]
        written = {path.partition(".")[0] for path in paths}
        for root, how in changes.items():
            change(record, root, how)
            if is_save or root in written:
                change(twin, root, how)
        if "assign" not in changes.values():
            mine = [record.main, record.main.address, record.lines, record.lines[1], record.data]
            assert all(map(_is, mine, held))
        await (record.save if is_save else record.write)({path: VALUES[path] for path in paths})
        for path in sorted(paths):
            put(twin, path)
        await twin.save()
        assert await raw(record) == await raw(twin)
        left = set() if is_save else changes.keys() - written
        for root in ROOTS:
            if root not in left:
                shown = record.to_dict(include=[root])
                assert shown == (await Kept.get(record.id)).to_dict(include=[root])
        assert record.is_changed == bool(left)
        await record.save()
        assert (await Kept.get(record.id)).to_dict(exclude=["id"]) == record.to_dict(exclude=["id"])

    app_world.run(example)


def _is(one: object, other: object) -> bool:
    return one is other
