"""Plugins with one fault each, by the one check that has to find it; beside some stands a sound one like it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

import pydantic

from earnorm import AccessDenied, App, BaseModel, DuplicateKey, Field, Operator, String
from earnorm.fields.base import ConvertingField, N
from earnorm.plugin import Layer, Operation, hookimpl, name_of, use_env

Next = Callable[[Operation], Any]


@dataclass(frozen=True)
class Fault:
    """A plugin that fails one check.

    Attributes:
        check: The check's name.
        plugin: The plugin's class.
        says: A part of what the failure says.
        options: The arguments of ``check_plugin``.
    """

    check: str
    plugin: type
    says: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        return f"{self.check}-{self.plugin.__name__}"


EVERY_MODEL: Mapping[str, Any] = {"idle": None}


# -- loading --------------------------------------------------------------------------------------


class MisspeltHook:
    api = 1

    @hookimpl
    def start_up(self) -> None: ...


class TellingSettings(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    url: str = "redis://localhost"

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError(f"{value} is no address")
        return value


class SettingsThatTell:
    api = 1

    def __init__(self, settings: TellingSettings) -> None: ...

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        return TellingSettings


class PlainSettings(pydantic.BaseModel):
    url: str = "redis://localhost"


class Backend(pydantic.BaseModel):
    url: str = ""

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        raise ValueError(f"{value} is no address")


class NestedSettings(pydantic.BaseModel):
    backend: Backend | None = pydantic.Field(None, alias="store")


class NestedSettingsThatTell:
    api = 1

    def __init__(self, settings: NestedSettings) -> None: ...

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        return NestedSettings


class ConstructorThatTells:
    api = 1

    def __init__(self, settings: PlainSettings) -> None:
        try:
            if "://" not in settings.url:
                raise KeyError(settings.url)
        except KeyError as error:
            raise ValueError("the address is none") from error

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        return PlainSettings


# -- life cycle -----------------------------------------------------------------------------------


class StartsOnce:
    api = 1
    started = False

    @hookimpl
    def startup(self) -> None:
        if self.started:
            raise RuntimeError("it is started already")
        self.started = True


class LeavesATask:
    api = 1

    @hookimpl
    def startup(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600))


class LeavesASocket:
    api = 1

    @hookimpl
    async def startup(self) -> None:
        self.server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


class AwaitsNothing:
    api = 1

    async def flush(self) -> None: ...

    @hookimpl
    def shutdown(self) -> None:
        self.flush()  # type: ignore[unused-coroutine] # the fault


class ListensToTheServer:
    """It has something to do where there are transactions only."""

    api = 1

    @hookimpl
    def startup(self, app: App) -> None:
        if "transactions" in app.capabilities:
            self.task = asyncio.create_task(asyncio.sleep(3600))


class KeepsAClient:
    """It asks a client of its own, and closes nothing."""

    api = 1

    @hookimpl
    async def startup(self, app: App) -> None:
        if "transactions" in app.capabilities:
            address = app.dangerous_raw("to look").client.address
            address = await address if inspect.isawaitable(address) else address
            _, self.writer = await asyncio.open_connection(*address)


class OpensBeforeStartup:
    api = 1

    @hookimpl
    def register_services(self) -> Mapping[str, object]:
        self.task = asyncio.create_task(asyncio.sleep(3600))
        return {"opens": self}

    @hookimpl
    async def shutdown(self) -> None:
        self.task.cancel()


class NeedsAnOperation:
    """Its shutdown fails where no operation came first."""

    api = 1

    @hookimpl
    def model_registered(self) -> None:
        self.seen = 1

    @hookimpl
    def shutdown(self) -> None:
        assert self.seen


class WaitsBeforeItCancels:
    api = 1

    @hookimpl
    def startup(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600))

    @hookimpl
    async def shutdown(self) -> None:
        await asyncio.sleep(0)
        self.task.cancel()


class KeepsStateInTheClass:
    api = 1
    task: ClassVar[asyncio.Task[None]]

    @hookimpl
    def startup(self) -> None:
        KeepsStateInTheClass.task = asyncio.create_task(asyncio.sleep(3600))

    @hookimpl
    def shutdown(self) -> None:
        self.task.cancel()


class SharesAService:
    api = 1
    table: ClassVar[dict[str, object]] = {}

    @hookimpl
    def register_services(self) -> Mapping[str, object]:
        return {"table": self.table}


class ObservesForTheLatestApp:
    """Its observer uses the App that was started last, and what it raises is only logged."""

    api = 1
    app: ClassVar[App | None] = None

    @hookimpl
    def startup(self, app: App) -> None:
        type(self).app = app

    @hookimpl
    def shutdown(self) -> None:
        type(self).app = None

    @hookimpl
    def after_create(self) -> None:
        assert type(self).app is not None


class ObservesTheFirstStart:
    """Its observer works until the App stops, and what it raises then is only logged."""

    api = 1

    def __init__(self) -> None:
        self.is_over = False

    @hookimpl
    def shutdown(self) -> None:
        self.is_over = True

    @hookimpl
    def after_create(self) -> None:
        assert not self.is_over


class OpensAClientTooEarly:
    """It begins before startup(), where there are transactions only."""

    api = 1

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        if "transactions" in app.capabilities:
            self.task = asyncio.create_task(asyncio.sleep(3600))
        return {}

    @hookimpl
    async def shutdown(self) -> None:
        if hasattr(self, "task"):
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            del self.task


class StartsInTwoParts:
    """Its shutdown ends what startup began, and is not called where startup has not ended."""

    api = 1

    @hookimpl
    async def startup(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)

    @hookimpl
    async def shutdown(self) -> None:
        self.task.cancel()


class KeepsStoppedApps:
    api = 1
    apps: ClassVar[list[App]] = []

    @hookimpl
    def startup(self, app: App) -> None:
        self.apps.append(app)


class RemembersItsApp:
    """A shared object, which the class keeps, remembers the App."""

    api = 1
    latest: ClassVar[Any] = None

    @hookimpl
    def startup(self, app: App) -> None:
        async def look() -> object:
            return app

        RemembersItsApp.latest = look


def stands_around(operation: str) -> type:
    """A plugin with a layer around one operation of every model."""

    async def layer(op: Operation, call_next: Next) -> Any:
        return await call_next(op)

    def wrap_operation(self: object, operation: str) -> Iterable[tuple[int, Any]]:
        return [(Layer.DEFAULT, layer)] if operation == wanted else []

    wanted = operation
    body = {"api": 1, "wrap_operation": hookimpl(wrap_operation)}
    return type(f"StandsAround{operation.title()}", (), body)


class KeepsTheLatestApp:
    """Its layer uses the App that was started last, and has none when that is stopped."""

    api = 1
    app: ClassVar[App | None] = None

    @hookimpl
    def startup(self, app: App) -> None:
        KeepsTheLatestApp.app = app

    @hookimpl
    def shutdown(self) -> None:
        KeepsTheLatestApp.app = None

    @hookimpl
    def wrap_operation(self) -> Iterable[tuple[int, Any]]:
        return [(Layer.DEFAULT, self.layer)]

    async def layer(self, op: Operation, call_next: Next) -> Any:
        assert KeepsTheLatestApp.app is not None
        return await call_next(op)


class PatchesEveryModel:
    api = 1

    @hookimpl
    def startup(self) -> None:
        BaseModel.shout = lambda self: "!"  # type: ignore[attr-defined] # the fault


class PatchesAModel:
    api = 1

    @hookimpl
    def model_registered(self, model: type[BaseModel]) -> None:
        if name_of(model) == "conformance.item":
            model._indexes = [*model._indexes, {"text": 1}]


# -- layers ---------------------------------------------------------------------------------------


class _Layer:
    """A plugin with one layer around some operations."""

    api = 1
    around: ClassVar[frozenset[str]] = frozenset()

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[tuple[int, Any]]:
        return [(Layer.DEFAULT, self.layer)] if operation in self.around else []

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await call_next(op)


class ReturnsNothing(_Layer):
    around = frozenset({"write"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        await call_next(op)


class FindsNothing(_Layer):
    around = frozenset({"search"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        await call_next(op)
        return []


class SwallowsCancellation(_Layer):
    around = frozenset({"search"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        try:
            return await call_next(op)
        except asyncio.CancelledError:
            return []


class ShieldsAnOperation(_Layer):
    """What it shields nobody waits for, and nobody ends."""

    around = frozenset({"write"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await asyncio.shield(call_next(op))


class TranslatesCancellation(_Layer):
    around = frozenset({"unlink"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        try:
            return await call_next(op)
        except BaseException as error:
            raise RuntimeError("it failed") from error


class KnowsOneKindOfChange(_Layer):
    around = frozenset({"write"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        assert op.update.operators
        return await call_next(op)


class HoldsALock(_Layer):
    around = frozenset({"create", "write", "unlink"})

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def layer(self, op: Operation, call_next: Next) -> Any:
        async with self.lock:
            return await call_next(op)


class DropsTheRequest(_Layer):
    around = frozenset({"search"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await call_next(Operation("search", op.model, op.env, op.domain, options=op.options))


class LeavesTheTransaction(_Layer):
    around = frozenset({"create"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await call_next(op.replace(env=op.app.env))


class CountsTries(_Layer):
    """A counter in memory, in which a try that was rolled back stays."""

    around = frozenset({"create"})

    def __init__(self) -> None:
        self.count = 0

    async def layer(self, op: Operation, call_next: Next) -> Any:
        self.count += len(op.documents)
        return await call_next(op)


class LosesAValue(_Layer):
    around = frozenset({"create"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        kept = [{**document, "words": None} for document in op.documents]
        return await call_next(op.replace(values=kept))


class ChangesAnAnswer(_Layer):
    around = frozenset({"search"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        answer = await call_next(op)
        for document in answer if isinstance(answer, list) else ():
            document["words"] = None
        return answer


class AnswersWithoutPages(_Layer):
    around = frozenset({"search"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await call_next(op.replace(options=op.options.replace(limit=0, offset=0)))


class AnswersInNoOrder(_Layer):
    around = frozenset({"search"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await call_next(op.replace(options=op.options.replace(order=())))


class GivesOneGroup(_Layer):
    around = frozenset({"group"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return (await call_next(op))[:1]


class _Keeps(_Layer):
    """It keeps the answers of searches until somebody writes."""

    number: ClassVar[int] = Layer.CACHE

    def __init__(self) -> None:
        self._kept: dict[object, Any] = {}

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[tuple[int, Any]]:
        return [(self.number, self.layer)] if operation in self.around else []

    around = frozenset({"search", "create", "write", "unlink"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        if op.name != "search":
            self._kept.clear()
            try:
                return await call_next(op)
            finally:
                self._kept.clear()
        if op.request is not None or op.env.transaction is not None:
            return await call_next(op)
        key = (name_of(op.model), str(op.domain), str(op.options))
        if key not in self._kept:
            self._kept[key] = await call_next(op)
        return self.answer(self._kept[key])

    def answer(self, kept: Any) -> Any:
        return copy.deepcopy(kept)


class AnswersWithoutCopies(_Keeps):
    def answer(self, kept: Any) -> Any:
        return kept


class CopiesTheOutside(_Keeps):
    def answer(self, kept: Any) -> Any:
        return [dict(document) for document in kept]


class AnswersOutsideOfSecurity(_Keeps):
    number = 90


class KeepsForAllApps(_Keeps):
    kept: ClassVar[dict[object, Any]] = {}

    def __init__(self) -> None:
        self._kept = self.kept

    async def layer(self, op: Operation, call_next: Next) -> Any:
        if op.name != "search":  # its own writes only
            for key in [key for key in self._kept if key[:2] == (op.app.name, name_of(op.model))]:  # type: ignore[index] # its keys
                del self._kept[key]
        return await super().layer(op, call_next)


class ActsAsSystem(_Layer):
    around = frozenset({"search", "count", "group"})

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[tuple[int, Any]]:
        return [(10, self.layer)] if operation in self.around else []

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await call_next(op.replace(env=op.env.as_system("a mistake")))


class SwallowsARefusal(_Layer):
    around = frozenset({"unlink"})

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[tuple[int, Any]]:
        return [(10, self.layer)] if operation in self.around else []

    async def layer(self, op: Operation, call_next: Next) -> Any:
        try:
            return await call_next(op)
        except AccessDenied:
            return 0


class SwallowsADuplicate(_Layer):
    around = frozenset({"create"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        try:
            return await call_next(op)
        except DuplicateKey:
            return [document["_id"] for document in op.documents]


class ForgetsTheRevision(_Layer):
    around = frozenset({"write"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        return await call_next(op.map_updates(lambda update: replace(update, expect={})))


class WritesTwice(_Layer):
    around = frozenset({"write"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        await call_next(op)
        return await call_next(op.map_updates(lambda update: replace(update, expect={})))


class WritesAgain(_Layer):
    """It sends a write again whose answer was lost."""

    around = frozenset({"write"})

    async def layer(self, op: Operation, call_next: Next) -> Any:
        try:
            return await call_next(op)
        except Exception:
            return await call_next(op)


class RemembersATry(_Layer):
    around = frozenset({"create"})

    def __init__(self) -> None:
        self.seen: set[Any] = set()

    async def layer(self, op: Operation, call_next: Next) -> Any:
        ids = {document["_id"] for document in op.documents}
        if ids & self.seen:
            raise RuntimeError("it is stored already")
        self.seen |= ids
        return await call_next(op)


class LogEntry(BaseModel):
    """The bookkeeping of the plugins named log."""

    _name = "conformance_fault.log"
    _bookkeeping = "log"
    text = String()


class CountsOnlyFirstTries(_Layer):
    """It stores an entry for each record, and remembers which, though that was rolled back."""

    name = "log"
    around = frozenset({"create"})

    def __init__(self) -> None:
        self.seen: set[Any] = set()

    @hookimpl
    def register_models(self) -> Iterable[type[BaseModel]]:
        return [LogEntry]

    async def layer(self, op: Operation, call_next: Next) -> Any:
        result = await call_next(op)
        if not issubclass(op.model, LogEntry) and not self.seen.intersection(result):
            self.seen.update(result)
            await LogEntry.create({"text": "created"})
        return result


# -- observers ------------------------------------------------------------------------------------


class ObservesOneKindOfChange:
    api = 1

    @hookimpl
    def after_write(self, op: Operation, result: int) -> None:
        assert op.update.operators


class LogsOutsideTheTransaction:
    api = 1
    name = "log"

    @hookimpl
    def register_models(self) -> Iterable[type[BaseModel]]:
        return [LogEntry]

    @hookimpl
    async def after_create(self, op: Operation, result: Sequence[Any]) -> None:
        with use_env(op.app.env):
            await LogEntry.create([{"text": str(pk)} for pk in result])


class FailsAfterARollback:
    api = 1

    @hookimpl
    def after_rollback(self, operations: Sequence[Operation]) -> None:
        raise RuntimeError("it cannot take that back")


class Event(BaseModel):
    """What happened: by mistake no bookkeeping."""

    _name = "conformance_fault.event"
    text = String()


class HearsEverybody:
    """It leaves out its own records, and not those that are made because of them."""

    api = 1
    hears_bookkeeping = True

    @hookimpl
    def register_models(self) -> Iterable[type[BaseModel]]:
        return [Event]

    @hookimpl
    async def after_create(self, op: Operation, result: Sequence[Any]) -> None:
        if not issubclass(op.model, Event):
            await Event.create([{"text": str(pk)} for pk in result])


class HearsItself:
    """It stores an event for each record, its own events included."""

    api = 1

    @hookimpl
    def register_models(self) -> Iterable[type[BaseModel]]:
        return [Event]

    @hookimpl
    async def after_create(self, op: Operation, result: Sequence[Any]) -> None:
        await Event.create({"text": "created"})


# -- values ---------------------------------------------------------------------------------------


def _text(field: Any, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it takes a text")
    return value


def _starts(text: str) -> Callable[[Sequence[object]], bool]:
    return lambda values: any(isinstance(v, str) and v.startswith(text) for v in values)


class _Operator:
    """A plugin with one operator."""

    api = 1
    operator: ClassVar[Operator]

    @hookimpl
    def register_operators(self) -> Iterable[Operator]:
        return [self.operator]


class SearchesInAnyCase(_Operator):
    operator = Operator(
        "starts",
        prepare=_text,
        to_mongo=lambda path, text: {path: {"$regex": "^" + re.escape(text), "$options": "i"}},
        matches=_starts,
    )


class WritesAPattern(_Operator):
    """A text with a dot in it is a pattern on the server."""

    operator = Operator(
        "starts",
        prepare=_text,
        to_mongo=lambda path, text: {path: {"$regex": "^" + text}},
        matches=_starts,
    )


class RefusesWithAnotherError(_Operator):
    operator = Operator(
        "longer",
        prepare=lambda field, value: len(value),
        to_mongo=lambda path, n: {path: {"$regex": f"(?s)^.{{{n}}}"}},
        matches=lambda n: lambda values: any(isinstance(v, str) and len(v) >= n for v in values),
    )


class DividesByZero(_Operator):
    operator = Operator(
        "divisible by",
        prepare=lambda field, value: field.operand(value),
        to_mongo=lambda path, n: {path: {"$mod": [n, 0]}},
        matches=lambda n: lambda values: any(type(v) is int and v % n == 0 for v in values),
    )


class TakesNothing(_Operator):
    operator = Operator(
        "never",
        prepare=lambda field, value: _text(field, None),
        to_mongo=lambda path, text: {path: text},
        matches=lambda text: lambda values: False,
    )


class _Kind:
    """A plugin with one field type."""

    api = 1
    kind: ClassVar[type[Field[Any, Any]]]

    @hookimpl
    def register_fields(self) -> Mapping[str, type[Field[Any, Any]]]:
        return {"Own": self.kind}


class LowerField(Field[str, N]):
    """Stored in small letters, and held as it was given."""

    python_type = str
    operand_types = (str,)

    def encode(self, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class ChangesWhatItStores(_Kind):
    kind = LowerField


class TagsField(ConvertingField[frozenset[str], N]):
    """Stored as something that is no BSON."""

    python_type = frozenset[str]

    def decode(self, value: Any) -> Any:
        return value

    def is_decoded(self, value: Any) -> bool:
        return True


class StoresNoBson(_Kind):
    kind = TagsField


class FloorField(Field[str, N]):
    """Its index leaves out every text."""

    python_type = str
    operand_types = (str,)
    index_floor = 0


class IndexesNothing(_Kind):
    kind = FloorField


class NullField(Field[str, N]):
    """Its index has records without a value in it."""

    python_type = str
    operand_types = (str,)
    index_floor = None


class IndexesNulls(_Kind):
    kind = NullField


class ShortField(Field[str, N]):
    """Its schema allows one letter."""

    python_type = str
    operand_types = (str,)

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "string", "maxLength": 1}


class DescribesOtherValues(_Kind):
    kind = ShortField


class HiddenField(Field[str, N]):
    """Its JSON form does not tell the value."""

    python_type = str
    operand_types = (str,)

    def to_json(self, value: Any) -> Any:
        return "***"


class HidesInJson(_Kind):
    kind = HiddenField


# -- cost -----------------------------------------------------------------------------------------


class StandsAroundEveryModel(_Layer):
    around = frozenset({"search"})


class HearsEveryCommit:
    api = 1

    @hookimpl
    def after_commit(self, operations: Sequence[Operation]) -> None: ...


WITHOUT_COST: Mapping[str, Any] = {"idle": None, "patience": 5.0}

FAULTS: Sequence[Fault] = (
    Fault("signatures", MisspeltHook, "did you mean 'startup'"),
    Fault("settings_print_no_values", SettingsThatTell, "setting 'url' shows its value"),
    Fault("settings_print_no_values", NestedSettingsThatTell, "setting 'store' shows its value"),
    Fault("settings_print_no_values", ConstructorThatTells, "setting 'url' shows its value"),
    Fault("starts_twice", StartsOnce, "the second time"),
    Fault("starts", NeedsAnOperation, "in its hook shutdown"),
    Fault("leaves_nothing", LeavesATask, "the task sleep"),
    Fault("leaves_nothing", LeavesASocket, "an open socket"),
    Fault("leaves_nothing", AwaitsNothing, "never awaited"),
    Fault("leaves_no_connection", ListensToTheServer, "the task sleep"),
    Fault("leaves_no_connection", KeepsAClient, "an open socket"),
    Fault(
        "failed_start", OpensBeforeStartup, "before the plugin's startup() leaves the task sleep"
    ),
    Fault("failed_start_on_server", OpensAClientTooEarly, "startup() leaves the task sleep"),
    Fault("cancelled_start", StartsInTwoParts, "leaves the task sleep"),
    Fault("cancelled_work", ShieldsAnOperation, "there is still the task", EVERY_MODEL),
    Fault("lets_apps_go", KeepsStoppedApps, "an App that was stopped is kept by"),
    Fault("lets_apps_go", RemembersItsApp, "an App that was stopped is kept by"),
    Fault("cancelled_stop", WaitsBeforeItCancels, "leaves the task sleep"),
    Fault("two_apps", KeepsStateInTheClass, "leave the task sleep"),
    Fault("two_apps", SharesAService, "one object as the service 'table'"),
    Fault("two_apps", ObservesForTheLatestApp, "an operation logs", EVERY_MODEL),
    Fault("starts_twice", ObservesTheFirstStart, "the second time it logs", EVERY_MODEL),
    Fault("two_apps", KeepsTheLatestApp, "after the stop of another App", EVERY_MODEL),
    Fault("disabled", PatchesEveryModel, "the attributes of BaseModel without it change: shout"),
    Fault("disabled", PatchesAModel, "the indexes of 'conformance.item'"),
    Fault("results", ReturnsNothing, "returned None", EVERY_MODEL),
    Fault("results", FindsNothing, "found 0 of them", EVERY_MODEL),
    Fault("results", HearsItself, "without end", EVERY_MODEL),
    Fault("cancellation", SwallowsCancellation, "ends as if it had succeeded", EVERY_MODEL),
    Fault("cancellation", TranslatesCancellation, "ends with RuntimeError", EVERY_MODEL),
    Fault("updates", KnowsOneKindOfChange, "write_many of 'conformance.item' raises", EVERY_MODEL),
    Fault("bulk", HoldsALock, "did not end within", WITHOUT_COST),
    Fault("streams", DropsTheRequest, "of 5 records gave", EVERY_MODEL),
    Fault("transactions", LeavesTheTransaction, "there after a rollback", EVERY_MODEL),
    Fault("values_kept", LosesAValue, "another value of 'words'", EVERY_MODEL),
    Fault("values_kept", ChangesAnAnswer, "another value of 'words'", EVERY_MODEL),
    Fault("pages_and_groups", GivesOneGroup, "gives 1 rows", EVERY_MODEL),
    Fault("pages_and_groups", AnswersWithoutPages, "limit=2, offset=0 gives", EVERY_MODEL),
    Fault("pages_and_groups", AnswersInNoOrder, "another order", EVERY_MODEL),
    Fault("answers_are_copies", AnswersWithoutCopies, "has not saved", EVERY_MODEL),
    Fault("answers_are_copies", CopiesTheOutside, "has not saved", EVERY_MODEL),
    Fault("refusals", ForgetsTheRevision, "a second writer of one revision", EVERY_MODEL),
    Fault("refusals", SwallowsADuplicate, "and a create succeeds", EVERY_MODEL),
    Fault("writes_once", WritesAgain, "is sent 2 times", EVERY_MODEL),
    Fault("writes_once", WritesTwice, "is 2 more after Inc(1)", EVERY_MODEL),
    Fault("rules_hold", ActsAsSystem, "finds 2", EVERY_MODEL),
    Fault("rules_hold", AnswersOutsideOfSecurity, "of another principal", EVERY_MODEL),
    Fault("rules_hold", SwallowsARefusal, "a unlink of", EVERY_MODEL),
    Fault("apps_apart", KeepsForAllApps, "of another App", EVERY_MODEL),
    Fault("retries", CountsTries, "CountsTries.count is another", EVERY_MODEL),
    Fault("retries", RemembersATry, "it is stored already", EVERY_MODEL),
    Fault("retries", CountsOnlyFirstTries, "other numbers of documents", EVERY_MODEL),
    Fault("observed_writes", ObservesOneKindOfChange, "its hook after_write", EVERY_MODEL),
    Fault("rollback", LogsOutsideTheTransaction, "conformance_fault_log", EVERY_MODEL),
    Fault("rollback", FailsAfterARollback, "after_rollback"),
    Fault("beside_others", HearsEverybody, "without end", EVERY_MODEL),
    Fault("operators", SearchesInAnyCase, "only for the server"),
    Fault("operators", WritesAPattern, "only for the server"),
    Fault("operators", RefusesWithAnotherError, "raises TypeError"),
    Fault("operators", DividesByZero, "the server refuses"),
    Fault("operators", TakesNothing, "operands={'never': [...]}"),
    Fault("fields", ChangesWhatItStores, "does not find its record"),
    Fault("fields", StoresNoBson, "MongoDB cannot store"),
    Fault("unique_nulls", IndexesNothing, "two records have one value"),
    Fault("unique_nulls", IndexesNulls, "without a value of Own(unique=True) collide"),
    Fault("schemas", DescribesOtherValues, "bson_schema()"),
    Fault("schemas", HidesInJson, "after its way through JSON"),
    Fault("idle_costs_nothing", StandsAroundEveryModel, "a search calls"),
    Fault("idle_costs_nothing", HearsEveryCommit, "a create calls"),
    *(
        Fault(
            "idle_costs_nothing",
            stands_around(name),
            f"a {'save' if name == 'write' else name} calls",
        )
        for name in ("create", "write", "unlink", "search", "count", "group")
    ),
)
"""The faults of plugins; those of a module and of a distribution are in the tests."""
