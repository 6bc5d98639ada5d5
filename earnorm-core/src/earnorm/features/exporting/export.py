"""Records as a table of pandas, Polars or Arrow: a column for each field, typed by the field.

A library is imported only when its table is made. Columns are collected from documents in stored
form, batch by batch, so that no record is made for a row.
"""

from __future__ import annotations

import datetime
import importlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    ErrorDetail,
    UnreadableDocument,
)
from earnorm.fields.base import MISSING, Field
from earnorm.fields.identifiers import UUID, Binary, ObjectIdField
from earnorm.fields.money import Money
from earnorm.fields.network import IPAddress
from earnorm.fields.numeric import Boolean, Decimal, Float, Int
from earnorm.fields.relational import Relation, ToMany
from earnorm.fields.sets import Set
from earnorm.fields.structured import Embedded, List
from earnorm.fields.temporal import Date, DateTime, Duration, Time
from earnorm.fields.text import String
from earnorm.fields.vector import Vector

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from earnorm.model.schema import Schema

# The first entry that fits a field counts; a field that fits none becomes JSON.
_KINDS: Final[tuple[tuple[type[Any] | tuple[type[Any], ...], str], ...]] = (
    (Boolean, "bool"),
    (Int, "int"),
    (Float, "float"),
    (Decimal, "decimal"),
    (DateTime, "datetime"),
    (Date, "date"),
    (Time, "time"),
    (Duration, "duration"),
    (Binary, "binary"),
    ((List, Set, Vector, ToMany), "list"),
    ((Embedded, Money), "struct"),
    ((String, ObjectIdField, UUID, Relation, IPAddress), "text"),
)


class Column:
    """One field as a column, or as a part of one."""

    def __init__(self, name: str, field: Field[Any, Any] | None, kind: str = "") -> None:
        self.name = name
        self.field: Any = field
        self.kind = kind or next((k for c, k in _KINDS if isinstance(field, c)), "json")
        self.values: list[Any] = []
        self.places: int = getattr(field, "decimal_places", None) or 0
        self.item: Column | None = None
        self.parts: list[Column] = []
        if self.kind == "list":
            if isinstance(field, List | Set):
                self.item = Column("item", field._item)
            else:
                self.item = Column("item", None, "float" if isinstance(field, Vector) else "text")
        elif self.kind == "struct":
            whole: Any = field
            parts: Any = (
                whole.model._schema.stored
                if isinstance(field, Embedded)
                else tuple(whole.parts.values())
            )
            self.parts = [
                Column(part.name.rpartition(".")[2], part) for part in parts if not part.secret
            ]
        self._converter = _CONVERTERS.get(self.kind)

    def add(self, document: Mapping[str, Any]) -> None:
        """Add the value of one document."""
        self.values.append(self._value_in(document))

    def _value_in(self, document: Mapping[str, Any]) -> Any:
        value = document.get(self.field.db_name, MISSING)
        if value is MISSING:  # a record would read the default as well
            default = self.field.default_value()
            value = None if default is None else self.field.encode(default)
        return self.convert(value)

    def convert(self, value: Any) -> Any:
        """Convert a stored value to the table's form."""
        if value is None:
            return None
        if self._converter is not None:
            return self._converter(value)
        if self.kind == "list" and self.item is not None and isinstance(value, list):
            return list(map(self.item.convert, value))
        if self.kind == "struct" and isinstance(value, dict):
            return {part.name: part._value_in(value) for part in self.parts}
        if self.kind == "decimal":
            return self._decimal(value)
        return self.field.decode(value)

    def _decimal(self, value: Any) -> Any:
        number = self.field.decode(value)
        if not number.is_finite():
            return None  # a column of decimals cannot contain NaN
        self.places = max(self.places, -number.as_tuple().exponent)
        return number


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _utc(value: Any) -> Any:
    return value.replace(tzinfo=datetime.UTC) if isinstance(value, datetime.datetime) else value


_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("bool", "int", "float"), lambda value: value),
    "text": str,
    "binary": bytes,
    "datetime": _utc,
    "date": lambda value: value.date() if isinstance(value, datetime.datetime) else value,
    "json": _json,
}


Columns = Iterator[tuple[str, Any]]
"""The columns of a library's table, each with its name and made when it is asked for."""


def pandas_of(columns: Mapping[str, Any]) -> pandas.DataFrame:
    """Make a pandas DataFrame of columns."""
    frame: pandas.DataFrame = library("pandas").DataFrame(columns)
    return frame


def polars_of(columns: Mapping[str, Any]) -> polars.DataFrame:
    """Make a Polars DataFrame of columns."""
    frame: polars.DataFrame = library("polars").DataFrame(list(columns.values()))
    return frame


def arrow_of(columns: Mapping[str, Any]) -> pyarrow.Table:
    """Make an Arrow table of columns."""
    table: pyarrow.Table = library("pyarrow", extra="arrow").table(columns)
    return table


