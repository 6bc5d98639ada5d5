"""The recorded form of values: JSON, without loss. No database."""

from __future__ import annotations

import datetime
import json
import struct
import uuid
from typing import Any

import bson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from earnorm_audit.changes import Recorded, from_json, id_text, is_same, replay, to_json

NAIVE = datetime.datetime(2026, 1, 31, 12, 30, 15, 250000)

keys = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3
) | st.sampled_from(["~", "~date", "~~", "~~oid", "~dict"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.binary(max_size=5),
    st.uuids(),
    st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1)),
    st.sampled_from(
        [
            bson.ObjectId(),
            bson.Decimal128("1.50"),
            bson.Int64(7),
            bson.Int64(2**40),
            bson.Regex("a", "i"),
            bson.Timestamp(1, 2),
            bson.Binary(b"x", 128),
            bson.MinKey(),
        ]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
CODEC: Any = bson.CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)


def stored(value: Any) -> Any:
    return bson.decode(bson.encode({"v": value}, codec_options=CODEC), CODEC)["v"]


@given(values)
def test_every_stored_value_comes_back_from_its_json(value: Any) -> None:
    value = stored(value)
    text = json.dumps(to_json(value), allow_nan=False)
    assert is_same(stored(from_json(json.loads(text))), value)


@given(values)
@example(struct.unpack(">d", bytes.fromhex("fff8000000000000"))[0])
@example(struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0])
def test_the_recorded_form_survives_the_database(value: Any) -> None:
    value = stored(value)
    assert is_same(stored(from_json(stored(to_json(value)))), value)


def test_plain_values_are_recorded_as_they_are() -> None:
    plain = {"name": "Ann", "age": 3, "tags": ["a", None, True, 1.5]}
    assert to_json(plain) == plain


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (NAIVE, {"~date": "2026-01-31T12:30:15.250000"}),
        (bson.Decimal128("1.50"), {"~decimal": "1.50"}),
        (bson.ObjectId("0" * 24), {"~oid": "0" * 24}),
        (uuid.UUID(int=1), {"~uuid": "00000000-0000-0000-0000-000000000001"}),
        (b"\1", {"~binary": "AQ=="}),
        (float("inf"), {"~float": "inf"}),
        (bson.Int64(2**40), 2**40),
        ({"~date": 1}, {"~~date": 1}),
    ],
)
def test_what_json_has_not_says_what_it_is(value: Any, recorded: Any) -> None:
    assert to_json(value) == recorded


@pytest.mark.parametrize(
    ("pk", "text"),
    [
        (bson.ObjectId("0" * 24), "0" * 24),
        ("ann", "ann"),
        (2**40, "1099511627776"),
        (bson.Int64(2**40), "1099511627776"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_an_id_is_recorded_as_text(pk: Any, text: str) -> None:
    assert id_text(pk) == text


def test_one_and_true_and_one_point_zero_are_three_values() -> None:
    recorded = Recorded({"n": "n"}, ())
    assert recorded.difference({"n": 1}, {"n": 1}) == {}
    assert set(recorded.difference({"n": 1}, {"n": True})) == {"n"}
    assert set(recorded.difference({"n": 1}, {"n": 1.0})) == {"n"}


def test_an_absent_side_is_left_out_and_null_is_a_value() -> None:
    recorded = Recorded({"n": "stored_n"}, ())
    assert recorded.difference({}, {"stored_n": None}) == {"n": {"new": None}}
    assert recorded.difference({"stored_n": None}, {}) == {"n": {"old": None}}


def test_a_hidden_field_is_only_said_to_have_changed() -> None:
    recorded = Recorded({"password": "pw"}, {"password"})
    assert recorded.difference({"pw": "a"}, {"pw": "b"}) == {"password": {"changed": True}}
    assert recorded.difference({"pw": "a"}, {"pw": "a"}) == {}


def test_replaying_a_deletion_leaves_nothing_and_a_new_record_begins_afresh() -> None:
    deleted = [("create", {"a": {"new": 1}}), ("unlink", {"a": {"old": 1}})]
    assert replay(deleted) is None
    assert replay([*deleted, ("create", {"b": {"new": 2}})]) == {"b": 2}
