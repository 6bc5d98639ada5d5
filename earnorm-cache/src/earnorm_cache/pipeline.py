"""One connection to a server, by which the commands of all tasks go in the order of their calls.

redis-py gives each command a connection of its own, with a lock, a timer and a task; that takes 60 to 200 µs of the
processor, where the answer of the server takes 16. Here all that tasks ask for in one turn of the loop is sent at
once, one task reads the answers in their order, and one timer watches the oldest question. The connection itself is
redis-py's, which knows addresses, passwords, TLS and the protocol.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from hiredis import pack_command

BUSY_SECONDS: Final = 0.005
"""A timer that comes so much too late tells that the loop was busy: the answer may lie there, and not be read yet."""

GRACE_SECONDS: Final = 0.02
"""The time that an answer then has left."""

GRACES: Final = 3
"""The most such times between two answers."""


class RedisConnection(Protocol):
    """The part of a connection of redis-py that a pipeline uses."""

    async def connect(self) -> None:
        """Connect, and say who connects."""

    async def disconnect(self, nowait: bool = False) -> None:
        """Close the connection."""

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        """Send bytes."""

    async def read_response(self, disable_decoding: bool = False) -> Any:
        """Return the next answer; raise it where it is an error."""


class Pipeline:
    """The questions and answers of one connection, from its beginning to its end.

    A question whose task was cancelled stays in its place, so that the answers after it go to the right tasks. After
    any failure of the connection all that wait get the error, and the pipeline is over.

    Args:
        connection: Is not connected yet, and has no time limit for answers of its own.
        timeout: The seconds for an answer.
        connect_timeout: The seconds in which the connection is made.
        error_reply: The class of an error that is the answer of one question.

    Attributes:
        is_over: The connection broke off or was closed.
    """

    def __init__(
        self,
        connection: RedisConnection,
        timeout: float,
        connect_timeout: float,
        error_reply: type[Exception],
    ) -> None:
        self.is_over = False
        self._connection, self._timeout, self._error_reply = connection, timeout, error_reply
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._asked: deque[tuple[float, asyncio.Future[Any]]] = deque()
        """The questions without an answer, each with the time from which it counts."""
        self._has_more: asyncio.Future[None] | None = None
        """Wakes the task that sends."""
        self._connected_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._graces = 0
        self._reading: asyncio.Task[None] | None = None
        self._sending = asyncio.ensure_future(self._send(connect_timeout))

    def ask(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Ask the server; the result is its answer. It must not be called when the pipeline is over."""
        loop = self._loop
        answer = loop.create_future()
        self._unsent.append(pack_command(command))
        self._asked.append((loop.time(), answer))
        has_more = self._has_more
        if has_more is not None:
            self._has_more = None
            has_more.set_result(None)
        if self._timer is None and self._connected_at is not None:
            self._timer = loop.call_later(self._timeout, self._look_at_oldest)
        return answer

    async def close(self) -> None:
        """Close the connection; who still waits for an answer gets a ConnectionError."""
        self._end(ConnectionError("the connection to Redis was closed"))
        tasks = [task for task in (self._sending, self._reading) if task is not None]
        await asyncio.wait(tasks)

    async def _send(self, connect_timeout: float) -> None:
        connection = self._connection
        try:
            async with asyncio.timeout(connect_timeout):
                await connection.connect()
            self._connected_at = self._loop.time()
            self._reading = asyncio.ensure_future(self._read())
            if self._asked:
                self._timer = self._loop.call_later(self._timeout, self._look_at_oldest)
            while not self.is_over:
                if not self._unsent:
                    self._has_more = self._loop.create_future()
                    await self._has_more
                commands, self._unsent = self._unsent, []
                await connection.send_packed_command(commands, check_health=False)
        except asyncio.CancelledError:
            if not self.is_over:  # the loop itself ends
                self._end(ConnectionError("the connection to Redis was closed"))
                raise
        except Exception as error:
            self._end(error)
        finally:
            await connection.disconnect(nowait=True)

    async def _read(self) -> None:
        asked, read = self._asked, self._connection.read_response
        is_error, result = False, None
        try:
            while not self.is_over:
                try:
                    is_error, result = False, await read(disable_decoding=True)
                except self._error_reply as error:
                    is_error, result = True, error
                _, answer = asked.popleft()
                self._graces = 0
                if answer.done():  # its task was cancelled
                    continue
                if is_error:
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
        except asyncio.CancelledError:
            if not self.is_over:
                self._end(ConnectionError("the connection to Redis was closed"))
                raise
        except Exception as error:
            self._end(error)

    def _look_at_oldest(self) -> None:
        """End the pipeline if its oldest question waits for too long."""
        self._timer = None
        if not self._asked:
            return
        assert self._connected_at is not None
        now = self._loop.time()
        due = max(self._asked[0][0], self._connected_at) + self._timeout
        if now < due:
            self._timer = self._loop.call_at(due, self._look_at_oldest)
        elif now > due + BUSY_SECONDS and self._graces < GRACES:
            self._graces += 1
            self._timer = self._loop.call_later(GRACE_SECONDS, self._look_at_oldest)
        else:
            self._end(TimeoutError("Redis did not answer in time"))

    def _end(self, error: Exception) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._unsent.clear()
        for _, answer in self._asked:
            if not answer.done():
                answer.set_exception(error)
        self._asked.clear()
        for task in (self._sending, self._reading):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
