"""A plugin in one file: a field type, a field on a model of somebody else, a domain operator, a
layer and an observer. A package would register ``TidePlugin`` under the entry point ``earnorm.plugins``.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import Annotated

import pydantic

import earnorm
from earnorm import Field, Int, Operator, String, models
from earnorm.fields import N
from earnorm.plugin import Layer, hookimpl, name_of

URI = os.environ.get("EARNORM_TEST_MONGO_URI", "mongodb://localhost:27017")


class Harbour(models.BaseModel):
    """The application's own model; it knows nothing of the plugin."""

    _name = "harbour"
    name = String(required=True)
    berths = Int(default=0)


class Percent(Field[float, N]):
    """A number from 0 to 100."""

    python_type = float
    operand_types = (int, float)

    def annotation(self):
        """What pydantic checks."""
        return Annotated[float, pydantic.Field(ge=0, le=100)]


class HarbourWithTide(models.BaseModel):
    """What the plugin adds to every harbour, in the Apps that chose it."""

    _inherit = "harbour"
    tide = Percent(required=True, default=50.0)

    def is_navigable(self) -> bool:
        """Whether a ship gets in."""
        return self.tide >= 30


def _divisor(field, value):
    if type(value) is not int or value == 0:
        raise ValueError("it takes a whole number that is not 0")
    return value


# The server leaves out the decimal places of a stored number, and so does the test in memory.
DIVISIBLE_BY = Operator(
    "divisible by",
    prepare=_divisor,
    to_mongo=lambda path, divisor: {path: {"$mod": [divisor, 0]}},
    matches=lambda divisor: (
        lambda values: any(
            isinstance(v, int | float)
            and type(v) is not bool
            and math.isfinite(v)
            and int(v) % divisor == 0
            for v in values
        )
    ),
)


class TidePlugin:
    """The plugin: a class with ``api = 1`` and hooks."""

    api = 1

    def __init__(self) -> None:
        self.slowest = 0.0
        self.created: list[str] = []

    @hookimpl
    def register_fields(self):
        """The field type."""
        return {"percent": Percent}

    @hookimpl
    def register_models(self):
        """The extension."""
        return [HarbourWithTide]

    @hookimpl
    def register_operators(self):
        """The operator."""
        return [DIVISIBLE_BY]

    @hookimpl
    def wrap_operation(self, operation):
        """A layer around searches: times them."""
        return [(Layer.OBSERVE, self._timed)] if operation == "search" else []

    async def _timed(self, op, call_next):
        start = time.perf_counter()
        try:
            return await call_next(op)
        finally:
            self.slowest = max(self.slowest, time.perf_counter() - start)

    @hookimpl
    def after_create(self, op, result):
        """An observer."""
        name = name_of(op.model)
        if name == "harbour":  # it is called for every model
            made = [f"{name}:{document['name']}" for document in op.values]
            op.after_durable(lambda: self.created.extend(made))  # a rollback cannot take it back


async def main() -> None:
    """Two Apps in one process: one with the plugin, one without."""
    tide = TidePlugin()
    with_plugin = earnorm.App(
        URI, database="earnorm_example_plugin", plugins=[tide], name="with the plugin"
    )
    without = earnorm.App(URI, database="earnorm_example_plugin", plugins=[], name="without")

    async with with_plugin:
        await Harbour.search().delete()
        await Harbour.create(
            [{"name": "Hue", "berths": 9, "tide": 80}, {"name": "Hoi An", "berths": 4, "tide": 10}]
        )
        for harbour in await Harbour.search(order="name"):
            added = HarbourWithTide.of(harbour)  # the same record, typed with the added fields
            print(harbour.name, added.tide, "navigable:", added.is_navigable())
        found = await Harbour.search([("berths", "divisible by", 3)])
        print("berths divisible by 3:", found.mapped("name"))
        print("observed:", tide.created, "| a search was timed:", tide.slowest > 0)
        try:
            await Harbour.create({"name": "Nowhere", "tide": 101})
        except earnorm.ValidationError as error:
            print("refused:", error.errors()[0]["msg"])

    async with without:
        harbour = (await Harbour.search(order="name"))[0]
        print("without the plugin:", sorted(harbour.to_dict()))
        try:
            await Harbour.search([("berths", "divisible by", 3)])
        except earnorm.DomainError as error:
            print("refused:", str(error).split(";")[0])


if __name__ == "__main__":
    asyncio.run(main())
