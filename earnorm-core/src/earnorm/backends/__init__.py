"""The only room that imports drivers. ``open_backend`` picks an adapter and imports only that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

from earnorm.backends.base import Backend, ServerSettings
from earnorm.exceptions import ConfigurationError, nearest

__all__ = ["Backend", "ServerSettings", "is_listener", "open_backend"]


def is_listener(value: object) -> bool:
    """Return whether the drivers take an object as a listener of their events."""
    from earnorm.backends.driver import LISTENERS

    return isinstance(value, LISTENERS)


def _pymongo(settings: ServerSettings) -> Backend:
    from earnorm.backends.pymongo import PyMongoBackend

    return PyMongoBackend(settings)


def _motor(settings: ServerSettings) -> Backend:
    from earnorm.backends.motor_threads import asked_threads

    asked_threads()  # before Motor's import, which reads it too, and would raise another error
    from earnorm.backends.motor import MotorBackend

    return MotorBackend(settings)


def _memory(settings: ServerSettings) -> Backend:
    from earnorm.backends.memory import MemoryBackend

    return MemoryBackend(settings)


_MakeBackend = Callable[[ServerSettings], Backend]

DEFAULT_DRIVER: Final = "pymongo"
DRIVERS: Final[Mapping[str, _MakeBackend]] = {"pymongo": _pymongo, "motor": _motor}

# isinstance() takes mongomock-motor's client for Motor's, so it comes first.
_CLIENTS: Final[tuple[tuple[str, str, _MakeBackend], ...]] = (
    ("mongomock_motor", "AsyncMongoMockClient", _memory),
    ("pymongo", "AsyncMongoClient", _pymongo),
    ("motor.motor_asyncio", "AsyncIOMotorClient", _motor),
)


def open_backend(settings: ServerSettings, driver: str | None = None) -> Backend:
    """Make the adapter for a server; nothing is connected yet.

    Args:
        settings: The server. If it has the application's own client, the client's class decides,
            and the URI and ``driver`` are ignored. Such a client is never closed.
        driver: ``"pymongo"`` (the default) or ``"motor"``. ``mongomock://`` needs none.

    Raises:
        ConfigurationError: The URI scheme, driver or client is not known, or the driver refuses an
            option.
    """
    if settings.client is not None:
        return _adapter_of(settings.client)(settings)
    scheme, separator, _ = settings.uri.partition("://")
    if separator and scheme == "mongomock":
        return _memory(settings)
    if not separator or scheme not in ("mongodb", "mongodb+srv"):
        # The URI is not quoted: it may hold a password.
        raise ConfigurationError(
            "the MongoDB URI must begin with mongodb://, mongodb+srv:// or mongomock://"
        )
    chosen = driver or DEFAULT_DRIVER
    if chosen not in DRIVERS:
        raise ConfigurationError(f"unknown driver {chosen!r}{nearest(chosen, DRIVERS)}")
    return DRIVERS[chosen](settings)


def _adapter_of(client: object) -> _MakeBackend:
    # A client's class comes from a module that is imported already, so this imports no module.
    for module, name, adapter in _CLIENTS:
        if module in sys.modules and isinstance(client, getattr(sys.modules[module], name)):
            return adapter
    accepted = " or ".join(f"{module}.{name}" for module, name, _ in _CLIENTS[1:])
    raise ConfigurationError(
        f"the client is a {type(client).__module__}.{type(client).__qualname__}; "
        f"hand in a {accepted} (or mongomock_motor.AsyncMongoMockClient in tests)"
    )
