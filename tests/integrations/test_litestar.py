"""EarnORM in Litestar: the App of the lifespan, who acts, and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Litestar, get, post
from litestar.connection import ASGIConnection
from litestar.response import Stream
from litestar.testing import TestClient

import earnorm
import earnorm.sync
from earnorm import ConfigurationError, String, current_env, find_env, models
from earnorm.integrations.litestar import EarnORM


class Twig(models.BaseModel):
    _name = "litestar.twig"

    text = String(required=True, max_length=5)


def user(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    return connection.headers.get("x-user")


async def user_of_database(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    found = await Twig.find_one([("text", "=", connection.headers.get("x-user", ""))])
    return found.ensure_one().text if found.exists() else None


@post("/twigs")
async def add(data: dict[str, str]) -> dict[str, Any]:
    twig = await Twig.create(data)
    return {"id": twig.id, "by": str(current_env().principal)}


@get("/twigs/{twig_id:str}")
async def show(twig_id: str) -> dict[str, Any]:
    return {"text": (await Twig.get(twig_id)).text}


@get("/thread", sync_to_thread=True)
def in_a_thread() -> str:
    return f"{current_env().principal} {earnorm.sync.run(Twig.search().count())}"


@get("/stream")
async def stream() -> Stream:
    async def lines() -> AsyncIterator[str]:
        async for twig in Twig.search():
            yield f"{twig.text} {current_env().principal}\n"

    return Stream(lines())


@get("/internal")
async def internal() -> str:
    raise ConfigurationError("the password is secret")


def served(database: str, uri: str, principal: Any = user) -> TestClient[Litestar]:
    settings = {"mongo_uri": uri, "database": database, "plugins": []}
    orm = EarnORM(settings, principal=principal)
    return TestClient(Litestar([add, show, in_a_thread, stream, internal], plugins=[orm]))


def test_requests_work_in_the_app_of_the_lifespan(database: str, mongo_uri: str) -> None:
    for _ in range(2):
        with served(database, mongo_uri) as client:
            made = client.post("/twigs", json={"text": "a"}, headers={"x-user": "ann"}).json()
            assert made["by"] == "ann"
            assert client.get(f"/twigs/{made['id']}").json() == {"text": "a"}
            assert client.post("/twigs", json={"text": "b"}).json()["by"] == "None"
        assert find_env() is None
    with served(database, mongo_uri) as client:
        assert client.get("/thread", headers={"x-user": "bob"}).text == "bob 4"
        assert client.get("/thread").text == "None 4"
        lines = client.get("/stream", headers={"x-user": "eve"}).text.splitlines()
        assert lines == ["a eve", "b eve"] * 2


def test_who_acts_may_be_found_in_the_database(database: str, mongo_uri: str) -> None:
    with served(database, mongo_uri, user_of_database) as client:
        client.post("/twigs", json={"text": "tom"})
        assert client.get("/thread", headers={"x-user": "tom"}).text == "tom 1"
        assert client.get("/thread", headers={"x-user": "eve"}).text == "None 1"


@pytest.mark.parametrize(
    ("path", "status"), [("/twigs/nonsense", 404), ("/twigs/" + "0" * 24, 404), ("/internal", 500)]
)
def test_errors_are_problem_details(database: str, mongo_uri: str, path: str, status: int) -> None:
    with served(database, mongo_uri) as client:
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (
            status,
            "application/problem+json",
        )
        assert "secret" not in answer.text
        refused = client.post("/twigs", json={"text": "too long"})
        assert refused.status_code == 422 and refused.json()["errors"][0]["loc"] == ["text"]


def test_a_request_without_the_lifespan_is_refused(database: str, mongo_uri: str) -> None:
    client = served(database, mongo_uri)
    answer = client.get("/thread")
    assert answer.status_code == 500
