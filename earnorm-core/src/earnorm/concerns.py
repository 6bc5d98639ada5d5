"""The read concern, write concern and read preference that a read or write asks of a replica set.

They are plain values that know no driver; the adapters convert them to the driver's own. The words
are MongoDB's: https://www.mongodb.com/docs/manual/reference/read-concern/ and the pages beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

from earnorm.exceptions import ConfigurationError, nearest

ReadConcern = Literal["local", "available", "majority", "linearizable", "snapshot"]
ReadPreference = Literal[
    "primary", "primaryPreferred", "secondary", "secondaryPreferred", "nearest"
]
WriteConcern = int | Literal["majority"] | Mapping[str, object]
"""A number of members, ``"majority"``, or a mapping with ``w``, ``j`` and ``wtimeout`` (milliseconds)."""

READ_CONCERNS: Final[tuple[str, ...]] = get_args(ReadConcern)
READ_PREFERENCES: Final[tuple[str, ...]] = get_args(ReadPreference)
IN_TRANSACTIONS: Final = frozenset({"local", "majority", "snapshot"})
"""The read concerns that a transaction may have."""

_WRITE_OPTIONS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "w": (int, str),
    "j": bool,
    "wtimeout": int,
}


@dataclass(frozen=True, slots=True)
class Concerns:
    """Some of the three; None leaves one to the next wider setting. Hashable.

    Attributes:
        read_concern: A level.
        write_concern: The pairs of ``w``, ``j`` and ``wtimeout``.
        read_preference: A mode.
    """

    read_concern: str | None = None
    write_concern: tuple[tuple[str, object], ...] | None = None
    read_preference: str | None = None

    @classmethod
    def of(
        cls,
        where: str,
        *,
        read_concern: object = None,
        write_concern: object = None,
        read_preference: object = None,
    ) -> Concerns | None:
        """Check the given values; return None if none is given.

        Args:
            where: The place that gives the values, for messages.
            read_concern: See :data:`ReadConcern`.
            write_concern: See :data:`WriteConcern`.
            read_preference: See :data:`ReadPreference`.

        Raises:
            ConfigurationError: A value is not known.
        """
        if read_concern is None and write_concern is None and read_preference is None:
            return None
        return cls(
            _checked_word(where, "read_concern", read_concern, READ_CONCERNS),
            _write_concern(where, write_concern),
            _checked_word(where, "read_preference", read_preference, READ_PREFERENCES),
        )

    def over(self, wider: Concerns | None) -> Concerns:
        """Fill in from ``wider`` the concerns that are None."""
        if wider is None:
            return self
        names = [field.name for field in fields(self)]
        own = {name: getattr(self, name) for name in names}
        return Concerns(
            **{n: getattr(wider, n) if value is None else value for n, value in own.items()}
        )


def _checked_word(where: str, name: str, value: object, allowed: tuple[str, ...]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else nearest("", allowed)
        raise ConfigurationError(f"{where}: {name}={value!r} is not known{hint}")
    return value


def _write_concern(where: str, value: object) -> tuple[tuple[str, object], ...] | None:
    if value is None:
        return None
    given: Mapping[str, object] = value if isinstance(value, Mapping) else {"w": value}
    for name, part in given.items():
        expected = _WRITE_OPTIONS.get(name)
        if expected is None:
            hint = nearest(str(name), _WRITE_OPTIONS)
            raise ConfigurationError(f"{where}: write_concern has no {name!r}{hint}")
        if not isinstance(part, expected) or (isinstance(part, bool) and name != "j"):
            raise ConfigurationError(f"{where}: write_concern: {name}={part!r} is not valid")
    size = given.get("w")
    if isinstance(size, int) and size < 1:
        raise ConfigurationError(
            f"{where}: write_concern={size}: a write that nobody confirms cannot say what it did; "
            f"give a number of members from 1, or 'majority'"
        )
    if isinstance(size, str) and size != "majority" and not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{where}: write_concern={size!r} is not known; known: a number of members, 'majority', "
            f'or {{"w": {size!r}}} for a mode of the replica set\'s own'
        )
    return tuple(sorted(given.items()))
