"""Rules and searches that ask about other records: whose rights count for which part."""

from __future__ import annotations

import pytest

from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    Many2one,
    One2many,
    Principal,
    ValidationError,
    act_as,
    depends,
    models,
    system,
)
from earnorm.fields import Int, String
from earnorm.plugin import Layer, hookimpl
from earnorm_audit import AuditEntry, AuditPlugin
from earnorm_security import Access, Rule, SecurityPlugin


class Team(models.BaseModel):
    """Nobody but a chief may read teams; rules may refer to them all the same."""

    _name = "security.team"
    _access = [Access("chief", read=True, write=True, create=True, unlink=True)]
    name = String(required=True)
    owner = String()
    parent_id = Many2one("security.team")


class Member(models.BaseModel):
    """Everybody reads the visible ones."""

    _name = "security.member"
    _rules = [Rule("visible", [("level", "<", 5)])]
    name = String(required=True)
    level = Int(default=0)
    task_ids = One2many("security.task", "member_id")


class Task(models.BaseModel):
    """Tasks belong to who owns their team."""

    _name = "security.task"
    _rules = [Rule("team", lambda env: [("team_id.owner", "=", env.principal.id)])]
    name = String(required=True)
    size = Int(default=0)
    team_id = Many2one(Team)
    member_id = Many2one(Member)


class Subtree(models.BaseModel):
    """Open to the teams below Ann's."""

    _name = "security.subtree"
    name = String()
    team_id = Many2one(Team)
    _rules = [Rule("below", [("team_id.parent_id", "any", [("owner", "=", "ann")])])]


class Sheet(models.BaseModel):
    """Open to everybody; it may be about a member that not everybody sees."""

    _name = "security.sheet"
    member_id = Many2one(Member)


class Remark(models.BaseModel):
    """Points at a sheet, until that is deleted."""

    _name = "security.remark"
    sheet_id = Many2one(Sheet, on_delete="set_null")


ANN, BOB = Principal("ann"), Principal("bob")


async def fill():
    with system(reason="set-up"):
        ours, theirs = await Team.create(
            [{"name": "ours", "owner": "ann"}, {"name": "theirs", "owner": "bob"}]
        )
        below = await Team.create({"name": "below", "parent_id": ours})
        low, high = await Member.create([{"name": "low"}, {"name": "high", "level": 9}])
        await Task.create(
            [
                {"name": "a-low", "team_id": ours, "member_id": low},
                {"name": "a-high", "team_id": ours, "member_id": high},
                {"name": "b-low", "team_id": theirs, "member_id": low},
                {"name": "none", "member_id": low},
            ]
        )
        await Subtree.create([{"name": "yes", "team_id": below}, {"name": "no", "team_id": ours}])
        return ours, theirs


async def names(model, domain=None):
    return sorted((await model.search(domain)).mapped("name"))


async def test_a_rule_may_refer_to_records_that_its_reader_may_not_see(opened):
    async with opened():
        await fill()
        with act_as(ANN):
            assert await names(Task) == ["a-high", "a-low"]
            assert await Task.count() == 2
            assert await names(Subtree) == ["yes"]
            with pytest.raises(AccessDenied):
                await Team.search()
        with act_as(BOB):
            assert await names(Task) == ["b-low"]


async def test_what_somebody_asks_of_others_shows_what_they_may_see_of_them(opened):
    async with opened():
        await fill()
        with act_as(ANN):
            assert await names(Task, [("member_id.level", ">=", 0)]) == ["a-low"]
            assert await names(Task, [("member_id", "any", [])]) == ["a-low"]
            assert await names(Member, [("task_ids", "!=", None)]) == ["low"]
            assert await names(Member, [("task_ids.name", "=", "b-low")]) == []
            for domain in ([("team_id.name", "=", "theirs")], [("team_id", "any", [])]):
                with pytest.raises(AccessDenied, match=r"'security\.team'"):
                    await Task.search(domain)


