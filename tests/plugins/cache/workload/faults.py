"""Faults of the cache that the workload must find, each planted in a process by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from earnorm_cache import change, closing, shared
from earnorm_cache.connecting import Script


def _no_removal() -> None:
    """What is written is not removed from Redis, and no other process hears of it."""

    async def removed(self: Any, *arguments: Any, **more: Any) -> bool:
        return True

    shared.Shared._removed = removed  # type: ignore[method-assign]


def _no_message() -> None:
    """No other process hears of what is written."""
    head, _, _ = shared._REMOVE.text.partition("return redis.call('XADD'")
    shared._REMOVE = Script(f"{head}return 'untold'")  # type: ignore[misc]


def _no_closing() -> None:
    """The process that writes does not forget what it keeps."""

    def nothing(self: Any, *arguments: Any) -> None:
        pass

    closing.Shelves.close = nothing  # type: ignore[method-assign]
    closing.Shelves.reopen = nothing  # type: ignore[method-assign]


def _no_conditions() -> None:
    """A write by a condition forgets no record."""
    real = change.written_ids

    def written_ids(*arguments: Any) -> Any:
        return real(*arguments) or ()

    change.written_ids = written_ids


def _no_fields() -> None:
    """A write renews no token of a field."""

    def tokens(self: Any) -> frozenset[str]:
        return frozenset({change.MEMBERS} if self.is_membership else {change.ANYTHING})

    change.Change.tokens = property(tokens)  # type: ignore[assignment,method-assign]


def _no_members() -> None:
    """A record that comes or goes renews no token of the membership."""
    real: Callable[[Any], Any] = vars(change.Change)["tokens"].fget

    def tokens(self: Any) -> Any:
        found = real(self)
        return None if found is None else found - {change.MEMBERS, change.ANYTHING} | {"none"}

    change.Change.tokens = property(tokens)  # type: ignore[assignment,method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "no removal": _no_removal,
    "no message": _no_message,
    "no closing": _no_closing,
    "no conditions": _no_conditions,
    "no fields": _no_fields,
    "no members": _no_members,
}
