"""Settings and histories where one collection has several classes, and where records are archived."""

from __future__ import annotations

import pytest

from earnorm import AccessDenied, Principal, act_as, mixins, models, system
from earnorm.fields import String
from earnorm_audit import AuditEntry, AuditLog
from earnorm_security import Access, FieldRights


class Card(models.BaseModel):
    _name = "auditfamily.card"
    _discriminator = "kind"
    _field_rights = [FieldRights("limit", read=["bank"])]
    holder = String()
    pin = String()
    limit = String()


class Debit(Card):
    _name = "auditfamily.debit"
    _field_rights = [FieldRights("holder", read=["bank"])]


class Gift(Debit):
    _name = "auditfamily.gift"


class Will(Card):
    _name = "auditfamily.will"
    _access = [Access("notary", read=True)]


class Shelf(mixins.SoftDelete, models.BaseModel):
    _name = "auditfamily.shelf"
    _access = [Access("*", read=True, write=True)]
    name = String()


async def test_what_the_settings_exclude_of_a_class_is_excluded_below_it(either):
    async with either(audit={"exclude_fields": ["auditfamily.card.pin"]}):
        for cls in (Card, Debit, Gift):
            await cls.create({"pin": "1234", "limit": "5"})
        await Card.search().update({"pin": "5678"})
        entries = await AuditEntry.search()
        assert [entry.operation for entry in entries] == ["create"] * 3
        assert not any("pin" in entry.changes for entry in entries)


async def test_a_model_of_the_settings_is_recorded_with_the_classes_below_it(either):
    async with either(audit={"models": ["auditfamily.debit"]}):
        for cls in (Card, Debit, Gift):
            await cls.create({"limit": "5"})
        await Card.search().update({"limit": "6"})
        entries = await AuditEntry.search(order="model,at")
        assert [(entry.model.rpartition(".")[2], entry.operation) for entry in entries] == [
            ("debit", "create"),
            ("debit", "write"),
            ("gift", "create"),
            ("gift", "write"),
        ]


async def test_the_history_of_a_record_is_the_same_whichever_class_it_was_asked_through(either):
    async with either(plugins=["audit", "security"]) as app:
        log = app.services.of_type(AuditLog)
        with system(reason="test"):
            gift = await Gift.create({"limit": "5", "holder": "Ann", "pin": "1"})
        for cls in (Card, Debit, Gift):
            with act_as("eve"):
                [entry] = await log.history(cls.browse([gift.id]))
                assert set(entry.changes) == {"kind", "pin"}
        with system(reason="test"):
            await gift.unlink()
            for cls in (Card, Debit, Gift):
                assert len(await log.history(cls.browse([gift.id]))) == 2
        with act_as("eve"), pytest.raises(AccessDenied):
            await log.history(Card.browse([gift.id]))


async def test_who_may_read_an_archived_record_may_read_its_history(either):
    async with either(plugins=["audit", "security"]) as app:
        with system(reason="test"):
            shelf = await Shelf.create({"name": "a"})
        with act_as("eve"):
            await shelf.archive()
            assert len(await app.services.of_type(AuditLog).history(shelf)) == 2


async def test_who_reads_the_trail_reads_the_history_of_what_rights_hide(either):
    settings = {"access": {"audit.entry": [Access("auditor", read=True)]}}
    async with either(plugins=["audit", "security"], security=settings) as app:
        with system(reason="test"):
            will = await Will.create({"pin": "1"})
        for cls in (Card, Will):
            with act_as(Principal("otto", ["auditor"])):
                assert len(await app.services.of_type(AuditLog).history(cls.browse([will.id]))) == 1
            with act_as("eve"), pytest.raises(AccessDenied):
                await app.services.of_type(AuditLog).history(cls.browse([will.id]))