async def test_a_change_shows_no_more_than_a_search(opened):
    async with opened():
        await fill()
        with act_as(ANN):
            assert await Task.search([("member_id.level", ">", 5)]).update({"size": 1}) == 0
            assert await Task.search([("member_id.name", "=", "low")]).update({"size": 2}) == 1
            with pytest.raises(AccessDenied):
                await Task.search([("team_id.name", "=", "theirs")]).update({"size": 3})
            with pytest.raises(AccessDenied):
                await Task.search([("team_id.name", "=", "theirs")]).delete()
        with system(reason="look"):
            found = await Task.search(order="name")
            assert [(t.name, t.size) for t in found if t.size] == [("a-low", 2)]


async def test_what_follows_from_a_deletion_is_about_what_its_principal_may_ask_for(opened):
    async with opened():
        await fill()
        with system(reason="set-up"):
            members = await Member.search(order="name")
            high, low = await Sheet.create([{"member_id": each} for each in members])
            await Remark.create([{"sheet_id": high}, {"sheet_id": low}])
        with act_as(ANN):
            assert await Sheet.search([("member_id.level", "=", 9)]).delete() == 0
            assert await Remark.search([("sheet_id", "=", None)]).count() == 0
            assert await Sheet.search([("member_id.level", ">=", 0)]).delete() == 1
        with system(reason="look"):
            assert (await Remark.search([("sheet_id", "!=", None)])).mapped("sheet_id.id") == [
                high.id
            ]
            assert await Remark.search([("sheet_id", "=", None)]).count() == 1


# -- models without rules, and what others do about their records ---------------------------------


class Writer(models.BaseModel):
    """Everybody reads the known ones; a guest none."""

    _name = "security.writer"
    _access = [Access("reader", read=True)]
    _rules = [Rule("known", [("fame", ">", 0)])]
    secret = String()
    fame = Int(default=0)


class Library(models.BaseModel):
    _name = "security.library"
    book_ids = One2many("security.book", "library_id")
    pages = Int(compute="_pages", store=True)

    @depends("book_ids.pages")
    def _pages(self):
        return sum(book.pages for book in self.book_ids)


class Book(models.BaseModel):
    """Open to everybody, without any rule; others depend on it in each way that there is."""

    _name = "security.book"
    _parent_store = True
    writer_id = Many2one(Writer)
    library_id = Many2one(Library)
    parent_id = Many2one("security.book", on_delete="restrict")
    pages = Int(default=0)
    stars = Int(default=0)
    double = Int(compute="_double", store=True)

    @depends("pages")
    def _double(self):
        return 2 * self.pages


class Review(models.BaseModel):
    _name = "security.review"
    book_id = Many2one(Book, on_delete="cascade")


class Loan(models.BaseModel):
    _name = "security.loan"
    book_id = Many2one(Book, on_delete="set_null")


class Order(models.BaseModel):
    _name = "security.book_order"
    book_id = Many2one(Book, on_delete="restrict")


class Observer:
    """Notes which operations the system does by a domain that asks about other records."""

    api = 1
    name = "observer"

    def __init__(self):
        self.asked = []

    @hookimpl
    def wrap_operation(self, app, model, operation):
        async def look(op, call_next):
            if op.env.system and "writer_id.secret" in {c.path for c in op.domain.conditions()}:
                self.asked.append((op.name, op.model._name, op.env.reason))
            return await call_next(op)

        return [(Layer.SECURITY - 1, look)]


GUEST, READER = Principal("guest"), Principal("eve", roles=["reader"])
SECRET = [("writer_id.secret", "=", "x")]


async def fill_library():
    with system(reason="set-up"):
        known, hidden = await Writer.create([{"secret": "x", "fame": 1}, {"secret": "x"}])
        library = await Library.create({})
        books = await Book.create(
            [
                {"writer_id": each, "library_id": library, "pages": pages}
                for each, pages in ((known, 1), (hidden, 2))
            ]
        )
        for model in (Review, Loan):
            await model.create([{"book_id": book} for book in books])
        await Order.create({"book_id": books[1]})


