"""Writes of every kind that many tasks of several processes make at once, on the same records."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import earnorm
from earnorm import EarnORMError, Inc, Toggle
from tests.core.golden_writes import (
    Animal,
    Cat,
    Customer,
    Detail,
    Dog,
    Folder,
    Label,
    Land,
    Line,
    Loan,
    Mark,
    Member,
    Node,
    Owner,
    Partner,
    Sale,
    Thing,
    Whole,
    word,
)
from tests.plugins.cache.workload.reads import reads_of

Random = random.Random
Action = Callable[[Random], Awaitable[Any]]


class Rollback(Exception):
    """Ends a transaction, which is rolled back."""


async def fill(r: Random) -> None:
    """Create what the actions are about."""
    lands = await Land.create([{"name": word(r), "vat": n} for n in range(2)])
    customers = await Customer.create(
        [{"name": word(r), "land_id": lands[n % 2]} for n in range(3)]
    )
    labels = await Label.create([{"name": word(r), "weight": n} for n in range(3)])
    sales = await Sale.create(
        [
            {"code": f"s{n}", "customer_id": customers[n % 3], "label_ids": labels[: n % 3]}
            for n in range(6)
        ]
    )
    await Line.create([{"sale_id": sales[n % 6], "qty": n} for n in range(12)])
    await Dog.create([{"code": f"d{n}", "chip": "c"} for n in range(3)])
    await Cat.create([{"code": f"c{n}"} for n in range(3)])
    top = await Node.create({"code": "n0"})
    for n in range(1, 6):
        top = await Node.create({"code": f"n{n}", "parent_id": top if n % 2 else None})
    partners = await Partner.create([{"name": word(r)} for _ in range(2)])
    await Member.create([{"code": f"m{n}", "partner_id": partners[n % 2]} for n in range(4)])
    await Whole.create([{"code": f"w{n}", "land_id": lands[0]} for n in range(4)])
    await household(r)


async def household(r: Random) -> None:
    """Create an owner with things, of which something points at each."""
    owner = await Owner.create({"name": word(r)})
    mark = await Mark.create({"name": word(r)})
    things = await Thing.create(
        [{"name": word(r), "owner_id": owner, "mark_ids": [mark]} for _ in range(2)]
    )
    await Detail.create([{"thing_id": each, "mark_id": mark} for each in things])
    await Loan.create({"about": mark, "owner_id": owner})


async def one(r: Random, model: Any, domain: Sequence[Any] = ()) -> Any:
    """Return some record of a model; it is read through the cache, where that has it.

    Raises:
        NotFound: It was deleted in between.
    """
    pks = [each.pk for each in await model.search([*domain], limit=50).only("id")]
    return await model.get(r.choice(pks)) if pks else await model.get("0" * 24)


async def _line(r: Random) -> None:
    values = some_of(r, {"qty": r.randint(0, 9), "price": Inc(1), "note": word(r)})
    await (await one(r, Line)).write(values)


def some_of(r: Random, values: dict[str, Any]) -> dict[str, Any]:
    """Return some of the values, at least one."""
    return dict(r.sample([*values.items()], r.randint(1, len(values))))


async def _line_moves(r: Random) -> None:
    line = await one(r, Line)
    line.sale_id = await one(r, Sale)
    await line.save()


async def _land(r: Random) -> None:
    await (await one(r, Land)).write({"vat": r.randint(0, 30), "name": word(r)})


async def _customer(r: Random) -> None:
    await (await one(r, Customer)).write({"land_id": await one(r, Land)})


async def _labels(r: Random) -> None:
    labels = [each for each in await Label.search() if r.random() < 0.5]
    await (await one(r, Sale)).write({"label_ids": labels})


async def _sales(r: Random) -> None:
    await Sale.search([("number", "<=", r.randint(0, 9))]).update({"number": r.randint(0, 9)})


async def _lines(r: Random) -> None:
    sale = await one(r, Sale)
    await Line.create([{"sale_id": sale, "qty": n} for n in range(2)])
    await Line.search([("sale_id", "=", sale), ("qty", ">", 5)]).delete()


async def _sale(r: Random) -> None:
    await Sale.upsert({"code": f"s{r.randrange(8)}", "fee": r.randint(0, 9)}, "code")


async def _sale_goes(r: Random) -> None:
    await (await one(r, Sale)).unlink()


async def _animals(r: Random) -> None:
    await Animal.search([("number", "<", r.randint(0, 9))]).update({"number": Inc(3)})


async def _animal(r: Random) -> None:
    animal = await one(r, Animal)
    kind = {"kind": "cat", "code": f"c{r.randrange(6)}"}
    await animal.write(kind if isinstance(animal, Cat) and r.random() < 0.3 else {"note": word(r)})


async def _dogs(r: Random) -> None:
    dogs = [each for each in await Dog.search() if r.random() < 0.5]
    await Dog.write_many({each: {"number": r.randint(0, 9), "chip": word(r)} for each in dogs})


async def _new_cat(r: Random) -> None:
    code = f"c{r.randrange(6)}"
    await Cat.search([("code", "=", code)]).delete()
    await Cat.create({"code": code, "lives": r.randint(1, 9)})


async def _node(r: Random) -> None:
    node, parent = await one(r, Node), await one(r, Node)
    await node.write({"parent_id": parent if r.random() < 0.7 else None})


async def _nodes(r: Random) -> None:
    node = await one(r, Node)
    await Node.search([("id", "child_of", node)]).update({"number": r.randint(0, 9)})


async def _branch(r: Random) -> None:
    await (await one(r, Node)).unlink()
    top = await Node.create({"code": f"x{r.randrange(10**6)}"})
    await Node.create([{"code": f"x{r.randrange(10**6)}", "parent_id": top} for _ in range(2)])


async def _folder(r: Random) -> None:
    top = await Folder.create({"name": word(r)})
    await Folder.create({"name": word(r), "inside_id": top})
    await (await one(r, Folder)).unlink()


async def _member(r: Random) -> None:
    await (await one(r, Member)).write(some_of(r, {"name": word(r), "number": r.randint(0, 9)}))


async def _members(r: Random) -> None:
    partner = await one(r, Partner)
    async with Member.bulk() as block:
        block.create({"code": f"m{r.randrange(10**6)}", "partner_id": partner})
        block.write(await one(r, Member), {"partner_id": partner, "note": word(r)})
        block.unlink(await one(r, Member))


async def _partner(r: Random) -> None:
    await Partner.search().update({"name": word(r)})


async def _whole(r: Random) -> None:
    whole = await one(r, Whole)
    whole.number, whole.note = r.randint(0, 9), word(r)
    await whole.save()  # refused, if somebody else has written it


async def _archive(r: Random) -> None:
    whole = (await Whole.with_archived().limit(9)).filtered(lambda each: r.random() < 0.3)
    await whole.write({"active": r.random() < 0.7})


async def _toggle(r: Random) -> None:
    await Whole.search([("number", "<", r.randint(0, 9))]).update({"open": Toggle()})


async def _new_whole(r: Random) -> None:
    await Whole.create([{"code": f"w{r.randrange(10**6)}"} for _ in range(2)])


async def _cascade(r: Random) -> None:
    await household(r)
    await (await one(r, r.choice([Owner, Mark, Thing]))).unlink()


SINGLE: dict[str, Action] = {
    action.__name__.strip("_"): action
    for action in (
        *(_line, _line_moves, _land, _customer, _labels, _sales, _lines, _sale, _sale_goes),
        *(_animals, _animal, _dogs, _new_cat, _node, _nodes, _branch, _folder),
        *(_member, _members, _partner, _whole, _archive, _toggle, _new_whole, _cascade),
    )
}


async def _in_transaction(r: Random) -> None:
    """Do several, and try again what conflicts; some are rolled back at the end."""
    actions = r.sample([*SINGLE.values()], 2)
    is_over = r.random() < 0.3

    @earnorm.transactional(retries=2)
    async def several() -> None:
        for action in actions:
            await action(r)
        if is_over:
            raise Rollback

    await several()


async def _cancelled(r: Random) -> None:
    """Begin one, and cancel it at some moment."""
    task = asyncio.ensure_future(r.choice([*SINGLE.values()])(r))
    await asyncio.sleep(r.random() * 0.02)
    task.cancel()
    await task


async def _read(r: Random) -> None:
    """Read, so that there is something to forget."""
    model = r.choice([Line, Sale, Customer, Land, Label, Animal, Cat, Node, Member, Whole, Thing])
    pks = [each.pk for each in await model.search(limit=20).only("id")]
    for read in r.sample([*reads_of(model, pks).values()], 3) if pks else ():
        await read()


WEIGHTS: dict[Action, int] = {
    **dict.fromkeys(SINGLE.values(), 1),
    _in_transaction: 6,
    _cancelled: 3,
    _read: 30,
}


async def storm(r: Random, actions: int) -> Counter[str]:
    """Do so many actions one after the other; return how often each was done, and what was refused."""
    ends: Counter[str] = Counter()
    for _ in range(actions):
        (action,) = r.choices([*WEIGHTS], [*WEIGHTS.values()])
        name = action.__name__.strip("_")
        try:
            await action(r)
        except (EarnORMError, Rollback) as error:
            ends[f"{name}: {type(error).__name__}"] += 1
        except asyncio.CancelledError:
            if action is not _cancelled:
                raise
        ends[name] += 1
    return ends
