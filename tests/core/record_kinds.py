"""The models of the machine in plain Python: their fields, keys and defaults, and embedded values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Document = dict[str, Any]
MISSING: Any = object()


@dataclass
class Part:
    """An embedded object: its values by field, and the stored keys that it does not declare.

    ``lacks`` has the fields that were not fetched.
    """

    values: dict[str, Any]
    undeclared: dict[str, Any] = field(default_factory=dict)
    lacks: set[str] = field(default_factory=set)

    KEYS: ClassVar[Mapping[str, str]] = {"sku": "s", "qty": "qty"}

    def stored(self) -> Document:
        return {**{self.KEYS[k]: v for k, v in self.values.items()}, **self.undeclared}

    @classmethod
    def read(cls, document: Document) -> Part:
        names = {key: name for name, key in cls.KEYS.items()}
        values = {names[k]: v for k, v in document.items() if k in names}
        return cls(values, {k: copy.deepcopy(v) for k, v in document.items() if k not in names})

    def leave(self, names: Collection[str]) -> None:
        """Leave what a search of these fields fetches."""
        self.values = {name: value for name, value in self.values.items() if name in names}
        self.undeclared, self.lacks = {}, {*self.KEYS} - {*names}


def stored(value: Any) -> Any:
    """The stored form of a value in memory."""
    if isinstance(value, Part):
        return value.stored()
    if isinstance(value, list):
        return [stored(item) for item in value]
    return {k: stored(v) for k, v in value.items()} if isinstance(value, dict) else value


def parts_in(value: Any) -> list[Part]:
    values: list[Any] = value if isinstance(value, list) else [value]
    return [part for part in values if isinstance(part, Part)]


def lacks_items(value: Any) -> bool:
    return isinstance(value, list) and lacking(value)


def lacking(value: Any) -> bool:
    """Return whether something of the objects in a value was not fetched."""
    return any(part.lacks for part in parts_in(value))


def put(document: Document, paths: Mapping[tuple[str, ...], Any]) -> None:
    for (first, *rest), value in paths.items():
        place = document[first] if rest else document
        place[rest[0] if rest else first] = copy.deepcopy(value)


@dataclass(frozen=True)
class Kind:
    """A model: its stored fields with their keys, defaults, and the readers of embedded values.

    ``above`` is the model that it delegates to, by its field ``link``; ``through`` has the link models
    of its fields, whose documents are known by the two ids that they join.
    """

    name: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    embedded: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    constants: Mapping[str, Any] = field(default_factory=dict)
    versioned: bool = False
    to_many: frozenset[str] = frozenset({"label_ids"})
    through: Mapping[str, Kind] = field(default_factory=dict)
    link: str = ""
    above: Kind | None = None
    computed: Callable[[Document], Document] = lambda document: {}

    @property
    def collection(self) -> str:
        return self.name.replace(".", "_")

    def read(self, name: str, document: Document) -> dict[str, Any]:
        """Return the value of a field in a document, by its name; nothing where it has none."""
        if self.keys[name] not in document:
            return {n: copy.deepcopy(v) for n, v in self.defaults.items() if n == name}
        value = copy.deepcopy(document[self.keys[name]])
        if value is not None and name in self.embedded:
            value = Part.read(value)
        elif value is not None and name in self.lists:
            value = [Part.read(item) for item in value]
        return {name: value}

    def leave(self, memory: dict[str, Any], only: Collection[str]) -> set[str]:
        """Leave what a search of these names and paths fetches; return the names of the others."""
        heads = {path.partition(".")[0] for path in only}
        for name in heads - {*only}:
            inside = {path.partition(".")[2] for path in only if path.startswith(f"{name}.")}
            for part in parts_in(memory.get(name)):
                part.leave(inside)
        others = {*self.keys} - heads if only else set[str]()
        for name in others:
            memory.pop(name, None)
        return others


def size(document: Mapping[str, Any]) -> dict[str, Any]:
    parts = document.get("parts") or ()
    return {"size": (document.get("number") or 0) + sum(part.get("qty") or 0 for part in parts)}


def keys(text: str) -> dict[str, str]:
    return {name: key or name for name, _, key in (each.partition("=") for each in text.split())}


SEAT = Kind("machine.seat", {})
LABEL = Kind("machine.label", keys("name"), through={"seat_ids": SEAT})
TASK = Kind(
    "machine.task",
    keys("title=t number nums meta main parts owner_id label_ids full active"),
    {"number": 0, "parts": [], "full": "- -", "active": True},
    embedded=frozenset({"main"}),
    lists=frozenset({"parts"}),
    constants={"kind": "machine.task"},
    through={"seat_ids": SEAT},
    computed=size,
)
BUG = Kind(
    TASK.name,
    {**TASK.keys, "severity": "severity"},
    TASK.defaults,
    TASK.embedded,
    TASK.lists,
    {"kind": "machine.bug"},
    computed=size,
    through=TASK.through,
)
NOTE = Kind(
    "machine.note",
    keys("text=x nums main parts label_ids"),
    {"nums": []},
    embedded=frozenset({"main"}),
    lists=frozenset({"parts"}),
    versioned=True,
)
PERSON = Kind("machine.person", keys("name=n nicks level"), {"level": 0}, versioned=True)
MEMBER = Kind(
    "machine.member",
    keys("person_id=p code label_ids"),
    {"code": 0},
    link="person_id",
    above=PERSON,
)
KINDS = (TASK, NOTE, PERSON, MEMBER)
