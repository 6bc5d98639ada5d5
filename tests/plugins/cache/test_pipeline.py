"""One connection for the commands of all tasks: who gets which answer, and what happens when it breaks off."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from earnorm.testing.data_directories import data_directory
from earnorm.testing.servers import Server, start_redis
from earnorm_cache.connecting import Address, Connection, Script
from earnorm_cache.pipeline import Pipeline

Connect = Callable[..., Connection]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[Connection] = []

    def connect(url: str | None = None, timeout: float = 2.0) -> Connection:
        address = Address.parse(url or os.environ["EARNORM_TEST_REDIS_URL"])
        opened.append(Connection(address, timeout))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture
def redis() -> Iterator[Server]:
    with data_directory() as directory:
        server = start_redis(Path(directory))
        try:
            yield server
        finally:
            signalled(server, signal.SIGCONT)
            server.stop()


def signalled(server: Server, number: int) -> None:
    assert server.process is not None
    server.process.send_signal(number)


async def test_each_task_gets_its_own_answer(connect: Connect) -> None:
    connection = connect()
    asked = [connection._ask("ECHO", str(number)) for number in range(500)]
    assert await asyncio.gather(*asked) == [str(number).encode() for number in range(500)]


async def test_a_cancelled_task_does_not_shift_the_answers_of_the_others(connect: Connect) -> None:
    connection = connect()
    await connection.ping()
    for moment in range(4):
        tasks = [asyncio.ensure_future(_echo(connection, number)) for number in range(20)]
        for _ in range(moment):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            assert isinstance(answer, asyncio.CancelledError) or answer == str(number).encode()
        assert answers[1] == b"1"
        assert await _echo(connection, 7) == b"7"


async def _echo(connection: Connection, number: int) -> Any:
    return await connection._ask("ECHO", str(number))


async def test_an_error_is_the_answer_of_one_question_only(connect: Connect) -> None:
    connection = connect()
    good, bad, other = (connection._ask(*c) for c in (("PING",), ("NO_SUCH",), ("ECHO", "x")))
    with pytest.raises(ResponseError):
        await bad
    assert (await good, await other) == (b"PONG", b"x")
    with pytest.raises(NoScriptError):
        await connection._ask("EVALSHA", "0" * 40, 0)


async def test_a_script_that_the_server_does_not_know_is_sent_whole(connect: Connect) -> None:
    connection = connect()
    script = Script(f"return '{os.urandom(8).hex()}'")
    first, second = await asyncio.gather(*(connection.run(script, [], []) for _ in range(2)))
    assert first == second == await connection.run(script, [], [])


async def test_what_is_asked_in_one_turn_of_the_loop_is_sent_at_once() -> None:
    peer = Peer()
    pipeline = Pipeline(peer, 1.0, 1.0, ResponseError)
    assert await asyncio.gather(*(pipeline.ask(("PING",)) for _ in range(5))) == [b"+"] * 5
    assert await asyncio.gather(*(pipeline.ask(("PING",)) for _ in range(50))) == [b"+"] * 50
    assert peer.sent == [5, 50]
    await pipeline.close()
    assert peer.is_closed


class Peer:
    """A connection whose server answers when it is told to, in the place of redis-py's."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.is_closed = False
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def connect(self) -> None:
        pass

    async def disconnect(self, nowait: bool = False) -> None:
        self.is_closed = True

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        self.sent.append(len(command))
        for _ in command:
            self.answers.put_nowait(b"+")

    async def read_response(self, disable_decoding: bool = False) -> Any:
        return await self.answers.get()


# -- what fails -----------------------------------------------------------------------------------


async def test_a_server_that_stands_still_fails_all_in_time_and_is_asked_anew(
    connect: Connect, redis: Server
) -> None:
    connection = connect(redis.uri, 0.2)
    await connection.ping()
    signalled(redis, signal.SIGSTOP)
    begun = time.monotonic()
    asked = [asyncio.ensure_future(_echo(connection, number)) for number in range(10)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} == {TimeoutError}
    assert 0.15 < time.monotonic() - begun < 2
    # The first connection of a server that stands still is made by the kernel.
    with pytest.raises(TimeoutError):
        await _echo(connection, 1)
    signalled(redis, signal.SIGCONT)
    for number in range(20):
        assert await _echo(connection, number) == str(number).encode()


async def test_a_connection_that_the_server_ends_fails_those_who_wait_and_no_other(
    connect: Connect, redis: Server
) -> None:
    connection = connect(redis.uri)
    await connection.ping()
    waiting = asyncio.ensure_future(connection._ask("BLPOP", "nothing", 0))
    await asyncio.sleep(0.05)
    with Redis.from_url(redis.uri) as other:
        other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(connection.errors):
        await waiting
    assert await _echo(connection, 1) == b"1"
    with Redis.from_url(redis.uri) as other:
        other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.sleep(0.05)  # it broke off while nobody asked
    assert await _echo(connection, 2) == b"2"


async def test_a_server_that_takes_connections_and_says_nothing_fails_in_time(
    connect: Connect,
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        # With a password the first answer is awaited before the connection is made.
        for password in ("", ":secret@"):
            connection = connect(f"redis://{password}127.0.0.1:{port}", 0.1)
            begun = time.monotonic()
            with pytest.raises(connection.errors):
                await connection.ping()
            assert time.monotonic() - begun < 1
            await connection.close()


async def test_a_loop_that_was_busy_is_no_server_that_is_away(connect: Connect) -> None:
    connection = connect(timeout=0.1)
    await connection.ping()
    for _ in range(3):
        asked = connection._ask("PING")
        await asyncio.sleep(0)  # it is sent
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is to stand still; the answer is there when it goes on
        assert await asked == b"PONG"


async def test_closing_ends_those_who_wait(connect: Connect, redis: Server) -> None:
    connection, unconnected = connect(redis.uri), connect(redis.uri)
    await connection.ping()
    waiting = asyncio.ensure_future(connection._ask("BLPOP", "nothing", 0))
    await asyncio.sleep(0.05)
    early = unconnected._ask("PING")
    for each in (connection, unconnected):
        await each.close()
    for asked in (waiting, early):
        with pytest.raises(ConnectionError):
            await asked
