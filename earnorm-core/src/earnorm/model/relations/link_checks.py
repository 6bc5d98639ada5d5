"""The layer of LINKS: checks that links which are handed in lead to records that may be linked.

Where records of the other model may be hidden from who acts, a link must lead to a record that a
search on his behalf finds; so must one of a field with ``exists=True``, whoever acts. One search for
each other model finds the targets of a whole operation. A link to a hidden record is refused as one
to a missing record is, with the same error.

The layer lies outside of the document steps, so what they fill in is not looked at; nor is what the
system hands in for a feature. A link that the written records have already may stay, and so may the
default of a field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from earnorm.domain import Condition, Domain, condition
from earnorm.domain.paths import is_position
from earnorm.exceptions import AccessDenied, ConfigurationError, ErrorDetail, ValidationError
from earnorm.fields.places import places
from earnorm.fields.reference import Reference
from earnorm.fields.relational import Relation
from earnorm.kernel import pauses, registry
from earnorm.kernel.known_values import TOGGLE
from earnorm.kernel.operations import JUDGED, Operation, Options, PerRecord, Update, made_by
from earnorm.kernel.pauses import pause
from earnorm.kernel.steps import WAY, Loc, Way
from earnorm.kernel.transactions.units import unit_of_call
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.relations.ghosts import bound_of

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Call

_ORIGIN: Final = "relations"
_ID: Final = frozenset({"_id"})
_ONE: Final = Options(limit=1)
_REASON: Final = "links: do the written records have a link already?"
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


def checks_links(app: App, bound: BoundModel) -> bool:
    """Return whether links that are handed in for a model may have to be checked."""
    hide = bool(app.loaded.implementations("hides_records"))
    return any(
        link.must_exist or (hide and _may_be_hidden(app, link))
        for field in _fields_with_links(bound).values()
        for link in _links_inside(field)
    )


def _may_be_hidden(app: App, link: Relation[Any, Any]) -> bool:
    try:
        targets = [bound_of(app, name) for name in link.names()]
    except ConfigurationError:
        return True  # a model that is not defined yet, or not right; its use tells
    return not targets or any(target.hides_records for target in targets)


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


class LinkLayer:
    """Refuses links to records that who acts may not read, or that must exist and do not.

    Args:
        bound: The model that has the links.
    """

    def __init__(self, bound: BoundModel) -> None:
        self._bound = bound
        self._fields = _fields_with_links(bound)
        self._version = registry.version()

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Check the operation, or pass it on at once if it hands in no link."""
        if any(self._to_check(op)):
            return self._check(op, call_next)
        return call_next(op)

    def needs_transaction(self, op: Operation) -> bool:
        """Return whether the operation looks for targets, which must be there when it is stored."""
        return op.options.concerns is None and any(self._to_check(op))

    # -- the links of an operation ------------------------------------------------------------

    def _to_check(self, op: Operation) -> Iterator[Link]:
        """Yield the links of an operation whose targets must be found."""
        notes = op.notes
        if notes.get(JUDGED) or (op.env.system and notes.get(WAY) is Way.DERIVED):
            return
        hidden: dict[str, bool] = {}
        for link in self._links(op):
            if link.field.must_exist:
                yield link
                continue
            if link.model not in hidden:
                hidden[link.model] = not op.env.system and _hides(op, link.model)
            if hidden[link.model]:
                yield link

    def _links(self, op: Operation) -> Iterator[Link]:
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

    # -- the check ----------------------------------------------------------------------------

    async def _check(self, op: Operation, call_next: Call) -> Any:
        refused = await self._refused(op)
        if refused:
            op = await self._narrowed(op, refused)
        return await call_next(op)

    async def _refused(self, op: Operation) -> list[Link]:
        """Return the links to records that are not found."""
        wanted: dict[str, dict[Any, None]] = {}
        links: list[Link] = []
        for link in self._to_check(op):
            links.append(link)
            if not len(links) % pauses.EVERY:
                await pause()
            wanted.setdefault(link.model, {})[link.pk] = None
        missing: dict[str, set[Any]] = {}
        for model, pks in wanted.items():
            lacking = await _not_found(op, model, list(pks))
            if lacking:
                missing[model] = lacking
        return [link for link in links if link.pk in missing.get(link.model, ())]

    async def _narrowed(self, op: Operation, refused: Sequence[Link]) -> Operation:
        """Demand of the written records that they have the links already.

        Raises:
            ValidationError: One of them does not, or the operation makes new records.
        """
        if op.name == "create":
            documents = op.documents
            new = [
                link
                for link in refused
                if not (len(link.loc) == 1 and _is_default(link.field, link.pk))
            ]
            self._refuse(new, is_many=len(documents) > 1)
            return op
        pks = list(op.values) if isinstance(op.values, PerRecord) else []
        unreachable = [link for link in refused if not link.path]
        self._refuse(unreachable, is_many=len(pks) > 1)
        by_row: dict[int, Domain] = {}
        for link in refused:
            by_row[link.row] = by_row.get(link.row, Domain.TRUE) & link.condition
        having = Domain.TRUE
        for row, domain in by_row.items():
            having &= (Condition("_id", "!=", pks[row]) | domain) if pks else domain
        env = op.env.as_system(_REASON)
        lacking = op.domain & ~having
        count = op.child("count", op.model, lacking, options=_ONE, origin=_ORIGIN, env=env)
        if await op.app.execute(count):
            self._refuse(refused, is_many=len(pks) > 1)
        return op.replace(domain=op.domain & having)

    def _refuse(self, links: Sequence[Link], *, is_many: bool) -> None:
        if links:
            details: dict[Loc, ErrorDetail] = {}
            for link in links:
                loc = (link.row, *link.loc) if is_many else link.loc
                details[loc] = no_such_record(loc)
            raise ValidationError(self._bound.model._name, list(details.values()))


