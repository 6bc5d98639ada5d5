"""What a change in one model means for stored computed fields of others: the graph of one App's models.

A path such as ``partner_id.country_id.vat`` is walked once. Each relation on it becomes a :class:`Step`, and
each field, and each way to come or go, a :class:`Trigger`: which field of which model is to be computed again,
and by which steps its records are found from the one that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConfigurationError, DomainError, EarnORMError, nearest
from earnorm.features.computed.computing import Formula
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import Relation, ToMany
from earnorm.kernel import registry
from earnorm.model.relations.ghosts import inverse_of, link_of, target_of
from earnorm.model.relations.prefetch import prefetch_tree

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

Key = tuple[str, str]
"""A model and one of its fields."""


@dataclass(frozen=True, slots=True)
class Step:
    """One relation, seen from the record that has the computed field.

    Attributes:
        source: The model on this side.
        target: The model on the other side.
        holder: The path of the field that holds ids: of the source where ``forward``, else of the target.
        forward: The source's records hold the ids of the target's.
    """

    source: str
    target: str
    holder: str
    forward: bool

    @property
    def head(self) -> str:
        """The field that the holder's path begins with."""
        return self.holder.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Trigger:
    """A field to compute again, and how its records hang together with what changed."""

    model: str
    field: str
    steps: tuple[Step, ...]

    @property
    def link(self) -> str | None:
        """The field of the changed record that says whose it is, where there is one."""
        return self.steps[-1].head if self.steps and not self.steps[-1].forward else None


@dataclass(eq=False)
class Node:
    """One computed field in the graph.

    Attributes:
        rank: Its turn: whatever it depends on in other records has a lower one, and as many fields of a
            model as possible have the same, so that its records are read and written once.
        place: Its position in an order in which nothing comes before what it depends on.
        reads: The record's own fields that are read for it.
        prefetch: Paths of relations that are loaded for it.
        is_circular: A path leads back to its own model, so that records are loaded whole.
    """

    key: Key
    formula: Formula
    rank: int = 0
    place: int = 0
    reads: set[str] = field(default_factory=set[str])
    prefetch: set[str] = field(default_factory=set[str])
    is_circular: bool = False


@dataclass(frozen=True)
class Plan:
    """How some stored fields of one model are computed, in one go."""

    nodes: tuple[Node, ...]
    reads: frozenset[str] | None
    """The record's own fields to load; None for all."""
    tree: Mapping[str, Any]
    """Relations to load beside them."""
    links: frozenset[str]
    """Fields that lead from these records to others which depend on what is computed here."""
    reason: str
    """Why the system computes them."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields."""
        return tuple(node.key[1] for node in self.nodes)

    @cached_property
    def loaded(self) -> frozenset[str] | None:
        """The record's own fields to load, its id among them; None for all."""
        return None if self.reads is None else self.reads | {"_id"}

    @cached_property
    def is_async(self) -> bool:
        """Whether any formula is a coroutine function."""
        return any(node.formula.is_async for node in self.nodes)

    def system(self, env: Env) -> Env:
        """The Env in which the fields are computed."""
        return replace(env, system=True, reason=self.reason)


