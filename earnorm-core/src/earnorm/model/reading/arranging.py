"""Reading dotted paths of records in memory, and what is sorted, grouped and mapped by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from earnorm.exceptions import DomainError, nearest
from earnorm.fields.relational import Relation, is_record, is_recordset
from earnorm.kernel import registry
from earnorm.kernel.environment import find_env
from earnorm.model.reading.ordering import Order, parse_order

if TYPE_CHECKING:
    from earnorm.model.recordset import RecordSet

Nulls = Literal["first", "last"]
Key = Callable[[Any], Any]


def reader(path: str) -> Key:
    """What reads the value at a dotted path of a record; lists on the way are flattened.

    Raises (when it reads):
        DomainError: No such field.
        FieldNotLoaded: A field on the way was not fetched.
    """
    names = path.split(".")

    def read(record: Any) -> Any:
        found: Any = record
        for name in names:
            if found is None:
                return None
            if is_recordset(found):
                found = found.mapped(name)
            elif isinstance(found, list):
                found = _flat(_read_one(item, name) for item in found if item is not None)
            else:
                found = _read_one(found, name)
        return found

    return read


def _read_one(owner: Any, name: str) -> Any:
    schema = getattr(type(owner), "_schema", None)
    if schema is None:
        raise DomainError(f"{name!r}: a {type(owner).__name__} has no fields")
    if name not in schema.fields and name not in ("id", "pk"):
        raise DomainError(f"{schema.name} has no field {name!r}{nearest(name, schema.fields)}")
    return getattr(owner, name)


def _flat(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, list):
            found += value
        else:
            found.append(value)
    return found


def is_true(value: object) -> bool:
    """Whether a value is true; of several, any of them."""
    return any(value) if isinstance(value, list) else bool(value)


# -- sorting --------------------------------------------------------------------------------------


def by_fields(
    records: Sequence[Any], order: Order, reverse: bool, nulls: Nulls | None
) -> list[Any]:
    """A stable sort by paths; see ``RecordSet.sorted``."""
    if nulls not in (None, "first", "last"):
        raise ValueError(f'nulls is "first", "last" or None, not {nulls!r}')
    found = list(records)
    for path, direction in reversed(parse_order(order or "id")):
        read, down = reader(path), (direction < 0) is not reverse
        # In a sort that is turned round, what shall come first has to rank highest.
        null_rank = 0 if nulls is None else int((nulls == "last") is not down) * 2

        def rank(
            record: Any, read: Key = read, null_rank: int = null_rank, down: bool = down
        ) -> tuple[int, Any]:
            value = _comparable(read(record), down)
            return (null_rank, 0) if value is None else (1, value)

        try:
            found.sort(key=rank, reverse=down)
        except TypeError:
            raise DomainError(
                f"sorted({path!r}): these values have no order among each other; pass a callable"
            ) from None
    return found


def _comparable(value: Any, down: bool) -> Any:
    """A value as it is sorted: a record by its id, several by the lowest, or downwards the highest."""
    if is_recordset(value):
        value = list(value)
    if isinstance(value, list):
        several = [each for item in value if (each := _comparable(item, down)) is not None]
        return (max(several) if down else min(several)) if several else None
    return value.pk if is_record(value) else value


# -- grouping and mapping -------------------------------------------------------------------------


def group(records: Iterable[Any], key: str | Key) -> dict[Any, list[Any]]:
    """Records by the value of a callable, or at a path."""
    read = key if callable(key) else reader(key)
    found: dict[Any, list[Any]] = {}
    for record in records:
        value = read(record)
        try:
            found.setdefault(value, []).append(record)
        except TypeError:
            raise DomainError(
                f"grouped(): a {type(value).__name__} cannot be the key of a group; pass a callable"
            ) from None
    return found


def map_path(records: RecordSet[Any], path: str) -> Any:
    """The values at a path; a RecordSet without duplicates where it ends at a relation."""
    found: Any = records
    model: type[Any] | None = records._model
    for name in path.split("."):
        if model is None:
            found = _flat(_read_one(item, name) for item in _flat(found) if item is not None)
            continue
        field = model._schema.fields.get(name)
        values = [_read_one(record, name) for record in found]
        if isinstance(field, Relation):
            model = _comodel(field, values)
            found = _union(model, values)
        else:
            if field is None and name not in ("id", "pk"):
                known = model._schema.fields
                raise DomainError(
                    f"{model._schema.name} has no field {name!r}{nearest(name, known)}"
                )
            model, found = None, values
    return found


def _union(model: type[Any], values: Iterable[Any]) -> RecordSet[Any]:
    from earnorm.model.recordset import RecordSet  # which maps with the functions here

    found: dict[Any, None] = {}
    for value in values:
        if is_recordset(value):
            found.update(dict.fromkeys(value))
        elif value is not None:
            found[value] = None
    return RecordSet(model, list(found))


def _comodel(field: Relation[Any, Any], values: Iterable[Any]) -> type[Any]:
    """The model at the other end, as the App sees it; without an App as it was defined."""
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
