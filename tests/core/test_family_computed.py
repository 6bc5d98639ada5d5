"""The law of stored computed fields in a family: each record's are computed by its own class."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    Int,
    Many2one,
    One2many,
    String,
    ValidationError,
    depends,
)

from .conftest import default_app

CASES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "9"))


class Zone(BaseModel):
    _name = "kin.zone"
    name = String(required=True)
    pet_ids = One2many("kin.pet", "zone_id")
    food = Int(compute="_compute_food", store=True)
    sounds = String(compute="_compute_sounds", store=True)

    @depends("pet_ids.eats")
    def _compute_food(self) -> int:
        return sum(pet.eats or 0 for pet in self.pet_ids)

    @depends("pet_ids.sound")
    def _compute_sounds(self) -> str:
        return "".join(sorted(pet.sound or "" for pet in self.pet_ids))


class Vet(BaseModel):
    _name = "kin.vet"
    name = String(required=True)


class Pet(BaseModel):
    _name = "kin.pet"
    _discriminator = "kind"

    kind = String(required=True)
    weight = Int(default=1)
    zone_id = Many2one(Zone, index=True)
    tag = String(compute="_compute_tag", store=True)
    eats = Int(compute="_compute_eats", store=True)
    sound = String(compute="_compute_sound")

    @depends("zone_id.name")
    def _compute_tag(self) -> str:
        return f"pet@{self.zone_id.name if self.zone_id else '-'}"

    @depends("weight")
    def _compute_eats(self) -> int | None:
        return self.weight

    @depends()
    def _compute_sound(self) -> str:
        return "."


class Dog(Pet):
    _name = "kin.dog"
    vet_id = Many2one(Vet, index=True)
    breed = String(default="x")
    checked_by = String(related="vet_id.name", store=True)

    @depends("vet_id.name", "breed")
    def _compute_tag(self) -> str:
        return f"{self.breed}:{super()._compute_tag()}:{self.vet_id.name if self.vet_id else '-'}"

    @depends("vet_id.name")
    def _compute_eats(self) -> int:
        return 10 * (self.weight or 0) + len(self.vet_id.name if self.vet_id else "")

    @depends("breed", "vet_id.name")
    def _compute_sound(self) -> str:
        return f"{self.breed}{self.vet_id.name if self.vet_id else ''}"


class Puppy(Dog):
    _name = "kin.puppy"
    tag = String(related="vet_id.name", store=True)


class Cat(Pet):
    _name = "kin.cat"
    lives = String(compute="_compute_lives", store=True)

    @depends("zone_id.name", "weight")
    def _compute_lives(self) -> str:
        return f"{self.weight}@{self.zone_id.name if self.zone_id else '-'}"


CLASSES: tuple[type[Pet], ...] = (Pet, Dog, Puppy, Cat)


def from_scratch(pet: Pet, zones: dict[Any, Zone], vets: dict[Any, Vet]) -> dict[str, Any]:
    zone, link = zones.get(pet.__dict__.get("zone_id")), pet.__dict__.get("vet_id")
    at, weight = zone.name if zone else "-", pet.weight or 0
    vet = vets[link].name if link in vets else None
    if isinstance(pet, Dog):
        tag: str | None = f"{pet.breed}:pet@{at}:{vet or '-'}"
        return {
            "tag": vet if isinstance(pet, Puppy) else tag,
            "eats": 10 * weight + len(vet or ""),
            "checked_by": vet,
        }
    values: dict[str, Any] = {"tag": f"pet@{at}", "eats": weight}
    return values | {"lives": f"{pet.weight}@{at}"} if isinstance(pet, Cat) else values


def sound_of(pet: Pet, vets: dict[Any, Vet]) -> str:
    if not isinstance(pet, Dog):
        return "."
    link = pet.__dict__.get("vet_id")
    return f"{pet.breed}{vets[link].name if link in vets else ''}"


async def law(app: App) -> None:
    await app.settled()
    zones = {zone.pk: zone for zone in await Zone.search()}
    vets = {vet.pk: vet for vet in await Vet.search()}
    food, sounds = dict.fromkeys(zones, 0), {pk: list[str]() for pk in zones}
    for pet in await Pet.search():
        expected = from_scratch(pet, zones, vets)
        assert {name: pet.__dict__.get(name) for name in expected} == expected, pet.kind
        if (pk := pet.__dict__.get("zone_id")) in zones:
            food[pk] += expected["eats"]
            sounds[pk].append(sound_of(pet, vets))
    assert {pk: zone.food for pk, zone in zones.items()} == food
    stored = {pk: "".join(sorted(parts)) for pk, parts in sounds.items()}
    assert {pk: zone.sounds for pk, zone in zones.items()} == stored


which = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("zone"), which, st.sampled_from("abc")),
    st.tuples(st.just("vet"), which, st.sampled_from(["v", "ww"])),
    st.tuples(st.just("write"), st.integers(0, 9), st.integers(0, 4), which, which),
    st.tuples(st.just("update"), which, st.integers(0, 4)),
    st.tuples(st.just("move"), which, which),
    st.tuples(st.just("breed"), st.sampled_from("yz")),
    st.tuples(st.just("unlink"), st.integers(0, 9)),
)


class World:
    async def begin(self) -> None:
        for model in (Pet, Zone, Vet):
            await model.search().delete()
        self.zones = list(await Zone.create([{"name": "a"}, {"name": "b"}]))
        self.vets = list(await Vet.create([{"name": "v"}, {"name": "ww"}]))
        for model in CLASSES:
            by_vet = issubclass(model, Dog)
            for n in (0, 1):
                values: dict[str, Any] = {"weight": n, "zone_id": self.zones[n]}
                await model.create(values | ({"vet_id": self.vets[n]} if by_vet else {}))

    async def do(self, kind: str, *given: Any) -> None:
        match kind, given:
            case "zone", (number, name):
                await self.zones[number % 2].write({"name": name})
            case "vet", (number, name):
                await self.vets[number % 2].write({"name": name})
            case "write", (number, weight, zone, vet):
                pets = list(await Pet.search(order="_id"))
                if pets:
                    pet = pets[number % len(pets)]
                    values = {"weight": weight, "zone_id": self.zones[zone % 2]}
                    if isinstance(pet, Dog):
                        values["vet_id"] = self.vets[vet % 2]
                    await pet.write(values)
            case "update", (number, weight):
                await CLASSES[number].search().update({"weight": weight})
            case "move", (number, zone):
                await CLASSES[number].search().update({"zone_id": self.zones[zone % 2]})
            case "breed", (breed,):
                await Dog.search().update({"breed": breed})
            case "unlink", (number,):
                pets = list(await Pet.search(order="_id"))
                if pets:
                    await pets[number % len(pets)].unlink()
            case _:
                raise AssertionError(kind)


@pytest.mark.parametrize(("kind", "limit"), [("pymongo", 1000), ("pymongo", 3), ("memory", 3)])
def test_each_record_has_the_values_of_its_own_class(kind: str, limit: int) -> None:
    name = f"core_{uuid.uuid4().hex[:12]}"
    with asyncio.Runner() as runner:
        context = default_app(kind, name, recompute_limit=limit)
        app = runner.run(context.__aenter__())
        world = World()

        @settings(max_examples=CASES if limit > 3 else CASES // 3 or 1, deadline=None)
        @given(st.lists(steps, min_size=1, max_size=4))
        def check(done: list[tuple[Any, ...]]) -> None:
            async def run() -> None:
                await world.begin()
                await law(app)
                for step in done:
                    await world.do(*step)
                    await law(app)

            runner.run(run())

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
async def test_a_recompute_of_a_class_computes_those_of_its_subclasses(
    kind: str, database: str
) -> None:
    async with default_app(kind, database) as app:
        await World().begin()
        raw = app.dangerous_raw("a formula has changed").client[app.settings.database]["kin_pet"]
        wrong = {"tag": "?", "eats": -1, "lives": "?", "checked_by": "?"}
        for model in (Pet, Dog):
            await app.recompute(Pet)
            await raw.update_many({}, {"$set": wrong})
            dry = await app.recompute(model, dry_run=True)
            assert dry.changed == dry.seen == await model.search().count()
            one = await app.recompute(model, fields=["tag"])
            assert one.changed == one.seen
            done = await app.recompute(model)
            assert set(done.fields) == {"tag", "eats", "checked_by"} | (
                {"lives"} if model is Pet else set()
            )
            if model is Pet:
                await law(app)
            assert (await app.recompute(model, dry_run=True)).changed == 0
        await app.recompute(Pet, fields=["lives"])  # only some of the records have it
        with pytest.raises(ConfigurationError, match="no stored computed field"):
            await app.recompute(Dog, fields=["lives"])


class Ware(BaseModel):
    _name = "kin.ware"
    _discriminator = "kind"
    kind = String(required=True)
    cents = Int(default=0)
    price = Int(compute="_compute_price", inverse="_set_price")

    @depends("cents")
    def _compute_price(self) -> int:
        return (self.cents or 0) // 100

    def _set_price(self, value: int) -> None:
        self.cents = value * 100


class Dear(Ware):
    _name = "kin.dear"

    def _set_price(self, value: int) -> None:
        self.cents = value * 1_000


class Noted(Ware):
    _name = "kin.noted"
    note = String()

    async def _set_price(self, value: int) -> None:
        self.cents, self.note = value * 7, "noted"


class Offer(BaseModel):
    _name = "kin.offer"
    _inherits = {"kin.ware": "ware_id"}
    ware_id = Many2one(Ware, required=True)


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
async def test_an_inverse_is_that_of_the_records_own_class_whichever_is_asked(
    kind: str, database: str
) -> None:
    async with default_app(kind, database):
        wares = [await cls.create({}) for cls in (Ware, Dear, Noted)]
        pks = [ware.pk for ware in wares]
        for ware in wares:
            await Offer.create({"ware_id": ware})

        async def cents() -> list[int]:
            by_pk = {ware.pk: ware.cents for ware in await Ware.search()}
            return [by_pk[pk] for pk in pks]

        await Ware.browse(pks).write({"price": 1})
        assert await cents() == [100, 1_000, 7]
        for offer in await Offer.search():
            await offer.write({"price": 2})
        assert await cents() == [200, 2_000, 14]
        await (await Ware.search()).write({"price": 3})
        assert await cents() == [300, 3_000, 21]
        ghost = Ware.browse([pks[1]])[0]
        with pytest.raises(ValidationError, match="its class is not known yet"):
            ghost.price = 4
        await ghost.refresh()
        ghost.price = 4
        await ghost.save()
        assert await cents() == [300, 4_000, 21]
