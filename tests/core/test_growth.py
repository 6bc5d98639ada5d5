"""Work that must not grow with what else there is; it is counted, not timed."""

from __future__ import annotations

import pytest

import earnorm
from earnorm import App, String, models
from earnorm.features.on_delete.plugin import _key, _without_references
from earnorm.kernel.catalog import Catalog


class Stone(models.BaseModel):
    _name, _collection = "growth.stone", "growth_stone"
    name = String(required=True)


async def test_transactions_do_not_look_through_the_models_again(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    through = Catalog.known

    def counted(self: Catalog) -> list[type[models.BaseModel]]:
        found = through(self)
        looked.append(len(found))
        return found

    find = Catalog.find

    def counted_one(self: Catalog, name: str) -> type[models.BaseModel] | None:
        looked.append(1)
        return find(self, name)

    monkeypatch.setattr(Catalog, "known", counted)
    monkeypatch.setattr(Catalog, "find", counted_one)  # a transaction looks each new model up
    async with earnorm.transaction():
        await Stone.create({"name": "a"})
    first = len(looked)  # each part of the App that looks at the models does it once
    for name in ("b", "c"):
        async with earnorm.transaction():
            await Stone.create({"name": name})
    assert len(looked) == first > 0

    class Late(models.BaseModel):
        _name, _collection = "growth.late", "growth_late"
        name = String(unique=True)

    async with earnorm.transaction():
        await Late.create({"name": "d"})  # its index was made before the transaction began
    again = len(looked)
    async with earnorm.transaction():
        await Late.create({"name": "e"})
    assert len(looked) == again > first
    assert server_app.bind(Late).is_prepared


class Compared(str):
    """A value that counts how often it is compared."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


def test_ids_are_taken_out_of_a_list_in_linear_time() -> None:
    items = [Compared(f"id{n}") for n in range(500)]
    gone = [Compared(f"id{n}") for n in range(250, 750)]
    Compared.times = 0
    assert _without_references({"a": [{"b": items}]}, ["a", "b"], frozenset(map(_key, gone))) == {
        "a": [{"b": items[:250]}]
    }
    assert Compared.times < 3_000
