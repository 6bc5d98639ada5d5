"""A limited principal links only what it can read, on every way, and learns nothing by trying."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    AddToSet,
    App,
    Command,
    Dict,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2many,
    Many2one,
    Max,
    NotFound,
    One2many,
    Principal,
    Push,
    Reference,
    Set,
    String,
    UpdateItems,
    ValidationError,
    act_as,
    models,
    system,
)
from earnorm.testing import count_queries
from earnorm_security import Access, Rule, SecurityPlugin


def mine(env: Any) -> list[Any]:
    return [("owner", "=", env.principal.id if env.principal else "-")]


class Place(EmbeddedModel):
    name = String()
    thing_id = Many2one("links.thing")
    thing_ids = List(Many2one("links.thing"))


class Thing(models.BaseModel):
    """Readable for its owner; anybody may create one."""

    _name = "links.thing"
    _parent_store = True
    _rules = [Rule("mine", mine, operations=["read", "write", "unlink"])]
    name = String()
    owner = String()
    secret = Int()
    parent_id = Many2one("links.thing", on_delete="set_null")
    holder_id = Many2one("links.holder")
    holder_ids = Many2many("links.holder")


class Holder(models.BaseModel):
    """Open to everybody, with links of every kind."""

    _name = "links.holder"
    code = String(unique=True, sparse=True)
    thing_id = Many2one(Thing)
    secret = Int(related="thing_id.secret", store=True)
    thing_ids = Many2many(Thing)
    listed = List(Many2one(Thing))
    as_set = Set(Many2one(Thing))
    by_key = Dict(Many2one(Thing))
    about = Reference(Thing, "links.open")
    abouts = List(Reference(Thing, "links.open"))
    place = Embedded(Place)
    places = List(Embedded(Place))
    given_ids = One2many(Thing, "holder_id")
    back_ids = Many2many(Thing, inverse="holder_ids")
    through_ids = Many2many(Thing, through="links.between")
    part_ids = One2many("links.piece", "holder_id")


class Part(models.BaseModel):
    _name = "links.piece"
    holder_id = Many2one(Holder)
    thing_id = Many2one(Thing)


class Between(models.BaseModel):
    _name = "links.between"
    holder_id = Many2one(Holder)
    thing_id = Many2one(Thing)


class Open(models.BaseModel):
    _name = "links.open"
    name = String()


class Closed(models.BaseModel):
    """Nobody but the system reads it."""

    _name = "links.closed"
    _access = [Access("nobody", read=True)]
    name = String()


class ToClosed(models.BaseModel):
    _name = "links.to_closed"
    closed_id = Many2one(Closed)
    open_id = Many2one(Open)


class Account(models.BaseModel):
    _name = "links.account"
    _inherits = {"links.thing": "base_id"}
    base_id = Many2one(Thing, required=True)
    login = String()


EVE = Principal("eve")
Way = Callable[[Any, Any], Awaitable[Any]]  # of the record, and the id to link


async def _bulk_create(holder: Any, pk: Any) -> None:
    async with Holder.bulk() as bulk:
        bulk.create({"thing_id": pk})


async def _bulk_write(holder: Any, pk: Any) -> None:
    async with Holder.bulk() as bulk:
        bulk.write(holder, {"thing_id": pk})


async def _save(holder: Any, pk: Any) -> None:
    holder.thing_id = pk
    await holder.save()


async def _save_list(holder: Any, pk: Any) -> None:
    holder.listed = [pk]
    await holder.save()


async def _save_inside(holder: Any, pk: Any) -> None:
    holder.place = Place(thing_id=pk)
    await holder.save()


async def _save_new(holder: Any, pk: Any) -> None:
    await Holder(thing_id=pk).save()


async def _move(holder: Any, pk: Any) -> None:
    (own,) = await Thing.search([("name", "=", "own")])
    await own.write({"parent_id": pk})


async def _in_transaction(holder: Any, pk: Any) -> None:
    async with earnorm.transaction():
        await holder.write({"thing_id": pk})


WAYS: dict[str, Way] = {
    "create": lambda h, pk: Holder.create({"thing_id": pk}),
    "create many": lambda h, pk: Holder.create_many([{"code": "n"}, {"thing_id": pk}]),
    "save of a new one": _save_new,
    "write": lambda h, pk: h.write({"thing_id": pk}),
    "write of several": lambda h, pk: Holder.browse([h.pk]).write({"thing_id": pk}),
    "write many": lambda h, pk: Holder.write_many({h.pk: {"thing_id": pk}}),
    "save": _save,
    "save of a list": _save_list,
    "save of an object": _save_inside,
    "update": lambda h, pk: Holder.search().update({"thing_id": pk}),
    "upsert of one that exists": lambda h, pk: Holder.upsert(
        {"code": "h", "thing_id": pk}, on="code"
    ),
    "upsert of a new one": lambda h, pk: Holder.upsert({"code": "x", "thing_id": pk}, on="code"),
    "upsert many": lambda h, pk: Holder.upsert_many([{"code": "h", "thing_id": pk}], on="code"),
    "bulk create": _bulk_create,
    "bulk write": _bulk_write,
    "in a transaction": _in_transaction,
    "larger of two ids": lambda h, pk: h.write({"thing_id": Max(pk)}),
    "whole list": lambda h, pk: h.write({"thing_ids": [pk]}),
    "list of a new one": lambda h, pk: Holder.create({"thing_ids": [pk]}),
    "command link": lambda h, pk: h.write({"thing_ids": [Command.link(pk)]}),
    "command set": lambda h, pk: h.write({"thing_ids": [Command.set([pk])]}),
    "push": lambda h, pk: h.write({"listed": Push(pk)}),
    "update that pushes": lambda h, pk: Holder.search().update({"listed": Push(pk)}),
    "add to set": lambda h, pk: h.write({"as_set": AddToSet(pk)}),
    "dict": lambda h, pk: h.write({"by_key": {"k": pk}}),
    "key of a dict": lambda h, pk: h.write({"by_key.k": pk}),
    "reference": lambda h, pk: h.write({"about": (Thing, pk)}),
    "references": lambda h, pk: h.write({"abouts": [(Thing, pk)]}),
    "reference of a new one": lambda h, pk: Holder.create({"about": f"links.thing,{pk}"}),
    "object": lambda h, pk: h.write({"place": {"thing_id": pk}}),
    "list in an object": lambda h, pk: h.write({"place": {"thing_ids": [pk]}}),
    "path into an object": lambda h, pk: h.write({"place.thing_id": pk}),
    "objects": lambda h, pk: h.write({"places": [{"name": "a"}, {"thing_id": pk}]}),
    "push of an object": lambda h, pk: h.write({"places": Push({"thing_id": pk})}),
    "position": lambda h, pk: h.write({"places.0.thing_id": pk}),
    "items": lambda h, pk: h.write({"places": UpdateItems([], {"thing_id": pk})}),
    "one2many": lambda h, pk: h.write({"given_ids": [Command.link(pk)]}),
    "one2many of a new one": lambda h, pk: Holder.create({"given_ids": [Command.link(pk)]}),
    "other side": lambda h, pk: h.write({"back_ids": [Command.link(pk)]}),
    "through": lambda h, pk: h.write({"through_ids": [Command.link(pk)]}),
    "through of a new one": lambda h, pk: Holder.create({"through_ids": [Command.link(pk)]}),
    "link record": lambda h, pk: Between.create({"holder_id": h.pk, "thing_id": pk}),
    "created with it": lambda h, pk: h.write({"part_ids": [Command.create({"thing_id": pk})]}),
    "created with a new one": lambda h, pk: Holder.create({"part_ids": [{"thing_id": pk}]}),
    "delegation": lambda h, pk: Account.create({"login": "a", "base_id": pk}),
    "parent of a new node": lambda h, pk: Thing.create({"owner": "eve", "parent_id": pk}),
    "parent": _move,
}


async def fill() -> tuple[Any, ObjectId, ObjectId]:
    """Store a holder and two things: one that Eve sees, and one that she doesn't."""
    with system(reason="test data"):
        for model in (Holder, Thing, Part, Between, Open, Account):
            await model.search().delete()
        own = await Thing.create({"name": "own", "owner": "eve", "secret": 1})
        seen = await Thing.create({"name": "seen", "owner": "eve", "secret": 2})
        hidden = await Thing.create({"name": "hidden", "owner": "ann", "secret": 12345})
        await hidden.write({"parent_id": own.pk})  # so that a move below it would be a circle
        holder = await Holder.create(
            {"code": "h", "place": {"name": "p"}, "places": [{"name": "q"}]}
        )
    return await Holder.get(holder.pk), seen.pk, hidden.pk


