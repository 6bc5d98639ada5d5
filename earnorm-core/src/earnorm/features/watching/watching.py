"""``Model.watch()``: change streams of records, as typed events.

The domain that was asked for travels through the model's layers as a search does, and what they
leave of it is what the server filters by; so nobody hears of records that it may not read.
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
    ValidationError,
)
from earnorm.features.indexes.collection_options import declared_options
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.operations import REQUEST, Operation
from earnorm.kernel.requests import DryRun
from earnorm.kernel.searches import projection
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
        pk: Its id as it is stored.
        record: The record: of a create as it was created, of a write as it is when the event is
            read, later changes included (as it was then, where the collection keeps images:
            ``CollectionOptions(pre_images=True)``). None for an unlink, and where it is gone already.
        before: The record before the change, where ``watch(before=True)`` asked for it and the
            collection keeps pre-images.
        changed: The names of the fields that were set; of a create, and of a write that replaced
            the whole document, those that it has.
        removed: The names of the fields that were unset.
        token: Where to go on after this event: ``watch(resume_token=event.token)``. It holds the
            record's id, so it is for whoever may have the event.
        at: When it was written, in UTC.
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
        # No values: a record may hold what must not reach a log.
        return f"<ChangeEvent {self.kind} {self.id}>"


class Watch(Generic[M]):
    """The changes of a model's records from now on; ``async for`` gives each as a ChangeEvent.

    ``async with`` opens it before the block begins, so that nothing that the block writes is missed;
    without it the stream begins with the first step of the iteration. It ends where the collection is
    dropped or renamed, and otherwise never.
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
            self._token = _decoded(model, resume_token)
        self._full_document = full_document
        self._before = before
        self._patience = patience
        self._env: Env | None = None
        self._cursor: ChangeCursor | None = None
        self._filter: Mapping[str, Any] = {}
        self._outdated = False
        self._pending: Document | None = None
        self._ended = False

    @property
    def token(self) -> str | None:
        """Where to go on after the latest event; None before the stream is open."""
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
        """Let the server drop the stream, which ends the iteration; harmless twice."""
        self._ended = True
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
            # Kept until it is dealt with: whoever is cancelled in between gets it the next time.
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
            if env.transaction is not None:
                raise TransactionError("watch(): a transaction cannot watch; begin before it")
            # A session would outlive its block here.
            self._env = env.replace(session=None)
        bound, _, self._filter = await self._allowed()
        self._outdated = False
        declared = declared_options(bound.model)
        kept = declared is not None and declared.pre_images
        cursor = await bound.collection.watch(
            _pipeline(self._filter, self._token),
            resume_after=self._token,
            # A filter looks at the whole document. A collection that keeps images has the one of
            # that moment; else the server looks the document up when it gives the change.
            full_document=("whenAvailable" if kept else "updateLookup")
            if self._full_document or self._filter
            else None,
            before=self._before,
        )
        self._cursor = cursor
        self._token = self._token or cursor.token

    async def _next(self) -> Document:
        while not self._ended:
            try:
                if self._cursor is None or self._outdated:
                    await self._open()
                assert self._cursor is not None
                change = await self._cursor.next()
            except StopAsyncIteration:
                break
            except ServerUnavailable as error:
                await self._reconnect(error)
                continue
            if change is not None:
                return change
            # Without a change the server names a later place, at which nothing is missed either.
            self._token = self._cursor.token or self._token
        await self.close()
        raise StopAsyncIteration

    async def _reconnect(self, error: ServerUnavailable) -> None:
        """Take the stream up again behind the last event, until the patience is over."""
        if self._token is None:
            raise error  # it was never open
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

    # -- what may be seen ---------------------------------------------------------------------

    async def _allowed(self) -> tuple[BoundModel, Operation, Mapping[str, Any]]:
        """The search that the layers make of the domain: which records, which fields; and its filter."""
        assert self._env is not None
        bound = self._env.app.bind(self._model)
        dry_run = DryRun()
        op = Operation("search", bound.model, self._env, self._domain).with_note(REQUEST, dry_run)
        await self._env.app.execute(op)
        if dry_run.op is None:
            raise NotSupported(
                f"{bound.model._name}: a plugin's layer answers searches itself, so that nobody can "
                f"say which records watch() may show"
            )
        return bound, dry_run.op, dry_run.filter

    async def _event(self, change: Document) -> ChangeEvent[M] | None:
        """What the principal may know of a change; None for nothing.

        The layers are asked again for each: a rule may depend on the time, or on other records.
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
                # What the server filters by is out of date: hold it to the rules of now, and let
                # the server have those from the next change on.
                self._outdated = True
                seen = before if kind == "unlink" else document
                if seen is None or not matches(seen):
                    return None
        changed, removed = _names(bound, change, op.options.fields)
        if kind == "write" and not changed and not removed:
            return None  # nothing that the model declares, or that may be seen
        pk = change["documentKey"]["_id"]
        return ChangeEvent(
            kind=kind,
            id=str(pk),
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
        known = projection(bound, op) or bound.schema.projection
        seen = {key: value for key, value in document.items() if key in known}
        record: M = hydrate(bound, [seen], op.options.fields)[0]
        return record

    def __repr__(self) -> str:
        # The domain's values may be what must not reach a log.
        state = "closed" if self._cursor is None else "open"
        return f"<Watch {self._model.__name__} {state}>"


def _names(
    bound: BoundModel, change: Document, visible: frozenset[str] | None
) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the fields that were set and unset, out of those that may be seen."""
    description = change.get("updateDescription")
    if description is None:
        document: Document = change.get("fullDocument") or {}
        keys = set(document)
        return _fields(bound, keys, visible), frozenset()
    cut = (each["field"] for each in description.get("truncatedArrays") or ())
    changed = {path.partition(".")[0] for path in (*description["updatedFields"], *cut)}
    removed = description["removedFields"]
    # A part of a field that was removed is a change of the field.
    changed |= {path.partition(".")[0] for path in removed if "." in path}
    gone = {path for path in removed if "." not in path}
    return _fields(bound, changed, visible), _fields(bound, gone, visible)


