"""Advises an index for a query's shape: equality, then order, then range (MongoDB's ESR guideline).

https://www.mongodb.com/docs/manual/tutorial/equality-sort-range-guideline/

The advice is guessed from names and operators. ``try_out`` checks it with the server's own planner,
on a sample of the collection's documents in a scratch collection that is dropped afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from earnorm.backends.base import Collection, Document, IndexSpec
from earnorm.exceptions import ConfigurationError, DomainError, EarnORMError
from earnorm.features.explaining.query_plan import Plan
from earnorm.features.indexes.comparison import existing_index, shown
from earnorm.features.slow_queries.query_shape import QueryShape
from earnorm.fields.structured import Embedded, List

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.schema import Schema

EQUAL: Final = ("=", "=?", "in")
RANGE: Final = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
MOST_KEYS: Final = 6
"""The most fields of an advised index: a longer one costs each write more than it saves most
reads."""
SAMPLE: Final = 1000
SCRATCH: Final = "earnorm_advice_"

Keys: TypeAlias = tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """The advice about one shape.

    Attributes:
        shape: The shape.
        indexes: The indexes that it lacks; empty if an existing one serves it, or none would help.
        reason: The reason, in words.
        declaration: The text to write into ``_indexes``.
        before: The plan without the indexes, if they were tried.
        after: The plan with them, if they were tried.
    """

    shape: QueryShape
    indexes: tuple[IndexSpec, ...]
    reason: str
    declaration: str = ""
    before: Plan | None = None
    after: Plan | None = None

    @property
    def helps(self) -> bool | None:
        """True if the planner used an advised index and examined less, or no longer sorted.

        None if the advice was not tried.
        """
        if self.before is None or self.after is None:
            return None
        before, after = self.before, self.after
        is_used = not {spec.name for spec in self.indexes}.isdisjoint(after.indexes)
        examines_less = (after.documents_examined or 0) < (before.documents_examined or 0)
        return is_used and (examines_less or (before.sorts_in_memory and not after.sorts_in_memory))

    def __str__(self) -> str:
        lines = [str(self.shape), f"  {self.reason}"]
        if self.indexes:
            lines.append(f"  _indexes: {self.declaration}")
        if self.before is not None and self.after is not None:
            verdict = "helps" if self.helps else "does not help"
            lines += [f"  before: {self.before}", f"  after: {self.after}", f"  tried: {verdict}"]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _NeededKeys:
    """The stored paths that an index for one branch should have."""

    equal: tuple[str, ...]
    order: tuple[tuple[str, int], ...]
    ranges: tuple[str, ...]

    def keys(self) -> Keys:
        ordered = {path for path, _ in self.order}
        ranges = [path for path in self.ranges if path not in ordered][:1]
        keys = [
            *((path, 1) for path in self.equal),
            *self.order,
            *((path, 1) for path in ranges),
        ]
        return tuple(keys[:MOST_KEYS])

    def is_served_by(self, keys: Keys) -> bool:
        """Return True if the keys begin with the equalities, then have the order or a range."""
        count = len(self.equal)
        if {path for path, _ in keys[:count]} != set(self.equal):
            return False
        rest = keys[count : count + len(self.order)]
        if self.order:
            reversed_order = tuple((path, -direction) for path, direction in self.order)
            return rest in (self.order, reversed_order)
        return not self.ranges or (len(keys) > count and keys[count][0] in self.ranges)


def advise(bound: BoundModel, shape: QueryShape, existing: Iterable[Document]) -> Advice:
    """Find the indexes that a shape lacks.

    Args:
        bound: The model.
        shape: The shape of an operation on it.
        existing: The collection's indexes, as the server lists them.
    """
    usable = [
        index.keys
        for index in map(existing_index, existing)
        if not index.options.keys() & {"hidden", "partialFilterExpression", "sparse", "collation"}
    ]
    specs: dict[Keys, IndexSpec] = {}
    reasons: list[str] = []
    for branch in shape.branches:
        wanted = _needed_keys(bound.schema, branch, shape.order)
        keys = wanted.keys()
        if "_id" in wanted.equal:
            reasons.append("the index on the id serves it")
        elif not keys:
            reasons.append(
                "no index helps: it has no order, and no condition that an index can narrow"
            )
        elif serving := next(
            (existing_keys for existing_keys in usable if wanted.is_served_by(existing_keys)), None
        ):
            reasons.append(f"the index on {shown(serving)} serves it")
        elif len(arrays := [path for path, _ in keys if _is_in_list(bound.schema, path)]) > 1:
            reasons.append(f"no index can have both lists, {' and '.join(arrays)}, among its keys")
        else:
            specs[keys] = IndexSpec(keys)
            reasons.append(f"it lacks an index on {shown(keys)}")
    chosen = tuple(specs.values())
    # An "or" reads the whole collection as soon as one of its branches has no index.
    if any(reason.startswith("no index") for reason in reasons):
        chosen = ()
    return Advice(
        shape,
        chosen,
        "; ".join(dict.fromkeys(reasons)),
        ", ".join(_declaration(bound.schema, spec.keys) for spec in chosen),
    )


def _needed_keys(schema: Schema, branch: Sequence[tuple[str, str]], order: Keys) -> _NeededKeys:
    equal: dict[str, int] = {}
    ranges: dict[str, None] = {}
    for path, operator in branch:
        try:
            stored = schema.path_of(path)
        except DomainError:
            continue  # the field lies in another collection
        if operator in EQUAL:
            # `in` comes after `=`, because it is several equalities
            equal[stored] = max(equal.get(stored, 0), int(operator == "in"))
        elif operator in RANGE:
            ranges[stored] = None
    return _NeededKeys(
        tuple(sorted(equal, key=lambda path: equal[path])),
        tuple((path, int(way)) for path, way in order if path not in equal),
        tuple(path for path in ranges if path not in equal),
    )


def _is_in_list(schema: Schema, stored: str) -> bool:
    """Return True if a part of the path is a list, so that an index has an entry for each item."""
    current: Schema | None = schema
    for name in stored.split("."):
        if current is None:
            return False
        field = next((f for f in current.stored if f.db_name == name), None)
        if isinstance(field, List):
            return True
        current = field.model._schema if isinstance(field, Embedded) else None
    return False


def _declaration(schema: Schema, keys: Keys) -> str:
    def named(stored: str) -> str:
        head, dot, rest = stored.partition(".")
        return f"{schema.renamed.get(head, head)}{dot}{rest}"

    written = ", ".join(f'"{"-" if way == -1 else ""}{named(path)}"' for path, way in keys)
    return f"Index({written})"


# -- trying advice --------------------------------------------------------------------------------


async def try_out(
    bound: BoundModel,
    advice: Advice,
    scratch_of: Callable[[str], Collection],
    *,
    sample: int = SAMPLE,
) -> Advice:
    """Get the server's plans without and with the indexes, on a sample of the documents.

    The sample lies in a scratch collection of the same database, named ``earnorm_advice_…``, with
    copies of at most ``sample`` documents. It is dropped also after an error. The values of the
    search are taken from one of these documents; patterns and negations are left out of the search.

    Args:
        bound: The model.
        advice: The advice to try.
        scratch_of: Gives a collection by its name.
        sample: The number of documents to copy.

    Raises:
        NotSupported: The backend has no query plans.
        ConfigurationError: There is no document to try it with.
    """
    if not advice.indexes:
        return advice
    scratch = scratch_of(f"{SCRATCH}{uuid.uuid4().hex[:12]}")
    try:
        await bound._collection.aggregate(
            [{"$sample": {"size": sample}}, {"$out": scratch.name}],
        )
        await _copy_indexes(bound._collection, scratch)
        condition = await _condition(bound.schema, advice.shape, scratch)
        order = advice.shape.order
        before = Plan(await scratch.explain(condition, sort=order))
        await scratch.create_indexes(advice.indexes)
        after = Plan(await scratch.explain(condition, sort=order))
    finally:
        await scratch.drop()
    return replace(advice, before=before, after=after)


async def _copy_indexes(source: Collection, scratch: Collection) -> None:
    for document in await source.list_indexes():
        index = existing_index(document)
        if index.name == "_id_":
            continue
        # Uniqueness and expiry do not change a plan, and expiry would delete the sample.
        left_out = {"unique", "expireAfterSeconds"}
        options = {k: v for k, v in index.options.items() if k not in left_out}
        try:
            await scratch.create_indexes([IndexSpec(index.keys, {**options, "name": index.name})])
        except EarnORMError:
            continue  # without this index the trial is only stricter


async def _condition(schema: Schema, shape: QueryShape, scratch: Collection) -> dict[str, Any]:
    documents = await scratch.find({}, limit=1)
    if not documents:
        raise ConfigurationError(
            f"{shape.model} has no documents to try an index with; advise without a trial"
        )
    branches = [_branch(schema, branch, documents[0]) for branch in shape.branches]
    return branches[0] if len(branches) == 1 else {"$or": branches}


def _branch(
    schema: Schema, branch: Sequence[tuple[str, str]], document: Mapping[str, Any]
) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for path, operator in branch:
        try:
            stored = schema.path_of(path)
        except DomainError:
            continue
        value = _value(document, stored)
        if operator in EQUAL:
            parts.append({stored: {"$in": [value]} if operator == "in" else {"$eq": value}})
        elif operator in RANGE:
            parts.append({stored: {RANGE[operator]: value}})
    return {"$and": parts} if parts else {}


def _value(document: object, stored: str) -> Any:
    current: Any = document
    for name in stored.split("."):
        while isinstance(current, list):
            current = current[0] if current else None
        current = current.get(name) if isinstance(current, Mapping) else None
    while isinstance(current, list):
        current = current[0] if current else None
    return current
