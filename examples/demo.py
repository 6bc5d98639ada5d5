"""The whole product in one program: ``python -m nox -s demo`` runs it with servers of its own.

It needs a MongoDB replica set (``EARNORM_TEST_MONGO_URI``) and all five packages. Its database is
new and dropped at the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from collections import Counter

import earnorm
from earnorm import (
    AccessDenied,
    Decimal,
    Email,
    FieldWithheld,
    Int,
    Layer,
    List,
    Many2one,
    One2many,
    Principal,
    Selection,
    String,
    ValidationError,
    hookimpl,
    models,
)
from earnorm.plugin import name_of
from earnorm_security import Access, FieldRights, Rule, last, why

URI = os.environ.get("EARNORM_TEST_MONGO_URI", "mongodb://localhost:27017/?replicaSet=rs0")


class Author(models.BaseModel):
    """Somebody who writes books. Plain enough to be read from the cache."""

    _name = "author"
    _field_rights = [
        FieldRights("iban", read=["accountant"], mask=last(4)),
        FieldRights("fee", read=["accountant"]),
    ]
    name = String(required=True)
    email = Email(required=True, unique=True)
    iban = String()
    fee = Int(default=0)
    book_ids = One2many("book", "author_id")


class Book(models.BaseModel):
    """A book; a rule decides who sees drafts, and rights decide who may do what."""

    _name = "book"
    _access = [
        Access("*", read=True),
        Access("editor", read=True, write=True, create=True, unlink=True),
    ]
    _rules = [
        Rule("readers see what is published", [("state", "=", "published")], roles=["reader"]),
        Rule("editors see everything", [], roles=["editor"]),
    ]
    title = String(required=True)
    state = Selection(choices=("draft", "published"), default="draft", required=True)
    price = Decimal(min_value=0)
    pages = Int(required=True, min_value=1)
    tags = List(String(), required=True, default=list)
    author_id = Many2one(Author, required=True)


class QueryCounter:
    """A plugin in ten lines: counts what reaches the database, inside of every other layer."""

    api = 1

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    @hookimpl
    def wrap_operation(self, app, model, operation):
        """Count this operation, and let it pass."""

        async def count(op, call_next):
            self.seen[f"{operation} {name_of(model)}"] += 1
            return await call_next(op)

        return [(Layer.CACHE + 50, count)]

    def taken(self) -> str:
        """What was counted since the last time."""
        said = ", ".join(f"{number} × {what}" for what, number in self.seen.items())
        self.seen.clear()
        return said or "nothing"


def heading(text: str) -> None:
    """Begin a part of the output."""
    print(f"\n{text}\n{'-' * len(text)}")


def show(what: str, result: object) -> None:
    """Print one line: what was asked, and what came of it."""
    print(f"  {what:<58} {result}")


async def write_books() -> None:
    """Models: what is stored is valid, and a batch is stored as a whole or not at all."""
    heading("1. Models: validated before anything is sent")
    ann, bao = await Author.create(
        [
            {
                "name": "Ann Lee",
                "email": "ann@example.com",
                "iban": "DE89370400440532013000",
                "fee": 900,
            },
            {"name": "Bao Tran", "email": "bao@example.com"},
        ]
    )
    books = [
        ("Rivers", "published", "12.50", 210, ["nature"], ann),
        ("Tides", "published", "9.90", 180, ["nature", "sea"], ann),
        ("Harbours", "draft", "15.00", 320, ["sea"], ann),
        ("Bridges", "published", "22.00", 450, ["city"], bao),
        ("Markets", "draft", "18.00", 260, ["city"], bao),
    ]
    names = ("title", "state", "price", "pages", "tags", "author_id")
    stored = await Book.create([dict(zip(names, book, strict=True)) for book in books])
    show("Book.create([five dicts])", f"{len(stored)} books stored")
    try:
        await Book.create({"title": "Nothing", "pages": 0, "author_id": ann})
    except ValidationError as error:
        show("a book of 0 pages", f"{type(error).__name__}: {error.errors()[0]['msg']}")
    try:
        await Author.create({"name": "Ann again", "email": "ann@example.com"})
    except earnorm.DuplicateKey as error:
        show("the same e-mail twice", f"{type(error).__name__}: {error}")


async def ask() -> None:
    """Domains: a list in Odoo's notation, or an expression; both are the same Domain."""
    heading("2. Domains: lists and expressions")
    thick = await Book.search([("pages", ">", 200), ("tags", "=", "sea")])
    show('search([("pages", ">", 200), ("tags", "=", "sea")])', thick.mapped("title"))
    either = await Book.search((Book.pages < 200) | Book.title.ilike("bri"), order="title")
    show('search((Book.pages < 200) | Book.title.ilike("bri"))', either.mapped("title"))
    rows = await Book.search().group("state", number=earnorm.Count(), pages=earnorm.Sum("pages"))
    for row in rows:
        show(f"grouped by state: {row['state']}", f"{row['number']} books, {row['pages']} pages")
    try:
        await Book.search([("page", ">", 200)])
    except earnorm.DomainError as error:
        show("a misspelt field", error)


async def relate(counter: QueryCounter) -> None:
    """Relations: one query per relation and level, whatever the number of records."""
    heading("3. Relations: prefetched, never one query per record")
    counter.taken()
    books = await Book.search(order="title").prefetch("author_id")
    for book in books:
        show(book.title, f"by {book.author_id.name}")
    show("queries for five books and their authors", counter.taken())


