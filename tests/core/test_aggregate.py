"""aggregate(): MongoDB's own pipeline inside the query's domain and everybody's rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bson import Code, Decimal128
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    Decimal,
    Int,
    List,
    Many2one,
    String,
    ValidationError,
    hookimpl,
    transaction,
)

from .conftest import Commands, default_app
from .laws import law, world


class Maker(BaseModel):
    _name = "agg.maker"
    _collection = "agg_makers"

    name = String(required=True)
    secret = String()
    boss_id = Many2one("agg.maker")


class Item(BaseModel):
    _name = "agg.item"

    name = String(required=True, db_name="n")
    price = Decimal()
    number = Int()
    tags = List(String())
    maker_id = Many2one(Maker)


async def stock() -> None:
    ann, bob = await Maker.create(
        [{"name": "Ann", "secret": "s1"}, {"name": "Bob", "secret": "s2"}]
    )
    await bob.write({"boss_id": ann})
    await Item.create(
        [
            {"name": "pen", "price": "1.5", "number": 3, "tags": ["x", "y"], "maker_id": ann},
            {"name": "cup", "price": "2.5", "number": 1, "tags": ["y"], "maker_id": bob},
            {"name": "hat", "number": 7, "maker_id": bob},
        ]
    )


@pytest.fixture
async def items(app: App) -> None:
    await stock()


@pytest.fixture
async def server_items(server_app: App) -> None:
    await stock()


CHEAP = [("number", "<", 5)]


async def test_the_pipeline_begins_with_the_query_s_records_order_and_window(items: None) -> None:
    rows = await Item.search(CHEAP, order="-number").aggregate([{"$project": {"_id": 0, "n": 1}}])
    assert rows == [{"n": "pen"}, {"n": "cup"}]
    window = Item.search(order="number", limit=1, offset=1)
    assert await window.aggregate([{"$project": {"_id": 0, "number": 1}}]) == [{"number": 3}]
    assert await Item.search(CHEAP).aggregate([{"$count": "n"}]) == [{"n": 2}]
    assert len(await Item.search().aggregate([])) == 3


async def test_only_leaves_the_other_fields_out(items: None) -> None:
    rows = await Item.search(order="number").only("name").aggregate([{"$match": {"number": 1}}])
    assert rows == []
    rows = await Item.search(order="number").only("name").aggregate([{"$limit": 1}])
    assert [sorted(row) for row in rows] == [["_id", "n"]]


async def test_rows_are_in_stored_form(server_items: None) -> None:
    rows = await Item.search().aggregate([{"$group": {"_id": None, "t": {"$sum": "$price"}}}])
    assert rows == [{"_id": None, "t": Decimal128("4.0")}]


async def test_facets_windows_and_buckets(server_items: None) -> None:
    [row] = await Item.search().aggregate(
        [
            {
                "$facet": {
                    "tags": [{"$unwind": "$tags"}, {"$sortByCount": "$tags"}],
                    "sizes": [
                        {
                            "$bucket": {
                                "groupBy": "$number",
                                "boundaries": [0, 4, 9],
                                "output": {"n": {"$sum": 1}},
                            }
                        }
                    ],
                }
            }
        ]
    )
    assert row["tags"] == [{"_id": "y", "count": 2}, {"_id": "x", "count": 1}]
    assert row["sizes"] == [{"_id": 0, "n": 2}, {"_id": 4, "n": 1}]
    running = {
        "sortBy": {"number": 1},
        "output": {"sum": {"$sum": "$number", "window": {"documents": ["unbounded", "current"]}}},
    }
    rows = await Item.search().aggregate([{"$setWindowFields": running}, {"$sort": {"number": 1}}])
    assert [row["sum"] for row in rows] == [1, 4, 11]


async def test_other_collections_are_named_by_their_models(server_items: None) -> None:
    lookup = {
        "from": "agg.maker",
        "localField": "maker_id",
        "foreignField": "_id",
        "as": "maker",
        "pipeline": [{"$project": {"_id": 0, "name": 1}}],
    }
    rows = await Item.search(CHEAP, order="number").aggregate([{"$lookup": lookup}])
    assert [row["maker"] for row in rows] == [[{"name": "Bob"}], [{"name": "Ann"}]]
    union = [
        {"$unionWith": {"coll": "agg.maker", "pipeline": [{"$set": {"n": "$name"}}]}},
        {"$sort": {"n": 1}},
    ]
    rows = await Item.search(CHEAP).aggregate(union)
    assert [row["n"] for row in rows] == ["Ann", "Bob", "cup", "pen"]
    assert len(await Item.search(CHEAP).aggregate([{"$unionWith": "agg.maker"}])) == 4
    graph = {
        "from": "agg.maker",
        "startWith": "$maker_id",
        "connectFromField": "boss_id",
        "connectToField": "_id",
        "as": "chain",
    }
    rows = await Item.search([("name", "=", "cup")]).aggregate([{"$graphLookup": graph}])
    assert sorted(maker["name"] for maker in rows[0]["chain"]) == ["Ann", "Bob"]


async def test_a_lookup_sends_the_collection_s_name(commands: Commands) -> None:
    await Item.search().aggregate(
        [{"$lookup": {"from": "agg.maker", "localField": "n", "foreignField": "name", "as": "c"}}]
    )
    [sent] = commands.named("aggregate")
    [lookup] = [stage["$lookup"] for stage in sent["pipeline"] if "$lookup" in stage]
    assert lookup["from"] == "agg_makers"


class Rules:
    """Ann's makers are hidden, secrets are hidden, and items of more than 5 are."""

    api = 1
    name = "rules"

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> list[Any]:
        async def narrow(op: Any, call_next: Any) -> Any:
            if op.env.system:
                return await call_next(op)
            if model._name == "agg.maker":
                from dataclasses import replace

                options = replace(op.options, fields=frozenset({"_id", "name"}))
                rule = Maker.name != "Ann"
                return await call_next(op.replace(domain=op.domain & rule, options=options))
            return await call_next(op.replace(domain=op.domain & (Item.number < 5)))

        return [(100, narrow)] if operation in ("search", "group") else []


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_nothing_hidden_comes_out_of_any_stage(driver: str, database: str) -> None:
    async with default_app(driver, database, [Rules()]):
        await stock()
        hidden = ("Ann", "s1", "s2", "hat")
        inner = {"from": "agg.maker", "as": "m"}
        by_id = {**inner, "localField": "maker_id", "foreignField": "_id"}
        everyone: dict[str, Any] = {**inner, "pipeline": []}
        let = {**inner, "let": {"x": "$number"}, "pipeline": [{"$match": {"secret": "s2"}}]}
        nested = {
            "coll": "agg.item",
            "pipeline": [{"$facet": {"f": [{"$lookup": everyone}]}}],
        }
        pipelines: list[list[dict[str, Any]]] = [
            [],
            [{"$lookup": by_id}],
            [{"$lookup": everyone}],
            [{"$lookup": let}],
            [{"$unionWith": "agg.maker"}],
            [{"$unionWith": nested}],
            [{"$facet": {"f": [{"$lookup": everyone}, {"$unionWith": "agg.maker"}]}}],
            [{"$match": {"$or": [{}, {"number": {"$gte": 0}}]}}],
        ]
        for pipeline in pipelines:
            rows = await Item.search().aggregate(pipeline)
            assert rows and not any(each in repr(rows) for each in hidden), pipeline
        assert "Bob" in repr(await Item.search().aggregate([{"$lookup": everyone}]))
        assert all(not row["m"] for row in await Item.search().aggregate([{"$lookup": let}]))
        with pytest.raises(ValidationError, match="foreign field is hidden"):
            await Item.search().aggregate([{"$lookup": {**by_id, "foreignField": "secret"}}])
        graph = {
            **inner,
            "startWith": "$maker_id",
            "connectFromField": "boss_id",
            "connectToField": "_id",
        }
        with pytest.raises(Exception, match="hidden from you"):
            await Item.search().aggregate([{"$graphLookup": graph}])


