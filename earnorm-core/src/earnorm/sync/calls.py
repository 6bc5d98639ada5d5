"""Work that a thread hands to an event loop, and waits for.

A call has a copy of the thread's context, so what holds there (who acts, in which App, the
transaction) holds for the work, too. What the work has changed when it ends is brought back, as it
is after an ``await``.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, Final, Generic, TypeVar, cast

from earnorm.exceptions import ConfigurationError
from earnorm.kernel import environment
from earnorm.kernel.environment import Env
from earnorm.sync import background

T = TypeVar("T")

_LOOK: Final = 1.0  # seconds between two looks at whether the loop still lives
_ABSENT: Final = object()


def refuse_running_loop(work: object, name: str) -> None:
    """Raise inside of a running event loop, where a blocking call would stop everything.

    Args:
        work: What was handed in; a coroutine of it is closed, since nobody will await it.
        name: The call, for the message.

    Raises:
        ConfigurationError: This thread runs an event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if inspect.iscoroutine(work):
        work.close()
    raise ConfigurationError(
        f"{name} blocks its thread, and this thread runs an event loop, which would stand still: use "
        f"'await' here (in a notebook, too), or call it in a thread: await asyncio.to_thread(...)"
    ).coded("sync_in_loop")


def loop_for(env: Env | None) -> asyncio.AbstractEventLoop:
    """Return the loop on which the work of an Env is done: its App's own, or the background loop.

    Raises:
        ConfigurationError: The App's loop does not run now, so nothing would ever be done on it.
    """
    loop = None if env is None else env.app._lifecycle.loop
    if loop is None:
        return background.running_loop()
    if not _lives(loop):
        assert env is not None
        raise ConfigurationError(
            f"App {env.app.name!r} was started on an event loop that does not run now; start it with "
            f"'with earnorm.sync.App(...)', whose loop runs in the background"
        ).coded("loop_not_running")
    return loop


