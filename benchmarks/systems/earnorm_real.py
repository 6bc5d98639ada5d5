"""EarnORM on real documents."""

from __future__ import annotations

from typing import Any

from benchmarks.real import CELLS, LINES, NUMBERS, PARTNERS, TEXTS, oid, seen
from benchmarks.systems.base import Seen, System
from earnorm import (
    BaseModel,
    Boolean,
    DateTime,
    Email,
    Embedded,
    EmbeddedModel,
    Float,
    Int,
    List,
    Many2many,
    Many2one,
    String,
    ValidationError,
    constrains,
    depends,
)


class Home(EmbeddedModel):
    """Where a member lives."""

    street = String(required=True)
    city = String(required=True)
    code = String(required=True)


class MemberFields(BaseModel):
    """What members have, in whichever collection they lie."""

    _abstract = True
    name = String(required=True, max_length=80)
    email = Email(required=True)
    age = Int(required=True, min_value=0, max_value=150)
    phone = String()
    score = Float(required=True)
    visits = Int(required=True)
    active = Boolean(required=True)
    joined = DateTime(required=True)
    tags = List(String(), required=True)
    address = Embedded(Home, required=True)


class Member(MemberFields):
    """Read."""

    _name, _collection = "member", "members"


class NewMember(MemberFields):
    """What is created."""

    _name, _collection = "new_member", "inserted"


class User(BaseModel):
    """Of a task, twice."""

    _name, _collection = "user", "users"
    name = String(required=True)


class Project(BaseModel):
    """Of tasks."""

    _name, _collection = "project", "projects"
    name = String(required=True)


class Tag(BaseModel):
    """Of tasks."""

    _name, _collection = "tag", "tags"
    name = String(required=True)


class TaskFields(BaseModel):
    """Thirty stored fields with those of the task, of which twenty are made in a loop."""

    _abstract = True
    for _field in NUMBERS:
        locals()[_field] = Int(required=True)
    for _field in TEXTS:
        locals()[_field] = String(required=True)
    del _field


class Task(TaskFields):
    """With relations, and computed fields that are not stored."""

    _name, _collection = "task", "tasks"
    name = String(required=True)
    done = Boolean(required=True)
    due = DateTime(required=True)
    hours = Int(required=True)
    rate = Float(required=True)
    note = String()
    project_id = Many2one(Project, required=True)
    user_id = Many2one(User, required=True)
    reviewer_id = Many2one(User, required=True)
    tag_ids = Many2many(Tag)
    cost = Float(compute="_compute_cost")
    title = String(compute="_compute_title")
    points = Int(compute="_compute_points")

    @depends("hours", "rate")
    def _compute_cost(self) -> float:
        return self.hours * self.rate

    @depends("name")
    def _compute_title(self) -> str:
        return f"{self.name}!"

    @depends("number1", "number2")
    def _compute_points(self) -> int:
        return self.number1 + self.number2


class Line(EmbeddedModel):
    """An item of a list."""

    label = String(required=True)
    amount = Int(required=True)


class Sheet(BaseModel):
    """Forty-five cells and five lists of lines."""

    _name, _collection = "sheet", "sheets"
    for _field in CELLS:
        locals()[_field] = Int(required=True)
    for _field in LINES:
        locals()[_field] = List(Embedded(Line), required=True)
    del _field


class PricedLine(BaseModel):
    """With a stored computed field and a constraint."""

    _name, _collection = "priced_line", "inserted"
    name = String(required=True)
    price = Float(required=True)
    amount = Int(required=True)
    total = Float(compute="_compute_total", store=True)

    @depends("price", "amount")
    def _compute_total(self) -> float:
        return self.price * self.amount

    @constrains("amount")
    def _check_amount(self) -> None:
        if self.amount < 1:
            raise ValidationError("an amount is positive")


class Partner(BaseModel):
    """Whose orders repeat the name."""

    _name, _collection = "partner", "partners"
    name = String(required=True)


class Order(BaseModel):
    """With a stored related field."""

    _name, _collection = "order", "orders"
    name = String(required=True)
    partner_id = Many2one(Partner, on_delete="set_null", index=True)
    partner_name = String(related="partner_id.name", store=True)


REAL_MODELS = (Member, NewMember, User, Project, Tag, Task, Sheet, PricedLine, Partner, Order)


class RealEarnORM(System):
    """A part of :class:`benchmarks.systems.earnorm.EarnORM`."""

    async def real_insert(self) -> Seen:
        return len(await NewMember.create(self.values))

    async def real_find(self) -> Seen:
        return [seen(member) for member in await Member.search()]

    async def real_hold(self) -> Seen:
        return await Member.search()

    async def real_construct(self) -> Seen:
        return len([NewMember(**values) for values in self.values])

    async def tasks(self) -> Seen:
        found = await Task.search(prefetch=["project_id", "user_id", "reviewer_id", "tag_ids"])
        return [
            (
                *(t.name, t.done, t.hours, t.number3, t.text7),
                *(t.project_id.name, t.user_id.name, t.reviewer_id.name),
                *[tag.name for tag in t.tag_ids],
                *(t.cost, t.title, t.points),
            )
            for t in found
        ]

    async def sheets(self) -> Seen:
        return [self._lines(s) for s in await Sheet.search()]

    async def sheets_only(self) -> Seen:
        return [self._lines(s) for s in await Sheet.search().only(*LINES)]

    @staticmethod
    def _lines(sheet: Any) -> list[int]:
        lists = (sheet.lines0, sheet.lines1, sheet.lines2, sheet.lines3, sheet.lines4)
        return [line.amount + len(line.label) for lines in lists for line in lines]

    async def create_computed(self) -> Seen:
        return sum(line.total for line in await PricedLine.create(self.values))

    async def follow(self) -> Seen:
        partner = await Partner.get(oid(PARTNERS, 0))
        await partner.write({"name": f"Partner of {self.turn}"})
        return self.sizes.posts

    async def move(self) -> Seen:
        orders = Order.search([("partner_id", "=", oid(PARTNERS, 0))])
        return await orders.update({"partner_id": oid(PARTNERS, 1)})

    async def set_null(self) -> Seen:
        partner = await Partner.get(oid(PARTNERS, 0))
        await partner.unlink()
        return self.sizes.posts

    async def some_refused(self) -> Seen:
        done = await NewMember.create_many(self.values, ordered=False)
        return done.written
