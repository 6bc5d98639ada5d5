"""How a pipeline joins the query's own condition: indexes are used, and nothing else is evaluated."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

from earnorm import (
    App,
    BaseModel,
    List,
    Many2one,
    NotSupported,
    Point,
    String,
    ValidationError,
    hookimpl,
    system,
    transaction,
)
from earnorm.features.grouping import probing
from earnorm.features.grouping.joining import BARRIER, split
from earnorm.features.grouping.vocabulary import EXPRESSIONS, STAGES
from earnorm.kernel.serving.searches import Sight

from .conftest import DRIVERS, Commands, Watching, default_app


class Person(BaseModel):
    _name = "pipeline.person"
    _indexes = [{"about": "text"}]
    owner = String()
    name = String(index=True)
    text = String(db_name="t")
    about = String()
    tags = List(String())
    boss_id = Many2one("pipeline.person")
    place = Point(index="2dsphere")


class Node(BaseModel):
    _name = "pipeline.node"
    _parent_store = True
    _versioned = True
    name = String()
    parent_id = Many2one("pipeline.node", on_delete="cascade")


class Own:
    """Everybody sees Eve's persons only."""

    api = 1
    name = "own"

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> list[Any]:
        async def narrow(op: Any, call_next: Any) -> Any:
            if op.env.system:
                return await call_next(op)
            return await call_next(op.replace(domain=op.domain & (Person.owner == "eve")))

        return [(100, narrow)] if model._name == "pipeline.person" else []


@pytest.fixture(params=DRIVERS)
async def commands(request: pytest.FixtureRequest, database: str) -> Any:
    listener = Commands()
    async with default_app(request.param, database, [Watching(listener), Own()]) as app:
        with system(reason="the test's documents"):
            await Person.create(
                [
                    {
                        "name": f"n{n}",
                        "owner": "eve" if n == 7 else "ann",
                        "about": "red",
                        "text": "7" if n == 7 else f"x{n}",
                        "place": [n / 100, 1],
                    }
                    for n in range(200)
                ]
            )
        listener.app = app  # type: ignore[attr-defined]
        listener.clear()
        yield listener


FAILING = {"$or": [{"$expr": {"$eq": [{"$toInt": "$t"}, 1]}}, {"t": "-none-"}]}


async def examined(commands: Commands, pipeline: list[Any]) -> int:
    """The number of documents that the server examines for a pipeline, as it tells itself."""
    commands.clear()
    await Person.search().aggregate(pipeline)
    sent = [c for c in commands.named("aggregate") if c["aggregate"] == Person._collection][-1]
    raw = commands.app.dangerous_raw("explain")  # type: ignore[attr-defined]
    command = {"aggregate": sent["aggregate"], "pipeline": sent["pipeline"], "cursor": {}}
    plan = await raw.command({"explain": command, "verbosity": "executionStats"})
    return sum(found(plan, "totalDocsExamined"))


def found(plan: Any, key: str) -> list[int]:
    if isinstance(plan, dict):
        own = [plan[key]] if key in plan else []
        return own or [n for value in plan.values() for n in found(value, key)]
    return [n for item in plan for n in found(item, key)] if isinstance(plan, list) else []


@pytest.mark.parametrize(
    "pipeline",
    [
        [{"$match": {"name": "n7"}}],
        [{"$match": {"name": "n7"}}, {"$match": FAILING}],
        [{"$match": {"name": "n7", **FAILING}}],
        [{"$match": {"$and": [FAILING, {"$and": [{"name": "n7"}]}]}}],
        [{"$match": {"name": "n7"}}, {"$group": {"_id": "$t", "n": {"$sum": 1}}}],
        [{"$match": {"name": "n7"}}, {"$group": {"_id": "$$ROOT"}}],
        [{"$match": {"name": "n7"}}, {"$sort": {"name": 1}}, {"$set": {"y": {"$toInt": "$t"}}}],
    ],
    ids=str,
)
async def test_plain_conditions_use_the_indexes_beside_a_rule(
    commands: Commands, pipeline: list[Any]
) -> None:
    assert await examined(commands, pipeline) == 1


