"""The ChangeCursor over a driver's change stream, for every driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pymongo.errors import PyMongoError
from typing_extensions import override

from earnorm.backends.base import ChangeCursor, Document
from earnorm.backends.errors import Translating, said
from earnorm.exceptions import ServerUnavailable

RESUMABLE: Final = "ResumableChangeStreamError"
"""The server's label on an error after which the driver has tried to resume the stream:
https://github.com/mongodb/specifications/blob/master/source/change-streams/change-streams.md"""


class DriverChangeCursor(ChangeCursor):
    """A driver's change stream behind the ``ChangeCursor`` protocol."""

    def __init__(self, native: Any, translating: Translating) -> None:
        self._native = native
        self._translating = translating
        self._first: Document | None = None
        self._token: Mapping[str, Any] | None = None
        self._broken = False

    async def open(self, *, lazily: bool) -> None:
        """Start the stream on the server, so that no write from now on is missed.

        Args:
            lazily: The driver starts it only with the first read (Motor), which may give a change.
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
            change = await self._read()
        # After the last change of a batch the driver knows a later token, as nothing came in
        # between.
        self._token = self._native.resume_token if change is None else change["_id"]
        if change is not None and change["operationType"] == "invalidate":
            raise StopAsyncIteration
        return change

    async def _read(self) -> Document | None:
        # A cancelled or failed read may have lost a change; in Motor its thread continues to read.
        if self._broken or not self._native.alive:
            raise ServerUnavailable("the change stream broke off")
        self._broken = True
        with self._translating:
            try:
                change: Document | None = await self._native.try_next()
            except PyMongoError as error:
                if error.has_error_label(RESUMABLE):
                    raise ServerUnavailable(
                        f"the change stream broke off: {said(error)}"
                    ) from error
                raise
        self._broken = False
        return change

    @override
    async def close(self) -> None:
        with self._translating:
            await self._native.close()
