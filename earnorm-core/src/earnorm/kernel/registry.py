"""The registry of model classes by name.

One list of definitions for the whole process, filled as classes are defined and read without I/O.
Each App looks names up in it and adds the extensions of its own plugins.
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
    """Register a model's class; a later definition of its name replaces it in look-ups by name.

    Code that holds the class itself still uses that class.
    """
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
    """Call a method for each model that is defined later, as long as the method's object lives."""
    _listeners.append(weakref.WeakMethod(listener))


def version() -> int:
    """Return a number that grows with each definition, so that callers can keep derived values."""
    return _version


def definitions() -> Mapping[str, type[BaseModel]]:
    """Return every defined model by name."""
    return MappingProxyType(_definitions)
