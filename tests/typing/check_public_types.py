"""What type checkers infer from the public names; run by mypy --strict and pyright, never executed."""

import datetime
import decimal
import uuid
from typing import Any, assert_type

import pydantic
from bson import ObjectId

import earnorm
from earnorm import (
    UUID,
    BaseModel,
    Binary,
    Boolean,
    CollectionOptions,
    Command,
    Count,
    CursorPage,
    Date,
    DateTime,
    Decimal,
    Domain,
    Email,
    Embedded,
    EmbeddedModel,
    Field,
    Float,
    Index,
    IndexAction,
    IndexDiff,
    Int,
    List,
    Many2many,
    Many2one,
    ObjectIdField,
    One2many,
    Page,
    Plan,
    Point,
    Query,
    RecordSet,
    Reference,
    Selection,
    String,
    VectorSearchIndex,
)
from earnorm.fields.base import N


class Percent(Field[float, N]):
    """A third party's field: typed without an overload of its own."""

    def annotation(self) -> Any:
        return float


class Address(EmbeddedModel):
    city = String(required=True)
    street = String()


class Author(BaseModel):
    name = String(required=True)
    post_ids = One2many["Post"]("post", "author_id")


class Post(BaseModel):
    title = String(required=True)
    subtitle = String()
    email = Email(required=True)
    state = Selection(["draft", "done"], required=True)
    stars = Int(required=True)
    rating = Float()
    price = Decimal(required=True)
    published = Boolean()
    day = Date()
    at = DateTime(required=True)
    token = UUID(required=True)
    other = ObjectIdField()
    blob = Binary()
    tags = List(String(), required=True)
    address = Embedded(Address)
    share = Percent(required=True)
    where = Point()
    author_id = Many2one(Author)
    editor_id = Many2one(Author, required=True)
    reader_ids = Many2many(Author)
    about = Reference(Author)
    origin = Reference(required=True)


def values(post: Post) -> None:
    assert_type(post.title, str)
    assert_type(post.subtitle, str | None)
    assert_type(post.email, str)
    assert_type(post.state, str)
    assert_type(post.stars, int)
    assert_type(post.rating, float | None)
    assert_type(post.price, decimal.Decimal)
    assert_type(post.published, bool | None)
    assert_type(post.day, datetime.date | None)
    assert_type(post.at, datetime.datetime)
    assert_type(post.token, uuid.UUID)
    assert_type(post.other, ObjectId | None)
    assert_type(post.blob, bytes | None)
    assert_type(post.tags, list[str])
    assert_type(post.share, float)
    assert_type(post.author_id, Author | None)
    assert_type(post.editor_id, Author)
    assert_type(post.editor_id.post_ids, RecordSet[Post])
    assert_type(post.reader_ids, RecordSet[Author])
    assert_type(post.about, BaseModel | None)
    assert_type(post.origin, BaseModel)
    assert_type(post.id, str)
    if post.address is not None:
        assert_type(post.address, Address)
        assert_type(post.address.city, str)
        assert_type(post.address.street, str | None)


class Invoice(BaseModel):
    net = Float(required=True)
    total = Float(compute="_compute_total", store=True, required=True)
    label = String(compute="_compute_label", search="_search_label", inverse="_set_label")
    author_id = Many2one(Author)
    author_name = String(related="author_id.name", store=True)

    @earnorm.depends("net")
    def _compute_total(self) -> float:
        assert_type(self.net, float)
        return self.net * 1.1

    @earnorm.depends("total")
    def _compute_label(self) -> str:
        assert_type(self.total, float)
        return str(self.total)

    def _set_label(self, value: str) -> None:
        self.net = float(value)


def computed(invoice: Invoice) -> None:
    assert_type(invoice.total, float)
    assert_type(invoice.label, str | None)
    assert_type(invoice.author_name, str | None)
    assert_type(invoice._compute_total(), float)
    assert_type(Invoice.total > 3, Domain)
    invoice.label = "3"
    One2many("post", "author_id", compute="x")  # type: ignore[call-arg] # records are not computed
    String(compute=3)  # type: ignore[arg-type] # the name of a method


