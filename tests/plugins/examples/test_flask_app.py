"""examples/flask_app over HTTP: with Flask's client, and in gunicorn under load, forks and signals."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from flask.testing import FlaskClient

from tests.plugins.examples.web import ROOT, SECONDS, clients, serving

GUNICORN = (
    "gunicorn",
    *("--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--log-level", "warning"),
    "examples.flask_app.main:app",
)
ANN, BOB, EVE = ({"x-user": name} for name in ("ann", "bob", "eve"))


@pytest.fixture(params=["memory", "redis"])
def client(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlaskClient]:
    database = f"example_{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("DATABASE", database)
    monkeypatch.setenv("MONGO_URI", os.environ["EARNORM_TEST_MONGO_URI"])
    if request.param == "redis":
        monkeypatch.setenv("REDIS_URL", os.environ["EARNORM_TEST_REDIS_URL"])
    path = ROOT / "examples" / "flask_app" / "main.py"
    spec = importlib.util.spec_from_file_location("earnorm_example_flask", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module.app.test_client()
    driver = module.orm.app.dangerous_raw("the test is over").client
    module.orm.run(driver.drop_database, database)
    module.orm.close()


def test_the_desk(client: FlaskClient) -> None:
    assert client.get("/tickets").status_code == 403
    made = client.post("/tickets", json={"title": "Lamp"}, headers=ANN)
    assert (made.status_code, made.json["owner"]) == (201, "ann")
    path = f"/tickets/{made.json['id']}"
    client.post("/tickets", json={"title": "Chair", "priority": 1}, headers=BOB)
    listed = client.get("/tickets?order=title", headers=EVE).json["tickets"]
    assert [ticket["title"] for ticket in listed] == ["Chair", "Lamp"]
    filtered = client.get('/tickets?filter=[["priority","<",2]]', headers=EVE).json["tickets"]
    assert [ticket["title"] for ticket in filtered] == ["Chair"]
    page = client.get("/tickets?limit=1", headers=EVE)
    assert 'rel="next"' in page.headers["link"]
    assert [t["title"] for t in client.get("/tickets", headers=BOB).json["tickets"]] == ["Chair"]

    assert client.get(path, headers=BOB).status_code == 404
    assert client.patch(path, json={"state": "done"}, headers=ANN).status_code == 403
    assert client.patch(path, json={"state": "done"}, headers=EVE).json["state"] == "done"
    assert client.get(path, headers=ANN).json["state"] == "done"  # the cache has heard of it
    history = client.get(f"{path}/history", headers=EVE).json
    assert [(entry["operation"], entry["by"]) for entry in history] == [
        ("create", "ann"),
        ("write", "eve"),
    ]
    assert client.get("/export", headers=EVE).text == "Chair\nLamp\n"
    assert client.get("/export", headers=ANN).text == "Lamp\n"
    assert client.delete(path, headers=EVE).status_code == 204
    assert client.get(path, headers=ANN).status_code == 404


def test_the_desk_answers_mistakes(client: FlaskClient) -> None:
    refused = client.post("/tickets", json={"title": "", "prio": 1}, headers=ANN)
    assert refused.status_code == 422
    places = refused.get_json(force=True)["errors"]
    assert {place["loc"][-1] for place in places} == {"title", "prio"}
    assert client.post("/tickets", json=["Lamp"], headers=ANN).status_code == 400
    assert client.post("/tickets", data="{", headers=ANN).status_code == 415
    assert client.get("/tickets?order=secret", headers=ANN).status_code == 422
    assert client.get("/tickets?filter=[[", headers=ANN).status_code == 422
    assert client.get("/tickets/nonsense", headers=EVE).status_code == 404


def test_the_desk_s_health_and_pool(client: FlaskClient) -> None:
    health = client.get("/health")
    assert health.status_code == 200
    assert {"database", "pool"} <= health.json["parts"].keys()

    def is_healthy() -> bool:
        time.sleep(0.02)
        return bool(client.get("/pool").json["pool"]["status"] == "healthy")

    # The cache may open its own connection at this moment, and what waits for one is "degraded".
    assert any(is_healthy() for _ in range(200))


def one_visit(client: httpx.Client, title: str) -> list[int]:
    name = ("ann", "bob", "eve")[len(title) % 2]
    headers = {"x-user": name}
    made = client.post("/tickets", json={"title": title}, headers=headers)
    if made.status_code != 201:
        return [made.status_code]
    read = client.get(f"/tickets/{made.json()['id']}", headers=headers)
    assert read.json()["title"] == title and read.json()["owner"] == name
    return [made.status_code, read.status_code]


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_fifty_clients_hear_no_error_in_two_processes(preload: tuple[str, ...]) -> None:
    with serving(*GUNICORN, "--workers", "2", "--threads", "16", *preload) as server:
        with clients(server, one_visit) as load:
            time.sleep(SECONDS)
            load.wait_for(100)
        assert load.broken == []
        assert load.statuses.keys() == {200, 201}
        assert server.stop() == 0
        assert server.stored("tickets") == load.stored
        assert server.left_open() == []


def test_what_was_answered_before_a_stop_is_stored_and_nothing_is_left_open() -> None:
    with serving(*GUNICORN, "--workers", "2", "--threads", "16") as server:
        with clients(server, one_visit) as load:
            load.wait_for(100)
            assert server.stop() == 0
            assert server.left_open() == []
        assert load.statuses.keys() <= {200, 201, 503}
        assert load.stored <= server.stored("tickets")