def no_such_record(loc: Loc) -> ErrorDetail:
    """Make the problem of a link whose target is missing, or hidden from who acts.

    Args:
        loc: The place of the link.
    """
    return {"loc": loc, "msg": "no such record", "type": "no_such_record"}


def _hides(op: Operation, model: str) -> bool:
    try:
        target = bound_of(op.app, model)
    except ConfigurationError:
        return False  # no model of this App, so nothing of it can be read in it
    return any(hides(op.env) for hides in target.hides_records)


async def _not_found(op: Operation, model: str, pks: Sequence[Any]) -> set[Any]:
    """Return the ids of those records that a search on behalf of who acts does not find."""
    try:
        target = bound_of(op.app, model)
    except ConfigurationError:
        return set(pks)
    found: set[Any] = set()
    try:
        notes = made_by(_ORIGIN, op)
        for document in await by_ids(target, "_id", pks, env=op.env, fields=_ID, notes=notes):
            found.add(document["_id"])
    except AccessDenied:
        pass  # all are hidden; the error would tell which model has which rights
    lacking = {pk for pk in pks if pk not in found}
    return lacking - _made_here(op, target, lacking) if lacking else lacking


def _made_here(op: Operation, target: BoundModel, pks: set[Any]) -> set[Any]:
    """Return which of the records the acting principal makes itself, together with the links.

    They are those of the same operation, which are not stored yet, and those that the running
    transaction, or the same call, has created on behalf of the same principal.
    """
    made: set[Any] = set()
    identity, transaction, unit = target.model._identity, op.env.transaction, unit_of_call()
    operations = () if transaction is None else transaction.operations
    created = () if unit is None else unit.created
    for other in (op, *operations, *created):
        env = other.env
        if (
            other.name == "create"
            and other.model._identity == identity
            and (env.system, env.principal) == (op.env.system, op.env.principal)
        ):
            made.update(pk for document in other.documents if (pk := document["_id"]) in pks)
    return made


def _is_default(field: Relation[Any, Any], pk: Any) -> bool:
    """Return whether an id is the default of a field, which the program chose and not who acts."""
    default = field.default_value()
    if default is None:
        return False
    stored = field.encode(default)
    if isinstance(field, Reference):
        return isinstance(stored, Mapping) and stored.get("id") == pk
    return pk in stored if isinstance(stored, list) else bool(stored == pk)


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
