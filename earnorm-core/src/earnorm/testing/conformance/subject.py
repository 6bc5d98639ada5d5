"""The plugin under test with what its author gave, and the Apps and models that checks use."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from earnorm.application import App
from earnorm.domain import Operator
from earnorm.exceptions import ConfigurationError, ServerUnavailable
from earnorm.fields import Field, Int, List, String
from earnorm.fields.relational import Relation
from earnorm.kernel.environment import current_app
from earnorm.kernel.plugins.selection import plugin_name
from earnorm.kernel.registry import forget
from earnorm.models import BaseModel
from earnorm.plugin import ModelView, name_of
from earnorm.testing.apps import IsolatedApp, database_name
from earnorm.testing.chosen import memory_chosen
from earnorm.testing.conformance.checks import Broken, NotApplicable
from earnorm.testing.samples import Samples, has_to_be_given
from earnorm.testing.servers import lasting_mongod

T = TypeVar("T")

MEMORY: Final = "mongomock://"

Sample = Mapping[str, object] | Callable[[int], Mapping[str, object]]
"""The values of a valid record, or a function that makes those of the record with a number."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model with which checks try the plugin, and the values of its records."""

    model: type[BaseModel]
    sample: Sample

    @property
    def name(self) -> str:
        """The name of the model."""
        return name_of(self.model)

    def values(self, number: int) -> dict[str, Any]:
        """Return the values of the record with this number."""
        return dict(self.sample(number) if callable(self.sample) else self.sample)

    def changes(self, number: int) -> dict[str, Any]:
        """Return the values of the record with this number that a write may give."""
        fields = fields_of(self.model)
        return {
            name: value
            for name, value in self.values(number).items()
            if name not in fields or not fields[name].readonly
        }


@dataclass(frozen=True, slots=True)
class Offer:
    """The parts of the contract that a plugin uses.

    Attributes:
        hooks: The names of its hooks.
        operators: Its operators.
        kinds: Its field types by name.
    """

    hooks: frozenset[str]
    operators: Sequence[Operator]
    kinds: Mapping[str, type[Field[Any, Any]]]


