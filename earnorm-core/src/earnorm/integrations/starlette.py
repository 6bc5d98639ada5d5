"""EarnORM in Starlette, and in what is made of it: ``pip install "earnorm-core[starlette]"``.

::

    api = Starlette(routes=routes, lifespan=lifespan({"mongo_uri": URI, "database": "desk"}))
    install(api, principal=find_user)
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from earnorm.application import App
from earnorm.exceptions import AccessDenied, AppStopping, EarnORMError
from earnorm.integrations.file_ranges import Disposition, FileAnswer, file_answer
from earnorm.integrations.lifetimes import AppSource, Lifetime, lifetime_of, living
from earnorm.integrations.listings import row_of
from earnorm.integrations.problems import RETRY_AFTER, Problem, problem_of
from earnorm.integrations.requests import nobody_in
from earnorm.kernel.acting import act_as
from earnorm.kernel.environment import current_app, use_env
from earnorm.kernel.life.in_flight import GRACE

if TYPE_CHECKING:
    from earnorm.features.files.stored import StoredFile
    from earnorm.features.watching.watching import ChangeEvent, Watch
    from earnorm.model.base import BaseModel

__all__ = [
    "AppMiddleware",
    "EventStream",
    "FileResponse",
    "FindPrincipal",
    "Lifespan",
    "events",
    "file_response",
    "install",
    "lifespan",
    "problem_response",
]

M = TypeVar("M", bound="BaseModel")

FindPrincipal: TypeAlias = Callable[[HTTPConnection], Awaitable[object] | object]
"""Finds who has sent a request: what ``act_as()`` takes, or None for nobody. It may be async."""

Lifespan: TypeAlias = Callable[[Starlette], AbstractAsyncContextManager[None]]

log = logging.getLogger("earnorm")

_STATE: Final = "earnorm"
_POOL: Final = 100  # the connections of a driver that is told no other number
_RETRY: Final = 3_000  # milliseconds until a client opens a stream again that has ended


# -- the life of the App --------------------------------------------------------------------------


def lifespan(
    source: AppSource,
    *,
    inside: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    grace: float = GRACE,
) -> Lifespan:
    """Return a lifespan that starts an App with the server, and stops it when the server stops.

    Args:
        source: The App; a function without arguments that makes one, which is called at each start;
            or the arguments of an App, as a mapping.
        inside: A lifespan of your own, which begins when the App is started, and ends before it stops.
        grace: The seconds that what is in flight has to end when the App stops.

    Example::

        api = FastAPI(lifespan=lifespan(lambda: earnorm.App(os.environ["MONGO_URI"], database="desk")))
    """

    @asynccontextmanager
    async def live(api: Starlette) -> AsyncIterator[None]:
        async with living(source, grace=grace) as lifetime:
            setattr(api.state, _STATE, lifetime)
            try:
                if inside is None:
                    yield
                else:
                    async with inside(api):
                        yield
            finally:
                if getattr(api.state, _STATE, None) is lifetime:
                    delattr(api.state, _STATE)

    return live


class AppMiddleware:
    """Makes the App of the application's lifespan current in each request, and its sender the principal.

    It is plain ASGI, so that both hold for all of a request: sync and async endpoints, the body of a
    streaming answer, background tasks. Where no lifespan of :func:`lifespan` runs, the App is found as
    everywhere.

    Args:
        app: The ASGI application.
        principal: Finds who has sent the request; None leaves that to a dependency or to the endpoint.
    """

    def __init__(self, app: ASGIApp, *, principal: FindPrincipal | None = None) -> None:
        self.app = app
        self._principal = principal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        with _active(scope):
            if self._principal is None:
                await self.app(scope, receive, send)
                return
            try:
                found = self._principal(HTTPConnection(scope))
                principal = await found if inspect.isawaitable(found) else found
            except (HTTPException, EarnORMError) as error:
                # No handler of the application is around this.
                response = _answer(error)
                if response is None:
                    raise
                await response(scope, receive, send)
                return
            if principal is None:
                await self.app(scope, receive, send)
                return
            with act_as(principal):
                await self.app(scope, receive, send)


@contextmanager
def _active(scope: Scope) -> Iterator[None]:
    api = scope.get("app")
    lifetime: Lifetime | None = getattr(getattr(api, "state", None), _STATE, None)
    if lifetime is None:
        yield
        return
    with use_env(nobody_in(lifetime.app)):
        yield


# -- errors ---------------------------------------------------------------------------------------


def problem_response(problem: Problem) -> Response:
    """Return the answer of a problem, as ``application/problem+json``."""
    return Response(problem.to_json(), problem.status, problem.headers)


def _answer(error: Exception) -> Response | None:
    """Return the answer to an error; None if the program is at fault, and the server shall hear of it."""
    if isinstance(error, HTTPException):
        if error.status_code in (204, 304):
            return Response(status_code=error.status_code, headers=error.headers)
        detail = error.detail if isinstance(error.detail, str) else None
        response = problem_response(Problem.of_status(error.status_code, detail))
        response.headers.update(error.headers or {})
        return response
    problem = problem_of(error)
    return None if problem.is_internal else problem_response(problem)


async def _known_problem(request: Request, error: Exception) -> Response:
    if request.scope["type"] == "websocket" and not isinstance(error, HTTPException):
        raise error  # a socket that is open has no answers
    response = _answer(error)
    if response is None:
        raise error
    return response


async def _internal_problem(request: Request, error: Exception) -> Response:
    return problem_response(problem_of(error))


def install(api: Starlette, *, principal: FindPrincipal | None = None) -> None:
    """Add the middleware of the App, and answer errors with problem details (RFC 9457).

    Handlers of your own for the same classes are kept. An error for which the program is at fault
    is a 500 that says nothing, and goes on to the server's log.

    Args:
        api: The application, before it is started.
        principal: Finds who has sent a request; see :class:`AppMiddleware`.
    """
    api.add_middleware(AppMiddleware, principal=principal)
    handlers: dict[Any, Any] = {
        EarnORMError: _known_problem,
        HTTPException: _known_problem,
        Exception: _internal_problem,
    }
    for kind, handler in handlers.items():
        api.exception_handlers.setdefault(kind, handler)


# -- server-sent events ---------------------------------------------------------------------------


class EventStream(StreamingResponse):
    """Sends the changes of records as server-sent events, until the client goes or the server stops.

    The stream belongs to who opened it: rules that change meanwhile hold for the next event.

    Args:
        watch: The changes, opened.
        fields: The fields of a record that an event may have.
        place: The place among the streams of the App, which its end gives back.
        ending: Is set when the server is told to stop.
        heartbeat: The seconds between two signs of life, by which proxies keep the connection.
        longest: The seconds after which the stream ends. A browser opens it again and goes on behind
            the last event, and who acts is found anew; None means no end.
        patience: The seconds that a client may take to read an event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        watch: Watch[Any],
        *,
        fields: Collection[str],
        place: _Place | None = None,
        ending: asyncio.Event | None = None,
        heartbeat: float = 15.0,
        longest: float | None = 900.0,
        patience: float = 10.0,
    ) -> None:
        super().__init__(
            _nothing(), headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        self._watch = watch
        self._place = place
        self._fields = frozenset(fields)
        self._order = tuple(fields)
        self._ending = ending or asyncio.Event()
        self._heartbeat, self._longest, self._patience = heartbeat, longest, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        others = [
            asyncio.ensure_future(_until_disconnect(receive)),
            asyncio.ensure_future(self._ending.wait()),
        ]
        if self._longest is not None:
            others.append(asyncio.ensure_future(asyncio.sleep(self._longest)))
        try:
            start: Message = {
                "type": "http.response.start",
                "status": 200,
                "headers": self.raw_headers,
            }
            await self._send(send, start)
            await self._send_all(send, others)
            await self._send(send, {"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError):
            log.debug("a stream of events ends, because its client does not read")
        finally:
            for task in others:
                task.cancel()
            self._place = None
            await asyncio.shield(asyncio.ensure_future(self._watch.close()))

    async def _send_all(self, send: Send, others: Sequence[asyncio.Future[Any]]) -> None:
        await self._send(send, f"retry: {_RETRY}\n\n")
        coming: asyncio.Future[ChangeEvent[Any]] | None = None
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(anext(self._watch))
                await asyncio.wait(
                    {coming, *others},
                    timeout=self._heartbeat,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if any(task.done() for task in others):
                    return
                if not coming.done():
                    await self._send(send, ": still here\n\n")
                    continue
                done, coming = coming, None
                text = self._text(done.result())
                if text is not None:
                    await self._send(send, text)
        except (StopAsyncIteration, AppStopping):
            return
        except EarnORMError as error:
            if not isinstance(error, AccessDenied):
                log.warning("a stream of events ends: %s", error)
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
                if not coming.cancelled():
                    coming.exception()  # it is looked at, and nobody waits for it any more

    async def _send(self, send: Send, message: Message | str) -> None:
        if isinstance(message, str):
            message = {"type": "http.response.body", "body": message.encode(), "more_body": True}
        async with asyncio.timeout(self._patience):
            await send(message)

    def _text(self, event: ChangeEvent[Any]) -> str | None:
        """Return an event in the format of the HTML standard; None if none of its fields changed."""
        changed = sorted(event.changed & self._fields)
        removed = sorted(event.removed & self._fields)
        if event.kind == "write" and not changed and not removed:
            return None
        data: dict[str, Any] = {"kind": event.kind, "id": event.id, "changed": changed}
        data["removed"] = removed
        data["record"] = None if event.record is None else row_of(event.record, self._order)
        return f"id: {event.token}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n"


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Place:
    """One stream's place among those of an App; it is given back when nobody holds it."""

    __slots__ = ("__weakref__",)


_places: Final[WeakKeyDictionary[App, WeakSet[_Place]]] = WeakKeyDictionary()


def _take_place(app: App) -> _Place:
    """Take a place among the streams of an App.

    Each stream has a connection to the database while it waits, and other requests need some, too.
    """
    taken = _places.setdefault(app, WeakSet())
    most = max(1, (app.settings.max_pool_size or _POOL) // 2)
    if len(taken) >= most:
        headers = {"retry-after": str(RETRY_AFTER)}
        raise HTTPException(503, "Too many streams are open. Try again later.", headers)
    place = _Place()
    taken.add(place)
    return place


async def events(
    watch: Watch[M],
    *,
    fields: Collection[str],
    heartbeat: float = 15.0,
    longest: float | None = 900.0,
) -> EventStream:
    """Open a stream of changes, and return the answer that sends them.

    Whoever acts now hears what it may read. An error of the opening is an answer like any other. Half of
    ``max_pool_size`` streams may be open in an App.

    Args:
        watch: The changes: ``Ticket.watch(domain, resume_token=request.headers.get("last-event-id"))``.
        fields: The fields of a record that an event may have.
        heartbeat: The seconds between two signs of life.
        longest: The seconds after which the client has to open the stream again.

    Raises:
        HTTPException: Too many streams are open (503).
        AccessDenied: The principal may not read the model.
        NotSupported: The database is in memory, or a transaction is running.
        ValidationError: The token is none, or too old.
    """
    app = current_app()
    lifetime = lifetime_of(app)
    place = _take_place(app)
    try:
        await watch.__aenter__()
    except BaseException:
        _places[app].discard(place)
        raise
    return EventStream(
        watch,
        fields=fields,
        place=place,
        ending=None if lifetime is None else lifetime.ending,
        heartbeat=heartbeat,
        longest=longest,
    )


# -- files ----------------------------------------------------------------------------------------


class FileResponse(StreamingResponse):
    """Sends a file, or the range of it that the client asks for."""

    def __init__(self, answer: FileAnswer, *, method: str = "GET") -> None:
        super().__init__(_nothing(), answer.status, answer.headers)
        self._answer = answer
        self._has_body = method != "HEAD" and answer.has_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        if not self._has_body:
            await super().__call__(scope, receive, send)
            return
        pieces = self._answer.content()
        try:
            # The errors of the first piece are those of an answer that has not begun.
            first = await anext(pieces, b"")
            self.body_iterator = _joined(first, pieces)
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            log.debug("a client went away while it was sent a file")
        finally:
            await _close(pieces)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _joined(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


async def _close(pieces: AsyncIterator[bytes]) -> None:
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()


def file_response(
    file: StoredFile,
    request: HTTPConnection,
    *,
    disposition: Disposition = "attachment",
    filename: str | None = None,
) -> FileResponse:
    """Return the answer with a file of a record that was just read: whole, a range, or "not modified".

    Args:
        file: The file: ``ticket.attachment``.
        request: The request, whose headers say what the client has and what it asks for.
        disposition: Whether a browser saves the file, or shows it.
        filename: Its name for people; None takes the one that it was stored with.

    Raises:
        NotFound: The record has no file.
    """
    method = str(request.scope.get("method", "GET"))
    answer = file_answer(
        file, request.headers, method=method, disposition=disposition, filename=filename
    )
    return FileResponse(answer, method=method)
