"""Encrypted fields: every value of every kind comes back, and no way out but the attribute shows it."""

from __future__ import annotations

import copy
import datetime
import json
import logging
import os
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import Binary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earnorm import (
    App,
    ConfigurationError,
    DomainError,
    DuplicateKey,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Int,
    List,
    Many2one,
    NotSupported,
    Pull,
    Push,
    Sequence,
    String,
    ValidationError,
    models,
    transaction,
)
from earnorm_audit import AuditEntry, AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_security import (
    DecryptionFailed,
    Encrypted,
    Encryption,
    KeysUnavailable,
    Password,
    new_key,
)
from earnorm_security.secrets.cipher import key_name
from tests.core.conftest import definitions
from tests.plugins.security.vault import (
    CANARY,
    FAST,
    KEYS,
    VALUES,
    Card,
    Kinds,
    Person,
    full,
    is_hidden,
    stored,
    vault,
)

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "25"))


def server() -> str:
    return os.environ["EARNORM_TEST_MONGO_URI"]


NEW = f"{CANARY}-new"


@pytest.fixture(params=["server", "memory"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[App]:
    uri = os.environ["EARNORM_TEST_MONGO_URI"] if request.param == "server" else "mongomock://"
    async with vault(uri) as opened:
        yield opened


async def created(**values: Any) -> Person:
    return await Person.create(full(**values))


def as_read(person: Person) -> dict[str, Any]:
    """The encrypted values of a record."""
    return {
        "ssn": person.ssn,
        "email": person.email,
        "notes": person.notes,
        "address": person.address,
        "number": person.card.number if person.card else None,
        "second": [card.number for card in person.cards or ()],
        "codes": list(person.codes or ()),
        "by_name": dict(person.by_name or {}),
    }


# -- round trips ----------------------------------------------------------------------------------


async def test_each_kind_comes_back(app: App) -> None:
    made = await Kinds.create(VALUES)
    (document,) = await stored(app, Kinds)
    assert all(type(document[name]) is Binary and document[name].subtype == 128 for name in VALUES)
    again = await Kinds.get(made.id)
    for name in VALUES:
        assert getattr(again, name) == getattr(made, name), name
        assert isinstance(getattr(again, name), type(getattr(made, name))), name
    assert not again.is_changed
    nothing = await Kinds.get((await Kinds.create({})).id)
    assert all(getattr(nothing, name) is None for name in VALUES)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=8)
    | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5).filter(
                lambda k: k and "\0" not in k and "." not in k and not k.startswith("$")
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
values_of_kinds = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=20),
        "whole": st.integers(-(2**63), 2**63 - 1),
        "number": st.floats(),
        "exact": st.decimals(
            allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
        ),
        "flag": st.booleans(),
        "day": st.dates(),
        "span": st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999)).map(
            lambda d: datetime.timedelta(milliseconds=d // datetime.timedelta(milliseconds=1))
        ),
        "uid": st.uuids(),
        "data": st.binary(max_size=40),
        "json": json_values,
        "texts": st.lists(st.text(max_size=5), max_size=3),
        "numbers": st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    },
)


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=values_of_kinds, other=values_of_kinds)
async def test_law_every_value_comes_back_by_every_way(
    values: dict[str, Any], other: dict[str, Any]
) -> None:
    async with vault("mongomock://") as app:

        def same(one: Any, two: Any) -> bool:
            return repr(one) == repr(two)

        expected = Kinds(**values)
        made = [
            await Kinds.create(values),
            await Kinds(**values).save(),
            await (await Kinds.create(other)).write({**dict.fromkeys(other), **values}),
        ]
        updated = await Kinds.create(other)
        await Kinds.search([("id", "=", updated.id)]).update({**dict.fromkeys(other), **values})
        made.append(updated)
        changed = await Kinds.get((await Kinds.create(other)).id)
        for name in {**other, **values}:
            setattr(changed, name, values.get(name))
        made.append(await changed.save())
        made.append(await (await Kinds.create(values)).copy())
        for record in made:
            again = await Kinds.get(record.id)
            for name in VALUES:
                assert same(getattr(again, name), getattr(expected, name)), name
            assert not again.is_changed
        documents = await stored(app, Kinds)
        seen = [v for d in documents for k, v in d.items() if k != "_id" and v is not None]
        assert all(type(v) is Binary and v.subtype == 128 for v in seen)
        assert len(set(map(bytes, seen))) == len(seen)  # a new nonce each time


