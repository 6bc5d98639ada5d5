"""EarnORM in Django, under ASGI and WSGI: ``pip install "earnorm-core[django]"``.

::

    MIDDLEWARE = [..., "earnorm.integrations.django.AppMiddleware"]  # after the one of auth
    EARNORM = {"mongo_uri": URI, "database": "desk"}

    application = asgi(get_asgi_application())  # in asgi.py: the App lives and ends with the server

A process has one App. It lives on the event loop of an ASGI server that has a lifespan; everywhere
else (WSGI, the test clients, commands) on the loop of :mod:`earnorm.sync`, and the requests are
handled there: Django itself makes a new event loop for each asynchronous view under WSGI.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeAlias, TypeVar

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from earnorm.application import App
from earnorm.exceptions import EarnORMError
from earnorm.integrations.problems import Problem, problem_of
from earnorm.integrations.requests import nobody_in
from earnorm.kernel.acting import principal_of
from earnorm.kernel.environment import Env, Principal, use_env
from earnorm.kernel.life.in_flight import GRACE
from earnorm.sync import background
from earnorm.sync.calls import call, loop_for, refuse_running_loop

__all__ = ["AppMiddleware", "asgi", "close_app", "current_user", "get_app", "problem_response"]

P = ParamSpec("P")
T = TypeVar("T")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# Each server and each framework has types of its own for the three, which fit no others.
ASGI: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

log = logging.getLogger("earnorm")


# -- the App of the process -----------------------------------------------------------------------


class _Process:
    """The App of this process, and the guard that lets it be started once."""

    def __init__(self) -> None:
        self.app: App | None = None
        self._starting = threading.Lock()

    def made(self) -> App:
        """Return the App, started or not."""
        if self.app is None:
            self.app = _made()
        return self.app

    def started(self) -> App:
        """Return the App; start it on the loop in the background if nobody has started it."""
        app = self.app
        if app is not None and app.is_started:
            return app
        refuse_running_loop(None, "get_app()")
        with self._starting:
            app = self.made()
            if not app.is_started:
                call(app.start, None, background.running_loop())
            return app

    def close(self) -> None:
        """Stop the App, and forget it: the settings may have changed."""
        app, self.app = self.app, None
        loop = None if app is None else app._lifecycle.loop
        if app is not None and loop is not None:
            call(app.stop, None, loop)

    def renew_lock(self) -> None:
        """Have a lock that no thread of a parent process holds."""
        self._starting = threading.Lock()


_process = _Process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.renew_lock)


def _made() -> App:
    source = getattr(settings, "EARNORM", None)
    if isinstance(source, str):
        source = import_string(source)
    if isinstance(source, Mapping):
        return App(**source)
    app = source() if callable(source) else source
    if not isinstance(app, App):
        raise ImproperlyConfigured(
            "EARNORM in the settings of Django is a mapping with the arguments of an App, or a function "
            "that makes one, or the path of such a function"
        )
    return app


def get_app() -> App:
    """Return the App of this process; start it if nobody has, on the loop of ``earnorm.sync``.

    Commands and tasks use it outside of requests: ``earnorm.sync.run(Ticket.search().count())``.

    Raises:
        ConfigurationError: It is not started, and this thread runs an event loop.
        ImproperlyConfigured: The setting ``EARNORM`` is missing, or is no App.
        ServerUnavailable: No server answered in time.
        PluginError: A plugin failed.
    """
    return _process.started()


def close_app() -> None:
    """Stop the App of this process, at the end of tests; the next request starts another.

    Raises:
        ConfigurationError: This thread runs an event loop.
    """
    refuse_running_loop(None, "close_app()")
    _process.close()


def _forget_settings(*, setting: str, **_: object) -> None:
    if setting == "EARNORM":
        close_app()


setting_changed.connect(_forget_settings)


def asgi(application: ASGI, *, grace: float = GRACE) -> ASGI:
    """Return an ASGI application with a lifespan, which Django's own lacks: it starts and stops the App.

    Args:
        application: What ``get_asgi_application()`` returns.
        grace: The seconds that what is in flight has to end when the server stops.
    """

    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send, grace)
        else:
            await application(scope, receive, send)

    return serve


async def _live(receive: Receive, send: Send, grace: float) -> None:
    while True:
        event = (await receive())["type"].removeprefix("lifespan.")
        try:
            if event == "startup":
                await _process.made().start()
            else:
                await _process.made().stop(grace=grace)
        except Exception as error:
            log.exception("the App of this process: %s has failed", event)
            await send({"type": f"lifespan.{event}.failed", "message": str(error)})
            return
        await send({"type": f"lifespan.{event}.complete"})
        if event == "shutdown":
            return


# -- requests -------------------------------------------------------------------------------------


def current_user(request: HttpRequest) -> Principal | None:
    """Return the principal of ``request.user``: the id, and the names of the groups as roles.

    Nobody acts without a user who has signed in. It asks the database of Django's users.
    """
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return None
    return Principal(user.pk, user.groups.values_list("name", flat=True))


class AppMiddleware:
    """Makes the App of the process current in a request, and its sender the principal.

    Put it behind Django's ``AuthenticationMiddleware``. The setting ``EARNORM_PRINCIPAL`` names a
    function that finds who acts; it gets the request, may be async, and the default is
    :func:`current_user`. An ``EarnORMError`` of a view is answered as problem details (RFC 9457).
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        found = getattr(settings, "EARNORM_PRINCIPAL", current_user)
        self._principal = import_string(found) if isinstance(found, str) else found
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Handle a request."""
        if self._is_async:
            return self._answer_async(request)
        try:
            app = _process.started()
            with use_env(nobody_in(app)) as env:
                return _in_loop_of(app, self._answer_sync, env, request)
        except EarnORMError as error:
            return _problem_or_raise(error)

    def _answer_sync(self, env: Env, request: HttpRequest) -> HttpResponseBase:
        principal = self._principal(request)
        if inspect.iscoroutine(principal):
            loop = env.app._lifecycle.loop
            assert loop is not None
            coroutine = principal
            principal = call(lambda: coroutine, env, loop)
        with use_env(_acting(env, principal)):
            response: HttpResponseBase = self._get_response(request)
            return response

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        try:
            app = _process.app
            if app is None or not app.is_started:
                app = await asyncio.to_thread(_process.started)
            with use_env(nobody_in(app)) as env:
                if loop_for(app.env) is asyncio.get_running_loop():
                    return await self._answer_there(env, request)
                # Back in the thread of the synchronous code, from which the App's loop is entered: so
                # Django's own database is asked in the thread that a test has its transaction in.
                return await sync_to_async(_in_loop_of)(app, self._answer_back, env, request)
        except EarnORMError as error:
            return _problem_or_raise(error)

    def _answer_back(self, env: Env, request: HttpRequest) -> HttpResponseBase:
        # It is made here, since older releases look for a running loop when it is made.
        return async_to_sync(self._answer_there)(env, request)

    async def _answer_there(self, env: Env, request: HttpRequest) -> HttpResponseBase:
        find = self._principal
        if not iscoroutinefunction(find):
            find = sync_to_async(find)  # it asks Django's database, which a loop must not wait for
        principal = await find(request)
        with use_env(_acting(env, principal)):
            response: HttpResponseBase = await self._get_response(request)
            return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer an error of the library that a view has left uncaught."""
        if isinstance(error, EarnORMError):
            problem = problem_of(error)
            if not problem.is_internal:
                return problem_response(problem)
        return None