class Table:
    """Columns that grow document by document.

    Args:
        schema: The model's schema.
        names: The fields to take; None means all stored fields.
    """

    def __init__(self, schema: Schema, names: Collection[str] | None = None) -> None:
        self._schema = schema
        self._columns = [
            Column("id" if field.name == "_id" else field.name, field)
            for field in schema.stored
            if not field.secret and (names is None or field.name in names)
        ]
        self._ids: list[Any] = []

    def add(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Add the values of documents."""
        for document in documents:
            self._ids.append(document.get("_id"))
            for column in self._columns:
                try:
                    column.add(document)
                except EarnORMError:
                    raise
                except Exception as error:
                    raise self._unreadable(column, -1, error) from None

    def pandas(self) -> Columns:
        """Yield the columns of a pandas DataFrame."""
        pd = library("pandas")
        return self._built(lambda c: pd.Series(c.values, dtype=_PANDAS.get(c.kind, "object")))

    def polars(self) -> Columns:
        """Yield the columns of a Polars DataFrame."""
        pl = library("polars")
        return self._built(lambda c: pl.Series(c.name, c.values, _polars_type(pl, c)))

    def arrow(self) -> Columns:
        """Yield the columns of an Arrow table."""
        pa = library("pyarrow", extra="arrow")
        return self._built(lambda c: pa.array(c.values, _arrow_type(pa, c)))

    def _built(self, build: Callable[[Column], Any]) -> Columns:
        for column in self._columns:
            yield column.name, self._build(column, build)

    def _build(self, column: Column, build: Callable[[Column], Any]) -> Any:
        try:
            return build(column)
        except BaseException as error:
            if not _is_of_value(error):
                raise
            # Each library raises its own errors, and their texts show the value.
            raise self._unreadable(column, self._row_of(column, build), error) from None

    def _row_of(self, column: Column, build: Callable[[Column], Any]) -> int | None:
        """Find the first row whose value alone makes no column; None if each of them does."""
        values = column.values
        try:
            for row, value in enumerate(values):
                column.values = [value]
                try:
                    build(column)
                except BaseException as error:
                    if not _is_of_value(error):
                        raise
                    return row
        finally:
            column.values = values
        return None

    def _unreadable(
        self, column: Column, row: int | None, error: BaseException
    ) -> UnreadableDocument:
        pk = None if row is None else self._ids[row]
        place = (column.name,) if pk is None else (str(pk), column.name)
        message = f"the column holds a value that is no {column.kind} ({type(error).__name__})"
        detail: ErrorDetail = {"loc": place, "msg": message, "type": "unreadable_value"}
        return UnreadableDocument(self._schema.name, [detail], ids=() if pk is None else (pk,))


def _is_of_value(error: BaseException) -> bool:
    """Return whether a library refused a value: Polars also panics, which is no ``Exception``."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def library(name: str, *, extra: str = "") -> Any:
    """Import a library that the core does not depend on.

    Raises:
        ConfigurationError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.partition(".")[0] != name:
            raise
        raise ConfigurationError(
            f'{name} is not installed: pip install "earnorm-core[{extra or name}]"'
        ) from missing


_PANDAS: Final = {
    "text": "string",
    "int": "Int64",
    "float": "float64",
    "bool": "boolean",
    "datetime": "datetime64[ms, UTC]",
    "date": "datetime64[s]",
    "duration": "timedelta64[ms]",
    "json": "string",
}
"""The dtypes that allow unset values; decimals, lists and structures are Python objects."""

_POLARS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": lambda pl: pl.String,
    "json": lambda pl: pl.String,
    "int": lambda pl: pl.Int64,
    "float": lambda pl: pl.Float64,
    "bool": lambda pl: pl.Boolean,
    "datetime": lambda pl: pl.Datetime("ms", "UTC"),
    "date": lambda pl: pl.Date,
    "time": lambda pl: pl.Time,
    "duration": lambda pl: pl.Duration("ms"),
    "binary": lambda pl: pl.Binary,
}

_ARROW: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": lambda pa: pa.string(),
    "json": lambda pa: pa.string(),
    "int": lambda pa: pa.int64(),
    "float": lambda pa: pa.float64(),
    "bool": lambda pa: pa.bool_(),
    "datetime": lambda pa: pa.timestamp("ms", tz="UTC"),
    "date": lambda pa: pa.date32(),
    "time": lambda pa: pa.time64("us"),
    "duration": lambda pa: pa.duration("ms"),
    "binary": lambda pa: pa.binary(),
}


def _polars_type(pl: Any, column: Column) -> Any:
    if column.kind == "decimal":
        return pl.Decimal(38, column.places)
    if column.item is not None:
        return pl.List(_polars_type(pl, column.item))
    if column.kind == "struct":
        return pl.Struct({part.name: _polars_type(pl, part) for part in column.parts})
    return _POLARS[column.kind](pl)


def _arrow_type(pa: Any, column: Column) -> Any:
    if column.kind == "decimal":
        return pa.decimal128(38, column.places)
    if column.item is not None:
        return pa.list_(_arrow_type(pa, column.item))
    if column.kind == "struct":
        return pa.struct([(part.name, _arrow_type(pa, part)) for part in column.parts])
    return _ARROW[column.kind](pa)
