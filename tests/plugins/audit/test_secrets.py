"""The trail says that a secret field changed, and never a value of it."""

from __future__ import annotations

import pytest

from earnorm import system
from earnorm_audit import AuditEntry
from tests.core.secret_kinds import CANARY, Holder, full
from tests.plugins.audit.conftest import MEMORY, opened, server_uri


@pytest.mark.parametrize("where", ["server", "memory"])
async def test_no_entry_has_a_secret_value(where: str) -> None:
    async with opened(MEMORY if where == "memory" else server_uri()) as app:
        holder = await Holder.create(full())
        await holder.write({"pin": f"{CANARY}-new", "age": 6, "profile.pin": f"{CANARY}-inside"})
        await holder.unlink()
        with system(reason="test"):
            entries = await app.dangerous_raw("test")[AuditEntry._collection].find().to_list(None)
        assert len(entries) == 3
        assert CANARY not in str(entries)
        assert "pin" in str(entries) and "'age'" in str(entries)
