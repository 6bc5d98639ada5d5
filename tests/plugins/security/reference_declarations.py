"""What a generated world declares, as plain data: models, rules, rights, and who acts. The reference reads it; the machine
makes models of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias

Row: TypeAlias = dict[str, Any]
Domain: TypeAlias = Any
"""True, False, ("!", d), ("&", d, d), ("|", d, d), or (path, operator, value), where a Variable may be the value."""


class Brief:
    """Shows what is not the default, so that a failing case can be read."""

    def __repr__(self) -> str:
        own = [(one.name, getattr(self, one.name)) for one in fields(self)]
        shown = [
            f"{name}={value!r}" for name, value in own if value not in NOTHING or value is True
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


NOTHING: Final[tuple[Any, ...]] = ("", None, False, 0, (), {}, [])


@dataclass(frozen=True, repr=False)
class Variable(Brief):
    """A value of the principal (``user``) or of the context."""

    of: str
    name: str


@dataclass(frozen=True, repr=False)
class Field(Brief):
    """A field; ``lines`` are the others' ``one`` backwards, ``back`` the others' ``many``."""

    kind: str  # int, text, one, many, lines, back, sum, related
    to: str = ""
    by: str = ""
    paths: tuple[str, ...] = ()
    is_stored: bool = True
    exists: bool = False
    on_delete: str | None = None


@dataclass(frozen=True, repr=False)
class Grant(Brief):
    """A row of rights; aggregate and export follow read where they are None."""

    role: str
    rights: dict[str, bool | None]


@dataclass(frozen=True, repr=False)
class Rule(Brief):
    """A record rule; ``form`` is how the model declares it: domain, function or pure."""

    domain: Domain
    roles: tuple[str, ...] = ()
    operations: tuple[str, ...] = ("read", "write", "create", "unlink")
    restrict: bool | None = None
    form: str = "domain"
    strict: bool = False


@dataclass(frozen=True, repr=False)
class FieldRight(Brief):
    """The roles that a right on a field needs; one that is not there is as read."""

    name: str
    roles: dict[str, tuple[str, ...]]
    mask: int = 0


@dataclass(frozen=True, repr=False)
class Model(Brief):
    """A model's declarations."""

    fields: dict[str, Field]
    access: list[Grant] | None = None
    rules: list[Rule] = field(default_factory=list)
    rights: list[FieldRight] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class Who(Brief):
    """Who acts; without an id nobody does."""

    id: str | None = None
    roles: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    is_system: bool = False


@dataclass(frozen=True)
class Plus:
    """A change that the server makes: ``Inc``."""

    amount: int


@dataclass(frozen=True, repr=False)
class Step(Brief):
    """A change of one record: create, write or unlink, with the values that are handed in."""

    operation: str
    model: str
    id: str
    values: Row = field(default_factory=dict)
    by_command: bool = False


@dataclass(frozen=True, repr=False)
class Call(Brief):
    """A public call; each kind uses some of this, and ``how`` chooses one of the ways that mean the same."""

    kind: str  # read, count, export, aggregate, follow, update, delete, upsert, change
    how: str
    model: str
    domain: Domain = True
    order: str = ""
    limit: int | None = None
    offset: int = 0
    names: tuple[str, ...] = ()
    id: str = ""
    values: Row = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    commands: tuple[tuple[str, str, Row], ...] = ()


class Refused(Exception):
    """The call fails with one of these errors; the pages say of none that it comes first.

    A second argument is the world after it, where others of a batch were written.
    """