async def library_state():
    with system(reason="look"):
        books = [(b.pages, b.double, b.stars) for b in await Book.search(order="pages")]
        return {
            "books": books,
            "library": (await Library.search()).mapped("pages"),
            "reviews": await Review.count(),
            "loans": await Loan.count([("book_id", "!=", None)]),
            "entries": await AuditEntry.search([("principal", "!=", None)]).count(),
        }


def changes():
    query = Book.search(SECRET)
    return {
        "update": lambda: query.update({"stars": 1}),
        "update of what is computed from": lambda: query.update({"pages": 9}),
        "update of a parent": lambda: query.update({"parent_id": None}),
        "delete": lambda: query.delete(),
    }


@pytest.mark.parametrize("way", changes())
async def test_a_change_by_what_its_principal_may_not_read_touches_nothing(opened, way):
    observer = Observer()
    async with opened(plugins=(AuditPlugin(), observer)):
        await fill_library()
        before = await library_state()
        with act_as(GUEST), pytest.raises(AccessDenied, match=r"'security\.writer'"):
            await changes()[way]()
        assert await library_state() == before
    assert observer.asked == []


async def test_it_touches_nothing_without_transactions_either():
    plugins = [SecurityPlugin(), AuditPlugin()]
    async with App("mongomock://", database="books", plugins=plugins):
        await fill_library()
        before = await library_state()
        for change in changes().values():
            with act_as(GUEST), pytest.raises(AccessDenied):
                await change()
            assert await library_state() == before


async def test_a_change_and_all_that_follows_is_about_what_its_principal_sees(opened):
    observer = Observer()
    async with opened(plugins=(AuditPlugin(), observer)):
        await fill_library()
        with act_as(READER):
            assert await changes()["update of what is computed from"]() == 1
            assert await library_state() == {
                "books": [(2, 4, 0), (9, 18, 0)],
                "library": [11],
                "reviews": 2,
                "loans": 2,
                "entries": 3,  # the book's, what is computed from it, and its library's
            }
            assert await changes()["delete"]() == 1  # the order of the hidden one restricts nothing
            after = await library_state()
            assert after["books"] == [(2, 4, 0)] and after["library"] == [2]
            assert (after["reviews"], after["loans"]) == (1, 1)
        # Behind the layer ASK nobody is asked again.
    assert observer.asked == []


# -- rules ----------------------------------------------------------------------------------------


async def test_a_relational_rule_holds_for_what_is_created_and_written(opened):
    async with opened():
        ours, theirs = await fill()
        with act_as(ANN), pytest.raises(ValidationError, match="team_id: no such record"):
            await Task.create(
                {"name": "new", "team_id": ours.pk}
            )  # who cannot read it links nothing
        with act_as(Principal("ann", roles=["chief"])):
            made = await Task.create({"name": "new", "team_id": ours.pk})
            with pytest.raises(AccessDenied, match="rule"):
                await Task.create({"name": "bad", "team_id": theirs.pk})
            with pytest.raises(AccessDenied, match="rule"):
                await Task.search([("id", "=", made.id)]).update({"team_id": theirs.pk})
            assert await Task.search([("id", "=", made.id)]).update({"size": 5}) == 1
            assert await Task.search([("id", "=", made.id)]).delete() == 1


async def test_a_mistake_behind_a_relation_stops_the_start(opened):
    class Wrong(models.BaseModel):
        _name = "security.wrong"
        team_id = Many2one(Team)
        _rules = [Rule("typo", [("team_id.ownr", "=", "ann")])]

    async with opened():
        with pytest.raises(ConfigurationError, match="did you mean 'owner'"):
            await Wrong.count()
