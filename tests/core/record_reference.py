"""What a record is, in plain Python: its states, what is pending, links, and a store.

Nothing of the library is imported here. The machine in test_record_machine.py does the same steps to
records and to this reference, and holds memory and database of both equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Document = dict[str, Any]
MISSING: Any = object()


class Refused(Exception):
    """A step that the library must refuse; its text is the name of the library's error."""


@dataclass
class Part:
    """An embedded object: its values by field, and the stored keys that it does not declare."""

    values: dict[str, Any]
    undeclared: dict[str, Any] = field(default_factory=dict)

    KEYS: ClassVar[Mapping[str, str]] = {"sku": "s", "qty": "qty"}

    def stored(self) -> Document:
        return {**{self.KEYS[k]: v for k, v in self.values.items()}, **self.undeclared}

    @classmethod
    def read(cls, document: Document) -> Part:
        names = {key: name for name, key in cls.KEYS.items()}
        values = {names[k]: v for k, v in document.items() if k in names}
        return cls(values, {k: copy.deepcopy(v) for k, v in document.items() if k not in names})


def stored(value: Any) -> Any:
    """The stored form of a value in memory."""
    if isinstance(value, Part):
        return value.stored()
    if isinstance(value, list):
        return [stored(item) for item in value]
    return {k: stored(v) for k, v in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True)
class Kind:
    """A model: its stored fields with their keys, defaults, and the readers of embedded values."""

    name: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    embedded: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    constants: Mapping[str, Any] = field(default_factory=dict)
    versioned: bool = False
    computed: Callable[[Document], Document] = lambda document: {}

    def read(self, name: str, value: Any) -> Any:
        if name in self.embedded:
            return None if value is None else Part.read(value)
        if name in self.lists:
            return None if value is None else [Part.read(item) for item in value]
        return copy.deepcopy(value)


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


class Record:
    """A record in memory."""

    def __init__(self, store: Store, kind: Kind, values: Mapping[str, Any]) -> None:
        self.store, self.kind = store, kind
        self.memory: dict[str, Any] = {k: copy.deepcopy(v) for k, v in kind.defaults.items()}
        self.memory |= copy.deepcopy(dict(values))
        self.base: dict[str, Any] = {}
        self.assigned: set[str] = set()
        self.pk: Any = None
        self.revision = 0
        self.is_stored = self.is_stale = False

    @classmethod
    def loaded(cls, store: Store, kind: Kind, pk: Any) -> Record:
        record = cls(store, kind, {})
        record.load(pk)
        return record

    def load(self, pk: Any, names: Sequence[str] | None = None) -> None:
        """Take the stored values; all of them, or some."""
        if pk not in self.store.of(self.kind):
            raise Refused("NotFound")
        document = self.store.of(self.kind)[pk]
        for name in self.kind.keys if names is None else names:
            self.memory.pop(name, None)
            key = self.kind.keys[name]
            if key in document:
                self.memory[name] = self.kind.read(name, document[key])
            elif name in self.kind.defaults:
                self.memory[name] = copy.deepcopy(self.kind.defaults[name])
            self.agree(name)
        self.pk, self.is_stored = pk, True
        self.revision = document.get("_revision", 0)
        if names is None:
            self.is_stale = False

    # -- what is pending ---------------------------------------------------------------------------

    def agree(self, name: str) -> None:
        self.assigned.discard(name)
        self.base.pop(name, None)
        if name in self.memory:
            self.base[name] = copy.deepcopy(stored(self.memory[name]))

    def pending(self) -> list[str]:
        def differs(name: str) -> bool:
            return stored(self.memory.get(name, MISSING)) != self.base.get(name, MISSING)

        return [n for n in self.kind.keys if n in self.assigned or differs(n)]

    @property
    def is_changed(self) -> bool:
        return not self.is_stored or bool(self.pending())

    def assign(self, name: str, value: Any) -> None:
        if self.memory.get(name) is not value or not isinstance(value, list | dict | Part):
            self.memory[name] = copy.deepcopy(value)
        self.assigned.add(name)

    # -- writing -----------------------------------------------------------------------------------

    def save(self) -> None:
        if not self.is_stored:
            self.insert()
            return
        names = self.pending()
        if not names:
            return
        document = self.may_write()
        # A changed field of an embedded object is written by its path, where an object was loaded.
        paths: dict[tuple[str, ...], Any] = {}
        for name in names:
            value, before = stored(self.memory.get(name)), self.base.get(name)
            inside = name in self.kind.embedded and name not in self.assigned
            if inside and isinstance(value, dict) and isinstance(before, dict):
                if not isinstance(document.get(self.kind.keys[name]), dict):
                    raise Refused("ConcurrencyError")
                for key in value:
                    if key not in before or value[key] != before[key]:
                        paths[self.kind.keys[name], key] = value[key]
            else:
                paths[self.kind.keys[name],] = value

        def change(document: Document) -> None:
            for (first, *rest), value in paths.items():
                place = document[first] if rest else document
                place[rest[0] if rest else first] = copy.deepcopy(value)

        self.store.change(self.kind, self.pk, change)
        self.settle(names)

    def insert(self) -> None:
        document = {self.kind.keys[name]: stored(value) for name, value in self.memory.items()}
        document = copy.deepcopy({"_id": self.pk, **document, **self.kind.constants})
        document |= self.kind.computed(document)
        if self.kind.versioned:
            document["_revision"] = 0
        if self.pk in self.store.of(self.kind):
            raise Refused("DuplicateKey")
        self.store.of(self.kind)[self.pk] = document
        self.is_stored, self.revision = True, 0
        self.settle(list(self.kind.keys))

    def settle(self, names: Sequence[str]) -> None:
        for name in names:
            self.agree(name)
        document = self.store.of(self.kind)[self.pk]
        self.revision = document.get("_revision", 0)

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
        """Write values of whole fields; what else is pending stays."""
        self.may_write()
        given = copy.deepcopy(dict(values))
        new = {self.kind.keys[name]: stored(value) for name, value in given.items()}
        self.store.change(self.kind, self.pk, lambda d: d.update(copy.deepcopy(new)))
        self.memory |= given
        self.settle(list(given))

    def change(self, name: str, change: Callable[[Document, str], None]) -> None:
        """Let the server change one field, and read it again."""
        self.may_write()
        self.store.change(self.kind, self.pk, lambda d: change(d, self.kind.keys[name]))
        self.load(self.pk, [name])

    def delete(self) -> int:
        if self.is_stale:
            raise Refused("TransactionError")
        document = self.store.of(self.kind).get(self.pk)
        if document is not None:
            self.may_write()
            del self.store.of(self.kind)[self.pk]
        return int(document is not None)

    def twin(self) -> Record:
        """What pickle gives: the same record, in other objects."""
        new = copy.copy(self)
        new.memory, new.base = copy.deepcopy(self.memory), copy.deepcopy(self.base)
        new.assigned = set(self.assigned)
        return new

    def remember(self) -> Callable[[], None]:
        """Return a function that puts everything back, in new objects."""
        before = self.twin()

        def restore() -> None:
            again = before.twin()
            for name in ("memory", "base", "assigned", "revision", "is_stored", "is_stale"):
                setattr(self, name, getattr(again, name))

        return restore
