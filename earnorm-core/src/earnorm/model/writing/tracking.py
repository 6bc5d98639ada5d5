"""Tracks the changes of a record against its stored values, and finds the Env of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from earnorm.exceptions import ConfigurationError, TransactionError
from earnorm.fields.base import MISSING
from earnorm.kernel.environment import Env, current_env, find_env

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.reading.fetch import Fetch
    from earnorm.model.structures import Structure


def embedded_objects(record: Structure) -> Iterator[Structure]:
    """Yield the embedded objects that were read or assigned; an unread one is still a dict."""
    state = record.__dict__
    for field in type(record)._schema.embedded:
        value = state.get(field.name)
        if isinstance(value, field.model):
            yield cast("Structure", value)


def changed_fields(record: Structure) -> list[str]:
    """Return the names of changed fields, those with values that changed in place included."""
    names: list[str] = list(getattr(record, "_changes", ()))
    fields, state = type(record)._schema.fields, record.__dict__
    for name, original in getattr(record, "_originals", {}).items():
        if name in names:
            continue
        value = state.get(name)
        if original is MISSING:
            # Reading an unset field gave its default, which is a change only if it was altered.
            if value != fields[name].default_value():
                names.append(name)
        elif not same(fields[name].encode(value), original):
            names.append(name)
    for field in type(record)._schema.embedded:
        value = state.get(field.name)
        if not isinstance(value, field.model) or field.name in names:
            continue
        if changed_fields(cast("Structure", value)):
            names.append(field.name)
    return names


def same(one: Any, other: Any) -> bool:
    """Return whether two stored values are equal and of the same types (1, 1.0 and True differ)."""
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return list(one) == list(other) and all(same(v, other[k]) for k, v in one.items())
    if type(one) is list:
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def settle(record: Structure) -> None:
    """Mark all values that the record holds as stored."""
    for embedded in embedded_objects(record):
        settle(embedded)
    changes = getattr(record, "_changes", None)
    if changes:
        changes.clear()
    originals = getattr(record, "_originals", None)
    if originals:
        fields, state = type(record)._schema.fields, record.__dict__
        for name in originals:
            # The copy must be new, because the list may be changed in place later.
            field = fields[name]
            originals[name] = field.freeze(field.encode(state.get(name)))


def forget_change(record: Structure, name: str) -> None:
    """Mark one field of the record as stored."""
    getattr(record, "_changes", {}).pop(name, None)
    getattr(record, "_originals", {}).pop(name, None)


def env_of(records: Sequence[BaseModel], *, stale: bool = False) -> Env:
    """Return the current Env, and refuse records of another App.

    Args:
        records: The records to write, or to read again.
        stale: Accept records that were read in a transaction that was rolled back.

    Raises:
        ConfigurationError: Another App is current.
        TransactionError: A record is stale.
    """
    env = current_env()
    for record in records:
        fetch: Fetch | None = getattr(record, "_fetch", None)
        if fetch is None:
            continue
        if fetch.app is not env.app:
            raise ConfigurationError(
                f"the record belongs to App {fetch.app.name!r}, and App {env.app.name!r} is current; "
                f"work inside 'with app.activate():'"
            )
        if fetch.seen_in is not None and fetch.is_stale and not stale:
            raise TransactionError(
                f"{record!r} is stale: it was read in a transaction that was rolled back; "
                f"'await record.refresh()' before it is written"
            )
    return env


def touch(env: Env, records: Sequence[BaseModel]) -> None:
    """Make a running transaction remember the records as they are."""
    if env.transaction is not None:
        for record in records:
            env.transaction.touch(record)


def touch_older(records: Sequence[BaseModel]) -> None:
    """Make a running transaction remember the records that are older than it."""
    env = find_env()
    if env is not None and env.transaction is not None:
        outcome = env.transaction.outcome
        for record in records:
            fetch: Fetch | None = getattr(record, "_fetch", None)
            if fetch is None or fetch.seen_in is not outcome:
                env.transaction.touch(record)
