"""Holds what a domain looks at beyond its own records, until the running transaction ends.

A transaction reads one state of the database, and conflicts with nobody who changes afterwards what it
has read. A lock on those records makes the other writer conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition, Domain
from earnorm.domain.long_lists import chunks
from earnorm.domain.paths import without_positions
from earnorm.domain.relational import Link, Tree, asks_others, element_schema, read
from earnorm.domain.values import thaw
from earnorm.exceptions import NotSupported
from earnorm.features.locking.locking import Lock
from earnorm.kernel.operations import REQUEST, Operation, Options, made_by
from earnorm.model.reading.resolution import end_of_link, values_at
from earnorm.model.relations.ghosts import target_of
from earnorm.model.relations.trees import walk

if TYPE_CHECKING:
    from earnorm.domain.schema import Schema
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

_NOTES: Final = made_by("locking")


async def hold(bound: BoundModel, domain: Domain, pks: Iterable[Any], env: Env) -> None:
    """Lock the other records that a domain about these records looks at, in the order of their ids.

    Locked are those to which the records lead, whether they fulfil their part of the domain or not. No
    lock keeps others from being created.

    Args:
        bound: The model of the records.
        domain: The domain.
        pks: The ids of the records; those that do not exist are passed over.
        env: The Env, with the running transaction. Its principal must have the right to lock them.

    Raises:
        NotSupported: No transaction is running.
        TransactionError: Another transaction has changed one of them since this one began.
    """
    if env.transaction is None:
        raise NotSupported(
            f"{bound.model._name}: what a condition about other records looks at is held until the end "
            f"of a transaction, and none is running"
        )
    await _hold(bound, domain, list(pks), env)


async def _hold(bound: BoundModel, domain: Domain, pks: Sequence[Any], env: Env) -> None:
    for prefix, reading in _readings(bound, domain, bound.schema, ""):
        if isinstance(reading, Tree):
            target = bound if reading.crossing is None else _end_of_tree(bound, reading)
            path = "_id" if reading.crossing is None else prefix + reading.crossing.local
            starts = await _values(bound, pks, path, env)
            above = await walk(target, env, starts, upwards=True, notes=_NOTES)
            await _lock(target, Condition("_id", "in", above), env)
            continue
        other, wanted, key = end_of_link(bound, reading)
        values = await _values(bound, pks, prefix + reading.crossing.local, env)
        for chunk in chunks(values):
            held = await _lock(other, Condition(key, "in", list(chunk)), env)
            if held:
                await _hold(other, wanted, held, env)


def _end_of_tree(bound: BoundModel, tree: Tree) -> BoundModel:
    """Return the model of the tree that a relation leads to."""
    assert tree.crossing is not None
    return target_of(bound.app, tree.crossing.field)


def _readings(
    bound: BoundModel, domain: Domain, schema: Schema, prefix: str
) -> Iterator[tuple[str, Link | Tree]]:
    """Yield what a domain asks of other records, each with the stored path that it begins at."""
    for node in domain.conditions():
        if not asks_others(node, schema, bound.operators):
            continue
        reading = read(node, schema, bound.operators)
        if isinstance(reading, Link | Tree):
            yield prefix, reading
        elif reading is not node:
            yield from _readings(bound, reading, schema, prefix)
        else:
            inside = Domain(thaw(node.value))
            path = schema.resolve(node.path).db_path
            yield from _readings(bound, inside, element_schema(node, schema), f"{prefix}{path}.")


async def _values(bound: BoundModel, pks: Sequence[Any], path: str, env: Env) -> list[Any]:
    """Return the ids that records have at a stored path."""
    if path == "_id":
        return list(pks)
    key = path.partition(".")[0]
    name = bound.schema.renamed.get(key, key)
    options = Options(fields=frozenset({"_id", name}))
    documents: list[Mapping[str, Any]] = []
    for chunk in chunks(pks):
        domain = Condition("_id", "in", list(chunk))
        op = Operation("search", bound.model, env, domain, None, options, _NOTES)
        documents += await env.app.execute(op)
    return values_at(documents, without_positions(path))


async def _lock(bound: BoundModel, domain: Domain, env: Env) -> list[Any]:
    options = Options(fields=frozenset({"_id"}), order=(("_id", 1),))
    notes = {**_NOTES, REQUEST: Lock()}
    op = Operation("search", bound.model, env, domain, None, options, notes)
    return [document["_id"] for document in await env.app.execute(op)]
