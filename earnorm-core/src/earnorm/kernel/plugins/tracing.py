"""The trace of an App's plugins, on the logger ``earnorm.plugins``.

``EARNORM_TRACE_PLUGINS=1`` shows it on stderr; a program's own logging shows it from the level DEBUG.
It tells which plugins there are, which are selected and why, how long their hooks took at the start
and at the stop, and the layers and steps of each operation when they are first put together. It
names classes and files, and no value of a setting or a record.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from inspect import isgenerator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from earnorm.kernel.layers import Layer, PlacedLayer, outermost_first

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.plugins.selection import PluginInfo, Selection
    from earnorm.kernel.steps import Step

log: Final = logging.getLogger("earnorm.plugins")

_VARIABLE: Final = "EARNORM_TRACE_PLUGINS"
_SLOW: Final = 0.001
"""Seconds from which a hook of a feature is told by itself."""


# -- where it is shown ----------------------------------------------------------------------------


class _StandardError(logging.Handler):
    """Prints the trace to stderr, unless the program's own logging prints it there."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.level_before = log.level
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if not _is_shown_otherwise():
            print(self.format(record), file=sys.stderr)  # noqa: T201


def _is_shown_otherwise() -> bool:
    logger: logging.Logger | None = log
    while logger is not None:
        for handler in logger.handlers:
            stream = getattr(handler, "stream", None)
            if stream in (sys.stderr, sys.stdout) and handler.level <= logging.DEBUG:
                return True
        logger = logger.parent if logger.propagate else None
    return False


def follow_environment() -> None:
    """Show the trace on stderr while ``EARNORM_TRACE_PLUGINS`` is set; asked when an App is made."""
    shown = next((h for h in log.handlers if isinstance(h, _StandardError)), None)
    is_wanted = os.environ.get(_VARIABLE, "") not in ("", "0")
    if is_wanted and shown is None:
        log.addHandler(_StandardError())
        log.setLevel(logging.DEBUG)
    elif shown is not None and not is_wanted:
        log.removeHandler(shown)
        log.setLevel(shown.level_before)


def is_on() -> bool:
    """Return whether anybody sees the trace."""
    return log.isEnabledFor(logging.DEBUG)


# -- how long hooks take --------------------------------------------------------------------------


class HookTimes:
    """The time that each hook of each plugin took, in seconds."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], float] = {}

    def timed(self, plugin: str, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the implementation of a hook, which then notes its time."""

        def measured(**arguments: object) -> Any:
            start = perf_counter()
            try:
                result = call(**arguments)
                if isgenerator(result):  # else the caller would run it, and pay
                    result = list(result)
            finally:
                self._add(plugin, hook, start)
            return awaited(result) if isinstance(result, Awaitable) else result

        async def awaited(result: Awaitable[Any]) -> Any:
            start = perf_counter()
            try:
                return await result
            finally:
                self._add(plugin, hook, start)

        return measured

    def _add(self, plugin: str, hook: str, start: float) -> None:
        key = plugin, hook
        self._times[key] = self._times.get(key, 0.0) + perf_counter() - start

    def take(self) -> dict[str, dict[str, float]]:
        """Return the times by plugin and hook, and begin again."""
        by_plugin: dict[str, dict[str, float]] = {}
        for (plugin, hook), seconds in self._times.items():
            by_plugin.setdefault(plugin, {})[hook] = seconds
        self._times.clear()
        return by_plugin


# -- what is told ---------------------------------------------------------------------------------


def tell_selection(app: App) -> None:
    """Tell which plugins were found, which are selected, and why."""
    loaded = app.loaded
    _tell(app, f"{_counted(loaded.names())} selected: {_choice(loaded.selection)}")
    instances = loaded.instances()
    for info in loaded.infos:
        what = f"plugin {info.name!r}{_origin(info)}"
        if info.name not in instances:
            _tell(app, f"{what}: {info.status}: {info.reason}")
            continue
        why = _reason(info, loaded.selection)
        hooks = ", ".join(info.hooks) or "none"
        _tell(app, f"{what}, {_place(instances[info.name])}: active: {why}; hooks: {hooks}")
    left_out = sorted(app.features.keys() - loaded.available)
    if left_out:
        _tell(app, f"features left out: {', '.join(left_out)}")


def tell_times(app: App, done: str, seconds: float, order: Iterable[str]) -> None:
    """Tell the order of a start or a stop, and how long each hook took.

    Args:
        app: The App.
        done: ``"started"``, ``"stopped"`` or ``"failed to start"``.
        seconds: How long it took.
        order: The plugins, in the order in which they were started or stopped.
    """
    times = {} if app.loaded.times is None else app.loaded.times.take()
    active = set(app.loaded.names())
    named = [name for name in order if name in active]
    _tell(app, f"{done} in {_ms(seconds)}; order: {', '.join(named) or 'no plugin'}")
    for plugin in named:
        taken = times.pop(plugin, {})
        shown = ", ".join(f"{hook} {_ms(time)}" for hook, time in taken.items())
        _tell(app, f"{done}: plugin {plugin!r}: {shown or 'no hook'}")
    of_features = sum(sum(taken.values()) for taken in times.values())
    slow = [
        f"{plugin}.{hook} {_ms(time)}"
        for plugin, taken in times.items()
        for hook, time in taken.items()
        if time >= _SLOW
    ]
    listed = f", of which {', '.join(slow)}" if slow else ""
    _tell(app, f"{done}: features of the core: {_ms(of_features)}{listed}")


def tell_layers(
    app: App, model: str, operation: str, layers: Sequence[PlacedLayer], steps: Sequence[Step]
) -> None:
    """Tell the layers of an operation, and the steps inside them."""
    shown = [
        f"{layer_name(p.layer)} {p.layer} {p.plugin or 'core'}" for p in outermost_first(layers)
    ]
    line = f"{model}.{operation}: {' → '.join([*shown, 'database'])}"
    if steps:
        named = (f"{step.stage.name} {step.plugin}.{step.name}" for step in steps)
        line += f"; steps: {', '.join(named)}"
    _tell(app, line)


def layer_name(number: int) -> str:
    """Return the name of a layer; for one of a plugin's own number that of the layer around it."""
    outer = max((layer for layer in Layer if layer <= number), default=None)
    if outer is None:
        return "outermost"
    return outer.name if outer == number else f"{outer.name}+{number - outer}"


def _tell(app: App, line: str) -> None:
    log.debug("App %r: %s", app.name, line)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} {'plugin' if len(names) == 1 else 'plugins'}"


def _choice(selection: Selection) -> str:
    if selection.plugins is None:
        return "all that are installed (no plugins=, EARNORM_PLUGINS or [tool.earnorm])"
    return f"{selection.chosen_by or 'plugins='} names them"


def _reason(info: PluginInfo, selection: Selection) -> str:
    if info.name in selection.required:
        return "required="
    if selection.plugins is None:
        return "it is installed"
    return f"{selection.chosen_by or 'plugins='} names it"


def _origin(info: PluginInfo) -> str:
    version = f" {info.version}" if info.version else ""
    return f"{version} from {info.distribution}" if info.distribution else version


def _place(plugin: object) -> str:
    cls = type(plugin)
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return f"{cls.__module__}:{cls.__qualname__}{f' ({file})' if file else ''}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