async def test_every_place_and_way(app: App) -> None:
    person = await created()
    expected = as_read(person)
    assert expected == as_read(await Person.get(person.id))
    assert is_hidden(await stored(app))
    (document,) = await stored(app)

    # what does not change stays the ciphertext that it was
    again = await Person.get(person.id)
    again.name = "Eve"
    assert again.ssn and again.card.number
    await again.save()
    assert {**(await stored(app))[0], "name": 0} == {**document, "name": 0}

    again.card.number = NEW
    again.codes.append(NEW)
    again.by_name["b"] = NEW
    again.notes["x"] = NEW
    again.address.street = NEW
    again.cards.append(Card(label="N", number=NEW))
    await again.save()
    third = await Person.get(person.id)
    assert third.card.number == NEW and third.codes[2] == NEW and third.by_name["b"] == NEW
    assert third.notes["x"] == NEW and third.address.street == NEW
    assert [card.number for card in third.cards] == [f"{CANARY}-second", NEW]
    await third.write({"codes": Push("pushed"), "card.number": "by path", "cards.0.number": "at 0"})
    third = await Person.get(person.id)
    assert third.codes[3] == "pushed" and third.card.number == "by path"
    assert third.cards[0].number == "at 0"
    del third.codes[0]
    third.cards.reverse()
    await third.save()
    third = await Person.get(person.id)
    assert third.codes == [f"{CANARY}-more", NEW, "pushed"]
    assert [card.number for card in third.cards] == [NEW, "at 0"]
    assert is_hidden(await stored(app))


async def test_ways_about_many_records(app: App) -> None:
    await Person.create([full(n) for n in range(3)])
    assert await Person.search([("name", "!=", "Ann 1")]).update({"ssn": NEW}) == 2
    assert sorted(p.ssn == NEW for p in await Person.search()) == [False, True, True]
    await (await Person.search()).write({"ssn": "set"})
    assert [p.ssn for p in await Person.search()] == ["set"] * 3
    documents = await stored(app)
    assert len({bytes(d["ssn"]) for d in documents}) == 3
    await Person.create_many([full(n) for n in (5, 6)])
    async with Person.bulk() as bulk:
        bulk.create(full(7))
    people = await Person.search()
    for number, person in enumerate(people):
        person.ssn = f"saved {number}"
    await people.save()
    again = {p.id: p for p in await Person.search()}
    assert [again[p.id].ssn for p in people] == [f"saved {n}" for n in range(6)]
    seen = [person.ssn async for person in Person.search()]
    assert sorted(seen) == sorted(p.ssn for p in people)


async def test_upserts(app: App) -> None:
    await Person.upsert(full(), on="email")
    await Person.upsert({**full(), "ssn": NEW}, on="email")
    (person,) = await Person.search()
    assert person.ssn == NEW and person.email == f"{CANARY.lower()}.0@example.org"
    people, number = await Person.upsert_many([full(ssn="a"), full(1, ssn="b")], on="email")
    assert number == 1 and [p.ssn for p in people] == ["a", "b"]
    assert await Person.count() == 2


async def test_a_rollback_and_a_refresh() -> None:
    async with vault(server()):
        person = await created()
        before = as_read(person)
        with pytest.raises(RuntimeError):
            async with transaction():
                person.ssn = NEW
                person.codes.append(NEW)
                await person.save()
                assert (await Person.get(person.id)).ssn == NEW
                raise RuntimeError
        assert as_read(await Person.get(person.id)) == before
        await person.refresh()
        assert as_read(person) == before


async def test_extensions_delegation_and_families(app: App) -> None:
    with definitions():

        class Shape(models.BaseModel):
            _name = "vault.shape"
            _discriminator = "kind"
            kind = String()
            secret_name = Encrypted(String(), deterministic=True)

        class Circle(Shape):
            _name = "vault.circle"
            radius = Encrypted(Int())
            pin = Password(parameters=FAST)

        circle = await Circle.create({"secret_name": NEW, "radius": 5, "pin": NEW})
        (shape,) = await Shape.search([("secret_name", "=", NEW)])
        assert isinstance(shape, Circle) and (shape.radius, shape.secret_name) == (5, NEW)
        (same,) = await Circle.search([("secret_name", "=", NEW)])
        assert same.radius == 5 and await same.pin.verify(NEW)
        assert is_hidden(await stored(app, Shape)) and circle.id

        class Member(models.BaseModel):
            _name = "vault.member2"
            _inherits = {"vault.person": "person_id"}
            person_id = Many2one(Person, required=True)
            level = Int()

        member = await Member.create({"level": 1, **full(9)})
        member = await Member.get(member.id)
        await member.person_id
        assert member.ssn == f"{CANARY}-ssn" and await member.password.verify(f"{CANARY}-password")
        await member.write({"ssn": NEW})
        assert (await Person.search([("name", "=", "Ann 9")]))[0].ssn == NEW
        assert is_hidden(member.to_dict(depth=2), await stored(app), await stored(app, Member))


