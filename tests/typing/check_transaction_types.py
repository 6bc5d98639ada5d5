"""What type checkers infer from transactions, sessions, concerns and watch(); run by mypy --strict and pyright."""

from typing import assert_type

import earnorm
from earnorm import BaseModel, ChangeEvent, Int, Query, RecordSet, String, Transaction, Watch


class Item(BaseModel):
    name = String(required=True)
    number = Int()


@earnorm.transactional(retries=5, read_concern="snapshot")
async def work(name: str, *, number: int = 0) -> Item:
    return await Item.create({"name": name, "number": number})


async def check() -> None:
    assert_type(await work("x", number=1), Item)
    await work(1)  # type: ignore[arg-type] # the wrapped function's own parameters
    async with earnorm.transaction(read_concern="majority", write_concern={"w": 1}) as running:
        assert_type(running, Transaction)
        running.after_commit(lambda: None)
        running.after_rollback(check)
    await earnorm.after_commit(check)
    async with earnorm.session(causal=True) as nothing:
        assert_type(nothing, None)
    earnorm.transaction(read_concern="strong")  # type: ignore[arg-type] # no such level

    query = Item.search().read_concern("local").read_preference("secondary").write_concern(2).lock()
    assert_type(query, Query[Item])
    assert_type(await query, RecordSet[Item])
    Item.search(read_preference="second")  # type: ignore[arg-type] # no such mode

    async with Item.watch([("number", ">", 1)], before=True) as watch:
        assert_type(watch, Watch[Item])
        async for event in watch:
            assert_type(event, ChangeEvent[Item])
            assert_type(event.record, Item | None)
            assert_type(event.changed, frozenset[str])
            if event.record is not None:
                assert_type(event.record.name, str)
                assert_type(event.record.is_stale, bool)
