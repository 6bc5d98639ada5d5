"""Values for dotted paths beside unsaved changes of the same field: one write has both, or neither."""

from __future__ import annotations

import pytest

from earnorm import App, Inc, ValidationError

from .pending import Kept, Line, line
from .test_merged_paths_law import given


async def test_a_refused_path_leaves_the_record_and_the_database_alone(app: App) -> None:
    record = await Kept.create(given())
    before = (await Kept.get(record.id)).to_dict()
    record.main.sku = "changed"
    record.box = None
    record.lines.append(Line(sku="more"))
    for values, kind in (
        ({"main.qty": "many"}, "int_parsing"),
        ({"main.nothing": 1}, "change"),
        ({"main.qty": Inc(1)}, "unsaved"),
        ({"box.label": "b"}, "no_path"),
        ({"lines.7.qty": 1}, "no_path"),
        ({"main.address": {}, "main.address.zip": "1"}, "change"),
        ({"main": line(9), "main.qty": 1}, "change"),
    ):
        for call in (record.write, record.save):
            with pytest.raises(ValidationError) as caught:
                await call(values)
            assert caught.value.errors()[0]["type"] == kind, values
            assert (record.main.sku, record.main.qty, len(record.lines)) == ("changed", 1, 3)
            assert record.box is None and record.is_changed
    assert (await Kept.get(record.id)).to_dict() == before
    await record.save({"lines.2.qty": 8})
    assert (await Kept.get(record.id)).lines[2].qty == 8


async def test_two_programs_keep_their_changes_where_one_writes_a_path(app: App) -> None:
    record = await Kept.create(given())
    other = await Kept.get(record.id)
    other.main.address.city = "theirs"
    await other.save()
    record.main.sku = "mine"
    await record.write({"main.address.zip": "9"})
    stored = await Kept.get(record.id)
    assert stored.main.to_dict() == {
        "sku": "mine",
        "qty": 1,
        "marks": [],
        "address": {"city": "theirs", "zip": "9"},
    }
