"""Embedded objects note their own changes, and their records follow."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import pytest

from earnorm import (
    App,
    BaseModel,
    Embedded,
    EmbeddedModel,
    List,
    String,
    ValidationError,
    transaction,
)


class Geo(EmbeddedModel):
    code = String(required=True)
    notes = List(String())


class Place(EmbeddedModel):
    city = String(required=True, max_length=10)
    geo = Embedded(Geo)


class EmbeddedPerson(BaseModel):
    name = String(required=True)
    home = Embedded(Place)


HOME = {"city": "Hanoi", "geo": {"code": "HN", "notes": ["old town"]}}


@pytest.fixture
async def server() -> AsyncIterator[App]:
    uri, name = os.environ["EARNORM_TEST_MONGO_URI"], f"embedded_{uuid.uuid4().hex[:12]}"
    app = await App(uri, database=name, plugins=[]).start()
    with app.activate():
        yield app
        await app.dangerous_raw("to look at the database itself").client.drop_database(name)
    await app.stop()


async def test_a_change_inside_is_saved_at_any_depth(server: App) -> None:
    person = await EmbeddedPerson.create({"name": "Ann", "home": HOME})
    read = await EmbeddedPerson.get(person.id)
    assert not read.is_changed
    read.home.geo.notes.append("lake")
    assert read.is_changed
    await read.save()
    assert not read.is_changed
    again = await EmbeddedPerson.get(person.id)
    assert again.home.geo.notes == ["old town", "lake"]
    assert again.home.city == "Hanoi"


async def test_a_change_inside_an_unsaved_record_is_validated_and_stored(server: App) -> None:
    person = EmbeddedPerson(name="Ann", home=HOME)
    person.home.city = "far too long a name"
    with pytest.raises(ValidationError, match="home"):
        await person.save()
    person.home.city = "Hue"
    await person.save()
    assert (await EmbeddedPerson.get(person.id)).home.city == "Hue"


async def test_one_object_given_to_two_records_is_not_shared(server: App) -> None:
    home = Place(city="Hue")
    one = await EmbeddedPerson.create({"name": "Ann", "home": home})
    two = await EmbeddedPerson.create({"name": "Bao", "home": home})
    one.home.city = "Hanoi"
    assert not two.is_changed
    assert two.home.city == "Hue"


async def test_a_change_inside_is_unsaved_again_after_a_rollback(server: App) -> None:
    person = await EmbeddedPerson.create({"name": "Ann", "home": HOME})
    with pytest.raises(ZeroDivisionError):
        async with transaction():
            person.home.city = "Hue"
            await person.save()
            raise ZeroDivisionError
    assert person.is_changed
    await person.save()
    assert (await EmbeddedPerson.get(person.id)).home.city == "Hue"
