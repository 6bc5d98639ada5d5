"""Checks of how a plugin is found and loaded: its entry point, its hooks, its import, its settings."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final, get_args

import importlib_metadata
import pydantic

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError
from earnorm.kernel.hookspecs import GROUP
from earnorm.testing.apps import IsolatedApp
from earnorm.testing.conformance.checks import Broken, Check, NotApplicable, check
from earnorm.testing.conformance.subject import MEMORY, Subject, collected

_LOADING: Final = "loading"
_MARKER: Final = "marker-of-the-conformance-suite"


@check(
    _LOADING,
    "signatures",
    requirement="An App can be made with the plugin: its api, hooks, settings and requirements are right.",
    mend="Do what the error says. A required setting has a value in settings=, a required plugin "
    "stands in beside=.",
    section="Every hook",
    after=(),
)
async def signatures(subject: Subject) -> None:
    """Make an App with the plugin."""
    try:
        subject.make()
    except (PluginError, ConfigurationError) as error:
        raise Broken(str(error)) from error


@check(
    _LOADING,
    "entry_point",
    requirement="The plugin's distribution names its class in the entry-point group earnorm.plugins, "
    "and an App finds it there by its name.",
    mend='Put [project.entry-points."earnorm.plugins"] with name = "module:Class" into pyproject.toml, '
    "and install the distribution again.",
    section="A plugin in ten minutes",
    after=("signatures",),
)
async def entry_point(subject: Subject) -> None:
    """Look for the class among the entry points of its package."""
    cls = subject.plugin
    package = cls.__module__.partition(".")[0]
    points = list(importlib_metadata.entry_points(group=GROUP))
    own = [point for point in points if point.module.partition(".")[0] == package]
    if not own:
        distributions = _distributions_of(tuple(sys.path)).get(package, [])
        if not distributions:
            raise NotApplicable(f"no installed distribution has the package {package!r}")
        raise Broken(f"{', '.join(sorted(set(distributions)))} has no entry point in {GROUP}")
    problems: list[str] = []
    for point in own:
        try:
            loaded = point.load()
        except (Exception, SystemExit) as error:
            problems.append(
                f"{point.name} = {point.value} cannot be loaded: {type(error).__name__}"
            )
            continue
        if loaded is cls:
            _check_name(subject, point.name)
            return
    named = ", ".join(f"{point.name} = {point.value}" for point in own)
    raise Broken(
        "; ".join(problems) or f"none of {named} is the class {cls.__module__}:{cls.__qualname__}"
    )


@functools.cache  # it reads the list of files of every distribution
def _distributions_of(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    return importlib_metadata.packages_distributions()


def _check_name(subject: Subject, name: str) -> None:
    settings: dict[str, Any] = {name: subject.settings} if subject.settings else {}
    try:
        app = IsolatedApp(
            MEMORY, database="conformance", plugins=[*subject.beside, name], **settings
        )
    except EarnORMError as error:
        raise Broken(f"plugins=[{name!r}] is refused: {error}") from error
    if not any(info.name == name and info.status == "active" for info in app.plugins):
        raise Broken(f"plugins=[{name!r}] does not make it active")


@check(
    _LOADING,
    "no_work_at_import",
    requirement="Importing the plugin's module opens, starts, writes, prints and configures nothing.",
    mend="Do the work in startup(), once for each App, and undo it in shutdown().",
    section="Start, stop and `requires`",
    after=(),
)
async def no_work_at_import(subject: Subject) -> None:
    """Import the module in a Python of its own that watches what is done."""
    module = sys.modules.get(subject.plugin.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__":
        raise NotApplicable(f"{subject.plugin.__module__} is no module that can be imported again")
    found = await asyncio.to_thread(_work_of, module.__name__, file)
    if found:
        raise Broken(f"the import of {module.__name__} " + "; it ".join(found))


@functools.cache  # the same in a process, however many plugins the module has
def _work_of(module: str, file: str) -> tuple[str, ...]:
    program = Path(__file__).with_name("import_work.py")
    command = (sys.executable, "-B", str(program), module, file, *sys.path)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise Broken(f"{module} cannot be imported alone: {done.stderr.strip().splitlines()[-1:]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@check(
    _LOADING,
    "settings_print_no_values",
    requirement="An error about the plugin's settings names the setting and never its value, in the "
    "message, its causes, the log and the output: a value may be a password.",
    mend='Raise "must be an address", not f"{value} is no address", from validators and __init__, and '
    "log no settings.",
    section="When something is wrong",
    after=("signatures",),
)
async def settings_print_no_values(subject: Subject) -> None:
    """Give each setting values of other types, with a marker in them that must not appear."""
    ask = getattr(subject.plugin, "settings", None)
    model: type[pydantic.BaseModel] | None = None if ask is None else ask()
    if model is None:
        raise NotApplicable("it takes no settings")
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        setting = alias if isinstance(alias, str) else name
        for value in (*_WRONG, *_inner(field.annotation)):
            shown = _said(subject, {**subject.settings, setting: value})
            if _MARKER in shown:
                line = next(line for line in shown.splitlines() if _MARKER in line)
                shortened = line.strip().replace(_MARKER, "<the value>")[:200]
                raise Broken(f"the setting {setting!r} shows its value: {shortened}")


def _inner(annotation: Any) -> Iterator[object]:
    """Yield values with the marker in a field of a model inside the type of a setting."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        for name in annotation.model_fields:
            yield {name: _MARKER}
    for argument in get_args(annotation):
        yield from _inner(argument)


class _Odd:
    """An object that no setting can be."""

    def __repr__(self) -> str:
        return _MARKER


_WRONG: Final = (_MARKER, [_MARKER], {"key": _MARKER}, _MARKER.encode(), _Odd())


def _said(subject: Subject, settings: Mapping[str, object]) -> str:
    """Return all that is said when an App is made with these settings; empty if they are accepted."""
    output = io.StringIO()
    with (
        collected(logging.DEBUG, "", "earnorm") as log,
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        error: BaseException | None = None
        try:
            subject.make(settings=settings)
        except Exception as refused:
            error = refused
    if error is None:
        return ""
    return "\n".join([*_texts(error), *log.lines, output.getvalue()])


def _texts(error: BaseException) -> Iterator[str]:
    """Yield the message of an error, of its notes, and of what a traceback shows as its cause."""
    rendered = traceback.TracebackException.from_exception(error, compact=True)
    while rendered is not None:
        yield "".join(rendered.format_exception_only())
        cause = rendered.__cause__
        rendered = cause if cause is not None else _shown_context(rendered)  # type: ignore[assignment] # the loop ends at None


def _shown_context(
    rendered: traceback.TracebackException,
) -> traceback.TracebackException | None:
    return None if rendered.__suppress_context__ else rendered.__context__


CHECKS: Final[tuple[Check, ...]] = (
    signatures,
    entry_point,
    no_work_at_import,
    settings_print_no_values,
)
