"""Checks of the start and the stop of an App with the plugin, and of Apps beside each other."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import ModuleType
from typing import Final

from earnorm.application import App
from earnorm.exceptions import EarnORMError, PluginError
from earnorm.fields import Field
from earnorm.model.query import Query
from earnorm.model.recordset import RecordSet
from earnorm.models import BaseModel
from earnorm.plugin import ModelView
from earnorm.testing.conformance.checks import Broken, Check, check
from earnorm.testing.conformance.leftovers import Leftovers, Watch, watch_descriptors
from earnorm.testing.conformance.probes import FailingStart, StartFails
from earnorm.testing.conformance.subject import MEMORY, Subject, collected

_GROUP: Final = "life cycle"
_SECTION: Final = "Start, stop and `requires`"
_STEPS: Final = 12
"""A stop is cancelled in the first, second … of this many turns of the event loop."""


@check(
    _GROUP,
    "starts",
    requirement="An App with the plugin starts and stops, also without an operation in between, and a second "
    "stop does nothing.",
    mend="Do what the error says; let shutdown() work without an operation before it.",
    section=_SECTION,
    after=("signatures",),
)
async def starts(subject: Subject) -> None:
    """Start and stop one App with the models of the process, and one without, which uses none."""
    for is_alone in (False, True):
        app = subject.make(is_alone=is_alone)
        try:
            await subject.within(app.start(), "the start")
            await subject.within(app.stop(), "the stop")
            await subject.within(app.stop(), "a stop of the stopped App")
        except EarnORMError as error:
            raise Broken(str(error)) from error


@check(
    _GROUP,
    "starts_twice",
    requirement="An App with the plugin can be stopped and started again, and works then as before.",
    mend="Begin anew in startup(), and let shutdown() leave nothing of the App that stopped.",
    section=_SECTION,
    after=("results",),
)
async def starts_twice(subject: Subject) -> None:
    """Start and stop one App two times, with operations each time."""
    app = subject.make()
    told: list[Sequence[str]] = []
    for time in ("first", "second"):
        try:
            with collected() as log:
                await subject.within(app.start(), f"the {time} start")
                with app.activate(), subject.acting():
                    await use(subject)
                await subject.within(app.stop(), f"the {time} stop")
        except EarnORMError as error:
            with suppress(EarnORMError):
                await app.stop()
            raise Broken(f"the {time} time: {error}") from error
        told.append(log.lines)
    if not told[0] and told[1]:  # what fails each time is told by other checks
        raise Broken(f"the second time it logs: {told[1][0]}")


@check(
    _GROUP,
    "leaves_nothing",
    requirement="After a stop no task, thread, socket or file of the plugin is left, and no coroutine "
    "that nobody awaited.",
    mend="shutdown() cancels each task and awaits it, and closes what the plugin opened.",
    section=_SECTION,
    after=("results",),
)
async def leaves_nothing(subject: Subject) -> None:
    """Start and stop an App, and look at what is open then."""
    await warm_up(subject)
    left = await left_by(lambda: _run_once(subject))
    if left:
        raise Broken(f"a stop leaves {left}")


@check(
    _GROUP,
    "leaves_no_connection",
    requirement="After a stop on a real server, where it may listen to the driver and use transactions, nothing "
    "of the plugin is left either: no task, thread or connection.",
    mend="shutdown() ends what the plugin does with the server's connections, or opens beside them.",
    section=_SECTION,
    after=("leaves_nothing",),
    needs_server=True,
)
async def leaves_no_connection(subject: Subject) -> None:
    """Start and stop an App on the server, and look at what is open then."""
    uri = subject.server
    await warm_up(subject, uri)
    left = await left_by(lambda: _run_once(subject, uri))
    if left:
        raise Broken(f"a stop on the server leaves {left}")


@check(
    _GROUP,
    "failed_start",
    requirement="If the start of the App fails, before or after the plugin's startup(), nothing of the "
    "plugin is left, and the App can be started later.",
    mend="Open nothing before startup(): not in __init__ and not in a register_… hook. Let shutdown() "
    "work without an operation before it.",
    section=_SECTION,
    after=("starts_twice", "leaves_nothing"),
)
async def failed_start(subject: Subject) -> None:
    """Make the start fail before the plugin starts, and after it."""
    await fail_starts(subject)


async def fail_starts(subject: Subject, uri: str = MEMORY) -> None:
    """Make the start of Apps fail, and look at what is open then.

    Raises:
        Broken: Something is left, or the App cannot be started later.
    """
    await warm_up(subject, uri)
    for hook, required in (("models_changed", []), ("startup", [subject.name])):
        failing = FailingStart(required, hook)
        when = "before" if hook == "models_changed" else "after"

        async def start_and_fail(failing: FailingStart = failing, when: str = when) -> None:
            app = subject.make(failing, uri=uri)
            with collected() as log:
                try:
                    await subject.within(app.start(), "a start that fails")
                except PluginError as error:
                    if not isinstance(error.__cause__, StartFails):
                        raise Broken(
                            f"a start that fails {when} startup() raises: {error}"
                        ) from error
                if log.lines:
                    raise Broken(
                        f"a start that fails {when} startup() logs: {'; '.join(log.lines)}"
                    )
            failing.is_failing = False
            try:
                await subject.within(app.start(), "the start after one that failed")
                await app.stop()
            except EarnORMError as error:
                raise Broken(f"after a start that failed {when} startup(): {error}") from error

        left = await left_by(start_and_fail)
        if left:
            raise Broken(f"a start that fails {when} the plugin's startup() leaves {left}")


@check(
    _GROUP,
    "cancelled_stop",
    requirement="If a stop is cancelled while shutdown() waits, nothing of the plugin is left all the same.",
    mend="Cancel and close everything before the first await of shutdown(), or in a finally block.",
    section=_SECTION,
    after=("leaves_nothing",),
)
async def cancelled_stop(subject: Subject) -> None:
    """Cancel the stop in each of the first turns of the event loop."""
    await warm_up(subject)
    for turns in range(_STEPS):
        was_cancelled = False

        async def stop_and_cancel(turns: int = turns) -> None:
            nonlocal was_cancelled
            app = subject.make()
            await app.start()
            await asyncio.sleep(0)
            stop = asyncio.create_task(app.stop())
            for _ in range(turns):
                await asyncio.sleep(0)
            was_cancelled = stop.cancel()
            done, _ = await asyncio.wait([stop], timeout=subject.patience)
            if not done:
                raise Broken("a stop that is cancelled does not end")
            error = None if stop.cancelled() else stop.exception()
            if error is not None:
                raise Broken(f"a stop that is cancelled raises {type(error).__name__}: {error}")
            await app.stop()

        left = await left_by(stop_and_cancel)
        if left:
            raise Broken(f"a stop that is cancelled leaves {left}")
        if not was_cancelled:  # the whole stop took fewer turns
            return


@check(
    _GROUP,
    "two_apps",
    requirement="Two Apps with the plugin run beside each other: each has its own services, and the stop of "
    "one changes nothing for the other.",
    mend="Keep state in the instance that the App made, not in the class or the module.",
    section="A plugin in ten minutes",
    after=("leaves_nothing",),
)
async def two_apps(subject: Subject) -> None:
    """Run two Apps, stop one, and go on with the other."""
    await warm_up(subject)
    left = await left_by(lambda: _two_at_once(subject))
    if left:
        raise Broken(f"two Apps that are stopped leave {left}")


async def _two_at_once(subject: Subject) -> None:
    async with _started(subject) as other:
        async with _started(subject) as one:
            _refuse_shared_services(one, other)
            with collected() as log:
                for app in (one, other):
                    with app.activate(), subject.acting():
                        await use(subject)
            before = await _health(other, subject)
        after = await _health(other, subject)
        if before != after:
            raise Broken(f"the stop of another App changes health() from {before!r} to {after!r}")
        try:
            with collected() as later, other.activate(), subject.acting():
                await use(subject)
        except Exception as error:
            raise Broken(
                f"after the stop of another App an operation raises {type(error).__name__}: {error}"
            ) from error
        if later.lines and not log.lines:  # what fails before it, too, is told by other checks
            raise Broken(f"after the stop of another App an operation logs: {later.lines[0]}")


@asynccontextmanager
async def _started(subject: Subject, uri: str = MEMORY) -> AsyncIterator[App]:
    app = subject.make(uri=uri)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def _refuse_shared_services(one: App, other: App) -> None:
    for name in one.services:
        service = one.services[name]
        is_code = isinstance(service, ModuleType | type) or inspect.isroutine(service)
        if not is_code and name in other.services and other.services[name] is service:
            raise Broken(f"two Apps have one object as the service {name!r}")


async def _health(app: App, subject: Subject) -> object:
    report: Mapping[str, object] = (await app.health()).get(subject.name, {})
    return report.get("status")


@check(
    _GROUP,
    "disabled",
    requirement="An App without the plugin has the models, fields, indexes and operators that it had before "
    "another App had the plugin.",
    mend="Bring fields, indexes, methods and operators by hooks (register_models with _inherit, "
    "model_attributes, register_operators); change no class and no table of EarnORM or the application.",
    section="Models of somebody else",
    after=("results",),
)
async def disabled(subject: Subject) -> None:
    """Compare Apps without the plugin before, during and after an App with it."""
    before = await _described(subject)
    app = subject.make()
    await app.start()
    try:
        with app.activate(), subject.acting():
            await use(subject)
        during = await _described(subject)
    finally:
        await app.stop()
    after = await _described(subject)
    for when, now in (("while another App has", during), ("after another App had", after)):
        for part, value in before.items():
            if part in now and now[part] != value:
                names = sorted({str(name) for name, _ in now[part] ^ value})
                raise Broken(f"{when} the plugin, {part} without it change: {', '.join(names)}")


Parts = set[tuple[str, object]]


async def _described(subject: Subject) -> dict[str, Parts]:
    """Return the parts of an App without the plugin that the plugin must leave as they are."""
    async with subject.make(with_plugin=False) as app:
        described = {"the operators": _items(app.operators)}
        for cls in (BaseModel, Query, RecordSet, Field):
            described[f"the attributes of {cls.__name__}"] = _public(cls)
        for model in app.known_models():
            view = ModelView(app.extended(model))
            described[f"the fields of {view.name!r}"] = _items(view.fields)
            described[f"the indexes of {view.name!r}"] = {(repr(i), None) for i in view.indexes}
            described[f"the attributes of {view.name!r}"] = _public(model)
        return described


def _public(cls: type) -> Parts:
    # EarnORM itself keeps what it makes later, such as validators, in private attributes.
    return _items({name: value for name, value in vars(cls).items() if not name.startswith("_")})


def _items(table: Mapping[str, object]) -> Parts:
    return {(name, id(value)) for name, value in table.items()}


# -- what the checks share ------------------------------------------------------------------------


async def use(subject: Subject) -> None:
    """Create and read a record of each model in the current App."""
    for number, target in enumerate(subject.targets):
        record = await target.model.create(target.values(number))
        await target.model.search([("id", "=", record.id)])
        await record.unlink()


async def _run_once(subject: Subject, uri: str = MEMORY) -> None:
    """Run an App with the plugin from its start to its stop, with operations."""
    async with _started(subject, uri) as app:
        with app.activate(), subject.acting():
            await use(subject)


async def warm_up(subject: Subject, uri: str = MEMORY) -> None:
    """Run an App without the plugin, so that what is made once in a process is there."""
    with suppress(EarnORMError):
        async with subject.make(with_plugin=False, uri=uri) as app:
            await app.health()


async def left_by(work: Callable[[], Awaitable[None]]) -> Leftovers:
    """Do the work, and return what it has left open."""
    left = Leftovers()
    with watch_descriptors(left):
        watch = Watch()
        try:
            await work()
        finally:
            open_things = await watch.end()
    left.found = [*open_things, *left.found]
    return left


CHECKS: Final[tuple[Check, ...]] = (
    starts,
    starts_twice,
    leaves_nothing,
    leaves_no_connection,
    failed_start,
    cancelled_stop,
    two_apps,
    disabled,
)
