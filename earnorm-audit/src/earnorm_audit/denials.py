"""Refused attempts in the trail: noted at once, stored behind the back of the one who is refused.

A flood of attempts must neither slow the App down nor fill the disk. So equal attempts of a minute are
one row with a number, there are so many rows a minute and no more, and rows expire. What is noted
belongs to no transaction: an attempt stays when the transaction that it was made in is rolled back.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from bson import ObjectId

from earnorm import (
    AccessDenied,
    App,
    AppStopping,
    Boolean,
    DateTime,
    Domain,
    Env,
    Int,
    Json,
    List,
    String,
    models,
)
from earnorm.plugin import (
    Index,
    Operation,
    OperationName,
    PerRecord,
    Update,
    Verdict,
    ids_of,
    made_by,
    name_of,
    now,
    use_env,
)
from earnorm_audit.changes import id_text, to_json

log: Final = logging.getLogger("earnorm.audit")

DENIAL: Final = "audit.denial"
KEY: Final = "earnorm_audit"
WRITER: Final = object()
"""Put in the Env's context while the plugin itself stores entries; only the plugin has this object."""
REASON: Final = "audit: refused attempts"
OTHERS: Final = "*"
"""The model and the operation of the row that counts what has no row of its own."""
MINUTE: Final = 60.0
RETRY: Final = 5.0  # seconds until the next try where the rows could not be stored
MOST_IDS: Final = 10
MOST_TEXT: Final = 4000
"""The most characters of a filter that are kept."""


class AuditDenial(models.BaseModel):
    """Refused attempts of one principal at one model, of the same kind and in the same minute."""

    _name = DENIAL
    _collection = "audit_denials"
    _bookkeeping = "audit"
    _indexes = [
        {"at": 1},
        {"principal": 1, "at": 1},
        Index("expires_at", expire_after=0),
    ]

    model = String(required=True, help="The name of the model; * for the sum of further attempts")
    operation = String(required=True, help="What was asked for: read, write, export …")
    at = DateTime(required=True, help="When the first of them was")
    last_at = DateTime(required=True, help="When the last of them was")
    number = Int(required=True, help="How many they were")
    principal = String(help="The id of who was acting; unset for nobody")
    roles = List(String(), help="The roles of who was acting, with those that they imply")
    system = Boolean(required=True, default=False, help="Access rules were off")
    record_ids = List(String(), help="The records that were named by their ids, the first ten")
    message = String(required=True, help="The error that was given")
    reasons = Json(help="The rights and rules that had a say")
    filter = String(help="MongoDB's filter of the rules as JSON, its first 4,000 characters")
    expires_at = DateTime(required=True, help="When the database deletes it")


_Kind = tuple[object, ...]
"""The values that equal attempts have in common; None stands for attempts without a row of their own."""


@dataclass(slots=True)
class _Row:
    """A row of the minute that runs."""

    document: dict[str, Any]
    number: int = 1
    stored: int = 0
    ids: dict[str, None] = field(default_factory=dict[str, None])


