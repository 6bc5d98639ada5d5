"""A value means the same on every way in, is validated once, and stays the caller's own."""

from __future__ import annotations

import copy
import datetime
import pickle
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Date,
    DateTime,
    Decimal,
    Dict,
    Duration,
    Embedded,
    EmbeddedModel,
    Int,
    Json,
    List,
    Many2many,
    Set,
    String,
    ValidationError,
    validates,
)


def hashed(text: str) -> str:
    """Change a value on each call, as the hash of a password does."""
    return f"#{text}"


class Secret(EmbeddedModel):
    word = String(validators=[hashed])
    note = String(db_name="n")
    tags = List(String(validators=[hashed]))
    waits = List(Duration())


class Line(EmbeddedModel):
    sku = String(required=True)
    note = String(db_name="n")
    fmt = String(default="dd")


class Thing(BaseModel):
    _name = "wayin.thing"

    name = String(required=True)
    word = String(validators=[hashed])
    checked = String()
    other = Int()
    secret = Embedded(Secret)
    secrets = List(Embedded(Secret))
    line = Embedded(Line)
    lines = List(Embedded(Line))
    wait = Duration()
    waits = List(Duration())
    day = Date()
    moment = DateTime()
    price = Decimal()
    tags = List(String())
    marks = Set(String())
    words = Dict(String())
    free = Json()
    friends = Many2many("wayin.thing")

    @validates("checked")
    def _check(self, value: str) -> str:
        return f"!{value}"


async def stored(app: App, thing: Thing) -> dict[str, Any]:
    """Return the document as it is stored."""
    raw = app.dangerous_raw("the stored form is tested")["wayin_thing"]
    document = await raw.find_one({"_id": thing.pk})
    assert document is not None
    return dict(document)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("line", {"sku": "a", "note": "b"}),
        ("lines", [{"sku": "a", "note": "b"}]),
        ("wait", 5),
        ("waits", [5, datetime.timedelta(1)]),
        ("day", "2024-05-01"),
        ("day", datetime.datetime(2024, 5, 1)),
        ("moment", "2024-05-01T10:00:00+02:00"),
        ("price", "1.50"),
        ("marks", ["b", "a", "b"]),
        ("other", "5"),
    ],
)
async def test_an_assigned_value_means_what_a_written_one_means(
    app: App, name: str, value: Any
) -> None:
    written = await Thing.create({"name": "written"})
    await written.write({name: value})
    assigned = await Thing.create({"name": "assigned"})
    setattr(assigned, name, value)
    shown = getattr(assigned, name)
    assert shown == getattr(written, name) and type(shown) is type(getattr(written, name))
    await assigned.save()
    new = Thing(name="new")
    setattr(new, name, value)
    await new.save()
    assert (await stored(app, assigned))[name] == (await stored(app, written))[name]
    assert (await stored(app, new))[name] == (await stored(app, written))[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("line", {"sku": "a", "nope": 1}),
        ("lines", [{"sku": "a"}, {}]),
        ("day", datetime.datetime(2024, 5, 1, 23, 30)),
        ("price", True),
        ("tags", ["a", 1]),
        ("tags", "a"),
        ("wait", "x"),
        ("name", None),
    ],
)
async def test_a_refused_value_is_kept_as_it_was_given_until_save_refuses_it(
    app: App, name: str, value: Any
) -> None:
    thing = await Thing.create({"name": "a"})
    for record in (thing, await Thing.get(thing.pk), Thing(name="new")):
        setattr(record, name, value)
        assert getattr(record, name) is value and record.is_changed
        for same in (copy.copy(record), pickle.loads(pickle.dumps(record))):
            with pytest.raises(ValidationError):
                await same.save()
        with pytest.raises(ValidationError) as refused:
            await record.save()
        assert {detail["loc"][0] for detail in refused.value.errors()} == {name}
        assert getattr(record, name) is value and record.is_changed
        setattr(record, name, getattr(Thing(name="a"), name))
        await record.save()
        assert not record.is_changed


async def test_all_refused_values_are_told_together(app: App) -> None:
    thing = await Thing.create({"name": "a"})
    for record in (thing, Thing(name="b")):
        record.day = "x"  # type: ignore[assignment] # that is the point
        record.price = "y"  # type: ignore[assignment] # that is the point
        with pytest.raises(ValidationError) as refused:
            await record.save()
        assert [detail["loc"][0] for detail in refused.value.errors()] == ["day", "price"]
    batch = [Thing(name="c"), {"name": 1}, thing]
    batch[0].wait = "x"  # type: ignore[union-attr, assignment] # that is the point
    with pytest.raises(ValidationError) as refused:
        await Thing.create(batch[:2])  # type: ignore[arg-type] # a list of both is accepted
    assert [detail["loc"] for detail in refused.value.errors()] == [(0, "wait"), (1, "name")]


