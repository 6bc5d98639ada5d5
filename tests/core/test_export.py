"""to_pandas, to_polars, to_arrow: columns typed by the fields, with the real libraries."""

from __future__ import annotations

import datetime
import decimal
import sys
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from earnorm import (
    App,
    BaseModel,
    Boolean,
    ConfigurationError,
    Date,
    DateTime,
    Decimal,
    Embedded,
    EmbeddedModel,
    Float,
    Int,
    Json,
    List,
    Many2many,
    Many2one,
    Reference,
    String,
    ValidationError,
    hookimpl,
)

from .conftest import default_app
from .shop import Author

UTC = datetime.UTC


class Place(EmbeddedModel):
    city = String(db_name="c")
    level = Int()


class Trip(BaseModel):
    _name = "export.trip"

    name = String(required=True, db_name="n")
    number = Int()
    weight = Float()
    done = Boolean(default=True)
    price = Decimal()
    day = Date()
    at = DateTime()
    place = Embedded(Place)
    tags = List(String())
    extra = Json()
    author_id = Many2one(Author)


AT = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
DAY = datetime.date(2024, 5, 2)
ARROW = {
    "id": pa.string(),
    "name": pa.string(),
    "number": pa.int64(),
    "weight": pa.float64(),
    "done": pa.bool_(),
    "price": pa.decimal128(38, 0),
    "day": pa.date32(),
    "at": pa.timestamp("ms", tz="UTC"),
    "place": pa.struct([("city", pa.string()), ("level", pa.int64())]),
    "tags": pa.list_(pa.string()),
    "extra": pa.string(),
    "author_id": pa.string(),
}
POLARS = {
    "id": pl.String,
    "name": pl.String,
    "number": pl.Int64,
    "weight": pl.Float64,
    "done": pl.Boolean,
    "price": pl.Decimal(38, 0),
    "day": pl.Date,
    "at": pl.Datetime("ms", "UTC"),
    "place": pl.Struct({"city": pl.String, "level": pl.Int64}),
    "tags": pl.List(pl.String),
    "extra": pl.String,
    "author_id": pl.String,
}
PANDAS = {
    "id": "string",
    "name": "string",
    "number": "Int64",
    "weight": "float64",
    "done": "boolean",
    "price": "object",
    "day": "datetime64[s]",
    "at": "datetime64[ms, UTC]",
    "place": "object",
    "tags": "object",
    "extra": "string",
    "author_id": "string",
}


@pytest.fixture
async def trips(app: App) -> Any:
    ann = await Author.create({"name": "Ann"})
    return await Trip.create(
        [
            {
                "name": "a",
                "number": 3,
                "weight": 1.5,
                "done": False,
                "price": "12.50",
                "day": DAY,
                "at": AT,
                "place": {"city": "Hue", "level": 2},
                "tags": ["x", "y"],
                "extra": {"k": [1]},
                "author_id": ann,
            },
            {"name": "b", "price": "0.125"},
        ]
    )


def expected(trips: Any) -> list[dict[str, Any]]:
    empty = dict.fromkeys(ARROW)
    return [
        {
            "id": trips[0].id,
            "name": "a",
            "number": 3,
            "weight": 1.5,
            "done": False,
            "price": decimal.Decimal("12.50"),
            "day": DAY,
            "at": AT,
            "place": {"city": "Hue", "level": 2},
            "tags": ["x", "y"],
            "extra": '{"k": [1]}',
            "author_id": trips[0].author_id.id,
        },
        {
            **empty,
            "id": trips[1].id,
            "name": "b",
            "done": True,
            "price": decimal.Decimal("0.125"),
        },
    ]


async def test_arrow(trips: Any) -> None:
    table = await Trip.search(order="name").to_arrow()
    assert table.to_pylist() == expected(trips)
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        **ARROW,
        "price": pa.decimal128(38, 3),
    }
    assert (await Trip.search(order="name")).to_arrow().equals(table)


async def test_polars(trips: Any) -> None:
    frame = await Trip.search(order="name").to_polars()
    assert frame.to_dicts() == expected(trips)
    assert dict(frame.schema) == {**POLARS, "price": pl.Decimal(38, 3)}
    assert (await Trip.search(order="name")).to_polars().equals(frame)


