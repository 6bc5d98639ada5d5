"""The settings of an App, checked when it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from earnorm.concerns import Concerns, ReadConcern, ReadPreference, WriteConcern
from earnorm.exceptions import ConfigurationError, nearest
from earnorm.kernel.plugins.selection import HOUSE_PLUGINS, installed
from earnorm.kernel.transactions.retries import CONVENIENT_SECONDS

T = TypeVar("T")

_SIZES: Final = ("min_pool_size", "max_pool_size")
_TIMES: Final = (
    "pool_timeout",
    "max_lifetime",
    "idle_timeout",
    "server_timeout",
    "default_timeout",
)


@dataclass(frozen=True, slots=True)
class AppSettings:
    """The settings of an App. Times are in seconds; None means the driver's own default.

    Attributes:
        database: The database's name.
        min_pool_size: The number of connections that are kept open.
        max_pool_size: The highest number of connections to one server.
        pool_timeout: The longest time that an operation waits for a connection.
        max_lifetime: The age at which the pool plugin closes a connection.
        idle_timeout: The idle time after which a connection is closed.
        server_timeout: The longest time to look for a server.
        client_options: Further options of the driver, by the driver's names.
        create_indexes: Create declared collections and indexes on a model's first use.
        read_concern: The read concern, e.g. ``"majority"``: only data that most members have.
        write_concern: The members that confirm a write: a number, ``"majority"``, or a mapping
            with ``w``, ``j`` and ``wtimeout`` (milliseconds).
        read_preference: The members to read from, e.g. ``"secondaryPreferred"``.
        default_timeout: The longest time of a read or a write that has no ``timeout`` of its own.
        retry_timeout: The longest time during which a transaction is tried again that has no
            number of retries of its own; at most 120.

    Raises:
        ConfigurationError: A value is not valid.
    """

    database: str
    min_pool_size: int | None = None
    max_pool_size: int | None = None
    pool_timeout: float | None = None
    max_lifetime: float | None = None
    idle_timeout: float | None = None
    server_timeout: float | None = 5.0
    client_options: Mapping[str, object] = field(default_factory=dict[str, object])
    create_indexes: bool = True
    read_concern: ReadConcern | None = None
    write_concern: WriteConcern | None = None
    read_preference: ReadPreference | None = None
    default_timeout: float | None = None
    retry_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.database, str) or not self.database:
            raise ConfigurationError('database= names the database: database="example"')
        for name in _SIZES:
            size = getattr(self, name)
            if size is not None and (type(size) is not int or size < 0):
                raise ConfigurationError(f"{name} is a number of connections, 0 or more")
        for name in _TIMES:
            check_time(name, getattr(self, name))
        limit = self.retry_timeout
        if type(limit) not in (int, float) or not 0 < limit <= CONVENIENT_SECONDS:
            raise ConfigurationError(
                f"retry_timeout is a time in seconds, above 0 and at most {CONVENIENT_SECONDS:g}"
            )
        _ = self.concerns  # reading them refuses an unknown value when the App is made

    @property
    def concerns(self) -> Concerns | None:
        """The read concern, write concern and read preference, checked; None if none was given."""
        return Concerns.of(
            "App",
            read_concern=self.read_concern,
            write_concern=self.write_concern,
            read_preference=self.read_preference,
        )

    def driver_options(self) -> dict[str, object]:
        """Return these settings by the driver's names; times are in milliseconds."""
        seconds = {
            "waitQueueTimeoutMS": self.pool_timeout,
            "maxIdleTimeMS": self.idle_timeout,
            "serverSelectionTimeoutMS": self.server_timeout,
        }
        options: dict[str, object] = {
            name: int(value * 1000) for name, value in seconds.items() if value is not None
        }
        sizes = {"minPoolSize": self.min_pool_size, "maxPoolSize": self.max_pool_size}
        options |= {name: size for name, size in sizes.items() if size is not None}
        return options | dict(self.client_options)


def check_time(name: str, time: object) -> None:
    """Refuse a setting that is no time; None means that there is none.

    Raises:
        ConfigurationError: It is no number above 0.
    """
    if time is not None and (not isinstance(time, int | float) or not time > 0):
        raise ConfigurationError(f"{name} is a time in seconds, a number above 0")


def either(name: str, value: T | None, synonym: str, other: T | None) -> T | None:
    """Return the value that was given under one of two names of a setting.

    Raises:
        ConfigurationError: It was given under both.
    """
    if value is not None and other is not None:
        raise ConfigurationError(f"{synonym!r} and {name!r} mean the same; give one")
    return other if value is None else value


def refuse_unknown(keywords: Mapping[str, object], taker: Callable[..., object]) -> None:
    """Refuse keywords that are neither parameters of an App nor settings of a plugin.

    Args:
        keywords: The keywords that are not parameters.
        taker: The function with the parameters; the error suggests the nearest one.

    Raises:
        ConfigurationError: A value is neither a mapping nor a pydantic model.
    """
    for keyword, value in keywords.items():
        if not isinstance(value, Mapping) and not hasattr(value, "model_fields_set"):
            plugins = {*installed(), *HOUSE_PLUGINS}
            if keyword in plugins:
                raise ConfigurationError(
                    f"{keyword} has the settings of the plugin {keyword!r}, names and their values, "
                    f"and not one value"
                )
            known = parameters_of(taker) | plugins
            raise ConfigurationError(f"unknown keyword {keyword!r}{nearest(keyword, known)}")


def parameters_of(taker: Callable[..., object]) -> frozenset[str]:
    """Return the names of a function's parameters, without those of ``**keywords``."""
    parameters = inspect.signature(taker).parameters.values()
    return frozenset(param.name for param in parameters if param.kind is not param.VAR_KEYWORD)
