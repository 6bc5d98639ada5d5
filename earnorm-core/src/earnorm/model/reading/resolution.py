"""Resolves conditions about other records with sub-queries, before a filter is made.

A sub-query is a normal operation: it runs in the same Env, so in the same transaction and for the
same principal, and through every layer of the other model. Its result is used in the cheapest of
three ways:

1. Few other records fulfil the condition: use their ids.
2. Many do, but this model's side has few records: use the ids that these records point at.
3. Both sides have many: use all the ids, up to the size of a filter; beyond that, a ``$lookup``.

The figures behind the limits are in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import bson

from earnorm.domain import FALSE, TRUE, And, Condition, Domain, Not, Or, Path, to_filter
from earnorm.domain.paths import without_positions
from earnorm.domain.relational import (
    Link,
    Tree,
    asks_others,
    element_schema,
    merged,
    read,
)
from earnorm.domain.schema import Crossing, Schema, Substitute
from earnorm.domain.values import thaw
from earnorm.exceptions import ConfigurationError, LimitExceeded, NotSupported
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import ORIGIN, PARENT, PLAIN, REQUEST, Operation, Options
from earnorm.kernel.serving.requests import PipelineCapture, Stream
from earnorm.model.relations.ghosts import link_of, target_of
from earnorm.model.relations.trees import parent_name, walk

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

FEW: Final = 1_000
"""The number of other records up to which their ids are always used."""
FEW_HERE: Final = 10_000
"""The number of this model's records up to which their values limit the sub-query.

