"""How a collection is kept: created as declared, compared when it exists, never changed."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    CollectionOptions,
    ConfigurationError,
    DateTime,
    Float,
    Many2one,
    One2many,
    String,
    hookimpl,
)
from earnorm.plugin import Layer, in_transaction_if

from .conftest import DRIVERS, Commands, default_app, drop


class Reading(BaseModel):
    _name = "core.reading"

    at = DateTime(db_name="t")
    sensor = String(db_name="s")
    value = Float()


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    Reading._options = None  # it stays registered for the other tests


async def options_of(app: App) -> dict[str, Any]:
    found = await app._backend.collection("core_reading").describe()
    assert found is not None
    return found["options"]  # type: ignore[no-any-return] # the server's


KINDS: list[tuple[CollectionOptions, dict[str, Any]]] = [
    (CollectionOptions(), {}),
    (CollectionOptions(capped_size=1000, capped_max=3), {"capped": True, "size": 1024, "max": 3}),
    (CollectionOptions(collation="fr"), {"collation": {"locale": "fr"}}),
    (CollectionOptions(clustered=True), {"clusteredIndex": {"key": {"_id": 1}}}),
    (
        CollectionOptions(clustered=True, expire_after=60),
        {"clusteredIndex": {"key": {"_id": 1}}, "expireAfterSeconds": 60},
    ),
    (CollectionOptions(pre_images=True), {"changeStreamPreAndPostImages": {"enabled": True}}),
    (
        CollectionOptions(
            time_field="at",
            meta_field="sensor",
            granularity="hours",
            expire_after=datetime.timedelta(hours=1),
        ),
        {
            "timeseries": {"timeField": "t", "metaField": "s", "granularity": "hours"},
            "expireAfterSeconds": 3600,
        },
    ),
    (CollectionOptions(time_field="at"), {"timeseries": {"timeField": "t"}}),
]


def contains(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(contains(found.get(key), value) for key, value in wanted.items())
    return found == wanted


@pytest.mark.parametrize(("declared", "stored"), KINDS, ids=lambda each: repr(each)[:60])
async def test_a_collection_is_created_as_declared_and_then_differs_in_nothing(
    server_app: App,
    declared: CollectionOptions,
    stored: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    Reading._options = declared
    with caplog.at_level(logging.WARNING, logger="earnorm"):
        await Reading.create({"at": datetime.datetime(2026, 1, 1), "sensor": "a", "value": 1.0})
        assert await Reading.count([("sensor", "=", "a")]) == 1
        server_app._bound.clear()  # as another process that finds it there
        await Reading.count()
    assert caplog.records == []
    assert contains(await options_of(server_app), stored)
    (diff,) = await server_app.indexes.diff([Reading])
    assert diff.is_in_step, str(diff)


async def test_a_mapping_will_do(server_app: App) -> None:
    Reading._options = {"capped_size": 4096}
    await Reading.count()
    assert (await options_of(server_app))["capped"]


CHANGES: list[tuple[CollectionOptions, CollectionOptions, str]] = [
    (CollectionOptions(), CollectionOptions(capped_size=512), "capped is declared as True"),
    (
        CollectionOptions(capped_size=512),
        CollectionOptions(capped_size=1024),
        "size is declared as 1024, and is 512",
    ),
    (
        CollectionOptions(collation="fr"),
        CollectionOptions(collation={"locale": "fr", "strength": 1}),
        "collation is declared",
    ),
    (CollectionOptions(), CollectionOptions(clustered=True), "clustered is declared as True"),
    (CollectionOptions(pre_images=True), CollectionOptions(), "PreAndPostImages is declared as"),
    (
        CollectionOptions(time_field="at"),
        CollectionOptions(time_field="at", granularity="hours"),
        "granularity is declared as 'hours', and is 'seconds'",
    ),
]


@pytest.mark.parametrize(("before", "after", "said"), CHANGES, ids=[c[2] for c in CHANGES])
async def test_a_difference_is_told_and_nothing_is_changed(
    server_app: App,
    before: CollectionOptions,
    after: CollectionOptions,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Reading._options = before
    await Reading.count()
    was = await options_of(server_app)
    Reading._options = after
    server_app._bound.clear()
    with caplog.at_level(logging.WARNING, logger="earnorm"):
        await Reading.count()
        await Reading.count()
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 1 and said in told[0] and "Reading" in told[0]
    (diff,) = await server_app.indexes.diff([Reading])
    assert said in diff.options[0] and not diff.is_in_step
    actions = await server_app.indexes.sync([Reading], replace=True)
    assert [(action.kind, action.is_done) for action in actions] == [("leave", False)]
    assert await options_of(server_app) == was


class Place(BaseModel):
    _name = "core.place"

    station_ids = One2many("core.station", "place_id")


class Station(BaseModel):
    _name = "core.station"

    place_id = Many2one(Place)


class InTransactions:
    """Runs each create in a transaction of its own, as an audit does."""

    api = 1
    name = "in_transactions"

    @hookimpl
    def wrap_operation(self, operation: str) -> list[tuple[int, Any]]:
        needs = in_transaction_if(lambda op: True)
        return [(Layer.TRANSACTION, needs)] if operation == "create" else []


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_transaction_that_begins_with_another_model_creates_it_as_declared(
    driver: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Station, "_options", CollectionOptions(collation="fr"))
    async with default_app(driver, database, plugins=[InTransactions]) as app:
        await Place.create({})
        await Station.create({})
        found = await app._backend.collection("core_station").describe()
        assert found is not None and found["options"]["collation"]["locale"] == "fr"


async def test_sync_creates_the_collection_and_a_dry_run_does_not(server_app: App) -> None:
    Reading._options = CollectionOptions(capped_size=512)
    (action,) = await server_app.indexes.sync([Reading], dry_run=True)
    assert str(action) == "create core_reading: the collection with capped, size"
    assert await server_app._backend.collection("core_reading").describe() is None
    await server_app.indexes.sync([Reading])
    assert (await options_of(server_app))["size"] == 512


@pytest.mark.parametrize("driver", DRIVERS)
async def test_apps_that_start_together_create_it_once(
    driver: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    Reading._options = CollectionOptions(capped_size=4096, collation="da")
    uri = os.environ["EARNORM_TEST_MONGO_URI"]

    async def one() -> None:
        async with App(uri, database=database, driver=driver, plugins=[]) as app:
            await Reading.create({"sensor": "a"})
            assert (await options_of(app))["capped"]

    async with App(uri, database=database, driver=driver, plugins=[]) as app:
        try:
            await asyncio.gather(*(one() for _ in range(6)))
            assert await Reading.count() == 6
        finally:
            await drop(app)
    assert [r for r in caplog.records if r.name == "earnorm.indexes"] == []


async def test_a_model_without_options_costs_no_round_trip(commands: Commands) -> None:
    await Reading.count()
    assert commands.named("listCollections") == commands.named("create") == []


async def test_in_memory_a_warning_says_that_the_collection_is_a_plain_one(
    memory_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    Reading._options = CollectionOptions(capped_size=512)
    await Reading.create({"sensor": "a"})
    assert "plain" in caplog.text and "memory backend" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capped_size": 0}, "capped_size is a number from 1"),
        ({"capped_size": True}, "capped_size is a number from 1"),
        ({"capped_max": 3}, "capped_max needs capped_size"),
        ({"meta_field": "sensor"}, "meta_field needs time_field"),
        ({"time_field": "at", "granularity": "days"}, "granularity is one of"),
        ({"time_field": "at", "clustered": True}, "do not go together"),
        ({"expire_after": 5}, "Index"),
        ({"clustered": 1}, "clustered is True or False"),
        ({"collation": 3}, "collation is a locale"),
        ({"cappedsize": 3}, "did you mean 'capped_size'"),
        ({"time_field": "att"}, "did you mean 'at'"),
        (["capped"], "a mapping"),
    ],
    ids=str,
)
async def test_malformed_options_are_refused(memory_app: App, options: Any, message: str) -> None:
    Reading._options = options
    with pytest.raises(ConfigurationError, match=message) as caught:
        await Reading.count()
    assert "Reading._options" in str(caught.value)


async def test_what_the_server_refuses_is_an_error_that_names_the_collection(
    server_app: App,
) -> None:
    Reading._options = CollectionOptions(collation="nowhere")
    with pytest.raises(ConfigurationError, match="core_reading: the collection cannot be created"):
        await Reading.count()
