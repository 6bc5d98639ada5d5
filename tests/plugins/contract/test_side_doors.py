"""``dangerous_raw`` is the only public way past the layers, and no record is looked at outside of security."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakSet

import pytest
from pymongo.monitoring import CommandListener, CommandStartedEvent

import earnorm
from earnorm import AccessDenied, App, BaseModel, DateTime, Int, Layer, Many2one, String, depends
from earnorm.plugin import ModelView, Operation, Update, current_env, hookimpl


class Secret(BaseModel):
    _name = "side.secret"
    text = String()


def public(thing: object) -> Iterable[tuple[str, object]]:
    for name in dir(thing):
        if name.startswith("_"):
            continue
        try:
            yield name, getattr(thing, name)
        except Exception:  # a property that says that it is not for now
            continue


def held(thing: object) -> Iterable[tuple[str, object]]:
    """The public attributes of an object, and what those of them that are containers hold."""
    for name, value in public(thing):
        yield name, value
        if isinstance(value, Mapping):
            yield from ((f"{name} (a key)", key) for key in list(value))
            yield from ((f"{name} (a value)", one) for one in list(value.values()))
        elif isinstance(value, list | tuple | set | frozenset | WeakSet):
            yield from ((f"{name} (an item)", item) for item in list(value))


def doors(thing: object, depth: int, way: str, seen: set[int]) -> Iterable[str]:
    """The public ways from an object to a driver."""
    for name, value in held(thing):
        module = type(value).__module__
        if module.startswith(("earnorm.backends", "pymongo", "motor", "mongomock")):
            yield f"{way}.{name}"
        is_ours = type(value).__module__.startswith("earnorm") and not isinstance(value, type)
        if depth and is_ours and id(value) not in seen:
            seen.add(id(value))
            yield from doors(value, depth - 1, f"{way}.{name}", seen)


def doors_of(*starts: object) -> list[str]:
    return [
        door
        for start in starts
        for door in doors(start, 2, type(start).__name__, {id(start), id(None)})
    ]


async def test_no_public_attribute_leads_past_the_layers(uri: str) -> None:
    async with App(uri, database="side_doors", plugins=[]) as app:
        await Secret.count()
        assert doors_of(app, app.bind(Secret), ModelView(Secret), app.env) == []


class Keeping:
    """Keeps the operations of the program."""

    api = 1
    name = "keeping"

    def __init__(self) -> None:
        self.kept: list[Operation] = []

    @hookimpl
    def before_create(self, op: Operation) -> None:
        self.kept.append(op)


async def test_no_transaction_and_no_session_leads_past_the_layers(uri: str) -> None:
    keeping = Keeping()
    async with App(uri, database="side_doors", plugins=[keeping]) as app:
        async with earnorm.transaction() as running:
            await Secret.create({"text": "a"})
            found = doors_of(running, current_env(), app.in_flight, app, *keeping.kept)
        assert keeping.kept and found == []
        keeping.kept.clear()
        async with earnorm.session() as given:
            await Secret.create({"text": "b"})
            async for _ in Secret.search().stream():
                found = doors_of(given, current_env(), app.in_flight, app, *keeping.kept)
        assert keeping.kept and found == []
        async with Secret.watch() as changes:
            await Secret.create({"text": "c"})
            async for _ in changes:
                found = doors_of(changes, app.in_flight)
                break
        assert found == []
        await app.dangerous_raw("the test is over").client.drop_database("side_doors")


async def test_the_door_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with App("mongomock://", database="side", plugins=[]) as app:
        with caplog.at_level(logging.WARNING, "earnorm"):
            app.dangerous_raw("to show it")
    assert "to show it" in caplog.text


# -- typed views ----------------------------------------------------------------------------------


class Card(BaseModel):
    _name = "side.card"
    text = String()
    number = Int()
    at = DateTime()  # its values are stored in another form than they are held
    label = String(compute="_label", store=True)

    @depends("text")
    def _label(self) -> str:
        return f"<{self.text}>"


class Seeing:
    """Looks at the values of each write, and tries to change them."""

    api = 1
    name = "seeing"

    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def before_create(self, op: Operation) -> None:
        self.seen.append([document["text"] for document in op.documents])
        with pytest.raises(TypeError, match="one change of a write; this create is none"):
            _ = op.update
        for document in op.documents:
            with pytest.raises(TypeError):
                document["number"] = 42

    @hookimpl
    def before_write(self, op: Operation) -> None:
        self.seen.append([dict(update.operators["$set"]) for update in op.updates])
        with pytest.raises(TypeError, match="a write has no documents"):
            _ = op.documents
        for update in op.updates:
            operators: Any = update.operators
            with pytest.raises(TypeError):
                operators["$set"]["number"] = 42
            with pytest.raises(TypeError):
                operators["$inc"] = {"number": 1}


async def test_what_a_hook_sees_is_typed_and_cannot_be_changed() -> None:
    seeing = Seeing()
    async with App("mongomock://", database="side", plugins=[seeing]):
        one, two = await Card.create([{"text": "a"}, {"text": "b"}])
        await one.write({"text": "c"})
        await Card.write_many({one: {"number": 1}, two: {"number": 2}})
        assert (await Card.get(one.id)).number == 1
    assert seeing.seen == [
        ["a", "b"],
        [{"text": "c", "label": "<c>"}],
        [{"number": 1}, {"number": 2}],
    ]


async def test_updates_are_mapped_one_by_one() -> None:
    def numbered(update: Update) -> Update:
        return update.merged("$set", {"number": 7})

    class Numbering:
        api = 1
        name = "numbering"

        @hookimpl
        def wrap_operation(self, operation: str) -> Iterable[tuple[int, Any]]:
            return [(500, self.layer)] if operation == "write" else []

        async def layer(self, op: Operation, call_next: Any) -> Any:
            return await call_next(op.map_updates(numbered))

    async with App("mongomock://", database="side", plugins=[Numbering]):
        one, two = await Card.create([{"text": "a"}, {"text": "b"}])
        await one.write({"text": "c"})
        assert (await Card.get(one.id)).number == 7
        await Card.write_many({one: {"text": "x"}, two: {"text": "y"}})
        assert [card.number for card in await Card.search()] == [7, 7]
        with pytest.raises(TypeError, match="this count is none"):
            Operation("count", Card, one._fetch.app.env).map_updates(numbered)


# -- security is outermost of all that look at records --------------------------------------------


class Node(BaseModel):
    """A model with each feature that has a layer around writes."""

    _name = "side.node"
    _versioned = True
    _discriminator = "kind"
    _parent_store = True
    parent_id = Many2one("side.node", on_delete="restrict")
    up_id = Many2one("side.node", on_delete="cascade")
    updated = DateTime(auto_now=True)
    a = Int()
    b = Int(compute="_b", store=True)

    @depends("a", "parent_id.a")
    def _b(self) -> int:
        return self.a or 0


class Sent(CommandListener):
    """The commands that were sent about the collection of the nodes."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        if "side_node" in event.command.values():
            self.names.append(event.command_name)

    def succeeded(self, event: object) -> None: ...

    def failed(self, event: object) -> None: ...