async def test_an_order_uses_its_index_before_the_keys_are_left_out(commands: Commands) -> None:
    first = [{"$sort": {"name": 1}}, {"$limit": 1}]
    with system(reason="to compare"):
        assert await examined(commands, first) == 1
        assert await examined(commands, [{"$unset": "tags"}, *first]) == 200
    assert await examined(commands, first) < 200


async def test_a_stage_that_may_fail_is_not_evaluated_on_other_documents(
    commands: Commands,
) -> None:
    for stages in (
        [{"$match": FAILING}],
        [{"$match": {"name": "n7"}}, {"$match": FAILING}],
        [{"$sort": {"name": 1}}, {"$limit": 5}, {"$match": FAILING}],
        [{"$lookup": {"from": "pipeline.person", "pipeline": [{"$match": FAILING}], "as": "l"}}],
        [{"$unionWith": "pipeline.person"}, {"$match": FAILING}],
        [{"$facet": {"f": [{"$unionWith": "pipeline.person"}, {"$match": FAILING}]}}],
    ):
        await Person.search().aggregate(stages)  # it fails for each of the others


async def test_a_query_s_own_condition_comes_first_as_well(server_app: App) -> None:
    await Node.create([{"name": "1"}, {"name": "x"}])
    rows = await Node.search([("name", "=", "1")]).aggregate(
        [{"$match": {"$or": [{"$expr": {"$eq": [{"$toInt": "$name"}, 1]}}, {"name": "-"}]}}]
    )
    assert [row["name"] for row in rows] == ["1"]


# -- the probe ------------------------------------------------------------------------------------


async def test_the_probe_tells_a_barrier_from_none(commands: Commands) -> None:
    bound = commands.app.bind(Person)  # type: ignore[attr-defined]
    assert await probing.barrier_holds(bound) is True
    assert await probing.barrier_holds(bound, None) is False
    assert await probing.barrier_holds(bound, {"$skip": 0}) is False
    assert await probing.barrier_holds(commands.app.bind(Node)) is None  # type: ignore[attr-defined]


async def test_the_server_is_asked_once_and_outside_of_a_transaction(commands: Commands) -> None:
    async with transaction():
        await Person.search().aggregate([{"$set": {"y": {"$toInt": "$t"}}}])
    assert len(commands.named("aggregate")) == 2
    await Person.search().aggregate([{"$set": {"y": {"$toInt": "$t"}}}])
    assert len(commands.named("aggregate")) == 3
    [probe] = [c for c in commands.named("aggregate") if probing._KEY in str(c["pipeline"])]
    assert "txnNumber" not in probe


