"""An App in a web server: its requests are tasks that do not inherit the context of its start."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import anyio.to_thread
import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

import earnorm
from earnorm import App, AppStopping, ConfigurationError, current_env, find_env

from .shop import Person


async def elsewhere(work: Callable[[], Awaitable[Any]]) -> Any:
    """Do the work in a task with a context of its own, as a server does for a request."""

    async def run() -> Any:
        return await work()

    return await contextvars.Context().run(asyncio.ensure_future, run())


async def principal() -> str:
    return str(current_env().principal)


@asynccontextmanager
async def served(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve as uvicorn does: the lifespan is a task of its own, and so is each request."""
    begun, end = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with api.router.lifespan_context(api):
            begun.set()
            await end.wait()

    living = contextvars.Context().run(asyncio.ensure_future, live())
    waiting = asyncio.ensure_future(begun.wait())
    await asyncio.wait({living, waiting}, return_when=asyncio.FIRST_COMPLETED)
    transport = httpx.ASGITransport(app=api)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    finally:
        end.set()
        await living


async def get(client: httpx.AsyncClient, path: str) -> Any:
    return (await elsewhere(lambda: client.get(path))).json()


# -- which App ------------------------------------------------------------------------------------


async def test_a_request_finds_the_app_of_the_lifespan(database: str) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with earnorm.App("mongomock://", database=database, plugins=[]):
            await Person.create({"name": "Ann"})
            yield

    api = FastAPI(lifespan=lifespan)

    @api.get("/")
    async def count() -> int:
        return await Person.count()

    @api.get("/thread")
    def who() -> str:
        return str(current_env().principal)

    async with served(api) as client:
        assert await get(client, "/") == 1
        assert await get(client, "/thread") == "None"
    assert find_env() is None
    with TestClient(api) as test_client:
        assert test_client.get("/").json() == 1


async def test_only_the_one_app_is_found_and_nobody_acts_in_it(database: str) -> None:
    async def count() -> int:
        return await Person.count()

    async with App("mongomock://", database=database, plugins=[]) as app:
        with earnorm.act_as("ann", tenant="t"):
            assert await elsewhere(count) == 0
            assert await elsewhere(principal) == "None"
            assert await principal() == "ann"

            async def context() -> object:
                return dict(current_env().context), current_env().app

            assert await elsewhere(context) == ({}, app)
        async with App("mongomock://", database=database, plugins=[], name="other"):
            with pytest.raises(ConfigurationError) as caught:
                await elsewhere(count)
            assert f"{database!r} and 'other'" in str(caught.value)
            assert caught.value.code == "which_app"

            async def found() -> object:
                return find_env()

            assert await elsewhere(found) is None
        assert await elsewhere(count) == 0
    with pytest.raises(ConfigurationError, match="no App is started"):
        await elsewhere(count)


async def test_the_default_app_is_found_before_others(database: str) -> None:
    app = await earnorm.init("mongomock://", database=database, plugins=[])
    try:
        async with App("mongomock://", database=database, plugins=[], name="other"):

            async def which() -> object:
                return earnorm.current_app()

            assert await elsewhere(which) is app
    finally:
        await earnorm.close()


def test_the_one_app_of_each_event_loop_is_found(database: str) -> None:
    async def which() -> object:
        return earnorm.current_app().name

    with asyncio.Runner() as one, asyncio.Runner() as two:
        apps = [App("mongomock://", database=database, plugins=[], name=n) for n in ("1", "2")]
        for runner, app in zip((one, two), apps, strict=True):
            runner.run(app.start())
        assert [runner.run(elsewhere(which)) for runner in (one, two)] == ["1", "2"]
        with pytest.raises(ConfigurationError, match="'1' and '2'"):
            earnorm.current_app()
        two.run(apps[1].stop())
        assert earnorm.current_app() is apps[0]
        one.run(apps[0].stop())


