"""What the pages show for web servers, in a real one: uvicorn."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from pymongo import MongoClient

import earnorm
from earnorm import App, current_env

from .shop import Person

ROOT = Path(__file__).parents[2]


# -- the forms of the pages -----------------------------------------------------------------------


class Server(uvicorn.Server):
    """Says when it has begun, or could not."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.begun.set()


@asynccontextmanager
async def running(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve by uvicorn on the event loop of the test."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = Server(uvicorn.Config(api, log_config=None, lifespan="on"))
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        await server.begun.wait()
        try:
            async with httpx.AsyncClient(base_url=address) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def block(_: FastAPI) -> AsyncIterator[None]:
    async with App("mongomock://", database="block", plugins=[]):
        yield


@asynccontextmanager
async def init(_: FastAPI) -> AsyncIterator[None]:
    await earnorm.init("mongomock://", database="init", plugins=[])
    yield
    await earnorm.close()


@asynccontextmanager
async def default_of_two(_: FastAPI) -> AsyncIterator[None]:
    async with App("mongomock://", database="other", plugins=[]):
        await earnorm.init("mongomock://", database="default of two", plugins=[])
        yield
        await earnorm.close()


@asynccontextmanager
async def two(api: FastAPI) -> AsyncIterator[None]:
    async with (
        App("mongomock://", database="other", plugins=[]),
        App("mongomock://", database="two", plugins=[]) as app,
    ):
        api.state.app = app
        yield


async def acting(request: Request, user: str = Header()) -> AsyncIterator[None]:
    app: App | None = getattr(request.app.state, "app", None)
    if app is None:
        with earnorm.act_as(user):
            yield
    else:
        with app.activate(), earnorm.act_as(user):
            yield


def lost(user: str = Header()) -> Iterator[None]:
    with earnorm.act_as(user):
        yield


def checked(user: str = Header()) -> str:
    return f"checked {user}"


async def acting_as_checked(user: str = Depends(checked)) -> AsyncIterator[None]:
    with earnorm.act_as(user):
        yield


async def who() -> str:
    await Person.create({"name": "Ann"})
    env = current_env()
    return f"{env.principal} in {env.app.name}"


def who_in_a_thread() -> str:
    return f"{current_env().principal} in {current_env().app.name}"


@pytest.mark.parametrize("lifespan", [block, init, default_of_two, two])
async def test_each_form_of_a_start_is_found_by_requests(
    lifespan: Callable[[FastAPI], Any],
) -> None:
    api = FastAPI(lifespan=lifespan, dependencies=[Depends(acting)])
    api.add_api_route("/", who)
    api.add_api_route("/thread", who_in_a_thread)
    name = lifespan.__name__.replace("_", " ")
    async with running(api) as client:
        asked = [client.get(path, headers={"user": "ann"}) for path in ("/", "/thread")]
        answers = await asyncio.gather(*asked)
        assert [answer.json() for answer in answers] == [f"ann in {name}"] * 2
    assert earnorm.find_env() is None


async def test_a_middleware_and_a_dependency_behind_a_plain_one_act_for_the_endpoint() -> None:
    api = FastAPI(lifespan=block)
    api.add_api_route("/", who, dependencies=[Depends(acting_as_checked)])
    api.add_api_route("/middleware", who)

    @api.middleware("http")
    async def act(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        with earnorm.act_as(request.headers["user"]):
            return await call_next(request)

    async with running(api) as client:
        first, second = [
            (await client.get(path, headers={"user": "ann"})).json()
            for path in ("/", "/middleware")
        ]
    assert (first, second) == ("checked ann in block", "ann in block")


async def test_a_plain_dependency_that_acts_is_an_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = FastAPI(lifespan=block)
    api.add_api_route("/", who, dependencies=[Depends(lost)])
    async with running(api) as client:
        assert (await client.get("/", headers={"user": "ann"})).status_code == 500
    assert "write it as 'async def'" in caplog.text


# -- a process that is told to end ----------------------------------------------------------------


class Service:
    """A uvicorn of its own, and the database that it works with."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, uri: str, name: str) -> None:
        self.process = process
        self.address = f"http://127.0.0.1:{port}"
        self.client = MongoClient[dict[str, Any]](uri)
        self.name = name
        self.people = self.client[name].core_person

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something, but not for a process that has ended."""
        while not await asyncio.to_thread(is_so):
            assert self.process.poll() is None
            await asyncio.sleep(0.02)

    def is_listening(self) -> bool:
        try:
            return httpx.get(f"{self.address}/docs").status_code == 200
        except httpx.TransportError:
            return False

    def has(self, name: str) -> bool:
        return self.people.find_one({"name": name}) is not None

    def names(self) -> list[str]:
        return [person["name"] for person in self.people.find()]

    def left(self) -> list[Any]:
        """Transactions, cursors and connections that the server holds of it."""
        every = {
            "allUsers": True,
            "idleConnections": True,
            "idleCursors": True,
            "idleSessions": True,
        }
        mine = [{"appName": self.name}, {"ns": {"$regex": f"^{self.name}[.]"}}]
        return list(self.client.admin.aggregate([{"$currentOp": every}, {"$match": {"$or": mine}}]))

    async def assert_nothing_is_left(self) -> None:
        for _ in range(100):  # the server notices a little later that connections are gone
            if not (left := await asyncio.to_thread(self.left)):
                return
            await asyncio.sleep(0.05)
        pytest.fail(str(left))


@contextmanager
def started(uri: str, database: str, driver: str, *options: str) -> Iterator[Service]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "tests.core.uvicorn_service:api"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning", *options],
        cwd=ROOT,
        env={**os.environ, "EARNORM_DRIVER": driver, "UVICORN_SERVICE_DATABASE": database},
    )
    service = Service(process, port, uri, database)
    try:
        yield service
    finally:
        process.kill()
        process.wait()
        service.client.drop_database(database)
        service.client.close()


HEADERS = {"user": "ann"}


@pytest.mark.parametrize("driver", ["pymongo"])
async def test_requests_in_flight_end_when_the_process_is_told_to(
    mongo_uri: str, database: str, driver: str
) -> None:
    with started(mongo_uri, database, driver) as service:
        service.people.insert_many([{"name": f"old {n}"} for n in range(2500)])
        await service.until(service.is_listening)
        async with httpx.AsyncClient(base_url=service.address, timeout=60) as client:
            adding = asyncio.ensure_future(client.post("/pairs?name=pair", headers=HEADERS))
            streaming = asyncio.ensure_future(client.get("/names", headers=HEADERS))
            await service.until(lambda: service.has("begun") and service.has("streaming"))
            service.process.send_signal(signal.SIGTERM)
            await service.until(lambda: not service.is_listening())
            service.people.insert_one({"name": "go on"})
            assert (await adding).json().startswith("ann has added ")
            assert len((await streaming).text.split()) == 2 * 2500
        # uvicorn sends itself the signal again when everything is over.
        assert await asyncio.to_thread(service.process.wait, 60) in (0, -signal.SIGTERM)
        assert service.names().count("pair") == 2
        await service.assert_nothing_is_left()


@pytest.mark.parametrize("driver", ["motor"])
async def test_requests_that_take_too_long_are_cut_off_and_leave_nothing(
    mongo_uri: str, database: str, driver: str
) -> None:
    with started(mongo_uri, database, driver, "--timeout-graceful-shutdown", "0") as service:
        service.people.insert_many([{"name": f"old {n}"} for n in range(2500)])
        await service.until(service.is_listening)
        async with httpx.AsyncClient(base_url=service.address, timeout=60) as client:
            adding = asyncio.ensure_future(client.post("/pairs?name=pair", headers=HEADERS))
            streaming = asyncio.ensure_future(client.get("/names", headers=HEADERS))
            await service.until(lambda: service.has("begun") and service.has("streaming"))
            service.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(service.process.wait, 60) in (0, -signal.SIGTERM)
            ends = await asyncio.gather(adding, streaming, return_exceptions=True)
        assert all(isinstance(end, httpx.TransportError) or end.is_error for end in ends)
        assert "pair" not in service.names()
        await service.assert_nothing_is_left()
