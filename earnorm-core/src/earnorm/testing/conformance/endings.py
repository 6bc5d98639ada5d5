"""Checks of what is left of a plugin after ends that are not a plain stop."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Final

from earnorm.application import App
from earnorm.testing.conformance.checks import Broken, Check, check
from earnorm.testing.conformance.layers import (
    LAYERED,
    NO_PART,
    cancel_inside,
    operations_of,
)
from earnorm.testing.conformance.life_cycle import fail_starts, left_by, use, warm_up
from earnorm.testing.conformance.probes import Blocking
from earnorm.testing.conformance.subject import Subject

_GROUP: Final = "life cycle"
_SECTION: Final = "Start, stop and `requires`"
_STEPS: Final = 24
"""A start is cancelled in the first, second … of this many turns of the event loop."""
_LOOK: Final = 0.002  # seconds between two looks at a stop


@check(
    _GROUP,
    "failed_start_on_server",
    requirement="If the start of an App on a real server fails, before or after the plugin's startup(), nothing of "
    "the plugin is left either: no task, thread, client or connection.",
    mend="Open nothing before startup(), also where there are transactions: not in register_listeners, "
    "models_changed or model_registered.",
    section=_SECTION,
    after=("failed_start", "leaves_no_connection"),
    needs_server=True,
)
async def failed_start_on_server(subject: Subject) -> None:
    """Make the start on the server fail before the plugin starts, and after it."""
    await fail_starts(subject, subject.server)


@check(
    _GROUP,
    "cancelled_start",
    requirement="If a start is cancelled while startup() waits, or startup() itself fails, nothing of the plugin is "
    "left: its shutdown() is not called, since it has not started.",
    mend="In startup(), close and cancel what is open in 'except BaseException', and raise again.",
    section=_SECTION,
    after=("failed_start",),
)
async def cancelled_start(subject: Subject) -> None:
    """Cancel the start in each of the first turns of the event loop."""
    await warm_up(subject)
    for turns in range(_STEPS):
        was_cancelled = False

        async def start_and_cancel(turns: int = turns) -> None:
            nonlocal was_cancelled
            app = subject.make()
            start = asyncio.create_task(app.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            was_cancelled = start.cancel()
            done, _ = await asyncio.wait([start], timeout=subject.patience)
            if not done:
                raise Broken("a start that is cancelled does not end")
            if not start.cancelled() and start.exception() is None:
                await app.stop()

        left = await left_by(start_and_cancel)
        if left:
            raise Broken(f"a start that is cancelled leaves {left}")
        if not was_cancelled:  # the whole start took fewer turns
            return


@check(
    _GROUP,
    "cancelled_work",
    requirement="An operation that was cancelled is over when the App has stopped: nothing that a layer shields from "
    "cancellations goes on after the stop.",
    mend="Use unbroken() in the place of asyncio.shield(): the App waits for it. Or keep the task, and cancel and "
    "await it in shutdown().",
    section="What a transaction queues for",
    after=("cancellation", "leaves_nothing"),
)
async def cancelled_work(subject: Subject) -> None:
    """Cancel each kind of operation inside of all layers, stop the App, and look at what goes on."""
    await subject.need(LAYERED, NO_PART)
    await warm_up(subject)

    async def cancel_and_stop() -> None:
        blocking = Blocking()
        app = subject.make(blocking)
        await app.start()
        with app.activate(), subject.acting():
            for target in subject.targets:
                records = await target.model.create([target.values(1)])
                for name, start in operations_of(target, records).items():
                    blocking.is_closed = True
                    blocking.reached.clear()
                    await cancel_inside(subject, f"{name} of {target.name!r}", start, blocking)
                    blocking.is_closed = False
        stop = asyncio.create_task(app.stop())
        while not stop.done():
            if app.in_flight.is_busy():  # the App knows of the work, and waits for it
                blocking.open()
            await asyncio.sleep(_LOOK)
        await stop

    left = await left_by(cancel_and_stop)
    if left:
        raise Broken(f"after a cancelled operation and a stop there is still {left}")


@check(
    _GROUP,
    "lets_apps_go",
    requirement="The plugin keeps no App that was stopped: not in its module, a class, or an instance that several "
    "Apps share.",
    mend="Give to the App what belongs to it (register_services, the plugin's instance), use weak references, or drop "
    "it in shutdown().",
    section="Models of somebody else",
    after=("leaves_nothing", "two_apps"),
)
async def lets_apps_go(subject: Subject) -> None:
    """Run an App, let go of it, and look whether it is still there."""
    await warm_up(subject)

    async def run() -> weakref.ref[App]:
        app = subject.make()
        await app.start()
        with app.activate(), subject.acting():
            await use(subject)
        await app.stop()
        return weakref.ref(app)

    # A task of its own, whose context and frames end with it.
    stopped = await asyncio.create_task(run())
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    app = stopped()
    if app is not None:
        holders = ", ".join(sorted(set(_holders(app)))) or "something"
        raise Broken(f"an App that was stopped is kept by {holders}")


def _holders(kept: object) -> Iterator[str]:
    """Yield in words what holds an object, as far as it can be told."""
    for holder in gc.get_referrers(kept):
        if isinstance(holder, FrameType):
            continue
        if isinstance(holder, dict) and "__name__" in holder and "__spec__" in holder:
            yield f"the module {holder['__name__']}"
            continue
        owner = holder
        if isinstance(holder, dict):
            owners = (o for o in gc.get_referrers(holder) if _has_as_attributes(o, holder))
            owner = next(owners, holder)
        module = getattr(owner, "__module__", None) or type(owner).__module__
        if isinstance(owner, type):
            yield f"the class {owner.__qualname__}"
        elif not str(module).startswith("earnorm."):
            yield f"a {type(owner).__qualname__}"


def _has_as_attributes(owner: object, attributes: dict[str, object]) -> bool:
    if isinstance(owner, type):
        return owner.__dict__.keys() == attributes.keys()
    return getattr(owner, "__dict__", None) is attributes


CHECKS: Final[tuple[Check, ...]] = (
    failed_start_on_server,
    cancelled_start,
    cancelled_work,
    lets_apps_go,
)
