"""The operators' table: filters as they are sent, errors, and a plugin's own operator."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from earnorm.domain import OPERATORS, Domain, Operator, matcher, to_filter
from earnorm.domain.ast import MAX_DEPTH
from earnorm.domain.values import MAX_NESTING
from earnorm.exceptions import DomainError
from tests.domain.fakes import PEOPLE

ID = ObjectId("65a000000000000000000001")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ([], {}),
        ([(0, "=", 1)], {"_id": {"$in": []}}),
        ([("age", "=", 1)], {"age": 1}),
        ([("age", "=", None)], {"age": None}),
        ([("age", "!=", 1)], {"age": {"$ne": 1}}),
        ([("age", ">", 1), ("name", "=", "x")], {"age": {"$gt": 1}, "name": "x"}),
        ([("age", ">", 1), ("age", "<", 9)], {"age": {"$gt": 1, "$lt": 9}}),
        ([("age", ">", 1), ("age", ">", 2)], {"age": {"$gt": 1}, "$and": [{"age": {"$gt": 2}}]}),
        ([("age", "=", 1), ("age", "=", 2)], {"age": 1, "$and": [{"age": 2}]}),
        (["|", ("age", "=", 1), ("name", "=", "x")], {"$or": [{"age": 1}, {"name": "x"}]}),
        (["|", ("age", "in", []), ("name", "=", "x")], {"name": "x"}),
        (["|", ("age", "not in", []), ("name", "=", "x")], {}),
        ([("age", "in", []), ("name", "=", "x")], {"_id": {"$in": []}}),
        (["!", ("age", "=", 1)], {"age": {"$ne": 1}}),
        (["!", ("age", "not in", [1])], {"age": {"$in": [1]}}),
        (["!", ("age", ">", 1)], {"$nor": [{"age": {"$gt": 1}}]}),
        (["!", "|", ("age", ">", 1), ("age", "<", 0)], {"$nor": [{"age": {"$gt": 1}}, {"age": {"$lt": 0}}]}),
        (["!", "&", ("age", "=", 1), ("name", "=", "x")], {"$nor": [{"age": 1, "name": "x"}]}),
        (["!", ("age", "in", [])], {}),
        ([("id", "=", str(ID))], {"_id": ID}),
        ([("id", "=", "no id")], {"_id": "no id"}),
        ([("address.city", "=", "Huế")], {"address.city": "Huế"}),
        ([("tags", "=", ["a", "b"])], {"tags": {"$eq": ["a", "b"]}}),
        ([("tags", "=", [])], {"tags": {"$in": [None, []]}}),
        ([("data", "=", {"$gt": 1})], {"data": {"$eq": {"$gt": 1}}}),
        ([("name", "like", "jo")], {"name": {"$regex": "jo"}}),
        ([("name", "not ilike", "jo")], {"name": {"$not": {"$regex": "(?i)jo"}}}),
        ([("name", "=like", "jo")], {"name": "jo"}),
        ([("name", "not =like", "jo")], {"name": {"$ne": "jo"}}),
        ([("name", "like", "a"), ("name", "like", "b")], {"name": {"$regex": "a"}, "$and": [{"name": {"$regex": "b"}}]}),
        ([("age", "=?", None)], {}),
        ([("age", "=?", 5)], {"age": 5}),
        ([("tags", "size", 2)], {"tags": {"$size": 2}}),
        ([("tags", "all", ["a", "b"])], {"tags": {"$all": ["a", "b"]}}),
        ([("age", "exists", False)], {"age": {"$exists": False}}),
        ([("lines", "elem", [("sku", "=", "x"), ("qty", ">", 1)])], {"lines": {"$elemMatch": {"sku": "x", "qty": {"$gt": 1}}}}),
    ],
)  # fmt: skip
def test_filters_are_as_plain_as_they_can_be(source: Any, expected: dict[str, Any]) -> None:
    assert to_filter(Domain(source), PEOPLE) == expected


def test_a_clash_under_a_clash_keeps_every_part() -> None:
    twice = [("age", "=", 1), ("age", "=", 2)]
    query = to_filter(Domain([*twice, "|", "&", *twice, ("name", "=", "x")]), PEOPLE)

    assert query == {
        "age": 1,
        "$or": [{"age": 1, "$and": [{"age": 2}]}, {"name": "x"}],
        "$and": [{"age": 2}],
    }


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (("agee", "=", 1), "no field 'agee'; did you mean 'age'"),
        (("age", "==", 1), r"'=='\): no such operator; did you mean '='"),
        (("age", "IN", [1]), "no such operator"),
        (("name", "ilik", "x"), "did you mean 'ilike'"),
        (("name", "children_of", 1), "no such operator"),
        (("age", "=", "x"), r"\('age', '='\): expected int or float, not str"),
        (("age", "=", True), "not bool"),
        (("age", "in", [1, "x"]), "not str"),
        (("age", ">", None), "has no order"),
        (("tags", ">", ["a"]), "has no order"),
        (("score", ">", []), "has no order"),
        (("age", "=", 2**63), "64-bit"),
        (("name", "=", "\ud800"), "surrogate"),
        (("name", "like", 5), "a text, not a int"),
        (("name", "like", "x" * 1001), "at most 1,000"),
        (("age", "exists", 1), "True or False"),
        (("tags", "size", -1), "integer from 0"),
        (("tags", "size", True), "integer from 0"),
        (("name", "regex", "("), "no valid regular expression"),
        (("name", "regex", "x" * 1001), "at most 1,000"),
        (("name", "regex", "a\0"), "null character"),
        (("name", "regex", r"a\Z"), "not the same"),
        (("name", "regex", r"\N{DASH}"), "not the same"),
        (("name", "regex", "a\\"), "not the same"),
        (("name", "regex", "(?i)a"), "flags"),
        (("name", "regex", "(?i:a)"), "flags"),
        (("name", "regex", "a{,5}"), "repetition"),
        (("name", "regex", "a{2000}"), "repetition"),
        (("name", "regex", "[[:alpha:]]"), "no valid"),
        (("name", "regex", "\ud800"), "surrogate"),
        (("name", "regex", 5), "given as a text"),
        (("lines", "elem", [("color", "=", {1})]), "color"),
        (("lines", "elem", "x"), "a list of conditions"),
        (("lines", "elem", [("sku", "~", 1)]), r"\('sku', '~'\): no such operator"),
        (("name", "=", {"$gt": ""}), "not dict"),
    ],
)
def test_a_wrong_condition_is_the_same_error_on_both_sides(
    condition: tuple[str, str, Any], message: str
) -> None:
    for interpret in (to_filter, matcher):
        with pytest.raises(DomainError, match=message):
            interpret(Domain([condition]), PEOPLE)


def test_an_error_names_the_operator_that_was_written() -> None:
    with pytest.raises(DomainError, match=r"\('age', 'in'\)"):
        to_filter(Domain(["!", ("age", "in", ["x"])]), PEOPLE)


def test_an_error_says_where() -> None:
    with pytest.raises(DomainError) as error:
        to_filter(Domain([("age", "=", "x")]), PEOPLE)
    assert error.value.errors()[0]["loc"] == ("age",)


def test_an_error_shows_a_long_value_shortly() -> None:
    with pytest.raises(DomainError) as error:
        to_filter(Domain([("age", ">", ["x" * 5000])]), PEOPLE)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", OPERATORS)
def test_a_negated_operator_knows_its_counterpart(name: str) -> None:
    negated = OPERATORS[name].negated
    if negated is not None:
        assert OPERATORS[negated].negated == name


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        OPERATORS["="] = OPERATORS["!="]  # type: ignore[index]


def test_a_plugin_s_operator_works_where_it_was_handed_in_and_nowhere_else(
    collection: Collection[dict[str, Any]],
) -> None:
    divisible = Operator(
        "divisible by",
        prepare=lambda field, value: field.operand(value),
        to_mongo=lambda path, operand: {path: {"$mod": [operand, 0]}},
        matches=lambda operand: (
            lambda values: any(isinstance(value, int) and value % operand == 0 for value in values)
        ),
    )
    operators = {**OPERATORS, divisible.name: divisible}
    domain = Domain(["!", ("age", "divisible by", 3), ("age", ">", 4)])
    docs = [{"_id": number, "age": number} for number in range(10)]
    collection.delete_many({})
    collection.insert_many(docs)

    assert [doc["_id"] for doc in collection.find(to_filter(domain, PEOPLE, operators))] == [
        5,
        7,
        8,
    ]
    assert list(map(matcher(domain, PEOPLE, operators), docs)) == [
        n in (5, 7, 8) for n in range(10)
    ]
    with pytest.raises(DomainError, match="no such operator"):
        to_filter(domain, PEOPLE)


def test_what_no_record_matches_is_found_by_no_server_work(
    collection: Collection[dict[str, Any]],
) -> None:
    collection.delete_many({})
    collection.insert_many([{"_id": number} for number in range(100)])
    done = collection.find(to_filter(Domain(False), PEOPLE)).explain()["executionStats"]

    assert done["nReturned"] == 0
    assert done["totalDocsExamined"] == done["totalKeysExamined"] == 0


def test_the_in_memory_database_reads_the_same_filters() -> None:
    import mongomock

    docs = [
        {"_id": n, "name": name, "age": n} for n, name in enumerate(["jo", "Joe", "mary", "x\ny"])
    ]
    fake = mongomock.MongoClient()["test"]["people"]
    fake.insert_many(docs)
    for source in (
        False, [], [("name", "ilike", "JO")], [("name", "not ilike", "j_e")], [("name", "=like", "x%y")],
        [("name", "not like", "%a%y")], ["!", "|", ("age", "<", 1), ("age", ">", 2)], [("age", "in", [1, 2])],
        [("name", "=ilike", "_%E")],
    ):  # fmt: skip
        domain = Domain(source)
        found = [doc["_id"] for doc in fake.find(to_filter(domain, PEOPLE))]
        assert found == [doc["_id"] for doc in docs if matcher(domain, PEOPLE)(doc)], source


def test_the_deepest_domain_is_accepted_by_the_server(
    collection: Collection[dict[str, Any]],
) -> None:
    domain = Domain([("age", "=", 1)])
    while domain.depth < MAX_DEPTH - 1:
        domain = ~(domain & Domain([("name", "=", "x")]))
    nested: Any = 1
    for _ in range(MAX_NESTING - 1):
        nested = {"x": nested}
    domain &= Domain([("data", "=", nested)])

    assert domain.depth == MAX_DEPTH
    assert collection.count_documents(to_filter(domain, PEOPLE)) >= 0
