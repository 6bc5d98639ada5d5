"""Sequences with a scope: the records with each value of a field have their own numbers, from 1."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

import earnorm
from earnorm import (
    UUID,
    App,
    BaseModel,
    ConfigurationError,
    DuplicateKey,
    Index,
    Int,
    List,
    Many2one,
    Sequence,
    String,
    depends,
    transaction,
    transactional,
)
from earnorm.fields.scopes import scope_text

from .conftest import Commands


class Shop(BaseModel):
    _name = "seqscope.shop"
    name = String(required=True)


class Bill(BaseModel):
    _name = "seqscope.bill"
    number = Sequence("B-{number:03}", scope="shop_id", unique=True)
    shop_id = Many2one(Shop, db_name="s")


class Slip(BaseModel):
    _name = "seqscope.slip"
    number = Sequence("{number}", scope="till", gap_free=True, unique=True)
    till = String(required=True)


class Ticket(BaseModel):
    _name = "seqscope.ticket"
    number = Sequence("{year}-{number}", scope="project")
    project = Int()
    token = UUID()


class Named(BaseModel):
    _name = "seqscope.named"
    _indexes = [Index("till", "number", unique=True, name="till_and_number")]
    number = Sequence(scope="till", unique=True)
    till = String()


async def shops(*names: str) -> list[Shop]:
    return list(await Shop.create([{"name": name} for name in names]))


async def test_each_value_of_the_scope_has_its_own_numbers(app: App) -> None:
    north, south = await shops("north", "south")
    bills = await Bill.create(
        [
            {"shop_id": north},
            {"shop_id": south},
            {"shop_id": north.id},
            {},
            {"shop_id": south.pk},
            {},
        ]
    )
    assert [bill.number for bill in bills] == ["B-001", "B-001", "B-002", "B-001", "B-002", "B-002"]
    assert (await Bill(shop_id=south).save()).number == "B-003"
    async with Bill.bulk() as bulk:
        bill = bulk.create({"shop_id": north})
    assert bill.number == "B-003"
    await Bill.create_many([{"shop_id": north}, {}])
    stored = [(b.shop_id.id if b.shop_id else None, b.number) for b in await Bill.search()]
    assert len(stored) == len(set(stored)) == 10
    last = earnorm.sequence("seqscope.bill.number", scope=north)
    assert await last.last() == 4
    assert await earnorm.sequence("seqscope.bill.number", scope=north.id).next() == 5


async def test_a_number_is_unique_within_its_scope_only(app: App) -> None:
    north, south = await shops("north", "south")
    await Bill.create([{"shop_id": north}, {"shop_id": south}])
    with pytest.raises(DuplicateKey) as caught:
        await Bill.create({"shop_id": north, "number": "B-001"})
    assert set(caught.value.fields) == {"shop_id", "number"}
    await Bill.create({"number": "B-001"})
    with pytest.raises(DuplicateKey):  # those without a shop are numbered together
        await Bill.create({"number": "B-001"})


async def test_a_record_that_changes_its_scope_keeps_its_number(app: App) -> None:
    north, south = await shops("north", "south")
    one, other = await Bill.create([{"shop_id": north}, {"shop_id": south}])
    two = await Bill.create({"shop_id": north})
    await two.write({"shop_id": south})
    assert two.number == "B-002"
    with pytest.raises(DuplicateKey):  # its number is taken there
        await one.write({"shop_id": south})
    # The counter of the shop does not know the number that came from elsewhere.
    with pytest.raises(DuplicateKey):
        await Bill.create({"shop_id": south})
    assert (await Bill.create({"shop_id": south})).number == "B-003"
    assert other.number == "B-001"


async def test_the_index_of_a_numbered_field_begins_with_its_scope(app: App) -> None:
    await Bill.count()
    await Named.count()
    (diff,) = await app.indexes.diff([Bill])
    assert [spec.keys for spec in diff.ok] == [(("s", 1), ("number", 1))]
    (named,) = await app.indexes.diff([Named])
    assert [(spec.name, spec.keys) for spec in named.ok] == [
        ("till_and_number", (("till", 1), ("number", 1)))
    ]
    assert {part.name: part.kind for part in app.parts("seqscope.bill")}["s_1_number_1"] == "index"


async def test_a_batch_takes_one_range_of_numbers_for_each_value(commands: Commands) -> None:
    await Ticket.create({"project": 1})
    commands.clear()
    tickets = await Ticket.create([{"project": n % 3} for n in range(90)])
    assert commands.of("earnorm_sequence").count("findAndModify") <= 3 + 2  # two counters are new
    commands.clear()
    await Ticket.create([{"project": n % 3} for n in range(90)])
    assert commands.of("earnorm_sequence") == ["findAndModify"] * 3
    by_project: dict[Any, list[int]] = {}
    for ticket in tickets:
        by_project.setdefault(ticket.project, []).append(int(ticket.number.partition("-")[2]))
    assert {k: v == [*range(v[0], v[0] + 30)] for k, v in by_project.items()} == dict.fromkeys(
        range(3), True
    )


async def test_no_scope_has_a_gap_whichever_transactions_fail(server_app: App) -> None:
    @transactional(retries=100)
    async def issue(number: int) -> Slip:
        # Two counters in one transaction, in both orders.
        tills = ["a", "b"] if number % 2 else ["b", "a"]
        slips = await Slip.create([{"till": till} for till in tills])
        if number % 4 == 0:
            raise ZeroDivisionError
        return slips[0]

    answers = await asyncio.gather(*(issue(n) for n in range(16)), return_exceptions=True)
    assert sum(isinstance(answer, ZeroDivisionError) for answer in answers) == 4
    for till in "ab":
        numbers = sorted(int(slip.number) for slip in await Slip.search([("till", "=", till)]))
        assert numbers == list(range(1, 13))


async def test_transactions_of_different_scopes_do_not_wait_for_each_other(server_app: App) -> None:
    await Slip.count()
    inside = asyncio.Event()

    async def hold() -> None:
        async with transaction():
            await Slip.create({"till": "slow"})
            inside.set()
            await asyncio.wait_for(done.wait(), 20)

    done = asyncio.Event()
    task = asyncio.create_task(hold())
    await inside.wait()
    async with transaction():
        assert (await Slip.create({"till": "quick"})).number == "1"
    done.set()
    await task


@pytest.mark.parametrize(
    ("scope", "problem"),
    [
        ("shop", "does not exist"),
        ("tags", "is a List"),
        ("total", "is computed"),
        ("other", "is a number itself"),
        ("_id", "is another one in each record"),
        ("items", "is not stored"),
    ],
)
async def test_a_scope_that_is_not_known_in_time_is_refused(
    memory_app: App, scope: str, problem: str
) -> None:
    class Wrong(BaseModel):
        _name = f"seqscope.wrong.{scope}"
        number = Sequence(scope=scope)
        other = Sequence()
        shop_id = Many2one(Shop)
        tags = List(String())
        total = Int(compute="_total", store=True)
        items = earnorm.One2many(f"seqscope.wrong.{scope}", "parent_id")
        parent_id = Many2one(f"seqscope.wrong.{scope}")

        @depends()
        def _total(self) -> None:
            self.total = 1

    with pytest.raises(ConfigurationError, match=f"scope='{scope}'.*{problem}"):
        await Wrong.create({})
    earnorm.forget(Wrong)


def test_no_two_values_share_a_counter() -> None:
    values: list[Any] = [
        *(None, "", "%", "[]", "]", "[", "a][b", "a:2026", "x" * 101, "x" * 102, "%25", 1, 1.5),
        *(uuid.UUID(int=1), b"a", "É"),
    ]
    texts = list(map(scope_text, values))
    assert len(set(texts)) == len(texts) and max(map(len, texts)) < 120
    pairs = [(one, other) for one in values for other in values]
    assert len({scope_text(one) + scope_text(other) for one, other in pairs}) == len(pairs)


async def test_a_record_that_is_not_stored_is_no_scope(memory_app: App) -> None:
    with pytest.raises(ValueError, match="not stored yet"):
        earnorm.sequence("a", scope=Shop(name="a"))
    with pytest.raises(TypeError, match="name of a field"):
        Sequence(scope=3)  # type: ignore[arg-type] # on purpose
