"""The numbers of edits: one small document that every edit changes in its own transaction.

A process asks for it to know whether what it keeps of stored roles and policies still holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bson import ObjectId

from earnorm import Domain, Int, Operation, models
from earnorm.plugin import Note, Update, now

STATE: Final = "security.state"
KEY: Final = ObjectId("000000000000000000000001")
"""The id of the only document."""
BY_ID: Final = Domain([("_id", "=", KEY)])
OWN: Final[Note[bool]] = Note("security: its own write")
"""On writes of the plugin itself, to what nobody else writes."""
COUNTERS: Final = ("roles", "assignments", "policies")
_REASON: Final = "security: note an edit of stored roles and policies"


class SecurityState(models.BaseModel):
    """The numbers of edits of stored roles, assignments and policies; only the plugin writes them."""

    _name = STATE
    _collection = "security_state"
    _bookkeeping = "security"
    _read_preference = "primary"
    _cache = False

    roles = Int(default=0)
    assignments = Int(default=0)
    policies = Int(default=0)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of edits at one moment."""

    roles: object
    assignments: object
    policies: object

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Numbers:
        """Return the numbers in a stored document; an empty one has none."""
        return cls(*(document.get(name) for name in COUNTERS))


async def count_edit(op: Operation, counter: str) -> None:
    """Count an edit, in the transaction of the operation that makes it."""
    app, env = op.app, op.env.as_system(_REASON)
    model = app.model(STATE)
    increase = Update({"$inc": {counter: 1}})
    write = op.child("write", model, BY_ID, increase, origin="security", env=env)
    if await app.execute(write.with_note(OWN, True)):
        return
    # A number that no process has seen: the document may have been there before, and be lost.
    begin = int(now().timestamp() * 1000)
    document = {"_id": KEY, **dict.fromkeys(COUNTERS, begin)}
    create = op.child("create", model, values=[document], origin="security", env=env)
    await app.execute(create.with_note(OWN, True))


def queues_for(op: Operation) -> list[tuple[str, ObjectId]]:
    """Return the document that an edit will write, so that edits of one process wait in line for it."""
    return [(STATE, KEY)]
