"""A lock keeps others from writing a record, so it takes the right to write it."""

from __future__ import annotations

import pytest

import earnorm
from earnorm import AccessDenied, Principal, String, act_as, models, system
from earnorm_security import Access, Rule

OWNER = Principal("ann", roles=["user"])
GUEST = Principal("gil", roles=["guest"])


class Ticket(models.BaseModel):
    _name = "security.lock.ticket"
    _access = [
        Access("user", read=True, write=True),
        Access("guest", read=True),
    ]
    _rules = [
        Rule("see", lambda env: [("secret", "!=", "x")], operations=["read"]),
        Rule("own", lambda env: [("owner", "=", env.principal.id)], operations=["write"]),
    ]

    owner = String()
    secret = String()


async def test_only_what_may_be_written_can_be_locked(opened):
    async with opened():
        with system(reason="a test"):
            await Ticket.create(
                [{"owner": "ann"}, {"owner": "bob"}, {"owner": "ann", "secret": "x"}]
            )
        with act_as(OWNER):
            async with earnorm.transaction():
                assert len(await Ticket.search([("owner", "=", "ann")]).lock()) == 1
            with pytest.raises(AccessDenied, match="lock"):
                async with earnorm.transaction():
                    await Ticket.search().lock()
        with act_as(GUEST), pytest.raises(AccessDenied, match="lock"):
            async with earnorm.transaction():
                await Ticket.search().lock()
