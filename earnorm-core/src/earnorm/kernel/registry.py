"""Model names to classes.

One process-wide list of definitions, filled as classes are defined and read without I/O; each App
resolves names against it and adds the extensions that its own plugins bring.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from earnorm.fields.comodels import MODELS

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

_definitions: dict[str, type[BaseModel]] = MODELS
_version = 0
_listeners: list[weakref.WeakMethod[Callable[[type[BaseModel]], None]]] = []


def define(model: type[BaseModel]) -> None:
    """Note a model's class; a later definition by the same name takes its place for look-ups by
    name (a class that is at hand is always used itself)."""
    global _version
    _definitions[model._name] = model
    _version += 1
    for reference in tuple(_listeners):
        listener = reference()
        if listener is None:
            _listeners.remove(reference)
        else:
            listener(model)


def listen(listener: Callable[[type[BaseModel]], None]) -> None:
    """Call a method of an object for every model that is defined from now on, as long as the object lives."""
    _listeners.append(weakref.WeakMethod(listener))


def version() -> int:
    """A number that grows with every definition, for who keeps what follows from them."""
    return _version


def definitions() -> Mapping[str, type[BaseModel]]:
    """Every defined model by name."""
    return MappingProxyType(_definitions)
