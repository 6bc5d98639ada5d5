"""Records of a family whose class is not known yet: each value is validated once, by their own class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Date,
    Inc,
    Int,
    List,
    RecordSet,
    String,
    ValidationError,
    validates,
)

calls: list[str] = []


def noted(value: Any) -> Any:
    calls.append(f"field {value}")
    return value


class Account(BaseModel):
    _name = "once.account"
    _discriminator = "kind"

    kind = String()
    name = String(max_length=5)
    secret = String()
    note = String(validators=[noted])
    day = Date()
    words = List(String())

    @validates("secret")
    def _hash(self, value: str) -> str:
        calls.append(f"hash {value}")
        return f"#{value}"


class Small(Account):
    _name = "once.small"

    note = String(validators=[noted], max_length=9)
    limit = Int(max_value=10)


class Large(Account):
    _name = "once.large"

    name = String(max_length=50)


async def assigned(record: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(record, name, value)
    await record.save()


async def assigned_in_a_set(record: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(record, name, value)
    await RecordSet(Account, [record]).save()


async def loaded_later(record: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(record, name, value)
    await record
    await record.save()


async def written(record: Any, values: dict[str, Any]) -> None:
    await record.write(values)


async def saved_with(record: Any, values: dict[str, Any]) -> None:
    await record.save(values)


async def in_a_bulk(record: Any, values: dict[str, Any]) -> None:
    async with Account.bulk() as bulk:
        bulk.write(record, values)


Way = Callable[[Any, dict[str, Any]], Awaitable[None]]
ASSIGNING = (assigned, assigned_in_a_set, loaded_later)
WAYS = (*ASSIGNING, written, saved_with)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", [Account, Small, Large])
async def test_a_validator_with_an_effect_runs_once(
    memory_app: App, way: Way, cls: type[Account]
) -> None:
    record = await cls.create({"secret": "a", "note": "a"})
    ghost: Any = Account.browse([record.pk])[0]
    words, values = ["w"], {"secret": "b", "note": "n", "day": "2024-05-01"}
    calls.clear()
    await way(ghost, {**values, "words": words})
    words.append("later")  # the program's own
    assert sorted(calls) == ["field n", "hash b"]
    stored: Any = await Account.get(record.pk)
    assert (stored.secret, stored.note, str(stored.day)) == ("#b", "n", "2024-05-01")
    assert stored.words == ["w"] and not ghost.is_changed


async def test_a_field_that_all_classes_validate_alike_is_validated_when_it_is_assigned(
    memory_app: App,
) -> None:
    record = await Small.create({"secret": "a"})
    ghost: Any = Account.browse([record.pk])[0]
    ghost.day, ghost.secret = "2024-05-01", "b"
    assert str(ghost.day) == "2024-05-01" and type(ghost.day) is not str
    assert ghost.secret == "b"  # its own class validates it with the write
    await ghost.save()
    assert ghost.secret == "#b"


@pytest.mark.parametrize("is_ghost", [False, True])
async def test_a_bulk_asks_the_class_of_each_record(app: App, is_ghost: bool) -> None:
    small, large = await Small.create({"limit": 1}), await Large.create({"name": "l"})
    records: Any = [small, large]
    if is_ghost:
        records = [Account.browse([one.pk])[0] for one in records]
    async with Account.bulk() as bulk:
        bulk.write(records[0], {"limit": Inc(4), "note": "n"})
        bulk.write(records[1], {"name": "a long name", "secret": "s"})
        bulk.write(records[0], {"name": "s"})
    found: Any = [await Account.get(one.pk) for one in (small, large)]
    assert (found[0].limit, found[0].note, found[0].name) == (5, "n", "s")
    assert (found[1].name, found[1].secret) == ("a long name", "#s")
    for record, values in (
        (records[0], {"limit": 11}),
        (records[0], {"limit": Inc(9)}),
        (records[0], {"name": "a long name"}),
        (records[0], {"note": "a long note"}),
        (records[1], {"limit": 1}),
        (records[1], {"nope": 1}),
    ):
        with pytest.raises(ValidationError):
            async with Account.bulk() as bulk:
                bulk.write(record, values)
    with pytest.raises(ValidationError, match="written twice"):
        async with Account.bulk() as bulk:
            bulk.write(records[0], {"limit": 2})
            bulk.write(records[0], {"limit": 3})
    again: Any = [await Account.get(one.pk) for one in (small, large)]
    assert [one.to_dict() for one in again] == [one.to_dict() for one in found]
