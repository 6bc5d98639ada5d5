"""The background loop: one event loop of the process in a thread of its own, and its end.

A forked child has no such thread, so it makes a loop of its own when it first needs one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Final

from earnorm.backends.last_threads import LastThreads

log = logging.getLogger("earnorm")

_LOOP_SECONDS: Final = 10.0
"""The seconds for which the end of the loop waits for its thread."""


class BackgroundLoop:
    """An event loop that runs in a daemon thread until it is ended."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(LastThreads(thread_name_prefix="earnorm.sync"))
        self._is_ending = False
        self._thread = threading.Thread(target=self._live, name="earnorm.sync", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._is_ending:
                try:
                    self.loop.run_forever()
                except (KeyboardInterrupt, SystemExit):
                    # A task that nobody waits for must not end the work of all others.
                    log.exception("a task on the loop of earnorm.sync asked the process to exit")
            self._close()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def _close(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=_LOOP_SECONDS / 2))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())

    @property
    def is_alive(self) -> bool:
        """True while the loop takes work."""
        return self._thread.is_alive() and not self._is_ending

    def end(self) -> None:
        """Cancel the tasks of the loop, close it, and wait for its thread."""
        self._is_ending = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_LOOP_SECONDS)


_lock = threading.Lock()
_background: BackgroundLoop | None = None
_of_parents: Final[list[BackgroundLoop]] = []
"""The loops of parent processes: their finalizers would touch selectors that the parents use."""


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the background loop of this process; the first call starts it."""
    global _background
    with _lock:
        if _background is None or not _background.is_alive:
            _background = BackgroundLoop()
        return _background.loop


def is_background(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a loop is the background loop of this process."""
    found = _background
    return found is not None and found.loop is loop and found.is_alive


def taken() -> BackgroundLoop | None:
    """Return the background loop for its end, if there is one; the next call starts another."""
    global _background
    with _lock:
        found, _background = _background, None
    return found


def _leave_to_parent() -> None:
    global _background, _lock
    _lock = threading.Lock()  # a thread that the child does not have may have held the other
    if _background is not None:
        _of_parents.append(_background)
        _background = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
