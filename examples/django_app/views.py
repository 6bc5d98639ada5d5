"""The answers: asynchronous views, functions and classes, and a plain one."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth import aauthenticate, alogin
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import View

import earnorm
import earnorm.sync
from earnorm.integrations.django import get_app
from earnorm.integrations.listings import Listing, row_of
from earnorm_audit import AuditLog
from earnorm_cache import CacheService
from earnorm_pool import Pool
from examples.django_app.desk import Ticket

FIELDS = ("title", "owner", "state", "priority")
TICKETS = Listing(
    fields=FIELDS,
    filter={"title": ["=", "ilike"], "state": ["="], "priority": ["=", "<", ">"]},
    order=["title", "priority"],
    default_order="priority",
)


def sent(request: HttpRequest) -> dict[str, Any]:
    """Return the object in the body of a request; the model checks its names and values."""
    try:
        values = json.loads(request.body)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise earnorm.ValidationError(
            "body", [{"loc": (), "msg": "the body is one object, as JSON", "type": "json"}]
        )
    return values


async def sign_in(request: HttpRequest) -> HttpResponse:
    """Begin a session of one of Django's users."""
    values = sent(request)
    user = await aauthenticate(
        request, username=values.get("name"), password=values.get("password")
    )
    if user is None:
        return JsonResponse({}, status=401)
    await alogin(request, user)
    return JsonResponse({"name": user.get_username()})


class Tickets(View):
    """All tickets that who acts may read."""

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Answer a page: ``?filter=[["state","=","open"]]&order=-priority&limit=20``."""
        page = await TICKETS.read(request.GET).page(Ticket)
        link = page.link(request.GET.items())
        return JsonResponse({"tickets": page.rows}, headers={"Link": link})

    async def post(self, request: HttpRequest) -> HttpResponse:
        """Store a ticket of who acts."""
        user = earnorm.current_env().principal
        ticket = await Ticket.create({**sent(request), "owner": user.id if user else ""})
        return JsonResponse(row_of(ticket, FIELDS), status=201)


class TicketView(View):
    """One ticket."""

    async def get(self, request: HttpRequest, ticket_id: str) -> HttpResponse:
        """Answer it."""
        return JsonResponse(row_of(await Ticket.get(ticket_id), FIELDS))

    async def patch(self, request: HttpRequest, ticket_id: str) -> HttpResponse:
        """Change it."""
        ticket = await Ticket.get(ticket_id)
        await ticket.write(sent(request))
        return JsonResponse(row_of(ticket, FIELDS))

    async def delete(self, request: HttpRequest, ticket_id: str) -> HttpResponse:
        """Delete it."""
        await (await Ticket.get(ticket_id)).unlink()
        return HttpResponse(status=204)


async def history(request: HttpRequest, ticket_id: str) -> HttpResponse:
    """Answer who has changed a ticket: the entries of the audit trail, the oldest first."""
    ticket = await Ticket.get(ticket_id)
    entries = await earnorm.current_app().services.of_type(AuditLog).history(ticket)
    rows = [
        {"operation": entry.operation, "by": entry.principal, "changes": entry.changes}
        for entry in entries
    ]
    return JsonResponse({"entries": rows})


def titles(request: HttpRequest) -> HttpResponse:
    """Answer all titles: a plain view, which Django runs in a thread."""
    found = earnorm.sync.iterate(Ticket.search(order="title"))
    return HttpResponse("".join(f"{ticket.title}\n" for ticket in found), content_type="text/plain")


async def health(request: HttpRequest) -> HttpResponse:
    """Answer the state of the database and of the plugins."""
    report = await earnorm.current_app().health()
    is_well = all(part["status"] != "failed" for part in report.values())
    parts = {name: part["status"] for name, part in report.items()}
    return JsonResponse({"parts": parts}, status=200 if is_well else 503)


async def pool(request: HttpRequest) -> HttpResponse:
    """Answer what the connections and the cache do."""
    services = get_app().services
    figures = services.of_type(CacheService).statistics()
    return JsonResponse(
        {
            "pool": await services.of_type(Pool).get_health_check(),
            "cache": {"hits": figures.hits, "misses": figures.misses},
        }
    )
