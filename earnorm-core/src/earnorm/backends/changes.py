"""One ChangeCursor over a driver's own change stream, whichever driver it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from earnorm.backends.base import ChangeCursor, Document
from earnorm.backends.errors import Translating


class DriverChangeCursor(ChangeCursor):
    """A driver's change stream behind the ``ChangeCursor`` protocol."""

    def __init__(self, native: Any, translating: Translating) -> None:
        self._native = native
        self._translating = translating
        self._first: Document | None = None
        self._token: Mapping[str, Any] | None = None

    async def open(self, *, lazily: bool) -> None:
        """Reach the server, so that nothing that is written from now on is missed.

        Args:
            lazily: The driver does not do it before the first read (Motor), and may find a change then.
        """
        if lazily:
            self._first = await self._native.try_next()
        if self._first is None:
            self._token = self._native.resume_token

    @property
    @override
    def token(self) -> Mapping[str, Any] | None:
        return self._token

    @override
    async def next(self) -> Document | None:
        change, self._first = self._first, None
        if change is None:
            with self._translating:
                if not self._native.alive:
                    raise StopAsyncIteration
                change = await self._native.try_next()
        # Behind the last change of a batch the driver knows a later place: nothing came in between.
        self._token = self._native.resume_token if change is None else change["_id"]
        return change

    @override
    async def close(self) -> None:
        with self._translating:
            await self._native.close()
