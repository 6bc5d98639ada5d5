"""A service for tests in a process of its own: ``uvicorn tests.integrations.service:api``."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

import earnorm
from earnorm import App, Int, String, models
from earnorm.integrations.fastapi import crud_router, events, install, lifespan
from earnorm_security import Rule, user

DATABASE = os.environ["INTEGRATIONS_SERVICE_DATABASE"]


class Bell(models.BaseModel):
    _name = "service.bell"
    _rules = [Rule("own", [("owner", "=", user.id)])]
    tone = String(required=True)
    owner = String(default=lambda: str(earnorm.current_env().principal))
    rings = Int(default=0)
    note = String()


def find_user(request: HTTPConnection) -> str | None:
    return request.headers.get("x-user")


def make() -> App:
    return App(
        os.environ["EARNORM_TEST_MONGO_URI"],
        database=DATABASE,
        plugins=["security"],
        max_pool_size=int(os.environ.get("INTEGRATIONS_SERVICE_POOL", "100")),
        client_options={"appName": DATABASE},
    )


api = FastAPI(lifespan=lifespan(make))
install(api, principal=find_user)
api.include_router(
    crud_router(
        Bell,
        read=["tone", "rings"],
        write=["tone", "rings", "note"],
        filter=["tone"],
        operations=["list", "create", "update", "delete", "events"],
    ),
    prefix="/bells",
)


@api.get("/short")
async def short(request: Request) -> Response:
    """A stream that ends soon, and shows that it lives."""
    return await events(Bell.watch(), fields=["tone"], heartbeat=0.05, longest=0.4)


@api.post("/pair")
async def pair() -> dict[str, Any]:
    """Two records in one transaction, which takes its time."""
    async with earnorm.transaction():
        await Bell.create({"tone": "first"})
        await asyncio.sleep(float(os.environ.get("INTEGRATIONS_SERVICE_PAUSE", "0.2")))
        second = await Bell.create({"tone": "second"})
    return {"id": second.id}
