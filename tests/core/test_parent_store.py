"""Trees that keep their paths: in step on every way to write, whatever moves, and never a cycle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    DateTime,
    Many2one,
    String,
    ValidationError,
    rebuild_parent_paths,
)
from earnorm.features.trees.parent_paths import placed, step
from earnorm.kernel import registry

from .conftest import Commands, default_app


class Part(BaseModel):
    _name = "tree.part"
    _parent_store = True

    name = String()
    parent_id = Many2one("tree.part", on_delete="cascade")


class Folder(BaseModel):
    _name = "tree.folder"
    _parent_store = True
    _parent_name = "inside_id"

    name = String()
    inside_id = Many2one("tree.folder", db_name="in", on_delete="set_null")


async def shape(model: Any = Part) -> dict[str, str]:
    """Each node's path in names; it also holds every stored path against the parents."""
    found = await model.search()
    names = {str(each.pk): each.name for each in found}
    parents = {each.pk: getattr(each, model._parent_name) for each in found}
    parents = {pk: parent and parent.pk for pk, parent in parents.items()}
    expected = placed(parents, {}, _bound(model))
    assert {each.pk: each._parent_path for each in found} == expected
    return {
        each.name: "/".join(names[part] for part in each._parent_path.split("/")[:-1])
        for each in found
    }


def _bound(model: Any) -> Any:
    from earnorm import current_app

    return current_app().bind(model)


async def tree() -> dict[str, Part]:
    a = await Part.create({"name": "a"})
    b, c = await Part.create([{"name": "b", "parent_id": a}, {"name": "c", "parent_id": a}])
    d = await Part.create({"name": "d", "parent_id": b})
    e = await Part.create({"name": "e", "parent_id": d})
    return {"a": a, "b": b, "c": c, "d": d, "e": e}


async def test_a_path_is_kept_from_the_beginning(app: App) -> None:
    await tree()
    assert await shape() == {"a": "a", "b": "a/b", "c": "a/c", "d": "a/b/d", "e": "a/b/d/e"}


async def test_a_batch_may_hold_parents_and_children_in_any_order(app: App) -> None:
    from bson import ObjectId

    top, below, leaf = (ObjectId() for _ in range(3))
    await Part.create(
        [
            {"_id": leaf, "name": "leaf", "parent_id": below},
            {"_id": top, "name": "top"},
            {"_id": below, "name": "below", "parent_id": top},
        ]
    )
    assert await shape() == {"top": "top", "below": "top/below", "leaf": "top/below/leaf"}
    one, two = ObjectId(), ObjectId()
    with pytest.raises(ValidationError, match="below itself"):
        await Part.create([{"_id": one, "parent_id": two}, {"_id": two, "parent_id": one}])
    with pytest.raises(ValidationError, match="no such parent"):
        await Part.create({"parent_id": ObjectId()})


async def test_a_subtree_moves_with_its_root(app: App) -> None:
    nodes = await tree()
    await nodes["b"].write({"parent_id": nodes["c"]})
    assert (await shape())["e"] == "a/c/b/d/e"
    await Part.search([("name", "=", "d")]).update({"parent_id": None})
    assert (await shape())["e"] == "d/e"
    node = await Part.get(nodes["b"].id)
    node.parent_id = await Part.get(nodes["e"].id)
    await node.save()
    assert await shape() == {"a": "a", "c": "a/c", "d": "d", "e": "d/e", "b": "d/e/b"}


async def test_several_nodes_move_at_once(app: App) -> None:
    nodes = await tree()
    both = await Part.search([("name", "in", ["b", "e"])])
    for each in both:
        each.parent_id = nodes["c"] if each.name == "b" else nodes["b"]
    await both.save()
    assert await shape() == {"a": "a", "c": "a/c", "b": "a/c/b", "d": "a/c/b/d", "e": "a/c/b/e"}


class Counted(BaseModel):
    _name = "tree.counted"
    _parent_store = True
    _versioned = True

    name = String()
    parent_id = Many2one("tree.counted", on_delete="cascade")
    written = DateTime(auto_now=True)


async def test_a_record_knows_its_path_and_what_follows_is_no_change_of_its_own(app: App) -> None:
    a, b = await Counted.create([{"name": "a"}, {"name": "b"}])
    c = await Counted.create({"name": "c", "parent_id": b})
    assert (a._parent_path, c._parent_path) == (f"{a.id}/", f"{b.id}/{c.id}/")
    before = c.written
    b.parent_id = a
    await b.save()
    assert b._parent_path == f"{a.id}/{b.id}/"
    stored = await Counted.get(c.id)
    assert (stored._parent_path, stored.written) == (f"{a.id}/{b.id}/{c.id}/", before)
    # Nobody's update of them was lost, the move's own included.
    c.name = b.name = "still"
    await c.save()
    await b.save()


