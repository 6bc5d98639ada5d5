"""The options of a field and the models to which it leads, as a declaration gives them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

from earnorm.exceptions import cut
from earnorm.fields.base import Field
from earnorm.fields.relational import Relation
from earnorm.fields.secrets import holds_secrets

_FOR_PEOPLE: Final = frozenset({"string", "help"})
_VALUES: Final = frozenset({"default", "choices"})
"""The options that hold values of the field, which are not shown of a secret one."""
_TARGETS: Final = frozenset({"comodel", "comodels"})
_MOST_TEXT: Final = 120


def targets_of(field: Field[Any, Any]) -> tuple[str, ...]:
    """Return the names of the models to which a relation leads; empty for one to any model."""
    if not isinstance(field, Relation):
        return ()
    return (field.comodel_name,) if field.comodel_name else tuple(field.names())


def options_of(field: Field[Any, Any]) -> tuple[str, ...]:
    """Return the options of a field as texts: ``required``, ``min_length=3``, ``default=…``.

    Labels for people and the target of a relation are left out. So are the values of a secret field.
    """
    hides = holds_secrets(field)
    return tuple(
        f"{name}=…" if hides and name in _VALUES else _option(name, value)
        for name, value in _given(field)
        if name not in _FOR_PEOPLE | _TARGETS
    )


def _given(field: Field[Any, Any]) -> Iterator[tuple[str, Any]]:
    values, named = field.arguments
    bound = inspect.signature(type(field).__init__).bind_partial(field, *values)
    positional = list(bound.arguments.items())[1:]  # the first one is the field itself
    yield from positional
    yield from named.items()


def _option(name: str, value: Any) -> str:
    return name if value is True else f"{name}={_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Field):
        inside = ", ".join(options_of(value))
        return f"{type(value).__name__}({inside})" if inside else type(value).__name__
    if isinstance(value, list | tuple | set | frozenset):
        return cut(f"[{', '.join(map(_shown, value))}]", _MOST_TEXT)
    if isinstance(value, type) or callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return cut(repr(value), _MOST_TEXT)
