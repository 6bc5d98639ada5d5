"""The loads and writes in progress, which decide what this process may keep.

Nothing here awaits, so on one event loop every method is atomic. Three rules make a stale read after an
acknowledged write impossible:

- a write removes its records and *closes* their ids until it has ended, also if it fails;
- a load takes a *lease* on each id before it asks the database, and keeps a document only if it
  still holds the lease (R. Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, 3.2.1);
- closing an id revokes its leases, and a closed id gives none.

The result of a query depends on no ids that are known beforehand. It is kept with the *vector* of the tokens that it
depends on, read before the database was asked: those of the fields that it looks at, and of the collection's
membership. A change renews the tokens of what it wrote when it begins and when it has ended, and a result with an
old vector is void.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, KeysView
from dataclasses import dataclass, field
from itertools import count, product
from typing import Final

from earnorm.plugin import StoredId
from earnorm_cache.change import Change
from earnorm_cache.encoding import ABSENT
from earnorm_cache.memory import Key, Memory
from earnorm_cache.options import Kept

_numbers: Final = count(1)
"""No two tokens of this process are equal, also of two shelves of one collection."""


def _no_writes() -> Counter[str]:
    return Counter()


@dataclass(slots=True)
class Shelf:
    """The kept keys, leases and running writes of one collection, for all models stored in it."""

    models: set[str] = field(default_factory=set[str])
    keys: set[Key] = field(default_factory=set[Key])
    """The keys of the kept records."""
    leases: dict[Key, Lease] = field(default_factory=dict["Key", "Lease"])
    closed: dict[StoredId, int] = field(default_factory=dict["StoredId", int])
    """The number of running writes for each id."""
    closed_whole: int = 0
    """The number of running writes that may change any record."""
    results: set[Key] = field(default_factory=set[Key])
    """The keys of the kept results of queries."""
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    """The tokens that were renewed since all were."""
    all_renewed: int = field(default_factory=lambda: next(_numbers))
    """The token of each name that is not in ``tokens``."""
    writing: Counter[str] = field(default_factory=_no_writes)
    """The number of running writes for each token."""
    writing_all: int = 0
    """The number of running writes of which nobody knows what they change."""

    def vector(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the tokens of these names."""
        tokens, other = self.tokens, self.all_renewed
        return tuple([tokens.get(name, other) for name in names])

    def is_written(self, names: Iterable[str]) -> bool:
        """Return whether a write that renews one of these tokens has not ended yet."""
        if self.writing_all:
            return True
        writing = self.writing
        return bool(writing) and any(name in writing for name in names)

    def renew(self, tokens: Iterable[str] | None) -> None:
        """Renew tokens; None for all."""
        number = next(_numbers)
        if tokens is None:
            self.tokens.clear()
            self.all_renewed = number
        else:
            self.tokens.update(dict.fromkeys(tokens, number))

    def begin(self, tokens: Iterable[str] | None) -> None:
        """Note a write that renews these tokens."""
        self.renew(tokens)
        if tokens is None:
            self.writing_all += 1
        else:
            self.writing.update(tokens)

    def end(self, tokens: Iterable[str] | None) -> None:
        """Note the end of such a write."""
        # What was loaded meanwhile may be from before it.
        self.renew(tokens)
        if tokens is None:
            self.writing_all -= 1
            return
        for name in tokens:
            if self.writing[name] == 1:
                del self.writing[name]
            else:
                self.writing[name] -= 1

    @property
    def is_in_use(self) -> bool:
        """True while a model, a load or a write needs it."""
        return bool(
            self.models
            or self.leases
            or self.closed
            or self.closed_whole
            or self.writing
            or self.writing_all
        )

    def is_closed(self, pk: StoredId) -> bool:
        """Return whether a write of this record has not ended yet."""
        return bool(self.closed_whole) or pk in self.closed


class Lease:
    """The right of one load to keep its documents. Call ``end``, even if the load failed."""

    __slots__ = ("_kept", "_keys", "_memory", "_shelf")

    def __init__(self, memory: Memory, shelf: Shelf, keys: list[Key], kept: Kept) -> None:
        self._memory, self._shelf, self._keys, self._kept = memory, shelf, keys, kept
        if shelf.closed_whole:
            return
        for key in keys:
            if key[1] not in shelf.closed:
                # A later load of the same id takes over; its value is at least as new.
                shelf.leases[key] = self

    def keep(self, model: str, pk: StoredId, data: bytes) -> None:
        """Keep the BSON of a document, or its absence, if its lease was not revoked."""
        key = (model, pk)
        ttl = self._kept.negative_ttl if data == ABSENT else self._kept.ttl
        if self._shelf.leases.get(key) is self and ttl > 0:
            self._memory.put(key, data, self._shelf.keys, ttl)

    def end(self) -> None:
        """Release the leases."""
        leases = self._shelf.leases
        for key in self._keys:
            if leases.get(key) is self:
                del leases[key]


