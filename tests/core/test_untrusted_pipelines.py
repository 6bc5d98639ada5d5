"""untrusted.pipeline: a client's stages use what is offered, and see nothing of the other fields."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from bson import Code, Regex
from hypothesis import example, given
from hypothesis import strategies as st

from earnorm import EarnORMError, Int, List, String, ValidationError, models, untrusted
from earnorm.features.grouping.client_pipelines import (
    STAGES,
    WORDS,
    ClientPipeline,
    ClientStage,
    narrowed,
)
from earnorm.kernel.serving.searches import Sight

from .laws import World, law, world

FIELDS = ["kind", "size", "tags"]


def read(data: Any, **bounds: Any) -> ClientPipeline:
    return untrusted.pipeline(data, fields=FIELDS, **bounds)


BY_KIND = [
    {"$match": {"$or": [{"size": {"$gt": 1}}, {"kind": "b"}]}},
    {"$group": {"_id": "$kind", "total": {"$sum": "$size"}}},
    {"$sort": {"total": -1}},
]

BAD = [
    ({}, (), "no list of stages"),
    (["x"], (0,), "object of one key"),
    ([{"$limit": 1, "$skip": 1}], (0,), "object of one key"),
    ([{"$limit": 1}] * 11, (), "more than 10 stages"),
    ([{"$lookup": {"from": "core.secret"}}], (0,), "stage that is not offered"),
    ([{"$out": "x"}], (0,), "stage that is not offered"),
    ([{"$limit": 1}, {"$where": "1"}], (1,), "stage that is not offered"),
    ([{"$match": {"secret": 1}}], (0, "$match"), "field that is not offered"),
    ([{"$match": {"kinder": 1}}], (0, "$match"), "field that is not offered"),
    ([{"$match": {"$where": "1"}}], (0, "$match"), "operator that is not offered"),
    ([{"$match": {"$expr": {"$eq": [1, 1]}}}], (0, "$match"), "operator that is not offered"),
    ([{"$match": {"kind": {"$regex": "(a+)+$"}}}], (0, "$match"), "operator that is not offered"),
    ([{"$match": {"kind": {"$not": {"$where": 1}}}}], (0, "$match"), "operator that is not"),
    ([{"$match": {"$eq": 1}}], (0, "$match"), "no condition on a field"),
    ([{"$match": [1]}], (0, "$match"), "takes an object"),
    ([{"$match": {"kind": Code("x")}}], (0, "$match"), "a value is a text"),
    ([{"$match": {"kind": Regex("x")}}], (0, "$match"), "a value is a text"),
    ([{"$match": {"kind": "x" * 1001}}], (0, "$match"), "longer than 1000"),
    ([{"$match": {"x" * 1001: 1}}], (0, "$match"), "a key is a text"),
    ([{"$match": {"size": 2**63}}], (0, "$match"), "64 bits"),
    ([{"$match": {"size": float("nan")}}], (0, "$match"), "not finite"),
    ([{"$match": {"size": {"$in": list(range(501))}}}], (0, "$match"), "more than 500 values"),
    ([{"$match": {"size": {"$in": [[[[[[[[[[1]]]]]]]]]]}}}], (0, "$match"), "more than 10 levels"),
    ([{"$set": {"x": "$secret"}}], (0, "$set"), "field that is not offered"),
    ([{"$set": {"x": "$$ROOT"}}], (0, "$set"), "field that is not offered"),
    ([{"$set": {"x": {"$function": {}}}}], (0, "$set"), "operator that is not offered"),
    ([{"$set": {"a..b": 1}}], (0, "$set"), "no empty part"),
    ([{"$project": {"secret": 1}}], (0, "$project"), "field that is not offered"),
    ([{"$project": {"secret": {"x": 1}}}], (0, "$project"), "it takes paths"),
    ([{"$sort": {"secret": 1}}], (0, "$sort"), "field that is not offered"),
    ([{"$sort": {"size": {"$meta": "textScore"}}}], (0, "$sort"), "1 or -1"),
    ([{"$unset": ["size", "secret"]}], (0, "$unset"), "field that is not offered"),
    ([{"$unwind": "$secret"}], (0, "$unwind"), "field that is not offered"),
    ([{"$unwind": "tags"}], (0, "$unwind"), "begins with"),
    ([{"$unwind": {"path": "$tags", "includeArrayIndex": "x"}}], (0, "$unwind"), "takes a path"),
    ([{"$group": {"_id": {"$push": "$size"}}}], (0, "$group"), "operator that is not offered"),
    ([{"$group": {"_id": "$secret"}}], (0, "$group"), "field that is not offered"),
    ([{"$sortByCount": "$secret"}], (0, "$sortByCount"), "field that is not offered"),
    ([{"$bucket": {"groupBy": "$secret"}}], (0, "$bucket"), "field that is not offered"),
    ([{"$bucket": {"granularity": "R5"}}], (0, "$bucket"), "it takes groupBy"),
    ([{"$count": "$x"}], (0, "$count"), "has no \\$"),
    ([{"$limit": 0}], (0, "$limit"), "from 1"),
    ([{"$skip": -1}], (0, "$skip"), "from 0"),
    ([*BY_KIND, {"$match": {"size": 1}}], (3, "$match"), "field that is not offered"),
]


@pytest.mark.parametrize(("data", "loc", "says"), BAD)
def test_what_is_not_offered_is_refused_with_its_place(data: Any, loc: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says) as told:
        read(data)
    assert told.value.code == "untrusted" and told.value.errors()[0]["loc"] == loc
    assert "secret" not in str(told.value) and len(str(told.value)) < 300


def test_a_mistake_of_the_program_is_no_error_of_the_client() -> None:
    for offered in (
        {"stages": ["$lookup"]},
        {"stages": "$match"},
        {"operators": ["$where"]},
        {"operators": ["$expr"]},
        {"operators": ["$function"]},
    ):
        with pytest.raises(TypeError, match="untrusted"):
            read([], **offered)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        untrusted.pipeline([], fields=["$size"])


def test_a_copy_keeps_the_fields() -> None:
    sent = {"$match": {"size": 1}}
    kept = read([sent])
    sent["$match"]["secret"] = 1
    for same in (kept, pickle.loads(pickle.dumps(kept))):
        assert same == ({"$match": {"size": 1}}, {"$limit": 1000})
        assert same.fields == frozenset(FIELDS) and type(same[0]) is ClientStage


def test_a_sight_is_narrowed_to_what_is_offered_and_seen() -> None:
    sight = Sight({"a": 1, "b": 1, "_id": 1}, ["b.secret"])
    assert narrowed(sight, ["a", "a.x", "b", "b.y", "c"]).keys == {"_id": 1, "a": 1, "b.y": 1}
    assert narrowed(Sight(None), ["a.x"]).keys == {"_id": 1, "a.x": 1}


# -- on a server ----------------------------------------------------------------------------------


class Left(models.BaseModel):
    _name = "core.client.left"
    kind = String()
    size = Int()
    tags = List(Int())
    secret = Int()


class Right(models.BaseModel):
    _name = "core.client.right"
    kind = String()
    size = Int()
    tags = List(Int())
    secret = Int()


ROWS = [
    {"_id": 1, "kind": "a", "size": 1, "tags": [1, 2]},
    {"_id": 2, "kind": "b", "size": 2, "tags": []},
    {"_id": 3, "kind": "b", "size": 3},
]


@pytest.fixture(scope="module")
def app_world() -> Iterator[World]:
    with world() as made:
        database = made.app.dangerous_raw("two collections that differ in what is not offered")
        for model, secrets in ((Left, (1, 2, 0)), (Right, (0, 7, "x"))):
            rows = [{**row, "secret": s} for row, s in zip(ROWS, secrets, strict=True)]
            made.result(database[model._collection].insert_many(rows))
        yield made


async def told(model: Any, pipeline: Any) -> str:
    try:
        return str(sorted(map(str, await model.search().aggregate(pipeline))))
    except EarnORMError as error:
        return str(error).replace(model._name, "it")


def test_what_is_offered_runs_and_is_used_alone(app_world: World) -> None:
    async def check() -> None:
        rows = await Left.search().aggregate(read(BY_KIND))
        assert rows == [{"_id": "b", "total": 5}]
        assert len(await Left.search().aggregate(read([], rows=2))) == 2
        assert "secret" not in str(await Left.search().aggregate(read([])))
        assert "secret" not in str([row async for row in Left.search().aggregate(read([]))])
        sent = read(BY_KIND)
        for mixed in ([*sent], [{"$limit": 1}, *sent], [{"$facet": {"x": [*sent]}}]):
            with pytest.raises(ValidationError, match="without other stages"):
                await Left.search().aggregate(mixed)

    app_world.run(check)


PATHS = st.sampled_from([*FIELDS, "secret", "made", "_id", "tags.0"])
SCALARS = st.integers(-2, 8) | st.sampled_from(
    ["a", "b", "$size", "$secret", "$$ROOT", "$made", ""]
)
WORD = st.sampled_from(
    ["$gt", "$eq", "$sum", "$divide", "$in", "$cond", "$push", "$first", "$where"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORD | PATHS, inner, max_size=2),
    max_leaves=4,
)
STAGE = st.one_of(
    st.dictionaries(PATHS | st.just("$or"), VALUES, max_size=2).map(lambda v: {"$match": v}),
    st.dictionaries(PATHS, st.sampled_from([1, -1]), min_size=1, max_size=2).map(
        lambda v: {"$sort": v}
    ),
    st.dictionaries(PATHS, VALUES, min_size=1, max_size=2).map(lambda v: {"$set": v}),
    st.dictionaries(PATHS, st.just(1) | VALUES, min_size=1, max_size=2).map(
        lambda v: {"$project": v}
    ),
    st.tuples(VALUES, VALUES).map(lambda v: {"$group": {"_id": v[0], "made": {"$sum": v[1]}}}),
    PATHS.map(lambda v: {"$unwind": f"${v}"}),
    st.sampled_from([{"$count": "made"}, {"$limit": 1}, {"$sortByCount": "$secret"}]),
    st.tuples(st.sampled_from([*sorted(STAGES), "$lookup", "$out"]), VALUES).map(
        lambda v: {v[0]: v[1]}
    ),
)


def words(value: Any) -> Iterator[str]:
    """Yield each key that begins with a dollar."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("$"):
                yield key
            yield from words(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from words(item)


COLLECTING = {"$group", "$sortByCount", "$bucket"}


def references(value: Any) -> Iterator[str]:
    """Yield the path of each text that a server reads as one."""
    if isinstance(value, str) and value.startswith("$"):
        yield value[1:]
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from references(item)


@law(120)
@given(st.lists(STAGE, max_size=3))
@example([{"$match": {"secret": 1}}])
@example([{"$group": {"_id": "$secret"}}])
@example([{"$group": {"_id": "$$ROOT"}}])
@example([{"$set": {"made": {"$divide": [1, "$secret"]}}}])
@example([{"$sort": {"secret": 1}}, {"$limit": 1}])
def test_nothing_is_told_of_what_is_not_offered(app_world: World, stages: list[Any]) -> None:
    try:
        taken = read(stages)
    except ValidationError as error:
        assert error.code == "untrusted" and "secret" not in str(error)
    else:
        assert set(words(taken)) <= WORDS | STAGES
        is_made = False
        for stage in taken:
            ((name, value),) = stage.items()
            read_here = set(value if name in ("$match", "$sort") else references(value))
            assert is_made or "secret" not in read_here
            is_made = is_made or (isinstance(value, dict) and "secret" in value)
    # Even names that were taken by mistake find nothing. A server groups in no particular order, so
    # that what follows a group has another answer each time.
    groups = (n for n, stage in enumerate(stages, 1) if not COLLECTING.isdisjoint(stage))
    forced = ClientPipeline(map(ClientStage, stages[: next(groups, None)]))
    forced.fields = frozenset(FIELDS)

    async def check() -> None:
        assert await told(Left, forced) == await told(Right, forced)

    app_world.run(check)


def test_the_two_collections_differ_for_a_pipeline_of_the_program(app_world: World) -> None:
    async def check() -> None:
        for stages in ([{"$match": {"secret": 1}}], [{"$group": {"_id": "$secret"}}]):
            assert await told(Left, stages) != await told(Right, stages)

    app_world.run(check)
