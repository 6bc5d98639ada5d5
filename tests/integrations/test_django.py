"""EarnORM in Django: one App, on the server's loop or in the background, who acts, and errors."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

PROJECT = """
import asyncio, os, sys, threading
import django
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

def find(request):
    return request.headers.get("x-user")

async def find_in_database(request):
    found = await Leaf.find_one([("text", "=", request.headers.get("x-token", ""))])
    return found.ensure_one().text if found.exists() else None

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="s",
    MIDDLEWARE=["earnorm.integrations.django.AppMiddleware"],
    EARNORM={"mongo_uri": os.environ["EARNORM_TEST_MONGO_URI"], "database": sys.argv[1],
             "plugins": [], "server_timeout": 2},
    EARNORM_PRINCIPAL=find,
)
django.setup()

import earnorm, earnorm.sync
from earnorm import String, current_env, find_env, models
from earnorm.integrations.django import asgi, close_app, get_app

class Leaf(models.BaseModel):
    _name = "django.leaf"
    text = String(required=True, max_length=5)

def who():
    return f"{current_env().actor} {earnorm.current_app().name} {threading.current_thread().name}"

def plain(request):
    return HttpResponse(who())

async def on_the_loop(request):
    await Leaf.count()
    return HttpResponse(who())

def from_a_thread(request):
    return HttpResponse(str(earnorm.sync.run(Leaf.search().count())))

async def fails(request):
    async with earnorm.transaction():
        await Leaf.create({"text": "lost"})
        raise ValueError("no more")

async def refused(request):
    await Leaf.create({"text": "too long"})

async def internal(request):
    raise earnorm.ConfigurationError("the password is secret")

urlpatterns = [
    path("plain", plain), path("async", on_the_loop), path("count", from_a_thread),
    path("fails", fails), path("refused", refused), path("internal", internal),
]

def text(answer):
    return answer.content.decode()
