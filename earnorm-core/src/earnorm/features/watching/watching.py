"""``Model.watch()``: change streams of records, as typed events.

The given domain goes through the model's layers like that of a search. The server filters the
changes by the domain that the layers have restricted, so nobody gets changes of records it may not
read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

import bson
from bson.errors import BSONError

from earnorm.domain import Domain
from earnorm.exceptions import (
    EarnORMError,
    NotSupported,
    ServerUnavailable,
    TransactionError,
    UnreadableDocument,
    ValidationError,
)
from earnorm.features.indexes.collection_options import declared_options
from earnorm.fields.record_ids import id_text
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.operations import PURPOSE, REQUEST, Operation, made_by
from earnorm.kernel.serving.projecting import head_of
from earnorm.kernel.serving.requests import DryRun
from earnorm.kernel.serving.searches import projection
from earnorm.model.reading.hydrate import hydrate

if TYPE_CHECKING:
    from earnorm.backends.base import ChangeCursor, Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

M = TypeVar("M", bound="BaseModel")

log = logging.getLogger("earnorm")

Kind = Literal["create", "write", "unlink"]

_KINDS: Final[Mapping[str, Kind]] = {
    "insert": "create",
    "update": "write",
    "replace": "write",
    "delete": "unlink",
}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two tries to connect again


@dataclass(frozen=True, slots=True)
class ChangeEvent(Generic[M]):
    """One record was created, written or deleted.

    Attributes:
        kind: ``"create"``, ``"write"`` or ``"unlink"``.
        id: The record's id as text.
        pk: The record's id as it is stored.
        record: The record: after a create as it was created, after a write as it is when the event
            is read, with later changes (or as it was after the write, if the collection keeps
            images: ``CollectionOptions(pre_images=True)``). None for an unlink, and if it no longer
            exists.
        before: The record before the change, with ``watch(before=True)`` and if the collection
            keeps pre-images.
        changed: The names of the fields that were set; for a create, and for a write that replaced
            the whole document, all fields that it has.
        removed: The names of the fields that were unset.
        token: Continues after this event: ``watch(resume_token=event.token)``. It contains the
            record's id, so give it only to those who may see the event.
        at: The time of the change, in UTC.
    """

    kind: Kind
    id: str
    pk: Any
    record: M | None
    before: M | None
    changed: frozenset[str]
    removed: frozenset[str]
    token: str
    at: datetime.datetime

    def __repr__(self) -> str:
        # Values are left out, because a record may hold data that must not get into a log.
        return f"<ChangeEvent {self.kind} {self.id}>"


class Watch(Generic[M]):
    """The changes of a model's records from now on; ``async for`` gives each as a ChangeEvent.

    ``async with`` opens the stream before the block begins, so that no write of the block is
    missed; without it the stream begins with the first step of the iteration. It ends only if the
    collection is dropped or renamed.
    """

    def __init__(
        self,
        model: type[M],
        domain: Domain,
        *,
        resume_token: str | None = None,
        full_document: bool = True,
        before: bool = False,
        patience: float = 120.0,
    ) -> None:
        self._model = model
        self._domain = domain
        self._token: Mapping[str, Any] | None = None
        if resume_token is not None:
            self._token = _decoded(model._name, resume_token)
        self._is_given = resume_token is not None
        """The token is the caller's, and no server has taken it yet."""
        self._full_document = full_document
        self._before = before
        self._patience = patience
        self._env: Env | None = None
        self._cursor: ChangeCursor | None = None
        self._filter: Mapping[str, Any] = {}
        self._outdated = False
        self._pending: Document | None = None
        self._ended = False
        self._is_cut_off = False

    @property
    def token(self) -> str | None:
        """The token that continues after the latest event; None before the stream is open."""
        return None if self._token is None else _encoded(self._token)

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the stream on the server and end the iteration; harmless if called twice."""
        self._ended = True
        await self._drop()

    async def cut_off(self) -> None:
        """Close the stream because its App stops; who waits for a change gets ``AppStopping``."""
        self._is_cut_off = True
        await self._drop()

    async def _drop(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            try:
                await cursor.close()
            except EarnORMError as error:
                log.debug("a change stream could not be closed: %s", error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChangeEvent[M]:
        while True:
            # The change is kept until its event is made, so that a cancelled caller gets it next
            # time.
            change = self._pending = self._pending or await self._next()
            event = await self._event(change)
            self._token, self._pending = change["_id"], None
            if event is not None:
                return event

    # -- the stream ---------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._drop()
        self._pending = None
        if self._env is None:
            env = current_env()
            need_feature("watching", "watch()", env.app)
            if env.transaction is not None:
                raise TransactionError("watch(): a transaction cannot watch; begin before it")
            # The stream can last longer than the block of a session, so it does not use the
            # session.
            self._env = env.replace(_session=None)
            if self._domain.is_untrusted:
                self._env = self._env.as_principal()
        bound, _, self._filter = await self._allowed()
        self._outdated = False
        in_flight = self._env.app.in_flight
        with in_flight.whole():
            try:
                self._cursor = await self._watch(bound)
            except EarnORMError as error:
                # A server has many codes for a token that it did not make, and none of them has a class.
                if self._is_given and type(error) is EarnORMError:
                    raise _no_token(self._model._name) from error
                raise
            self._is_given = False
            in_flight.watches.add(self)
        self._token = self._token or self._cursor.token

    async def _watch(self, bound: BoundModel) -> ChangeCursor:
        declared = declared_options(bound.model)
        has_images = declared is not None and declared.pre_images
        return await bound._collection.watch(
            _pipeline(self._filter, self._token),
            resume_after=self._token,
            # A filter needs the whole document. A collection that keeps images has the document as
            # it was; otherwise the server looks it up when it sends the change.
            full_document=("whenAvailable" if has_images else "updateLookup")
            if self._full_document or self._filter
            else None,
            before=self._before,
        )

    async def _next(self) -> Document:
        while not self._ended:
            try:
                if self._is_cut_off and self._env is not None:
                    raise self._env.app.in_flight.refusal()
                if self._cursor is None or self._outdated:
                    await self._open()
                cursor = self._cursor
                assert cursor is not None and self._env is not None
                self._env.app.admit()
                change = await cursor.next()
            except StopAsyncIteration:
                break
            except ServerUnavailable as error:
                await self._reconnect(error)
                continue
            except UnreadableDocument:
                # Whoever goes on after the error gets the changes after this one.
                if self._cursor is not None:
                    self._token = self._cursor.token
                raise
            if change is not None:
                return change
            # Without a change the server gives a later token, from which no change is missed
            # either.
            self._token = cursor.token or self._token
        await self.close()
        raise StopAsyncIteration

    async def _reconnect(self, error: ServerUnavailable) -> None:
        """Open the stream again after the last event; try for ``patience`` seconds."""
        if self._token is None:
            raise error  # the stream was never open
        log.info("the change stream of %s broke off; it is taken up again", self._model._name)
        until = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._open()
                return
            except ServerUnavailable:
                if time.monotonic() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    # -- visible changes ----------------------------------------------------------------------

    async def _allowed(self) -> tuple[BoundModel, Operation, Mapping[str, Any]]:
        """Return the search as the layers restrict it (its records and fields), and its filter."""
        assert self._env is not None
        bound = self._env.app.bind(self._model)
        dry_run = DryRun()
        notes = {**made_by("watching"), PURPOSE: "watch", REQUEST: dry_run}
        op = Operation("search", bound.model, self._env, self._domain, notes=notes)
        await self._env.app.execute(op)
        if dry_run.op is None:
            raise NotSupported(
                f"{bound.model._name}: a plugin's layer answers searches itself, so that nobody can "
                f"say which records watch() may show"
            )
        return bound, dry_run.op, dry_run.filter

    async def _event(self, change: Document) -> ChangeEvent[M] | None:
        """Make the event with what the principal may see of a change; None if that is nothing.

        Each change runs the layers again, because a rule may depend on the time or on other
        records.
        """
        bound, op, condition = await self._allowed()
        document = change.get("fullDocument")
        before = change.get("fullDocumentBeforeChange")
        kind = _KINDS[change["operationType"]]
        if condition:
            matches = bound.app.matcher(bound.model, op.domain)
            if before is not None and not matches(before):
                before = None
            if condition != self._filter:
                # The server still filters by old rules: check this change by the present rules, and
                # give these to the server from the next change on.
                self._outdated = True
                visible = before if kind == "unlink" else document
                if visible is None or not matches(visible):
                    return None
        changed, removed = _names(bound, change, op.options.fields)
        if kind == "write" and not changed and not removed:
            return None  # the write changed no declared field that the principal may see
        pk = change["documentKey"]["_id"]
        return ChangeEvent(
            kind=kind,
            id=id_text(bound.schema.fields["_id"], pk),
            pk=pk,
            record=None if kind == "unlink" else self._record(bound, op, document),
            before=self._record(bound, op, before),
            changed=changed,
            removed=removed,
            token=_encoded(change["_id"]),
            at=change["clusterTime"].as_datetime(),
        )

    def _record(self, bound: BoundModel, op: Operation, document: Document | None) -> M | None:
        if document is None:
            return None
        known = set(map(head_of, projection(bound, op) or bound.schema.projection))
        visible = {key: value for key, value in document.items() if key in known}
        for change in () if bound.reading is None else bound.reading.of_events:
            change(bound, [visible])
        record: M = hydrate(bound, [visible], op.options.fields, op.options.inside)[0]
        return record

    def __repr__(self) -> str:
        # The domain is left out, because its values may be data that must not get into a log.
        state = "closed" if self._cursor is None else "open"
        return f"<Watch {self._model.__name__} {state}>"


def _names(
    bound: BoundModel, change: Document, visible: frozenset[str] | None
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the visible fields that were set, and of those that were unset."""
    description = change.get("updateDescription")
    if description is None:
        document: Document = change.get("fullDocument") or {}
        keys = set(document)
        return _fields(bound, keys, visible), frozenset()
    truncated = (array["field"] for array in description.get("truncatedArrays") or ())
    changed = {path.partition(".")[0] for path in (*description["updatedFields"], *truncated)}
    removed = description["removedFields"]
    # If a part of a field was removed, the field was changed.
    changed |= {path.partition(".")[0] for path in removed if "." in path}
    unset = {path for path in removed if "." not in path}
    return _fields(bound, changed, visible), _fields(bound, unset, visible)


