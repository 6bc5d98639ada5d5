"""The ChangeCursor over a driver's change stream, for every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from inspect import isawaitable
from typing import Any, Final

from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError
from typing_extensions import override

from earnorm.backends.base import ChangeCursor, Document
from earnorm.backends.broken import RAW, decoded
from earnorm.backends.conversions import settled
from earnorm.backends.errors import Translating, said
from earnorm.backends.left_reads import LeftReads
from earnorm.exceptions import ErrorDetail, ServerUnavailable, UnreadableDocument

RESUMABLE: Final = "ResumableChangeStreamError"
"""The server's label on an error after which the driver has tried to resume the stream:
https://github.com/mongodb/specifications/blob/master/source/change-streams/change-streams.md"""


_READ_SECONDS: Final = 5.0
"""The time for which a close waits for a read that is under way."""


async def open_changes(
    native: Any,
    translating: Translating,
    left: LeftReads,
    pipeline: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> DriverChangeCursor:
    """Open the change stream of a driver's collection or database.

    Args:
        native: The collection or the database.
        translating: Translates the driver's exceptions.
        left: Closes the stream if this task is cancelled meanwhile.
        pipeline: The stages that the server applies to each change.
        options: The options of the driver's ``watch``.
    """

    async def open_stream() -> DriverChangeCursor:
        raw = native.with_options(codec_options=RAW)
        opening = raw.watch(list(pipeline), **options)
        cursor = DriverChangeCursor(await settled(opening), translating, left)
        await cursor.open(lazily=not isawaitable(opening))
        return cursor

    async def close(cursor: DriverChangeCursor | None) -> None:
        if cursor is not None:
            await cursor.close()

    with translating:
        # Motor opens it with its first read, which waits for a change.
        return await left.read(open_stream(), close, options["max_await_time_ms"] / 1000)


class DriverChangeCursor(ChangeCursor):
    """A driver's change stream behind the ``ChangeCursor`` protocol.

    A driver takes a stream that is closed under a read for one that broke off, and a read that is
    cancelled may lose a change. So a read is a task of its own: it goes on if its caller is cancelled,
    the next call takes its answer, and a close waits for it.

    Args:
        native: The driver's change stream.
        translating: Translates the driver's exceptions.
        left: Takes the close.
    """

    def __init__(self, native: Any, translating: Translating, left: LeftReads) -> None:
        self._native = native
        self._translating = translating
        self._left = left
        self._first: Any = None
        self._token: Mapping[str, Any] | None = None
        self._broken = False
        self._reading: asyncio.Future[Any] | None = None
        self._is_left = False
        """Nobody waits for the read that is under way."""

    async def open(self, *, lazily: bool) -> None:
        """Start the stream on the server, so that no write from now on is missed.

        Args:
            lazily: The driver starts it only with the first read (Motor), which may give a change.
        """
        if lazily:
            self._first = await self._native.try_next()
        if self._first is None:
            self._token = self._resume_token

    @property
    @override
    def token(self) -> Mapping[str, Any] | None:
        return self._token

    @override
    async def next(self) -> Document | None:
        raw, self._first = self._first, None
        if raw is None:
            raw = await self._read()
        # After the last change of a batch the driver knows a later token, as nothing came in
        # between. A change that cannot be decoded is behind the token too.
        self._token = self._resume_token if raw is None else decoded("", raw["_id"])
        change = None if raw is None else self._decoded(raw)
        if change is not None and change["operationType"] == "invalidate":
            raise StopAsyncIteration
        return change

    @property
    def _resume_token(self) -> Mapping[str, Any] | None:
        token: Any = self._native.resume_token  # a dict until the server has given one
        return decoded("", token) if isinstance(token, RawBSONDocument) else token

    def _decoded(self, raw: Any) -> Document:
        try:
            return decoded(self._translating.subject, raw)
        except UnreadableDocument as error:
            # The problems lie in "fullDocument" and the like, and the id in "documentKey".
            pk = decoded("", raw["documentKey"])["_id"]
            details = [
                ErrorDetail(loc=(str(pk), *_inside(d["loc"][1:])), msg=d["msg"], type=d["type"])
                for d in error.errors()
            ]
            raise UnreadableDocument(error.subject, details, ids=[pk]) from None

    async def _read(self) -> Any:
        reading, self._is_left = self._reading, False
        if reading is None:
            # A failed read may have lost a change.
            if self._broken or not self._native.alive:
                raise ServerUnavailable("the change stream broke off")
            reading = self._reading = asyncio.ensure_future(self._native.try_next())
        with self._translating:
            try:
                change = await asyncio.shield(reading)
            except asyncio.CancelledError:
                self._is_left = True
                raise
            except BaseException as error:
                self._reading, self._broken = None, True
                if isinstance(error, PyMongoError) and error.has_error_label(RESUMABLE):
                    raise ServerUnavailable(
                        f"the change stream broke off: {said(error)}"
                    ) from error
                raise
        if self._reading is reading:
            self._reading = None
        return change

    @override
    async def close(self) -> None:
        closing = self._left.begin(self._close())
        if not self._is_left:  # else the caller was cancelled, and does not wait for the read
            with self._translating:
                await asyncio.shield(closing)

    async def _close(self) -> None:
        reading, self._broken = self._reading, True
        if reading is not None:
            if self._is_left and self._left.ends_cancelled:  # nobody takes what it would wait for
                reading.cancel()
            await asyncio.wait({reading}, timeout=_READ_SECONDS)
            if reading.done() and not reading.cancelled():
                reading.exception()  # asyncio would log an error that nobody has retrieved
        await self._native.close()


def _inside(place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the place in the document of a place in a change."""
    if place[:2] == ("updateDescription", "updatedFields"):
        return place[2:]
    return place[1:] if str(place[0]).startswith("fullDocument") else place
