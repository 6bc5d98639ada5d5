"""Embedded objects of several classes in one field, told apart by a discriminator."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Dict,
    Embedded,
    EmbeddedModel,
    Float,
    Int,
    List,
    Many2one,
    Push,
    String,
    ValidationError,
)


class Shape(EmbeddedModel):
    kind = String(db_name="k")
    name = String()


class Circle(Shape):
    radius = Float(required=True, db_name="r")


class Square(Shape):
    _kind = "box"
    side = Int(required=True)


class Drawing(BaseModel):
    _name = "kinds.drawing"

    main = Embedded(Shape, discriminator="kind")
    shapes = List(Embedded(Shape, discriminator="kind"), default=list)
    by_name = Dict(Embedded(Shape, discriminator="kind"))


class Plain(BaseModel):
    _name = "kinds.plain"

    main = Embedded(Shape)
    shapes = List(Embedded(Shape), default=list)


async def stored(app: App, record: BaseModel) -> Any:
    """Return the document as it is stored."""
    raw = app.dangerous_raw("the stored form is tested")[record._collection]
    return await raw.find_one({"_id": record.pk})


async def test_an_object_of_a_subclass_is_refused_without_a_discriminator(app: App) -> None:
    circle = Circle(radius=2.0)
    for values in ({"main": circle}, {"shapes": [circle]}):
        with pytest.raises(ValidationError, match="discriminator="):
            await Plain.create(values)
        record = await Plain.create({})
        with pytest.raises(ValidationError, match="discriminator="):
            await record.write(values)
    record.shapes.append(circle)  # type: ignore[union-attr] # it has a default
    with pytest.raises(ValidationError, match="discriminator="):
        await record.save()
    with pytest.raises(ValidationError, match="discriminator="):
        await Plain.search().update({"shapes": Push(circle)})


async def test_each_object_keeps_its_class(app: App) -> None:
    values: dict[str, Any] = {
        "main": Circle(radius=2.0),
        "shapes": [{"kind": "box", "side": 1}, Circle(radius=1.0, name="c"), {"name": "any"}],
        "by_name": {"a": Square(side=3), "b": {"kind": "circle", "radius": 4}},
    }
    created = await Drawing.create(values)
    assigned = Drawing()
    for name, value in values.items():
        setattr(assigned, name, value)
    await assigned.save()
    written = await Drawing.create({})
    await written.write(values)
    document = await stored(app, created)
    assert document["main"] == {"r": 2.0, "k": "circle"}
    assert [item["k"] for item in document["shapes"]] == ["box", "circle", "shape"]
    assert document["by_name"]["a"] == {"side": 3, "k": "box"}
    for record in (created, assigned, written):
        for name in values:
            assert (await stored(app, record))[name] == document[name]
        for same in (record, await Drawing.get(record.pk)):
            assert type(same.main) is Circle and same.main.radius == 2.0
            assert same.shapes is not None and same.by_name is not None
            assert list(map(type, same.shapes)) == [Square, Circle, Shape]
            assert type(same.by_name["a"]) is Square and same.by_name["b"].kind == "circle"
            assert not same.is_changed
    created.shapes.append(Circle(radius=3.0))  # type: ignore[union-attr] # it was given
    await created.save()
    await created.write({"shapes": Push(Square(side=4))})
    assert list(map(type, (await Drawing.get(created.pk)).shapes or ())) == [
        Square,
        Circle,
        Shape,
        Circle,
        Square,
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "triangle"},
        {"kind": "circle"},
        {"kind": "circle", "radius": 1, "side": 1},
        {"kind": "box", "radius": 1},
        {"kind": {"$ne": 1}},
        Circle(radius=1.0, kind="box"),
        Plain,
        7,
    ],
)
async def test_what_is_of_no_kind_is_refused(app: App, value: Any) -> None:
    for values in ({"main": value}, {"shapes": [value]}, {"by_name": {"a": value}}):
        with pytest.raises(ValidationError):
            await Drawing.create(values)
        record = Drawing()
        for name, given in values.items():
            setattr(record, name, given)
        with pytest.raises(ValidationError):
            await record.save()


async def test_the_fields_of_every_kind_are_searched_and_written_by_paths(server_app: App) -> None:
    round_one = await Drawing.create({"main": Circle(radius=2.0), "shapes": [Square(side=1)]})
    box = await Drawing.create({"main": Square(side=2), "shapes": [Circle(radius=5.0)]})
    assert (await Drawing.search([("main.radius", "=", 2)])).ids == [round_one.id]
    assert (await Drawing.search([("shapes.radius", ">", 4)])).ids == [box.id]
    assert (await Drawing.search(Drawing.main.kind == "box")).ids == [box.id]
    assert (await Drawing.search(Drawing.main.radius == 2.0)).ids == [round_one.id]
    assert [r.id for r in await Drawing.search(order="-main.radius")] == [round_one.id, box.id]
    await round_one.write({"main.radius": 3.0, "shapes.0.side": 7})
    assert (await stored(server_app, round_one))["main"]["r"] == 3.0
    with pytest.raises(ValidationError, match="does not have"):
        await box.write({"main.radius": 3.0})
    with pytest.raises(ValidationError, match="kind of an object does not change"):
        await box.write({"main.kind": "circle"})
    again = await Drawing.get(round_one.pk)
    assert isinstance(again.main, Circle)
    again.main.radius = 9.0
    await again.save()
    assert (await stored(server_app, again))["main"] == {"r": 9.0, "k": "circle"}
    again.main.kind = "box"
    with pytest.raises(ValidationError, match="of the kind circle"):
        await again.save()


async def test_a_document_of_an_unknown_kind_is_read_as_the_base_and_keeps_its_keys(
    app: App,
) -> None:
    raw = app.dangerous_raw("a document of another program")["kinds_drawing"]
    await raw.insert_one({"main": {"k": "star", "name": "s", "rays": 5}, "shapes": [{"name": "t"}]})
    record = (await Drawing.search())[0]
    assert type(record.main) is Shape and record.main.kind == "star"
    assert record.shapes is not None and type(record.shapes[0]) is Shape
    record.shapes[0].name = "u"
    await record.save()
    document = await raw.find_one({})
    assert document is not None and document["main"] == {"k": "star", "name": "s", "rays": 5}


async def test_the_server_checks_each_kind(server_app: App) -> None:
    class Checked(BaseModel):
        _name = "kinds.checked"
        _validation = "strict"

        main = Embedded(Shape, discriminator="kind")

    await server_app.bind(Checked).prepare()
    await Checked.create({"main": Circle(radius=1.0)})
    await Checked.create({"main": {"name": "x"}})
    await Checked.create({})
    raw = server_app.dangerous_raw("the server's own check is tested")["kinds_checked"]
    for wrong in ({"k": "circle"}, {"k": "star"}, {"k": "box", "side": "x"}):
        with pytest.raises(Exception, match="validation"):
            await raw.insert_one({"main": wrong})


def test_bodies_have_a_schema_of_each_kind() -> None:
    body = Drawing.pydantic_model(include=["main", "shapes"])
    taken: Any = body.model_validate({"main": {"kind": "circle", "radius": 1}, "shapes": []})
    assert taken.main.radius == 1.0
    shown: Any = body.model_validate(Drawing(main=Circle(radius=2.0), shapes=[Square(side=1)]))
    assert shown.main.radius == 2.0 and shown.shapes[0].side == 1
    schema = body.model_json_schema()
    assert {"Circle", "Square", "Shape"} <= {name[:6].rstrip() for name in schema["$defs"]} | {
        "Shape"
    }
    with pytest.raises(ValueError, match="star"):
        body.model_validate({"main": {"kind": "star"}})


def test_a_wrong_declaration_is_a_type_error() -> None:
    class Untold(EmbeddedModel):
        number = Int()

    for name in ("number", "nope"):
        with pytest.raises(TypeError, match="needs a String"):
            Embedded(Untold, discriminator=name)

    class Base(EmbeddedModel):
        kind = String()

    field = Embedded(Base, discriminator="kind")

    class Linked(Base):
        link = Many2one("kinds.drawing")

    with pytest.raises(TypeError, match="a relation goes with a field of Base"):
        field.fields_inside()
