"""EarnORM in Starlette alone."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

import earnorm
from earnorm import Int, String, models
from earnorm.integrations.listings import Listing
from earnorm.integrations.starlette import install, lifespan


class Parcel(models.BaseModel):
    _name = "starlette.parcel"
    code = String(required=True)
    grams = Int(default=0, min_value=0)


PARCELS = Listing(fields=["code", "grams"], filter=["grams"], order=["grams"], size=2)


async def parcels(request: Request) -> Response:
    page = await PARCELS.read(request.query_params).page(Parcel)
    link = page.link(request.query_params.multi_items())
    return JSONResponse(page.rows, headers={"link": link})


async def add(request: Request) -> Response:
    parcel = await Parcel.create(await request.json())
    return JSONResponse({"id": parcel.id}, 201)


async def one(request: Request) -> Response:
    return JSONResponse((await Parcel.get(request.path_params["id"])).to_dict())


def who(request: Request) -> Response:
    return JSONResponse(str(earnorm.current_env().principal))


async def find(request: HTTPConnection) -> str | None:
    return request.headers.get("x-user")


ROUTES = [
    Route("/", parcels),
    Route("/", add, methods=["POST"]),
    Route("/who", who),
    Route("/{id}", one),
]


@pytest.mark.parametrize("is_mounted", [False, True])
def test_an_application(database: str, is_mounted: bool) -> None:
    source = {"mongo_uri": "mongomock://", "database": database, "plugins": []}
    routes = [Mount("/api", app=Starlette(routes=ROUTES))] if is_mounted else ROUTES
    api = Starlette(routes=routes, lifespan=lifespan(source))
    install(api, principal=find)
    prefix = "/api" if is_mounted else ""
    with TestClient(api) as client:
        for n in range(3):
            made = client.post(f"{prefix}/", json={"code": f"c{n}", "grams": n})
            assert made.status_code == 201
        page = client.get(f"{prefix}/?order=-grams")
        assert [row["grams"] for row in page.json()] == [2, 1]
        following = client.get(f"{prefix}/" + page.links["next"]["url"])
        assert [row["grams"] for row in following.json()] == [0]
        assert client.get(f"{prefix}/who", headers={"x-user": "ann"}).json() == "ann"
        if not is_mounted:
            refused = client.post("/", json={"grams": -1})
            assert refused.status_code == 422
            assert [p["loc"] for p in refused.json()["errors"]] == [["code"], ["grams"]]
            assert client.get("/?order=code").json()["errors"][0]["in"] == "query"
            assert client.get("/" + "0" * 24).json()["code"] == "not_found"
            assert client.get("/a/b").json()["code"] == "http_404"
            assert client.delete("/").headers["allow"]
