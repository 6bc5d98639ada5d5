"""Joins the changes of several copies of one record into one update, and makes all copies know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConcurrencyError, ErrorDetail, ValidationError
from earnorm.kernel.value_steps import ValueRow
from earnorm.model.writing.partly import id_texts
from earnorm.model.writing.pending import same
from earnorm.model.writing.restoring import duplicate
from earnorm.model.writing.snapshots import Snapshot, forget_taken, settle_sent

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


class Copies:
    """The records of a set beside those whose rows are written: snapshots of them, by stored id."""

    __slots__ = ("_by_pk",)

    def __init__(self, by_pk: Mapping[Any, Sequence[Snapshot]]) -> None:
        self._by_pk = by_pk

    @property
    def records(self) -> list[Any]:
        """All copies."""
        return [held.structure for copies in self._by_pk.values() for held in copies]

    def of(self, row: ValueRow) -> Sequence[Snapshot]:
        """Return the copies of a row's record."""
        return self._by_pk.get(row.record.pk, ())

    def refuse_older(self, bound: BoundModel, rows: Iterable[ValueRow]) -> None:
        """Refuse changes of copies that were read before and after another write.

        A copy without changes that was read before another write is left as it is: its next save
        has to be refused.

        Raises:
            ConcurrencyError: Copies with changes differ in a value that the record must still have.
        """
        refused: list[Any] = []
        for row in rows:
            older = [held for held in self.of(row) if not _is_of_same_age(bound, held, row)]
            refused += [row.record for held in older if held.held]
            left = set(map(id, (held.structure for held in older)))
            row.copies = [copy for copy in row.copies if id(copy) not in left]
        if refused:
            error = ConcurrencyError(
                f"{bound.model._name}: copies of one record with changes were read before and after "
                f"another write; nothing was written; refresh() them and try again"
            )
            error.ids = id_texts(bound, dict.fromkeys(record.pk for record in refused))
            raise error

    def learn(self, bound: BoundModel, row: ValueRow) -> None:
        """Give the copies of a row's record what was written."""
        fields = bound.schema.fields
        for held in self.of(row):
            copy: Any = held.structure
            if not any(copy is learning for learning in row.copies):
                continue
            values = {
                name: value
                if name in held.held or not fields[name].mutable
                # One list in two records would change in both.
                else fields[name].freeze(fields[name].encode(value))
                for name, value in row.values.items()
                if name in held.held or not copy._fetch.is_ghost
            }
            forget_taken(held, row.values)
            settle_sent(held, values)


def joined(
    bound: BoundModel, rows: list[ValueRow], records: Sequence[BaseModel]
) -> tuple[list[ValueRow], Copies]:
    """Join the rows of copies of one record.

    Args:
        bound: Their model.
        rows: The changes of the records that have any.
        records: All records of the set.

    Returns:
        One row for each record, and the other copies.

    Raises:
        ValidationError: Two copies have different values for one field.
    """
    for row in rows:  # the values of several records come together in one row
        row.known = dict(row.known)
    first_rows: dict[Any, ValueRow] = {}
    held_by_record = {id(row.record): row.held for row in rows}
    problems: list[ErrorDetail] = []
    for row in rows:
        first = first_rows.setdefault(row.record.pk, row)
        if first is row:
            continue
        first.problems = [*first.problems, *row.problems]
        for name, value in row.values.items():
            if name not in first.values:
                first.values[name] = own = duplicate(value)
                if name in row.known:
                    first.known = {**first.known, name: own}
            elif not _are_equal(
                bound,
                name,
                first.values[name],
                value,
                are_valid=name in first.known and name in row.known,
            ):
                message = "two copies of the record have different values; assign it in one of them"
                problems.append({"loc": (*row.loc, name), "msg": message, "type": "conflict"})
    if problems:
        raise ValidationError(bound.model._name, problems)
    copies: dict[Any, list[Snapshot]] = {}
    for record in records:
        first_row = first_rows.get(record.pk)
        if first_row is not None and first_row.record is not record:
            held = held_by_record.get(id(record)) or Snapshot(record, ())
            copies.setdefault(record.pk, []).append(held)
            if held.held or not record._fetch.is_ghost:
                first_row.copies = [*first_row.copies, record]
    return list(first_rows.values()), Copies(copies)


def _are_equal(bound: BoundModel, name: str, one: Any, other: Any, *, are_valid: bool) -> bool:
    """Return whether two values of a field are stored alike."""
    if one is other:
        return True
    schema = bound.schema
    values = (one, other)
    try:
        if not are_valid:
            values = (
                schema.validate_partial({name: one})[name],
                schema.validate_partial({name: other})[name],
            )
        stored = [schema.encode({name: value}) for value in values]
    except ValidationError:
        return False
    return same(*stored)


def _is_of_same_age(bound: BoundModel, held: Snapshot, row: ValueRow) -> bool:
    """Return whether a copy has the values that the row expects the stored record to have."""
    fields, state = bound.schema.fields, held.structure.__dict__
    for name, value in row.expected.items():
        if name not in row.values and fields[name].encode(state.get(name)) != value:
            return False
    return True
