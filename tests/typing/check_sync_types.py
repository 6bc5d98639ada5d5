"""What type checkers infer from earnorm.sync; run by mypy --strict and pyright."""

from collections.abc import Generator
from typing import assert_type

import earnorm
import earnorm.sync
from earnorm import BaseModel, ChangeEvent, Int, RecordSet, String, Transaction


class Item(BaseModel):
    name = String(required=True)
    number = Int()


@earnorm.transactional()
async def work(name: str, *, number: int = 0) -> Item:
    return await Item.create({"name": name, "number": number})


def check() -> None:
    assert_type(earnorm.sync.run(work("x")), Item)
    assert_type(earnorm.sync.run(work, "x", number=1), Item)
    assert_type(earnorm.sync.run(Item.get, "1"), Item)
    assert_type(earnorm.sync.run(Item.search()), RecordSet[Item])
    assert_type(earnorm.sync.run(Item.search().count()), int)
    earnorm.sync.run(work, 1)  # type: ignore[call-overload] # the function's own parameters
    earnorm.sync.run(work, "x", nummer=1)  # type: ignore[call-arg] # no such parameter
    earnorm.sync.run(3)  # type: ignore[call-overload] # nothing to await
    earnorm.sync.run(len, "x")  # type: ignore[call-overload] # not asynchronous

    with earnorm.sync.App("mongodb://localhost", database="d", max_pool_size=5) as app:
        assert_type(app, earnorm.sync.App)
        assert_type(app.run(work, "x", number=1), Item)
        assert_type(app.run(Item.search().first()), Item | None)
        assert_type(app.run(app.metrics()), str)
        assert_type(app.iterate(Item.search()), Generator[Item, None, None])
        with app.transaction(read_concern="snapshot") as running:
            assert_type(running, Transaction)
    assert_type(app.open(), earnorm.sync.App)
    assert_type(app.close(grace=1).is_clean, bool)

    for item in earnorm.sync.iterate(Item.search()):
        assert_type(item, Item)
    with earnorm.sync.entered(Item.watch()) as watch:
        for event in earnorm.sync.iterate(watch):
            assert_type(event, ChangeEvent[Item])
    with earnorm.sync.session(causal=True) as nothing:
        assert_type(nothing, None)
    earnorm.sync.transaction(read_concern="strong")  # type: ignore[arg-type] # no such level
    earnorm.sync.iterate([1])  # type: ignore[arg-type] # not asynchronous
