"""The synchronous face, for programs without an event loop: scripts, notebooks' threads, Celery, WSGI.

Everything of EarnORM stays asynchronous; :func:`run` hands a piece of it to an event loop that runs
in the background, and waits for the answer. :class:`App` is an App that lives on that loop.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from earnorm import application
from earnorm.concerns import ReadConcern, ReadPreference, WriteConcern
from earnorm.exceptions import AppStopping, ConfigurationError
from earnorm.kernel import environment
from earnorm.kernel.environment import (
    Env,
    find_env,
    left_elsewhere,
    refuse_other_actor,
    with_current_origin,
)
from earnorm.kernel.life.in_flight import GRACE, Stopped
from earnorm.kernel.transactions import blocks
from earnorm.kernel.transactions.running import Transaction
from earnorm.model.query import Query
from earnorm.sync import background
from earnorm.sync.calls import Companion, call, loop_for, refuse_running_loop

__all__ = ["App", "entered", "iterate", "run", "session", "shutdown", "transaction"]

log = logging.getLogger("earnorm")

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE = 200
"""The records of a query that one step brings: with 1 a record costs ten times as much."""


@overload
def run(work: Awaitable[T], /) -> T: ...
@overload
def run(work: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
def run(work: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Do asynchronous work on the App's event loop, and return its result.

    The current App, the acting principal, the transaction and every other context variable of this
    thread hold in the work; what it has changed of them holds here afterwards. An exception of the
    work is raised here. If this thread is interrupted (Ctrl-C), the work is cancelled and awaited.

    Example::

        post = earnorm.sync.run(Post.get, post_id)
        posts = earnorm.sync.run(Post.search([("state", "=", "published")]))

    Args:
        work: Something to await (a coroutine, a query), or a function that returns such.
        *args: The arguments of the function.
        **kwargs: The keywords of the function.

    Raises:
        ConfigurationError: This thread runs an event loop, or the App's loop does not run.
        TypeError: The work is nothing to await.
    """
    refuse_running_loop(work, "earnorm.sync.run()")
    env = find_env()
    return _run(env, loop_for(env), work, args, kwargs)


