"""Indexes: created by themselves, once; what a clash says; what an undeclared name does."""

from __future__ import annotations

import asyncio

import pytest

from earnorm import App, BaseModel, ConfigurationError, DuplicateKey, Int, String

from .conftest import Commands


class Shelf(BaseModel):
    _name = "core.shelf"
    _indexes = [{"code": 1}, {"keys": [("size", -1), ("label", 1)], "name": "by_size"}]

    code = String(unique=True, db_name="c")
    size = Int(index=True)
    label = String()


async def names_of(app: App, model: type[BaseModel]) -> dict[str, object]:
    return await app.dangerous_raw("a look")[model._collection].index_information()  # type: ignore[no-any-return] # the driver's


async def test_indexes_are_created_on_first_use(server_app: App) -> None:
    await Shelf.count()
    found = await names_of(server_app, Shelf)
    keys = {tuple(map(tuple, index["key"])): index for index in found.values()}  # type: ignore[index] # the driver's
    assert set(keys) == {(("_id", 1),), (("c", 1),), (("size", 1),), (("size", -1), ("label", 1))}
    assert keys[(("c", 1),)]["unique"]
    assert "by_size" in found


async def test_indexes_are_created_once_whatever_the_number_of_tasks(commands: Commands) -> None:
    await asyncio.gather(*(Shelf.count() for _ in range(20)))
    await Shelf.create({"label": "x"})
    assert commands.of("core_shelf").count("createIndexes") == 1


async def test_a_unique_field_holds_and_unset_values_do_not_collide(app: App) -> None:
    await Shelf.create([{"label": "a"}, {"label": "b", "code": None}, {"code": "x"}])
    with pytest.raises(DuplicateKey):
        await Shelf.create({"code": "x"})
    assert await Shelf.count() == 3


async def test_a_duplicate_is_told_by_the_fields_name_and_not_by_its_stored_key(app: App) -> None:
    await Shelf.create({"code": "x"})
    with pytest.raises(DuplicateKey) as caught:
        await Shelf.create({"code": "x"})
    assert caught.value.fields == ("code",)


async def test_a_unique_index_serves_a_search_by_its_field(server_app: App) -> None:
    await Shelf.create({"code": "x"})
    assert (await Shelf.search([("code", "=", "x")]).explain()).indexes == ("c_1",)


async def test_documents_that_clash_are_reported_with_what_to_do(server_app: App) -> None:
    raw = server_app.dangerous_raw("older documents")["core_shelf"]
    await raw.insert_many([{"c": "secret"}, {"c": "secret"}])
    with pytest.raises(ConfigurationError, match="make them unique first") as caught:
        await Shelf.count()
    assert "secret" not in str(caught.value)


async def test_an_index_with_other_options_is_reported(server_app: App) -> None:
    raw = server_app.dangerous_raw("an older index")["core_shelf"]
    await raw.create_index([("label", 1)], name="by_size")
    with pytest.raises(ConfigurationError, match="index"):
        await Shelf.count()


async def test_an_undeclared_name_warns(memory_app: App) -> None:
    class CoreOddIndex(BaseModel):
        _indexes = [{"nmae": 1}]
        name = String()

    with pytest.warns(UserWarning, match="names 'nmae', which the model does not declare"):
        await CoreOddIndex.count()
    CoreOddIndex._indexes = ()  # it stays registered for the other tests


@pytest.mark.parametrize("entry", ["email", {}, {"label": 3}, {"label": "up"}], ids=repr)
async def test_a_malformed_entry_is_refused(memory_app: App, entry: object) -> None:
    class CoreBadIndex(BaseModel):
        _abstract = True
        label = String()

    model = type(
        "CoreBadIndexed", (CoreBadIndex,), {"_indexes": [entry], "_name": "core.bad_index"}
    )
    try:
        with pytest.raises(ConfigurationError, match="_indexes"):
            await model.count()
    finally:
        model._indexes = ()  # it stays registered for the other tests
