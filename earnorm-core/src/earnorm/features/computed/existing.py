"""Formulas see only records that exist: a link to a record that is gone is unset for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from earnorm.fields.relational import Relation, is_record, is_recordset
from earnorm.model.reading.fetch import is_gone
from earnorm.model.reading.parts import inside
from earnorm.model.relations.prefetch import prefetch_tree

if TYPE_CHECKING:
    from earnorm.model.schema import Schema

Hidden: TypeAlias = list[tuple[dict[str, Any], str, Any]]
"""The states in which a link was unset, each with the link's name and value."""


_tree = lru_cache(maxsize=1024)(prefetch_tree)
"""Returns the paths of a formula as nested mappings, which nobody changes."""


def value_without_gone(formula: Callable[[Any], Any], record: Any, paths: tuple[str, ...]) -> Any:
    """Return the value of a formula for a record, while links to records that are gone are unset.

    Args:
        formula: Computes the value.
        record: The record, which is as before afterwards.
        paths: The paths that the formula reads.
    """
    hidden = hide_gone(type(record)._schema, [record], _tree(paths))
    try:
        return formula(record)
    finally:
        for state, name, value in hidden:
            state[name] = value


def hide_gone(schema: Schema, structures: Sequence[Any], tree: Mapping[str, Any]) -> Hidden:
    """Unset the links to records that are gone, and return them.

    Args:
        schema: The class of the structures.
        structures: Records or embedded objects.
        tree: The paths to follow, as nested mappings. Only what was read already is followed.
    """
    hidden: Hidden = []
    for name, below in tree.items():
        field = schema.fields.get(name)
        if not isinstance(field, Relation):
            if field is not None and field.structure is not None and below:
                hidden += hide_gone(field.structure._schema, inside(structures, field), below)
            continue
        targets: dict[int, Any] = {}
        for structure in structures:
            state = structure.__dict__
            value = state.get(name)
            if is_recordset(value):
                targets.update((id(target), target) for target in value._records or ())
            elif is_gone(value):
                hidden.append((state, name, value))
                state[name] = None
            elif is_record(value):
                targets[id(value)] = value
        if below and targets:
            hidden += _below(list(targets.values()), below)
    return hidden


def _below(targets: Sequence[Any], tree: Mapping[str, Any]) -> Hidden:
    by_model: dict[type[Any], list[Any]] = {}
    for target in targets:
        by_model.setdefault(type(target), []).append(target)
    hidden: Hidden = []
    for model, records in by_model.items():
        hidden += hide_gone(model._schema, records, tree)
    return hidden
