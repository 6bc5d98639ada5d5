"""Lists that no filter can hold are found when the filter is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bson
import pytest
from bson import Decimal128, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from earnorm.domain import Domain, matcher, to_filter
from earnorm.domain.long_lists import list_bytes
from earnorm.exceptions import LongList
from tests.domain.fakes import PEOPLE

VALUES: list[Callable[[int], Any]] = [
    lambda n: ObjectId(),
    lambda n: "ä" * (n % 7),
    lambda n: n,
    lambda n: 2**40 + n,
    lambda n: float(n),
    lambda n: Decimal128(str(n)),
]


@given(st.integers(1, 1200), st.sampled_from(VALUES))
def test_a_list_is_never_said_to_be_longer_than_it_is(
    number: int, value: Callable[[int], Any]
) -> None:
    values = [value(n) for n in range(number)]
    taken = len(bson.encode({"": values})) - len(bson.encode({"": []}))
    assert list_bytes(values) <= taken


@pytest.mark.parametrize("number", [1, 9, 10, 11, 99, 100, 101, 1234])
def test_the_length_of_a_list_of_ids_is_exact(number: int) -> None:
    values = [ObjectId() for _ in range(number)]
    assert list_bytes(values) == len(bson.encode({"": values})) - len(bson.encode({"": []}))


@pytest.mark.parametrize(
    ("operator", "way_out"), [("in", "parts"), ("not in", "fewer"), ("all", "fewer")]
)
def test_a_filter_that_no_server_takes_is_refused_with_the_way_out(
    operator: str, way_out: str
) -> None:
    values = [f"{n:0400}" for n in range(40_000)]
    domain = Domain([("name", operator, values)])
    with pytest.raises(LongList, match=rf"40,000 values takes 16 MB.*{way_out}") as caught:
        to_filter(domain, PEOPLE)
    assert caught.value.errors()[0]["loc"] == ("name",)
    assert len(str(caught.value)) < 400
    matcher(domain, PEOPLE)({"name": "a"})  # in memory it is as good as any other
