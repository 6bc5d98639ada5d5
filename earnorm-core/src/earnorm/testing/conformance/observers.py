"""Checks of a plugin that observes writes: what it raises, what a rollback takes back, and recursion."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from earnorm.fields import String
from earnorm.kernel.plugins.selection import HOUSE_PLUGINS, installed, plugin_name
from earnorm.kernel.registry import forget
from earnorm.kernel.transactions.blocks import transaction
from earnorm.models import BaseModel
from earnorm.plugin import ModelView
from earnorm.testing.conformance.checks import Broken, Check, check
from earnorm.testing.conformance.layers import NO_PART, RolledBack
from earnorm.testing.conformance.probes import Counting, Echo
from earnorm.testing.conformance.subject import Subject, Target, collected, stored_counts

_GROUP: Final = "observers"
_OBSERVERS: Final = frozenset(
    {
        "before_create",
        "before_write",
        "before_unlink",
        "after_create",
        "after_write",
        "after_unlink",
    }
    | {"after_commit", "after_rollback", "operation_failed", "access_denied"}
)
_WRITING: Final = _OBSERVERS | {"wrap_operation", "register_steps"}


@check(
    _GROUP,
    "observed_writes",
    requirement="The plugin's observers raise nothing, whichever way a record is written: EarnORM would log "
    "it, and the write is done all the same.",
    mend="op.values of a write is an Update or a PerRecord: look at op.updates. A step, a layer or a before_… "
    "hook refuses; an after_… hook only observes.",
    section="Every hook",
    after=("results", "updates", "bulk"),
)
async def observed_writes(subject: Subject) -> None:
    """Write in each way, fail and roll back, and look at what is logged."""
    await subject.need(_OBSERVERS, "it observes nothing")
    async with subject.app():
        with collected() as log:
            for target in subject.targets:
                await _write_in_each_way(target)
        if log.lines:
            raise Broken(log.lines[0])


async def _write_in_each_way(target: Target) -> None:
    model = target.model
    first, second, third = await model.create([target.values(n) for n in (1, 2, 3)])
    await first.write(target.changes(1))
    await model.write_many({first: target.changes(4), second: target.changes(5)})
    await model.search([("id", "=", first.id)]).update(target.changes(6))
    async with model.bulk() as block:
        block.create(target.values(7))
        block.write(first, target.changes(8))
        block.unlink(second)
    await third.unlink()
    await model.search().delete()
    await model.search().delete()  # of none


@check(
    _GROUP,
    "rollback",
    requirement="What the plugin stores beside a write is rolled back with it, and its observers raise nothing "
    "when they hear of it.",
    mend="Write in the Env of the operation (op.env), or in op.after_durable what may stand only after the "
    "commit.",
    section="Layers",
    after=("results", "transactions", "observed_writes"),
    needs_server=True,
)
async def rollback(subject: Subject) -> None:
    """Write each model in a transaction that is rolled back, and compare the database."""
    await subject.need(_WRITING, NO_PART)
    async with subject.app(uri=subject.server) as app:
        for target in subject.targets:
            kept = await target.model.create(target.values(1))
            before = await stored_counts(app)
            own = ModelView(target.model).collection  # the check of transactions looks at this one
            with collected() as log:
                try:
                    await subject.within(_roll_back(target, kept), "a transaction")
                except RolledBack:
                    await asyncio.sleep(0)
            if log.lines:
                raise Broken(log.lines[0])
            after = await stored_counts(app)
            names = (before.keys() | after.keys()) - {own}
            left = sorted(name for name in names if before.get(name) != after.get(name))
            if left:
                raise Broken(
                    f"after a rolled back write of {target.name!r} there are other numbers of documents in "
                    f"{', '.join(left)}"
                )


async def _roll_back(target: Target, kept: Any) -> None:
    async with transaction():
        await target.model.create(target.values(2))
        await kept.write(target.changes(3))
        await kept.unlink()
        raise RolledBack


@check(
    _GROUP,
    "beside_others",
    requirement="Beside EarnORM's own plugins and another one that stores an entry for each record, the "
    "operations end: no two plugins observe each other for ever.",
    mend="Say _bookkeeping = \"<the plugin's name>\" in the plugin's own models, and leave out operations "
    "whose op.origin is another plugin's.",
    section="Layers",
    after=("results",),
)
async def beside_others(subject: Subject) -> None:
    """Write records beside the installed plugins and one of the suite's own."""

    class Entry(BaseModel):
        _name = "conformance.entry"
        _bookkeeping = "conformance_echo"
        text = String()

    counting = Counting()
    known = installed()
    beside = {plugin_name(plugin, known) for plugin in subject.beside}
    others = [
        name for name in HOUSE_PLUGINS if name in known and name not in beside | {subject.name}
    ]
    try:
        await subject.need(_WRITING, NO_PART)
        async with subject.app(Echo(Entry), counting, *others):
            for target in subject.targets:
                counting.seen.clear()
                try:
                    await subject.within(_live(target), f"writing a {target.name!r}")
                except Exception as error:
                    if not counting.is_stopped:
                        raise Broken(
                            f"beside {', '.join(['another plugin', *others])}: "
                            f"{type(error).__name__}: {error}"
                        ) from error
                counting.refuse_endless(f"writing one {target.name!r}")
    finally:
        forget(Entry)


async def _live(target: Target) -> None:
    record = await target.model.create(target.values(1))
    await record.write(target.changes(2))
    await record.unlink()
    for _ in range(20):  # tasks that observers have started
        await asyncio.sleep(0)


CHECKS: Final[tuple[Check, ...]] = (observed_writes, rollback, beside_others)