async def stored(app: App) -> dict[str, list[Any]]:
    raw = app.dangerous_raw("to look at what is stored")
    models = (Holder, Thing, Part, Between, Account)
    return {m._name: await raw[m._collection].find({}).sort("_id", 1).to_list() for m in models}


async def told(way: Way, holder: Any, pk: Any) -> tuple[Any, ...]:
    """Return what the caller hears, without the id that it gave."""
    try:
        await way(holder, pk)
    except (ValidationError, NotFound) as error:
        details = error.errors() if isinstance(error, ValidationError) else ()
        return type(error), str(error).replace(str(pk), "ID"), details
    return ("done",)


async def test_a_hidden_record_is_linked_no_more_than_a_missing_one(opened):
    wrong: list[Any] = []
    async with opened() as app:
        for name, way in WAYS.items():
            answers: list[Any] = []
            for which in ("hidden", "missing"):
                holder, _, hidden = await fill()
                before = await stored(app)
                with act_as(EVE):
                    answers.append(
                        await told(way, holder, hidden if which == "hidden" else ObjectId())
                    )
                if await stored(app) != before:
                    wrong.append((name, which, "stored"))
            if answers[0] != answers[1] or answers[0] == ("done",):
                wrong.append((name, *answers))
            holder, seen, _ = await fill()
            before = await stored(app)
            with act_as(EVE):
                await way(holder, seen)
            if await stored(app) == before:
                wrong.append((name, "not stored"))
    assert wrong == []


