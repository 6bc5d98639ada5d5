"""A driver's collection and cursor whose calls are made in a session."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from earnorm.backends.base import Document, Filter
from earnorm.backends.conversions import settled

if TYPE_CHECKING:
    from earnorm.backends.in_sessions import DriverSession


class SessionCollection:
    """A driver's collection whose calls are made in a session, which waits for them at its end.

    Args:
        native: The driver's collection.
        session: The session.
        timeout: The time limit of a call in seconds.
    """

    def __init__(self, native: Any, session: DriverSession, timeout: float | None) -> None:
        self._native = native
        self._session = session
        self._timeout = timeout

    def __getattr__(self, name: str) -> Any:
        """Return a method of the driver's collection that sends one operation."""
        return partial(self._carry, getattr(self._native, name))

    def _carry(self, call: Any, *arguments: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        options["session"] = self._session.native
        return self._session.carry(partial(call, *arguments, **options), self._timeout)

    def with_options(self, **options: Any) -> SessionCollection:
        """Return the same with other options."""
        return SessionCollection(self._native.with_options(**options), self._session, self._timeout)

    def find(self, filter: Filter, **options: Any) -> SessionCursor:
        """Return a cursor; nothing is sent before it is read."""
        self._session.refuse()
        options["session"] = self._session.native
        return SessionCursor(self._native.find(filter, **options), self._session, self._timeout)

    async def aggregate(self, pipeline: list[Mapping[str, Any]], **options: Any) -> SessionCursor:
        """Return a cursor over the documents that a pipeline gives."""
        options["session"] = self._session.native
        begin = partial(_aggregate, self._native, pipeline, options)
        native = await self._session.carry(begin, self._timeout)
        return SessionCursor(native, self._session, self._timeout)


async def _aggregate(native: Any, pipeline: Any, options: Mapping[str, Any]) -> Any:
    return await settled(native.aggregate(pipeline, **options))


class SessionCursor:
    """A driver's cursor in a session, which waits for what it reads and closes it at its end."""

    def __init__(self, native: Any, session: DriverSession, timeout: float | None) -> None:
        self._native = native
        self._session = session
        self._timeout = timeout
        session.cursors.add(self)

    async def to_list(self, length: int | None) -> list[Document]:
        """Read up to so many documents."""
        begin = partial(self._native.to_list, length)
        documents: list[Document] = await self._session.carry(begin, self._timeout)
        if not self._native.alive:
            self._session.cursors.discard(self)
        return documents

    async def close(self) -> None:
        """Close the cursor; a session that takes no operation does it at its end."""
        if self._native.alive:
            await self._session.wait_for_pending()
            if self._session.is_open:
                await self._session.carry(self._native.close, None)
                self._session.cursors.discard(self)

    async def close_native(self) -> None:
        """Close the cursor at the end of its session."""
        if self._native.alive:
            with contextlib.suppress(PyMongoError):
                await settled(self._native.close())
