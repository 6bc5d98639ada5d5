"""The first program of README.md, which tests/docs holds equal to it."""

import asyncio

import earnorm
from earnorm import Int, String, models


class User(models.BaseModel):
    name = String(required=True)
    age = Int(required=True, min_value=0)


async def main() -> None:
    async with earnorm.App("mongodb://localhost:27017", database="readme"):
        await User.create([{"name": "Ann", "age": 31}, {"name": "Bao", "age": 19}])
        for user in await User.search([("age", ">", 20)]):
            print(user.id, user.name)


asyncio.run(main())
