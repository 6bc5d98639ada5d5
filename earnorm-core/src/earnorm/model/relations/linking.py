"""Writes the links of a to-many field.

The record's own list, a field of the other model, or a link model stores them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from earnorm.domain import Domain, condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import NotFound
from earnorm.fields.base import MISSING
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import Many2one, ToMany
from earnorm.kernel import pauses
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import Operation, PerRecord, Update
from earnorm.kernel.pauses import Finishing, parts, pause
from earnorm.kernel.steps import Way
from earnorm.kernel.transactions.durable import Waiting, tell
from earnorm.kernel.transactions.held_records import HOLDERS, note_settled
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.recordset import is_default
from earnorm.model.relations.ghosts import RELATIONS, inverse_of, link_of, target_of
from earnorm.model.relations.link_changes import LinkChange
from earnorm.model.slots import pending_of
from earnorm.model.writing import creating
from earnorm.model.writing.handing_back import give_written, on_its_way
from earnorm.model.writing.pending import forget_change
from earnorm.model.writing.sending import check_matched, expected

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.value_steps import ValueRow

_ID = frozenset({"_id"})


# -- operations -----------------------------------------------------------------------------------


async def require(bound: BoundModel, pks: Sequence[Any]) -> None:
    """Raise ``NotFound`` if a record does not exist (or not for the acting principal)."""
    wanted = list(dict.fromkeys(pks))
    number = len(await by_ids(bound, "_id", wanted, fields=_ID, notes=RELATIONS))
    if number < len(wanted):
        raise NotFound(
            f"{bound.model._name}: {len(wanted) - number} of {len(wanted)} records to link or update "
            f"do not exist"
        )


async def delete(bound: BoundModel, pks: Sequence[Any], where: Domain = Domain.TRUE) -> None:
    """Delete the records with these ids that match the domain."""
    for chunk in chunks(pks):
        domain = condition("_id", "in", chunk) & where
        await _execute("unlink", bound, domain)


async def change(
    bound: BoundModel, domain: Domain, operator: str, values: Mapping[str, Any]
) -> None:
    """Write one update operator to every record that matches."""
    update = Update({operator: values})
    await _execute("write", bound, domain, update)


async def _execute(
    name: OperationName,
    bound: BoundModel,
    domain: Domain,
    values: Update | PerRecord | None = None,
) -> Any:
    env = current_env()
    op = Operation(name, bound.model, env, domain, values, notes=RELATIONS)
    return await env.app.execute(op)


async def point_at(bound: BoundModel, inverse: Any, owners: Mapping[Any, Sequence[Any]]) -> None:
    """Set the new owners in records of the other model, with one operation."""
    if isinstance(inverse, Many2one):
        updates = {
            pk: Update({"$set": {inverse.db_name: owner_pks[-1]}})
            for pk, owner_pks in owners.items()
        }
    else:
        updates = {
            pk: Update({"$addToSet": {inverse.db_name: {"$each": list(owner_pks)}}})
            for pk, owner_pks in owners.items()
        }
    domain = condition("_id", "in", list(owners))
    await _execute("write", bound, domain, PerRecord(updates))


# -- a list in the record -------------------------------------------------------------------------


class OneChange:
    """State that the operations on the links of all fields share: one write is one change of a record.

    Attributes:
        expected: By id, the stored values that a record must still have. The first operation asks
            for them; the write of values does, where there are some.
        counted: The ids of the records for which an operation of the write counts as the change: by
            revision and stamps.
    """

    def __init__(self, bound: BoundModel, rows: Sequence[ValueRow]) -> None:
        self._bound, self._rows = bound, rows
        self.expected: dict[Any, Mapping[str, Any]] = {}
        self.counted: set[Any] = set()
        self._has_begun = False

    def begin(self) -> None:
        """Look at what the write of values has done, when the first links are written."""
        if self._has_begun:
            return
        self._has_begun = True
        self.counted = {row.record.pk for row in self._rows if row.values}
        self.expected = {
            row.record.pk: expected(self._bound, row)
            for row in self._rows
            if row.expected and not row.values
        }

    def ways(self, pks: Collection[Any], way: Way) -> Mapping[Way, Sequence[Any]]:
        """Return on which ways an operation writes these records, to count each once.

        Without a transaction the links of each field count, because somebody may read between two
        operations, and is told of a conflict by his write.
        """
        if way is Way.DERIVED or current_env().transaction is None:
            return {way: list(pks)}
        counted = self.counted.intersection(pks)
        self.counted.update(pks)
        return {Way.DERIVED: list(counted), way: [pk for pk in pks if pk not in counted]}


class StoredLinks:
    """The links that some records store as a list of ids: writes a change of them.

    Memory follows each operation, so that it is as the database is, also where a later operation
    fails and nothing rolls the first ones back.

    Args:
        bound: The model.
        relation: The field.
        rows: The rows of the records. Commands that were assigned to the records are carried out by
            this write; what is assigned meanwhile stays pending.
        change: What it shares with the links of other fields.
    """

    def __init__(
        self,
        bound: BoundModel,
        relation: ToMany[Any],
        rows: Sequence[ValueRow],
        change: OneChange,
    ) -> None:
        self._bound, self._one = bound, change
        self._relation = relation
        self._rows = rows
        self._lists: dict[int, Any] = {}
        self._held: dict[int, Any] = {}

    async def look(self) -> None:
        """Note what the records show, and what the database has."""
        for part in parts(self._records):
            for record in part:
                self._lists[id(record)] = _stored_list(record, self._relation)
                self._held[id(record)] = record.__dict__.get(self._relation.name, MISSING)
            if part is not self._records:
                await pause()

    @property
    def _records(self) -> list[Any]:
        return records_of(self._rows)

    async def put_back(self) -> None:
        """Show the links before the change, in the place of commands that were assigned."""
        finishing = Finishing()
        for part in parts(self._records):
            for record in part:
                self._show(record)
            if part is not self._records:
                await finishing.pause()
        finishing.end()

    def _show(self, record: Any) -> None:
        name, value = self._relation.name, self._lists[id(record)]
        if HOLDERS:
            note_settled(record)
        state = record.__dict__
        if state.get(name, MISSING) is self._held[id(record)]:
            forget_change(record, name)
        changes = pending_of(record).changes
        if name in changes:
            changes[name] = value
        elif value is MISSING:
            state.pop(name, None)
        else:
            state[name] = value

    async def write(self, change: LinkChange) -> None:
        """Write the removals, then the additions: MongoDB refuses both for one list at once.

        Of the two, the last one counts as the change of the record, by revision and stamps: whoever
        reads between them, and writes, is told of a conflict.
        """
        self._one.begin()
        removed, added = list(change.removed), list(change.added)
        name = self._relation.db_name
        if removed or added:
            await self._replace_null()
        if removed:
            way = Way.DERIVED if added else Way.WRITE
            await self._update(Update({"$pull": {name: {"$in": removed}}}), way=way)
            unwanted = change.removed
            await self._change(lambda ids: [pk for pk in ids if pk not in unwanted], unset=False)
        if added:
            await self._update(Update({"$addToSet": {name: {"$each": added}}}))
            await self._change(lambda ids: list(dict.fromkeys([*ids, *added])), unset=True)

    async def _pause(self) -> None:
        if len(self._rows) > pauses.EVERY:
            await pause()

    async def _replace_null(self) -> None:
        """Write an empty list where the database has null, which takes no items."""
        name = self._relation.name
        await self._pause()
        unsure = [
            record
            for record in self._records
            if self._lists[id(record)] is None or not record._fetch.has(name)
        ]
        if unsure:
            is_null = condition(name, "=", None) & condition(name, "exists", True)
            update = Update({"$set": {self._relation.db_name: []}})
            await self._update(update, unsure, is_null, Way.DERIVED)
        for record in unsure:
            if self._lists[id(record)] is None:
                self._lists[id(record)] = []

    async def _change(self, changed: Callable[[list[Any]], list[Any]], *, unset: bool) -> None:
        """Apply a change to the lists in memory.

        Args:
            changed: Returns the new list.
            unset: It makes a list where there was none.
        """
        finishing = Finishing()
        for part in parts(self._records):
            for record in part:
                value = self._lists[id(record)]
                if value is MISSING and not (unset and record._fetch.has(self._relation.name)):
                    continue
                self._lists[id(record)] = changed([] if value is MISSING else value)
                self._show(record)
            if part is not self._records:
                await finishing.pause()
        finishing.end()

    async def _update(
        self,
        update: Update,
        records: Sequence[Any] | None = None,
        where: Domain = Domain.TRUE,
        way: Way = Way.WRITE,
    ) -> None:
        by_pk: dict[Any, list[Any]] = {}
        await self._pause()
        for record in self._records if records is None else records:
            by_pk.setdefault(record.pk, []).append(record)
        await self._pause()
        for its_way, pks in self._one.ways(by_pk, way).items():
            for chunk in chunks(pks):
                await self._pause()
                await self._update_part({pk: by_pk[pk] for pk in chunk}, update, where, its_way)

    async def _update_part(
        self, by_pk: Mapping[Any, Sequence[Any]], update: Update, where: Domain, way: Way
    ) -> None:
        env = current_env()
        domain: Domain = condition("_id", "in", list(by_pk))
        if where is not Domain.TRUE:
            domain &= where
        values: Update | PerRecord = update
        expected_by_pk = self._one.expected
        if where is Domain.TRUE and any(pk in expected_by_pk for pk in by_pk):
            values = PerRecord(
                {pk: replace(update, expect=expected_by_pk.pop(pk, {})) for pk in by_pk}
            )
        op = Operation("write", self._bound.model, env, domain, values, notes=RELATIONS)
        later: list[Waiting] = []
        written = [record for records in by_pk.values() for record in records]
        await self._pause()
        op = on_its_way(self._bound, op, way, later, written)
        try:
            matched = await env.app.execute(op)
            if where is Domain.TRUE:
                await check_matched(self._bound, op, matched, len(by_pk))
            finishing = Finishing()
            for part in parts(written):
                for record in part:
                    give_written(record, op, update, is_settled=False)
                if part is not written:
                    await finishing.pause()
            finishing.end()
        finally:
            if later:
                await tell(later)


def records_of(rows: Iterable[ValueRow]) -> list[Any]:
    """Return the records of rows, and the copies of each that learn what is written."""
    records = [record for row in rows for record in (row.record, *row.copies)]
    return list({id(record): record for record in records}.values())


def _stored_list(record: Any, relation: ToMany[Any]) -> Any:
    """Return the ids that the database has, as far as the record knows: MISSING where it has none."""
    name = relation.name
    changes = pending_of(record).changes
    value = changes[name] if name in changes else record.__dict__.get(name, MISSING)
    return MISSING if value is MISSING or is_default(value) else relation.encode(value)


# -- links that another model stores --------------------------------------------------------------


class Ends(Protocol):
    """The links of some records in a field that does not store them itself."""

    @property
    def copies(self) -> Sequence[Any]:
        """The values to pass to ``new``: a command creates one record for each of them."""
        ...

    def new(self, value: Any, pk: Any) -> Any:
        """Return the values of a record to create, for one of ``copies``."""
        ...

    async def check(self, links: Mapping[Any, Mapping[str, Any]]) -> None:
        """Raise where these links cannot be made."""
        ...

    async def link(self, links: Mapping[Any, Mapping[str, Any]]) -> None:
        """Link these ids, with the values of their links."""
        ...

    async def unlink(self, pks: Sequence[Any]) -> None:
        """Remove the links to these ids."""
        ...

    async def keep_only(self, pks: Sequence[Any]) -> None:
        """Remove every other link."""
        ...

    async def delete(self, pks: Sequence[Any]) -> None:
        """Delete those of these records that are linked."""
        ...


def ends_of(bound: BoundModel, relation: ToMany[Any], pks: Sequence[Any]) -> Ends:
    """Return the links of some records in a field that does not store them itself."""
    if isinstance(relation, Many2many):
        return (Backward if relation.through is None else Through)(bound, relation, pks)
    return Owned(bound, relation, pks)


class Owned:
    """A One2many: each record of the other model has one owner."""

    def __init__(self, bound: BoundModel, relation: ToMany[Any], pks: Sequence[Any]) -> None:
        self.target = target_of(bound.app, relation)
        self.inverse = inverse_of(self.target, relation)
        self.pks = list(pks)
        self.copies: Sequence[Any] = self.pks
        self.mine = condition(self.inverse.name, "in", self.pks)

    def new(self, value: Any, pk: Any) -> Any:
        """Return the values with their owner."""
        if isinstance(value, Mapping):
            return {**value, self.inverse.name: pk}
        setattr(value, self.inverse.name, pk)
        return value

    async def check(self, links: Mapping[Any, Mapping[str, Any]]) -> None:
        """Accept all links, because every record may change its owner."""

    async def link(self, links: Mapping[Any, Mapping[str, Any]]) -> None:
        """Set the last of several owners in these records."""
        await point_at(self.target, self.inverse, dict.fromkeys(links, self.pks[-1:]))

    async def unlink(self, pks: Sequence[Any]) -> None:
        """Remove these records from their owners."""
        for chunk in chunks(pks):
            await self._remove_owners(condition("_id", "in", chunk) & self.mine)

    async def keep_only(self, pks: Sequence[Any]) -> None:
        """Remove all other records from their owners."""
        await self._remove_owners(condition("_id", "not in", list(pks)) & self.mine)

    async def _remove_owners(self, domain: Domain) -> None:
        if self.inverse.needs_target:
            await _execute("unlink", self.target, domain)
        else:
            await change(self.target, domain, "$set", {self.inverse.db_name: None})

    async def delete(self, pks: Sequence[Any]) -> None:
        """Delete those of these records that have one of the owners."""
        await delete(self.target, pks, self.mine)


class Backward(Owned):
    """The other side of a Many2many that stores ids."""

    def __init__(self, bound: BoundModel, relation: ToMany[Any], pks: Sequence[Any]) -> None:
        super().__init__(bound, relation, pks)
        self.copies = [None]

    def new(self, value: Any, pk: Any) -> Any:
        """Return the values with the ids of all owners."""
        return super().new(value, list(self.pks))

    async def link(self, links: Mapping[Any, Mapping[str, Any]]) -> None:
        """Add the owners to the lists of these records."""
        await point_at(self.target, self.inverse, dict.fromkeys(links, self.pks))

    async def _remove_owners(self, domain: Domain) -> None:
        await change(self.target, domain, "$pull", {self.inverse.db_name: {"$in": self.pks}})


class Through:
    """A Many2many with a link model, whose links are records."""

    def __init__(self, bound: BoundModel, relation: Many2many[Any], pks: Sequence[Any]) -> None:
        self.target = target_of(bound.app, relation)
        self.links, self.near, self.far = link_of(bound.app, bound.model, relation)
        self.pks = list(pks)
        self.copies: Sequence[Any] = [None]
        self.mine = condition(self.near.name, "in", self.pks)

    def new(self, value: Any, pk: Any) -> Any:
        """Return the values unchanged, because the link is created afterwards."""
        return value

    async def check(self, links: Mapping[Any, Mapping[str, Any]]) -> None:
        """Validate the values of the links."""
        pairs = [(near, far) for far in links for near in self.pks]
        await creating.prepared(self.links, self._values(pairs, links))

    def _values(
        self, pairs: Iterable[tuple[Any, Any]], links: Mapping[Any, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        return [{**links[far], self.near.name: near, self.far.name: far} for near, far in pairs]

    async def link(self, links: Mapping[Any, Mapping[str, Any]]) -> None:
        """Create the missing links, and write the values to the existing ones."""
        domain = self.mine & condition(self.far.name, "in", list(links))
        existing = await _execute("search", self.links, domain)
        known = {(d[self.near.db_name], d[self.far.db_name]): d["_id"] for d in existing}
        pairs = [(near, far) for far in links for near in self.pks]
        missing = [pair for pair in pairs if pair not in known]
        if missing:
            await creating.create(self.links, self._values(missing, links), RELATIONS)
        updates = PerRecord(
            {
                known[pair]: Update({"$set": self.links.schema.encode(values)})
                for pair in pairs
                if pair in known and (values := self.links.schema.validate_partial(links[pair[1]]))
            }
        )
        if updates:
            domain = condition("_id", "in", list(updates))
            await _execute("write", self.links, domain, updates)

    async def unlink(self, pks: Sequence[Any]) -> None:
        """Delete the links."""
        domain = condition(self.far.name, "in", list(pks)) & self.mine
        await _execute("unlink", self.links, domain)

    async def keep_only(self, pks: Sequence[Any]) -> None:
        """Delete all other links."""
        domain = condition(self.far.name, "not in", list(pks)) & self.mine
        await _execute("unlink", self.links, domain)

    async def delete(self, pks: Sequence[Any]) -> None:
        """Delete the links, then the records that were linked."""
        domain = condition(self.far.name, "in", list(pks)) & self.mine
        links = await _execute("search", self.links, domain)
        linked = list(dict.fromkeys(link[self.far.db_name] for link in links))
        if linked:
            await self.unlink(linked)
            await delete(self.target, linked)
