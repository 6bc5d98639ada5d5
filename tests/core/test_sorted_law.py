"""The law of order: ``sorted()`` in memory puts stored values where the server's own sort puts them."""

from __future__ import annotations

import datetime
from typing import Any

import hypothesis
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import strategies as st

from earnorm import (
    BaseModel,
    Date,
    DateTime,
    Decimal,
    Embedded,
    EmbeddedModel,
    Field,
    Float,
    Int,
    Json,
    List,
    String,
)

from .laws import law, world


class SortedPart(EmbeddedModel):
    number = Int()
    text = String()


class Sorted(BaseModel):
    _name = "sorted.record"

    number = Int()
    real = Float()
    exact = Decimal()
    day = Date()
    at = DateTime()
    text = String()
    data = Json()
    items = List(String())
    part = Embedded(SortedPart)
    parts = List(Embedded(SortedPart))
    free: Field[Any, Any] = Field()


PATHS = (
    *("number", "real", "exact", "day", "at", "text", "data", "items", "part", "parts", "free"),
    *("data.number", "part.number", "parts.number", "parts.text", "data.number.text", "items.0"),
    *("parts.0.number", "data.0", "data.number.1"),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.0, float("nan"), float("inf"), Int64(2), 2**53 + 1, 2.0**53]),
    st.sampled_from(
        [Decimal128("1.5"), Decimal128("NaN"), Decimal128("2"), Decimal128("-Infinity")]
    ),
    st.sampled_from(["", "a", "B", "é", "a\0", "10", "9"]),
    st.sampled_from([b"", b"a", b"ab", Binary(b"a", 3), Binary(b"z" * 16, 4)]),
    st.sampled_from([ObjectId("0" * 24), ObjectId("f" * 24)]),
    st.sampled_from([datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, 13, 30)]),
    st.sampled_from([Timestamp(1, 2), Regex("a"), Regex("b"), Code("x"), Code("x", {"a": 1})]),
    st.sampled_from([MinKey(), MaxKey()]),
)
names = st.sampled_from(["number", "text"])
stored = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(names, below, max_size=2),
    max_leaves=5,
)


@pytest.mark.fuzz
def test_sorted_in_memory_is_the_order_of_the_server() -> None:
    with world() as here:
        raw = here.app.dangerous_raw("values of every type")["sorted_record"]

        @law(200)
        @hypothesis.given(
            st.sampled_from(PATHS),
            st.lists(stored | st.just(...), min_size=2, max_size=6),
            st.booleans(),
            st.booleans(),
        )
        def holds(path: str, values: list[Any], descending: bool, touched: bool) -> None:
            async def example() -> None:
                await raw.delete_many({})
                name = path.partition(".")[0]
                await raw.insert_many([{} if v is ... else {name: v} for v in values])
                order = f"-{path}" if descending else path
                expected = [r.pk for r in await Sorted.search(order=f"{order},id")]
                records = await Sorted.search()
                if touched:  # a value that was converted by reading it keeps its place
                    for record in records:
                        record.to_dict()
                        getattr(record, name)
                assert [r.pk for r in records.sorted(f"{order},id")] == expected

            here.run(example)

        holds()
