"""Which index a query's shape lacks: equality first, then the order, then the range (MongoDB's ESR guideline).

https://www.mongodb.com/docs/manual/tutorial/equality-sort-range-guideline/

An advice is a guess from names and operators. ``try_out`` checks it against the server's own planner, on a
sample of the collection's documents in a scratch collection that is dropped afterwards.
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
"""An index over more fields than these costs every write more than it saves most reads."""
SAMPLE: Final = 1000
SCRATCH: Final = "earnorm_advice_"

Keys: TypeAlias = tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """What can be said of one shape.

    Attributes:
        shape: The shape.
        indexes: The indexes that it lacks; empty where one serves it already, or none would help.
        reason: Why, in words.
        declaration: What to write into ``_indexes``.
        before: The plan without the indexes, where it was tried.
        after: The plan with them, where it was tried.
    """

    shape: QueryShape
    indexes: tuple[IndexSpec, ...]
    reason: str
    declaration: str = ""
    before: Plan | None = None
    after: Plan | None = None

    @property
    def helps(self) -> bool | None:
        """Whether the planner took an advised index and examined less, or sorted no more; None untried."""
        if self.before is None or self.after is None:
            return None
        before, after = self.before, self.after
        taken = not {spec.name for spec in self.indexes}.isdisjoint(after.indexes)
        fewer = (after.documents_examined or 0) < (before.documents_examined or 0)
        return taken and (fewer or (before.sorts_in_memory and not after.sorts_in_memory))

    def __str__(self) -> str:
        lines = [str(self.shape), f"  {self.reason}"]
        if self.indexes:
            lines.append(f"  _indexes: {self.declaration}")
        if self.before is not None and self.after is not None:
            verdict = "helps" if self.helps else "does not help"
            lines += [f"  before: {self.before}", f"  after: {self.after}", f"  tried: {verdict}"]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one branch asks of an index, in stored paths."""

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
        """The index begins with the equalities in any order, then has the order, or else a range."""
        count = len(self.equal)
        if {path for path, _ in keys[:count]} != set(self.equal):
            return False
        rest = keys[count : count + len(self.order)]
        if self.order:
            turned = tuple((path, -way) for path, way in self.order)
            return rest in (self.order, turned)
        return not self.ranges or (len(keys) > count and keys[count][0] in self.ranges)


def advise(bound: BoundModel, shape: QueryShape, existing: Iterable[Document]) -> Advice:
    """What a shape lacks, given the indexes that exist.

    Args:
        bound: The model.
        shape: The shape of an operation on it.
        existing: The collection's indexes as the server lists them.
    """
    usable = [
        index.keys
        for index in map(existing_index, existing)
        if not index.options.keys() & {"hidden", "partialFilterExpression", "sparse", "collation"}
    ]
    specs: dict[Keys, IndexSpec] = {}
    reasons: list[str] = []
    for branch in shape.branches:
        wanted = _wanted(bound.schema, branch, shape.order)
        keys = wanted.keys()
        if "_id" in wanted.equal:
            reasons.append("the index on the id serves it")
        elif not keys:
            reasons.append(
                "no index helps: it has no order, and no condition that an index can narrow"
            )
        elif serving := next((each for each in usable if wanted.is_served_by(each)), None):
            reasons.append(f"the index on {shown(serving)} serves it")
        elif len(arrays := [path for path, _ in keys if _is_in_list(bound.schema, path)]) > 1:
            reasons.append(f"no index can have both lists, {' and '.join(arrays)}, among its keys")
        else:
            specs[keys] = IndexSpec(keys)
            reasons.append(f"it lacks an index on {shown(keys)}")
    chosen = tuple(specs.values())
    # An "or" without an index for one of its branches reads the whole collection all the same.
    if any(reason.startswith("no index") for reason in reasons):
        chosen = ()
    return Advice(
        shape,
        chosen,
        "; ".join(dict.fromkeys(reasons)),
        ", ".join(_declaration(bound.schema, spec.keys) for spec in chosen),
    )


def _wanted(schema: Schema, branch: Sequence[tuple[str, str]], order: Keys) -> _Wanted:
    equal: dict[str, int] = {}
    ranges: dict[str, None] = {}
    for path, operator in branch:
        try:
            stored = schema.path_of(path)
        except DomainError:
            continue  # it lies in another collection
        if operator in EQUAL:
            # `in` after `=`: it is several equalities
            equal[stored] = max(equal.get(stored, 0), int(operator == "in"))
        elif operator in RANGE:
            ranges[stored] = None
    return _Wanted(
        tuple(sorted(equal, key=lambda path: equal[path])),
        tuple((path, int(way)) for path, way in order if path not in equal),
        tuple(path for path in ranges if path not in equal),
    )


def _is_in_list(schema: Schema, stored: str) -> bool:
    """A part of the path is a list: an index on it has an entry for each item."""
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


# -- trying it out --------------------------------------------------------------------------------


async def try_out(
    bound: BoundModel,
    advice: Advice,
    scratch_of: Callable[[str], Collection],
    *,
    sample: int = SAMPLE,
) -> Advice:
    """Ask the server's planner before and after, on a scratch collection with a sample of the documents.

    The scratch collection lies in the same database, is named ``earnorm_advice_…``, holds copies of at
    most ``sample`` documents, and is dropped whatever happens. The values of the search are those of one
    of these documents. Patterns and negations are left out of it.

    Args:
        bound: The model.
        advice: What to try.
        scratch_of: Gives a collection by its name.
        sample: How many documents to copy.

    Raises:
        NotSupported: The backend has no query plans.
        ConfigurationError: There is no document to try it with.
    """
    if not advice.indexes:
        return advice
    scratch = scratch_of(f"{SCRATCH}{uuid.uuid4().hex[:12]}")
    try:
        await bound.collection.aggregate(
            [{"$sample": {"size": sample}}, {"$out": scratch.name}],
        )
        await _copy_indexes(bound.collection, scratch)
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
        # Uniqueness and expiry are no part of a plan, and the latter would delete the sample.
        left_out = {"unique", "expireAfterSeconds"}
        options = {k: v for k, v in index.options.items() if k not in left_out}
        try:
            await scratch.create_indexes([IndexSpec(index.keys, {**options, "name": index.name})])
        except EarnORMError:
            continue  # the trial is the stricter for it


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
    found: Any = document
    for name in stored.split("."):
        while isinstance(found, list):
            found = found[0] if found else None
        found = found.get(name) if isinstance(found, Mapping) else None
    while isinstance(found, list):
        found = found[0] if found else None
    return found
