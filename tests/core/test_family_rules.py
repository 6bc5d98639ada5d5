"""Records of a family, handed to their root: each record's own class decides, or the way refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Int,
    RecordSet,
    String,
    ValidationError,
    constrains,
    depends,
    validates,
)
from earnorm.fields import Sequence


class Ticket(BaseModel):
    _name = "rules.ticket"
    _discriminator = "kind"

    kind = String()
    name = String(max_length=9)
    level = Int()
    serial = Sequence("T-{number}", unique=True)
    own = Sequence("O-{number}")


class Bug(Ticket):
    _name = "rules.bug"

    name = String(max_length=5)
    severity = Int(max_value=3)

    @validates("level")
    def _small(self, value: int) -> int:
        if value > 10:
            raise ValueError("too big")
        return value + 1

    @constrains("name")
    def _good(self) -> None:
        if self.name == "bad":
            raise ValueError("a bad name")


class Crash(Bug):
    _name = "rules.crash"

    serial = Sequence("C-{number}", unique=True)


class Wish(Ticket):
    _name = "rules.wish"


async def stored(model: Any) -> list[tuple[Any, Any]]:
    return [(one.name, one.level) for one in await model.search(order="_id")]


@pytest.mark.parametrize(
    ("values", "message"),
    [({"name": "bad"}, "a bad name"), ({"name": "toolong"}, "5 char"), ({"level": 50}, "too big")],
)
async def test_each_class_judges_its_own_records_in_a_mixed_write(
    app: App, values: dict[str, Any], message: str
) -> None:
    records = [await cls.create({"name": "a", "level": 1}) for cls in (Ticket, Bug, Wish)]
    for order in itertools.permutations(records):
        mixed = RecordSet(Ticket, list(order))
        with pytest.raises(ValidationError, match=message) as caught:
            await mixed.write(values)
        (detail,) = caught.value.errors()
        assert detail["loc"][-1] == next(iter(values))
        if detail["type"] == "constrains":
            assert detail["loc"][0] == order.index(records[1])
        assert await stored(Ticket) == [("a", 1), ("a", 2), ("a", 1)]
        assert not any(record.is_changed for record in records)


async def test_a_mixed_write_takes_what_each_class_makes_of_a_value(app: App) -> None:
    records = [await cls.create({"name": "a", "level": 1}) for cls in (Ticket, Bug, Crash, Wish)]
    assert await RecordSet(Ticket, records).write({"level": 5, "name": "b"}) == 4
    expected = [("b", 5), ("b", 6), ("b", 6), ("b", 5)]
    assert [(one.name, one.level) for one in records] == expected == await stored(Ticket)
    with pytest.raises(ValidationError) as caught:  # a problem of all is told once
        await RecordSet(Ticket, records).write({"level": "x"})
    assert [detail["loc"] for detail in caught.value.errors()] == [("level",)]


async def test_a_new_record_of_a_subclass_keeps_its_class_and_its_fields(app: App) -> None:
    attempts: list[Any] = [
        lambda bug: Ticket.create(bug),
        lambda bug: Ticket.create([{"name": "t"}, bug]),
    ]
    for attempt in attempts:
        bug: Any = Bug(name="a", severity=2)
        with pytest.raises(ValidationError, match=r"a Bug is a record of rules\.bug.*record\.save"):
            await attempt(bug)
        assert isinstance(bug, Bug) and bug.severity == 2
    assert await Ticket.search().count() == 0
    fresh: Any = Bug(name="a", severity=2)
    await RecordSet(Ticket, [fresh, Wish(name="w")]).save()
    kept: Any = (await Ticket.search(order="_id"))[0]
    assert (type(kept)._name, kept.severity) == ("rules.bug", 2)


async def test_unique_numbers_of_a_family_are_counted_together(app: App) -> None:
    made: list[Any] = [await cls.create({"name": "a"}) for cls in (Ticket, Bug, Crash, Wish, Bug)]
    assert [one.serial for one in made] == ["T-1", "T-2", "C-1", "T-3", "T-4"]
    assert [one.own for one in made] == ["O-1", "O-1", "O-1", "O-1", "O-2"]


class Fixed(BaseModel):
    _name = "rules.fixed"

    code = String(readonly=True)
    number = Int()
    double = Int(compute="_double")

    @depends("number")
    def _double(self) -> int:
        return (self.number or 0) * 2


async def test_a_write_tells_read_only_and_other_problems_together(app: App) -> None:
    record = await Fixed.create({"code": "a"})
    values = {"code": "b", "nope": 1, "number": "x", "double": 3}
    attempts: list[Any] = [
        lambda: record.write(values),
        lambda: record.save(values),
        lambda: Fixed.write_many({record: values}),
        lambda: Fixed.search().update(values),
    ]
    for attempt in attempts:
        with pytest.raises(ValidationError) as caught:
            await attempt()
        assert {detail["loc"][-1] for detail in caught.value.errors()} == set(values)
