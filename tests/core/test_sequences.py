"""Sequences: no number twice, whoever asks at the same time; and no gap where none may be."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    BatchRefused,
    NotSupported,
    Sequence,
    String,
    TransactionError,
    ValidationError,
    transaction,
    transactional,
)

from .conftest import Commands

YEAR = datetime.datetime.now(datetime.UTC).year


class Invoice(BaseModel):
    _name = "seq.invoice"
    number = Sequence("INV-{year}-{number:05}", unique=True)
    customer = String(required=True)


class Receipt(BaseModel):
    _name = "seq.receipt"
    number = Sequence("{number}", gap_free=True, db_name="n", sequence="receipts")
    customer = String(required=True)


class Voucher(BaseModel):
    _name = "seq.voucher"
    number = Sequence("{number}", gap_free=True)
    serial = Sequence("{number}")


async def test_the_first_numbers_of_a_database_do_not_end_their_transactions(
    server_app: App,
) -> None:
    """The fast number is counted outside of the transaction, in the same collection."""
    async with transaction():  # which nobody can run again
        voucher = await Voucher.create({})
    assert (voucher.number, voucher.serial) == ("1", "1")


async def test_first_numbers_of_several_sequences_do_not_meet(server_app: App) -> None:
    async def count(name: str) -> int:
        async with transaction():
            return await earnorm.sequence(name, gap_free=True).next()

    assert await asyncio.gather(*map(count, "abcdefgh")) == [1] * 8


async def test_a_sequence_counts_from_one_and_each_on_its_own(app: App) -> None:
    assert [await earnorm.sequence("a").next() for _ in range(3)] == [1, 2, 3]
    assert await earnorm.sequence("b").next() == 1
    assert list(await earnorm.sequence("a").take(3)) == [4, 5, 6]
    assert (await earnorm.sequence("a").last(), await earnorm.sequence("c").last()) == (6, 0)
    for wrong in (0, -1, True, "1"):
        with pytest.raises(ValueError, match="from 1"):
            await earnorm.sequence("a").take(wrong)  # type: ignore[arg-type] # on purpose
    with pytest.raises(ValueError, match="has a name"):
        earnorm.sequence("")


async def test_fifty_tasks_at_once_get_fifty_numbers(app: App) -> None:
    numbers = await asyncio.gather(*(earnorm.sequence("a").next() for _ in range(50)))
    assert sorted(numbers) == list(range(1, 51))
    taken = await asyncio.gather(*(earnorm.sequence("b").take(n % 3 + 1) for n in range(50)))
    every = [number for each in taken for number in each]
    assert sorted(every) == list(range(1, len(every) + 1))


async def test_a_fast_number_is_lost_with_a_rollback_and_a_gap_free_one_is_given_back(
    server_app: App,
) -> None:
    fast, exact = earnorm.sequence("fast"), earnorm.sequence("exact", gap_free=True)
    with pytest.raises(TransactionError, match="'exact' is gap-free"):
        await exact.next()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with transaction():
                assert await exact.next() == 1
                await fast.next()
                raise ZeroDivisionError
    async with transaction():
        assert [await exact.next(), await exact.next()] == [1, 2]
        assert await fast.next() == 3


async def test_twenty_transactions_at_once_leave_no_gap_whichever_fail(server_app: App) -> None:
    @transactional(retries=100)
    async def issue(number: int) -> str:
        receipt = await Receipt.create({"customer": str(number)})
        if number % 4 == 0:
            raise ZeroDivisionError
        return receipt.number

    found = await asyncio.gather(*(issue(n) for n in range(20)), return_exceptions=True)
    numbers = [int(each) for each in found if isinstance(each, str)]
    assert [type(each) for each in found if not isinstance(each, str)] == [ZeroDivisionError] * 5
    assert sorted(numbers) == list(range(1, 16))
    stored = [int(receipt.number) for receipt in await Receipt.search()]
    assert sorted(stored) == sorted(numbers)


async def test_an_in_memory_database_has_no_transaction_to_count_in(memory_app: App) -> None:
    with pytest.raises(NotSupported, match="transaction"):
        async with transaction():
            pass
    with pytest.raises(TransactionError, match="gap-free"):
        await Receipt.create({"customer": "a"})
    assert await Receipt.count() == 0


async def test_a_field_is_numbered_on_every_way_of_creating(app: App) -> None:
    one = await Invoice.create({"customer": "a"})
    assert one.number == f"INV-{YEAR}-00001" and not one.is_changed
    two = await Invoice(customer="b").save()
    both = await Invoice.create([{"customer": "c"}, {"customer": "d"}])
    async with Invoice.bulk() as bulk:
        fifth = bulk.create({"customer": "e"})
    await Invoice.create_many([{"customer": "f"}])
    seventh, _ = await Invoice.upsert({"number": "X-1", "customer": "g"}, "number")
    assert seventh.number == "X-1"  # what is given stands
    known = [one, two, *both, fifth]
    assert [each.number for each in known] == [f"INV-{YEAR}-{n:05}" for n in range(1, 6)]
    numbers = [each.number for each in await Invoice.search(order="number")]
    assert numbers == [*(f"INV-{YEAR}-{n:05}" for n in range(1, 7)), "X-1"]
    assert (await one.copy()).number == f"INV-{YEAR}-00007"
    assert await earnorm.sequence(f"seq.invoice.number:{YEAR}").last() == 7


async def test_a_batch_is_numbered_with_one_round_trip(commands: Commands) -> None:
    await Invoice.create({"customer": "first"})
    commands.clear()
    await Invoice.create([{"customer": str(n)} for n in range(100)])
    assert commands.of("earnorm_sequence") == ["findAndModify"]
    numbers = [each.number for each in await Invoice.search(order="number")]
    assert len(set(numbers)) == 101


async def test_what_is_refused_before_the_database_takes_no_number(app: App) -> None:
    with pytest.raises(ValidationError):
        await Invoice.create([{"customer": "a"}, {}])
    assert (await Invoice.create({"customer": "a"})).number == f"INV-{YEAR}-00001"
    with pytest.raises((BatchRefused, ValidationError)):
        await Invoice.create({"customer": "b", "number": f"INV-{YEAR}-00001"})


@pytest.mark.parametrize(
    "format",
    ["INV", "{number}{number}", "{number}-{user}", "{number:q}", "{", "{number.real.x}", 5],
)
def test_a_format_that_cannot_number_is_refused(format: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"Sequence|format|str"):
        Sequence(format)


def test_each_period_of_the_format_has_a_counter_of_its_own() -> None:
    field = Sequence("{year}/{month:02}/{number}", sequence="s")
    at = datetime.datetime(2026, 3, 9, tzinfo=datetime.UTC)
    assert field.counter("m", at) == "s:2026:03"
    assert field.text(7, at) == "2026/03/7"
    assert Sequence().text(7, at) == "7"
