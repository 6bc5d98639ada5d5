"""``DatabaseChanges``: every change in an App's database, whoever made it, for plugins.

No layer filters it, and it carries no values: the ids of records, and the stored keys that were written.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from earnorm.features.watching.watching import _decoded, _encoded
from earnorm.kernel.contract.left_out import need_feature

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import ChangeCursor, Document

DatabaseChangeKind = Literal["create", "write", "unlink", "drop"]

_KINDS: Final[Mapping[str, DatabaseChangeKind]] = {
    "insert": "create",
    "update": "write",
    "replace": "write",
    "delete": "unlink",
    "drop": "drop",
    "rename": "drop",
    "dropDatabase": "drop",
}

_PIPELINE: Final[Sequence[Mapping[str, Any]]] = (
    {
        "$project": {
            "operationType": 1,
            "ns": 1,
            "to": 1,
            "documentKey": 1,
            "clusterTime": 1,
            "set": {
                "$map": {
                    "input": {
                        "$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}
                    },
                    "in": "$$this.k",
                }
            },
            "removed": "$updateDescription.removedFields",
            "truncated": "$updateDescription.truncatedArrays.field",
        }
    },
)


@dataclass(frozen=True, slots=True)
class DatabaseChange:
    """One change in a database.

    Attributes:
        kind: ``create``, ``write``, ``unlink``, or ``drop`` of a collection, which is also its renaming.
        collections: The collection; of a renaming both; none if the database was dropped.
        pk: The record's id as it is stored; None for a ``drop``.
        keys: The stored keys that a ``write`` set or removed, the first part of each path; None if the whole
            document was replaced, and for other kinds.
        at: The time of the change, in UTC.
        token: Continues after this change: ``DatabaseChanges(app, token=change.token)``.
    """

    kind: DatabaseChangeKind
    collections: tuple[str, ...]
    pk: Any
    keys: frozenset[str] | None
    at: datetime.datetime
    token: str

    def __repr__(self) -> str:
        # An id may be data that must not get into a log.
        return f"<DatabaseChange {self.kind} in {', '.join(self.collections)}>"


class DatabaseChanges:
    """The changes in an App's database from now on: ``async with DatabaseChanges(app) as changes:``.

    It takes one connection of the App while it waits, and no turn of an operation; nothing counts it as one.
    It is to be closed in ``shutdown`` at the latest.

    Args:
        app: A started App.
        token: Begins after an earlier change, instead of now.
        max_await: The seconds for which ``next`` waits for a change.
    """

    def __init__(self, app: App, *, token: str | None = None, max_await: float = 1.0) -> None:
        self._app, self._max_await = app, max_await
        self._from = None if token is None else _decoded("DatabaseChanges", token)
        self._cursor: ChangeCursor | None = None

    async def __aenter__(self) -> Self:
        """Open the stream: every change after this arrives in it.

        Raises:
            NotSupported: The backend or the server has no change streams.
            ValidationError: The server's history does not reach back to the token, or it is none of a database.
            ServerUnavailable: No server answers.
        """
        need_feature("watching", "DatabaseChanges", self._app)
        self._cursor = await self._app._backend.watch(
            _PIPELINE, resume_after=self._from, max_await=self._max_await
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            await cursor.close()

    @property
    def token(self) -> str | None:
        """The token that continues after the last change, or after the time in which there was none."""
        token = self._from if self._cursor is None else self._cursor.token
        return None if token is None else _encoded(token)

    async def next(self) -> DatabaseChange | None:
        """Return the next change, or None if there was none for ``max_await`` seconds.

        A task that is cancelled in it misses nothing: the next call goes on where it was.

        Raises:
            StopAsyncIteration: The database was dropped; open another one, without a token.
            ServerUnavailable: The stream broke off; open another one with the ``token`` of this one.
        """
        if self._cursor is None:
            raise RuntimeError(
                "DatabaseChanges is not open: async with DatabaseChanges(app) as changes:"
            )
        while True:
            document = await self._cursor.next()
            if document is None:
                return None
            change = _change(document)
            if change is not None:
                return change
            await asyncio.sleep(0)  # changes of indexes and the like, which are none of records


def _change(document: Document) -> DatabaseChange | None:
    kind = _KINDS.get(document["operationType"])
    if kind is None:
        return None
    places = [document.get("ns", {}).get("coll"), document.get("to", {}).get("coll")]
    keys: frozenset[str] | None = None
    if document["operationType"] == "update":
        parts = (document.get(part) or () for part in ("set", "removed", "truncated"))
        keys = frozenset(path.partition(".")[0] for paths in parts for path in paths)
    return DatabaseChange(
        kind,
        tuple(place for place in places if place is not None),
        document.get("documentKey", {}).get("_id"),
        keys,
        document["clusterTime"].as_datetime(),
        _encoded(document["_id"]),
    )