"""


def run(code: str, database: str, uri: str) -> str:
    """Run a program with a Django of its own: its settings are one for a process."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::ResourceWarning",
            "-c",
            PROJECT + textwrap.dedent(code),
            database,
        ],
        env={**os.environ, "EARNORM_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "never awaited" not in done.stderr
    return done.stdout


def test_the_clients_work_in_the_app_of_the_background(database: str, mongo_uri: str) -> None:
    printed = run(
        """
        client = Client()
        for _ in range(2):
            print(text(client.get("/async", headers={"x-user": "ann"})))
            print(text(client.get("/plain", headers={"x-user": "bob"})))
            print(text(client.get("/async")), text(client.get("/count")))

        async def asynchronous():
            client = AsyncClient()
            print(text(await client.get("/async", headers={"x-user": "ann"})))
            print(text(await client.get("/plain")), text(await client.get("/count")))
            assert find_env().principal is None

        asyncio.run(asynchronous())
        asyncio.run(asynchronous())
        assert current_env().principal is None
        with earnorm.act_as("tester"):
            print(text(client.get("/async")))
        close_app()
        print(find_env())
        """,
        database,
        mongo_uri,
    )
    lines = printed.splitlines()
    once = [
        f"ann {database} earnorm.sync",
        f"bob {database} MainThread",
        f"None {database} earnorm.sync 0",
    ]
    assert lines[:6] == once * 2
    for first, second in (lines[6:8], lines[8:10]):
        assert first == f"ann {database} earnorm.sync"
        assert second.startswith(f"None {database} ") and second.endswith(" 0")
    assert lines[10:] == [f"None {database} earnorm.sync", "None"]


def test_errors_of_views(database: str, mongo_uri: str) -> None:
    printed = run(
        """
        client = Client(raise_request_exception=False)
        refused = client.get("/refused")
        print(refused.status_code, refused["content-type"], refused.json()["errors"][0]["loc"])
        for _ in range(2):
            print(client.get("/fails").status_code, text(client.get("/count")))
        internal = client.get("/internal")
        print(internal.status_code, "secret" in text(internal))
        try:
            Client().get("/internal")
        except earnorm.ConfigurationError as error:
            print(error)
        print(get_app().in_flight.transactions == {}, current_env().transaction)
        """,
        database,
        mongo_uri,
    )
    assert printed.splitlines() == [
        "422 application/problem+json ['text']",
        "500 0",
        "500 0",
        "500 False",
        "the password is secret",
        "True None",
    ]


def test_settings_decide_who_acts_and_which_app(database: str, mongo_uri: str) -> None:
    printed = run(
        """
        first = get_app()
        earnorm.sync.run(Leaf.create({"text": "tom"}))
        with override_settings(EARNORM_PRINCIPAL=find_in_database):
            print(text(Client().get("/plain", headers={"x-token": "tom"})).split()[0])
            print(text(Client().get("/plain", headers={"x-token": "eve"})).split()[0])

            async def asynchronous():
                answer = await AsyncClient().get("/async", headers={"x-token": "tom"})
                print(text(answer).split()[0])

            asyncio.run(asynchronous())
        dead = {"mongo_uri": "mongodb://127.0.0.1:1", "database": "d", "plugins": [],
                "server_timeout": 0.3}
        with override_settings(EARNORM=dead):
            answer = Client().get("/async")
            print(answer.status_code, answer["retry-after"] > "", first.is_started)
        with override_settings(EARNORM=lambda: earnorm.App("mongomock://", database="m", plugins=[])):
            print(text(Client().get("/async")))
        print(get_app() is not first, text(Client().get("/count")))
        """,
        database,
        mongo_uri,
    )
    assert printed.splitlines() == [
        "tom",
        "None",
        "tom",
        "503 True False",
        "None m earnorm.sync",
        "True 1",
    ]


def test_the_app_lives_on_the_loop_of_a_server(database: str, mongo_uri: str) -> None:
    printed = run(
        """
        from django.core.asgi import get_asgi_application
        application = asgi(get_asgi_application())

        async def ask(path, name):
            scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path,
                     "query_string": b"", "headers": [(b"x-user", name)], "scheme": "http",
                     "server": ("test", 80)}
            body, sent = [], False

            async def receive():
                nonlocal sent
                if not sent:
                    sent = True
                    return {"type": "http.request", "body": b""}
                await asyncio.sleep(60)

            async def send(message):
                body.append(message.get("body", b""))

            await application(scope, receive, send)
            return b"".join(body).decode()

        async def main():
            told, said = asyncio.Queue(), asyncio.Queue()
            living = asyncio.ensure_future(application({"type": "lifespan"}, told.get, said.put))
            await told.put({"type": "lifespan.startup"})
            print(await said.get())
            answers = await asyncio.gather(*(ask("/async", str(n).encode()) for n in range(40)))
            assert [answer.split()[0] for answer in answers] == [str(n) for n in range(40)]
            print(answers[0])
            print((await ask("/plain", b"bob")).split()[0], await ask("/count", b"bob"))
            print(get_app()._lifecycle.loop is asyncio.get_running_loop())
            await told.put({"type": "lifespan.shutdown"})
            print(await said.get(), find_env())
            await living

        asyncio.run(main())
        """,
        database,
        mongo_uri,
    )
    assert printed.splitlines() == [
        "{'type': 'lifespan.startup.complete'}",
        f"0 {database} MainThread",
        "bob 0",
        "True",
        "{'type': 'lifespan.shutdown.complete'} None",
    ]


def test_a_start_that_fails_is_told_to_the_server(database: str, mongo_uri: str) -> None:
    printed = run(
        """
        settings.EARNORM["mongo_uri"] = "mongodb://127.0.0.1:1"
        settings.EARNORM["server_timeout"] = 0.3

        async def main():
            said = asyncio.Queue()

            async def startup():
                return {"type": "lifespan.startup"}

            await asgi(None)({"type": "lifespan"}, startup, said.put)
            print((await said.get())["type"])

        asyncio.run(main())
        """,
        database,
        mongo_uri,
    )
    assert printed == "lifespan.startup.failed\n"


def test_threads_and_forks_have_one_app_each(database: str, mongo_uri: str) -> None:
    printed = run(
        """
        from concurrent.futures import ThreadPoolExecutor

        def ask(name):
            answers = {text(Client().get(path, headers={"x-user": name})).split()[0]
                       for path in ("/async", "/plain") * 5}
            return answers == {name}, get_app()

        with ThreadPoolExecutor(8) as pool:  # the first requests come at once
            found = list(pool.map(ask, "abcdefgh"))
        print(all(is_own for is_own, _ in found), len({app for _, app in found}))
        child = os.fork()
        if not child:
            import signal
            signal.alarm(60)
            print(text(Client().get("/async")), flush=True)
            close_app()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(text(Client().get("/async")))
        """,
        database,
        mongo_uri,
    )
    assert printed.splitlines() == [
        "True 1",
        f"None {database} earnorm.sync",
        f"None {database} earnorm.sync",
    ]
