"""The programs of examples/ that the core alone can run are run, and say what they promise."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pymongo import MongoClient

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "basic.py": (
        "over a metre: ['Bamboo']",
        "low, and no fern: ['Thyme']",
        "Fern: 35 cm, planted 2024-04-01, ['shade', 'indoor']",
        "refused: ('height_cm',)",
        "refused: plant: a record with this label exists already",
        "left in the garden: 3",
    ),
    "relations.py": (
        "not yet: Team.name: player.team_id is not loaded",
        "{'Ada': 'Reds', 'Bob': 'Blues', 'Cid': 'Reds', 'Dee': 'Blues'}",
        "Blues ['Bob', 'Dee']",
        "same object: True",
        "teams in play: ['Blues', 'Reds']",
    ),
    "plugin_in_one_file.py": (
        "Hoi An 10.0 navigable: False",
        "berths divisible by 3: ['Hue']",
        "observed: ['harbour:Hue', 'harbour:Hoi An'] | a search was timed: True",
        "refused: Input should be less than or equal to 100",
        "('berths', 'divisible by'): no such operator",
    ),
}


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program)],
        env={**os.environ, "EARNORM_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("program", SAYS)
def test_an_example_says_what_it_promises_also_when_it_is_run_again(program: str) -> None:
    first, second = run(program), run(program)
    for expected in SAYS[program]:
        assert expected in first
    assert first == second


def test_every_example_is_executed_by_a_test() -> None:
    programs = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    # tests/plugins/authors runs the tests of the plugin, which is a project of its own.
    programs = {name for name in programs if not name.startswith("third_party_plugin/")}
    assert programs == {*SAYS, "demo.py", "fastapi_app/main.py", "flask_app/main.py"}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    database = f"example_{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    monkeypatch.setenv("EARNORM_EXAMPLE_DATABASE", database)
    spec = importlib.util.spec_from_file_location(
        "earnorm_example_service", EXAMPLES / "fastapi_app" / "main.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # FastAPI looks up the annotations of its functions in the module by name.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with TestClient(module.app) as found:
        yield found
    with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as server:
        server.drop_database(database)


def test_the_service_stores_lists_changes_and_removes_tasks(client: TestClient) -> None:
    water = client.post("/tasks", json={"title": "Water the fern", "priority": 1})
    assert water.status_code == 201
    client.post("/tasks", json={"title": "Buy a pot"})
    listed = client.get("/tasks").json()
    assert [task["title"] for task in listed["tasks"]] == ["Water the fern", "Buy a pot"]
    assert client.get("/tasks", params={"text": "POT"}).json()["total"] == 1
    task_id = water.json()["id"]
    assert client.post(f"/tasks/{task_id}/done").json()["done"] is True
    assert client.delete(f"/tasks/{task_id}").status_code == 204
    assert client.get("/tasks").json()["total"] == 1


def test_the_service_acts_as_the_user_of_each_request(client: TestClient) -> None:
    added = client.post("/tasks", json={"title": "Rake"}, headers={"x-user": "ann"})
    assert added.json()["for"] == "ann"
    assert client.post("/tasks", json={"title": "Sow"}).json()["for"] is None


def test_the_service_answers_mistakes_with_the_right_status(client: TestClient) -> None:
    assert client.post("/tasks", json={"title": "Twice"}).status_code == 201
    assert client.post("/tasks", json={"title": "Twice"}).status_code == 409
    refused = client.post("/tasks", json={"title": "Urgent", "priority": 9})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["priority"]
    assert client.delete("/tasks/" + "0" * 24).status_code == 404
    assert client.post("/tasks/nonsense/done").status_code == 404
