"""Checks of a plugin's layers and steps: that every kind of operation goes its way through them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from earnorm.domain import Domain
from earnorm.exceptions import DuplicateKey, TransactionError, ValidationError
from earnorm.features.grouping.aggregation import Count
from earnorm.kernel.transactions.blocks import transaction, transactional
from earnorm.models import BaseModel
from earnorm.plugin import ModelView
from earnorm.testing.conformance.checks import Broken, Check, check
from earnorm.testing.conformance.probes import Blocking, Counting
from earnorm.testing.conformance.subject import Subject, Target, stored_counts

_GROUP: Final = "layers"
LAYERED: Final = frozenset(
    {"wrap_operation", "register_steps", "register_reading", "before_create", "before_write"}
    | {"before_unlink", "after_create", "after_write", "after_unlink", "operation_failed"}
)
"""The hooks of plugins that have a part in operations."""
_STREAMED: Final = 5
NO_PART: Final = "it has no layer, no step and no observer"
"""The reason why checks of operations are not applicable to a plugin."""


@check(
    _GROUP,
    "results",
    requirement="Every operation of a record's life succeeds, ends, and gives the result that the contract says.",
    mend="A layer ends with 'return await call_next(op)', or returns an answer of its own of the same kind. "
    'The plugin\'s own models say _bookkeeping = "<its name>", so that it does not observe them. If the plugin refuses on purpose, let acting= act as somebody who may.',
    section="Layers",
)
async def results(subject: Subject) -> None:
    """Create, search, count, group, write and unlink records of each model."""
    counting = Counting()
    async with subject.app(counting):
        for target in subject.targets:
            try:
                await _live(target)
            finally:
                counting.refuse_endless(f"writing and reading {target.name!r}")
            counting.seen.clear()
    await subject.need(LAYERED, NO_PART)


async def _live(target: Target) -> None:
    model, name = target.model, target.name
    records = await done(f"create of {name!r}", model.create([target.values(1), target.values(2)]))
    if len(records) != 2 or not all(record.is_stored for record in records):
        raise Broken(f"a create of two records of {name!r} gave {len(records)} stored ones")
    ids = [record.id for record in records]
    found = await done(f"search of {name!r}", model.search([("id", "in", ids)]))
    if {record.id for record in found} != set(ids):
        raise Broken(f"a search by id of two new records of {name!r} found {len(found)} of them")
    counted = await done(f"count of {name!r}", model.count([("id", "in", ids)]))
    if counted != 2:
        raise Broken(f"a count of two new records of {name!r} gave {counted!r}")
    rows = await done(f"group of {name!r}", model.search([("id", "in", ids)]).group(number=Count()))
    if [row["number"] for row in rows] != [2]:
        raise Broken(f"a group of two new records of {name!r} counted {rows!r}")
    await done(f"write of {name!r}", records[0].write(target.changes(1)))
    await done(f"unlink of {name!r}", records.unlink())
    if await model.count([("id", "in", ids)]):
        raise Broken(f"records of {name!r} are still there after their unlink")


async def done(what: str, work: Awaitable[Any]) -> Any:
    """Await an operation; its error breaks the requirement."""
    try:
        return await work
    except Broken:
        raise
    except Exception as error:
        notes = [f" ({note})" for note in getattr(error, "__notes__", ())]
        if isinstance(error, DuplicateKey):
            notes.append(" (models= takes a function of a number where records must not be equal)")
        raise Broken(f"{what} raises {type(error).__name__}: {error}{''.join(notes)}") from error


@check(
    _GROUP,
    "cancellation",
    requirement="A cancellation goes through the plugin's layers: a cancelled operation ends, and ends as "
    "cancelled.",
    mend="Catch 'except Exception', never BaseException or CancelledError, around call_next; clean up in "
    "'finally' and raise again.",
    section="Layers",
    after=("results",),
)
async def cancellation(subject: Subject) -> None:
    """Cancel each kind of operation while it waits inside of all layers."""
    blocking = Blocking()
    await subject.need(LAYERED, NO_PART)
    async with subject.app(blocking):
        for target in subject.targets:
            records = await target.model.create([target.values(1)])
            for name, start in operations_of(target, records).items():
                blocking.is_closed = True
                blocking.reached.clear()
                try:
                    await cancel_inside(subject, f"{name} of {target.name!r}", start, blocking)
                finally:
                    blocking.is_closed = False


def operations_of(target: Target, records: Any) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    """Return a function that begins each kind of operation on a model, by the operation's name."""
    model, by_id = target.model, Domain([("id", "in", [record.id for record in records])])
    return {
        "search": lambda: model.search(by_id),
        "count": lambda: model.count([]),
        "group": lambda: model.search().group(number=Count()),
        "create": lambda: model.create(target.values(2)),
        "write": lambda: model.search(by_id).update(target.changes(3)),
        "unlink": lambda: model.search(by_id).delete(),
    }


