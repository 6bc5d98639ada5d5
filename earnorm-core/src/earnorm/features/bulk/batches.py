"""``create_many``: any number of new records from a stream of dicts, in bounded memory."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain
from earnorm.exceptions import (
    BatchDuplicateKey,
    BatchRefused,
    DuplicateKey,
    EarnORMError,
    ErrorDetail,
    ValidationError,
)
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.observing.asking import start_task
from earnorm.kernel.operations import ASKED, PLAIN, Operation, Options, made_by
from earnorm.kernel.steps import Way
from earnorm.model.reading.ordering import checked_size
from earnorm.model.writing.creating import prepared
from earnorm.model.writing.handing_back import on_its_way

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

Values = Mapping[str, Any]
Source = Iterable[Values] | AsyncIterable[Values]
Progress = Callable[["BatchResult"], Awaitable[None] | None]

_NOTES = {**made_by("bulk"), ASKED: True}
_UNORDERED = Options(ordered=False)


@dataclass(slots=True)
class BatchResult:
    """The result of creating records from a stream of values.

    Attributes:
        written: The number of records that were stored.
        errors: The problems of refused values; each ``loc`` begins with the position in the stream.
    """

    written: int = 0
    errors: list[ErrorDetail] = field(default_factory=list[ErrorDetail])
    seen: int = 0
    """The number of values that were taken from the stream."""

    @property
    def positions(self) -> list[int]:
        """The positions of refused values; every other one below ``seen`` was written."""
        return list(dict.fromkeys(int(detail["loc"][0]) for detail in self.errors))

    @property
    def refused(self) -> int:
        """The number of refused values."""
        return len(self.positions)

    def __repr__(self) -> str:
        return f"<BatchResult {self.written} written, {self.refused} refused>"


class CreateMany:
    """One run of ``create_many``: it validates a batch while the one before is sent."""

    def __init__(self, bound: BoundModel, ordered: bool, progress: Progress | None) -> None:
        need_feature("bulk", "create_many()", bound.app)
        self._bound = bound
        self._env: Env = current_env()
        self._ordered = ordered
        self._progress = progress
        self.result = BatchResult()

    async def run(self, source: Source, size: int) -> BatchResult:
        """Create all records of a stream, in batches.

        Raises:
            BatchRefused: If ordered: the first refused value; those before it were written.
        """
        checked_size("batch_size", size, 1)
        sending: asyncio.Task[None] | None = None
        # A transaction's session allows one operation at a time, and validation may query the
        # database.
        is_alone = self._env.transaction is None
        try:
            async for batch in _batches(source, size):
                start = self.result.seen
                self.result.seen += len(batch)
                documents, positions, refused = await self._check(batch, start)
                if sending is not None:
                    await sending
                sending = start_task(self._send(documents, positions, refused))
                if not is_alone or (refused and self._ordered):
                    await sending
                    sending = None
            if sending is not None:
                await sending
        except BaseException as error:
            if sending is not None and not sending.done():
                # Wait for the running insert: after cancelling it, nobody would know what it
                # stored.
                await asyncio.wait([sending])
            if isinstance(error, EarnORMError) and not isinstance(error, ValidationError):
                error.add_note(f"{self.result.written} records were written before")
            raise
        return self.result

    async def _check(
        self, batch: list[Values], start: int
    ) -> tuple[list[dict[str, Any]], list[int], list[ErrorDetail]]:
        """Return a batch's valid documents, their positions in the stream, and the problems."""
        refused: list[ErrorDetail] = [
            {
                "loc": (start + number,),
                "msg": f"a {type(value).__name__} is no dict; create_many() takes dicts",
                "type": "type",
            }
            for number, value in enumerate(batch)
            if not isinstance(value, Mapping)
        ]
        wrong = {detail["loc"][0] for detail in refused}
        positions = [p for p in range(start, start + len(batch)) if p not in wrong]
        while positions:
            try:
                # The errors of a batch of one have no position; _located() adds it.
                values = [batch[position - start] for position in positions]
                creation = await prepared(self._bound, values, way=Way.CREATE_MANY)
                return creation.documents, positions, refused
            except ValidationError as error:
                problems = _located(error.errors(), positions)
                refused += problems
                wrong = {detail["loc"][0] for detail in problems}
                positions = [position for position in positions if position not in wrong]
                if self._ordered:
                    first = min(int(detail["loc"][0]) for detail in refused)
                    positions = [position for position in positions if position < first]
        return [], [], refused

    async def _send(
        self, documents: list[dict[str, Any]], positions: list[int], refused: list[ErrorDetail]
    ) -> None:
        result = self.result
        result.errors += refused
        try:
            await self._insert(documents, positions)
        finally:
            result.errors.sort(key=lambda detail: int(detail["loc"][0]))
        if self._ordered and refused:
            self._raise(refused)
        if self._progress is not None:
            awaitable = self._progress(result)
            if inspect.isawaitable(awaitable):
                await awaitable

    async def _insert(self, documents: list[dict[str, Any]], positions: list[int]) -> None:
        if not documents:
            return
        options = PLAIN if self._ordered else _UNORDERED
        op = Operation(
            "create", self._bound.model, self._env, Domain.TRUE, documents, options, _NOTES
        )
        op = on_its_way(self._bound, op, Way.CREATE_MANY)
        try:
            await self._env.app.execute(op)
        except ValidationError as error:
            details = _located(error.errors(), positions)
            if not details:
                raise  # the error is not about a document
            written = error.written if isinstance(error, BatchRefused) else ()
            if self._ordered:
                self.result.written += len(written or ())
                self.result.errors += details
                self._raise(details, error)
            if self._env.transaction is not None or written is None:
                raise  # the server has aborted the transaction, or nobody knows what was written
            self.result.errors += details
            self.result.written += len(written)
            wrong = {detail["loc"][0] for detail in details}
            done = {positions[number] for number in written}
            rest = [
                (document, position)
                for document, position in zip(documents, positions, strict=True)
                if position not in wrong and position not in done
            ]
            # A layer's own transaction rolled everything back and reported only one refusal.
            # Sending halves again avoids sending the whole batch once for each refused document.
            middle = (len(rest) + 1) // 2
            for half in (rest[:middle], rest[middle:]):
                await self._insert([d for d, _ in half], [p for _, p in half])
        else:
            self.result.written += len(documents)

    def _raise(self, details: list[ErrorDetail], cause: ValidationError | None = None) -> None:
        first = min(int(detail["loc"][0]) for detail in details)
        first_details = [detail for detail in details if detail["loc"][0] == first]
        subject = self._bound.model._name
        written = range(self.result.written)
        if isinstance(cause, DuplicateKey):
            raise BatchDuplicateKey(
                subject, first_details, fields=cause.fields, written=written
            ) from None
        raise BatchRefused(subject, first_details, written=written) from None


def _located(details: list[ErrorDetail], positions: list[int]) -> list[ErrorDetail]:
    """Give problems their positions in the stream; those of a batch of one have no number."""
    located: list[ErrorDetail] = []
    for detail in details:
        number, *rest = detail["loc"] or ("",)
        if isinstance(number, int):
            located.append({**detail, "loc": (positions[number], *rest)})
        elif len(positions) == 1:
            located.append({**detail, "loc": (positions[0], *detail["loc"])})
    return located


async def _batches(source: Source, size: int) -> AsyncIterator[list[Values]]:
    batch: list[Values] = []
    if isinstance(source, AsyncIterable):
        async for value in source:
            batch.append(value)
            if len(batch) == size:
                yield batch
                batch = []
    else:
        for value in source:
            batch.append(value)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch
