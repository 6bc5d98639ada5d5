"""RecordSet: the algebra and the choosing, as laws on generated records; immutable, also of unsaved records."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import App, DomainError, FieldNotLoaded, MultipleRecords, NotFound, RecordSet

from .conftest import drop
from .shop import Country, Person

POOL = [Person(name=f"n{n}", age=n % 3 or None) for n in range(8)]
indexes = st.lists(st.integers(0, len(POOL) - 1), max_size=10)


def of(numbers: Sequence[int]) -> RecordSet[Person]:
    return RecordSet(Person, [POOL[n] for n in numbers])


def listed(records: RecordSet[Person]) -> list[int]:
    return [next(n for n, each in enumerate(POOL) if each is record) for record in records]


def unique(numbers: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


@given(indexes, indexes)
def test_union_has_each_once_in_order_of_first_occurrence(a: list[int], b: list[int]) -> None:
    assert listed(of(a) | of(b)) == unique([*a, *b])


@given(indexes, indexes)
def test_intersection_has_each_once_in_the_order_of_the_left(a: list[int], b: list[int]) -> None:
    assert listed(of(a) & of(b)) == unique([n for n in a if n in b])


@given(indexes, indexes)
def test_difference_keeps_order_and_duplicates_of_the_left(a: list[int], b: list[int]) -> None:
    assert listed(of(a) - of(b)) == [n for n in a if n not in b]


@given(indexes, indexes)
def test_addition_keeps_everything(a: list[int], b: list[int]) -> None:
    assert listed(of(a) + of(b)) == [*a, *b]


@given(indexes, indexes)
def test_comparisons_are_those_of_sets(a: list[int], b: list[int]) -> None:
    one, other = set(a), set(b)
    left, right = of(a), of(b)
    assert (left <= right, left < right, left >= right, left > right, left == right) == (
        (one <= other, one < other, one >= other, one > other, one == other)
    )
    if left == right:
        assert hash(left) == hash(right)


@given(indexes, indexes, indexes)
def test_the_laws_of_sets_hold(a: list[int], b: list[int], c: list[int]) -> None:
    x, y, z = of(a), of(b), of(c)
    assert x | y == y | x and x & y == y & x
    assert (x | y) | z == x | (y | z) and x & (y | z) == (x & y) | (x & z)
    assert (x - y) | (x & y) == x and not (x - y) & y
    assert x - (y | z) == (x - y) & (x - z)


@given(indexes, indexes)
def test_no_operation_changes_its_operands(a: list[int], b: list[int]) -> None:
    left, right = of(a), of(b)
    _ = left | right, left & right, left - right, left + right, left.sorted("name"), left[1:]
    assert listed(left) == a and listed(right) == b


@given(indexes, st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([None, 1, 2, -1]))
def test_slicing_is_that_of_lists(a: list[int], start: int, stop: int, step: int | None) -> None:
    part = of(a)[start:stop:step]
    assert isinstance(part, RecordSet) and listed(part) == a[start:stop:step]


@given(indexes)
def test_filtered_takes_a_field_or_a_callable(a: list[int]) -> None:
    wanted = [n for n in a if POOL[n].age]
    assert listed(of(a).filtered("age")) == listed(of(a).filtered(lambda p: p.age)) == wanted


@given(indexes)
def test_grouped_parts_the_records_and_keeps_their_order(a: list[int]) -> None:
    groups = of(a).grouped("age")
    assert {key: listed(group) for key, group in groups.items()} == {
        key: [n for n in a if POOL[n].age == key] for key in {POOL[n].age for n in a}
    }


@given(indexes)
def test_mapped_gives_a_value_for_each_record(a: list[int]) -> None:
    assert of(a).mapped("age") == [POOL[n].age for n in a] == of(a).mapped(lambda p: p.age)


@given(indexes)
def test_sorted_is_stable_in_both_directions(a: list[int]) -> None:
    def rank(n: int) -> tuple[bool, int]:
        return (POOL[n].age is not None, POOL[n].age or 0)

    assert listed(of(a).sorted("age")) == sorted(a, key=rank)
    assert listed(of(a).sorted("-age")) == sorted(a, key=rank, reverse=True)
    assert listed(of(a).sorted("age", reverse=True)) == sorted(a, key=rank, reverse=True)


def test_filtered_domain_works_on_unsaved_records() -> None:
    assert listed(of(range(8)).filtered_domain([("age", ">", 1)])) == [2, 5]
    assert listed(of(range(8)).filtered_domain(Person.age == None)) == [0, 3, 6]  # noqa: E711 - a condition


def test_records_of_two_models_do_not_mix() -> None:
    countries = RecordSet(Country, [Country(name="x")])
    for operation in ("__or__", "__and__", "__sub__", "__add__", "__le__"):
        with pytest.raises(TypeError, match="not the same model"):
            getattr(of([1]), operation)(countries)
    with pytest.raises(TypeError, match="not the same model"):
        _ = of([1]) | [POOL[0]]  # type: ignore[operator] # that is the point
    assert of([]) != RecordSet(Country, [])


def test_ensure_one_exists_and_contains() -> None:
    assert of([3]).ensure_one() is POOL[3] and of([3]).exists() and not of([]).exists()
    assert POOL[3] in of([3]) and POOL[2] not in of([3])
    with pytest.raises(NotFound):
        of([]).ensure_one()
    with pytest.raises(MultipleRecords):
        of([1, 2]).ensure_one()


def test_a_recordset_of_one_reads_like_its_record_and_of_others_says_why_not() -> None:
    assert of([3]).name == "n3"  # type: ignore[attr-defined] # untyped convenience
    with pytest.raises(MultipleRecords):
        _ = of([1, 2]).name  # type: ignore[attr-defined] # the same
    with pytest.raises(AttributeError, match="did you mean 'name'"):
        _ = of([3]).nmae  # type: ignore[attr-defined] # the same


def test_a_recordset_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        of([1])[0] = POOL[0]  # type: ignore[index] # that is the point
    with pytest.raises(AttributeError):
        of([1]).surprise = 3  # type: ignore[attr-defined] # that is the point


def test_unknown_names_are_errors_with_the_nearest() -> None:
    for attempt in (
        lambda: of([1]).filtered("agee"),
        lambda: of([1]).sorted("agee"),
        lambda: of([1]).mapped("agee"),
        lambda: of([1]).grouped("agee"),
        lambda: of([1]).filtered_domain([("agee", "=", 1)]),
    ):
        with pytest.raises(DomainError, match="did you mean 'age'"):
            attempt()


async def test_filtered_domain_asks_for_what_was_not_fetched(app: App) -> None:
    await Person.create({"name": "Ann", "age": 3})
    some = await Person.search().only("name")
    assert len(some.filtered_domain([("name", "=", "Ann")])) == 1
    with pytest.raises(FieldNotLoaded, match="'age'"):
        some.filtered_domain([("age", "=", 3)])


ages = st.none() | st.integers(0, 5)
texts = st.none() | st.sampled_from(["", "a", "A", "ab", "é", "%", "b_"])
rows = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "B", "é", "", "aa"]), "age": ages, "badge": texts}
    ),
    max_size=8,
)
terms = st.one_of(
    st.tuples(
        st.just("age"), st.sampled_from(["=", "!=", ">", ">=", "<", "<="]), st.integers(0, 5)
    ),
    st.tuples(st.just("age"), st.sampled_from(["in", "not in"]), st.lists(ages, max_size=3)),
    st.tuples(st.just("badge"), st.sampled_from(["=", "!="]), texts),
    st.tuples(
        st.just("badge"), st.sampled_from(["like", "ilike"]), st.sampled_from(["a", "%", "_", "É"])
    ),
)
domains = st.recursive(
    terms.map(lambda term: [term]),
    lambda below: st.one_of(
        below.map(lambda d: ["!", *d]),
        st.tuples(st.sampled_from("&|"), below, below).map(lambda t: [t[0], *t[1], *t[2]]),
    ),
    max_leaves=4,
)
orders = st.lists(
    st.sampled_from(["age", "-age", "name", "-name", "badge", "-badge"]), min_size=1, max_size=3
)


def test_filtered_domain_and_sorted_agree_with_the_server(mongo_uri: str, database: str) -> None:
    """One App, one loop and many examples: a fixture would make one of each per test."""

    async def law(values: list[dict[str, object]], domain: list[object], order: list[str]) -> None:
        with started.activate():
            await Person.search().delete()
            await Person.create(values)
            everyone = await Person.search()
            found = await Person.search(domain)  # type: ignore[arg-type] # built by hypothesis
            assert everyone.filtered_domain(domain) == found  # type: ignore[arg-type] # likewise
            order = [*order, "id"]
            assert everyone.sorted(",".join(order)).ids == (await Person.search(order=order)).ids

    async def app() -> earnorm.App:
        return await earnorm.App(mongo_uri, database=database, plugins=[]).start()

    with asyncio.Runner() as runner:
        started = runner.run(app())

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(rows, domains, orders)
        def check(values: list[dict[str, object]], domain: list[object], order: list[str]) -> None:
            runner.run(law(values, domain, order))

        try:
            check()
        finally:
            runner.run(drop(started))
            runner.run(started.stop())
