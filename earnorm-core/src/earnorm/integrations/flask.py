"""EarnORM in Flask, under any WSGI server: ``pip install "earnorm-core[flask]"``.

::

    orm = EarnORM({"mongo_uri": URI, "database": "desk"}, principal=find_user)
    app = Flask(__name__)
    orm.init_app(app)

There is one App and one event loop in the background for each process; asynchronous views run there.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, overload
from weakref import WeakSet

import flask

from earnorm import sync
from earnorm.exceptions import ConfigurationError, EarnORMError
from earnorm.integrations.problems import Problem, problem_of
from earnorm.integrations.requests import nobody_in
from earnorm.kernel import environment
from earnorm.kernel.acting import principal_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["EarnORM", "FindPrincipal", "Source", "problem_response"]

P = ParamSpec("P")
T = TypeVar("T")

Source: TypeAlias = sync.App | Callable[[], sync.App] | Mapping[str, Any]
"""An App; a function that makes one; or the arguments of an App, as a mapping."""

FindPrincipal: TypeAlias = Callable[[], Awaitable[object] | object]
"""Finds in ``flask.request`` who has sent it: what ``act_as()`` takes, or None for nobody."""

_OUTER = "_earnorm_outer"  # in flask.g

_all: WeakSet[EarnORM] = WeakSet()


class EarnORM:
    """One App for each process of a Flask application.

    It is opened by the first request of the process, also in a forked worker, and closed when the
    process ends in order.

    Args:
        source: The App (:class:`earnorm.sync.App`), a function that makes one, or its arguments.
        principal: Finds who has sent a request; may be async. None leaves that to the views.
        app: The Flask application; None means that :meth:`init_app` gets it later.
    """

    def __init__(
        self,
        source: Source,
        *,
        principal: FindPrincipal | None = None,
        app: flask.Flask | None = None,
    ) -> None:
        self._source = source
        self._principal = principal
        self._app = source if isinstance(source, sync.App) else None
        self._opening = threading.Lock()
        _all.add(self)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Connect a Flask application: its asynchronous views, who acts, and its errors.

        Args:
            app: The application, before its first request.

        Raises:
            ConfigurationError: It has an EarnORM already.
        """
        if "earnorm" in app.extensions:
            raise ConfigurationError(f"the Flask application {app.name!r} has an EarnORM already")
        app.extensions["earnorm"] = self
        app.async_to_sync = self._on_the_loop  # type: ignore[method-assign,assignment] # Flask's way to say so
        app.wsgi_app = _Requests(app.wsgi_app)  # type: ignore[method-assign] # and Flask's for this
        # Before the hooks of the program, which may ask for records as well.
        app.before_request_funcs.setdefault(None, []).insert(0, self._begin)
        app.teardown_request_funcs.setdefault(None, []).append(_end)
        app.register_error_handler(EarnORMError, _answer)

    @property
    def app(self) -> sync.App:
        """The App of this process; the first use opens it.

        Raises:
            ConfigurationError: This thread runs an event loop.
            ServerUnavailable: No server answered in time.
            PluginError: A plugin failed.
        """
        app = self._app
        if app is not None and app.is_started:
            return app
        with self._opening:
            if self._app is None:
                self._app = _made(self._source)
            if not self._app.is_started:
                self._app.open()
            return self._app

    def close(self) -> None:
        """Close the App of this process; the next request opens it again."""
        if self._app is not None:
            self._app.close()

    @overload
    def run(self, work: Awaitable[T], /) -> T: ...
    @overload
    def run(self, work: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(self, work: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Do asynchronous work, from a plain view: see :func:`earnorm.sync.run`."""
        return self.app.run(work, *args, **kwargs)

    def iterate(self, source: AsyncIterable[T], /) -> Iterator[T]:
        """Read a stream, from a plain view: see :func:`earnorm.sync.iterate`."""
        return self.app.iterate(source)

    def _on_the_loop(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        """Return a plain function that runs an asynchronous view or hook on the loop of the App."""

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.app.run(function, *args, **kwargs)

        return run

    def _begin(self) -> None:
        """Make the App current for the rest of the request, and act as who has sent it."""
        app = self.app
        env = nobody_in(app)
        outer = environment.enter(env)
        if not _is_own_context.get():  # a test has made the request's context by hand
            setattr(flask.g, _OUTER, outer)
        if self._principal is None:
            return
        principal = self._principal()
        if inspect.iscoroutine(principal):
            principal = app.run(principal)
        if principal is not None:
            environment.enter(env.replace(principal=principal_of(env, principal)))

    def __repr__(self) -> str:
        return f"<EarnORM of {self._app!r}>"


def _end(_: BaseException | None = None) -> None:
    """Bring back the Env that was current before a request's context that was made by hand."""
    outer = flask.g.pop(_OUTER, None)
    if outer is not None:
        environment.leave(outer)


def _made(source: Source) -> sync.App:
    if isinstance(source, sync.App):
        return source
    app = sync.App(**source) if isinstance(source, Mapping) else source()
    if not isinstance(app, sync.App):
        raise TypeError(
            f"EarnORM() takes an earnorm.sync.App, a function that returns one, or a mapping of its "
            f"arguments; the function returned a {type(app).__name__}"
        )
    return app


_is_own_context: ContextVar[bool] = ContextVar("earnorm_flask_request", default=False)
"""This context is that of one request, and nobody sees what is set in it after the request."""


class _Requests:
    """A WSGI application in which each request has a context of its own, so that none inherits.

    It lasts to the end of the body: Flask tears a request down before it sends a streaming answer.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        context = copy_context()
        context.run(_is_own_context.set, True)
        return _Body(context, context.run(self._app, environ, start_response))


class _Body:
    """The body of an answer; its parts are made in the context of their request."""

    def __init__(self, context: Context, body: Iterable[bytes]) -> None:
        self._context = context
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        parts = self._context.run(iter, self._body)
        while True:
            try:
                part = self._context.run(next, parts)
            except StopIteration:
                return
            yield part

    def close(self) -> None:
        """Close the body, as WSGI asks for."""
        close = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)


def problem_response(problem: Problem) -> flask.Response:
    """Return the answer of a problem, as ``application/problem+json`` (RFC 9457)."""
    return flask.Response(problem.to_json(), problem.status, problem.headers)


def _answer(error: EarnORMError) -> flask.Response:
    problem = problem_of(error)
    if problem.is_internal:
        raise error  # the program is at fault: Flask's own answer, and its log
    return problem_response(problem)


def _renew_locks() -> None:
    for each in _all:
        each._opening = threading.Lock()  # a thread that the child does not have may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
