"""The links that a list of commands leaves: what it adds, removes and deletes, all in all.

A command undoes an earlier one of the same list: what is unlinked and linked again was never away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from earnorm.fields.command import Command

LinkValues = Mapping[str, Any]
"""The values of a link's own fields, where a link model has some."""


@dataclass(eq=False)
class LinkChange:
    """The change of commands to the links of a record: new links, or links to add and to remove.

    Attributes:
        whole: All links afterwards, by id; None where the others stay.
        added: The links to add, by id.
        removed: The ids to remove; those to delete are among them.
        deleted: The ids of the records to delete.
        created: The positions of the commands that create a linked record, where their ids are not
            known.
        contradicted: The positions of the commands that link what an earlier one deletes.
    """

    whole: dict[Any, LinkValues] | None = None
    added: dict[Any, LinkValues] = field(default_factory=dict[Any, LinkValues])
    removed: dict[Any, None] = field(default_factory=dict[Any, None])
    deleted: dict[Any, None] = field(default_factory=dict[Any, None])
    created: list[int] = field(default_factory=list[int])
    contradicted: list[int] = field(default_factory=list[int])

    @classmethod
    def of(cls, commands: Sequence[Command], made: Mapping[int, Any]) -> LinkChange:
        """Return the change of some commands, in their order.

        Args:
            commands: The commands.
            made: The ids of the records that they create, by the command's position.
        """
        change = cls()
        for index, command in enumerate(commands):
            links = command.records if command.kind in ("link", "set") else ()
            if not change.deleted.keys().isdisjoint(links):
                change.contradicted.append(index)
            if command.kind == "set":
                change.whole = {pk: {} for pk in command.records}
                change.added, change.removed, change.created = {}, {}, []
            elif command.kind == "create":
                if index in made:
                    change._add(made[index], {})
                else:
                    change.created.append(index)
            elif command.kind == "link":
                for pk in command.records:
                    change._add(pk, command.values or {})
            elif command.kind in ("unlink", "delete"):
                for pk in command.records:
                    change._remove(pk)
                if command.kind == "delete":
                    change.deleted |= dict.fromkeys(command.records)
        return change

    @property
    def links(self) -> dict[Any, LinkValues]:
        """The links that are to exist afterwards, as far as the commands name them."""
        return self.added if self.whole is None else self.whole

    def _add(self, pk: Any, values: LinkValues) -> None:
        self.links[pk] = values
        self.removed.pop(pk, None)

    def _remove(self, pk: Any) -> None:
        self.links.pop(pk, None)
        if self.whole is None:
            self.removed[pk] = None
