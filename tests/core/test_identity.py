"""A record is itself: its id is fixed once it is asked for, its hash never changes, and equality follows from both."""

from __future__ import annotations

import asyncio
import copy
import datetime
import itertools
import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

import earnorm
from earnorm import (
    UUID,
    App,
    DuplicateKey,
    Many2one,
    One2many,
    String,
    ValidationError,
    models,
)
from earnorm.fields import Date

from .conftest import drop
from .laws import World, law, world


class Animal(models.BaseModel):
    _name = "identity.animal"
    _discriminator = "kind"
    kind = String(required=True)
    name = String(default="")


class Dog(Animal):
    chip = String()


class Plain(models.BaseModel):
    _name = "identity.plain"
    name = String(default="")


class Named(models.BaseModel):
    _name = "identity.named"
    _id = String()
    name = String(default="")


class Dated(models.BaseModel):
    """Its ids are stored in another form than the program has them."""

    _name = "identity.dated"
    _id = Date()
    name = String(default="")


class Numbered(models.BaseModel):
    _name = "identity.numbered"
    _id = UUID(default=uuid.uuid4)
    name = String(default="")


class Owner(models.BaseModel):
    _name = "identity.owner"
    animal_id = Many2one(Animal)
    plain_id = Many2one(Plain)
    named_id = Many2one(Named)


class Box(models.BaseModel):
    _name = "identity.box"
    item_ids = One2many("identity.item", "box_id")


class Item(models.BaseModel):
    _name = "identity.item"
    box_id = Many2one(Box)
    name = String()


KINDS: dict[str, tuple[type[models.BaseModel], list[Any]]] = {
    "animal": (Animal, [ObjectId(b"a" * 12), ObjectId(b"b" * 12)]),
    "dog": (Dog, [ObjectId(b"a" * 12), ObjectId(b"b" * 12)]),
    "plain": (Plain, [ObjectId(b"a" * 12), ObjectId(b"b" * 12)]),
    "named": (Named, ["x", "y"]),
    "dated": (Dated, [datetime.date(2020, 1, 1), datetime.date(2021, 2, 3)]),
    "numbered": (Numbered, [uuid.UUID(int=1), uuid.UUID(int=2)]),
}
LINKS = {"animal": "animal_id", "dog": "animal_id", "plain": "plain_id", "named": "named_id"}
OWN = {"named", "dated"}  # kinds whose ids nobody draws
COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda record: pickle.loads(pickle.dumps(record)),
]


@dataclass(eq=False)
class Known:
    """A record, and what the law knows about it."""

    kind: str
    record: Any
    key: Any
    """The id that was given, or an object that stands for the one that is drawn; None without any."""
    is_given: bool
    app: str | None = None
    """The App where it is stored; None if it is not stored."""
    is_deleted: bool = False
    hash: int | None = None
    id: str | None = None

    @property
    def family(self) -> str:
        return "animal" if self.kind == "dog" else self.kind

    def is_same(self, other: Known, current: str) -> bool:
        if self is other or self.record is other.record:
            return True
        return (
            self.key is not None
            and self.family == other.family
            and self.key == other.key
            and (self.app or current) == (other.app or current)
        )


