"""A copy stores what its original has: no validator changes or refuses a value once more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Dict,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2one,
    String,
    ValidationError,
    constrains,
    validates,
)


def sealed(value: str) -> str:
    """Change the value on each call, as a hash of a password does."""
    if len(value) > 6:
        raise ValueError("too long to seal")
    return f"{value}####"


async def stamped(value: str) -> str:
    await asyncio.sleep(0)
    return f"{value}!"


class Key(EmbeddedModel):
    word = String(validators=[sealed])
    number = Int(copy=False, default=4)


class Lock(EmbeddedModel):
    word = String(validators=[sealed])
    number = Int(copy=False, required=True)


class Person(BaseModel):
    _name = "copies.person"

    city = String(validators=[sealed])


class Account(BaseModel):
    _name = "copies.account"
    _inherits = {"copies.person": "person_id"}

    person_id = Many2one(Person)
    name = String(required=True)
    secret = String(validators=[sealed])
    late = String(validators=[stamped])
    own = String()
    words = List(String(validators=[sealed]))
    table = Dict(String(validators=[sealed]))
    key = Embedded(Key)
    keys = List(Embedded(Key))
    lock = Embedded(Lock)
    number = Int(copy=False, default=3)
    code = String(copy=False)

    @validates("own")
    def _marked(self, value: str) -> str:
        return f"{value}*"

    @constrains("name")
    def _named(self) -> None:
        if self.name == "refused":
            raise ValueError("a bad name")


VALUES: dict[str, Any] = {
    "name": "a",
    "secret": "s",
    "late": "l",
    "own": "o",
    "words": ["w"],
    "table": {"t": "t"},
    "key": {"word": "k", "number": 9},
    "keys": [{"word": "i", "number": 9}],
    "number": 8,
    "code": "c",
    "city": "p",
}


async def stored(app: App, record: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    raw = app.dangerous_raw("the test compares documents")
    document = await raw["copies_account"].find_one({"_id": record.pk})
    person = await raw["copies_person"].find_one({"_id": document.pop("person_id")})
    del document["_id"], person["_id"]
    return document, person


async def test_a_copy_stores_equal_values(app: App) -> None:
    made = await Account.create(VALUES)
    original, person = await stored(app, made)
    assert (original["secret"], original["late"], original["own"]) == ("s####", "l!", "o*")
    expected = {**original, "number": 3}
    del expected["code"]
    expected["key"] = {"word": "k####", "number": 4}
    expected["keys"] = [{"word": "i####", "number": 4}]
    known = [made, await Account.get(made.pk), (await Account.search().only("name"))[0]]
    ghost = Account.browse([made.pk])[0]
    for source in (*known, ghost):
        copied = await source.copy()
        document, parent = await stored(app, copied)
        assert {k: v for k, v in document.items() if v is not None} == {
            k: v for k, v in expected.items() if v is not None
        }
        assert parent == person
        fresh = await Account.get(copied.pk)
        assert (copied.secret, copied.words, copied.key) == (fresh.secret, fresh.words, fresh.key)
    copied = await (await Account.search([("number", "=", 8)])).copy()
    assert copied.mapped("secret") == ["s####"]


async def test_what_is_given_and_what_was_changed_is_validated(app: App) -> None:
    made = await Account.create(VALUES)
    given = await made.copy({"secret": "g", "late": "g", "own": "g", "city": "g"})
    document, person = await stored(app, given)
    assert (document["secret"], document["late"], document["own"]) == ("g####", "g!", "g*")
    assert person["city"] == "g####" and document["words"] == ["w####"]
    made.secret, made.late = "n", "n"
    made.words.append("x")
    changed, _ = await stored(app, await made.copy())
    assert (changed["secret"], changed["late"]) == ("n####", "n!")
    assert made.secret == "n####" and made.is_changed
    unsaved = Account(name="u", secret="u", late="u")
    document, _ = await stored(app, await unsaved.copy())
    assert (document["secret"], document["late"]) == ("u####", "u!")


async def test_a_copy_shares_no_value_with_its_original(app: App) -> None:
    made = await Account.create(VALUES)
    copied = await made.copy()
    copied.words.append("x")
    copied.table["u"] = "x"
    assert copied.key is not None and made.key is not None
    copied.key.number = 77
    assert (made.words, made.table, made.key.number) == (["w####"], {"t": "t####"}, 9)
    assert not made.is_changed


async def test_rules_about_the_whole_record_hold_for_a_copy(app: App) -> None:
    made = await Account.create(VALUES)
    with pytest.raises(ValidationError, match="a bad name"):
        await made.copy({"name": "refused"})
    locked = await Account.create({"name": "l", "lock": {"word": "l", "number": 1}})
    with pytest.raises(ValidationError) as caught:
        await locked.copy()
    assert ("lock", "number") in [detail["loc"] for detail in caught.value.errors()]
    assert await Account.count() == 2
