"""Relations of a family of classes: what leads to a class leads to its subclasses in the collection."""

from __future__ import annotations

from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    ConfigurationError,
    Many2many,
    Many2one,
    One2many,
    String,
)
from earnorm.features.trees.parent_paths import rebuild_parent_paths
from earnorm.model.relations.prefetch import check_relations


class Work(BaseModel):
    _name = "kin.work"
    _discriminator = "kind"
    _parent_store = True
    name = String()
    parent_id = Many2one("kin.work", on_delete="cascade")
    note_ids = One2many("kin.note", "work_id")
    tag_ids = Many2many("kin.tag")
    team_ids = Many2many("kin.team", through="kin.share")


class Song(Work):
    _name = "kin.song"
    text = String()


class Note(BaseModel):
    _name = "kin.note"
    text = String()
    work_id = Many2one(Work)


class Tag(BaseModel):
    _name = "kin.tag"
    name = String()
    work_ids = Many2many(Work, inverse="tag_ids")


class Team(BaseModel):
    _name = "kin.team"
    name = String()
    work_ids = Many2many(Work, through="kin.share")


class Share(BaseModel):
    _name = "kin.share"
    work_id = Many2one(Work, required=True)
    team_id = Many2one(Team, required=True)


class Other(BaseModel):
    """It inherits the fields and has its own collection, so nothing leads to it."""

    _abstract = True
    name = String()
    note_ids = One2many("kin.note", "work_id")


LINKS = {"note_ids": (Note, "text"), "tag_ids": (Tag, "name"), "team_ids": (Team, "name")}


@pytest.mark.parametrize("name", LINKS)
async def test_a_subclass_has_the_links_of_its_base_class(server_app: App, name: str) -> None:
    model, label = LINKS[name]
    song = await Song.create({"name": "s", name: [Command.create({label: "one"})]})
    (other,) = await model.create([{label: "two"}])
    await song.write({name: [Command.link(other)]})
    for base in (Work, Song):
        found = await base.search([(f"{name}.{label}", "=", "two")]).prefetch(name)
        assert list(found) == [song]
        assert sorted(getattr(found[0], name).mapped(label)) == ["one", "two"]
    await song.write({name: [Command.unlink(other)]})
    again: Any = await Song.get(song.pk)
    assert (await getattr(again, name)).mapped(label) == ["one"]
    if name != "note_ids":
        (left,) = await model.search([(label, "=", "one")])
        assert list(await left.work_ids) == [song]


async def test_the_nodes_of_a_tree_are_of_several_classes(server_app: App) -> None:
    top = await Work.create({"name": "top"})
    song = await Song.create({"name": "song", "parent_id": top})
    book = await Work.create({"name": "book", "parent_id": song})
    deep = await Song.create({"name": "deep", "parent_id": book})

    async def below(model: type[BaseModel], node: Any) -> set[str]:
        return set((await model.search([("_id", "child_of", node)])).mapped("name"))

    assert await below(Work, song) == {"song", "book", "deep"}
    assert await below(Song, song) == {"song", "deep"}
    assert await below(Song, top) == {"song", "deep"}
    await song.write({"parent_id": None})
    assert await below(Work, top) == {"top"}
    assert await below(Song, song) == {"song", "deep"}
    assert await rebuild_parent_paths(Song) == 0
    await Song.search([("_id", "=", deep)]).update({"parent_id": top})
    assert await below(Work, top) == {"top", "deep"}
    ups = await Song.search([("_id", "parent_of", deep)])
    assert ups.mapped("name") == ["deep"]


def test_a_class_with_a_collection_of_its_own_is_no_kind_of_its_base() -> None:
    class Play(Other):
        _name = "kin.play"

    earnorm.forget(Play)  # no App starts with it
    known = {m._name: m._schema.fields for m in (Work, Song, Note, Tag, Team, Share, Play)}
    with pytest.raises(ConfigurationError, match=r"not at 'kin\.play'"):
        check_relations([Play], known)
