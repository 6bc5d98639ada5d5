"""Copies of records, and stored values read as dicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from earnorm.exceptions import DomainError, NotFound, ValidationError
from earnorm.fields.base import Field
from earnorm.fields.places import Place
from earnorm.fields.places import inside as inside_of
from earnorm.fields.relational import Relation, ToMany
from earnorm.kernel import pauses
from earnorm.kernel.environment import current_env
from earnorm.kernel.naming import nearest_field
from earnorm.kernel.notes import NO_NOTES, Note
from earnorm.kernel.pauses import free_later, parts, pause
from earnorm.kernel.steps import Loc
from earnorm.kernel.transactions.blocks import atomic
from earnorm.model.kinds import by_model, is_mixed
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.writing.creating import Creation, prepared
from earnorm.model.writing.incomplete import completed, refused_changes
from earnorm.model.writing.pending import changed_fields, unvalidated
from earnorm.model.writing.restoring import duplicate
from earnorm.model.writing.tracking import env_of, pks_of

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema


class NewRecord(NamedTuple):
    """The values of a record that is not stored yet.

    As the value of a link it is the record that is created with the one that points at it.

    Attributes:
        bound: Its model.
        values: Its values.
        known: Those of them that the record it is a copy of has validated. They are stored as they
            are, because a validator may change a value (hash a password, say).
        copied: The names in ``known`` of values that asynchronous validators have passed, too.
    """

    bound: BoundModel
    values: dict[str, Any]
    known: Mapping[str, Any]
    copied: Collection[str]


async def copies(records: Sequence[BaseModel], default: Mapping[str, Any]) -> list[Any]:
    """Create a copy of each record, with one insert for each model.

    Args:
        records: Stored and unsaved records. Fields that were not fetched are read.
        default: Values that replace the records' own.
    """
    if not records:
        return []
    new = await _copies_of(records, default)
    groups: dict[BoundModel, list[int]] = {}
    for position, copy in enumerate(new):
        groups.setdefault(copy.bound, []).append(position)
    if len(groups) == 1:
        made_alike = await (await prepared_copies(new)).execute()
        free_later(new)
        return made_alike
    creations = [
        await prepared_copies([new[p] for p in positions], [(p,) for p in positions])
        for positions in groups.values()
    ]
    made: dict[int, Any] = {}

    async def run() -> None:
        for creation, positions in zip(creations, groups.values(), strict=True):
            made.update(zip(positions, await creation.run(), strict=True))

    await atomic(run)
    return [made[position] for position in range(len(new))]


async def prepared_copies(
    new: Sequence[NewRecord],
    locs: Sequence[Loc] | None = None,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> Creation:
    """Check new records of one model, and prepare the work that their creation needs.

    Args:
        new: The records.
        locs: The location of each in the caller's input; None where ``new`` is that input.
        notes: The notes of the operation, which say who makes it.

    Raises:
        ValidationError: With every problem found.
    """
    return await prepared(
        new[0].bound,
        [record.values for record in new],
        locs,
        notes=notes,
        known=[record.known for record in new],
        copied=[record.copied for record in new] if any(record.known for record in new) else (),
    )


async def _copies_of(records: Sequence[BaseModel], default: Mapping[str, Any]) -> list[NewRecord]:
    """Return the values of the copies, in the order of the records."""
    records = await _of_known_classes(records)
    if len(records) > pauses.EVERY:
        await pause()
    if is_mixed(records):
        copy_of = {
            id(record): copy
            for group in by_model(records)
            for record, copy in zip(group, await _copies_of(group, default), strict=True)
        }
        return [copy_of[id(record)] for record in records]
    bound = env_of(records).app.bind(type(records[0]))
    if bound.withholding is not None:
        await bound.withholding.ready(current_env())
    fields = [field for field in _copied_fields(bound) if field.name not in default]
    missing: list[BaseModel] = []
    for part in parts(records):
        for record in part:
            if not _has_all(record, fields):
                missing.append(record)
        if part is not records:
            await pause()
    names = frozenset({"_id", *(field.name for field in fields)})
    stored = await read_stored(bound, missing, names) if missing else {}
    links = _links_to_copy(bound)
    own_fields = [field for field in fields if field.name not in links]
    values: list[dict[str, Any]] = []
    marks: list[_Marks] = []
    for part in parts(records):
        for record in part:
            values.append(_values_of(record, own_fields, stored))
            marks.append(_marks_of(record))
        if part is not records:
            await pause()
    for link in (field for field in fields if field.name in links):
        await _copy_targets(link, [_source(record, link, stored) for record in records], values)
    new: list[NewRecord] = []
    complete = {field.name for field in fields if _is_complete(field)}
    for of_part, marks_of_part in zip(parts(values), parts(marks), strict=True):
        new += [
            _new_record(bound, own, default, own_marks, complete)
            for own, own_marks in zip(of_part, marks_of_part, strict=True)
        ]
        if of_part is not values:
            await pause()
    return new


_Marks = tuple[Collection[str], Collection[str], bool]
"""The names of a record's changed fields, those of them that were not validated, and if it is stored."""