async def cancel_inside(
    subject: Subject, what: str, start: Callable[[], Awaitable[Any]], blocking: Blocking
) -> None:
    """Cancel an operation when it waits inside of all layers.

    Raises:
        Broken: It goes on, or ends otherwise than cancelled.
    """

    async def run() -> Any:
        return await start()

    task = asyncio.create_task(run())
    reached = asyncio.create_task(blocking.reached.wait())
    await asyncio.wait(
        [task, reached], timeout=subject.patience, return_when=asyncio.FIRST_COMPLETED
    )
    reached.cancel()
    if task.done():  # a layer answered by itself, as a cache does
        task.exception()
        return
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=subject.patience)
    if not done:
        blocking.is_closed = False
        raise Broken(f"a cancelled {what} goes on")
    if not task.cancelled():
        error = task.exception()
        ended = "as if it had succeeded" if error is None else f"with {type(error).__name__}"
        raise Broken(f"a cancelled {what} ends {ended}")


@check(
    _GROUP,
    "updates",
    requirement="Every way to write goes through: one change, a change by domain, a change for each record, "
    "values of one record.",
    mend="op.values of a write is an Update or a PerRecord: look at op.updates, and change them with "
    "op.map_updates.",
    section="Layers",
    after=("results",),
)
async def updates(subject: Subject) -> None:
    """Write in each way."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app():
        for target in subject.targets:
            model, name = target.model, target.name
            first, second = await model.create([target.values(1), target.values(2)])
            by_id = Domain([("id", "in", [first.id, second.id])])
            await done(f"save of {name!r}", _saved(first, target.changes(1)))
            await done(
                f"write_many of {name!r}",
                model.write_many({first: target.changes(3), second: target.changes(4)}),
            )
            written = await done(
                f"update of {name!r}",
                model.search([("id", "=", first.id)]).update(target.changes(5)),
            )
            if written != 1:
                raise Broken(f"an update of one record of {name!r} wrote {written!r}")
            deleted = await done(f"delete of {name!r}", model.search(by_id).delete())
            if deleted != 2:
                raise Broken(f"a deletion of two records of {name!r} deleted {deleted!r}")


async def _saved(record: Any, values: Mapping[str, Any]) -> None:
    fields = ModelView(type(record)).fields
    for name, value in values.items():
        if name in fields:  # others are names that a step takes
            setattr(record, name, value)
    await record.save()


@check(
    _GROUP,
    "bulk",
    requirement="A bulk goes through: its creations, writes and deletions wait behind the last layer until "
    "all have arrived.",
    mend="A layer holds no lock, no slot and no connection across call_next that another operation of the "
    "same program waits for.",
    section="Layers",
    after=("results", "updates"),
)
async def bulk(subject: Subject) -> None:
    """Create, write and delete in one block."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app():
        for target in subject.targets:
            kept, gone = await target.model.create([target.values(1), target.values(2)])

            async def run(target: Target = target, kept: Any = kept, gone: Any = gone) -> None:
                async with target.model.bulk() as block:
                    block.create(target.values(3))
                    block.write(kept, target.changes(4))
                    block.unlink(gone)

            what = f"a bulk of {target.name!r}"
            await done(what, subject.within(run(), what))
            if await target.model.count() != 2:
                raise Broken(f"{what} did not do all of its parts")


