"""paginate(): keyset cursors that give each record once, whatever the order, the types and the traffic."""

from __future__ import annotations

import base64
import datetime
import uuid
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    DateTime,
    Decimal,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Float,
    Int,
    Json,
    List,
    Many2one,
    NotSupported,
    Query,
    String,
    ValidationError,
    hookimpl,
)
from earnorm.domain.keyset import KEYSET_OPERATORS
from earnorm.features.paging.paging import MAX_CURSOR

from .conftest import Commands, default_app
from .laws import World, law, world


class Place(EmbeddedModel):
    city = String(db_name="c")
    level = Int()


class Entry(BaseModel):
    _name = "core.entry"

    name = String(db_name="n")
    number = Int()
    weight = Float()
    price = Decimal()
    at = DateTime()
    place = Embedded(Place)
    any = Json()
    tags = List(String())
    parent_id = Many2one("core.entry")


ENTRIES = [{"name": f"{n:02}", "number": n % 3} for n in range(10)]


def names(records: Any) -> list[str | None]:
    return [record.name for record in records]


async def forwards(query: Query[Entry], size: int) -> list[list[Entry]]:
    pages: list[list[Entry]] = []
    cursor: str | None = None
    while True:
        page = await query.paginate(size, after=cursor)
        assert (page.previous is None) == (cursor is None or not page.records)
        pages.append(list(page.records))
        cursor = page.next
        if cursor is None:
            return pages
        assert len(page.records) == size


async def backwards(query: Query[Entry], size: int) -> list[list[Entry]]:
    """From behind the last record to the first; the pages in the query's order."""
    *_, last = await forwards(query, size)
    everything = len(await query)
    if not last or everything == len(last):
        return [last]
    page = await query.paginate(size, after=await cursor_before(query, len(last), everything))
    pages = [list(page.records)]
    while page.previous is not None:
        page = await query.paginate(size, before=page.previous)
        assert page.next is not None
        pages.insert(0, list(page.records))
    return pages


async def cursor_before(query: Query[Entry], last: int, everything: int) -> str:
    found = (await query.paginate(everything - last)).next
    assert found is not None
    return found


async def test_pages_forwards_and_backwards(app: App) -> None:
    await Entry.create(ENTRIES)
    query = Entry.search([("number", "!=", 2)], order="-number,name")
    first = await query.paginate(3)
    assert names(first.records) == ["01", "04", "07"] and first.previous is None
    second = await query.paginate(3, after=first.next)
    assert names(second.records) == ["00", "03", "06"]
    third = await query.paginate(3, after=second.next)
    assert names(third.records) == ["09"] and third.next is None
    again = await query.paginate(3, before=third.previous)
    assert names(again.records) == ["00", "03", "06"]
    start = await query.paginate(3, before=again.previous)
    assert names(start.records) == ["01", "04", "07"] and start.previous is None
    assert names((await query.paginate(3, after=start.next)).records) == ["00", "03", "06"]


async def test_an_empty_result_has_no_neighbours(app: App) -> None:
    page = await Entry.search().paginate()
    assert (len(page.records), page.next, page.previous) == (0, None, None)


async def test_a_page_costs_one_query_with_the_order_s_index(server_app: App) -> None:
    await Entry.create(ENTRIES)
    raw = server_app.dangerous_raw("an index")["core_entry"]
    await raw.create_index([("number", 1), ("_id", 1)])
    page = await Entry.search(order="number").paginate(4)
    assert page.next is not None
    query = Entry.search(order="number")
    from earnorm.features.paging.paging import Keyset

    keyset = Keyset(Entry._schema, [("number", 1)])
    behind = query.where(keyset.beyond(keyset.read("after", page.next))).order("number", "id")
    plan = str((await behind.explain())["queryPlanner"]["winningPlan"])
    assert "IXSCAN" in plan and "COLLSCAN" not in plan
    assert "'SORT'" not in plan


async def test_a_page_is_one_command(commands: Commands) -> None:
    await Entry.create(ENTRIES)
    commands.clear()
    page = await Entry.search(order="name").paginate(3)
    await Entry.search(order="name").paginate(3, after=page.next)
    assert [name for name, _ in commands.all] == ["find", "find"]
    assert commands.named("find")[0]["limit"] == 4


