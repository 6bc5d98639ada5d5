"""The place of a problem: the path of the value, whichever way it comes and however deep it lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Dict,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    List,
    Many2one,
    Push,
    String,
    UpdateItems,
    ValidationError,
)


class Other(BaseModel):
    _name = "places.other"

    name = String()


class Inner(EmbeddedModel):
    to_id = Many2one(Other, db_name="t")
    n = Int()


class Outer(EmbeddedModel):
    to_id = Many2one(Other)
    inner = Embedded(Inner, db_name="i")
    items = List(Embedded(Inner))
    links = List(Many2one(Other))


class Holder(BaseModel):
    _name = "places.holder"

    to_id = Many2one(Other)
    one = Embedded(Outer, db_name="o")
    many = List(Embedded(Outer))
    links = List(Many2one(Other))
    by_key = Dict(Many2one(Other))
    n = Int()


Place = tuple[str | int, ...]
ALL: Any = []
VALUES: Mapping[Place, Any] = {
    ("to_id",): lambda bad: {"to_id": bad},
    ("one", "to_id"): lambda bad: {"one": {"to_id": bad}},
    ("one", "inner", "to_id"): lambda bad: {"one": {"inner": {"to_id": bad}}},
    ("one", "items", 1, "to_id"): lambda bad: {"one": {"items": [{}, {"to_id": bad}]}},
    ("many", 0, "items", 0, "to_id"): lambda bad: {"many": [{"items": [{"to_id": bad}]}]},
    ("many", 0, "links", 0): lambda bad: {"many": [{"links": [bad]}]},
    ("links", 0): lambda bad: {"links": [bad]},
    ("by_key", "k"): lambda bad: {"by_key": {"k": bad}},
}
PATHS: Mapping[Place, Any] = {
    ("one", "to_id"): lambda bad: {"one.to_id": bad},
    ("one", "inner", "to_id"): lambda bad: {"one.inner.to_id": bad},
    ("many", 0, "to_id"): lambda bad: {"many.0.to_id": bad},
    ("many", 0, "inner", "to_id"): lambda bad: {"many.0.inner": {"to_id": bad}},
    ("many", "to_id"): lambda bad: {"many": UpdateItems(ALL, {"to_id": bad})},
    ("many", "inner", "to_id"): lambda bad: {"many": UpdateItems(ALL, {"inner.to_id": bad})},
    ("many", "items", 0, "to_id"): lambda bad: {
        "many": UpdateItems(ALL, {"items": [{"to_id": bad}]})
    },
    ("many", "links", 0): lambda bad: {"many": UpdateItems(ALL, {"links": [bad]})},
    ("by_key", "k"): lambda bad: {"by_key.k": bad},
}
BAD: Mapping[str, Any] = {"a record that is not saved": lambda: Other(name="x"), "no id": lambda: 5}


async def places(awaitable: Any) -> list[Place]:
    with pytest.raises(ValidationError) as caught:
        await awaitable
    return [detail["loc"] for detail in caught.value.errors()]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_link_that_is_refused_is_named_by_its_path(memory_app: App, bad: Any) -> None:
    holder = await Holder.create({"one": {"inner": {}}, "many": [{"inner": {}}]})
    for place, values in VALUES.items():
        assert await places(Holder.create(values(bad()))) == [place]
        assert await places(holder.write(values(bad()))) == [place]
        assert await places(Holder.search().update(values(bad()))) == [place]
        assert await places(Holder.write_many({holder.id: values(bad())})) == [(0, *place)]
    for place, values in PATHS.items():
        assert await places(holder.write(values(bad()))) == [place]
        assert await places(Holder.search().update(values(bad()))) == [place]


HUGE = (2**63, 2**64, -(2**64), 10**30)


@pytest.mark.parametrize("huge", HUGE)
async def test_a_number_beyond_64_bits_is_refused_with_its_field_and_the_limit(
    app: App, huge: int
) -> None:
    holder = await Holder.create({"n": 1, "many": [{}], "one": {"inner": {"n": 1}}})
    for place, values in (
        (("many",), {"many": Push({}, position=huge)}),
        (("many",), {"many": Push({}, slice=huge)}),
        (("n",), {"n": Inc(huge)}),
        (("n",), {"n": huge}),
        (("one", "inner", "n"), {"one.inner.n": huge}),
        (("many", "inner", "n"), {"many": UpdateItems(ALL, {"inner.n": huge})}),
    ):
        for way in (holder.write(values), Holder.search().update(values)):
            with pytest.raises(ValidationError) as caught:
                await way
            (detail,) = caught.value.errors()
            assert detail["loc"] == place
            limits = ("2**63 - 1", str(2**63 - 1), str(-(2**63)), "-2**63")
            assert any(limit in detail["msg"] for limit in limits), detail
    with pytest.raises(ValidationError, match="no position in it: a position has at most 9 digits"):
        await holder.write({f"many.{abs(huge)}.inner": None})
    for query in ("limit", "offset"):
        with pytest.raises(ValidationError, match=rf"{query}: is (at most|a whole number)"):
            await getattr(Holder.search(), query)(huge)


async def test_the_largest_numbers_are_taken(app: App) -> None:
    holder = await Holder.create({"links": []})
    await holder.write({"many": Push({}, position=2**63 - 1, slice=2**63 - 1)})
    await holder.write({"many": Push({}, position=1 - 2**63, slice=1 - 2**63)})
    assert len((await Holder.get(holder.id)).many or ()) == 2
