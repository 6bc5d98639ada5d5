"""What is to be done to a to-many field: Odoo's commands, as typed values."""

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
        kind: What to do.
        records: The records (or their ids) that it is about.
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
            values: Values of the link's own fields, where the field has a link model (``through``).
        """
        return Command("link", (record,), values)

    @staticmethod
    def unlink(record: object) -> Command:
        """Take the link away; the record stays, but for a One2many whose records cannot be without
        their owner (``required`` or ``on_delete="cascade"``): it is deleted."""
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
        """Exactly these records (or ids), in this order; every other link is taken away."""
        return Command("set", tuple(records))

    @staticmethod
    def clear() -> Command:
        """Take every link away."""
        return Command("set", ())

    def __repr__(self) -> str:
        # No values: they may be what must not reach a log.
        about = f" {len(self.records)}" if self.records else ""
        return f"<Command {self.kind}{about}>"
