"""Every hook of the contract is called, and documented with its exact signature."""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydantic
import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from earnorm import (
    AccessDenied,
    App,
    DomainError,
    Layer,
    Operation,
    PluginError,
    TransactionOutcomeUnknown,
    act_as,
    forget,
    hookimpl,
    models,
    system,
    transaction,
)
from earnorm.cli.contributed import commands_of
from earnorm.fields import Many2one, String
from earnorm.kernel.hookspecs import Hooks

DOCS = Path(__file__).parents[3] / "docs" / "plugins.md"
HOOKS = [name for name in vars(Hooks) if not name.startswith("_")]


class Letter(models.BaseModel):
    _name = "contract.letter"
    text = String(required=True)
    answers_id = Many2one("contract.letter")


class Stamp(models.BaseModel):
    _name = "contract.stamp"
    text = String()


class Silent(CommandListener):
    """A listener of the driver's events."""

    def started(self, event: object) -> None: ...

    def succeeded(self, event: object) -> None: ...

    def failed(self, event: object) -> None: ...


def listening_plugin() -> tuple[type, list[str]]:
    """A plugin's class that implements every hook with all of its arguments, and what was called."""
    called: list[str] = []
    made: dict[str, object] = {"api": 1, "name": "listening"}

    class Settings(pydantic.BaseModel):
        pass

    async def refuse(op: Operation, call_next: Callable[[Operation], Any]) -> Any:
        if op.name == "unlink":
            raise AccessDenied("not today")
        return await call_next(op)

    answers: dict[str, object] = {
        "settings": Settings,
        "register_listeners": [Silent()],
        "register_fields": {},
        "register_models": [Stamp],
        "register_operators": [],
        "register_services": {"listening": object()},
        "register_commands": {},
        "wrap_operation": [(Layer.SECURITY, refuse)],
        "health": {"status": "ok"},
    }

    def implementing(hook: str) -> Any:
        parameters = list(inspect.signature(getattr(Hooks, hook)).parameters)
        static = hook in ("settings", "register_commands", "model_attributes", "needed_by")
        scope: dict[str, Any] = {"note": called.append, "answer": answers.get(hook)}
        names = ", ".join(parameters[1:] if static else parameters)
        exec(f"def {hook}({names}):\n    note({hook!r})\n    return answer", scope)
        function = hookimpl(scope[hook])
        return staticmethod(function) if static else function

    made |= {hook: implementing(hook) for hook in HOOKS}
    made["__init__"] = lambda self, settings: None
    return type("ListeningPlugin", (), made), called


@contextmanager
def unconfirmed(uri: str, name: str) -> Iterator[None]:
    """The server commits the transactions of one App, and does not confirm it."""
    concern = {"code": 100, "codeName": "UnsatisfiableWriteConcern", "errmsg": "too few members"}
    data = {"failCommands": ["commitTransaction"], "appName": name, "writeConcernError": concern}
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


async def test_every_hook_is_called(uri: str) -> None:
    plugin, called = listening_plugin()
    name = f"contract_{uuid.uuid4().hex[:12]}"
    commands_of("listening", plugin)
    named = {"appName": name}
    async with App(uri, database=name, plugins=[plugin], client_options=named) as app:
        try:
            with act_as(letter := await Letter.create({"text": "Dear"})):
                pass
            await letter.write({"text": "Dear all"})
            with pytest.raises(AccessDenied):
                await letter.unlink()
            with pytest.raises(DomainError):
                await Letter.search([("txt", "=", "Dear")])
            with system(reason="why?"):
                await Letter.search().why()
            with pytest.raises(ZeroDivisionError):
                async with transaction():
                    await Letter.create({"text": "never sent"})
                    raise ZeroDivisionError
            with unconfirmed(uri, name), pytest.raises(TransactionOutcomeUnknown):
                async with transaction():
                    await Letter.create({"text": "sent or not"})
            forget(type("Passing", (models.BaseModel,), {"_name": "contract.passing"}))
            report = await app.health()
            assert report["listening"] == {"status": "ok"}
            assert app.plugins[0].hooks == tuple(sorted(HOOKS))
        finally:
            await app.dangerous_raw("to look at the database itself").client.drop_database(name)
    never = {"before_unlink", "after_unlink"}  # the layer outside them refused
    never |= {"needed_by"}  # it is asked where the plugin is left out
    never |= {"diagnose"}  # earnorm doctor asks it; see tests/cli
    assert set(HOOKS) - set(called) == never


async def test_observers_stand_around_the_unlink_and_an_exception_stops_it() -> None:
    trace: list[object] = []

    class Watching:
        api = 1
        name = "watcher"

        @hookimpl
        async def before_unlink(self, op: Operation) -> None:
            trace.append("before")
            if len(trace) == 1:
                raise RuntimeError("wait")

        @hookimpl
        async def after_unlink(self, op: Operation, result: int) -> None:
            trace.append(result)

    async with App("mongomock://", database="hooks", plugins=[Watching()]):
        letter = await Letter.create({"text": "Dear"})
        with pytest.raises(PluginError) as caught:
            await letter.unlink()
        assert str(caught.value) == (
            "plugin 'watcher' failed in its hook before_unlink(self, op): RuntimeError: wait"
        )
        assert await Letter.search([]).count() == 1
        await letter.unlink()
        assert await Letter.search([]).count() == 0
    assert trace == ["before", "before", 1]


def signature_of(hook: str) -> str:
    """As the source has it, on one line; in a cell of a table a bar has a backslash."""
    signature = str(inspect.signature(getattr(Hooks, hook))).replace("'", "")
    return f"{hook}{signature}".replace("|", r"\|")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature(hook: str) -> None:
    assert f"`{signature_of(hook)}`" in DOCS.read_text(), signature_of(hook)


def test_the_documentation_has_no_hook_that_is_not_there() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)\(", DOCS.read_text(), re.MULTILINE))
    assert documented == set(HOOKS)


async def test_a_plugin_that_resolves_no_principal_is_named(uri: str) -> None:
    class Wrong:
        api = 1
        name = "wrong"

        @hookimpl
        def resolve_principal(self, user: object) -> object:
            return "ann"

    async with App("mongomock://", database="contract", plugins=[Wrong]):
        refused = pytest.raises(PluginError, match="'wrong' returned a str in resolve_principal")
        with refused, act_as({"id": 1}):
            pass
        with act_as("ann") as env:
            assert str(env.principal) == "ann"
