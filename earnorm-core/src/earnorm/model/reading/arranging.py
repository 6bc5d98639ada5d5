"""Reads dotted paths of records in memory, and sorts, groups and maps records by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from earnorm.domain.bson_order import MISSING, NULL_KEY, UNDEFINED_KEY, sort_keys
from earnorm.domain.bson_order import Key as BsonKey
from earnorm.domain.schema import ID_PATHS
from earnorm.domain.values import shorten
from earnorm.exceptions import DomainError
from earnorm.fields.relational import Relation, is_record, is_recordset
from earnorm.kernel import registry
from earnorm.kernel.environment import find_env
from earnorm.kernel.naming import nearest_field
from earnorm.model.reading.fetch import is_gone
from earnorm.model.reading.ordering import Order, parse_order
from earnorm.model.reading.parts import refuse_unread_path

if TYPE_CHECKING:
    from earnorm.model.recordset import RecordSet

Nulls = Literal["first", "last"]
Key = Callable[[Any], Any]


def reader(path: str) -> Key:
    """Return a function that reads a dotted path of a record; lists on the way are flattened.

    A record on the way that is gone gives None, as in the order and the groups of a search.

    Raises (when the function reads):
        DomainError: No such field.
        FieldNotLoaded: A field on the way was not fetched.
    """
    if not isinstance(path, str):
        raise DomainError(f"a path is a text, not {shorten(path)}")
    names = path.split(".")

    def read(record: Any) -> Any:
        value: Any = record
        for name in names:
            if value is None or (name not in ID_PATHS and is_gone(value)):
                return None
            if is_recordset(value):
                value = value.mapped(name)
            elif isinstance(value, list):
                value = _flat(_read_one(item, name) for item in _there(value))
            else:
                value = _read_one(value, name)
        return value

    return read


def _there(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items that have fields to read: neither None nor records that are gone."""
    return (item for item in items if item is not None and not is_gone(item))


def _read_one(owner: Any, name: str) -> Any:
    schema = getattr(type(owner), "_schema", None)
    if schema is None:
        raise DomainError(f"{name!r}: a {type(owner).__name__} has no fields")
    if name not in schema.fields and name not in ID_PATHS:
        raise DomainError(f"{schema.name} has no field {name!r}{nearest_field(schema, name)}")
    return getattr(owner, name)