It applies with more than FEW other records.
"""
LARGEST: Final = 12_000_000
"""The bytes that the ids of one filter may take; a server accepts 16 MB for a whole command."""
MOST_QUESTIONS: Final = 100
"""The most sub-queries of one condition, those that their own conditions need included."""
_BATCH: Final = 10_000
_FLAG: Final = "__link"


QUESTIONS: Note[list[int]] = Note("questions")
"""On a sub-query: the number of those that the whole condition has needed so far, alone in a list."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The records that an operation selects, without conditions about other models.

    Attributes:
        domain: An equivalent domain; with lookups, it also has conditions on the fields they add.
        first: The conditions that need no lookup, and so come before the lookups.
        lookups: ``$lookup`` stages, for conditions with more ids than a filter can hold.
    """

    domain: Domain
    first: Domain = TRUE
    lookups: tuple[Mapping[str, Any], ...] = ()

    def stages(self, bound: BoundModel) -> list[Mapping[str, Any]]:
        """Return the pipeline that selects the documents."""
        if not self.lookups:
            return [{"$match": bound.filter(self.domain)}]
        schema = _SchemaWithLookups(bound.schema)
        return [
            {"$match": bound.filter(self.first)},
            *self.lookups,
            {"$match": to_filter(self.domain, schema, bound.operators)},
            {"$unset": [stage["$lookup"]["as"] for stage in self.lookups]},
        ]


async def resolve(bound: BoundModel, domain: Domain, env: Env) -> Domain:
    """Return an equivalent domain without conditions about other records.

    Raises:
        NotSupported: More records fulfil a condition than a filter can name.
    """
    if not asks_others(domain, bound.schema, bound.operators):
        return domain
    resolver = _Resolver(bound, env)
    resolved = await resolver.resolved(domain, bound.schema)
    if resolver.lookups:
        raise NotSupported(
            f"{bound.model._name}: more related records fulfil the domain than a filter can name "
            f"({LARGEST // 1_000_000} MB of ids); search with the domain itself"
        )
    return resolved


def check(bound: BoundModel, domain: Domain) -> None:
    """Compile every condition; compile conditions about other records for their own models.

    Raises:
        DomainError: One of them is not valid.
    """
    for node in domain.conditions():
        reading = read(node, bound.schema, bound.operators)
        if reading is node:
            to_filter(node, bound.schema, bound.operators)
        elif isinstance(reading, Domain):
            check(bound, reading)
        else:
            crossing = reading.crossing
            try:
                target = bound if crossing is None else target_of(bound.app, crossing.field)
            except ConfigurationError:
                continue  # the other model is not defined yet
            if isinstance(reading, Link):
                check(target, reading.domain)
            else:
                parent_name(target)
                reading.ids(target.schema.fields["_id"])


def asks_itself(bound: BoundModel, domain: Domain) -> bool:
    """Return whether a write of a model's records can change what a domain asks of other records.

    That is so where it leads back to records of the model, or to records that point at them.
    """
    return _leads_to(bound, domain, bound.schema, bound.model._identity)


def _leads_to(bound: BoundModel, domain: Domain, schema: Schema, identity: str) -> bool:
    for node in domain.conditions():
        if not asks_others(node, schema, bound.operators):
            continue
        reading = read(node, schema, bound.operators)
        if isinstance(reading, Tree):
            crossing = reading.crossing
            tree = bound if crossing is None else target_of(bound.app, crossing.field)
            if tree.model._identity == identity:
                return True
        elif isinstance(reading, Link):
            target, wanted, _ = end_of_link(bound, reading)
            if (
                not reading.crossing.owned
                or target.model._identity == identity
                or _leads_to(target, wanted, target.schema, identity)
            ):
                return True
        elif reading is not node:
            if _leads_to(bound, reading, schema, identity):
                return True
        elif _leads_to(bound, Domain(thaw(node.value)), element_schema(node, schema), identity):
            return True
    return False


async def select(bound: BoundModel, op: Operation) -> Selection:
    """Return the selection of an operation's records.

    Raises:
        DomainError: A condition of the domain isn't valid for the other model.
        AccessDenied: The other model may not be read.
    """
    children = op.domain.children if isinstance(op.domain, And) else (op.domain,)
    plain = [c for c in children if not asks_others(c, bound.schema, bound.operators)]
    first = And(plain).simplify()
    resolver = _Resolver(bound, op.env, first, op)
    domain = await resolver.resolved(op.domain, bound.schema)
    return Selection(domain, first, tuple(resolver.lookups))


class _Resolver:
    """Resolves one domain, and collects the lookups that it needs.

    Args:
        bound: The model of the domain.
        env: The Env of the sub-queries.
        first: The conditions that the records fulfil beside the resolved ones; None where the
            records are not known.
        op: The operation that has the domain: sub-queries share its time limit and concerns; None
            where a program resolves a domain by itself.
    """

    def __init__(
        self,
        bound: BoundModel,
        env: Env,
        first: Domain | None = None,
        op: Operation | None = None,
    ) -> None:
        self.lookups: list[Mapping[str, Any]] = []
        self._bound, self._env, self._first = bound, env, first
        options = PLAIN if op is None else op.options
        self._timeout, self._concerns = options.timeout, options.concerns
        counted: list[int] | None = None if op is None else op.notes.get(QUESTIONS)
        self._questions = [0] if counted is None else counted
        self._notes: Mapping[Note[Any], Any] = {
            ORIGIN: "model",
            PARENT: op,
            QUESTIONS: self._questions,
        }
        self._left = LARGEST
        self._here: dict[str, list[Any] | None] = {}

    async def resolved(self, node: Domain, schema: Schema) -> Domain:
        """Return the domain with every relational condition replaced by one on ids."""
        if isinstance(node, Condition):
            return await self._condition(node, schema)
        if isinstance(node, And | Or):
            node = merged(node, schema, self._bound.operators)
            assert isinstance(node, And | Or)
            return type(node)([await self.resolved(child, schema) for child in node.children])
        if isinstance(node, Not):
            return ~await self.resolved(node.child, schema)
        return node

    async def _condition(self, node: Condition, schema: Schema) -> Domain:
        operators = self._bound.operators
        reading = read(node, schema, operators)
        if isinstance(reading, Link):
            keys = await self._keys(reading)
            if keys is None:
                return await self._lookup(reading, schema)
            operator_name = "not in" if reading.negated else "in"
            return Condition(reading.crossing.path, operator_name, keys)
        if isinstance(reading, Tree):
            return await self._tree(reading)
        if reading is not node:
            return await self.resolved(reading, schema)
        operator = operators.get(node.operator)
        if operator is not None and operator.nested:
            inside = Domain(thaw(node.value))
            elements = element_schema(node, schema)
            if asks_others(inside, elements, operators):
                return Condition(node.path, node.operator, await self.resolved(inside, elements))
        return node

    async def _tree(self, tree: Tree) -> Domain:
        if not tree.starts:
            return FALSE
        self._questions[0] += 1
        if self._questions[0] > MOST_QUESTIONS:
            self._refuse_questions()
        crossing = tree.crossing
        bound = self._bound if crossing is None else target_of(self._bound.app, crossing.field)
        starts = tree.ids(bound.schema.fields["_id"])
        pks = await walk(bound, self._env, starts, upwards=tree.upwards, notes=self._notes)
        if not self._fits(pks):
            raise NotSupported(
                f"{bound.model._name}: the tree has more records than a filter can name"
            )
        return Condition(tree.path, "in", pks)

    async def _keys(self, link: Link) -> list[Any] | None:
        """Return the relation's values that fulfil the condition; None if they fit no filter."""
        self._questions[0] += 1
        if self._questions[0] > MOST_QUESTIONS:
            self._refuse_questions()
        target, wanted, key = end_of_link(self._bound, link)
        foreign = target.schema.fields[key]
        options = Options(
            fields=frozenset({"_id", foreign.name}),
            limit=FEW + 1,
            timeout=self._timeout,
            concerns=self._concerns,
        )
        op = Operation("search", target.model, self._env, wanted, None, options, self._notes)
        documents = await self._env.app.execute(op)
        if len(documents) <= FEW:
            return self._if_they_fit(values_at(documents, foreign.db_name))
        here = await self._keys_here(link.crossing)
        if here is not None:
            narrowed = And((wanted, Condition(foreign.name, "in", here)))
            op = op.replace(domain=narrowed, options=options.replace(limit=0))
            return self._if_they_fit(values_at(await self._env.app.execute(op), foreign.db_name))
        return await self._all(op, foreign.db_name)

    def _refuse_questions(self) -> None:
        """Refuse more sub-queries to everybody but ``system``.

        Raises:
            LimitExceeded: Somebody else asks.
        """
        if not self._env.system:
            raise LimitExceeded(
                f"the condition asks more than {MOST_QUESTIONS} questions about other records; ask for "
                f"fewer of them at once, or for their ids first"
            )

    def _if_they_fit(self, keys: list[Any]) -> list[Any] | None:
        return keys if self._fits(keys) else None

    def _fits(self, keys: Sequence[Any]) -> bool:
        # So few ids are far below the limit, so an estimate saves encoding them.
        size = 20 * len(keys) if len(keys) <= FEW else len(bson.encode({"": list(keys)}))
        self._left -= size
        return self._left >= 0 or not self._can_look_up

    @property
    def _can_look_up(self) -> bool:
        return "explain" in self._bound.app.capabilities  # only a server has these limits

    async def _keys_here(self, crossing: Crossing) -> list[Any] | None:
        """Return the relation's values in this model's records; None where these are too many."""
        if self._first is None:
            return None
        local = without_positions(crossing.local)
        if local not in self._here:
            documents = await self._bound._collection.find(
                self._bound.filter(self._first),
                projection={"_id": 1, local: 1},
                limit=FEW_HERE + 1,
                session=self._env._database_session,
                timeout=self._timeout or self._bound.timeout,
            )
            few = len(documents) <= FEW_HERE
            self._here[local] = values_at(documents, local) if few else None
        return self._here[local]

    async def _all(self, op: Operation, key: str) -> list[Any] | None:
        """Read all ids in batches; return None as soon as they are too many."""
        stream = Stream(_BATCH)
        op = op.replace(options=op.options.replace(limit=0)).with_note(REQUEST, stream)
        keys: dict[Any, None] = {}
        try:
            while documents := await self._env.app.execute(op):
                keys.update(dict.fromkeys(values_at(documents, key)))
                # An id takes at least 12 bytes, and more than 16 with its position in the list.
                if 16 * len(keys) > self._left and self._can_look_up:
                    return None
        finally:
            await stream.close()
        return self._if_they_fit(list(keys))

    async def _lookup(self, link: Link, schema: Schema) -> Domain:
        """Add a lookup with the filter of the other model's layers; return a condition on it."""
        if schema is not self._bound.schema:
            raise NotSupported(
                f"{self._bound.model._name}: more related records fulfil the condition inside 'elem' "
                f"than a filter can name; ask for them first, or with fewer of them"
            )
        if link.crossing.local != without_positions(link.crossing.local):
            raise NotSupported(
                f"{self._bound.model._name}: more related records fulfil the condition on one item of "
                f"a list ({link.crossing.path}) than a filter can name; ask for them first"
            )
        target, wanted, key = end_of_link(self._bound, link)
        foreign = target.schema.path_of(key)
        name = f"{_FLAG}{len(self.lookups)}"
        self.lookups.append(
            await lookup(
                target,
                self._env,
                wanted,
                link.crossing.local,
                foreign,
                name,
                {"_id": 1},
                one=True,
                notes=self._notes,
            )
        )
        # The lookup gives an empty list where no record fulfils the condition.
        return Condition(name, "=" if link.negated else "!=", [])


