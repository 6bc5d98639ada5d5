"""The first program: a model, new records, a search, a change, and what a mistake looks like.

Run it with a MongoDB: ``EARNORM_TEST_MONGO_URI=mongodb://localhost:27017 python examples/basic.py``
"""

from __future__ import annotations

import asyncio
import os

import earnorm
from earnorm import Date, DuplicateKey, Int, List, String, ValidationError, models

URI = os.environ.get("EARNORM_TEST_MONGO_URI", "mongodb://localhost:27017")


class Plant(models.BaseModel):
    """A plant in a garden."""

    _name = "plant"
    label = String(required=True, unique=True, max_length=40)
    height_cm = Int(default=0, min_value=0)
    planted_on = Date()
    tags = List(String(), required=True, default=list)


async def main() -> None:
    """Grow a small garden."""
    await earnorm.init(URI, database="earnorm_example_basic")
    await Plant.search().delete()  # what an earlier run left

    fern = Plant(label="Fern", planted_on="2024-04-01", tags=["shade"])
    await fern.save()
    await Plant.create(
        [
            {"label": "Bamboo", "height_cm": 310, "tags": ["fast", "tall"]},
            {"label": "Thyme", "height_cm": 20, "tags": ["herb"]},
        ]
    )

    tall = await Plant.search([("height_cm", ">", 100)])
    print("over a metre:", tall.mapped("label"))
    by_expression = await Plant.search((Plant.height_cm < 50) & ~(Plant.label == "Fern"))
    print("low, and no fern:", by_expression.mapped("label"))

    fern.height_cm = 35
    fern.tags.append("indoor")  # a change in place is noticed
    await fern.save()
    again = await Plant.get(fern.id)
    print(f"{again.label}: {again.height_cm} cm, planted {again.planted_on}, {again.tags}")

    for wrong in ({"label": "Moss", "height_cm": -1}, {"label": "Fern"}):
        try:
            await Plant.create(wrong)
        except DuplicateKey as error:
            print("refused:", error)
        except ValidationError as error:
            print("refused:", error.errors()[0]["loc"], error.errors()[0]["msg"])

    print("left in the garden:", await Plant.count())
    await earnorm.close()


if __name__ == "__main__":
    asyncio.run(main())
