"""A secret field kind made with public means, and models with it at every place."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pydantic

from earnorm import Dict, Embedded, EmbeddedModel, Field, Int, List, Many2one, String, models
from earnorm.fields import N

CANARY = "Canary-7f3a"


def no_canary_twice(value: str) -> str:
    if value.count("Canary") > 1:
        raise ValueError(f"{value} is twice the same")
    return value


class Pin(Field[str, N]):
    secret = True
    operand_types: ClassVar[tuple[type, ...]] = (str,)

    def annotation(self) -> Any:
        return Annotated[
            str, pydantic.Field(min_length=4), pydantic.AfterValidator(no_canary_twice)
        ]


class Token(Pin[N]):
    operators = frozenset({"=", "in"})


class Profile(EmbeddedModel):
    nick = String()
    pin = Pin()


class Holder(models.BaseModel):
    _name = "secret.holder"
    name = String(required=True)
    age = Int()
    pin = Pin()
    token = Token()
    pins = List(Pin())
    by_name = Dict(Pin())
    profile = Embedded(Profile)
    profiles = List(Embedded(Profile))
    friend = Many2one("secret.holder")


def full(**others: Any) -> dict[str, Any]:
    """Return values with a secret at each place."""
    return {
        "name": "Ann",
        "age": 5,
        "pin": f"{CANARY}-pin",
        "token": f"{CANARY}-token",
        "pins": [f"{CANARY}-one", f"{CANARY}-two"],
        "by_name": {"a": f"{CANARY}-a"},
        "profile": {"nick": "N", "pin": f"{CANARY}-profile"},
        "profiles": [{"nick": "M", "pin": f"{CANARY}-profiles"}],
        **others,
    }