def _acting(env: Env, principal: object) -> Env:
    if principal is None:
        return env
    return env.replace(principal=principal_of(env, principal))


class _ThisThread(Executor):
    """Does in the thread that waits what a loop hands to it."""

    def __init__(self) -> None:
        self._works: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        self._works.put(work)
        return future

    def work_until(self, end: Future[Any]) -> None:
        """Do what is handed in until a future is done."""
        end.add_done_callback(lambda _: self._works.put(None))
        while (work := self._works.get()) is not None:
            work()


def _in_loop_of(app: App, function: Callable[..., T], *arguments: object) -> T:
    """Call a function in this thread, inside of which Django's ``async_to_sync`` uses the App's loop."""
    loop = loop_for(app.env)
    executor: Any = _ThisThread()
    inside = sync_to_async(function, thread_sensitive=False, executor=executor)
    future = asyncio.run_coroutine_threadsafe(inside(*arguments), loop)
    executor.work_until(future)
    return future.result()


def problem_response(problem: Problem) -> HttpResponse:
    """Return the answer of a problem, as ``application/problem+json`` (RFC 9457)."""
    return HttpResponse(problem.to_json(), status=problem.status, headers=problem.headers)


def _problem_or_raise(error: EarnORMError) -> HttpResponse:
    problem = problem_of(error)
    if problem.is_internal:
        raise error
    return problem_response(problem)
