"""The manager of an App's plugins, which looks for the hooks of a class once."""

from __future__ import annotations

import inspect
from typing import NamedTuple
from weakref import WeakKeyDictionary

import pluggy
from typing_extensions import override

from earnorm.kernel.hookspecs import PROJECT

_MARK = f"{PROJECT}_impl"
_NO_HOOKS: WeakKeyDictionary[type, _NoHooks] = WeakKeyDictionary()


class _NoHooks(NamedTuple):
    """The names of the attributes of a class that are no hooks of its instances."""

    names: frozenset[str]
    are_all: bool


class Manager(pluggy.PluginManager):
    """Registers plugins without a look at what is no hook of their classes for sure.

    A look at an attribute takes 10 µs, and the plugins and features of an App have 500.
    """

    @override
    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register a plugin, unless neither its class nor the instance has anything to look at."""
        if not getattr(plugin, "__dict__", None) and _no_hooks(type(plugin)).are_all:
            return name
        return super().register(plugin, name)

    @override
    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        if name.startswith("__"):
            return None
        if name in _no_hooks(type(plugin)).names and name not in getattr(plugin, "__dict__", ()):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def _no_hooks(cls: type) -> _NoHooks:
    known = _NO_HOOKS.get(cls)
    if known is None:
        every = dir(cls)
        names = frozenset(filter(lambda name: _is_no_hook(cls, name), every))
        known = _NO_HOOKS[cls] = _NoHooks(names, len(names) == len(every))
    return known


def _is_no_hook(cls: type, name: str) -> bool:
    value = inspect.getattr_static(cls, name, None)
    if name.startswith("__") or isinstance(value, str | int):
        return True
    function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    return inspect.isfunction(function) and not (hasattr(value, _MARK) or hasattr(function, _MARK))
