"""``_order``: the order of what has none of its own, and what a declared order may name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    Embedded,
    EmbeddedModel,
    First,
    Int,
    Last,
    List,
    Many2many,
    Many2one,
    One2many,
    String,
    depends,
    hookimpl,
)
from earnorm.kernel import registry
from earnorm.model.reading.ordering import parse_order

from .conftest import Commands, default_app
from .laws import World, law, world


class Rating(EmbeddedModel):
    stars = Int(db_name="s")


class Track(BaseModel):
    _name = "order.track"
    _order = "-rating.stars,number"

    number = Int(db_name="n")
    title = String()
    rating = Embedded(Rating, db_name="r")
    record_id = Many2one("order.record")
    list_ids = Many2many("order.list")


class LiveTrack(Track):
    _name = "order.live"
    _collection = "order_live"


class Record(BaseModel):
    _name = "order.record"

    track_ids = One2many("order.track", "record_id")
    by_title = One2many("order.track", "record_id", order="title")
    unordered = One2many("order.track", "record_id", order="")


class Playlist(BaseModel):
    _name = "order.list"

    track_ids = Many2many("order.track", inverse="list_ids")


class Plain(BaseModel):
    _name = "order.plain"

    number = Int()


STARS = (1, 3, None, 3, 2)
WANTED = [1, 3, 4, 0, 2]  # by stars from the highest, unset last; then by number


async def tracks(model: type[Any] = Track, **values: Any) -> Any:
    return await model.create(
        [
            {"number": n, "title": "cbade"[n], "rating": {"stars": s}, **values}
            for n, s in enumerate(STARS)
        ]
    )


async def test_a_search_without_an_order_has_the_default_one(app: App) -> None:
    await tracks()
    assert (await Track.search()).mapped("number") == WANTED
    assert (await Track.search(limit=2, offset=1)).mapped("number") == WANTED[1:3]
    assert [track.number async for track in Track.search()] == WANTED
    first = await Track.search().first()
    assert first is not None and first.number == WANTED[0]
    assert (await Track.find_one()).number == WANTED[0]
    assert (await Track.search().page(2, 2)).records.mapped("number") == WANTED[2:4]


async def test_an_order_that_is_given_wins_and_an_empty_one_means_none(
    server_app: App, database: str
) -> None:
    await tracks()
    assert (await Track.search(order="title")).mapped("title") == list("abcde")
    assert (await Track.search().order("-number")).mapped("number") == [4, 3, 2, 1, 0]
    for query in (Track.search(order=""), Track.search(order=()), Track.search().order()):
        plan = await query.explain()
        assert not plan.sorts_in_memory and len(await query) == 5
    assert (await Track.search().explain()).sorts_in_memory


async def test_only_what_shows_records_is_sorted(commands: Commands) -> None:
    made = await tracks()
    commands.clear()
    assert await Track.search().count() == 5
    assert await Track.search().exists()
    await Track.search().update({"title": "x"})
    assert await Track.search().group("title") == [{"title": "x"}]
    assert len(await Track.search().aggregate([{"$limit": 9}])) == 5
    await Track.get(made[0].id)
    await Track.search().delete()
    assert "r.s" not in str(commands.all)  # the rows of a group are sorted by their keys


async def test_the_default_order_says_which_records_are_the_first(server_app: App) -> None:
    await tracks()
    (row,) = await Track.search().group(first=First("number"), last=Last("number"))
    assert (row["first"], row["last"]) == (WANTED[0], WANTED[-1])
    (row,) = await Track.search(limit=2).group(last=Last("number"))
    assert row["last"] == WANTED[1]
    rows = await Track.search(limit=2).aggregate([{"$project": {"n": 1, "_id": 0}}])
    assert [row["n"] for row in rows] == WANTED[:2]


async def test_cursors_follow_the_default_order(app: App) -> None:
    await tracks()
    page = await Track.search().paginate(2)
    seen = page.records.mapped("number")
    while page.next:
        page = await Track.search().paginate(2, after=page.next)
        seen += page.records.mapped("number")
    assert seen == WANTED
    back = await Track.search().paginate(2, before=page.previous)
    assert back.records.mapped("number") == WANTED[2:4]


async def test_relations_without_an_order_have_that_of_their_records(app: App) -> None:
    record, playlist = await Record.create({}), await Playlist.create({})
    made = await tracks(record_id=record, list_ids=[playlist])
    loaded = await Record.get(record.id)
    assert (await loaded.track_ids).mapped("number") == WANTED
    assert (await loaded.by_title).mapped("title") == list("abcde")
    assert len(await loaded.unordered) == 5
    assert (await (await Playlist.get(playlist.id)).track_ids).mapped("number") == WANTED
    (part,) = await Record.search().prefetch("track_ids", limit=2)
    assert part.track_ids[0].number == WANTED[0] and made


async def test_sorted_without_a_key_has_the_default_order(app: App) -> None:
    made = await tracks()
    assert made.sorted().mapped("number") == WANTED
    assert made.sorted(reverse=True).mapped("number") == WANTED[::-1]
    assert made.sorted("title").mapped("title") == list("abcde")
    plain = await Plain.create([{"number": 2}, {"number": 1}])
    assert plain[::-1].sorted().mapped("number") == [2, 1]  # by the id


async def test_a_subclass_inherits_the_order(app: App) -> None:
    await tracks(LiveTrack)
    assert (await LiveTrack.search()).mapped("number") == WANTED


@pytest.fixture
def orders() -> Iterator[World]:
    with world() as started:
        yield started


PATHS = ["number", "title", "rating.stars", "id"]


@pytest.mark.fuzz
@given(
    order=st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), min_size=1, max_size=3),
    rows=st.lists(
        st.tuples(
            st.none() | st.integers(0, 2),
            st.none() | st.sampled_from("abB"),
            st.none() | st.integers(0, 2),
        ),
        max_size=8,
    ),
    limit=st.integers(0, 4),
    offset=st.integers(0, 3),
)
@law(100)
def test_the_default_order_means_what_the_same_given_order_means(
    orders: World, order: list[tuple[str, bool]], rows: list[Any], limit: int, offset: int
) -> None:
    text = ",".join(
        f"{'-' if descends else ''}{path}" for path, descends in (*order, ("id", False))
    )

    async def example() -> None:
        await Track.search().delete()
        await Track.create([{"number": n, "title": t, "rating": {"stars": s}} for n, t, s in rows])
        schema = orders.app.bind(Track).schema
        before, schema.default_order = schema.default_order, parse_order(text)
        try:
            wanted = (await Track.search(order=text)).ids
            assert (await Track.search()).ids == wanted
            assert [r.id async for r in Track.search()] == wanted
            window = Track.search(limit=limit, offset=offset)
            assert (await window).ids == (await window.order(text)).ids
            if rows:
                page = await Track.search().paginate(3)
                assert (
                    page.records.ids == (await Track.search().order(text).paginate(3)).records.ids
                )
        finally:
            schema.default_order = before

    orders.run(example)


# -- what a declared order may name ---------------------------------------------------------------


@pytest.fixture
def forget() -> Iterator[None]:
    before = dict(registry.definitions())
    yield
    for name in registry.definitions().keys() - before.keys():
        registry._definitions.pop(name)
    registry._version += 1


WRONG = {
    "nmuber": "no field 'nmuber'",
    "rating.sters": "no field 'sters'",
    "record_id.id,record_id.name": "lies in other records",
    "twice": "computed when it is read",
    "track_ids": "lies in other records|not stored",
}


@pytest.mark.parametrize("path", WRONG)
async def test_a_default_order_by_no_stored_value_stops_the_start(
    forget: None, database: str, path: str
) -> None:
    class Odd(BaseModel):
        _name = "order.odd"
        _order = path
        number = Int()
        rating = Embedded(Rating)
        record_id = Many2one("order.record")
        twice = Int(compute="_twice")
        track_ids = One2many("order.odd", "odd_id")
        odd_id = Many2one("order.odd")

        @depends("number")
        def _twice(self) -> int:
            return 2 * (self.number or 0)

    with pytest.raises(
        ConfigurationError, match=rf"order\.odd\._order: .*({WRONG[path]})"
    ) as caught:
        async with default_app("memory", database):
            pass
    assert caught.value.code == "declared_order"


@pytest.mark.parametrize("path", ["record_id.name", "nmuber"])
async def test_a_relations_order_by_no_stored_value_stops_the_start(
    forget: None, database: str, path: str
) -> None:
    class Shelf(BaseModel):
        _name = "order.shelf"
        item_ids = One2many("order.shelf", "shelf_id", order=path)
        shelf_id = Many2one("order.shelf")
        record_id = Many2one("order.record")

    with pytest.raises(ConfigurationError, match=r"order\.shelf\.item_ids: order="):
        async with default_app("memory", database):
            pass


async def test_a_model_that_is_defined_later_is_refused_at_its_first_use(
    forget: None, memory_app: App
) -> None:
    class Late(BaseModel):
        _name = "order.late"
        _order = "-nmuber"
        number = Int()

    with pytest.raises(ConfigurationError, match=r"order\.late\._order"):
        await Late.search()


@pytest.mark.parametrize("order", [3, [("number", -1)], {"number": 1}, b"number"], ids=repr)
def test_an_order_of_another_form_is_refused_where_the_class_is_made(order: Any) -> None:
    with pytest.raises(TypeError, match="_order"):

        class Odd(BaseModel):
            _abstract = True
            _order = order
            number = Int()


async def test_an_extension_may_bring_the_order_and_its_field(database: str) -> None:
    class Extended(Plain):
        _inherit = "order.plain"
        _order = "-weight"
        weight = Int()

    class Weights:
        api = 1
        name = "weights"

        @hookimpl
        def register_models(self, app: App) -> list[type[BaseModel]]:
            return [Extended]

    async with default_app("memory", database, [Weights()]):
        await Plain.create([{"number": n, "weight": w} for n, w in enumerate((1, 3, 2))])
        assert (await Plain.search()).mapped("number") == [1, 2, 0]
    async with default_app("memory", database):
        await asyncio.sleep(0)
        await Plain.create([{"number": 1}, {"number": 0}])
        assert (await Plain.search()).mapped("number") == [1, 0]


def test_lists_can_be_a_default_order() -> None:
    class Tagged(BaseModel):
        _abstract = True
        _order = ["-tags", "id"]
        tags = List(String())

    assert Tagged._schema.default_order == (("tags", -1), ("id", 1))
