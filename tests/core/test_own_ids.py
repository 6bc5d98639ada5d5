"""Models with ids of their own kind: every way that names a record takes the id in all its forms."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from earnorm import (
    UUID,
    App,
    BaseModel,
    Date,
    DateTime,
    Embedded,
    EmbeddedModel,
    Enum,
    Float,
    Int,
    List,
    Many2many,
    Many2one,
    NotFound,
    ObjectIdField,
    One2many,
    Reference,
    Slug,
    String,
    ValidationError,
    fields,
)


class Grade(enum.StrEnum):
    A = "a"
    B = "b"


# For each kind of an id: its field, two ids as they are given, and as they are read.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "oid": (ObjectIdField(), "65a000000000000000000001", "65a000000000000000000002"),
    "text": (String(), "65a000000000000000000001", "x"),
    "slug": (Slug(), "one", "two"),
    "int": (Int(), 84, 2**40),
    "float": (Float(), 0.5, 2.0),
    "uuid": (UUID(), uuid.UUID(int=1), str(uuid.UUID(int=2))),
    "date": (Date(), datetime.date(2024, 1, 2), "2024-01-03"),
    "datetime": (DateTime(), datetime.datetime(2024, 1, 2, 3, 4, 5, 6000), "2024-01-03T00:00:00Z"),
    "enum": (Enum(Grade), Grade.A, "b"),
}


def models_of(kind: str) -> tuple[Any, Any]:
    """Make a model with ids of a kind, and one that points at it in every way."""
    field = KINDS[kind][0]
    target = type(
        f"Own{kind}",
        (BaseModel,),
        {
            "__module__": __name__,
            "_name": f"ownid.{kind}",
            "_id": field,
            "name": String(),
            "parent_id": Many2one(f"ownid.{kind}"),
            "child_ids": One2many(f"ownid.{kind}", "parent_id"),
        },
    )
    inside = type(
        f"In{kind}",
        (EmbeddedModel,),
        {"__module__": __name__, "one": Many2one(f"ownid.{kind}")},
    )
    pointing = type(
        f"Pointing{kind}",
        (BaseModel,),
        {
            "__module__": __name__,
            "_name": f"ownid.to.{kind}",
            "one": Many2one(f"ownid.{kind}", on_delete="restrict"),
            "many": Many2many(f"ownid.{kind}"),
            "any": Reference(f"ownid.{kind}"),
            "listed": List(Many2one(f"ownid.{kind}")),
            "inner": Embedded(inside),
            "inners": List(Embedded(inside)),
        },
    )
    return target, pointing


MODELS = {kind: models_of(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_record_is_found_by_its_id_in_every_form(server_app: App, kind: str) -> None:
    target, _ = MODELS[kind]
    _, first, second = KINDS[kind]
    one = await target.create({"_id": first, "name": "one", "parent_id": None})
    two = await target.create({"_id": second, "name": "two", "parent_id": one.id})
    assert isinstance(one.id, str) and one != two
    for record in (one, two):
        for form in (record.id, record.pk, record._id, first if record is one else second):
            got = await target.get(form)
            assert got == record and got.pk == record.pk and got.id == record.id
            assert isinstance(got._id, type(record._id)) and got._id == record._id
            assert await target.search([("id", "=", form)]).count() == 1
            assert await target.search([("id", "in", [form])]).count() == 1
            assert await target.search([("id", "child_of", form)]).exists()
            assert target.browse([form])[0] == record
            assert await target.write_many({form: {"name": f"n{record.id}"}}) == 1
        assert await record.refresh() is record and record.name == f"n{record.id}"
        assert {record: 1}[await target.get(record.pk)] == 1
    assert await target.search([("parent_id", "=", one.id)]).count() == 1
    assert await target.search([("parent_id.name", "=", one.name)]).count() == 1
    assert await target.search([("id", "child_of", one.id)]).count() == 2
    await one.child_ids
    assert [child.id for child in one.child_ids] == [two.id]
    found, created = await target.upsert({"id": two.id, "name": "again"}, on="id")
    assert found == two and not created
    with pytest.raises(NotFound):
        await target.get("no id of this kind")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_link_takes_an_id_in_every_form(server_app: App, kind: str) -> None:
    target, pointing = MODELS[kind]
    _, first, _ = KINDS[kind]
    one = await target.create({"_id": first, "name": "one"})
    raw = server_app.dangerous_raw("the stored form is tested")[pointing._collection]
    for form in (one, one.id, one.pk, one._id, first):
        name = f"ownid.{kind}"
        values = {
            "one": form,
            "many": [form],
            "any": form if form is one else (name, form),
            "listed": [form],
            "inner": {"one": form},
            "inners": [{"one": form}],
        }
        created = await pointing.create(values)
        assigned = pointing()
        for field, value in values.items():
            setattr(assigned, field, value)
        await assigned.save()
        written = await pointing.create({})
        await written.write(values)
        for record in (created, assigned, written):
            document = await raw.find_one({"_id": record.pk})
            assert document["one"] == one.pk == document["many"][0] == document["listed"][0]
            assert document["any"] == {"model": name, "id": one.pk}
            assert document["inner"]["one"] == document["inners"][0]["one"] == one.pk
            assert {type(document["one"]), type(document["any"]["id"])} == {type(one.pk)}
            again = await pointing.get(record.pk)
            assert (await again.one) == one and again.one.name == "one"
            assert (await again.any).name == "one" and (await again.inner.one).name == "one"
            assert [each.name for each in await again.many] == ["one"]
        for path in ("one", "many", "listed", "inner.one", "inners.one", "any.id"):
            if form is not one or path != "any.id":
                assert await pointing.search([(path, "=", form)]).count(), path
        found = await pointing.search([("one.name", "=", "one")], prefetch=["one", "many", "any"])
        assert found[0].one.name == found[0].many[0].name == found[0].any.name == "one"
    with pytest.raises(ValidationError, match=r"one|still points"):
        await one.unlink()


@pytest.mark.parametrize("value", [True, [1], 1.5, object()])
@pytest.mark.parametrize("kind", ["oid", "text", "int", "uuid", "date"])
async def test_what_is_no_id_of_the_model_is_refused(
    server_app: App, kind: str, value: Any
) -> None:
    _, pointing = MODELS[kind]
    if kind == "date" and value == 1.5:
        return  # pydantic reads a number as seconds
    for values in (
        {"one": value},
        {"many": [value]},
        {"listed": [value]},
        {"inner": {"one": value}},
    ):
        with pytest.raises(ValidationError):
            pointing(**values)
        record = pointing()
        for name, given in values.items():
            setattr(record, name, given)
        with pytest.raises(ValidationError):
            await record.save()


async def test_a_relation_to_a_model_that_is_defined_later_takes_its_ids(server_app: App) -> None:
    later = f"ownid.late_{uuid.uuid4().hex}"  # no earlier run has defined it

    class Early(BaseModel):
        _name = "ownid.early"

        late = Many2one(later)
        lates = List(Many2one(later))

    early = Early()
    early.late = "7"  # type: ignore[assignment] # an id
    with pytest.raises(ValidationError, match="no class defines the model"):
        await early.save()

    class Late(BaseModel):
        _name = later

        _id = Int()

    late = await Late.create({"_id": 7})
    await early.save()
    assert (await Early.get(early.pk)).late == late
    assert await Early.search([("late", "=", "7")]).count() == 1


# -- a field named id inside an embedded object ---------------------------------------------------


async def test_a_field_named_id_inside_an_embedded_object_is_an_ordinary_field(app: App) -> None:
    class Numbered(EmbeddedModel):
        id = String()
        pk = Int()

    class Order(BaseModel):
        _name = "ownid.order"

        main = Embedded(Numbered)
        lines = List(Embedded(Numbered))

    order = await Order.create({"main": {"id": "A"}, "lines": [{"id": "L", "pk": 1}]})
    await order.write({"main.id": "B", "main.pk": 2, "lines.0.id": "M"})
    again = await Order.get(order.pk)
    assert again.main == Numbered(id="B", pk=2) and again.lines == [Numbered(id="M", pk=1)]
    assert await Order.search((Order.main.id == "B") & (Order.lines.id == "M")).count() == 1
    again.main.id = "C"
    again.lines[0].id = "N"
    await again.save()
    assert await Order.search([("main.id", "=", "C"), ("lines.id", "=", "N")]).count() == 1
    with pytest.raises(ValidationError) as refused:
        Numbered(id=1, nope=1)  # type: ignore[arg-type] # that is the point
    assert {detail["loc"] for detail in refused.value.errors()} == {("id",), ("nope",)}


@pytest.mark.parametrize(
    "make",
    [
        *(fields.Decimal, fields.Money, fields.Json, lambda: fields.List(fields.Int())),
        *(lambda: fields.Set(fields.Int()), lambda: fields.Dict(fields.Int())),
        *(lambda: fields.Vector(3), fields.Reference, fields.Point),
    ],
)
def test_a_kind_whose_stored_form_has_no_hash_is_no_id(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"Wrong\._id: the id of a record cannot be of kind"):
        type("Wrong", (BaseModel,), {"_id": make(), "__module__": __name__})
