"""Declared against existing: the law that what was created differs in nothing, and each way to differ."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    Boolean,
    CollectionOptions,
    ConfigurationError,
    DateTime,
    Dict,
    Index,
    Int,
    String,
)
from earnorm.backends.base import IndexSpec
from earnorm.features.indexes.comparison import compare

from .conftest import DRIVERS, drop

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "40"))


class Part(BaseModel):
    _name = "core.part"

    a = Int()
    b = String(db_name="bb")
    c = Boolean()
    d = DateTime()
    e = Dict()


class SharedPart(BaseModel):
    """Another model in the same collection."""

    _name = "core.shared_part"
    _collection = "core_part"

    z = Int()


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for model in (Part, SharedPart):  # they stay registered for the other tests
        model._indexes, model._options = (), None


# -- the law --------------------------------------------------------------------------------------

fields = st.sampled_from(["a", "b", "c", "d", "e.x", "e.y", "other"])
directions = st.sampled_from([1, -1])
collations = st.none() | st.one_of(
    st.sampled_from(["fr", "fr_CA", "vi", "simple"]),
    st.fixed_dictionaries(
        {"locale": st.sampled_from(["da", "en_US", "fr_CA", "th", "vi"])},
        optional={
            "strength": st.integers(3, 5),  # a lower one forbids the caseFirst that Danish has
            "caseLevel": st.booleans(),
            "numericOrdering": st.booleans(),
            "backwards": st.booleans(),
        },
    ),
)
conditions = st.sampled_from(
    [
        None,
        [("c", "=", True)],
        [("a", ">", 3), ("c", "=", False)],
        [("a", "in", [1, 2])],
        ["|", ("a", "=", 1), ("b", "=", "x")],
        [("b", ">=", "")],
    ]
)


def names(draw: Any) -> dict[str, Any]:
    return draw(st.sampled_from([{}, {}, {"name": f"n{draw(st.integers(0, 10**9))}"}]))  # type: ignore[no-any-return] # what draw() gives


@st.composite
def plain(draw: Any) -> Index:
    keys = draw(st.dictionaries(fields, directions, min_size=1, max_size=3))
    options: dict[str, Any] = {"hidden": draw(st.booleans()), "collation": draw(collations)}
    options |= {"unique": draw(st.booleans())} | names(draw)
    partial = draw(conditions)
    options |= {"partial": partial} if partial else {"sparse": draw(st.booleans())}
    if len(keys) == 1:
        options["expire_after"] = draw(st.sampled_from([None, None, 0, 60, 3600]))
    return Index(keys, **options)


@st.composite
def text(draw: Any) -> Index:
    paths = draw(st.lists(st.sampled_from(["b", "e.x", "e.y", "$**"]), min_size=1, unique=True))
    assume("$**" not in paths or len(paths) == 1)
    before = draw(st.sampled_from([(), ("a",)])) if "$**" not in paths else ()
    weights = draw(st.dictionaries(st.sampled_from(paths), st.integers(1, 9)))
    return Index(
        *before,
        *[(path, "text") for path in paths],
        *draw(st.sampled_from([(), ("-d",)])),
        weights=weights or None,
        language=draw(st.sampled_from([None, "english", "german", "none"])),
        language_field=draw(st.sampled_from([None, "language", "lang"])),
        **names(draw),
    )


special = st.sampled_from(
    [
        Index(("a", "hashed")),
        Index("c", ("a", "hashed"), "-b"),
        Index({"e.x": "2dsphere"}, "a"),
        Index({"e.y": "2d"}),
        Index("$**"),
        Index("$**", projection=["b", "e.x"]),
        Index("$**", projection={"b": False}),
        Index("e.$**"),
    ]
)
declarations = st.lists(plain() | text() | special, min_size=1, max_size=4)
options = st.sampled_from(
    [
        None,
        None,
        CollectionOptions(collation="fr"),
        CollectionOptions(collation={"locale": "fr_CA", "strength": 2}),
        CollectionOptions(clustered=True),
        CollectionOptions(capped_size=5000),
    ]
)


def possible(indexes: list[Index], kept: CollectionOptions | None) -> bool:
    """What the server can hold at once: one text index, one index of a name, none that differs from
    another only by its name."""
    texts = sum(any(kind == "text" for _, kind in index.keys) for index in indexes)
    keys = [index.keys for index in indexes]
    named = [
        index.name or "_".join(f"{path}_{kind}" for path, kind in index.keys) for index in indexes
    ]
    # A capped collection has no index that expires, in MongoDB 6.0.
    expiring = any("expireAfterSeconds" in index.options for index in indexes)
    is_capped = kept is not None and kept.capped_size is not None
    unique_keys = len(set(keys)) == len(keys) and len(set(named)) == len(named)
    return texts < 2 and unique_keys and not (expiring and is_capped)


class Bench:
    """An App on a loop that lives as long as one test, for examples that are plain functions."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        uri = os.environ["EARNORM_TEST_MONGO_URI"]
        self.app = App(uri, database=f"core_{uuid.uuid4().hex[:12]}", plugins=[])
        self.runner.run(self.app.start())

    def close(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await drop(self.app)
        await self.app.stop()

    def run(self, indexes: list[Index], kept: CollectionOptions | None) -> Any:
        """Drop, declare, create as a model's first use does, compare."""
        Part._indexes, Part._options = indexes, kept
        return self.runner.run(self._run())

    async def _run(self) -> Any:
        await self.app._backend.collection("core_part").drop()
        self.app._bound.clear()  # as another process that sees the model for the first time
        with self.app.activate():
            await Part.count()
        return await self.diff()

    async def diff(self) -> Any:
        (found,) = await self.app.indexes.diff([Part])
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


LAW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


@pytest.mark.filterwarnings("ignore:.*which the model does not declare")
@pytest.mark.fuzz
@LAW
@given(indexes=declarations, kept=options)
def test_what_was_created_differs_in_nothing(
    bench: Bench, indexes: list[Index], kept: CollectionOptions | None
) -> None:
    assume(possible(indexes, kept))
    diff = bench.run(indexes, kept)
    assert diff.is_in_step, f"{indexes} {[dict(i.options) for i in indexes]}\n{diff}"
    assert len(diff.ok) == len(indexes)


def changed(index: Index, how: str) -> Index:
    """The index with one thing that means something changed."""
    new = Index(dict(index.keys))
    new.name, new.partial = index.name, index.partial
    new.options, new.weights, new.projection = dict(index.options), index.weights, index.projection
    match how:
        case "order":
            new.keys = tuple(reversed(index.keys))
        case "direction":
            (path, kind), *rest = index.keys
            new.keys = ((path, -kind if isinstance(kind, int) else 1), *rest)
        case "expire_after":
            seconds = index.options.get("expireAfterSeconds", 0) + 1
            new.options = {**index.options, "expireAfterSeconds": seconds}
        case "collation":
            new.options = {**index.options, "collation": {"locale": "zu", "strength": 2}}
        case _:
            new.options = {**index.options, how: not index.options.get(how, False)}
    return new


@pytest.mark.filterwarnings("ignore:.*which the model does not declare")
@pytest.mark.fuzz
@LAW
@given(
    index=plain(),
    how=st.sampled_from(
        ["order", "direction", "expire_after", "collation", "unique", "hidden", "sparse"]
    ),
)
def test_one_change_of_a_declaration_is_a_difference(bench: Bench, index: Index, how: str) -> None:
    assume(how != "order" or len(index.keys) > 1)
    bench.run([index], None)
    Part._indexes = [changed(index, how)]
    diff = bench.runner.run(bench.diff())
    assert not diff.is_in_step and not diff.ok, f"{how} of {index}\n{diff}"
    assert len(diff.missing) + len(diff.different) == 1


@pytest.mark.filterwarnings("ignore:.*which the model does not declare")
@pytest.mark.fuzz
@settings(LAW, max_examples=max(EXAMPLES // 4, 1))
@given(before=declarations, after=declarations)
def test_whatever_was_there_dropping_and_syncing_bring_it_in_step(
    bench: Bench, before: list[Index], after: list[Index]
) -> None:
    assume(possible(before, None) and possible(after, None))
    bench.run(before, None)
    Part._indexes = after

    async def settle() -> Any:
        planned = await bench.app.indexes.sync([Part], replace=True, dry_run=True)
        assert not any(action.is_done for action in planned)
        await bench.app.indexes.drop_unused([Part])
        await bench.app.indexes.sync([Part], replace=True)
        return await bench.diff()

    diff = bench.runner.run(settle())
    assert diff.is_in_step, f"{before} to {after}\n{diff}"
    assert len(diff.ok) == len(after)


# -- each way to differ ---------------------------------------------------------------------------


async def the_diff(app: App) -> Any:
    (found,) = await app.indexes.diff([Part])
    return found


async def test_missing_different_and_undeclared_are_told_apart(server_app: App) -> None:
    raw = server_app.dangerous_raw("older indexes")["core_part"]
    await raw.create_index([("a", 1)], name="by_a")
    await raw.create_index([("bb", 1)], sparse=True)
    await raw.create_index([("d", 1)], expireAfterSeconds=60)
    await raw.create_index([("e", 1), ("a", 1)], name="mixed")
    await raw.create_index([("x", "text")])
    Part._indexes = [
        Index("a"),
        Index("b"),
        Index("d", expire_after=90),
        Index("a", "e", name="mixed"),
        Index("c"),
    ]
    diff = await the_diff(server_app)
    assert [spec.name for spec in diff.ok] == ["a_1"]  # whatever its name is
    assert [spec.name for spec in diff.missing] == ["c_1"]
    assert [d.existing.name for d in diff.different] == ["bb_1", "d_1", "mixed"]
    assert [index.name for index in diff.unused] == ["x_text"]
    said = str(diff)
    assert "sparse is declared as not set, and is True" in said
    assert "expireAfterSeconds is declared as 90, and is 60" in said
    assert "the keys a, e are declared" in said


async def test_a_name_that_is_declared_and_differs_is_told_and_harmless(
    server_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    raw = server_app.dangerous_raw("an older index")["core_part"]
    await raw.create_index([("a", 1)], name="by_a")
    Part._indexes = [Index("a", name="mine"), Index("b")]
    with caplog.at_level(logging.WARNING, logger="earnorm"):
        assert await Part.count() == 0
    assert "the name 'mine' is declared" in caplog.text
    diff = await the_diff(server_app)
    assert [spec.name for spec in diff.ok] == ["bb_1"] and len(diff.different) == 1


async def test_a_difference_at_first_use_says_which_and_what_and_changes_nothing(
    server_app: App,
) -> None:
    raw = server_app.dangerous_raw("an older index")["core_part"]
    await raw.create_index([("d", 1)], expireAfterSeconds=60)
    Part._indexes = [Index("d", expire_after=90)]
    with pytest.raises(ConfigurationError, match=r"declared as 90, and is 60.*sync --replace"):
        await Part.count()
    assert (await raw.index_information())["d_1"]["expireAfterSeconds"] == 60


async def test_the_values_of_a_condition_stay_out_of_a_report(server_app: App) -> None:
    Part._indexes = [Index("a", partial=[("b", "=", "secret")], name="p")]
    await Part.count()
    Part._indexes = [Index("a", partial=[("b", "=", "secret2")], name="p")]
    diff = await the_diff(server_app)
    assert "partialFilterExpression" in str(diff) and "secret" not in str(diff)


async def test_sync_creates_what_is_missing_and_leaves_the_rest(server_app: App) -> None:
    raw = server_app.dangerous_raw("an older index")["core_part"]
    await raw.create_index([("a", 1)], sparse=True)
    Part._indexes = [Index("a"), Index("b")]
    dry = await server_app.indexes.sync([Part], dry_run=True)
    assert [(a.kind, a.index, a.is_done) for a in dry] == [
        ("create", "bb_1", False),
        ("leave", "a_1", False),
    ]
    assert set(await raw.index_information()) == {"_id_", "a_1"}
    done = await server_app.indexes.sync([Part])
    assert [(a.kind, a.is_done) for a in done] == [("create", True), ("leave", False)]
    assert set(await raw.index_information()) == {"_id_", "a_1", "bb_1"}
    assert (await raw.index_information())["a_1"]["sparse"]


async def test_sync_with_replace_brings_everything_in_step(server_app: App) -> None:
    raw = server_app.dangerous_raw("older indexes")["core_part"]
    await raw.create_index([("a", 1)], sparse=True)
    await raw.create_index([("d", 1)], expireAfterSeconds=60)
    await raw.create_index([("bb", 1)], hidden=True)
    Part._indexes = [Index("a"), Index("d", expire_after=90), Index("b")]
    dry = await server_app.indexes.sync([Part], replace=True, dry_run=True)
    assert not any(action.is_done for action in dry)
    done = await server_app.indexes.sync([Part], replace=True)
    assert [(a.kind, a.index) for a in done] == [
        ("replace", "a_1"),
        ("modify", "d_1"),
        ("modify", "bb_1"),
    ]
    assert (await the_diff(server_app)).is_in_step


async def test_an_index_that_cannot_be_replaced_is_put_back(server_app: App) -> None:
    raw = server_app.dangerous_raw("documents that clash")["core_part"]
    await raw.insert_many([{"a": 1}, {"a": 1}])
    await raw.create_index([("a", 1)])
    Part._indexes = [Index("a", unique=True)]
    with pytest.raises(ConfigurationError, match="make them unique first"):
        await server_app.indexes.sync([Part], replace=True)
    assert set(await raw.index_information()) == {"_id_", "a_1"}


async def test_indexes_that_swapped_their_names_are_replaced_together(server_app: App) -> None:
    raw = server_app.dangerous_raw("older indexes")["core_part"]
    await raw.create_index([("a", 1)], name="two")
    await raw.create_index([("bb", 1)], name="one")
    Part._indexes = [Index("a", name="one"), Index("b", name="two")]
    await server_app.indexes.sync([Part], replace=True)
    assert (await the_diff(server_app)).is_in_step


async def test_a_hidden_index_is_no_error_and_told_by_diff(server_app: App) -> None:
    raw = server_app.dangerous_raw("an older index")["core_part"]
    await raw.create_index([("a", 1)], hidden=True)
    Part._indexes = [Index("a")]
    await Part.count()  # the server takes it for the same
    (difference,) = (await the_diff(server_app)).different
    assert difference.is_harmless and "hidden is declared as not set, and is True" in str(
        difference
    )


async def test_drop_unused_drops_what_no_model_declares_and_only_when_asked(
    server_app: App,
) -> None:
    raw = server_app.dangerous_raw("an older index")["core_part"]
    Part._indexes, SharedPart._indexes = [Index("a")], [Index("z")]
    await Part.count()
    await SharedPart.count()
    await raw.create_index([("old", 1)])
    dry = await server_app.indexes.drop_unused([Part], dry_run=True)
    assert [(a.kind, a.index, a.is_done) for a in dry] == [("drop", "old_1", False)]
    assert "old_1" in await raw.index_information()
    await server_app.indexes.drop_unused([Part])
    assert set(await raw.index_information()) == {"_id_", "a_1", "z_1"}


async def test_models_of_one_collection_must_agree(server_app: App) -> None:
    Part._indexes, SharedPart._indexes = [Index("z", name="z")], [Index("z", name="z", sparse=True)]
    with (
        pytest.warns(UserWarning, match="names 'z'"),
        pytest.raises(ConfigurationError, match=r"share the collection and declare the index 'z'"),
    ):
        await server_app.indexes.diff([Part])


async def test_in_memory_the_comparison_works_as_well(memory_app: App) -> None:
    Part._indexes = [
        Index("a", unique=True),
        Index("-b", "c", hidden=True, collation="fr"),
        Index(("b", "text"), weights={"b": 3}),
    ]
    missing = (await the_diff(memory_app)).missing
    assert [spec.name for spec in missing] == ["a_1", "bb_-1_c_1", "bb_text"]
    await Part.create({"a": 1})
    assert (await the_diff(memory_app)).is_in_step


def test_what_a_server_or_an_old_shell_adds_means_nothing() -> None:
    declared = [
        IndexSpec((("a", 1),), {"background": True, "sparse": False}),
        IndexSpec((("p", "2d"),), {"bits": 26}),
        IndexSpec((("f", 1),), {"partialFilterExpression": {"x": {"$eq": 1}, "y": 2.0}}),
    ]
    existing: list[dict[str, Any]] = [
        {"v": 2, "key": {"_id": 1}, "name": "_id_", "ns": "x.y"},
        {"v": 1, "key": {"a": 1.0}, "name": "a_1", "ns": "x.y", "background": False},
        {"v": 2, "key": {"p": "2d"}, "name": "p_2d", "min": -180, "max": 180.0},
        {"v": 2, "key": {"f": 1}, "name": "f_1", "partialFilterExpression": {"y": 2, "x": 1}},
    ]
    found = compare(declared, existing)
    assert len(found.ok) == 3 and not (found.missing or found.different or found.unused)


def test_a_condition_on_true_is_not_one_on_1() -> None:
    declared = IndexSpec((("f", 1),), {"partialFilterExpression": {"x": True}})
    existing = {"key": {"f": 1}, "name": "f_1", "partialFilterExpression": {"x": 1}}
    assert len(compare([declared], [existing]).different) == 1


# -- several processes ----------------------------------------------------------------------------

PROGRAM = """
    import asyncio, sys, time
    from earnorm import App, BaseModel, DateTime, Index, Int, String

    class Started(BaseModel):
        _collection = "started"
        _options = {"collation": "fr", "pre_images": True}
        _indexes = [Index("a", "-b"), Index("when", expire_after=3600), Index(("b", "text"))]
        a = Int(unique=True)
        b = String()
        when = DateTime()

    async def main():
        uri, database, driver, start, number = sys.argv[1:]
        async with App(uri, database=database, driver=driver, plugins=[]) as app:
            await asyncio.sleep(max(0, float(start) - time.time()))
            await Started.create({"a": int(number)})
            (diff,) = await app.indexes.diff([Started])
            assert diff.is_in_step and len(diff.ok) == 4, str(diff)

    asyncio.run(main())
"""


@pytest.mark.parametrize("driver", DRIVERS)
def test_processes_that_start_together_create_everything_once(driver: str, database: str) -> None:
    import time

    from pymongo import MongoClient

    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    code = textwrap.dedent(PROGRAM)
    start = str(time.time() + 2)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, uri, database, driver, start, str(number)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    with MongoClient[dict[str, Any]](uri) as client:
        try:
            failures = [p.communicate(timeout=60)[1] for p in processes]
            assert [p.returncode for p in processes] == [0, 0, 0, 0], failures
            assert failures == ["", "", "", ""]
            assert client[database]["started"].count_documents({}) == 4
        finally:
            client.drop_database(database)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_apps_that_start_together_create_everything_once(driver: str, database: str) -> None:
    Part._indexes = [Index("a", unique=True), Index("b", "-c"), Index(("b", "text"))]
    Part._options = {"capped_size": 4096}
    uri = os.environ["EARNORM_TEST_MONGO_URI"]

    async def one(number: int) -> bool:
        async with App(uri, database=database, driver=driver, plugins=[]) as app:
            await Part.create({"a": number})
            return (await the_diff(app)).is_in_step  # type: ignore[no-any-return] # the_diff is untyped

    async with App(uri, database=database, driver=driver, plugins=[]) as app:
        try:
            assert all(await asyncio.gather(*(one(number) for number in range(6))))
        finally:
            await drop(app)
