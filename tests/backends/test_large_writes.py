"""A large write is sent with several commands, and answers as if it were one."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm.backends import Backend
from earnorm.backends import collection as sending
from earnorm.backends.base import (
    BulkDelete,
    BulkInsert,
    BulkRequest,
    BulkUpdate,
    Collection,
    IndexSpec,
)
from earnorm.exceptions import BatchRefused, DuplicateKey, EarnORMError

PART = 3
NUMBERS = range(8)
TAKEN: list[set[int]] = [set(), {0}, {4}, {7}, {1, 2}, {1, 6}, {0, 3, 4, 7}, set(NUMBERS)]
"""The positions of the documents whose value of a unique field is taken, in some writes."""


async def filled(backend: Backend, name: str, taken: set[int]) -> Collection:
    users = backend.collection(name)
    await users.create_indexes([IndexSpec((("code", 1),), {"unique": True, "name": "code"})])
    await users.insert([{"_id": f"old {n}", "code": n} for n in (*taken, -1)])
    await users.insert([{"_id": n, "code": 100 + n, "n": 0} for n in NUMBERS])
    return users


def requests(n: int) -> BulkRequest:
    """Insert, change or delete a record: the first two are refused where the value is taken."""
    if n % 3 == 0:
        return BulkInsert({"_id": f"new {n}", "code": n})
    if n % 3 == 1:
        return BulkUpdate({"_id": n}, {"$set": {"code": n}})
    return BulkDelete({"_id": n})


async def outcome(users: Collection, write: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    try:
        result["answer"] = await write
    except EarnORMError as error:
        result["error"] = type(error)
        assert isinstance(error, BatchRefused)
        written = None if error.written is None else list(error.written)
        result |= {"told": error.errors(), "written": written}
        result |= {"matched": error.matched, "deleted": error.deleted}
        if isinstance(error, DuplicateKey):
            result["fields"] = error.fields
    result["stored"] = await users.find({}, sort=[("_id", 1)])
    return result


async def _insert(users: Collection, ordered: bool) -> Any:
    return await users.insert([{"code": n, "_id": f"new {n}"} for n in NUMBERS], ordered=ordered)


async def _update(users: Collection, ordered: bool) -> Any:
    changes = [BulkUpdate({"_id": n}, {"$set": {"code": n}}) for n in NUMBERS]
    return await users.bulk_update(changes, ordered=ordered)


async def _bulk(users: Collection, ordered: bool) -> Any:
    return await users.bulk_write([requests(n) for n in NUMBERS], ordered=ordered)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("write", [_insert, _update, _bulk])
async def test_a_write_in_parts_answers_as_one_command(
    backend: Backend, write: Any, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, taken in enumerate(TAKEN):
        monkeypatch.setattr(sending, "WRITTEN_PART", 1_000)
        whole = await filled(backend, f"whole_{number}", taken)
        expected = await outcome(whole, write(whole, ordered))
        parts = await filled(backend, f"parts_{number}", taken)
        monkeypatch.setattr(sending, "WRITTEN_PART", PART)
        assert await outcome(parts, write(parts, ordered)) == expected


async def test_a_value_that_cannot_be_stored_is_named_where_it_is(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "WRITTEN_PART", PART)
    users = backend.collection("users")
    with pytest.raises(BatchRefused) as refused:
        await users.insert([{"_id": n, "bad": object() if n == 5 else 0} for n in NUMBERS])
    assert refused.value.errors()[0]["loc"] == (5, "bad")
    assert refused.value.written is None  # what was sent before it is not known


async def test_in_a_transaction_the_first_failure_ends_it(
    server_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = await filled(server_backend, "users", {1})
    monkeypatch.setattr(sending, "WRITTEN_PART", PART)
    with pytest.raises(DuplicateKey) as refused:
        async with server_backend.transaction({}) as session:
            changes = [BulkUpdate({"_id": n}, {"$set": {"code": n}}) for n in NUMBERS]
            await users.bulk_update(changes, session=session)
    assert [detail["loc"][0] for detail in refused.value.errors()] == [1]
    assert await users.count({"code": {"$gte": 100}}) == len(NUMBERS)
