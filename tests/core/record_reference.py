"""What a record is, in plain Python: its states, what is pending, links, and a store.

Nothing of the library is imported here. The machine does the same steps to records and to this, and
holds memory and database of both equal. record_kinds.py has the models, and values in their forms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .record_kinds import MISSING, Document, Kind, lacks_items, put, stored


class Refused(Exception):
    """A step that the library must refuse; its text is the name of the library's error."""


class Store:
    """The documents, by collection and id."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[Any, Document]] = {}

    def of(self, kind: Kind) -> dict[Any, Document]:
        return self.documents.setdefault(kind.name, {})

    def change(self, kind: Kind, pk: Any, change: Callable[[Document], None]) -> None:
        document = self.of(kind)[pk]
        change(document)
        document.update(kind.computed(document))
        if kind.versioned:
            document["_revision"] = document.get("_revision", 0) + 1

    def pointing(self, kind: Kind, key: str, owner: Any) -> list[Any]:
        """The ids of the documents that name an owner: alone, in a list, or through a link model."""
        if key in kind.through:
            seats = self.of(kind.through[key])
            return [pk for ends in seats if owner in ends for pk in ends - {owner}]
        links = {pk: document.get(key) for pk, document in self.of(kind).items()}
        many = key in kind.to_many
        return [pk for pk, link in links.items() if owner in ((link or ()) if many else [link])]

    def command(self, kind: Kind, key: str, owner: Any, commands: Sequence[Any]) -> None:
        """Carry out an owner's commands; each has a way, ids of documents, and values."""
        before = self.pointing(kind, key, owner)
        links, deleted = list(before), set[Any]()
        for way, pks, _ in commands:  # a contradiction is refused before anything is looked for
            if way in ("link", "set") and not deleted.isdisjoint(pks):
                raise Refused("ValidationError")
            deleted |= {*pks} if way == "delete" else set()
        for way, pks, values in commands:
            if way == "update":
                for pk in pks:
                    if pk not in self.of(kind):
                        raise Refused("NotFound")
                    self.change(kind, pk, lambda d, new=values: d.update(new))
                continue
            links = [pk for pk in links if pk not in pks and way != "set"]
            links += pks if way in ("link", "set") else ()
        if not self.of(kind).keys() >= {*links}:
            raise Refused("NotFound")
        for pk in {*links} ^ {*before}:
            if key in kind.through:
                seats, ends = self.of(kind.through[key]), frozenset({pk, owner})
                seats.pop(ends) if ends in seats else seats.update({ends: {}})
                continue
            new: Any = owner if pk in links else None
            if key in kind.to_many:
                kept = [each for each in self.of(kind)[pk].get(key) or () if each != owner]
                new = [*kept, owner] if pk in links else kept
            self.change(kind, pk, lambda d, new=new: d.update({key: new}))
        for pk in deleted.intersection(before):
            del self.of(kind)[pk]


