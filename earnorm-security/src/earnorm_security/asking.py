"""Asks the database whether a record exists, for a check of the plugin's own."""

from __future__ import annotations

from typing import Final

from earnorm import Domain
from earnorm.plugin import Operation, Options

_ONE: Final = Options(limit=1)
_REASON: Final = "security: are there records that may be read but not changed?"


async def has_any(op: Operation, domain: Domain) -> bool:
    """Return whether such a record exists, asked in the operation's own transaction."""
    simple = domain.simplify()
    if simple is Domain.FALSE:
        return False
    env = op.env.as_system(_REASON)
    count = op.child("count", op.model, simple, options=_ONE, origin="security", env=env)
    number: int = await op.app.execute(count)
    return number > 0
