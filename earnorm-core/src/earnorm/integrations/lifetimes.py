"""The life of an App beside that of a web server, and the moment at which endless answers have to end.

A server that is told to stop waits for the requests in flight before it ends the lifespan of the
application. A stream of events never ends by itself, so it has to hear of the signal. No framework
is imported here.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import FrameType
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from earnorm.application import App
from earnorm.kernel.environment import enter, leave
from earnorm.kernel.life.in_flight import GRACE

__all__ = ["AppSource", "Lifetime", "lifetime_of", "living"]

AppSource: TypeAlias = App | Callable[[], App] | Mapping[str, Any]
"""An App; a function that makes one at the start; or the arguments of an App, as a mapping."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Lifetime:
    """The time from the start of an App in a server to its end.

    Attributes:
        app: The App.
        ending: Is set when the server is told to stop, by a signal; at the latest when the App stops.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.ending = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def end(self) -> None:
        """End the answers that never end by themselves; from any thread. A server that gets no signal calls it."""
        with suppress(RuntimeError):  # of a loop that is closed
            self._loop.call_soon_threadsafe(self.ending.set)

    def __repr__(self) -> str:
        return f"<Lifetime of {self.app!r}{', ending' if self.ending.is_set() else ''}>"


class _Signals:
    """Tells the lifetimes of this process that it is asked to stop, and hands the signal on."""

    def __init__(self) -> None:
        self._lifetimes: list[Lifetime] = []
        self._previous: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._is_telling = False

    def add(self, lifetime: Lifetime) -> None:
        self._lifetimes.append(lifetime)
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may say who hears a signal, and a server in another hears none
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            # A process that ends at once has nobody who would wait for its streams.
            if callable(previous) and previous != self._hear:
                self._previous[number] = previous
                signal.signal(number, self._hear)

    def discard(self, lifetime: Lifetime) -> None:
        self._lifetimes.remove(lifetime)
        if self._lifetimes or threading.current_thread() is not threading.main_thread():
            return
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._hear:  # nobody has come after this
                signal.signal(number, previous)
        self._previous.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._is_telling:
            return  # somebody between has handed it on to this again
        self._is_telling = True
        try:
            for lifetime in tuple(self._lifetimes):
                lifetime.end()
            previous = self._previous.get(number)
            if previous is not None:
                previous(number, frame)
        finally:
            self._is_telling = False


_signals: Final = _Signals()
_lifetimes: Final[WeakKeyDictionary[App, Lifetime]] = WeakKeyDictionary()


def lifetime_of(app: App) -> Lifetime | None:
    """Return the lifetime of an App that a server runs, or None."""
    return _lifetimes.get(app)


def _made(source: AppSource) -> App:
    if isinstance(source, App):
        return source
    app = App(**source) if isinstance(source, Mapping) else source()
    if not isinstance(app, App):
        raise TypeError(
            f"lifespan() takes an App, a function that returns one, or a mapping of its arguments; the "
            f"function returned a {type(app).__name__}"
        )
    return app


@asynccontextmanager
async def living(source: AppSource, *, grace: float = GRACE) -> AsyncIterator[Lifetime]:
    """Start an App, make it the current one of the block, and stop it at its end.

    Args:
        source: The App, or what makes it.
        grace: The seconds that what is in flight has to end when the App stops.

    Raises:
        ConfigurationError: The App is started already.
        ServerUnavailable: No server answered in time.
        PluginError: A plugin failed.
    """
    app = _made(source)
    await app.start()
    lifetime = _lifetimes[app] = Lifetime(app)
    token = enter(app.env)
    try:
        _signals.add(lifetime)
        yield lifetime
    finally:
        with suppress(ValueError):  # it ends in another context, as in a test's fixture
            leave(token)
        lifetime.ending.set()
        _signals.discard(lifetime)
        if _lifetimes.get(app) is lifetime:
            del _lifetimes[app]
        await app.stop(grace=grace)
