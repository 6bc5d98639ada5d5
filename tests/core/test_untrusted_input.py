"""earnorm.untrusted: orders, names, cursors and groups of a client name what is offered."""

from __future__ import annotations

import copy
import pickle
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import ValidationError, untrusted
from earnorm.domain.client_text import ClientOrder, ClientText
from earnorm.model.reading.ordering import parse_order

FIELDS = ["name", "age", "author_id.name"]
KEYS = ["name", "born:month"]
AGGREGATES = ["count", "age:sum", "age:distinct"]


def group(data: Any, **bounds: Any) -> Any:
    return untrusted.group(data, keys=KEYS, aggregates=AGGREGATES, **bounds)


def order(data: Any) -> str:
    return untrusted.order(data, fields=FIELDS)


def fields(data: Any) -> list[str]:
    return untrusted.fields(data, fields=FIELDS)


def test_what_is_offered_is_read_as_usual() -> None:
    assert order(" -age, author_id.name") == "-age,author_id.name"
    assert order(["+name", "-age"]) == "+name,-age"
    assert order("") == order([]) == ""
    assert fields("name, age") == fields(["name", "age"]) == ["name", "age"]
    asked = group(
        {
            "keys": ["born:month"],
            "aggregates": {"n": "count", "total": "age:sum"},
            "having": [["total", ">", 3]],
            "order": "-total",
            "limit": 5,
        }
    )
    assert asked.keys == ("born:month",) and asked.order == "-total" and asked.limit == 5
    assert str(asked.aggregates) == "{'n': Count(''), 'total': Sum('age')}"
    assert group({"keys": "name"}).limit == 1000


BAD = [
    (order, "secret", (0,), "field that is not offered"),
    (order, "age,,name", (1,), "a name is empty"),
    (order, "--age", (0,), "field that is not offered"),
    (order, ["age,name"], (0,), "field that is not offered"),
    (order, ["age", 1], (1,), "a name is a text"),
    (order, {"age": {"$meta": "x"}}, (), "no order"),
    (order, None, (), "no order"),
    (order, ",".join(["age"] * 6), (), "more than 5 keys"),
    (order, "a" * 1001, (), "longer than 1000"),
    (fields, "secret", (0,), "field that is not offered"),
    (fields, ["name", "name"], (1,), "named twice"),
    (fields, ["name"] * 4, (), "more than 3 names"),
    (fields, [["name"]], (0,), "a name is a text"),
    (fields, {"name": 1}, (), "no list of names"),
    (fields, [], (), "it is empty"),
    (fields, "", (), "it is empty"),
    (fields, "name,", (1,), "a name is empty"),
    (untrusted.cursor, {"$gt": ""}, (), "the text that paginate"),
    (untrusted.cursor, "a" * 4097, (), "the text that paginate"),
    (untrusted.cursor, "\u00e9", (), "the text that paginate"),
    (group, [], (), "no object"),
    (group, {}, (), "neither keys nor aggregates"),
    (group, {"$where": "1"}, (), "more than keys"),
    (group, {"keys": ["born"]}, ("keys", 0), "not offered"),
    (group, {"keys": ["name"] * 11}, ("keys",), "more than 10 names"),
    (group, {"aggregates": {"x": "secret:sum"}}, ("aggregates", "x"), "not offered"),
    (group, {"aggregates": {"x": {"$sum": "$secret"}}}, ("aggregates", "x"), "not offered"),
    (group, {"aggregates": {"$x": "count"}}, ("aggregates", 0), "letters, digits"),
    (group, {"aggregates": {"a.b": "count"}}, ("aggregates", 0), "letters, digits"),
    (group, {"aggregates": ["count"]}, ("aggregates",), "no object of names"),
    (
        group,
        {"aggregates": {f"n{i}": "count" for i in range(11)}},
        ("aggregates",),
        "more than 10",
    ),
    (group, {"keys": ["name"], "aggregates": {"name": "count"}}, ("aggregates", 0), "no key's"),
    (group, {"keys": ["name"], "order": "age"}, ("order", 0), "not offered"),
    (group, {"keys": ["name"], "having": [["age", "=", 1]]}, ("having", "age"), "not offered"),
    (group, {"keys": ["name"], "having": [["name", "=", {}]]}, ("having",), "a value is a text"),
    (group, {"keys": ["name"], "limit": 0}, ("limit",), "from 1 to 1000"),
    (group, {"keys": ["name"], "limit": True}, ("limit",), "from 1 to 1000"),
    (group, {"keys": ["name"], "limit": 1001}, ("limit",), "from 1 to 1000"),
]


