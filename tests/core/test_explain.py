"""explain(): the plan in words, on a real server; no figures unless system asks, and no values in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from earnorm import App, BaseModel, Index, Int, Plan, String, system
from earnorm.features.explaining.explanation import Explanation
from earnorm.features.explaining.query_plan import reduced
from earnorm.plugin import Observer, RunningOperation


class Row(BaseModel):
    _name = "core.row"
    _indexes = [Index("number", "-size")]

    code = String(unique=True)
    number = Int()
    size = Int()
    text = String()


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = Row._indexes
    yield
    Row._indexes = before


async def filled(app: App) -> None:
    await Row.create(
        [{"code": f"c{n}", "number": n % 5, "size": n, "text": "t" * n} for n in range(20)]
    )


async def test_it_names_the_index(server_app: App) -> None:
    await filled(server_app)
    plan = await Row.search([("code", "=", "c3")]).explain()
    assert plan.uses_index and plan.indexes == ("code_1",) and not plan.scans_collection
    assert str(plan) == "uses the index 'code_1' (IXSCAN); does not sort in memory"


async def test_the_index_on_the_id_counts(server_app: App) -> None:
    await filled(server_app)
    record = (await Row.search(limit=1)).ensure_one()
    plan = await Row.search([("id", "=", record.id)]).explain()
    assert plan.uses_index and plan.indexes == ("_id_",) and "'_id_'" in str(plan)


async def test_it_says_that_the_whole_collection_is_read(server_app: App) -> None:
    await filled(server_app)
    plan = await Row.search([("text", "=", "tt")]).explain()
    assert plan.scans_collection and not plan.uses_index and plan.indexes == ()
    assert str(plan).startswith("reads the whole collection (COLLSCAN); no index is used")


async def test_half_an_index_is_no_index(server_app: App) -> None:
    await filled(server_app)
    plan = await Row.search(["|", ("number", "=", 1), ("text", "=", "tt")]).explain()
    assert plan.scans_collection and not plan.uses_index


async def test_it_says_whether_it_sorts_in_memory(server_app: App) -> None:
    await filled(server_app)
    by_index = await Row.search([("number", "=", 1)], order="-size").explain()
    assert not by_index.sorts_in_memory
    in_memory = await Row.search([("number", "=", 1)], order="text").explain()
    assert in_memory.sorts_in_memory and "; sorts in memory" in str(in_memory)
    merged = await Row.search([("number", "in", [1, 2])], order="-size").explain()
    assert merged.indexes == ("number_1_size_-1",) and not merged.sorts_in_memory


async def test_figures_are_for_system_only(server_app: App) -> None:
    await filled(server_app)
    query = Row.search([("number", "=", 1), ("text", "!=", "t")])
    plan = await query.explain()
    assert plan.documents_examined is plan.keys_examined is plan.returned is None
    assert plan.milliseconds is None and "examined" not in str(plan)
    with system(reason="to see what it costs"):
        plan = await query.explain()
    assert (plan.documents_examined, plan.keys_examined, plan.returned) == (4, 4, 3)
    assert "examined 4 documents and 4 index keys to return 3 in " in str(plan)


async def test_facts_of_the_server_are_for_system_only(server_app: App) -> None:
    await filled(server_app)
    facts = ("serverInfo", "serverParameters", "clusterTime", "gitVersion", "internalQuery")
    for query in (Row.search([("number", "=", 3)]), Row.search(), Row.search(order="-size")):
        told = json.dumps(dict(await query.explain()), default=str)
        assert not [fact for fact in facts if fact in told]
        with system(reason="to see all of it"):
            assert "serverInfo" in await query.explain()


async def test_an_explanation_for_system_is_in_flight_and_observed_as_any_other(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(server_app)
    seen: list[object] = []
    serve = Explanation.serve

    async def look_and_serve(self: Explanation, bound: Any, op: Any) -> Any:
        seen.append(len(server_app.in_flight.operations))
        return await serve(self, bound, op)

    class Listening(Observer):
        def operation_begins(self, running: RunningOperation) -> None:
            seen.append(running.operation.name)

    monkeypatch.setattr(Explanation, "serve", look_and_serve)
    with server_app.observing(Listening()):
        await Row.search().explain()
        with system(reason="to see what it costs"):
            await Row.search().explain()
    assert seen == ["search", 1, "search", 1]


async def test_a_search_that_can_match_nothing(server_app: App) -> None:
    await filled(server_app)
    plan = await Row.search([("number", "in", [])]).explain()
    assert plan.uses_index and not plan.sorts_in_memory


async def test_it_is_the_servers_own_plan_as_well(server_app: App) -> None:
    await filled(server_app)
    plan = await Row.search([("code", "=", "c3")]).explain()
    assert isinstance(plan, Plan) and plan["queryPlanner"] is plan.raw["queryPlanner"]
    assert set(plan) == set(plan.raw) and len(plan) == len(plan.raw)


async def test_words_hold_no_values(server_app: App) -> None:
    await filled(server_app)
    for domain in ([("code", "=", "secret")], [("text", "=", "secret")]):
        plan = await Row.search(domain).explain()
        assert "secret" not in str(plan) + repr(plan) and "secret" in str(plan.raw)


# What this server does not give: plans of other engines, versions and shards, from MongoDB's manual.
OTHERS: list[tuple[Any, tuple[str, ...], bool]] = [
    (
        {"queryPlan": {"stage": "FETCH", "inputStage": {"stage": "IXSCAN", "indexName": "a_1"}},
         "slotBasedPlan": {"stages": "COLLSCAN"}},
        ("a_1",), True,
    ),
    ({"isCached": False, "stage": "EXPRESS_IXSCAN", "indexName": "a_1"}, ("a_1",), True),
    ({"stage": "EXPRESS_CLUSTERED_IXSCAN"}, ("_id_",), True),
    ({"stage": "CLUSTERED_IXSCAN"}, ("_id_",), True),
    ({"stage": "EOF"}, (), True),
    (
        {"stage": "SHARD_MERGE", "shards": [
            {"shardName": "s0", "winningPlan": {"stage": "IXSCAN", "indexName": "a_1"}},
            {"shardName": "s1", "winningPlan": {"stage": "COLLSCAN"}}]},
        ("a_1",), False,
    ),
    ({}, (), False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("winning", "indexes", "uses_index"), OTHERS, ids=[json.dumps(o[0])[:40] for o in OTHERS]
)
def test_plans_of_other_servers_are_read_as_well(
    winning: Any, indexes: tuple[str, ...], uses_index: bool
) -> None:
    plan = Plan({"queryPlanner": {"winningPlan": winning}})
    assert (plan.indexes, plan.uses_index) == (indexes, uses_index)
    assert str(plan)


def test_a_reduced_plan_says_the_same_in_words_and_no_value() -> None:
    secret = {"$eq": "secret"}
    for winning, indexes, uses_index in OTHERS:
        raw = {
            "queryPlanner": {"winningPlan": {**winning, "filter": secret}, "parsedQuery": secret},
            "command": {"filter": secret},
            "stages": [
                {"$cursor": {"queryPlanner": {"winningPlan": winning, "parsedQuery": secret}}},
                {"$match": secret, "nReturned": 1},
            ],
        }
        plan = Plan(reduced(raw))
        assert (plan.indexes, plan.uses_index) == (indexes, uses_index)
        assert str(plan) == str(Plan(raw)) and "secret" not in str(plan.raw)
        assert plan["stages"][1] == {"$match": {}}


def test_a_reduced_plan_shows_equal_scans_of_a_merge_once() -> None:
    scan = {"stage": "IXSCAN", "indexName": "a_1", "direction": "forward"}
    merge = {
        "stage": "SORT_MERGE",
        "inputStages": [{**scan, "indexBounds": {"a": [n]}} for n in range(3)],
    }
    plan = reduced({"queryPlanner": {"winningPlan": merge}})["queryPlanner"]["winningPlan"]
    assert plan == {"stage": "SORT_MERGE", "inputStages": [scan]}