@dataclass(eq=False)
class Law:
    """The records of one example, and the ids that are stored in each App."""

    apps: dict[str, App]
    current: str = "one"
    pool: list[Known] = field(default_factory=list[Known])
    stored: set[tuple[str, str, Any]] = field(default_factory=set[tuple[str, str, Any]])

    async def act(self, name: str, *arguments: Any) -> None:
        if name == "new":
            self.new(*arguments)
        elif name.startswith("create"):
            await self.create(*arguments, rolls_back=name != "create")
        elif name == "switch":
            self.current = "two" if self.current == "one" else "one"
        elif name == "check":
            self.check()
        elif self.pool:
            known = self.pool[arguments[0] % len(self.pool)]
            if name.startswith("give"):
                await self.give(known, arguments[1], name != "give")
            elif name in ("save", "roll back"):
                await self.save(known, name == "roll back")
            elif name == "copy":
                self.copy(known, arguments[1])
            elif name == "find":
                await self.find(known, arguments[1])
            else:
                await self.delete(known)

    def new(self, kind: str, number: int, is_given: bool) -> None:
        model, ids = KINDS[kind]
        if is_given:
            key: Any = ids[number % 2]
            record: Any = model(_id=key)
        else:
            record = model()
            key = None if kind in OWN else object()
            is_given = kind == "numbered"  # its default gives it
        self.pool.append(Known(kind, record, key, is_given))

    async def give(self, known: Known, number: int, rolls_back: bool) -> None:
        value = KINDS[known.kind][1][number % 2]
        if known.key is None or (not known.is_given and known.hash is None and known.app is None):
            if self.is_fixed(known):
                with pytest.raises(ValidationError, match="fixed"):
                    known.record._id = value
                return
            known.key, known.is_given = value, True
            if rolls_back:
                with pytest.raises(ZeroDivisionError):
                    async with earnorm.transaction():
                        known.record._id = value
                        raise ZeroDivisionError
            else:
                known.record._id = value
        elif known.key != value or known.app is not None:
            with pytest.raises(ValidationError, match=r"fixed|only on a new record"):
                known.record._id = value
        else:
            known.record._id = value  # the same once more

    @staticmethod
    def is_fixed(known: Known) -> bool:
        """Equality, a failed save and a copy ask for the id as well; only the record can tell."""
        return hasattr(known.record, "_drawn_id")

    async def save(self, known: Known, rolls_back: bool) -> None:
        if known.app is not None:
            return
        if known.key is None:
            with pytest.raises(ValidationError, match="_id"):
                await known.record.save()
            return
        place = (self.current, known.family, known.key)
        if place in self.stored:
            with pytest.raises(DuplicateKey, match="_id"):
                await known.record.save()
            assert known.record.id is None
            return
        if rolls_back:
            with pytest.raises(ZeroDivisionError):
                async with earnorm.transaction():
                    await known.record.save()
                    assert known.id in (None, known.record.id)
                    known.id = known.record.id
                    raise ZeroDivisionError
            assert (known.record.id, known.record.is_stored) == (None, False)
            return
        await known.record.save()
        self.stored.add(place)
        known.app = self.current
        assert known.id in (None, known.record.id)
        known.id = known.record.id

    async def create(self, kind: str, number: int, is_given: bool, rolls_back: bool) -> None:
        """Create one from a dict, which may be rolled back."""
        model, ids = KINDS[kind]
        is_given = is_given or kind in OWN
        key: Any = ids[number % 2] if is_given else object()
        place = (self.current, "animal" if kind == "dog" else kind, key)
        values = {"_id": key} if is_given else {}
        if place in self.stored:
            with pytest.raises(DuplicateKey):
                await model.create(values)
            return
        known = Known(kind, None, key, is_given or kind == "numbered")
        if rolls_back:
            with pytest.raises(ZeroDivisionError):
                async with earnorm.transaction():
                    known.record = await model.create(values)
                    known.id, known.hash = known.record.id, hash(known.record)
                    raise ZeroDivisionError
        else:
            known.record = await model.create(values)
            known.id, known.app = known.record.id, self.current
            self.stored.add(place)
        self.pool.append(known)

    def copy(self, known: Known, number: int) -> None:
        copied = Known(known.kind, COPIES[number % 3](known.record), known.key, known.is_given)
        if known.app is not None:
            if known.app != self.current:
                return  # it would be of the current App
            copied.app, copied.id, copied.is_deleted = known.app, known.id, known.is_deleted
        elif not known.is_given:
            copied.key = None if known.kind in OWN else object()
        self.pool.append(copied)

    async def find(self, known: Known, way: int) -> None:
        if known.app != self.current or known.is_deleted:
            return
        if way % 3 == 0:
            await known.record.refresh()
            return
        if way % 3 == 1 or known.kind not in LINKS:
            record: Any = await KINDS[known.kind][0].get(known.record.pk)
        else:  # what a link leads to, before it is loaded
            name = LINKS[known.kind]
            made = await Owner.create({name: known.record})
            owner = await Owner.get(made.pk)
            record = getattr(owner, name)
        self.pool.append(
            Known(known.kind, record, known.key, known.is_given, known.app, id=known.id)
        )

    async def delete(self, known: Known) -> None:
        if known.app != self.current or known.is_deleted:
            return
        await known.record.unlink()
        self.stored.discard((self.current, known.family, known.key))
        for other in self.pool:
            if known.is_same(other, self.current) and other.app == self.current:
                other.is_deleted = True

    def check(self) -> None:
        for known in self.pool:
            if known.key is None:
                with pytest.raises(TypeError, match="give _id first"):
                    hash(known.record)
            else:
                known.hash = hash(known.record) if known.hash is None else known.hash
                assert hash(known.record) == known.hash
            assert known.record.is_stored is (known.app is not None)
            expected = known.id if known.app else None
            assert known.record.id == expected
            assert (known.record.pk is None) is (expected is None)
        for one, other in itertools.product(self.pool, repeat=2):
            same = one.is_same(other, self.current)
            assert (one.record == other.record) is same, (one, other)
            assert (one.record != other.record) is not same
            if same and one.key is not None:
                assert hash(one.record) == hash(other.record)
        hashed = [known for known in self.pool if known.key is not None]
        groups: list[Known] = []
        for known in hashed:
            if not any(known.is_same(first, self.current) for first in groups):
                groups.append(known)
        assert len({known.record for known in hashed}) == len(groups)
        assert all(known.record in {k.record for k in hashed} for known in hashed)


