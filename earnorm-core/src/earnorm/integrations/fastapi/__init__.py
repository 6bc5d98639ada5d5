"""EarnORM in FastAPI: ``pip install "earnorm-core[fastapi]"`` (``docs/fastapi.md``).

::

    api = FastAPI(lifespan=lifespan(lambda: earnorm.App(URI, database="desk")))
    install(api, principal=find_user)
    api.include_router(crud_router(Ticket, read=["title", "hours"], write=["title"]), prefix="/tickets")
"""

from earnorm.integrations.fastapi.crud import crud_router
from earnorm.integrations.fastapi.dependencies import (
    CurrentApp,
    CurrentEnv,
    CurrentPrincipal,
    acting,
    asking,
)
from earnorm.integrations.fastapi.encoding import register
from earnorm.integrations.fastapi.errors import PROBLEMS, install
from earnorm.integrations.fastapi.health import health_router, pool_router
from earnorm.integrations.listings import Asked, Listing, ListPage
from earnorm.integrations.starlette import (
    AppMiddleware,
    EventStream,
    FileResponse,
    events,
    file_response,
    lifespan,
    problem_response,
)

register()

__all__ = [
    "PROBLEMS",
    "AppMiddleware",
    "Asked",
    "CurrentApp",
    "CurrentEnv",
    "CurrentPrincipal",
    "EventStream",
    "FileResponse",
    "ListPage",
    "Listing",
    "acting",
    "asking",
    "crud_router",
    "events",
    "file_response",
    "health_router",
    "install",
    "lifespan",
    "pool_router",
    "problem_response",
]
