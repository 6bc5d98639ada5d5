"""Files in GridFS over the Collection protocol, so that every backend, also ``memory``, has them.

The layout is that of the GridFS specification, and drivers and tools read it:
https://github.com/mongodb/specifications/blob/master/source/gridfs/gridfs-spec.md
The drivers' own buckets are not used, because they differ and mongomock has none.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bson import Int64, ObjectId

from earnorm.backends.base import Collection, Document, IndexSpec
from earnorm.exceptions import NotFound

CHUNK: Final = 255 * 1024
"""Bytes in a chunk; the specification's default."""
_AT_ONCE: Final = 8
"""Chunks in one round trip, 2 MiB, which is the memory that a file of any size needs."""
_IDS_AT_ONCE: Final = 1000

_CHUNK_INDEX: Final = IndexSpec((("files_id", 1), ("n", 1)), {"unique": True})
_FILE_INDEX: Final = IndexSpec((("filename", 1), ("uploadDate", 1)))


class Uploaded(NamedTuple):
    """The facts about a file that are known when all of it is stored."""

    length: int
    sha256: str
    uploaded_at: datetime.datetime


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class FileStore:
    """One bucket.

    Args:
        files: The bucket's collection of files.
        chunks: The bucket's collection of their contents.
    """

    def __init__(self, files: Collection, chunks: Collection) -> None:
        self._files = files
        self._chunks = chunks
        self._is_indexed = False

    async def save(
        self,
        id: ObjectId,
        content: AsyncIterable[bytes],
        *,
        filename: str | None,
        metadata: Mapping[str, Any],
        clock: Callable[[], datetime.datetime] = _utc_now,
    ) -> Uploaded:
        """Store a file. It can be read when all of it is stored; if that fails, nothing is left.

        ``clock`` tells the time in UTC, which is the file's when all of it is stored.
        """
        if not self._is_indexed:
            await self._chunks.create_indexes([_CHUNK_INDEX])
            await self._files.create_indexes([_FILE_INDEX])
            self._is_indexed = True
        digest, length, number = hashlib.sha256(), 0, 0
        try:
            async for group in _groups(content):
                await self._chunks.insert(
                    [
                        {"_id": ObjectId(), "files_id": id, "n": number + offset, "data": data}
                        for offset, data in enumerate(group)
                    ]
                )
                number += len(group)
                for data in group:
                    digest.update(data)
                    length += len(data)
            now = clock()
            now = now.replace(microsecond=now.microsecond // 1000 * 1000)
            file: Document = {
                "_id": id,
                "length": Int64(length),
                "chunkSize": CHUNK,
                "uploadDate": now.replace(tzinfo=None),
                "metadata": {**metadata, "sha256": digest.hexdigest()},
            }
            if filename is not None:
                file["filename"] = filename
            await self._files.insert([file])
        except BaseException:
            # The shield lets the clean-up finish even if the task was cancelled.
            await asyncio.shield(asyncio.ensure_future(self.delete([id])))
            raise
        return Uploaded(length, digest.hexdigest(), now)

    async def read(
        self, id: ObjectId, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop`` (default: the end), chunk by chunk.

        Raises:
            NotFound: There is no such file, or a part of it is missing.
        """
        files = await self._files.find({"_id": id}, limit=1)
        if not files:
            raise NotFound("the file's content is not in the store any more")
        length, size = int(files[0]["length"]), int(files[0]["chunkSize"])
        stop = length if stop is None else min(stop, length)
        if start >= stop:
            return
        expected, last = start // size, (stop - 1) // size
        cursor = await self._chunks.open_cursor(
            {"files_id": id, "n": {"$gte": expected, "$lte": last}},
            projection={"_id": 0, "n": 1, "data": 1},
            sort=[("n", 1)],
            batch_size=_AT_ONCE,
        )
        try:
            while batch := await cursor.next_batch():
                for chunk in batch:
                    data = bytes(chunk["data"])
                    begin = expected * size
                    if chunk["n"] != expected or len(data) != min(size, length - begin):
                        raise NotFound("a part of the file's content is missing in the store")
                    yield data[max(0, start - begin) : stop - begin]
                    expected += 1
        finally:
            await cursor.close()
        if expected <= last:
            raise NotFound("a part of the file's content is missing in the store")

    async def delete(self, ids: Sequence[ObjectId]) -> None:
        """Delete these files; a missing one is no error."""
        if ids:
            # The file goes first: without it its chunks cannot be read, so nobody reads only a
            # part.
            await self._files.delete({"_id": {"$in": list(ids)}})
            await self._chunks.delete({"files_id": {"$in": list(ids)}})

    async def ids_before(self, moment: datetime.datetime) -> AsyncIterator[list[ObjectId]]:
        """Yield the ids of the files that were stored before a moment, a thousand at a time."""
        naive = moment.astimezone(datetime.UTC).replace(tzinfo=None)
        cursor = await self._files.open_cursor(
            {"uploadDate": {"$lt": naive}}, projection={"_id": 1}, batch_size=_IDS_AT_ONCE
        )
        try:
            while batch := await cursor.next_batch():
                yield [file["_id"] for file in batch]
        finally:
            await cursor.close()


async def _groups(content: AsyncIterable[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the content in groups of chunks of the right size; the last group may be smaller."""
    buffer = bytearray()
    async for part in content:
        view = memoryview(part)
        # A part may be far larger than a group, so it is read in pieces.
        for begin in range(0, len(view), CHUNK * _AT_ONCE):
            buffer += view[begin : begin + CHUNK * _AT_ONCE]
            whole = len(buffer) // CHUNK
            if whole >= _AT_ONCE:
                yield [bytes(buffer[n * CHUNK : (n + 1) * CHUNK]) for n in range(whole)]
                del buffer[: whole * CHUNK]
    if buffer:
        yield [bytes(buffer[n : n + CHUNK]) for n in range(0, len(buffer), CHUNK)]