@dataclass
class Subject:
    """A plugin class and what its author said of it; ``check_plugin`` documents the arguments."""

    plugin: type
    settings: Mapping[str, object] = field(default_factory=dict)
    models: Mapping[type[BaseModel], Sample] | Iterable[type[BaseModel]] = ()
    beside: Sequence[str | type | object] = ()
    values: Mapping[str, Sequence[object]] = field(default_factory=dict)
    operands: Mapping[str, Sequence[object]] = field(default_factory=dict)
    idle: Mapping[str, object] | None = field(default_factory=dict)
    acting: Callable[[], AbstractContextManager[object]] = nullcontext
    uri: str | None = None
    memory_only: bool = False
    skip: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    patience: float = 20.0  # the machines of CI are slow at times
    targets: Sequence[Target] = ()
    """The suite's own model, then the author's; filled in for each check."""

    _offer: Offer | None = None

    @functools.cached_property
    def name(self) -> str:
        """The plugin's name, as an App knows it."""
        return plugin_name(self.plugin)

    @property
    def without_server(self) -> str:
        """The reason why checks that need a server are not applicable; empty if they are."""
        if self.memory_only:
            return "memory_only=True: no real server"
        chosen = "" if self.uri else memory_chosen()
        return f"{chosen}: no real server" if chosen else ""

    @property
    def server(self) -> str:
        """The URI of the real server: the author's, or one that is found or started as for fixtures.

        Raises:
            Broken: There is none, and nobody said that the checks are to do without.
            NotApplicable: The author or the run of tests said so.
        """
        if self.without_server:
            raise NotApplicable(self.without_server)
        try:
            return self.uri or lasting_mongod()
        except ServerUnavailable as error:
            raise Broken(
                f"this check needs a real server, a replica set: {error}; or give uri=, or run pytest with "
                f"--earnorm-memory, or say memory_only=True if the plugin is for mongomock:// only"
            ) from error

    # -- Apps -------------------------------------------------------------------------------------

    def make(
        self,
        *extra: object,
        with_plugin: bool = True,
        uri: str = MEMORY,
        settings: Mapping[str, object] | None = None,
        is_alone: bool = False,
    ) -> App:
        """Make an App that is not started, with the plugin, those beside it, and further ones.

        Args:
            *extra: Further plugins.
            with_plugin: False leaves the plugin under test out.
            uri: The server; the App has a database of its own there.
            settings: The plugin's settings; None means those that the author gave.
            is_alone: Give it no models but those of its plugins.
        """
        plugins: list[object] = [*self.beside, *extra]
        keywords: dict[str, Any] = {}
        given = self.settings if settings is None else settings
        if with_plugin:
            plugins.append(self.plugin)
            if given:
                keywords[self.name] = given
        app = IsolatedApp(uri, database=database_name(), plugins=plugins, **keywords)
        app.drops, app.is_alone = True, is_alone
        return app

    @asynccontextmanager
    async def app(
        self, *extra: object, with_plugin: bool = True, uri: str = MEMORY
    ) -> AsyncIterator[App]:
        """Give a started App with the plugin; who acts is what ``acting=`` says.

        Its database is dropped at the end.
        """
        async with self.make(*extra, with_plugin=with_plugin, uri=uri) as app:
            with self.acting():
                yield app

    async def offer(self) -> Offer:
        """Return the parts of the contract that the plugin uses, from one App with it and one without."""
        if self._offer is None:
            async with self.make(with_plugin=False) as other:
                operators, kinds = other.operators.keys(), other.field_types.keys()
            async with self.make() as app:
                hooks = next(info.hooks for info in app.plugins if info.name == self.name)
                self._offer = Offer(
                    frozenset(hooks),
                    [op for name, op in app.operators.items() if name not in operators],
                    {name: kind for name, kind in app.field_types.items() if name not in kinds},
                )
        return self._offer

    def shown(self, app: App) -> dict[str, object]:
        """Return what the plugin's instance in an App and its services show: what counts, by its name.

        These are public whole numbers, and the lengths of public containers.
        """
        plugin = app.loaded.held[self.name]
        holders: dict[str, object] = {f"the plugin's {self.plugin.__name__}": plugin}
        module = self.plugin.__module__.partition(".")[0]
        for name, service in app.services.items():
            if type(service).__module__.partition(".")[0] == module and service is not plugin:
                holders[f"the service {name!r}"] = service
        found: dict[str, object] = {}
        for holder, held in holders.items():
            for name, value in getattr(held, "__dict__", {}).items():
                if name.startswith("_"):
                    continue
                if isinstance(value, int):
                    found[f"{holder}.{name}"] = value
                elif isinstance(value, dict | list | set | frozenset | tuple | deque):
                    found[f"the length of {holder}.{name}"] = len(value)
        return found

    async def need(self, hooks: frozenset[str], reason: str) -> None:
        """Say that a check is not applicable to a plugin that has none of these hooks.

        Raises:
            NotApplicable: It has none; with the reason.
        """
        if not hooks & (await self.offer()).hooks:
            raise NotApplicable(reason)

    async def within(self, work: Awaitable[T], what: str) -> T:
        """Await the work, but not for ever.

        Raises:
            Broken: It takes longer than ``patience``.
        """
        try:
            return await asyncio.wait_for(work, self.patience)
        except TimeoutError:
            raise Broken(f"{what} did not end within {self.patience:g} s") from None

    # -- models -----------------------------------------------------------------------------------

    @contextmanager
    def with_models(self) -> Iterator[None]:
        """Fill in ``targets`` inside the block: the suite's own model lives no longer than it."""
        item = make_item({})
        given = self.models
        if not isinstance(given, Mapping):
            given = {model: functools.partial(made_values, model) for model in given}
        own = [Target(model, sample) for model, sample in given.items()]
        self.targets = (Target(item, item_values), *own)
        try:
            yield
        finally:
            self.targets = ()
            forget(item)


