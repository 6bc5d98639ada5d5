"""The laws of record rules, on generated rules, principals, domains and changes, on a real server.

The oracle reads the declarations anew, one document at a time, and knows nothing of the plugin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import (
    AccessDenied,
    App,
    Domain,
    Operation,
    PerRecord,
    Principal,
    Update,
    act_as,
    current_env,
    hookimpl,
    models,
    system,
)
from earnorm.fields import Int, List, String
from earnorm.plugin import DocumentBatch, Stage, Step
from earnorm_security import Rule
from tests.plugins.security.generated import examples

ROLES = ("a", "b")


def given_by(name: str) -> Callable[[Any], Any]:
    return lambda env: env.context[name]


class Sample(models.BaseModel):
    _name = "security.sample"
    _rules = [
        rule
        for right, rights in (("read", ["read"]), ("change", ["write", "unlink", "create"]))
        for rule in (
            Rule(f"{right}-all", given_by(f"{right}_all"), operations=rights),
            Rule(f"{right}-a", given_by(f"{right}_a"), roles=["a"], operations=rights),
            Rule(f"{right}-b", given_by(f"{right}_b"), roles=["b"], operations=rights),
        )
    ]
    number = Int()
    text = String(db_name="t")
    tags = List(String())


class Filling:
    """Fills in the values of the context's ``filled``, where an operation has none of its own."""

    api = 1
    name = "filling"

    @hookimpl
    def register_steps(self, app, model):
        return [Step(Stage.STAMP, "filling", fill)] if model.name == Sample._name else []


def fill(batch: DocumentBatch) -> None:
    for row in batch.rows:
        for name, value in batch.env.context.get("filled", {}).items():
            row.fill(name, value)


NUMBERS = st.none() | st.integers(0, 3)
TEXTS = st.none() | st.sampled_from(["", "x", "xy", "Y"])
TAGS = st.none() | st.lists(st.sampled_from(["x", "y"]), max_size=2)
CONDITIONS = st.one_of(
    st.tuples(st.just("number"), st.sampled_from(["=", "!="]), NUMBERS),
    st.tuples(st.just("number"), st.sampled_from(["<", "<=", ">", ">="]), st.integers(0, 3)),
    st.tuples(st.just("number"), st.sampled_from(["in", "not in"]), st.lists(NUMBERS, max_size=3)),
    st.tuples(st.just("text"), st.sampled_from(["=", "!="]), TEXTS),
    st.tuples(st.just("text"), st.sampled_from(["like", "ilike", "not like"]), st.just("x")),
    st.tuples(st.just("tags"), st.sampled_from(["=", "!=", "in"]), st.sampled_from(["x", "y"])),
)
DOMAINS = st.recursive(
    CONDITIONS.map(lambda c: Domain([c])) | st.sampled_from([Domain.TRUE, Domain.FALSE]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] & p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] | p[1]),
        inner.map(lambda d: ~d),
    ),
    max_leaves=4,
)
# Half of them are true, so that enough writes reach a record and are allowed.
WIDE = st.booleans().flatmap(lambda all: st.just(Domain.TRUE) if all else DOMAINS)
RULES = st.fixed_dictionaries(
    {f"{right}_{who}": WIDE for right in ("read", "change") for who in ("all", "a", "b")}
)
VALUES = {"number": NUMBERS, "t": TEXTS, "tags": TAGS}
DOCUMENTS = st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=6)
PRINCIPALS = st.sampled_from([None, (), ("a",), ("b",), ROLES, ROLES]).map(
    lambda roles: None if roles is None else Principal("p", roles)
)
CHANGES = (
    st.fixed_dictionaries({}, optional=VALUES)
    .flatmap(
        lambda sets: st.builds(
            lambda unset: {
                operator: spec
                for operator, spec in (
                    ("$set", sets),
                    ("$unset", {key: "" for key in unset if key not in sets}),
                )
                if spec
            },
            st.sets(st.sampled_from(sorted(VALUES)), max_size=1),
        )
    )
    .filter(bool)
)
LAW = settings(deadline=None, max_examples=examples(120))


