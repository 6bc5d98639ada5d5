"""The law of stored policies: they answer as the same rights and rules that are declared in Python.

Two Apps have one database. One is given the declarations in its settings, the other one has them stored.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import (
    AccessDenied,
    App,
    Int,
    Many2one,
    Principal,
    String,
    act_as,
    models,
    system,
)
from earnorm_security import Access, Role, Rule, SecurityPlugin, SecuritySettings, context, user
from earnorm_security.declarations import RECORD_RIGHTS, RIGHTS
from earnorm_security.stored import RoleAssignment, StoredPolicy, StoredRole
from tests.plugins.security.generated import examples

from .conftest import URI_VARIABLE

ROLES = ("a", "b", "c")
DOCUMENTS = [
    {"owner": owner, "size": size, "other": other}
    for owner in ("ann", "bob", None)
    for size in (1, 2)
    for other in (0, 1, None)
]


class Other(models.BaseModel):
    _name = "stored_laws.other"
    owner = String()


class Thing(models.BaseModel):
    _name = "stored_laws.thing"
    owner = String()
    size = Int()
    other_id = Many2one(Other)


class Given(models.BaseModel):
    """Has rights and rules of its own, to which the others are added."""

    _name = "stored_laws.given"
    _access = [Access("a", read=True, write=True), Access("b", read=True, export=False)]
    _rules = [
        Rule("small", [("size", "<", 2)], roles=["a"], operations=["read"]),
        Rule("no bob", [("owner", "!=", "bob")], roles=["b"], restrict=True),
    ]
    owner = String()
    size = Int()
    other_id = Many2one(Other)


VALUES: dict[str, list[Any]] = {
    "owner": ["ann", "bob", user.id, context.boss, None],
    "size": [1, 2, context.size],
    "other_id.owner": ["ann", user.id],
}
conditions = st.sampled_from(sorted(VALUES)).flatmap(
    lambda path: st.tuples(
        st.just(path), st.sampled_from(["=", "!="]), st.sampled_from(VALUES[path])
    )
)
domains = st.one_of(
    st.just([]),
    conditions.map(lambda one: [one]),
    st.tuples(st.sampled_from("&|"), conditions, conditions).map(list),
    conditions.map(lambda one: ["!", one]),
)
roles = st.lists(st.sampled_from(ROLES), max_size=2, unique=True)
access = st.builds(
    lambda role, rights: (role, tuple(rights)),
    st.sampled_from((*ROLES, "*")),
    st.lists(st.sampled_from(RIGHTS), min_size=1, max_size=4, unique=True),
)
rules = st.tuples(
    domains,
    roles,
    st.lists(st.sampled_from(RECORD_RIGHTS), min_size=1, max_size=4, unique=True),
    st.booleans(),
)
declarations = st.tuples(st.lists(access, max_size=3), st.lists(rules, max_size=3))
principals = st.one_of(
    st.none(),
    st.tuples(st.sampled_from(["ann", "bob"]), st.lists(st.sampled_from(ROLES), unique=True)),
)
contexts = st.fixed_dictionaries(
    {}, optional={"boss": st.just("bob"), "size": st.sampled_from([1, 2])}
)


def as_data(part: Any) -> Any:
    """Return a domain as it is stored."""
    if isinstance(part, list | tuple):
        return [as_data(item) for item in part]
    return {"var": repr(part)} if type(part).__name__ == "Variable" else part


class World:
    """Both Apps on one database, with the same documents."""

    def __init__(self, runner: asyncio.Runner, declared: App, stored: App) -> None:
        self.run, self.declared, self.stored = runner.run, declared, stored
        self.ids: dict[type, list[Any]] = {}

    async def fill(self) -> None:
        with self.stored.activate(), system(reason="test"):
            others = await Other.create([{"owner": "ann"}, {"owner": "bob"}])
            for model in (Thing, Given):
                rows = [
                    {
                        "owner": d["owner"],
                        "size": d["size"],
                        "other_id": None if d["other"] is None else others[d["other"]],
                    }
                    for d in DOCUMENTS
                ]
                self.ids[model] = [record.pk for record in await model.create(rows)]

    async def declare(self, model: Any, rights: Any, named: Any) -> None:
        """Give the declarations to both Apps."""
        service: Any = self.declared.services["security"]
        rows = [
            Access(role, **{right: right in granted for right in RIGHTS})
            for role, granted in rights
        ]
        made = [
            Rule(f"r{n}", domain, roles=for_roles, operations=about, restrict=restrict)
            for n, (domain, for_roles, about, restrict) in enumerate(named)
        ]
        service._settings = SecuritySettings(access={model._name: rows}, rules={model._name: made})
        service._policies.clear()
        self.declared.recompose()
        raw: Any = self.stored.dangerous_raw("policies are not deleted otherwise")
        await raw.security_policies.delete_many({})
        with self.stored.activate(), system(reason="test"):
            about_model = {"model": model._name}
            await StoredPolicy.create(
                [
                    {
                        **about_model,
                        "name": f"a{n}",
                        "kind": "right",
                        "roles": [role],
                        "operations": list(granted),
                    }
                    for n, (role, granted) in enumerate(rights)
                ]
                + [
                    {
                        **about_model,
                        "name": f"r{n}",
                        "roles": for_roles,
                        "operations": list(about),
                        "kind": "restriction" if restrict else "permission",
                        "domain": as_data(domain),
                    }
                    for n, (domain, for_roles, about, restrict) in enumerate(named)
                ]
                # The number of edits changes in any case.
                + [
                    {
                        "name": "none",
                        "model": "stored_laws.other",
                        "kind": "restriction",
                        "operations": ["read"],
                        "domain": [],
                    }
                ]
            )

    async def hand_out(self, who: Any) -> None:
        """Store the roles of a principal, who brings none along."""
        with self.stored.activate(), system(reason="test"):
            await RoleAssignment.search().delete()
            if who is not None and who[1]:
                await RoleAssignment.create([{"principal": who[0], "role": r} for r in who[1]])

    async def answers(
        self, app: App, model: Any, who: Any, values: Any, *, bring: bool
    ) -> list[Any]:
        """Return what a principal gets to know and may do; each change is undone."""
        with ExitStack() as stack:
            stack.enter_context(app.activate())
            if who is not None:
                principal = Principal(who[0], who[1] if bring else ())
                stack.enter_context(act_as(principal, **values))
            found: list[Any] = []
            for way in (
                lambda: model.search(order="id"),
                lambda: model.count(),
                lambda: model.search().group("owner", order="owner"),
                lambda: self._undone(lambda: model.search([("size", "=", 1)]).update({"size": 3})),
                lambda: self._undone(lambda: model.search().update({"owner": "ann"})),
                lambda: self._undone(lambda: model.search([("owner", "=", "ann")]).delete()),
                lambda: self._undone(lambda: model.create({"owner": "ann", "size": 1})),
            ):
                try:
                    answer = await way()
                except AccessDenied:
                    answer = "denied"
                found.append(answer.pks if hasattr(answer, "pks") else answer)
            return found

    async def _undone(self, change: Any) -> Any:
        from earnorm import transaction

        answer: Any = None
        try:
            async with transaction():
                answer = await change()
                raise ZeroDivisionError
        except ZeroDivisionError:
            return answer if isinstance(answer, int) else "created"


@contextmanager
def made_world(uri: str) -> Iterator[World]:
    name = f"stored_laws_{uuid.uuid4().hex[:10]}"
    with asyncio.Runner() as runner:
        plugins = [
            SecurityPlugin(SecuritySettings(roles=[Role("c", implies=["b"])])),
            SecurityPlugin(SecuritySettings(stored_policies=True, stored_roles=True)),
        ]
        declared, stored = (
            App(uri, database=name, plugins=[plugin], name=f"{name}_{n}")
            for n, plugin in enumerate(plugins)
        )
        runner.run(declared.start())
        runner.run(stored.start())
        world = World(runner, declared, stored)
        try:
            runner.run(world.fill())
            runner.run(implied(stored))
            yield world
        finally:

            async def drop() -> None:
                await stored.dangerous_raw("test").client.drop_database(name)
                await stored.stop()
                await declared.stop()

            runner.run(drop())


async def implied(app: App) -> None:
    with app.activate(), system(reason="test"):
        await StoredRole.create({"name": "c", "implies": ["b"]})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    import os

    with made_world(os.environ[URI_VARIABLE]) as made:
        yield made


@pytest.mark.fuzz
@pytest.mark.parametrize("model", [Thing, Given])
def test_stored_policies_answer_as_the_same_ones_in_python(world: World, model: Any) -> None:
    @settings(deadline=None, max_examples=examples(25))
    @given(declarations, st.lists(st.tuples(principals, contexts), min_size=2, max_size=3))
    def agree(declared: Any, actors: Any) -> None:
        world.run(check(declared, actors))

    async def check(declared: Any, actors: Any) -> None:
        await world.declare(model, *declared)
        for who, values in actors:
            await world.hand_out(who)
            expected = await world.answers(world.declared, model, who, values, bring=True)
            stored = await world.answers(world.stored, model, who, values, bring=False)
            assert stored == expected

    agree()