async def test_what_is_handed_in_stays_the_callers(app: App) -> None:
    given: dict[str, Any] = {
        "tags": ["a"],
        "marks": {"a"},
        "words": {"k": "a"},
        "free": {"k": ["a"]},
        "lines": [{"sku": "a"}],
        "line": Line(sku="a"),
    }
    before = copy.deepcopy(given)
    thing = await Thing.create({"name": "a", "friends": []})
    for record in (thing, Thing(name="b"), Thing(name="c", **given)):
        for name, value in given.items():
            if not record.tags or name != "tags":
                setattr(record, name, value)
            assert getattr(record, name) is not value
        record.tags = given["tags"]
        assert record.tags is not None and record.words is not None and record.line is not None
        assert record.marks is not None and record.lines is not None
        record.tags.append("b")
        record.marks.add("b")
        record.words["l"] = "b"
        record.free["k"].append("b")
        record.lines[0].sku = "b"
        record.line.sku = "b"
        await record.save()
        assert given == before
        again = await Thing.get(record.pk)
        assert again.tags == ["a", "b"] and again.line == Line(sku="b")
        assert again.lines == [Line(sku="b")] and again.free == {"k": ["a", "b"]}
    friends = [thing]
    record = Thing(name="d")
    record.friends = friends
    record.friends = iter(friends)
    friends.clear()
    await record.save()
    assert (await stored(app, record))["friends"] == [thing.pk]


async def test_the_object_that_a_field_gave_stays_the_fields_own(app: App) -> None:
    thing = await Thing.create({"name": "a", "tags": ["a"], "line": {"sku": "a"}})
    for record in (
        thing,
        await Thing.get(thing.pk),
        Thing(name="b", tags=["a"], line={"sku": "a"}),
    ):
        tags, line = record.tags, record.line
        assert tags is not None and line is not None
        tags.append("b")
        line.sku = "b"
        record.tags, record.line = tags, line
        assert record.tags is tags and record.line is line
        await record.save()
        assert (await stored(app, record))["tags"] == ["a", "b"]
        assert (await stored(app, record))["line"]["sku"] == "b"
    thing.tags = thing.tags
    thing.tags.append(1)  # type: ignore[arg-type] # that is the point
    with pytest.raises(ValidationError):
        await thing.save()


async def test_a_value_is_validated_once(app: App) -> None:
    new = Thing(name="a", word="x", checked="x", secret={"word": "x"}, secrets=[{"word": "x"}])
    new.other = 1
    await new.save()
    expected = {"word": "#x", "checked": "!x"}
    assert expected.items() <= (await stored(app, new)).items()

    given = Secret(word="x", tags=["t"])
    assigned = Thing(name="a")
    assigned.word = assigned.checked = "x"
    assigned.secret = given
    assigned.secrets = [given]
    await assigned.save({"other": 1})
    for record in (new, assigned):
        document = await stored(app, record)
        assert expected.items() <= document.items()
        assert document["secret"]["word"] == document["secrets"][0]["word"] == "#x"
    assert (await stored(app, assigned))["secret"]["tags"] == ["#t"]

    known = await Thing.get(new.pk)
    known.word = known.checked = "y"
    known.secret = given
    await known.save({"other": 2})
    known.other, known.name = 3, "b"
    await known.save()
    document = await stored(app, known)
    assert {"word": "#y", "checked": "!y", "other": 3}.items() <= document.items()
    assert document["secret"]["word"] == "#x"

    other = await Thing.create({"name": "b", "secret": known.secret})
    await other.write({"secrets": [known.secret, other.secret]})
    document = await stored(app, other)
    assert document["secret"]["word"] == document["secrets"][1]["word"] == "#x"
    assert other.secrets is not None
    other.secrets[0].word = "z"
    other.secrets[0].waits = [1]  # type: ignore[list-item] # seconds
    waits = other.secrets[0].waits
    assert waits == [datetime.timedelta(seconds=1)]
    waits.append(2)  # type: ignore[arg-type] # seconds
    other.secrets[1].note = "n"
    await other.save()
    document = await stored(app, other)
    assert [secret["word"] for secret in document["secrets"]] == ["#z", "#x"]
    assert document["secrets"][0]["waits"] == [1000, 2000]


async def test_a_default_is_converted_like_a_value_that_is_handed_in(app: App) -> None:
    class Cal(EmbeddedModel):
        fmt = String(default="dd")
        until = Date(default="2024-05-01")

    class Old(BaseModel):
        _name = "wayin.old"

        name = String()
        a = Embedded(Cal, default=dict)
        b = Embedded(Cal, default=Cal)
        c = Embedded(Cal, default={"fmt": "x"})
        lines = List(Embedded(Cal), default=lambda: [{"fmt": "y"}])
        price = Decimal(default="1.50")
        wait = Duration(default=5)
        shared = List(Duration(), default=[1])
        checked = String(default="v")

        @validates("checked")
        def _check(self, value: str) -> str:
            return value.upper()

    raw = app.dangerous_raw("a document of an older program")["wayin_old"]
    await raw.insert_one({"name": "old"})
    await raw.insert_one({"name": "old", "a": {}, "lines": [{}]})
    names = [name for name in Old._fields if name not in ("_id", "name", "lines")]
    new = await Old.create({"name": "new"})
    for record in (Old(name="new"), new, *await Old.search([("name", "=", "old")])):
        assert record.a is not None and record.a.fmt == "dd"
        for name in names[1:]:
            assert getattr(record, name) == getattr(new, name)
            assert type(getattr(record, name)) is type(getattr(new, name))
        assert record.a is not None and record.lines is not None and record.shared is not None
        assert record.a.until == record.lines[0].until == datetime.date(2024, 5, 1)
        assert record.lines[0].fmt in ("y", "dd") and record.checked == "V"
        assert record.wait == datetime.timedelta(seconds=5)
        assert not record.is_stored or not record.is_changed
        if record is not new:
            record.shared.append(datetime.timedelta(2))
            assert record.is_changed