def end_of_link(bound: BoundModel, link: Link) -> tuple[BoundModel, Domain, str]:
    """Return the other end of a model's link: its model, its records' domain and its field's name."""
    field = link.crossing.field
    if not getattr(field, "through", None):
        return target_of(bound.app, field), link.domain, field.join.foreign
    between, near, far = link_of(bound.app, bound.model, field)
    return between, Condition(far.name, "any", link.domain), near.name


async def lookup(
    target: BoundModel,
    env: Env,
    domain: Domain,
    local: str,
    foreign: str,
    name: str,
    projection: Mapping[str, Any],
    *,
    one: bool,
    notes: Mapping[Note[Any], Any],
) -> Mapping[str, Any]:
    """Return a ``$lookup`` of the other model's records, restricted by that model's own layers."""
    capture = PipelineCapture()
    search = Operation("search", target.model, env, domain, notes=notes)
    await env.app.execute(search.with_note(REQUEST, capture))
    stages: list[Mapping[str, Any]] = [*capture.stages]
    if one:
        stages.append({"$limit": 1})
    return {
        "$lookup": {
            "from": target._collection.name,
            "localField": local,
            "foreignField": foreign,
            "pipeline": [*stages, {"$project": projection}],
            "as": name,
        }
    }


def values_at(documents: Iterable[Mapping[str, Any]], path: str) -> list[Any]:
    """Return the different values that a path leads to, without None."""
    if path == "_id":
        return [document["_id"] for document in documents]
    names = path.split(".")
    values: dict[Any, None] = {}
    for document in documents:
        _collect(document, names, 0, values)
    values.pop(None, None)
    return list(values)


def _collect(value: Any, names: list[str], position: int, values: dict[Any, None]) -> None:
    if isinstance(value, list):
        for item in value:
            _collect(item, names, position, values)
    elif position == len(names):
        if not isinstance(value, dict):
            values[value] = None
    elif isinstance(value, Mapping):
        _collect(value.get(names[position]), names, position + 1, values)


class _SchemaWithLookups:
    """A model's schema with the fields that lookups add to its documents."""

    def __init__(self, schema: Schema) -> None:
        self.name = schema.name
        self._schema = schema

    def resolve(self, path: str) -> Path:
        return Path(path, _LookupField()) if path.startswith(_FLAG) else self._schema.resolve(path)

    def substitute(self, path: str) -> Substitute | None:
        return None if path.startswith(_FLAG) else self._schema.substitute(path)

    def crossing(self, path: str) -> Crossing | None:
        return None if path.startswith(_FLAG) else self._schema.crossing(path)


class _LookupField:
    name = _FLAG

    def operand(self, value: Any) -> Any:
        return value