# -- binding --------------------------------------------------------------------------------------


async def test_a_ciphertext_belongs_to_its_record_field_and_model(app: App) -> None:
    one, two = await created(), await created(number=1)
    raw = app.dangerous_raw("to move ciphertexts")[Person._collection]
    document = await raw.find_one({"_id": one.pk})
    before = (await raw.find_one({"_id": two.pk}))["ssn"]

    async def refused(**moved: Any) -> None:
        await raw.update_one({"_id": two.pk}, {"$set": moved})
        person = await Person.get(two.id)
        assert person.name == "Ann 1"
        with pytest.raises(DecryptionFailed) as raised:
            person.ssn  # noqa: B018
        assert is_hidden(raised.value) and "vault.person.ssn" in str(raised.value)

    await refused(ssn=document["ssn"])  # of another record
    await refused(ssn=document["card"]["number"])  # of another field
    await refused(ssn=Binary(bytes(before)[:-1] + bytes([before[-1] ^ 1]), 128))  # changed
    await refused(ssn=Binary(b"\x01", 128))
    await refused(ssn=Binary(b"", 128))
    await refused(ssn=Binary(b"\x01\x03one", 128))
    await refused(ssn=Binary(bytes([1, 7]) + b"unknown" + b"0" * 40, 128))
    await raw.update_one({"_id": two.pk}, {"$set": {"ssn": before}})
    assert (await Person.get(two.id)).ssn == f"{CANARY}-ssn"

    with definitions():

        class Other(models.BaseModel):
            _name = "vault.other"
            ssn = Encrypted(String(), deterministic=True)
            email = Encrypted(String(), deterministic=True)

        other = await Other.create({})
        others = app.dangerous_raw("as above")[Other._collection]
        await others.update_one({}, {"$set": {"email": document["email"]}})
        with pytest.raises(DecryptionFailed):
            (await Other.get(other.id)).email  # noqa: B018


async def test_keys_and_nonces_are_told_apart(app: App) -> None:
    first = await created(number=1)
    await first.write({"ssn": "again"})
    (before,) = await stored(app)
    await first.write({"ssn": "again"})
    (after,) = await stored(app)
    assert key_name(before["ssn"]) == "one" and before["ssn"] != after["ssn"]


# -- equality -------------------------------------------------------------------------------------


async def test_equality_finds_deterministic_values_under_every_key() -> None:
    name = "vault_rotating_keys"
    old, new = {"old": new_key()}, {"new": new_key()}
    from earnorm_security import SecurityPlugin, SecuritySettings

    for keys, number in ((old, 0), ({**new, **old}, 1)):
        plugin = SecurityPlugin(SecuritySettings(keys=keys))
        async with App(server(), database=name, plugins=[plugin]) as app:
            if not number:
                await app.dangerous_raw("x").client.drop_database(name)
            person = await created(number=number)
            same = f"{CANARY.lower()}.0@example.org"
            assert await Person.count([("email", "=", same)]) == 1
            assert await Person.count([("email", "in", [same, person.email])]) == number + 1
            assert await Person.count([("email", "!=", same)]) == number
            assert await Person.count([("email", "not in", [same, person.email])]) == 0
            assert await Person.count(["!", ("email", "=", same)]) == number
            assert await Person.count([("email", "=", None)]) == 0
            assert await Person.count([("friend.email", "=", same)]) == 0
            with pytest.raises(DuplicateKey) as raised:
                await created(number=number)
            assert is_hidden(raised.value)
            if number:
                await app.dangerous_raw("x").client.drop_database(name)


@pytest.mark.parametrize("operator", [">", "<=", "like", "ilike", "=like", "regex", "all"])
async def test_no_other_operator_is_taken(app: App, operator: str) -> None:
    value: Any = [NEW] if operator == "all" else NEW
    for path in ("email", "ssn", "card.number", "codes", "by_name"):
        with pytest.raises(DomainError) as raised:
            await Person.search([(path, operator, value)])
        assert is_hidden(raised.value)
    with pytest.raises(DomainError):
        await Person.search([("ssn", "=", NEW)])


