"""A help desk in Flask: class-based views, rules, audit, cache and the pool's page.

``gunicorn --worker-class gthread --threads 16 examples.flask_app.main:app`` with ``MONGO_URI`` naming
the database server, a replica set, and ``REDIS_URL`` a Redis, if there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, request, stream_with_context
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from werkzeug.exceptions import BadRequest

import earnorm
from earnorm import Env, Int, Principal, Selection, String, models
from earnorm.integrations.flask import EarnORM
from earnorm.integrations.listings import Listing, row_of
from earnorm_audit import AuditLog
from earnorm_cache import CacheService
from earnorm_pool import Pool
from earnorm_security import Access, Rule


def own(env: Env) -> list[Any]:
    """The tickets of who acts; nobody has any."""
    return [("owner", "=", env.principal.id if env.principal else "")]


class Ticket(models.BaseModel):
    """A question of a customer's, which agents work on."""

    _name = "desk.ticket"
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
    owner = String(required=True)
    state = Selection(choices=("open", "done"), default="open", required=True)
    priority = Int(default=3, min_value=1, max_value=5)


FIELDS = ("title", "owner", "state", "priority")
TICKETS = Listing(
    fields=FIELDS,
    filter={"title": ["=", "ilike"], "state": ["="], "priority": ["=", "<", ">"]},
    order=["title", "priority"],
    default_order="priority",
)
USERS = {
    "ann": Principal("ann", roles=["customer"]),
    "bob": Principal("bob", roles=["customer"]),
    "eve": Principal("eve", roles=["agent"]),
}


def find_user() -> Principal | None:
    """Return who has sent the request. A real service takes that from a session that it has checked."""
    return USERS.get(request.headers.get("x-user", ""))


def sent() -> dict[str, Any]:
    """Return the object in the body of the request; the model checks its names and values."""
    values = request.get_json()
    if not isinstance(values, dict):
        raise BadRequest("the body is one object")
    return values


def settings() -> dict[str, Any]:
    """Return the arguments of the App: all five packages, and a Redis if there is one."""
    redis = os.environ.get("REDIS_URL")
    return {
        "mongo_uri": os.environ.get("MONGO_URI")
        or os.environ.get("EARNORM_TEST_MONGO_URI", "mongodb://localhost:27017"),
        "database": os.environ.get("DATABASE", "earnorm_example_flask"),
        "plugins": ["security", "audit", "cache", "pool"],
        "max_pool_size": 20,
        "server_timeout": 3,
        "client_options": {"appname": os.environ.get("DATABASE", "earnorm_example_flask")},
        "cache": {"redis_url": redis} if redis else {},
    }


orm = EarnORM(settings(), principal=find_user)
app = Flask(__name__)
orm.init_app(app)


class Tickets(MethodView):
    """All tickets that who acts may read."""

    async def get(self) -> ResponseReturnValue:
        """Answer a page: ``?filter=[["state","=","open"]]&order=-priority&limit=20``."""
        page = await TICKETS.read(request.args).page(Ticket)
        return {"tickets": page.rows}, {"Link": page.link(request.args.items(multi=True))}

    async def post(self) -> ResponseReturnValue:
        """Store a ticket of who acts."""
        user = earnorm.current_env().principal
        values = {**sent(), "owner": user.id if user else ""}
        ticket = await Ticket.create(values)
        return row_of(ticket, FIELDS), 201


class TicketView(MethodView):
    """One ticket."""

    async def get(self, ticket_id: str) -> ResponseReturnValue:
        """Answer it."""
        return row_of(await Ticket.get(ticket_id), FIELDS)

    async def patch(self, ticket_id: str) -> ResponseReturnValue:
        """Change it."""
        ticket = await Ticket.get(ticket_id)
        await ticket.write(sent())
        return row_of(ticket, FIELDS)

    async def delete(self, ticket_id: str) -> ResponseReturnValue:
        """Delete it."""
        await (await Ticket.get(ticket_id)).unlink()
        return "", 204


class History(MethodView):
    """Who has changed a ticket."""

    async def get(self, ticket_id: str) -> ResponseReturnValue:
        """Answer the entries of the audit trail, the oldest first."""
        ticket = await Ticket.get(ticket_id)
        entries = await orm.app.services.of_type(AuditLog).history(ticket)
        return [
            {"operation": entry.operation, "by": entry.principal, "changes": entry.changes}
            for entry in entries
        ]


app.add_url_rule("/tickets", view_func=Tickets.as_view("tickets"))
app.add_url_rule("/tickets/<ticket_id>", view_func=TicketView.as_view("ticket"))
app.add_url_rule("/tickets/<ticket_id>/history", view_func=History.as_view("history"))


@app.get("/export")
def export() -> Response:
    """Answer all titles, as they are read: a plain view with a stream."""

    def lines() -> Iterator[str]:
        for ticket in orm.iterate(Ticket.search(order="title")):
            yield f"{ticket.title}\n"

    return Response(stream_with_context(lines()), mimetype="text/plain")


@app.get("/health")
async def health() -> ResponseReturnValue:
    """Answer the state of the database and of the plugins."""
    report = await orm.app.health()
    is_well = all(part["status"] != "failed" for part in report.values())
    return {
        "parts": {name: part["status"] for name, part in report.items()}
    }, 200 if is_well else 503


@app.get("/pool")
async def pool() -> ResponseReturnValue:
    """Answer what the connections and the cache do."""
    report = await orm.app.services.of_type(Pool).get_health_check()
    figures = orm.app.services.of_type(CacheService).statistics()
    return {"pool": report, "cache": {"hits": figures.hits, "misses": figures.misses}}


if __name__ == "__main__":
    app.run()