def _marks_of(record: BaseModel) -> _Marks:
    changed = changed_fields(record)
    return changed, unvalidated(record, changed) if changed else (), record.is_stored


def _values_of(
    record: BaseModel, fields: Iterable[Field[Any, Any]], stored: Mapping[Any, Any]
) -> dict[str, Any]:
    """Return the values of the copy of one record."""
    parts, values = _parts(record), dict[str, Any]()
    for field in fields:
        source = _source(record, field, stored)
        if field.name in source.__dict__:
            values[field.name] = (
                _value(source, field)
                if field.name not in parts
                else _completed(record, field, stored[record.pk])
            )
    return values


def _new_record(
    bound: BoundModel,
    own: dict[str, Any],
    default: Mapping[str, Any],
    marks: _Marks,
    complete: Collection[str],
) -> NewRecord:
    """Return the copy of one record, with the names of the values that are not validated again."""
    changed, pending, is_stored = marks
    known = {
        name: value
        for name, value in own.items()
        if name in complete
        and value is not None
        and name not in pending
        and not isinstance(value, NewRecord)
    }
    copied = known.keys() - set(changed) if is_stored else ()
    return NewRecord(bound, {**own, **default}, known, copied)


async def _of_known_classes(records: Sequence[BaseModel]) -> list[BaseModel]:
    """Return the records, and in place of a ghost of unknown class the record itself."""
    ghosts = [
        record
        for record in records
        if record.is_stored and record._fetch.is_ghost and _bound_of(record).classes is not None
    ]
    if not ghosts:
        return list(records)
    read: dict[tuple[str, Any], Any] = {}
    for group in by_model(ghosts):
        stored = await read_stored(_bound_of(group[0]), group, None)
        read.update(((group[0]._name, pk), record) for pk, record in stored.items())
    return [read.get((r._name, r.pk), r) if r.is_stored else r for r in records]


def _bound_of(record: BaseModel) -> BoundModel:
    return env_of([record]).app.bind(type(record))


def _links_to_copy(bound: BoundModel) -> Collection[str]:
    """Return the links of which a copy gets a copy of the other record, not the same one."""
    stored = bound.schema.stored
    return {field.name for field in stored if isinstance(field, Relation) and field.copies_target}


async def _copy_targets(
    link: Field[Any, Any], records: Sequence[BaseModel], values: Sequence[dict[str, Any]]
) -> None:
    """Set a link to copies of the records that these records point at."""
    targets = [getattr(record, link.name, None) for record in records]
    set_targets = [target for target in targets if target is not None]
    copies_of_targets = iter(await _copies_of(set_targets, {}) if set_targets else ())
    for own, target in zip(values, targets, strict=True):
        if target is not None:
            own[link.name] = next(copies_of_targets)


def _copied_fields(bound: BoundModel) -> Iterator[Field[Any, Any]]:
    links, withholding = _links_to_copy(bound), bound.withholding
    withheld: frozenset[str] = frozenset()
    if withholding is not None:  # their values are not known, or may not be set
        env = current_env()
        withheld = withholding.altered(env) | withholding.fixed(env)
    for field in bound.schema.stored:
        if field.name in withheld:
            continue
        if field.name in links or (field.copy and not field.generated and field.name != "_id"):
            yield field


def _has_all(record: BaseModel, fields: Iterable[Field[Any, Any]]) -> bool:
    return not record.is_stored or all(record._fetch.has(field.name) for field in fields)


def _source(record: Any, field: Field[Any, Any], stored: Mapping[Any, Any]) -> Any:
    """Return the object that has the field's value: the record itself, or its freshly read copy."""
    if record.is_stored and not record._fetch.has(field.name) and field.name not in record.__dict__:
        return stored[record.pk]
    return record


def _parts(record: BaseModel) -> Collection[str]:
    """Return the fields with embedded objects of which only some fields were fetched."""
    return record._fetch.parts if record.is_stored else ()


def _completed(record: BaseModel, field: Field[Any, Any], stored: Any) -> Any:
    """Return a value with what was not fetched of it, and with the record's changes.

    Raises:
        ValidationError: A change cannot be taken over without the rest of the value.
    """
    if field.name in changed_fields(record):
        problems = refused_changes(record, [field.name])
        if problems:
            raise ValidationError(record._name, problems)
        changed, whole = getattr(record, field.name), getattr(stored, field.name)
        stored.__dict__[field.name] = completed(changed, whole)
    return _value(stored, field)