async def test_only_and_prefetch_hold_and_the_order_s_fields_come_along(app: App) -> None:
    first, *_ = await Entry.create(ENTRIES)
    await Entry.search([("name", "!=", "00")]).update({"parent_id": first})
    query = Entry.search(order="number,-name").only("parent_id").prefetch("parent_id")
    page = await query.paginate(2)
    page = await query.paginate(2, after=page.next)
    assert names(page.records) == ["03", "00"]
    parent = page.records[0].parent_id
    assert parent is not None and parent.name == "00"
    with pytest.raises(FieldNotLoaded):
        _ = page.records[0].price


async def test_what_does_not_page_is_a_clear_error(memory_app: App) -> None:
    query = Entry.search()
    with pytest.raises(ValidationError, match="order by one of its fields"):
        await query.order("place").paginate()
    with pytest.raises(ValidationError, match="no single place"):
        await query.order("number,tags").paginate()
    for bad in (0, -1, 2.5, True, None):
        with pytest.raises(ValueError, match="size: is a whole number from 1"):
            await query.paginate(bad)  # type: ignore[arg-type] # that is the point
    with pytest.raises(ValueError, match="not both"):
        await query.paginate(after="x", before="y")
    with pytest.raises(NotSupported, match="window"):
        await query.limit(3).paginate()
    await Entry.create({"any": [1, 2]})
    with pytest.raises(ValidationError, match="holds a list"):
        await query.order("any").paginate()
    await Entry.create({"name": "x" * MAX_CURSOR})
    with pytest.raises(ValidationError, match="too long"):
        await query.order("name").paginate(1, after=(await query.order("name").paginate(1)).next)


# -- cursors from clients -------------------------------------------------------------------------

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


@pytest.fixture
async def cursor(app: App) -> str:
    await Entry.create(ENTRIES)
    found = (await Entry.search(order="name").paginate(3)).next
    assert found is not None
    return found


async def refused(query: Query[Entry], cursor: Any) -> None:
    for argument in ("after", "before"):
        with pytest.raises(ValidationError, match=f"core.entry|Entry.*{argument}="):
            await query.paginate(3, **{argument: cursor})


async def test_a_foreign_or_changed_cursor_is_refused(cursor: str) -> None:
    query = Entry.search(order="name")
    await refused(Entry.search(order="-name"), cursor)
    await refused(Entry.search(order="name,number"), cursor)
    for position in range(len(cursor)):
        letter = "A" if cursor[position] != "A" else "B"
        changed = cursor[:position] + letter + cursor[position + 1 :]
        if base64.urlsafe_b64decode(changed + "=" * (-len(changed) % 4)) != (
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        ):
            await refused(query, changed)
    for other in ("", "x", "é", "\0", "=", cursor[:-4], cursor + cursor, "A" * 5000, 3, b"x", []):
        await refused(query, other)


async def test_a_cursor_made_up_by_a_client_is_data_and_stays_inside_the_query(app: App) -> None:
    from earnorm.features.paging.paging import Keyset

    await Entry.create(ENTRIES)
    query = Entry.search([("number", "=", 0)], order="name")
    keyset = Keyset(Entry._schema, [("name", 1)])

    def forged(*values: Any, **extra: Any) -> str:
        payload = bson.encode({"v": 1, "k": list(values), **extra}, codec_options=CODEC)
        raw = keyset._digest(payload) + payload
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    assert names((await query.paginate(9, after=forged("", ObjectId()))).records) == [
        *("00", "03", "06", "09")
    ]
    for bad in (
        {"$ne": None},
        {"$gt": ""},
        ["a"],
        bson.Regex(".*"),
        bson.Code("sleep(1)"),
        bson.MinKey(),
        bson.DBRef("x", 1),
    ):
        await refused(query, forged(bad, ObjectId()))
        await refused(query, forged("a", bad))
    await refused(query, forged("a"))
    await refused(query, forged("a", "b", "c"))
    await refused(query, forged("a", ObjectId(), v=2))


class OnlyEven:
    """An access rule as a layer."""

    api = 1
    name = "only_even"

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def narrow(op: Any, call_next: Any) -> Any:
            return await call_next(op.replace(domain=op.domain & (Entry.number != 1)))

        return [(100, narrow)] if operation == "search" else []


async def test_rules_hold_on_every_page(database: str) -> None:
    async with default_app("pymongo", database, [OnlyEven()]):
        await Entry.create(ENTRIES)
        found = [e for page in await forwards(Entry.search(order="name"), 2) for e in page]
        assert names(found) == ["00", "02", "03", "05", "06", "08", "09"]


