"""Rows of related records in plain Python: what relations lead to, computed values, and what a change does to the rows.

Nothing here is about who acts: that is reference.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from tests.plugins.security.reference_declarations import (
    Call,
    Domain,
    Model,
    Plus,
    Row,
    Step,
    Variable,
    Who,
)


class Data:
    """The models, the roles that each role implies, and the rows by model and id."""

    def __init__(
        self,
        models: dict[str, Model],
        implied: dict[str, list[str]],
        rows: dict[str, dict[str, Row]],
    ) -> None:
        self.models, self.implied, self.rows = models, implied, rows
        self.recompute()

    def others(self, model: str, row: Row, name: str) -> list[Row]:
        """Return the records that a relation leads to, whoever asks."""
        one = self.models[model].fields[name]
        there = self.rows[one.to]
        if one.kind in ("lines", "back"):
            return [o for o in there.values() if compares(o[one.by], "=", row["id"])]
        return [there[pk] for pk in listed(row[name]) if pk in there]

    def reach(self, model: str, row: Row, path: str) -> list[Any]:
        """Return the values at the end of a path."""
        name, _, rest = path.partition(".")
        if not rest:
            return [] if row[name] is None else [row[name]]
        to = self.models[model].fields[name].to
        return [v for o in self.others(model, row, name) for v in self.reach(to, o, rest)]

    def recompute(self) -> None:
        """Give each computed field its value."""
        for name, model in self.models.items():
            for row in self.rows[name].values():
                for key, one in model.fields.items():
                    values = [v for path in one.paths for v in self.reach(name, row, path)]
                    if one.paths:
                        row[key] = sum(values) if one.kind == "sum" else (values or [None])[0]

    def apply(self, step: Step) -> None:
        """Change the rows, and those that follow by ``on_delete``."""
        fields, rows = self.models[step.model].fields, self.rows[step.model]
        if step.operation == "create":
            names = [name for name, one in fields.items() if one.kind not in ("lines", "back")]
            empty = {name: [] if fields[name].kind == "many" else None for name in names}
            rows[step.id] = {"id": step.id, **empty}
        if step.operation != "unlink":
            row = rows.get(step.id, {})
            for name, value in step.values.items():
                is_sum = isinstance(value, Plus)
                row[name] = (row.get(name) or 0) + value.amount if is_sum else copy.copy(value)
            return
        rows.pop(step.id, None)
        for name, model in self.models.items():
            for key, one in model.fields.items():
                if one.on_delete and one.to == step.model:
                    operation = "unlink" if one.on_delete == "cascade" else "write"
                    for row in [row for row in self.rows[name].values() if row[key] == step.id]:
                        self.apply(Step(operation, name, row["id"], {key: None}))

    def has_duplicates(self, model: str) -> bool:
        """Return whether two rows have the same key."""
        keys = [row["key"] for row in self.rows[model].values() if row["key"] is not None]
        return len(keys) > len({*keys})

    def commands(self, call: Call) -> Iterator[tuple[Step, bool, tuple[str, str] | None]]:
        """Yield the changes that commands in a relation ask for.

        Each comes with whether it finds what it is about, and the link of which it asks whether it leads here.
        """
        if not call.commands:
            return
        [name] = call.names
        one = self.models[call.model].fields[name]
        ids = listed(self.rows[call.model].get(call.id, {}).get(name))
        for command, other, values in call.commands:
            if one.kind == "many":
                if command == "create":
                    yield Step("create", one.to, other, values), True, None
                ids = (
                    []
                    if command == "set"
                    else [pk for pk in ids if pk != other or command != "unlink"]
                )
                ids += [other] if command != "unlink" and other not in ids else []
                asked = None if command == "set" else (call.model, name)
                yield Step("write", call.model, call.id, {name: ids}, by_command=True), True, asked
            elif command in ("create", "link"):
                operation = "create" if command == "create" else "write"
                yield Step(operation, one.to, other, {**values, one.by: call.id}), True, None
            elif command == "update":
                yield Step("write", one.to, other, values), True, None
            else:
                is_mine = self.rows[one.to].get(other, {}).get(one.by) == call.id
                cascades = self.models[one.to].fields[one.by].on_delete == "cascade"
                operation = "unlink" if cascades or command == "delete" else "write"
                emptied = {one.by: None} if operation == "write" else {}
                yield Step(operation, one.to, other, emptied), is_mine, (one.to, one.by)


def bound(who: Who, domain: Domain) -> Domain:
    """Return a rule's domain with values for its variables, or None where one is missing."""
    if isinstance(domain, Variable):
        values = {**who.attributes, "id": who.id} if domain.of == "user" else who.context
        return values.get(domain.name)
    if not isinstance(domain, tuple):
        return domain
    parts = [(part, bound(who, part)) for part in domain]
    lacks = any(new is None and old is not None for old, new in parts)
    return None if lacks else tuple(new for _, new in parts)


def masks_of(model: Model) -> dict[str, int]:
    """Return the lengths of the masks, by field."""
    return {right.name: right.mask for right in model.rights if right.mask}


def compares(stored: Any, operator: str, value: Any) -> bool:
    """Return whether a stored value fulfils a condition; a list does where one of its values does."""
    if operator in ("!=", "not in"):
        return not compares(stored, "=" if operator == "!=" else "in", value)
    if operator == "=" and value == []:
        return not stored
    if operator in ("=", "in"):
        has = stored if isinstance(stored, list) else [stored]
        return any(v in has for v in (value if operator == "in" else [value]))
    return stored is not None and bool(stored < value if operator == "<" else stored >= value)


def arranged(rows: list[Row], keys: list[Any], call: Call) -> list[Row]:
    """Return the rows that a call asks for, in the order of the keys, nothing first, then of the ids."""
    pairs = sorted(zip(keys, rows, strict=True), key=lambda pair: str(pair[1]["id"]))
    pairs.sort(key=lambda pair: (pair[0] is not None, pair[0]), reverse=call.order[:1] == "-")
    return [row for _, row in pairs][call.offset :][: call.limit]


def summed(rows: list[Row], keys: list[Any], name: str) -> dict[Any, int]:
    """Return the sum of a field for each key."""
    return {
        key: sum(row[name] or 0 for other, row in zip(keys, rows, strict=True) if other == key)
        for key in keys
    }


def listed(value: Any) -> list[Any]:
    """Return the ids in a link or a list of links."""
    return [*value] if isinstance(value, list) else [] if value is None else [value]


def masked(text: str | None, length: int) -> str | None:
    """Return what a mask shows of a text: its last characters, where it has twice as many."""
    return text and "****" + (text[-length:] if len(text) >= 2 * length else "")
