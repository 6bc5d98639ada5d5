"""Copies and pickles records: the stored form travels, and the current App makes the record again.

One App's class of a model cannot be imported, and the loading state of a record belongs to one
process. So ``copy.copy``, ``copy.deepcopy`` and ``pickle`` take the model, the values and the names
of the changed fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earnorm.fields.base import MISSING, freeze
from earnorm.kernel.environment import current_env
from earnorm.model.reading.fetch import ID_ONLY
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.slots import set_state
from earnorm.model.writing.pending import changed_fields

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


def reduced(record: BaseModel) -> tuple[Any, ...]:
    """Return the data from which ``pickle`` makes the record again."""
    model = type(record)
    base = model._base or model
    document = freeze(record._stored())  # one list in two records would change in both
    if not record.is_stored:
        return _new, (base, document)
    fetch = record._fetch
    names = [n for n in changed_fields(record) if model._schema.fields[n].stored]
    return _stored, (base, document, fetch.loaded, fetch.is_ghost, names)


def _new(model: type[BaseModel], document: dict[str, Any]) -> BaseModel:
    bound_model = current_env().app.bind(model).model
    record = object.__new__(bound_model)
    set_state(record, bound_model._schema.state(document))
    return record


def _stored(
    model: type[BaseModel],
    document: dict[str, Any],
    loaded: frozenset[str] | None,
    is_ghost: bool,
    changed: list[str],
) -> BaseModel:
    bound = current_env().app.bind(model)
    known = bound.schema.projection
    declared = {key: value for key, value in document.items() if key in known}
    record: BaseModel = hydrate(bound, [declared], ID_ONLY if is_ghost else loaded)[0]
    for name in changed:
        if name in bound.schema.fields:
            record._changes_or_new()[name] = MISSING
    return record
