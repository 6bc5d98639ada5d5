"""A service that uvicorn runs in a process of its own: ``uvicorn tests.core.uvicorn_service:api``.

Its requests take their time where the test has to be sure that they are in flight.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse

import earnorm
from earnorm import App, AppStopping

from .shop import Person

DATABASE = os.environ["UVICORN_SERVICE_DATABASE"]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with App(
        os.environ["EARNORM_TEST_MONGO_URI"],
        database=DATABASE,
        plugins=[],
        client_options={"appName": DATABASE},
    ) as app:
        await app.prepare_models()
        yield


async def acting(user: str = Header()) -> AsyncIterator[None]:
    with earnorm.act_as(user):
        yield


api = FastAPI(lifespan=lifespan, dependencies=[Depends(acting)])


@api.exception_handler(AppStopping)
async def stopping(_: Request, error: AppStopping) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=error.status)


async def until(name: str) -> None:
    """Wait until somebody has stored a record of this name; it is asked past the App."""
    people = earnorm.current_app().dangerous_raw("a test").core_person
    for _ in range(3_000):
        if await people.find_one({"name": name}):
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(name)


@api.post("/pairs")
async def add_pair(name: str) -> str:
    await Person.create({"name": "begun"})
    async with earnorm.transaction():
        await Person.create({"name": name})
        await until("go on")
        await Person.create({"name": name})
    return f"{earnorm.current_env().principal} has added {await Person.count()}"


@api.get("/names")
async def names() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        async for person in Person.search([("name", "like", "old")]):
            if person.name == "old 0":
                await Person.create({"name": "streaming"})
                await until("go on")
            yield f"{person.name}\n"

    return StreamingResponse(lines())
