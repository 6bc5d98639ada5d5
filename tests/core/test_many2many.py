"""Many2many in its three forms, sorted One2manys, and relations inside embedded objects."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    DomainError,
    EmbeddedModel,
    FieldNotLoaded,
    Layer,
    List,
    Many2many,
    Many2one,
    One2many,
    RecordSet,
    ValidationError,
    fields,
    hookimpl,
)
from earnorm.kernel import registry

from .conftest import Commands, default_app
from .library import Article, Line, Membership, Note, Order, Person, Product, Tag, Team


def reads(commands: Commands) -> list[str]:
    return [command["find"] for command in commands.named("find")]


async def articles(number: int = 6, tags: int = 3) -> tuple[RecordSet[Article], RecordSet[Tag]]:
    made = await Tag.create([{"name": f"t{n}"} for n in range(tags)])
    values = [{"title": f"a{n}", "tag_ids": [made[n % tags], made[0]]} for n in range(number)]
    return await Article.create(values), made


# -- ids in the document --------------------------------------------------------------------------


async def test_ids_are_stored_in_order_and_once(app: App) -> None:
    one, two = await Tag.create([{"name": "one"}, {"name": "two"}])
    article = await Article.create({"title": "x", "tag_ids": [two, one.id, two.pk]})
    raw = await app.dangerous_raw("look")["lib_article"].find_one({})
    assert raw["tags"] == [two.pk, one.pk]
    assert article.tag_ids.ids == [two.id, one.id]
    again = await Article.get(article.id)
    assert again.tag_ids.pks == [two.pk, one.pk]
    assert (await again.tag_ids).mapped("name") == ["two", "one"]
    assert again.to_dict()["tag_ids"] == [two.id, one.id]


async def test_ids_are_known_and_the_records_are_not(app: App) -> None:
    made, tags = await articles(1)
    article = await Article.get(made[0].id)
    assert article.tag_ids.ids == [tags[0].id]
    for read in (len, bool, list):
        with pytest.raises(FieldNotLoaded, match=r"await record.tag_ids.*prefetch\('tag_ids'\)"):
            read(article.tag_ids)


async def test_awaiting_one_many2many_loads_those_of_all_siblings_with_one_query(
    commands: Commands,
) -> None:
    await articles(20, tags=5)
    found = await Article.search(order="title")
    commands.clear()
    assert (await found[1].tag_ids).mapped("name") == ["t1", "t0"]
    assert reads(commands) == ["lib_tag"]
    assert len(commands.named("find")[0]["filter"]["_id"]["$in"]) == 5
    assert all(article.tag_ids.mapped("name")[-1] == "t0" for article in found)
    assert found[1].tag_ids[-1] is found[6].tag_ids[-1]  # shared inside one fetch
    assert reads(commands) == ["lib_tag"]


async def test_tasks_that_ask_at_once_share_one_query(commands: Commands) -> None:
    await articles(12)
    found = await Article.search()
    commands.clear()

    async def load(article: Article) -> int:
        return len(await article.tag_ids)

    assert sum(await asyncio.gather(*map(load, found))) == 20
    assert reads(commands) == ["lib_tag"]


async def test_a_many2many_is_empty_and_never_none(app: App) -> None:
    article = await Article.create({"title": "x"})
    assert article.tag_ids.ids == [] and len(await article.tag_ids) == 0
    again = await Article.get(article.id)
    assert again.tag_ids.ids == [] and not await again.tag_ids
    assert not Article(title="new").tag_ids


async def test_what_is_gone_is_left_out_when_it_is_loaded(app: App) -> None:
    made, tags = await articles(1)
    await made.write({"tag_ids": tags})
    await tags[1].unlink()
    article = await Article.get(made[0].id)
    assert len(article.tag_ids.ids) == 3
    assert (await article.tag_ids).mapped("name") == ["t0", "t2"]
    article.title = "changed"
    await article.save()  # writes what was changed, so the id stays
    assert len((await Article.get(article.id)).tag_ids.ids) == 3


async def test_an_assigned_list_is_read_before_it_is_saved(app: App) -> None:
    made, tags = await articles(1)
    article = await Article.get(made[0].id)
    article.tag_ids = [tags[2], tags[1].pk]
    assert article.tag_ids.ids == [tags[2].id, tags[1].id] and article.tag_ids[0] is tags[2]
    await article.save()
    assert (await Article.get(article.id)).tag_ids.ids == [tags[2].id, tags[1].id]
    assert (await article.tag_ids).mapped("name") == ["t2", "t1"]
    article.tag_ids = article.tag_ids | tags
    await article.save()
    assert (await Article.get(article.id)).tag_ids.ids == [tags[2].id, tags[1].id, tags[0].id]


async def test_a_many2many_refuses_what_is_no_record_of_its_model(app: App) -> None:
    made, _ = await articles(1)
    for wrong in ([made[0]], ["no id"], "0" * 24, [7.5], 3):
        with pytest.raises(ValidationError, match="tag_ids"):
            await Article.create({"title": "x", "tag_ids": wrong})
    assert await Article.count() == 1


async def test_a_domain_asks_whether_some_are_linked(app: App) -> None:
    await articles(6)
    tag = (await Tag.search([("name", "=", "t1")]))[0]
    assert await Article.search([("tag_ids", "in", [tag])]).count() == 2
    assert await Article.search([("tag_ids", "=", tag.id)]).count() == 2
    assert await Article.search([("tag_ids", "not in", [tag.pk])]).count() == 4


# -- the other side, and a link model -------------------------------------------------------------


async def test_the_other_side_is_one_query_and_sorted(commands: Commands) -> None:
    await articles(6)
    tags = await Tag.search(order="name")
    with pytest.raises(FieldNotLoaded):
        len(tags[0].article_ids)
    commands.clear()
    assert (await tags[1].article_ids).mapped("title") == ["a4", "a1"]
    assert tags[0].article_ids.mapped("title") == ["a5", "a4", "a3", "a2", "a1", "a0"]
    assert reads(commands) == ["lib_article"]
    assert tags[0].article_ids[1] is tags[1].article_ids[0]


async def teams() -> tuple[RecordSet[Person], RecordSet[Team]]:
    people = await Person.create([{"name": f"p{n}"} for n in range(4)])
    made = await Team.create([{"name": f"g{n}"} for n in range(2)])
    await Membership.create(
        [
            {"person_id": people[n], "team_id": made[k], "role": f"r{n}{k}", "since": 9 - k}
            for n in range(3)
            for k in range(2)
        ]
    )
    return people, made


async def test_a_link_model_is_two_queries_for_all(commands: Commands) -> None:
    await teams()
    people = await Person.search(order="name")
    commands.clear()
    assert (await people[0].team_ids).mapped("name") == ["g1", "g0"]  # sorted by the link's since
    assert [len(person.team_ids) for person in people] == [2, 2, 2, 0]
    assert reads(commands) == ["lib_membership", "lib_team"]
    found = await Team.search(order="name").prefetch("person_ids")
    assert found[0].person_ids.mapped("name") == ["p0", "p1", "p2"]


async def test_the_link_is_a_model_with_fields_of_its_own(app: App) -> None:
    await teams()
    person = (await Person.search(order="name").prefetch("membership_ids.team_id"))[0]
    roles = {m.team_id.name: m.role for m in person.membership_ids}
    assert roles == {"g0": "r00", "g1": "r01"}


async def test_a_prefetch_reaches_any_level(commands: Commands) -> None:
    made, tags = await articles(6)
    await Note.create([{"article_id": each, "tag_ids": tags} for each in made for _ in range(2)])
    commands.clear()
    found = await Article.search(order="title").prefetch("note_ids.tag_ids.article_ids", "tag_ids")
    assert reads(commands) == [
        "lib_article",
        "lib_note",
        "lib_tag",
        "lib_article",
        "lib_tag",
    ]
    commands.clear()
    assert all(
        len(tag.article_ids) in (6, 2) for a in found for note in a.note_ids for tag in note.tag_ids
    )
    assert commands.all == []


async def test_a_one2many_is_sorted(app: App) -> None:
    article = await Article.create({"title": "x"})
    await Note.create(
        [
            {"text": t, "sequence": n, "article_id": article}
            for t, n in zip("bca", (2, 3, 1), strict=True)
        ]
    )
    assert (await article.note_ids).mapped("text") == ["a", "b", "c"]


# -- inside embedded objects ----------------------------------------------------------------------


async def orders(number: int = 5) -> None:
    maker = await Person.create({"name": "maker"})
    products = await Product.create([{"name": f"x{n}", "maker_id": maker} for n in range(3)])
    await Order.create(
        [
            {
                "title": f"o{n}",
                "lines": [{"product_id": products[k], "number": k} for k in range(3)],
                "delivery": {"by_id": maker, "lines": [Line(product_id=products[n % 3])]},
            }
            for n in range(number)
        ]
    )


async def test_a_ghost_in_embedded_objects_loads_for_all_records(commands: Commands) -> None:
    await orders()
    found = await Order.search(order="title")
    commands.clear()
    product = found[0].lines[2].product_id
    with pytest.raises(FieldNotLoaded, match=r"Line\.product_id"):
        _ = product.name
    assert (await product).name == "x2"
    assert [line.product_id.name for order in found for line in order.lines] == [
        "x0",
        "x1",
        "x2",
    ] * 5
    assert reads(commands) == ["lib_product"]
    assert found[0].lines[1].product_id is found[4].lines[1].product_id
    await found[3].delivery.by_id
    assert {order.delivery.by_id.name for order in found} == {"maker"}
    assert reads(commands) == ["lib_product", "lib_person"]
    assert not any(order.is_changed for order in found)


async def test_a_prefetch_goes_through_embedded_objects(commands: Commands) -> None:
    await orders()
    commands.clear()
    found = await Order.search().prefetch(
        "lines.product_id.maker_id", "delivery.by_id", "delivery.lines.product_id"
    )
    assert reads(commands) == [
        "lib_order",
        "lib_product",
        "lib_person",
        "lib_person",
        "lib_product",
    ]
    commands.clear()
    assert {line.product_id.maker_id.name for o in found for line in o.lines} == {"maker"}
    assert all(o.delivery.lines[0].product_id.name for o in found)
    assert commands.all == []
    with pytest.raises(DomainError, match=r"no relation 'produkt_id'.*'product_id'"):
        await Order.search().prefetch("lines.produkt_id")
    with pytest.raises(DomainError, match="no relation 'lines'"):
        await Order.search().prefetch("lines")


async def test_embedded_relations_are_changed_and_searched(app: App) -> None:
    await orders(2)
    order = await Order.search(order="title").first()
    other = await Product.search([("name", "=", "x0")]).first()
    order.lines[2].product_id = other
    await order.save()
    again = await Order.search([("id", "=", order.id)]).prefetch("lines.product_id")
    assert [line.product_id.name for line in again[0].lines] == ["x0", "x1", "x0"]
    assert await Order.search([("delivery.lines.product_id", "=", other)]).count() == 1


# -- who may see what -----------------------------------------------------------------------------


class HidingPlugin:
    """Hides the tag named t0, as a record rule would."""

    api = 1
    name = "hiding"

    @hookimpl
    def wrap_operation(self, app: App, model: type[BaseModel], operation: str) -> Any:
        async def hide(op: Any, call_next: Any) -> Any:
            return await call_next(op.replace(domain=op.domain & (Tag.name != "t0")))

        return [(Layer.SECURITY, hide)] if model is Tag and operation == "search" else ()


async def test_what_is_hidden_is_left_out(database: str) -> None:
    async with default_app("memory", database, [HidingPlugin()]):
        await articles(3)
        found = await Article.search(order="title").prefetch("tag_ids")
        assert [a.tag_ids.mapped("name") for a in found] == [[], ["t1"], ["t2"]]


# -- both ends exist ------------------------------------------------------------------------------


@pytest.fixture
def definitions() -> Any:
    before = dict(registry.definitions())
    yield
    for name in registry.definitions().keys() - before.keys():
        registry._definitions.pop(name)


def nowhere(kind: str) -> type[BaseModel]:
    name = f"lib.odd_{kind}"

    class Inner(EmbeddedModel):
        x_id = Many2one("lib.tga")

    odd: dict[str, dict[str, Any]] = {
        "many2many": {"x_ids": Many2many("lib.tga")},
        "embedded": {"inner": List(fields.Embedded(Inner))},
        "inverse": {"x_ids": One2many("lib.note", "artcle_id")},
        "kind": {"x_ids": One2many("lib.note", "text")},
        "owner": {"x_ids": One2many("lib.note", "article_id")},
        "other_side": {"x_ids": Many2many("lib.article", inverse="tag_idz")},
        "other_owner": {"x_ids": Many2many("lib.article", inverse="tag_ids")},
        "link": {"x_ids": Many2many("lib.team", through="lib.membershp")},
        "near": {"x_ids": Many2many("lib.team", through="lib.membership")},
    }
    return type("Odd", (BaseModel,), {"_name": name, "__module__": __name__, **odd[kind]})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("many2many", r"x_ids points at a model 'lib.tga' that does not exist.*'lib.tag'"),
        ("embedded", r"odd_embedded.inner.x_id points at a model 'lib.tga'"),
        ("inverse", r"x_ids: lib.note has no Many2one named 'artcle_id'.*'article_id'"),
        ("kind", r"x_ids: lib.note has no Many2one named 'text'"),
        ("owner", r"x_ids: lib.note.article_id points at 'lib.article', not at 'lib.odd_owner'"),
        ("other_side", r"x_ids: lib.article has no Many2many named 'tag_idz'.*'tag_ids'"),
        ("other_owner", r"x_ids: lib.article.tag_ids points at 'lib.tag'"),
        ("link", r"x_ids points at a model 'lib.membershp' that does not exist"),
        ("near", r"x_ids: lib.membership has no Many2one to 'lib.odd_near'"),
    ],
)
async def test_a_relation_to_nowhere_stops_the_start(
    kind: str, message: str, definitions: Any
) -> None:
    nowhere(kind)
    app = earnorm.App("mongomock://", database=f"n{uuid.uuid4().hex}", plugins=[])
    with pytest.raises(ConfigurationError, match=message):
        await app.start()


def test_a_declaration_that_contradicts_itself_is_refused() -> None:
    for wrong in (
        lambda: Many2many("tag", inverse="x", through="y"),
        lambda: Many2many("tag", near="x"),
        lambda: Many2many("tag", order="name"),
        lambda: Many2many("tag", inverse="x", default=list),
    ):
        with pytest.raises(TypeError, match=r"Many2many\(\)"):
            wrong()