class World:
    """One App on one loop, refilled for every example."""

    def __init__(self, runner: asyncio.Runner, app: App) -> None:
        self._runner, self.app = runner, app
        self._raw = app.dangerous_raw("to look at the database itself")[Sample._collection]

    def run(self, work: Callable[[], Any]) -> Any:
        async def inside() -> Any:
            with self.app.activate():
                return await work()

        return self._runner.run(inside())

    async def fill(self, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        await self._raw.delete_many({})
        rows = [{"_id": number, **document} for number, document in enumerate(documents)]
        from bson import ObjectId

        rows = [{**row, "_id": ObjectId(f"{row['_id']:024d}")} for row in rows]
        await self._raw.insert_many([dict(row) for row in rows])
        return rows

    async def stored(self) -> list[dict[str, Any]]:
        return await self._raw.find({}).sort("_id", 1).to_list()

    def allows(self, rules: dict[str, Domain], principal: Principal | None, right: str) -> Any:
        """The oracle: whether a document passes the rules of a right."""
        roles = principal.roles if principal else frozenset()
        everywhere = self.app.matcher(Sample, rules[f"{right}_all"])
        some = [self.app.matcher(Sample, rules[f"{right}_{r}"]) for r in ROLES if r in roles]
        return lambda document: everywhere(document) and any(m(document) for m in some)


@contextmanager
def made(opened: Any, *plugins: object) -> Iterator[World]:
    with asyncio.Runner() as runner:
        context = opened(plugins=plugins)
        app = runner.run(context.__aenter__())
        try:
            yield World(runner, app)
        finally:
            # Its token belongs to the context of another run.
            app._token = None
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture
def world(opened) -> Iterator[World]:
    with made(opened) as plain:
        yield plain


@pytest.fixture(params=["plain", "filled"])
def written_world(opened, request) -> Iterator[World]:
    """Without and with a step that fills values in."""
    with made(opened, *([Filling()] if request.param == "filled" else [])) as either:
        yield either


def acting(
    principal: Principal | None, rules: dict[str, Domain], filled: dict[str, Any] | None = None
) -> ExitStack:
    from earnorm.kernel.environment import use_env

    stack = ExitStack()
    env = stack.enter_context(act_as(principal or "nobody", **rules, filled=filled or {}))
    if principal is None:
        stack.enter_context(use_env(env.replace(principal=None)))
    return stack


@pytest.fixture
def filled(written_world: World) -> Any:
    """Values that a step fills in, by field; none in an App without the step."""
    if all(info.name != "filling" for info in written_world.app.plugins):
        return st.just({})
    return st.fixed_dictionaries({}, optional={"number": NUMBERS, "text": TEXTS, "tags": TAGS})


def keys(documents: Any) -> list[Any]:
    return sorted(document["_id"] for document in documents)


@pytest.mark.fuzz
def test_search_and_count_give_what_domain_and_rules_leave(world):
    @LAW
    @given(DOCUMENTS, WIDE, RULES, PRINCIPALS)
    def law(documents, domain, rules, principal):
        async def check():
            rows = await world.fill(documents)
            allowed = world.allows(rules, principal, "read")
            wanted = world.app.matcher(Sample, domain)
            with acting(principal, rules):
                found = await Sample.search(domain)
                counted = await Sample.count(domain)
            expected = keys(row for row in rows if wanted(row) and allowed(row))
            assert sorted(record.pk for record in found) == expected
            assert counted == len(expected)

        world.run(check)

    law()


def changed(
    row: dict[str, Any], operators: dict[str, Any], filled: dict[str, Any]
) -> dict[str, Any]:
    """The document after a write; a value is filled in where the write does not touch its field."""
    unset = operators.get("$unset", {})
    asked = {**row, **operators.get("$set", {})}
    touched = {*unset, *operators.get("$set", {})}
    asked.update((k, v) for k, v in stored_names(filled).items() if k not in touched)
    return {k: v for k, v in asked.items() if k not in unset}


def with_filled(document: dict[str, Any], filled: dict[str, Any]) -> dict[str, Any]:
    """A new document; a value is filled in where it has none."""
    missing = {k: v for k, v in stored_names(filled).items() if document.get(k) is None}
    return {**document, **missing}


def stored_names(values: dict[str, Any]) -> dict[str, Any]:
    return {Sample._schema.fields[name].db_name: value for name, value in values.items()}


async def outcome(world: World, op: Operation) -> int | None:
    """The number of records matched, or None where it was refused."""
    try:
        return await world.app.execute(op)
    except AccessDenied:
        return None


def expect(rows, rules, principal, world, domain, after):
    """What the rules say: the documents afterwards, and how many were matched (None: refused)."""
    readable = world.allows(rules, principal, "read")
    changeable = world.allows(rules, principal, "change")
    wanted = world.app.matcher(Sample, domain)
    hit = [row for row in rows if wanted(row) and readable(row)]
    images = {row["_id"]: after(row) for row in hit}
    refused = any(
        not changeable(row) or (images[row["_id"]] and not changeable(images[row["_id"]]))
        for row in hit
    )
    if refused:
        return rows, None
    new = (images.get(row["_id"], row) for row in rows)
    return [row for row in new if row], len(hit)


@pytest.mark.fuzz
def test_a_write_reaches_exactly_the_readable_records_or_is_refused_as_a_whole(
    written_world, filled
):
    world, seen = written_world, set()

    @LAW
    @given(DOCUMENTS, WIDE, RULES, PRINCIPALS, CHANGES, filled)
    def law(documents, domain, rules, principal, operators, values):
        async def check():
            rows = await world.fill(documents)
            with acting(principal, rules, values):
                op = Operation("write", Sample, current_env(), domain, Update(operators))
                result = await outcome(world, op)
            expected, count = expect(
                rows, rules, principal, world, domain, lambda row: changed(row, operators, values)
            )
            assert result == count
            assert await world.stored() == expected
            seen.add(result if result is None else result > 0)

        world.run(check)

    law()
    assert {None, True, False} <= seen, "the cases were not all generated"


@pytest.mark.fuzz
def test_changes_for_each_record_obey_the_same_law(written_world, filled):
    world = written_world

    @LAW
    @given(DOCUMENTS, WIDE, RULES, PRINCIPALS, st.lists(CHANGES, min_size=6, max_size=6), filled)
    def law(documents, domain, rules, principal, changes, given):
        async def check():
            rows = await world.fill(documents)
            by_key = {row["_id"]: change for row, change in zip(rows, changes, strict=False)}
            values = PerRecord({key: Update(change) for key, change in by_key.items()})
            with acting(principal, rules, given):
                op = Operation("write", Sample, current_env(), domain, values)
                result = await outcome(world, op)
            expected, count = expect(
                rows,
                rules,
                principal,
                world,
                domain,
                lambda row: changed(row, by_key[row["_id"]], given),
            )
            assert result == count
            assert await world.stored() == expected

        world.run(check)

    law()


@pytest.mark.fuzz
def test_unlink_obeys_the_same_law(world):
    @LAW
    @given(DOCUMENTS, WIDE, RULES, PRINCIPALS)
    def law(documents, domain, rules, principal):
        async def check():
            rows = await world.fill(documents)
            with acting(principal, rules):
                result = await outcome(world, Operation("unlink", Sample, current_env(), domain))
            expected, count = expect(rows, rules, principal, world, domain, lambda row: None)
            assert result == count
            assert await world.stored() == expected

        world.run(check)

    law()


@pytest.mark.fuzz
def test_create_stores_all_documents_or_none(written_world, filled):
    world = written_world

    @LAW
    @given(DOCUMENTS, RULES, PRINCIPALS, filled)
    def law(documents, rules, principal, values):
        async def check():
            rows = await world.fill(documents)
            await world._raw.delete_many({})
            allowed = world.allows(rules, principal, "change")
            with acting(principal, rules, values):
                op = Operation("create", Sample, current_env(), values=[dict(r) for r in rows])
                result = await outcome(world, op)
            rows = [with_filled(row, values) for row in rows]
            fits = all(allowed(row) for row in rows)
            assert (result is not None) == fits
            assert await world.stored() == (rows if fits else [])

        world.run(check)

    law()


@pytest.mark.fuzz
def test_what_is_hidden_changes_no_answer(written_world, filled):
    """Two databases that differ only in hidden records cannot be told apart."""
    world = written_world

    @LAW
    @given(DOCUMENTS, WIDE, RULES, PRINCIPALS, CHANGES, filled)
    def law(documents, domain, rules, principal, operators, values):
        async def answers():
            with acting(principal, rules, values):
                found = await Sample.search(domain)
                counted = await Sample.count(domain)
                op = Operation("write", Sample, current_env(), domain, Update(operators))
                written = await outcome(world, op)
            return sorted(record.pk for record in found), counted, written

        async def check():
            rows = await world.fill(documents)
            visible = [r for r in rows if world.allows(rules, principal, "read")(r)]
            with_hidden = await answers()
            await world._raw.delete_many({})
            if visible:
                await world._raw.insert_many([dict(row) for row in visible])
            assert await answers() == with_hidden

        world.run(check)

    law()


def test_system_passes_every_rule(world):
    nothing = {f"{r}_{w}": Domain.FALSE for r in ("read", "change") for w in ("all", "a", "b")}

    async def check():
        rows = await world.fill([{"number": 1}, {"number": 2}])
        with acting(None, nothing), system(reason="look"):
            assert sorted(r.pk for r in await Sample.search()) == keys(rows)
            assert await Sample.search().delete() == 2

    world.run(check)
