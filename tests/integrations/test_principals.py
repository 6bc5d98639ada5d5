"""Who acts in a request, in every web framework alike: what the program finds is what acts there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

import earnorm
import earnorm.sync
from earnorm import Principal, current_env

Find: TypeAlias = Callable[..., Any]

EVE = Principal("eve", roles=["clerk"], attributes={"external": True})
MAPPING = {"id": "eve", "roles": ["clerk"], "external": True}


def who() -> str:
    principal = current_env().principal
    assert principal is not None
    return json.dumps([principal.id, sorted(principal.roles), dict(principal.attributes)])


def in_flask(find: Find, source: dict[str, Any]) -> str:
    from flask import Flask

    from earnorm.integrations.flask import EarnORM

    orm = EarnORM(source, principal=find)
    app = Flask("principals")
    orm.init_app(app)
    app.get("/")(who)
    try:
        return app.test_client().get("/").get_data(as_text=True)
    finally:
        orm.close()


def in_litestar(find: Find, source: dict[str, Any]) -> str:
    from litestar import Litestar, get
    from litestar.testing import TestClient

    from earnorm.integrations.litestar import EarnORM

    @get("/", sync_to_thread=False)
    def show() -> str:
        return who()

    with TestClient(Litestar([show], plugins=[EarnORM(source, principal=find)])) as client:
        return client.get("/").text


def in_starlette(find: Find, source: dict[str, Any]) -> str:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    from earnorm.integrations.starlette import install, lifespan

    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(who())

    api = Starlette(routes=[Route("/", show)], lifespan=lifespan(source))
    install(api, principal=find)
    with TestClient(api) as client:
        return client.get("/").text


def in_a_dependency_of_fastapi(find: Find, source: dict[str, Any]) -> str:
    from fastapi import Depends, FastAPI
    from fastapi.testclient import TestClient
    from starlette.responses import PlainTextResponse

    from earnorm.integrations.fastapi import acting, install, lifespan

    async def sender() -> Any:
        return find()

    api = FastAPI(lifespan=lifespan(source), dependencies=[Depends(acting(sender))])
    install(api)

    @api.get("/")
    async def show() -> PlainTextResponse:
        return PlainTextResponse(who())

    with TestClient(api) as client:
        return client.get("/").text


DJANGO = """
import sys
import django
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from tests.integrations import test_principals

settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="s",
    MIDDLEWARE=["earnorm.integrations.django.AppMiddleware"],
    EARNORM={"mongo_uri": "mongomock://", "database": "principals", "plugins": []},
    EARNORM_PRINCIPAL=lambda request: getattr(test_principals, sys.argv[1]),
)
django.setup()
urlpatterns = [path("", lambda request: HttpResponse(test_principals.who()))]
from earnorm.integrations.django import close_app
print(Client().get("/").content.decode())
close_app()
"""


def in_django(find: Find, source: dict[str, Any]) -> str:
    """Ask a program of its own: Django's settings are one for a process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DJANGO), "EVE" if find() is EVE else "MAPPING"],
        env={**os.environ, "EARNORM_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_act_as(find: Find, source: dict[str, Any]) -> str:
    with earnorm.sync.App(**source), earnorm.act_as(find()):
        return who()


@pytest.mark.parametrize("found", [EVE, MAPPING], ids=["principal", "mapping"])
@pytest.mark.parametrize(
    "place",
    [
        in_act_as,
        in_flask,
        in_litestar,
        in_starlette,
        in_a_dependency_of_fastapi,
        in_django,
    ],
)
def test_what_a_program_finds_acts_in_the_request_with_its_attributes(
    place: Callable[[Find, dict[str, Any]], str], found: Any, database: str
) -> None:
    source = {"mongo_uri": "mongomock://", "database": database, "plugins": []}
    printed = place(lambda *_: found, source)
    assert json.loads(printed) == ["eve", ["clerk"], {"external": True}]