class Record:
    """A record in memory; ``parent`` is the loaded record that it delegates to."""

    def __init__(self, store: Store, kind: Kind, values: Mapping[str, Any]) -> None:
        self.store, self.kind = store, kind
        self.memory: dict[str, Any] = {k: copy.deepcopy(v) for k, v in kind.defaults.items()}
        self.memory |= copy.deepcopy(dict(values))
        self.base: dict[str, Any] = {}
        self.assigned: set[str] = set()
        self.pk: Any = None
        self.parent: Record | None = None
        self.given: dict[str, Any] = {}  # what was written to a parent that is not loaded
        self.lost = False  # the parent was looked for, and is gone
        self.unread: set[str] = set()
        self.revision = 0
        self.is_stored = self.is_stale = False

    @classmethod
    def loaded(cls, store: Store, kind: Kind, pk: Any, only: Iterable[str] = ()) -> Record:
        (record := cls(store, kind, {})).load(pk)
        record.unread = kind.leave(record.memory, only)
        record.settle(kind.keys)
        return record

    def load(self, pk: Any, names: Iterable[str] | None = None) -> None:
        """Take the stored values; all of them, or some."""
        if pk not in self.store.of(self.kind):
            raise Refused("NotFound")
        document = self.store.of(self.kind)[pk]
        for name in self.kind.keys if names is None else names:
            self.memory.pop(name, None)
            self.memory |= self.kind.read(name, document)
            self.agree(name)
        self.unread -= {*(self.kind.keys if names is None else names)}
        if names is None or self.kind.link in names:
            self.parent, self.given = None, {}
        if names is None:
            self.pk, self.is_stored, self.is_stale = pk, True, False
            self.revision = document.get("_revision", 0)

    def agree(self, name: str) -> None:
        self.assigned.discard(name)
        self.base.pop(name, None)
        self.base |= {n: copy.deepcopy(stored(v)) for n, v in self.memory.items() if n == name}

    def pending(self) -> list[str]:
        now = {name: stored(self.memory.get(name, MISSING)) for name in self.kind.keys}
        return [n for n in now if n in self.assigned or now[n] != self.base.get(n, MISSING)]

    @property
    def is_changed(self) -> bool:
        return not self.is_stored or bool(self.pending())

    def assign(self, name: str, value: Any) -> None:
        self.memory[name] = copy.deepcopy(value)
        self.assigned.add(name)
        self.unread.discard(name)

    def save(self, copies: Sequence[Record] = ()) -> None:
        """Save the record, or several copies of it together."""
        if not self.is_stored:
            self.insert()
            return
        if self.parent and not self.parent.is_stored and self.kind.link in self.pending():
            raise Refused("ValidationError")
        changed = [each for each in copies or [self] if each.pending()]
        sources: dict[str, Record] = {}
        for each in changed:
            for name in each.pending():
                first = sources.setdefault(name, each)
                value = each.memory.get(name)
                if lacks_items(value) or stored(first.memory.get(name)) != stored(value):
                    raise Refused("ValidationError")
        if self.kind.versioned and len({each.revision for each in changed}) > 1:
            raise Refused("ConcurrencyError")
        if changed:
            document, revision = changed[0].may_write(), changed[0].revision
            paths = {k: v for n, each in sources.items() for k, v in each.paths(n, document)}
            self.store.change(self.kind, self.pk, lambda d: put(d, paths))
            for each in copies or [self]:
                if each.revision == revision:  # always where the model has no versions
                    for name in sources.keys() - each.pending():
                        each.memory[name] = copy.deepcopy(sources[name].memory.get(name))
                        each.unread.discard(name)
                    each.settle(sources)

    def paths(self, name: str, document: Document) -> list[tuple[tuple[str, ...], Any]]:
        """What is written: a changed field of an embedded object that was loaded, or the whole."""
        key, before, value = self.kind.keys[name], self.base.get(name), self.memory.get(name)
        inside = name in self.kind.embedded and name not in self.assigned
        if not (inside and isinstance(value := stored(value), dict) and isinstance(before, dict)):
            return [((key,), stored(value))]
        if not isinstance(document.get(key), dict):
            raise Refused("ConcurrencyError")
        return [((key, k), v) for k, v in value.items() if k not in before or v != before[k]]

    def insert(self) -> None:
        if self.parent and not self.parent.is_stored:
            self.parent.insert()
        values = {self.kind.keys[name]: stored(value) for name, value in self.memory.items()}
        document = copy.deepcopy({"_id": self.pk, **values, **self.kind.constants})
        document |= self.kind.computed(document)
        if self.kind.versioned:
            document["_revision"] = 0
        if self.pk in self.store.of(self.kind):
            raise Refused("DuplicateKey")
        self.store.of(self.kind)[self.pk] = document
        self.is_stored, self.revision = True, 0
        self.settle(self.kind.keys)

    def settle(self, names: Iterable[str]) -> None:
        for name in names:
            self.agree(name)
        self.revision = self.store.of(self.kind)[self.pk].get("_revision", 0)

    def may_write(self) -> Document:
        if not self.is_stored:
            raise Refused("ValidationError")
        if self.is_stale:
            raise Refused("TransactionError")
        document = self.store.of(self.kind).get(self.pk)
        if document is None:
            raise Refused("NotFound")
        if self.kind.versioned and document.get("_revision", 0) != self.revision:
            raise Refused("ConcurrencyError")
        return document

    def write(self, values: Mapping[str, Any]) -> None:
        """Write values of whole fields, its parent's to the parent; what else is pending stays."""
        own = {n: copy.deepcopy(v) for n, v in values.items() if n in self.kind.keys}
        above = {n: v for n, v in values.items() if n not in own}
        if above:
            assert self.kind.above is not None
            document = self.store.of(self.kind).get(self.pk, {})
            pk = self.memory.get(self.kind.link, document.get(self.kind.keys[self.kind.link]))
            parent = self.parent or Record.loaded(self.store, self.kind.above, pk)
            parent.may_write()
            if own:
                self.may_write()
            parent.write(above)
            self.given = {} if self.parent else {**self.given, **copy.deepcopy(above)}
        if own:
            self.may_write()
            new = {(self.kind.keys[name],): stored(value) for name, value in own.items()}
            self.store.change(self.kind, self.pk, lambda d: put(d, new))
            self.memory |= own
            self.unread -= own.keys()
            self.settle(own)

    def change(self, name: str, change: Callable[[Document, str], None]) -> None:
        """Let the server change one field, and read it again."""
        self.may_write()
        self.store.change(self.kind, self.pk, lambda d: change(d, self.kind.keys[name]))
        self.load(self.pk, [name])
        self.settle(())

    def delete(self) -> int:
        if self.is_stale or self.pk in self.store.of(self.kind):
            self.may_write()
        return int(self.store.of(self.kind).pop(self.pk, None) is not None)

    def twin(self) -> Record:
        """What pickle gives: the same record, in other objects."""
        new = copy.copy(self)
        new.memory, new.base = copy.deepcopy(self.memory), copy.deepcopy(self.base)
        new.assigned, new.unread = set(self.assigned), set(self.unread)
        new.parent, new.given = None, {}
        return new

    def remember(self) -> Callable[[], None]:
        """Return a function that puts everything back, in new objects."""
        before, above = self.twin(), {"parent": self.parent, "given": self.given}
        return lambda: self.__dict__.update(before.twin().__dict__, **above, pk=self.pk)