async def test_equality_is_the_databases_and_presence_is_everywhere(app: App) -> None:
    await created()
    people = await Person.search()
    same = f"{CANARY.lower()}.0@example.org"
    assert people[0].email == same
    for domain in ([("email", "=", same)], [("email", "in", [same])]):
        with pytest.raises(DomainError, match="only the database") as raised:
            people.filtered_domain(domain)
        assert is_hidden(raised.value)
    person = Person(name="new", ssn=NEW)
    for record in (*people, person):
        one = await Person.search() if record is not person else None
        assert one is None or one.filtered_domain([("ssn", "!=", None)]).ids == one.ids


async def test_whole_ciphertexts_are_not_pulled(app: App) -> None:
    person = await created()
    for change in (Pull(f"{CANARY}-code"),):
        with pytest.raises(ValidationError):
            await person.write({"codes": change})


# -- keys -----------------------------------------------------------------------------------------


class Failing:
    def __init__(self) -> None:
        self.fails = True

    async def keys(self) -> dict[str, str]:
        if self.fails:
            raise ConnectionError(f"no way to the keys: {KEYS['one']}")
        return KEYS


async def test_without_keys_nothing_is_read_or_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider = Failing()
    async with vault("mongomock://", keys=provider) as app:
        for values in (full(), {"name": "x", "ssn": NEW}, {"name": "x", "codes": [NEW]}):
            with pytest.raises(KeysUnavailable) as raised:
                await Person.create(values)
            assert is_hidden(raised.value) and KEYS["one"] not in f"{raised.value!r}"
        assert await stored(app) == []
        plain = await Person.create({"name": "without"})
        with pytest.raises(KeysUnavailable):
            await plain.write({"ssn": NEW})
        with pytest.raises(KeysUnavailable):
            await Person.search().update({"ssn": NEW})
        with pytest.raises(KeysUnavailable):
            await Person.search([("email", "=", "a@b.cc")])
        assert is_hidden(await stored(app)) and (await Person.get(plain.id)).name == "without"

        provider.fails = False
        person = await created()
        provider.fails = True
        assert (await Person.get(person.id)).ssn == f"{CANARY}-ssn"
        service = app.services.of_type(Encryption)
        with pytest.raises(KeysUnavailable):
            await service.reload()
        assert service.key_names() == ("one",)
    assert KEYS["one"] not in caplog.text and is_hidden(caplog.text)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"a": "short"},
        {"a": b"x" * 31},
        {"bad name": new_key()},
        {"": new_key()},
        "env",
        "x:y",
        5,
    ],
)
def test_wrong_keys_are_refused_and_not_shown(keys: Any) -> None:
    from earnorm_security.secrets.keys import provider_of

    with pytest.raises(ConfigurationError) as raised:
        provider_of(keys)
    assert "short" not in str(raised.value)


async def test_keys_come_from_the_environment_a_file_and_a_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    first, second = new_key(), new_key()
    monkeypatch.setenv("VAULT_KEYS", f"b:{first}, a:{second}")
    (tmp_path / "keys.json").write_text(json.dumps({"c": first}))

    class Kms:
        api = 1
        name = "kms"

        @classmethod
        def register_services(cls) -> dict[str, object]:
            return {"kms": Failing()}

    from earnorm import hookimpl

    class KmsPlugin:
        api = 1
        name = "kms"

        @hookimpl
        def register_services(self) -> dict[str, object]:
            given = Failing()
            given.fails = False
            return {"kms": given}

    for keys, names in (
        ("env:VAULT_KEYS", ("b", "a")),
        (f"file:{tmp_path / 'keys.json'}", ("c",)),
        ("service:kms", ("one",)),
    ):
        async with vault("mongomock://", KmsPlugin, keys=keys) as app:
            assert app.services.of_type(Encryption).key_names() == names
            person = await created()
            assert (await Person.get(person.id)).ssn == f"{CANARY}-ssn"


async def test_a_model_is_refused_in_an_app_without_keys() -> None:
    async with vault("mongomock://", keys=None):
        with pytest.raises(ConfigurationError, match="needs keys"):
            await created()


# -- declarations ---------------------------------------------------------------------------------