def fields_on_the_class() -> None:
    assert_type(Post.stars > 3, Domain)
    assert_type((Post.stars > 3) & Post.title.ilike("a%"), Domain)
    assert_type(Post.title.in_(["a", "b"]), Domain)
    assert_type(~(Post.stars == 3), Domain)
    assert_type(Post.title.not_like("a") & Post.title.eq_like("a%"), Domain)
    assert_type(Post.tags.size(2) | Post.tags.all(["a"]) | Post.title.exists(), Domain)
    assert_type(Post.author_id.any(Author.name == "Ann"), Domain)
    assert_type(Author.post_ids.not_any(Post.stars > 3), Domain)
    assert_type(Post.author_id.child_of(["0" * 24]), Domain)
    assert_type(Post.address.city == "Hanoi", Domain)
    assert_type(Post.address.city.ilike("ha%"), Domain)
    assert_type(Post.author_id.post_ids.stars > 3, Any)
    # A field of the other model that is called as an attribute of every field is Any.
    assert_type(Post.author_id.name == "Ann", Any)
    assert_type(Post.where.near(105.8, 21.0, max_distance=500), Domain)
    assert_type(Post.where.within([(0, 0), (0, 1), (1, 1)]), Domain)
    Post.stars.in_(["a"])  # type: ignore[list-item] # pyright: ignore[reportArgumentType] # ints only


async def reading() -> None:
    assert_type(Post.search([("stars", ">", 3)]), Query[Post])
    assert_type(Post.search().prefetch("author_id", limit=3, order=["-name"]), Query[Post])
    assert_type(Post.search(prefetch=["author_id"]), Query[Post])
    assert_type(Post.search().cached(ttl=5).uncached(), Query[Post])
    Post.search().cached(ttl="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Post.search().prefetch("author_id", limit="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    found = await Post.search(Post.stars > 3).order("-stars").limit(3)
    assert_type(found, RecordSet[Post])
    for post in found:
        assert_type(post, Post)
    assert_type(found[0], Post)
    assert_type(found[1:], RecordSet[Post])
    assert_type(found | found, RecordSet[Post])
    assert_type(found.filtered(lambda p: p.stars > 3), RecordSet[Post])
    assert_type(found.mapped(lambda p: p.stars), list[int])
    assert_type(found.grouped(lambda p: p.state), dict[str, RecordSet[Post]])
    assert_type(found.ensure_one(), Post)
    assert_type(await Post.find_one([]), RecordSet[Post])
    assert_type(await Post.get("0" * 24), Post)
    assert_type(Post.browse(["0" * 24]), RecordSet[Post])
    assert_type(await Post.count(), int)
    assert_type(await Post.search().first(), Post | None)
    assert_type(await Post.search().page(2, size=10), Page[Post])
    assert_type(await Post.search().paginate(10, after="x"), CursorPage[Post])
    assert_type(await Post.search().group(Post.state, n=Count()), list[dict[str, Any]])
    assert_type(await Post.search().aggregate([{"$count": "n"}]), list[dict[str, Any]])
    async for each in Post.search():
        assert_type(each, Post)
    plan = await Post.search().explain()
    assert_type(plan, Plan)
    assert_type(plan.indexes, tuple[str, ...])
    assert_type(plan.documents_examined, int | None)
    editor = await found[0].editor_id
    assert_type(editor, Author)
    assert_type(await editor.post_ids, RecordSet[Post])


async def writing(post: Post) -> None:
    assert_type(await post.save(), Post)
    assert_type(await Post.create({"title": "a"}), Post)
    assert_type(await Post.create([{"title": "a"}]), RecordSet[Post])
    assert_type(await post.unlink(), int)
    assert_type(await Post.search().update({"stars": 3}), int)
    async with earnorm.transaction():
        post.title = "b"
    post.reader_ids = [post.editor_id, "0" * 24, Command.create({"name": "new"})]
    post.stars = "three"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] # the checkers must refuse it


async def indexes(app: earnorm.App) -> None:
    assert_type(await app.indexes.diff([Post]), list[IndexDiff])
    assert_type(await app.indexes.sync(dry_run=True), list[IndexAction])
    assert_type(await app.indexes.drop_unused(), list[IndexAction])


class Declared(BaseModel):
    _indexes = [
        Index("name", "-age"),
        Index({"name": "text"}, weights={"name": 2}),
        Index("name", partial=[("age", ">", 3)], expire_after=datetime.timedelta(days=1)),
        VectorSearchIndex("vector", dimensions=3),
        {"name": 1},
        {"keys": ["name"], "unique": True},
    ]
    _options = CollectionOptions(capped_size=4096)


