"""A class or an extension that overrides write, save or unlink is asked by sets of records as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import pytest

from earnorm import App, BaseModel, Int, String, ValidationError, hookimpl

from .conftest import Commands, default_app


class Ware(BaseModel):
    _name = "override.ware"

    name = String()
    state = String(default="new")
    number = Int(default=0)


class Logged(Ware):
    _inherit = "override.ware"

    async def write(self, values: Mapping[str, Any]) -> Self:
        if values.get("state") == "bad" and self.name == "b":
            raise ValidationError("override.ware", [{"loc": ("state",), "msg": "no", "type": "no"}])
        return await super().write({**values, "number": (self.number or 0) + 1})

    async def unlink(self) -> int:
        return 0 if self.name == "kept" else await super().unlink()

    async def save(self, values: Mapping[str, Any] | None = None) -> Self:
        self.state = f"{self.state}!"
        return await super().save(values)


class Extending:
    api = 1
    name = "extending"

    @hookimpl
    def register_models(self) -> Sequence[type[BaseModel]]:
        return [Logged]


@pytest.fixture(params=["pymongo", "motor"])
async def extended(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    async with default_app(request.param, database, [Extending()]) as started:
        yield started


async def test_a_set_calls_the_override_of_each_record(extended: App) -> None:
    await Ware.create([{"name": name, "number": n} for n, name in enumerate("abc")])
    wares = await Ware.search(order="name")
    assert await wares.write({"state": "sold"}) == 3
    assert [(ware.state, ware.number) for ware in await Ware.search(order="name")] == [
        ("sold", 1),
        ("sold", 2),
        ("sold", 3),
    ]
    assert await (wares + wares).write({"state": "twice"}) == 3
    assert (await Ware.search(order="name")).mapped("number") == [2, 3, 4]


async def test_one_that_refuses_takes_all_back(extended: App) -> None:
    await Ware.create([{"name": name} for name in "abc"])
    wares = await Ware.search(order="name")
    with pytest.raises(ValidationError):
        await wares.write({"state": "bad"})
    assert (await Ware.search()).mapped("state") == ["new"] * 3
    assert wares.mapped("state") == ["new"] * 3


async def test_save_and_unlink(extended: App) -> None:
    await Ware.create([{"name": "a"}, {"name": "kept"}])
    wares = await Ware.search(order="name")
    wares[0].number = 5
    assert await wares.save() >= 1
    assert (await Ware.search(order="name")).mapped("state") == ["new!", "new!"]
    assert await wares.unlink() == 1
    assert (await Ware.search()).mapped("name") == ["kept"]


async def test_what_names_no_records_calls_no_override(extended: App) -> None:
    await Ware.create([{"name": "a"}])
    assert await Ware.search().update({"state": "sold"}) == 1
    (ware,) = await Ware.search()
    assert (ware.state, ware.number) == ("sold", 0)
    assert await Ware.write_many({ware: {"state": "many"}}) == 1
    assert (ware.state, ware.number) == ("many", 0)


async def test_a_class_without_an_override_writes_all_at_once(commands: Commands) -> None:
    await Ware.create([{"name": name} for name in "abc"])
    wares = await Ware.search()
    commands.clear()
    await wares.write({"state": "sold"})
    assert [name for name, _ in commands.all] == ["update"]
    assert Ware._overridden == frozenset() and Logged._overridden == {"save", "unlink", "write"}


class Crate(BaseModel):
    _name = "override.crate"

    name = String()
    log = String(default="")

    @classmethod
    async def create(cls, values: Any) -> Any:
        return await super().create([{**one, "log": f"{one.get('log', '')}c"} for one in values])


class MarkedCrate(Crate):
    _inherit = "override.crate"

    @classmethod
    async def create(cls, values: Any) -> Any:
        return await super().create([{**one, "log": f"{one.get('log', '')}m"} for one in values])


class SealedCrate(BaseModel):
    _inherit = "override.crate"

    @classmethod
    async def create(cls, values: Any) -> Any:
        return await super().create([{**one, "log": f"{one.get('log', '')}s"} for one in values])


class Barrel(BaseModel):
    _name = "override.barrel"

    name = String()


class MarkedBarrel(Barrel):
    _inherit = "override.barrel"

    @classmethod
    async def create(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return await super().create({**values, "name": f"{values['name']}!"})
        return await super().create(values)


class Marking:
    api = 1
    name = "marking"

    @hookimpl
    def register_models(self) -> Sequence[type[BaseModel]]:
        return [MarkedCrate, MarkedBarrel]


class Sealing:
    api = 1
    name = "sealing"

    @hookimpl
    def register_models(self) -> Sequence[type[BaseModel]]:
        return [SealedCrate]


async def test_every_create_of_a_model_is_called_once_whichever_class_is_asked(
    database: str,
) -> None:
    async with default_app("memory", database, [Marking(), Sealing()]) as app:
        for asked in (Crate, MarkedCrate, SealedCrate, app.model("override.crate")):
            (crate,) = await asked.create([{"name": "a"}])
            assert crate.log == "smc"
            assert type(crate) is app.model("override.crate")
        barrel = await Barrel.create({"name": "b"})
        assert barrel.name == "b!" and isinstance(barrel, MarkedBarrel)
        assert (await Barrel.create([{"name": "c"}]))[0].name == "c"
    async with default_app("memory", f"{database}_2", [Marking()]):
        assert (await Crate.create([{"name": "a"}]))[0].log == "mc"
    async with default_app("memory", f"{database}_3", []):
        assert (await Crate.create([{"name": "a"}]))[0].log == "c"
        assert (await Barrel.create({"name": "b"})).name == "b"


async def test_a_base_with_its_own_create_serves_its_models(database: str) -> None:
    class Counted(BaseModel):
        _abstract = True

        name = String()

        @classmethod
        async def create(cls, values: Any) -> Any:
            return await super().create({**values, "name": f"{cls.__name__} {values['name']}"})

    class Jar(Counted):
        _name = "override.jar"

    async with default_app("memory", database, []):
        assert (await Jar.create({"name": "a"})).name == "Jar a"
