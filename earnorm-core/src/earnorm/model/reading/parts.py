"""Embedded objects of which a search fetched only some fields: ``only("main.qty")``.

They are made with their record, not when they are first read, and each knows what it lacks. What may be
written of them is in ``writing.incomplete``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from earnorm.domain import Condition, Domain, Operator
from earnorm.domain.paths import is_position
from earnorm.domain.values import thaw
from earnorm.exceptions import DomainError, nearest
from earnorm.fields.base import Field, is_embedded, not_fetched
from earnorm.fields.relational import Relation
from earnorm.kernel.naming import may_name, nearest_field
from earnorm.kernel.serving.projecting import Tree, holder_of, outermost, tree_of
from earnorm.model.reading.fetch import Fetch, Part, part_of
from earnorm.model.slots import set_fetch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

# -- asking ---------------------------------------------------------------------------------------


def checked_inside(bound: BoundModel, paths: Iterable[str]) -> frozenset[str]:
    """Return the paths of ``only()`` into embedded objects, without those that others include.

    Raises:
        DomainError: A path leads to no stored field of an embedded object.
    """
    model, fields = bound.model._name, bound.schema.fields
    checked: set[str] = set()
    for path in paths:
        head, *rest = path.split(".")
        names = [bound.schema.name_of(head)]
        schema = bound.schema
        field = fields.get(names[0]) or _refuse(
            model, path, names[0], nearest_field(schema, names[0])
        )
        for name in rest:
            holder = holder_of(field) if field.stored else None
            if holder is None:
                what, way_out = _no_parts(field, ".".join(names))
                raise DomainError(
                    f"{model}: only({path!r}) leads into stored embedded objects and lists of them, "
                    f"and {'.'.join(names)!r} {what}; {way_out}",
                    loc=(path,),
                )
            inside = holder.fields_inside()
            hint = nearest(name, inside) if may_name(schema, names[0]) else ""
            field = inside.get(name) or _refuse(model, path, name, hint)
            names.append(name)
        if not field.stored:
            raise DomainError(f"{model}: only({path!r}): the field is not stored", loc=(path,))
        checked.add(".".join(names))
    return outermost(checked)


def _no_parts(field: Field[Any, Any], name: str) -> tuple[str, str]:
    """Return why a field has no parts to fetch, and the way out."""
    if isinstance(field, Relation):
        return "is a relation", "prefetch() loads other records"
    if field.is_derived and not field.stored:
        return not_fetched(field)
    return f"is a {type(field).__name__}", f"name {name!r} whole"


def _refuse(model: str, path: str, name: str, hint: str) -> NoReturn:
    raise DomainError(f"{model}: only({path!r}): there is no field {name!r}{hint}", loc=(path,))


# -- making ---------------------------------------------------------------------------------------


def take_parts(
    fields: Mapping[str, Field[Any, Any]],
    records: Iterable[Any],
    paths: Iterable[str],
    *,
    is_exact: bool = False,
) -> None:
    """Make the embedded objects of records that were just made of documents, for these paths.

    Args:
        fields: The fields of the records' model.
        records: Records of one fetch, whose ``loaded`` does not have the heads of the paths.
        paths: The paths that were fetched.
        is_exact: The documents have nothing else, or it belongs to the objects.
    """
    records = list(records)
    if not records:
        return
    fetch: Fetch = records[0]._fetch
    fetch.parts = _parts(fetch, "", fields, tree_of(paths))
    for record in records:
        state = record.__dict__
        for name, part in fetch.parts.items():
            if state.get(name) is not None:
                state[name] = _adopted(fields[name], state[name], part, is_exact)


def _parts(
    outer: Fetch, prefix: str, fields: Mapping[str, Field[Any, Any]], tree: Tree
) -> Mapping[str, Part]:
    parts: dict[str, Part] = {}
    for name, below in tree.items():
        if below:
            field, path = fields[name], f"{prefix}{name}"
            holder: Any = holder_of(field)
            loaded = {each for each, deeper in below.items() if not deeper}
            if holder.kinds is not None:
                loaded.add(holder.kinds.name)
            part = parts[name] = Part(outer.app, path, frozenset(loaded))
            part.peers = _peers(outer, field)
            part.parts = _parts(part, f"{path}.", holder.fields_inside(), below)
    return parts


def inside(structures: Iterable[Any], field: Field[Any, Any]) -> list[Any]:
    """Return the embedded objects in one field of these records or embedded objects."""
    return [
        embedded
        for structure in structures
        if structure.__dict__.get(field.name) is not None
        for embedded in embedded_in(getattr(structure, field.name))
    ]


def embedded_in(value: Any) -> Iterator[Any]:
    """Yield the embedded objects in the value of an Embedded, or of a list of them."""
    if isinstance(value, list):
        for item in value:
            yield from embedded_in(item)
    elif is_embedded(value):
        yield value


def _peers(outer: Fetch, field: Field[Any, Any]) -> Any:
    return lambda: inside(outer.siblings(None, field.name), field)


def _adopted(field: Any, value: Any, part: Part, is_exact: bool) -> Any:
    """Return the object of a stored document, with what was asked for only."""
    if type(value) is list:
        item_field = field.contents().items or field
        return [_adopted(item_field, item, part, is_exact) for item in value]
    if type(value) is not dict:
        return value
    embedded = field.decode(value)
    state, fields = embedded.__dict__, type(embedded)._schema.fields
    if not is_exact:  # a layer may have fetched more
        for name in [name for name in state if not part.knows(name)]:
            del state[name]
        if hasattr(embedded, "_undeclared"):
            object.__delattr__(embedded, "_undeclared")
    set_fetch(embedded, part)
    for name, below in part.parts.items():
        if state.get(name) is not None:
            state[name] = _adopted(fields[name], state[name], below, is_exact)
    return embedded


# -- looking --------------------------------------------------------------------------------------


def has_parts(structure: object) -> bool:
    """Return whether only some fields of an embedded object were fetched, or of one inside."""
    fetch: Fetch | None = getattr(structure, "_fetch", None)
    return fetch is not None and (bool(fetch.parts) or type(fetch) is Part)


def parts_in(value: Any) -> Iterator[Part]:
    """Yield the loading states of the objects in a value of which only some fields were fetched."""
    if is_embedded(value):
        part = part_of(value)
        if part is not None:
            yield part
    elif type(value) is list:
        for item in value:
            yield from parts_in(item)
    elif type(value) is dict:
        for item in value.values():
            yield from parts_in(item)


def refuse_unread(record: Any, condition: Condition, operators: Mapping[str, Operator]) -> None:
    """Refuse to evaluate a condition about what was not fetched of an embedded object.

    Raises:
        FieldNotLoaded: It needs such a value.
    """
    operator = operators.get(condition.operator)
    if operator is not None and operator.nested:
        for below in Domain(thaw(condition.value)).conditions():
            refuse_unread_path(record, f"{condition.path}.{below.path}")
    else:
        refuse_unread_path(record, condition.path, as_whole=condition.value is not None)


def refuse_unread_path(record: Any, path: str, *, as_whole: bool = True) -> None:
    """Refuse to read a path into an embedded object of which that was not fetched.

    Args:
        record: The record.
        path: The path, also through positions of lists.
        as_whole: An object at the end of the path is needed as a whole.

    Raises:
        FieldNotLoaded: The value at the path was not fetched.
    """
    if not has_parts(record):
        return
    values: list[Any] = [record]
    for name in path.split("."):
        values = [each for value in values for each in _below(value, name)]
    if as_whole:
        for part in parts_in(values):
            raise part.incomplete()


def _below(value: Any, name: str) -> Collection[Any]:
    if type(value) is list:
        if is_position(name):
            return value[int(name) :][:1]
        return [each for item in value for each in _below(item, name)]
    state: Mapping[str, Any] | None = getattr(value, "__dict__", None)
    part = part_of(value)
    if part is not None and not part.knows(name) and name not in (state or {}):
        raise part.unread(value, name)
    return () if state is None or state.get(name) is None else (state[name],)


def are_equal(one: Any, other: Any) -> bool:
    """Return whether two objects of one class are equal, of which some fields were not fetched.

    Raises:
        FieldNotLoaded: What was fetched of both is equal.
    """
    forms = (one._stored(), other._stored())
    both = [key for key in forms[0] if key in forms[1]]
    if any(not _may_be_equal(forms[0][key], forms[1][key]) for key in both):
        return False
    raise next(parts_in([one, other])).incomplete()


def _may_be_equal(one: Any, other: Any) -> bool:
    is_container = isinstance(one, dict | list) and type(one) is type(other)
    return is_container or bool(one == other)  # a part of what is inside may not be there


def paths_of(record: Any) -> frozenset[str]:
    """Return the paths by which a record's embedded objects were fetched in part, and still are."""
    paths: set[str] = set()
    for name, part in record._fetch.parts.items():
        value = record.__dict__.get(name)
        if value is None or next(parts_in(value), None) is not None:
            paths.update(part.paths)
    return frozenset(paths)
