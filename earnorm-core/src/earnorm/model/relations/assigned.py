"""The records that a to-many field holds after an assignment, before it is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earnorm.fields.command import Command
from earnorm.fields.relational import is_record


def assigned_members(
    value: Sequence[Any], field: Any, before: Sequence[Any] | None
) -> list[Any] | None:
    """Return the records and ids that a field holds after an assignment, before it is saved.

    Args:
        value: The assigned records, ids and commands.
        field: The to-many field.
        before: The records and ids that it held before, as far as memory knows them; None where it
            doesn't.

    Returns:
        None where they are not known: a record is still to be created, or links are added to those
        that are stored.
    """
    members: dict[Any, Any] = {_key(member, field): member for member in before or ()}
    is_known = before is not None
    given: dict[Any, Any] = {}
    names_all = False
    for item in value:
        if isinstance(item, Mapping):
            return None
        if not isinstance(item, Command):
            key = _key(item, field)
            given[key] = item if is_record(item) else field.operand(item)
            if (
                is_record(item) and not item.is_stored
            ):  # like a command, it is created beside others
                members[key] = item
            else:
                names_all = True
        elif item.kind == "create":
            if not is_record(item.values):
                return None
            members[_key(item.values, field)] = item.values
        elif item.kind in ("link", "set"):
            if item.kind == "set":
                members, is_known = {}, True
            for record in item.records:
                key = _key(record, field)
                if not is_record(members.get(key)):
                    members[key] = record if is_record(record) else field.operand(record)
        elif item.kind in ("unlink", "delete"):
            for record in item.records:
                members.pop(_key(record, field), None)
    if names_all:  # a list of records and ids has no commands beside them
        return list(given.values())
    # New records alone are shown without others that are not loaded; the save adds them to these.
    is_known = is_known or all(map(is_record, value))
    return list(members.values()) if is_known else None


def _key(member: Any, field: Any) -> Any:
    """Return the id of a stored record; a record that is not stored is itself only."""
    if is_record(member) and not member.is_stored:
        return id(member)
    return field.operand(member)
