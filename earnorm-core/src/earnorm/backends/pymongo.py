"""The default adapter: PyMongo's own asyncio client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymongo import AsyncMongoClient
from typing_extensions import override

from earnorm.backends.driver import DriverBackend


class PyMongoBackend(DriverBackend):
    """``AsyncMongoClient`` behind the ``Backend`` protocol."""

    kind = "pymongo"

    @classmethod
    @override
    def client_class(cls) -> Callable[..., Any]:
        return AsyncMongoClient
