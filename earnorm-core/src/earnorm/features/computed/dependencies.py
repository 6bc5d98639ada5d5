"""The graph of an App's stored computed fields: the fields to compute again after a change.

A path such as ``partner_id.country_id.vat`` is read once. Each relation on it becomes a
:class:`Step`. Each field, and each creation and deletion, gets a :class:`Trigger`: the field and
model to compute again, and the steps that lead from the changed record to the records of that
model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from earnorm.bounded import Bounded
from earnorm.exceptions import ConfigurationError, DomainError, EarnORMError, nearest
from earnorm.features.computed.computing import Formula, formulas_of
from earnorm.features.computed.owed.urgent import recompute_of, urgent_fields
from earnorm.fields.adapters import adapter
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import Relation, ToMany
from earnorm.fields.secrets import holds_secrets
from earnorm.kernel import registry
from earnorm.model.relations.ghosts import inverse_of, link_of, target_of
from earnorm.model.relations.prefetch import prefetch_tree

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

Key = tuple[str, str]
"""A model and one of its fields."""


class Step(NamedTuple):
    """One relation, seen from the record that has the computed field.

    Attributes:
        source: The model on this side.
        target: The model on the other side.
        holder: The path of the field with the ids: in the source if ``forward``, else in the
            target.
        forward: True if the source's records have the ids of the target's.
    """

    source: str
    target: str
    holder: str
    forward: bool

    @property
    def head(self) -> str:
        """The field that the holder's path begins with."""
        return self.holder.partition(".")[0]


class Trigger(NamedTuple):
    """A field to compute again, and the steps between its records and the changed one."""

    model: str
    field: str
    steps: tuple[Step, ...]

    @property
    def link(self) -> str | None:
        """The field of the changed record that points at the records to compute, or None."""
        return self.steps[-1].head if self.steps and not self.steps[-1].forward else None


@dataclass(eq=False)
class Node:
    """One computed field in the graph.

    Attributes:
        rank: The turn of the field. Fields of other records that it depends on have a lower rank.
            As many fields of a model as possible have the same rank, so that its records are read
            and written once.
        place: The position in an order in which each field comes after those that it depends on.
        reads: The record's own fields that the formula reads.
        prefetch: The paths of the relations that the formula needs.
        is_circular: True if a path leads back to the field's own model, so that records are loaded
            whole.
        recursion: The steps from a record to the others whose values of this very field it reads;
            each item is one path. Empty for most fields.
    """

    key: Key
    formula: Formula
    rank: int = 0
    place: int = 0
    reads: set[str] = field(default_factory=set[str])
    prefetch: set[str] = field(default_factory=set[str])
    is_circular: bool = False
    recursion: list[tuple[Step, ...]] = field(default_factory=list[tuple[Step, ...]])

    @cached_property
    def validated(self) -> Callable[[Any], Any]:
        """The function that validates a computed value by the field's type."""
        computed_field = self.formula.field
        made = adapter(computed_field, not computed_field.required)
        # Its own method is a Python function around that of its validator.
        return getattr(made.validator, "validate_python", made.validate_python)


Recursion: TypeAlias = frozenset[tuple[Step, ...]]


@dataclass(frozen=True)
class Plan:
    """The computation of some stored fields of one model, all together."""

    nodes: tuple[Node, ...]
    reads: frozenset[str] | None
    """The record's own fields to load; None means all."""
    tree: Mapping[str, Any]
    """The relations to load with them."""
    links: frozenset[str]
    """The fields that lead from these records to others which depend on the computed fields."""
    reason: str
    """The reason for which the system computes the fields."""
    recursion: Recursion = frozenset()
    """The paths to records whose values of the same fields are read, as along a tree."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(node.key[1] for node in self.nodes)

    @cached_property
    def loaded(self) -> frozenset[str] | None:
        """The record's own fields to load, with its id; None means all."""
        return None if self.reads is None else self.reads | {"_id"}

    @cached_property
    def is_async(self) -> bool:
        """True if a formula is a coroutine function."""
        return any(node.formula.is_async for node in self.nodes)

    def system(self, env: Env) -> Env:
        """Return the Env in which the fields are computed."""
        return replace(env, system=True, reason=self.reason)  # one call less than as_system()


