"""A field that says ``secret = True`` is shown nowhere, and nothing is compared or ordered by it."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from typing import Any

import pytest

from earnorm import (
    AddToSet,
    App,
    ConfigurationError,
    Count,
    Domain,
    DomainError,
    Embedded,
    FieldNotLoaded,
    List,
    Many2one,
    Max,
    NotSupported,
    Push,
    Set,
    String,
    ValidationError,
    models,
)
from earnorm.features.provenance.declared import options_of
from tests.core.conftest import default_app, definitions
from tests.core.secret_kinds import CANARY, Holder, Pin, Profile, full

SECRET_PATHS = ["pin", "pins", "by_name", "profile.pin", "profiles.pin"]
PLACES = [*SECRET_PATHS, "token"]


def shown(value: object) -> str:
    """Everything that a program, a log or an error could show of a value."""
    return f"{value!r} {value}"


async def test_the_program_itself_reads_the_values(app: App) -> None:
    holder = await Holder.create(full())
    again = await Holder.get(holder.id)
    assert again.pin == f"{CANARY}-pin"
    assert again.profile is not None and again.profile.pin == f"{CANARY}-profile"
    again.pin = f"{CANARY}-new"
    await again.save()
    assert (await Holder.get(holder.id)).pin == f"{CANARY}-new"


async def test_nothing_that_shows_a_record_shows_them(app: App, tmp_path: Any) -> None:
    holder = await Holder.create(full())
    friend = await Holder.create({"name": "Bob", "friend": holder})
    found = await Holder.search(order="name").prefetch("friend")
    out = [
        found[0].to_dict(),
        found[0].to_json(),
        found[1].to_dict(depth=2),
        await found.read(),
        found.to_dict(),
        found.to_json(),
        found,
        found[0],
        found[0].profile,
        found[0].profiles,
        (await Holder.search().to_pandas()).to_csv(),
        (await Holder.search().to_polars()).rows(),
        (await Holder.search().to_arrow()).to_pylist(),
        Holder.pydantic_model().model_validate(found[0]),
        Holder.pydantic_model().model_validate(found[0]).model_dump(),
        Holder.json_schema(),
        Holder.pydantic_model(include=["name", "pin"]).model_validate(found[0]),
        pickle.dumps(list(found)),
        copy.deepcopy(found[0]).to_dict(),
    ]
    assert CANARY not in shown(out)
    assert "Ann" in shown(out)
    assert friend.id


async def test_a_name_of_one_cannot_be_asked_for(app: App) -> None:
    holder = await Holder.create(full())
    with pytest.raises(ValidationError, match="'pin' is secret"):
        holder.to_dict(include=["name", "pin"])
    with pytest.raises(DomainError, match="secret"):
        await holder.read(["pin"])


async def test_a_request_may_hold_one_where_it_is_included(app: App) -> None:
    body = Holder.pydantic_model(include=["name", "pin"])
    given = body(name="Ann", pin=f"{CANARY}-x")
    assert CANARY not in shown(given) and CANARY not in given.model_dump_json()
    holder = await Holder.create(given.model_dump())
    assert holder.pin == f"{CANARY}-x"
    assert body.model_json_schema()["properties"]["pin"]["writeOnly"] is True


@pytest.mark.parametrize("path", SECRET_PATHS)
@pytest.mark.parametrize(
    "operator", ["=", "!=", "in", "not in", ">", "<=", "like", "=ilike", "regex", "all"]
)
async def test_no_condition_compares_them(app: App, path: str, operator: str) -> None:
    value: Any = [f"{CANARY}-pin"] if operator in ("in", "not in", "all") else f"{CANARY}-pin"
    for domain in (
        [(path, operator, value)],
        ["!", (path, operator, value)],
        [(f"friend.{path}", operator, value)],
        [("friend", "any", [(path, operator, value)])],
    ):
        with pytest.raises(DomainError, match="secret") as raised:
            await Holder.search(domain)
        assert CANARY not in shown(raised.value) + shown(raised.value.errors())
    with pytest.raises(DomainError, match="secret"):
        (await Holder.search()).filtered_domain(Domain([(path, operator, value)]))


async def test_a_field_may_allow_equality(app: App) -> None:
    holder = await Holder.create(full())
    assert (await Holder.search([("token", "=", f"{CANARY}-token")])).ids == [holder.id]
    assert await Holder.count([("token", "in", [f"{CANARY}-token"])]) == 1
    with pytest.raises(DomainError, match="it takes =, in"):
        await Holder.search([("token", ">", "C")])


async def test_no_condition_compares_an_object_that_holds_one(app: App) -> None:
    holder = await Holder.create(full())
    with pytest.raises(DomainError) as raised:
        await Holder.search([("profile", "=", holder.profile)])
    assert CANARY not in shown(raised.value)
    with pytest.raises(DomainError, match="secret"):
        await Holder.search([("profiles", "=", [{"nick": "M"}])])
    assert await Holder.count([("profile.nick", "=", "N")]) == 1
    with pytest.raises(DomainError, match="secret"):
        await Holder.search([("profiles", "elem", [("pin", "=", f"{CANARY}-profiles")])])


async def test_whether_there_is_one_may_be_asked(app: App) -> None:
    await Holder.create(full())
    await Holder.create({"name": "Bob"})
    assert await Holder.count([("pin", "=", None)]) == 1
    assert await Holder.count([("pin", "exists", True)]) == 1
    assert await Holder.count([("profile", "!=", None)]) == 1


@pytest.mark.parametrize("path", [*PLACES, "profile", "profiles"])
async def test_nothing_is_ordered_or_grouped_by_them(app: App, path: str) -> None:
    await Holder.create(full())
    for ordered in (path, f"friend.{path}"):
        with pytest.raises((DomainError, ValidationError), match=r"secret|several"):
            await Holder.search().order(ordered)
    with pytest.raises((DomainError, ValidationError), match="secret"):
        await Holder.search().group(path, n=Count())
    with pytest.raises((DomainError, ValidationError), match="secret"):
        await Holder.search().group("name", n=Max(path))
    with pytest.raises((DomainError, ValidationError), match="secret"):
        (await Holder.search()).sorted(path)
    with pytest.raises((DomainError, ValidationError), match="secret"):
        await Holder.search().order(path).page(size=2)


async def test_pipelines_do_not_see_them(app: App) -> None:
    await Holder.create(full())
    rows = await Holder.search().aggregate([{"$match": {"name": "Ann"}}])
    assert rows and CANARY not in shown(rows)
    rows = await Holder.search().aggregate([{"$match": {"pin": {"$gte": "C"}}}])
    assert rows == []


async def test_pipelines_of_other_models_do_not_see_them(server_app: App) -> None:
    await Holder.create(full())
    join = {"from": "secret.holder", "localField": "name", "foreignField": "name", "as": "others"}
    rows = await Holder.search().aggregate([{"$lookup": join}])
    assert rows[0]["others"] and CANARY not in shown(rows)
    with pytest.raises(ValidationError, match="hidden"):
        await Holder.search().aggregate([{"$lookup": {**join, "foreignField": "pin"}}])
    rows = await Holder.search().aggregate([{"$unionWith": "secret.holder"}])
    assert len(rows) == 2 and CANARY not in shown(rows)


async def test_a_refused_value_is_in_no_message_and_read_by_nobody(app: App) -> None:
    holder = await Holder.create(full())
    with pytest.raises(ValidationError) as raised:
        await Holder.create(full(pin=f"{CANARY}{CANARY}", pins=["abc"], by_name={"a": "x"}))
    problems = raised.value.errors()
    assert [p["loc"][0] for p in problems] == ["pin", "pins", "by_name"]
    assert CANARY not in shown(raised.value) + shown(problems)
    assert "at least 4 characters" in str(problems[1])

    holder.pin = f"{CANARY}{CANARY}"
    assert CANARY not in shown(holder.pin) + shown(holder.__dict__["pin"])
    with pytest.raises(ValidationError) as raised:
        await holder.save()
    assert CANARY not in shown(raised.value)
    holder.pin = f"{CANARY}-good"
    await holder.save()
    assert (await Holder.get(holder.id)).pin == f"{CANARY}-good"


async def test_a_copy_leaves_them_unloaded_and_loses_none(app: App) -> None:
    holder = await Holder.create(full())
    for again in (pickle.loads(pickle.dumps(holder)), copy.copy(holder), copy.deepcopy(holder)):
        assert again.name == "Ann"
        for name in ("pin", "token", "pins", "by_name", "profile", "profiles"):
            with pytest.raises(FieldNotLoaded):
                getattr(again, name)
        again.name = "Eve"
        await again.save()
        assert (await Holder.get(holder.id)).pin == f"{CANARY}-pin"
        await again.refresh()
        assert again.pin == f"{CANARY}-pin"
    holder.pin = f"{CANARY}-later"
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(NotSupported, match="not saved"):
            copied(holder)
    with pytest.raises(NotSupported, match="not saved"):
        pickle.dumps(Holder(**full()))
    assert pickle.loads(pickle.dumps(Holder(name="Bob"))).name == "Bob"


async def test_a_partly_fetched_record_is_pickled(app: App) -> None:
    await Holder.create(full())
    (found,) = await Holder.search().only("name", "profile.nick")
    again = pickle.loads(pickle.dumps(found))
    assert again.name == "Ann"
    with pytest.raises(FieldNotLoaded):
        again.profile.nick  # noqa: B018


async def test_items_are_pushed_and_not_compared(app: App) -> None:
    holder = await Holder.create(full())
    await holder.write({"pins": Push(f"{CANARY}-three")})
    assert (await Holder.get(holder.id)).pins == [f"{CANARY}-{n}" for n in ("one", "two", "three")]
    for change in (AddToSet(f"{CANARY}-x"), Push(f"{CANARY}-x", sort=1)):
        with pytest.raises(ValidationError) as raised:
            await holder.write({"pins": change})
        assert CANARY not in shown(raised.value)
    with pytest.raises(ValidationError):
        await holder.write({"pin": Max(f"{CANARY}-x")})


async def test_no_related_field_shows_or_stores_one(database: str) -> None:
    with definitions():

        class Card(models.BaseModel):
            _name = "secret.card"
            holder = Many2one(Holder)
            pin = String(related="holder.pin")

        with pytest.raises(ConfigurationError, match="secret"):
            async with default_app("memory", database):
                await Card.create({})


def test_a_set_takes_no_secret_items() -> None:
    with pytest.raises(TypeError, match="secret"):
        Set(Pin())


async def test_the_log_has_none(database: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with default_app("pymongo", database, slow_query=0.000001):
        await Holder.create(full())
        await Holder.search([("token", "=", f"{CANARY}-token")])
    # The driver's own debug log has its commands, with what is stored.
    own = [record.getMessage() for record in caplog.records if record.name.startswith("earnorm")]
    assert any("slow" in message for message in own) and CANARY not in shown(own)


def test_a_list_of_objects_that_hold_one_is_no_secret_itself() -> None:
    assert not Holder._schema.fields["profiles"].secret
    assert Holder._schema.fields["pins"].secret
    assert json.dumps(Holder(**full()).to_dict())
    assert List(Embedded(Profile)).secret is False


def test_the_description_of_a_field_shows_no_secret_default_or_choice() -> None:
    for field in (Pin(default=CANARY, required=True), List(Pin(), default=lambda: [CANARY])):
        assert CANARY not in str(options_of(field))
    assert options_of(Pin(default=CANARY, required=True)) == ("default=…", "required")
