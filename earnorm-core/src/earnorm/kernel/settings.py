"""The settings of an App: what it was made with, checked as it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from earnorm.concerns import Concerns, ReadConcern, ReadPreference, WriteConcern
from earnorm.exceptions import ConfigurationError, nearest
from earnorm.kernel.plugins import installed

T = TypeVar("T")

_SIZES: Final = ("min_pool_size", "max_pool_size")
_TIMES: Final = (
    "pool_timeout",
    "max_lifetime",
    "idle_timeout",
    "server_timeout",
    "default_timeout",
    "slow_query",
)
# The plugins of this house, so that a misspelt keyword finds its neighbour before they are installed.
_HOUSE_PLUGINS: Final = ("audit", "cache", "pool", "security")


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What an App was made with. Times are in seconds; None leaves the driver's own default.

    Attributes:
        database: The database's name.
        min_pool_size: Connections kept open.
        max_pool_size: Most connections to one server.
        pool_timeout: How long an operation waits for a connection.
        max_lifetime: Age at which a connection is retired (the pool plugin does it).
        idle_timeout: Idle time after which a connection is closed.
        server_timeout: How long to look for a server before giving up.
        client_options: Further options of the driver, in its own names.
        create_indexes: Create declared collections and indexes on a model's first use.
        coalesce: Let reads by id that wait at the same time share one query.
        slow_query: Note operations that take so long or longer (``docs/indexes.md``); None notes none.
        slow_query_file: The file that the shapes of slow operations are written to when the App stops.
        read_concern: How settled the data must be that is read, e.g. ``"majority"``.
        write_concern: How many members confirm a write: a number, ``"majority"``, or a mapping with
            ``w``, ``j`` and ``wtimeout`` (milliseconds).
        read_preference: Which members are read from, e.g. ``"secondaryPreferred"``.
        default_timeout: How long a read or a write may take that says nothing else.

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
    coalesce: bool = False
    slow_query: float | None = None
    slow_query_file: str | None = None
    read_concern: ReadConcern | None = None
    write_concern: WriteConcern | None = None
    read_preference: ReadPreference | None = None
    default_timeout: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.database, str) or not self.database:
            raise ConfigurationError('database= names the database: database="example"')
        for name in _SIZES:
            size = getattr(self, name)
            if size is not None and (type(size) is not int or size < 0):
                raise ConfigurationError(f"{name} is a number of connections, not {size!r}")
        for name in _TIMES:
            time = getattr(self, name)
            if time is not None and (not isinstance(time, int | float) or not time > 0):
                raise ConfigurationError(f"{name} is a time in seconds above 0, not {time!r}")
        _ = self.concerns  # an unknown value is an error of the App's maker

    @property
    def concerns(self) -> Concerns | None:
        """The three concerns, checked; None where none was given."""
        return Concerns.of(
            "App",
            read_concern=self.read_concern,
            write_concern=self.write_concern,
            read_preference=self.read_preference,
        )

    def driver_options(self) -> dict[str, object]:
        """These settings in the driver's names; times in milliseconds."""
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


def either(name: str, value: T | None, synonym: str, other: T | None) -> T | None:
    """The value that was given under one of two names of a setting.

    Raises:
        ConfigurationError: It was given under both.
    """
    if value is not None and other is not None:
        raise ConfigurationError(f"{synonym!r} and {name!r} mean the same; give one")
    return other if value is None else value


def refuse_unknown(keywords: Mapping[str, object], taker: Callable[..., object]) -> None:
    """Refuse keywords that are neither parameters of an App nor settings of a plugin.

    Args:
        keywords: What was given beside the parameters.
        taker: What has the parameters, so that the error finds the nearest one.

    Raises:
        ConfigurationError: A value is neither a mapping nor a pydantic model.
    """
    for keyword, value in keywords.items():
        if not isinstance(value, Mapping) and not hasattr(value, "model_fields_set"):
            parameters = inspect.signature(taker).parameters.values()
            named = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
            known = named | {*installed(), *_HOUSE_PLUGINS}
            raise ConfigurationError(f"unknown keyword {keyword!r}{nearest(keyword, known)}")