async def test_the_error_names_the_place_of_each_link(opened):
    async with opened():
        _, seen, hidden = await fill()
        rows = [
            {"thing_id": seen},
            {"thing_id": hidden, "places": [{}, {"thing_ids": [seen, hidden]}]},
        ]
        with act_as(EVE), pytest.raises(ValidationError) as refused:
            await Holder.create(rows)
        assert [(p["loc"], p["msg"], p["type"]) for p in refused.value.errors()] == [
            ((1, "thing_id"), "no such record", "no_such_record"),
            ((1, "places", 1, "thing_ids", 1), "no such record", "no_such_record"),
        ]
        with act_as(EVE), pytest.raises(ValidationError) as refused:
            await Holder.write_many({(await Holder.search())[0].pk: {"thing_id": hidden}})
        assert refused.value.errors()[0]["loc"] == (0, "thing_id")


async def test_who_may_read_nothing_of_a_model_links_none_of_it(opened):
    async with opened():
        with system(reason="test data"):
            closed = await Closed.create({"name": "c"})
        for pk in (closed.pk, ObjectId()):
            with pytest.raises(ValidationError, match=r"closed_id: no such record$"):
                await ToClosed.create({"closed_id": pk})


async def test_the_system_and_links_to_open_models_are_not_looked_for(opened):
    async with opened():
        _, _, hidden = await fill()
        with system(reason="test"):
            await Holder.create({"thing_id": ObjectId(), "about": (Thing, hidden)})
        await ToClosed.create({"open_id": ObjectId()})


