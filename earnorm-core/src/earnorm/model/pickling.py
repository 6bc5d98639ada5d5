"""Copies and pickles records: the stored form travels, and the current App makes the record again.

One App's class of a model cannot be imported, and the loading state of a record belongs to one
process. So ``copy.copy``, ``copy.deepcopy`` and ``pickle`` take the model, the values and the names
of the changed fields. A link to a record that is not stored has no stored form: that record travels
along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import NotSupported
from earnorm.fields.base import MISSING, freeze, is_embedded
from earnorm.fields.relational import is_record
from earnorm.kernel.environment import current_env
from earnorm.kernel.serving.projecting import head_of
from earnorm.kernel.value_steps import NOTHING
from earnorm.model.reading.fetch import ID_ONLY
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.reading.parts import paths_of, take_parts
from earnorm.model.slots import pending_of, set_state
from earnorm.model.writing.incomplete import changed_inside
from earnorm.model.writing.pending import changed_fields, unvalidated

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


def reduced(record: BaseModel) -> tuple[Any, ...]:
    """Return the data from which ``pickle`` makes the record again."""
    model = type(record)
    base = model._base or model
    along = _unsaved_links(record)
    secrets = _secrets(record)
    document = freeze(record._stored(secrets.union(along)))  # else one list is in two records
    made = _reduced(record, base, document, secrets)
    return (*made, along) if along else made


def _secrets(record: BaseModel) -> frozenset[str]:
    """Return the names of the fields whose values do not travel, because they hold secrets.

    Raises:
        NotSupported: Such a value is not saved yet, and would be lost.
    """
    schema, state = type(record)._schema, record.__dict__
    if not schema.secrets:
        return schema.secrets
    unsaved = schema.secrets.intersection(changed_fields(record) if record.is_stored else state)
    lost = sorted(name for name in unsaved if state.get(name) is not None)
    if lost:
        raise NotSupported(
            f"{record._name}: {lost[0]!r} holds a secret value that is not saved; neither a copy nor a "
            f"pickle of the record takes it along: save() the record first"
        ).coded("secret_value")
    return schema.secrets


def _unsaved_links(record: BaseModel) -> dict[str, Any]:
    """Return the records that are not stored, by the fields that link to them."""
    values = {
        field.name: record.__dict__.get(field.name) for field in type(record)._schema.relations
    }
    return {
        name: value
        for name, value in values.items()
        if value is not None and is_record(value) and not is_embedded(value) and not value.is_stored
    }


def _reduced(
    record: BaseModel, base: type[BaseModel], document: Any, secrets: frozenset[str]
) -> tuple[Any, ...]:
    model = type(record)
    if not record.is_stored:
        return _new, (base, document, _unchecked(record, changed_fields(record)))
    fetch = record._fetch
    fields = model._schema.fields
    names = [n for n in changed_fields(record) if fields[n].stored and n not in secrets]
    loaded = fetch.loaded
    if secrets:
        everything = (field.name for field in model._schema.stored)
        loaded = frozenset(everything if loaded is None else loaded) - secrets
    if not secrets.issuperset(fetch.parts):
        return _with_parts(record, base, document, loaded, names)
    unchecked = _unchecked(record, names)
    return _stored, (base, document, loaded, fetch.is_ghost, names, unchecked)


def _with_parts(
    record: BaseModel,
    base: type[BaseModel],
    document: Any,
    loaded: frozenset[str] | None,
    names: Sequence[str],
) -> tuple[Any, ...]:
    secrets = type(record)._schema.secrets
    inside = frozenset(path for path in paths_of(record) if head_of(path) not in secrets)
    parts = frozenset(record._fetch.parts) - secrets
    loaded = (loaded or frozenset()).union(parts).difference(map(head_of, inside))
    paths = [n for name in names for n in changed_inside(record, name)]
    unchecked = _unchecked(record, [name for name in names if name in paths])
    return _stored, (base, document, loaded, False, paths, unchecked, inside)


def _unchecked(record: BaseModel, names: Sequence[str]) -> dict[str, Any]:
    """Return the changed fields whose values are not validated, with those that were refused.

    A refused value travels as it was given, because it may have no stored form. The others, which
    changed in place, are marked by MISSING.
    """
    state, refused = record.__dict__, pending_of(record).refused
    to_many = type(record)._schema.to_many_names
    return {
        name: freeze(state[name]) if name in refused else MISSING
        for name in unvalidated(record, names)
        if name not in to_many
    }


def _new(
    model: type[BaseModel], document: dict[str, Any], unchecked: Mapping[str, Any] = NOTHING
) -> BaseModel:
    bound_model = current_env().app.bind(model).model
    record = object.__new__(bound_model)
    set_state(record, bound_model._schema.state(document))
    _note_changes(record, unchecked, unchecked)
    return record


def _stored(
    model: type[BaseModel],
    document: dict[str, Any],
    loaded: frozenset[str] | None,
    is_ghost: bool,
    changed: list[str],
    unchecked: Mapping[str, Any] | None = None,
    inside: frozenset[str] = frozenset(),
) -> BaseModel:
    bound = current_env().app.bind(model)
    known = bound.schema.projection
    declared = {key: value for key, value in document.items() if key in known}
    record: BaseModel = hydrate(bound, [declared], ID_ONLY if is_ghost else loaded)[0]
    if inside:
        take_parts(bound.schema.fields, [record], inside, is_exact=True)
    if unchecked is None:  # a pickle of an earlier version, which validated nothing at assignment
        unchecked = dict.fromkeys(changed, MISSING)
    _note_changes(record, changed, unchecked)
    return record


def _note_inside(record: BaseModel, path: str) -> None:
    """Note a changed field of an embedded object of which only some fields were fetched."""
    *names, last = path.split(".")
    held: Any = record
    for name in names:
        held = held.__dict__.get(name)
    if is_embedded(held) and last in type(held)._schema.fields:
        held._pending_or_new().changes[last] = MISSING
        held._pending_or_new().refuse(last)  # it is validated again


def _note_changes(record: BaseModel, changed: Iterable[str], unchecked: Mapping[str, Any]) -> None:
    fields, state = type(record)._schema.fields, record.__dict__
    for name in changed:
        if name in fields:
            record._pending_or_new().changes[name] = MISSING
        elif "." in name:
            _note_inside(record, name)
    for name, value in unchecked.items():
        if name in fields and name in state:
            # The validation takes a value, and the stored form of it travelled.
            state[name] = fields[name].decode(state[name]) if value is MISSING else value
            record._pending_or_new().refuse(name)
