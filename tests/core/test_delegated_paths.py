"""Delegation: paths into delegated fields, and the record to which their values go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Dict,
    DomainError,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    List,
    Many2one,
    Push,
    String,
    UpdateItems,
    ValidationError,
)


class Address(EmbeddedModel):
    city = String()
    floor = Int(max_value=99)


class Party(BaseModel):
    _name = "paths.party"
    title = String()
    place = Embedded(Address, db_name="at")
    places = List(Embedded(Address))
    extra = Dict(Int())


class Contact(BaseModel):
    _name = "paths.contact"
    _inherits = {"paths.party": "party_id"}

    party_id = Many2one(Party)
    login = String()


_GIVEN: Mapping[str, Any] = {
    "title": "t",
    "place": {"city": "Huế", "floor": 1},
    "places": [{"city": "Hà Nội", "floor": 2}],
    "extra": {"a": 1},
}
_WRITES: Mapping[str, Mapping[str, Any]] = {
    "a field of an object": {"place.city": "Vinh"},
    "two fields of an object": {"place.city": "Vinh", "place.floor": 3},
    "an item's field": {"places.0.floor": 5},
    "a dict's value": {"extra.b": 2},
    "a change inside": {"place.floor": Inc(4)},
    "a change": {"places": Push({"city": "Đà Lạt"})},
    "chosen items": {"places": UpdateItems([("floor", "=", 2)], {"city": "Sa Pa"})},
    "a value and a path": {"title": "x", "extra.a": 7},
    "a value that is refused": {"place.floor": 100},
    "an unknown field": {"place.nr": 1},
    "an item that is not there": {"places.4.floor": 5},
    "a value beside a path into it": {"place": None, "place.city": "Vinh"},
}


async def _tried(record: Any, values: Mapping[str, Any], way: str) -> list[Any] | None:
    """Write values in a way; return the problems of a refused write without the messages."""
    try:
        await getattr(record, way)(values)
    except ValidationError as error:
        return sorted((detail["loc"], detail["type"]) for detail in error.errors())
    return None


@pytest.mark.parametrize("way", ["write", "save"])
@pytest.mark.parametrize("values", _WRITES.values(), ids=_WRITES)
async def test_a_path_into_a_delegated_field_is_written_as_one_into_an_own_field(
    app: App, values: Mapping[str, Any], way: str
) -> None:
    twin = await Party.create(_GIVEN)
    contact: Any = await Contact.create({"login": "c", **_GIVEN})
    assert await _tried(contact, values, way) == await _tried(twin, values, way)
    stored = await app._backend.collection("paths_party").find({})
    one, other = ({k: v for k, v in document.items() if k != "_id"} for document in stored)
    assert one == other
    (fresh,) = await Contact.search().prefetch("party_id")
    assert fresh.to_dict()["login"] == "c"


async def test_ways_that_write_no_other_record_refuse_the_path(app: App) -> None:
    contact: Any = await Contact.create({"login": "c", **_GIVEN})
    for way in (
        Contact.search().update({"place.city": "Vinh"}),
        Contact.write_many({contact.id: {"place.city": "Vinh"}}),
    ):
        with pytest.raises(ValidationError) as caught:
            await way
        (detail,) = caught.value.errors()
        assert detail["loc"][-2:] == ("place", "city") and "write() take it" in detail["msg"]


async def test_only_says_how_a_part_of_another_record_is_loaded(app: App) -> None:
    await Contact.create({"login": "c", **_GIVEN})
    with pytest.raises(DomainError) as caught:
        await Contact.search().only("place.city")
    assert "'party_id.place'; only('party_id').prefetch('party_id')" in str(caught.value)
    (found,) = await Contact.search().only("party_id").prefetch("party_id")
    record: Any = found
    assert record.place.city == "Huế"


@pytest.mark.parametrize("way", ["write", "save", "assigned", "set"])
@pytest.mark.parametrize("form", ["record", "id", "text"])
async def test_values_go_to_the_record_that_the_link_leads_to_after_the_write(
    app: App, way: str, form: str
) -> None:
    contacts: Any = await Contact.create([{"login": str(n), **_GIVEN} for n in range(2)])
    other = await Party.create({"title": "other"})
    given: Any = {"record": other, "id": other.pk, "text": other.id}[form]
    values = {"title": "new", "place": {"city": "Vinh"}}
    record: Any = contacts[0]
    if way == "set":
        await contacts.write({"party_id": given, **values})
    elif way == "assigned":
        record.party_id = given
        await record.save(values)
    else:
        await getattr(record, way)({"party_id": given, **values})
    assert not record.is_changed
    found: Any = await Contact.search().prefetch("party_id")
    written = 2 if way == "set" else 1
    assert [(c.party_id.pk == other.pk, c.title) for c in found] == (
        [(True, "new")] * written + [(False, "t")] * (2 - written)
    )
    assert sorted(p.title or "" for p in await Party.search()) == ["new", "t", "t"]


async def test_a_value_of_a_link_that_is_emptied_or_not_stored_is_refused(app: App) -> None:
    contact: Any = await Contact.create({"login": "c", **_GIVEN})
    with pytest.raises(ValidationError, match="belongs to party_id, which is not set"):
        await contact.write({"party_id": None, "place.city": "Vinh"})
    with pytest.raises(ValidationError, match="not saved yet"):
        await contact.write({"party_id": Party(title="new"), "title": "x"})


async def test_a_value_goes_to_the_record_that_an_unsaved_link_shows(app: App) -> None:
    contact: Any = await Contact.create({"login": "c", **_GIVEN})
    contact.party_id = await Party.create({"title": "other"})
    await contact.write({"title": "x", "login": "d"})
    assert contact.title == "x" and contact.is_changed
    assert sorted(p.title or "" for p in await Party.search()) == ["t", "x"]
    await contact.save()
    found: Any = (await Contact.search().prefetch("party_id"))[0]
    assert (found.title, found.login) == ("x", "d")