def make_item(attributes: Mapping[str, object]) -> type[BaseModel]:
    """Make the suite's own model, which is nobody's business, with further class attributes."""
    body = {
        "_name": "conformance.item",
        "text": String(),
        "number": Int(),
        "words": List(String()),
        "__module__": __name__,
        "__qualname__": "make_item.<locals>.Item",
        **attributes,
    }
    return type("Item", (BaseModel,), body)


def item_values(number: int) -> dict[str, object]:
    """Return the values of the record of the suite's own model with a number."""
    return {"text": f"text {number}", "number": number, "words": [f"word {number}"]}


def fields_of(model: type[BaseModel]) -> Mapping[str, Field[Any, Any]]:
    """Return the fields of a model in the current App, those that the plugin adds included."""
    return ModelView(current_app().extended(model)).fields


def made_values(model: type[BaseModel], number: int) -> dict[str, Any]:
    """Make the values of the record of a model with a number, from the declarations of its fields.

    Raises:
        Broken: A field needs a value, and none is found.
    """
    values: dict[str, Any] = {}
    for name, kind in fields_of(model).items():
        if name == "_id" or kind.generated or not (kind.is_given and kind.assignable):
            continue
        try:
            if isinstance(kind, Relation):
                raise ConfigurationError(f"{name} is a link to another record")
            values[name] = Samples().value(kind, number)
        except ConfigurationError as error:
            if has_to_be_given(kind):
                raise Broken(
                    f"the suite finds no value: {error}; give a mapping in models= with the values of a "
                    f"{name_of(model)!r}"
                ) from error
    return values


async def stored_counts(app: App) -> dict[str, int]:
    """Return the number of documents in each collection of an App's database, past every layer."""
    raw = app.dangerous_raw("the conformance suite looks at the database itself")
    names = await raw.list_collection_names()
    counts = {name: await raw[name].count_documents({}) for name in sorted(names)}
    return {name: count for name, count in counts.items() if count}


class ErrorLog(logging.Handler):
    """Collects what is logged as an error while it is open.

    Attributes:
        lines: One text for each entry, with the error that it carries.
    """

    def __init__(self, level: int = logging.ERROR) -> None:
        super().__init__(level)
        self.lines: list[str] = []
        self._seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one entry, once: the loggers above hand on what those below them have told."""
        if any(each is record for each in self._seen):
            return
        self._seen.append(record)
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f": {type(error).__name__}: {error}"
        self.lines.append(text)


@contextmanager
def collected(level: int = logging.ERROR, *loggers: str) -> Iterator[ErrorLog]:
    """Collect what is logged in the block, whatever the process has switched off.

    Args:
        level: The lowest level.
        *loggers: The loggers; by default EarnORM's own and those of its plugins.
    """
    log = ErrorLog(level)
    names = loggers or [name for name in (*logging.root.manager.loggerDict,) if _is_own(name)]
    targets = {logging.getLogger(name) for name in (*names, *(() if loggers else ("earnorm",)))}
    before = [(each, each.level, each.disabled, each.propagate) for each in targets]
    switched_off = logging.root.manager.disable
    if switched_off >= level:
        logging.disable(logging.NOTSET)
    for target in targets:
        # A logger that was silent stays so for the program's own handlers.
        was_silent = target.disabled or switched_off >= level
        target.addHandler(log)
        target.disabled = False
        target.propagate = target.propagate and not was_silent
        if target.getEffectiveLevel() > level:
            target.setLevel(level)
    try:
        yield log
    finally:
        for target, own_level, is_disabled, propagates in before:
            target.removeHandler(log)
            target.setLevel(own_level)
            target.disabled, target.propagate = is_disabled, propagates
        if switched_off >= level:
            logging.disable(switched_off)


def _is_own(logger: str) -> bool:
    return logger.replace("_", ".").split(".")[0] == "earnorm"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep EarnORM's own log entries from the program's output: faults are expected in the block."""
    logger, handler = logging.getLogger("earnorm"), logging.NullHandler()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
