"""Whatever a model is made of (abstract bases, bases with collections of their own, families, extensions), it
has each of their rules and field rights, and the rights of the nearest class that says any."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, assume, event, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import (
    AccessDenied,
    ConfigurationError,
    Int,
    PluginError,
    Principal,
    act_as,
    hookimpl,
    models,
    system,
)
from earnorm.plugin import ModelView
from earnorm_security import Access, FieldRights, Rule
from tests.plugins.security.conftest import Opener
from tests.plugins.security.generated import examples

SIZE = 7
"""The largest number of classes of a tree; each may hide the records of its own number."""
numbers = itertools.count()


@dataclass
class Node:
    """A class of a tree: what it is, its bases, and what its body says."""

    kind: str  # "abstract", "model", "extension"
    bases: list[int]
    extends: int | None
    says: frozenset[str]
    cls: Any = field(default=None, repr=False)


@st.composite
def trees(draw: Any) -> tuple[list[Node], bool]:
    """Draw classes, each made of some before it, and whether the first model is the root of a family."""
    nodes: list[Node] = []
    kinds = draw(
        st.lists(st.sampled_from(["abstract", "abstract", "model", "extension"]), max_size=SIZE - 1)
    )
    for kind in [*kinds, "model"]:
        abstract = [n for n, node in enumerate(nodes) if node.kind == "abstract"]
        stored = [n for n, node in enumerate(nodes) if node.kind == "model"]
        bases = (
            draw(st.lists(st.sampled_from(abstract), unique=True, max_size=2)) if abstract else []
        )
        extends = None
        if kind == "extension":
            if not stored:
                continue
            extends = draw(st.sampled_from(stored))
        elif kind == "model" and stored and draw(st.booleans()):
            bases.insert(draw(st.integers(0, len(bases))), draw(st.sampled_from(stored)))
        says = draw(st.frozensets(st.sampled_from(["rules", "access", "fields"])))
        nodes.append(Node(kind, bases, extends, says))
    return nodes, draw(st.booleans())


# -- the reference --------------------------------------------------------------------------------


class Reference:
    """What holds for each model of a tree, from the graph of its classes alone."""

    def __init__(self, nodes: list[Node], *, has_family: bool) -> None:
        self.nodes, self.has_family = nodes, has_family
        self.models = [n for n, node in enumerate(nodes) if node.kind == "model"]

    def made_of(self, number: int) -> set[int]:
        return {number}.union(*(self.made_of(base) for base in self.nodes[number].bases))

    def in_family(self, number: int) -> bool:
        return self.has_family and self.models[0] in self.made_of(number)

    def extended(self, number: int) -> set[int]:
        """The extensions of a model, with their bases; those of its bases in a family as well."""
        of = self.made_of(number) if self.in_family(number) else {number}
        of = {n for n in of if n == number or self.in_family(n)}
        return set().union(
            *(self.made_of(n) for n, node in enumerate(self.nodes) if node.extends in of)
        )

    def all_that_say(self, number: int, what: str) -> set[int]:
        classes = self.made_of(number) | self.extended(number)
        return {n for n in classes if what in self.nodes[n].says}

    def readers(self, number: int) -> set[int] | None:
        """The classes whose rows grant the right to read; None if nobody says any, and all may."""
        said = {n for n in self.made_of(number) if "access" in self.nodes[n].says}
        near = {n for n in said if not any(n != m and n in self.made_of(m) for m in said)}
        if len(near) > 1:
            raise ConfigurationError("two bases differ")
        classes = self.extended(number) - self.made_of(number)
        added = {n for n in classes if "access" in self.nodes[n].says}
        return near | added if near or added else None

    def reads(self, number: int, role: int) -> bool:
        readers = self.readers(number)
        return readers is None or role in readers

    def below(self, number: int) -> list[int]:
        """The model, and the classes below it whose records it finds."""
        if not self.in_family(number):
            return [number]
        return [n for n in self.models if number in self.made_of(n)]

    def answer(self, number: int, role: int) -> Any:
        """What who has one class's role reads: pairs of a record's model and number, and hidden fields."""
        if not self.reads(number, role):
            return "denied"
        classes = self.below(number)
        pairs = {
            (n, value)
            for n in classes
            if self.reads(n, role)
            for value in set(range(SIZE)) - self.all_that_say(n, "rules")
        }
        hidden = set().union(*(self.all_that_say(n, "fields") for n in classes))
        return pairs, hidden if pairs else set()


# -- the classes ----------------------------------------------------------------------------------


def made(nodes: list[Node], *, has_family: bool) -> Iterator[type]:
    """Make the classes of a tree."""
    world = next(numbers)
    fields = {"kind_of": Int(), **{name: Int() for name in ["n", *(f"f{n}" for n in range(SIZE))]}}
    common = type(
        "Common", (models.BaseModel,), {"__module__": __name__, "_abstract": True, **fields}
    )
    reference = Reference(nodes, has_family=has_family)
    for number, node in enumerate(nodes):
        body: dict[str, Any] = {"__module__": __name__}
        if node.kind == "abstract":
            body["_abstract"] = True
        elif node.kind == "extension":
            assert node.extends is not None
            body["_inherit"] = nodes[node.extends].cls._name
        else:
            body["_name"] = f"inheriting.m{world}_{number}"
            if has_family and number == reference.models[0]:
                body["_discriminator"] = "kind"
            elif not reference.in_family(number):
                body["_collection"] = f"inheriting_{number}"
        if "rules" in node.says:
            body["_rules"] = [Rule(f"r{number}", [("n", "!=", number)])]
        if "access" in node.says:
            body["_access"] = [Access(f"role{number}", read=True)]
        if "fields" in node.says:
            body["_field_rights"] = [FieldRights(f"f{number}", read=[])]
        bases = tuple(nodes[base].cls for base in node.bases)
        if not any(issubclass(base, common) for base in bases):
            bases = (*bases, common)
        node.cls = type(f"C{number}", bases, body)
        yield node.cls


class Brings:
    """A plugin that brings the extensions of a tree."""

    api = 1
    name = "brings_extensions"

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    @hookimpl
    def register_models(self) -> list[type]:
        return [node.cls for node in self._nodes if node.kind == "extension"]


async def answered(model: Any, role: int) -> Any:
    with act_as(Principal("ann", [f"role{role}"])):
        try:
            records = await model.search()
        except AccessDenied:
            return "denied"
    pairs = {(record.kind_of, record.n) for record in records}
    hidden = [{n for n in range(SIZE) if f"f{n}" not in record.to_dict()} for record in records]
    assert all(one == hidden[0] for one in hidden)
    return pairs, hidden[0] if hidden else set()


@pytest.mark.fuzz
@settings(
    deadline=None, max_examples=examples(60), phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
@given(tree=trees())
async def test_nothing_that_a_class_is_made_of_is_lost(
    opened: Opener, tree: tuple[list[Node], bool]
) -> None:
    nodes, has_family = tree
    reference = Reference(nodes, has_family=has_family)
    classes: list[Any] = []
    try:
        try:
            classes += made(nodes, has_family=has_family)
        except TypeError:  # Python finds no order of the bases
            assume(False)
        async with opened(plugins=(Brings(nodes),)) as app:
            try:
                for number in reference.models:
                    reference.readers(number)
            except ConfigurationError:
                event("two bases differ")
                with (
                    system(reason="a look at each"),
                    pytest.raises(ConfigurationError, match=r"_access of C\d and of C\d differ"),
                ):
                    for number in reference.models:
                        await app.model(nodes[number].cls._name).count()
                return
            found = {number: app.model(nodes[number].cls._name) for number in reference.models}
            with system(reason="the records"):
                for number, model in found.items():
                    await model.create([{"n": n, "kind_of": number} for n in range(SIZE)])
            for number, model in found.items():
                if len(reference.all_that_say(number, "rules")) > 1:
                    event("several rules" + " in a family" * reference.in_family(number))
                for role in range(len(nodes)):
                    assert await answered(model, role) == reference.answer(number, role), (
                        number,
                        role,
                    )
    except PluginError as error:  # so with the bases of an extension
        assert "cannot be extended" in str(error)
        assume(False)
    finally:
        for cls in classes:
            if ModelView(cls).extends is None and not vars(cls).get("_abstract"):
                earnorm.forget(cls)
