"""Server-sent events of changes in a real server: who hears what, and when a stream ends."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.integrations.processes import Process, served

ANN, BOB = {"x-user": "ann"}, {"x-user": "bob"}


@asynccontextmanager
async def service(
    mongo_uri: str,
    database: str,
    *options: str,
    server: tuple[str, ...] = ("uvicorn",),
    **environment: str,
) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    with served(
        "tests.integrations.service:api",
        mongo_uri,
        database,
        "--log-level",
        "warning",
        *options,
        server=server,
        INTEGRATIONS_SERVICE_DATABASE=database,
        **environment,
    ) as process:
        await process.until(process.is_listening)
        async with httpx.AsyncClient(base_url=process.address, timeout=20) as client:
            yield process, client


class Heard:
    """The events of one stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any]:
        event: dict[str, Any] = {}
        async for line in self._lines:
            if not line and "data" in event:
                return {**event, "data": json.loads(event["data"])}
            name, _, value = line.partition(": ")
            if name:
                event[name] = value
        raise EOFError


@asynccontextmanager
async def heard(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> AsyncIterator[Heard]:
    async with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Heard(answer)


async def create(
    client: httpx.AsyncClient, tone: str, headers: dict[str, str], **values: Any
) -> str:
    answer = await client.post("/bells", json={"tone": tone, **values}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_each_hears_what_it_may_read_and_goes_on_where_it_was(
    mongo_uri: str, database: str
) -> None:
    async with service(mongo_uri, database) as (_, client):
        await create(client, "prepares the collection", ANN)
        async with heard(client, "/bells/events", ANN) as stream:
            assert stream.answer.headers["content-type"].startswith("text/event-stream")
            await create(client, "bob's", BOB)
            id = await create(client, "c", ANN)
            event = await stream.next()
            assert event["event"] == "create" and event["data"]["id"] == id
            assert event["data"]["record"] == {"id": id, "tone": "c", "rings": 0}
            assert "note" not in str(event) and "owner" not in str(event)
            # A change of what is not shown is no event.
            await client.patch(f"/bells/{id}", json={"note": "x"}, headers=ANN)
            await client.patch(f"/bells/{id}", json={"rings": 1}, headers=ANN)
            event = await stream.next()
            assert event["data"]["changed"] == ["rings"] and event["data"]["kind"] == "write"
            last = event["id"]
        await create(client, "missed", ANN)
        async with heard(client, "/bells/events", {**ANN, "last-event-id": last}) as stream:
            assert (await stream.next())["data"]["record"]["tone"] == "missed"
        # The place of another's stream gives nothing of its records.
        async with heard(client, "/bells/events", {**BOB, "last-event-id": last}) as stream:
            mine = await create(client, "bob's second", BOB)
            assert (await stream.next())["data"]["id"] == mine


async def test_a_stream_takes_a_filter_and_refuses_what_is_none(
    mongo_uri: str, database: str
) -> None:
    async with service(mongo_uri, database) as (_, client):
        await create(client, "prepares the collection", ANN)
        path = '/bells/events?filter=[["tone","=","d"]]'
        async with heard(client, path, ANN) as stream:
            await create(client, "c", ANN)
            await create(client, "d", ANN)
            assert (await stream.next())["data"]["record"]["tone"] == "d"
        for path, headers in (
            ("/bells/events?filter={", ANN),
            ('/bells/events?filter=[["owner","=","bob"]]', ANN),
            ("/bells/events", {**ANN, "last-event-id": "nonsense"}),
            ("/bells/events", {**ANN, "last-event-id": "e30="}),
        ):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == 422, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            (place,) = answer.json()["errors"]
            part = (
                ("header", "last-event-id") if "last-event-id" in headers else ("query", "filter")
            )
            assert (place["in"], place["loc"][0]) == part


async def test_a_stream_shows_that_it_lives_and_ends_in_time(mongo_uri: str, database: str) -> None:
    async with service(mongo_uri, database) as (process, client):
        answer = await client.get("/short", headers=ANN)
        assert answer.text.startswith("retry: 3000\n\n")
        assert answer.text.count(": still here\n\n") >= 2
        await process.until(lambda: process.streams() == 0)


async def test_a_client_that_goes_away_leaves_no_stream(mongo_uri: str, database: str) -> None:
    async with service(mongo_uri, database) as (process, client):
        await create(client, "prepares the collection", ANN)
        streams = [client.stream("GET", "/bells/events", headers=ANN) for _ in range(5)]
        for stream in streams:
            await stream.__aenter__()
        await process.until(lambda: process.streams() == 5)
        for stream in streams:
            await stream.__aexit__(None, None, None)
        await process.until(lambda: process.streams() == 0)


async def test_streams_leave_connections_for_others(mongo_uri: str, database: str) -> None:
    async with service(mongo_uri, database, INTEGRATIONS_SERVICE_POOL="6") as (process, client):
        await create(client, "prepares the collection", ANN)
        streams = [client.stream("GET", "/bells/events", headers=ANN) for _ in range(3)]
        for stream in streams:
            assert (await stream.__aenter__()).status_code == 200
        refused = await client.get("/bells/events", headers=BOB)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        assert refused.json()["detail"] == "Too many streams are open. Try again later."
        for _ in range(5):  # what is refused takes no place, and neither does a mistake
            assert (await client.get("/bells/events?filter={", headers=BOB)).status_code == 422
        assert (await client.get("/bells", headers=ANN)).status_code == 200
        await streams.pop().__aexit__(None, None, None)
        await process.until(lambda: process.streams() == 2)
        async with heard(client, "/bells/events", BOB) as stream:
            mine = await create(client, "bob's", BOB)
            assert (await stream.next())["data"]["id"] == mine
        for stream in streams:
            await stream.__aexit__(None, None, None)


GUNICORN = ("gunicorn", "--worker-class", "uvicorn.workers.UvicornWorker")


@pytest.mark.parametrize(
    ("server", "number"),
    [
        (("uvicorn",), signal.SIGTERM),
        (("uvicorn",), signal.SIGINT),
        (GUNICORN, signal.SIGTERM),
    ],
)
async def test_a_signal_ends_streams_and_lets_requests_end(
    mongo_uri: str, database: str, server: tuple[str, ...], number: signal.Signals
) -> None:
    async with service(mongo_uri, database, server=server, INTEGRATIONS_SERVICE_PAUSE="1") as (
        process,
        client,
    ):
        await create(client, "prepares the collection", ANN)
        async with heard(client, "/bells/events", ANN) as stream:
            pair = asyncio.ensure_future(client.post("/pair", headers=ANN))
            await process.until(lambda: process.streams() == 1)
            await asyncio.sleep(0.2)
            began = time.monotonic()
            process.process.send_signal(number)
            with pytest.raises(EOFError):
                await stream.next()  # the end of the answer, and no broken connection
            assert (await pair).status_code == 200
        # uvicorn sends itself the signal again when everything is over.
        assert await process.ended() in (0, -number)
        assert time.monotonic() - began < 20  # gunicorn would kill its worker after 30
        assert (
            process.db["service_bell"].count_documents({"tone": {"$in": ["first", "second"]}}) == 2
        )
        await process.assert_nothing_is_left()


async def test_a_transaction_that_is_cut_off_stores_nothing(mongo_uri: str, database: str) -> None:
    options = ("--timeout-graceful-shutdown", "0")
    async with service(mongo_uri, database, *options, INTEGRATIONS_SERVICE_PAUSE="30") as (
        process,
        client,
    ):
        await create(client, "prepares the collection", ANN)
        pair = asyncio.ensure_future(client.post("/pair", headers=ANN))
        await process.until(lambda: any("transaction" in op for op in process.operations()))
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended() in (0, -signal.SIGTERM)
        [end] = await asyncio.gather(pair, return_exceptions=True)
        assert isinstance(end, httpx.TransportError) or end.is_error
        assert (
            process.db["service_bell"].count_documents({"tone": {"$in": ["first", "second"]}}) == 0
        )
        await process.assert_nothing_is_left()
