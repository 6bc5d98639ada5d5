"""Plugins of the suite's own, which stand beside the plugin under test and see what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Domain
from earnorm.exceptions import AccessDenied
from earnorm.plugin import (
    Call,
    Layer,
    Middleware,
    Operation,
    OperationName,
    current_env,
    hookimpl,
    name_of,
)
from earnorm.testing.conformance.checks import Broken

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.models import BaseModel

OUTERMOST: Final = -1000
INNERMOST: Final = 1_000_000
_DEEPEST: Final = 12
"""The most operations inside each other, for one that the program asks for."""
_MOST: Final = 400
"""The most operations altogether."""


class Blocking:
    """The innermost layer of every operation: while it is told to, it waits to be cancelled.

    Attributes:
        reached: Set when an operation waits.
        is_closed: True while operations wait.
    """

    api = 1
    name = "conformance_blocking"

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.is_closed = False
        self._opening = asyncio.Event()

    def open(self) -> None:
        """Release the operations that wait, and stop none any more."""
        self.is_closed = False
        self._opening.set()

    @hookimpl
    def wrap_operation(self) -> Iterable[tuple[int, Middleware]]:
        """Return the layer."""
        return [(INNERMOST, self._wait)]

    async def _wait(self, op: Operation, call_next: Call) -> Any:
        if self.is_closed:
            self.reached.set()
            await self._opening.wait()
        return await call_next(op)


class AnswerLost(Exception):
    """A write was carried out, and its answer did not arrive."""


class Losing:
    """The innermost layer of every operation: it loses the answers of some.

    Attributes:
        lost: The number of answers that were lost in the current block.
    """

    api = 1
    name = "conformance_losing"

    def __init__(self) -> None:
        self.lost = 0
        self._of: tuple[str, str] | None = None

    @contextmanager
    def answers_of(self, operation: str, model: type[BaseModel]) -> Iterator[None]:
        """Lose the answers of one kind of operation on one model in the block."""
        self.lost, self._of = 0, (operation, name_of(model))
        try:
            yield
        finally:
            self._of = None

    @hookimpl
    def wrap_operation(self) -> Iterable[tuple[int, Middleware]]:
        """Return the layer."""
        return [(INNERMOST, self._lose)]

    async def _lose(self, op: Operation, call_next: Call) -> Any:
        if self._of != (op.name, name_of(op.model)):
            return await call_next(op)
        self.lost += 1
        if self.lost == 1:
            await call_next(op)
        raise AnswerLost


class Rules:
    """The access rules of the suite, where those of a security plugin stand.

    In a block of ``only`` the principal who acts there sees one record of a model, and every other
    principal none; system sees all.
    """

    api = 1
    name = "conformance_rules"

    def __init__(self) -> None:
        self._model = ""
        self._principal: object = None
        self._seen: Any = None
        self._refuses = False

    @contextmanager
    def only(self, model: type[BaseModel], seen: Any) -> Iterator[None]:
        """Show the principal who acts now one record of a model, by its id, in the block."""
        self._model, self._principal, self._seen = name_of(model), current_env().principal, seen
        try:
            yield
        finally:
            self._model = ""

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse every operation on that model in the block."""
        self._refuses = True
        try:
            yield
        finally:
            self._refuses = False

    @hookimpl
    def wrap_operation(self) -> Iterable[tuple[int, Middleware]]:
        """Return the layer."""
        return [(Layer.SECURITY, self._rule)]

    async def _rule(self, op: Operation, call_next: Call) -> Any:
        if op.env.system or name_of(op.model) != self._model:
            return await call_next(op)
        if self._refuses:
            raise AccessDenied("the suite's rules refuse it")
        if op.name != "create":
            seen = [self._seen] if op.env.principal == self._principal else []
            op = op.replace(domain=op.domain & Domain([("id", "in", seen)]))
        return await call_next(op)


class TooMany(Exception):
    """Operations of the plugins beside each other bring about more and more of them."""


class Counting:
    """The outermost layer of every operation: it stops operations that bring about each other.

    Attributes:
        seen: The names of operations and models, in the order in which they began.
        is_stopped: True once there were too many.
    """

    api = 1
    name = "conformance_counting"

    def __init__(self) -> None:
        self._depth: ContextVar[int] = ContextVar("depth", default=0)
        self.seen: list[str] = []
        self.is_stopped = False

    def refuse_endless(self, what: str) -> None:
        """Raise Broken if operations were stopped.

        Args:
            what: What the program did.
        """
        if self.is_stopped:
            latest = ", ".join(self.seen[-3:])
            raise Broken(f"{what} brings about operations without end: … {latest} …")

    @hookimpl
    def wrap_operation(
        self, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layer."""
        return [(OUTERMOST, self._count)]

    async def _count(self, op: Operation, call_next: Call) -> Any:
        self.seen.append(f"{op.name} {op.model._name}")
        depth = self._depth.get() + 1
        if self.is_stopped or depth > _DEEPEST or len(self.seen) > _MOST:
            self.is_stopped = True
            raise TooMany
        token = self._depth.set(depth)
        try:
            return await call_next(op)
        finally:
            self._depth.reset(token)


class Echo:
    """Stores an entry of its own for every record that is created, as an audit or an event log does.

    Its entries are its bookkeeping, as the contract asks.
    """

    api = 1
    name = "conformance_echo"

    def __init__(self, entry: type[BaseModel]) -> None:
        self._entry = entry

    @hookimpl
    def register_models(self) -> Iterable[type[BaseModel]]:
        """Return the model of an entry."""
        return [self._entry]

    @hookimpl
    async def after_create(self, op: Operation, result: Sequence[Any]) -> None:
        """Store an entry."""
        await self._entry.create([{"text": str(pk)} for pk in result])


class StartFails(Exception):
    """The start of an App fails, because the suite wants it to."""


class FailingStart:
    """Makes the start of its App fail, in one of its hooks.

    Args:
        required: The plugins that start before this one.
        hook: ``models_changed``, before any plugin starts, or ``startup``.

    Attributes:
        is_failing: False lets the App start.
    """

    api = 1
    name = "conformance_failing"

    def __init__(self, required: Sequence[str], hook: str) -> None:
        self.requires = list(required)
        self._hook = hook
        self.is_failing = True

    def _fail(self, hook: str) -> None:
        if self.is_failing and hook == self._hook:
            raise StartFails

    @hookimpl
    def models_changed(self) -> None:
        """Fail before any plugin starts."""
        self._fail("models_changed")

    @hookimpl
    def startup(self, app: App) -> None:
        """Fail after the plugin under test has started."""
        self._fail("startup")
