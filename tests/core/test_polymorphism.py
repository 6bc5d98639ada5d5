"""Several classes in one collection: each record is of its own class, whichever class was asked."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    BatchRefused,
    ConcurrencyError,
    ConfigurationError,
    Count,
    DateTime,
    DomainError,
    DuplicateKey,
    Inc,
    Int,
    Many2one,
    NotFound,
    One2many,
    PluginError,
    String,
    ValidationError,
    depends,
    hookimpl,
    transaction,
)
from earnorm.kernel import registry
from earnorm.kernel.transactions.layer import in_transaction_if
from earnorm.plugin import CHANGES, Attribute, DocumentBatch, Layer, ModelView, Stage, Step

from .conftest import Commands, default_app, drop

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "30"))


class Owner(BaseModel):
    _name = "poly.owner"
    name = String(required=True)
    pet_ids = One2many("poly.animal", "owner_id")


class Animal(BaseModel):
    _name = "poly.animal"
    _discriminator = "kind"
    _indexes = [{"name": 1}]

    kind = String(required=True, db_name="k")
    name = String(required=True)
    age = Int(default=0)
    owner_id = Many2one(Owner)

    def sound(self) -> str:
        return "?"


class Dog(Animal):
    _name = "poly.dog"
    _kind = "dog"
    chip = String(required=True, unique=True)
    walked_at = DateTime(auto_now=True)
    walker_id = Many2one(Owner)

    def sound(self) -> str:
        return "woof"


class Puppy(Dog):
    _name = "poly.puppy"
    months = Int(index=True)


class Cat(Animal):
    _name = "poly.cat"
    lives = Int(default=9, db_name="l")

    def sound(self) -> str:
        return "meow"


class Cage(BaseModel):
    _name = "poly.cage"
    animal_id = Many2one(Animal, on_delete="restrict")
    name = String()


async def zoo() -> dict[str, Any]:
    owner = await Owner.create({"name": "Ann"})
    animal = await Animal.create({"name": "thing", "owner_id": owner})
    dogs = await Dog.create(
        [{"name": n, "chip": n, "owner_id": owner, "walker_id": owner} for n in ("rex", "bello")]
    )
    puppy = await Puppy.create({"name": "pup", "chip": "p", "months": 3})
    cats = await Cat.create([{"name": "tom", "owner_id": owner}, {"name": "kit", "lives": 2}])
    return {"owner": owner, "animal": animal, "dogs": dogs, "puppy": puppy, "cats": cats}


def names(found: Any) -> list[str]:
    return sorted(each.name for each in found)


async def test_searching_the_root_gives_each_record_as_its_class(app: App) -> None:
    await zoo()
    found = await Animal.search(order="name")
    assert [(type(a), a.sound()) for a in found] == [
        (Dog, "woof"),
        (Cat, "meow"),
        (Puppy, "woof"),
        (Dog, "woof"),
        (Animal, "?"),
        (Cat, "meow"),
    ]
    assert {a.name: a.lives for a in found if isinstance(a, Cat)} == {"kit": 2, "tom": 9}
    assert {a.kind for a in found} == {"dog", "poly.cat", "poly.puppy", "poly.animal"}
    assert not any("l" in vars(a) or "chip" in vars(a) for a in found if isinstance(a, Cat))
    streamed = [type(a) async for a in Animal.search(order="name")]
    assert streamed == [type(a) for a in found]
    assert {d["k"] for d in await app._backend.collection("poly_animal").find({})} == {
        a.kind for a in found
    }


async def test_a_subclass_is_asked_for_its_own_kinds(app: App) -> None:
    made = await zoo()
    assert names(await Dog.search()) == ["bello", "pup", "rex"]
    assert [type(a) for a in await Dog.search(order="name")] == [Dog, Puppy, Dog]
    assert names(await Puppy.search()) == ["pup"]
    assert (await Dog.count(), await Cat.count(), await Animal.count()) == (3, 2, 6)
    assert await Dog.search().group(number=Count()) == [{"number": 3}]
    assert type(await Animal.get(made["puppy"].id)) is Puppy
    assert type(await Dog.get(made["puppy"].id)) is Puppy
    with pytest.raises(NotFound):
        await Cat.get(made["puppy"].id)
    assert await Cat.search().update({"age": 7}) == 2
    assert sorted(a.age or 0 for a in await Animal.search()) == [0, 0, 0, 0, 7, 7]
    assert await Cat.search().delete() == 2
    assert await Animal.count() == 4


async def test_the_root_finds_by_fields_of_any_class(app: App) -> None:
    await zoo()
    assert names(await Animal.search([("lives", "<", 9)])) == ["kit"]
    assert names(await Animal.search(Dog.chip == "rex")) == ["rex"]
    assert names(await Animal.search([("walker_id.name", "=", "Ann")])) == ["bello", "rex"]
    assert names(await Dog.search([("months", "=", 3)])) == ["pup"]
    with pytest.raises(DomainError, match="no field 'livez'"):
        await Animal.search([("livez", "=", 1)])


async def test_the_discriminator_is_set_by_the_class_and_by_nothing_else(app: App) -> None:
    for values in ({"kind": "poly.cat"}, {"kind": ""}):
        with pytest.raises(ValidationError, match="kind"):
            await Dog.create({"name": "x", "chip": "x", **values})
    dog = await Dog.create({"name": "x", "chip": "x", "kind": "dog"})
    with pytest.raises(ValidationError, match="only on a new record"):
        await dog.write({"kind": "poly.cat"})
    with pytest.raises(ValidationError):
        await Animal.search().update({"kind": "poly.cat"})
    assert (await dog.copy({"chip": "y"})).kind == "dog"


async def test_what_no_class_knows_is_a_record_of_the_class_that_was_asked(app: App) -> None:
    await app._backend.collection("poly_animal").insert(
        [
            {"_id": 1, "name": "a", "k": "dodo", "save": 1},
            {"_id": 2, "name": "b", "lives": 3},
            {"_id": 3, "name": "c", "k": [1]},
            {"_id": 4, "name": "d", "k": 4},
        ]
    )
    found = await Animal.search(order="name")
    assert [type(a) for a in found] == [Animal] * 4
    assert found[0].kind == "dodo" and callable(found[0].save)
    assert await Dog.count() == 0


async def test_a_class_that_is_defined_later_joins(app: App) -> None:
    await zoo()
    before = dict(registry.definitions())
    try:

        class Fish(Animal):
            _name = "poly.fish"
            fins = Int()

        await Fish.create({"name": "wanda", "fins": 2})
        found = (await Animal.search([("fins", "=", 2)]))[0]
        assert type(found) is Fish and found.fins == 2
    finally:
        for name in registry.definitions().keys() - before.keys():
            registry._definitions.pop(name)


async def test_relations_to_the_root_lead_to_each_class(app: App) -> None:
    made = await zoo()
    await Cage.create([{"animal_id": a} for a in (made["puppy"], made["cats"][0], made["animal"])])
    cages = await Cage.search(order="_id").prefetch("animal_id")
    assert [type(c.animal_id) for c in cages] == [Puppy, Cat, Animal]
    cages = await Cage.search(order="_id")
    ghost = cages[0].animal_id
    assert type(ghost) is Animal and ghost == made["puppy"] and len({ghost, made["puppy"]}) == 1
    assert ghost is not None
    await ghost
    assert [type(c.animal_id) for c in cages] == [Puppy, Cat, Animal]
    assert ghost == made["puppy"] and hash(ghost) == hash(made["puppy"])
    owner = (await Owner.search().prefetch("pet_ids"))[0]
    assert {type(pet) for pet in owner.pet_ids} == {Animal, Dog, Cat}
    assert await Owner.search([("pet_ids.lives", "=", 9)]).count() == 1


async def test_a_relation_of_many_classes_is_one_query(commands: Commands) -> None:
    await zoo()
    commands.clear()
    found = await Animal.search().prefetch("owner_id")
    assert {a.owner_id.name for a in found if a.owner_id} == {"Ann"}
    assert len(commands.named("find")) == 2
    found = await Animal.search(order="name")
    commands.clear()
    bello: Any = found[0]
    assert (await bello.walker_id).name == "Ann"
    assert len(commands.named("find")) == 1


async def test_mixed_records_are_written_saved_copied_refreshed_and_deleted(app: App) -> None:
    await zoo()
    mixed = await Animal.search(order="name")
    assert await mixed.write({"age": 4}) == 6
    assert {a.age for a in await Animal.search()} == {4}
    for animal in mixed:
        animal.age = 5
        if isinstance(animal, Cat):
            animal.lives = 1
    assert await mixed.save() == 6
    await mixed.write({"age": 6})
    await mixed.refresh()
    assert [type(a) for a in mixed][:3] == [Dog, Cat, Puppy]
    assert {a.age for a in mixed} == {6} and {a.lives for a in mixed if isinstance(a, Cat)} == {1}
    cats = mixed.filtered(lambda a: type(a) in (Cat, Animal))
    assert [type(a) for a in await cats.copy()] == [type(a) for a in cats]
    assert await mixed.unlink() == 6
    assert await Animal.count() == 3


async def test_what_the_root_changes_passes_the_layers_of_each_class(app: App) -> None:
    made = await zoo()
    old = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    await made["puppy"].write({"walked_at": old})
    assert await Animal.search().update({"age": 8}) == 6
    puppy = (await Puppy.search())[0]
    assert puppy.walked_at is not None and puppy.walked_at > old and puppy.age == 8
    stored = await app._backend.collection("poly_animal").find({"k": "poly.cat"})
    assert not any("walked_at" in each for each in stored)
    await Animal.write_many({made["cats"][0].id: {"age": 1}, made["puppy"].id: {"age": 2}})
    assert sorted(a.age or 0 for a in await Animal.search([("age", "<", 8)])) == [1, 2]
    assert await Animal.search([("lives", ">", 0)]).delete() == 2
    async with Animal.bulk() as bulk:
        bulk.create({"name": "new"})
        bulk.write(made["puppy"], {"age": 3})
        bulk.unlink(made["dogs"][0])
    assert (bulk.created, bulk.written, bulk.deleted) == (1, 1, 1)
    assert (await Animal.get(made["puppy"].id)).age == 3


async def test_a_restriction_about_the_root_holds_for_each_class(server_app: App) -> None:
    made = await zoo()
    await Cage.create({"animal_id": made["puppy"]})
    for deletion in (made["puppy"].unlink, Animal.search().delete, Dog.search().delete):
        with pytest.raises(Exception, match=r"poly\.cage"):
            await deletion()
    assert await Animal.count() == 6


async def test_indexes_of_each_class_are_made_and_bind_its_own_records(server_app: App) -> None:
    await zoo()
    found = await server_app._backend.collection("poly_animal").list_indexes()
    assert {i["name"] for i in found} == {"_id_", "name_1", "chip_1", "months_1"}
    with pytest.raises(DuplicateKey, match="chip"):
        await Puppy.create({"name": "x", "chip": "rex"})
    async with transaction():
        await Animal.search().update({"age": 1})


def test_the_algebra_knows_the_family() -> None:
    async def run() -> None:
        async with App("mongomock://", database="x", plugins=[]):
            await zoo()
            animals, dogs = await Animal.search(), await Dog.search()
            assert (animals & dogs) == dogs and len(animals - dogs) == 3
            with pytest.raises(TypeError, match="not the same model"):
                _ = dogs | animals

    asyncio.run(run())


@pytest.fixture
def forgotten() -> Iterator[None]:
    before = dict(registry.definitions())
    yield
    for name in registry.definitions().keys() - before.keys():
        registry._definitions.pop(name)


@pytest.mark.usefixtures("forgotten")
def test_what_does_not_fit_a_family_is_refused() -> None:
    with pytest.raises(TypeError, match="no _discriminator and no _collection of its own"):
        type("Bird", (Animal,), {"_collection": "birds"})
    with pytest.raises(TypeError, match="exclude each other"):
        type("Strict", (Animal,), {"_validation": "strict"})
    with pytest.raises(TypeError, match="which is a String"):
        type("Numbered", (BaseModel,), {"_discriminator": "kind", "kind": Int()})


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"_kind": "dog"}, "both told by kind='dog'"),
        ({"lives": String()}, r"poly\.bad\.lives and poly\.cat\.lives .* different things"),
        ({"paws": Int(db_name="l")}, "stored as 'l' both"),
    ],
)
async def test_classes_that_clash_are_refused(body: dict[str, Any], says: str) -> None:
    type("Bad", (Animal,), {"_name": "poly.bad", "__module__": __name__, **body})
    async with App("mongomock://", database="x", plugins=[]):
        with pytest.raises(ConfigurationError, match=says):
            await Animal.search()


CLASSES: list[Any] = [Animal, Dog, Puppy, Cat]


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(range(4)), st.integers(0, 3)), max_size=8),
    age=st.integers(0, 3),
)
def test_a_search_of_a_class_is_the_union_of_its_kinds(rows: list[Any], age: int) -> None:
    async def run() -> None:
        async with App("mongomock://", database="law", plugins=[]):
            for number, (position, years) in enumerate(rows):
                model = CLASSES[position]
                chip = {"chip": str(number)} if issubclass(model, Dog) else {}
                await model.create({"name": str(number), "age": years, **chip})
            domain = [("age", ">=", age)]
            everyone = await Animal.search(domain)
            assert names(everyone) == sorted(str(n) for n, (_, a) in enumerate(rows) if a >= age)
            for model in CLASSES:
                found = await model.search(domain)
                assert set(found) == {a for a in everyone if isinstance(a, model)}
                assert [type(a) for a in found] == [CLASSES[rows[int(a.name)][0]] for a in found]
                assert await model.count(domain) == len(found)

    asyncio.run(run())


# -- what plugins add, and what steps see ---------------------------------------------------------


class Plant(BaseModel):
    _name = "poly.plant"
    _discriminator = "kind"
    _versioned = True

    name = String(required=True, unique=True)
    n = Int(default=0)
    touched_at = DateTime(auto_now=True)
    serial = Int()
    line = String(compute="_line", store=True)

    @depends("touched_at", "n")
    def _line(self) -> str:
        return f"{self.n} {self.touched_at}"


class Tree(Plant):
    _name = "poly.tree"
    measured_at = DateTime(auto_now=True)


class Oak(Tree):
    _name = "poly.oak"


class Moss(Plant):
    _name = "poly.moss"


class Herb(Plant):
    _name = "poly.herb"


class Steps:
    """Numbers each change, notes the rows of each class, and lets no moss grow above 10."""

    api = 1

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[Any]]] = []
        self.numbers = itertools.count(1)

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterator[Step]:
        if model.identity == "poly.plant":
            yield Step(Stage.STAMP, "number", self.number, CHANGES, on="write")
            yield Step(Stage.CONSTRAIN, "limit", self.limit, CHANGES, on="write")

    def number(self, batch: DocumentBatch) -> None:
        self.seen.append((batch.model.name, [row.pk for row in batch.rows]))
        for row in batch.rows:
            row.put("serial", next(self.numbers))

    def limit(self, batch: DocumentBatch) -> None:
        for row in batch.rows:
            n = row.get("n")
            if batch.model.name == "poly.moss" and isinstance(n, int) and n > 10:
                row.refuse("n", "too high for moss", "limit")


async def _write(plants: Any) -> None:
    assert await plants.write({"n": 5}) == len(plants)


async def _write_a_change(plants: Any) -> None:
    assert await plants.write({"n": Inc(2)}) == len(plants)


async def _save(plants: Any) -> None:
    for number, plant in enumerate(plants):
        plant.n = number + 1
    assert await plants.save() == len(plants)


async def _write_many(plants: Any) -> None:
    assert await Plant.write_many({p: {"n": i + 1} for i, p in enumerate(plants)}) == len(plants)


async def _bulk(plants: Any) -> None:
    async with Plant.bulk() as bulk:
        bulk.create({"name": f"new {uuid.uuid4()}"})
        for plant in plants:
            bulk.write(plant, {"n": Inc(3)})
    assert bulk.written == len(plants) and bulk.created == 1


async def _write_single(plants: Any) -> None:
    for plant in plants:
        await plant.write({"n": 7})


WAYS = [_write, _write_a_change, _save, _write_many, _bulk, _write_single]


async def _garden(*classes: type[Plant]) -> Any:
    for number, model in enumerate(classes):
        await model.create({"name": f"{number}"})
    return await Plant.search(order="name")


@pytest.mark.parametrize("classes", [(Tree, Moss), (Moss, Oak, Tree, Plant), (Oak,)])
@pytest.mark.parametrize("way", WAYS)
async def test_mixed_records_hold_what_is_stored_and_steps_see_their_own_rows(
    way: Any, classes: tuple[type[Plant], ...], database: str
) -> None:
    steps = Steps()
    async with default_app("pymongo", database, [steps]) as app:
        try:
            plants = await _garden(*classes)
            names = {plant.pk: type(plant)._name for plant in plants}
            before = {plant.pk: plant.to_dict() for plant in plants}
            await way(plants)
            await way(plants)  # the revisions in memory are those of the database
            stored = {
                plant.pk: plant for plant in await Plant.search([("id", "in", list(plants.ids))])
            }
            for plant in plants:
                assert plant.to_dict() == stored[plant.pk].to_dict() != before[plant.pk]
                assert plant._revision == stored[plant.pk]._revision == 2
            told = [(model, names.get(pk, model)) for model, pks in steps.seen for pk in pks]
            assert told and all(model == own for model, own in told)
            assert {model for model, _ in steps.seen} == set(names.values())
        finally:
            await drop(app)


async def test_a_step_refuses_the_records_of_its_class_only(database: str) -> None:
    async with default_app("pymongo", database, [Steps()]) as app:
        try:
            tree, moss, herb = await _garden(Tree, Moss, Herb)
            assert await Plant.write_many({tree: {"n": 50}, moss: {"n": 5}}) == 2
            async with Plant.bulk() as bulk:
                bulk.write(tree, {"n": 60})
                bulk.write(moss, {"n": 6})
            with pytest.raises(ValidationError) as refused:
                await Plant.write_many({tree: {"n": 5}, moss: {"n": 60}, herb: {"n": 5}})
            assert [detail["loc"] for detail in refused.value.errors()] == [(1, "n")]
            with pytest.raises(ValidationError) as refused:
                async with Plant.bulk() as bulk:
                    bulk.create({"name": "first"})
                    bulk.write(tree, {"n": 5})
                    bulk.write(moss, {"n": 70})
            assert [detail["loc"] for detail in refused.value.errors()] == [(2, "n")]
            assert (await Plant.get(moss.id)).n == 6
        finally:
            await drop(app)


async def test_missing_records_are_reported_and_the_others_written(database: str) -> None:
    async with default_app("pymongo", database, [Steps()]) as app:
        try:
            tree, moss, herb = await _garden(Tree, Moss, Herb)
            await (await Moss.search()).unlink()
            with pytest.raises(NotFound):
                await Plant.write_many({tree.id: {"n": 1}, moss.id: {"n": 2}, herb.id: {"n": 3}})
            assert (await Plant.search(order="name")).mapped("n") == [1, 3]
            await Plant.search([("id", "=", herb.id)]).update({"n": 4})
            with pytest.raises(ConcurrencyError):
                await Plant.write_many({tree: {"n": 5}, herb: {"n": 6}})
        finally:
            await drop(app)


async def test_a_refused_row_keeps_its_position(database: str) -> None:
    async with default_app("pymongo", database) as app:
        try:
            tree, moss, herb = await _garden(Tree, Moss, Herb)
            with pytest.raises(BatchRefused) as refused:
                await Plant.write_many({moss: {"n": 1}, herb: {"n": 2}, tree: {"name": "1"}})
            assert refused.value.positions == (2,)
        finally:
            await drop(app)


async def test_a_bulk_sends_no_part_twice(database: str) -> None:
    class Asking:
        """Runs each deletion in a transaction of its own, as a cascade does."""

        api = 1

        @hookimpl
        def wrap_operation(self, model: type[BaseModel], operation: str) -> Any:
            if operation == "unlink" and model._identity == "poly.plant":
                yield Layer.TRANSACTION, in_transaction_if(lambda op: True)

    async with default_app("pymongo", database, [Asking()]) as app:
        try:
            tree, moss = await _garden(Tree, Moss)
            async with Plant.bulk() as bulk:
                bulk.write(tree, {"n": Inc(1)})
                bulk.unlink(moss)
            assert [(p.name, p.n) for p in await Plant.search()] == [("0", 1)]
        finally:
            await drop(app)


class Labels:
    """Adds a field to the classes with ``_labelled``, and one to a root that it doesn't own."""

    api = 1

    @staticmethod
    @hookimpl
    def model_attributes() -> list[Attribute]:
        def declare(declaration: Any) -> None:
            declaration.add_field("label", String(default="none"))

        return [Attribute("_labelled", type=bool, default=False, declare=declare)]

    @hookimpl
    def register_models(self) -> list[type[BaseModel]]:
        return [PlantOwner]