@pytest.mark.parametrize(("read", "data", "loc", "says"), BAD)
def test_what_is_not_offered_is_refused_with_its_place(
    read: Any, data: Any, loc: Any, says: str
) -> None:
    with pytest.raises(ValidationError, match=says) as told:
        read(data)
    assert told.value.code == "untrusted" and told.value.errors()[0]["loc"] == loc
    assert told.value.__cause__ is None and len(str(told.value)) < 300
    assert not any(name in str(told.value) for name in ("secret", "born", "author_id"))


def test_a_mistake_of_the_program_is_no_error_of_the_client() -> None:
    for call in (
        lambda: untrusted.order("", fields="name"),
        lambda: untrusted.fields("name", fields=["name", 1]),  # type: ignore[list-item]
        lambda: untrusted.group({}, keys="name"),
        lambda: untrusted.group({}, keys=["name"], aggregates=["age"]),
        lambda: untrusted.group({}, keys=["name"], aggregates=["age:push"]),
        lambda: untrusted.group({}, keys=["name"], aggregates=["sum"]),
        lambda: untrusted.group({}, keys=["name"], aggregates=[":count"]),
    ):
        with pytest.raises(TypeError, match="untrusted"):
            call()


def test_the_mark_stays_through_copies_and_pickles() -> None:
    for text in (order("age"), order(""), untrusted.cursor(None), *fields("name")):
        for same in (text, copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
            assert type(same) is ClientText
        assert type(parse_order("name", [text])) is ClientOrder
    assert type(parse_order("name", ["age"])) is tuple


WORDS = st.sampled_from(
    [*FIELDS, *KEYS, *AGGREGATES, "secret", "-age", "+name", "$ne", "$where", "n", "", "having"]
) | st.text(string.printable, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=12,
)
LISTED = st.lists(WORDS, max_size=4)
SENT = JSON | LISTED | LISTED.map(",".join)
GROUPS = st.fixed_dictionaries(
    {},
    optional={
        "keys": SENT,
        "aggregates": st.dictionaries(WORDS, WORDS | JSON, max_size=3) | JSON,
        "having": st.lists(st.tuples(WORDS, st.sampled_from(["=", ">", "any"]), JSON).map(list))
        | JSON,
        "order": SENT,
        "limit": JSON,
    },
)


def taken(read: Any, data: Any) -> Any:
    try:
        return read(data)
    except ValidationError as error:
        assert error.code == "untrusted"
        assert not set(error.errors()[0]["loc"]) & {"$ne", "$where"}
        return None


@given(SENT)
def test_whatever_a_client_sends_names_what_is_offered(data: Any) -> None:
    read = taken(order, data)
    if read is not None:
        assert {path for path, _ in parse_order(read)} <= set(FIELDS)
    assert set(taken(fields, data) or ()) <= set(FIELDS)
    read = taken(untrusted.cursor, data)
    assert read is None or (type(read) is ClientText and len(read) <= 4096)


@given(GROUPS | JSON)
def test_whatever_group_a_client_sends_names_what_is_offered(data: Any) -> None:
    asked = taken(group, data)
    if asked is None:
        return
    assert set(asked.keys) <= set(KEYS) and 0 < asked.limit <= 1000
    for aggregate in asked.aggregates.values():
        assert aggregate.path in ("", "age")
    names = {*asked.keys, *asked.aggregates}
    assert {path for path, _ in parse_order(asked.order)} <= names
    assert {c.path for c in asked.having.conditions()} <= names and asked.having.is_untrusted
    assert not any("$" in name for name in names)
