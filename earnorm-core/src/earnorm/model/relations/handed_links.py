"""The links that creates and writes hand in: each with its target and its place in the values."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from earnorm.domain import Domain, condition
from earnorm.domain.paths import is_position
from earnorm.fields.places import places
from earnorm.fields.reference import Reference
from earnorm.fields.relational import Relation
from earnorm.kernel import registry
from earnorm.kernel.known_values import TOGGLE
from earnorm.kernel.operations import PerRecord, Update, made_by
from earnorm.kernel.steps import Loc
from earnorm.kernel.transactions.units import unit_of_call
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.relations.ghosts import bound_of

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.fields.base import Field
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation

_NO_LINK: Final = frozenset(
    {"$unset", "$pull", "$pullAll", "$pop", "$inc", "$mul", "$bit", "$currentDate", TOGGLE}
)
"""The operators after which a document has no link that it did not have before."""
_ADDING: Final = frozenset({"$push", "$addToSet"})
"""The operators that take items of a list."""


class Link(NamedTuple):
    """One link that an operation hands in.

    Attributes:
        field: The field that holds it.
        model: The name of the model that it leads to.
        pk: The id that it leads to.
        row: The position of its document or change in the operation.
        loc: The place of the value in the document: names, and positions in lists.
        path: The path of a condition that finds it; empty where no path leads to it.
    """

    field: Relation[Any, Any]
    model: str
    pk: Any
    row: int
    loc: Loc
    path: str

    @property
    def condition(self) -> Domain:
        """The domain of the records that have the link."""
        is_reference = isinstance(self.field, Reference)
        value = {"model": self.model, "id": self.pk} if is_reference else self.pk
        return condition(self.path, "in", [value])


class Links:
    """The links of one model, as its operations hand them in.

    Args:
        bound: The model in its App: ``app.bind(model)``.
    """

    def __init__(self, bound: BoundModel) -> None:
        self._bound = bound
        self._fields = _fields_with_links(bound)
        self._version = registry.version()

    @property
    def declared(self) -> Iterator[Relation[Any, Any]]:
        """The fields that hold links, those inside of other fields included."""
        for field in self._current_fields().values():
            yield from _links_inside(field)

    def of(self, op: Operation) -> Iterator[Link]:
        """Yield the links in the values of a create or a write."""
        fields = self._current_fields()
        values = op.values
        if isinstance(values, list):
            for row, document in enumerate(values):
                for key, value in document.items():
                    if value is not None and key in fields:
                        field = fields[key]
                        yield from _inside(field, value, row, (field.name,), field.name)
            return
        updates = values.values() if isinstance(values, PerRecord) else (values,)
        for row, update in enumerate(updates):
            assert isinstance(update, Update)
            for operator, spec in update.operators.items():
                if operator not in _NO_LINK:
                    for path, value in spec.items():
                        yield from _of_change(fields, operator, path, value, row)

    def _current_fields(self) -> Mapping[str, Field[Any, Any]]:
        if self._bound.classes is not None and self._version != registry.version():
            self._version = registry.version()
            self._fields = _fields_with_links(self._bound)
        return self._fields


async def targets_of(
    op: Operation, model: str, pks: Collection[Any], fields: Collection[str], reason: str
) -> dict[Any, Document]:
    """Return the documents that links of an operation lead to, by id, found with access rules off.

    Those that the operation itself, its call or its transaction creates are among them, stored or not.
    One that does not exist is left out.

    Args:
        op: The operation.
        model: The name of the other model.
        pks: The stored ids.
        fields: The names of the fields to read.
        reason: The purpose, for logs and the audit.

    Raises:
        ConfigurationError: The App has no such model.
    """
    target = bound_of(op.app, model)
    env, notes = op.env.as_system(reason), made_by("relations", op)
    wanted = frozenset({"_id", *fields})
    documents = await by_ids(target, "_id", list(pks), env=env, fields=wanted, notes=notes)
    found = {document["_id"]: document for document in documents}
    transaction, unit = op.env.transaction, unit_of_call()
    for other in (
        op,
        *(() if transaction is None else transaction.operations),
        *(() if unit is None else unit.created),
    ):
        if other.name == "create" and other.model._identity == target.model._identity:
            made = {document["_id"]: document for document in other.documents}
            found.update((pk, made[pk]) for pk in pks if pk in made and pk not in found)
    return found


def _fields_with_links(bound: BoundModel) -> dict[str, Field[Any, Any]]:
    """Return the fields that hold links, in them or inside of them, by stored key."""
    below = () if bound.classes is None else [other for _, other in bound.classes.below()]
    fields: dict[str, Field[Any, Any]] = {}
    for each in (*below, bound):
        for field in each.model._schema.stored:
            if any(_links_inside(field)):
                fields[field.db_name] = field
    return fields


def _links_inside(field: Field[Any, Any]) -> Iterator[Relation[Any, Any]]:
    for place in places([field]):
        if isinstance(place.field, Relation) and place.field.stored:
            yield place.field


# -- the links inside of values -------------------------------------------------------------------


def _of_change(
    fields: Mapping[str, Field[Any, Any]], operator: str, path: str, value: Any, row: int
) -> Iterator[Link]:
    """Yield the links in the operand of an update operator at a stored path."""
    key, *rest = path.split(".")
    field: Any = fields.get(key)
    if field is None:
        return
    loc: Loc = (field.name,)
    name = field.name
    for part in rest:
        contents = field.contents()
        if contents.items is not None and (is_position(part) or part.startswith("$")):
            field, loc = contents.items, (*loc, int(part) if is_position(part) else part)
        elif contents.values is not None:
            field, loc, name = contents.values, (*loc, part), ""
        else:
            inner = None if field.structure is None else _inner(field, part)
            if inner is None:
                return
            field, loc, name = inner, (*loc, inner.name), name and f"{name}.{inner.name}"
    if operator in _ADDING:
        is_many = isinstance(value, Mapping) and "$each" in value
        value = list(value["$each"]) if is_many else [value]
    yield from _inside(field, value, row, loc, name)


def _hashable(pk: Any) -> Any:
    """Return an id, or where a value cannot be one, something that is no record's id."""
    return pk if isinstance(pk, Hashable) else repr(pk)


def _inner(field: Any, key: str) -> Any:
    return next((f for f in field.structure._schema.stored if f.db_name == key), None)


def _inside(field: Any, value: Any, row: int, loc: Loc, path: str) -> Iterator[Link]:
    """Yield the links in a stored value."""
    if value is None:
        return
    if isinstance(field, Reference):
        if isinstance(value, Mapping) and value.get("id") is not None:
            pk = _hashable(value["id"])
            yield Link(field, str(value.get("model")), pk, row, loc, path)
    elif isinstance(field, Relation):
        for pk in value if isinstance(value, list) else (value,):
            yield Link(field, field.comodel_name, _hashable(pk), row, loc, path)
    elif isinstance(value, list):
        item = field.contents().items
        if item is not None:
            for position, each in enumerate(value):
                yield from _inside(item, each, row, (*loc, position), path)
    elif isinstance(value, Mapping):
        contents = field.contents()
        if contents.values is not None:
            for key, each in value.items():
                yield from _inside(contents.values, each, row, (*loc, str(key)), "")
        elif field.structure is not None:
            for inner in field.structure._schema.stored:
                if inner.db_name in value:
                    below = path and f"{path}.{inner.name}"
                    yield from _inside(inner, value[inner.db_name], row, (*loc, inner.name), below)