class PlantOwner(BaseModel):
    _inherit = "poly.plant"
    owner = String(index=True)


class Reef(BaseModel):
    _name = "poly.reef"
    _discriminator = "kind"
    _labelled = True


class Coral(Reef):
    _name = "poly.coral"


class Sponge(BaseModel):
    _name = "poly.sponge"
    _discriminator = "kind"


class Bath(Sponge):
    _name = "poly.bath"
    _labelled = True


@pytest.mark.parametrize(
    ("root", "model", "field"),
    [
        (Plant, Plant, "owner"),
        (Plant, Tree, "owner"),
        (Plant, Oak, "owner"),
        (Reef, Reef, "label"),
        (Reef, Coral, "label"),
        (Sponge, Bath, "label"),
    ],
)
async def test_what_plugins_add_is_read_as_it_was_written(
    root: Any, model: Any, field: str, database: str
) -> None:
    async with default_app("pymongo", database, [Labels()]) as app:
        try:
            values = {"name": "a"} if root is Plant else {}
            made = await model.create({field: "x", **values})
            for asked in {root, model}:
                assert (await asked.get(made.id)).to_dict() == made.to_dict()
                (found,) = await asked.search([(field, "=", "x")])
                assert getattr(found, field) == "x" and type(found) is type(made)
            assert await model.search().update({field: "y"}) == 1
            (found,) = await root.search()
            assert getattr(found, field) == "y"
            await found.write({field: "z"})
            assert getattr(await model.get(made.id), field) == getattr(found, field) == "z"
        finally:
            await drop(app)


@pytest.mark.usefixtures("forgotten")
async def test_an_extension_of_a_root_that_does_not_fit_a_subclass_stops_the_start() -> None:
    type("Cactus", (Plant,), {"_name": "poly.cactus", "owner": Int(), "__module__": __name__})
    with pytest.raises(PluginError, match=r"PlantOwner.*poly\.cactus\.owner"):
        await App("mongomock://", database="x", plugins=[Labels()]).start()