def _run(
    env: Env | None,
    loop: asyncio.AbstractEventLoop,
    work: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if inspect.isawaitable(work):
        if args or kwargs:
            raise TypeError("run(): arguments are for a function; this is awaited as it is")
        return call(lambda: _awaited(work), env, loop)
    if not callable(work):
        raise TypeError(
            f"run() takes something to await, or an async function, not a {type(work).__name__}"
            f"{_of_stream(work)}"
        )
    return call(lambda: _called(work, args, kwargs), env, loop)


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def _called(work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = work(*args, **kwargs)
    if not inspect.isawaitable(result):
        name = getattr(work, "__qualname__", type(work).__name__)
        raise TypeError(
            f"run() takes an async function, and {name}() has returned a {type(result).__name__}"
            f"{_of_stream(result)}"
        )
    return await result


def _of_stream(value: object) -> str:
    return "; read a stream with iterate()" if hasattr(value, "__aiter__") else ""


def iterate(source: AsyncIterable[T], /) -> Generator[T]:
    """Read a stream: ``for record in earnorm.sync.iterate(Post.search()):``.

    It has constant memory, and one reader's rights from its beginning to its end. Of a query, up to
    200 records are brought at once; of any other stream, each when it comes. A loop that is left
    early closes the stream on the server.

    Args:
        source: A query, the events of ``watch()``, or any other asynchronous iterable.

    Raises:
        ConfigurationError: As for :func:`run`; or somebody else acts than at its beginning.
    """
    refuse_running_loop(source, "earnorm.sync.iterate()")
    return _items(source, None)


def _items(source: AsyncIterable[T], app: App | None) -> Generator[T]:
    env = find_env() if app is None else app._env_here()
    companion = Companion(env, loop_for(env))
    iterator: Any = None
    at_once = _AT_ONCE if isinstance(source, Query) else 1

    async def read() -> list[T]:
        nonlocal iterator
        if iterator is None:
            iterator = aiter(source)
        items: list[T] = []
        while len(items) < at_once:
            try:
                items.append(await anext(iterator))
            except StopAsyncIteration:
                break
        return items

    async def close() -> None:
        end = getattr(iterator, "aclose", None)  # a generator has it, and other iterators may not
        if end is not None:
            await end()

    try:
        while items := _asked(companion, read):
            for item in items:
                yield item
                _refuse_parents(companion)  # what is left of these items is the parent's
                if env is not None:
                    refuse_other_actor(env)
    finally:
        if not companion.is_of_parent:
            companion.ask(close, is_last=True)


def _asked(companion: Companion, work: Callable[[], Awaitable[T]]) -> T:
    _refuse_parents(companion)
    step = companion.ask(work)
    return step.result()


def _refuse_parents(companion: Companion) -> None:
    """Raise in a forked child where a stream or a block was begun by its parent."""
    if companion.is_of_parent:
        raise ConfigurationError(
            "this stream or block was begun in the process from which this one was forked, and goes on "
            "only there"
        ).coded("left_elsewhere")


@contextmanager
def entered(manager: AbstractAsyncContextManager[T], /) -> Iterator[T]:
    """Hold an ``async with`` block open around synchronous code.

    What the block sets (the App, the transaction) holds for the code inside, and for its calls of
    :func:`run`. One task enters and leaves it.

    Example::

        with earnorm.sync.entered(Ticket.watch()) as events:
            for event in earnorm.sync.iterate(events):
                ...

    Args:
        manager: What stands behind ``async with``.

    Raises:
        ConfigurationError: As for :func:`run`; or the block is left in another context than it was
            entered in.
    """
    refuse_running_loop(manager, "earnorm.sync.entered()")
    env = find_env()
    with _held(manager, env, loop_for(env)) as value:
        yield value


@contextmanager
def _held(
    manager: AbstractAsyncContextManager[T], env: Env | None, loop: asyncio.AbstractEventLoop
) -> Iterator[T]:
    companion = Companion(env, loop)
    is_inside = is_yielded = False
    tokens: list[tuple[ContextVar[Any], Token[Any]]] = []

    async def enter() -> T:
        nonlocal is_inside
        value = await manager.__aenter__()
        is_inside = True
        return value

    async def leave(error: BaseException | None) -> bool:
        nonlocal is_inside
        is_inside = False
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        return bool(await manager.__aexit__(kind, error, trace))

    def left(error: BaseException | None) -> bool:
        return companion.ask(functools.partial(leave, error), is_last=True).result()

    try:
        # All of it is in one 'try': an interrupt may come between any two of these lines.
        try:
            step = companion.ask(enter)
            value = step.result()
            tokens = step.brought_back()
            is_yielded = True
            yield value
            _refuse_parents(companion)
            left(None)
        except BaseException as error:
            if (
                companion.is_of_parent
            ):  # the block is not there to be left: it goes on in the parent
                raise
            if not is_inside:
                companion.end()
                raise
            if not left(error) or not is_yielded:
                raise
    finally:
        for variable, token in reversed(tokens):
            try:
                variable.reset(token)
            except ValueError:
                raise left_elsewhere() from None


def transaction(
    *,
    read_concern: ReadConcern | None = None,
    write_concern: WriteConcern | None = None,
    read_preference: ReadPreference | None = None,
    max_commit_time: float | None = None,
) -> AbstractContextManager[Transaction]:
    """Run everything in the block in a transaction: ``with earnorm.sync.transaction():``.

    All calls of :func:`run` and :func:`iterate` of this thread are part of it. The arguments and
    errors are those of :func:`earnorm.transaction`. A block is not tried again after a transient
    error; for that, :func:`run` a function with ``@earnorm.transactional()``.
    """
    return entered(
        blocks.transaction(
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
            max_commit_time=max_commit_time,
        )
    )


def session(*, causal: bool = True, snapshot: bool = False) -> AbstractContextManager[None]:
    """Run everything in the block in one session of the server; see :func:`earnorm.session`."""
    return entered(blocks.session(causal=causal, snapshot=snapshot))


class App(application.App):
    """An App that lives on the loop in the background, for code without an event loop.

    It takes the arguments of :class:`earnorm.App`, and is one: its methods that are asynchronous
    are called with :meth:`run`.

    Example::

        with earnorm.sync.App("mongodb://localhost:27017", database="shop") as app:
            app.run(Order.create({"number": 1}))
            for order in app.iterate(Order.search()):
                print(order.number)
    """

    _entered: Token[Env | None] | None = None

    async def start(self) -> Self:
        """Start on the background loop; :meth:`open` and ``with`` call it there.

        Raises:
            ConfigurationError: Another loop runs this; otherwise as for ``App.start``.
        """
        if not background.is_background(asyncio.get_running_loop()):
            raise ConfigurationError(
                "an earnorm.sync.App lives on the loop in the background: enter it with 'with', or call "
                "its open(); asynchronous code has earnorm.App"
            ).coded("sync_in_loop")
        return await super().start()

    def open(self) -> Self:
        """Start it, for all threads; ``with`` does that, and makes it the current App.

        Raises:
            ConfigurationError: It is started already, or this thread runs an event loop.
            ServerUnavailable: No server answered in time.
            PluginError: A plugin failed.
        """
        refuse_running_loop(None, "open()")
        return call(self.start, None, background.running_loop())

    def close(self, *, grace: float = GRACE) -> Stopped:
        """Stop it: see ``App.stop``. It does nothing if it is stopped.

        Args:
            grace: The seconds that work in flight has to end, which is that of other threads.

        Returns:
            What had to be cut off.
        """
        refuse_running_loop(None, "close()")
        loop = self._lifecycle.loop
        if loop is None:
            return Stopped()
        return call(lambda: self.stop(grace=grace), None, loop)

    @overload
    def run(self, work: Awaitable[T], /) -> T: ...
    @overload
    def run(self, work: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(self, work: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Do asynchronous work in this App: see :func:`earnorm.sync.run`.

        Raises:
            ConfigurationError: It is not started, or this thread runs an event loop.
        """
        refuse_running_loop(work, "run()")
        return _run(self._env_here(work), self._own_loop(), work, args, kwargs)

    def iterate(self, source: AsyncIterable[T], /) -> Generator[T]:
        """Read a stream in this App: see :func:`earnorm.sync.iterate`."""
        refuse_running_loop(source, "iterate()")
        return _items(source, self)

    def transaction(
        self,
        *,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        max_commit_time: float | None = None,
    ) -> AbstractContextManager[Transaction]:
        """Run everything in the block in a transaction of this App; see :func:`transaction`."""
        refuse_running_loop(None, "transaction()")
        manager = blocks.transaction(
            read_concern=read_concern,
            write_concern=write_concern,
            max_commit_time=max_commit_time,
        )
        return _held(manager, self._env_here(), self._own_loop())

    def _env_here(self, work: object = None) -> Env:
        """Return the Env in force in this thread if it is of this App, else one of nobody in it."""
        if not self.is_started:
            if inspect.iscoroutine(work):
                work.close()
            raise self._not_started()
        env = find_env()
        return with_current_origin(self.env) if env is None or env.app is not self else env

    def _not_started(self) -> ConfigurationError | AppStopping:
        error = super()._not_started()
        if isinstance(error, AppStopping) or self._lifecycle.is_of_parent:
            return error
        return ConfigurationError(
            f"App {self.name!r} is not started: 'with app:' or app.open() first"
        )

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        return self._lifecycle.loop or background.running_loop()

    def __enter__(self) -> Self:
        self.open()
        self._entered = environment.enter(self.env)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._entered = self._entered, None
        try:
            if token is not None:
                environment.leave(token)
        except ValueError:
            pass  # that context ends with its own value, as for 'async with'
        finally:
            self.close()


def shutdown(*, grace: float = GRACE) -> None:
    """Stop every App that lives on the background loop, then end the loop and its thread.

    It is called when the process ends in order. A later call of :func:`run` starts another loop.

    Args:
        grace: The seconds that work in flight has to end.
    """
    refuse_running_loop(None, "earnorm.sync.shutdown()")
    found = background.taken()
    if found is None:
        return
    try:
        for env in environment.started_on(found.loop):
            call(functools.partial(env.app.stop, grace=grace), None, found.loop)
    finally:
        found.end()


@atexit.register
def _at_exit() -> None:
    try:
        shutdown()
    except BaseException:
        log.exception("earnorm.sync has not ended cleanly")