class Shelves:
    """The shelves of one App, by collection.

    Args:
        memory: Holds what is kept.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory, self.counts = memory, memory.counts
        self._shelves: dict[str, Shelf] = {}

    def shelf(self, collection: str, model: str) -> Shelf:
        """Return the shelf of a collection; from now on it knows that it stores this model."""
        shelf = self._shelves.setdefault(collection, Shelf())
        shelf.models.add(model)
        return shelf

    @property
    def collections(self) -> KeysView[str]:
        """The names of the collections of which something may be kept."""
        return self._shelves.keys()

    def any_shelf(self, collection: str) -> Shelf:
        """Return the shelf of a collection, also of one of which no model is known yet."""
        return self._shelves.setdefault(collection, Shelf())

    def find(self, collection: str) -> Shelf | None:
        """Return the shelf of a collection, if it has one."""
        return self._shelves.get(collection)

    def hear(self, collection: str, change: Change) -> None:
        """Forget what another process has written, also what is being loaded."""
        shelf = self._shelves.get(collection)
        if shelf is not None:
            self.close(shelf, change)
            self.reopen(shelf, change)

    def forget(self, collection: str, model: str) -> None:
        """Forget a model that is dropped: its records, its figures, and its shelf once nobody has it."""
        self.counts.forget(model)
        shelf = self._shelves.get(collection)
        if shelf is None:
            return
        for key in [key for keys in (shelf.keys, shelf.results) for key in keys if key[0] == model]:
            self.memory.drop(key)
        shelf.models.discard(model)
        # A write or load that is in progress goes on with its shelf, and a model that comes in the
        # meantime has to know of it.
        if not shelf.is_in_use:
            del self._shelves[collection]

    def entries(self) -> dict[str, int]:
        """Return the number of kept records of each model."""
        found: Counter[str] = Counter()
        for shelf in self._shelves.values():
            if len(shelf.models) == 1:
                found[next(iter(shelf.models))] += len(shelf.keys)
            else:
                found.update(name for name, _ in shelf.keys)
        return found

    def clear(self) -> None:
        """Forget every record, also those being loaded."""
        self.memory.clear()
        for shelf in self._shelves.values():
            shelf.keys.clear()
            shelf.leases.clear()
            shelf.renew(None)

    def lease(self, shelf: Shelf, model: str, ids: Iterable[StoredId], kept: Kept) -> Lease:
        """Take a lease on these ids; a load does so before it asks the database for them.

        Args:
            shelf: The shelf of the collection.
            model: The name of the model.
            ids: The ids.
            kept: How the records of the model are kept.
        """
        return Lease(self.memory, shelf, [(model, pk) for pk in ids], kept)

    def close(self, shelf: Shelf, change: Change) -> None:
        """Forget what is about to change, and keep nothing of it until ``reopen``.

        Of several ``close``, each needs its own ``reopen``.
        """
        shelf.begin(change.tokens)
        touched: Iterable[Key]
        if change.ids is None:
            shelf.closed_whole += 1
            shelf.leases.clear()
            touched = list(shelf.keys)
        else:
            closed = shelf.closed
            for pk in change.ids:
                closed[pk] = closed.get(pk, 0) + 1
            keys, leases = shelf.keys, shelf.leases
            pairs = product(shelf.models, change.ids) if keys or leases else ()
            touched = [key for key in pairs if key in keys or key in leases]
        for key in touched:
            shelf.leases.pop(key, None)
            if self.memory.drop(key):
                self.counts.invalidations[key[0]] += 1

    def reopen(self, shelf: Shelf, change: Change) -> None:
        """End one ``close``, because its write has ended."""
        shelf.end(change.tokens)
        if change.ids is None:
            shelf.closed_whole -= 1
            return
        closed = shelf.closed
        for pk in change.ids:
            if closed[pk] == 1:
                del closed[pk]
            else:
                closed[pk] -= 1