async def test_a_cycle_is_refused_and_nothing_written(app: App) -> None:
    nodes = await tree()
    before = await shape()
    for node, parent in (("a", "a"), ("a", "e"), ("b", "d")):
        with pytest.raises(ValidationError, match="below itself") as caught:
            await nodes[node].write({"parent_id": nodes[parent]})
        assert caught.value.errors()[0]["type"] == "cycle"
    both = await Part.search([("name", "in", ["b", "c"])], order="name")
    for each in both:
        each.parent_id = nodes["c" if each.name == "b" else "b"]
    with pytest.raises(ValidationError, match="below itself"):
        await both.save()
    assert await shape() == before


async def test_deleting_a_node_takes_or_frees_what_lies_below(app: App) -> None:
    nodes = await tree()
    await nodes["b"].unlink()
    assert await shape() == {"a": "a", "c": "a/c"}
    top = await Folder.create({"name": "top"})
    inner = await Folder.create({"name": "inner", "inside_id": top})
    await Folder.create({"name": "leaf", "inside_id": inner})
    await top.unlink()
    assert await shape(Folder) == {"inner": "inner", "leaf": "inner/leaf"}


async def test_what_lies_below_and_above_is_found_by_paths(commands: Commands) -> None:
    nodes = await tree()
    commands.clear()
    found = await Part.search([("id", "child_of", nodes["b"])], order="name")
    assert found.mapped("name") == ["b", "d", "e"]
    assert len(commands.named("find")) == 3  # the start's path, the range, the search
    found = await Part.search([("parent_id", "child_of", nodes["b"])], order="name")
    assert found.mapped("name") == ["d", "e"]
    found = await Part.search([("id", "parent_of", nodes["d"])], order="name")
    assert found.mapped("name") == ["a", "b", "d"]


async def test_a_move_is_one_transaction(commands: Commands) -> None:
    nodes = await tree()
    commands.clear()
    await nodes["b"].write({"parent_id": nodes["c"]})
    assert len(commands.named("commitTransaction")) == 1
    commands.clear()
    await nodes["b"].write({"name": "B"})
    assert [name for name, _ in commands.all] == ["update"]


async def test_paths_are_rebuilt(app: App) -> None:
    await tree()
    raw = app.dangerous_raw("as a model that kept no paths")["tree_part"]
    await raw.update_many({}, {"$unset": {"_parent_path": ""}})
    below = await Part.search([("name", "=", "b")])
    assert await Part.search([("id", "child_of", below[0])]).count() == 3
    await Part.create({"name": "f", "parent_id": (await Part.search([("name", "=", "e")]))[0]})
    assert await rebuild_parent_paths(Part) == 5
    assert await rebuild_parent_paths(Part) == 0
    assert (await shape())["e"] == "a/b/d/e"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12))
def test_any_moves_leave_every_path_as_the_parents_say(moves: list[tuple[int, int]]) -> None:
    import asyncio
    import uuid

    async def run() -> None:
        async with default_app("memory", f"t{uuid.uuid4().hex[:8]}"):
            nodes = list(await Part.create([{"name": str(n)} for n in range(8)]))
            parents: dict[int, int | None] = dict.fromkeys(range(8))
            for child, parent in moves:
                node: int | None = parent
                while node is not None and node != child:
                    node = parents[node]
                if node == child:
                    with pytest.raises(ValidationError):
                        await nodes[child].write({"parent_id": nodes[parent]})
                else:
                    await nodes[child].write({"parent_id": nodes[parent]})
                    parents[child] = parent
            await shape()

    asyncio.run(run())


async def test_a_tree_says_what_becomes_of_the_children() -> None:
    import earnorm

    try:

        class Bare(BaseModel):
            _name = "tree.bare"
            _parent_store = True

            parent_id = Many2one("tree.bare")

        with pytest.raises(ConfigurationError, match=r"tree.bare.*on_delete"):
            await earnorm.App("mongomock://", database="r", plugins=[]).start()
    finally:
        registry._definitions.pop("tree.bare")


def test_an_id_is_one_step() -> None:
    assert step("a/b%") == "a%2Fb%25/"
