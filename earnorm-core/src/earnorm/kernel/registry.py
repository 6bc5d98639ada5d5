"""The registry of model classes by name.

One list of definitions for the whole process, filled as classes are defined and read without I/O.
Each App looks names up in it and adds the extensions of its own plugins.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from earnorm.exceptions import ConfigurationError
from earnorm.fields.comodels import MODELS

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

_definitions: dict[str, type[BaseModel]] = MODELS
_earlier: dict[str, list[weakref.ref[type[BaseModel]]]] = {}
"""The earlier classes of a name, oldest first, which live as long as somebody holds them."""
_brought: weakref.WeakKeyDictionary[type[BaseModel], weakref.WeakSet[type[BaseModel]]] = (
    weakref.WeakKeyDictionary()
)
"""The models that a plugin returned in any App, each with those that came together with it."""
_forgotten: weakref.WeakSet[type[BaseModel]] = weakref.WeakSet()
_version = 0


class Listener(Protocol):
    """An object that hears of models that are defined and forgotten."""

    def model_defined(self, model: type[BaseModel]) -> None:
        """Hear of a new model; an exception takes the definition back."""

    def model_forgotten(self, model: type[BaseModel]) -> None:
        """Drop a model."""


_listeners: list[weakref.ref[Listener]] = []


def define(model: type[BaseModel]) -> None:
    """Register a model's class; a later definition of its name replaces it in look-ups by name.

    Code that holds the class itself still uses that class.
    """
    name = model._name
    before = _definitions.get(name)
    if before is not None:
        _earlier[name] = [weakref.ref(other) for other in (*_living(name), before)]
    _definitions[name] = model
    touch()
    try:
        for listener in _living_listeners():
            listener.model_defined(model)
    except BaseException:
        _remove(model)  # the class statement fails, so nobody has the class
        raise


def _remove(model: type[BaseModel]) -> None:
    name = model._name
    earlier = [other for other in _living(name) if other is not model]
    if _definitions.get(name) is model:
        if earlier:
            _definitions[name] = earlier.pop()
        else:
            del _definitions[name]
    _earlier[name] = [weakref.ref(other) for other in earlier]
    if not earlier:
        del _earlier[name]
    touch()


def forget(*models: type[BaseModel]) -> None:
    """Drop models that were made while the program runs, e.g. one for each tenant's form.

    Their names are free again, no App finds or prepares them any more, and using such a class is an
    error. Operations on them that are under way go on to their end. Python frees the classes when
    the program holds none of them.

    Raises:
        ConfigurationError: An argument is no model.
    """
    for model in models:
        base = getattr(model, "_base", None) or model
        if getattr(base, "_schema", None) is None or base._abstract or base._inherit is not None:
            raise ConfigurationError(f"forget() takes classes of models, not {model!r}")
        _forgotten.add(base)
        _remove(base)
        for listener in _living_listeners():
            listener.model_forgotten(base)


def is_forgotten(model: type[BaseModel]) -> bool:
    """Return whether a model was dropped with :func:`forget`."""
    return model in _forgotten


# -- models of one name ---------------------------------------------------------------------------


def _living(name: str) -> list[type[BaseModel]]:
    """Return the earlier classes of a name that are still there, oldest first."""
    return [model for reference in _earlier.get(name, ()) if (model := reference()) is not None]


def contested() -> Iterator[str]:
    """Yield the names that several classes were defined for."""
    yield from tuple(_earlier)


def is_contested(name: str) -> bool:
    """Return whether several classes were defined for a name."""
    return name in _earlier


def candidates(name: str) -> list[type[BaseModel]]:
    """Return the classes of a name that are still there, the latest last."""
    latest = _definitions.get(name)
    return [*_living(name), *([] if latest is None else [latest])]


def latest(name: str) -> type[BaseModel]:
    """Return the latest class of a name."""
    return _definitions[name]


def is_local(model: type[BaseModel]) -> bool:
    """Return whether a function made the class, which then replaces others of its name."""
    return "<locals>" in model.__qualname__


def rivals(
    name: str, counts: Callable[[type[BaseModel]], bool]
) -> tuple[type[BaseModel], type[BaseModel]] | None:
    """Return two models of one name between which nothing decides; None if there are none such.

    A local class decides nothing, and neither does one of the same module and qualified name, which
    was defined again.

    Args:
        name: The name.
        counts: A function that tells which models count.
    """
    places = {
        _place(model): weakref.ref(model)
        for model in candidates(name)
        if not is_local(model) and counts(model)
    }
    if len(places) < 2:
        return None
    gc.collect()  # a class that only the garbage holds is none to choose
    living = [model for reference in places.values() if (model := reference()) is not None]
    return (living[-2], living[-1]) if len(living) > 1 else None


def _place(model: type[BaseModel]) -> str:
    return f"{model.__module__}.{model.__qualname__}"


# -- models of plugins ----------------------------------------------------------------------------


def bring(models: Iterable[type[BaseModel]]) -> None:
    """Note that a plugin returned these models, so that Apps without it do not count them as own."""
    together: weakref.WeakSet[type[BaseModel]] = weakref.WeakSet(models)
    known = [_brought[model] for model in together if model in _brought]
    if len(known) == len(together) and all(together <= others for others in known):
        return
    for model in together:
        _brought.setdefault(model, weakref.WeakSet()).update(together)
    touch()


def brought_with(model: type[BaseModel]) -> Iterable[type[BaseModel]]:
    """Return the models that a plugin returned together with a model; empty if none returned it."""
    return tuple(_brought.get(model, ()))


# -- listeners ------------------------------------------------------------------------------------


def listen(listener: Listener) -> None:
    """Tell an object of each model that is defined or forgotten later, as long as it lives."""
    _listeners.append(weakref.ref(listener, _listeners.remove))


def _living_listeners() -> list[Listener]:
    return [listener for reference in _listeners if (listener := reference()) is not None]


def touch() -> None:
    """Make callers derive anew what they derived from the definitions."""
    global _version
    _version += 1


def version() -> int:
    """Return a number that grows with each definition, so that callers can keep derived values."""
    return _version


def definitions() -> Mapping[str, type[BaseModel]]:
    """Return every defined model by name."""
    return MappingProxyType(_definitions)
