"""The law of values that other programs stored: each way out gives a value or one clear error.

Every kind of field has a stored value of every type of BSON at every place. Whatever a program does with the record
gives a value, or an error of ``earnorm.exceptions``; one about the value names the model, the id and the field.
"""

from __future__ import annotations

import copy
import datetime
import enum
import pickle
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis
import pydantic
import pytest
from bson import (
    Binary,
    Code,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)
from hypothesis import strategies as st

import earnorm
from earnorm import (
    BaseModel,
    Dict,
    EarnORMError,
    Embedded,
    EmbeddedModel,
    Field,
    List,
    RecordSet,
)
from earnorm.exceptions import UnreadableDocument

from .laws import law, world


class ForeignColor(enum.Enum):
    RED = 1
    BLUE = "blue"


class ForeignTarget(BaseModel):
    _name = "foreign.target"
    name = earnorm.String()


MAKERS: dict[str, Callable[[], Field[Any, Any]]] = {
    "string": earnorm.String,
    "email": earnorm.Email,
    "slug": earnorm.Slug,
    "choice": lambda: earnorm.Selection(["a", "b"]),
    "color": lambda: earnorm.Enum(ForeignColor),
    "number": earnorm.Int,
    "real": earnorm.Float,
    "exact": earnorm.Decimal,
    "money": earnorm.Money,
    "truth": earnorm.Boolean,
    "day": earnorm.Date,
    "at": earnorm.DateTime,
    "time": earnorm.Time,
    "span": earnorm.Duration,
    "uuid": earnorm.UUID,
    "oid": earnorm.ObjectIdField,
    "binary": earnorm.Binary,
    "ip": earnorm.IPAddress,
    "json": earnorm.Json,
    "by_text": lambda: Dict(earnorm.Duration()),
    "by_number": lambda: Dict(earnorm.Date(), keys=earnorm.Int()),
    "spans": lambda: List(earnorm.Duration()),
    "days": lambda: List(List(earnorm.Date())),
    "marks": lambda: earnorm.Set(earnorm.Date()),
    "vector": lambda: earnorm.Vector(2),
    "packed": lambda: earnorm.Vector(2, packed=True),
    "place": earnorm.Point,
    "shape": earnorm.Geo,
    "link": lambda: earnorm.Many2one(ForeignTarget),
}
ON_RECORDS: dict[str, Callable[[], Field[Any, Any]]] = {
    "links": lambda: earnorm.Many2many(ForeignTarget),
    "target": lambda: earnorm.Reference(ForeignTarget),
}


class ForeignPart(EmbeddedModel):
    locals().update({name: make() for name, make in MAKERS.items()})


class Foreign(BaseModel):
    _name = "foreign.record"

    locals().update({name: make() for name, make in (MAKERS | ON_RECORDS).items()})
    locals().update(
        {f"{name}_list": List(make()) for name, make in MAKERS.items() if name != "link"}
    )
    locals().update(
        {f"{name}_dict": Dict(make()) for name, make in MAKERS.items() if name != "link"}
    )
    part = Embedded(ForeignPart)
    parts = List(Embedded(ForeignPart))


SCALARS = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2**31, Int64(2**63 - 1), Int64(-(2**63)), 0.5, 1e308),
        *(float("nan"), float("inf"), -float("inf"), "", "x", "blue", "12.50", "08:30", "EUR"),
        *("$x", "2024-05-01", "ab" * 12, b"", b"x", b"x" * 16, Binary(b"x" * 16, 3)),
        *(Binary(b"\x27\x00\x01", 9), Binary(b"\x99\x00", 9), uuid.UUID(int=5), ObjectId("1" * 24)),
        *(Decimal128("1.50"), Decimal128("NaN"), Decimal128("Infinity"), Decimal128("1E+6000")),
        *(datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, 13, 30)),
        *(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59)),
        *(Timestamp(1, 1), Regex("a", "i"), Code("x"), Code("x", {"a": 1}), DBRef("a", 1)),
        *(MinKey(), MaxKey(), {"amount": Decimal128("1"), "currency": "EUR"}, {"amount": "x"}),
        *({"model": "foreign.target"}, {"id": 1}, {"model": 3, "id": 1}, {"model": "no", "id": 1}),
        *({"model": "foreign.target", "id": [1]}, {"type": "Point", "coordinates": [1, 2]}),
        *({"type": "Point", "coordinates": "x"}, {"type": ["Point"], "coordinates": []}, {}, []),
        *({"$ref": "a"}, {"a.b": 1}, {"": 1}, {"7": 1}),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "7", "$x", "number", "day"]), below, max_size=2)
    ),
    max_leaves=3,
)

Out = Callable[[Any, str], Any]
"""A way out: gets a RecordSet with the record and another, and the name of the field."""


async def _queried(method: str, name: str) -> Any:
    return await getattr(Foreign.search().only(name), method)()


async def _prefetched(name: str) -> Any:
    records = await Foreign.search(prefetch=[name] if name in ("link", "links", "target") else [])
    return [getattr(record, name) for record in records]


