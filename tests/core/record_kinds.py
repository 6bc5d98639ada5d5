"""The models of the machine in plain Python: their fields, keys and defaults, and embedded values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Document = dict[str, Any]


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
    """A model: its stored fields with their keys, defaults, and the readers of embedded values.

    ``above`` is the model that it delegates to, through its field ``link``.
    """

    name: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    embedded: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    constants: Mapping[str, Any] = field(default_factory=dict)
    versioned: bool = False
    to_many: frozenset[str] = frozenset({"label_ids"})
    link: str = ""
    above: Kind | None = None
    computed: Callable[[Document], Document] = lambda document: {}

    @property
    def collection(self) -> str:
        return self.name.replace(".", "_")

    def read(self, name: str, value: Any) -> Any:
        if name in self.embedded:
            return None if value is None else Part.read(value)
        if name in self.lists:
            return None if value is None else [Part.read(item) for item in value]
        return copy.deepcopy(value)


def size(document: Mapping[str, Any]) -> dict[str, Any]:
    parts = document.get("parts") or ()
    return {"size": (document.get("number") or 0) + sum(part.get("qty") or 0 for part in parts)}


def keys(text: str) -> dict[str, str]:
    return {name: key or name for name, _, key in (each.partition("=") for each in text.split())}


TASK = Kind(
    "machine.task",
    keys("title=t number nums meta main parts owner_id label_ids full active"),
    {"number": 0, "parts": [], "full": "- -", "active": True},
    embedded=frozenset({"main"}),
    lists=frozenset({"parts"}),
    constants={"kind": "machine.task"},
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