class Graph:
    """The computed fields of an App's models.

    Args:
        app: The App that sees the models.

    Raises:
        ConfigurationError: Fields depend on each other in a circle, or on a path that does not exist.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.nodes: dict[Key, Node] = {}
        self.written: dict[Key, dict[Trigger, None]] = {}
        """What follows when a field is written."""
        self.created: dict[str, dict[Trigger, None]] = {}
        self.deleted: dict[str, dict[Trigger, None]] = {}
        self._edges: dict[Key, dict[Key, bool]] = {}
        self._plans: dict[tuple[str, frozenset[str]], Plan] = {}
        for bound in _bound_models(app):
            for name, formula in (f.by_name if (f := bound.schema.formulas) else {}).items():
                self.nodes[bound.model._name, name] = Node((bound.model._name, name), formula)
        for node in self.nodes.values():
            self._edges[node.key] = {}
            for path in node.formula.depends:
                self._connect(node, node.key[0], path)
        self._order()
        for node in self.nodes.values():
            for path in node.formula.depends:
                self._walk(node, (), node.key[0], path, "")
        self._join_families()

    # -- order --------------------------------------------------------------------------------

    def _connect(self, node: Node, model: str, path: str) -> None:
        """Note the computed fields that a path meets; ``True`` where it went to other records before."""
        crossed = False
        while True:
            bound = self._bound(model)
            head, _, _rest = path.partition(".")
            found = self._field(node, bound, head)
            if found.computed is not None:
                known = self._edges[node.key].get((model, head), False)
                self._edges[node.key][model, head] = known or crossed
                if not found.stored:
                    return  # what it depends on are edges of its own
            crossing = bound.schema.crossing(path)
            if crossing is None or not crossing.rest:
                return
            model, path, crossed = self._target(crossing.field), crossing.rest, True

    def _order(self) -> None:
        try:
            order = list(TopologicalSorter(self._edges).static_order())
        except CycleError as error:
            cycle = " → ".join(f"{model}.{name}" for model, name in reversed(error.args[1]))
            raise ConfigurationError(
                f"computed fields depend on each other in a circle, so none can be the first: {cycle}"
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
        # As late as what depends on it allows.
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
        found = self._field(node, bound, head)
        if found.computed is not None and not found.stored:
            formula = self.nodes[model, head].formula
            if found.computed.related and rest:
                self._walk(node, steps, model, f"{found.computed.related}.{rest}", prefix)
            elif rest:
                raise ConfigurationError(
                    f"{_shown(node)}: @depends names {path!r}, but {model}.{head} is not stored, so nobody "
                    f"can find the records that it leads to; give it store=True"
                )
            for each in formula.depends:
                self._walk(node, steps, model, each, prefix)
            return
        name = found.name
        if not steps:
            node.reads.add(name)
        elif model == node.key[0]:
            node.is_circular = True
        self._note(self.written.setdefault((model, name), {}), node, steps)
        crossing = bound.schema.crossing(path)
        if crossing is None:
            self._check_plain(node, bound, path)
            return
        here = crossing.path if crossing.owned else head
        if found.structure is None and not isinstance(found, Relation):
            if crossing.rest:
                raise ConfigurationError(
                    f"{_shown(node)}: @depends names {path!r}: the records of a list of relations are not "
                    f"loaded together; use a Many2many"
                )
            return
        if crossing.single and not crossing.rest:
            return  # which record it is says the id
        node.prefetch.add(f"{prefix}{here}")
        for step in self._steps(bound, crossing):
            if step.forward:
                self._note(self.written.setdefault((step.source, step.head), {}), node, steps)
            else:
                back = (*steps, step)
                self._note(self.written.setdefault((step.target, step.head), {}), node, back)
                self._note(self.created.setdefault(step.target, {}), node, back)
            steps = (*steps, step)
            self._note(self.deleted.setdefault(step.target, {}), node, steps)
        if crossing.rest:
            target = self._target(crossing.field)
            self._walk(node, steps, target, crossing.rest, f"{prefix}{here}.")

    def _steps(self, bound: BoundModel, crossing: Any) -> Sequence[Step]:
        relation, model = crossing.field, bound.model._name
        target = self._target(relation)
        if crossing.owned:
            return [Step(model, target, crossing.path, forward=True)]
        if isinstance(relation, Many2many) and relation.through is not None:
            link, near, far = link_of(self._app, model, relation)
            between = link.model._name
            return [
                Step(model, between, near.name, forward=False),
                Step(between, target, far.name, forward=True),
            ]
        assert isinstance(relation, ToMany)
        inverse = inverse_of(target_of(self._app, relation), relation)
        return [Step(model, target, inverse.name, forward=False)]

    @staticmethod
    def _note(place: dict[Trigger, None], node: Node, steps: tuple[Step, ...]) -> None:
        if node.formula.field.stored:
            place[Trigger(*node.key, steps)] = None

    def _check_plain(self, node: Node, bound: BoundModel, path: str) -> None:
        if "." not in path:
            return
        try:
            bound.schema.resolve(path)
        except DomainError as error:
            raise ConfigurationError(f"{_shown(node)}: @depends names {path!r}: {error}") from None

    def _field(self, node: Node, bound: BoundModel, head: str) -> Any:
        fields = bound.schema.fields
        found = fields.get({"id": "_id", "pk": "_id"}.get(head, head))
        if found is None:
            raise ConfigurationError(
                f"{_shown(node)}: @depends names {head!r}, and {bound.model._name} has no such field"
                f"{nearest(head, fields)}"
            )
        return found

    def _bound(self, model: str) -> BoundModel:
        return self._app.bind(self._app.model(model))

    def _target(self, relation: Any) -> str:
        return target_of(self._app, relation).model._name

    def _join_families(self) -> None:
        """Let a change of a record count for what depends on the classes that its own is a part of."""
        for bound in _bound_models(self._app):
            model = bound.model._name
            for base in bound.view.names:
                if base == model:
                    continue
                for place in (self.created, self.deleted):
                    place.setdefault(model, {}).update(place.get(base, {}))
                for name in bound.schema.fields:
                    # What lies in the record itself is a field of its own class as well.
                    found = [t for t in self.written.get((base, name), ()) if t.steps]
                    if found:
                        self.written.setdefault((model, name), {}).update(dict.fromkeys(found))

    # -- plans --------------------------------------------------------------------------------

    def plan(self, model: str, names: Iterable[str]) -> Plan:
        """How these fields of a model are computed, and those of their rank on the same record that
        depend on them."""
        key = model, frozenset(names)
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = self._make_plan(*key)
        return found

    def _make_plan(self, model: str, names: frozenset[str]) -> Plan:
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
        )


class Dependencies:
    """The graph of an App's models, made again where models were defined since."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._graph: Graph | None = None
        self._version = -1

    @property
    def is_needed(self) -> bool:
        """Whether the graph was asked for, and any model computes a field."""
        return self._graph is not None and bool(self._graph.nodes)

    def graph(self) -> Graph:
        """The computed fields of the App's models.

        Raises:
            ConfigurationError: They depend on each other in a circle, or on a path that doesn't exist.
        """
        if self._graph is None or self._version != registry.version():
            version = registry.version()
            self._graph = Graph(self._app)
            self._version = version
        return self._graph


def _bound_models(app: App) -> Iterable[BoundModel]:
    for model in app.known_models():
        try:
            yield app.bind(model)
        except EarnORMError:
            continue  # a model that cannot be used here says so when it is used


def _shown(node: Node) -> str:
    return f"{node.key[0]}.{node.key[1]}"