async def test_a_link_that_the_records_have_already_may_stay(opened):
    async with opened():
        holder, seen, hidden = await fill()
        with system(reason="test data"):
            values = {"thing_id": hidden, "thing_ids": [hidden], "places": [{"thing_id": hidden}]}
            await holder.write({**values, "about": (Thing, hidden)})
        holder = await Holder.get(holder.pk)
        with act_as(EVE):
            await holder.write({"thing_id": hidden, "code": "other"})
            await holder.write({"thing_ids": [hidden, seen]})
            await holder.write({"places": [{"thing_id": hidden}, {"thing_id": seen}]})
            await holder.write({"about": (Thing, hidden)})
            await Holder.write_many({holder.pk: {"thing_id": hidden}})
            with pytest.raises(ValidationError, match=r"listed\.0: no such record"):
                await holder.write({"thing_id": hidden, "listed": [hidden]})
            other = await Holder.create({"code": "o"})
            with pytest.raises(ValidationError, match=r"1\.thing_id: no such record"):
                await Holder.write_many(
                    {holder.pk: {"thing_id": hidden}, other.pk: {"thing_id": hidden}}
                )
            with pytest.raises(ValidationError, match="thing_id: no such record"):
                await Holder.search().update({"thing_id": hidden})


@pytest.mark.parametrize("backend", ["server", "memory"])
async def test_what_is_created_along_may_be_linked_though_it_cannot_be_read(opened, backend):
    """Everybody may create a thing; who is not its owner reads it no more."""
    memory = App("mongomock://", database="links", plugins=[SecurityPlugin()])
    async with opened() if backend == "server" else memory:
        with act_as(EVE):
            made = await Holder.create({"thing_ids": [Command.create({"name": "n", "owner": "x"})]})
            assert len(made.to_dict()["thing_ids"]) == 1
            await Account.create({"login": "a", "name": "n", "owner": "x"})
            above = ObjectId()
            await Thing.create([{"_id": above, "owner": "x"}, {"owner": "x", "parent_id": above}])


async def test_defaults_are_the_programs(opened):
    hidden = ObjectId()

    class Defaulting(models.BaseModel):
        _name = "links.defaulting"
        thing_id = Many2one(Thing, default=lambda: hidden)
        thing_ids = Many2many(Thing, default=lambda: [hidden])

    async with opened():
        with act_as(EVE):
            made = await Defaulting.create({})
            with pytest.raises(ValidationError, match="thing_id: no such record"):
                await made.write({"thing_id": ObjectId()})
    earnorm.forget(Defaulting)


async def test_links_to_and_from_the_classes_of_a_family_are_checked(opened):
    class Animal(models.BaseModel):
        _name = "links.animal"
        _discriminator = "kind"
        kind = String(required=True)
        name = String()

    class Dog(Animal):
        _name = "links.dog"
        _kind = "dog"
        _rules = [Rule("mine", mine, operations=["read"])]
        owner = String()
        thing_id = Many2one(Thing)

    class Cage(models.BaseModel):
        _name = "links.cage"
        animal_id = Many2one(Animal)
        dog_id = Many2one(Dog)

    async with opened():
        _, seen, hidden = await fill()
        with system(reason="test data"):
            own, other = await Dog.create([{"owner": "eve"}, {"owner": "ann"}])
        with act_as(EVE):
            await Cage.create({"animal_id": own.pk, "dog_id": own.pk})
            for name in ("animal_id", "dog_id"):
                with pytest.raises(ValidationError, match="no such record"):
                    await Cage.create({name: other.pk})
            await own.write({"thing_id": seen})
            for way in (
                lambda: own.write({"thing_id": hidden}),
                lambda: Dog.create({"owner": "eve", "thing_id": hidden}),
                lambda: Dog.search().update({"thing_id": hidden}),
                lambda: Animal.write_many({own.pk: {"thing_id": hidden}}),
            ):
                with pytest.raises(ValidationError, match="no such record"):
                    await way()
    for model in (Cage, Dog, Animal):
        earnorm.forget(model)


async def test_one_search_finds_the_targets_of_an_operation(opened):
    async with opened():
        _, seen, _ = await fill()
        with act_as(EVE), count_queries() as counted:
            await Holder.create([{"thing_id": seen, "listed": [seen]} for _ in range(50)])
    # The targets, what the stored related field has of them, and the documents.
    assert [(call.kind, call.collection) for call in counted] == [
        ("find", "links_thing"),
        ("find", "links_thing"),
        ("insert", "links_holder"),
    ]
