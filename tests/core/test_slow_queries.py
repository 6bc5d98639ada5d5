"""Slow-query advice: off it costs nothing; on it notes shapes and no values; its advice is held by explain()."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    Domain,
    DomainError,
    Embedded,
    EmbeddedModel,
    Index,
    Int,
    List,
    NotSupported,
    String,
    system,
)
from earnorm.features.indexes.advice import Advice
from earnorm.features.slow_queries.plugin import SlowQueries
from earnorm.features.slow_queries.query_shape import QueryShape

from .conftest import DRIVERS, Commands, default_app

NEVER = 3600.0
ALWAYS = 1e-9


class Line(EmbeddedModel):
    sku = String(db_name="s")


class Order(BaseModel):
    _name = "core.order"

    state = String(db_name="st")
    size = Int()
    number = Int()
    note = String()
    tags = List(String())
    labels = List(String())
    lines = List(Embedded(Line))
    first = Embedded(Line)


@pytest.fixture(params=DRIVERS)
async def slow_app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    async with default_app(request.param, database, slow_query=ALWAYS) as app:
        yield app


def noted(app: App) -> SlowQueries:
    found = app.services["slow_queries"]
    assert isinstance(found, SlowQueries)
    return found


async def filled() -> None:
    await Order.create(
        [
            {
                "state": f"s{n % 4}",
                "size": n % 10,
                "number": n,
                "note": "n" * (n % 7),
                "tags": ["a"],
                "labels": ["b"],
                "lines": [{"sku": f"k{n}"}],
                "first": {"sku": f"k{n}"},
            }
            for n in range(200)
        ]
    )


# -- noting ---------------------------------------------------------------------------------------


async def test_off_there_is_no_layer_and_no_service(app: App) -> None:
    plugin = next(
        p for p in app.loaded.manager.get_plugins() if type(p).__name__ == "SlowQueriesPlugin"
    )
    assert "slow_queries" not in app.services
    assert plugin.wrap_operation(app=app, model=Order, operation="search") == ()  # type: ignore[attr-defined] # a plugin's own method


async def test_it_notes_shapes_by_operation_and_the_log_has_no_value(
    slow_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    await filled()
    with caplog.at_level(logging.WARNING, logger="earnorm"):
        for secret in ("secret-1", "secret-2"):
            domain = [("state", "=", secret), "|", ("size", ">", 987654), ("note", "like", secret)]
            await Order.search(domain, order="-number", limit=5)
        await Order.count([("note", "in", ["secret-3"])])
        await Order.search([("state", "=", "secret-4")]).update({"note": "secret-5"})
        await Order.search([("state", "=", "secret-6")]).delete()
        async for _ in Order.search([("size", "<", 987654)]):
            break
    assert "secret" not in caplog.text and "987654" not in caplog.text
    texts = {str(each.shape): each.count for each in noted(slow_app).shapes()}
    assert texts == {
        "search core.order: state = ? and (size > ? or note like ?); order -number; limited": 2,
        "count core.order: note in ?": 1,
        "write core.order: state = ?": 1,
        "unlink core.order: state = ?": 1,
        "search core.order: size < ?": 1,
    }
    assert "slow operation" in caplog.text and "state = ?" in caplog.text


async def test_a_fast_operation_is_not_noted(database: str) -> None:
    async with default_app("memory", database, slow_query=NEVER) as app:
        await Order.count()
        assert noted(app).shapes() == []


async def test_explain_is_not_noted(slow_app: App) -> None:
    await Order.search([("size", "=", 3)]).explain()
    assert noted(slow_app).shapes() == []


async def test_an_operation_that_fails_is_noted_and_its_error_goes_on(slow_app: App) -> None:
    with pytest.raises(DomainError):
        await Order.count([("nonsense", "=", 3)])
    assert [each.shape.text for each in noted(slow_app).shapes()] == ["nonsense = ?"]


async def test_a_threshold_is_a_time() -> None:
    for wrong in (0, -1, "fast"):
        with pytest.raises(ConfigurationError, match="slow_query is a time in seconds"):
            App("mongomock://", database="x", slow_query=wrong)


def shape(number: int) -> QueryShape:
    return QueryShape("m", "search", f"f{number} = ?", (((f"f{number}", "="),),))


def test_the_number_of_shapes_is_bounded_and_the_costly_ones_stay() -> None:
    found = SlowQueries(0.1, limit=3)
    for number, seconds in enumerate([5.0, 1.0, 3.0, 2.0, 4.0]):
        found.note(shape(number), seconds)
    assert [each.shape.text for each in found.shapes()] == ["f0 = ?", "f4 = ?", "f2 = ?"]
    found.note(shape(2), 9.0)
    assert next((each.count, each.worst) for each in found.shapes()) == (2, 9.0)
    assert "2 times, 9.000 s at worst" in str(found.shapes()[0])
    found.clear()
    assert found.shapes() == []


async def test_shapes_are_written_when_the_app_stops(database: str, tmp_path: Path) -> None:
    path = tmp_path / "slow.jsonl"
    async with default_app("memory", database, slow_query=ALWAYS, slow_query_file=str(path)):
        await Order.search([("state", "=", "secret")], order="-size")
    (line,) = path.read_text().splitlines()
    assert "secret" not in line and json.loads(line)["count"] == 1
    read = QueryShape.from_json(line)
    assert str(read) == "search core.order: state = ?; order -size"
    assert read == QueryShape.from_json(json.dumps(read.to_json()))
    assert os.listdir(tmp_path) == ["slow.jsonl"]


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"model": 1}', "nonsense"])
def test_a_line_that_is_no_shape_is_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match="not a query shape"):
        QueryShape.from_json(line)


values = st.sampled_from(["SECRET", 987654, True, None, ["SECRET"]])
conditions = st.tuples(
    st.sampled_from(["state", "size", "first.sku"]), st.sampled_from(["=", "!=", ">", "in"]), values
)
domains = st.recursive(
    conditions.map(lambda each: Domain([each])),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        inner.map(lambda each: ~each),
    ),
    max_leaves=12,
)


@given(domain=domains)
def test_no_value_is_in_a_shape_and_its_branches_are_some_of_its_conditions(domain: Domain) -> None:
    from earnorm.features.slow_queries.query_shape import _branches, _text

    domain = domain.simplify()
    text, branches = _text(domain), _branches(domain)
    assert "SECRET" not in text and "987654" not in text
    own = {(c.path, c.operator) for c in domain.conditions()}
    assert branches and all(set(branch) <= own for branch in branches)


# -- advice ---------------------------------------------------------------------------------------


async def advice(
    app: App, domain: Any, order: str | None = None, *, verify: bool = False
) -> Advice:
    (found,) = await app.indexes.advise([app.indexes.shape(Order, domain, order)], verify=verify)
    return found


ADVICE: list[tuple[Any, str | None, str]] = [
    ([("state", "=", "x")], None, 'Index("state")'),
    ([("size", ">", 3), ("state", "=", "x")], "-number", 'Index("state", "-number", "size")'),
    ([("size", "in", [1]), ("state", "=", "x")], None, 'Index("state", "size")'),
    ([("size", ">", 3), ("size", "<", 9)], None, 'Index("size")'),
    ([("size", ">", 3)], "size", 'Index("size")'),
    ([], "state,-size", 'Index("state", "-size")'),
    ([("note", "like", "x")], "size", 'Index("size")'),
    ([("first.sku", "=", "x"), ("size", ">=", 3)], None, 'Index("first.s", "size")'),
    (["|", ("state", "=", "x"), ("size", "=", 3)], None, 'Index("state"), Index("size")'),
    ([("tags", "=", "a"), ("size", "=", 3)], None, 'Index("tags", "size")'),
    ([("state", "=", "x")], "state", 'Index("state")'),
]


@pytest.mark.parametrize(("domain", "order", "declared"), ADVICE, ids=[a[2] for a in ADVICE])
async def test_the_advice_is_equality_then_order_then_range_and_the_planner_takes_it(
    server_app: App, domain: Any, order: str | None, declared: str
) -> None:
    await filled()
    found = await advice(server_app, domain, order, verify=True)
    assert found.declaration == declared
    assert found.before is not None and found.after is not None
    assert found.helps or found.after.indexes, str(found)
    assert not found.after.sorts_in_memory
    assert set(found.after.indexes) == {spec.name for spec in found.indexes}
    assert await server_app._backend.list_collections() == ["core_order"]  # no scratch is left


async def test_no_index_where_none_helps_or_one_is_there(server_app: App) -> None:
    await filled()
    for domain in ([("note", "like", "x")], [("state", "!=", "x")], [], ["!", ("size", "=", 3)]):
        found = await advice(server_app, domain)
        assert found.indexes == () and "no index helps" in found.reason
    found = await advice(server_app, ["|", ("state", "=", "x"), ("note", "like", "x")])
    assert found.indexes == ()
    assert "the index on the id" in (await advice(server_app, [("id", "=", "0" * 24)])).reason
    found = await advice(server_app, [("tags", "=", "a"), ("labels", "=", "b")])
    assert found.indexes == () and "both lists" in found.reason
    found = await advice(server_app, [("lines.sku", "=", "a"), ("tags", "=", "b")])
    assert "both lists" in found.reason


@pytest.mark.parametrize(
    ("index", "domain", "order", "serves"),
    [
        (Index("state", "size"), [("state", "=", "x")], None, True),
        (Index("state", "size"), [("size", "=", 3), ("state", "=", "x")], None, True),
        (Index("state", "size"), [("size", "=", 3)], None, False),
        (Index("state", "-size"), [("state", "=", "x")], "size", True),
        (Index("state", "-size"), [], "-state,-size", False),
        (Index("state", "-size"), [], "-state,size", True),
        (Index("state", "number", "size"), [("state", "=", "x"), ("size", ">", 3)], None, False),
        (Index("state", sparse=True), [("state", "=", "x")], None, False),
        (Index("state", hidden=True), [("state", "=", "x")], None, False),
        (Index("state", partial=[("size", ">", 3)]), [("state", "=", "x")], None, False),
    ],
    ids=str,
)
async def test_an_index_that_exists_serves_what_it_can(
    server_app: App, index: Index, domain: Any, order: str | None, serves: bool
) -> None:
    Order._indexes = [index]
    try:
        await filled()
        found = await advice(server_app, domain, order)
        assert (found.indexes == ()) is serves, found.reason
        with system(reason="to see what the planner does"):
            plan = await Order.search(domain, order=order).explain()
        if serves:
            assert plan.uses_index and not plan.sorts_in_memory
    finally:
        Order._indexes = ()


async def test_a_trial_drops_its_scratch_collection_when_it_fails(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled()
    monkeypatch.setattr("earnorm.features.indexes.advice.Plan", lambda raw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await advice(server_app, [("state", "=", "x")], verify=True)
    assert await server_app._backend.list_collections() == ["core_order"]


async def test_a_trial_without_documents_or_without_plans_says_so(
    server_app: App, database: str
) -> None:
    with pytest.raises(ConfigurationError, match="no documents to try"):
        await advice(server_app, [("state", "=", "x")], verify=True)


async def test_a_trial_in_memory_is_not_supported(memory_app: App) -> None:
    await filled()
    assert (await advice(memory_app, [("state", "=", "x")])).declaration == 'Index("state")'
    with pytest.raises(NotSupported):
        await advice(memory_app, [("state", "=", "x")], verify=True)
    assert await memory_app._backend.list_collections() == ["core_order"]


async def test_advice_from_what_was_noted_is_for_the_real_search(slow_app: App) -> None:
    await filled()
    await Order.search([("state", "=", "s1"), ("size", ">", 3)], order="-number")
    found = await slow_app.indexes.advise(
        [each.shape for each in noted(slow_app).shapes()], verify=True
    )
    assert [each.declaration for each in found] == ['Index("state", "-number", "size")']
    assert found[0].helps and "tried: helps" in str(found[0])


async def test_a_name_that_the_model_has_not_is_an_error(memory_app: App) -> None:
    with pytest.raises(DomainError, match="did you mean 'state'"):
        memory_app.indexes.shape(Order, [("stat", "=", 3)])


async def test_advice_alone_writes_nothing(commands: Commands) -> None:
    from earnorm import current_app

    await filled()
    commands.clear()
    await advice(current_app(), [("state", "=", "x")])
    assert [name for name, _ in commands.all] == ["listIndexes"]