class Linked(EmbeddedModel):
    person = Many2one(Person)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: Encrypted(String(required=True)),
        lambda: Encrypted(String(default="x")),
        lambda: Encrypted(String(unique=True)),
        lambda: Encrypted(String(db_name="x")),
        lambda: Encrypted(Many2one(Person)),
        lambda: Encrypted(List(Many2one(Person))),
        lambda: Encrypted(Embedded(Linked)),
        lambda: Encrypted(Sequence()),
        lambda: Encrypted(Encrypted(String())),
        lambda: Encrypted(Password()),
        lambda: Encrypted(String),
        lambda: Encrypted(String(), unique=True),
        lambda: Encrypted(String(), index=True),
        lambda: Encrypted(String(), compute="_x"),
    ],
)
def test_what_cannot_be_encrypted_is_refused(inner: Any) -> None:
    with pytest.raises(TypeError):
        inner()


# -- nothing leaks --------------------------------------------------------------------------------


async def test_no_way_out_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with vault(server(), AuditPlugin, CachePlugin, slow_query=0.000001) as app:
        person = await created()
        await person.write({"ssn": NEW, "password": NEW, "card.number": NEW, "codes": Push(NEW)})
        await Person.search([("email", "=", f"{CANARY.lower()}.0@example.org")]).update(
            {"ssn": NEW}
        )
        friend = await Person.create({"name": "Bob", "friend": person})
        found = await Person.search(order="name").prefetch("friend")
        for one in found:
            _ = one.ssn, one.password, one.notes
        cache = app.services["cache"]
        plan = await Person.search([("email", "=", f"{CANARY.lower()}.0@example.org")]).explain()
        raw = app.dangerous_raw("to look for secrets")
        names = await raw.list_collection_names()
        everything = [list(await raw[name].find({}).to_list(None)) for name in names]
        assert AuditEntry._collection in names
        out = [
            found.to_dict(),
            found.to_json(),
            found[0].to_dict(depth=2),
            found[1].to_json(depth=2),
            await found.read(),
            found,
            [*found],
            [one.card for one in found],
            [one.password for one in found],
            (await Person.search().to_pandas()).to_csv(),
            (await Person.search().to_arrow()).to_pylist(),
            Person.pydantic_model().model_validate(found[0]),
            Person.json_schema(),
            await Person.search().aggregate([{"$match": {}}]),
            pickle.dumps([*found]),
            copy.copy(found[0]).to_dict(),
            plan,
            everything,
            vars(cache),
            app.services.of_type(Encryption),
            app.settings,
            app.plugins,
            await app.health(),
            caplog.text,
            friend,
        ]
        assert is_hidden(*out)
        assert KEYS["one"].lower() not in " ".join(map(repr, out)).lower()
        again = pickle.loads(pickle.dumps(found[0]))
        with pytest.raises(FieldNotLoaded):
            again.ssn  # noqa: B018
        assert cache.statistics().entries == 0  # type: ignore[attr-defined]
        with pytest.raises(NotSupported):
            person.ssn = f"{CANARY}-later"
            pickle.dumps(person)
        audit = [row for rows in everything for row in rows if "changes" in row]
        assert "'ssn'" in str(audit) and "$argon2" not in str(audit) and "Binary" not in str(audit)


async def test_a_refused_value_is_in_no_error(app: App) -> None:
    for values in (
        {"ssn": CANARY * 20},
        {"email": f"{CANARY} no address"},
        {"notes": {"x": object()}},
        {"address": {"street": 5, CANARY: 1}},
        {"codes": [CANARY, 5]},
        {"card": {"number": {CANARY: 1}}},
    ):
        with pytest.raises(ValidationError) as raised:
            await created(**values)
        assert is_hidden(raised.value, raised.value.errors())


async def test_events_are_decrypted_and_show_nothing() -> None:
    async with vault(server()) as app:
        await Person.create({"name": "first"})
        async with Person.watch() as events:
            person = await created()
            event = await anext(events)
            assert event.record.ssn == f"{CANARY}-ssn"
            assert await event.record.password.verify(f"{CANARY}-password")
            assert is_hidden(event, event.record.to_dict())
        assert app.is_started and person.id


async def test_the_model_of_a_request_takes_them(app: App) -> None:
    body = Person.pydantic_model(include=["name", "ssn", "password", "email"])
    given = body(name="Ann", ssn=NEW, password=NEW, email="a@b.de")
    assert is_hidden(given, given.model_dump_json())
    person = await Person.create(given.model_dump())
    assert person.ssn == NEW and await person.password.verify(NEW)
    assert is_hidden(body.model_validate(person))