class Graph:
    """The computed fields of an App's models.

    Args:
        app: The App with the models.
        limit: The number of records up to which the fields are computed in the transaction of a
            change; None means any number.

    Raises:
        ConfigurationError: Fields depend on each other in a circle, or on a path that does not exist.
    """

    def __init__(self, app: App, limit: int | None) -> None:
        self._app = app
        self.limit = limit
        self.nodes: dict[Key, Node] = {}
        self.written: dict[Key, dict[Trigger, None]] = {}
        """The triggers of a write, by the written field."""
        self.created: dict[str, dict[Trigger, None]] = {}
        self.deleted: dict[str, dict[Trigger, None]] = {}
        self._edges: dict[Key, dict[Key, bool]] = {}
        # Callers choose which fields they write, so there are as many plans as sets of computed fields.
        self._plans: Bounded[tuple[str, frozenset[str]], Plan] = Bounded(longest=100_000)
        # A rule's function may make a path of what a client says. An empty text stands for no field.
        self._lagging: Bounded[Key, str] = Bounded()
        self._unusable: dict[Key, ConfigurationError] = {}
        """The fields computed from a model that this App cannot use, each with the error of that model."""
        self._subclasses: dict[str, list[str]] = {}
        """The subclasses of each class of a family."""
        for bound in self.models:
            for base in bound.view.names:
                if base != bound.model._name:
                    self._subclasses.setdefault(base, []).append(bound.model._name)
            for name, formula in (f.by_name if (f := formulas_of(bound.schema)) else {}).items():
                self.nodes[bound.model._name, name] = Node((bound.model._name, name), formula)
        for node in self.nodes.values():
            self._edges[node.key] = {}
            try:
                for path in node.formula.depends:
                    self._connect(node, node.key[0], path)
            except ConfigurationError as error:
                if error.code != "left_out":
                    raise
                self._unusable[node.key] = error
        self._drop_unusable()
        self._order()
        for node in self.nodes.values():
            for path in node.formula.depends:
                self._walk(node, (), node.key[0], path, "")
        self._join_families()

    # -- order --------------------------------------------------------------------------------

    def _connect(self, node: Node, model: str, path: str) -> None:
        """Record the computed fields on a path; ``True`` for those that lie in other records."""
        crossed = False
        while True:
            bound = self._bound(model)
            head, _, _rest = path.partition(".")
            head_field = self._field(node, bound, head)
            if head_field.computed is not None:
                if crossed and (model, head) == node.key and head_field.stored:
                    return  # the field of another record, as along a tree: it goes level by level
                for key in self._computed_in(model, head) if crossed else [(model, head)]:
                    if crossed and head_field.stored and self._is_recursion(node, key):
                        continue  # level by level, too: the records are of one family
                    known = self._edges[node.key].get(key, False)
                    self._edges[node.key][key] = known or crossed
                if not head_field.stored:
                    return  # the field's own dependencies are separate edges
            crossing = bound.schema.crossing(path)
            if crossing is None or (crossing.single and not crossing.rest):
                return
            self._steps(bound, crossing)  # raises where this App cannot use one of the models
            if not crossing.rest:
                return
            model, path, crossed = self._target(crossing.field), crossing.rest, True

    def _computed_in(self, model: str, name: str) -> Iterator[Key]:
        """Yield a computed field in a model and in its subclasses, which may compute it otherwise."""
        for member in (model, *self._subclasses.get(model, ())):
            if (member, name) in self.nodes:
                yield member, name

    def _is_recursion(self, node: Node, key: Key) -> bool:
        """Return whether a field is the node's own one, in a class of its own family."""
        return key[1] == node.key[1] and self._are_of_one_family(key[0], node.key[0])

    def _are_of_one_family(self, model: str, other: str) -> bool:
        return self._bound(model).model._identity == self._bound(other).model._identity

    def _drop_unusable(self) -> None:
        """Drop the fields whose models this App cannot use; a model that has one raises that error when it is used."""
        while True:
            for key, error in self._unusable.items():
                self.nodes.pop(key, None)
                self._edges.pop(key, None)
                for other, edges in self._edges.items():
                    if edges.pop(key, None) is not None and not self._is_stored(key):
                        self._unusable.setdefault(other, error)
            if self.nodes.keys().isdisjoint(self._unusable):
                return

    def _is_stored(self, key: Key) -> bool:
        return self._bound(key[0]).schema.fields[key[1]].stored

    def _order(self) -> None:
        try:
            order = list(TopologicalSorter(self._edges).static_order())
        except CycleError as error:
            cycle = " → ".join(f"{model}.{name}" for model, name in reversed(error.args[1]))
            raise ConfigurationError(
                f"computed fields depend on each other in a circle, so none can be the first: {cycle}; "
                f"only a field with store=True may depend on itself in another record, as along a tree"
            ) from None
        last: dict[str, int] = {}
        for place, key in enumerate(order):
            node = self.nodes[key]
            node.place = place
            edges = self._edges[key]
            node.rank = max(
                (self.nodes[k].rank + crossed for k, crossed in edges.items()), default=0
            )
            last[key[0]] = max(last.get(key[0], 0), node.rank)
        # Each field now gets the highest rank that the fields depending on it allow.
        latest: dict[Key, int] = {}
        for key in reversed(order):
            node = self.nodes[key]
            node.rank = latest.get(key, last[key[0]])
            for below, crossed in self._edges[key].items():
                turn = node.rank - crossed
                latest[below] = min(latest.get(below, turn), turn)

    # -- paths --------------------------------------------------------------------------------

    def _walk(
        self, node: Node, steps: tuple[Step, ...], model: str, path: str, prefix: str
    ) -> None:
        bound = self._bound(model)
        head, _, rest = path.partition(".")
        head_field = self._field(node, bound, head)
        if head_field.computed is not None and not head_field.stored:
            formula = self.nodes[model, head].formula
            if head_field.computed.related and rest:
                self._walk(node, steps, model, f"{head_field.computed.related}.{rest}", prefix)
            elif rest:
                raise ConfigurationError(
                    f"{_path_of(node)}: @depends names {path!r}, but {model}.{head} is not stored, so nobody "
                    f"can find the records that it leads to; give it store=True"
                )
            for dependency in formula.depends:
                self._walk(node, steps, model, dependency, prefix)
            return
        name = head_field.name
        if not steps:
            node.reads.add(name)
        elif self._are_of_one_family(model, node.key[0]):
            node.is_circular = True
            if (model, name) == node.key and steps not in node.recursion:
                node.recursion.append(steps)
        self._note(self.written.setdefault((model, name), {}), node, steps)
        crossing = bound.schema.crossing(path)
        if crossing is None or not crossing.rest:
            self._check_related(node, bound, path)
        if crossing is None:
            self._check_plain(node, bound, path)
            return
        here = crossing.path if crossing.owned else head
        if head_field.structure is None and not isinstance(head_field, Relation):
            if crossing.rest:
                raise ConfigurationError(
                    f"{_path_of(node)}: @depends names {path!r}: the records of a list of relations are not "
                    f"loaded together; use a Many2many"
                )
            return
        if crossing.single and not crossing.rest:
            return  # the id in the field identifies the record
        node.prefetch.add(f"{prefix}{here}")
        for step in self._steps(bound, crossing):
            if step.forward:
                self._note(self.written.setdefault((step.source, step.head), {}), node, steps)
            else:
                back_steps = (*steps, step)
                self._note(self.written.setdefault((step.target, step.head), {}), node, back_steps)
                self._note(self.created.setdefault(step.target, {}), node, back_steps)
            steps = (*steps, step)
            self._note(self.deleted.setdefault(step.target, {}), node, steps)
        if crossing.rest:
            target = self._target(crossing.field)
            self._walk(node, steps, target, crossing.rest, f"{prefix}{here}.")
            for member, name in self._computed_in(target, crossing.rest.partition(".")[0]):
                # A stored field has the triggers of its base, see _join_families; any other is
                # computed when it is read, from what its own class says.
                if member != target and not self._bound(member).schema.fields[name].stored:
                    self._walk(node, steps, member, crossing.rest, f"{prefix}{here}.")

    def _steps(self, bound: BoundModel, crossing: Any) -> Sequence[Step]:
        relation, model = crossing.field, bound.model._name
        target = self._target(relation)
        if crossing.owned:
            return [Step(model, target, crossing.path, forward=True)]
        if isinstance(relation, Many2many) and relation.through is not None:
            link, near, far = link_of(self._app, bound.model, relation)
            between = link.model._name
            return [
                Step(model, between, near.name, forward=False),
                Step(between, target, far.name, forward=True),
            ]
        assert isinstance(relation, ToMany)
        inverse = inverse_of(target_of(self._app, relation), relation)
        return [Step(model, target, inverse.name, forward=False)]

    @staticmethod
    def _note(triggers: dict[Trigger, None], node: Node, steps: tuple[Step, ...]) -> None:
        if node.formula.field.stored:
            triggers[Trigger(*node.key, steps)] = None

    def _check_plain(self, node: Node, bound: BoundModel, path: str) -> None:
        if "." not in path:
            return
        try:
            bound.schema.resolve(path)
        except DomainError as error:
            raise ConfigurationError(
                f"{_path_of(node)}: @depends names {path!r}: {error}"
            ) from None

    def _check_related(self, node: Node, bound: BoundModel, path: str) -> None:
        """Refuse a related field that would show, or store, the value of a secret one."""
        own: Any = node.formula.field
        if own.computed.related and (own.stored or not holds_secrets(own)):
            head, _, rest = path.partition(".")
            field: Any = (
                bound.schema.resolve(path).field if rest else self._field(node, bound, head)
            )
            if holds_secrets(field):
                raise ConfigurationError(
                    f"{_path_of(node)}: related= leads to {bound.model._name}.{path}, which is secret"
                ).coded("secret_path")

    def _field(self, node: Node, bound: BoundModel, head: str) -> Any:
        fields = bound.schema.fields
        field = fields.get({"id": "_id", "pk": "_id"}.get(head, head))
        if field is None:
            raise ConfigurationError(
                f"{_path_of(node)}: @depends names {head!r}, and {bound.model._name} has no such field"
                f"{nearest(head, fields)}"
            )
        return field

    def _bound(self, model: str) -> BoundModel:
        return self._app.bind(self._app.model(model))

    def _target(self, relation: Any) -> str:
        return target_of(self._app, relation).model._name

    def _join_families(self) -> None:
        """Give each class the triggers of its bases, because its records are records of those."""
        for bound in self.models:
            model = bound.model._name
            for base in bound.view.names:
                if base == model:
                    continue
                for triggers_of in (self.created, self.deleted):
                    triggers_of.setdefault(model, {}).update(triggers_of.get(base, {}))
                for name in bound.schema.fields:
                    # A computed field of the record itself already has a trigger in its own class.
                    triggers = [t for t in self.written.get((base, name), ()) if t.steps]
                    if triggers:
                        self.written.setdefault((model, name), {}).update(dict.fromkeys(triggers))

    # -- what is never owed -------------------------------------------------------------------

    @cached_property
    def urgent(self) -> Mapping[Key, str]:
        """The stored fields that are always computed in the transaction of a change, with the reason.

        Raises:
            ConfigurationError: Such a field says ``recompute="later"``.
        """
        return urgent_fields(self._app, self)

    @property
    def models(self) -> Iterable[BoundModel]:
        """The models that the App can use."""
        return _bound_models(self._app)

    @property
    def stored(self) -> Iterator[Key]:
        """The stored fields."""
        return (key for key, node in self.nodes.items() if node.formula.field.stored)

    def following_keys(self, model: str, names: Iterable[str]) -> set[Key]:
        """Return the stored fields that follow from fields of a model, at any distance, and these."""
        waiting: list[Key] = [(model, name) for name in names]
        reached = set(waiting)
        while waiting:
            for trigger in self.written.get(waiting.pop(), ()):
                key = trigger.model, trigger.field
                if key not in reached:
                    reached.add(key)
                    waiting.append(key)
        return reached

    def by_way_of_others(self, model: str, names: Iterable[str] | None) -> set[str]:
        """Return a model's fields that follow, by way of other records, from a change of fields.

        The values of the changed records themselves may be among them.

        Args:
            model: The model.
            names: The names of the changed fields; None for the creation of a record.
        """
        near = {(model, name) for name in names or ()}
        waiting = list(near)
        far: list[Key] = []
        if names is None:
            far += [(t.model, t.field) for t in self.created.get(model, ())]
        while waiting:
            for trigger in self.written.get(waiting.pop(), ()):
                key = trigger.model, trigger.field
                if trigger.steps:
                    far.append(key)
                elif key not in near:
                    near.add(key)
                    waiting.append(key)
        reached = set(far)
        while far:
            for trigger in self.written.get(far.pop(), ()):
                key = trigger.model, trigger.field
                if key not in reached:
                    reached.add(key)
                    far.append(key)
        return {name for other, name in reached if other == model}

    def later(self, model: str, names: Iterable[str]) -> set[str]:
        """Return those of a model's fields that are owed whatever the number of records."""
        return {n for n in names if recompute_of(self.nodes[model, n]) == "later"}

    def computed_along(self, model: str, path: str) -> Iterator[Key]:
        """Yield the computed fields that a path leads through, in each class of a family."""
        waiting = [(model, path)]
        seen: set[tuple[str, str]] = set()
        while waiting:
            model, path = waiting.pop()
            for member in (model, *self._subclasses.get(model, ())):
                bound = self._bound(member)
                field = bound.schema.fields.get(path.partition(".")[0])
                if field is None or (member, path) in seen:
                    continue
                seen.add((member, path))
                if (member, field.name) in self.nodes:
                    yield member, field.name
                crossing = bound.schema.crossing(path)
                if crossing is not None and crossing.rest:
                    waiting.append((self._target(crossing.field), crossing.rest))

    def lagging(self, model: str, path: str) -> str | None:
        """Return a stored field that a path leads through, or is computed from, and that may be owed."""
        known = self._lagging.get((model, path))
        if known is None:
            known = self._lagging[model, path] = self._find_lagging(model, path)
        return known or None

    def _find_lagging(self, model: str, path: str) -> str:
        waiting = list(self.computed_along(model, path))
        seen = set(waiting)
        while waiting:
            key = waiting.pop()
            node = self.nodes[key]
            if not node.formula.field.stored:
                new = self._edges[key].keys() - seen
                seen |= new
                waiting += new
            elif key not in self.urgent and (
                self.limit is not None or recompute_of(node) == "later"
            ):
                return ".".join(key)
        return ""

    def inputs(self, key: Key) -> Collection[Key]:
        """Return the computed fields that a field reads."""
        return self._edges[key]

    def following(self, model: str, names: Iterable[str]) -> list[str]:
        """Return the same fields as they are noted in an owed document: ``"model.field"`` each."""
        return sorted(map(".".join, self.following_keys(model, names)))

    def has_all(self, fields: Iterable[str]) -> bool:
        """Return whether each of these is a stored field here: ``"model.field"`` each."""
        known = {".".join(key) for key in self.stored}
        return known.issuperset(fields)

    # -- plans --------------------------------------------------------------------------------

    def plan(self, model: str, names: Iterable[str]) -> Plan:
        """Return the plan that computes fields of a model.

        It includes fields of the same record and rank that depend on them.
        """
        key = model, frozenset(names)
        result = self._plans.get(key)
        if result is None:
            result = self._plans[key] = self._make_plan(*key)
        return result

    def _make_plan(self, model: str, names: frozenset[str]) -> Plan:
        for name in names:
            if (model, name) in self._unusable:
                raise self._unusable[model, name]
        wanted = {self.nodes[model, name] for name in names}
        waiting = list(wanted)
        while waiting:
            node = waiting.pop()
            for trigger in self.written.get(node.key, ()):
                below = self.nodes[trigger.model, trigger.field]
                if not trigger.steps and below.rank == node.rank and below not in wanted:
                    wanted.add(below)
                    waiting.append(below)
        nodes = tuple(sorted(wanted, key=lambda node: node.place))
        reads = {name for node in nodes for name in node.reads} | {node.key[1] for node in nodes}
        links = {
            link
            for node in nodes
            for trigger in self.written.get(node.key, ())
            if (link := trigger.link) is not None
        }
        whole = any(node.is_circular for node in nodes)
        paths = sorted({path for node in nodes for path in node.prefetch})
        return Plan(
            nodes,
            None if whole else frozenset(reads | links),
            prefetch_tree(paths),
            frozenset(links),
            f"recompute {model}: {', '.join(node.key[1] for node in nodes)}",
            frozenset(steps for node in nodes for steps in node.recursion),
        )


class Dependencies:
    """The graph of an App's models; it is made again if models were defined since."""

    def __init__(self, app: App, limit: int | None) -> None:
        self._app, self._limit = app, limit
        self._graph: Graph | None = None
        self._version = -1

    @property
    def is_needed(self) -> bool:
        """True if the graph was requested before, and a model has a computed field."""
        return self._graph is not None and bool(self._graph.nodes)

    def graph(self) -> Graph:
        """Return the graph of the App's models.

        Raises:
            ConfigurationError: Fields depend on each other in a circle, or on a path that doesn't
                exist.
        """
        if self._graph is None or self._version != registry.version():
            version = registry.version()
            self._graph = Graph(self._app, self._limit)
            self._version = version
        return self._graph


def _bound_models(app: App) -> Iterable[BoundModel]:
    for model in app.known_models():
        try:
            yield app.bind(model)
        except EarnORMError:
            continue  # a model that this App cannot use raises the error when it is used


def _path_of(node: Node) -> str:
    return f"{node.key[0]}.{node.key[1]}"
