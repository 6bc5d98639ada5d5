"""A model that plugins extend: in the Apps that selected them, in both at once, and what may not clash."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    DomainError,
    Email,
    Index,
    Int,
    List,
    Many2one,
    One2many,
    PluginError,
    String,
    ValidationError,
    constrains,
    hookimpl,
    validates,
)

from .conftest import drop


class Person(BaseModel):
    _name = "ext.person"
    _indexes = [{"name": 1}]

    name = String(required=True)
    city = String()
    tags = List(String(), default=list)
    note_ids = One2many("ext.note", "person_id")

    def label(self) -> str:
        return self.name

    @validates("name")
    def clean(self, value: str) -> str:
        return value.strip()


class Note(BaseModel):
    _name = "ext.note"

    text = String(required=True)
    person_id = Many2one(Person)


class PersonPhone(Person):
    """A typed view as well: it names the model that it extends as its base."""

    _inherit = "ext.person"
    _indexes = [Index("phone", unique=True, sparse=True)]

    phone = String()
    boss_id = Many2one(Person)

    def label(self) -> str:
        return f"{super().label()} ({self.phone})"

    def clean(self, value: str) -> str:
        return super().clean(value).title()

    @constrains("phone")
    def has_digits(self) -> None:
        if self.phone is not None and not self.phone.isdigit():
            raise ValueError("digits only")


class PersonAge(BaseModel):
    _inherit = "ext.person"

    age = Int(default=0)
    city = String(required=True, default="Huế")

    def label(self) -> str:
        return f"{super().label()}, {self.age}"  # type: ignore[misc] # of the model


def bringing(name: str, *models: type[BaseModel]) -> Any:
    class Brings:
        api = 1

        @hookimpl
        def register_models(self) -> Sequence[type[BaseModel]]:
            return models

    Brings.name = name  # type: ignore[attr-defined]
    return Brings()


PHONE = bringing("phone", PersonPhone)
AGE = bringing("age", PersonAge)


@asynccontextmanager
async def opened(mongo_uri: str, database: str, *plugins: object) -> AsyncIterator[App]:
    async with App(mongo_uri, database=database, plugins=plugins) as app:
        try:
            yield app
        finally:
            await drop(app)


async def test_two_selections_at_once_each_see_their_own_model(
    mongo_uri: str, database: str
) -> None:
    async with (
        opened(mongo_uri, f"{database}a", PHONE, AGE) as both,
        opened(mongo_uri, f"{database}b", AGE) as age,
        opened(mongo_uri, f"{database}c") as plain,
    ):

        async def use(app: App, names: set[str], label: str, **values: Any) -> None:
            with app.activate():
                await asyncio.sleep(0)
                created = await Person.create({"name": " ann lee ", **values})
                found = (await Person.search([("name", "ilike", "ann")])).ensure_one()
                assert isinstance(found, Person) and type(found) is type(created)
                assert created.label() == found.label() == label
                assert set(found._fields) - set(Person._fields) == names
                assert isinstance(found, PersonPhone) is ("phone" in names)

        await asyncio.gather(
            use(both, {"phone", "boss_id", "age"}, "Ann Lee, 3 (12)", phone="12", age=3),
            use(age, {"age"}, "ann lee, 7", age=7),
            use(plain, set(), "ann lee"),
        )
        with plain.activate(), pytest.raises(DomainError, match="age"):
            await Person.search([("age", "=", 3)])
        with age.activate():
            assert (await Person.find_one()).city == "Huế"
            with pytest.raises(DomainError, match="phone"):
                await Person.search([("phone", "=", "12")])
        with both.activate():
            for domain in ([("phone", "=", "12")], [("age", ">", 2)], PersonPhone.phone == "12"):
                assert await Person.search(domain).count() == 1  # type: ignore[arg-type] # of either kind


async def test_constraints_and_indexes_join_those_of_the_model(
    mongo_uri: str, database: str
) -> None:
    async with opened(mongo_uri, database, PHONE) as app:
        with pytest.raises(ValidationError, match="digits only"):
            await Person.create({"name": "Ann", "phone": "x"})
        assert await Person.count() == 0
        found = await app._backend.collection("ext_person").list_indexes()
        assert {each["name"] for each in found} == {"_id_", "name_1", "phone_1"}


async def test_relations_to_and_of_the_extended_model_load_together(
    mongo_uri: str, database: str
) -> None:
    async with opened(mongo_uri, database, PHONE):
        boss = await Person.create({"name": "Boss", "phone": "1"})
        staff = await Person.create(
            [{"name": f"P{n}", "phone": f"2{n}", "boss_id": boss} for n in range(3)]
        )
        await Note.create([{"text": "t", "person_id": each} for each in staff])
        notes = await Note.search().prefetch("person_id.boss_id")
        for note in notes:
            assert note.person_id is not None
            assert PersonPhone.of(note.person_id).phone is not None
            assert PersonPhone.of(note.person_id).boss_id == boss
        assert await Note.search([("person_id.boss_id.phone", "=", "1")]).count() == 3
        ghost: Any = (await Note.find_one()).person_id
        assert isinstance(ghost, PersonPhone)
        assert (await ghost).phone == "20"
        found = await PersonPhone.search(PersonPhone.boss_id == boss, order="phone")
        assert [each.phone for each in found] == ["20", "21", "22"]
        assert [len(await each.note_ids) for each in found] == [1, 1, 1]


async def test_the_typed_view_stands_for_the_model_where_its_plugin_is_selected(
    mongo_uri: str, database: str
) -> None:
    async with opened(mongo_uri, f"{database}a", PHONE, AGE) as app:
        made = await PersonPhone.create({"name": "Ann", "phone": "1", "age": 4})
        assert type(made) is app.model("ext.person") and made.label() == "Ann, 4 (1)"
        assert (await PersonPhone(name="Bob", phone="2").save()).label() == "Bob, 0 (2)"
    async with opened(mongo_uri, f"{database}b", AGE):
        with pytest.raises(ConfigurationError, match="no plugin of App"):
            await PersonPhone.search()
        record = await Person.create({"name": "Ann"})
        with pytest.raises(ConfigurationError, match=r"is no part of 'ext.person'"):
            PersonPhone.of(record)


async def test_records_made_before_the_start_and_in_another_app(
    mongo_uri: str, database: str
) -> None:
    early = Person(name="early")
    async with opened(mongo_uri, f"{database}a", AGE):
        await early.save()
        assert isinstance(early, PersonAge) and early.age == 0
        aged, plain = Person(name="x", age=9), Person(name="y")
    async with opened(mongo_uri, f"{database}b"):
        await Person.create({"name": "z"})
        with pytest.raises(ConfigurationError, match=r"belongs to App .*, and App .* is current"):
            await aged.save()
        assert await Person.count() == 1
        assert plain.name == "y"


async def test_records_are_copied_and_pickled_with_their_changes(
    mongo_uri: str, database: str
) -> None:
    async with opened(mongo_uri, f"{database}a", PHONE):
        ann = await Person.create({"name": "Ann", "phone": "1", "tags": ["a"]})
        await Note.create({"text": "t", "person_id": ann})
        ann.tags.append("b")  # type: ignore[union-attr] # it has a default
        copies = (copy.copy(ann), copy.deepcopy(ann), pickle.loads(pickle.dumps(ann)))
        for each in copies:
            assert each == ann and type(each) is type(ann) and each is not ann
            assert (each.phone, each.tags) == ("1", ["a", "b"])
            assert each.is_changed and each.tags is not ann.tags
        await copies[2].save()
        assert (await Person.get(ann.id)).tags == ["a", "b"]
        new: Any = pickle.loads(pickle.dumps(Person(name="New", phone="2")))
        assert not new.is_stored and (await new.save()).phone == "2"
        ghost = pickle.loads(pickle.dumps((await Note.find_one()).person_id))
        assert (await ghost).phone == "1"
        partial = (await Person.search(only=["name"]))[0]
        with pytest.raises(Exception, match="was not fetched"):
            _ = pickle.loads(pickle.dumps(partial)).tags
        data = pickle.dumps(ann)
    with pytest.raises(ConfigurationError):
        pickle.loads(data)
    async with opened(mongo_uri, f"{database}b"):
        assert pickle.loads(data).name == "Ann"


class OtherPhone(BaseModel):
    _inherit = "ext.person"
    phone = String(unique=True)


class SamePhone(BaseModel):
    _inherit = "ext.person"
    phone = String()


class NumberedCity(BaseModel):
    _inherit = "ext.person"
    city = Int()


class CityElsewhere(BaseModel):
    _inherit = "ext.person"
    city = String(db_name="town")


class SameKey(BaseModel):
    _inherit = "ext.person"
    alias = String(db_name="name")


class HidingMethod(BaseModel):
    _inherit = "ext.person"
    label = String()


class HidingField(BaseModel):
    _inherit = "ext.person"

    def city(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ([PHONE, bringing("other", OtherPhone)], r"'other'.*'phone'.*both bring.*ext.person.phone"),
        ([bringing("n", NumberedCity)], r"'n'.*NumberedCity.*ext.person.city of .*Person.*Int"),
        ([bringing("n", CityElsewhere)], r"stored in another way"),
        ([bringing("n", SameKey)], r"stored as 'name', where 'name' of .*Person"),
        ([bringing("n", HidingMethod)], r"'n'.*ext.person.label.* has a method"),
        ([bringing("n", HidingField)], r"cannot be extended by plugin 'n'.*city"),
    ],
)
async def test_what_clashes_stops_the_start(plugins: list[object], says: str) -> None:
    with pytest.raises(PluginError, match=says):
        await App("mongomock://", database="x", plugins=plugins).start()


async def test_the_same_field_twice_and_a_narrower_one_are_no_clash() -> None:
    class Mailed(BaseModel):
        _inherit = "ext.person"
        city = Email()

    plugins = [bringing("a", SamePhone), PHONE, bringing("m", Mailed)]
    async with App("mongomock://", database="x", plugins=plugins) as app:
        assert type(app.model("ext.person")._fields["city"]) is Email
        with pytest.raises(ValidationError, match="city"):
            await Person.create({"name": "a", "city": "Huế"})


async def test_two_plugins_cannot_bring_models_of_one_name() -> None:
    class One(BaseModel):
        _name = "ext.twice"

    class Two(BaseModel):
        _name = "ext.twice"

    with pytest.raises(PluginError, match=r"'a' and 'b' both bring a model named 'ext.twice'"):
        await App(
            "mongomock://", database="x", plugins=[bringing("b", Two), bringing("a", One)]
        ).start()
    async with App("mongomock://", database="x", plugins=[bringing("a", One, One)]) as app:
        assert app.model("ext.twice") is One


async def test_each_part_knows_whose_it_is() -> None:
    app = App("mongomock://", database="x", plugins=[PHONE, AGE])
    with app.described():
        parts = {(p.kind, p.name): (p.origin, p.overrides) for p in app.parts("ext.person")}
    assert parts["field", "name"] == ("tests", ())
    assert parts["field", "phone"] == ("plugin phone", ())
    assert parts["field", "city"] == ("plugin age", ("tests",))
    assert parts["field", "_id"] == ("earnorm-core", ())
    assert parts["index", "name_1"] == ("tests", ())
    assert parts["index", "phone_1"] == ("plugin phone", ())
    assert parts["rule", "has_digits"] == ("plugin phone", ())
    assert parts["rule", "clean"] == ("plugin phone", ("tests",))
    assert not app.is_started and not app.catalog._by_name


# -- abstract bases -------------------------------------------------------------------------------


class Named(BaseModel):
    _abstract = True
    _indexes = [{"title": 1}]
    title = String(required=True)

    @constrains("title")
    def titled(self) -> None:
        if self.title == "no":
            raise ValueError("not that title")


class Placed(BaseModel):
    _abstract = True
    _indexes = [Index("place", "title")]
    place = String()
    title = String()


class Shop(Named, Placed):
    _name = "ext.shop"
    _indexes = [{"opens": 1}]
    opens = Int()


class Stall(Named, Placed):
    _name = "ext.stall"


async def test_several_abstract_bases_bring_fields_rules_and_indexes(
    mongo_uri: str, database: str
) -> None:
    assert Shop._fields["title"] is Named._fields["title"]  # as Python resolves names
    async with opened(mongo_uri, database) as app:
        for model, own in ((Shop, {"opens_1"}), (Stall, set[str]())):
            with pytest.raises(ValidationError, match="not that title"):
                await model.create({"title": "no"})
            await model.create({"title": "a", "place": "b"})
            found = await app._backend.collection(model._collection).list_indexes()
            assert {i["name"] for i in found} == {"_id_", "title_1", "place_1_title_1", *own}
