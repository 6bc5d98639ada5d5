"""Models that ``earnorm security report`` and ``explain`` are run on, in a process of their own."""

from __future__ import annotations

from earnorm import App, Int, List, Principal, String, mixins, models
from earnorm_security import Access, Role, Rule, context, user

calls: list[str] = []


def called(env):
    calls.append("called")
    return [("amount", "<", 100)]


class Forgotten(models.BaseModel):
    _name = "reported.forgotten"
    text = String()


class Bill(models.BaseModel):
    _name = "reported.bill"
    _access = [
        Access("clerk", read=True, write=True, export=False),
        Access("*", read=True, aggregate=False, export=False, watch=False, explain=False),
    ]
    _rules = [
        Rule("own", [("owner", "=", user.id)], restrict=False, operations=["read"]),
        Rule("of the clerk", [], roles=["clerk"]),
        Rule("tenant", [("tenant", "=", context.tenant)]),
        Rule("cheap", called, operations=["write"]),
    ]
    owner = String()
    tenant = String()
    amount = Int(default=0)


class Closed(models.BaseModel):
    _name = "reported.closed"
    _access: list[Access] = []
    text = String()


class Sheet(models.BaseModel):
    _name = "reported.sheet"
    _discriminator = "kind"
    _rules = [Rule("short", [("text", "!=", "long")])]
    text = String()


class Account(Sheet):
    _name = "reported.account"


class Leaver(mixins.SoftDelete, models.BaseModel):
    _name = "reported.leaver"
    _access: list[Access] = []
    roles = List(String())


class Person(models.BaseModel):
    _name = "reported.person"
    _access: list[Access] = []
    roles = List(String())


ANN = Principal("ann", ["head"])
ROLES = [Role("head", implies=["clerk"])]


def make() -> App:
    return App("mongomock://", database="reported", plugins=["security"])
