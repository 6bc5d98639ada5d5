"""What is stored and not declared never becomes part of a record."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import App, BaseModel, Embedded, EmbeddedModel, Many2one, String, current_app
from earnorm.kernel.serving.declared import DeclaredKeys
from tests.core.conftest import Commands


class Inner(EmbeddedModel):
    city = String()


class Thing(BaseModel):
    _name = "declared.thing"
    name = String()
    kept = String(db_name="k")
    inner = Embedded(Inner)
    other_id = Many2one("declared.thing")


STRAYS: dict[str, Any] = {
    "save": "shadows the method",
    "secret": "x",
    "_changes": 1,
    "_pending": 1,
    "__class__": 2,
    "kept": "a field is stored under another name",
}


async def store(app: App, *documents: dict[str, Any]) -> None:
    database = app.dangerous_raw("another program writes here")
    await Thing.count()
    await database["declared_thing"].insert_many(list(documents))


async def test_other_keys_are_left_out_everywhere(app: App) -> None:
    await store(
        app,
        {"name": "plain", "k": "yes"},
        {"name": "odd", "k": "yes", **STRAYS, "inner": {"city": "Huế", "save": 1}},
    )
    plain, odd = await Thing.search(order="-name")
    streamed = [thing async for thing in Thing.search(order="-name")]
    for thing in (odd, streamed[1], await Thing.search([("name", "=", "odd")]).first()):
        assert thing is not None
        assert callable(thing.save) and thing.kept == "yes"
        assert set(vars(thing)) <= {"_id", "name", "kept", "inner", "other_id"}
        with pytest.raises(AttributeError):
            thing.secret  # noqa: B018
        assert thing.inner is not None and set(vars(thing.inner)) == {"city"}
    assert plain.name == "plain"


async def test_refreshed_and_related_records_are_clean_too(app: App) -> None:
    other = await Thing.create({"name": "other"})
    thing = await Thing.create({"name": "thing", "other_id": other})
    database = app.dangerous_raw("another program writes here")
    await database["declared_thing"].update_many({}, {"$set": {"secret": 1, "save": 2}})
    await thing.refresh()
    again = await Thing.get(thing.id)
    related = await again.other_id
    for each in (thing, again, related):
        assert "secret" not in vars(each) and callable(each.save)


async def test_a_projection_is_named_from_the_first_stray_key_on(commands: Commands) -> None:
    await Thing.create([{"name": "a"}, {"name": "b"}])
    commands.clear()
    await Thing.search()
    assert "projection" not in commands.named("find")[0]

    await store(current_app(), {"name": "c", "secret": "x"})
    commands.clear()
    await Thing.search()
    await Thing.search()
    assert ["projection" in find for find in commands.named("find")] == [False, True]


keys = st.sampled_from(["_id", "name", "k", "inner", "save", "x"])


@given(st.lists(st.dictionaries(keys, st.integers(), max_size=5), max_size=5))
def test_exactly_the_declared_keys_stay(documents: list[dict[str, Any]]) -> None:
    wanted = [{k: v for k, v in d.items() if k in Thing._schema.projection} for d in documents]
    assert DeclaredKeys(Thing._schema).only(documents) == wanted
