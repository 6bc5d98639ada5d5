"""on_delete: what a deletion means for the records that point at what is deleted, whichever way it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    Embedded,
    EmbeddedModel,
    Layer,
    List,
    Many2many,
    Many2one,
    Principal,
    Reference,
    Set,
    String,
    ValidationError,
    hookimpl,
)
from earnorm.features.on_delete import plugin as on_delete
from earnorm.kernel import registry

from .conftest import Commands, default_app


class Customer(BaseModel):
    _name = "del.customer"

    name = String()


class Label(BaseModel):
    _name = "del.label"

    name = String()


class Sale(BaseModel):
    _name = "del.sale"

    title = String()
    customer_id = Many2one(Customer, on_delete="cascade")
    label_ids = Many2many(Label, on_delete="set_null")
    origin_id = Many2one("del.sale", on_delete="cascade")


class SaleLine(BaseModel):
    _name = "del.sale.line"

    sale_id = Many2one(Sale, required=True, on_delete="cascade")
    label_id = Many2one(Label, on_delete="set_null")


class Invoice(BaseModel):
    _name = "del.invoice"

    sale_id = Many2one(Sale, on_delete="restrict")
    customer_id = Many2one(Customer, on_delete="cascade")
    about = Reference(Label, Customer, on_delete="set_null")


class Mark(EmbeddedModel):
    label_id = Many2one(Label, on_delete="set_null")
    note = String()


class Album(BaseModel):
    _name = "del.album"

    cover = Embedded(Mark)
    marks = List(Embedded(Mark), default=list)
    loose_ids = Many2many(Label)


async def counts() -> list[int]:
    return [await model.count() for model in (Customer, Sale, SaleLine, Invoice)]


async def sales() -> tuple[Any, Any, Any]:
    ann, bob = await Customer.create([{"name": "Ann"}, {"name": "Bob"}])
    label = await Label.create({"name": "l"})
    one, two, three = await Sale.create(
        [{"title": str(n), "customer_id": c} for n, c in enumerate((ann, ann, bob))]
    )
    await SaleLine.create(
        [{"sale_id": sale, "label_id": label} for sale in (one, two, three) for _ in range(2)]
    )
    return ann, label, (one, two, three)


Way = Callable[[BaseModel], Awaitable[int]]
WAYS: dict[str, Way] = {
    "record": lambda record: record.unlink(),
    "recordset": lambda record: type(record).browse([record.id]).unlink(),
    "query": lambda record: type(record).search([("id", "=", record.id)]).delete(),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_cascade_deletes_to_the_end(app: App, way: str) -> None:
    ann, _, (one, _, three) = await sales()
    copy = await Sale.create({"title": "copy", "origin_id": one})
    await SaleLine.create({"sale_id": copy})
    assert await WAYS[way](ann) == 1
    assert await counts() == [1, 1, 2, 0]
    assert (await Sale.search()).ids == [three.id]


@pytest.mark.parametrize("way", WAYS)
async def test_a_restriction_anywhere_stops_all_of_it(app: App, way: str) -> None:
    ann, _, (one, *_) = await sales()
    await Invoice.create({"sale_id": one})
    before = await counts()
    with pytest.raises(ValidationError, match=r"del.invoice.sale_id still points at it") as caught:
        await WAYS[way](ann)
    assert caught.value.errors()[0]["type"] == "restricted"
    assert await counts() == before


async def test_what_is_deleted_too_restricts_nothing(app: App) -> None:
    ann, _, (one, *_) = await sales()
    await Invoice.create({"sale_id": one, "customer_id": ann})
    await ann.unlink()
    assert await counts() == [1, 1, 2, 0]


async def test_set_null_empties_fields_lists_and_references(app: App) -> None:
    _, label, (one, *_) = await sales()
    other = await Label.create({"name": "other"})
    await one.write({"label_ids": [other, label]})
    bill = await Invoice.create({"about": label})
    kept = await Invoice.create({"about": other})
    await label.unlink()
    assert (await Sale.get(one.id)).label_ids.ids == [other.id]
    assert await SaleLine.search([("label_id", "!=", None)]).count() == 0
    assert (await Invoice.get(bill.id)).about is None
    assert (await Invoice.get(kept.id)).about == other


async def test_set_null_reaches_into_embedded_objects(app: App) -> None:
    gone, kept = await Label.create([{"name": "g"}, {"name": "k"}])
    album = await Album.create(
        {
            "cover": Mark(label_id=gone, note="c"),
            "marks": [{"label_id": gone, "note": "1"}, {"label_id": kept, "note": "2"}],
            "loose_ids": [gone],
        }
    )
    await gone.unlink()
    album = await Album.get(album.id)
    assert album.cover is not None and album.cover.label_id is None and album.cover.note == "c"
    assert [mark.label_id for mark in album.marks] == [None, kept]
    assert [mark.note for mark in album.marks] == ["1", "2"]
    assert album.loose_ids.ids == [gone.id]  # nothing was said, so nothing happens


async def test_records_that_point_at_each_other_are_deleted_together(app: App) -> None:
    one, two = await Sale.create([{"title": "1"}, {"title": "2"}])
    await one.write({"origin_id": two})
    await two.write({"origin_id": one})
    assert await one.unlink() == 1
    assert await Sale.count() == 0


async def test_it_is_one_transaction_and_a_query_per_pointer_and_level(commands: Commands) -> None:
    ann, _, _ = await sales()
    commands.clear()
    await ann.unlink()
    deletes = [command["delete"] for command in commands.named("delete")]
    assert deletes == ["del_sale_line", "del_sale", "del_customer"]
    assert len(commands.named("commitTransaction")) == 1
    assert len({str(c["lsid"]) for _, c in commands.all if "txnNumber" in c}) == 1
    finds = [command["find"] for command in commands.named("find")]
    assert (
        len(finds) == len(set(finds)) + finds.count("del_sale") - 1 + finds.count("del_invoice") - 1
    )


async def test_a_failing_cascade_leaves_everything(database: str) -> None:
    class Refusing:
        api = 1
        name = "refusing"

        @hookimpl
        def wrap_operation(self, app: App, model: type[BaseModel], operation: str) -> Any:
            async def refuse(op: Any, call_next: Any) -> Any:
                raise RuntimeError("no")

            return (
                [(Layer.DEFAULT, refuse)]
                if (model._name, operation) == ("del.sale", "unlink")
                else ()
            )

    for kind in ("pymongo", "motor"):
        async with default_app(kind, database, [Refusing()]):
            ann, _, _ = await sales()
            with pytest.raises(RuntimeError):
                await ann.unlink()
            assert await counts() == [2, 3, 6, 0]


async def test_it_joins_a_transaction(server_app: App) -> None:
    ann, _, _ = await sales()
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction():
            await ann.unlink()
            assert await counts() == [1, 1, 2, 0]
            raise ZeroDivisionError
    assert await counts() == [2, 3, 6, 0]


class WatchingPlugin:
    """Notes who does what, and hides sales from everybody but the system."""

    api = 1
    name = "noting"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool, str]] = []

    @hookimpl
    def wrap_operation(self, app: App, model: type[BaseModel], operation: str) -> Any:
        async def note(op: Any, call_next: Any) -> Any:
            self.seen.append((operation, model._name, op.env.system, op.env.reason))
            if model is Sale and not op.env.system:
                op = op.replace(domain=op.domain & (Sale.title == "visible"))
            return await call_next(op)

        return [(Layer.SECURITY, note)] if model._name.startswith("del.") else ()


async def test_consequences_are_the_systems_and_every_layer_sees_them(database: str) -> None:
    plugin = WatchingPlugin()
    async with default_app("memory", database, [plugin]):
        ann, _, _ = await sales()
        plugin.seen.clear()
        with earnorm.act_as(Principal("eve")):
            await ann.unlink()
        deleted = [seen for seen in plugin.seen if seen[0] == "unlink"]
        assert deleted[0] == ("unlink", "del.customer", False, "")
        assert deleted[1:] == [
            ("unlink", "del.sale.line", True, "on_delete: del.customer is deleted"),
            ("unlink", "del.sale", True, "on_delete: del.customer is deleted"),
        ]
        with earnorm.system(reason="look"):
            assert await counts() == [1, 1, 2, 0]


async def test_what_may_not_be_deleted_has_no_consequences(database: str) -> None:
    async with default_app("memory", database, [WatchingPlugin()]):
        _, _, (one, *_) = await sales()
        with earnorm.act_as(Principal("eve")):
            assert await one.unlink() == 0
        assert await SaleLine.count() == 6


async def test_a_model_that_is_defined_later_counts(app: App) -> None:
    ann = await Customer.create({"name": "x"})
    bob = await Customer.create({"name": "y"})
    await ann.unlink()
    before = dict(registry.definitions())
    try:

        class Later(BaseModel):
            _name = "del.later"

            customer_id = Many2one(Customer, on_delete="restrict")

        await Later.create({"customer_id": bob})
        with pytest.raises(ValidationError, match=r"del.later.customer_id"):
            await bob.unlink()
    finally:
        for name in registry.definitions().keys() - before.keys():
            registry._definitions.pop(name)
        registry._version += 1


async def test_a_model_that_nobody_points_at_pays_nothing(commands: Commands) -> None:
    line = await SaleLine.create({"sale_id": await Sale.create({"title": "x"})})
    album = await Album.create({})
    commands.clear()
    await album.unlink()
    assert [name for name, _ in commands.all] == ["delete"]
    assert line.id


def test_a_declaration_that_contradicts_itself_is_refused() -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: Many2one(Label, required=True, on_delete="set_null"),
        lambda: Many2one(Label, on_delete="explode"),  # type: ignore[arg-type] # that is the point
        lambda: Many2many(Label, on_delete="cascade"),
        lambda: Many2many(Label, inverse="x", on_delete="restrict"),
    ]
    for each in wrong:
        with pytest.raises(TypeError):
            each()
    assert Sale.customer_id.index and not Many2one(Label, on_delete="restrict", index=False).index
    assert not Many2one(Label).index


def test_elements_are_emptied_at_any_depth() -> None:
    value = [{"a": [{"b": 1}, {"b": 2}]}, {"a": None}, {}]
    assert on_delete._without_references(value, ["a", "b"], [1]) == [
        {"a": [{"b": None}, {"b": 2}]},
        {"a": None},
        {},
    ]


# -- inside other fields --------------------------------------------------------------------------


class Ware(BaseModel):
    _name = "del.ware"

    name = String()


class Piece(EmbeddedModel):
    ware_id = Many2one(Ware, on_delete="restrict", db_name="w")


class FreePiece(EmbeddedModel):
    ware_id = Many2one(Ware, on_delete="set_null", db_name="w")
    ware_ids = List(Many2one(Ware, on_delete="set_null"), db_name="ws")
    note = String()


class OwnedPiece(EmbeddedModel):
    ware_id = Many2one(Ware, on_delete="cascade", db_name="w")


class Crate(BaseModel):
    _name = "del.crate"

    one = Embedded(Piece, db_name="o")
    lines = List(Embedded(Piece))
    ids = List(Many2one(Ware, on_delete="restrict"), db_name="i")
    refs = List(Reference(Ware, on_delete="restrict"))
    unique = Set(Many2one(Ware, on_delete="restrict"))
    free_ids = List(Many2one(Ware, on_delete="set_null"), db_name="f")
    free_refs = List(Reference(Ware, on_delete="set_null"))
    free_set = Set(Many2one(Ware, on_delete="set_null"))
    free = Embedded(FreePiece)
    free_lines = List(Embedded(FreePiece), db_name="fl")
    owner = Embedded(OwnedPiece)


HELD: dict[str, Callable[[Any], Any]] = {
    "one": lambda ware: {"ware_id": ware},
    "lines": lambda ware: [{"ware_id": ware}],
    "ids": lambda ware: [ware],
    "refs": lambda ware: [ware],
    "unique": lambda ware: {ware.pk},
}


@pytest.mark.parametrize("place", HELD)
async def test_a_link_inside_another_field_restricts(app: App, place: str) -> None:
    ware = await Ware.create({"name": "w"})
    crate = await Crate.create({place: HELD[place](ware)})
    with pytest.raises(ValidationError, match=rf"del.crate.{place}"):
        await ware.unlink()
    await crate.unlink()
    assert await ware.unlink() == 1


FREED: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "free_ids": (lambda a, b: [a, b, a], lambda a, b: [b.pk]),
    "free_refs": (lambda a, b: [b, a], lambda a, b: [{"model": "del.ware", "id": b.pk}]),
    "free_set": (lambda a, b: {a.pk, b.pk}, lambda a, b: [b.pk]),
    "free": (
        lambda a, b: {"ware_id": a, "ware_ids": [a, b], "note": "n"},
        lambda a, b: {"w": None, "ws": [b.pk], "note": "n"},
    ),
    "free_lines": (
        lambda a, b: [{"ware_id": b}, {"ware_id": a, "ware_ids": [b, a]}, {"note": "n"}],
        lambda a, b: [{"w": b.pk}, {"w": None, "ws": [b.pk]}, {"note": "n"}],
    ),
}


@pytest.mark.parametrize("place", FREED)
async def test_a_link_inside_another_field_is_taken_out(server_app: App, place: str) -> None:
    gone, kept = await Ware.create([{"name": "g"}, {"name": "k"}])
    given, left = FREED[place]
    crate, other = await Crate.create([{place: given(gone, kept)}, {}])
    raw = server_app.dangerous_raw("the stored form")["del_crate"]
    await gone.unlink()
    stored = await raw.find_one({"_id": crate.pk})
    assert stored[Crate._fields[place].db_name] == left(gone, kept)
    assert set((await raw.find_one({"_id": other.pk})).values()) <= {other.pk, None}
    assert await Ware.count() == 1


async def test_a_cascade_begins_inside_an_embedded_object(app: App) -> None:
    ware, other = await Ware.create([{"name": "w"}, {"name": "o"}])
    await Crate.create({"owner": {"ware_id": ware}})
    kept = await Crate.create({"owner": {"ware_id": other}})
    await ware.unlink()
    assert (await Crate.search()).ids == [kept.id]


async def test_each_link_inside_another_field_has_an_index(server_app: App) -> None:
    await Crate.count()
    indexes = await server_app.dangerous_raw("a look")["del_crate"].index_information()
    keys = {index["key"][0][0] for index in indexes.values()}
    assert keys == {
        *("_id", "o.w", "lines.w", "i", "refs", "unique", "f", "free_refs", "free_set"),
        *("free.w", "free.ws", "fl.w", "fl.ws", "owner.w"),
    }
