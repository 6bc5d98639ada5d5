"""Rights that settings and stored policies add to a class hold for the classes below it that have none of
their own."""

from __future__ import annotations

import pytest

from earnorm import AccessDenied, Principal, act_as, models, system
from earnorm.fields import String
from earnorm_security import Access, Security
from earnorm_security.stored import StoredPolicy
from tests.plugins.security.vault import KEYS

CLERK, EVE = Principal("ann", ["clerk"]), Principal("eve", ["guest"])


class File(models.BaseModel):
    _name = "addedrights.file"
    _discriminator = "kind"
    title = String()


class Letter(File):
    _name = "addedrights.letter"


class Reply(Letter):
    _name = "addedrights.reply"


class Will(File):
    _name = "addedrights.will"
    _access = [Access("notary", read=True)]


class Codicil(Will):
    _name = "addedrights.codicil"


ALL = (File, Letter, Reply, Will, Codicil)
ADDED = {"addedrights.file": ["clerk"], "addedrights.letter": ["guest"]}


async def seen():
    """Return the names of the classes that each one reads when it asks for them."""
    result = {}
    for who in (CLERK, EVE, Principal("nils", ["notary"])):
        result[who.id] = []
        for cls in ALL:
            with act_as(who):
                try:
                    found = await cls.search()
                except AccessDenied:
                    continue
                result[who.id].append((cls.__name__, sorted(one.title for one in found)))
    return result


async def fill():
    with system(reason="test"):
        for cls in ALL:
            await cls.create({"title": cls.__name__})


EXPECTED = {
    "ann": [
        ("File", ["File", "Letter", "Reply"]),
        ("Letter", ["Letter", "Reply"]),
        ("Reply", ["Reply"]),
    ],
    "eve": [("Letter", ["Letter", "Reply"]), ("Reply", ["Reply"])],
    "nils": [("Will", ["Codicil", "Will"]), ("Codicil", ["Codicil"])],
}


@pytest.mark.parametrize("default", ["open", "closed"])
async def test_rights_in_the_settings_are_those_of_the_classes_below(opened, default):
    access = {name: [Access(role, read=True) for role in roles] for name, roles in ADDED.items()}
    async with opened(access=access, default=default):
        await fill()
        assert await seen() == EXPECTED


@pytest.mark.parametrize("default", ["open", "closed"])
async def test_so_are_stored_rights(opened, default):
    async with opened(stored_policies=True, default=default):
        await fill()
        with system(reason="test"):
            for name, roles in ADDED.items():
                right = {"name": "p", "kind": "right", "operations": ["read"]}
                policy = await StoredPolicy.create({**right, "model": name, "roles": roles})
        assert await seen() == EXPECTED
        with system(reason="test"):
            await policy.write({"active": False})
        assert await seen() == {**EXPECTED, "eve": []}


async def test_a_report_without_what_is_stored_knows_families_too(opened):
    # It is about all models that the process knows, those of the vault among them, which need keys.
    async with opened(stored_policies=True, keys=KEYS) as app:
        reports = {one.model: one for one in app.services.of_type(Security).declared_report()}
        assert reports["addedrights.file"].is_open and not reports["addedrights.will"].is_open
