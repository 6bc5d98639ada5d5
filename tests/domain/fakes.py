"""A small schema of its own for the tests of domains, which know no model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bson import Decimal128, ObjectId

from earnorm.domain import Path
from earnorm.exceptions import DomainError, nearest


def anything(value: Any) -> Any:
    """What a sloppy field would do: hand on whatever it gets, converted where BSON needs it."""
    if isinstance(value, list):
        return [anything(item) for item in value]
    if isinstance(value, dict):
        return {key: anything(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return Decimal128(value)
    if type(value) is dt.date:
        return dt.datetime(value.year, value.month, value.day)
    return value


def of_type(*types: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            names = " or ".join(t.__name__ for t in types)
            raise ValueError(f"expected {names}, not {type(value).__name__}")
        return value

    return convert


def object_id(value: Any) -> Any:
    """Ids come as text or as ObjectId; a text that is no ObjectId is kept and finds nothing."""
    if isinstance(value, str):
        return ObjectId(value) if ObjectId.is_valid(value) else value
    return of_type(ObjectId)(value)


def listed(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: [item(v) for v in value] if isinstance(value, list) else item(value)


@dataclass(frozen=True)
class FakeField:
    name: str
    convert: Callable[[Any], Any]

    def operand(self, value: Any) -> Any:
        return self.convert(value)


class FakeSchema:
    """Fields by their top-level name; any path below a declared name resolves to the same field."""

    name = "fake"

    def __init__(
        self, fields: Mapping[str, Callable[[Any], Any]], db_names: Mapping[str, str] = {}
    ):
        self.fields = {name: FakeField(name, convert) for name, convert in fields.items()}
        self.db_names = db_names

    def resolve(self, path: str) -> Path:
        name, dot, rest = path.partition(".")
        field = self.fields.get(path) or self.fields.get(name)
        if field is None:
            raise DomainError(
                f"fake has no field {name!r}{nearest(name, self.fields)}", loc=(path,)
            )
        return Path(self.db_names.get(name, name) + dot + rest, field)

    def substitute(self, path: str) -> None:
        """Nothing is computed."""

    def crossing(self, path: str) -> None:
        """It has no relations."""


def loose(names: Iterable[str]) -> FakeSchema:
    """Fields that accept anything, so that values of every type meet every operator."""
    return FakeSchema(dict.fromkeys(names, anything))


PEOPLE = FakeSchema(
    {
        "id": object_id,
        "name": of_type(str),
        "age": of_type(int, float),
        "score": anything,
        "active": of_type(bool),
        "born": anything,
        "price": anything,
        "tags": listed(of_type(str)),
        "address": of_type(dict),
        "address.city": of_type(str),
        "data": anything,
        "place": anything,
        "lines": listed(of_type(dict)),
        "lines.sku": of_type(str),
        "lines.0.sku": of_type(str),
        "lines.qty": of_type(int),
    },
    db_names={"id": "_id"},
)
