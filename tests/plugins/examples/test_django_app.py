"""examples/django_app: its own tests with Django's clients, and hypercorn and uvicorn under load and signals."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.plugins.examples.web import ROOT, SECONDS, clients, serving

DESK = "examples.django_app"


@pytest.mark.parametrize("cache", ["memory", "redis"])
def test_its_own_tests_pass(cache: str) -> None:
    environment = {
        **os.environ,
        "MONGO_URI": os.environ["EARNORM_TEST_MONGO_URI"],
        "DJANGO_SETTINGS_MODULE": f"{DESK}.settings",
    }
    if cache == "redis":
        environment["REDIS_URL"] = os.environ["EARNORM_TEST_REDIS_URL"]
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "django", "test", f"{DESK}.tests"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stderr and "Ran 5 tests" in done.stderr


def visit() -> Callable[[httpx.Client, str], list[int]]:
    """A client signs in at first, and then stores and reads tickets."""

    def one_visit(client: httpx.Client, title: str) -> list[int]:
        if not client.cookies:
            name = ("ann", "bob", "eve")[len(title) % 2]
            answer = client.post("/sign-in", json={"name": name, "password": name})
            if answer.status_code != 200:
                return [answer.status_code]
        made = client.post("/tickets", json={"title": title})
        if made.status_code != 201:
            return [made.status_code]
        read = client.get(f"/tickets/{made.json()['id']}")
        assert read.json()["title"] == title
        return [made.status_code, read.status_code]

    return one_visit


SERVERS = {
    "hypercorn": (DESK, "{port}"),
    "uvicorn": (
        "uvicorn",
        *("--port", "{port}", "--log-level", "warning", "--timeout-graceful-shutdown", "10"),
        f"{DESK}.asgi:application",
    ),
}


def prepared(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a server whose users have been made."""
    environment = {
        "USERS": str(tmp_path / "users.sqlite3"),
        "DJANGO_SETTINGS_MODULE": "tests.plugins.examples.django_settings",
    }
    command = (sys.executable, "-m", f"{DESK}.users")
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, timeout=60)
    return environment


@pytest.mark.parametrize("server", SERVERS)
def test_fifty_clients_hear_no_error(server: str, tmp_path: Path) -> None:
    with serving(*SERVERS[server], environment=prepared(tmp_path)) as running:
        with clients(running, visit()) as load:
            time.sleep(SECONDS)
            load.wait_for(100)
        assert load.broken == []
        assert load.statuses.keys() == {200, 201}
        running.stop()
        assert running.stored("tickets") == load.stored
        assert running.left_open() == []


@pytest.mark.parametrize("server", SERVERS)
def test_what_was_answered_before_a_stop_is_stored_and_nothing_is_left_open(
    server: str, tmp_path: Path
) -> None:
    with serving(*SERVERS[server], environment=prepared(tmp_path)) as running:
        with clients(running, visit()) as load:
            load.wait_for(100)
            running.stop()
            assert running.left_open() == []
        assert load.statuses.keys() <= {200, 201, 503}
        assert load.stored <= running.stored("tickets")