def _value(record: Any, field: Field[Any, Any]) -> Any:
    # The ids of a relation need no record to be loaded.
    if isinstance(field, ToMany):
        return field.encode(getattr(record, field.name))
    if isinstance(field, Relation):
        return field.encode(record.__dict__[field.name])
    value = getattr(record, field.name)
    if value is None or not field.mutable:
        return value
    if _is_copied_whole(field):
        return duplicate(value)
    return field.decode(_copied(field, field.freeze(field.encode(value))))


def _is_copied_whole(field: Field[Any, Any]) -> bool:
    """Return whether no embedded object in a field's value has a field with ``copy=False``."""
    return all(place.field.copy or place.is_item for place in inside_of(Place(field, "", "")))


def _is_complete(field: Field[Any, Any]) -> bool:
    """Return whether the embedded objects in a copied value lack no value that they must have."""
    return not any(
        place.field.required and place.field.default is None and not place.field.copy
        for place in inside_of(Place(field, "", ""))
        if not place.is_item and place.field is not field
    )


def _copied(field: Field[Any, Any], stored: Any) -> Any:
    """Give the fields with ``copy=False`` in the embedded objects of a stored value their defaults."""
    if isinstance(stored, list):
        item = field.contents().items or field
        return [_copied(item, entry) for entry in stored]
    if not isinstance(stored, dict):
        return stored
    values = field.contents().values
    if values is not None:
        return {key: _copied(values, entry) for key, entry in stored.items()}
    schema: Schema | None = None if field.structure is None else field.structure._schema
    for inner in () if schema is None else schema.stored:
        if not inner.copy:
            stored.pop(inner.db_name, None)
            default = None if schema is None else schema.default_of(inner)
            if default is not None:
                stored[inner.db_name] = inner.encode(default)
        elif inner.db_name in stored:
            stored[inner.db_name] = _copied(inner, stored[inner.db_name])
    return stored


async def read_stored(
    bound: BoundModel,
    records: Sequence[BaseModel],
    names: frozenset[str] | None,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> dict[Any, Any]:
    """Read these records from the database, and return them by id.

    Args:
        bound: Their model.
        records: The records, which themselves do not change.
        names: The fields to read; None means all.
        notes: The notes of the search, e.g. who makes it if not the program.

    Raises:
        NotFound: Some of them do not exist any more.
    """
    pks = await pks_of(records)
    documents = await by_ids(bound, "_id", pks, fields=names, notes=notes)
    if len(documents) > pauses.EVERY:
        await pause()
    loaded = bound.shown(current_env(), names)
    stored = {record.__dict__["_id"]: record for record in hydrate(bound, documents, loaded)}
    if len(stored) < len(pks):
        raise NotFound(
            f"{bound.model._name}: {len(pks) - len(stored)} of {len(pks)} records do not exist any more"
        )
    return stored


async def read_values(
    records: Sequence[BaseModel], model: type[BaseModel], fields: Iterable[str] | None
) -> list[dict[str, Any]]:
    """Read some fields of the records as dicts, in the order of the records."""
    known = model._schema.fields
    wanted = None if fields is None else [*([fields] if isinstance(fields, str) else fields)]
    for name in wanted or ():
        if name not in known and name not in ("id", "pk"):
            hint = nearest_field(model._schema, name)
            raise DomainError(f"{model._name} has no field {name!r}{hint}")
        if name in known and known[name].secret:
            raise DomainError(f"{model._name}.{name} is secret, and shown nowhere")
    if not records:
        return []
    unsaved = [position for position, record in enumerate(records) if not record.is_stored]
    if unsaved:
        message = "read() asks the database, and this record is not stored"
        raise ValidationError(
            model._name, [{"loc": (place,), "msg": message, "type": "unsaved"} for place in unsaved]
        )
    bound = env_of(records).app.bind(model)
    names = None
    if wanted is not None:
        names = frozenset({"_id", *(name for name in wanted if name not in ("id", "pk"))})
        if bound.schema.derived is not None:
            names = names.union(bound.schema.derived.sources(names))
    stored = await read_stored(bound, records, names)
    rows: list[dict[str, Any]] = []
    for part in parts(records):
        for record in part:
            rows.append(_as_dict(stored[record.pk], wanted))
        if part is not records:
            await pause()
    return rows


def _as_dict(record: BaseModel, wanted: Sequence[str] | None) -> dict[str, Any]:
    values = record.to_dict()
    if wanted is None:
        return values
    return {
        "id": record.id,
        **{name: values[name] for name in wanted if name in values and name not in ("id", "pk")},
    }
