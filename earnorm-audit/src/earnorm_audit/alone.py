"""Recording without transactions: on a server alone, and in memory.

A change and its entries are steps of one unit. No other change of this process comes between them, and
neither a cancellation nor a stop of the App ends it in the middle; the end of the process does, and other
processes do not wait. What may have stayed without its entry is logged and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from earnorm import App
from earnorm.plugin import (
    Call,
    ModelView,
    Operation,
    PerRecord,
    alone_at,
    ids_of,
    unbroken,
)
from earnorm_audit.recording import Images, Recording, about, by_id, in_chunks, parts_of

log: Final = logging.getLogger("earnorm.audit")

Part = tuple[Operation, list[Any]]
"""An operation about these records."""
Miss = Callable[[Operation, Sequence[Any], object], None]
"""Takes an operation, the ids of records whose entries may be missing, and the reason."""


def lacks_transactions(app: App) -> bool:
    """Return whether the App has a server without transactions; what is in memory dies with it."""
    return "explain" in app.capabilities and "transactions" not in app.capabilities


class AloneRecording:
    """Carries out one model's writing operations, and records what each has done.

    Args:
        model: The model.
        recording: Reads the records, and stores the entries.
        miss: Hears of changes whose entries may be missing.
    """

    def __init__(self, model: ModelView, recording: Recording, miss: Miss) -> None:
        self._model = model
        self._recording = recording
        self._miss = miss

    async def run(self, op: Operation, call_next: Call) -> Any:
        """Run an operation without a transaction; what was done before an error is recorded too."""
        if op.name == "create":
            return await self._create(op, call_next)
        if isinstance(op.values, PerRecord):
            parts = [
                (about(op.replace(values=PerRecord(changes)), list(changes)), list(changes))
                for changes in in_chunks(op.values)
            ]
        else:
            named = ids_of(op.domain, self._model.schema)
            if not op.options.many and (named is None or len(named) > 1):
                return await self._write_one(op, call_next)
            parts = await self._parts(op, named)
        done = 0
        for part, ids in parts:
            async with self._alone(op, ids):
                before = await self._recording.read(part, part.domain) if ids else {}
                done += await self._write(part, call_next, before)
        return done

    async def _parts(self, op: Operation, named: list[Any] | None) -> list[Part]:
        """Return operations about so many records as may be in memory.

        Args:
            op: The operation.
            named: The ids that its domain names; None if it names none.
        """
        ids = await self._recording.ids(op) if named is None else named
        parts = [list(part) for part in parts_of(ids)] or [[]]
        if named is not None and len(parts) == 1:
            return [(op, named)]
        return [(about(op, part), part) for part in parts]

    async def _create(self, op: Operation, call_next: Call) -> Any:
        ids = [document["_id"] for document in op.documents]
        async with self._alone(op, ids):
            # An id that is taken belongs to a record that this operation will not create.
            parts = parts_of(ids)
            taken = {pk for part in parts for pk in await self._recording.read(op, by_id(part))}
            made = [pk for pk in ids if pk not in taken]
            return await unbroken(partial(self._change, op, call_next, made, {}))

    async def _write_one(self, op: Operation, call_next: Call) -> int:
        """Write one of the records that match; it is chosen here."""
        while True:
            ids = await self._recording.ids(op, 1)
            async with self._alone(op, ids):
                before = await self._recording.read(op, about(op, ids).domain) if ids else {}
                if before or not ids:  # else another change has come first, and it matches no more
                    return await self._write(op, call_next, before)

    async def _write(self, op: Operation, call_next: Call, before: Images) -> int:
        # A record that begins to match after the read must not be changed without an entry.
        ids = list(before)
        op = about(op, ids)
        done: int = await unbroken(partial(self._change, op, call_next, ids, before))
        return done

    @asynccontextmanager
    async def _alone(self, op: Operation, ids: Sequence[Any]) -> AsyncIterator[None]:
        """Keep other changes of this process from these records, from the first look at them on."""
        name = self._model.name
        async with alone_at([(name, pk) for pk in ids]) as is_alone:
            if not is_alone:
                log.warning(
                    "a %s of %s has waited too long for other changes of the same records, and goes "
                    "on beside them: entries in the audit trail may have wrong old values",
                    *(op.name, name),
                )
            yield

    async def _change(
        self, op: Operation, call_next: Call, ids: Sequence[Any], before: Images
    ) -> Any:
        try:
            result = await call_next(op)
        except asyncio.CancelledError:
            self._miss(op, ids, "it was cut off")
            raise
        except BaseException:
            with suppress(Exception):  # it is logged, and the first error is the one that tells
                await self._record(op, ids, before)
            raise
        await self._record(op, ids, before)
        return result

    async def _record(self, op: Operation, ids: Sequence[Any], before: Images) -> None:
        recorded = 0
        try:
            for part in parts_of(ids):
                await self._recording.compare(op, part, before)
                recorded += len(part)
        except BaseException as error:
            self._miss(op, ids[recorded:], type(error).__name__)
            raise
