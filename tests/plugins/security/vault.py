"""Models with passwords and encrypted values at every place, an App with keys, and a search for canaries."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from earnorm import (
    UUID,
    App,
    Boolean,
    Date,
    DateTime,
    Decimal,
    Dict,
    Duration,
    Email,
    Embedded,
    EmbeddedModel,
    Enum,
    Float,
    Int,
    Json,
    List,
    Many2one,
    String,
    Time,
    models,
)
from earnorm.fields import Binary, IPAddress, Money
from earnorm_security import Argon2, Encrypted, Password, SecurityPlugin, SecuritySettings, new_key

CANARY = "Canary-9b1e"
FAST = Argon2(time_cost=1, memory_cost=8, parallelism=1)
KEYS = {"one": new_key()}


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Address(EmbeddedModel):
    street = String()


class Card(EmbeddedModel):
    label = String()
    number = Encrypted(String())
    pin = Password(parameters=FAST, min_length=4)


class Person(models.BaseModel):
    _name = "vault.person"
    name = String(required=True)
    password = Password(parameters=FAST)
    ssn = Encrypted(String(max_length=60))
    email = Encrypted(Email(), deterministic=True, unique=True)
    notes = Encrypted(Json())
    address = Encrypted(Embedded(Address))
    card = Embedded(Card)
    cards = List(Embedded(Card))
    codes = List(Encrypted(String()))
    passwords = List(Password(parameters=FAST))
    by_name = Dict(Encrypted(String()))
    friend = Many2one("vault.person")


class Kinds(models.BaseModel):
    """Each kind of value that may be encrypted."""

    _name = "vault.kinds"
    text = Encrypted(String())
    whole = Encrypted(Int())
    number = Encrypted(Float())
    exact = Encrypted(Decimal())
    flag = Encrypted(Boolean())
    at = Encrypted(DateTime())
    day = Encrypted(Date())
    time = Encrypted(Time())
    span = Encrypted(Duration())
    uid = Encrypted(UUID())
    data = Encrypted(Binary())
    ip = Encrypted(IPAddress())
    size = Encrypted(Enum(Size))
    price = Encrypted(Money())
    json = Encrypted(Json())
    texts = Encrypted(List(String()))
    numbers = Encrypted(Dict(Int()))
    address = Encrypted(Embedded(Address))


VALUES: dict[str, Any] = {
    "text": "text",
    "whole": -(2**62),
    "number": 0.1,
    "exact": decimal.Decimal("1.10"),
    "flag": False,
    "at": datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=datetime.UTC),
    "day": datetime.date(2024, 2, 29),
    "time": datetime.time(1, 2, 3),
    "span": datetime.timedelta(days=3, milliseconds=7),
    "uid": uuid.UUID(int=7),
    "data": b"\0\1\2",
    "ip": "10.0.0.7",
    "size": Size.LARGE,
    "price": {"amount": "9.50", "currency": "EUR"},
    "json": {"a": [1, None, {"b": True}]},
    "texts": ["a", "b"],
    "numbers": {"x": 1},
    "address": {"street": "Main"},
}


def full(number: int = 0, **others: Any) -> dict[str, Any]:
    """Values with a secret at each place."""
    return {
        "name": f"Ann {number}",
        "password": f"{CANARY}-password",
        "ssn": f"{CANARY}-ssn",
        "email": f"{CANARY.lower()}.{number}@example.org",
        "notes": {f"{CANARY}-key": f"{CANARY}-note"},
        "address": {"street": f"{CANARY}-street"},
        "card": {"label": "L", "number": f"{CANARY}-number", "pin": f"{CANARY}-pin"},
        "cards": [{"label": "M", "number": f"{CANARY}-second", "pin": f"{CANARY}-spin"}],
        "codes": [f"{CANARY}-code", f"{CANARY}-more"],
        "passwords": [f"{CANARY}-old"],
        "by_name": {"a": f"{CANARY}-named"},
        **others,
    }


def shown(*values: object) -> str:
    """Everything that a program, a log or an error could show of values, in lower case."""
    return " ".join(f"{value!r} {value}" for value in values).lower()


def is_hidden(*values: object) -> bool:
    return CANARY.lower() not in shown(*values)


@asynccontextmanager
async def vault(uri: str, *plugins: Any, keys: Any = KEYS, **settings: Any) -> AsyncIterator[App]:
    """An App with keys on a database of its own, dropped afterwards."""
    name = f"vault_{uuid.uuid4().hex[:12]}"
    security = SecurityPlugin(SecuritySettings(keys=keys))
    async with App(uri, database=name, plugins=[security, *plugins], **settings) as app:
        try:
            yield app
        finally:
            await app.dangerous_raw("the test is over").client.drop_database(name)


async def stored(app: App, model: type[models.BaseModel] = Person) -> list[dict[str, Any]]:
    """The documents as the database has them."""
    return list(await app.dangerous_raw("to look at it")[model._collection].find({}).to_list(None))
