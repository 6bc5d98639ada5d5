"""The models of stored roles: which role implies which, and who has which from when to when."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final
from uuid import UUID

import pydantic
from bson import ObjectId

from earnorm import DateTime, List, Principal, String, constrains, models

ROLE: Final = "security.role"
ASSIGNMENT: Final = "security.assignment"

NAME: Final = r"[^*\s]|[^*\s].*\S"
"""The pattern of a role's name: a text without white space around it, which is not ``*``."""


def id_of(principal: object) -> object:
    """Return the text of who is meant: a Principal, a record, or an id of any kind.

    It is the text that ``act_as()`` makes of the same object: that of an ObjectId is its 24 hexadecimal
    digits, that of a UUID has its four hyphens, that of a number its decimal digits. Anything else is
    returned as it is.
    """
    if isinstance(principal, Principal):
        return principal.id
    if isinstance(principal, models.BaseModel):
        principal = principal.pk
    if isinstance(principal, ObjectId | UUID | int) and not isinstance(principal, bool):
        return str(principal)
    return principal


class PrincipalId(String[Any]):
    """The id of a principal as text; takes a Principal, a record or an id of any kind (`id_of`)."""

    def annotation(self) -> Any:
        """Return the type of its values, which are made to texts first."""
        return Annotated[super().annotation(), pydantic.BeforeValidator(id_of)]

    def operand(self, value: Any) -> Any:
        """Return the text that a condition compares with."""
        return super().operand(id_of(value))


class StoredRole(models.BaseModel):
    """A role that implies other roles, stored; it counts together with the ``Role(...)`` of the settings."""

    _name = ROLE
    _collection = "security_roles"
    _bookkeeping = "security"
    _audit = True
    _read_preference = "primary"
    _cache = False

    name = String(required=True, unique=True, pattern=NAME, help="The name of the role")
    implies = List(
        String(pattern=NAME),
        help="The names of roles that who has it has as well, and what they imply",
    )
    note = String(help="What the role is for; for people")


class RoleAssignment(models.BaseModel):
    """A role that a principal has, from a time on and up to another one."""

    _name = ASSIGNMENT
    _collection = "security_assignments"
    _bookkeeping = "security"
    _audit = True
    _read_preference = "primary"
    _cache = False
    _indexes = [{"principal": 1}]

    principal = PrincipalId(required=True, min_length=1, help="The id of who has the role, as text")
    role = String(required=True, pattern=NAME, help="The name of a role, stored or not")
    valid_from = DateTime(help="The first moment at which it counts; unset for always")
    valid_to = DateTime(
        help="The first moment at which it does not count any more; unset for never"
    )
    note = String(help="Why; for people")

    @constrains("valid_from", "valid_to")
    def has_a_time(self) -> None:
        """Refuse a time that ends before it begins."""
        if self.valid_from and self.valid_to and self.valid_from >= self.valid_to:
            raise ValueError("valid_to is later than valid_from")


class Assigned:
    """The stored roles of one principal, at any time.

    Args:
        rows: Its assignments, in stored form.
        number: The number of the edits of assignments that was read before them.
        as_of: When they were asked for, by the monotonic clock.
        seen: How many edits this App had committed then.
    """

    __slots__ = ("_from", "_roles", "_rows", "_until", "as_of", "number", "seen")

    def __init__(
        self, rows: Iterable[dict[str, Any]], number: object, as_of: float, seen: int
    ) -> None:
        self._rows: Sequence[tuple[str, Any, Any]] = [
            (str(row.get("role")), row.get("valid_from"), row.get("valid_to")) for row in rows
        ]
        self.number, self.as_of, self.seen = number, as_of, seen
        self._from = self._until = datetime.datetime.min
        self._roles: frozenset[str] = frozenset()

    def at(self, moment: datetime.datetime) -> frozenset[str]:
        """Return the roles that it has at a moment, which is in UTC without a zone."""
        if not self._from <= moment < self._until:
            edges = [
                edge
                for _, *edges in self._rows
                for edge in edges
                if isinstance(edge, datetime.datetime)
            ]
            self._from = max((e for e in edges if e <= moment), default=datetime.datetime.min)
            self._until = min((e for e in edges if e > moment), default=datetime.datetime.max)
            self._roles = frozenset(
                role for role, begin, end in self._rows if _holds(begin, end, moment)
            )
        return self._roles


def _holds(begin: object, end: object, moment: datetime.datetime) -> bool:
    """Return whether a moment is between two times; a value that is no time holds nothing."""
    if begin is not None and not (isinstance(begin, datetime.datetime) and begin <= moment):
        return False
    return end is None or (isinstance(end, datetime.datetime) and moment < end)
