"""What a client has sent is used with the principal's rights, also inside of system()."""

from __future__ import annotations

import pytest

from earnorm import (
    AccessDenied,
    Count,
    Domain,
    Int,
    Many2one,
    Principal,
    String,
    Sum,
    ValidationError,
    act_as,
    models,
    system,
    untrusted,
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


async def test_a_write_checks_the_links_that_it_sets_as_the_principal(things):
    with act_as(Principal("root")), system(reason="look"):
        ann, eve = await Owner.search(order="name")
    query = Thing.search(sent(["size", "=", 3]))
    with pytest.raises(ValidationError, match="owner_id"):
        await query.update({"owner_id": ann})
    assert await query.update({"owner_id": eve}) == 1


async def test_a_pipeline_joins_what_the_principal_sees(things):
    for stage in (
        {
            "$lookup": {
                "from": "sent.owner",
                "localField": "owner_id",
                "foreignField": "_id",
                "as": "x",
            }
        },
        {"$unionWith": {"coll": "sent.owner"}},
    ):
        rows = await Thing.search(sent()).aggregate([stage, {"$match": {"x": {"$ne": []}}}])
        streamed = [row async for row in Thing.search(sent()).aggregate([stage])]
        assert "ann" not in str(rows) + str(streamed) and "eve" in str(rows) + str(streamed)


NAMES = ["owner", "size", "owner_id"]
MARKED = {
    "order": lambda: Thing.search(order=untrusted.order("size", fields=NAMES)),
    "no order": lambda: Thing.search().order(untrusted.order("", fields=NAMES)),
    "two orders": lambda: Thing.search().order("owner", untrusted.order("size", fields=NAMES)),
    "a listed order": lambda: Thing.search(order=["owner", untrusted.order("size", fields=NAMES)]),
    "only": lambda: Thing.search(only=untrusted.fields("size", fields=NAMES)),
    "only, and the same": lambda: Thing.search().only(
        "size", *untrusted.fields(["size"], fields=NAMES)
    ),
    "prefetch": lambda: Thing.search(prefetch=untrusted.fields("owner_id", fields=NAMES)),
    "prefetch()": lambda: Thing.search().prefetch(*untrusted.fields("owner_id", fields=NAMES)),
}


@pytest.mark.parametrize("query", MARKED.values(), ids=MARKED)
async def test_an_order_and_names_of_a_client_have_the_principals_rights(things, query):
    query = query()
    assert sorted((await query).mapped("size")) == [2, 3]
    assert sorted([thing.size async for thing in query.limit(5)]) == [2, 3]
    assert await query.count() == 2 and (await query.page()).total == 2
    assert len(await query.where([("size", ">", 0)]).to_dict()) == 2
    assert (await query.group("owner", total=Sum("size")))[0]["total"] == 5
    assert len(await query.aggregate([])) == 2


async def test_an_export_of_what_a_client_names_has_the_principals_rights(things):
    names = untrusted.fields("size", fields=NAMES)
    assert len(await Thing.search().to_dict(include=["size"])) == 3
    assert [row["size"] for row in await Thing.search(order="size").to_dict(include=names)] == [
        2,
        3,
    ]
    assert "1" not in await Thing.search().to_json(include=names)


async def test_a_cursor_of_a_client_has_the_principals_rights(things):
    query = Thing.search(order="size")
    for nothing in (None, ""):
        first = await query.paginate(1, after=untrusted.cursor(nothing))
        assert first.records.mapped("size") == [2]
    second = await query.paginate(1, after=untrusted.cursor(first.next))
    assert second.records.mapped("size") == [3] and second.next is None
    back = await query.paginate(5, before=untrusted.cursor(second.previous))
    assert back.records.mapped("size") == [2] and back.previous is None
    with pytest.raises(ValidationError):
        await query.paginate(1, after=untrusted.cursor("bm9uZQ"))


async def test_a_group_of_a_client_has_the_principals_rights(things):
    asked = untrusted.group({"aggregates": {"n": "count"}}, keys=["owner"])
    assert await Thing.search().group(asked) == [{"n": 2}]
    asked = untrusted.group({"keys": ["owner"]}, keys=["owner"])
    assert await Thing.search().group(asked) == [{"owner": "eve"}]
    for marked in (
        Thing.search().group("owner", having=Domain.untrusted([], fields=["n"]), n=Count()),
        Thing.search().group("owner", order=untrusted.order("n", fields=["n"]), n=Count()),
        Thing.search().group(*untrusted.fields("owner", fields=NAMES), n=Count()),
    ):
        assert await marked == [{"owner": "eve", "n": 2}]
    with pytest.raises(ValidationError, match="nothing beside"):
        await Thing.search().group(asked, n=Count())


async def test_watching_shows_what_the_principal_sees(things):
    async with Thing.watch(sent()) as changes:
        assert not changes._env.system


async def test_a_pipeline_of_a_client_has_the_principals_rights(things):
    asked = untrusted.pipeline([{"$match": {"size": {"$gt": 0}}}], fields=["size"])
    assert [row["size"] for row in await Thing.search(order="size").aggregate(asked)] == [2, 3]
    assert len([row async for row in Thing.search().aggregate(asked)]) == 2
    asked = untrusted.pipeline([], fields=["size"])
    assert len(await Thing.search().aggregate(asked)) == 2


async def test_a_condition_of_a_client_inside_of_ones_own_has_the_principals_rights(things):
    asked = Domain.untrusted([["name", "!=", "x"]], fields=["name"])
    for domain in (Thing.owner_id.any(asked), Domain([("owner_id", "any", asked)])):
        assert (await Thing.search(domain)).mapped("size") == [3]
    everything = Thing.owner_id.any([("name", "!=", "x")])
    assert await Thing.search(everything).count() == 3
