"""What 300 generated writes do today: the operations behind the layers, the commands, and what comes of them.

    python -m tests.core.golden_writes            writes the list, tests/core/golden/writes.txt
    python -m tests.core.golden_writes --print    prints it instead, as the test does that compares
    python -m tests.core.golden_writes --driver motor --print

The servers are those that the environment names; without one it starts its own (tests/servers.py). The list is the
same in every run and with every driver: each write has a seed of its own and begins with an empty database, so that a
change of one shows in its block and in no other. Write the list anew only for a change that is meant, and read its
diff.

A block has the call; each operation as it reaches the end of the layers (`op`), and below it the commands that went
to the server (`>`); what the call gave or raised; and what the records hold afterwards. `txn` is said where a
transaction runs, `as asked` where a command sends just what the operation says. Ids are numbered where they first
appear in a block, and the times of the clock likewise: `<then 1>` was before the write, `<now 1>` is of it.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import decimal
import enum
import os
import random
import re
import sys
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from bson import Decimal128, ObjectId
from pymongo.monitoring import CommandListener

import earnorm
from earnorm import (
    AddToSet,
    App,
    BaseModel,
    BatchRefused,
    BatchResult,
    Boolean,
    Bulk,
    Change,
    Command,
    CurrentDate,
    Date,
    DateTime,
    Decimal,
    Dict,
    Domain,
    DuplicateKey,
    EarnORMError,
    Email,
    Embedded,
    EmbeddedModel,
    Float,
    Inc,
    Int,
    List,
    Many2many,
    Many2one,
    Max,
    Min,
    Mul,
    One2many,
    Operation,
    PerRecord,
    Pop,
    Pull,
    Push,
    RecordSet,
    Reference,
    String,
    Toggle,
    Unset,
    Update,
    ValidationError,
    act_as,
    constrains,
    depends,
    hookimpl,
    mixins,
    validates,
)
from earnorm import (
    Sequence as Numbers,
)

# Everything that is not public stands here, so that a module that moves is named in one place.
from earnorm.kernel import time as stamps
from earnorm.model.writing import objectids
from tests.servers import MONGO_URI_VARIABLE, running_servers

SEED: Final = 20
WRITES: Final = 300
TRIES: Final = 5
LIST: Final = Path(__file__).parent / "golden" / "writes.txt"

Values = dict[str, Any]
Random = random.Random


# -- the models -----------------------------------------------------------------------------------


class Common(BaseModel):
    """What the models have in common that are written in every way."""

    _abstract = True

    code = String(required=True, unique=True, strip=True)
    number = Int(default=0, min_value=-50, max_value=1000)
    open = Boolean(default=True)
    note = String(max_length=12)


class Place(EmbeddedModel):
    city = String(required=True, db_name="c")
    floor = Int(min_value=0, max_value=90)


class Part(EmbeddedModel):
    sku = String(required=True)
    qty = Int(default=1, min_value=0)
    land_id = Many2one[Any, Any]("gold.land", on_delete="set_null", db_name="l")


class Plain(Common):
    _name = "gold.plain"

    score = Float(db_name="sc")
    tags = List(String(max_length=5), default=list, db_name="t")
    few = List(Int(), max_length=3)
    price = Decimal(decimal_places=2, max_digits=6)
    born = Date()
    seen = DateTime()
    badge = String(readonly=True, db_name="badge_number")


class Timed(mixins.Timestamps, Common):
    _name = "gold.timed"

    changed_on = Date(auto_now=True, db_name="on")


class Signed(mixins.SoftDelete, mixins.Timestamps, mixins.Authors, Common):
    _name = "gold.signed"


class Numbered(Common):
    _name = "gold.numbered"

    serial = Numbers("N-{year}-{number:03}", unique=True, db_name="s")


class Receipt(BaseModel):
    _name = "gold.receipt"

    serial = Numbers("{number}", gap_free=True, sequence="receipts")
    text = String()


class Counted(Common):
    _name = "gold.counted"
    _versioned = True


class Node(Common):
    _name = "gold.node"
    _parent_store = True

    parent_id = Many2one[Any, Any]("gold.node", on_delete="cascade")


class Folder(BaseModel):
    _name = "gold.folder"
    _parent_store = True
    _parent_name = "inside_id"

    name = String()
    inside_id = Many2one[Any, Any]("gold.folder", db_name="in", on_delete="set_null")


class Animal(Common):
    _name = "gold.animal"
    _discriminator = "kind"

    kind = String(required=True, db_name="k")


class Cat(Animal):
    _name = "gold.cat"
    _kind = "cat"

    lives = Int(default=9, db_name="l")


class Dog(Animal):
    _name = "gold.dog"
    _kind = "dog"

    chip = String(required=True)
    walked_at = DateTime(auto_now=True)


CLASSES: Final = (Cat._name, Dog._name)


class Partner(BaseModel):
    _name = "gold.partner"

    name = String(required=True)
    email = Email(db_name="mail")
    tags = List(String())


class Member(Common):
    _name = "gold.member"
    _inherits = {"gold.partner": "partner_id"}

    partner_id = Many2one(Partner, required=True)


async def no_spam(value: str) -> str:
    await asyncio.sleep(0)
    if "spam" in value:
        raise ValueError("no spam please")
    return value.lower()


class Ruled(Common):
    _name = "gold.ruled"

    limit = Int(default=500)
    rival = String()
    email = Email(validators=[no_spam])

    @validates("note")
    def lower(self, value: str) -> str:
        return value.lower()

    @constrains("number", "limit")
    def within_limit(self) -> None:
        if (self.number or 0) > (self.limit or 0):
            raise ValueError("above the limit")

    @constrains("number", "rival")
    async def below_rival(self) -> None:
        if self.rival is None:
            return
        other = await Ruled.search([("code", "=", self.rival)], only=["number"]).first()
        if other is not None and (other.number or 0) < (self.number or 0):
            raise ValueError("above the rival")

    @constrains("code", on=("create",))
    def no_tests(self) -> None:
        if self.code.startswith("test"):
            raise ValueError("no new tests")


class Land(BaseModel):
    _name = "gold.land"

    name = String(db_name="n")
    vat = Int(default=0)


class Customer(BaseModel):
    _name = "gold.customer"

    name = String()
    land_id = Many2one(Land, db_name="land")
    sale_ids = One2many[Any]("gold.sale", "customer_id")
    spent = Int(compute="_compute_spent", store=True)

    @depends("sale_ids.total")
    def _compute_spent(self) -> int:
        return sum(sale.total or 0 for sale in self.sale_ids)


class Label(BaseModel):
    _name = "gold.label"

    name = String()
    weight = Int(default=1)
    sale_ids = Many2many[Any]("gold.sale", inverse="label_ids")
    uses = Int(compute="_compute_uses", store=True, db_name="u")

    @depends("sale_ids")
    def _compute_uses(self) -> int:
        return len(self.sale_ids)


class Sale(Common):
    _name = "gold.sale"

    customer_id = Many2one(Customer)
    label_ids = Many2many(Label)
    line_ids = One2many[Any]("gold.line", "sale_id", order="id")
    fee = Int(default=0)
    net = Int(compute="_compute_net", store=True, required=True)
    total = Int(compute="_compute_total", store=True, db_name="t")
    weight = Int(compute="_compute_weight", store=True)
    land_name = String(related="customer_id.land_id.name", store=True)
    gross = Int(compute="_compute_gross", inverse="_set_gross")

    @depends("line_ids.amount")
    def _compute_net(self) -> int:
        return sum(line.amount or 0 for line in self.line_ids)

    @depends("net", "fee", "customer_id.land_id.vat")
    async def _compute_total(self) -> int:
        land = self.customer_id.land_id if self.customer_id is not None else None
        vat = land.vat or 0 if land is not None else 0
        return (self.net + (self.fee or 0)) * (100 + vat)

    @depends("label_ids.weight")
    def _compute_weight(self) -> int:
        return sum(label.weight or 0 for label in self.label_ids)

    @depends("fee")
    def _compute_gross(self) -> int:
        return (self.fee or 0) * 2

    def _set_gross(self, value: int) -> None:
        self.fee = value // 2


class Line(BaseModel):
    _name = "gold.line"

    sale_id = Many2one(Sale, db_name="o")
    price = Int(default=1, db_name="p")
    qty = Int(default=1)
    note = String()
    amount = Int(compute="_compute_amount", store=True, db_name="a", required=True)

    @depends("price", "qty")
    def _compute_amount(self) -> int:
        if (self.qty or 0) > 900:
            raise ZeroDivisionError
        return (self.price or 0) * (self.qty or 0)


class Goods(Common):
    _name = "gold.goods"

    price = Float(default=1.0)
    tax = Float(default=0.0)
    total = Float(compute="_compute_total", store=True, required=True)
    with_tax = Float(compute="_compute_with_tax", inverse="_set_with_tax")
    stock = Int(compute="_compute_stock", inverse="_set_stock", store=True)
    move_ids = One2many[Any]("gold.move", "goods_id")

    @depends("price", "tax")
    def _compute_total(self) -> float:
        return (self.price or 0) * (1 + (self.tax or 0))

    @depends("price", "tax")
    def _compute_with_tax(self) -> float:
        return self.total

    def _set_with_tax(self, value: float) -> None:
        self.price = value / (1 + (self.tax or 0))

    @depends("move_ids.qty")
    def _compute_stock(self) -> int:
        return sum(move.qty or 0 for move in self.move_ids)

    async def _set_stock(self, value: int) -> None:
        known = sum([move.qty or 0 async for move in Move.search([("goods_id", "=", self)])])
        await Move.create({"goods_id": self, "qty": value - known})


class Move(BaseModel):
    _name = "gold.move"

    goods_id = Many2one(Goods)
    qty = Int(default=0)


class Placed(Common):
    _name = "gold.placed"

    place = Embedded(Place, db_name="pl")
    parts = List(Embedded(Part), default=list, db_name="ps")
    prices = Dict(Decimal(min_value=0))


class Whole(mixins.SoftDelete, mixins.Timestamps, mixins.Authors, Common):
    """All of it in one model, so that the order of the layers shows."""

    _name = "gold.whole"
    _versioned = True

    serial = Numbers("W-{number}", db_name="s")
    land_id = Many2one(Land, on_delete="set_null", db_name="land")
    land_name = String(related="land_id.name", store=True, db_name="ln")
    double = Int(compute="_compute_double", store=True)
    parts = List(Embedded(Part), default=list)

    @depends("number")
    def _compute_double(self) -> int:
        return 2 * (self.number or 0)

    @validates("note")
    def lower(self, value: str) -> str:
        return value.lower()

    @constrains("note", "open")
    def closed_has_no_note(self) -> None:
        if self.note is not None and not self.open:
            raise ValueError("a closed one has no note")


class Tag(BaseModel):
    _name = "gold.tag"

    name = String(required=True)
    article_ids = Many2many[Any]("gold.article", inverse="tag_ids")


class Article(BaseModel):
    _name = "gold.article"

    title = String(required=True)
    tag_ids = Many2many(Tag, db_name="tags")
    note_ids = One2many[Any]("gold.note", "article_id", order="text")


class Note(BaseModel):
    _name = "gold.note"

    text = String()
    article_id = Many2one(Article)
    tag_ids = Many2many(Tag)


class Person(BaseModel):
    _name = "gold.person"

    name = String(required=True)
    team_ids = Many2many[Any]("gold.team", through="gold.membership")


class Team(BaseModel):
    _name = "gold.team"

    name = String(required=True)


class Membership(BaseModel):
    _name = "gold.membership"

    person_id = Many2one(Person, required=True)
    team_id = Many2one(Team, required=True)
    role = String()


class Parcel(BaseModel):
    _name = "gold.parcel"
    _versioned = True

    title = String(unique=True)
    item_ids = One2many[Any]("gold.item", "parcel_id", order="number")
    tag_ids = Many2many(Tag)


class Item(BaseModel):
    _name = "gold.item"

    number = Int(required=True, min_value=0)
    parcel_id = Many2one(Parcel, required=True, on_delete="cascade")


class Owner(BaseModel):
    _name = "gold.owner"

    name = String()


class Mark(BaseModel):
    _name = "gold.mark"

    name = String()


class Thing(BaseModel):
    _name = "gold.thing"

    name = String()
    owner_id = Many2one(Owner, on_delete="cascade")
    mark_ids = Many2many(Mark, on_delete="set_null")
    origin_id = Many2one[Any, Any]("gold.thing", on_delete="cascade")


class Detail(BaseModel):
    _name = "gold.detail"

    thing_id = Many2one(Thing, required=True, on_delete="cascade")
    mark_id = Many2one(Mark, on_delete="set_null")


class Loan(BaseModel):
    _name = "gold.loan"

    thing_id = Many2one(Thing, on_delete="restrict")
    owner_id = Many2one(Owner, on_delete="cascade")
    about = Reference(Mark, Owner, on_delete="set_null")


# -- showing --------------------------------------------------------------------------------------

BEFORE: Final = datetime.datetime(2031, 5, 5, 7, 8, tzinfo=datetime.UTC)
NOW: Final = BEFORE + datetime.timedelta(days=1)
HOUR: Final = datetime.timedelta(hours=1)
# With a 0 behind it, it bounds a range of paths in a tree.
HEX: Final = re.compile(r"(?<![0-9a-f])([0-9a-f]{24})(0?)(?![0-9a-f])")
MOST: Final = 12


class Marks:
    """Shows the values of one block; what differs from run to run gets a mark where it first appears."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._times: dict[str, dict[datetime.datetime, int]] = {"then": {}, "now": {}}

    def show(self, value: Any) -> str:
        """Give a value as text."""
        match value:
            case None | bool() | Decimal128() | enum.Enum():
                return repr(value)
            case str():
                return HEX.sub(self._id, repr(value))
            case ObjectId():
                return HEX.sub(self._id, str(value))
            case datetime.datetime():
                return self._time(value)
            case datetime.date():
                return value.isoformat()
            case Mapping():
                pairs = (f"{key_of(k, self)}: {self.show(v)}" for k, v in value.items())
                return f"{{{', '.join(pairs)}}}"
            case Command():
                given = [*map(self.show, value.records)]
                if value.kind == "set":
                    given = [f"[{', '.join(given)}]"]
                if value.values is not None:
                    given.append(self.show(value.values))
                return f"Command.{value.kind}({', '.join(given)})"
            case Change():
                return self._change(value)
            case Domain():
                return f"[{', '.join(map(self.show, value.to_list()))}]"
            case BaseModel():
                return self.name(value) if value.is_stored else f"new {self.state(value)}"
            case EmbeddedModel():
                return f"{type(value).__name__}({self.show(value.to_dict())})"
            case RecordSet():
                return self.show(list(value))
            case BatchResult():
                return f"{value!r} {self.show(value.errors)}"
            case list() | tuple():
                return f"[{', '.join(shortened([self.show(each) for each in value], self))}]"
            case set() | frozenset():
                return f"{{{', '.join(sorted(map(self.show, value)))}}}"
            case _:
                return repr(value)

    def name(self, record: BaseModel) -> str:
        """Give a stored record's class and id."""
        return f"{type(record).__name__}{self.show(record.pk)}"

    def state(self, record: BaseModel) -> str:
        """Give a record with what it holds."""
        try:
            values = {k: v for k, v in record.to_dict().items() if k != "id"}
            # What to_dict() leaves out, though writes depend on it.
            hidden = ("_revision", "_parent_path")
            values |= {k: v for k, v in vars(record).items() if k in hidden}
            held = self.show(values)
        except EarnORMError as error:
            held = f"{type(error).__name__}: {self.text(str(error))}"
        flags = [
            flag
            for flag, is_so in (
                ("changed", record.is_stored and record.is_changed),
                ("stale", record.is_stale),
            )
            if is_so
        ]
        about = f" ({', '.join(flags)})" if flags else ""
        name = self.name(record) if record.is_stored else type(record).__name__
        return f"{name} {held}{about}"

    def text(self, text: str) -> str:
        """Give a message with the ids in it as marks."""
        return HEX.sub(self._id, text)

    def _id(self, found: re.Match[str]) -> str:
        mark = f"#{self._ids.setdefault(found[1], len(self._ids) + 1)}"
        return f"{mark}+{found[2]}" if found[2] else mark

    def _time(self, value: datetime.datetime) -> str:
        at = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        for mark, start in (("then", BEFORE), ("now", NOW)):
            if start <= at < start + HOUR:
                known = self._times[mark]
                return f"<{mark} {known.setdefault(at, len(known) + 1)}>"
        if abs(at - datetime.datetime.now(datetime.UTC)) < HOUR:
            return "<the server's clock>"
        return at.isoformat()

    def _change(self, change: Change) -> str:
        given: dict[str, Any] = {**getattr(change, "__dict__", {})}
        for each in reversed(type(change).__mro__):
            for slot in each.__dict__.get("__slots__", ()):
                if getattr(change, slot, None) is not None:
                    given[slot] = getattr(change, slot)
        items = given.pop("items", None)
        if items is not None:
            given.pop("argument", None)
        shown = [*map(self.show, items or ())]
        shown += [f"{name}={self.show(value)}" for name, value in given.items()]
        return f"{type(change).__name__}({', '.join(shown)})"

    def update(self, operators: Any) -> str:
        """Give an update; the order in which its operators name the keys means nothing."""
        if not isinstance(operators, Mapping):
            return self.show(operators)
        parts = [
            f"{operator}: {self.show(dict(sorted(spec.items())))}"
            for operator, spec in sorted(operators.items())
        ]
        return f"{{{', '.join(parts)}}}"


