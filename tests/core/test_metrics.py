"""The numbers of a health report in the text format of Prometheus."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from earnorm import App
from earnorm.kernel.observing.metrics import metrics_text
from earnorm.plugin import alone_at, hookimpl

from .laws import law
from .shop import Person

LINE = re.compile(
    r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)\{app="(?P<app>(?:[^"\\\n]|\\[\\"n])*)"'
    r'(?:,part="(?P<part>(?:[^"\\\n]|\\[\\"n])*)")?'
    r'(?P<labels>(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*")*)\} (?P<value>\S+)'
)
"""A line as the format defines it."""


def read(text: str) -> dict[tuple[str, str | None], float]:
    """Read the text; the numbers with labels of their own have those behind the name."""
    return {(name + labels, part): value for (name, part, labels), value in lines(text).items()}


def lines(text: str) -> dict[tuple[str, str | None, str], float]:
    """Read the text as Prometheus does; a line that is none, or comes twice, is an error."""
    found: dict[tuple[str, str | None, str], float] = {}
    names: list[str] = []
    assert text.endswith("\n") or not text
    for line in text.split("\n")[:-1]:
        match = LINE.fullmatch(line)
        assert match is not None, line
        key = match["name"], match["part"], match["labels"]
        assert key not in found, line
        assert match["name"] not in names[:-1], "the lines of a name stand together"
        names += [match["name"]] * (match["name"] not in names)
        found[key] = float(match["value"])
    return found


NUMBERS = st.integers() | st.floats() | st.booleans()
KEYS = st.text(max_size=5) | st.sampled_from(["by_model", "by_level", "by_app", "by_", "by_a b"])
VALUES = st.recursive(
    NUMBERS | st.text() | st.none() | st.lists(NUMBERS),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.fuzz
@law(100)
@hypothesis.given(
    app=st.text(), report=st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(), VALUES))
)
def test_any_report_gives_a_text_that_can_be_read(
    app: str, report: dict[str, dict[str, Any]]
) -> None:
    found = read(metrics_text(app, report))
    assert sum(part is not None for _, part in found) == len(report)


def test_each_number_has_the_name_of_its_part() -> None:
    report = {
        "database": {"status": "ok", "version": "8.0", "sharded": False, "hosts": ["a"]},
        "my-plugin": {"status": "degraded", "sizes": {"largest": 2.5, "none": math.inf}},
        "third": {"status": "failed", "error": "secret"},
        "fourth": {"share": math.nan},
    }
    text = metrics_text('a\\"b\nc', report)
    assert text.splitlines()[0] == 'earnorm_status{app="a\\\\\\"b\\nc",part="database"} 0'
    assert "secret" not in text and "8.0" not in text
    found = read(text)
    assert math.isnan(found.pop(("earnorm_fourth_share", None)))
    assert found == {
        ("earnorm_status", "database"): 0,
        ("earnorm_status", "my-plugin"): 1,
        ("earnorm_status", "third"): 2,
        ("earnorm_status", "fourth"): 2,
        ("earnorm_database_sharded", None): 0,
        ("earnorm_my_plugin_sizes_largest", None): 2.5,
        ("earnorm_my_plugin_sizes_none", None): math.inf,
    }


async def test_the_metrics_of_an_app_are_those_of_its_health(server_app: App) -> None:
    record = [(Person._name, 1)]
    entered = asyncio.Event()

    async def wait() -> None:
        await entered.wait()
        async with alone_at(record):
            pass

    waiting = asyncio.ensure_future(wait())
    async with alone_at(record):
        entered.set()
        for _ in range(5):
            await asyncio.sleep(0)
        found = read(await server_app.metrics())
    await waiting
    for name in ("retries", "given_up", "unknown", "queue_passed"):
        assert found[f"earnorm_transactions_{name}", None] == 0
    assert found["earnorm_transactions_queue_waiting", None] == 1
    assert found["earnorm_transactions_queue_waits", None] == 1
    assert found["earnorm_status", "database"] == found["earnorm_status", "transactions"] == 0
    after = read(await server_app.metrics())
    assert after["earnorm_transactions_queue_waiting", None] == 0
    assert after["earnorm_transactions_queue_wait_seconds", None] > 0


async def test_plugins_have_metrics_and_a_stopped_app_says_that_it_failed() -> None:
    class Told:
        api = 1
        name = "told"

        @hookimpl
        def health(self) -> dict[str, object]:
            return {"status": "ok", "heard": 3}

    async with App("mongomock://", database="metrics", plugins=[Told]) as app:
        found = read(await app.metrics())
        assert found["earnorm_told_heard", None] == 3 and found["earnorm_status", "told"] == 0
    assert read(await app.metrics())["earnorm_status", "database"] == 2


def test_a_mapping_by_something_gives_labels() -> None:
    levels = {"memory": {"hits": 3}, "redis": {"hits": 2}}
    report = {
        "cache": {
            "hits": 9,
            "records": {"by_model": {'a."b"': {"entries": 1, "by_level": levels}}},
            "by_app": {"x": 1},
        }
    }
    found = read(metrics_text("shop", report))
    label = ',model="a.\\"b\\""'
    assert found == {
        ("earnorm_status", "cache"): 2,
        ("earnorm_cache_hits", None): 9,
        (f"earnorm_cache_records_entries{label}", None): 1,
        (f'earnorm_cache_records_hits,level="memory"{label}', None): 3,
        (f'earnorm_cache_records_hits,level="redis"{label}', None): 2,
        ("earnorm_cache_by_app_x", None): 1,
    }
