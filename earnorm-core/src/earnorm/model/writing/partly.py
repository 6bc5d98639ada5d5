"""Finds out which records were written by a write that the database carried out in part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain
from earnorm.domain.paths import is_position
from earnorm.exceptions import (
    ConcurrencyError,
    DuplicateKey,
    EarnORMError,
    NotFound,
)
from earnorm.fields.base import MISSING
from earnorm.fields.record_ids import id_text
from earnorm.kernel.operations import WHOLE, Operation, PerRecord, Update, made_by
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.steps import HAND_BACK, UNKNOWN, HandBack
from earnorm.kernel.value_steps import NOTHING
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.writing.pending import same

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


def has_conditions(op: Operation) -> bool:
    """Return whether the records of a write must fulfil more than its domain."""
    back, values = op.notes.get(HAND_BACK), op.values
    updates = values.values() if isinstance(values, PerRecord) else (values,)
    return (back is not None and back.is_narrowed) or any(
        isinstance(update, Update)
        and (bool(update.expect or update.items) or update.where is not Domain.TRUE)
        for update in updates
    )


async def find_written(
    error: ConcurrencyError | NotFound | DuplicateKey,
    bound: BoundModel,
    op: Operation,
    sent: Sequence[tuple[BaseModel, Update]],
    unknown: Collection[str] = (),
    others: Mapping[Any, Update] = NOTHING,
) -> Collection[Any]:
    """Return the ids of the records that were written, and name the others in the error.

    The answer of a server has the number of records only, so they are read again. A record of a
    conditional write counts as written if the database has exactly what the record has after it:
    the revision alone does not tell this write from that of somebody else.

    A unique index refuses one record, and what else is written depends on the kind of write. In a
    transaction nothing is.

    Args:
        error: The error, which gets the ids; that of a unique index keeps what it says.
        bound: The records' model.
        op: The write.
        sent: The records, each with its update.
        unknown: Names of fields whose values only the server knows.
        others: The updates of records of which only the ids are known, by id. One with conditions
            of its own does not count as written, because nothing tells it from that of others.
    """
    is_duplicate = isinstance(error, DuplicateKey)
    if is_duplicate and op.env.transaction is not None:
        return ()
    pks = list(dict.fromkeys([*(record.pk for record, _ in sent), *others]))
    written: set[Any] = set()
    if len(pks) > 1:
        try:
            notes = {**made_by("model", op), WHOLE: True}
            existing = await by_ids(bound, "_id", pks, env=op.env, notes=notes)
        except EarnORMError:  # the first error says more
            return ()
        documents = {document["_id"]: document for document in existing}
        is_conditional = is_duplicate or has_conditions(op)
        back = op.notes.get(HAND_BACK) or HandBack()
        for part in parts(sent):
            for record, update in part:
                document = documents.get(record.pk)
                if document is not None and (
                    not is_conditional or _has_arrived(record, update, document, back, unknown)
                ):
                    written.add(record.pk)
            if part is not sent:
                await pause()
        for pk, update in others.items():
            if pk in documents and not (update.expect or update.where is not Domain.TRUE):
                written.add(pk)
    if not isinstance(error, DuplicateKey):
        error.ids = id_texts(bound, [pk for pk in pks if pk not in written])
    return written


async def name_left(error: ConcurrencyError, op: Operation, pks: Sequence[Any]) -> None:
    """Name in the error of a deletion the records that are still there, at least one.

    Args:
        error: The error, which gets the ids.
        op: The deletion.
        pks: The stored ids of all records to delete.
    """
    bound = op.app.bind(op.model)
    if len(pks) == 1:
        error.ids = id_texts(bound, pks)
        return
    fields = frozenset({"_id"})
    try:
        documents = await by_ids(
            bound, "_id", pks, env=op.env, fields=fields, notes=made_by("model", op)
        )
    except EarnORMError:  # the first error says more
        return
    existing = {document["_id"] for document in documents}
    error.ids = id_texts(bound, [pk for pk in pks if pk in existing])


def id_texts(bound: BoundModel, pks: Iterable[Any]) -> tuple[str, ...]:
    """Return stored ids as the text that ``record.id`` has."""
    field = bound.schema.fields["_id"]
    return tuple(id_text(field, pk) for pk in pks)


def _has_arrived(
    record: BaseModel,
    update: Update,
    document: Mapping[str, Any],
    back: HandBack,
    unknown: Collection[str],
) -> bool:
    """Return whether a document is what a record and its update make together."""
    fields, has = type(record)._schema.fields, record._fetch.has
    expected, inside = record._stored(), set[str]()
    for key, value in update.operators.get("$set", {}).items():
        if "." not in key:
            expected[key] = value
    added_to: set[str] = set()
    for key, number in update.operators.get("$inc", {}).items():
        if type(before := expected.get(key)) is type(number) is int:
            expected[key] = before + number
            added_to.add(key)
    for operands in update.operators.values():
        inside |= {key.partition(".")[0] for key in operands if "." in key}
    changed_by_steps: set[str] = set()
    for name, value in back.of(record.pk).items():
        expected[fields[name].db_name] = value
        changed_by_steps.add(fields[name].db_name)
    for path, value in update.operators.get("$set", {}).items():
        if path.partition(".")[0] not in inside - changed_by_steps or "$[" in path:
            continue
        if not same(_at(document, path), value):
            return False
    for field in type(record)._schema.stored:
        key = field.db_name
        is_unknown = field.name in unknown and key not in added_to
        if not has(field.name) or is_unknown or key in inside:
            continue
        one, other = expected.get(key), document.get(key)
        if one is UNKNOWN:
            continue
        one = None if one is MISSING else one
        if one != other and not same(one, other):
            return False
    return True


def _at(document: Any, path: str) -> Any:
    """Return the value at a stored path; MISSING where there is none."""
    value = document
    for part in path.split("."):
        if isinstance(value, list) and is_position(part) and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value.get(part, MISSING)
        else:
            return MISSING
    return value
