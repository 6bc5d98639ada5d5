"""Counts the calls of Python functions of one trip: a cost that does not depend on how busy a machine is.

Print the figures of this checkout with

    python -m tests.servers -- python -m tests.core.calls
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import earnorm
from earnorm import (
    App,
    BaseModel,
    Int,
    Many2one,
    One2many,
    String,
    constrains,
    depends,
)

WARM_UP = 3
"""Trips before the first counted one: they bind the model, compile its validators and fill its caches."""
COUNTED = 5
"""Counted trips. The lowest figures are kept: what disturbs a trip, a new connection say, only adds calls."""

PACKAGE = os.path.join(os.path.dirname(earnorm.__file__), "")
# Python 3.12 and later run these in the frame of the function around them; before, each was a call.
COMPREHENSIONS = frozenset({"<listcomp>", "<dictcomp>", "<setcomp>"})

Trip = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one trip.

    Attributes:
        ours: The calls of code in the package ``earnorm`` as a profiler sees them. A coroutine that goes on
            after it waited for the server is a call again, and so is each coroutine that awaits it.
        functions: The functions of the package that were called, each call once however often it waited. No
            comprehension is among them, so that every version of Python and of the driver gives the same figure.
        everything: The calls of all Python code: the driver's, the standard library's and the test's own, too.
    """

    ours: int
    functions: int
    everything: int


@dataclass(slots=True)
class Counted:
    """An awaitable that counts calls while the coroutine itself runs, and not while it waits.

    What other tasks of the event loop do meanwhile is not counted, nor what runs in a thread.
    """

    coroutine: Coroutine[Any, Any, object]
    ours: int = 0
    functions: int = 0
    everything: int = 0
    # The frames themselves, not their ids, which a later frame may get again.
    _begun: set[FrameType] = field(default_factory=set[FrameType])

    def __await__(self) -> Generator[Any, Any, object]:
        step: Callable[..., Any] = self.coroutine.send
        given: Any = None
        while True:
            before = sys.getprofile()
            sys.setprofile(self._note)
            try:
                waits_for = step(given)
            except StopIteration as end:
                return end.value
            finally:
                sys.setprofile(before)
            try:
                given = yield waits_for
                step = self.coroutine.send
            except BaseException as error:  # the coroutine decides what a cancellation means to it
                given, step = error, self.coroutine.throw

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        self.everything += 1
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return
        self.ours += 1
        if code.co_name not in COMPREHENSIONS and frame not in self._begun:
            self._begun.add(frame)
            self.functions += 1


async def count_calls(trip: Trip) -> Calls:
    """Count the calls of a trip when it is not the first of its kind.

    Args:
        trip: A function that starts the trip and returns what to await. Its own call belongs to the trip, so that
            a query is counted with the calls that build it.
    """

    async def whole() -> object:
        return await trip()

    for _ in range(WARM_UP):
        await whole()
    counted = [Counted(whole()) for _ in range(COUNTED)]
    for one in counted:
        await one
    return Calls(
        ours=min(one.ours for one in counted),
        functions=min(one.functions for one in counted),
        everything=min(one.everything for one in counted),
    )


class Partner(BaseModel):
    """A partner, at the end of two relations."""

    _name, _collection = "calls.partner", "calls_partner"

    name = String(required=True)
    order_ids = One2many("calls.order", "partner_id")


class Order(BaseModel):
    """An order of a partner."""

    _name, _collection = "calls.order", "calls_order"

    title = String(required=True)
    partner_id = Many2one(Partner)
    note_ids = One2many("calls.note", "order_id")


class Note(BaseModel):
    """A note about an order."""

    _name, _collection = "calls.note", "calls_note"

    text = String(required=True)
    number = Int(default=0)
    order_id = Many2one(Order)


class Product(BaseModel):
    """A product, whose stored total follows from its own fields."""

    _name, _collection = "calls.product", "calls_product"

    name = String(required=True)
    price = Int(default=0)
    quantity = Int(default=1)
    total = Int(compute="_compute_total", store=True)

    @depends("price", "quantity")
    def _compute_total(self) -> int:
        return (self.price or 0) * (self.quantity or 0)

    @constrains("price")
    def _check_price(self) -> None:
        if (self.price or 0) < 0:
            raise ValueError("the price is negative")


class Line(BaseModel):
    """A line of an order, with a stored total and two constraints."""

    _name, _collection = "calls.line", "calls_line"

    name = String(required=True)
    price = Int(default=0)
    quantity = Int(default=1)
    order_id = Many2one(Order)
    total = Int(compute="_compute_total", store=True)

    @depends("price", "quantity")
    def _compute_total(self) -> int:
        return (self.price or 0) * (self.quantity or 0)

    @constrains("price")
    def _check_price(self) -> None:
        if (self.price or 0) < 0:
            raise ValueError("the price is negative")

    @constrains("quantity")
    def _check_quantity(self) -> None:
        if (self.quantity or 0) < 0:
            raise ValueError("the quantity is negative")


async def trips() -> Mapping[str, Trip]:
    """Store what the trips need, and return every trip that is counted, by its title.

    An App is current, on an empty database of a real server.
    """
    partner = await Partner.create({"name": "Ann"})
    order = await Order.create({"title": "first", "partner_id": partner})
    notes = await Note.create(
        [{"text": f"note {number}", "number": 2, "order_id": order} for number in range(3)]
    )
    note = notes[0]
    numbers = itertools.count(10)

    def save() -> Awaitable[object]:
        note.number = next(numbers)
        return note.save()

    return {
        "create": lambda: Partner.create({"name": "Bob"}),
        "save one changed field": save,
        "write one field": lambda: note.write({"number": next(numbers)}),
        "search": lambda: Note.search([("number", "=", 2)]),
        "search across a relation, prefetch two levels": lambda: Note.search(
            [("order_id.title", "=", "first")], prefetch=["order_id.partner_id"]
        ),
        "create, computed and constrained": lambda: Product.create(
            {"name": "pen", "price": 2, "quantity": 3}
        ),
        "create, computed, constrained and linked": lambda: Line.create(
            {"name": "pen", "price": 2, "quantity": 3, "order_id": order}
        ),
    }


async def figures() -> dict[str, Calls]:
    """Count the calls of every trip in the current App, one after the other."""
    return {title: await count_calls(trip) for title, trip in (await trips()).items()}


async def main() -> None:
    """Print the figures as a table."""
    database = f"calls_{uuid.uuid4().hex[:12]}"
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], database=database, plugins=[]) as app:
        try:
            counted = await figures()
        finally:
            await app.dangerous_raw("the figures are counted").client.drop_database(database)
    print("| trip | calls of ours | functions of ours | calls of everything |\n|---|---|---|---|")
    for title, calls in counted.items():
        print(f"| {title} | {calls.ours} | {calls.functions} | {calls.everything} |")


if __name__ == "__main__":
    asyncio.run(main())
