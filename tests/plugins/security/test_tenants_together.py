"""Tenants beside the other features: each of them keeps to the tenant of who acts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import ObjectId

from earnorm import (
    AccessDenied,
    App,
    ConcurrencyError,
    ConfigurationError,
    Int,
    Many2one,
    NotFound,
    One2many,
    Principal,
    String,
    ValidationError,
    act_as,
    depends,
    mixins,
    models,
    system,
)
from earnorm.features.indexes.collection_options import CollectionOptions
from earnorm.plugin import ModelView
from earnorm_audit import AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_security.tenant_findings import findings_about_tenants

from .conftest import Opener

A, B = ObjectId(f"{'0' * 23}a"), ObjectId(f"{'0' * 23}b")
ANN = Principal("ann", attributes={"company_id": A})
BOB = Principal("bob", attributes={"company_id": B})
EVE = Principal("eve", attributes={"company_id": A, "company_ids": [A, B]})


class Firm(models.BaseModel):
    _name = "together.firm"
    name = String()


class Project(mixins.SoftDelete, mixins.Timestamps, models.BaseModel):
    _name = "together.project"
    _tenant_field = "company_id"
    _across_tenants = ["template_id"]
    _versioned = True
    _options = CollectionOptions(pre_images=True)
    _parent_store = True
    company_id = Many2one(Firm)
    parent_id = Many2one("together.project", on_delete="cascade")
    template_id = Many2one("together.project", on_delete="restrict")
    name = String(required=True)
    tasks = One2many("together.task", "project_id")
    hours = Int(compute="_add_up", store=True)

    @depends("tasks.hours")
    def _add_up(self) -> int:
        return sum(self.tasks.mapped("hours"))


class Task(models.BaseModel):
    _name = "together.task"
    _tenant_field = "company_id"
    company_id = Many2one(Firm)
    project_id = Many2one(Project, on_delete="cascade")
    project_name = String(related="project_id.name", store=True)
    hours = Int(default=0)


class Person(models.BaseModel):
    _name = "together.person"
    _tenant_field = "company_id"
    company_id = Many2one(Firm)
    name = String(required=True)


class Employee(models.BaseModel):
    _name = "together.employee"
    _inherits = {"together.person": "person_id"}
    _tenant_field = "company_id"
    company_id = Many2one(Firm)
    person_id = Many2one(Person, required=True)
    badge = String(unique=True)


class Borrower(models.BaseModel):
    _name = "together.borrower"
    _inherits = {"together.person": "person_id"}
    _tenant_field = "company_id"
    person_id = Many2one(Person, required=True)


@pytest.fixture
async def app(opened: Opener) -> AsyncIterator[App]:
    async with opened(plugins=(CachePlugin(), AuditPlugin())) as app:
        yield app


async def project(who: Principal, **values: Any) -> Project:
    with act_as(who):
        return await Project.create({"name": "p", **values})


async def test_a_delegated_record_belongs_to_the_same_tenant(app: App) -> None:
    with act_as(ANN):
        employee = await Employee.create({"name": "x", "badge": "1"})
        assert (await Person.search()).mapped("company_id.pk") == [A]
        await employee.write({"name": "y"})
        assert await Employee.count([("name", "=", "y")]) == 1
    with act_as(BOB):
        assert await Employee.create({"name": "x", "badge": "1"})
        assert (await Person.search()).mapped("name") == ["x"]
    with act_as(EVE):
        # What is created along gets the tenant in which she works; she chooses it for the block.
        with pytest.raises(ValidationError, match="another company_id"):
            await Employee.create({"name": "z", "badge": "2", "company_id": B})
        assert await Person.count([("name", "=", "z")]) == 0
    with act_as(EVE, company_id=B):
        assert (await Employee.create({"name": "z", "badge": "2"})).company_id.pk == B


async def test_the_tenant_is_stored_in_the_model_itself(app: App) -> None:
    with pytest.raises(ConfigurationError, match="is not stored in the record"):
        await Borrower.count()


async def test_deletions_and_computed_values_keep_to_the_tenant(app: App) -> None:
    mine, theirs = await project(ANN), await project(BOB)
    with act_as(ANN):
        await Task.create([{"project_id": mine, "hours": 2}, {"project_id": mine, "hours": 3}])
        with pytest.raises(ValidationError):
            await Task.create({"project_id": theirs.id, "hours": 100})
        assert (await Project.get(mine.id)).hours == 5
    with act_as(BOB):
        await Task.create({"project_id": theirs, "hours": 7})
        assert await Project.search().delete() == 1
    with system(reason="look"):
        assert (await Project.with_archived()).mapped("hours") == [5]
        assert sorted((await Task.search()).mapped("hours")) == [2, 3]


async def test_a_link_across_tenants_restricts_nobody_else_s_reading(app: App) -> None:
    template = await project(BOB, name="template")
    with act_as(EVE):
        made = await Project.create({"name": "of it", "template_id": template})
    with act_as(BOB), pytest.raises(ValidationError) as caught:
        await template.unlink()  # it is in use; nothing of who uses it is told
    assert made.id not in str(caught.value) and "of it" not in str(caught.value)
    with act_as(ANN):
        own = await Project.get(made.id)
        with pytest.raises(NotFound):
            await own.template_id


async def test_archived_records_and_revisions(app: App) -> None:
    mine, theirs = await project(ANN), await project(BOB)
    with act_as(ANN):
        await mine.archive()
        assert await Project.count() == 0 and await Project.with_archived().count() == 1
        with pytest.raises((NotFound, AccessDenied, ConcurrencyError)):
            await theirs.archive()
    with system(reason="look"):
        assert await Project.count() == 1


async def test_the_cache_answers_each_one_for_itself(app: App) -> None:
    theirs = await project(BOB)
    for _ in range(2):
        with act_as(BOB):
            assert (await Project.get(theirs.id)).name == "p"
        with act_as(ANN), pytest.raises(NotFound):
            await Project.get(theirs.id)
    with act_as(EVE):
        assert await Project.get(theirs.id)
    with act_as(EVE, company_id=A), pytest.raises(NotFound):
        await Project.get(theirs.id)


async def test_a_tree_is_one_of_the_tenant(app: App) -> None:
    mine, theirs = await project(ANN), await project(BOB)
    with act_as(EVE):
        for change in (
            Project.create({"name": "q", "parent_id": theirs}),
            mine.write({"parent_id": theirs}),
        ):
            with pytest.raises(ValidationError, match="another company_id"):
                await change
        below = await Project.create({"name": "below", "parent_id": theirs, "company_id": B})
    with act_as(BOB):
        assert await Project.count([("id", "child_of", theirs)]) == 2
    with act_as(ANN):
        assert await Project.count([("id", "child_of", theirs.id)]) == 0
        assert await Project.count([("id", "parent_of", below.id)]) == 0


async def test_events_and_history_are_those_of_the_tenant(app: App) -> None:
    with act_as(ANN):
        watch = Project.watch()
        await watch.__aenter__()
    async with watch:
        theirs, mine = await project(BOB), await project(ANN)
        event = await asyncio.wait_for(anext(watch), 20)
        assert event.pk == mine.pk
    audit = app.services["audit"]
    with act_as(ANN):
        assert len(await audit.history(mine)) == 1
        with pytest.raises((AccessDenied, NotFound)):
            await audit.history(theirs)


async def test_doctor_names_what_lacks_an_index_or_a_tenant(opened: Opener) -> None:
    async with opened() as app:
        findings = list(findings_about_tenants(app, [ModelView(app.model(n)) for n in OF_DOCTOR]))
    slow, linking = findings
    assert "no index begins with the tenant of together.task, together.person, and" in slow.what
    assert "records of together.note link to records of tenants" in linking.what
    assert {finding.level for finding in findings} == {"warning"}


class Note(models.BaseModel):
    _name = "together.note"
    task_id = Many2one(Task)


OF_DOCTOR = [
    "together.task",
    "together.person",
    "together.employee",
    "together.note",
    "together.firm",
]


async def test_who_works_in_another_tenant_meanwhile_changes_nothing_of_the_first(app: App) -> None:
    """Tasks with different principals run at once."""

    async def work(who: Principal, name: str) -> None:
        with act_as(who):
            for number in range(5):
                await Project.create({"name": f"{name}{number}"})
                assert set((await Project.search()).mapped("name")) <= {
                    f"{name}{n}" for n in range(5)
                }

    await asyncio.gather(work(ANN, "a"), work(BOB, "b"))
    with act_as(EVE):
        assert await Project.count() == 10