def _fields(bound: BoundModel, keys: set[str], visible: frozenset[str] | None) -> frozenset[str]:
    renamed, fields = bound.schema.renamed, bound.schema.fields
    names = (renamed.get(key, key) for key in keys)
    return frozenset(
        name
        for name in names
        if name in fields and not name.startswith("_") and (visible is None or name in visible)
    )


# -- what the server filters by -------------------------------------------------------------------


def _pipeline(
    condition: Mapping[str, Any], token: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    known = {"operationType": {"$in": [*_KINDS, "invalidate"]}}
    if not condition:
        return [{"$match": known}]
    written = [kind for kind in _KINDS if kind != "delete"]
    # A server that filters out the change which the token stands for does not find its place again.
    # It gives only what comes behind it all the same.
    place = [] if token is None else [{"_id": token}]
    return [
        {"$match": known},
        {
            "$match": {
                "$or": [
                    {
                        "operationType": {"$in": written},
                        "$and": _demanded("fullDocument", condition),
                    },
                    {
                        "operationType": "delete",
                        "$and": _demanded("fullDocumentBeforeChange", condition),
                    },
                    {"operationType": "invalidate"},
                    *place,
                ]
            }
        },
    ]


def _demanded(document: str, condition: Mapping[str, Any]) -> list[dict[str, Any]]:
    # Where there is no document, a negative condition would be true of it.
    return [{document: {"$type": "object"}}, _below(document, condition)]


def _below(document: str, condition: Mapping[str, Any]) -> dict[str, Any]:
    """A filter of documents as one of a field that holds the document."""
    moved: dict[str, Any] = {}
    for key, value in condition.items():
        if key in ("$and", "$or", "$nor"):
            parts: Sequence[Mapping[str, Any]] = value
            moved[key] = [_below(document, part) for part in parts]
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


def _decoded(model: type[BaseModel], token: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = bson.decode(base64.urlsafe_b64decode(token))
        if "_data" not in found:
            raise ValueError
    except (binascii.Error, BSONError, ValueError, TypeError):
        message = "it is no token that an event of watch() or the watch itself has given"
        raise ValidationError(
            model._name, [{"loc": ("resume_token",), "msg": message, "type": "resume_token"}]
        ) from None
    return found
