"""The threads of one App in which Motor works.

Motor runs each call in a thread of one pool that all its clients in the process share, with five
threads for each processor. Calls that find no thread wait in that pool, where nobody sees them, and
where those of another App stand before them. So an App gives its client an event loop of its own
making (Motor's documented ``io_loop``), which runs the calls in the App's own threads: one for each
connection, and one more for a transaction. The variable ``MOTOR_MAX_WORKERS``, by which Motor's own
pool is sized, is the number of threads here, too.

A call that is cancelled goes on in its thread, so each one takes a place among the plain operations
until it has come back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from earnorm.backends.last_threads import LastThreads
from earnorm.backends.plain_operations import IN_TRANSACTION, PlainOperations
from earnorm.exceptions import ConfigurationError

VARIABLE: Final = "MOTOR_MAX_WORKERS"
"""https://motor.readthedocs.io/en/stable/configuration.html"""

WITHOUT_LIMIT: Final = 100
"""The threads of a client that may have any number of connections."""


def asked_threads() -> int | None:
    """Return the number of threads that the environment asks for; None if it says nothing.

    Raises:
        ConfigurationError: It is no number, or less than 1.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigurationError(
            f"the environment variable {VARIABLE} is the number of threads in which Motor works, "
            f"1 or more; leave it out, and there is one for each connection of the pool, and one more"
        )
    return int(text)


if TYPE_CHECKING:  # Motor asks for the class, and calls four of its fifty methods
    _EventLoop = object
else:
    _EventLoop = asyncio.AbstractEventLoop


class MotorThreads(_EventLoop):
    """The event loop that Motor is given; it runs Motor's calls in threads of its own.

    It has the four methods that Motor calls, and the running loop does their work.

    Args:
        operations: The plain operations, among which each call has a place.
    """

    def __init__(self, operations: PlainOperations) -> None:
        self._operations = operations
        self._executor: LastThreads | None = None
        self.size = 1
        """The highest number of threads."""
        self._calls = 0

    def __repr__(self) -> str:
        return f"<MotorThreads {self._calls} calls, up to {self.size} threads>"

    @property
    def queued(self) -> int:
        """The number of calls that have their turn and wait for a thread."""
        return max(0, self._calls - self.size)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a call in a thread of the App; an operation outside of a transaction in its turn."""
        call = partial(func, *args)
        if IN_TRANSACTION.get():
            return self._begin(call, None)
        operations = self._operations
        if operations.free > 0:
            operations.free -= 1
            return self._begin(call, operations)
        return asyncio.ensure_future(self._in_turn(call))

    async def _in_turn(self, call: Callable[[], Any]) -> Any:
        await self._operations.wait()
        self._operations.free -= 1
        return await self._begin(call, self._operations)

    def _begin(
        self, call: Callable[[], Any], operations: PlainOperations | None
    ) -> asyncio.Future[Any]:
        """Hand a call to a thread; it has its place already, if it needs one."""
        if self._executor is None:
            self._executor = LastThreads(self.size, "earnorm-motor")
        job = self._executor.submit(call)
        self._calls += 1
        answer: asyncio.Future[Any] = asyncio.wrap_future(job)
        # What was added first is called first: the place is free when the caller goes on.
        answer.add_done_callback(partial(self._answered, job, operations))
        return answer

    def _answered(
        self,
        job: Future[Any],
        operations: PlainOperations | None,
        answer: asyncio.Future[Any],
    ) -> None:
        if job.done():
            self._back(operations)
            return
        loop = answer.get_loop()  # it was cancelled, and the thread goes on

        def told(_: Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._back, operations)

        job.add_done_callback(told)

    def _back(self, operations: PlainOperations | None) -> None:
        self._calls -= 1
        if operations is not None:
            operations.give_back()

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of the running loop."""
        return asyncio.get_running_loop().create_future()

    def call_soon(self, callback: Any, *args: Any, **options: Any) -> asyncio.Handle:
        """Call a function in the running loop."""
        return asyncio.get_running_loop().call_soon(callback, *args, **options)

    def call_soon_threadsafe(self, callback: Any, *args: Any, **options: Any) -> asyncio.Handle:
        """Call a function in the running loop."""
        return asyncio.get_running_loop().call_soon_threadsafe(callback, *args, **options)

    def close(self) -> None:
        """End the threads as soon as they have nothing to do any more."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