def key_of(key: Any, marks: Marks) -> str:
    """Give the key of a mapping: without quotation marks, where it is a text."""
    return marks.text(key) if isinstance(key, str) else marks.show(key)


def shortened(shown: Sequence[str], marks: Marks) -> list[str]:
    """Give a long list's beginning and a checksum of the rest."""
    if len(shown) <= MOST:
        return [*shown]
    rest = "\n".join(shown[4:])
    return [*shown[:4], f"… {len(shown) - 4} more ({zlib.crc32(rest.encode()):08x})"]


# -- recording ------------------------------------------------------------------------------------

COMMANDS: Final = frozenset(
    [
        "insert",
        "update",
        "delete",
        "find",
        "aggregate",
        "findAndModify",
        "getMore",
        "count",
        "distinct",
    ]
)
ENDS: Final = {"commitTransaction": "commit", "abortTransaction": "abort"}
FETCHED: Final = ("projection", "fields")
PARTS: Final = ("filter", "query", "projection", "fields", "sort", "skip", "limit", "pipeline")


class Sent(CommandListener):
    """Hands the commands that go to the server to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def started(self, event: Any) -> None:
        self._recorder.sent(event.command_name, dict(event.command))

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        if event.command_name == "abortTransaction":
            return  # the server has ended the transaction itself, of which a command failed
        if "TransientTransactionError" in event.failure.get("errorLabels", ()):
            self._recorder.is_disturbed = True


class Recorder:
    """A plugin that notes what reaches the end of the layers, and what is sent to the server."""

    api = 1
    name = "recorder"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.marks = Marks()
        self.is_on = False
        self.is_disturbed = False
        """The server gave up a transaction, which was tried again: a matter of chance."""
        self.used: set[str] = set()
        """The collections that may have documents."""
        self._asked: set[str] = set()

    @hookimpl
    def register_listeners(self, app: App) -> list[object]:
        return [Sent(self)]

    @hookimpl
    def wrap_operation(self, app: App, model: type[BaseModel], operation: str) -> Any:
        async def note(op: Operation, call_next: Any) -> Any:
            if self.is_on:
                self.operation(op)
            return await call_next(op)

        return [(10_000, note)]

    def begin(self, marks: Marks) -> None:
        """Note what comes from now on."""
        self.lines, self.marks, self._asked = [], marks, set()
        self.is_on, self.is_disturbed = True, False

    def end(self) -> list[str]:
        """Note nothing any more; the lines that were noted."""
        self.is_on = False
        return self.lines

    # -- operations

    def operation(self, op: Operation) -> None:
        """Note an operation: its name, model and domain, its values, and the options that say what is asked."""
        show, options = self.marks.show, op.options
        head = ["op", op.name, op.model._name]
        if op.env.transaction is not None:
            head.append("txn")
        for name in ("order", "limit", "offset"):
            if getattr(options, name):
                head.append(f"{name}={show(getattr(options, name))}")
        if options.fields is not None:
            head.append(f"fields={show(sorted(options.fields))}")
        if not options.many:
            head.append("many=False")
        if not options.ordered:
            head.append("ordered=False")
        if op.env.system:
            head.append(f"as system, {self.marks.text(op.env.reason)!r}")
        self.lines.append(" ".join(head))
        if op.domain is not Domain.TRUE:
            self.lines.append(f"     where {show(op.domain)}")
        self._values(op.values)

    def _values(self, values: Any) -> None:
        if isinstance(values, PerRecord):
            shown = [
                f"{self.marks.show(pk)} {self._update(update)}" for pk, update in values.items()
            ]
        elif isinstance(values, Update):
            shown = [self._update(values)]
        elif values is None:
            return
        else:
            shown = [self.marks.show(document) for document in values]
            self._asked.update(shown)
        self.lines += [f"     {each}" for each in shortened(shown, self.marks)]

    def _update(self, update: Update) -> str:
        show = self.marks.show
        shown = self.marks.update(update.operators)
        self._asked.add(shown)
        if update.expect:
            shown += f" expecting {show(update.expect)}"
        if update.where is not Domain.TRUE:
            shown += f" only where {show(update.where)}"
        return shown

    # -- commands

    def sent(self, name: str, command: dict[str, Any]) -> None:
        """Note a command: what it asks, without what every command carries."""
        target = command.get(name)
        if name in ("insert", "update", "findAndModify") and isinstance(target, str):
            self.used.add(target)
        if not self.is_on:
            return
        if name in ENDS:
            self.lines.append(f"   > {ENDS[name]}")
        if name not in COMMANDS:
            return
        show = self.marks.show
        head = ["   >", name, command["collection"] if name == "getMore" else str(target)]
        if "autocommit" in command:
            head.append("txn")
        # The order of the keys that are fetched means nothing.
        command |= {k: dict(sorted(command[k].items())) for k in FETCHED if command.get(k)}
        head += [f"{part}={show(command[part])}" for part in PARTS if command.get(part)]
        if name == "findAndModify":
            head.append(f"update={self._change(command.get('update'))}")
            head += [
                f"{part}={show(command[part])}" for part in ("new", "upsert") if part in command
            ]
        if command.get("ordered") is False:
            head.append("ordered=False")
        self.lines.append(" ".join(head))
        shown = [self._document(each) for each in command.get("documents", ())]
        shown += [
            self._statement(each, self._change(each["u"])) for each in command.get("updates", ())
        ]
        shown += [self._statement(each, "") for each in command.get("deletes", ())]
        if shown and set(shown) == {"as asked"}:
            shown = ["as asked"]
        self.lines += [f"        {each}" for each in shortened(shown, self.marks)]

    def _document(self, document: Any) -> str:
        shown = self.marks.show(document)
        return "as asked" if shown in self._asked else shown

    def _change(self, update: Any) -> str:
        shown = self.marks.update(update)
        return "as asked" if shown in self._asked else shown

    def _statement(self, given: Mapping[str, Any], change: str) -> str:
        shown = [self.marks.show(given["q"])]
        if change:
            shown.append(change)
        # Some say what is the default, some don't.
        shown += [f"{n}={v!r}" for n, v in given.items() if n not in ("q", "u") and v]
        return " ".join(shown)


class Clock:
    """Stands for the clock: a second passes with each look at it."""

    def __init__(self) -> None:
        self.at = BEFORE

    def __call__(self) -> datetime.datetime:
        self.at += datetime.timedelta(seconds=1)
        return self.at

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the place of the clock in every module that looks at it."""
        real = stamps.clock
        found = [
            module
            for name, module in sys.modules.items()
            if name.partition(".")[0] == "earnorm" and vars(module).get("clock") is real
        ]
        for module in found:
            module.__dict__["clock"] = self
        try:
            yield
        finally:
            for module in found:
                module.__dict__["clock"] = real


