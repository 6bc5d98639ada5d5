"""One line for whatever ends a command, and the traceback where somebody asks for it."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import pydantic
import typer

from earnorm.exceptions import EarnORMError

_asked: ContextVar[bool] = ContextVar("traceback_asked", default=False)
_NO_FAILURES: Final = (SystemExit, KeyboardInterrupt, GeneratorExit)
_SHOWN: Final = 3
"""The most errors of a group that its line tells."""


def show_tracebacks(is_asked: bool) -> bool:
    """Note that an error shows its traceback: the callback of the option ``--traceback``."""
    if is_asked:
        _asked.set(True)
    return is_asked


@contextmanager
def reported() -> Iterator[None]:
    """End the command line with one line and exit code 1 where the block raises an exception.

    Raises:
        SystemExit: The block raised an exception.
    """
    token = _asked.set(os.environ.get("EARNORM_DEBUG", "") not in ("", "0"))
    try:
        yield
    except _NO_FAILURES:
        raise  # the command line has its own ways with these
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of a pipe has gone, and gets no message
        report(error, with_traceback=_asked.get())
        raise SystemExit(1) from None
    finally:
        _asked.reset(token)


def report(error: BaseException, *, with_traceback: bool) -> None:
    """Print an error to stderr: its traceback where it is wanted, then one line."""
    if with_traceback:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        typer.echo(f"earnorm: {in_a_line(error)}", err=True)
        return
    hint = "" if isinstance(error, EarnORMError) else " (--traceback shows where)"
    typer.echo(f"earnorm: {in_a_line(error)}{hint}", err=True)


def in_a_line(error: BaseException) -> str:
    """Describe an error in one line; one that is not EarnORM's begins with its class.

    A pydantic error's own text holds the values that it refuses, which may be secret settings. Here
    it has the places and the reasons only.
    """
    if isinstance(error, BaseExceptionGroup):
        told = [in_a_line(part) for part in error.exceptions[:_SHOWN]]
        more = len(error.exceptions) - _SHOWN
        if more > 0:
            told.append(f"and {more} more")
        return f"{type(error).__name__}: {' '.join(error.message.split())}: {'; '.join(told)}"
    if isinstance(error, pydantic.ValidationError):
        problems = (
            f"{'.'.join(map(str, problem['loc'])) or error.title}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        return f"{error.title}: {'; '.join(problems)}"
    try:
        text = " ".join(str(error).split())
    except Exception as fault:  # an error of somebody else's, whose __str__ is broken
        return f"{type(error).__name__}: its __str__ raises {type(fault).__name__}"
    if isinstance(error, EarnORMError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