async def test_an_app_of_a_loop_that_died_is_not_found(database: str) -> None:
    left = App("mongomock://", database=database, plugins=[], name="left")
    await asyncio.to_thread(asyncio.run, left.start())
    async with App("mongomock://", database=database, plugins=[]) as app:
        assert await elsewhere(lambda: asyncio.sleep(0, earnorm.current_app())) is app
    assert find_env() is None


async def test_a_request_hears_that_the_app_stops(database: str) -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def request() -> int:
        with current_env().app.in_flight.whole():
            waiting.set()
            await go_on.wait()
            return await Person.count()

    async def late() -> int:
        return await Person.count()

    app = App("mongomock://", database=database, plugins=[])
    async with app:
        first = asyncio.ensure_future(elsewhere(request))
        await waiting.wait()
        stopping = asyncio.ensure_future(app.stop())
        await asyncio.sleep(0.01)
        with pytest.raises(AppStopping):
            await elsewhere(late)
        go_on.set()
        assert await first == 0 and (await stopping).is_clean


# -- who acts -------------------------------------------------------------------------------------


def ann() -> Iterator[None]:
    with earnorm.act_as("ann"):
        yield


@contextmanager
def wrapped() -> Iterator[None]:
    with earnorm.act_as("ann"):
        yield


def nested() -> Iterator[None]:
    with wrapped(), earnorm.system(reason="a test"):
        yield


def active() -> Iterator[None]:
    with earnorm.current_app().activate():
        yield


async def also_ann() -> AsyncIterator[None]:
    with earnorm.act_as("ann"):
        yield


def api_of(dependency: Callable[..., Any]) -> FastAPI:
    api = FastAPI(dependencies=[Depends(dependency)])

    @api.get("/")
    async def who() -> str:
        return str(current_env().principal)

    @api.get("/thread")
    def who_in_a_thread() -> str:
        with earnorm.act_as("bob"):  # it holds its own block open
            inner = str(current_env().principal)
        return f"{current_env().principal}, {inner}"

    return api


@pytest.mark.parametrize("dependency", [ann, nested, active])
async def test_a_block_that_a_thread_would_lose_is_refused(
    memory_app: App, dependency: Callable[..., Any]
) -> None:
    async with served(api_of(dependency)) as client:
        with pytest.raises(ConfigurationError, match="is entered by a thread") as caught:
            await client.get("/")
    assert caught.value.code == "left_elsewhere" and "ann" not in str(caught.value)


async def test_an_async_dependency_acts_for_its_endpoint(memory_app: App) -> None:
    async with served(api_of(also_ann)) as client:
        assert await get(client, "/") == "ann"
        assert await get(client, "/thread") == "ann, bob"
    assert current_env().principal is None


async def test_the_steps_of_a_generator_in_threads_are_refused(memory_app: App) -> None:
    api = FastAPI()

    def lines() -> Iterator[str]:
        with earnorm.act_as("ann"):
            yield "1\n"
            yield str(current_env().principal)

    @api.get("/")
    async def export() -> StreamingResponse:
        return StreamingResponse(lines())

    async with served(api) as client:
        with pytest.raises(ConfigurationError, match="is entered by a thread"):
            await client.get("/")


def work() -> str:
    with ExitStack() as stack:
        stack.enter_context(wrapped())
        return str(current_env().principal)


@earnorm.act_as("ann")
def decorated() -> str:
    return str(current_env().principal)


def lines() -> Iterator[str]:
    with earnorm.act_as("ann"):
        yield str(current_env().principal)


def listed() -> str:
    return "".join(lines())


@pytest.mark.parametrize("function", [work, decorated, listed])
async def test_a_function_that_holds_its_block_open_may_do_so_in_a_thread(
    memory_app: App, function: Callable[[], str]
) -> None:
    assert await asyncio.to_thread(function) == "ann"
    assert await anyio.to_thread.run_sync(function) == "ann"


async def test_a_block_that_is_left_in_another_context_says_so(memory_app: App) -> None:
    block = earnorm.act_as("ann")
    contextvars.copy_context().run(block.__enter__)
    with pytest.raises(ConfigurationError, match="left in another context") as caught:
        block.__exit__(None, None, None)
    assert caught.value.code == "left_elsewhere"