def _fields(bound: BoundModel, keys: set[str], visible: frozenset[str] | None) -> frozenset[str]:
    renamed, fields = bound.schema.renamed, bound.schema.fields
    names = (renamed.get(key, key) for key in keys)
    return frozenset(
        name
        for name in names
        if name in fields and not name.startswith("_") and (visible is None or name in visible)
    )


# -- the server's filter --------------------------------------------------------------------------


def _pipeline(
    condition: Mapping[str, Any], token: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    known = {"operationType": {"$in": [*_KINDS, "invalidate"]}}
    if not condition:
        return [{"$match": known}]
    written = [kind for kind in _KINDS if kind != "delete"]
    # The filter must allow the change of the token, or the server cannot find the position again.
    # The server still gives only later changes.
    resume_point = [] if token is None else [{"_id": token}]
    return [
        {"$match": known},
        {
            "$match": {
                "$or": [
                    {
                        "operationType": {"$in": written},
                        "$and": _conditions("fullDocument", condition),
                    },
                    {
                        "operationType": "delete",
                        "$and": _conditions("fullDocumentBeforeChange", condition),
                    },
                    {"operationType": "invalidate"},
                    *resume_point,
                ]
            }
        },
    ]


def _conditions(document: str, condition: Mapping[str, Any]) -> list[dict[str, Any]]:
    # A negative condition would be true if there were no document, so the document must exist.
    return [{document: {"$type": "object"}}, _moved_filter(document, condition)]


def _moved_filter(document: str, condition: Mapping[str, Any]) -> dict[str, Any]:
    """Move a filter of documents to a field that contains the document."""
    moved: dict[str, Any] = {}
    for key, value in condition.items():
        if key in ("$and", "$or", "$nor"):
            parts: Sequence[Mapping[str, Any]] = value
            moved[key] = [_moved_filter(document, part) for part in parts]
        elif key.startswith("$"):
            raise NotSupported(
                f"watch(): the domain needs {key}, which change streams cannot filter by"
            )
        else:
            moved[f"{document}.{key}"] = value
    return moved


# -- tokens ---------------------------------------------------------------------------------------


def _encoded(token: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(bson.encode(token)).decode("ascii")


def _decoded(subject: str, token: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = bson.decode(base64.urlsafe_b64decode(token))
        if "_data" not in content:
            raise ValueError
    except (binascii.Error, BSONError, ValueError, TypeError):
        raise _no_token(subject) from None
    return content


def _no_token(subject: str) -> ValidationError:
    message = "it is no token that an event of watch() or the watch itself has given"
    return ValidationError(
        subject, [{"loc": ("resume_token",), "msg": message, "type": "resume_token"}]
    )
