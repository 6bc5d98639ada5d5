"""The records that running transactions will restore, and what other tasks make of them meanwhile.

A transaction notes the state of a record before it changes it. Other tasks may assign to that record,
or write it durably, while the transaction runs; a rollback takes back what the transaction did, and
nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from earnorm.kernel.environment import find_env

if TYPE_CHECKING:
    from earnorm.kernel.outcome import Outcome
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
        self.pending = frozenset(getattr(record, "_changes", ()))
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


class HeldRecords:
    """The records that one transaction will restore."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[int, HeldRecord] = {}

    def touch(self, record: BaseModel) -> None:
        """Remember the state of a record."""
        if id(record) not in self._held:
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
        for key in self._held:
            others = tuple(holder for holder in HOLDERS[key] if holder is not self)
            if others:
                HOLDERS[key] = others
            else:
                del HOLDERS[key]
        self._held = {}

    def take_back(self, outcome: Outcome) -> None:
        """Take back what the transaction did to the records, because it was rolled back."""
        records = list(self._held.values())
        self.release()
        for held in records:
            held.take_back(outcome)
            for other in HOLDERS.get(id(held.record), ()):
                other.settled(held.record, is_own=False)

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
        held.assigned_elsewhere[name] = (value, name in getattr(record, "_unchecked", ()))


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