# -- the law --------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(
    [
        *(0, 1, -1, 2.5, 0.1, float("nan"), float("inf"), float("-inf"), -0.0),
        *(Int64(2**40), Decimal128("0.1"), Decimal128("NaN"), Decimal128("1")),
    ]
)
MOMENT = datetime.datetime(2024, 1, 1)
ANY = st.one_of(
    st.none(),
    NUMBERS,
    st.sampled_from(["", "a", "b", "á", "$a", "aa"]),
    st.sampled_from([True, False, MOMENT, ObjectId("a" * 24), ObjectId("b" * 24)]),
    st.sampled_from([b"", b"a", b"zz", uuid.UUID(int=5)]),
)
# As other programs may have stored them: any type in any field, and keys that are missing.
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "number": ANY,
            "n": st.none() | st.sampled_from(["", "a", "b"]),
            "weight": st.none() | NUMBERS,
            "any": ANY | st.just({"x": 1}).map(dict),
            "place": st.none()
            | st.fixed_dictionaries({}, optional={"c": st.sampled_from(["x", "y"]), "level": ANY}),
        },
    ),
    max_size=9,
)
PATHS = ["number", "name", "weight", "place.city", "place.level", "any.x", "id"]
ORDERS = st.lists(
    st.tuples(st.sampled_from(["", "-"]), st.sampled_from(PATHS)),
    max_size=3,
    unique_by=lambda pair: pair[1],
).map(lambda pairs: [sign + path for sign, path in pairs])


async def fill(app: App, documents: list[dict[str, Any]]) -> Any:
    raw = app.dangerous_raw("documents of another program")["core_entry"]
    await raw.delete_many({})
    if documents:
        await raw.insert_many([{"_id": ObjectId(), **document} for document in documents])
    return raw


def complete(order: list[str]) -> list[str]:
    if any(part.lstrip("-") == "id" for part in order):
        return order
    return [*order, "-id" if order and order[-1].startswith("-") else "id"]


@pytest.fixture(scope="module")
def server() -> Iterator[World]:
    with world() as started:
        yield started


@pytest.mark.fuzz
def test_pages_in_a_row_are_the_ordered_search(server: World) -> None:
    @law(80)
    @given(DOCUMENTS, ORDERS, st.integers(1, 4), st.sampled_from([[], [("name", "!=", "a")]]))
    def holds(documents: Any, order: list[str], size: int, domain: Any) -> None:
        async def check() -> None:
            await fill(server.app, documents)
            expected = (await Entry.search(domain, order=complete(order))).ids
            query = Entry.search(domain, order=order)
            pages = await forwards(query, size)
            assert [record.id for page in pages for record in page] == expected
            back = await backwards(query, size)
            assert [record.id for page in back for record in page] == expected

        server.run(check)

    holds()


@pytest.mark.fuzz
def test_records_that_are_there_all_the_time_come_exactly_once(server: World) -> None:
    @law(60)
    @given(DOCUMENTS, DOCUMENTS, ORDERS, st.integers(1, 3), st.data())
    def holds(
        documents: Any, later: list[Any], order: list[str], size: int, data: st.DataObject
    ) -> None:
        async def check() -> None:
            raw = await fill(server.app, documents)
            query = Entry.search(order=order)
            lasting = (await query.order(*complete(order))).ids
            seen: list[str | None] = []
            cursor: str | None = None
            waiting = list(later)
            while True:
                page = await query.paginate(size, after=cursor)
                seen += page.records.ids
                cursor = page.next
                if cursor is None:
                    break
                if waiting:
                    await raw.insert_one({"_id": ObjectId(), **waiting.pop()})
                if lasting and data.draw(st.booleans()):
                    # The record that the cursor stands on, as often as any.
                    gone = data.draw(st.sampled_from(lasting))
                    lasting.remove(gone)
                    await raw.delete_one({"_id": ObjectId(gone)})
            assert len(seen) == len(set(seen))
            assert [each for each in seen if each in lasting] == lasting

        server.run(check)

    holds()


@pytest.mark.fuzz
def test_the_operators_of_keysets_agree_with_the_server(server: World) -> None:
    names_ = st.sampled_from(sorted(KEYSET_OPERATORS))

    @law(150)
    @given(DOCUMENTS, names_, st.sampled_from(["number", "any", "place.level"]), ANY)
    def holds(documents: Any, operator: str, path: str, value: Any) -> None:
        async def check() -> None:
            raw = await fill(server.app, documents)
            domain = [(path, operator, value)]
            found = [record.pk for record in await Entry.search(domain)]
            matches = server.app.matcher(Entry, domain)
            stored = await raw.find().to_list(None)
            assert sorted(found) == sorted(d["_id"] for d in stored if matches(d))

        server.run(check)

    holds()
