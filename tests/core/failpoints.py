"""The server's own fail point, for the commands of one App."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient

TRANSIENT = "TransientTransactionError"
UNKNOWN = "UnknownTransactionCommitResult"


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, for half a minute."""
    for _ in range(1_500):
        if await asyncio.to_thread(is_so):
            return
        await asyncio.sleep(0.02)
    raise TimeoutError("it did not happen")


class FailPoint:
    """A fail point that is on, for commands of one App."""

    def __init__(
        self, client: MongoClient[dict[str, Any]], app: str, commands: tuple[str, ...], entered: int
    ) -> None:
        self._client = client
        self._app = app
        self._commands = commands
        self._entered = entered

    async def entered(self, times: int = 1) -> None:
        """Wait until so many commands have come to it."""
        await asyncio.to_thread(
            self._client.admin.command,
            "waitForFailPoint",
            "failCommand",
            timesEntered=self._entered + times,
            maxTimeMS=30_000,
        )

    def blocked(self) -> list[Any]:
        """The numbers of the operations of the App that the server has under way."""
        named = [{f"command.{command}": {"$exists": True}} for command in self._commands]
        stages: list[dict[str, Any]] = [
            {"$currentOp": {"allUsers": True}},
            {"$match": {"appName": self._app, "$or": named}},
        ]
        return [operation["opid"] for operation in self._client.admin.aggregate(stages)]

    async def interrupt(self) -> None:
        """End what it blocks."""
        for number in await asyncio.to_thread(self.blocked):
            await asyncio.to_thread(self._client.admin.command, "killOp", op=number)


@contextmanager
def failing(
    uri: str,
    database: str,
    *commands: str,
    mode: str | Mapping[str, int] = "alwaysOn",
    **data: Any,
) -> Iterator[FailPoint]:
    """These commands fail as ``data`` says, of the App that named itself by its database alone.

    https://github.com/mongodb/mongo/wiki/The-failCommand-fail-point
    """
    data = {"failCommands": list(commands), "appName": database, **data}
    with MongoClient[dict[str, Any]](uri) as client:
        before = client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        try:
            yield FailPoint(client, database, commands, before["count"])
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")
