"""What type checkers infer from the test kit; run by mypy --strict and pyright."""

from datetime import timedelta
from typing import assert_type

from earnorm import App, BaseModel, Operation, RecordSet, String
from earnorm.plugin import DatabaseCall
from earnorm.testing import (
    Factory,
    FrozenTime,
    Interrupted,
    Queries,
    Recorder,
    app_with,
    assert_queries,
    count_queries,
    frozen_time,
    make,
    mongod,
    recording,
)


class Item(BaseModel):
    name = String(required=True)


async def check() -> None:
    assert_type(await make(Item, name="a"), Item)
    items = Factory(Item, name=lambda number: f"item {number}")
    assert_type(items, Factory[Item])
    assert_type(await items.create(name="b"), Item)
    assert_type(await items.create(3), RecordSet[Item])
    assert_type(items.build(), Item)
    await items.create("3")  # type: ignore[call-overload] # a number of records

    with mongod() as uri:
        async with app_with(uri=uri) as app:
            assert_type(app, App)
    with count_queries() as queries, assert_queries(at_most=2):
        assert_type(queries, Queries)
        assert_type(queries[0], DatabaseCall)
    with recording(app) as seen:
        assert_type(seen, Recorder)
        assert_type(seen.operations, list[str])
        assert_type(seen.sent, list[Operation])
    with frozen_time("2024-05-01") as time:
        assert_type(time, FrozenTime)
        time.move(timedelta(days=1))
    assert_type(await Interrupted(items.create(), lambda wait: wait), Item)