# -- what is generated ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Write:
    """A generated write, whose database is ready.

    Attributes:
        call: How the block says it; `{0}` stands for the first of ``about``.
        about: Records and values in the call. Those of the records that are in no values are looked at afterwards.
        run: Does it.
        holds: Other records to look at afterwards; those that the call gives are looked at as well.
    """

    call: str
    about: Sequence[Any]
    run: Callable[[], Awaitable[Any]]
    holds: Iterable[Any] = ()


def creating(model: Any, values: Any) -> Write:
    return Write(f"{model.__name__}.create({{0}})", [values], lambda: model.create(values))


def creating_many(model: Any, values: Any, *, ordered: bool = True, size: int = 2000) -> Write:
    return Write(
        f"{model.__name__}.create_many({{0}}, ordered={ordered}, batch_size={size})",
        [values],
        lambda: model.create_many(values, ordered=ordered, batch_size=size),
    )


def writing(record: Any, values: Values) -> Write:
    return Write("{0}.write({1})", [record, values], lambda: record.write(values))


def writing_all(records: Iterable[Any], values: Values) -> Write:
    listed = list(records)
    together = RecordSet(type(listed[0]), listed)
    return Write("RecordSet{0}.write({1})", [together, values], lambda: together.write(values))


def writing_many(model: Any, values: dict[Any, Values]) -> Write:
    return Write(f"{model.__name__}.write_many({{0}})", [values], lambda: model.write_many(values))


def saving(record: Any, values: Values) -> Write:
    """Assign values, and save the record."""

    async def run() -> Any:
        assign(record, values)
        return await record.save()

    said = "{0}.save() with {1} assigned" if values else "{0}.save()"
    return Write(said, [record, values], run)


def updating(model: Any, domain: list[Any], values: Values) -> Write:
    return Write(
        f"{model.__name__}.search({{0}}).update({{1}})",
        [domain, values],
        lambda: model.search(domain).update(values),
    )