WAYS: dict[str, Out] = {
    "read": lambda rs, name: [getattr(record, name) for record in rs],
    "read again": lambda rs, name: [getattr(rs[0], name), getattr(rs[0], name)],
    "to_dict": lambda rs, name: rs.to_dict(),
    "to_json": lambda rs, name: rs.to_json(),
    "to_json of one": lambda rs, name: rs[0].to_json(include=[name]),
    "repr": lambda rs, name: repr(getattr(rs[0], name)),
    "sorted": lambda rs, name: rs.sorted(name),
    "sorted down": lambda rs, name: rs.sorted(f"-{name}", nulls="first"),
    "mapped": lambda rs, name: rs.mapped(name),
    "filtered": lambda rs, name: rs.filtered(name),
    "grouped": lambda rs, name: rs.grouped(name),
    "in memory": lambda rs, name: [
        rs.filtered_domain([(name, "!=", None)]),
        rs.filtered_domain([(name, "exists", True)]),
    ],
    "body": lambda rs, name: Foreign.pydantic_model(include=[name]).model_validate(rs[0]),
    "json body": lambda rs, name: (
        Foreign.pydantic_model(include=[name]).model_validate(rs[0]).model_dump_json()
    ),
    "pickle": lambda rs, name: pickle.loads(pickle.dumps(rs[0])),
    "copy.copy": lambda rs, name: getattr(copy.copy(rs[0]), name),
    "pandas": lambda rs, name: [rs.to_pandas(), _queried("to_pandas", name)],
    "polars": lambda rs, name: [rs.to_polars(), _queried("to_polars", name)],
    "arrow": lambda rs, name: [rs.to_arrow(), _queried("to_arrow", name)],
    "group": lambda rs, name: Foreign.search().group(name, n=earnorm.Count()),
    "prefetch": lambda rs, name: _prefetched(name),
    "await": lambda rs, name: getattr(rs[0], name),
    "Model.read": lambda rs, name: rs.read([name]),
    "copy": lambda rs, name: rs[0].copy(),
    "changed": lambda rs, name: [getattr(rs[0], name), rs[0].is_changed, rs[0].save()],
    "refresh": lambda rs, name: rs.refresh(),
}


CHANGING = ("copy", "changed", "refresh")
"""The ways that write, and the one after them."""


async def _leave(way: Out, records: RecordSet[Any], name: str) -> UnreadableDocument | None:
    """Take a way out; return the error about the stored value, if there is one."""
    try:
        made = way(records, name)
        for one in made if isinstance(made, list) else [made]:
            if hasattr(one, "__await__") and not isinstance(one, BaseModel):
                await one
    except UnreadableDocument as error:
        return error
    except (EarnORMError, pydantic.ValidationError):
        pass  # a body is a pydantic model, and refuses a value as one
    return None


@pytest.mark.fuzz
def test_every_way_out_gives_a_value_or_an_error_of_ours() -> None:
    with world() as here:
        raw = here.app.dangerous_raw("values of other programs")["foreign_record"]

        @law(40)
        @hypothesis.example("link", {"a": 1}, "whole")
        @hypothesis.example("links", {"a": 1}, "in a list")
        @hypothesis.example("json", Timestamp(1, 1), "whole")
        @hypothesis.example("vector", MinKey(), "in a list")
        @hypothesis.given(
            st.sampled_from([name for name in Foreign._schema.fields if name != "_id"]),
            VALUES,
            st.sampled_from(["whole", "in a list", "in a dict", "in an object"]),
        )
        def holds(name: str, value: Any, place: str) -> None:
            wrapped = {
                "whole": value,
                "in a list": [value],
                "in a dict": {"7": value},
                "in an object": {"day": value, "number": value, "money": value},
            }[place]

            async def example() -> None:
                pk = ObjectId()
                for title, way in WAYS.items():
                    if title in CHANGING or title == next(iter(WAYS)):
                        await raw.delete_many({})
                        await raw.insert_many([{"_id": pk, name: wrapped}, {name: None}])
                    error = await _leave(way, await Foreign.search(order="id"), name)
                    if error is not None:
                        shown = str(error)
                        assert name in shown and str(pk) in shown, (title, shown)
                        assert "foreign.record" in shown, (title, shown)

            here.run(example)

        holds()


PACKED: list[Any] = [["x"], [None], [[1]], [{"a": 1}], [Decimal128("1")], [1e300, 1.0], [1, 2]]


def test_a_list_that_is_no_packed_vector_leaves_as_a_value() -> None:
    with world() as here:
        raw = here.app.dangerous_raw("values of other programs")["foreign_record"]

        async def example(way: Out, value: Any) -> None:
            await raw.delete_many({})
            await raw.insert_many([{"packed": value}, {"packed": None}, {"packed": [1.0, 2.0]}])
            records = await Foreign.search(order="id")
            error = await _leave(way, records, "packed")
            assert error is None or "the column holds" in str(
                error
            )  # a table's items have one type
            assert records[0].packed == pickle.loads(pickle.dumps(records[0])).packed == value
            assert not records[0].is_changed

        for way in WAYS.values():
            for value in PACKED:
                here.run(partial(example, way, value))
