"""The Motor adapter: PyMongo's synchronous client in threads, which also call the listeners."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from motor.frameworks import asyncio as motor_asyncio
from motor.motor_asyncio import AsyncIOMotorClient
from typing_extensions import override

from earnorm.backends.base import ServerSettings
from earnorm.backends.driver import DriverBackend, new_client, pool_limits
from earnorm.backends.motor_threads import WITHOUT_LIMIT, MotorThreads, asked_threads
from earnorm.traffic import Traffic


class MotorBackend(DriverBackend):
    """``AsyncIOMotorClient`` behind the ``Backend`` protocol, in threads of its own.

    The application's own client works in the threads that Motor's clients share.
    """

    kind = "motor"
    ends_cancelled = False

    @classmethod
    @override
    def client_class(cls) -> Callable[..., Any]:
        return AsyncIOMotorClient

    @override
    def _new_client(self, settings: ServerSettings) -> Any:
        self._threads = MotorThreads(self.operations)
        return new_client(partial(AsyncIOMotorClient, io_loop=self._threads), settings)

    @override
    def _limit_operations(self) -> None:
        places, seconds = pool_limits(self._client)
        if places is None:
            places = WITHOUT_LIMIT
        if self._owned:
            threads = asked_threads() or places + 1
            self._threads.size = threads
            self.operations.weight = 0  # each call takes a place
        else:
            threads = motor_asyncio.max_workers
        self.operations.limit(min(places, threads), seconds)

    @override
    def traffic(self) -> Traffic:
        if not self._owned:
            return self.operations.traffic(motor_asyncio.max_workers)
        return self.operations.traffic(self._threads.size, self._threads.queued)

    @override
    async def close(self) -> None:
        await super().close()
        if self._owned:
            self._threads.close()
