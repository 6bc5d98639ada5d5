"""The audit trail beside security: as readable as the record that it is about."""

from __future__ import annotations

import pytest

import earnorm
from earnorm import AccessDenied, Principal, Sequence, String, act_as, models, system
from earnorm_audit import AuditEntry, AuditPlugin
from earnorm_security import Access, Rule

ANN, EVE = Principal("ann"), Principal("eve")
AUDITOR = Principal("carl", roles=["auditor"])


class Paper(models.BaseModel):
    _name = "trail.paper"
    _rules = [Rule("own", lambda env: [("owner", "=", env.principal.id if env.principal else "")])]
    owner = String()
    text = String()
    number = Sequence(sequence="trail.papers")


class Open(models.BaseModel):
    _name = "trail.open"
    name = String()


@pytest.fixture
async def log(opened):
    access = {"audit.entry": [Access("auditor", read=True)]}
    async with opened(plugins=[AuditPlugin()], access=access) as app:
        with act_as(ANN):
            paper = await Paper.create({"owner": "ann", "text": "draft"})
            await paper.write({"text": "secret"})
            gone = await Paper.create({"owner": "ann", "text": "gone"})
            await gone.unlink()
        yield app.services["audit"], paper, gone


async def texts(log, record):
    history = await log.history(record)
    return [entry.changes["text"].get("new") for entry in history if "text" in entry.changes]


async def test_who_reads_a_record_reads_its_history(log):
    audit, paper, _ = log
    with act_as(ANN):
        assert await texts(audit, paper) == ["draft", "secret"]
        with pytest.raises(AccessDenied):
            await AuditEntry.search()
    with system(reason="look"):
        assert await texts(audit, paper) == ["draft", "secret"]


async def test_a_hidden_record_and_a_deleted_one_are_alike(log):
    audit, paper, gone = log
    refusals = set()
    for principal in (EVE, ANN):
        for record in (paper, gone) if principal is EVE else (gone,):
            with act_as(principal), pytest.raises(AccessDenied) as told:
                await audit.history(record)
            refusals.add(str(told.value))
    assert len(refusals) == 1
    with act_as(AUDITOR):
        assert await texts(audit, gone) == ["gone", None]
        assert await texts(audit, paper) == ["draft", "secret"]
    with system(reason="look"):
        assert await texts(audit, gone) == ["gone", None]


@pytest.mark.parametrize("model", ["audit.entry", "earnorm.sequence"])
async def test_the_bookkeeping_of_plugins_and_features_is_closed(log, model):
    with act_as(EVE):
        with pytest.raises(AccessDenied):
            await earnorm.current_app().model(model).search().count()
        for stage in (
            {"$unionWith": model},
            {"$lookup": {"from": model, "pipeline": [], "as": "x"}},
        ):
            with pytest.raises(AccessDenied):
                await Open.search().aggregate([stage])