async def test_without_a_barrier_what_may_fail_is_refused(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def does_not_hold(bound: Any) -> bool:
        return False

    monkeypatch.setattr(probing, "barrier_holds", does_not_hold)
    failing = [{"$set": {"y": {"$toInt": "$t"}}}]
    with pytest.raises(NotSupported, match="only system"):
        await Person.search().aggregate(failing)
    with pytest.raises(NotSupported):
        await Node.search().aggregate(
            [{"$lookup": {"from": "pipeline.person", "as": "l", "pipeline": failing}}]
        )
    await Person.search().aggregate([{"$set": {"y": {"$eq": ["$t", 1]}}}])
    with system(reason="it may"):
        await Person.search([("name", "=", "n7")]).aggregate(failing)


# -- what has to come first -----------------------------------------------------------------------


async def test_a_full_text_search_is_joined_with_the_rule(commands: Commands) -> None:
    rows = await Person.search().aggregate([{"$match": {"$text": {"$search": "red"}}}])
    assert [row["name"] for row in rows] == ["n7"]


async def test_the_nearest_are_looked_for_within_the_rule(commands: Commands) -> None:
    near = {
        "near": {"type": "Point", "coordinates": [0, 1]},
        "key": "place",
        "distanceField": "far",
        "query": {"name": {"$ne": "n8"}},
    }
    rows = await Person.search().aggregate([{"$geoNear": near}])
    assert [row["name"] for row in rows] == ["n7"] and rows[0]["far"] > 0
    union = {"$unionWith": {"coll": "pipeline.person", "pipeline": [{"$geoNear": near}]}}
    assert [row["name"] for row in await Node.search().aggregate([union])] == ["n7"]
    for wrong, message in (
        ({**near, "key": None}, "names its field"),
        ({**near, "query": {"$expr": {"$toInt": "$t"}}}, "no expressions"),
        ({**near, "sort": 1}, "no such option"),
    ):
        with pytest.raises(ValidationError, match=message):
            await Person.search().aggregate([{"$geoNear": wrong}])
    with pytest.raises(NotSupported, match="first stage"):
        await Person.search(order="name", limit=3).aggregate([{"$geoNear": near}])


# -- what a row shows -----------------------------------------------------------------------------


async def test_only_system_sees_keys_that_no_field_declares(server_app: App) -> None:
    root = await Node.create({"name": "root"})
    await Node.create({"name": "leaf", "parent_id": root})
    raw = server_app.dangerous_raw("a key of another program")[Node._collection]
    await raw.update_many({}, {"$set": {"other": "secret"}})
    graph = {
        "from": "pipeline.node",
        "startWith": "$_id",
        "connectFromField": "parent_id",
        "connectToField": "_id",
        "as": "up",
        "depthField": "depth",
    }
    whole = {"$push": "$$ROOT"}
    pipelines: list[list[dict[str, Any]]] = [
        [],
        [{"$limit": 1}],
        [{"$group": {"_id": None, "all": whole}}],
        [{"$set": {"a": 1}}, {"$group": {"_id": None, "all": whole}}],
        [{"$facet": {"f": [{"$group": {"_id": None, "all": whole}}]}}],
        [{"$unionWith": "pipeline.node"}],
        [{"$lookup": {"from": "pipeline.node", "as": "l", "pipeline": []}}],
        [
            {
                "$lookup": {
                    "from": "pipeline.node",
                    "localField": "parent_id",
                    "as": "l",
                    "foreignField": "_id",
                }
            }
        ],
        [{"$graphLookup": graph}],
        [{"$project": {"x": "$other", "y": "$_parent_path", "z": "$_revision"}}],
        [{"$sort": {"other": 1}}, {"$match": {"other": {"$exists": True}}}],
    ]
    for pipeline in pipelines:
        rows = await Node.search().aggregate(pipeline)
        for told in ("secret", "_parent_path", "_revision", str(root.pk) + "/"):
            assert told not in repr(rows), pipeline
    [row] = await Node.search([("name", "=", "leaf")]).aggregate([{"$graphLookup": graph}])
    assert sorted((up["name"], up["depth"]) for up in row["up"]) == [("leaf", 0), ("root", 1)]
    with system(reason="to look"):
        rows = await Node.search().aggregate([])
        assert "secret" in repr(rows) and "_parent_path" in repr(rows)


async def test_a_join_compares_no_key_that_is_not_shown(server_app: App) -> None:
    for stage in (
        {"$lookup": {"from": "pipeline.node", "localField": "name", "foreignField": "_parent_path",
                     "as": "l"}},
        {"$graphLookup": {"from": "pipeline.node", "startWith": "$name", "as": "l",
                          "connectFromField": "_parent_path", "connectToField": "_id"}},
        {"$graphLookup": {"from": "pipeline.node", "startWith": "$name", "as": "l",
                          "connectFromField": "parent_id", "connectToField": "other"}},
        {"$graphLookup": {"from": "pipeline.node", "startWith": "$name", "as": "l",
                          "connectFromField": "parent_id", "connectToField": "_id",
                          "restrictSearchWithMatch": {"$nor": [{"_parent_path": "x"}]}}},
    ):  # fmt: skip
        with pytest.raises(ValidationError, match="hidden from you"):
            await Node.search().aggregate([stage])


# -- the vocabulary -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"$set": {"x": {"$newExpression": 1}}}, r"no expression that is known"),
        ({"$set": {"x": {"$ads": 1}}}, r"did you mean"),
        ({"$match": {"a": {"$near": [0, 0]}}}, "no operator of conditions"),
        ({"$match": {"$expr": {"$regex": "a"}}}, "no expression"),
        ({"$match": {"a": {"$divide": [1, 2]}}}, "no operator of conditions"),
        ({"$set": {"x": "$$USER_ROLES"}}, "no variable"),
        ({"$set": {"x": "$$SEARCH_META.count"}}, "no variable"),
        ({"$set": {"x": {"$_internalJsEmit": {"this": 1, "eval": "f"}}}}, "JavaScript"),
        ({"$group": {"_id": 1, "x": {"$_internalJsReduce": {}}}}, "JavaScript"),
        ({"$lookup": {"from": "pipeline.node", "as": "l", "pipeline": [], "_internal": 1}}, "option"),
        (
            {
                "$graphLookup": {
                    "from": "pipeline.node", "startWith": "$_id", "as": "l",
                    "connectFromField": "parent_id", "connectToField": "_id",
                    "restrictSearchWithMatch": {"$or": [{"$expr": {"$eq": ["$name", 1]}}]},
                }
            },
            "no expressions",
        ),
    ],
    ids=str,
)  # fmt: skip
async def test_a_word_that_nobody_has_looked_at_is_refused(
    memory_app: App, stage: Any, message: str
) -> None:
    for wrapped in (stage, {"$facet": {"f": [stage]}}, {"$unionWith": {"coll": "pipeline.node", "pipeline": [stage]}}):  # fmt: skip
        with pytest.raises(ValidationError, match=message):
            await Node.search().aggregate([wrapped])


