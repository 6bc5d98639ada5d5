"""The constructors of typed models: they do not demand what the library fills in."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import datetime
from typing import assert_type

from earnorm import (
    Date,
    DateTime,
    File,
    ReadOnly,
    Sequence,
    StoredFile,
    String,
    TypedModel,
    Value,
    mixins,
)


class Ticket(mixins.Timestamps, mixins.Authors, TypedModel):
    title: Value[str] = String(required=True)
    number: ReadOnly[str] = Sequence("T-{number:05}")
    old_number: Value[str] = Sequence("O-{number:05}")
    opened: ReadOnly[datetime.datetime] = DateTime(auto_now_add=True, required=True, init=False)
    changed: ReadOnly[datetime.date | None] = Date(auto_now=True, init=False)
    scan: Value[StoredFile] = File(init=False)


ticket = Ticket(title="x")
Ticket(title="x", old_number="O-7")  # a number that is given is kept
Ticket(title="x", number="T-7")  # type: ignore[arg-type] # nobody assigns it
Ticket(title="x", opened=datetime.datetime.now())  # type: ignore[call-arg] # no keyword
Ticket(title="x", scan="a.pdf")  # type: ignore[call-arg] # no keyword
Ticket(number="T-7")  # type: ignore[call-arg, arg-type] # no title

assert_type(ticket.number, str)
assert_type(ticket.opened, datetime.datetime)
assert_type(ticket.changed, datetime.date | None)
assert_type(ticket.scan, StoredFile)
