"""EarnORM in FastAPI: who acts, the answers to errors, and the router of a model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import bson
import pydantic
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from starlette.testclient import WebSocketDenialResponse

import earnorm
from earnorm import App, Body, Int, Many2one, Principal, String, models
from earnorm.fields import File
from earnorm.integrations.fastapi import (
    PROBLEMS,
    Asked,
    CurrentApp,
    CurrentEnv,
    CurrentPrincipal,
    Listing,
    acting,
    asking,
    crud_router,
    health_router,
    install,
    lifespan,
    pool_router,
)
from earnorm_security import Access, FieldRights, Password, Rule, user


class Shelf(models.BaseModel):
    _name = "fastapi.shelf"
    _rules = [Rule("own", [("label", "=", user.id)])]
    label = String(required=True)


class Jar(models.BaseModel):
    _name = "fastapi.jar"
    _rules = [
        Rule("own", [("owner", "=", user.id)]),
        Rule("read-only", [("sealed", "=", False)], operations=["write", "unlink"]),
    ]
    _field_rights = [FieldRights("price", read=["boss"], write=["boss"])]
    label = String(required=True, unique=True, min_length=1, max_length=40)
    owner = String(default=lambda: str(earnorm.current_env().principal))
    grams = Int(default=0, min_value=0)
    price = Int(default=7)
    secret = String(default="a secret")
    sealed = earnorm.Boolean(default=False)
    shelf_id = Many2one(Shelf)
    photo = File(max_size=1_000_000)


def find_user(request: HTTPConnection) -> Principal | None:
    name = request.headers.get("x-user")
    if name == "nobody-known":
        raise HTTPException(401, "who are you?", headers={"www-authenticate": "Bearer"})
    return (
        None if name is None else Principal(name, roles=request.headers.get("x-roles", "").split())
    )


def jars(**options: Any) -> APIRouter:
    return crud_router(
        Jar,
        read=["label", "owner", "grams", "price", "sealed", "shelf_id", "photo"],
        write=["label", "grams", "price", "sealed", "shelf_id"],
        filter={"label": ["=", "ilike"], "grams": ["=", "<", ">", "in"]},
        order=["label", "grams"],
        **options,
    )


def api_of(source: Any, *routers: tuple[str, APIRouter]) -> FastAPI:
    api = FastAPI(lifespan=lifespan(source), responses=PROBLEMS)
    install(api, principal=find_user)
    for prefix, router in routers:
        api.include_router(router, prefix=prefix)
    return api


@pytest.fixture
def source(mongo_uri: str, database: str) -> Callable[[], App]:
    return lambda: App(mongo_uri, database=database, plugins=["security"])


@pytest.fixture
def client(source: Callable[[], App]) -> Iterator[TestClient]:
    shelves = crud_router(Shelf, read=["label"], write=["label"])
    api = api_of(source, ("/jars", jars(files=["photo"])), ("/shelves", shelves))
    with TestClient(api, headers={"x-user": "ann"}) as found:
        yield found


BOB = {"x-user": "bob"}
BOSS = {"x-user": "ann", "x-roles": "boss"}


def create(client: TestClient, label: str, headers: Any = None, **values: Any) -> dict[str, Any]:
    answer = client.post("/jars", json={"label": label, **values}, headers=headers)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_record_is_made_read_changed_and_deleted(client: TestClient) -> None:
    answer = client.post("/jars", json={"label": "Tea", "grams": 5})
    assert answer.status_code == 201
    made = answer.json()
    place = answer.headers["location"]
    assert place == f"/jars/{made['id']}"
    assert made == {
        "id": made["id"],
        "label": "Tea",
        "owner": "ann",
        "grams": 5,
        "sealed": False,
        "shelf_id": None,
        "photo": None,
    }
    assert client.get(place).json() == made
    assert client.patch(place, json={"grams": 6}).json()["grams"] == 6
    assert client.patch(place, json={}).json()["grams"] == 6
    assert client.delete(place).status_code == 204
    assert client.get(place).status_code == 404


def test_hidden_and_missing_records_give_the_same_answer(client: TestClient) -> None:
    hidden = create(client, "Bob's", BOB)["id"]
    for method, body in (("GET", None), ("PATCH", {"grams": 1}), ("PATCH", {}), ("DELETE", None)):
        answers = [
            client.request(method, f"/jars/{id}", json=body)
            for id in (hidden, "0" * 24, "nonsense", "a" * 500)
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.text for answer in answers}) == 1
        assert len({json.dumps(dict(a.headers)) for a in answers}) == 1
    for path in ("photo", "photo?filename=x"):
        texts = {
            client.request(method, f"/jars/{id}/{path}", content=b"x").text
            for id in (hidden, "0" * 24)
            for method in ("GET", "PUT", "DELETE")
        }
        assert len(texts) == 1
    assert client.get(f"/jars/{hidden}", headers=BOB).json()["grams"] == 0


def test_a_readable_record_that_may_not_be_written_is_denied(client: TestClient) -> None:
    sealed = create(client, "Sealed", sealed=True)["id"]
    for method in ("PATCH", "DELETE"):
        answer = client.request(method, f"/jars/{sealed}", json={"grams": 1})
        assert answer.status_code == 403
        assert answer.json()["code"] == "access_denied"
        assert "read-only" not in answer.text and "fastapi.jar" not in answer.text


def test_what_a_body_may_have_is_named(client: TestClient) -> None:
    for body, loc in (
        ({"label": "A", "owner": "bob"}, ["owner"]),
        ({"label": "A", "secret": "x"}, ["secret"]),
        ({"label": "A", "id": "0" * 24}, ["id"]),
        ({"label": "A", "_id": "0" * 24}, ["_id"]),
        ({"label": ""}, ["label"]),
        ({"label": {"$ne": 1}}, ["label"]),
        ({"label": "A", "grams": -1}, ["grams"]),
        ({}, ["label"]),
    ):
        answer = client.post("/jars", json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert [(p["in"], p["loc"]) for p in answer.json()["errors"]] == [("body", loc)]


def test_a_field_that_may_not_be_set_or_read_is_denied_or_left_out(client: TestClient) -> None:
    assert client.post("/jars", json={"label": "A", "price": 1}).status_code == 403
    made = create(client, "B", BOSS, price=3)
    assert made["price"] == 3
    assert "price" not in client.get(f"/jars/{made['id']}").json()
    assert client.get(f"/jars/{made['id']}", headers=BOSS).json()["price"] == 3
    assert "price" not in create(client, "C")
    [row] = client.get("/jars", params={"filter": '[["label", "=", "C"]]'}).json()
    assert "price" not in row
    assert client.get("/jars", params={"fields": "price"}).status_code == 403


def test_what_must_be_unique_is_a_conflict(client: TestClient) -> None:
    create(client, "Tea")
    answer = client.post("/jars", json={"label": "Tea"})
    assert answer.status_code == 409
    assert answer.json()["code"] == "duplicate_key"
    assert [place["loc"] for place in answer.json()["errors"]] == [["label"]]


def test_a_link_to_a_record_that_is_not_there_is_refused_with_its_place(client: TestClient) -> None:
    shelf = client.post("/shelves", json={"label": "bob"}, headers=BOB).json()["id"]
    missing, hidden = (
        client.post("/jars", json={"label": "A", "shelf_id": id}) for id in ("0" * 24, shelf)
    )
    assert missing.status_code == hidden.status_code == 422
    assert missing.text == hidden.text
    assert [place["loc"] for place in hidden.json()["errors"]] == [["shelf_id"]]
    assert client.post("/jars", json={"label": "A", "shelf_id": shelf}, headers=BOB).is_success


def test_pages_are_linked(client: TestClient) -> None:
    for n in range(5):
        create(client, f"jar {n}", grams=n)
    create(client, "Bob's", BOB, grams=9)
    seen: list[int] = []
    url = "/jars?order=-grams&limit=2&fields=grams"
    while url:
        answer = client.get(url)
        seen += [row["grams"] for row in answer.json()]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
        url = f"/jars{url}" if url.startswith("?") else url
    assert seen == [4, 3, 2, 1, 0]
    assert client.get("/jars?limit=201").status_code == 422
    refused = client.get("/jars", params={"filter": "{"}).json()
    assert [(p["in"], p["loc"]) for p in refused["errors"]] == [("query", ["filter"])]


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    kind = {"content-type": "application/json"}
    for content in (b"{", b"[]", b"null", b'"x"', b"\xff", b'{"label": "\\ud800"}', b"[" * 100_000):
        answer = client.post("/jars", content=content, headers=kind)
        assert answer.status_code in (400, 422), content[:20]
        assert answer.headers["content-type"] == "application/problem+json"


def test_nobody_acts_where_nobody_is_found(client: TestClient) -> None:
    headers = {"x-user": "nobody-known"}
    answer = client.get("/jars", headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["detail"] == "who are you?"
    del client.headers["x-user"]
    assert client.get("/jars").status_code in (200, 403)
    assert client.get("/nowhere").json()["code"] == "http_404"


class Letter(models.BaseModel):
    """Who drops one into the box does not read it."""

    _name = "fastapi.letter"
    _access = [Access("sender", create=True)]
    text = String(required=True)


def test_what_was_stored_is_told_so_though_it_may_not_be_read(source: Callable[[], App]) -> None:
    api = api_of(source, ("/letters", crud_router(Letter, read=["text"], write=["text"])))
    with TestClient(api, headers={"x-user": "ann", "x-roles": "sender"}) as client:
        answer = client.post("/letters", json={"text": "x"})
        assert answer.status_code == 201 and set(answer.json()) == {"id"}
        assert client.get(answer.headers["location"]).status_code == 403


# -- who acts -------------------------------------------------------------------------------------


def a_user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    return x_user  # a plain "def", which FastAPI runs in a thread


async def also_a_user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    return x_user


def who() -> str:
    return str(earnorm.current_env().principal)


def with_endpoints(api: FastAPI) -> FastAPI:
    told: list[str] = []

    @api.get("/async")
    async def in_the_loop(
        app: CurrentApp, env: CurrentEnv, principal: CurrentPrincipal
    ) -> list[str]:
        return [who(), str(env.principal), str(principal), app.name]

    @api.get("/sync")
    def in_a_thread(app: CurrentApp, env: CurrentEnv, principal: CurrentPrincipal) -> list[str]:
        return [who(), str(env.principal), str(principal), app.name]

    @api.get("/stream")
    async def streamed() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield who()
            async for _ in Shelf.search():
                yield who()

        return StreamingResponse(lines())

    @api.get("/later")
    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: told.append(who()))

    @api.get("/told")
    async def what_was_told() -> list[str]:
        return told

    @api.websocket("/broken")
    async def broken(socket: WebSocket) -> None:
        await socket.accept()
        raise earnorm.NotFound("x")

    @api.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(who())
        await socket.close()

    return api


@pytest.mark.parametrize("found_by", ["middleware", "plain def", "async def"])
def test_who_acts_reaches_all_of_a_request(database: str, found_by: str) -> None:
    source = {"mongo_uri": "mongomock://", "database": database, "plugins": []}
    if found_by == "middleware":
        api = FastAPI(lifespan=lifespan(source))
        install(api, principal=find_user)
    else:
        find = a_user if found_by == "plain def" else also_a_user
        api = FastAPI(lifespan=lifespan(source), dependencies=[Depends(acting(find))])
        install(api)
    with TestClient(with_endpoints(api)) as client:
        for name in ("ann", None, "bob"):
            headers = {} if name is None else {"x-user": name}
            expected = [str(name)] * 3 + [database]
            assert client.get("/async", headers=headers).json() == expected
            assert client.get("/sync", headers=headers).json() == expected
            assert client.get("/stream", headers=headers).text == str(name)
            client.get("/later", headers=headers)
            assert client.get("/told").json()[-1] == str(name)
            with client.websocket_connect("/socket", headers=headers) as socket:
                assert socket.receive_text() == str(name)
        with (
            pytest.raises(earnorm.NotFound),
            client.websocket_connect("/broken", headers={"x-user": "ann"}) as socket,
        ):
            socket.receive_text()
        if found_by == "middleware":
            unknown = {"x-user": "nobody-known"}
            with pytest.raises(WebSocketDenialResponse) as denied:
                client.websocket_connect("/socket", headers=unknown).__enter__()
            assert denied.value.status_code == 401
    assert earnorm.find_env() is None


def test_two_apps_in_one_process_do_not_mix(database: str) -> None:
    apis = [
        with_endpoints(
            api_of({"mongo_uri": "mongomock://", "database": f"{database}_{n}", "plugins": []})
        )
        for n in range(2)
    ]
    with TestClient(apis[0]) as one, TestClient(apis[1]) as two:
        for _ in range(2):
            assert one.get("/async").json()[3] == f"{database}_0"
            assert two.get("/sync").json()[3] == f"{database}_1"


async def test_two_apps_on_one_loop_do_not_mix(database: str) -> None:
    import httpx

    apis = [
        with_endpoints(
            api_of({"mongo_uri": "mongomock://", "database": f"{database}_{n}", "plugins": []})
        )
        for n in range(2)
    ]
    async with apis[0].router.lifespan_context(apis[0]), apis[1].router.lifespan_context(apis[1]):
        for n, api in enumerate(apis):
            transport = httpx.ASGITransport(app=api)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                for path in ("/async", "/sync"):
                    with earnorm.act_as("the test"), earnorm.system(reason="the test"):
                        answer = await client.get(path, headers={"x-user": "ann"})
                        assert answer.json() == ["ann", "ann", "ann", f"{database}_{n}"]
                        assert (await client.get(path)).json()[0] == "None"


def test_one_app_lives_as_often_as_a_test_needs_it(mongo_uri: str, database: str) -> None:
    app = App(mongo_uri, database=database, plugins=["security"])
    api = api_of(app, ("/jars", jars()))
    for n in range(3):
        with TestClient(api, headers={"x-user": "ann"}) as client:
            create(client, f"jar {n}")
            assert len(client.get("/jars").json()) == n + 1
        assert not app.is_started


# -- errors ---------------------------------------------------------------------------------------


def failing(source: Any, error: BaseException) -> FastAPI:
    api = api_of(source)

    @api.get("/")
    async def fail() -> None:
        raise error

    return api


@pytest.mark.parametrize(
    "error",
    [RuntimeError("hunter2"), earnorm.MultipleRecords("hunter2"), earnorm.PluginError("hunter2")],
    ids=repr,
)
def test_a_mistake_of_the_program_is_a_500_that_says_nothing_and_is_logged(
    database: str, error: Exception
) -> None:
    api = failing({"mongo_uri": "mongomock://", "database": database, "plugins": []}, error)
    with TestClient(api) as client, pytest.raises(type(error)):
        client.get("/")  # it goes on to the server, which logs it
    with TestClient(api, raise_server_exceptions=False) as client:
        answer = client.get("/")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "internal" and "hunter2" not in answer.text


def test_what_cannot_be_reached_is_a_503(mongo_uri: str, database: str) -> None:
    api = failing(
        {"mongo_uri": "mongomock://", "database": database, "plugins": []},
        earnorm.ServerUnavailable("mongodb://root:hunter2@db"),
    )
    with TestClient(api) as client:
        answer = client.get("/")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
        assert "hunter2" not in answer.text


def test_handlers_of_the_program_are_kept(database: str) -> None:
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    api = FastAPI(
        lifespan=lifespan({"mongo_uri": "mongomock://", "database": database, "plugins": []})
    )

    @api.exception_handler(earnorm.NotFound)
    async def own(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"own": True}, 404)

    @api.exception_handler(RequestValidationError)
    async def own_refusal(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"own": True}, 400)

    install(api)

    @api.get("/")
    async def missing(n: int = 0) -> None:
        raise earnorm.NotFound("x")

    with TestClient(api) as client:
        assert client.get("/").json() == {"own": True}
        assert client.get("/?n=x").json() == {"own": True}


# -- what an endpoint returns ---------------------------------------------------------------------


class Key(models.BaseModel):
    """Its id is a text: FastAPI would make JSON of all that the record holds."""

    _name = "fastapi.key"
    _id = String(required=True)
    label = String()
    pin = Password()
    salary = Int(default=7)
    _field_rights = [FieldRights("salary", read=["boss"])]


def test_a_record_that_is_returned_shows_what_its_json_does(source: Callable[[], App]) -> None:
    api = api_of(source)

    @api.get("/one")
    async def one():  # type: ignore[no-untyped-def]  # no response model
        return await Key.get("k")

    @api.get("/many")
    async def many():  # type: ignore[no-untyped-def]  # no response model
        return await Key.search()

    @api.get("/inside")
    async def inside():  # type: ignore[no-untyped-def]  # no response model
        return {"keys": [key async for key in Key.search()], "id": bson.ObjectId("0" * 24)}

    @api.get("/query")
    async def query():  # type: ignore[no-untyped-def]  # no response model
        return Key.search()

    @api.get("/typed")
    async def typed() -> Any:
        return await Key.get("k")

    with TestClient(api, headers={"x-user": "ann"}) as client:

        @api.post("/fill")
        async def fill() -> None:
            with earnorm.system(reason="fill"):
                await Key.create({"id": "k", "label": "front", "pin": "hunter2-hunter2"})

        client.post("/fill")
        shown = {"id": "k", "label": "front"}
        assert client.get("/one").json() == shown
        assert client.get("/many").json() == [shown]
        assert client.get("/inside").json() == {"keys": [shown], "id": "0" * 24}
        with pytest.raises(TypeError, match="was not awaited"):
            client.get("/query")
    with TestClient(api, headers={"x-user": "ann"}, raise_server_exceptions=False) as client:
        assert client.get("/one").json() == shown
        assert "argon2" not in client.get("/typed").text  # FastAPI may refuse it


# -- the lifespan ---------------------------------------------------------------------------------


def test_an_error_in_the_lifespan_leaves_no_app(database: str) -> None:
    made: list[App] = []

    def source() -> App:
        made.append(App("mongomock://", database=database, plugins=[]))
        return made[-1]

    @asynccontextmanager
    async def failing_start(api: FastAPI) -> AsyncIterator[None]:
        assert earnorm.current_app() is made[-1]
        raise RuntimeError("a start that fails")
        yield

    @asynccontextmanager
    async def failing_end(api: FastAPI) -> AsyncIterator[None]:
        yield
        assert earnorm.current_app() is made[-1]
        raise RuntimeError("an end that fails")

    for inside in (failing_start, failing_end):
        api = FastAPI(lifespan=lifespan(source, inside=inside))
        with pytest.raises(RuntimeError, match="that fails"), TestClient(api):
            pass
        assert not made[-1].is_started
    assert earnorm.find_env() is None


def test_a_server_that_is_not_there_fails_the_start(database: str) -> None:
    source = {"mongo_uri": "mongodb://localhost:1", "database": database, "server_timeout": 0.2}
    with pytest.raises(earnorm.ServerUnavailable), TestClient(api_of(source)):
        pass
    with pytest.raises(TypeError, match="returned a str"), TestClient(api_of(lambda: "x")):
        pass
    assert earnorm.find_env() is None


# -- health ---------------------------------------------------------------------------------------


def test_health_tells_states_and_nothing_else(mongo_uri: str, database: str) -> None:
    source = {"mongo_uri": mongo_uri, "database": database, "plugins": ["pool"]}

    def operator(x_user: Annotated[str | None, Header()] = None) -> None:
        if x_user != "root":
            raise HTTPException(403)

    api = api_of(
        source, ("", health_router()), ("/ops", pool_router(dependencies=[Depends(operator)]))
    )
    with TestClient(api) as client:
        health = client.get("/health")
        assert health.status_code == 200
        assert health.json()["status"] == "ok"
        assert set(health.json()["parts"].values()) == {"ok"}
        assert client.get("/health/live").json() == {"status": "ok"}
        assert client.get("/ops/pool").status_code == 403
        root = {"x-user": "root"}
        assert client.get("/ops/pool", headers=root).json()["metrics"]["total_connections"] >= 1
        assert "earnorm_pool_" in client.get("/ops/metrics", headers=root).text


def test_health_is_503_where_the_database_is_away(database: str) -> None:
    class Ill:
        api = 1
        name = "ill"

        @earnorm.hookimpl
        def health(self, app: App) -> dict[str, object]:
            return {"status": "failed", "error": "mongodb://root:hunter2@db"}

    source = {"mongo_uri": "mongomock://", "database": database, "plugins": [Ill]}
    api = api_of(source, ("", health_router()), ("", pool_router()))
    with TestClient(api) as client:
        health = client.get("/health")
        assert health.status_code == 503 and health.headers["retry-after"]
        assert "hunter2" not in health.text
        assert client.get("/pool").status_code == 404


# -- lists of the program, and the OpenAPI document ------------------------------------------------


LABELS = Listing(fields=["label"], filter=["label"], order=["label"])


def test_a_list_of_the_program_takes_the_same_parameters(source: Callable[[], App]) -> None:
    api = api_of(source, ("/jars", jars()))

    @api.get("/labels")
    async def labels(asked: Annotated[Asked, Depends(asking(LABELS))]) -> list[dict[str, Any]]:
        return (await asked.page(Jar.search([("grams", ">", 1)]))).rows

    with TestClient(api, headers={"x-user": "ann"}) as client:
        create(client, "A", grams=1)
        create(client, "B", grams=2)
        create(client, "C", BOB, grams=3)
        answer = client.get("/labels?order=-label")
        assert [row["label"] for row in answer.json()] == ["B"], answer.text
        assert client.get("/labels?order=grams").status_code == 422


def test_the_openapi_document_has_bodies_parameters_and_problems(source: Callable[[], App]) -> None:
    document = api_of(source, ("/jars", jars(files=["photo"]))).openapi()
    post = document["paths"]["/jars"]["post"]
    assert "default" in post["responses"] and "422" not in post["responses"]
    schemas = document["components"]["schemas"]
    assert schemas["JarIn"]["additionalProperties"] is False
    assert set(schemas["JarIn"]["properties"]) == {"label", "grams", "price", "sealed", "shelf_id"}
    assert schemas["JarIn"]["required"] == ["label"]
    assert "required" not in schemas["JarChange"]
    names = [p["name"] for p in document["paths"]["/jars"]["get"]["parameters"]]
    assert names == ["filter", "order", "fields", "limit", "after", "before"]
    assert "secret" not in json.dumps(document)


class LabelIn(pydantic.BaseModel):
    label: str


class JarBody(Body, of=Jar, include=["label", "grams"], extra="forbid"):
    label: str
    grams: int = 12


@pytest.mark.parametrize("body", [LabelIn, JarBody])
def test_a_router_takes_a_class_for_its_bodies(
    source: Callable[[], App], body: type[pydantic.BaseModel]
) -> None:
    api = api_of(source, ("/jars", crud_router(Jar, read=["label", "grams"], write=body)))
    with TestClient(api, headers={"x-user": "ann"}) as client:
        made = create(client, "A")
        assert made["grams"] == (12 if body is JarBody else 0)
        place = f"/jars/{made['id']}"
        assert client.patch(place, json={"label": "B"}).json()["label"] == "B"
        assert client.patch(place, json={"label": None}).status_code == 422
        refused = client.patch(place, json={"owner": "bob"})
        assert refused.status_code == (422 if body is JarBody else 200)  # as the class says
        assert client.get(place).json() == {"id": made["id"], "label": "B", "grams": made["grams"]}
        assert client.post("/jars", json={"grams": 1}).status_code == 422


class Line(earnorm.EmbeddedModel):
    item = String(required=True)
    price = Int(default=100)


class Order(models.BaseModel):
    _name = "fastapi.order"
    title = String(required=True)
    state = earnorm.Selection(["new", "done", "paid"], default="new")
    note = String(default="none")
    price = Int(default=100)
    lines = earnorm.List(earnorm.Embedded(Line))


class LineIn(Body, of=Line, exclude={"price"}, extra="forbid"):
    pass


class OrderIn(Body, of=Order, include=["title", "state", "note", "lines"], extra="forbid"):
    state: Literal["new", "done"] = "new"
    title: str = pydantic.Field(max_length=5, alias="name")
    lines: list[LineIn] | None = None
    copy_to: str = pydantic.Field("nobody")

    @pydantic.field_validator("note")
    @classmethod
    def is_polite(cls, note: str | None) -> str | None:
        if note == "rude":
            raise ValueError("say it politely")
        return note and note.upper()


class StrictOrderIn(OrderIn, validate_default=True):
    pass


@pytest.mark.parametrize("body", [OrderIn, StrictOrderIn])
def test_a_change_is_held_to_the_class_that_a_new_record_is_held_to(
    source: Callable[[], App], body: type[OrderIn]
) -> None:
    read = ["title", "state", "note", "price", "lines"]
    api = api_of(source, ("/orders", crud_router(Order, read=read, write=body)))
    with TestClient(api) as client:
        made = client.post("/orders", json={"name": "Tea", "lines": [{"item": "a"}]})
        place = made.headers["location"]
        before = client.get(place).json()
        refused: list[dict[str, Any]] = [
            {"state": "paid"},
            {"name": "too long"},
            {"name": None},
            {"title": "by another name"},
            {"note": "rude"},
            {"price": 1},
            {"lines": [{"item": "b", "price": 0}]},
        ]
        for change in refused:
            answer = client.patch(place, json=change)
            assert answer.status_code == 422, change
        assert client.get(place).json() == before
        assert client.patch(place, json={"state": "done"}).json() == {**before, "state": "done"}
        # A default of the class changes nothing.
        changed = client.patch(place, json={"name": "Mate", "note": "thanks"}).json()
        assert changed == {**before, "state": "done", "title": "Mate", "note": "THANKS"}
    schema = api.openapi()["components"]["schemas"]["OrderChange"]
    assert "required" not in schema
    assert set(schema["properties"]) == {"name", "state", "note", "lines", "copy_to"}
    assert not [name for name, shown in schema["properties"].items() if "default" in shown]


class Crate(models.BaseModel):
    _name = "fastapi.crate"
    label = String(required=True)
    bottle_ids = earnorm.One2many("fastapi.bottle", "crate_id")


class Bottle(models.BaseModel):
    _name = "fastapi.bottle"
    label = String(required=True)
    crate_id = Many2one(Crate)


class PlainCrate(pydantic.BaseModel):
    label: str
    bottle_ids: list[str] | None = []


class BottleIn(Body, of=Bottle, include=["label"]):
    pass


class CrateIn(Body, of=Crate, include=["label", "bottle_ids"]):
    bottle_ids: list[BottleIn] | None = None


@pytest.mark.parametrize("write", [["label", "bottle_ids"], PlainCrate, CrateIn])
def test_null_does_not_unlink_all_and_a_list_is_whole(
    source: Callable[[], App], write: Any
) -> None:
    api = api_of(
        source,
        ("/crates", crud_router(Crate, read=["label"], write=write)),
        ("/bottles", crud_router(Bottle, read=["crate_id"], write=["label", "crate_id"])),
    )
    with TestClient(api) as client:
        made = client.post("/crates", json={"label": "A", "bottle_ids": []})
        place, id = made.headers["location"], made.json()["id"]
        for label in "ab":
            assert client.post("/bottles", json={"label": label, "crate_id": id}).is_success
        answer = client.patch(place, json={"bottle_ids": None})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"] == ["bottle_ids"]
        assert [bottle["crate_id"] for bottle in client.get("/bottles").json()] == [id, id]
        assert client.patch(place, json={"bottle_ids": []}).is_success
        assert [bottle["crate_id"] for bottle in client.get("/bottles").json()] == [None, None]


class AnyLine(pydantic.BaseModel, extra="allow"):
    item: str


class AnyOrder(pydantic.BaseModel, extra="allow"):
    title: str = pydantic.Field("Tea", alias="name")
    note: str = "by the class"
    lines: list[AnyLine] = []
    captcha: str = ""


def test_a_plain_class_gives_no_values_but_of_the_fields_that_it_declares(
    source: Callable[[], App],
) -> None:
    read = ["title", "state", "note", "price", "lines"]
    api = api_of(source, ("/orders", crud_router(Order, read=read, write=AnyOrder)))
    with TestClient(api) as client:
        sent = {"price": 0, "state": "paid", "captcha": "x", "none": 1}
        lines = [{"item": "a", "price": 0}]
        made = client.post("/orders", json={**sent, "lines": lines})
        assert made.status_code == 201, made.text
        row = made.json()
        assert (row["title"], row["note"]) == ("Tea", "by the class")
        assert (row["state"], row["price"]) == ("new", 100)
        assert row["lines"] == [{"item": "a", "price": 100}]
        place = made.headers["location"]
        assert client.patch(place, json=sent).json() == row
        assert client.patch(place, json={"name": "Mate"}).json() == {**row, "title": "Mate"}


def test_a_router_has_the_routes_that_it_can_have(source: Callable[[], App]) -> None:
    def methods(router: APIRouter) -> set[tuple[str, str]]:
        api = FastAPI()
        api.include_router(router, prefix="/jars")
        return {(m, path) for path, found in api.openapi()["paths"].items() for m in found}

    reading = methods(crud_router(Jar, read=["label"]))
    assert reading == {("get", "/jars"), ("get", "/jars/{id}"), ("delete", "/jars/{id}")}
    assert methods(crud_router(Jar, read=["label"], operations=["list"])) == {("get", "/jars")}

    made = crud_router(Jar, read=["label"], write=LabelIn, operations=["create", "update"])
    assert methods(made) == {("post", "/jars"), ("patch", "/jars/{id}")}
    with pytest.raises(TypeError, match="needs fields in write"):
        crud_router(Jar, read=["label"], operations=["create"])
    with pytest.raises(TypeError, match="no File field"):
        crud_router(Jar, read=["label"], files=["label"])
    with pytest.raises(TypeError, match="lists of names"):
        crud_router(Jar, read=["label"], write="label")
    with pytest.raises(earnorm.ValidationError):
        crud_router(Jar, read=["labbel"])


# -- slips of the program -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (["lst"], "'lst'; did you mean 'list'"),
        (["list", "gett"], "no operation 'gett'"),
        ("list", "list of names"),
        ([], "no route"),
        (["list", 3], "no operation 3"),
    ],
    ids=str,
)
def test_operations_are_checked_when_a_router_is_made(operations: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        crud_router(Jar, read=["label"], write=["label"], operations=operations)


def test_a_router_of_files_alone_has_no_other_operations() -> None:
    assert crud_router(Jar, read=["label"], files=["photo"], operations=[]).routes
    with pytest.raises(TypeError, match="did you mean 'photo'"):
        crud_router(Jar, read=["label"], files=["photoo"])


SLIPS: list[dict[str, Any]] = [
    {"filter": {"labbel": ["="]}},
    {"filter": {"label": ["=="]}},
    {"order": ["labbel"]},
    {"default_order": "-labbel"},
]


@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_paths_and_operators_are_checked_when_the_server_starts(
    source: Callable[[], App], slip: dict[str, Any]
) -> None:
    outer = APIRouter()
    outer.include_router(crud_router(Jar, read=["label"], **slip), prefix="/jars")
    api = api_of(source, ("/v1", outer))
    with (
        pytest.raises(earnorm.ConfigurationError, match=r"fastapi\.jar.*did you mean"),
        TestClient(api),
    ):
        pass


async def test_without_a_lifespan_the_first_list_is_what_checks_them(
    source: Callable[[], App],
) -> None:
    import httpx

    for slip in SLIPS:
        api = FastAPI()
        install(api)
        api.include_router(crud_router(Jar, read=["label"], **slip), prefix="/jars")
        async with source():
            transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = await client.get("/jars")
        assert answer.status_code == 500 and "labbel" not in answer.text


def test_a_parameter_is_refused_by_its_own_name(client: TestClient) -> None:
    for sent in ({"filter": '[["grams", "=", "many"]]'}, {"order": "x"}, {"fields": ""}):
        answer = client.get("/jars", params=sent)
        assert answer.status_code == 422
        assert {place["loc"][0] for place in answer.json()["errors"]} == set(sent)
        assert answer.json()["title"] == "Unprocessable Content"


def test_answers_keep_the_order_of_read(source: Callable[[], App]) -> None:
    router = crud_router(Jar, read=["grams", "owner", "label"], write=["label"])
    api = api_of(source, ("/jars", router))
    with TestClient(api, headers={"x-user": "ann"}) as client:
        made = create(client, "Tea")
        place = f"/jars/{made['id']}"
        for row in (
            made,
            client.get(place).json(),
            client.patch(place, json={"label": "Tee"}).json(),
            client.get("/jars").json()[0],
        ):
            assert list(row) == ["id", "grams", "owner", "label"]


# -- lost updates ---------------------------------------------------------------------------------


class Will(models.BaseModel):
    """One of its fields changes where nobody else may look."""

    _name = "fastapi.will"
    _versioned = True
    _field_rights = [FieldRights("heir", read=["boss"])]
    text = String(required=True)
    heir = String()


class Deed(models.BaseModel):
    _name = "fastapi.deed"
    _versioned = True
    text = String(required=True)


@pytest.fixture
def deeds(source: Callable[[], App]) -> Iterator[TestClient]:
    api = api_of(
        source,
        ("/deeds", crud_router(Deed, read=["text"], write=["text"])),
        ("/jars", jars()),
    )
    with TestClient(api, headers={"x-user": "ann"}) as found:
        yield found


def test_a_change_of_what_was_changed_meanwhile_is_refused(deeds: TestClient) -> None:
    made = deeds.post("/deeds", json={"text": "one"})
    place, first = made.headers["location"], made.headers["etag"]
    assert deeds.get(place).headers["etag"] == first
    changed = deeds.patch(place, json={"text": "two"}, headers={"if-match": first})
    second = changed.headers["etag"]
    assert changed.status_code == 200 and second != first
    for method, sent in (("PATCH", {"text": "lost"}), ("PATCH", {}), ("DELETE", None)):
        for tags in (first, "nonsense", f"W/{second}", ""):
            late = deeds.request(method, place, json=sent, headers={"if-match": tags})
            assert (late.status_code, late.json()["code"]) == (412, "http_412")
            assert late.headers["content-type"] == "application/problem+json"
    assert deeds.get(place).json()["text"] == "two"
    for tags in (f"{first}, {second}", "*"):
        done = deeds.patch(place, json={"text": tags}, headers={"if-match": tags})
        assert done.status_code == 200
        second = done.headers["etag"]
    assert deeds.patch(place, json={"text": "without"}).status_code == 200
    last = deeds.get(place).headers["etag"]
    assert deeds.delete(place, headers={"if-match": last}).status_code == 204
    assert deeds.patch(place, json={}, headers={"if-match": "*"}).status_code == 404


def test_who_may_not_read_every_field_gets_no_tag_that_tells_of_the_others(
    source: Callable[[], App],
) -> None:
    api = api_of(source, ("/wills", crud_router(Will, read=["text"], write=["text"])))

    @api.post("/fill")
    async def fill() -> str:
        with earnorm.system(reason="fill"):
            return (await Will.create({"text": "one", "heir": "eve"})).id

    with TestClient(api) as client:
        place = f"/wills/{client.post('/fill').json()}"
        ann = {"x-user": "ann"}
        assert "etag" not in client.get(place, headers=ann).headers
        tag = client.get(place, headers=BOSS).headers["etag"]
        late = client.patch(place, json={"text": "two"}, headers={**ann, "if-match": tag})
        assert late.status_code == 412
        done = client.patch(place, json={"text": "two"}, headers={**BOSS, "if-match": tag})
        assert done.status_code == 200


def test_a_record_without_revisions_has_no_tag_that_could_match(deeds: TestClient) -> None:
    made = deeds.post("/jars", json={"label": "A"})
    place = made.headers["location"]
    assert "etag" not in made.headers and "etag" not in deeds.get(place).headers
    tag = {"if-match": '"0"'}
    assert deeds.patch(place, json={"grams": 1}, headers=tag).status_code == 412
    assert deeds.patch(place, json={"grams": 1}, headers={"if-match": "*"}).status_code == 200


async def test_of_changes_at_the_same_moment_one_is_made(source: Callable[[], App]) -> None:
    import asyncio

    import httpx

    api = api_of(source, ("/deeds", crud_router(Deed, read=["text"], write=["text"])))
    async with api.router.lifespan_context(api):
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            client.headers["x-user"] = "ann"
            made = await client.post("/deeds", json={"text": "first"})
            place, seen = made.headers["location"], {"if-match": made.headers["etag"]}
            answers = await asyncio.gather(
                *(client.patch(place, json={"text": str(n)}, headers=seen) for n in range(6))
            )
            won = [n for n, answer in enumerate(answers) if answer.status_code == 200]
            assert len(won) == 1
            assert {answer.status_code for answer in answers} <= {200, 409, 412}
            assert (await client.get(place)).json()["text"] == str(won[0])
