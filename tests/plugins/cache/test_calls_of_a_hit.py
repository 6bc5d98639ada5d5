"""No read from the memory may call more functions than it did when its figure was written."""

from __future__ import annotations

from earnorm import String, models
from tests.core.calls import count_calls
from tests.plugins.cache.conftest import Open

MOST = 56
"""The calls of all code with Python 3.11; later versions need fewer. It was 81 before single ids had a way of their own."""


class Coin(models.BaseModel):
    _name = "cache_coin"

    title = String()


async def test_a_get_from_the_memory_calls_few_functions(open_on_server: Open) -> None:
    await open_on_server(outside_writes=False)
    coin = await Coin.create({"title": "penny"})
    for _ in range(3):
        await Coin.get(coin.pk)

    async def get() -> None:
        await Coin.get(coin.pk)

    counted = await count_calls(get)
    assert 0 < counted.everything <= MOST, counted