FORBIDDEN: list[tuple[Any, str]] = [
    ({"$out": "x"}, "writes past every layer"),
    ({"$merge": {"into": "x"}}, "writes past every layer"),
    ({"$collStats": {}}, "tells of the server"),
    ({"$indexStats": {}}, "not allowed"),
    ({"$currentOp": {}}, "not allowed"),
    ({"$listSessions": {}}, "not allowed"),
    ({"$listLocalSessions": {}}, "not allowed"),
    ({"$planCacheStats": {}}, "not allowed"),
    ({"$changeStream": {}}, "not allowed"),
    ({"$documents": []}, "reads no record"),
    ({"$facet": {"f": [{"$geoNear": {}}]}}, "first stage"),
    ({"$geoNear": {}}, "first stage|names its field"),
    ({"$vectorSearch": {}}, "first stage"),
    ({"$mach": {}}, "did you mean '\\$match'"),
    ({"$match": {"$where": "1"}}, "JavaScript"),
    ({"$match": {"$and": [{"a": 1}, {"$nor": [{"$where": "1"}]}]}}, "JavaScript"),
    ({"$match": {"a": Code("1")}}, "JavaScript"),
    ({"$set": {"a": {"$function": {"body": "", "args": [], "lang": "js"}}}}, "JavaScript"),
    ({"$group": {"_id": 1, "a": {"$accumulator": {}}}}, "JavaScript"),
    ({"$lookup": {"from": "agg_makers", "as": "m", "pipeline": []}}, "no model is named"),
    ({"$lookup": {"from": {"db": "x", "coll": "y"}, "as": "m", "pipeline": []}}, "by its name"),
    ({"$lookup": {"as": "m", "pipeline": [{"$documents": []}]}}, "by its name"),
    ({"$unionWith": "system.users"}, "no model is named"),
    ({"$unionWith": {"coll": "agg.maker", "db": "admin"}}, "no such option"),
    ({"$unionWith": {"pipeline": []}}, "by its name"),
    ({"$graphLookup": {"from": "x"}}, "no model is named"),
    ({"$graphLookup": {"from": "agg.maker", "restrictSearchWithMatch": {"$where": "1"}}}, "JavaS"),
    ({"$match": {}, "$out": "x"}, "one key"),
    ({}, "one key"),
    ("$out", "one key"),
    ({"$lookup": "agg.maker"}, "takes a dict"),
    ({"$facet": []}, "takes a dict"),
    ({"$facet": {"a": {"$out": "x"}}}, "list of stages"),
    ({7: 1}, "a text"),
]
WRAPS: list[Callable[[Any], Any]] = [
    lambda stage: stage,
    lambda stage: {"$facet": {"f": [{"$limit": 1}, stage]}},
    lambda stage: {"$lookup": {"from": "agg.maker", "as": "m", "pipeline": [stage]}},
    lambda stage: {"$unionWith": {"coll": "agg.maker", "pipeline": [stage]}},
    lambda stage: {"$lookup": {"from": "agg.maker", "as": "m", "pipeline": [
        {"$unionWith": {"coll": "agg.item", "pipeline": [stage]}}]}},
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(("stage", "message"), FORBIDDEN, ids=str)
async def test_what_is_not_allowed_is_refused_at_every_depth(
    memory_app: App, wrap: Callable[[Any], Any], stage: Any, message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        await Item.search().aggregate([wrap(stage)])


async def test_a_pipeline_is_a_list_and_not_too_deep(memory_app: App) -> None:
    for bad in ({"$match": {}}, "x", None):
        with pytest.raises(ValidationError, match="list of stages"):
            await Item.search().aggregate(bad)  # type: ignore[arg-type] # that is the point
    deep: Any = {}
    for _ in range(500):
        deep = {"$and": [deep]}
    with pytest.raises(ValidationError, match="too deeply"):
        await Item.search().aggregate([{"$match": deep}])
    stage: Any = {"$limit": 1}
    for _ in range(200):
        stage = {"$facet": {"f": [stage]}}
    with pytest.raises(ValidationError, match="too deeply"):
        await Item.search().aggregate([stage])


@pytest.mark.fuzz
def test_a_forbidden_stage_is_found_wherever_it_stands() -> None:
    names = st.sampled_from(["$where", "$function", "$accumulator"])
    plain = st.recursive(
        st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["a", "$and", "$expr"]), inner, max_size=2)
        ),
        max_leaves=5,
    )

    with world("memory") as server:

        @law(100)
        @given(names, plain, st.lists(st.sampled_from(["list", "dict"]), max_size=6), st.data())
        def holds(name: str, payload: Any, way: list[str], data: st.DataObject) -> None:
            bad: Any = {name: payload}
            for step in way:
                bad = [payload, bad] if step == "list" else {"x": payload, "$let": bad}
            stage = data.draw(st.sampled_from(["$match", "$project", "$group", "$set", "$redact"]))
            wrap = data.draw(st.sampled_from(WRAPS))

            async def check() -> None:
                with pytest.raises(ValidationError, match="JavaScript"):
                    await Item.search().aggregate([wrap({stage: {"y": bad}})])

            server.run(check)

        holds()


async def test_rows_stream(app: App) -> None:
    await Item.create([{"name": f"{n:05}", "number": n} for n in range(4500)])
    query = Item.search([("number", ">=", 100)], order="number")
    rows = [row["number"] async for row in query.aggregate([{"$project": {"number": 1}}])]
    assert rows == list(range(100, 4500))


async def test_a_stream_of_rows_that_is_left_closes_its_cursor(commands: Commands) -> None:
    await Item.create([{"name": f"{n:05}"} for n in range(4500)])
    commands.clear()
    rows = Item.search().aggregate([]).__aiter__()
    await anext(rows)
    await rows.aclose()  # type: ignore[attr-defined] # an async generator
    assert [name for name, _ in commands.all] == ["aggregate", "killCursors"]


async def test_a_pipeline_sees_its_transaction(server_app: App) -> None:
    await Item.search().aggregate([])
    async with transaction():
        await Item.create({"name": "new"})
        assert len(await Item.search().aggregate([{"$match": {"n": "new"}}])) == 1