class Denials:
    """Notes the refused attempts of one App, and stores them.

    Args:
        app: The App.
        per_minute: The most rows of a minute; what is beyond is counted in one more.
        days: After so many days the database deletes a row.

    Attributes:
        lost: The number of attempts that could not be stored before the App stopped.
    """

    def __init__(self, app: App, per_minute: int, days: float) -> None:
        self._app = app
        self._per_minute = per_minute
        self._days = datetime.timedelta(days=days)
        self._rows: dict[_Kind | None, _Row] = {}
        self._since = 0.0
        self._task: asyncio.Task[None] | None = None
        self._noted = asyncio.Event()
        self._at_work = asyncio.Lock()
        self.window = MINUTE
        self.lost = 0

    def note(self, op: Operation, error: AccessDenied, why: Verdict | None) -> None:
        """Note a refused attempt; it costs the one who is refused no wait."""
        env, name = op.env, name_of(op.model)
        principal = None if env.principal is None else env.principal.id
        operation = op.name if why is None else why.operation
        refusing = () if why is None else tuple((r.model, r.kind, r.name) for r in why.refusing)
        kind: _Kind | None = (name, operation, principal, env.system, refusing)
        row = self._rows.get(kind)
        if row is None and len(self._rows) >= self._per_minute:
            kind = None
            row = self._rows.get(kind)
        moment = now().replace(tzinfo=None)
        if row is None:
            if kind is None:
                document = self._others()
            else:
                document = _document(name, operation, principal, env, error, why)
            document |= {"at": moment, "expires_at": moment + self._days}
            row = self._rows[kind] = _Row(document)
            log.warning(
                "refused to %s, and noted in the audit trail: %s", principal or "nobody", error
            )
        else:
            row.number += 1
        row.document["last_at"] = moment
        if len(row.ids) < MOST_IDS and kind is not None:
            named = ids_of(op.domain, op.app.bind(op.model).schema) or ()
            row.ids.update(dict.fromkeys(id_text(pk) for pk in named[: MOST_IDS - len(row.ids)]))
        self._noted.set()
        self._begin()

    def _others(self) -> dict[str, Any]:
        text = f"further attempts: more than {self._per_minute} kinds of them in a minute"
        return {
            "_id": ObjectId(),
            "model": OTHERS,
            "operation": OTHERS,
            "system": False,
            "message": text,
        }

    async def stored(self) -> None:
        """Store what was noted before this call, and wait for it."""
        await self._store()

    async def close(self) -> None:
        """Store what is left; what cannot be stored is counted and logged."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        try:
            await self._store()
        except Exception as error:  # also what a layer of another plugin raises
            left = sum(row.number - row.stored for row in self._rows.values())
            self.lost += left
            log.error("%d refused attempts are not in the audit trail: %s", left, error)
        self._rows.clear()

    # -- the task -----------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._since = time.monotonic()
            # The task is nobody's: neither in the transaction nor with the rights of who is refused.
            self._task = asyncio.get_running_loop().create_task(
                self._work(), context=contextvars.Context()
            )

    async def _work(self) -> None:
        """Store new rows at once, and their numbers at the end of the minute."""
        is_logged = False
        while self._rows:
            self._noted.clear()
            left = self._since + self.window - time.monotonic()
            try:
                await self._store(only_new=left > 0)
            except AppStopping:
                return  # close() stores them
            except Exception as error:  # also what a layer of another plugin raises
                # The minute goes on, so that no more rows than these wait in memory.
                if not is_logged:
                    log.error("refused attempts cannot be stored in the audit trail: %s", error)
                is_logged = True
                await asyncio.sleep(RETRY)
                continue
            if left <= 0:
                for kind in [k for k, row in self._rows.items() if row.stored == row.number]:
                    del self._rows[kind]
                self._since = time.monotonic()
                continue
            # wait_for() of Python 3.11 loses a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._noted.wait()

    async def _store(self, *, only_new: bool = False) -> None:
        async with self._at_work:
            new = [row for row in self._rows.values() if not row.stored]
            if new:
                numbers = [row.number for row in new]
                documents = [
                    self._stored(row, number) for row, number in zip(new, numbers, strict=True)
                ]
                await self._execute("create", documents)
                for row, number in zip(new, numbers, strict=True):
                    row.stored = number
            more = [row for row in self._rows.values() if row.stored < row.number]
            if more and not only_new:
                numbers = [row.number for row in more]
                await self._execute("write", _changes(more))
                for row, number in zip(more, numbers, strict=True):
                    row.stored = number

    @staticmethod
    def _stored(row: _Row, number: int) -> dict[str, Any]:
        return {**row.document, "number": number, "record_ids": list(row.ids)}

    async def _execute(self, name: OperationName, values: Any) -> None:
        app = self._app
        env = app.env.as_system(REASON).replace(context={KEY: WRITER})
        with use_env(env):
            op = Operation(name, app.model(DENIAL), env, values=values, notes=made_by("audit"))
            if name == "write":
                op = op.replace(domain=Domain([("id", "in", list(values))]))
            await app.execute(op)


def _changes(rows: Sequence[_Row]) -> PerRecord:
    return PerRecord(
        {
            row.document["_id"]: Update(
                {
                    "$set": {
                        "number": row.number,
                        "last_at": row.document["last_at"],
                        "record_ids": list(row.ids),
                    }
                }
            )
            for row in rows
        }
    )


def _document(
    name: str,
    operation: str,
    principal: str | None,
    env: Env,
    error: AccessDenied,
    why: Verdict | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "_id": ObjectId(),
        "model": name,
        "operation": operation,
        "principal": principal,
        "system": env.system,
        "message": str(error)[:MOST_TEXT],
    }
    if why is not None:
        document["roles"] = sorted(why.roles)
        document["reasons"] = [
            {
                "kind": reason.kind,
                "name": reason.name,
                "model": reason.model,
                "allows": reason.allows,
                "roles": sorted(reason.roles),
                "detail": reason.detail,
            }
            for reason in why.reasons
        ]
        if why.filter is not None:
            document["filter"] = json.dumps(to_json(dict(why.filter)))[:MOST_TEXT]
    return document
