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

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition, Domain
from earnorm.exceptions import AccessDenied, ConfigurationError, ErrorDetail, ValidationError
from earnorm.fields.reference import Reference
from earnorm.fields.relational import Relation
from earnorm.kernel import pauses
from earnorm.kernel.operations import JUDGED, Operation, Options, PerRecord, made_by
from earnorm.kernel.pauses import pause
from earnorm.kernel.steps import WAY, Loc, Way
from earnorm.kernel.transactions.units import unit_of_call
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.relations.ghosts import bound_of
from earnorm.model.relations.handed_links import Link, Links

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Call

_ORIGIN: Final = "relations"
_ID: Final = frozenset({"_id"})
_ONE: Final = Options(limit=1)
_REASON: Final = "links: do the written records have a link already?"


def checks_links(app: App, bound: BoundModel) -> bool:
    """Return whether links that are handed in for a model may have to be checked."""
    hide = bool(app.loaded.implementations("hides_records"))
    return any(
        link.must_exist or (hide and _may_be_hidden(app, link)) for link in Links(bound).declared
    )


def _may_be_hidden(app: App, link: Relation[Any, Any]) -> bool:
    try:
        targets = [bound_of(app, name) for name in link.names()]
    except ConfigurationError:
        return True  # a model that is not defined yet, or not right; its use tells
    return not targets or any(target.hides_records for target in targets)


class LinkLayer:
    """Refuses links to records that who acts may not read, or that must exist and do not.

    Args:
        bound: The model that has the links.
    """

    def __init__(self, bound: BoundModel) -> None:
        self._bound = bound
        self._links = Links(bound)

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
        for link in self._links.of(op):
            if link.field.must_exist:
                yield link
                continue
            if link.model not in hidden:
                hidden[link.model] = not op.env.system and _hides(op, link.model)
            if hidden[link.model]:
                yield link

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
