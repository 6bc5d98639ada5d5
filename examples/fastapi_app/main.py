"""A help desk in FastAPI: rules, audit, cache, the pool's page, files, and changes as they happen.

``python -m earnorm.testing --redis -- uvicorn examples.fastapi_app.main:api`` starts it with servers of its
own. With ``MONGO_URI`` naming a replica set, and ``REDIS_URL`` a Redis, if there is one, it is
``uvicorn examples.fastapi_app.main:api``. README.md tells more.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import APIKeyHeader

import earnorm
from earnorm import Body, Env, Int, Many2many, Principal, Selection, String, models
from earnorm.fields import File
from earnorm.integrations.fastapi import (
    PROBLEMS,
    CurrentApp,
    CurrentPrincipal,
    acting,
    crud_router,
    health_router,
    install,
    lifespan,
    pool_router,
)
from earnorm.integrations.listings import row_of
from earnorm_audit import AuditLog
from earnorm_cache import CacheService
from earnorm_security import Access, Rule


def own(env: Env) -> list[Any]:
    """The tickets of who acts; nobody has any."""
    return [("owner", "=", env.principal.id if env.principal else "")]


class Tag(models.BaseModel):
    """A word that agents find tickets by."""

    _name = "fastapi_desk.tag"
    _collection = "tags"
    _access = [
        Access("customer", read=True),
        Access("agent", read=True, write=True, create=True, unlink=True),
    ]
    name = String(required=True, unique=True, min_length=1, max_length=30)


class Ticket(models.BaseModel):
    """A question of a customer's, which agents work on."""

    _name = "fastapi_desk.ticket"
    _collection = "tickets"
    _indexes = [{"owner": 1}]
    _cache = True
    _access = [
        Access("customer", read=True, create=True),
        Access("agent", read=True, write=True, create=True, unlink=True),
    ]
    _rules = [
        Rule("customers have their own", own, roles=["customer"]),
        Rule("agents have all", [], roles=["agent"]),
    ]
    title = String(required=True, min_length=1, max_length=80)
    owner = String(default=lambda: str(earnorm.current_env().principal), readonly=True)
    state = Selection(choices=("open", "done"), default="open", required=True)
    priority = Int(default=3, min_value=1, max_value=5)
    tag_ids = Many2many(Tag)
    picture = File(max_size=5_000_000, content_types=["image/*", "application/pdf"])


class TicketIn(Body, of=Ticket, include=["title", "priority", "tag_ids"], extra="forbid"):
    """What a customer sends; the model says what else holds."""

    title: str
    priority: int = 3


class TicketChange(
    Body,
    of=Ticket,
    include=["title", "priority", "tag_ids", "state"],
    partial=True,
    extra="forbid",
):
    """What an agent changes."""

    title: str | None = None
    priority: int | None = None


USERS = {
    "ann": Principal("ann", roles=["customer"]),
    "bob": Principal("bob", roles=["customer"]),
    "eve": Principal("eve", roles=["agent"]),
}
named = APIKeyHeader(name="x-user", auto_error=False)


def current_user(name: Annotated[str | None, Security(named)]) -> Principal | None:
    """Return who sends the request. A real service takes that from a token that it has checked."""
    if name is None:
        return None
    if name not in USERS:
        raise HTTPException(401, "nobody has this name")
    return USERS[name]


def agents_only(principal: CurrentPrincipal) -> None:
    """Let agents pass."""
    if principal is None or "agent" not in principal.roles:
        raise HTTPException(403)


def make_app() -> earnorm.App:
    """Make the App when the server starts: all five packages, and a Redis if there is one."""
    uri = os.environ.get("MONGO_URI") or os.environ.get("EARNORM_TEST_MONGO_URI")
    redis = os.environ.get("REDIS_URL") or os.environ.get("EARNORM_TEST_REDIS_URL")
    database = os.environ.get("DATABASE", "earnorm_example_fastapi")
    return earnorm.App(
        uri or "mongodb://localhost:27017",
        database=database,
        plugins=["security", "audit", "cache", "pool"],
        max_pool_size=20,
        server_timeout=3,
        client_options={"appname": database},
        cache={"redis_url": redis} if redis else {},
    )


api = FastAPI(
    title="Help desk",
    lifespan=lifespan(make_app),
    dependencies=[Depends(acting(current_user))],
    responses=PROBLEMS,
)
install(api)
api.include_router(health_router())
api.include_router(pool_router(dependencies=[Depends(agents_only)]))
api.include_router(
    crud_router(Tag, read=["name"], write=["name"], filter=["name"], order=["name"]), prefix="/tags"
)


@api.get("/me", tags=["desk"])
def me(principal: CurrentPrincipal) -> dict[str, Any]:
    """Who acts: a plain function, which runs in a thread."""
    if principal is None:
        return {"id": None, "roles": []}
    return {"id": principal.id, "roles": sorted(principal.roles)}


@api.get("/tickets/{ticket_id}/history", tags=["desk"])
async def history(ticket_id: str, app: CurrentApp) -> list[dict[str, Any]]:
    """Who has changed a ticket, the oldest change first."""
    ticket = await Ticket.get(ticket_id)
    entries = await app.services.of_type(AuditLog).history(ticket)
    return [row_of(entry, ["operation", "principal", "changes", "at"]) for entry in entries]


@api.post("/tickets/{ticket_id}/done", tags=["desk"])
async def finish(ticket_id: str) -> dict[str, Any]:
    """Close a ticket, and open another that asks how it was: both or neither."""
    async with earnorm.transaction():
        ticket = await Ticket.get(ticket_id)
        await ticket.write({"state": "done"})
        title = f"How was it? {ticket.title}"[:80]
        asked = await Ticket.create({"title": title, "owner": ticket.owner, "priority": 5})
    return {"id": ticket.id, "asked": asked.id}


@api.get("/cache", tags=["operation"], dependencies=[Depends(agents_only)])
async def cache(app: CurrentApp) -> dict[str, int]:
    """What the cache has answered."""
    figures = app.services.of_type(CacheService).statistics()
    return {"hits": figures.hits, "misses": figures.misses}


api.include_router(
    crud_router(
        Ticket,
        read=["title", "owner", "state", "priority", "tag_ids", "picture"],
        write=TicketIn,
        update=TicketChange,
        filter={
            "title": ["=", "ilike"],
            "state": ["="],
            "priority": ["=", "<", ">"],
            "tag_ids.name": ["=", "in"],
        },
        order=["title", "priority"],
        default_order="priority,title",
        files=["picture"],
        operations=["list", "create", "read", "update", "delete", "events"],
        tags=["tickets"],
    ),
    prefix="/tickets",
)