@check(
    _GROUP,
    "streams",
    requirement="A stream goes through: each of its batches is a search of its own, and a stream that is left "
    "early is closed.",
    mend="Pass an operation with op.request on as it came, with its notes: change it with op.replace, and make "
    "no new Operation.",
    section="Layers",
    after=("results",),
)
async def streams(subject: Subject) -> None:
    """Read all records in a stream, then leave one after the first record."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app():
        for target in subject.targets:
            what = f"a stream of {target.name!r}"
            await target.model.create([target.values(n) for n in range(_STREAMED)])
            ids: list[str | None] = []

            async def read(target: Target = target, ids: list[str | None] = ids) -> None:
                async with aclosing(target.model.search().stream()) as stream:  # type: ignore[type-var] # an async generator
                    async for record in stream:
                        ids.append(record.id)
                        if len(ids) > 2 * _STREAMED:
                            return

            await done(what, subject.within(read(), what))
            if len(ids) != _STREAMED or len(set(ids)) != _STREAMED:
                raise Broken(f"{what} of {_STREAMED} records gave {len(ids)}")
            await done(what, subject.within(_first(target), f"{what} that is left early"))


async def _first(target: Target) -> None:
    async with aclosing(target.model.search().stream()) as stream:  # type: ignore[type-var] # an async generator
        async for _ in stream:
            return


@check(
    _GROUP,
    "transactions",
    requirement="Operations stay in the transaction that runs: what is written in it is seen in it, is there "
    "after the commit, and is gone after a rollback.",
    mend="Pass on op.env, or op.env.replace(...): another Env has no transaction.",
    section="Layers",
    after=("results",),
    needs_server=True,
)
async def transactions(subject: Subject) -> None:
    """Write in a transaction that is committed, and in one that is rolled back."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app(uri=subject.server):
        for target in subject.targets:
            model, name = target.model, target.name

            async def work(target: Target = target) -> None:
                async with transaction():
                    record = await target.model.create(target.values(1))
                    await record.write(target.changes(2))
                    if await target.model.count() != 1:
                        raise Broken(
                            f"a transaction does not see its own record of {target.name!r}"
                        )

            what = f"a transaction with {name!r}"
            await done(what, subject.within(work(), what))
            if await model.count() != 1:
                raise Broken(f"the record of {name!r} is not there after the commit")
            await _roll_back(subject, target)
            if await model.count() != 1:
                raise Broken(f"a record of {name!r} is there after a rollback")


class RolledBack(Exception):
    """Ends a transaction of the suite."""


async def _roll_back(subject: Subject, target: Target) -> None:
    async def work() -> None:
        async with transaction():
            await target.model.create(target.values(3))
            raise RolledBack

    try:
        await subject.within(work(), f"a rolled back transaction with {target.name!r}")
    except RolledBack:
        return


@check(
    _GROUP,
    "retries",
    requirement="A transaction that is tried again does the same as one that succeeds at once: the database, and "
    "what the plugin and its services show (public whole numbers and lengths), are the same.",
    mend="Do what a rollback cannot take back in op.after_durable, or undo it in after_rollback. What counts "
    "tries on purpose has a name with an underscore.",
    section="Layers",
    after=("results", "transactions", "rollback"),
    needs_server=True,
)
async def retries(subject: Subject) -> None:
    """Store a record in the second try, and compare database and plugin with those of a single try."""
    await subject.need(LAYERED, NO_PART)
    stored: list[dict[str, int]] = []
    shown: list[dict[str, object]] = []
    for failures in (0, 1):
        async with subject.app(uri=subject.server) as app:
            for target in subject.targets:
                what = f"the second try of a transaction with {target.name!r}"
                await done(what, subject.within(_try(target, failures), what))
            stored.append(await stored_counts(app))
            shown.append(subject.shown(app))
    once, again = stored
    if once != again:
        changed = sorted(
            name for name in once.keys() | again.keys() if once.get(name) != again.get(name)
        )
        raise Broken(
            "after a second try there are other numbers of documents than after one: "
            + ", ".join(
                f"{name} has {again.get(name, 0)}, not {once.get(name, 0)}" for name in changed
            )
        )
    for name, value in shown[0].items():
        if shown[1].get(name) != value:
            raise Broken(f"after a second try {name} is another than after one")


async def _try(target: Target, failures: int) -> None:
    values = target.values(1)
    try:
        new: BaseModel | None = target.model(**values)  # the same record, with one id, in each try
    except ValidationError:  # names that a step takes, which no constructor does
        new = None
    left = failures

    @transactional(retries=2)
    async def work() -> BaseModel:
        nonlocal left
        record = await (target.model.create(values) if new is None else new.save())
        await record.write(target.changes(2))
        if left:
            left -= 1
            raise TransactionError("the suite wants another try", transient=True)
        return record

    record = await work()
    if not await target.model.search([("id", "=", record.id)]).exists():
        raise Broken("the record is not there")


CHECKS: Final[tuple[Check, ...]] = (
    results,
    cancellation,
    updates,
    bulk,
    streams,
    transactions,
    retries,
)
