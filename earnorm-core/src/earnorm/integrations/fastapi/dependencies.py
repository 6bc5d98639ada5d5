"""The App, who acts, and what a client asks of a list, as dependencies for sync and async endpoints.

Annotations are objects here and no texts: FastAPI reads them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Query

from earnorm.application import App
from earnorm.integrations.listings import Asked, Listing
from earnorm.kernel.acting import act_as
from earnorm.kernel.environment import Env, Principal, current_env

__all__ = ["CurrentApp", "CurrentEnv", "CurrentPrincipal", "acting", "asking"]


async def _app() -> App:
    return current_env().app


async def _env() -> Env:
    return current_env()


async def _principal() -> Principal | None:
    return current_env().principal


CurrentApp: TypeAlias = Annotated[App, Depends(_app)]
"""The App of the request: ``async def endpoint(app: CurrentApp)``."""

CurrentEnv: TypeAlias = Annotated[Env, Depends(_env)]
"""The Env of the request: who acts, in which App and context."""

CurrentPrincipal: TypeAlias = Annotated[Principal | None, Depends(_principal)]
"""Who acts; None where nobody does."""


def acting(user: Callable[..., Any]) -> Callable[..., AsyncIterator[Principal | None]]:
    """Return a dependency that acts as whom another one finds, in the endpoint and all that follows it.

    ``user`` may be a plain ``def``, which FastAPI runs in a thread: it returns who it is, and what is
    returned here acts, in the task of the request. ``act_as()`` in such a thread would be lost.

    Args:
        user: A dependency that returns what ``act_as()`` takes, or None for nobody.

    Example::

        def current_user(token: Annotated[str, Depends(oauth2)]) -> earnorm.Principal: ...

        api = FastAPI(dependencies=[Depends(acting(current_user))])
    """

    async def act(found: Any = Depends(user)) -> AsyncIterator[Principal | None]:  # noqa: B008
        if found is None:
            yield None
            return
        with act_as(found) as env:
            yield env.principal

    return act


def asking(listing: Listing) -> Callable[..., Awaitable[Asked]]:
    """Return a dependency that reads what a client asks of a list, and documents its parameters.

    Args:
        listing: The offer.

    Example::

        @api.get("/tickets")
        async def tickets(asked: Annotated[Asked, Depends(asking(TICKETS))]) -> list[TicketOut]:
            return (await asked.page(Ticket)).rows
    """
    offered = listing.filter
    paths = ", ".join(sorted(offered)) or "nothing"

    async def read(
        filter: str | None = None,
        order: str | None = None,
        fields: str | None = None,
        limit: str | None = None,
        after: str | None = None,
        before: str | None = None,
    ) -> Asked:
        return listing.read(
            {
                "filter": filter,
                "order": order,
                "fields": fields,
                "limit": limit,
                "after": after,
                "before": before,
            }
        )

    described = {
        "filter": f'A condition as JSON: [["name", "=", "x"]]. It may name {paths}.',
        "order": f"Names with a sign: -name,other. They may be {', '.join(sorted(listing.order)) or 'none'}.",
        "fields": f"The fields of a row: {', '.join(listing.fields)}.",
        "limit": f"The rows of a page: 1 to {listing.most}, {listing.size} by default.",
        "after": 'The cursor of the "next" link.',
        "before": 'The cursor of the "prev" link.',
    }
    for name, text in described.items():
        read.__annotations__[name] = Annotated[str | None, Query(description=text)]
    return read
