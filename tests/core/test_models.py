"""Models: what a class body declares, what one record knows, and that only what was changed is written."""

from __future__ import annotations

import datetime

import pytest

from earnorm import (
    App,
    BaseModel,
    EmbeddedModel,
    FieldNotLoaded,
    Int,
    List,
    NotFound,
    String,
    ValidationError,
    current_app,
)
from earnorm.testing import assert_queries

from .conftest import Commands
from .shop import Address, Person


def raw(model: type[BaseModel]) -> object:
    return current_app().dangerous_raw("a look from outside")[model._collection]


async def stored(record: Person) -> dict[str, object]:
    return await raw(Person).find_one({"_id": record.pk})  # type: ignore[attr-defined] # the driver's


def sets(commands: Commands) -> list[dict[str, object]]:
    updates = commands.named("update")
    return [update["u"]["$set"] for command in updates for update in command["updates"]]


def test_defaults_fill_what_is_not_given_and_each_record_has_its_own() -> None:
    ann, bob = Person(name="Ann"), Person(name="Bob")
    assert ann.active is True and ann.age is None and ann.tags == []
    assert ann.tags is not bob.tags


def test_a_required_field_without_a_value_is_a_problem() -> None:
    with pytest.raises(ValidationError, match="name: a value is required"):
        Person()
    with pytest.raises(ValidationError, match="name: "):
        Person(name=None)


def test_the_name_of_a_model_comes_from_its_class() -> None:
    class CoreHTTPServerLog(BaseModel):
        pass

    assert CoreHTTPServerLog._name == CoreHTTPServerLog._collection == "core_http_server_log"
    assert Person._collection == "core_person"


@pytest.mark.parametrize("name", ["save", "id", "pk", "write", "to_dict", "search", "is_changed"])
def test_a_field_cannot_take_the_name_of_a_method(name: str) -> None:
    with pytest.raises(TypeError, match=f'{name}: the name is taken.*db_name="{name}"'):
        type("CoreReserved", (BaseModel,), {name: String()})


def test_a_field_may_be_called_what_python_calls_an_argument() -> None:
    class CoreArguments(BaseModel):
        self = String()
        cls = String()
        values = String()

    class CoreInner(EmbeddedModel):
        self = String()

    given = {"self": "a", "cls": "b", "values": "c"}
    assert CoreArguments(**given).to_dict() == {**CoreArguments().to_dict(), **given}
    assert CoreInner(self="a").to_dict() == {"self": "a"}


def test_a_method_cannot_hide_an_inherited_field() -> None:
    with pytest.raises(TypeError, match="name is a field of a base class"):
        type("CoreHiding", (Person,), {"name": lambda self: ""})


def test_a_model_inherits_fields_and_can_declare_them_anew() -> None:
    class CoreStaff(Person):
        age = Int(min_value=18)
        salary = Int()

    assert {"name", "age", "salary"} <= CoreStaff._fields.keys()
    assert CoreStaff._collection == "core_staff"
    assert Person(name="Ann", age=3).age == 3
    with pytest.raises(ValidationError):
        CoreStaff(name="Ann", age=3)


def test_an_abstract_model_gives_fields_and_has_no_collection(memory_app: App) -> None:
    class CoreNamed(BaseModel):
        _abstract = True
        name = String(required=True)

    class CoreTown(CoreNamed):
        people = Int()

    assert not CoreTown._abstract and CoreTown._fields.keys() >= {"name", "people"}


def test_an_unsaved_record_has_no_id_and_equals_only_itself() -> None:
    ann = Person(name="Ann")
    assert ann.id is None and ann.pk is None and not ann.is_stored and ann.is_changed
    assert ann == ann and ann != Person(name="Ann")
    assert len({ann, Person(name="Ann")}) == 2


async def test_a_saved_record_has_a_text_id_and_equals_any_copy_of_it(app: App) -> None:
    ann = await Person(name="Ann").save()
    assert ann.id == str(ann.pk) and not ann.is_changed
    again = await Person.get(ann.id)
    assert again == ann and again is not ann and hash(again) == hash(ann)
    assert await Person.get(ann.pk) == ann


async def test_a_model_may_declare_its_own_id(app: App) -> None:
    class CoreByCode(BaseModel):
        _id: String = String(required=True)  # type: ignore[assignment] # another kind of id
        label = String()

    await CoreByCode.create([{"id": "de", "label": "Germany"}, {"_id": "fr", "label": "France"}])
    assert (await CoreByCode.get("de")).label == "Germany"
    assert [r.id for r in await CoreByCode.search([("id", "in", ["fr"])])] == ["fr"]
    with pytest.raises(NotFound):
        await CoreByCode.get("it")


async def test_repr_shows_no_values(app: App) -> None:
    ann = await Person.create({"name": "Ann", "email": "ann@example.com"})
    query = Person.search([("email", "=", "ann@example.com")])
    shown = [ann, Person(name="Ann"), query, await query, current_app()]
    assert not [text for text in map(repr, shown) if "Ann" in text or "ann@" in text]


def test_an_embedded_object_comes_from_its_class_or_a_dict_and_is_checked() -> None:
    one = Person(name="Ann", address=Address(city="Rome"))
    two = Person(name="Ann", address={"city": "Rome"})
    assert one.address == two.address == Address(city="Rome")
    with pytest.raises(ValidationError, match="city: a value is required"):
        Address(street="x")
    with pytest.raises(ValidationError, match="address"):
        Person(name="Ann", address={"street": "x"})


def test_embedded_fields_cannot_take_the_name_of_a_method() -> None:
    with pytest.raises(TypeError, match="to_dict: the name is taken"):
        type("CoreBadPart", (EmbeddedModel,), {"to_dict": String()})


