"""RecordSet: the algebra and the choosing, as laws on generated records; immutable, also of unsaved records."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import (
    App,
    BaseModel,
    Boolean,
    ConcurrencyError,
    DomainError,
    DuplicateKey,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Inc,
    Int,
    List,
    Many2one,
    Max,
    MultipleRecords,
    NotFound,
    RecordSet,
    String,
    Toggle,
    Unset,
    ValidationError,
    depends,
)

from .conftest import Commands, drop
from .shop import Author, Country, Person, Post

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


# -- more of Odoo's algebra -----------------------------------------------------------------------


@given(indexes, st.integers(0, len(POOL) - 1))
def test_a_record_stands_for_a_set_of_one(a: list[int], n: int) -> None:
    assert listed(of(a) | POOL[n]) == unique([*a, n])
    assert listed(of(a) + POOL[n]) == [*a, n]
    assert listed(of(a) - POOL[n]) == [each for each in a if each != n]
    assert listed(of(a) & POOL[n]) == ([n] if n in a else [])
    assert (of(a) >= POOL[n]) is (n in a) is (POOL[n] in of(a))


@given(indexes, st.sampled_from(["first", "last", None]), st.booleans(), st.booleans())
def test_unset_values_stand_where_they_are_asked_for(
    a: list[int], nulls: Literal["first", "last"] | None, down: bool, reverse: bool
) -> None:
    found = listed(of(a).sorted("-age" if down else "age", reverse, nulls=nulls))
    unset = [n for n in a if POOL[n].age is None]
    downwards = down is not reverse
    first = nulls == "first" or (nulls is None and not downwards)
    assert found[: len(unset)] == unset if first else found[len(a) - len(unset) :] == unset
    ages = [POOL[n].age or 0 for n in found if n not in unset]
    assert ages == sorted(ages, reverse=downwards)


def test_sorted_takes_several_keys_as_text_or_list() -> None:
    everyone = of(range(8))
    assert listed(everyone.sorted("-age,name")) == listed(everyone.sorted(["-age", "name"]))
    assert listed(everyone.sorted("age,-name", nulls="last")) == [7, 4, 1, 5, 2, 6, 3, 0]
    with pytest.raises(ValueError, match="nulls"):
        everyone.sorted("age", nulls="middle")  # type: ignore[arg-type] # that is the point
    # The database has an order for every value, and sorted() follows it.
    odd = RecordSet(Person, [Person(name="b", extra={"x": 2}), Person(name="a", extra={"x": 1})])
    assert odd.sorted("extra").mapped("name") == ["a", "b"]
    with pytest.raises(DomainError, match="a list cannot be the key"):
        RecordSet(Person, [Person(name="a", tags=["x"])]).grouped("tags")


async def blog() -> RecordSet[Post]:
    vn, us = await Country.create([{"name": "VN"}, {"name": "US"}])
    ann, bob, eve = await Author.create(
        [
            {"name": "ann", "country_id": vn},
            {"name": "bob", "country_id": us},
            {"name": "eve", "country_id": None},
        ]
    )
    await Post.create(
        [
            {"title": title, "author_id": author}
            for title, author in [("1", bob), ("2", ann), ("3", None), ("4", bob), ("5", eve)]
        ]
    )
    return await Post.search(order="title").prefetch("author_id.country_id")


async def test_mapped_over_relations_is_a_recordset_without_duplicates(app: App) -> None:
    posts = await blog()
    authors = posts.mapped("author_id")
    assert isinstance(authors, RecordSet) and authors.mapped("name") == ["bob", "ann", "eve"]
    assert posts.mapped("author_id.country_id").mapped("name") == ["US", "VN"]
    assert posts.mapped("author_id.country_id.name") == ["US", "VN"]
    assert posts.mapped(lambda post: post.title) == ["1", "2", "3", "4", "5"]


async def test_mapped_to_a_relation_is_a_recordset_also_where_there_is_none(app: App) -> None:
    posts = await blog()
    nobody = posts.filtered_domain([("title", "=", "3")]).mapped("author_id")
    assert isinstance(nobody, RecordSet) and len(nobody) == 0
    nothing = posts[:0].mapped("author_id.country_id")
    assert isinstance(nothing, RecordSet) and nothing == await Country.search([("id", "in", [])])


async def test_paths_over_relations_sort_filter_and_group(app: App) -> None:
    posts = await blog()
    by = posts.sorted("author_id.country_id.name,-title", nulls="last")
    assert by.mapped("title") == ["4", "1", "2", "5", "3"]
    assert posts.filtered("author_id.country_id").mapped("title") == ["1", "2", "4"]
    groups = posts.grouped("author_id.country_id.name")
    assert {key: group.mapped("title") for key, group in groups.items()} == {
        "US": ["1", "4"],
        "VN": ["2"],
        None: ["3", "5"],
    }


async def test_groups_share_what_was_fetched_together(commands: Commands) -> None:
    await blog()
    posts = await Post.search(order="title")
    groups = posts.grouped("title")
    commands.clear()
    await groups["1"][0].author_id  # type: ignore[misc] # it is set
    assert groups["2"][0].author_id.name == "ann"  # type: ignore[union-attr] # it is set
    assert commands.of("core_author") == ["find"]


def test_lists_of_embedded_objects_are_flattened() -> None:
    class RsLine(EmbeddedModel):
        qty = Int()

    class RsOrder(BaseModel):
        _name = "core.rs_order"
        lines = List(Embedded(RsLine))

    orders = RecordSet(
        RsOrder, [RsOrder(lines=[{"qty": 1}, {"qty": 5}]), RsOrder(), RsOrder(lines=[{"qty": 3}])]
    )
    assert orders.mapped("lines.qty") == [1, 5, 3]
    assert [r.mapped("lines.qty") for r in (orders[:1], orders[1:2])] == [[1, 5], []]
    assert (
        orders.sorted("-lines.qty")[0] is orders[0] and orders.sorted("lines.qty")[-1] is orders[2]
    )
    assert len(orders.filtered("lines.qty")) == 2


# -- copy, read, toggle ---------------------------------------------------------------------------


class CopySource(BaseModel):
    _name = "core.copy_source"
    _versioned = True

    name = String(required=True)
    code = String(unique=True)
    kept = String(unique=True, copy=True)
    secret = String(copy=False)
    fixed = String(readonly=True)
    tags = List(String())
    author_id = Many2one(Author)


async def test_copy_creates_a_record_with_the_values_but_for_those_left_out(app: App) -> None:
    ann = await Author.create({"name": "ann"})
    source = await CopySource.create(
        {"name": "n", "code": "c", "secret": "s", "fixed": "f", "tags": ["a"], "author_id": ann}
    )
    await source.write({"name": "n2"})
    source.tags.append("b")  # type: ignore[union-attr] # it is set
    new = await source.copy({"secret": "other"})
    assert new.is_stored and new != source
    again = await CopySource.get(new.id)
    assert (again.name, again.code, again.secret, again.fixed) == ("n2", None, "other", "f")
    assert again.tags == ["a", "b"] and again.author_id == ann and source.is_changed
    new.tags.append("c")  # type: ignore[union-attr] # it is set
    assert source.tags == ["a", "b"]
    with pytest.raises(ValidationError, match="name"):
        await source.copy({"name": None})
    with pytest.raises(DuplicateKey):
        await (await CopySource.create({"name": "k", "kept": "k"})).copy()


async def test_copy_reads_what_was_not_fetched_and_takes_unsaved_records(app: App) -> None:
    await CopySource.create([{"name": "a", "tags": ["x"]}, {"name": "b"}])
    some = await CopySource.search(order="name").only("tags")
    copied = await (some + RecordSet(CopySource, [CopySource(name="c")])).copy({"fixed": "copy"})
    assert copied.mapped("name") == ["a", "b", "c"] and copied.mapped("fixed") == ["copy"] * 3
    assert await CopySource.count() == 5
    ghost = CopySource.browse([some[0].id])
    assert (await ghost.copy())[0].tags == ["x"]
    assert len(await some[:0].copy()) == 0


async def test_read_gives_dicts_of_what_the_database_has(app: App) -> None:
    people = await Person.create([{"name": "b", "age": 1}, {"name": "a"}])
    await Person.search([("name", "=", "b")]).update({"age": 7})
    assert await people.read(["age", "name"]) == [
        {"id": people[0].id, "age": 7, "name": "b"},
        {"id": people[1].id, "age": None, "name": "a"},
    ]
    assert people[0].age == 1
    assert (await people[1].read())["active"] is True
    assert await people[:0].read() == []
    with pytest.raises(DomainError, match="did you mean 'age'"):
        await people.read(["agee"])
    with pytest.raises(ValidationError, match="not stored"):
        await RecordSet(Person, [Person(name="x")]).read()
    await people[0].unlink()
    with pytest.raises(NotFound, match="1 of 2"):
        await people.read(["name"])


async def test_read_is_one_query_for_the_fields_alone(commands: Commands) -> None:
    people = await Person.create([{"name": "b", "age": 1}, {"name": "a"}])
    commands.clear()
    await people.read(["age"])
    (find,) = commands.named("find")
    assert find["projection"] == {"_id": 1, "age": 1}


async def test_toggle_flips_what_the_server_has(app: App) -> None:
    people = await Person.create([{"name": "a", "active": True}, {"name": "b", "active": False}])
    await Person.search().update({"active": Toggle()})
    assert await people.toggle("active") == 2
    assert people.mapped("active") == [True, False]
    assert await people[0].toggle("active") is people[0] and people[0].active is False
    await people[0].write({"active": Toggle(), "age": 3, "name": "$name"})
    assert (people[0].active, people[0].age, people[0].name) == (True, 3, "$name")
    await people[0].write({"active": Unset()})
    await people[0].toggle("active")  # unset counts as its default
    assert (await Person.get(people[0].id)).active is False


async def test_toggle_is_atomic(app: App) -> None:
    one = await Person.create({"name": "a", "active": False})
    await asyncio.gather(*(Person.search().update({"active": Toggle()}) for _ in range(21)))
    assert (await Person.get(one.id)).active is True


async def test_toggle_goes_with_revisions_and_refuses_what_it_cannot(app: App) -> None:
    class CoreSwitch(BaseModel):
        _name = "core.switch"
        _versioned = True
        on = Boolean()
        number = Int()

    switch = await CoreSwitch.create({})
    await switch.write({"on": Toggle(), "number": Inc(2)})
    await switch.toggle("on")
    assert (switch.on, switch.number) == (False, 2)
    stale = await CoreSwitch.get(switch.id)
    await switch.toggle("on")
    with pytest.raises(ConcurrencyError):
        await stale.toggle("on")
    with pytest.raises(ValidationError, match="Toggle works on Boolean"):
        await switch.toggle("number")
    with pytest.raises(ValidationError, match="write the rest apart"):
        await switch.write({"on": Toggle(), "number": Max(3)})


COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda value: pickle.loads(pickle.dumps(value)),
]


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
async def test_a_set_travels_without_its_loading_state(
    app: App, copied: Callable[[Any], Any]
) -> None:
    await Author.create([{"name": "a"}, {"name": "b"}])
    authors = await Author.search(order="name")
    await Post.create([{"title": str(n), "author_id": authors[0]} for n in range(3)])
    found = await Author.search(order="name").prefetch("post_ids")
    authors[0].name = "A"
    for records in (authors, found, authors + authors, authors[:1], found[0].post_ids):
        other = copied(records)
        assert list(other) == list(records)
        assert [record._stored() for record in other] == [record._stored() for record in records]
        assert [record.is_changed for record in other] == [r.is_changed for r in records]
    twice = copied(authors + authors)
    assert twice[0] is twice[2]  # a record that is twice in a set is one record in its copy
    waiting = copied((await Author.search())[0].post_ids)
    if copied is not copy.copy:
        with pytest.raises(FieldNotLoaded, match=r"await record\.post_ids"):
            len(await waiting)
    part = copied((await Author.search().prefetch("post_ids", limit=1))[0].post_ids)
    assert part.is_partial


class Sized(BaseModel):
    _name = "recordset.sized"
    a = Int()
    b = Int()
    other_id = Many2one("recordset.sized")
    double = Int(compute="_double")
    others = Int(compute="_others")

    @depends("a")
    def _double(self) -> int:
        return 2 * (self.a or 0)

    @depends("other_id.a")
    def _others(self) -> int:
        return (self.other_id.a or 0) if self.other_id else 0


async def test_read_of_a_computed_field_fetches_what_it_needs_and_makes_nothing_up(
    app: App,
) -> None:
    first = await Sized.create({"a": 2, "b": 1})
    second = await Sized.create({"a": 3, "other_id": first})
    assert await first.read(["double"]) == {"id": first.id, "double": 4}
    assert await first.read(["b", "double"]) == {"id": first.id, "b": 1, "double": 4}
    # What is in another record was not read, as in to_dict().
    assert await second.read(["others", "b"]) == {"id": second.id, "b": None}
