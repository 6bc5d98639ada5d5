"""The queue of transactions that will write the same records.

MongoDB refuses the later one of two transactions that write one record, which then has to be run
again. So the operations of an App that open a transaction for themselves wait for each other before
they begin it, and seldom meet.

The queue is advice, never correctness: what it does not know of, or lets pass, is refused by the
server as before, and tried again. Records that an operation finds only inside its transaction are
in no line. A transaction that the program opened does not wait, because it holds what it has
written already. Turns of one record object (``earnorm.model.writing.turns``) are another thing:
there nobody goes ahead, since two saves at once would do the same work twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from earnorm.exceptions import PluginError

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import Operation

Key: TypeAlias = tuple[str, Any]
"""A collection and the stored id of a record in it."""
QueuesFor: TypeAlias = "Callable[[Operation], Iterable[tuple[str, Any]]]"
"""Returns records that an operation will write, each as the name of its model and its stored id."""

LONGEST_WAIT: Final = 2.0
"""The seconds that each try of an operation waits in the queue at most."""
MOST_KEYS: Final = 64
"""An operation that will write more records than these waits for nobody."""


@dataclass(slots=True)
class Contention:
    """Counts what an App's transactions did because of each other, since its start.

    Attributes:
        retries: The further tries of transactions.
        given_up: The transactions that were given up at the limit of their tries.
        unknown: The transactions of which nobody can say whether they were committed.
        queue_waiting: The operations that wait in the queue now.
        queue_waits: The waits in the queue.
        queue_wait_seconds: The time of all these waits.
        queue_passed: The operations that went on without their turn, after the longest wait.
    """

    retries: int = 0
    given_up: int = 0
    unknown: int = 0
    queue_waiting: int = 0
    queue_waits: int = 0
    queue_wait_seconds: float = 0.0
    queue_passed: int = 0


class Place:
    """The place of one transaction in the line of each record that it will write."""

    __slots__ = ("_ahead", "_keys", "_queue", "_turn")

    def __init__(self, queue: Queue, keys: Collection[Key], *, is_next: bool = False) -> None:
        self._queue = queue
        self._keys = keys
        self._turn: asyncio.Future[None] | None = None
        # It enters all lines at once, so that no two can stand before each other.
        enter = queue.enter_next if is_next else queue.enter
        self._ahead = sum(enter(key, self) for key in keys)

    @property
    def is_held(self) -> bool:
        """True if it is the first in all its lines."""
        return not self._ahead

    def step_back(self) -> None:
        """Note that another one has entered one of its lines before it."""
        self._ahead += 1

    async def wait(self, seconds: float) -> bool:
        """Wait until it is the first in all its lines; return False if that takes too long.

        Whether or not it is, :meth:`leave` ends its place; a cancelled wait has ended it.
        """
        if not self._ahead:
            return True
        self._turn = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((self._turn,), timeout=seconds)
        except BaseException:
            self.leave()
            raise
        return self._turn.done()

    def advance(self) -> None:
        """Note that it has become the first in one more of its lines."""
        self._ahead -= 1
        if not self._ahead and self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def leave(self) -> None:
        """Leave all lines; a second call does nothing."""
        keys, self._keys = self._keys, ()
        for key in keys:
            self._queue.leave(key, self)

    def __repr__(self) -> str:
        return f"<Place in {len(self._keys)} lines, behind others in {self._ahead}>"


class Queue:
    """The lines of one App on one event loop, first come, first served.

    Args:
        figures: Counts the waits.
    """

    __slots__ = ("_lines", "figures")

    def __init__(self, figures: Contention) -> None:
        self.figures = figures
        self._lines: dict[Key, OrderedDict[Place, None]] = {}

    async def take(
        self,
        keys: Collection[Key],
        seconds: float,
        *,
        most: int | None = MOST_KEYS,
        is_next: bool = False,
    ) -> Place | None:
        """Wait for the turn of a transaction that will write these records.

        Args:
            keys: The records, each once.
            seconds: The longest time to wait.
            most: The number of records beyond which it goes on at once; None for no limit.
            is_next: It stands before those that wait. They may wait for what it holds already.

        Returns:
            The place that the transaction has until it leaves it; None if it goes on without one.
        """
        if not keys or seconds <= 0 or (most is not None and len(keys) > most):
            return None
        place = Place(self, keys, is_next=is_next)
        if not place._ahead:
            return place
        figures, began = self.figures, time.monotonic()
        figures.queue_waits += 1
        figures.queue_waiting += 1
        try:
            if await place.wait(seconds):
                return place
        finally:
            figures.queue_waiting -= 1
            figures.queue_wait_seconds += time.monotonic() - began
        figures.queue_passed += 1
        place.leave()
        return None

    def enter(self, key: Key, place: Place) -> bool:
        """Put a place at the end of a line; return True if others stand before it."""
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = OrderedDict({place: None})
            return False
        line[place] = None
        return True

    def enter_next(self, key: Key, place: Place) -> bool:
        """Put a place before all of a line that wait; return True if one stands before it."""
        line = self._lines.get(key)
        if line is None:
            return self.enter(key, place)
        first, *waiting = line
        is_second = first.is_held
        if not is_second:
            first.step_back()
            waiting.insert(0, first)
        line[place] = None
        for other in waiting:
            line.move_to_end(other)
        return is_second

    def leave(self, key: Key, place: Place) -> None:
        """Take a place out of a line; if it was the first, the next one advances."""
        line = self._lines[key]
        was_first = next(iter(line)) is place
        del line[place]
        if not line:
            del self._lines[key]
        elif was_first:
            next(iter(line)).advance()

    def __len__(self) -> int:
        return len(self._lines)

    def __repr__(self) -> str:
        return f"<Queue of {len(self._lines)} records>"


def keys_of(
    app: App,
    records: Iterable[tuple[str, Any]],
    others: Collection[Key] = (),
    *,
    most: int | None = MOST_KEYS,
) -> Collection[Key]:
    """Return the keys of records, each once; none if there are too many.

    Args:
        app: The App.
        records: The name of each record's model, and its stored id. Models of one family share
            their collection, and so their lines.
        others: Keys to add them to.
        most: The number beyond which they are too many; None for no limit.

    Raises:
        PluginError: One is no such pair.
        ConfigurationError: There is no such model.
    """
    keys: dict[Key, None] = dict.fromkeys(others)
    collections: dict[str, str] = {}
    for pair in records:
        try:
            name, pk = pair
            collection = collections.get(name)
            if collection is None:
                collection = collections[name] = app.model(name)._collection
            keys[collection, pk] = None
        except (TypeError, ValueError) as error:
            raise PluginError(
                f"queues_for gives pairs: the name of a model, and the stored id of a record; "
                f"not {type(pair).__name__}"
            ).coded("not_a_key") from error
        if most is not None and len(keys) > most:
            return ()
    return keys