async def test_pandas(trips: Any) -> None:
    frame = await Trip.search(order="name").to_pandas()
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == PANDAS
    first, second = expected(trips)
    row = frame.iloc[0].to_dict()
    assert row.pop("day") == pd.Timestamp(DAY) and row.pop("at") == pd.Timestamp(AT)
    first.pop("day"), first.pop("at")
    assert row == first
    unset = frame.iloc[1]
    assert unset["price"] == second["price"] and unset["done"]
    assert all(unset[[n for n in PANDAS if n not in ("id", "name", "done", "price")]].isna())
    same = (await Trip.search(order="name")).to_pandas()
    pd.testing.assert_frame_equal(same, frame)


async def test_an_empty_result_keeps_its_columns_and_types(app: App) -> None:
    nobody = Trip.search([("number", ">", 99)])
    frame = await nobody.to_pandas()
    assert len(frame) == 0
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == PANDAS
    assert dict((await nobody.to_polars()).schema) == POLARS
    table = await nobody.to_arrow()
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == ARROW
    assert list((await nobody).to_pandas().columns) == list(PANDAS)


async def test_only_and_window_hold(trips: Any) -> None:
    frame = await Trip.search(order="-name", limit=1).only("name", "number").to_polars()
    assert frame.columns == ["id", "name", "number"] and frame["name"].to_list() == ["b"]
    records = await Trip.search().only("number")
    assert records.to_arrow().column_names == ["id", "number"]


async def test_a_large_result_comes_whole(app: App) -> None:
    await Trip.create([{"name": f"{n:05}", "number": n} for n in range(4500)])
    frame = await Trip.search(order="name").to_polars()
    assert frame["number"].to_list() == list(range(4500))


async def test_a_stored_value_of_another_type_is_named_by_its_column(server_app: App) -> None:
    raw = server_app.dangerous_raw("another program")["export_trip"]
    await raw.insert_one({"n": "a", "number": "secret"})
    for export in (Trip.search().to_arrow, Trip.search().to_polars, Trip.search().to_pandas):
        with pytest.raises(ValidationError, match="number: the column holds") as caught:
            await export()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [
        ("to_pandas", "pandas", "pandas"),
        ("to_polars", "polars", "polars"),
        ("to_arrow", "pyarrow", "arrow"),
    ],
)
async def test_a_missing_library_is_named_with_its_extra(
    memory_app: App, monkeypatch: pytest.MonkeyPatch, method: str, module: str, extra: str
) -> None:
    records = await Trip.search()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf'pip install "earnorm-core\[{extra}\]"'):
        await getattr(Trip.search(), method)()
    with pytest.raises(ConfigurationError, match=rf'pip install "earnorm-core\[{extra}\]"'):
        getattr(records, method)()


class Hiding:
    """A layer that narrows every search."""

    api = 1
    name = "hiding"

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def narrow(op: Any, call_next: Any) -> Any:
            return await call_next(op.replace(domain=op.domain & (Trip.name == "a")))

        return [(100, narrow)] if operation == "search" else []


async def test_layers_hold(database: str) -> None:
    async with default_app("pymongo", database, [Hiding()]):
        await Trip.create([{"name": "a"}, {"name": "b"}])
        assert (await Trip.search().to_polars())["name"].to_list() == ["a"]


class Depot(BaseModel):
    _name = "export.depot"
    name = String()


class Cargo(BaseModel):
    _name = "export.cargo"
    name = String()
    depot_id = Many2one(Depot)
    depot_ids = Many2many(Depot)
    last = Reference(Depot)


async def test_a_link_to_a_record_that_is_gone_is_exported_as_its_id(app: App) -> None:
    kept, gone = await Depot.create([{"name": "kept"}, {"name": "gone"}])
    links = {"depot_id": gone, "depot_ids": [kept, gone], "last": gone}
    await Cargo.create([{"name": "a", **links}, {"name": "b", "depot_id": kept}])
    await gone.unlink()
    query = Cargo.search(order="name")
    found = await query.prefetch("depot_id", "depot_ids", "last")
    assert found[0].depot_id is not None and not found[0].depot_id.exists()
    for frame in (found.to_pandas(), await query.to_pandas()):
        assert list(frame["depot_id"]) == [gone.id, kept.id]
        assert list(frame["depot_ids"][0]) == [kept.id, gone.id]
        assert gone.id in str(frame["last"][0])
    assert found.to_polars()["depot_id"].to_list() == [gone.id, kept.id]
    assert found.to_arrow()["depot_id"].to_pylist() == [gone.id, kept.id]
    for depth in (0, 1):
        shown = found[0].to_dict(depth=depth)
        assert shown["depot_id"] == gone.id and str(gone.id) in found[0].to_json(depth=depth)
