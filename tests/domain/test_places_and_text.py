"""near, within and text: their forms, what they find, and where memory says that it cannot know."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.collection import Collection

from earnorm.domain import Domain, matcher, to_filter
from earnorm.exceptions import DomainError, NotSupported
from tests.domain.fakes import loose

SCHEMA = loose("ab")
HANOI, HUE, PARIS = [105.85, 21.03], [107.58, 16.46], [2.35, 48.86]
PLACES = {"hanoi": HANOI, "hue": HUE, "paris": PARIS}


def point(position: list[float]) -> dict[str, Any]:
    return {"type": "Point", "coordinates": position}


@pytest.fixture
def places(collection: Collection[dict[str, Any]]) -> Collection[dict[str, Any]]:
    collection.delete_many({})
    docs = [{"_id": name, "a": point(at), "b": name} for name, at in PLACES.items()]
    collection.insert_many([*docs, {"_id": "nowhere"}])
    return collection


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ([*HANOI, 1000], ["hanoi"]),
        ((*HANOI, 541_000), ["hanoi", "hue"]),
        ([*HANOI, 540_000], ["hanoi"]),
        ([*HANOI, 541_000, 1], ["hue"]),
        ([*HANOI, 20_000_000], ["hanoi", "hue", "paris"]),
    ],
)
def test_near_is_a_ring_around_a_position(
    places: Collection[dict[str, Any]], value: Any, names: list[str]
) -> None:
    for domain, expected in [
        (Domain([("a", "near", value)]), names),
        (~Domain([("a", "near", value)]), sorted({*PLACES, "nowhere"} - {*names})),
        (Domain([("a", "near", value), ("a", "!=", None), ("a", "near", value)]), names),
    ]:
        query = to_filter(domain, SCHEMA)
        assert sorted(doc["_id"] for doc in places.find(query)) == expected
        assert places.count_documents(query) == len(expected)
        holds = matcher(domain, SCHEMA)
        assert sorted(doc["_id"] for doc in places.find() if holds(doc)) == expected


@pytest.mark.parametrize("stored", [-180, -90.5, 0, 1, 105.85, 180])
@pytest.mark.parametrize("latitude", [-90, 0.5, 90])
def test_a_place_is_where_it_is_however_it_is_written(
    collection: Collection[dict[str, Any]], stored: float, latitude: float
) -> None:
    """At a pole all longitudes are one place; 180 degrees east is 180 degrees west."""
    doc = {"_id": 1, "a": point([stored, latitude])}
    collection.delete_many({})
    collection.insert_one(doc)
    for asked in (-180, 0, 1, 105.85, 180):
        same = abs(latitude) == 90 or (asked - stored) % 360 == 0
        domain = Domain([("a", "near", [asked, latitude, 0])])
        assert collection.count_documents(to_filter(domain, SCHEMA)) == same
        assert matcher(domain, SCHEMA)(doc) is same


@pytest.mark.parametrize(
    "area",
    [
        [[100, 10], [110, 10], [110, 30], [100, 30]],
        {"type": "Polygon", "coordinates": [[[100, 10], [110, 10], [110, 30], [100, 30]]]},
        {"type": "MultiPolygon", "coordinates": [[[[100, 10], [110, 10], [110, 30], [100, 30]]]]},
    ],
)
def test_within_is_an_area(places: Collection[dict[str, Any]], area: Any) -> None:
    domain = Domain([("a", "within", area)])
    found = [doc["_id"] for doc in places.find(to_filter(domain, SCHEMA))]
    assert found == ["hanoi", "hue"]
    assert places.count_documents(to_filter(~domain, SCHEMA)) == 2
    assert Domain(domain.to_list()) == domain and hash(domain)
    with pytest.raises(NotSupported, match="answered by the server"):
        matcher(domain, SCHEMA)


def test_a_shape_that_memory_cannot_measure_is_not_guessed() -> None:
    holds = matcher(Domain([("a", "near", [0, 0, 10])]), SCHEMA)
    with pytest.raises(NotSupported, match="LineString"):
        holds({"a": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}})


def test_text_asks_the_text_index(places: Collection[dict[str, Any]]) -> None:
    places.create_index([("b", "text")])
    try:
        for value, names in [
            ("hanoi paris", ["hanoi", "paris"]),
            ("hanoi -paris", ["hanoi"]),
            ({"words": "HANOI", "case_sensitive": True}, []),
            ({"words": "HANOI", "language": "none"}, ["hanoi"]),
        ]:
            domain = Domain([("*", "text", value), ("a", "!=", None)])
            found = places.find(to_filter(domain, SCHEMA))
            assert sorted(doc["_id"] for doc in found) == names
    finally:
        places.drop_indexes()
    with pytest.raises(NotSupported, match="not in memory"):
        matcher(Domain([("*", "text", "x")]), SCHEMA)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ([("a", "text", "x")], r"the whole record: \('\*'"),
        ([("*", "=", 1)], "no field"),
        ([("*", "text", "")], "for words"),
        ([("*", "text", {"words": "x", "score": 1})], "options: language"),
        (["!", ("*", "text", "x")], "cannot be negated"),
        (["!", "|", ("*", "text", "x"), ("b", "=", 1)], "cannot be negated"),
        ([("a", "near", [0, 0])], "most metres"),
        ([("a", "near", [181, 0, 5])], "in degrees"),
        ([("a", "near", [0, 0, 5, 6])], "least not above"),
        ([("a", "near", [0, 0, 30_000_000])], "half around"),
        ([("a", "near", [0, 0, float("nan")])], "most metres"),
        ([("a", "within", [[0, 0], [1, 1]])], "from 3 to"),
        ([("a", "within", {"type": "Point", "coordinates": [0, 0]})], "Polygon or MultiPolygon"),
        ([("a", "within", [[0, 0], [1, 1], {"$gt": 1}])], "in degrees"),
    ],
)
def test_a_mistake_is_named(domain: list[Any], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        to_filter(Domain(domain), SCHEMA)
