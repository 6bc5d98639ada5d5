"""Threads for blocking calls that are there until the process has ended everything.

Python tells every pool of threads to take no more before it calls what ``atexit`` has registered,
and what an App does as it stops (an audit's last records, a connection) still needs threads then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class LastThreads(ThreadPoolExecutor):
    """A pool of threads that begins a thread for each call after Python has ended its pools."""

    _is_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do a call in a thread.

        Raises:
            RuntimeError: Its owner has shut it down.
        """
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            if self._is_closed:
                raise
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, as its owner asks for."""
        self._is_closed = True
        super().shutdown(wait, cancel_futures=cancel_futures)
