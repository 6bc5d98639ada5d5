"""Changes of a to-many field: Odoo's commands, as typed values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["create", "link", "unlink", "delete", "update", "set"]


@dataclass(frozen=True, slots=True)
class Command:
    """One change of a to-many field; a list of them is a value of ``create`` and ``write``.

    Make them with the methods below. They are carried out in the order of the list.

    Attributes:
        kind: The kind of change.
        records: The records (or their ids) to change.
        values: The values of the record to create or update; for ``link`` those of the link.
    """

    kind: Kind
    records: tuple[Any, ...] = ()
    values: Any = None

    @staticmethod
    def create(values: Mapping[str, Any]) -> Command:
        """Create a record of the other model with these values, and link it."""
        return Command("create", (), values)

    @staticmethod
    def link(record: object, values: Mapping[str, Any] | None = None) -> Command:
        """Link a record that exists.

        Args:
            record: The record, or its id.
            values: Values of the link's own fields, if the field has a link model (``through``).
        """
        return Command("link", (record,), values)

    @staticmethod
    def unlink(record: object) -> Command:
        """Remove the link; the record stays.

        A One2many deletes the record if it cannot be without its owner (``required`` or
        ``on_delete="cascade"``).
        """
        return Command("unlink", (record,))

    @staticmethod
    def delete(record: object) -> Command:
        """Delete a linked record from the database."""
        return Command("delete", (record,))

    @staticmethod
    def update(record: object, values: Mapping[str, Any]) -> Command:
        """Write values to a linked record."""
        return Command("update", (record,), values)

    @staticmethod
    def set(records: Iterable[object]) -> Command:
        """Link exactly these records (or ids), in this order; remove every other link."""
        members = getattr(records, "_members", None)  # a RecordSet may be a part of a relation
        return Command("set", tuple(records if members is None else members()))

    @staticmethod
    def clear() -> Command:
        """Remove every link."""
        return Command("set", ())

    def __repr__(self) -> str:
        # The values are left out, because a repr may be logged and they may be secret.
        about = f" {len(self.records)}" if self.records else ""
        return f"<Command {self.kind}{about}>"
