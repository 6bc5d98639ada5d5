"""The limits of an application to what its principals' reads and writes cost."""

from __future__ import annotations

import pytest

from earnorm import ConfigurationError, LimitExceeded, Principal, act_as, models, system
from earnorm.fields import Int, List, Many2one, String
from earnorm_security import Access, Limits

EVE = Principal("eve", roles=["user"])


class Ruled(models.BaseModel):
    _name = "limits.of_principals"
    _access = [Access("user", read=True, write=True, create=True, unlink=True)]
    name = String()
    number = Int()
    tags = List(String())


class Linked(models.BaseModel):
    _name = "limits.linked"
    _access = [Access("user", read=True, write=True, create=True, unlink=True)]
    name = String()
    number = Int()
    size = Int()
    above_id = Many2one("limits.linked")


SMALL = {"conditions": 3, "values": 5, "text": 10, "records": 2, "seconds": 5}
SMALL |= {"page": 2, "fields": 2, "depth": 2}
TOO_MUCH = {
    "conditions": lambda: Ruled.count([("number", "=", n) for n in range(4)]),
    "values": lambda: Ruled.count([("number", "in", list(range(6)))]),
    "text": lambda: Ruled.count([("name", "=", "x" * 11)]),
    "text in a list": lambda: Ruled.count([("name", "in", ["x" * 11])]),
    "records": lambda: Ruled.search()._run(),
    "records, with a limit": lambda: Ruled.search(limit=3)._run(),
    "update": lambda: Ruled.search([("number", "in", list(range(6)))]).update({"name": "x"}),
    "delete": lambda: Ruled.search([("number", "in", list(range(6)))]).delete(),
    "group": lambda: Ruled.search([("number", "in", list(range(6)))]).group("name"),
    "aggregate": lambda: Ruled.search([("number", "in", list(range(6)))]).aggregate([])._run(),
    "page": lambda: Ruled.search().page(size=3),
    "a page of a cursor": lambda: Ruled.search().paginate(size=3),
    "a page beyond the records": lambda: Linked.search().paginate(size=3),
    "fields": lambda: Linked.search().only("name", "number", "size"),
    "fields of a table": lambda: Linked.search().only("name", "number", "size").to_pandas(),
    "fields of a stream": lambda: streamed(Linked.search().only("name", "number", "size")),
    "prefetch": lambda: Linked.search().prefetch("above_id.above_id.above_id"),
    "prefetch of a stream": lambda: streamed(
        Linked.search().prefetch("above_id.above_id.above_id")
    ),
    "depth": lambda: Linked.search().to_dict(depth=3),
    "depth of JSON": lambda: Linked.search().to_json(depth=3),
    "depth of prefetched ones": lambda: Linked.search().prefetch("above_id").to_dict(depth=3),
}


async def streamed(query):
    async for _ in query:
        pass


FINE = (
    lambda: Ruled.search().paginate(size=2),
    lambda: Linked.search().only("name", "number"),
    lambda: Linked.search().prefetch("above_id.above_id").to_dict(depth=2),
    lambda: Ruled.count([("number", "in", [0, 1, 2])]),
    lambda: Ruled.search(limit=2)._run(),
    lambda: Ruled.search([("number", "=", 1)])._run(),
    lambda: Ruled.search().page(1, size=2),
    lambda: Ruled.search().update({"name": "y"}),
    lambda: Ruled.search().group("name"),
)


@pytest.mark.parametrize("what", TOO_MUCH)
async def test_what_costs_more_is_refused_with_one_error(opened, what):
    async with opened(limits=SMALL):
        with act_as(EVE):
            await Ruled.create([{"name": "x", "number": n} for n in range(4)])
            with pytest.raises(LimitExceeded) as caught:
                await TOO_MUCH[what]()
            assert caught.value.code == "limit"
        with system(reason="it has no limits"):
            await TOO_MUCH[what]()


async def test_what_costs_less_is_not_refused_and_a_stream_goes_on(opened):
    async with opened(limits=SMALL):
        with act_as(EVE):
            await Ruled.create([{"name": "x", "number": n} for n in range(4)])
            for fine in FINE:
                await fine()
            assert len([record async for record in Ruled.search()]) == 4


async def test_the_defaults_refuse_no_large_and_ordinary_question(opened):
    async with opened():
        with act_as(EVE):
            assert await Ruled.count([("number", "in", list(range(50_000)))]) == 0
            with pytest.raises(LimitExceeded):
                await Ruled.count([("number", "in", list(range(100_001)))])


async def test_a_wrong_limit_is_refused(opened):
    assert Limits().records is None
    with pytest.raises((ConfigurationError, ValueError)):
        async with opened(limits={"recods": 3}):
            pass
