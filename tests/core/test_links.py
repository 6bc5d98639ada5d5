"""A link that was never set, that is empty, that is not loaded and whose record is gone are four things."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    ConfigurationError,
    DuplicateKey,
    FieldNotLoaded,
    Int,
    Many2many,
    Many2one,
    NotFound,
    One2many,
    RecordGone,
    RecordSet,
    Reference,
    String,
    ValidationError,
    depends,
)
from earnorm.testing import Interrupted

from .conftest import Commands


class Label(BaseModel):
    _name = "links.label"

    name = String(unique=True)
    page_ids = Many2many["Page"]("links.page", inverse="label_ids")


class Part(BaseModel):
    _name = "links.part"

    text = String(unique=True)
    page_id = Many2one("links.page", required=True)


class Page(BaseModel):
    _name = "links.page"

    title = String()
    main_id = Many2one(Label)
    about = Reference(Label)
    label_ids = Many2many(Label, db_name="labels")
    crew_ids = Many2many(Label, through="links.crew")
    part_ids = One2many(Part, "page_id", order="text")
    main_name = String(related="main_id.name")
    shout = String(compute="_shout")
    heading = String(compute="_shout", store=True)
    number = Int(compute="_number", store=True)

    @depends("main_id.name")
    def _shout(self) -> str:
        return self.main_id.name.upper() if self.main_id else "nobody"

    @depends("label_ids")
    def _number(self) -> int:
        return len(self.label_ids.ids)


class Crew(BaseModel):
    _name = "links.crew"

    page_id = Many2one(Page)
    label_id = Many2one(Label)


async def stored(page: Page) -> list[str]:
    """The ids of its labels in the database."""
    return (await Page.get(page.id)).label_ids.ids


async def with_gone() -> tuple[Page, Page, Label, ObjectId]:
    """Two pages that were fetched together; the links of the second one lead to a record that is gone."""
    kept, gone = await Label.create([{"name": "kept"}, {"name": "gone"}])
    pk = gone.pk
    await Page.create(
        [
            {"title": "1", "main_id": kept, "label_ids": [kept, gone]},
            {"title": "2", "main_id": gone, "about": gone, "label_ids": [gone]},
        ]
    )
    await gone.unlink()
    one, two = await Page.search(order="title").prefetch("main_id", "about", "label_ids")
    return one, two, kept, pk


# -- gone -----------------------------------------------------------------------------------------


async def test_reading_a_record_that_is_gone_names_it(app: App) -> None:
    one, two, _, pk = await with_gone()
    for link, field in ((two.main_id, "main_id"), (two.about, "about")):
        assert link is not None and not link.exists() and link.pk == pk
        with pytest.raises(RecordGone, match=f"{pk}, which links.page.{field} points at") as error:
            _ = link.name
        assert isinstance(error.value, FieldNotLoaded) and "prefetch" not in str(error.value)
        with pytest.raises(NotFound, match=str(pk)):
            await link
    assert one.main_id is not None and one.main_id.exists()
    assert two.label_ids.ids == [] and await stored(two) == [str(pk)]


CALLS: list[str | None] = []


class Chapter(BaseModel):
    _name = "links.chapter"

    page_id = Many2one(Page)
    main = String(compute="_main")

    @depends("page_id.main_id.name")
    def _main(self) -> str:
        CALLS.append(self.page_id.title if self.page_id else None)
        label = self.page_id.main_id if self.page_id else None
        return label.name if label else "nobody"


async def test_a_method_is_called_once_where_a_record_on_its_path_is_gone(app: App) -> None:
    _, two, _, _ = await with_gone()
    await Chapter.create({"page_id": two})
    (chapter,) = await Chapter.search().prefetch("page_id.main_id")
    CALLS.clear()
    assert chapter.main == "nobody"
    assert CALLS == ["2"]
    assert chapter.page_id.main_id is not None  # the link itself is as it was


async def test_a_ghost_is_not_gone_before_it_was_looked_for(app: App) -> None:
    _, two, _, pk = await with_gone()
    two = await Page.get(two.id)
    assert two.main_id is not None and two.main_id.exists()
    with pytest.raises(FieldNotLoaded, match=r"await record\.main_id") as error:
        _ = two.main_id.name
    assert not isinstance(error.value, RecordGone)
    (ghost,) = Label.browse([pk])
    with pytest.raises(NotFound):
        await ghost
    assert not ghost.exists()
    await Label.create({"_id": pk, "name": "back"})
    assert (await ghost).name == "back" and ghost.exists()


async def test_what_is_gone_is_looked_for_once(commands: Commands) -> None:
    kept, gone = await Label.create([{"name": "a"}, {"name": "b"}])
    await Page.create([{"label_ids": [kept, gone]}, {"label_ids": [gone]}])
    await gone.unlink()
    pages = await Page.search(order="id").prefetch("label_ids")
    commands.clear()
    for page in pages:
        await page.label_ids
    assert not commands.named("find")


async def test_memory_reads_past_what_is_gone(app: App) -> None:
    one, two, kept, pk = await with_gone()
    pages = await Page.search(order="title").prefetch("main_id", "label_ids")
    assert pages.mapped("main_id.name") == ["kept"] and pages.mapped("main_id").ids == [kept.id]
    assert pages.mapped("label_ids.name") == ["kept"]
    assert pages.filtered("main_id.name").mapped("title") == ["1"]
    assert pages.filtered("main_id").mapped("title") == ["1", "2"]  # its link is set
    assert pages.sorted("main_id.name").mapped("title") == ["2", "1"]
    assert [*pages.grouped("main_id.name")] == ["kept", None]
    first, second = pages.to_dict(depth=1)
    assert first["main_id"]["name"] == "kept" and second["main_id"] == str(pk)
    assert f'"main_id":"{pk}"' in pages[1].to_json(depth=1)
    assert (await two.copy()).main_id == two.main_id
    assert one.is_changed is two.is_changed is False


async def test_a_formula_sees_only_records_that_exist(app: App) -> None:
    one, two, *_ = await with_gone()
    assert [one.main_name, one.shout] == ["kept", "KEPT"]
    assert [two.main_name, two.shout] == [None, "nobody"]
    assert two.main_id is not None and not two.main_id.exists()
    await two.write({"title": "2b"})
    await app.recompute(Page)
    assert (await Page.get(two.id)).heading == two.shout
    assert two.to_dict()["shout"] == "nobody"


async def test_a_rollback_takes_back_that_a_record_is_gone(server_app: App) -> None:
    label = await Label.create({"name": "x"})
    await Page.create({"title": "p", "main_id": label})
    (page,) = await Page.search()
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            await Label.search().delete()
            (inner,) = await Page.search().prefetch("main_id")
            with pytest.raises(NotFound):
                await page.main_id
            assert not page.main_id.exists() and not inner.main_id.exists()
            raise RuntimeError
    assert page.main_id.exists() and inner.main_id.exists()
    assert (await page.main_id).name == "x"


# -- unset, null, empty ---------------------------------------------------------------------------


async def test_reading_an_unset_link_changes_nothing(server_app: App) -> None:
    raw = server_app.dangerous_raw("documents of others")["links_page"]
    await raw.insert_many(
        [{"title": "1"}, {"title": "2", "labels": None}, {"title": "3", "labels": []}]
    )
    pages = await Page.search(order="title")
    for page in pages:
        assert page.label_ids.ids == [] and not page.label_ids and not page.is_changed
        await page.label_ids
    assert [page._stored().get("labels", "unset") for page in pages] == ["unset", None, []]
    unset = pages.filtered_domain([("label_ids", "=", None)])
    assert unset.mapped("title") == ["1", "2"]
    assert unset == await Page.search([("label_ids", "=", None)])


async def test_awaiting_an_empty_link_loads_those_of_its_siblings(commands: Commands) -> None:
    label = await Label.create({"name": "x"})
    await Page.create([{"title": "1"}, {"title": "2", "label_ids": [label]}])
    empty, full = await Page.search(order="title")
    commands.clear()
    assert len(await empty.label_ids) == 0
    assert full.label_ids.mapped("name") == ["x"] and len(commands.named("find")) == 1


@pytest.mark.parametrize("only", [None, ["title"]])
async def test_links_that_are_read_again_are_loaded_again_together(
    commands: Commands, only: list[str] | None
) -> None:
    labels = await Label.create([{"name": "a"}, {"name": "b"}])
    await Page.create([{"title": n.name, "main_id": n, "label_ids": [n]} for n in labels])
    pages = await Page.search(order="title", only=only)
    if not only:
        await pages[0].main_id  # type: ignore[misc] # it has one
        await pages[0].label_ids
    for label in await Label.search():
        await label.write({"name": label.name.upper()})  # type: ignore[union-attr] # it has one
    await pages.refresh("main_id", "label_ids")
    for page in pages:
        with pytest.raises(FieldNotLoaded):
            _ = page.main_id.name  # type: ignore[union-attr] # it has one
        with pytest.raises(FieldNotLoaded):
            len(page.label_ids)
    commands.clear()
    await pages[0].main_id  # type: ignore[misc] # it has one
    await pages[0].label_ids
    assert pages.mapped("main_id.name") == pages.mapped("label_ids.name") == ["A", "B"]
    assert len(commands.named("find")) == 2  # one for each relation, whatever the records


@pytest.mark.parametrize("labels", [{}, {"labels": None}, {"labels": []}])
@pytest.mark.parametrize("only", [None, ["title"]])
async def test_links_are_shown_whatever_was_there_before(
    server_app: App, labels: dict[str, Any], only: list[str] | None
) -> None:
    raw = server_app.dangerous_raw("documents of others")["links_page"]
    gold, silver = await Label.create([{"name": "gold"}, {"name": "silver"}])
    for change in (
        [Command.link(gold), Command.unlink(silver)],
        [Command.unlink(gold), Command.link(gold)],
        [Command.create({"name": "new"})],
        [Command.set([gold]), Command.unlink(gold), Command.link(silver)],
        [Command.unlink(gold)],
        [Command.update(gold, {"name": "gold"})],
    ):
        await Label.search([("name", "=", "new")]).delete()
        await raw.delete_many({})
        await raw.insert_one({"title": "1", **labels})
        for assigned in (False, True):
            (page,) = await Page.search(only=only)
            if assigned:
                page.label_ids = change
                await page.save()
            else:
                await page.write({"label_ids": change})
            if only is not None:
                await page.refresh()
            assert page.label_ids.ids == await stored(page) and not page.is_changed
            if len(page.label_ids.ids) == 1:
                break


# -- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label_ids", "crew_ids"])
@pytest.mark.parametrize("loaded", [False, True])
async def test_an_updated_record_shows_its_new_values(app: App, name: str, loaded: bool) -> None:
    page = await Page.create({name: [{"name": "old"}]})
    page = await Page.get(page.id)
    held = (await getattr(page, name))[0] if loaded else (await Label.search())[0]
    await page.write({name: [Command.update(held, {"name": "new"})]})
    assert (await getattr(page, name)).mapped("name") == ["new"]
    assert not loaded or held.name == "new"


async def test_assigned_commands_are_saved_as_those_of_write(app: App) -> None:
    gold = await Label.create({"name": "gold"})
    new, old = Page(title="n"), await Page.create({"title": "o", "label_ids": [gold]})
    for page, before in ((new, []), (old, [gold.id])):
        page.label_ids = [Command.create({"name": f"x{page.title}"})]
        page.part_ids = [{"text": f"p{page.title}"}]
        for name in ("label_ids", "part_ids"):
            with pytest.raises(FieldNotLoaded, match="given commands"):
                len(getattr(page, name))
        await page.save()
        assert page.label_ids.ids[:-1] == before and page.label_ids.ids == await stored(page)
        assert page.number == len(page.label_ids.ids)
        assert (await page.part_ids).mapped("text") == [f"p{page.title}"]
        assert not page.is_changed


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("name", ["label_ids", "crew_ids", "part_ids"])
async def test_commands_assigned_during_a_save_wait_for_the_next(
    server_app: App, name: str, is_new: bool
) -> None:
    key = "text" if name == "part_ids" else "name"
    page = Page(title="p") if is_new else await Page.create({"title": "p"})
    setattr(page, name, [Command.create({key: "first"})])

    def meanwhile(wait: int) -> None:
        if wait == 0:
            setattr(page, name, [Command.create({key: "second"})])

    await Interrupted(page.save(), meanwhile)
    assert page.is_changed
    await page.save()
    assert not page.is_changed
    linked = await getattr(await Page.get(page.id), name)
    assert sorted(linked.mapped(key)) == ["first", "second"]


@pytest.mark.parametrize("name", ["label_ids", "crew_ids", "part_ids"])
async def test_commands_are_carried_out_by_one_of_two_saves(server_app: App, name: str) -> None:
    key = "text" if name == "part_ids" else "name"
    page = await Page.create({"title": "p"})
    setattr(page, name, [Command.create({key: "one"})])
    await asyncio.gather(page.save(), page.save())
    assert not page.is_changed
    assert (await getattr(await Page.get(page.id), name)).mapped(key) == ["one"]


async def test_assigned_commands_are_read_where_they_name_all(app: App) -> None:
    gold, silver = await Label.create([{"name": "gold"}, {"name": "silver"}])
    new, old = Page(), await Page.create({"label_ids": [gold]})
    new.label_ids = [Command.link(gold), Command.link(silver), Command.unlink(gold)]
    assert new.label_ids.ids == [silver.id]
    old.label_ids = [Command.set([gold]), Command.link(silver.id)]
    assert old.label_ids.ids == [gold.id, silver.id]
    await old.refresh()
    old.label_ids = [Command.link(silver)]
    assert old.label_ids.ids == [gold.id, silver.id]
    part: Page = (await Page.search([("id", "=", old.id)]).only("title"))[0]
    part.label_ids = [Command.link(silver)]
    with pytest.raises(FieldNotLoaded, match="given commands"):
        _ = part.label_ids.ids
    with pytest.raises(FieldNotLoaded, match="given commands"):
        await part.copy()


IN_MEMORY: dict[str, Callable[[RecordSet[Page], Label], Any]] = {
    "read": lambda pages, gold: list(pages[0].label_ids),
    "in": lambda pages, gold: pages.filtered_domain([("label_ids", "in", [gold])]),
    "set": lambda pages, gold: pages.filtered_domain([("label_ids", "!=", None)]),
    "across": lambda pages, gold: pages.filtered_domain([("label_ids.name", "=", "gold")]),
    "sorted": lambda pages, gold: pages.sorted("label_ids"),
    "grouped": lambda pages, gold: pages.grouped("label_ids"),
    "table": lambda pages, gold: pages.to_arrow(),
}


@pytest.mark.parametrize("way", IN_MEMORY)
async def test_assigned_commands_are_evaluated_as_they_are_read(app: App, way: str) -> None:
    gold, silver = await Label.create([{"name": "gold"}, {"name": "silver"}])
    old, other = await Page.create([{"label_ids": [silver]}, {"title": "other"}])
    if way != "table":  # a table has only fields that were fetched
        (old,) = await Page.search([("id", "=", old.id)]).only("title")  # its labels are not known
    use, pages = IN_MEMORY[way], RecordSet(Page, [old, other])
    given: list[Any] = [[Command.link(gold)], [{"name": "x"}], [Command.create({"name": "y"})]]
    for commands in given[way == "table" :]:  # what a table can show of the link, it shows
        old.label_ids = commands
        with pytest.raises(FieldNotLoaded, match="given commands"):
            use(pages, gold)
        assert len(pages.filtered_domain([("title", "=", "other")])) == 1
    old.label_ids = [Command.set([gold])]
    new = Page(label_ids=[Command.link(gold), Command.link(silver), Command.unlink(silver)])
    for page in (old,) if way == "across" else (old, new):  # a new record keeps ids, not gold
        found = use(RecordSet(Page, [page]), gold)
        if way == "table":
            assert found.to_pydict()["label_ids"] == [[gold.id]]
        elif way == "grouped":
            assert [labels.ids for labels in found] == [[gold.id]]
        else:
            assert list(found) == [gold if way == "read" else page]
    assert not RecordSet(Page, [old, new]).filtered_domain([("label_ids", "in", [silver])])


async def test_unlinked_and_linked_again_is_kept(app: App) -> None:
    page = await Page.create(
        {"part_ids": [{"text": "a"}], "label_ids": [{"name": "l"}], "crew_ids": [{"name": "c"}]}
    )
    for name in ("part_ids", "label_ids", "crew_ids"):
        (member,) = await getattr(page, name)
        await page.write({name: [Command.unlink(member), Command.link(member)]})
        assert (await getattr(page, name)).ids == [member.id]
        assert (await getattr(await Page.get(page.id), name)).ids == [member.id]
    assert await Part.count() == 1  # a part cannot be without its page


@pytest.mark.parametrize("name", ["part_ids", "label_ids", "crew_ids"])
async def test_what_a_list_deletes_it_cannot_link(app: App, name: str) -> None:
    values = {"text": "x"} if name == "part_ids" else {"name": "x"}
    page = await Page.create({name: [values]})
    (member,) = await getattr(page, name)
    with pytest.raises(ValidationError, match="an earlier command of the list deletes") as error:
        await page.write({name: [Command.delete(member), Command.link(member)]})
    assert error.value.errors()[0]["loc"] == (name, 1)
    assert (await getattr(await Page.get(page.id), name)).ids == [member.id]


async def test_memory_shows_what_was_written_before_a_failure(memory_app: App) -> None:
    """The memory backend has no transactions, so what was written before stays."""
    gold = await Label.create({"name": "gold"})
    taken = await Page.create({"part_ids": [{"text": "taken"}]})
    for assigned in (False, True):
        page = await Page.create({"title": "p"})
        await page.label_ids
        await page.part_ids
        change = {"label_ids": [Command.link(gold)], "part_ids": [{"text": "taken"}]}
        with pytest.raises(DuplicateKey):
            if assigned:
                page.label_ids, page.part_ids = change["label_ids"], change["part_ids"]
                await page.save()
            else:
                await page.write(change)
        assert page.label_ids.ids == await stored(page) == [gold.id]
        assert len(await page.part_ids) == 0 and not page.is_changed
    assert (await taken.part_ids).mapped("text") == ["taken"]


async def test_a_failure_is_rolled_back_in_memory_as_well(server_app: App) -> None:
    gold = await Label.create({"name": "gold"})
    await Page.create({"part_ids": [{"text": "taken"}]})
    page = await Page.create({"title": "p"})
    page.label_ids, page.part_ids = [Command.link(gold)], [{"text": "taken"}]
    with pytest.raises(DuplicateKey):
        await page.save()
    assert page.is_changed and await stored(page) == []
    page.part_ids = [{"text": "free"}]
    await page.save()
    assert page.label_ids.ids == await stored(page) == [gold.id]


# -- records of another App -----------------------------------------------------------------------


async def test_a_record_of_another_app_is_linked_in_no_way(app: App, database: str) -> None:
    async with App("mongomock://", database=f"{database}_other", plugins=[]) as other:
        foreign = await Label.create({"name": "foreign"})
        await Page.create({"title": "theirs", "main_id": foreign, "label_ids": [foreign]})
        (theirs,) = await Page.search()
        _ = theirs.label_ids
        with app.activate():
            page = await Page.create({"title": "ours"})
            part = await Part.create({"text": "ours", "page_id": page})

            async def assigned(**values: Any) -> None:
                for name, value in values.items():
                    setattr(page, name, value)
                try:
                    await page.save()
                finally:
                    await page.refresh()

            async def constructed_there() -> None:
                with other.activate():
                    made = Page(main_id=foreign)
                await made.save()

            links: list[dict[str, Any]] = [
                {"main_id": foreign},
                {"about": foreign},
                {"label_ids": [foreign]},
                {"label_ids": theirs.label_ids},
                {"label_ids": [Command.link(foreign)]},
                {"label_ids": [Command.set([foreign])]},
                {"label_ids": [Command.unlink(foreign)]},
                {"label_ids": [Command.update(foreign, {"name": "x"})]},
                {"crew_ids": [foreign]},
                {"crew_ids": [Command.link(foreign)]},
            ]
            ways: list[Callable[[], Awaitable[object]]] = [
                constructed_there,
                lambda: part.write({"page_id": theirs}),
                lambda: Page.write_many({page.id: {"main_id": foreign}}),
                lambda: Page.search().update({"main_id": foreign}),
                lambda: Page.search([("main_id", "=", foreign)]),
                lambda: Page.search([("label_ids", "in", [foreign])]),
                lambda: Page.search([("label_ids", "any", [("id", "=", foreign)])]),
                lambda: Page.search([("crew_ids", "=", foreign)]),
                lambda: Page.search([("about", "=", foreign)]),
                lambda: Page.search([("about", "in", [foreign])]),
            ]
            for values in links:
                if "update" not in str(values) and "unlink" not in str(values):
                    ways.append(lambda values=values: Page.create(values))
                    ways.append(lambda values=values: Page(title="new").save(values))
                ways.append(lambda values=values: page.write(values))
                ways.append(lambda values=values: assigned(**values))
            for number, way in enumerate(ways):
                with pytest.raises(
                    ConfigurationError, match=r"belongs to App .*'with app.activate"
                ):
                    await way()
                    pytest.fail(f"way {number} took it")
            with pytest.raises(ConfigurationError, match="belongs to App"):
                (await Page.search()).filtered_domain([("main_id", "=", foreign)])
            assert await Page.count() == 1 and await Part.count() == 1
            assert page.label_ids.ids == await stored(page) == []
