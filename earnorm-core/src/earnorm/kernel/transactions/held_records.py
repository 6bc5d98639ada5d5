"""The records that running transactions will restore, and what other tasks make of them meanwhile.

A transaction notes the state of a record before it changes it. Other tasks may assign to that record,
or write it durably, while the transaction runs; a rollback takes back what the transaction did, and
nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import TransactionError
from earnorm.fields.base import is_refused
from earnorm.kernel.environment import find_env
from earnorm.kernel.pauses import Finishing, free_later, parts

if TYPE_CHECKING:
    from earnorm.kernel.transactions.outcome import Outcome
    from earnorm.model.base import BaseModel


class HeldRecord:
    """A record that a running transaction will restore.

    Attributes:
        record: The record.
        restore: Gives it the state from before.
        is_made: The transaction creates it, so that no other task can write it.
        pending: The names of the fields that were assigned before.
        is_settled: The transaction gave it values that were stored or read.
        assigned: The names of the fields that were assigned in the transaction.
        is_settled_elsewhere: Another task gave it values that were stored or read.
        assigned_elsewhere: The values that other tasks assigned, by name, and if they were refused.
    """

    __slots__ = (
        "assigned",
        "assigned_elsewhere",
        "is_made",
        "is_settled",
        "is_settled_elsewhere",
        "pending",
        "record",
        "restore",
    )

    def __init__(
        self, record: BaseModel, restore: Callable[[], None], *, is_made: bool = False
    ) -> None:
        self.record, self.restore, self.is_made = record, restore, is_made
        self.is_settled = self.is_settled_elsewhere = False
        self.pending = record._assigned_names()
        self.assigned: set[str] | None = None
        self.assigned_elsewhere: dict[str, tuple[Any, bool]] | None = None

    def take_back(self, outcome: Outcome) -> None:
        """Take back what the transaction did.

        Where that cannot be told from what another task wrote, the record keeps its values and is
        stale.
        """
        record = self.record
        if not self.is_settled_elsewhere or self.is_made or not record.is_stored:
            self.restore()
            if self.assigned_elsewhere:
                record._reassign(self.assigned_elsewhere)
        elif self.is_settled or not self.pending.isdisjoint(self.assigned or ()):
            record._make_stale(outcome)
        elif self.assigned:
            record._take_back_assigned(self.assigned)


class Reapplied:
    """The records that a try of a function has left with changes in place, for its further tries.

    A change in place (``tags.append(…)``) is noticed when its record is saved. Whether the function made
    it, or the program before, nobody can tell; so a rollback leaves it as an unsaved change. If the
    function makes it again, a further try would do it twice, and is refused.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: dict[int, tuple[BaseModel, Mapping[str, Any]]] = {}

    def note(self, record: BaseModel) -> None:
        """Note the changes in place with which a rollback has left a record."""
        values = record._changed_in_place()
        if values:
            self._left[id(record)] = record, values
        else:
            self._left.pop(id(record), None)

    def refuse(self, record: BaseModel) -> None:
        """Refuse a record that was changed in place once more since the try before.

        Raises:
            TransactionError: It was; the message says what to do.
        """
        _, earlier = self._left.get(id(record), (None, {}))
        if not earlier:
            return
        now = record._changed_in_place()
        again = [name for name, value in earlier.items() if now.get(name) != value]
        if again:
            raise TransactionError(
                f"{type(record).__name__}.{again[0]} was changed in place in a try that was rolled back, "
                f"and is changed in place again in this one, which would do it twice; read the record "
                f"inside the function, or assign the value (record.{again[0]} = ...)"
            ).coded("changed_twice")