def test_assigning_an_unknown_name_is_an_error_with_the_nearest() -> None:
    ann = Person(name="Ann")
    with pytest.raises(AttributeError, match=r"no field 'nmae'; did you mean 'name'\?"):
        ann.nmae = "Bob"  # type: ignore[attr-defined] # that is the point
    with pytest.raises(AttributeError, match="cannot be assigned"):
        ann.id = "x"  # type: ignore[misc] # that is the point
    with pytest.raises(AttributeError, match="assign None"):
        del ann.name


async def test_a_readonly_field_is_set_once(app: App) -> None:
    ann = await Person.create({"name": "Ann", "badge": "7"})
    with pytest.raises(ValidationError, match="badge: can be set only on a new record"):
        ann.badge = "8"
    with pytest.raises(ValidationError, match="badge: can be set only on a new record"):
        await ann.write({"badge": "8"})
    assert (await Person.get(ann.id)).badge == "7"


async def test_a_field_is_stored_under_its_db_name(app: App) -> None:
    ann = await Person.create({"name": "Ann", "badge": "7"})
    document = await stored(ann)
    assert document["badge_number"] == "7" and "badge" not in document
    assert await Person.search([("badge", "=", "7")]).count() == 1
    assert [p.badge for p in await Person.search(order="badge")] == ["7"]


async def test_save_writes_only_what_was_changed(commands: Commands) -> None:
    ann = await Person.create({"name": "Ann", "age": 30, "tags": ["a"]})
    ann.age = 31
    await ann.save()
    assert sets(commands) == [{"age": 31}]
    commands.clear()
    await ann.save()
    assert commands.all == []


async def test_reading_mutable_fields_changes_nothing(app: App) -> None:
    await Person.create({"name": "Ann", "tags": ["a"], "extra": {"a": 1}, "address": {"city": "x"}})
    ann = (await Person.search())[0]
    assert ann.tags and ann.extra and ann.address
    assert not ann.is_changed
    with assert_queries(0):
        await ann.save()


async def test_changes_in_place_are_noticed(commands: Commands) -> None:
    await Person.create(
        {"name": "Ann", "tags": ["a"], "extra": {"a": {"b": [1]}}, "address": {"city": "x"}}
    )
    ann = (await Person.search())[0]
    for change, written in (
        (lambda: ann.tags.append("b"), {"tags": ["a", "b"]}),  # type: ignore[union-attr] # it is set
        (lambda: ann.extra["a"]["b"].append(2), {"extra": {"a": {"b": [1, 2]}}}),  # type: ignore[index] # it is set
        # Of a loaded object only the changed field is sent, by its path.
        (lambda: setattr(ann.address, "city", "y"), {"address.city": "y"}),
    ):
        commands.clear()
        change()
        assert ann.is_changed
        await ann.save()
        assert sets(commands) == [written]
        assert not ann.is_changed
    again = await Person.get(ann.id)
    assert again.tags == ["a", "b"] and again.address == Address(city="y")


async def test_a_default_list_that_the_document_lacks_is_written_once_filled(app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    await raw(Person).update_one({"_id": ann.pk}, {"$unset": {"tags": 1}})  # type: ignore[attr-defined] # the driver's
    found = await Person.get(ann.id)
    assert found.tags == [] and not found.is_changed
    found.tags.append("x")
    await found.save()
    assert (await Person.get(ann.id)).tags == ["x"]


async def test_what_was_not_fetched_raises_and_says_how_to_fetch_it(app: App) -> None:
    await Person.create({"name": "Ann", "age": 30})
    ann = (await Person.search().only("name"))[0]
    assert ann.name == "Ann"
    with pytest.raises(FieldNotLoaded, match=r"Person.age was not fetched: add 'age' to .only"):
        _ = ann.age
    assert not hasattr(ann, "age") and "age" not in ann.to_dict()
    assert (await ann.refresh()).age == 30


async def test_a_stored_key_that_is_not_declared_never_becomes_an_attribute(app: App) -> None:
    ann = await Person.create({"name": "Ann", "address": {"city": "Rome"}})
    strange = {
        "save": "x",
        "is_stored": False,
        "surprise": 1,
        "badge": 3,
        "address.to_dict": 4,
        "address._stored": 5,
    }
    await raw(Person).update_one({"_id": ann.pk}, {"$set": strange})  # type: ignore[attr-defined] # the driver's
    for found in (
        (await Person.search())[0],
        await Person.get(ann.id),
        await (await Person.get(ann.id)).refresh(),
        await anext(aiter(Person.search())),
    ):
        assert callable(found.save) and found.is_stored is True and found.badge is None
        assert not hasattr(found, "surprise")
        assert found.address is not None and found.address.to_dict() == {
            "city": "Rome",
            "street": None,
        }
        found.age = 40
        await found.save()


async def test_to_dict_gives_plain_values(app: App) -> None:
    ann = Person(name="Ann", born="2000-01-02", address={"city": "Rome"}, tags=["a"])
    shown = ann.to_dict()
    assert shown["born"] == datetime.date(2000, 1, 2)
    assert shown["address"] == {"city": "Rome", "street": None}
    assert "_id" not in shown


def test_a_list_default_that_is_a_constant_is_not_shared() -> None:
    class CoreLabels(BaseModel):
        labels = List(String(), default=["new"])

    one, two = CoreLabels(), CoreLabels()
    one.labels.append("x")  # type: ignore[union-attr] # it is set
    assert two.labels == CoreLabels().labels == ["new"]
