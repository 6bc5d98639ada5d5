"""Hints of errors that name fields: they name none that plugins keep from who is acting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from earnorm.exceptions import nearest
from earnorm.kernel.environment import find_env

if TYPE_CHECKING:
    from earnorm.model.schema import Schema

_NOTHING: Final[frozenset[str]] = frozenset()


def nearest_field(schema: Schema, name: str, known: Iterable[str] | None = None) -> str:
    """Return the hint of an error about an unknown field: see :func:`earnorm.exceptions.nearest`.

    Every error that a caller's own text can cause asks here, since a hint that is no right of the
    caller's would tell him what to guess for.

    Args:
        schema: The fields of a model or of an embedded object.
        name: The name that was handed in.
        known: The names of fields that fit; the default is all of the schema.
    """
    names = frozenset(schema.fields if known is None else known)
    return nearest(name, names - unnamed_fields(schema))


def may_name(schema: Schema, name: str) -> bool:
    """Return whether an error may tell who is acting what lies below a field."""
    return name not in unnamed_fields(schema)


def unnamed_fields(schema: Schema) -> frozenset[str]:
    """Return the names of a model's fields that errors do not tell who is acting.

    An embedded object has none of its own: it has those of the field that holds it.
    """
    env = find_env()
    if env is None or env.system or not schema.is_of_model or not env.app.is_started:
        return _NOTHING
    model = env.app.catalog.find(schema.name)
    if model is None:  # an abstract class
        return _NOTHING
    functions = env.app.bind(model).unnamed_fields
    return _NOTHING.union(*(function(env) for function in functions))
