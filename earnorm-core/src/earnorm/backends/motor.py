"""The Motor adapter: PyMongo's synchronous client in threads, which also call the listeners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from typing_extensions import override

from earnorm.backends.driver import DriverBackend


class MotorBackend(DriverBackend):
    """``AsyncIOMotorClient`` behind the ``Backend`` protocol."""

    kind = "motor"

    @classmethod
    @override
    def client_class(cls) -> Callable[..., Any]:
        return AsyncIOMotorClient
