"""Passwords: on every way in only a hash is stored, and nothing but verify() tells of it."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest

from earnorm import App, NotSupported, Push, String, ValidationError, models
from earnorm.exceptions import ConfigurationError
from earnorm_security import Argon2, Password, PasswordHash, SecurityPlugin
from earnorm_security.secrets import hashing
from tests.core.conftest import definitions
from tests.plugins.security.vault import CANARY, FAST, Card, Person, full, is_hidden, stored, vault

NEW = f"{CANARY}-new"


@pytest.fixture(params=["server", "memory"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[App]:
    uri = os.environ["EARNORM_TEST_MONGO_URI"] if request.param == "server" else "mongomock://"
    async with vault(uri) as opened:
        yield opened


async def created(**values: Any) -> Person:
    return await Person.create(full(**values))


async def constructed() -> None:
    await Person(**full()).save()


async def assigned() -> None:
    person = await created()
    person.password = NEW
    await person.save()


async def written() -> None:
    await (await created()).write({"password": NEW})


async def updated() -> None:
    await created()
    await Person.search().update({"password": NEW})


async def each_written() -> None:
    person = await created()
    await (await Person.search()).write_many([{"id": person.id, "password": NEW}])


async def set_written() -> None:
    await created()
    await (await Person.search()).write({"password": NEW})


async def upserted() -> None:
    person = await created()
    await Person.upsert({"_id": person.pk, "name": "Eve", "password": NEW}, on="_id")


async def upserted_new() -> None:
    await Person.upsert(full(), on="email")


async def many_created() -> None:
    await Person.create_many([full()])


async def in_bulk() -> None:
    async with Person.bulk() as bulk:
        bulk.create(full())


WAYS = {
    way.__name__: (way, is_new)
    for way, is_new in (
        (created, False),
        (constructed, False),
        (assigned, True),
        (written, True),
        (updated, True),
        (set_written, True),
        (upserted, True),
        (upserted_new, False),
        (many_created, False),
        (in_bulk, False),
    )
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_in_stores_a_hash(app: App, way: str) -> None:
    call, is_new = WAYS[way]
    await call()
    (document,) = await stored(app)
    assert document["password"].startswith("$argon2id$") and is_hidden(document)
    (person,) = await Person.search()
    assert await person.password.verify(NEW if is_new else f"{CANARY}-password")
    assert not await person.password.verify("another one")
    assert not person.is_changed


async def test_every_place_stores_a_hash(app: App) -> None:
    person = await created()
    for each in (person, await Person.get(person.id)):
        assert await each.card.pin.verify(f"{CANARY}-pin")
        assert await each.cards[0].pin.verify(f"{CANARY}-spin")
        assert await each.passwords[0].verify(f"{CANARY}-old")
    await person.write({"card.pin": NEW, "passwords": Push(f"{CANARY}-pushed")})
    person.cards.append(Card(label="N", pin=f"{CANARY}-third"))
    await person.save()
    again = await Person.get(person.id)
    assert await again.card.pin.verify(NEW)
    assert await again.passwords[1].verify(f"{CANARY}-pushed")
    assert await again.cards[0].pin.verify(f"{CANARY}-spin")
    assert await again.cards[1].pin.verify(f"{CANARY}-third")
    assert is_hidden(await stored(app))


async def test_the_text_is_forgotten_once_it_is_hashed(app: App) -> None:
    person = Person(**full())
    assert await person.password.verify(f"{CANARY}-password")
    await person.save()
    assert is_hidden([getattr(person.password, name, "") for name in PasswordHash.__slots__])
    assert await person.password.verify(f"{CANARY}-password")


async def test_only_verify_tells_anything(app: App) -> None:
    person = await created()
    value = (await Person.get(person.id)).password
    assert "$argon2" not in f"{value!r} {value}" and value is not None
    assert value != f"{CANARY}-password"
    for copied in (pickle.dumps, lambda v: pickle.dumps({"v": v})):
        with pytest.raises(TypeError, match="not pickled"):
            copied(value)
    assert copy.deepcopy(value) is value
    for wrong in ("", "x" * 2000, None, 5, "\ud800", f"{CANARY}-passwor"):
        assert not await value.verify(wrong)


async def test_one_password_typed_on_two_keyboards_is_one(app: App) -> None:
    person = await created(password="Cafe\u0301 1234")
    assert await person.password.verify("Caf\u00e9 1234")


async def test_what_is_refused_shows_nothing(app: App) -> None:
    for value in (f"{CANARY}"[:7], 5, "\ud800" * 9, CANARY * 200):
        with pytest.raises(ValidationError) as raised:
            await created(password=value)
        assert is_hidden(raised.value, raised.value.errors())
    person = await created()
    person.password = CANARY[:7]
    assert CANARY[:7] not in repr(person.password)


async def test_other_parameters_renew_the_hash_when_it_is_verified(app: App) -> None:
    with definitions():

        class Old(models.BaseModel):
            _name = "vault.renewed"
            name = String()
            password = Password(parameters=FAST)

        old = await Old.create({"password": NEW})
        (before,) = await stored(app, Old)
    with definitions():

        class New(models.BaseModel):
            _name = "vault.renewed.new"
            _collection = "vault_renewed"
            name = String()
            password = Password(parameters=Argon2(2, 16, 1))

        new = await New.get(old.id)
        assert not await new.password.verify("wrong one")
        assert (await stored(app, New)) == [before]
        assert await new.password.verify(NEW)
        (after,) = await stored(app, New)
        assert "m=16,t=2" in after["password"]
        assert await (await New.get(old.id)).password.verify(NEW)
        assert await new.password.verify(NEW)
        assert (await stored(app, New)) == [after]


async def test_a_hash_that_somebody_changed_meanwhile_stays(app: App) -> None:
    with definitions():

        class Member(models.BaseModel):
            _name = "vault.member"
            password = Password(parameters=Argon2(2, 16, 1))

        member = await Member.create({"password": NEW})
        raw = app.dangerous_raw("an older hash")[Member._collection]
        older = await hashing.hashed(FAST, NEW)
        await raw.update_one({}, {"$set": {"password": older}})
        read = await Member.get(member.id)
        await raw.update_one({}, {"$set": {"password": "$argon2id$another"}})
        assert await read.password.verify(NEW)
        assert (await stored(app, Member))[0]["password"] == "$argon2id$another"


async def test_a_copy_has_no_password_unless_it_is_told(app: App) -> None:
    person = await created()
    copied = await person.copy({"email": None})
    assert copied.password is None
    with definitions():

        class Account(models.BaseModel):
            _name = "vault.account"
            password = Password(parameters=FAST, copy=True, required=True)

        account = await Account.create({"password": NEW})
        assert await (await account.copy()).password.verify(NEW)
        assert is_hidden(await stored(app, Account))


async def test_a_hash_of_another_program_is_taken_over(app: App) -> None:
    foreign = await hashing.hashed(Argon2(2, 16, 1), NEW)
    person = await created(password=PasswordHash.of_hash(foreign))
    assert (await stored(app))[0]["password"] == foreign
    assert await person.password.verify(NEW)
    for wrong in ("", "plain text", "$2b$12$abcdefghijklmnopqrstuv", foreign.replace("id", "i", 1)):
        with pytest.raises(ValueError, match="no hash of argon2id"):
            PasswordHash.of_hash(wrong)


async def test_the_loop_runs_while_a_password_is_hashed(app: App) -> None:
    with definitions():

        class Slow(models.BaseModel):
            _name = "vault.slow"
            password = Password(parameters=Argon2(2, 32_768, 1))

        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await Slow.create([{"password": NEW}, {"password": NEW}])
        counting.cancel()
        assert turns > 20


async def test_not_more_are_hashed_at_a_time_than_there_are_turns() -> None:
    running = most = 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(1000):
            pass
        running -= 1

    await asyncio.gather(*(hashing.in_turn(work) for _ in range(40)))
    assert 1 <= most <= hashing.AT_ONCE


async def test_a_cancelled_hash_keeps_its_turn_until_it_is_done() -> None:
    import threading

    go = threading.Event()
    tasks = [asyncio.create_task(hashing.in_turn(go.wait)) for _ in range(hashing.AT_ONCE)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    later = asyncio.create_task(hashing.in_turn(lambda: 5))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not later.done()
    go.set()
    assert await later == 5


async def test_without_the_plugin_the_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="password"):
        async with App(
            "mongomock://", database="x", plugins=[SecurityPlugin], disabled=["security"]
        ):
            await Person.create(full())


async def test_without_the_plugin_no_text_is_ever_stored() -> None:
    with definitions():

        class Plain(models.BaseModel):
            _name = "vault.plain"
            password = Password(parameters=FAST)

        async with App("mongomock://", database="vault_plain", plugins=[]) as app:
            with pytest.raises(Exception) as raised:
                await Plain.create({"password": NEW})
            assert is_hidden(raised.value)
            assert await stored(app, Plain) == []


async def test_a_rollback_takes_the_new_hash_back() -> None:
    from earnorm import transaction

    async with vault(os.environ["EARNORM_TEST_MONGO_URI"]):
        person = await created()
        with pytest.raises(RuntimeError):
            async with transaction():
                await person.write({"password": NEW})
                raise RuntimeError
        await person.refresh()
        assert await person.password.verify(f"{CANARY}-password")


@pytest.mark.parametrize(
    "options", [{"unique": True}, {"index": True}, {"min_length": 0}, {"max_length": 5000}]
)
def test_options_that_cannot_be_kept_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Password(**options)


def test_a_pickle_of_a_record_has_no_hash() -> None:
    with pytest.raises(NotSupported):
        pickle.dumps(Person(**full()))