class DeclaredInMappings(BaseModel):
    _options = {"collation": "fr"}


@earnorm.transactional(retries=2)
async def decorated(number: int) -> str:
    return str(number)


async def calls_decorated() -> None:
    assert_type(await decorated(3), str)


async def checked_code(value: str) -> str:
    return value


class Priced(BaseModel):
    price = Int(required=True)
    code = String(validators=[checked_code, str.strip])

    @earnorm.validates("code")
    def upper(self, value: str) -> str:
        return value.upper()

    @earnorm.validates("price", on=("create",))
    @classmethod
    async def known(cls, value: int) -> int:
        return value

    @earnorm.constrains("price")
    async def positive(self) -> None:
        assert_type(self.price, int)

    @earnorm.constrains()
    def always(self) -> None: ...


class ByName(BaseModel):
    """Relations whose models are defined later, or by a plugin."""

    author_id = Many2one("author")
    editor_id = Many2one("author", required=True)
    reader_ids = Many2many("author")
    post_ids = One2many("post", "author_id")
    known_id: Many2one[Author] = Many2one("author")
    known_ids: One2many[Post] = One2many("post", "author_id")


def by_name(record: ByName) -> None:
    assert_type(record.author_id, Any | None)
    assert_type(record.editor_id, Any)
    assert_type(record.reader_ids, RecordSet[Any])
    assert_type(record.post_ids, RecordSet[Any])
    assert_type(record.known_id, Author | None)
    assert_type(record.known_ids, RecordSet[Post])


async def rules(priced: Priced) -> None:
    assert_type(priced.upper("a"), str)
    assert_type(await Priced.known(1), int)
    assert_type(await priced.positive(), None)
    assert_type(priced.to_json(depth=1), str)
    assert_type(priced.to_dict(include=["price"]), dict[str, Any])
    assert_type(Priced.pydantic_model(optional=True), type[earnorm.Body])
    assert_type(Priced.json_schema(mode="serialization"), dict[str, Any])


async def writes(priced: Priced, several: RecordSet[Priced]) -> None:
    assert_type(await priced.write({"price": earnorm.Inc(1)}), Priced)
    assert_type(await priced.save({"price": earnorm.Max(3), "code": earnorm.Unset()}), Priced)
    assert_type(await priced.toggle("price"), Priced)
    assert_type(await priced.copy({"code": "x"}), Priced)
    assert_type(await several.copy(), RecordSet[Priced])
    assert_type(await several.read(["price"]), list[dict[str, Any]])
    assert_type(several | priced, RecordSet[Priced])
    assert_type(several.sorted("-price", nulls="last"), RecordSet[Priced])
    assert_type(await Priced.upsert({"code": "x"}, on="code"), tuple[Priced, bool])
    assert_type(await Priced.upsert_many([], on="code"), tuple[RecordSet[Priced], int])
    assert_type(await Priced.write_many({priced: {"price": 3}}), int)
    assert_type(await Priced.create_many([{"price": 3}]), earnorm.BatchResult)
    async with Priced.bulk() as bulk:
        assert_type(bulk, earnorm.Bulk[Priced])
        assert_type(bulk.create({"price": 3}), Priced)
        bulk.write(several, {"price": earnorm.Mul(2)})
        bulk.unlink(priced)


class Limits(pydantic.BaseModel):
    """The settings of some plugin."""


async def apps() -> None:
    started = await earnorm.init(
        "mongodb://localhost",
        database="a",
        max_pool_size=3,
        cache={"max_records": 1},
        limits=Limits(),
    )
    assert_type(started, earnorm.App)
    assert_type(earnorm.current_app(), earnorm.App)
    await earnorm.init("mongodb://localhost")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await earnorm.init(
        "mongodb://localhost",
        database="a",
        max_pool_size="3",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    async with earnorm.App("mongodb://localhost", database="a", read_concern="majority") as app:
        assert_type(app, earnorm.App)
        assert_type(app.env.app, earnorm.App)
        assert_type(await app.resolve(Post, []), Domain)
    earnorm.App(
        "mongodb://localhost",
        database="a",
        max_pol_size=3,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