def examples(kinds: list[str]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Actions on records of few models, so that they meet."""
    kind, number = st.sampled_from(kinds), st.integers(0, 1)
    made = st.tuples(
        st.sampled_from(["new", "new", "create", "create and roll back"]),
        kind,
        number,
        st.booleans(),
    )
    names = ["save", "roll back", "give", "give and roll back", "copy", "find", "delete", "switch"]
    done = [
        st.tuples(st.just(name), st.integers(0, 4), st.integers(0, 2)) for name in (*names, "check")
    ]
    return st.lists(st.one_of(made, made, *done), min_size=8, max_size=20)


async def run(apps: dict[str, App], actions: list[tuple[Any, ...]]) -> None:
    for app in apps.values():
        with app.activate():
            for model in (Animal, Plain, Named, Dated, Numbered, Owner):
                await model.search().delete()
    example = Law(apps)
    for action in (*actions, ("check",)):
        with apps[example.current].activate():
            await example.act(*action)


@contextmanager
def two_apps() -> Iterator[tuple[World, dict[str, App]]]:
    """The default App, and one more on another database."""
    uri, database = os.environ["EARNORM_TEST_MONGO_URI"], f"core_{uuid.uuid4().hex[:12]}"
    with world() as first:
        second = App(uri, database=database, plugins=[])

        async def start() -> None:
            await second.start()

        async def stop() -> None:
            await drop(second)
            await second.stop()

        first.run(start)
        try:
            yield first, {"one": first.app, "two": second}
        finally:
            first.run(stop)


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "kinds", [["animal", "dog"], *([k] for k in KINDS if k not in ("animal", "dog"))]
)
def test_a_record_stays_itself_in_every_state(kinds: list[str]) -> None:
    with two_apps() as (first, apps):

        @law(50)
        @given(examples(kinds))
        def stays(actions: list[tuple[Any, ...]]) -> None:
            first.run(lambda: run(apps, actions))

        stays()


# -- examples --------------------------------------------------------------------------------------


async def test_a_new_record_is_in_its_set_after_it_is_saved(app: App) -> None:
    plain = Plain(name="a")
    kept = {plain: 1}
    assert (plain.id, plain.pk) == (None, None)
    await plain.save()
    assert kept[plain] == 1 and plain in set(await Plain.search())


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
async def test_the_copy_of_a_new_record_is_another_record(
    memory_app: App, copied: Callable[[Any], Any]
) -> None:
    plain = Plain(name="a")
    records = {plain, copied(plain)}  # the hash has drawn its id
    assert len({*records, copied(plain)}) == 3
    given = Plain(name="a", _id=ObjectId(b"a" * 12))
    assert copied(given) == given


async def test_a_record_without_an_id_that_nobody_draws_equals_itself_only() -> None:
    one, other = Named(name="a"), Named(name="a")
    assert one == one and one != other
    with pytest.raises(TypeError, match="a Named without _id has no hash: give _id first"):
        hash(one)
    one._id = other._id = "a"
    assert one == other and hash(one) == hash(other)


async def test_an_id_is_checked_when_it_is_assigned() -> None:
    plain: Any = Plain()
    with pytest.raises(ValidationError, match="ObjectId"):
        plain._id = "x"
    plain._id = "61" * 12
    assert plain == Plain(_id=ObjectId(b"a" * 12))


async def test_constructing_draws_no_id() -> None:
    assert not hasattr(Plain(), "_drawn_id") and "_id" not in Plain().__dict__


async def test_two_tasks_that_save_one_new_record_make_one_document(server_app: App) -> None:
    plain = Plain(name="a")
    assert await asyncio.gather(plain.save(), plain.save()) == [plain, plain]
    assert (await Plain.search()).pks == [plain.pk]


async def test_a_save_that_was_refused_keeps_the_id_for_the_next(app: App) -> None:
    named = Plain(name="a")
    first = hash(named)
    with pytest.raises(ValidationError):
        await named.save({"name": 3})
    await named.save()
    assert hash(named) == first


async def test_a_command_creates_the_record_that_was_hashed(app: App) -> None:
    item = Item(name="a")
    kept = {item}
    box = await Box.create({"item_ids": [item]})
    assert item in kept and box.item_ids[0] in kept
    other = Item(name="b")
    kept.add(other)
    await box.write({"item_ids": [other]})
    assert {*await Item.search()} == kept