async def test_system_may_use_expressions_of_a_later_server(server_app: App) -> None:
    with system(reason="it may"), pytest.raises(ValidationError) as caught:
        await Node.search().aggregate([{"$set": {"x": {"$newExpression": 1}}}])
    assert caught.value.code == "evaluation" and "newExpression" in str(caught.value.__cause__)
    with system(reason="it may not"), pytest.raises(ValidationError, match="JavaScript"):
        await Node.search().aggregate([{"$set": {"x": {"$_internalJsEmit": {}}}}])


def test_what_is_data_stays_data() -> None:
    assert not {"$where", "$function", "$accumulator", "$out", "$merge"} & {*STAGES, *EXPRESSIONS}
    assert EXPRESSIONS["$toInt"] and not EXPRESSIONS["$eq"]


async def test_a_literal_is_no_expression(server_app: App) -> None:
    await Node.create({"name": "x"})
    [row] = await Node.search().aggregate([{"$project": {"x": {"$literal": {"$ads": "$$A"}}}}])
    assert row["x"] == {"$ads": "$$A"}


def test_a_condition_is_split_at_its_ands() -> None:
    shown = Sight({"a": 1, "b": 1})
    expr = {"$expr": {"$toInt": "$a"}}
    assert split({"a": 1}, shown) == ({"a": 1}, {})
    assert split({"a": 1, **expr}, shown) == ({"a": 1}, expr)
    assert split({"$and": [{"a": 1}, expr, {"b": 2}]}, shown) == ({"$and": [{"a": 1}, {"b": 2}]}, expr)  # fmt: skip
    assert split({"c": 1, "a.x": 2}, shown) == ({"a.x": 2}, {"c": 1})
    assert split({"$or": [{"a": 1}, {"c": 1}]}, shown) == ({}, {"$or": [{"a": 1}, {"c": 1}]})
    assert split({"c": ObjectId("0" * 24)}, Sight(None)) == ({"c": ObjectId("0" * 24)}, {})
    assert split({"a": 1, "b": 2}, Sight(None, ["b.x"])) == ({"a": 1}, {"b": 2})
    assert BARRIER == {"$limit": 2**62}