class HeldRecords:
    """The records that one transaction will restore.

    Args:
        reapplied: Of a function that is tried again: what earlier tries have left changed in place.
    """

    __slots__ = ("_held", "_reapplied", "_undo")

    def __init__(self, reapplied: Reapplied | None = None) -> None:
        self._held: dict[int, HeldRecord] = {}
        self._reapplied = reapplied
        self._undo: list[Callable[[], None]] = []

    def undo(self, call: Callable[[], None]) -> None:
        """Call a function at a rollback: it takes back what was loaded for an older record."""
        self._undo.append(call)

    def touch(self, record: BaseModel) -> None:
        """Remember the state of a record."""
        if id(record) not in self._held:
            if self._reapplied is not None:
                self._reapplied.refuse(record)
            self._hold(HeldRecord(record, record._restorer()))

    def created(
        self,
        records: Iterable[BaseModel],
        states: Iterable[dict[str, Any]],
        drawn_ids: Collection[Any],
    ) -> None:
        """Note records that the transaction creates, with their states as they were given."""
        for record, state in zip(records, states, strict=True):
            held = self._held.get(id(record))
            if held is None:
                if self._reapplied is not None:
                    self._reapplied.refuse(record)
                restore = functools.partial(record._unstore, state, drawn_ids)
                self._hold(HeldRecord(record, restore, is_made=True))
            else:
                held.is_made = True

    def _hold(self, held: HeldRecord) -> None:
        key = id(held.record)
        self._held[key] = held
        HOLDERS[key] = (*HOLDERS.get(key, ()), self)

    def release(self) -> None:
        """Forget the records, because the transaction is over."""
        free_later(list(self._held.values()))
        for key in self._held:
            holders = HOLDERS.pop(key)
            if len(holders) > 1:
                HOLDERS[key] = tuple(holder for holder in holders if holder is not self)
        self._held = {}
        self._undo = []

    def _release(self, key: int) -> None:
        del self._held[key]
        holders = HOLDERS.pop(key)
        if len(holders) > 1:
            HOLDERS[key] = tuple(holder for holder in holders if holder is not self)

    async def take_back(self, outcome: Outcome) -> None:
        """Take back what the transaction did to the records, because it was rolled back.

        Until a record is taken back it is held, so that what other tasks do to it meanwhile stays.
        """
        for call in reversed(self._undo):
            call()
        self._undo = []
        finishing, records = Finishing(), list(self._held.values())
        for part in parts(records):
            for held in part:
                self._release(id(held.record))
                held.take_back(outcome)
                if self._reapplied is not None:
                    self._reapplied.note(held.record)
                for other in HOLDERS.get(id(held.record), ()):
                    other.settled(held.record, is_own=False)
            if part is not records:
                await finishing.pause()
        free_later(records)
        finishing.end()

    async def give_up(self, outcome: Outcome) -> None:
        """Mark the records stale, because nobody can tell what became of the transaction.

        They keep their values. What was only assigned to a record is still an unsaved change of it.
        """
        self._undo = []
        finishing, records = Finishing(), list(self._held.values())
        for part in parts(records):
            for held in part:
                self._release(id(held.record))
                if held.record.is_stored and (held.is_made or held.is_settled or not held.assigned):
                    held.record._make_stale(outcome)
            if part is not records:
                await finishing.pause()
        free_later(records)
        finishing.end()

    def settled(self, record: BaseModel, *, is_own: bool) -> None:
        """Note that a record got values that were stored or read."""
        held = self._held[id(record)]
        if is_own:
            held.is_settled = True
        else:
            held.is_settled_elsewhere = True

    def assigned(self, record: BaseModel, name: str, *, is_own: bool) -> None:
        """Note that a field was assigned."""
        held = self._held[id(record)]
        if is_own:
            if held.assigned is None:
                held.assigned = set()
            held.assigned.add(name)
            return
        if held.assigned_elsewhere is None:
            held.assigned_elsewhere = {}
        # The object itself, because the other task may change it in place.
        value = record.__dict__.get(name)
        held.assigned_elsewhere[name] = (value, is_refused(record, name))


HOLDERS: Final[dict[int, tuple[HeldRecords, ...]]] = {}
"""By ``id()`` of a record, the running transactions that will restore it. It is asked before the
functions below are called, so that a program without transactions pays for no call."""


def note_settled(record: Any) -> None:
    """Tell the transactions that hold a record that it got values that were stored or read."""
    holders = HOLDERS.get(id(record))
    if holders:
        own = _own()
        for holder in holders:
            holder.settled(record, is_own=holder is own)


def note_assigned(record: Any, name: str) -> None:
    """Tell the transactions that hold a record that a field was assigned."""
    holders = HOLDERS.get(id(record))
    if holders:
        own = _own()
        for holder in holders:
            holder.assigned(record, name, is_own=holder is own)


def _own() -> HeldRecords | None:
    env = find_env()
    return None if env is None or env.transaction is None else env.transaction.held
