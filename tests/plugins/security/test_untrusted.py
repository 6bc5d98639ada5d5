"""What a client has sent is used with the principal's rights, also inside of system()."""

from __future__ import annotations

import pytest

from earnorm import (
    AccessDenied,
    Domain,
    Int,
    Many2one,
    Principal,
    String,
    Sum,
    act_as,
    models,
    system,
)
from earnorm_security import Rule, user

EVE = Principal("eve")


class Owner(models.BaseModel):
    _name = "sent.owner"
    _rules = [Rule("own", [("name", "=", user.id)])]
    name = String()


class Thing(models.BaseModel):
    _name = "sent.thing"
    _rules = [Rule("own", [("owner", "=", user.id)])]
    owner = String()
    size = Int()
    owner_id = Many2one(Owner)


def sent(*conditions):
    return Domain.untrusted(list(conditions), fields=["size", "owner"])


@pytest.fixture
async def things(opened):
    async with opened():
        with system(reason="fill"):
            ann, eve = await Owner.create([{"name": "ann"}, {"name": "eve"}])
            await Thing.create(
                [
                    {"owner": "ann", "size": 1, "owner_id": ann},
                    {"owner": "eve", "size": 2, "owner_id": ann},
                    {"owner": "eve", "size": 3, "owner_id": eve},
                ]
            )
        with act_as(EVE), system(reason="a job that runs what a client has sent"):
            yield


ALL = [
    sent(),
    sent(["size", ">", 0]),
    sent(["size", ">", 0]) & [("size", "<", 9)],
    Domain([("size", "<", 0)]) | sent(["size", ">", 0]),
    ~sent(["size", "<", 0]),
    Domain(["!", ("size", "<", 0), sent()]),
]


@pytest.mark.parametrize("domain", ALL, ids=str)
async def test_reads_see_what_the_principal_sees(things, domain):
    assert await Thing.count() == 3  # the program's own, as system
    query = Thing.search(domain)
    assert sorted((await query).mapped("size")) == [2, 3]
    assert sorted([thing.size async for thing in query]) == [2, 3]
    assert await query.count() == 2 and await query.exists()
    assert await Thing.count(domain) == 2
    assert (await Thing.find_one(domain & [("size", "=", 1)])).exists() is False
    assert (await query.group("owner", total=Sum("size")))[0]["total"] == 5
    assert len(await query.aggregate([{"$project": {"size": 1}}])) == 2
    assert (await query.page()).total == 2
    assert len((await query.paginate()).records) == 2
    assert sorted((await Thing.search().where(domain)).mapped("size")) == [2, 3]


async def test_what_is_prefetched_is_the_principals_too(things):
    for records in (
        list(await Thing.search(sent(), order="size").prefetch("owner_id")),
        [thing async for thing in Thing.search(sent(), order="size").prefetch("owner_id")],
    ):
        assert [thing.owner_id.exists() for thing in records] == [False, True]


async def test_writes_reach_what_the_principal_may_change(things):
    assert await Thing.search(sent(["size", ">", 0])).update({"size": 5}) == 2
    assert sorted((await Thing.search()).mapped("size")) == [1, 5, 5]
    with pytest.raises(AccessDenied):
        await Thing.search(sent(["size", ">", 0])).update({"owner": "bob"})
    assert await Thing.search(sent()).delete() == 2
    assert (await Thing.search()).mapped("owner") == ["ann"]