class Denying:
    """Refuses everything where access rules stand, once it is told to."""

    api = 1
    name = "denying"
    denies = False

    def __init__(self) -> None:
        self.sent = Sent()

    @hookimpl
    def register_listeners(self) -> list[object]:
        return [self.sent]

    @hookimpl
    def wrap_operation(self, model: type[BaseModel]) -> list[tuple[int, Any]]:
        return [(Layer.SECURITY, self.layer)] if ModelView(model).name == "side.node" else []

    async def layer(self, op: Operation, call_next: Any) -> Any:
        if self.denies:
            raise AccessDenied("no")
        return await call_next(op)


async def test_nothing_is_sent_about_records_before_security_has_answered(uri: str) -> None:
    denying = Denying()
    async with App(uri, database="side_doors", plugins=[denying]) as app:
        root = await Node.create({"a": 1})
        leaf = await Node.create({"a": 2, "parent_id": root, "up_id": root})
        both = [("parent_id.a", "=", 1)]
        denying.denies = True
        denying.sent.names.clear()
        for attempt in (
            lambda: Node.search(both),
            lambda: Node.search(both).count(),
            lambda: Node.search(both).update({"a": 3}),
            lambda: Node.search(both).delete(),
            lambda: Node.create({"a": 4, "parent_id": root}),
            lambda: leaf.write({"a": 5}),
            lambda: leaf.write({"parent_id": None}),
            lambda: root.unlink(),
        ):
            with pytest.raises(AccessDenied):
                await attempt()
        assert denying.sent.names == []
        denying.denies = False
        await app.dangerous_raw("the test is over").client.drop_database("side_doors")
