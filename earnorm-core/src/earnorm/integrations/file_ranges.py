"""Answers with the content of a File field: the whole of it, a range, or nothing where the client has it.

The rules are those of RFC 9110 (sections 8.8, 13 and 14). No framework is imported here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import quote

from earnorm.exceptions import NotFound

if TYPE_CHECKING:
    from earnorm.features.files.stored import StoredFile

__all__ = ["Disposition", "FileAnswer", "file_answer"]

Disposition: TypeAlias = Literal["attachment", "inline"]
"""A browser saves an attachment, and shows a file that is inline."""

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)
_TAGS: Final = re.compile(r'(?:W/)?("[^"]*")')
_NAME: Final = r"[\w!#$&^.+-]+"
_CONTENT_TYPE: Final = re.compile(
    rf'{_NAME}/{_NAME}(?:\s*;\s*{_NAME}=(?:{_NAME}|"[\w !#$&^.+/:()-]*"))*', re.ASCII
)
_PLAIN: Final = re.compile(r"[^\w .()+,=@-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """An answer with a file, or a part of it.

    Attributes:
        status: 200, 206, 304 or 416.
        headers: The headers, by names in small letters.
        file: The file.
        start: The first byte of the content.
        stop: The byte behind the last.
    """

    status: int
    headers: Mapping[str, str]
    file: StoredFile
    start: int = 0
    stop: int = 0

    @property
    def has_content(self) -> bool:
        """True if there is something to be sent."""
        return self.start < self.stop

    def content(self) -> AsyncIterator[bytes]:
        """Read the content in pieces. The first one raises the errors of ``StoredFile.chunks``."""
        return self.file.chunks(self.start, self.stop)


def file_answer(
    file: StoredFile,
    headers: Mapping[str, str],
    *,
    method: str = "GET",
    disposition: Disposition = "attachment",
    filename: str | None = None,
) -> FileAnswer:
    """Return the answer to a request for a file.

    It may be kept by the client and by nobody between, and is asked for again each time, so that a
    right that was taken away holds at once. What an uploader has called the content type is sent as
    it is, with ``nosniff``; a file that is shown inline has no scripts and no origin.

    Args:
        file: The file, of a record that the principal has just read.
        headers: The headers of the request. Names are looked up in small letters.
        method: The method of the request.
        disposition: Whether a browser saves the file, or shows it.
        filename: Its name for people; None takes the one that it was stored with.

    Raises:
        NotFound: The record has no file.
    """
    if not file:
        raise NotFound("the record has no file")
    length, etag, changed = file.length, f'"{file.sha256}"', file.uploaded_at
    answer = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": _disposition(disposition, filename or file.filename),
        "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
        "etag": etag,
        "x-content-type-options": "nosniff",
    }
    if changed is not None:
        answer["last-modified"] = format_datetime(changed.replace(microsecond=0), usegmt=True)
    if _has_it(headers, etag, changed):
        return FileAnswer(304, answer, file)
    stated = file.content_type or ""
    answer["content-type"] = (
        stated if _CONTENT_TYPE.fullmatch(stated) else "application/octet-stream"
    )
    asked = headers.get("range")
    part = None
    if asked and method == "GET" and _is_of_this(headers.get("if-range"), etag, changed):
        part = _part(asked, length)
    if part is None:
        answer["content-length"] = str(length)
        return FileAnswer(200, answer, file, 0, length)
    start, stop = part
    if start >= stop:
        answer["content-range"] = f"bytes */{length}"
        answer["content-length"] = "0"
        return FileAnswer(416, answer, file)
    answer["content-range"] = f"bytes {start}-{stop - 1}/{length}"
    answer["content-length"] = str(stop - start)
    return FileAnswer(206, answer, file, start, stop)


def _part(asked: str, length: int) -> tuple[int, int] | None:
    """Return the first byte and the one behind the last; None for what a server leaves alone.

    That is another unit, several ranges, and what is no range. An empty part cannot be satisfied.
    """
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(0, length - int(last)), length
    start = int(first)
    if last and int(last) < start:
        return None
    return min(start, length), length if not last else min(int(last) + 1, length)


def _has_it(headers: Mapping[str, str], etag: str, changed: datetime | None) -> bool:
    """Return whether the client has the file as it is."""
    tags = headers.get("if-none-match")
    if tags is not None:
        return tags.strip() == "*" or etag in _TAGS.findall(tags)
    since = _date(headers.get("if-modified-since"))
    return since is not None and changed is not None and changed.replace(microsecond=0) <= since


def _is_of_this(condition: str | None, etag: str, changed: datetime | None) -> bool:
    """Return whether the part that the client has is of this very content."""
    if condition is None:
        return True
    if condition.strip().startswith('"'):
        return condition.strip() == etag
    date = _date(condition)
    return date is not None and changed is not None and changed.replace(microsecond=0) == date


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _disposition(disposition: Disposition, filename: str | None) -> str:
    """Return the header of RFC 6266. What an uploader has called a file is no path, and no header."""
    if not filename:
        return disposition
    plain = _PLAIN.sub("_", filename)
    encoded = quote(filename.encode("utf-8", "replace"), safe="")
    return f"{disposition}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
