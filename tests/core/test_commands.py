"""Commands on to-many fields: created, linked and changed together with the record, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    ConcurrencyError,
    DuplicateKey,
    FieldNotLoaded,
    Int,
    Many2many,
    Many2one,
    NotFound,
    One2many,
    String,
    ValidationError,
)

from .conftest import Commands
from .library import Article, Membership, Note, Person, Tag, Team


class Parcel(BaseModel):
    _name = "lib.parcel"

    code = String(unique=True)
    item_ids = One2many["Item"]("lib.item", "parcel_id", order="number")


class Ledger(BaseModel):
    _name = "lib.ledger"
    _versioned = True

    title = String()
    tag_ids = Many2many(Tag)


class Item(BaseModel):
    _name = "lib.item"

    number = Int(required=True, min_value=0)
    parcel_id = Many2one(Parcel, required=True)


def writes(commands: Commands) -> list[str]:
    return [
        command[name] for name in ("insert", "update", "delete") for command in commands.named(name)
    ]


async def notes(article: Article) -> list[str | None]:
    found = await Note.search([("article_id", "=", article)], order="sequence,text")
    return found.mapped("text")


async def tags_of(article: Article) -> list[str]:
    found = await Article.search([("id", "=", article.id)]).prefetch("tag_ids")
    names: list[str] = found[0].tag_ids.mapped("name")
    return names


# -- create ---------------------------------------------------------------------------------------


async def test_children_are_created_with_their_parent_at_any_level(app: App) -> None:
    article = await Article.create(
        {
            "title": "x",
            "tag_ids": [Command.create({"name": "new"})],
            "note_ids": [
                Command.create({"text": "one", "sequence": 1, "tag_ids": [{"name": "deep"}]}),
                {"text": "two", "sequence": 2},
                Note(text="three", sequence=3),
            ],
        }
    )
    assert article.note_ids.mapped("text") == ["one", "two", "three"]
    assert article.note_ids[0].article_id is article or article.note_ids[0].article_id == article
    assert await notes(article) == ["one", "two", "three"]
    assert await tags_of(article) == ["new"]
    assert (await article.note_ids[0].tag_ids).mapped("name") == ["deep"]


async def test_a_batch_is_one_insert_per_level(commands: Commands) -> None:
    await Article.create(
        [
            {
                "title": f"a{n}",
                "tag_ids": [{"name": f"t{n}"}, {"name": f"u{n}"}],
                "note_ids": [{"text": "x", "tag_ids": [{"name": "v"}]} for _ in range(3)],
            }
            for n in range(10)
        ]
    )
    inserts = [(c["insert"], len(c.get("documents", ())) or 1) for c in commands.named("insert")]
    assert [name for name, _ in inserts] == ["lib_tag", "lib_article", "lib_tag", "lib_note"]
    assert await Tag.count() == 50 and await Note.count() == 30
    assert len(commands.named("commitTransaction")) == 1


async def test_existing_records_are_linked_on_create(app: App) -> None:
    tag = await Tag.create({"name": "t"})
    note = await Note.create({"text": "n"})
    article = await Article.create(
        {"title": "x", "tag_ids": [Command.link(tag)], "note_ids": [Command.link(note.id)]}
    )
    assert await tags_of(article) == ["t"] and await notes(article) == ["n"]
    other = await Article.create(
        {"title": "y", "tag_ids": Tag.browse([tag.id]), "note_ids": [note]}
    )
    assert await notes(other) == ["n"] and await notes(article) == []
    both = await Tag.create({"name": "b", "article_ids": [article, Command.link(other)][:1]})
    assert await tags_of(article) == ["t", "b"]
    assert (await both.article_ids).mapped("title") == ["x"]


async def test_a_link_model_gets_its_own_values(app: App) -> None:
    team = await Team.create({"name": "old"})
    person = await Person.create(
        {
            "name": "p",
            "team_ids": [Command.create({"name": "new"}), Command.link(team, {"role": "lead"})],
        }
    )
    links = await Membership.search([("person_id", "=", person)], order="role")
    assert links.mapped("role") == [None, "lead"]
    await person.write({"team_ids": [Command.link(team, {"role": "chief"})]})
    links = await Membership.search([("person_id", "=", person)], order="role")
    assert links.mapped("role") == [None, "chief"]
    await person.write({"team_ids": [Command.set([team])]})
    assert (await person.team_ids).mapped("name") == ["old"]
    await person.write({"team_ids": [Command.delete(team), Command.create({"name": "last"})]})
    assert (await person.team_ids).mapped("name") == ["last"]
    assert await Team.count() == 2
    other = await Team.create({"name": "not one of these"})
    await person.write({"team_ids": [Command.delete(other)]})
    assert await Team.count() == 3
    await other.unlink()
    await person.write({"team_ids": [Command.clear()]})
    assert await Membership.count() == 0 and await Team.count() == 2


@pytest.mark.parametrize(
    "values",
    [
        {"note_ids": [{"text": "ok"}, {"text": 7}]},
        {"note_ids": [{"text": "ok", "tag_ids": [{"name": None}]}]},
        {"tag_ids": [Command.create({"nme": "x"})]},
        {"note_ids": [Command.link("nonsense")]},
        {"note_ids": [Command.unlink("0" * 24)]},
        {"note_ids": 3},
        {"note_ids": "0" * 24},
        {"note_ids": ["0" * 24, Command.clear()]},
    ],
)
async def test_nothing_is_written_where_a_nested_value_is_wrong(
    app: App, values: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        await Article.create({"title": "x", **values})
    assert [await m.count() for m in (Article, Note, Tag)] == [0, 0, 0]


async def test_a_problem_is_told_at_its_place(app: App) -> None:
    with pytest.raises(ValidationError) as caught:
        await Article.create(
            [
                {"title": "fine"},
                {"title": "x", "note_ids": [{"text": "ok"}, {"tag_ids": [{"name": "ok"}, {}]}]},
            ]
        )
    (problem,) = caught.value.errors()
    assert problem["loc"] == (1, "note_ids", 1, "tag_ids", 1, "name")
    assert caught.value.subject == "lib.article"


async def test_linking_what_does_not_exist_writes_nothing(app: App) -> None:
    for link in (Command.link(ObjectId()), Command.set([ObjectId()])):
        with pytest.raises(NotFound, match=r"lib.note: 1 of 1 records"):
            await Article.create({"title": "x", "note_ids": [link]})
        article = await Article.create({"title": "y"})
        with pytest.raises(NotFound):
            await article.write({"title": "z", "note_ids": [link]})
        assert (await Article.search()).mapped("title") == ["y"]
        await article.unlink()


async def test_a_failure_half_way_leaves_nothing(server_app: App) -> None:
    await Parcel.create({"code": "a", "item_ids": [{"number": 1}]})
    with pytest.raises(DuplicateKey):
        await Parcel.create({"code": "a", "item_ids": [{"number": 2}]})
    other = await Parcel.create({"code": "b"})
    with pytest.raises(DuplicateKey):
        await other.write({"code": "a", "item_ids": [{"number": 3}]})
    assert (await Item.search()).mapped("number") == [1]
    assert other.code == "b"


async def test_commands_join_a_transaction_and_roll_back_with_it(server_app: App) -> None:
    article = await Article.create({"title": "x"})
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            await article.write({"note_ids": [{"text": "n"}], "tag_ids": [{"name": "t"}]})
            assert await Note.count() == 1
            raise RuntimeError
    assert await Note.count() == 0 and await Tag.count() == 0 and article.tag_ids.ids == []


# -- write ----------------------------------------------------------------------------------------


async def test_each_command_on_stored_ids(app: App) -> None:
    one, two, three = await Tag.create([{"name": n} for n in ("one", "two", "three")])
    article = await Article.create({"title": "x", "tag_ids": [one, two]})
    await article.write({"tag_ids": [Command.unlink(one), Command.link(three), Command.link(two)]})
    assert await tags_of(article) == ["two", "three"]
    assert article.tag_ids.ids == [two.id, three.id]
    await article.write({"tag_ids": [Command.create({"name": "four"}), Command.delete(two)]})
    assert await tags_of(article) == ["three", "four"] and await Tag.count() == 3
    await article.write({"tag_ids": [Command.update(three, {"name": "3"})], "title": "y"})
    assert await tags_of(article) == ["3", "four"] and article.title == "y"
    await article.write({"tag_ids": [Command.set([one, three.id]), Command.unlink(one)]})
    assert await tags_of(article) == ["3"]
    await article.write({"tag_ids": [Command.clear(), Command.link(one)]})
    assert await tags_of(article) == ["one"]
    await article.write({"tag_ids": None})
    assert await tags_of(article) == [] and await Tag.count() == 3


async def test_several_records_get_the_same_links(app: App) -> None:
    tag = await Tag.create({"name": "t"})
    both = await Article.create([{"title": "a", "tag_ids": [tag]}, {"title": "b"}])
    await both.write({"tag_ids": [Command.create({"name": "new"}), Command.link(tag)]})
    assert [await tags_of(each) for each in both] == [["t", "new"], ["new", "t"]]
    assert await Tag.count() == 2
    await both.write({"note_ids": [{"text": "n"}]})
    assert [await notes(each) for each in both] == [["n"], ["n"]]


async def test_each_command_on_a_one2many(app: App) -> None:
    article = await Article.create(
        {"title": "x", "note_ids": [{"text": t, "sequence": n} for n, t in enumerate("abcd")]}
    )
    a, b, c, d = await Note.search(order="sequence")
    stray = await Note.create({"text": "s", "sequence": 9})
    await article.write(
        {
            "note_ids": [
                Command.update(a, {"text": "A", "tag_ids": [{"name": "t"}]}),
                Command.unlink(b),
                Command.delete(c),
                Command.link(stray),
                Command.create({"text": "e", "sequence": 10}),
            ]
        }
    )
    assert await notes(article) == ["A", "d", "s", "e"]
    assert (await Note.get(b.id)).article_id is None and await Note.count() == 5
    assert (await Note.get(a.id)).tag_ids.ids
    with pytest.raises(FieldNotLoaded):
        len(article.note_ids)
    assert (await article.note_ids).mapped("text") == ["A", "d", "s", "e"]
    await article.write({"note_ids": [Command.set([d, b])]})
    assert await notes(article) == ["b", "d"] and await Note.count() == 5
    await article.write({"note_ids": [Command.delete(a)]})  # not one of its notes
    assert await Note.count() == 5
    await article.write({"note_ids": [Command.clear()]})
    assert await notes(article) == []


async def test_what_cannot_be_without_its_owner_is_deleted(app: App) -> None:
    parcel = await Parcel.create({"code": "a", "item_ids": [{"number": n} for n in range(3)]})
    first, second, _ = parcel.item_ids
    await parcel.write({"item_ids": [Command.unlink(first)]})
    assert await Item.count() == 2
    await parcel.write({"item_ids": [second]})
    assert (await Item.search()).mapped("number") == [1]


async def test_the_other_side_of_a_many2many_takes_commands(app: App) -> None:
    one, two = await Article.create([{"title": "1"}, {"title": "2"}])
    tag = await Tag.create({"name": "t", "article_ids": [one]})
    await tag.write({"article_ids": [Command.link(two), Command.create({"title": "3"})]})
    assert (await tag.article_ids).mapped("title") == ["3", "2", "1"]
    await tag.write({"article_ids": [Command.set([two])]})
    assert (await tag.article_ids).mapped("title") == ["2"]
    await tag.write({"article_ids": [Command.delete(two)]})
    assert (await Article.search(order="title")).mapped("title") == ["1", "3"]


async def test_a_versioned_record_stays_up_to_date(app: App) -> None:
    one, two = await Tag.create([{"name": "1"}, {"name": "2"}])
    ledger = await Ledger.create({"title": "x", "tag_ids": [one]})
    await ledger.write({"title": "y", "tag_ids": [Command.unlink(one), Command.link(two)]})
    ledger.title = "z"
    await ledger.save()
    assert (await Ledger.get(ledger.id)).tag_ids.ids == [two.id]


async def test_assigned_lists_are_carried_out_by_save(app: App) -> None:
    article = Article(title="x", note_ids=[Note(text="a")], tag_ids=[Tag(name="t")])
    assert article.note_ids.mapped("text") == ["a"]
    await article.save()
    assert await notes(article) == ["a"] and await tags_of(article) == ["t"]
    kept = (await Note.search())[0]
    article.note_ids = [Command.create({"text": "b"}), Command.link(kept)]
    article.title = "y"
    with pytest.raises(FieldNotLoaded, match=r"given commands; 'await record.save\(\)'"):
        len(article.note_ids)
    await article.save()
    assert await notes(article) == ["a", "b"] and not article.is_changed
    assert (await Article.get(article.id)).title == "y"
    article.note_ids = [kept]
    assert article.note_ids[0] is kept
    await article.save()
    assert await notes(article) == ["a"]


async def test_a_search_is_not_updated_with_commands(app: App) -> None:
    tag = await Tag.create({"name": "t"})
    article = await Article.create({"title": "x"})
    for name in ("tag_ids", "note_ids"):
        with pytest.raises(ValidationError, match="await the query first"):
            await Article.search().update({name: [Command.clear(), Command.link(tag)][:1]})
    await Article.search().update({"tag_ids": [tag]})
    assert await tags_of(article) == ["t"]


async def test_a_model_without_commands_pays_no_transaction(commands: Commands) -> None:
    tag = await Tag.create({"name": "t"})
    article = await Article.create({"title": "x", "tag_ids": [tag]})
    await article.write({"tag_ids": [tag.id], "title": "y"})
    assert not commands.named("commitTransaction")
    assert writes(commands) == ["lib_tag", "lib_article", "lib_article"]


def test_a_command_shows_no_values() -> None:
    assert repr(Command.create({"secret": 1})) == "<Command create>"
    assert repr(Command.set([1, 2])) == "<Command set 2>"


@pytest.mark.parametrize("field", ["tag_ids", "note_ids"])
async def test_commands_on_a_record_that_is_gone_are_refused(server_app: App, field: str) -> None:
    article = await Article.create({"title": "a"})
    await (await Article.get(article.id)).unlink()
    other = await (Tag.create({"name": "t"}) if field == "tag_ids" else Note.create({"text": "n"}))
    with pytest.raises(NotFound):
        await article.write({field: [Command.link(other)]})
    assert not await (Note.search([("article_id", "!=", None)])).count()


async def test_commands_on_a_versioned_record_that_was_changed_are_refused(
    server_app: App,
) -> None:
    tag = await Tag.create({"name": "t"})
    ledger = await Ledger.create({"title": "a"})
    await (await Ledger.get(ledger.id)).write({"title": "b"})
    with pytest.raises(ConcurrencyError):
        await ledger.write({"tag_ids": [Command.link(tag)]})
    assert not (await Ledger.get(ledger.id)).tag_ids.ids
    await ledger.refresh()
    await ledger.write({"tag_ids": [Command.link(tag)]})
    await ledger.write({"tag_ids": [Command.unlink(tag)], "title": "c"})
    assert (await Ledger.get(ledger.id))._revision == ledger._revision


class Counted(BaseModel):
    _name = "cmd.counted"
    _versioned = True

    name = String()
    tag_ids = Many2many(Tag)
    more_ids = Many2many(Tag)


@pytest.mark.parametrize("ways", [["write"], ["save"], ["assign"], ["set"]])
@pytest.mark.parametrize("names", ["name tag_ids", "tag_ids more_ids", "name tag_ids more_ids"])
async def test_a_write_of_values_and_commands_is_one_change_of_the_record(
    server_app: App, names: str, ways: list[str]
) -> None:
    one, two = await Tag.create([{"name": "1"}, {"name": "2"}])
    record = await Counted.create({"tag_ids": [one], "more_ids": [one]})
    commands = [Command.unlink(one), Command.link(two)]
    values = {name: "new" if name == "name" else commands for name in names.split()}
    for number, way in enumerate(ways * 2, 1):
        if way == "assign":
            for name, value in values.items():
                setattr(record, name, value)
            await record.save()
        elif way == "set":
            await (await Counted.search()).write(values)
            await record.refresh()
        else:
            await getattr(record, way)(values)
        stored = await Counted.get(record.pk)
        assert stored._revision == record._revision == number
        assert stored.to_dict() == record.to_dict()
        assert all(getattr(stored, n).pks == [two.pk] for n in values if n != "name")


async def test_the_commands_of_one_field_are_one_change_of_the_record(app: App) -> None:
    one, two = await Tag.create([{"name": "1"}, {"name": "2"}])
    for before in ([], [one], None):
        record = await Counted.create({})
        collection = app.dangerous_raw("another program")["cmd_counted"]
        await collection.update_one(
            {"_id": record.pk}, {"$set": {"tag_ids": before and [t.pk for t in before]}}
        )
        older = await Counted.get(record.pk)
        record = await Counted.get(record.pk)
        await record.write({"tag_ids": [Command.link(two), Command.unlink(one)]})
        document = await collection.find_one({"_id": record.pk})
        assert document is not None
        assert (document["tag_ids"], document["_revision"]) == ([two.pk], 1)
        await record.write({"tag_ids": [Command.link(one)]})  # it knows the revision
        with pytest.raises(ConcurrencyError):
            await older.write({"tag_ids": [Command.unlink(one), Command.link(two)]})
        assert (await Counted.get(record.pk)).tag_ids.ids == [two.id, one.id]