def upserting(model: Any, values: Values, on: str, new: Values | None = None) -> Write:
    return Write(
        f"{model.__name__}.upsert({{0}}, {on!r}, new={{1}})",
        [values, new],
        lambda: model.upsert(values, on, new=new),
    )


def unlinking(record: Any) -> Write:
    return Write("{0}.unlink()", [record], record.unlink)


def deleting(model: Any, domain: list[Any]) -> Write:
    return Write(
        f"{model.__name__}.search({{0}}).delete()", [domain], lambda: model.search(domain).delete()
    )


def in_bulk(
    model: Any,
    new: Sequence[Any] = (),
    values: Mapping[Any, Values] | None = None,
    gone: Sequence[Any] = (),
) -> Write:
    """Create, write and delete in one bulk, in the order of the calls."""

    async def run() -> Any:
        async with model.bulk() as block:
            for each in new:
                block.create(each)
            for record, own in (values or {}).items():
                block.write(record, own)
            for each in gone:
                block.unlink(each)
        return block

    call = f"{model.__name__}.bulk(): create {{0}}, write {{1}}, unlink {{2}}"
    return Write(call, [new, values or {}, gone], run)


def assign(record: Any, values: Values) -> None:
    for name, value in values.items():
        setattr(record, name, value)


Maker = Callable[[Random, int], Awaitable[Write]]


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to write, and how many writes of the list go it."""

    name: str
    count: int
    make: Maker


WAYS: Final[list[Way]] = []


def ways(count: int) -> Callable[[Maker], Maker]:
    """Let a function generate so many of the writes: it gets a generator of its own, and which one it is."""

    def add(make: Maker) -> Maker:
        WAYS.append(Way(make.__name__.replace("_", " "), count, make))
        return make

    return add


def word(r: Random) -> str:
    return "".join(r.choice("abcdefgh") for _ in range(r.randint(1, 4)))


def some(r: Random, values: Values, least: int = 0) -> Values:
    """Pick some of the values, in their order."""
    picked = set(r.sample(sorted(values), r.randint(least, len(values))))
    return {name: value for name, value in values.items() if name in picked}


# -- the models that are written in every way -----------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Family:
    """A model that is written in every way.

    Attributes:
        model: The model.
        new: Values of a new record, beside those that all have in common.
        change: Values of a write, likewise.
        beside: Creates the records that values may name.
    """

    model: Any
    new: Callable[[Random, Any, int], Values] = lambda r, beside, n: {}
    change: Callable[[Random, Any], Values] = lambda r, beside: {}
    beside: Callable[[Random], Awaitable[Any]] | None = None


def plain_new(r: Random, beside: Any, n: int) -> Values:
    values = {
        "score": r.randint(0, 9) / 4,
        "tags": [word(r) for _ in range(r.randint(0, 2))],
        "price": f"{r.randint(0, 999)}.{r.randint(10, 99)}",
        "born": datetime.date(2000 + r.randint(0, 9), 1, r.randint(1, 28)),
        "badge": word(r),
    }
    return some(r, values)


def plain_change(r: Random, beside: Any) -> Values:
    return {name: v for name, v in plain_new(r, beside, 0).items() if name != "badge"}


async def two_nodes(r: Random) -> Any:
    top = await Node.create({"code": "top"})
    return [top, await Node.create({"code": "low", "parent_id": top})]


async def two_partners(r: Random) -> Any:
    return await Partner.create([{"name": word(r)} for _ in range(2)])


def member_new(r: Random, partners: Any, n: int) -> Values:
    if r.random() < 0.5:
        return {"partner_id": r.choice(partners)}
    return {"name": word(r), **some(r, {"email": f"{word(r)}@b.co", "tags": [word(r)]})}


def ruled_new(r: Random, beside: Any, n: int) -> Values:
    # One of a batch at most asks the database: of several at once nobody knows who is first.
    rival = {"rival": "k0"} if n == 0 else {}
    email = f"{word(r).upper()}@x.org"
    return some(r, {**rival, "limit": 900, "email": email, "note": word(r).upper()})


def ruled_change(r: Random, beside: Any) -> Values:
    return some(r, {"limit": 800, "email": f"{word(r).upper()}@x.org"})


async def a_shop(r: Random) -> Any:
    lands = await Land.create([{"name": word(r), "vat": r.choice([5, 10])} for _ in range(2)])
    customers = await Customer.create(
        [{"name": word(r), "land_id": r.choice([*lands, None])} for _ in range(2)]
    )
    labels = await Label.create([{"name": word(r), "weight": r.randint(1, 5)} for _ in range(3)])
    return {"lands": lands, "customers": customers, "labels": labels}


def sale_new(r: Random, shop: Any, n: int) -> Values:
    labels = r.sample(list(shop["labels"]), r.randint(0, 2))
    customer = r.choice(shop["customers"])
    return some(r, {"fee": r.randint(0, 9), "customer_id": customer, "label_ids": labels})


async def two_lands(r: Random) -> Any:
    return await Land.create([{"name": word(r)} for _ in range(2)])


def a_part(r: Random, lands: Sequence[Any] = ()) -> Values:
    linked = {"land_id": r.choice(lands)} if lands else {}
    return {"sku": word(r), **some(r, {"qty": r.randint(0, 9), **linked})}


def placed_new(r: Random, lands: Any, n: int) -> Values:
    values = {
        "place": {"city": word(r), **some(r, {"floor": r.randint(0, 90)})},
        "parts": [a_part(r, lands) for _ in range(r.randint(0, 2))],
        "prices": {word(r): f"{r.randint(0, 9)}.5"},
    }
    return some(r, values, 1)


def whole_new(r: Random, lands: Any, n: int) -> Values:
    values = {"land_id": r.choice(lands), "parts": [a_part(r, lands)], "note": word(r).upper()}
    return some(r, values)


def whole_change(r: Random, lands: Any) -> Values:
    return some(r, {"land_id": r.choice([*lands, None]), "parts": [a_part(r, lands)]})


FAMILIES: Final = (
    Family(Plain, plain_new, plain_change),
    Family(Timed),
    Family(Signed),
    Family(Numbered),
    Family(Counted),
    Family(
        Node,
        lambda r, nodes, n: some(r, {"parent_id": r.choice(nodes)}),
        lambda r, nodes: some(r, {"parent_id": r.choice([*nodes, None])}),
        two_nodes,
    ),
    Family(Animal),
    Family(Dog, lambda r, _, n: {"chip": word(r)}, lambda r, _: some(r, {"chip": word(r)})),
    Family(
        Member,
        member_new,
        lambda r, partners: some(r, {"partner_id": r.choice(partners)}),
        two_partners,
    ),
    Family(Ruled, ruled_new, ruled_change),
    Family(Sale, sale_new, lambda r, shop: sale_new(r, shop, 0), a_shop),
    Family(Placed, placed_new, lambda r, lands: placed_new(r, lands, 0), two_lands),
    Family(Whole, whole_new, whole_change, two_lands),
)


class Case:
    """One write of a family: a generator, and what stands in the database beside the records."""

    def __init__(self, family: Family, r: Random, beside: Any) -> None:
        self.model, self.r = family.model, r
        self._family, self._beside, self._made = family, beside, 0

    def new(self) -> Values:
        """Values of a new record."""
        r, n = self.r, self._made
        self._made += 1
        common = some(r, {"number": r.randint(0, 100), "note": word(r)})
        return {"code": f"k{n}", **common, **self._family.new(r, self._beside, n)}

    def change(self) -> Values:
        """Values of a write; there is always one."""
        r = self.r
        common = some(r, {"number": r.randint(0, 100), "note": word(r)})
        own = self._family.change(r, self._beside) or self._family.change(r, self._beside)
        return {**common, **own} or {"number": r.randint(1, 9)}

    async def stored(self, count: int) -> list[Any]:
        """Create so many records; they are held as they were created, or are read in one of several ways."""
        made = list(await self.model.create([self.new() for _ in range(count)]))
        ids = [each.id for each in made]
        query = self.model.search([("id", "in", ids)], order="id")
        match self.r.choice(["made", "made", "read", "read", "part", "ghost"]):
            case "made":
                return made
            case "read":
                return list(await query)
            case "part":
                return list(await query.only("code", "number"))
            case _:
                return list(self.model.browse(ids))

    def unsaved(self) -> Any:
        """A record that is not stored."""
        values = self.new()
        if self.model is Member and "name" in values:  # create() takes these
            values = {"code": values["code"], "partner_id": self._beside[0]}
        return self.model(**values)

    def domain(self) -> list[Any]:
        """A condition for some of the records."""
        known: list[list[Any]] = [
            [("number", ">", 30)],
            [("code", "in", ["k0", "k2"])],
            [("note", "=", None)],
            [],
        ]
        return self.r.choice(known)


Generic = Callable[[Case], Awaitable[Write]]


def everywhere(count: int) -> Callable[[Generic], Generic]:
    """Let a function generate so many of the writes, each of another family."""

    def add(make: Generic) -> Generic:
        chosen = Random(f"{SEED} {make.__name__}").sample(FAMILIES, count)

        async def of_family(r: Random, n: int) -> Write:
            family = chosen[n]
            beside = None if family.beside is None else await family.beside(r)
            return await make(Case(family, r, beside))

        WAYS.append(Way(make.__name__.replace("_", " "), count, of_family))
        return make

    return add


# -- every way to write, on models of each kind ---------------------------------------------------


@everywhere(8)
async def create_a_dict(case: Case) -> Write:
    return creating(case.model, case.new())


@everywhere(6)
async def create_a_list(case: Case) -> Write:
    return creating(case.model, [case.new(), case.unsaved(), case.new()][: case.r.randint(2, 3)])


@everywhere(3)
async def create_an_unsaved_record(case: Case) -> Write:
    return creating(case.model, case.unsaved())


@everywhere(4)
async def save_a_new_record(case: Case) -> Write:
    record, values = case.unsaved(), some(case.r, {"number": case.r.randint(1, 9)})
    return Write("{0}.save({1})", [record, values], lambda: record.save(values))


@everywhere(8)
async def save_a_changed_record(case: Case) -> Write:
    (record,) = await case.stored(1)
    return saving(record, case.change())


@everywhere(5)
async def save_with_values(case: Case) -> Write:
    (record,), own = await case.stored(1), {"note": "mine"}
    values = {n: v for n, v in case.change().items() if n != "note"} | {"number": Inc(3)}

    async def run() -> Any:
        assign(record, own)
        return await record.save(values)

    return Write("{0}.save({2}) with {1} assigned", [record, own, values], run)


@everywhere(4)
async def save_a_recordset(case: Case) -> Write:
    (one, two, three), new = await case.stored(3), case.unsaved()
    records, first, second = [one, new, two, three], case.change(), case.change()

    async def run() -> Any:
        assign(one, first)
        assign(two, second)
        return await RecordSet(case.model, records).save()

    return Write(
        "RecordSet{0}.save() with {1} assigned to the first, {2} to the third",
        [records, first, second],
        run,
    )


@everywhere(8)
async def write_a_record(case: Case) -> Write:
    (record,) = await case.stored(1)
    return writing(record, case.change())


@everywhere(5)
async def write_a_recordset(case: Case) -> Write:
    return writing_all(await case.stored(case.r.randint(2, 3)), case.change())


@everywhere(7)
async def write_many(case: Case) -> Write:
    one, two, three = await case.stored(3)
    values = {one: case.change(), two.id: case.change(), three: {"number": Inc(1), "note": None}}
    if case.r.random() < 0.5:
        del values[three]
    return writing_many(case.model, values)


@everywhere(7)
async def update_by_a_query(case: Case) -> Write:
    await case.stored(3)
    values = case.change()
    if case.r.random() < 0.4:
        values["number"] = Inc(case.r.choice([1, -1]))
    return updating(case.model, case.domain(), values)


@everywhere(6)
async def upsert(case: Case) -> Write:
    await case.stored(1)
    new = case.new()
    code = new.pop("code")
    values = {**case.change(), "code": case.r.choice(["k0", code])}
    if case.r.random() < 0.5:
        values["number"], new["number"] = Inc(2), 1
    return upserting(case.model, values, "code", new)


@everywhere(5)
async def upsert_many(case: Case) -> Write:
    await case.stored(2)
    new = {n: v for n, v in case.new().items() if n != "code"}
    values = [{**case.change(), "code": code} for code in ("k1", " new ", "k0", "other")]
    values = case.r.sample(values, case.r.randint(2, 4))
    return Write(
        f"{case.model.__name__}.upsert_many({{0}}, 'code', new={{1}})",
        [values, new],
        lambda: case.model.upsert_many(values, "code", new=new),
    )


@everywhere(6)
async def bulk(case: Case) -> Write:
    one, two, three = await case.stored(3)
    values = {one: case.change(), two: {"number": Inc(5)}}
    if case.r.random() < 0.6:
        return in_bulk(case.model, [case.unsaved()], values, [three])
    return in_bulk(case.model, [case.unsaved()], {one: values[one]})


@everywhere(6)
async def create_many(case: Case) -> Write:
    values = [case.new() for _ in range(case.r.randint(2, 4))]
    ordered, size = case.r.random() < 0.5, case.r.choice([2, 2000])
    return creating_many(case.model, values, ordered=ordered, size=size)


@everywhere(5)
async def copy(case: Case) -> Write:
    (record,), default = await case.stored(1), {"code": "copy"}
    if case.r.random() < 0.5:
        default |= case.change()
    return Write("{0}.copy({1})", [record, default], lambda: record.copy(default))


@everywhere(5)
async def unlink_a_record(case: Case) -> Write:
    return unlinking((await case.stored(2))[0])


@everywhere(3)
async def unlink_a_recordset(case: Case) -> Write:
    together = RecordSet(case.model, (await case.stored(3))[:2])
    return Write("RecordSet{0}.unlink()", [together], together.unlink)


@everywhere(5)
async def delete_by_a_query(case: Case) -> Write:
    await case.stored(3)
    return deleting(case.model, case.domain())


@everywhere(4)
async def toggle(case: Case) -> Write:
    records = await case.stored(case.r.randint(1, 2))
    one: Any = records[0] if len(records) == 1 else RecordSet(case.model, records)
    return Write("{0}.toggle('open')", [one], lambda: one.toggle("open"))


# -- changes that the server makes ----------------------------------------------------------------


def a_change(r: Random, n: int) -> Values:
    """One change of each kind in turn, with others that go with it."""
    kinds: list[Values] = [
        {"number": Inc(r.randint(1, 9))},
        {"number": Inc(-r.randint(1, 9)), "note": word(r)},
        {"number": Mul(2), "score": Inc(0.5)},
        {"price": Inc(decimal.Decimal(r.randint(1, 99)) / 100)},
        {"number": Min(r.randint(-9, 50))},
        {"number": Max(r.randint(0, 99)), "score": Max(1.5)},
        {"tags": Push(word(r), word(r))},
        {"tags": Push(word(r), position=0, slice=3)},
        {"tags": Push(word(r), sort=r.choice([1, -1]))},
        {"few": Push(4, slice=-3)},
        {"tags": AddToSet("a", word(r))},
        {"tags": Pull("a", "b")},
        {"tags": Pop(r.choice(["first", "last"]))},
        {"note": Unset(), "score": Unset(), "number": Inc(1)},
        {"seen": CurrentDate()},
        {"tags.0": word(r)},
        {"open": Toggle(), "number": Inc(2), "note": word(r)},
    ]
    return kinds[n]


@ways(17)
async def write_a_change(r: Random, n: int) -> Write:
    values = {"number": r.randint(0, 9), "tags": ["a", "b", "a"], "few": [1, 2, 3]}
    return writing(await Plain.create({"code": "a", **values}), a_change(r, n))


@ways(6)
async def write_changes_to_several(r: Random, n: int) -> Write:
    made = await Plain.create([{"code": c, "tags": ["a", "b"], "few": [1]} for c in "ab"])
    values = a_change(r, [0, 3, 6, 11, 13, 16][n])
    return updating(Plain, [("code", "<", "z")], values) if n % 2 else writing_all(made, values)


@ways(8)
async def write_inside_of_values(r: Random, n: int) -> Write:
    lands = await two_lands(r)
    parts = [{"sku": "p", "qty": 1}, {"sku": "q", "qty": 2, "land_id": lands[0]}]
    place = {"city": "x", "floor": 1}
    record = await Placed.create(
        {"code": "a", "place": place, "parts": parts, "prices": {"vn": "1.5"}}
    )
    cases: list[Values] = [
        {"place.city": word(r)},
        {"place.city": word(r), "place.floor": Inc(2), "number": 7},
        {"parts.1.qty": Inc(3), "parts.0.sku": word(r)},
        {"parts": Push({"sku": word(r), "land_id": lands[1]}, sort={"qty": -1})},
        {"parts": Pull({"sku": "p", "qty": 1})},
        {"prices.vn": "2.25", "prices.us": "3"},
        {"parts.1.land_id": lands[1], "place.floor": Unset()},
        {"place": {"city": word(r)}, "parts.0.qty": 8},
    ]
    return writing(record, cases[n])


@ways(4)
async def save_changes_in_place(r: Random, n: int) -> Write:
    place, parts = {"city": "x", "floor": 1}, [a_part(r), a_part(r)]
    record: Any = await Placed.create({"code": "a", "place": place, "parts": parts})
    if r.random() < 0.5:
        record = await Placed.get(record.id)
    if n == 0:
        record.place.city = "here"
    elif n == 1:
        record.parts.append(Part(sku="new"))
    elif n == 2:
        record.parts[0].qty, record.place.floor = 5, None
    else:
        del record.parts[1]
        record.prices = {"vn": 2}
    said = ["place.city", "parts.append()", "parts[0].qty and place.floor", "del parts[1], prices"]
    return Write(f"{{0}}.save() after {said[n]}", [record], record.save)


# -- commands on to-many fields -------------------------------------------------------------------


async def a_library(r: Random) -> tuple[list[Any], Any, Any, list[Any]]:
    """Four tags, two articles, and four notes, of which the first article has two and three."""
    tags = list(await Tag.create([{"name": f"t{n}"} for n in range(4)]))
    article, other = await Article.create(
        [{"title": "a", "tag_ids": tags[:2]}, {"title": "b", "tag_ids": tags[1:3]}]
    )
    notes = [{"text": f"n{n}", "article_id": article if n < 3 else None} for n in range(4)]
    return tags, article, other, list(await Note.create(notes))


def commands(
    r: Random, there: Sequence[Any], others: Sequence[Any], new: Values, change: Values
) -> list[Any]:
    """Some commands on a to-many field that has some records and not some others."""
    known: list[Any] = [
        Command.create(new),
        {**new},
        Command.link(r.choice(others)),
        Command.link(r.choice(there)),
        Command.unlink(r.choice(there)),
        Command.unlink(r.choice(others)),
        Command.delete(r.choice(there)),
        Command.update(r.choice(there), change),
    ]
    picked = r.sample(known, r.randint(1, 3))
    if r.random() < 0.2:
        picked.insert(0, Command.set(r.sample([*there, *others], 2)))
    elif r.random() < 0.1:
        picked.append(Command.clear())
    return picked


@ways(8)
async def command_stored_ids(r: Random, n: int) -> Write:
    tags, article, other, _ = await a_library(r)
    values: Values = {"tag_ids": commands(r, tags[:2], tags[2:], {"name": "new"}, {"name": "x"})}
    values |= some(r, {"title": word(r)})
    if n == 5:
        return writing_all([article, other], values)
    return writing(article, values) if n < 5 else saving(article, values)


@ways(4)
async def command_the_other_side(r: Random, n: int) -> Write:
    tags, article, other, _ = await a_library(r)
    given = commands(r, [article], [other], {"title": "new"}, {"title": "x"})
    return writing(tags[0], {"article_ids": given})


@ways(5)
async def command_a_one2many(r: Random, n: int) -> Write:
    _, article, _, notes = await a_library(r)
    change: Values = {"text": "x", "tag_ids": [{"name": "deep"}]} if n % 2 else {"text": "x"}
    values: Values = {"note_ids": commands(r, notes[:3], notes[3:], {"text": "new"}, change)}
    more = {"title": word(r), "tag_ids": [Command.create({"name": "beside"})]}
    return writing(article, values | some(r, more))


@ways(4)
async def command_what_needs_its_owner(r: Random, n: int) -> Write:
    tags = await Tag.create([{"name": "t"}, {"name": "u"}])
    parcel, other = await Parcel.create(
        [
            {"title": "p", "item_ids": [{"number": k} for k in range(3)], "tag_ids": tags[:1]},
            {"title": "o", "item_ids": [{"number": 9}]},
        ]
    )
    items, foreign = list(await parcel.item_ids), list(await other.item_ids)
    values: Values = {"item_ids": commands(r, items, foreign, {"number": 5}, {"number": 6})}
    if n > 1:
        values |= {"tag_ids": [Command.unlink(tags[0]), Command.link(tags[1])], "title": "q"}
    return writing(parcel, values)


@ways(4)
async def command_a_link_model(r: Random, n: int) -> Write:
    one, two, three = await Team.create([{"name": f"g{k}"} for k in range(3)])
    person = await Person.create({"name": "p", "team_ids": [one, two]})
    given = commands(r, [one, two], [three], {"name": "new"}, {"name": "x"})
    if n % 2:
        given.append(Command.link(r.choice([one, three]), {"role": word(r)}))
    return writing(person, {"team_ids": given})


@ways(9)
async def create_nested(r: Random, n: int) -> Write:
    tags, article, _, notes = await a_library(r)
    team = await Team.create({"name": "old"})
    deep = {"text": "m", "tag_ids": [{"name": "v"}, Command.link(tags[0])]}
    batch = [
        {"title": f"x{k}", "tag_ids": [{"name": f"t{k}"}], "note_ids": [deep]} for k in range(3)
    ]
    teams = [{"name": "new"}, Command.link(team, {"role": word(r)})]
    items = [{"number": 1}, {"number": r.randint(2, 9)}]
    cases: list[tuple[Any, Any]] = [
        (Article, {"title": "x", "tag_ids": [{"name": word(r)}, Command.link(tags[0])]}),
        (Article, {"title": "x", "note_ids": [{"text": word(r)}, deep]}),
        (Article, {"title": "x", "note_ids": [Command.link(notes[0]), Note(text="z")]}),
        (Article, batch),
        (
            Tag,
            {"name": "x", "article_ids": [Command.link(article), Command.create({"title": "y"})]},
        ),
        (Person, {"name": "x", "team_ids": teams}),
        (Parcel, {"title": "x", "item_ids": items}),
        (Article, {"title": "x", "note_ids": [{"text": "ok"}, {"text": 7}]}),
        (Article, {"title": "x", "note_ids": [Command.link(ObjectId())]}),
    ]
    return creating(*cases[n])


@ways(3)
async def save_with_commands_assigned(r: Random, n: int) -> Write:
    tags, article, _, notes = await a_library(r)
    given = [Tag(name="t"), Command.link(tags[0])]
    new = Article(title="x", note_ids=[Note(text="a")], tag_ids=given)
    cases: list[Write] = [
        Write("{0}.save()", [new], new.save),
        saving(article, {"note_ids": [Command.create({"text": "b"}), Command.link(notes[3])]}),
        saving(article, {"tag_ids": [tags[3], tags[0]], "note_ids": [notes[0]], "title": word(r)}),
    ]
    return cases[n]


# -- what follows from a deletion -----------------------------------------------------------------


async def a_household(r: Random) -> tuple[Any, Any, list[Any], list[Any]]:
    ann, bob = await Owner.create([{"name": "Ann"}, {"name": "Bob"}])
    marks = list(await Mark.create([{"name": "m"}, {"name": "n"}]))
    owners = enumerate((ann, ann, bob))
    things = list(
        await Thing.create(
            [{"name": f"x{n}", "owner_id": owner, "mark_ids": marks} for n, owner in owners]
        )
    )
    await Detail.create([{"thing_id": each, "mark_id": marks[0]} for each in things])
    return ann, bob, marks, things


def deletion(n: int, record: Any) -> Write:
    """Delete a record as one, in a RecordSet, or by a query."""
    model, name = type(record), type(record).__name__
    if n % 3 == 0:
        return unlinking(record)
    if n % 3 == 1:
        run = model.browse([record.id]).unlink
        return Write(f"{name}.browse([{{0}}]).unlink()", [record], run)
    return deleting(model, [("name", "=", record.name)])


@ways(3)
async def delete_in_a_cascade(r: Random, n: int) -> Write:
    ann, _, _, things = await a_household(r)
    if n:
        await Thing.create({"name": "copy", "origin_id": things[0]})
        await Loan.create({"thing_id": things[0], "owner_id": ann})
    return deletion(n, ann)


@ways(2)
async def delete_what_is_restricted(r: Random, n: int) -> Write:
    ann, _, _, things = await a_household(r)
    await Loan.create({"thing_id": things[0]})
    return deletion(n, ann if n else things[0])


@ways(3)
async def delete_and_empty_what_points_there(r: Random, n: int) -> Write:
    _, bob, marks, _ = await a_household(r)
    await Loan.create([{"about": each} for each in (*marks, bob)])
    return deletion(n, marks[n % 2])


@ways(1)
async def delete_what_embedded_objects_point_at(r: Random, n: int) -> Write:
    lands = await two_lands(r)
    parts = [a_part(r) | {"land_id": lands[0]}, a_part(r) | {"land_id": lands[1]}]
    await Placed.create([{"code": "a", "parts": parts}, {"code": "b", "parts": parts[1:]}])
    await Whole.create({"code": "a", "land_id": lands[0], "parts": parts})
    return deletion(n, lands[0])


# -- trees, classes of one collection, delegation -------------------------------------------------


@ways(8)
async def move_in_a_tree(r: Random, n: int) -> Write:
    a = await Node.create({"code": "a"})
    b, c = await Node.create([{"code": k, "parent_id": a} for k in "bc"])
    d = await Node.create({"code": "d", "parent_id": b})
    nodes = await Node.search(order="code")
    nodes[1].parent_id, nodes[3].parent_id = nodes[2], None
    top = await Folder.create({"name": "top"})
    inner = await Folder.create({"name": "inner", "inside_id": top})
    await Folder.create({"name": "leaf", "inside_id": inner})
    above, below = ObjectId(), ObjectId()
    cases: list[Write] = [
        writing(b, {"parent_id": c}),
        writing(b, {"parent_id": d}),
        updating(Node, [("code", "in", ["b", "d"])], {"parent_id": c}),
        Write("RecordSet{0}.save(), two moved", [nodes], nodes.save),
        unlinking(b),
        writing(d, {"parent_id": ObjectId()}),
        unlinking(top),
        creating(Folder, [{"_id": below, "inside_id": above}, {"_id": above, "name": "x"}]),
    ]
    return cases[n]


@ways(7)
async def write_to_several_classes(r: Random, n: int) -> Write:
    await Dog.create([{"code": c, "chip": c} for c in "xy"])
    await Cat.create({"code": "z", "lives": 3})
    await Animal.create({"code": "w"})
    found: Any = await Animal.search(order="code")
    animal, dog, _, cat = found
    if n == 0:
        for each in found:
            each.number = r.randint(1, 9)
        cat.lives = 1
    cases: list[Write] = [
        Write("RecordSet{0}.save()", [found], found.save),
        updating(Animal, [], {"number": 5}),
        deleting(Animal, [("lives", ">", 0)]),
        writing_all(found, {"number": 4}),
        writing_many(
            Animal, {dog: {"number": 1}, cat.id: {"number": 2}, animal: {"note": word(r)}}
        ),
        Write("RecordSet{0}.unlink()", [found[1:]], found[1:].unlink),
        writing(dog, {"kind": "cat", "note": "n"}),
    ]
    return cases[n]


@ways(7)
async def write_delegated_values(r: Random, n: int) -> Write:
    partner = await Partner.create({"name": "Old"})
    await Member.create([{"code": c, "name": c.upper(), "email": f"{c}@b.co"} for c in "ab"])
    members: Any = await Member.search(order="code").prefetch("partner_id")
    one = members[0]
    cases: list[Write] = [
        writing(one, {"name": word(r), "number": 3}),
        writing_all(members, {"email": "new@b.co", "tags": Push("x")}),
        creating(Member, {"code": "c", "partner_id": partner, "email": "n@b.co"}),
        creating(Member, [{"code": c, "name": c, "number": 1} for c in "cd"]),
        creating(Member, [{"code": "c", "name": "C"}, {"email": "no", "name": "D"}]),
        creating(Member, {"code": "a", "name": "twice"}),
        writing_many(Member, {one: {"email": "x@b.co"}}),
    ]
    return dataclasses.replace(cases[n], holds=[one.partner_id] if n < 2 else [])


# -- stored values that follow from others --------------------------------------------------------


@ways(18)
async def write_what_others_are_computed_from(r: Random, n: int) -> Write:
    shop = await a_shop(r)
    labels, land, number = shop["labels"], shop["lands"][0], r.randint(3, 9)
    customer = await Customer.create({"name": "x", "land_id": land})
    common = {"customer_id": customer, "label_ids": labels[:2], "fee": 1}
    one, two = await Sale.create([{"code": c, **common} for c in "ab"])
    await Line.create([{"sale_id": s, "qty": q, "price": 2} for s in (one, two) for q in (1, 2)])
    line, *_, last = await Line.search(order="id")
    given = [{"qty": 4}, Command.update(line, {"qty": 6})]
    cases: list[Write] = [
        writing(line, {"qty": number}),
        writing(line, {"qty": Inc(1)}),
        writing(line, {"sale_id": two}),
        writing(line, {"note": "n"}),
        writing(line, {"qty": 2, "price": number}),
        updating(Line, [("qty", "=", 2)], {"price": number}),
        deleting(Line, [("qty", "=", 2)]),
        creating(Line, [{"sale_id": one, "qty": number}, {"qty": 1}]),
        writing_many(Line, {line: {"qty": 1, "sale_id": two}, last.id: {"price": 5}}),
        writing(one, {"line_ids": given, "fee": 2}),
        writing(one, {"label_ids": [labels[0]]}),
        writing(labels[0], {"weight": number}),
        writing(land, {"vat": 50, "name": "new"}),
        writing(one, {"customer_id": None}),
        unlinking(customer),
        upserting(Line, {"id": line.pk, "qty": number}, "id"),
        creating(Sale, {"code": "c", "line_ids": [{"qty": 2}], "customer_id": customer}),
        writing(line, {"qty": 901}),
    ]
    return cases[n]


@ways(7)
async def write_computed_values(r: Random, n: int) -> Write:
    made = await Goods.create([{"code": c, "price": 2.0, "tax": 0.5} for c in "ab"])
    one, number = made[0], float(r.randint(3, 9))
    cases: list[Write] = [
        writing(one, {"with_tax": number, "tax": 1.0}),
        writing_all(made, {"with_tax": number}),
        writing(one, {"stock": int(number)}),
        creating(Goods, [{"code": "c", "stock": 4}, {"code": "d", "with_tax": number}]),
        saving(one, {"with_tax": number}),
        updating(Goods, [], {"price": number, "tax": 0.0}),
        updating(Goods, [], {"total": number, "with_tax": 1.0}),
    ]
    return cases[n]


# -- what is refused ------------------------------------------------------------------------------


@ways(15)
async def refuse_values(r: Random, n: int) -> Write:
    made = await Plain.create([{"code": c, "number": 1, "tags": ["a"], "few": [1]} for c in "ab"])
    one, two = made
    bad: Values = {"number": "many", "tags": ["far too long"], "note": "n"}
    dicts: list[Any] = [{"code": "c"}, {"number": -99}, {"code": "d"}, {"code": "e", "score": "x"}]
    cases: list[Write] = [
        creating(Plain, bad),
        creating(Plain, [dicts[0], dicts[1], Plain(code="d"), dicts[3]]),
        writing(one, bad),
        writing(one, {"nmae": 1, "badge": "b"}),
        writing(one, {"badge": "b", "id": "x"}),
        updating(Plain, [], bad),
        writing_many(Plain, {one: {"number": 2}, two: {"nmae": 1}, one.id: {"number": 3}}),
        creating_many(Plain, dicts, ordered=False),
        creating_many(Plain, dicts),
        in_bulk(Plain, [{"code": "c"}], {one: {"number": 2000}}),
        writing(one, {"number": Inc(5000), "few": Push(1), "code": Inc(1)}),
        writing(one, {"number": Inc(-80)}),
        writing_all(made, {"number": Inc(1000)}),
        writing(one, {"tags.3": "x"}),
        in_bulk(Plain, [{"code": "c"}], {two: {"number": Inc(-80)}}),
    ]
    return cases[n]


@ways(10)
async def refuse_by_a_rule(r: Random, n: int) -> Write:
    made = await Ruled.create(
        [{"code": "a", "number": 5}, {"code": "b", "number": 3, "rival": "a", "limit": 50}]
    )
    one, two = made
    several = [{"code": "test"}, {"code": "c", "email": "spam@x.org"}, {"number": "x"}]
    cases: list[Write] = [
        creating(Ruled, {"code": "c", "number": 501}),
        creating(Ruled, several),
        writing(two, {"number": 6}),
        saving(two, {"number": 60}),
        updating(Ruled, [], {"number": 60}),
        writing_all(made, {"limit": 4}),
        writing_many(Ruled, {one: {"email": "spam@x.org"}, two.id: {"number": 70}}),
        upserting(Ruled, {"code": "b", "number": 9}, "code"),
        writing(one, {"number": Inc(1)}),
        creating_many(Ruled, [{"code": "c", "number": 501}, {"code": "d"}], ordered=False),
    ]
    return cases[n]


@ways(9)
async def refuse_a_duplicate(r: Random, n: int) -> Write:
    one, two = await Plain.create([{"code": "a"}, {"code": "b"}])
    new = [{"code": "c"}, {"code": "a"}, {"code": "d"}]
    cases: list[Write] = [
        creating(Plain, new[1]),
        creating(Plain, new),
        saving(Plain(code="a"), {}),
        writing(two, {"code": "a"}),
        updating(Plain, [], {"code": "x"}),
        creating_many(Plain, new),
        creating_many(Plain, new, ordered=False),
        in_bulk(Plain, new, {two: {"number": 9}}),
        writing_many(Plain, {one: {"number": 7}, two: {"code": "a"}}),
    ]
    return cases[n]


@ways(7)
async def refuse_a_lost_update(r: Random, n: int) -> Write:
    made = await Counted.create([{"code": c, "number": 1} for c in "ab"])
    one, two = made
    await (await Counted.get(one.id)).write({"number": 2})
    values = {"number": 5}
    cases: list[Write] = [
        writing(one, values),
        saving(one, values),
        writing_all(made, values),
        writing_many(Counted, {one: values, two: values}),
        in_bulk(Counted, [], {two: values}, [one]),
        unlinking(one),
        Write("RecordSet{0}.unlink()", [made], made.unlink),
    ]
    return cases[n]


@ways(12)
async def refuse_for_another_reason(r: Random, n: int) -> Write:
    made = await Plain.create([{"code": c} for c in "ab"])
    one, two = made
    await two.unlink()
    cat = await Cat.create({"code": "z"})
    signed = await Signed.create({"code": "s"})
    values: Values = {"number": 3}
    limited = Plain.search().limit(1)
    cases: list[Write] = [
        writing(two, values),
        writing_all(made, values),
        writing_many(Plain, {one: values, two.id: values}),
        writing(Plain(code="n"), values),
        upserting(Plain, {"note": "n", "code": "x"}, "note"),
        creating(Signed, {"code": "t", "created_by": "bob"}),
        writing(signed, {"updated_by": "bob"}),
        creating(Dog, {"code": "d", "chip": "c", "kind": "cat"}),
        creating(Receipt, {"text": "x"}),
        updating(Article, [], {"note_ids": [Command.clear()]}),
        saving(cat, {"lives": "many"}),
        Write("Plain.search().limit(1).update({0})", [values], lambda: limited.update(values)),
    ]
    return cases[n]


# -- transactions, and more than one batch --------------------------------------------------------


class Stop(Exception):
    """Ends a transaction."""


def inside(write: Write, *, fails: bool = False) -> Write:
    """Do the same in a transaction, which is rolled back at the end where it fails."""

    async def run() -> Any:
        async with earnorm.transaction():
            result = await write.run()
            if fails:
                raise Stop
        return result

    call = f"in a transaction that {'fails' if fails else 'is committed'}: {write.call}"
    return dataclasses.replace(write, call=call, run=run)


@ways(8)
async def write_in_a_transaction(r: Random, n: int) -> Write:
    one = await Plain.create({"code": "a"})
    counted = await Counted.create({"code": "b"})
    number = r.randint(1, 9)
    new, other = Plain(code="c"), Plain(code="d")

    async def several() -> Any:
        await new.save()
        await one.write({"number": Inc(number)})
        counted.note = "n"
        await counted.save()
        return await Plain.search([("code", "=", "a")]).update({"note": "z"})

    async def locked() -> Any:
        found = await Counted.search([("code", "=", "b")]).lock()
        return await found[0].write({"number": number})

    all_four = Write(
        "save {0}, write {1}, save {2}, update by a query", [new, one, counted], several
    )
    together = in_bulk(Plain, [other], {one: {"number": Inc(number)}})
    codes = [{"code": "x"}, {"code": "a"}, {"code": "y"}]
    cases: list[Write] = [
        inside(all_four),
        inside(all_four, fails=True),
        inside(together),
        inside(together, fails=True),
        inside(Write("lock {0}, write it", [counted], locked)),
        inside(creating(Receipt, [{"text": "x"}, {"text": "y"}])),
        inside(creating(Numbered, {"code": "x"}), fails=True),
        inside(creating_many(Plain, codes, ordered=False)),
    ]
    return cases[n]


@ways(1)
async def update_more_than_a_batch(r: Random, n: int) -> Write:
    await Ruled.create_many({"code": f"k{k:04}"} for k in range(2050))
    return updating(Ruled, [("number", "=", 0)], {"number": 7})


# -- running ----------------------------------------------------------------------------------------


def records_in(value: Any) -> Iterator[BaseModel]:
    """Give the records of a call, or of what it gave; those that are values of others are none of them."""
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, list | tuple | RecordSet | dict):
        for each in value:
            yield from records_in(each)


def outcome_of(value: Any, marks: Marks) -> str:
    """Give what a call returned."""
    if isinstance(value, Bulk):
        return f"bulk of {value.created} created, {value.written} written, {value.deleted} deleted"
    return marks.show(value)


def by_class(lines: Iterable[str]) -> list[str]:
    """Give the lines with what is about several classes of one collection in the order of their names.

    What the root hands on comes in the order of a set of classes, which is another one in each process.
    """
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("op ") or not groups:
            groups.append((line.split()[2] if line.startswith("op ") else "", []))
        groups[-1][1].append(line)
    found: list[str] = []
    for is_one, together in groupby(groups, key=lambda group: group[0] in CLASSES):
        listed = list(together)
        if is_one:
            listed.sort(key=lambda group: group[0])
        found += [line for _, own in listed for line in own]
    return found


def refusal(error: Exception, marks: Marks) -> list[str]:
    """Give what a call raised."""
    kind = type(error).__name__
    if not isinstance(error, EarnORMError):
        return [f"raised {kind}"]  # Python says it in other words in each version
    if not isinstance(error, ValidationError):
        return [f"raised {kind}: {marks.text(str(error))}"]
    more = ""
    if isinstance(error, DuplicateKey):
        more += f" fields={list(error.fields)}"
    if isinstance(error, BatchRefused):
        written = None if error.written is None else list(error.written)
        more += f" positions={list(error.positions)} written={written}"
    lines = [f"raised {kind} {error.subject}{more}"]
    for each in error.errors():
        lines.append(f"     {marks.show(each['loc'])} {each['type']}: {marks.text(each['msg'])}")
    return lines + [f"     note: {marks.text(note)}" for note in getattr(error, "__notes__", ())]


class Run:
    """Makes the list, on an App of its own."""

    def __init__(self, app: App, recorder: Recorder, clock: Clock) -> None:
        self._database = app.dangerous_raw("each write begins with an empty database")
        self._recorder, self._clock = recorder, clock

    async def blocks(self) -> list[str]:
        """Give the block of each write."""
        return [await self._undisturbed(way, n) for way in WAYS for n in range(way.count)]

    async def _undisturbed(self, way: Way, n: int) -> str:
        for _ in range(TRIES):
            block = await self._block(way, n)
            if not self._recorder.is_disturbed:
                return block
        raise RuntimeError(f"{way.name} {n + 1}: the server gives up its transactions")

    async def _block(self, way: Way, n: int) -> str:
        await self._clear()
        self._clock.at = BEFORE
        with act_as("eve"):
            write = await way.make(Random(f"{SEED} {way.name} {n}"), n)
        self._clock.at = NOW
        marks = Marks()
        lines = [f"== {way.name} {n + 1}", write.call.format(*map(marks.show, write.about))]
        self._recorder.begin(marks)
        given: Any = None
        try:
            with act_as("ann"):
                given = await write.run()
            outcome = [f"gave {outcome_of(given, marks)}"]
        except Exception as error:
            outcome = refusal(error, marks)
        lines += [*by_class(self._recorder.end()), *outcome]
        found = records_in([given, *write.about, *write.holds])
        held = {id(record): record for record in found}
        lines += [f"holds {marks.state(record)}" for record in held.values()]
        return "\n".join(lines)

    async def _clear(self) -> None:
        for name in sorted(self._recorder.used):
            await self._database[name].delete_many({})
        self._recorder.used.clear()


async def make(uri: str, driver: str) -> str:
    """Make the list with a driver, in a database that is dropped afterwards.

    Args:
        uri: A replica set, for the transactions.
        driver: ``pymongo`` or ``motor``.
    """
    recorder, clock = Recorder(), Clock()
    name = f"golden_{uuid.uuid4().hex[:12]}"
    # One connection, so that of several commands at once the first to be asked for is sent first.
    app = App(
        uri,
        database=name,
        driver=driver,
        plugins=[recorder],
        max_pool_size=1,
        recompute_interval=None,
    )
    with clock.installed():
        async with app:
            try:
                blocks = await Run(app, recorder, clock).blocks()
            finally:
                await app.dangerous_raw("the list is made").client.drop_database(name)
    if len(blocks) != WRITES:
        raise ValueError(f"the ways have {len(blocks)} writes, not {WRITES}")
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Write the list, or print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.core.golden_writes")
    parser.add_argument("--driver", choices=("pymongo", "motor"), default="pymongo")
    parser.add_argument("--print", action="store_true", help="print the list, and leave the file")
    asked = parser.parse_args()
    named = os.environ.get(MONGO_URI_VARIABLE)
    servers: AbstractContextManager[Any] = nullcontext() if named else running_servers()
    # Ids ascend in a run; the counter in them would begin anew once in a great while.
    objectids._counter = 0
    with servers as started:
        uri = named or started.mongo_uri
        found = asyncio.run(make(uri, asked.driver))
    if asked.print:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr] # it is a TextIOWrapper here
        print(found, end="")
    else:
        LIST.parent.mkdir(exist_ok=True)
        LIST.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
