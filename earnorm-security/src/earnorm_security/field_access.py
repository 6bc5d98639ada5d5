"""Enforces field rights on operations: what they use is checked, and what is hidden is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from earnorm import Domain
from earnorm.plugin import (
    ACROSS,
    RETURNED,
    WHOLE,
    ModelView,
    Operation,
    ValueBatch,
    ids_of,
    pause,
    slices,
)
from earnorm_security.field_rights import FieldPolicy, FieldRight, FieldView, Mask

_EVERY: Final = 2000
"""After so many documents other tasks have a turn."""
_EVERYTHING = "*"  # the path of a condition about the whole record, e.g. a full-text search


class Cut(NamedTuple):
    """The changes of the documents that a search has found.

    Attributes:
        hidden: The stored keys that are removed, where the database was asked for whole documents.
        masks: The masks by the names of their fields.
    """

    hidden: Sequence[str]
    masks: Mapping[str, Mask]


def checked_read(policy: FieldPolicy, op: Operation) -> tuple[Operation, Cut | None]:
    """Check the fields that a search, count or group uses, and leave hidden ones out of it.

    Returns:
        The operation for the database, and what its documents still need; None if they need nothing.

    Raises:
        AccessDenied: It uses a field without the right, or asks for a hidden one by name.
    """
    view = policy.of(op.env)
    check_domain(policy, view, op, op.domain)
    if op.name == "count":
        return op, None
    _check_order(policy, view, op)
    spec = op.options.group
    if spec is not None:
        _check_group(policy, view, op, spec.keys.values(), spec.aggregates.values())
        return op, None
    if op.note(WHOLE):
        return op, None
    shows_documents = op.name == "search" and (op.request is None or op.request.reads_documents)
    if shows_documents:
        hidden = view.hidden
    else:  # a pipeline can do everything with what it sees
        hidden = view.altered if op.options.order else view.unseen
    if not hidden and not view.masks:
        return op, None
    asked = op.options.fields
    if asked is None:
        if shows_documents and _is_by_id(op):
            # A cache keeps whole documents, by id.
            stored = policy.stored
            return op, Cut([stored[n] for n in view.hidden if n in stored], view.masks)
        names = view.shown if shows_documents else policy.fields - hidden
        return _of_fields(op, names), Cut((), view.masks) if view.masks else None
    reading = op.app.bind(op.model).reading
    needed = (
        frozenset[str]() if reading is None else reading.needs
    )  # the program asks for the others
    for name in sorted(asked & hidden - needed):
        right = "read" if name in view.altered else _lacking(view, name)
        raise policy.denied(op.env, op.name, name, right)
    masks = {name: mask for name, mask in view.masks.items() if name in asked}
    return _of_fields(op, asked - hidden), Cut((), masks) if masks else None


def check_uses(policy: FieldPolicy, op: Operation) -> None:
    """Refuse an operation that uses a field without the right, as its layer will.

    Raises:
        AccessDenied: It does.
    """
    if op.name in ("search", "count", "group"):
        checked_read(policy, op)
    else:
        check_changes(policy, op)


async def cut(policy: FieldPolicy, changes: Cut, documents: Any) -> Any:
    """Remove hidden values from documents, and mask others, in place."""
    if not isinstance(documents, list):
        return documents
    rows: list[dict[str, Any]] = documents
    for part in (rows,) if len(rows) <= _EVERY else slices(rows, _EVERY):
        for key in changes.hidden:
            for document in part:
                document.pop(key, None)
        for name, mask in changes.masks.items():
            policy.mask(part, name, mask)
        if part is not rows:
            await pause()
    return rows


def check_domain(policy: FieldPolicy, view: FieldView, op: Operation, domain: Domain) -> None:
    """Refuse a condition on a field without the right to filter by it.

    What a condition says of other records is checked by the search of those.

    Raises:
        AccessDenied: There is one.
    """
    lacking = view.lacking["filter"]
    if not lacking or domain is Domain.TRUE:
        return
    for condition in domain.conditions():
        if condition.path == _EVERYTHING:
            raise policy.denied(op.env, op.name, min(lacking), "filter")
        name = _head(condition.path)
        if name in lacking:
            raise policy.denied(op.env, op.name, name, "filter")


def check_changes(policy: FieldPolicy, op: Operation) -> None:
    """Refuse a change whose answer would tell what is stored in a field that is not read.

    Raises:
        AccessDenied: A command, or a change of a part, is about such a field.
    """
    view = policy.of(op.env)
    check_domain(policy, view, op, op.domain)
    if op.name != "write":
        return
    fixed = view.lacking["write"]
    if op.domain.is_untrusted and fixed:  # a system's program made the values
        for key in sorted(op.written):
            if _of_key(policy, key) in fixed:
                raise policy.denied(op.env, op.name, _of_key(policy, key), "write")
    if not view.altered:
        return
    for update in op.updates:
        check_domain(policy, view, op, update.where)
        for operator, spec in update.operators.items():
            for path in spec:
                name = _of_key(policy, path)
                if name in view.altered and ("." in path or operator not in ("$set", "$unset")):
                    raise policy.denied(op.env, f"{op.name} of a part of {name!r}", name, "read")


def check_values(policy: FieldPolicy, batch: ValueBatch) -> None:
    """Refuse values for fields that the principal may not set (a value step).

    Raises:
        AccessDenied: There is one.
    """
    if batch.env.system:
        return
    view = policy.of(batch.env)
    fixed = view.lacking["write"]
    if not fixed and not view.masks:
        return
    fields = batch.model.fields
    for row in batch.rows:
        for path, value in row.values.items():
            name = _head(path)
            if name in fixed:
                if batch.is_new and row.record is not None and value == fields[name].default:
                    continue  # nobody has assigned it: an unsaved record has its defaults
                raise policy.denied(batch.env, "a write", name, "write")
            mask = view.masks.get(name)
            if mask is not None and isinstance(value, str) and mask(value) == value:
                row.refuse(
                    path, "is the masked value; leave it out, or give the whole one", "masked"
                )


def without_hidden(policy: FieldPolicy, op: Operation) -> None:
    """Ask a write for no value after it that the principal does not read."""
    returned = op.note(RETURNED)
    if returned is not None:
        returned.fields -= policy.of(op.env).altered


# -- their parts ----------------------------------------------------------------------------------


def _head(path: str) -> str:
    return path.partition(".")[0]


def _of_key(policy: FieldPolicy, path: str) -> str:
    """Return the name of the restricted field that a stored path begins with, or an empty text."""
    return policy.keys.get(_head(path), "")


def _of_fields(op: Operation, names: frozenset[str]) -> Operation:
    inside = frozenset(path for path in op.options.inside if _head(path) in names)
    return op.replace(options=op.options.replace(fields=names, inside=inside))


def _is_by_id(op: Operation) -> bool:
    """Return whether a search is about records by their ids alone, and wants them whole."""
    return op.request is None and ids_of(op.domain, ModelView(op.model).schema) is not None


def _lacking(view: FieldView, name: str) -> FieldRight:
    return next(right for right, names in view.lacking.items() if name in names)


def _check_order(policy: FieldPolicy, view: FieldView, op: Operation) -> None:
    across, parent, request = _across(op), op.parent, op.request
    for path, _ in op.options.order:
        name = _head(across[path]) if path in across else _of_key(policy, path)
        right: FieldRight = "order"
        if parent is not None and request is not None and not request.reads_documents:
            # The records of another model are ordered, or grouped, by what is looked up here.
            right = "aggregate" if parent.name == "group" else "order"
            if name in view.altered:
                raise policy.denied(op.env, op.name, name, "read")
        if name in view.lacking[right]:
            raise policy.denied(op.env, op.name, name, right)


def _across(op: Operation) -> Mapping[str, str]:
    across = op.note(ACROSS)
    return {} if across is None else dict(across)


def _check_group(
    policy: FieldPolicy,
    view: FieldView,
    op: Operation,
    keys: Iterable[str],
    aggregates: Iterable[str],
) -> None:
    across = _across(op)
    for_both: tuple[FieldRight, ...] = ("aggregate", "read")
    for names, rights in ((keys, for_both), (aggregates, for_both[:1])):
        for path in names:
            name = _head(across[path]) if path in across else _of_key(policy, path)
            for right in rights:
                if name in view.lacking[right]:
                    raise policy.denied(op.env, op.name, name, right)
