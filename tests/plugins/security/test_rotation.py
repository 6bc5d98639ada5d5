"""Keys are rotated beside writers, in several runs, and nothing is left under the older ones."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bson import Binary

from earnorm import App, ConfigurationError, EarnORMError
from earnorm_audit import AuditEntry, AuditPlugin
from earnorm_security import Encryption, SecurityPlugin, SecuritySettings, new_key
from earnorm_security.secrets.cipher import key_name
from earnorm_security.secrets.rotation import rotate_all
from tests.plugins.security.test_encrypted import as_read
from tests.plugins.security.vault import CANARY, Person, full, is_hidden, stored

OLD, NEW = {"old": new_key()}, {"new": new_key()}


@asynccontextmanager
async def opened(name: str, keys: Any, *plugins: Any, uri: str = "") -> AsyncIterator[App]:
    plugin = SecurityPlugin(SecuritySettings(keys=keys))
    where = uri or os.environ["EARNORM_TEST_MONGO_URI"]
    async with App(where, database=name, plugins=[plugin, *plugins]) as app:
        yield app


@pytest.fixture
async def database() -> AsyncIterator[str]:
    name = f"rotation_{uuid.uuid4().hex[:12]}"
    yield name
    async with opened(name, OLD) as app:
        await app.dangerous_raw("the test is over").client.drop_database(name)


def keys_in(value: Any) -> set[str]:
    """The names of the keys of all ciphertexts in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*map(keys_in, value)) if value else set()
    return {key_name(value)} if isinstance(value, Binary) and value.subtype == 128 else set()


async def made(name: str, number: int = 5) -> dict[str, Any]:
    async with opened(name, OLD) as app:
        people = await Person.create([full(n) for n in range(number)])
        await Person.create({"name": "empty"})
        assert keys_in(await stored(app)) == {"old"}
        return {person.id: as_read(person) for person in people}


async def test_all_is_under_the_first_key_afterwards(database: str) -> None:
    before = await made(database)
    lines: list[str] = []
    async with opened(database, {**NEW, **OLD}, AuditPlugin) as app:
        hashes = [document.get("password") for document in await stored(app)]
        done = await rotate_all(app, None, 2, lines.append)
        assert keys_in(await stored(app)) == {"new"}
        result = done["vault.person"]
        assert (result.read, result.encrypted, result.left, result.unreadable) == (6, 5, 0, 0)
        assert [document.get("password") for document in await stored(app)] == hashes
        again = await rotate_all(app, "vault.person", 2, lines.append)
        assert again["vault.person"].encrypted == 0
        assert any("2 of 6 read" in line for line in lines) and is_hidden(lines)
        entries = app.dangerous_raw("to look")[AuditEntry._collection]
        assert is_hidden(await entries.find({}).to_list(None))
    async with opened(database, NEW) as app:  # the old key is gone
        assert {p.id: as_read(p) for p in await Person.search([("name", "!=", "empty")])} == before
        assert await Person.count([("email", "=", f"{CANARY.lower()}.1@example.org")]) == 1


async def test_a_run_that_was_broken_off_is_gone_on_with(database: str) -> None:
    await made(database)
    async with opened(database, {**NEW, **OLD}) as app:

        class Enough(Exception):
            pass

        def tell(line: str) -> None:
            if "4 of" in line:
                raise Enough

        with pytest.raises(Enough):
            await rotate_all(app, None, 2, tell)
        assert keys_in(await stored(app)) == {"old", "new"}
        done = await rotate_all(app, None, 2, lambda line: None)
        assert 0 < done["vault.person"].encrypted < 5
        assert keys_in(await stored(app)) == {"new"}


async def test_writers_beside_it_lose_nothing(database: str) -> None:
    await made(database, 12)
    async with opened(database, {**NEW, **OLD}) as app:
        people = await Person.search([("name", "!=", "empty")])
        last = {}

        async def write(person: Person) -> None:
            for number in range(8):
                last[person.id] = f"{CANARY}-{number}"
                await Person.search([("id", "=", person.id)]).update(
                    {"ssn": last[person.id], "card.number": last[person.id]}
                )

        writers = [asyncio.create_task(write(person)) for person in people]
        await rotate_all(app, None, 3, lambda line: None)
        await asyncio.gather(*writers)
        await rotate_all(app, None, 3, lambda line: None)
        assert keys_in(await stored(app)) == {"new"}
        for person in await Person.search([("name", "!=", "empty")]):
            assert person.ssn == person.card.number == last[person.id]


async def test_what_no_key_decrypts_is_counted_and_left(database: str) -> None:
    await made(database, 2)
    async with opened(database, NEW) as app:
        before = await stored(app)
        with pytest.raises(EarnORMError, match="2 records"):
            await rotate_all(app, None, 10, lambda line: None)
        assert await stored(app) == before


async def test_the_command_rotates(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await made(database, 3)
    monkeypatch.setenv("ROTATION_KEYS", ",".join(f"{n}:{k}" for n, k in {**NEW, **OLD}.items()))
    settings = {"plugins": ["security"], "security": {"keys": "env:ROTATION_KEYS"}}
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"{database}.json"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "earnorm.cli", "security"]
    where = ["--uri", os.environ["EARNORM_TEST_MONGO_URI"], "--database", database]
    where += ["--settings", str(file), "--models", "tests.plugins.security.vault"]

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [*command, *arguments, *where], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert is_hidden(done.stdout, done.stderr)
        assert NEW["new"] not in done.stdout + done.stderr
        return done.stdout + done.stderr

    try:
        said = await asyncio.to_thread(run, "rotate", "--batch", "2")
        assert "nothing is left under other keys than 'new'" in said
        assert len((await asyncio.to_thread(run, "new-key")).strip()) == 44
        assert "rotate" in await asyncio.to_thread(run, "rotat", code=1)
        said = await asyncio.to_thread(run, "rotate", "--model", "nobody", code=1)
        assert "no model with encrypted fields" in said
    finally:
        file.unlink()
    async with opened(database, NEW) as app:
        assert keys_in(await stored(app)) == {"new"}


async def test_unknown_models_and_batches_are_refused(database: str) -> None:
    await made(database, 1)
    async with opened(database, NEW) as app:
        with pytest.raises(ConfigurationError, match=r"vault\.person"):
            await rotate_all(app, "vault.persn", 10, lambda line: None)
        with pytest.raises(ConfigurationError, match="--batch"):
            await rotate_all(app, None, 0, lambda line: None)
        assert app.services.of_type(Encryption).key_names() == ("new",)
