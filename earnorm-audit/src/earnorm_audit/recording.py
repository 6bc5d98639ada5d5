"""The layer around create, write and unlink, which records what an operation has changed.

It reads the records before and after, because only the database knows what an update by domain, a
default, or an inner layer made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, Protocol

from earnorm import Domain
from earnorm.plugin import Call, Operation, PerRecord, in_transaction, pause, slices
from earnorm_audit.changes import Changes, Recorded

Document = dict[str, Any]
Images = dict[Any, Document]
Kind = Literal["create", "write", "unlink"]

CHUNK: Final = 1000
"""The most records whose images are in memory at a time."""
REASON: Final = "audit"

Add = Callable[[Operation, Sequence[tuple[Kind, Any, Changes]]], Any]


class Alone(Protocol):
    """Carries out and records operations where there are no transactions."""

    async def run(self, op: Operation, call_next: Call) -> Any:
        """Run and record an operation."""
        ...


class AuditLayer:
    """Runs the changes of one model in one transaction with their entries."""

    def __init__(self, recording: Recording, alone: Alone) -> None:
        self._recording = recording
        self._alone = alone

    @staticmethod
    def needs(op: Operation) -> bool:
        """Return whether the operation runs in a transaction."""
        return "transactions" in op.app.capabilities

    async def __call__(self, op: Operation, call_next: Call, /) -> Any:
        """Run and record the operation."""
        if op.env.transaction is None and not self.needs(op):
            return await self._alone.run(op, call_next)

        async def run(op: Operation, /) -> Any:
            return await self._recording.run(op, call_next)

        return await in_transaction(op, run)


class Recording:
    """Carries out one model's writing operations, and reads the records before and after.

    Args:
        recorded: The fields that are recorded.
        add: Stores an entry for each change.
    """

    def __init__(self, recorded: Recorded, add: Add) -> None:
        self._recorded = recorded
        self._add = add
        self._fields = frozenset(recorded.fields)

    async def run(self, op: Operation, call_next: Call) -> Any:
        """Run an operation inside a transaction, which fails as a whole."""
        if op.name == "create":
            result = await call_next(op)
            for ids in parts_of(result):
                await self.compare(op, ids, {})
            return result
        return await self._run_in_parts(op, call_next)

    # -- write and unlink -----------------------------------------------------------------------

    async def _run_in_parts(self, op: Operation, call_next: Call) -> int:
        """Run up to a chunk at once; for more, hold only the ids and run an operation per chunk."""
        if isinstance(op.values, PerRecord):
            done = 0
            for part in in_chunks(op.values):
                done += await self._part(about(op.replace(values=PerRecord(part)), part), call_next)
            return done
        limit = CHUNK + 1 if op.options.many else 2
        first = await self.read(op, op.domain, limit)
        if len(first) <= CHUNK:
            return await self._between(op, call_next, first)
        done = 0
        for ids in parts_of(await self.ids(op)):
            done += await self._part(about(op, ids), call_next)
        return done

    async def _part(self, op: Operation, call_next: Call) -> int:
        return await self._between(op, call_next, await self.read(op, op.domain))

    async def _between(self, op: Operation, call_next: Call, before: Images) -> int:
        if len(before) > 1 and not op.options.many:
            # The first of several records is chosen here, or the write might choose another one.
            before = dict(list(before.items())[:1])
            op = about(op, before)
        result: int = await call_next(op)
        await self.compare(op, list(before), before)
        return result

    # -- images ---------------------------------------------------------------------------------

    async def compare(self, op: Operation, ids: Sequence[Any], before: Images) -> None:
        """Read the records again, and store an entry for each that differs."""
        if not ids:
            return
        try:
            await self._record(op, ids, before, await self.read(op, by_id(ids)))
        except BaseException:
            if op.env.transaction is not None:
                # Even if the application catches the error, no change may stay without its entry.
                op.env.transaction.doom("a change in it could not be recorded in the audit trail")
            raise

    async def _record(
        self, op: Operation, ids: Sequence[Any], before: Images, after: Images
    ) -> None:
        differences: list[tuple[Kind, Any, Changes]] = []
        for pk in ids:
            await pause()
            old, new = before.get(pk), after.get(pk)
            if old is None and new is None:
                continue
            changes = self._recorded.difference(old, new)
            kind: Kind = "create" if old is None else "unlink" if new is None else "write"
            if changes or kind != "write":
                differences.append((kind, pk, changes))
        await self._add(op, differences)

    async def read(self, op: Operation, domain: Domain, limit: int = 0) -> Images:
        """Return the recorded fields of records that match."""
        return {doc["_id"]: doc for doc in await self._search(op, domain, self._fields, limit)}

    async def ids(self, op: Operation, limit: int = 0) -> list[Any]:
        """Return the ids of the records that an operation is about."""
        documents = await self._search(op, op.domain, frozenset({"_id"}), limit)
        return [document["_id"] for document in documents]

    @staticmethod
    async def _search(
        op: Operation, domain: Domain, fields: frozenset[str], limit: int
    ) -> list[Document]:
        options = op.options.replace(order=(), offset=0, limit=limit, fields=fields | {"_id"})
        search = op.child(
            "search",
            op.model,
            domain,
            options=options,
            origin="audit",
            env=op.env.as_system(REASON),
        )
        documents: list[Document] = await op.app.execute(search)
        return documents


def by_id(ids: Sequence[Any]) -> Domain:
    """Return the condition that a record has one of these ids."""
    return Domain([("id", "in", list(ids))])


def about(op: Operation, ids: Iterable[Any]) -> Operation:
    """Return the operation about these records only."""
    return op.replace(domain=op.domain & by_id(list(ids)))


def parts_of(ids: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Yield so many ids at a time as there may be images in memory."""
    return slices(ids, CHUNK)


def in_chunks(values: PerRecord) -> Iterable[dict[Any, Any]]:
    """Yield the changes of so many records at a time as may be in memory."""
    return ({pk: values[pk] for pk in part} for part in parts_of(list(values)))
