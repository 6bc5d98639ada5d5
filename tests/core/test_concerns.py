"""Read concern, write concern and read preference per App, model, query and transaction; the default time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import earnorm
from earnorm import App, BaseModel, ConfigurationError, OperationTimeout, String, TransactionError

from .conftest import DRIVERS, Commands, Watching, default_app
from .failpoints import failing
from .shop import Person


class Report(BaseModel):
    """It asks for something of its own."""

    _name = "core.report"
    _read_concern = "majority"
    _write_concern = {"w": 1, "j": True}
    _read_preference = "secondaryPreferred"

    title = String()


@pytest.fixture(params=DRIVERS)
async def asking(request: pytest.FixtureRequest, database: str) -> Any:
    """An App that asks for all three."""
    listener = Commands()
    settings = {"read_concern": "local", "write_concern": 1, "read_preference": "nearest"}
    async with default_app(request.param, database, [Watching(listener)], **settings):
        listener.clear()
        yield listener


def of(commands: Commands, name: str) -> dict[str, Any]:
    return commands.named(name)[-1]


async def test_an_app_says_it_for_everything(asking: Commands) -> None:
    await Person.create({"name": "Ann"})
    assert of(asking, "insert")["writeConcern"] == {"w": 1}
    await Person.search()
    assert of(asking, "find")["readConcern"] == {"level": "local"}
    await Person.search().update({"age": 1})
    assert of(asking, "update")["writeConcern"] == {"w": 1}


async def test_a_model_says_it_over_the_app(asking: Commands) -> None:
    await Report.create({"title": "x"})
    assert of(asking, "insert")["writeConcern"] == {"w": 1, "j": True}
    await Report.count()
    assert of(asking, "aggregate")["readConcern"] == {"level": "majority"}


async def test_a_query_says_it_over_the_model(asking: Commands) -> None:
    await Report.search().read_concern("available").read_preference("primary")
    assert of(asking, "find")["readConcern"] == {"level": "available"}
    await Report.search(read_concern="linearizable", read_preference="primary")
    assert of(asking, "find")["readConcern"] == {"level": "linearizable"}
    await Report.search().write_concern("majority").delete()
    assert of(asking, "delete")["writeConcern"] == {"w": "majority"}
    assert [r async for r in Report.search().read_concern("snapshot")] == []
    assert of(asking, "find")["readConcern"]["level"] == "snapshot"
    await Report.search().read_concern("local").group(n=earnorm.Count())
    assert of(asking, "aggregate")["readConcern"] == {"level": "local"}


async def test_where_nothing_is_said_nothing_is_sent(commands: Commands) -> None:
    await Person.create({"name": "Ann"})
    await Person.search()
    assert "writeConcern" not in of(commands, "insert")
    assert "readConcern" not in of(commands, "find")
    assert "maxTimeMS" not in of(commands, "find")


async def test_a_transaction_has_its_own_else_the_apps(asking: Commands) -> None:
    async with earnorm.transaction():
        await Person.create({"name": "Ann"})
    assert of(asking, "insert")["readConcern"]["level"] == "local"
    assert of(asking, "commitTransaction")["writeConcern"] == {"w": 1}
    async with earnorm.transaction(read_concern="snapshot", write_concern="majority"):
        await Report.create({"title": "x"})
    assert of(asking, "insert")["readConcern"]["level"] == "snapshot"
    assert of(asking, "commitTransaction")["writeConcern"] == {"w": "majority"}


async def test_a_client_that_prefers_secondaries_has_transactions(database: str) -> None:
    options = {"readPreference": "secondaryPreferred", "appName": database}
    async with default_app("pymongo", database, client_options=options), earnorm.transaction():
        await Person.create({"name": "Ann"})
        assert await Person.count() == 1


async def test_a_query_in_a_transaction_cannot_differ_from_it(server_app: App) -> None:
    async with earnorm.transaction():
        for query in (
            Person.search().read_concern("majority"),
            Person.search().read_preference("secondary"),
        ):
            with pytest.raises(TransactionError, match="one read concern"):
                await query
        with pytest.raises(TransactionError, match="one read concern"):
            await Person.search().write_concern(1).delete()


UNKNOWN: list[tuple[Callable[[], Any], str]] = [
    (lambda: Person.search().read_concern("majorty"), "did you mean 'majority'"),  # type: ignore[arg-type] # that is the point
    (lambda: Person.search(read_preference="second"), "read_preference='second'"),  # type: ignore[arg-type] # that is the point
    (lambda: Person.search().write_concern(0), "from 1"),
    (lambda: Person.search().write_concern(True), "not valid"),
    (lambda: Person.search().write_concern("all"), "a number of members, 'majority'"),  # type: ignore[arg-type] # that is the point
    (lambda: Person.search().write_concern({"jj": True}), "write_concern has no 'jj'"),
    (lambda: Person.search().write_concern({"w": 1, "j": 1}), "j=1 is not valid"),
    (lambda: App("mongomock://", database="x", read_concern="strong"), "App: read_concern"),
    (lambda: App("mongomock://", database="x", write_concern=-1), "App: write_concern"),
    (lambda: App("mongomock://", database="x", default_timeout=0), "default_timeout"),
]


@pytest.mark.parametrize(("make", "said"), UNKNOWN)
def test_an_unknown_value_is_an_error_at_once(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


async def test_an_unknown_value_of_a_model_or_a_transaction_is_an_error(server_app: App) -> None:
    class Odd(BaseModel):
        _name = "core.odd_concern"
        _read_preference = "closest"  # type: ignore[assignment] # that is the point

    with pytest.raises(ConfigurationError, match=r"Odd: read_preference='closest'"):
        await Odd.count()
    for options, said in (
        ({"read_concern": "linearizable"}, "a transaction has local, majority, snapshot"),
        ({"read_preference": "secondary"}, "from the primary"),
        ({"write_concern": {"q": 1}}, "write_concern"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            async with earnorm.transaction(**options):  # type: ignore[arg-type] # that is the point
                pytest.fail("the block was entered")


async def test_memory_fulfils_every_concern(database: str) -> None:
    async with default_app("memory", database, read_preference="secondary", write_concern=3):
        await Report.create({"title": "x"})
        assert await Report.search().read_concern("majority").count() == 1


# -- the default time limit -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", DRIVERS)
async def test_a_default_limit_holds_for_reads_and_writes(
    kind: str, database: str, mongo_uri: str
) -> None:
    async with default_app(kind, database, default_timeout=0.15):
        ann = Person(name="Ann")
        assert await Person.search().timeout(30).count() == 0  # the indexes are there now
        names = ("find", "insert", "update", "delete", "aggregate")
        blocked = failing(mongo_uri, database, *names, blockConnection=True, blockTimeMS=500)
        runs: list[Callable[[], Any]] = [
            lambda: Person.search().limit(5),
            Person.count,
            ann.save,
            Person.search().delete,
        ]
        with blocked:
            for run in runs:
                with pytest.raises(OperationTimeout, match="core_person"):
                    await run()
            # What says something else has that.
            assert await Person.search().timeout(30).count() >= 0


async def test_a_stream_has_the_limit_for_each_batch(
    server_app: App, mongo_uri: str, database: str
) -> None:
    await Person.create({"name": "Ann"})
    with (
        failing(mongo_uri, database, "find", blockConnection=True, blockTimeMS=500),
        pytest.raises(OperationTimeout),
    ):
        async for _ in Person.search().timeout(0.1):
            pytest.fail("it came in time")
