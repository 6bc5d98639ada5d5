"""EarnORM in Litestar: ``pip install "earnorm-core[litestar]"``.

::

    app = Litestar(route_handlers, plugins=[EarnORM({"mongo_uri": URI, "database": "desk"}, principal=find_user)])
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from litestar import Litestar, Request, Response
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.plugins import InitPlugin
from litestar.types import ASGIApp, Receive, Scope, Send

from earnorm.exceptions import ConfigurationError, EarnORMError
from earnorm.integrations.lifetimes import AppSource, Lifetime, living
from earnorm.integrations.problems import Problem, problem_of
from earnorm.integrations.requests import nobody_in
from earnorm.kernel.acting import principal_of
from earnorm.kernel.environment import use_env
from earnorm.kernel.life.in_flight import GRACE

__all__ = ["EarnORM", "FindPrincipal", "problem_response"]

FindPrincipal: TypeAlias = Callable[
    [ASGIConnection[Any, Any, Any, Any]], Awaitable[object] | object
]
"""Finds who has sent a request: what ``act_as()`` takes, or None for nobody. It may be async."""


class EarnORM(InitPlugin):
    """Starts and stops an App with the server, makes it current in requests, and answers its errors.

    Args:
        source: The App; a function that makes one at the start; or its arguments, as a mapping.
        principal: Finds who has sent a request; None leaves that to a dependency or to the handler.
        grace: The seconds that what is in flight has to end when the server stops.
    """

    def __init__(
        self, source: AppSource, *, principal: FindPrincipal | None = None, grace: float = GRACE
    ) -> None:
        self._source = source
        self._principal = principal
        self._grace = grace
        self._lifetime: Lifetime | None = None

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add what it needs to an application; Litestar calls it."""
        app_config.lifespan = [self._live, *app_config.lifespan]
        app_config.middleware = [self._around, *app_config.middleware]
        app_config.exception_handlers = {EarnORMError: _answer, **app_config.exception_handlers}
        return app_config

    @asynccontextmanager
    async def _live(self, app: Litestar) -> AsyncIterator[None]:
        async with living(self._source, grace=self._grace) as lifetime:
            self._lifetime = lifetime
            try:
                yield
            finally:
                self._lifetime = None

    def _around(self, app: ASGIApp) -> ASGIApp:
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            if self._lifetime is None:
                raise ConfigurationError("a request came before the lifespan, or after its end")
            env = nobody_in(self._lifetime.app)
            with use_env(env):
                if self._principal is not None:
                    found = self._principal(ASGIConnection(scope, receive, send))
                    principal = await found if inspect.isawaitable(found) else found
                    if principal is not None:
                        env = env.replace(principal=principal_of(env, principal))
                with use_env(env):
                    await app(scope, receive, send)

        return handle


def problem_response(problem: Problem) -> Response[bytes]:
    """Return the answer of a problem, as ``application/problem+json`` (RFC 9457)."""
    return Response(problem.to_json(), status_code=problem.status, headers=problem.headers)


def _answer(request: Request[Any, Any, Any], error: EarnORMError) -> Response[bytes]:
    # Where the program is at fault, the answer says nothing, and Litestar logs the error.
    return problem_response(problem_of(error))
