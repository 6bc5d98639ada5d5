"""The models that the audit tests change."""

from __future__ import annotations

from typing import Any

import earnorm
from earnorm import Boolean, DateTime, Decimal, Dict, Float, Int, Json, List, String, models
from earnorm_audit import AuditEntry, AuditLog


class Article(models.BaseModel):
    _name = "audit_test.article"
    _collection = "articles"

    title = String(required=True)
    stock = Int(db_name="st")
    price = Decimal()
    active = Boolean()
    weight = Float()
    at = DateTime()
    tags = List(String())
    data = Json()
    labels = Dict(String())


class Account(models.BaseModel):
    _name = "audit_test.account"
    _collection = "accounts"
    _audit_hidden = ("password",)

    login = String(required=True, unique=True)
    password = String(db_name="pw")
    seen = Int()


class Session(models.BaseModel):
    _name = "audit_test.session"
    _collection = "sessions"
    _audit = False

    token = String()


def trail(app: earnorm.App) -> AuditLog:
    return app.services.of_type(AuditLog)


async def entries(**conditions: object) -> list[AuditEntry]:
    domain = [(field, "=", value) for field, value in conditions.items()]
    return list(await AuditEntry.search(domain, order="at, id"))


async def told(record: models.BaseModel) -> list[tuple[str, dict[str, Any]]]:
    """Operation and changes of each of a record's entries."""
    history = await trail(earnorm.current_app()).history(record)
    return [(entry.operation, entry.changes) for entry in history]
