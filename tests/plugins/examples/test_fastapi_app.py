"""examples/fastapi_app over HTTP: with FastAPI's client, and in uvicorn under load, faults and signals.

``EARNORM_WEB_SECONDS`` says for how long the clients work, ``EARNORM_WEB_EXAMPLES`` how many requests
schemathesis makes for each route; ``nox -s web`` sets both higher.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pymongo import MongoClient

from tests.plugins.examples.web import CLIENTS, ROOT, Serving, clients, serving

UVICORN = ("uvicorn", "examples.fastapi_app.main:api", "--port", "{port}", "--log-level", "warning")
SECONDS = float(os.environ.get("EARNORM_WEB_SECONDS", "3"))
EXAMPLES = os.environ.get("EARNORM_WEB_EXAMPLES", "5")
ANN, BOB, EVE = ({"x-user": name} for name in ("ann", "bob", "eve"))


@pytest.fixture(params=["memory", "redis"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    database = f"example_{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("DATABASE", database)
    if request.param == "memory":
        monkeypatch.delenv("EARNORM_TEST_REDIS_URL")
    path = ROOT / "examples" / "fastapi_app" / "main.py"
    spec = importlib.util.spec_from_file_location("earnorm_example_fastapi", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with TestClient(module.api) as found:
        yield found
    with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as server:
        server.drop_database(database)


def made(client: TestClient, title: str, headers: Any, **values: Any) -> str:
    answer = client.post("/tickets", json={"title": title, **values}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def test_the_desk(client: TestClient) -> None:
    assert client.get("/tickets").status_code == 403
    assert client.get("/tickets", headers={"x-user": "mallory"}).status_code == 401
    assert client.get("/me", headers=EVE).json() == {"id": "eve", "roles": ["agent"]}
    tag = client.post("/tags", json={"name": "light"}, headers=EVE).json()["id"]
    assert client.post("/tags", json={"name": "mine"}, headers=ANN).status_code == 403
    lamp = made(client, "Lamp", ANN, tag_ids=[tag])
    made(client, "Chair", BOB, priority=1)

    rows = client.get("/tickets?order=title", headers=EVE).json()
    assert [(row["title"], row["owner"]) for row in rows] == [("Chair", "bob"), ("Lamp", "ann")]
    by_tag = {"filter": json.dumps([["tag_ids.name", "=", "light"]])}
    assert [r["title"] for r in client.get("/tickets", params=by_tag, headers=EVE).json()] == [
        "Lamp"
    ]
    page = client.get("/tickets?limit=1", headers=EVE)
    following = client.get("/tickets" + page.links["next"]["url"], headers=EVE)
    assert [page.json()[0]["title"], following.json()[0]["title"]] == ["Chair", "Lamp"]
    assert [row["title"] for row in client.get("/tickets", headers=BOB).json()] == ["Chair"]

    assert client.get(lamp, headers=BOB).status_code == 404
    assert client.patch(lamp, json={"state": "done"}, headers=ANN).status_code == 403
    assert client.patch(lamp, json={"priority": 2}, headers=EVE).json()["priority"] == 2
    assert client.get(lamp, headers=ANN).json()["priority"] == 2  # the cache has heard of it
    history = client.get(f"{lamp}/history", headers=EVE).json()
    assert [(e["operation"], e["principal"]) for e in history] == [
        ("create", "ann"),
        ("write", "eve"),
    ]

    assert client.post(f"{lamp}/done", headers=BOB).status_code == 404
    assert client.post(f"{lamp}/done", headers=ANN).status_code == 403
    assert len(client.get("/tickets", headers=ANN).json()) == 1  # both or neither
    asked = client.post(f"{lamp}/done", headers=EVE).json()["asked"]
    assert client.get(f"/tickets/{asked}", headers=ANN).json()["title"] == "How was it? Lamp"
    assert client.get(lamp, headers=ANN).json()["state"] == "done"
    assert client.delete(lamp, headers=EVE).status_code == 204
    assert client.get(lamp, headers=ANN).status_code == 404


def test_the_desk_s_pictures(client: TestClient) -> None:
    lamp = made(client, "Lamp", EVE)
    picture, kind = bytes(range(256)) * 2_000, {"content-type": "image/png"}
    stored = client.put(f"{lamp}/picture", content=picture, headers={**EVE, **kind})
    assert stored.json()["picture"]["length"] == 512_000
    part = client.get(f"{lamp}/picture", headers={**EVE, "range": "bytes=300000-300009"})
    assert part.status_code == 206 and part.content == picture[300_000:300_010]
    assert client.get(f"{lamp}/picture", headers=ANN).status_code == 404
    html = {"content-type": "text/html"}
    assert client.put(f"{lamp}/picture", content=b"x", headers={**EVE, **html}).status_code == 422


def test_the_desk_answers_mistakes(client: TestClient) -> None:
    refused = client.post("/tickets", json={"title": "", "prio": 1}, headers=ANN)
    assert refused.status_code == 422
    assert {place["loc"][-1] for place in refused.json()["errors"]} == {"title", "prio"}
    tag = client.post("/tags", json={"name": "light"}, headers=EVE)
    assert tag.status_code == 201
    assert client.post("/tags", json={"name": "light"}, headers=EVE).status_code == 409
    assert client.get("/tickets?order=secret", headers=ANN).status_code == 422
    assert client.get("/tickets?filter=[[", headers=ANN).status_code == 422
    assert client.get("/tickets/nonsense", headers=EVE).status_code == 404


def test_the_desk_s_health_and_pool(client: TestClient) -> None:
    health = client.get("/health")
    assert health.status_code == 200
    assert {"database", "pool"} <= health.json()["parts"].keys()
    assert client.get("/pool", headers=ANN).status_code == 403
    assert client.get("/pool", headers=EVE).json()["metrics"]["total_connections"] >= 1
    lamp = made(client, "Lamp", EVE)
    for _ in range(3):
        client.get(lamp, headers=EVE)
    assert set(client.get("/cache", headers=EVE).json()) == {"hits", "misses"}


# -- in uvicorn -----------------------------------------------------------------------------------


def one_visit(client: httpx.Client, title: str) -> list[int]:
    name = ("ann", "bob", "eve")[len(title) % 3]
    headers = {"x-user": name}
    answer = client.post("/tickets", json={"title": title}, headers=headers)
    if answer.status_code != 201:
        return [answer.status_code]
    place = answer.headers["location"]
    read = client.get(place, headers=headers)
    if read.status_code == 200:
        assert read.json()["title"] == title and read.json()["owner"] == name
    listed = client.get("/tickets?limit=5", headers=headers)
    return [answer.status_code, read.status_code, listed.status_code]


def assert_nothing_is_left(server: Serving) -> None:
    assert server.left_open() == []


@pytest.mark.parametrize("redis", [False, True], ids=["memory", "redis"])
def test_fifty_clients_hear_no_error(redis: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not redis:
        monkeypatch.delenv("EARNORM_TEST_REDIS_URL")
    with serving(*UVICORN) as server:
        with clients(server, one_visit) as load:
            time.sleep(SECONDS)
        assert load.broken == []
        assert load.statuses.keys() == {200, 201} and load.statuses[201] >= CLIENTS
        assert server.stop() in (0, -15)
        assert server.stored("tickets") == load.stored
        assert_nothing_is_left(server)
        print(f"{sum(load.statuses.values())} answers in {SECONDS} s: {load.statuses}")


def test_what_was_answered_before_a_stop_is_stored_and_nothing_is_left_open() -> None:
    with serving(*UVICORN) as server:
        stream: list[str] = []

        def listen() -> None:
            url = f"{server.url}/tickets/events"
            with httpx.stream("GET", url, headers=EVE, timeout=60) as answer:
                stream.extend(answer.iter_lines())
            stream.append("the end")

        listener = threading.Thread(target=listen)
        listener.start()
        with clients(server, one_visit) as load:
            until = time.monotonic() + 30  # a busy machine takes its time to start the clients
            while load.statuses.get(201, 0) < 2 * CLIENTS and time.monotonic() < until:
                time.sleep(0.1)
            assert server.stop() in (0, -15)
            assert_nothing_is_left(server)
        listener.join()
        assert load.stored and load.statuses.keys() <= {200, 201, 503}
        assert load.stored <= server.stored("tickets")
        assert "event: create" in stream and stream[-1] == "the end"


def test_schemathesis_finds_no_error_of_the_server() -> None:
    with serving(*UVICORN) as server:
        command = [
            *("schemathesis", "run", f"{server.url}/openapi.json", "--header", "x-user: eve"),
            *("--max-examples", EXAMPLES, "--seed", "1", "--exclude-path-regex", "/events$"),
            *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
            *("--checks", "response_schema_conformance", "--no-color"),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", *command[1:]],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
        print(done.stdout[-2_000:])
