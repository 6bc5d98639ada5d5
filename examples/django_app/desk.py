"""The tickets: a model, and who may do what with them. Django's groups are the roles."""

from __future__ import annotations

from typing import Any

from earnorm import Env, Int, Selection, String, models
from earnorm_security import Access, Rule


def own(env: Env) -> list[Any]:
    """The tickets of who acts; nobody has any."""
    return [("owner", "=", env.principal.id if env.principal else "")]


class Ticket(models.BaseModel):
    """A question of a customer's, which agents work on."""

    _name = "django_desk.ticket"
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