def _lives(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a loop does work; that in the background does, also while it begins to."""
    return loop.is_running() or background.is_background(loop)


class Step(Generic[T]):
    """One piece of work for a loop, and its outcome, for which a thread waits.

    Args:
        work: An async function without arguments.
        context: The context in which the loop does it.
    """

    def __init__(self, work: Callable[[], Awaitable[T]], context: Context) -> None:
        self._work = work
        self._before = context
        self._after = context
        self._wakes = threading.Lock()  # held until it is over; the thread waits for it
        self._wakes.acquire()
        self._is_over = False
        self.is_taken = False  # the loop has it, and begins it at once or after others
        self._is_called_off = False
        self._error: BaseException | None = None
        self._result: object = None

    async def carry_out(self) -> None:
        """Do the work on the loop. No error leaves it: an exit would end the loop of all others."""
        self._before = copy_context()
        try:
            if self._is_called_off:
                raise asyncio.CancelledError
            self._result = await self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._after = copy_context()
            self._is_over = True
            self._wakes.release()

    def call_off(self) -> None:
        """Do not begin the work."""
        self._is_called_off = True

    def give_up(self) -> None:
        """End without the work, unless it is over: its task has ended before it began."""
        if not self._is_over:
            self._is_over = True
            self._error = asyncio.CancelledError()
            self._wakes.release()

    def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Block the thread until the work is over.

        The lock only wakes the thread, and the flag says whether it is over: an interrupt may come
        between the two, when the thread has the lock already and nobody will release it again.

        Raises:
            ConfigurationError: The loop was closed, or has stopped, so the work never ends.
        """
        while not self._is_over:
            if self._wakes.acquire(timeout=_LOOK) or self._is_over:
                continue
            if not _lives(loop):
                raise _ended()

    def brought_back(self) -> list[tuple[ContextVar[Any], Token[Any]]]:
        """Set in the thread what the work has changed in its context."""
        before = self._before
        return [
            (variable, variable.set(value))
            for variable, value in self._after.items()
            if before.get(variable, _ABSENT) is not value
        ]

    def result(self) -> T:
        """Return the result of the work, or raise its error."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return cast(T, self._result)


def context_of_thread(env: Env | None) -> Context:
    """Return a copy of the thread's context, in which an Env is the current one.

    The Env was found in the thread: whether a block of a generator holds cannot be told elsewhere.
    """
    context = copy_context()
    if env is not None:
        context.run(environment._current.set, env)
    return context


def call(work: Callable[[], Awaitable[T]], env: Env | None, loop: asyncio.AbstractEventLoop) -> T:
    """Do a piece of work on a loop, and return its result.

    An exception in the waiting thread (Ctrl-C, a time limit of Celery's) cancels the work, and is
    raised when the work has ended; a second one does not wait for that.
    """
    context = context_of_thread(env)
    step = Step(work, context)
    tasks: list[asyncio.Task[None]] = []

    def begin() -> None:
        step.is_taken = True
        task = loop.create_task(step.carry_out(), context=context)
        tasks.append(task)
        task.add_done_callback(lambda _: step.give_up())

    def cancel() -> None:
        if not step.is_taken:  # nor will it be: the loop takes what a thread tells it in order
            step.give_up()
        for task in tasks:
            task.cancel()

    _hand_over(step, loop, begin, cancel)
    step.brought_back()
    return step.result()


def _hand_over(
    step: Step[Any],
    loop: asyncio.AbstractEventLoop,
    begin: Callable[[], None],
    cancel: Callable[[], None],
) -> None:
    """Have the loop begin a step, and wait for its end, also where this thread is interrupted.

    An interrupt may come at any place, also before the loop is told to begin: ``cancel`` then ends a
    step that nobody will begin.
    """
    try:
        _tell(loop, begin)
        step.wait(loop)
    except ConfigurationError:
        raise
    except BaseException:
        _tell(loop, cancel)
        step.wait(loop)
        raise


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Have a loop call a function.

    Raises:
        ConfigurationError: It is closed.
    """
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        if not loop.is_closed():
            raise  # an interrupt of this thread
        raise _ended() from None


def _ended() -> ConfigurationError:
    return ConfigurationError(
        "the event loop was ended before the work was over for which a thread waits"
    ).coded("loop_not_running")


class Companion:
    """A task that does one step after another for a thread, all in one context.

    A block or a stream needs it: what it begins in one step it ends in another, and both must be in
    one task, whose context and time limits they share.
    """

    def __init__(self, env: Env | None, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._process = os.getpid()
        self._steps: asyncio.Queue[tuple[Step[Any], bool]] = asyncio.Queue()
        self._context = context_of_thread(env)
        self._task: asyncio.Task[None] | None = None
        self._doing: Step[Any] | None = None

    async def _live(self) -> None:
        is_last = False
        while not is_last:
            step, is_last = await self._steps.get()
            self._doing = step
            await step.carry_out()
            self._doing = None
            assert self._task is not None
            while self._task.cancelling():  # it was the step that was cancelled
                self._task.uncancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        while not self._steps.empty():
            self._steps.get_nowait()[0].give_up()

    def _cancel(self, step: Step[Any], is_last: bool) -> None:
        if self._doing is step and self._task is not None:
            self._task.cancel()
        elif is_last:  # what was begun must be ended, whatever interrupts the thread
            if not step.is_taken:
                self._put(step, is_last)
        elif step.is_taken:
            step.call_off()
        else:
            step.give_up()

    @property
    def is_of_parent(self) -> bool:
        """True in a forked child of the process that began it: its loop does not run there."""
        return self._process != os.getpid()

    def ask(self, work: Callable[[], Awaitable[T]], *, is_last: bool = False) -> Step[T]:
        """Do a step, and wait for its end.

        An exception in the waiting thread cancels the step, as for :func:`call`.

        Args:
            work: An async function without arguments.
            is_last: The task ends with it. It is begun in any case, since it ends what others began.

        Returns:
            The step, which is over. In the loop's own thread (a garbage collector may end a stream
            there) it is not waited for.
        """
        step = Step(work, self._context)
        begin = functools.partial(self._put, step, is_last)
        if _is_of_running(self._loop):
            _tell(self._loop, begin)
        else:
            cancel = functools.partial(self._cancel, step, is_last)
            _hand_over(step, self._loop, begin, cancel)
        return step

    def end(self) -> None:
        """End the task without another step."""
        with suppress(ConfigurationError):
            _tell(self._loop, functools.partial(self._put, Step(_nothing, self._context), True))

    def _put(self, step: Step[Any], is_last: bool) -> None:
        step.is_taken = True
        if self._task is None:  # the first step begins it, so that none is left without an end
            self._task = self._loop.create_task(self._live(), context=self._context)
            self._task.add_done_callback(self._end)
        if self._task.done():
            step.give_up()
        else:
            self._steps.put_nowait((step, is_last))


def _is_of_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether this thread runs the loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _nothing() -> None:
    """Do nothing."""
