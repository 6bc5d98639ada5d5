"""The content of File fields: reading, writing, replacing, deleting, and removing orphans.

GridFS does not take part in transactions. So the new content is stored first, then the record is
written to point at it, and the old content is deleted when that write is durable. An error in
between leaves at worst content that no record points at; :func:`remove_orphans` deletes it.
"""

from __future__ import annotations

import asyncio
import datetime
import fnmatch
import logging
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from bson import ObjectId

from earnorm.concerns import Concerns
from earnorm.domain import Domain, condition
from earnorm.exceptions import ConcurrencyError, EarnORMError, NotFound, ValidationError
from earnorm.fields.files import File
from earnorm.fields.json_forms import json_form
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.operations import ONE, Operation, Options, Update, made_by
from earnorm.kernel.time import clock
from earnorm.model.reading.serializing import SelfDescribed
from earnorm.model.writing.tracking import env_of

if TYPE_CHECKING:
    from earnorm.backends.gridfs import FileStore
    from earnorm.fields.base import Field
    from earnorm.kernel.app import App
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm")

_NOTES = made_by("files")
_PIECE = 256 * 1024  # bytes that are read from a file object at once
_PRIMARY = Concerns(read_preference="primary")  # a secondary may not know the newest file yet
_REASON = "the content of a file that no record points at"


class Readable(Protocol):
    """A file object of Python (``open(path, "rb")``), or an async one (an upload in a web app)."""

    def read(self, size: int, /) -> Any:
        """Return at most ``size`` bytes, or an awaitable of them; empty at the end."""
        ...


Source = bytes | bytearray | memoryview | AsyncIterable[bytes] | Iterable[bytes] | Readable
"""The kinds of objects that a file can be written from."""


