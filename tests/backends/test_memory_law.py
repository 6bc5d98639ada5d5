"""The law of the memory backend: it answers as a server does, or says that it cannot, seldom."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection as ServerCollection
from pymongo.errors import OperationFailure

from earnorm.backends import ServerSettings, open_backend
from earnorm.backends.base import Collection
from earnorm.backends.in_memory.values import TYPE_CODES, TYPE_NAMES
from earnorm.domain import to_filter
from earnorm.exceptions import DomainError, EarnORMError, NotSupported
from tests.domain.fakes import loose
from tests.domain.test_agreement import Case, cases

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "150"))
SCHEMA = loose("abc")
Document = dict[str, Any]
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def server(mongo_uri: str) -> Iterator[ServerCollection[Document]]:
    name = f"law_{os.getpid()}"
    with MongoClient[Document](mongo_uri, uuidRepresentation="standard") as client:
        yield client[name]["law"]
        client.drop_database(name)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def memory(run: Any) -> Collection:
    async def opened() -> Collection:
        backend = open_backend(ServerSettings("mongomock://", "law"))
        await backend.connect()
        return backend.collection("law")

    return run(opened())


def exact(value: Any) -> Any:
    """The value with the types of its parts, and the order of its keys."""
    if isinstance(value, dict):
        return [(name, exact(item)) for name, item in value.items()]
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, float) and value != value:
        return "NaN"
    kind = int if isinstance(value, int) and not isinstance(value, bool) else type(value)
    return (kind.__name__, str(value) if isinstance(value, Decimal128) else value)


def by_name(value: Any) -> Any:
    """The value with the keys of its documents in the order of their names."""
    if isinstance(value, dict):
        return {name: by_name(value[name]) for name in sorted(value)}
    return [by_name(item) for item in value] if isinstance(value, list) else value


def fill(server: ServerCollection[Document], memory: Collection, run: Any, docs: list[Any]) -> None:
    docs = [{"_id": number, **doc} for number, doc in enumerate(docs)]
    server.delete_many({})
    server.insert_many(copy.deepcopy(docs))
    run(memory.delete({}))
    run(memory.insert(docs))


class Tally(Counter[str]):
    """What became of the examples."""

    def check(self, *, most_refused: float) -> None:
        asked = self.total()
        assert asked and self["not supported"] <= most_refused * asked, dict(self)
        assert self["same"] >= 0.3 * asked, dict(self)


# -- domains --------------------------------------------------------------------------------------


def test_domains_find_count_and_delete_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()

    @SETTINGS
    @given(cases)
    def law(case: Case) -> None:
        docs, domains = case
        fill(server, memory, run, docs)
        for domain in domains:
            try:
                query = to_filter(domain, SCHEMA)
            except DomainError:
                continue
            found = {doc["_id"] for doc in server.find(query)}
            try:
                rows = run(memory.find(query))
            except NotSupported:
                tally["not supported"] += 1
                continue
            assert {doc["_id"] for doc in rows} == found, query
            assert [exact(row) for row in rows] == [
                exact(row) for row in server.find({"_id": {"$in": sorted(found)}}).sort("_id")
            ]
            assert run(memory.count(query)) == len(found)
            tally["same"] += 1
        for domain in domains[:1]:
            try:
                query = to_filter(domain, SCHEMA)
                gone = run(memory.delete(query))
            except (DomainError, NotSupported):
                continue
            assert gone == server.delete_many(query).deleted_count
            left = {doc["_id"] for doc in run(memory.find({}))}
            assert left == {doc["_id"] for doc in server.find()}

    law()
    tally.check(most_refused=0.02)


PATHS = st.sampled_from(["a", "b", "c", "a.a", "a.b", "a.0", "a.0.b", "b.1", "a.b.a"])
ORDERS = st.lists(
    st.tuples(PATHS, st.sampled_from([1, -1])),
    min_size=1,
    max_size=3,
    unique_by=lambda pair: pair[0],
)


def test_orders_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()

    @SETTINGS
    @given(cases, ORDERS, st.integers(0, 2), st.integers(0, 3))
    def law(case: Case, order: list[tuple[str, int]], skip: int, limit: int) -> None:
        fill(server, memory, run, case[0])
        order = [*order, ("_id", 1)]
        try:
            expected = [d["_id"] for d in server.find().sort(order).skip(skip).limit(limit)]
        except OperationFailure:
            tally["refused"] += 1  # two lists in one order
            return
        rows = run(memory.find({}, sort=order, skip=skip, limit=limit))
        assert [row["_id"] for row in rows] == expected, order
        tally["same"] += 1

    law()
    tally.check(most_refused=0)


TYPES = st.sampled_from([*TYPE_NAMES, *TYPE_CODES, "nothing"])


def test_types_and_other_filters_of_programs_are_the_same(
    server: Any, memory: Collection, run: Any
) -> None:
    """What the library compiles of cursors, and what a program writes into ``$match``."""
    tally = Tally()
    scalars = st.sampled_from([None, 0, 1, 1.0, Decimal128("1"), "a", True, [], [1], {"a": 1}])
    tests = st.one_of(
        st.builds(lambda names: {"$type": names}, st.lists(TYPES, min_size=1, max_size=3) | TYPES),
        st.builds(
            lambda divisor, rest: {"$mod": [divisor, rest]}, st.integers(1, 3), st.integers(-1, 2)
        ),
        st.builds(
            lambda name, value: {name: value},
            st.sampled_from(["$eq", "$ne", "$gt", "$lte"]),
            scalars,
        ),
        st.builds(
            lambda name, values: {name: values},
            st.sampled_from(["$in", "$nin", "$all"]),
            st.lists(scalars, max_size=3),
        ),
        st.builds(
            lambda test, value: {"$elemMatch": {test: value}},
            st.sampled_from(["$gt", "$eq", "$ne"]),
            scalars,
        ),
        st.builds(lambda value: {"$elemMatch": {"a": value}}, scalars),
        st.builds(
            lambda text, options: {"$regex": text, "$options": options},
            st.sampled_from(["a", "^A", "\\w"]),
            st.sampled_from(["", "i", "m"]),
        ),
    )
    filters = st.recursive(
        st.builds(
            lambda path, test: {path: test},
            PATHS,
            tests | st.builds(lambda test: {"$not": test}, tests),
        ),
        lambda inner: st.builds(
            lambda name, parts: {name: parts},
            st.sampled_from(["$and", "$or", "$nor"]),
            st.lists(inner, min_size=1, max_size=2),
        ),
        max_leaves=3,
    )

    @SETTINGS
    @given(cases, filters)
    def law(case: Case, query: Document) -> None:
        fill(server, memory, run, case[0])
        check_pipeline(server, memory, run, tally, [{"$match": query}, {"$sort": {"_id": 1}}])

    law()
    tally.check(most_refused=0.05)


# -- updates --------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(
    [
        0,
        1,
        -3,
        2**31 - 1,
        2**31,
        Int64(5),
        2**63 - 1,
        0.5,
        -1.25,
        1.0,
        Decimal128("0.10"),
        Decimal128("2"),
    ]
)
TEXTS = st.sampled_from(["", "a", "A", "b", "é"])
MOMENTS = st.sampled_from([dt.datetime(2024, 2, 29, 23, 30), dt.datetime(1999, 12, 31)])
SCALARS = NUMBERS | TEXTS | MOMENTS | st.none() | st.booleans()
ITEMS = st.lists(
    SCALARS | st.fixed_dictionaries({}, optional={"a": SCALARS, "b": NUMBERS}), max_size=3
)
INNER = st.fixed_dictionaries({}, optional={"a": SCALARS, "b": SCALARS | ITEMS})
STORED = st.fixed_dictionaries(
    {},
    optional={
        "n": SCALARS,
        "t": SCALARS,
        "l": ITEMS | st.none() | SCALARS,
        "d": INNER | ITEMS | SCALARS,
    },
)
CHANGED = st.sampled_from(
    ["n", "t", "l", "d", "d.a", "d.b", "l.0", "l.2", "l.0.a", "d.x.y", "d.b.1", "d.0.b"]
)


@st.composite
def pushes(draw: Any) -> Document:
    spec: Document = {"$each": draw(ITEMS)}
    if draw(st.booleans()):
        spec["$position"] = draw(st.integers(-2, 3))
    if draw(st.booleans()):
        spec["$slice"] = draw(st.integers(-2, 3))
    if draw(st.booleans()):
        spec["$sort"] = draw(st.sampled_from([1, -1, {"a": 1}, {"b": -1, "a": 1}]))
    return spec


OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    "$set": SCALARS | ITEMS | INNER,
    "$unset": st.just(True),
    "$inc": NUMBERS,
    "$mul": NUMBERS,
    "$min": SCALARS | ITEMS,
    "$max": SCALARS | ITEMS,
    "$push": pushes(),
    "$addToSet": st.builds(lambda items: {"$each": items}, ITEMS),
    "$pullAll": ITEMS,
    "$pull": st.builds(lambda items: {"$in": items}, ITEMS) | SCALARS | ITEMS,
    "$pop": st.sampled_from([1, -1]),
    "$setOnInsert": SCALARS,
}


@st.composite
def updates(draw: Any) -> Document:
    update: Document = {}
    roots: set[str] = set()
    for _ in range(draw(st.integers(1, 3))):
        operator, path = draw(st.sampled_from(sorted(OPERANDS))), draw(CHANGED)
        root = path.partition(".")[0]
        if root not in roots:
            roots.add(root)
            update.setdefault(operator, {})[path] = draw(OPERANDS[operator])
    return update


def check_update(
    server: Any, memory: Collection, run: Any, tally: Tally, update: Any, **options: Any
) -> None:
    many, query = options.pop("many", True), options.pop("query", {})
    try:
        change = server.update_many if many else server.update_one
        reply = change(copy.deepcopy(query), copy.deepcopy(update), **options)
        expected: Any = reply.matched_count + (reply.upserted_id is not None)
    except OperationFailure as refused:
        expected = refused
    try:
        matched: Any = run(memory.update(query, update, many=many, **options))
    except NotSupported:
        tally["not supported"] += 1
        return
    except EarnORMError as refused:
        matched = refused
    if isinstance(expected, Exception):
        assert isinstance(matched, Exception), (update, expected)
        tally["refused"] += 1
        return
    assert matched == expected, (update, matched)
    stored = [exact(row) for row in server.find().sort("_id")]
    assert [exact(row) for row in run(memory.find({}, sort=[("_id", 1)]))] == stored, update
    tally["same"] += 1


def test_updates_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()

    @SETTINGS
    @given(st.lists(STORED, min_size=1, max_size=2), updates(), st.booleans())
    def law(docs: list[Document], update: Document, many: bool) -> None:
        fill(server, memory, run, docs)
        check_update(server, memory, run, tally, update, many=many)

    law()
    tally.check(most_refused=0.05)


def test_updates_of_items_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()
    lines = st.lists(
        st.fixed_dictionaries({"a": NUMBERS}, optional={"b": SCALARS, "l": ITEMS}), max_size=3
    )
    inside = {
        "$set": SCALARS,
        "$inc": NUMBERS,
        "$unset": st.just(True),
        "$push": pushes(),
        "$max": NUMBERS,
    }

    @st.composite
    def of_items(draw: Any) -> tuple[Document, list[Document]]:
        update: Document = {}
        for name in draw(st.lists(st.sampled_from("abl"), min_size=1, unique=True)):
            operator = draw(st.sampled_from(sorted(inside)))
            update.setdefault(operator, {})[f"d.$[i].{name}"] = draw(inside[operator])
        operator = draw(st.sampled_from(["$gte", "$lt", "$eq", "$ne"]))
        return update, [{"i.a": {operator: draw(NUMBERS)}}]

    @SETTINGS
    @given(st.lists(st.fixed_dictionaries({"d": lines}), min_size=1, max_size=2), of_items())
    def law(docs: list[Document], change: tuple[Document, list[Document]]) -> None:
        fill(server, memory, run, docs)
        update, filters = change
        check_update(server, memory, run, tally, update, array_filters=filters)

    law()
    tally.check(most_refused=0.05)


def test_upserts_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()

    @SETTINGS
    @given(st.lists(STORED, min_size=1, max_size=2), updates(), SCALARS, st.booleans())
    def law(docs: list[Document], update: Document, value: Any, is_plain: bool) -> None:
        fill(server, memory, run, docs)
        condition = value if is_plain else {"$eq": value}
        query = {"_id": ObjectId("65a000000000000000000001"), "k": condition, "m": {"$gt": 1}}
        check_update(server, memory, run, tally, update, query=query, upsert=True, many=False)

    law()
    tally.check(most_refused=0.05)


def test_unique_indexes_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    """Whatever becomes of each insert, in plain, sparse, partial and compound indexes."""
    tally = Tally()
    values = st.sampled_from(
        [
            *(None, 1, 1.0, Decimal128("1"), "a", "b", [], ["a"], ["a", "b"], {"a": 1}, [{"a": 1}]),
            *([{"a": 1, "b": 2}, {"a": 2, "b": 1}], [{"a": 1, "b": 1}], {"a": 2, "b": 1}),
        ]
    )
    documents = st.fixed_dictionaries({}, optional={"a": values, "b": values})
    kinds = st.sampled_from(
        [
            ([("a", 1)], {}),
            ([("a", 1)], {"sparse": True}),
            ([("a", 1)], {"partialFilterExpression": {"a": {"$type": ["string", "int"]}}}),
            ([("a", 1)], {"partialFilterExpression": {"a": {"$exists": True}, "b": {"$eq": 1}}}),
            ([("a", 1), ("b", -1)], {}),
            ([("a.a", 1)], {}),
            ([("a.a", 1), ("a.b", 1)], {}),
            ([("a", 1), ("a.a", 1)], {}),
        ]
    )

    @SETTINGS
    @given(kinds, st.lists(documents, min_size=2, max_size=5), st.integers(0, 2))
    def law(kind: Any, docs: list[Document], before: int) -> None:
        from earnorm.backends.base import IndexSpec

        keys, options = kind
        server.drop()
        run(memory.drop())
        server.database.create_collection(server.name)
        numbered = [{"_id": number, **doc} for number, doc in enumerate(docs)]
        for doc in numbered[:before]:
            server.insert_one(dict(doc))
            run(memory.insert([doc]))
        results: list[list[Any]] = [[], []]

        def noted(results: list[Any], do: Callable[[], Any]) -> None:
            try:
                do()
            except (OperationFailure, EarnORMError):
                results.append("refused")
            else:
                results.append("done")

        spec = IndexSpec(tuple(keys), {"unique": True, "name": "one", **options})
        noted(results[0], lambda: server.create_index(keys, unique=True, name="one", **options))
        noted(results[1], lambda: run(memory.create_indexes([spec])))
        for doc in numbered[before:]:
            noted(results[0], lambda doc=doc: server.insert_one(dict(doc)))
            noted(results[1], lambda doc=doc: run(memory.insert([doc])))
        change = {"$set": {"a": "a"}}
        noted(results[0], lambda: server.update_one({"_id": 0}, change))
        noted(results[1], lambda: run(memory.update({"_id": 0}, change)))
        assert results[0] == results[1], (kind, numbered)
        tally["same"] += 1

    try:
        law()
    finally:
        server.drop()
        run(memory.drop())
    tally.check(most_refused=0)


# -- pipelines ------------------------------------------------------------------------------------

FIELDS = st.sampled_from(["$n", "$t", "$l", "$d", "$d.a", "$d.b", "$x", "$at"])
LITERALS = (NUMBERS | TEXTS | MOMENTS | st.none() | st.booleans()).map(lambda v: {"$literal": v})
UNITS = st.sampled_from(["year", "quarter", "month", "week", "day", "hour", "minute"])
ZONES = st.sampled_from(["UTC", "Asia/Ho_Chi_Minh", "America/New_York", "+03:30"])


def operators(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    two = st.lists(inner, min_size=2, max_size=2)
    some = st.lists(inner, min_size=1, max_size=3)
    names = {
        1: [
            "$not",
            "$abs",
            "$ceil",
            "$floor",
            "$round",
            "$trunc",
            "$toUpper",
            "$toLower",
            "$strLenCP",
        ],
        2: ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$cmp", "$subtract", "$divide", "$mod"],
    }
    ones = ["$size", "$isArray", "$isNumber", "$type", "$toString", "$toInt", "$toLong", "$toBool"]
    lists = ["$first", "$last", "$reverseArray", "$objectToArray", "$allElementsTrue"]
    sets = ["$setUnion", "$setIntersection", "$concatArrays", "$mergeObjects"]
    pairs = ["$in", "$indexOfArray", "$setDifference", "$setIsSubset", "$arrayElemAt", "$split"]
    dates = [
        "$year",
        "$month",
        "$dayOfMonth",
        "$dayOfWeek",
        "$week",
        "$hour",
        "$minute",
        "$isoWeek",
    ]
    return st.one_of(
        st.builds(lambda n, x: {n: x}, st.sampled_from([*names[1], *ones, *lists]), inner),
        st.builds(lambda n, x: {n: x}, st.sampled_from([*names[2], *pairs]), two),
        st.builds(
            lambda n, x: {n: x},
            st.sampled_from(["$and", "$or", "$add", "$multiply", "$concat", *sets]),
            some,
        ),
        st.builds(
            lambda n, x: {n: x}, st.sampled_from(["$sum", "$avg", "$min", "$max"]), some | inner
        ),
        st.builds(lambda a, b: {"$ifNull": [a, b]}, inner, inner),
        st.builds(lambda a, b, c: {"$cond": [a, b, c]}, inner, inner, inner),
        st.builds(
            lambda a, b: {"$filter": {"input": a, "as": "one", "cond": b}},
            FIELDS,
            inner | st.just({"$ne": ["$$one", None]}),
        ),
        st.builds(lambda a: {"$map": {"input": a, "in": {"v": "$$this"}}}, FIELDS),
        st.builds(
            lambda case, then: {
                "$switch": {"branches": [{"case": case, "then": then}], "default": 0}
            },
            inner,
            inner,
        ),
        st.builds(
            lambda a, n, m: {"$substrCP": [a, n, m]}, FIELDS, st.integers(0, 2), st.integers(0, 2)
        ),
        st.builds(
            lambda name, zone: {name: {"date": "$at", "timezone": zone}},
            st.sampled_from(dates),
            ZONES,
        ),
        st.builds(
            lambda unit, zone: {
                "$dateTrunc": {
                    "date": "$at",
                    "unit": unit,
                    "startOfWeek": "monday",
                    "timezone": zone,
                }
            },
            UNITS,
            ZONES,
        ),
        st.builds(
            lambda unit, end: {"$dateDiff": {"startDate": "$at", "endDate": end, "unit": unit}},
            UNITS,
            MOMENTS,
        ),
        st.builds(
            lambda unit, amount: {"$dateAdd": {"startDate": "$at", "unit": unit, "amount": amount}},
            UNITS,
            st.integers(-40, 40),
        ),
    )


EXPRESSIONS = st.recursive(FIELDS | LITERALS, operators, max_leaves=4)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "n": NUMBERS | st.none(),
        "t": TEXTS | st.none(),
        "l": st.lists(NUMBERS | TEXTS, max_size=3),
        "d": INNER | ITEMS,
        "at": MOMENTS
        | st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2030, 1, 1)).map(
            lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
        ),
    },
)
SIMPLE = FIELDS | operators(FIELDS | LITERALS)
ACCUMULATORS = st.one_of(
    st.builds(
        lambda name, value: {name: value},
        st.sampled_from(
            ["$sum", "$avg", "$min", "$max", "$first", "$last", "$push", "$addToSet", "$stdDevPop"]
        ),
        FIELDS,
    ),
    st.just({"$count": {}}),
    st.just({"$sum": 1}),
    st.builds(
        lambda n, at: {"$topN": {"n": n, "sortBy": {at: 1, "_id": 1}, "output": "$$ROOT"}},
        st.integers(1, 2),
        st.sampled_from(["n", "d.a", "l"]),
    ),
)
KEYS = FIELDS | st.none() | st.fixed_dictionaries({"k0": FIELDS}, optional={"k1": FIELDS})


@st.composite
def stages(draw: Any) -> Document:
    kind = draw(
        st.sampled_from(
            ["$project", "$set", "$unwind", "$match", "$sort", "$unset", "$limit", "$replaceWith"]
        )
    )
    names = st.sampled_from(["n", "t", "l", "d.a", "y"])
    match kind:
        case "$project":
            kept = draw(
                st.dictionaries(names, st.sampled_from([1, True]) | SIMPLE, min_size=1, max_size=3)
            )
            return {kind: kept}
        case "$set":
            return {kind: draw(st.dictionaries(names, SIMPLE, min_size=1, max_size=2))}
        case "$unwind":
            keeps = draw(st.booleans())
            path = draw(st.sampled_from(["$l", "$d", "$d.b"]))
            return {
                kind: {"path": path, "preserveNullAndEmptyArrays": keeps, "includeArrayIndex": "i"}
            }
        case "$match":
            return {kind: {"$expr": draw(SIMPLE)}}
        case "$sort":
            return {
                kind: {
                    draw(st.sampled_from(["n", "t", "d.a"])): draw(st.sampled_from([1, -1])),
                    "_id": 1,
                }
            }
        case "$unset":
            return {kind: draw(st.sampled_from(["n", "d.a", "l"]))}
        case "$replaceWith":
            return {kind: {"_id": "$_id", "v": draw(SIMPLE)}}
    return {kind: draw(st.integers(1, 3))}


def in_order(rows: list[Document], pipeline: list[Document]) -> Any:
    """The rows; groups and their sets have no order, nor have the names of computed fields."""
    shown = [exact(by_name(row)) for row in rows]
    if any("$group" in stage for stage in pipeline):
        shown = sorted(
            (
                [(n, sorted(v, key=repr) if isinstance(v, list) else v) for n, v in row]
                for row in shown
            ),
            key=repr,
        )
    return shown


def check_pipeline(server: Any, memory: Collection, run: Any, tally: Tally, pipeline: Any) -> None:
    try:
        expected: Any = list(server.aggregate(copy.deepcopy(pipeline)))
    except OperationFailure as refused:
        expected = refused
    try:
        rows: Any = run(memory.aggregate(pipeline))
    except NotSupported:
        tally["not supported"] += 1
        return
    except EarnORMError as refused:
        rows = refused
    if isinstance(expected, Exception) or isinstance(rows, Exception):
        assert isinstance(rows, Exception) and isinstance(expected, Exception), (
            pipeline,
            rows,
            expected,
        )
        tally["refused"] += 1
        return
    assert in_order(rows, pipeline) == in_order(expected, pipeline), pipeline
    tally["same"] += 1


def test_expressions_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()

    @SETTINGS
    @given(st.lists(ROWS, min_size=1, max_size=2), EXPRESSIONS)
    def law(docs: list[Document], expression: Any) -> None:
        fill(server, memory, run, docs)
        check_pipeline(server, memory, run, tally, [{"$project": {"v": expression}}])

    law()
    tally.check(most_refused=0.1)


def test_pipelines_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()

    @SETTINGS
    @given(st.lists(ROWS, min_size=1, max_size=4), st.lists(stages(), min_size=1, max_size=4))
    def law(docs: list[Document], pipeline: list[Document]) -> None:
        fill(server, memory, run, docs)
        check_pipeline(server, memory, run, tally, pipeline)

    law()
    tally.check(most_refused=0.2)


def test_groups_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()

    @SETTINGS
    @given(
        st.lists(ROWS, min_size=1, max_size=5),
        KEYS,
        st.lists(ACCUMULATORS, max_size=3),
        st.booleans(),
    )
    def law(docs: list[Document], group_key: Any, accumulators: list[Any], unwinds: bool) -> None:
        fill(server, memory, run, docs)
        group = {"_id": group_key, **{f"a{n}": one for n, one in enumerate(accumulators)}}
        unwind = (
            [{"$unwind": {"path": "$l", "preserveNullAndEmptyArrays": True}}] if unwinds else []
        )
        check_pipeline(
            server, memory, run, tally, [{"$sort": {"_id": 1}}, *unwind, {"$group": group}]
        )

    law()
    tally.check(most_refused=0.1)


def test_lookups_are_the_same(server: Any, memory: Collection, run: Any) -> None:
    tally = Tally()
    values = st.sampled_from([0, 1, 2, None, "a", [0, 1], [2, None], [], Decimal128("1"), 1.0])
    docs = st.lists(
        st.fixed_dictionaries(
            {}, optional={"p": values, "d": st.fixed_dictionaries({"p": values})}
        ),
        min_size=1,
        max_size=4,
    )
    paths = st.sampled_from(["_id", "p", "d.p"])

    @SETTINGS
    @given(docs, paths, paths, st.booleans())
    def law(docs: list[Document], local: str, foreign: str, is_graph: bool) -> None:
        fill(server, memory, run, docs)
        if is_graph:
            spec: Document = {
                "from": "law",
                "startWith": f"${local}",
                "connectFromField": "p",
                "connectToField": foreign,
                "as": "found",
            }
            stages: list[Document] = [
                {"$graphLookup": spec},
                {"$project": {"ids": "$found._id"}},
                {"$unwind": {"path": "$ids", "preserveNullAndEmptyArrays": True}},
                {"$sort": {"_id": 1, "ids": 1}},
            ]
        else:
            inner = [{"$set": {"own": "$$own"}}, {"$sort": {"_id": 1}}]
            spec = {
                "from": "law",
                "localField": local,
                "foreignField": foreign,
                "let": {"own": "$_id"},
                "pipeline": inner,
                "as": "found",
            }
            stages = [{"$lookup": spec}, {"$sort": {"_id": 1}}]
        check_pipeline(server, memory, run, tally, stages)

    law()
    tally.check(most_refused=0.1)
