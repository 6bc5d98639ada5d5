"""Models with a field of each kind whose values can change in place, and such changes."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any

from earnorm import (
    BaseModel,
    Decimal,
    Dict,
    Embedded,
    EmbeddedModel,
    Int,
    Json,
    List,
    Set,
    String,
)


class Address(EmbeddedModel):
    city = String()
    zip = String(db_name="z")


class Line(EmbeddedModel):
    sku = String()
    qty = Int(default=0)
    marks = List(String())
    address = Embedded(Address)


class Box(EmbeddedModel):
    lines = List(Embedded(Line))
    label = String()


class Kept(BaseModel):
    """A record with a field of each kind whose values can change in place."""

    _name, _collection = "pending.kept", "pending_kept"

    n = Int(default=0)
    text = String()
    tags = List(String())
    codes = Set(String())
    prices = Dict(Decimal())
    data = Json()
    main = Embedded(Line)
    lines = List(Embedded(Line))
    by = Dict(Embedded(Line))
    box = Embedded(Box)


def line(number: int) -> dict[str, Any]:
    return {"sku": f"s{number}", "qty": number, "marks": [], "address": {"city": "c", "zip": "z"}}


def change_line(held: Line, number: int) -> None:
    if number % 3 == 0:
        held.qty = number
    elif number % 3 == 1:
        held.marks.append(str(number))  # type: ignore[union-attr]
    else:
        held.address.city = str(number)  # type: ignore[union-attr]


def change_lines(held: list[Line], number: int) -> None:
    if number % 4 == 0:
        held.append(Line(sku=str(number), marks=[], address=Address(city="n")))
    elif held:
        change_line(held[number % len(held)], number)


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any, int], object]]] = {
    "tags": (lambda: ["a"], lambda held, n: held.append(str(n))),
    "codes": (lambda: {"a"}, lambda held, n: held.add(str(n))),
    "prices": (
        lambda: {"a": decimal.Decimal(1)},
        lambda held, n: held.update({str(n): decimal.Decimal(n)}),
    ),
    "data": (lambda: {"a": [1]}, lambda held, n: held["a"].append(n)),
    "main": (lambda: line(1), change_line),
    "lines": (lambda: [line(1), line(2)], change_lines),
    "by": (lambda: {"x": line(1), "y": line(2)}, lambda held, n: change_line(held["xy"[n % 2]], n)),
    "box": (
        lambda: {"label": "b", "lines": [line(1), line(2)]},
        lambda held, n: change_lines(held.lines, n),
    ),
}
"""By field, a first value, and a change in place that depends on a number."""