class StoredFile(SelfDescribed):
    """The file in one record's field; false if there is none. Each read of the field makes one.

    The description is the one that the record was loaded with. The content is read on demand, and
    only if the acting principal can still read the record and the record still has this file.
    """

    __slots__ = ("_field", "_record")

    def __init__(self, record: BaseModel, field: File) -> None:
        self._record = record
        self._field = field

    # -- description --------------------------------------------------------------------------

    def _part(self, name: str) -> Any:
        stored = self._record.__dict__.get(self._field.name)
        return stored.get(name) if isinstance(stored, dict) else None

    def __bool__(self) -> bool:
        return self._part("_id") is not None

    @property
    def length(self) -> int:
        """The number of bytes; 0 if there is no file."""
        return int(self._part("length") or 0)

    @property
    def content_type(self) -> str | None:
        """The content type, as it was given."""
        value: str | None = self._part("content_type")
        return value

    @property
    def filename(self) -> str | None:
        """The name, as it was given; do not trust it as a path."""
        value: str | None = self._part("filename")
        return value

    @property
    def sha256(self) -> str | None:
        """The content's digest in hexadecimal digits."""
        value: str | None = self._part("sha256")
        return value

    @property
    def uploaded_at(self) -> datetime.datetime | None:
        """The time when the content was stored."""
        value: datetime.datetime | None = self._part("uploaded_at")
        return None if value is None else value.replace(tzinfo=datetime.UTC)

    def to_dict(self) -> dict[str, Any] | None:
        """Return the description, without the content; None if there is no file."""
        if not self:
            return None
        names = ("filename", "content_type", "length", "sha256", "uploaded_at")
        return {name: getattr(self, name) for name in names}

    def _json_form(self) -> Any:
        return json_form(self.to_dict())

    # -- reading ------------------------------------------------------------------------------

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the content in pieces, from byte ``start`` to before ``stop`` (None: to the end).

        Raises:
            NotFound: There is no file, the record cannot be read (any more), its file was replaced
                since the record was loaded, or a part of the content is missing.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise ValueError("start and stop are numbers of bytes from 0")
        await self._check_readable()
        async for piece in self._store().read(self._part("_id"), start, stop):
            yield piece

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks()

    async def read(self) -> bytes:
        """Read the whole content into memory. The errors are those of :meth:`chunks`."""
        return b"".join([piece async for piece in self.chunks()])

    def open(self, start: int = 0, stop: int | None = None) -> FileReader:
        """Make a reader that returns a given number of bytes; its first ``read`` raises errors."""
        return FileReader(self.chunks(start, stop))

    async def _check_readable(self) -> None:
        record, field = self._record, self._field
        if not self:
            raise NotFound(f"{type(record).__name__}.{field.name}: the record has no file")
        env = env_of([record])
        domain = condition("_id", "=", record.pk)
        options = Options(limit=1, fields=frozenset({"_id", field.name}))
        search = Operation("search", type(record), env, domain, None, options, _NOTES)
        documents = await env.app.execute(search)
        if not documents:
            raise NotFound(f"{type(record)._name}: the record with the file does not exist")
        stored = documents[0].get(field.db_name)
        if not isinstance(stored, dict) or stored.get("_id") != self._part("_id"):
            raise NotFound(
                f"{type(record).__name__}.{field.name}: the file was replaced or deleted since the "
                f"record was read; 'await record.refresh()' first"
            )

    def _store(self) -> FileStore:
        return store_of(env_of([self._record]).app, type(self._record), self._field)

    # -- writing ------------------------------------------------------------------------------

    async def write(
        self, source: Source, *, filename: str | None = None, content_type: str | None = None
    ) -> StoredFile:
        """Store new content, update the record in the database and here, and delete the old one.

        Args:
            source: Bytes, an (async) iterable of bytes, or a file object; read once, in pieces.
            filename: A name for people, at most 255 characters.
            content_type: E.g. ``image/png``.

        Raises:
            ValidationError: The record is not saved, or content or description are not acceptable,
                also to the model's ``@validates`` and ``@constrains``.
            NotFound: The record does not exist any more, or the acting principal cannot see it.
            ConcurrencyError: Somebody else replaced the file first.
        """
        record, field = self._record, self._field
        env = env_of([record])
        self._check_writable()
        self._check_description(filename, content_type)
        await self._check_allowed(env)
        id, store = ObjectId(), self._store()
        uploaded = await store.save(
            id,
            self._within_size(_pieces(source)),
            filename=filename,
            metadata={"contentType": content_type, "record": record.pk},
            clock=clock,
        )
        meta = {
            "_id": id,
            "length": uploaded.length,
            "content_type": content_type,
            "filename": filename,
            "sha256": uploaded.sha256,
            "uploaded_at": uploaded.uploaded_at.replace(tzinfo=None),
        }
        try:
            await self._hold_to_rules(env, meta)
        except BaseException:
            # At once, also in a transaction: no record has pointed at it, and it may yet be committed.
            await asyncio.shield(discard(env.app, type(record), field, [id]))
            raise
        old = self._part("_id")
        if env.transaction is not None:
            env.transaction.after_rollback(lambda: discard(env.app, type(record), field, [id]))
        try:
            await self._point_at(env, meta)
        except BaseException:
            if env.transaction is None:
                # The write may have succeeded though its answer was lost, so discard() asks first.
                await asyncio.shield(discard(env.app, type(record), field, [id]))
            raise
        await discard_when_durable(env, type(record), field, [old])
        return self

    async def delete(self) -> None:
        """Delete the file in the database and here; does nothing if there is none.

        Raises:
            NotFound: The record does not exist any more, or the acting principal cannot see it.
            ConcurrencyError: Somebody else replaced the file first.
        """
        old = self._part("_id")
        if old is None:
            return
        env = env_of([self._record])
        self._check_writable()
        await self._check_allowed(env)
        await self._hold_to_rules(env, None)
        await self._point_at(env, None)
        await discard_when_durable(env, type(self._record), self._field, [old])

    def _check_writable(self) -> None:
        record, field = self._record, self._field
        if not record.is_stored:
            raise self._refusal("the record is not saved yet; save() it first", "unsaved")
        if field.readonly and self:
            raise self._refusal("can be written only once", "readonly")

    async def _check_allowed(self, env: Env) -> None:
        """Refuse a change that who acts may not make, before anything is uploaded.

        Raises:
            AccessDenied: It may not set the field, or not change the record.
            NotFound: It does not find the record.
        """
        from earnorm.model.writing.records import refuse_fixed
        from earnorm.model.writing.sending import FIRST

        record, name = self._record, self._field.name
        bound = env.app.bind(type(record))
        await refuse_fixed(bound, record, name)
        domain = condition("_id", "=", record.pk)
        op = Operation("write", bound.model, env, domain, Update({}), FIRST, _NOTES)
        await bound.ask_beforehand(op)

    async def _hold_to_rules(self, env: Env, meta: dict[str, Any] | None) -> None:
        from earnorm.model.validation.checking import refuse_file

        bound = env.app.bind(type(self._record))
        await refuse_file(bound, self._record, self._field.name, meta)

    def _check_description(self, filename: str | None, content_type: str | None) -> None:
        if filename is not None and not (isinstance(filename, str) and 0 < len(filename) <= 255):
            raise self._refusal("a filename is a text of 1 to 255 characters", "filename")
        allowed = self._field.content_types
        if content_type is not None and not isinstance(content_type, str):
            raise self._refusal("a content type is a text such as image/png", "content_type")
        media_type = (content_type or "").partition(";")[0].strip().lower()
        if allowed and not any(fnmatch.fnmatchcase(media_type, kind) for kind in allowed):
            raise self._refusal(f"content type {' or '.join(allowed)} is allowed", "content_type")

    async def _within_size(self, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        max_size, length = self._field.max_size, 0
        async for piece in pieces:
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise self._refusal(
                    f"a file's content is bytes, not {type(piece).__name__}", "bytes_type"
                )
            length += len(piece)
            if max_size is not None and length > max_size:
                raise self._refusal(f"at most {max_size} bytes are allowed", "too_long")
            yield bytes(piece)

    def _refusal(self, message: str, kind: str) -> ValidationError:
        detail: Any = {"loc": (self._field.name,), "msg": message, "type": kind}
        return ValidationError(type(self._record)._name, [detail])

    async def _point_at(self, env: Env, meta: dict[str, Any] | None) -> None:
        """Write the description to the record, if it still has the file that is known here."""
        from earnorm.model.writing.records import (
            write_stored,  # it writes whole records as well
        )

        record, field = self._record, self._field
        model = type(record)
        expect = {f"{field.db_name}._id": self._part("_id")}
        if not await write_stored(record, {field.db_name: meta}, expect, _NOTES):
            domain = condition("_id", "=", record.pk)
            search = Operation("search", model, env, domain, None, ONE, _NOTES)
            if not await env.app.execute(search):
                raise NotFound(f"{model._name}: the record to write does not exist")
            raise ConcurrencyError(
                f"{model._name}: the file of {field.name!r} was replaced since the record was "
                f"read; refresh() it and try again"
            )
        record.__dict__[field.name] = meta

    def __repr__(self) -> str:
        # The filename is left out, because it may be something that must not get into a log.
        content = f"{self.length} bytes" if self else "no file"
        return f"<StoredFile {self._field.model_name}.{self._field.name}: {content}>"


File.value_type = StoredFile


class FileReader:
    """Reads a file's content, a given number of bytes at a time."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = bytearray()

    async def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes: fewer near the end, none at the end; -1 is the rest."""
        while size < 0 or len(self._buffer) < size:
            piece = await anext(self._pieces, None)
            if piece is None:
                break
            self._buffer += piece
        end = len(self._buffer) if size < 0 else size
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        return data

    async def close(self) -> None:
        """Release the server's cursor."""
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> FileReader:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read(_PIECE):
            yield piece


async def _pieces(source: Any) -> AsyncIterator[bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        yield bytes(source)
    elif hasattr(source, "read"):
        async for piece in _file_object_pieces(source):
            yield piece
    elif isinstance(source, AsyncIterable):
        async for piece in source:
            yield piece
    elif isinstance(source, Iterable) and not isinstance(source, str):
        for piece in source:
            yield piece
    else:
        raise ValidationError(
            "file",
            [
                {
                    "loc": (),
                    "msg": "a file is written from bytes, an iterable of bytes or a file object, "
                    f"not from a {type(source).__name__}",
                    "type": "file",
                }
            ],
        )


async def _file_object_pieces(source: Readable) -> AsyncIterator[bytes]:
    # A plain file object blocks and needs a thread; one whose read() is a coroutine function does
    # not.
    if asyncio.iscoroutinefunction(source.read):
        while piece := await source.read(_PIECE):
            yield piece
    else:
        while piece := await asyncio.to_thread(source.read, _PIECE):
            yield piece


# -- content that no record points at -------------------------------------------------------------


def store_of(app: App, model: type[BaseModel], field: File) -> FileStore:
    """Return the bucket of a field."""
    return app._backend.files(_bucket_of(model, field))


def _bucket_of(model: type[BaseModel], field: File) -> str:
    return field.bucket or f"{model._collection}.{field.db_name}"


async def discard(
    app: App, model: type[BaseModel], field: File, ids: Sequence[ObjectId | None]
) -> None:
    """Delete the content that no record points at any more.

    A failure is only logged: :func:`remove_orphans` deletes the content that is left over.
    """
    try:
        await _delete_unused(app, model, field, [id for id in ids if id is not None])
    except Exception:
        log.warning(
            "%s.%s: %d files are left over", model._name, field.name, len(ids), exc_info=True
        )


async def discard_when_durable(
    env: Env, model: type[BaseModel], field: File, ids: Sequence[ObjectId | None]
) -> None:
    """Call ``discard`` now, or in a transaction after its commit."""
    if not any(ids):
        return
    if env.transaction is None:
        await discard(env.app, model, field, ids)
    else:
        env.transaction.after_commit(lambda: discard(env.app, model, field, ids))


async def _delete_unused(
    app: App, model: type[BaseModel], field: File, ids: Sequence[ObjectId]
) -> int:
    if not ids:
        return 0
    unused = set(ids) - await _used(app, model, field, ids)
    await store_of(app, model, field).delete([id for id in ids if id in unused])
    return len(unused)


async def _used(
    app: App, model: type[BaseModel], field: File, ids: Collection[ObjectId]
) -> set[ObjectId]:
    """Return those files at which records of a model point in a field."""
    env = app.env.as_system(_REASON)
    domain = Domain([(f"{field.name}.id", "in", list(ids))])
    options = Options(fields=frozenset({"_id", field.name}), concerns=_PRIMARY)
    search = Operation("search", model, env, domain, None, options, _NOTES)
    return {document[field.db_name]["_id"] for document in await app.execute(search)}


def _keepers(app: App, bucket: str) -> Iterable[tuple[type[BaseModel], File]]:
    """Return all models and fields of the App that keep their content in a bucket.

    Classes that share a collection share its buckets, too; their root finds the records of all.
    """
    found: dict[tuple[str, str], tuple[type[BaseModel], File]] = {}
    for defined in app.known_models():
        try:
            model = app.extended(defined)
        except EarnORMError:
            if any(_bucket_of(defined, each) == bucket for each in _files(defined)):
                raise  # what its records point at is not known
            continue
        for field in _files(model):
            if _bucket_of(model, field) == bucket:
                found[model._collection, field.db_name] = (model._root or model, field)
    return found.values()


def _files(model: type[BaseModel]) -> tuple[File, ...]:
    return file_fields(model._schema.fields)


async def remove_orphans(
    model: type[BaseModel], *, older_than: datetime.timedelta = datetime.timedelta(hours=1)
) -> int:
    """Delete the content of a model's File fields that no record points at, whatever its model is.

    Such content is left over when a process dies between storing a file and writing its record, and
    when documents are deleted without this library.

    Args:
        model: The model.
        older_than: Keep younger files: their records may still be written.

    Returns:
        The number of files that were deleted.

    Raises:
        AccessDenied: Access rules restrict the model, and not ``system`` calls it.
    """
    env = current_env()
    app = env.app
    bound = app.bind(model)
    bound.need_system(env, "remove_orphans")
    moment = clock() - older_than
    deleted = 0
    for field in file_fields(bound.schema.fields):
        store = store_of(app, bound.model, field)
        keepers = _keepers(app, _bucket_of(bound.model, field))
        async for ids in store.ids_before(moment):
            unused = dict.fromkeys(ids)
            for keeper, each in keepers:
                for used in await _used(app, keeper, each, unused):
                    unused.pop(used, None)
            await store.delete(list(unused))
            deleted += len(unused)
    return deleted


def file_fields(fields: Mapping[str, Field[Any, Any]]) -> tuple[File, ...]:
    """Return the File fields among a model's fields."""
    return tuple(field for field in fields.values() if isinstance(field, File))


def files_of(documents: Iterable[dict[str, Any]], field: File) -> list[ObjectId]:
    """Return the ids of the files that documents point at."""
    stored = [document.get(field.db_name) for document in documents]
    return [cast(ObjectId, value["_id"]) for value in stored if isinstance(value, dict)]