async def protect() -> None:
    """Security: a rule narrows every search, and a right is refused with a reason."""
    heading("4. Security: a rule hides records, whoever asks, whichever way")
    for principal in (Principal("rita", roles=["reader"]), Principal("eve", roles=["editor"])):
        with earnorm.act_as(principal):
            titles = (await Book.search(order="title")).mapped("title")
            show(f"{principal} ({', '.join(principal.roles)}) sees", titles)
    with earnorm.act_as(Principal("rita", roles=["reader"])):
        show("rita counts books", await Book.count())
        try:
            await Book.search([("title", "=", "Rivers")]).update({"pages": 1})
        except AccessDenied as error:
            show("rita tries to write", f"AccessDenied: {error}")
        ann = (await Author.find_one([("name", "=", "Ann Lee")])).ensure_one()
        show("rita reads Ann's IBAN", ann.iban)
        try:
            show("and her fee", ann.fee)
        except FieldWithheld as error:
            show("and her fee", f"FieldWithheld: {error}")
    with earnorm.system(reason="the demo asks why"):
        markets = (await Book.find_one([("title", "=", "Markets")])).ensure_one()
        verdict = await why(markets, principal=Principal("rita", roles=["reader"]))
        show("why not Markets?", f"{verdict.refusing[0].name!r} does not allow it")
        verdict = await why(ann, principal=Principal("rita", roles=["reader"]))
        show("why not Ann's fee?", next(r for r in verdict.fields if r.name == "fee"))


async def trace(app: earnorm.App) -> None:
    """Audit: each change leaves an entry in the transaction of the change."""
    heading("5. Audit: who changed what, in the same transaction")
    with earnorm.act_as(Principal("eve", roles=["editor"])):
        rivers = (await Book.find_one([("title", "=", "Rivers")])).ensure_one()
        rivers.pages = 230
        rivers.tags.append("travel")
        await rivers.save()
        entry = list(await app.services["audit"].history(rivers))[-1]
    show(
        f"{entry.operation} by {entry.principal} at {entry.at:%H:%M:%S}", json.dumps(entry.changes)
    )


async def remember(app: earnorm.App, counter: QueryCounter) -> None:
    """Cache: what was read by id is kept, and a write takes it out."""
    heading("6. Cache: read by id once, correct after a write")
    with earnorm.system(reason="the demo looks for an id"):
        ann_id = (await Author.find_one([("name", "=", "Ann Lee")])).ensure_one().id
    cache = app.services["cache"]
    before = cache.statistics()
    counter.taken()
    for _ in range(4):
        await Author.get(ann_id)
    ann = await Author.get(ann_id)
    show("Author.get(id) five times reached the database (prefetched)", counter.taken())
    await ann.write({"name": "Ann M. Lee"})
    show("after a write, Author.get(id) gives", (await Author.get(ann_id)).name)
    after = cache.statistics()
    hits, misses = after.hits - before.hits, after.misses - before.misses
    dropped = after.invalidations - before.invalidations
    show("statistics", f"{hits} hits, {misses} misses, {dropped} invalidation(s)")


async def measure_pool(app: earnorm.App) -> None:
    """Pool: figures from the driver's own events."""
    heading("7. Pool: what the driver's connections do")
    await asyncio.gather(*(Author.count() for _ in range(20)))
    pool = app.services["pool"]
    metrics = pool.get_metrics()
    show(
        "after 20 counts at once",
        f"{metrics.total_connections} connections, {metrics.checkout_count} check-outs, "
        f"{metrics.timeout_count} timeouts",
    )
    health = await pool.get_health_check()
    show("health", f"{health['status']}, {health['statistics']['connection_usage']:.0%} in use")


SEEN = """
What you just saw
-----------------
  Models      validation by pydantic, unique indexes made on first use, errors that name the field
  Domains     one immutable tree, for the database and in memory; misspelt names are errors
  Relations   two queries for any number of records; nothing is loaded behind your back
  Security    rules joined to every operation before it leaves; open a door with earnorm.system(reason=…)
              fields hidden or masked by role; why() says what stands in the way
  Audit       an entry per changed record, atomic with the change
  Cache       by id, invalidated by writes, transactions included
  Pool        metrics and health from driver events
  A plugin    the query counter of this program: one class, no kernel code touched
Next: README.md, docs/index.md, examples/
"""


async def main() -> None:
    """Run every part on a database of its own."""
    # Dropping the database below goes past the layers, which is logged as a warning.
    logging.getLogger("earnorm").setLevel(logging.ERROR)
    counter = QueryCounter()
    async with earnorm.App(
        URI,
        database=f"earnorm_demo_{uuid.uuid4().hex[:8]}",
        plugins=["security", "audit", "cache", "pool", counter],
    ) as app:
        driver = (await app.health())["database"]["driver"]
        print(f"EarnORM {earnorm.__version__} on a real MongoDB, driver {driver}; plugins:")
        print("  " + ", ".join(info.name for info in app.plugins if info.status == "active"))
        try:
            with earnorm.system(reason="the demo fills its database"):
                await write_books()
                await ask()
                await relate(counter)
            await protect()
            await trace(app)
            await remember(app, counter)
            await measure_pool(app)
        finally:
            database = app.dangerous_raw("the demo is over")
            await database.client.drop_database(database.name)
    print(SEEN)


if __name__ == "__main__":
    asyncio.run(main())
