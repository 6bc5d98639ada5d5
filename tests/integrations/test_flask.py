"""EarnORM in Flask: one App for each process, asynchronous views on its loop, who acts, and errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from a2wsgi import WSGIMiddleware
from flask import Flask, Response, g, request, stream_with_context
from flask.views import MethodView

import earnorm
import earnorm.sync
from earnorm import ConfigurationError, Int, Principal, String, current_env, find_env, models
from earnorm.integrations.flask import EarnORM


class Leaf(models.BaseModel):
    _name = "flask.leaf"

    text = String(required=True, max_length=5)
    number = Int(default=0)


def who() -> str:
    env = current_env()
    return f"{env.actor} {dict(env.context)}"


def user() -> str | None:
    return request.headers.get("x-user")


@pytest.fixture
def orm(database: str, mongo_uri: str) -> Iterator[EarnORM]:
    settings = {"mongo_uri": mongo_uri, "database": database, "plugins": []}
    orm = EarnORM(settings, principal=user)
    yield orm
    orm.close()


@pytest.fixture
def app(orm: EarnORM) -> Flask:
    app = Flask("leaves")
    orm.init_app(app)

    class Leaves(MethodView):
        init_every_request = False

        async def get(self) -> Any:
            assert request.path == "/leaves"
            return [leaf.text for leaf in await Leaf.search(order="text")]

        async def post(self) -> Any:
            g.thread = threading.current_thread().name
            return {"id": (await Leaf.create(request.get_json())).id, "in": g.thread}, 201

    app.add_url_rule("/leaves", view_func=Leaves.as_view("leaves"))

    @app.get("/leaves/<leaf_id>")
    def leaf(leaf_id: str) -> Any:
        return {"text": orm.run(Leaf.get, leaf_id).text}

    @app.get("/who")
    def plain() -> str:
        return who()

    @app.get("/async-who")
    async def on_the_loop() -> str:
        await asyncio.sleep(0.001)
        return who()

    return app


def text(app: Flask, path: str, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.test_client().get(path, headers=named).get_data(as_text=True)


def test_asynchronous_and_plain_views_work_in_one_app(app: Flask, orm: EarnORM) -> None:
    client = app.test_client()
    made = client.post("/leaves", json={"text": "a"})
    assert made.status_code == 201 and made.json["in"] == "earnorm.sync"
    first = orm.app
    assert client.get("/leaves").json == ["a"]
    assert client.get(f"/leaves/{made.json['id']}").json == {"text": "a"}
    assert orm.app is first


@pytest.mark.parametrize("path", ["/who", "/async-who"])
def test_who_has_sent_the_request_acts_in_it_and_nobody_else(app: Flask, path: str) -> None:
    assert text(app, path, x_user="ann") == "ann {}"
    assert text(app, path) == "None {}"
    assert find_env() is not None and current_env().principal is None
    with earnorm.act_as("tester", tz="Asia/Tokyo"):
        assert text(app, path) == "None {}"
        assert who() == "tester {'tz': 'Asia/Tokyo'}"
    with earnorm.system(reason="a test"):
        assert text(app, path, x_user="ann") == "ann {}"


LEFT: ContextVar[str] = ContextVar("left", default="nothing")


@pytest.mark.parametrize("path", ["/set", "/async-set"])
def test_what_a_view_sets_is_gone_after_the_request(app: Flask, path: str) -> None:
    @app.get("/set")
    def set_plainly() -> str:
        LEFT.set("set")
        return LEFT.get()

    @app.get("/async-set")
    async def set_on_the_loop() -> str:
        LEFT.set("set")
        return LEFT.get()

    @app.get("/get")
    async def get() -> str:
        return LEFT.get()

    assert text(app, path) == "set"
    assert text(app, "/get") == LEFT.get() == "nothing"


def test_who_acts_may_be_found_with_the_database(database: str, mongo_uri: str) -> None:
    async def from_token() -> Principal | None:
        found = await Leaf.find_one([("text", "=", request.headers.get("x-token", ""))])
        return Principal(found.ensure_one().text, ["agent"]) if found.exists() else None

    settings = {"mongo_uri": mongo_uri, "database": database, "plugins": []}
    app = Flask("tokens")
    orm = EarnORM(settings, principal=from_token, app=app)
    app.add_url_rule("/who", view_func=who)
    orm.run(Leaf.create({"text": "tom"}))
    assert text(app, "/who", x_token="tom") == "tom {}"
    assert text(app, "/who", x_token="eve") == "None {}"
    orm.close()


def test_requests_in_threads_do_not_mix(app: Flask) -> None:
    def ask(name: str) -> set[str]:
        return {text(app, path, x_user=name) for path in ("/who", "/async-who") * 10}

    with ThreadPoolExecutor(8) as pool:
        for name, seen in zip("abcdefgh", pool.map(ask, "abcdefgh"), strict=True):
            assert seen == {f"{name} {{}}"}


def test_first_requests_at_once_open_one_app(database: str, mongo_uri: str) -> None:
    made: list[earnorm.sync.App] = []

    def make() -> earnorm.sync.App:
        time.sleep(0.05)
        made.append(earnorm.sync.App(mongo_uri, database=database, plugins=[]))
        return made[-1]

    app = Flask("busy")
    orm = EarnORM(make, app=app)
    app.add_url_rule("/who", view_func=who)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: text(app, "/who"), range(8))) == {"None {}"}
    assert len(made) == 1
    orm.close()


@pytest.mark.parametrize("wrap", [stream_with_context, lambda parts: parts])
def test_the_body_of_a_stream_belongs_to_the_request(app: Flask, orm: EarnORM, wrap: Any) -> None:
    @app.get("/export")
    def export() -> Response:
        def lines() -> Iterator[str]:
            for leaf in orm.iterate(Leaf.search(order="text")):
                yield f"{leaf.text} {who()}\n"

        return Response(wrap(lines()))

    orm.run(Leaf.create, [{"text": str(n)} for n in range(3)])
    assert text(app, "/export", x_user="ann") == "0 ann {}\n1 ann {}\n2 ann {}\n"
    response = app.test_client().get("/export", headers={"x-user": "ann"}, buffered=False)
    next(iter(response.response))
    response.close()  # the client goes away
    assert not orm.app.in_flight.streams
    assert current_env().principal is None


def test_errors_are_problem_details(app: Flask) -> None:
    @app.get("/denied")
    async def denied() -> str:
        raise earnorm.AccessDenied("the rule 'secret' refuses it")

    @app.get("/broken")
    async def broken() -> str:
        raise ConfigurationError("the password is secret")

    client = app.test_client()
    refused = client.post("/leaves", json={"text": "too long"})
    assert (refused.status_code, refused.content_type) == (422, "application/problem+json")
    assert refused.get_json(force=True)["errors"][0]["loc"] == ["text"]
    assert client.get("/leaves/" + "0" * 24).status_code == 404
    assert client.get("/leaves/nonsense").status_code == 404

    answer = client.get("/denied")
    assert answer.status_code == 403 and "secret" not in answer.text

    answer = client.get("/broken")
    assert answer.status_code == 500 and "secret" not in answer.text
    app.testing = True
    with pytest.raises(ConfigurationError):
        app.test_client().get("/broken")


def test_an_error_in_a_view_leaves_nothing_behind(app: Flask, orm: EarnORM) -> None:
    @app.get("/fails")
    async def fails() -> str:
        async with earnorm.transaction():
            await Leaf.create({"text": "lost"})
            raise ValueError

    @app.get("/fails-plainly")
    def fails_plainly() -> str:
        with earnorm.sync.transaction():
            orm.run(Leaf.create({"text": "lost"}))
            raise ValueError

    for path in ("/fails", "/fails-plainly"):
        assert app.test_client().get(path, headers={"x-user": "ann"}).status_code == 500
    assert orm.run(Leaf.count()) == 0 and not orm.app.in_flight.transactions
    assert current_env().transaction is None and current_env().principal is None


def test_no_server_is_an_answer_and_the_next_request_tries_again(mongo_uri: str) -> None:
    made = earnorm.sync.App(
        "mongodb://127.0.0.1:1", database="web_unreachable", plugins=[], server_timeout=0.3
    )
    app = Flask("unreachable")
    orm = EarnORM(made, app=app)
    app.add_url_rule("/who", view_func=who)
    answer = app.test_client().get("/who")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    made._lifecycle.uri = mongo_uri  # as if a server had come there
    assert app.test_client().get("/who").status_code == 200
    orm.close()


def test_a_request_s_context_made_by_hand_ends_with_it(app: Flask, orm: EarnORM) -> None:
    orm.app  # noqa: B018 - opens it
    before = find_env()
    with app.test_request_context("/who", headers={"x-user": "ann"}):
        app.preprocess_request()
        assert who() == "ann {}"
        assert orm.run(Leaf.count()) == 0
    assert find_env() is before
    with app.test_client() as client:
        client.get("/who", headers={"x-user": "ann"})
        assert request.path == "/who"  # the client keeps the request
        assert current_env().principal is None


def test_hooks_may_be_asynchronous_and_ask_the_database(app: Flask) -> None:
    seen = []

    @app.before_request
    async def count() -> None:
        seen.append((await Leaf.count(), who()))

    assert text(app, "/who", x_user="ann") == "ann {}"
    assert seen == [(0, "ann {}")]


def test_two_applications_have_each_their_own_app(
    app: Flask, orm: EarnORM, database: str, mongo_uri: str
) -> None:
    other_app = Flask("other")
    made = earnorm.sync.App(mongo_uri, database=database, plugins=[], name="second")
    other = EarnORM(lambda: made, app=other_app)

    @other_app.get("/app")
    async def which() -> str:
        return f"{earnorm.current_app().name} {await Leaf.count()}"

    @app.get("/app")
    def which_first() -> str:
        return f"{earnorm.current_app().name} {orm.run(Leaf.count())}"

    assert text(other_app, "/app") == "second 0"
    assert text(app, "/app") == f"{database} 0"
    other.close()


def test_what_is_no_app_is_refused(app: Flask, orm: EarnORM) -> None:
    with pytest.raises(ConfigurationError, match="has an EarnORM already"):
        orm.init_app(app)
    with pytest.raises(TypeError, match=r"takes an earnorm\.sync\.App"):
        _ = EarnORM(lambda: "no app").app  # type: ignore[arg-type,return-value]


async def test_a_view_inside_of_an_event_loop_is_refused(app: Flask, orm: EarnORM) -> None:
    app.testing = True
    with pytest.raises(ConfigurationError, match="this thread runs an event loop"):
        app.test_client().get("/async-who")
    assert await asyncio.to_thread(text, app, "/async-who", x_user="ann") == "ann {}"
    await asyncio.to_thread(orm.close)


async def test_flask_under_an_asgi_server(app: Flask, orm: EarnORM) -> None:
    server: Any = WSGIMiddleware(app)
    transport = httpx.ASGITransport(app=server)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        names = [str(number) for number in range(20)]
        answers = await asyncio.gather(
            *(client.get("/async-who", headers={"x-user": name}) for name in names)
        )
        assert [answer.text for answer in answers] == [f"{name} {{}}" for name in names]
        assert (await client.post("/leaves", json={"text": "a"})).status_code == 201
    await asyncio.to_thread(orm.close)
