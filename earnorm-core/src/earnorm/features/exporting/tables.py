"""Queries and RecordSets as tables: ``to_pandas()``, ``to_polars()`` and ``to_arrow()`` of both."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from earnorm.features.exporting.export import (
    Columns,
    Table,
    arrow_of,
    library,
    pandas_of,
    polars_of,
)
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import PURPOSE
from earnorm.kernel.pauses import each_part, pause
from earnorm.kernel.serving.requests import Stream
from earnorm.model.reading.streaming import BATCH, batches

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from earnorm.model.query import Query
    from earnorm.model.recordset import RecordSet

_CALLS: Final = "to_pandas(), to_polars() or to_arrow()"


def records_to_pandas(records: RecordSet[Any]) -> pandas.DataFrame:
    """Return records as a pandas DataFrame; see ``RecordSet.to_pandas``."""
    return pandas_of(dict(_table_of(records).pandas()))


def records_to_polars(records: RecordSet[Any]) -> polars.DataFrame:
    """Return records as a Polars DataFrame; see ``RecordSet.to_polars``."""
    return polars_of(dict(_table_of(records).polars()))


def records_to_arrow(records: RecordSet[Any]) -> pyarrow.Table:
    """Return records as an Arrow table; see ``RecordSet.to_arrow``."""
    return arrow_of(dict(_table_of(records).arrow()))


def _table_of(records: RecordSet[Any]) -> Table:
    """Make a table of records, with the fields that are loaded in all of them."""
    need_feature("exporting", _CALLS)
    schema, all_records = records._model._schema, list(records)
    fetches = [record._fetch for record in all_records if record.is_stored]
    names = {f.name for f in schema.stored if all(fetch.knows(f.name) for fetch in fetches)}
    table = Table(schema, names)
    table.add(map(_document, all_records))
    return table


def _document(record: Any) -> dict[str, Any]:
    document: dict[str, Any] = record._stored()
    record._stored_links(document, type(record)._schema.to_many)
    return document


async def query_to_pandas(query: Query[Any]) -> pandas.DataFrame:
    """Load a query as a pandas DataFrame; see ``Query.to_pandas``."""
    library("pandas")
    return pandas_of(await _made((await _load(query)).pandas()))


async def query_to_polars(query: Query[Any]) -> polars.DataFrame:
    """Load a query as a Polars DataFrame; see ``Query.to_polars``."""
    library("polars")
    return polars_of(await _made((await _load(query)).polars()))


async def query_to_arrow(query: Query[Any]) -> pyarrow.Table:
    """Load a query as an Arrow table; see ``Query.to_arrow``."""
    library("pyarrow", extra="arrow")
    return arrow_of(await _made((await _load(query)).arrow()))


async def _made(columns: Columns) -> dict[str, Any]:
    """Make all columns of a table, with a pause after each."""
    made: dict[str, Any] = {}
    for name, column in columns:
        made[name] = column
        await pause()
    return made


async def _load(query: Query[Any]) -> Table:
    """Load a query batch by batch, without making a record for each row."""
    need_feature("exporting", _CALLS)
    bound, op = query._operation("search", current_env(), Stream(BATCH))
    op = op.with_note(PURPOSE, "export")
    if bound.withholding is not None:
        await bound.withholding.ready(query._reader(op.env))
    table = Table(bound.schema, bound.shown(query._reader(op.env), op.options.fields))
    async with aclosing(batches(op)) as cursor:
        async for documents in cursor:
            await each_part(table.add, documents)
    return table