def _flat(values: Iterable[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        if isinstance(value, list):
            flat += value
        else:
            flat.append(value)
    return flat


def is_true(value: object) -> bool:
    """Return whether a value is true; for a list, whether any item is."""
    return any(value) if isinstance(value, list) else bool(value)


# -- sorting --------------------------------------------------------------------------------------


def by_fields(
    records: Sequence[Any], order: Order, reverse: bool, nulls: Nulls | None
) -> list[Any]:
    """Sort records by paths with a stable sort; see ``RecordSet.sorted``."""
    if nulls not in (None, "first", "last"):
        raise ValueError(f'nulls is "first", "last" or None, not {nulls!r}')
    result = list(records)
    for path, direction in reversed(parse_order(order or "id")):
        descending = (direction < 0) is not reverse
        # The server takes the lowest of several values, and the highest in a descending sort.
        pick: Callable[[list[BsonKey]], BsonKey] = max if descending else min
        # A descending sort puts the highest rank first, so None's rank depends on the direction.
        null_rank = 1 if nulls is None else int((nulls == "last") is not descending) * 2
        keys = [pick(_keys(record, path)) for record in result]
        ranks = [(null_rank if one in _UNSET and nulls else 1, one) for one in keys]
        positions = sorted(range(len(result)), key=ranks.__getitem__, reverse=descending)
        result = [result[position] for position in positions]
    return result


_UNSET: Final = frozenset({NULL_KEY, UNDEFINED_KEY})


def _keys(record: Any, path: str) -> list[BsonKey]:
    """Return the keys by which the server may sort a record, made of what is stored.

    Raises:
        DomainError: No such field, or values that the database cannot hold.
        FieldNotLoaded: A field on the way was not fetched.
    """
    schema = type(record)._schema
    crossing = schema.crossing(path)
    if crossing is not None and crossing.rest:
        related = _records(reader(crossing.path if crossing.owned else _head(path))(record))
        if crossing.rest not in ID_PATHS:  # the id of a record that is gone is known
            related = list(_there(related))
        return [one for other in related for one in _keys(other, crossing.rest)] or [NULL_KEY]
    head = schema.field_at(path)
    field = schema.fields.get(head)
    try:
        if field is None or not field.stored:
            value = reader(path)(record)
            if is_recordset(value):
                value = [other.pk if is_record(other) else other for other in value._members()]
            elif hasattr(value, "is_stored"):
                value = value.pk
            elif field is not None and value is not None and path == head:
                value = field.encode(value)
            return sort_keys(value, ())
        parts = schema.order_path_of(path).split(".")
        refuse_unread_path(record, path)
        return sort_keys(_stored_value(record, field), parts[1:])
    except TypeError:
        raise DomainError(
            f"sorted({path!r}): these values have no order among each other; pass a callable"
        ) from None


def _stored_value(record: Any, field: Any) -> Any:
    value = record.__dict__.get(field.name, MISSING)
    if value is MISSING:
        getattr(record, field.name)  # raises FieldNotLoaded where it was not fetched
        return MISSING
    if field.mutable:  # a default that was only read is not stored
        return record._stored().get(field.db_name, MISSING)
    if field.name in type(record)._schema.to_many_names:
        document = {field.db_name: value}
        record._stored_links(document, [field])
        return document[field.db_name]
    return None if value is None else field.encode(value)


def _head(path: str) -> str:
    return path.partition(".")[0]


def _records(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if is_recordset(value) or isinstance(value, list) else [value]


# -- grouping and mapping -------------------------------------------------------------------------


def group(records: Iterable[Any], key: str | Key) -> dict[Any, list[Any]]:
    """Group records by the result of a callable, or by the value at a path."""
    read = key if callable(key) else reader(key)
    groups: dict[Any, list[Any]] = {}
    for record in records:
        value = read(record)
        try:
            groups.setdefault(value, []).append(record)
        except TypeError:
            raise DomainError(
                f"grouped(): a {type(value).__name__} cannot be the key of a group; pass a callable"
            ) from None
    return groups


def map_path(records: RecordSet[Any], path: str) -> Any:
    """Return the values at a path; a RecordSet without duplicates where it ends at a relation.

    Records behind a relation that are gone are left out.
    """
    reader(path)  # refuses what is no path
    current: Any = records
    model: type[Any] | None = records._model
    for name in path.split("."):
        if model is None:
            current = _flat(_read_one(item, name) for item in _there(_flat(current)))
            continue
        field = model._schema.fields.get(name)
        values = [_read_one(record, name) for record in current]
        if isinstance(field, Relation):
            model = _comodel(field, values)
            current = _union(model, values)
        else:
            if field is None and name not in ID_PATHS:
                hint = nearest_field(model._schema, name)
                raise DomainError(f"{model._schema.name} has no field {name!r}{hint}")
            model, current = None, values
    return current


def _union(model: type[Any], values: Iterable[Any]) -> RecordSet[Any]:
    from earnorm.model.recordset import RecordSet  # recordset imports this module

    members: dict[Any, None] = {}
    part_of = ""
    for value in values:
        if is_recordset(value):
            members.update(dict.fromkeys(value))
            part_of = part_of or value._part_of
        elif value is not None and not is_gone(value):
            members[value] = None
    return RecordSet(model, list(members), part_of=part_of)


def _comodel(field: Relation[Any, Any], values: Iterable[Any]) -> type[Any]:
    """Return the model at the other end as the App binds it; without an App, as it was defined."""
    for value in values:
        if is_record(value):
            return type(value)
        if is_recordset(value):
            model: type[Any] = value._model
            return model
    env = find_env()
    if env is not None and env.app.is_started:
        return env.app.model(field.comodel_name)
    if isinstance(field.comodel, str):
        return registry.definitions()[field.comodel]
    return field.comodel
