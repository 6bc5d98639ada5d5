"""Rules that are functions: each is called once for each operation, and what it returns is what holds, also where it
has returned nearly the same before."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import App, Domain, Json, PluginError, Principal, String, act_as, models, system
from earnorm_security import Rule, Security
from tests.plugins.security.conftest import Opener
from tests.plugins.security.generated import examples

ANSWERS: list[Any] = []
CALLS: list[str] = []


def _first(env: Any) -> Any:
    CALLS.append("first")
    return ANSWERS[0]


def _second(env: Any) -> Any:
    CALLS.append("second")
    return ANSWERS[1]


def _failing(env: Any) -> Any:
    raise AssertionError("it is asked for nobody")


class Paper(models.BaseModel):
    _name = "function_rules.paper"
    _rules = [
        Rule("plain", [("name", "!=", "hidden")]),
        Rule("first", _first),
        Rule("second", _second, roles=["clerk"]),
        Rule("nobody's", _failing, roles=["nobody"]),
    ]
    name = String()
    size = Json()


ONE = ObjectId()
VALUES: tuple[Any, ...] = (
    *(1, 1.0, True, "1", b"1", 0, 0.0, False, None, "", ONE, str(ONE)),
    *([1], [True], (1,), [[1]], [], {"a": 1}, {"a": True}),
    dt.datetime(2020, 1, 1, 12, tzinfo=dt.UTC),
    dt.datetime(2020, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1))),
)
ALIKE = st.sampled_from(VALUES)
CONDITIONS = st.builds(
    lambda operator, value: ("size", operator, value),
    st.sampled_from(["=", "!="]),
    ALIKE,
) | st.builds(lambda values: ("size", "in", values), st.lists(ALIKE, max_size=3))
DOMAINS = (
    st.booleans()
    | st.lists(CONDITIONS, max_size=2)
    | st.builds(lambda a, b: ["|", a, b], CONDITIONS, CONDITIONS)
    | st.builds(lambda a: ["!", list(a)], CONDITIONS)
    | st.lists(CONDITIONS, max_size=2).map(Domain)
    | CONDITIONS.map(lambda a: (a,))
)


def expected(answers: Sequence[Any]) -> Domain:
    """Return what the rules mean for a clerk."""
    plain = Domain([("name", "!=", "hidden")])
    return (
        (Domain.TRUE & plain & Domain(answers[0])) & (Domain.FALSE | Domain(answers[1]))
    ).simplify()


def shape(domain: Domain) -> Any:
    """Return all of a domain, with the type of each value, and the zones of times."""
    return [
        (type(domain), [(c.path, c.operator, repr(c.value)) for c in domain.conditions()]),
        repr(domain),
    ]


@pytest.fixture
async def app(opened: Opener) -> Any:
    async with opened() as app:
        with system(reason="data"):
            await Paper.create([{"name": "a", "size": size} for size in (1, 2, True, "1")])
        yield app


@pytest.mark.fuzz
@settings(deadline=None, max_examples=examples(200))
@given(turns=st.lists(st.tuples(DOMAINS, DOMAINS), min_size=1, max_size=6))
async def test_an_answer_is_never_taken_for_another(turns: list[tuple[Any, Any]]) -> None:
    # No database is asked.
    app = App("mongomock://", database="function_rules", plugins=["security"])
    async with app:
        policy = app.services.of_type(Security).policy(app.bind(Paper).model)
        with act_as(Principal("ann", ["clerk"])) as env:
            for answers in [*turns, *turns]:
                ANSWERS[:], CALLS[:] = answers, []
                assert shape(policy.domain(env, "read")) == shape(expected(answers))
                assert CALLS == ["first", "second"]


async def test_an_answer_is_never_taken_for_one_that_python_calls_equal() -> None:
    app = App("mongomock://", database="function_rules", plugins=["security"])
    async with app:
        policy = app.services.of_type(Security).policy(app.bind(Paper).model)
        with act_as(Principal("ann", ["clerk"])) as env:
            ways: list[Any] = [list, lambda conditions: Domain(conditions), tuple]
            for way in ways:
                for one, other in itertools.product(VALUES, repeat=2):
                    for value in (one, other):
                        ANSWERS[:] = [way([("size", "=", value)]), way([("size", "in", [value])])]
                        assert shape(policy.domain(env, "read")) == shape(expected(ANSWERS))


async def test_a_list_that_a_function_changes_later_changes_nothing_before(app: App) -> None:
    mine: list[Any] = [("size", "=", 1)]
    ANSWERS[:] = [mine, []]
    with act_as(Principal("ann", ["clerk"])):
        assert await Paper.count() == 1
        mine[0] = ("size", "=", 3)
        assert await Paper.count() == 0
        mine[:] = [("size", "in", [1, 2])]
        assert await Paper.count() == 2


async def test_a_broken_answer_opens_nothing_after_a_good_one(app: App) -> None:
    with act_as(Principal("ann", ["clerk"])):
        for good, wrong in (([], None), (True, 1), ([], {}), ((), "")):
            ANSWERS[:] = [good, []]
            assert await Paper.count() == 4
            ANSWERS[:] = [wrong, []]
            with pytest.raises(PluginError, match=r"'first'.*a domain is a list"):
                await Paper.count()
