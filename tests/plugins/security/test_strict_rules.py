"""A strict rule holds what it looks at in other records until the operation is committed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import pytest
from pymongo.errors import OperationFailure

import earnorm
from earnorm import (
    App,
    ConfigurationError,
    Many2many,
    Many2one,
    NotFound,
    NotSupported,
    One2many,
    Principal,
    String,
    act_as,
    models,
    system,
)
from earnorm.plugin import Call, Layer, Middleware, Operation, hookimpl
from earnorm_security import Rule, SecurityPlugin

EVE = Principal("eve")


def of_mine(env: Any) -> list[Any]:
    return [("project_id.owner", "=", env.principal.id)]


class Project(models.BaseModel):
    _name = "strict.project"
    owner = String()
    name = String()
    team_id = Many2one("strict.team")
    task_ids = One2many("strict.task", "project_id")


class Task(models.BaseModel):
    _name = "strict.task"
    _rules = [Rule("of my projects", of_mine, strict=True)]
    text = String()
    project_id = Many2one(Project)


class Loose(models.BaseModel):
    """The same, not strict."""

    _name = "strict.loose"
    _rules = [Rule("of my projects", of_mine)]
    text = String()
    project_id = Many2one(Project)


class Team(models.BaseModel):
    _name = "strict.team"
    lead = String()


class Deep(models.BaseModel):
    _name = "strict.deep"
    _rules = [
        Rule("led", [("project_ids", "any", [("team_id.lead", "=", "eve")])], strict=True),
        Rule("own", [("text", "!=", "x")]),
    ]
    text = String()
    project_ids = Many2many(Project)


class TakenAway:
    """Gives a project to somebody else once, right after a rule has looked at it."""

    api = 1
    name = "taken_away"

    def __init__(self) -> None:
        self.left = 0

    @hookimpl
    def wrap_operation(self, model: Any, operation: str) -> Iterable[tuple[int, Middleware]]:
        if model._name != Project._name or operation != "search":
            return ()

        async def look(op: Operation, call_next: Call) -> Any:
            result = await call_next(op)
            if self.left:
                self.left -= 1
                raw = op.app.dangerous_raw("somebody else")[Project._collection]
                await raw.update_many({}, {"$set": {"owner": "ann"}})
            return result

        return [(Layer.DEFAULT, look)]


async def fill(model: Any) -> tuple[Any, Any]:
    with system(reason="test data"):
        project = await Project.create({"owner": "eve"})
        return project, await model.create({"text": "t", "project_id": project})


async def test_a_record_that_is_taken_away_meanwhile_is_not_written(opened):
    away = TakenAway()
    async with opened(plugins=(away,)):
        _, task = await fill(Task)
        for way in (
            lambda: task.write({"text": "evil"}),
            lambda: Task.search([("text", "=", "t")]).update({"text": "evil"}),
            lambda: task.unlink(),
            lambda: Task.create({"text": "evil", "project_id": task.project_id}),
        ):
            with system(reason="test data"):
                await Project.search().update({"owner": "eve"})
            away.left = 1
            with act_as(EVE), contextlib.suppress(earnorm.AccessDenied, NotFound):
                assert await way() == 0
            assert away.left == 0
            with system(reason="look"):
                assert (await Task.search()).mapped("text") == ["t"]


async def test_other_rules_promise_one_moment_between_begin_and_answer(opened):
    away = TakenAway()
    async with opened(plugins=(away,)):
        _, task = await fill(Loose)
        away.left = 1
        with act_as(EVE):
            await task.write({"text": "new"})  # allowed when the rule looked
        with act_as(EVE), pytest.raises(NotFound):
            await task.write({"text": "newer"})


async def locked(app: App, model: Any, record: Any) -> bool:
    """Return whether another transaction conflicts at a record."""
    raw = app.dangerous_raw("another transaction")
    async with raw.client.start_session() as session, await session.start_transaction():
        try:
            query, change = {"_id": record.pk}, {"$set": {"other": 1}}
            await raw[model._collection].update_one(query, change, session=session)
        except OperationFailure as error:
            assert error.code == 112
            return True
        finally:
            await session.abort_transaction()
    return False


async def test_what_the_rule_looked_at_is_locked_and_nothing_else(opened):
    async with opened() as app:
        with system(reason="test data"):
            team, other_team = await Team.create([{"lead": "eve"}, {"lead": "eve"}])
            first, second, other = await Project.create(
                [{"owner": "eve", "team_id": t} for t in (team, other_team, team)]
            )
            task = await Task.create({"project_id": first})
            deep = await Deep.create({"project_ids": [first]})
        with act_as(EVE):
            async with earnorm.transaction():
                await task.write({"text": "a", "project_id": second.pk})
                assert [await locked(app, Project, p) for p in (first, second, other)] == [
                    True,
                    True,
                    False,
                ]
                assert not await locked(app, Team, team)
            async with earnorm.transaction():
                await deep.write({"text": "a"})
                assert [await locked(app, Project, p) for p in (first, second)] == [True, False]
                assert [await locked(app, Team, t) for t in (team, other_team)] == [True, False]
        async with earnorm.transaction():
            with system(reason="rules off"):
                await task.write({"text": "b"})
            assert not await locked(app, Project, first)


async def test_a_database_without_transactions_cannot_hold_anything():
    async with App("mongomock://", database="strict", plugins=[SecurityPlugin()]):
        _, task = await fill(Task)
        with act_as(EVE):
            for way in (
                lambda: task.write({"text": "a"}),
                lambda: task.unlink(),
                lambda: Task.create({"project_id": task.project_id}),
            ):
                with pytest.raises(NotSupported, match="strict rule"):
                    await way()
            assert await Task.count() == 1


async def test_strict_is_a_truth_value(opened):
    class Odd(models.BaseModel):
        _name = "strict.odd"
        _rules = [Rule("odd", [], strict="yes")]  # type: ignore[arg-type]

    async with opened():
        with pytest.raises(ConfigurationError, match="strict is True or False"):
            await Odd.count()
    earnorm.forget(Odd)
