"""Commands on the to-many fields of new records: creates and links other records with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from earnorm.exceptions import ValidationError
from earnorm.fields.command import Command
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import Commands, Many2one, ToMany
from earnorm.kernel.pauses import Finishing, parts, pause
from earnorm.kernel.value_steps import ValueBatch, ValueRow
from earnorm.model.recordset import RecordSet
from earnorm.model.relations import linking
from earnorm.model.relations.ghosts import RELATIONS, inverse_of, link_of, target_of
from earnorm.model.slots import pending_of
from earnorm.model.writing import creating

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

Given = dict[str, Commands]


def take(bound: BoundModel, state: dict[str, Any]) -> Given:
    """Take the commands out of one validated state."""
    given: Given = {}
    for relation in bound.schema.to_many:
        value = state.get(relation.name)
        if isinstance(value, Commands):
            given[relation.name] = state.pop(relation.name)
        elif relation.name in state and not relation.stored:  # None or a loaded RecordSet
            del state[relation.name]
        elif value is None and relation.name in state:
            state[relation.name] = []  # as write() stores it
    return given


# -- new records ----------------------------------------------------------------------------------


async def plan(bound: BoundModel, batch: ValueBatch, given: Sequence[Given]) -> None:
    """Check the commands of new records with ids, and note the work around the creation."""
    planning = _Planning(bound, batch)
    for relation in bound.schema.to_many:
        members: list[_Member] = []
        for rows, given_of_part in zip(parts(batch.rows), parts(given), strict=True):
            for row, commands in zip(rows, given_of_part, strict=True):
                members += _members(row, relation, commands.get(relation.name, ()))
            if rows is not batch.rows:
                await pause()
        touched = [
            row
            for row, commands in zip(batch.rows, given, strict=True)
            if relation.name in commands
        ]
        if not touched or batch.problems:
            continue
        if relation.stored:
            await planning.listed(relation, members, touched)
        elif isinstance(relation, Many2many) and relation.through is not None:
            await planning.through(relation, members)
        else:
            await planning.inverse(relation, members)


class _Member(NamedTuple):
    """A record to link with a new record: the id of one, or the values of one to create."""

    owner: ValueRow
    loc: tuple[str | int, ...]
    pk: Any = None
    new: Any = None
    link: Mapping[str, Any] | None = None


def _members(row: ValueRow, relation: ToMany[Any], commands: Sequence[Command]) -> list[_Member]:
    members: list[_Member] = []
    for index, command in enumerate(commands):
        loc = (*row.loc, relation.name, index)
        if command.kind == "create":
            members.append(_Member(row, loc, new=command.values))
        elif command.kind == "link":
            members += [_Member(row, loc, pk, link=command.values) for pk in command.records]
        elif command.kind == "set":
            members = [_Member(row, loc, pk) for pk in command.records]
        else:
            message = f"a new record has nothing to {command.kind}"
            row.refuse((relation.name, index), message, "command")
    return members


@dataclass(eq=False, slots=True)
class _Planning:
    """Plans the work around a creation, field by field."""

    bound: BoundModel
    batch: ValueBatch

    async def _create(
        self, target: BoundModel, values: Sequence[Any], members: Sequence[_Member]
    ) -> creating.Creation | None:
        try:
            locs = [member.loc for member in members]
            return await creating.prepared(target, values, locs, notes=RELATIONS)
        except ValidationError as error:
            self.batch.add_problems(error.errors())
            return None

    async def _targets(
        self, relation: ToMany[Any], members: Sequence[_Member]
    ) -> tuple[creating.Creation | None, list[Any]]:
        """Return the other model's new records, and each member's id; no ids after a problem."""
        new_members = [member for member in members if member.new is not None]
        if not new_members:
            return None, [member.pk for member in members]
        target = target_of(self.bound.app, relation)
        child = await self._create(target, [member.new for member in new_members], new_members)
        if child is None:
            return None, []
        new_pks = iter([state["_id"] for state in child.states])
        self.batch.before(child.run)
        return child, [member.pk if member.new is None else next(new_pks) for member in members]

    async def listed(
        self, relation: ToMany[Any], members: Sequence[_Member], touched: Sequence[ValueRow]
    ) -> None:
        """Store the ids in the new record."""
        _, pks = await self._targets(relation, members)
        if self.batch.problems:
            return
        lists: dict[int, dict[Any, None]] = {id(row): {} for row in touched}
        for part, pks_of_part in zip(parts(members), parts(pks), strict=True):
            for member, pk in zip(part, pks_of_part, strict=True):
                lists[id(member.owner)][pk] = None
            if part is not members:
                await pause()
        for row in touched:
            row.values[relation.name] = list(lists[id(row)])

    async def through(self, relation: Many2many[Any], members: Sequence[_Member]) -> None:
        """Plan the creation of link records."""
        _, pks = await self._targets(relation, members)
        if self.batch.problems:
            return
        link, near, far = link_of(self.bound.app, self.bound.model, relation)
        pairs: dict[tuple[Any, Any], _Member] = {}
        for part, pks_of_part in zip(parts(members), parts(pks), strict=True):
            for member, pk in zip(part, pks_of_part, strict=True):
                pairs[member.owner.values["_id"], pk] = member
            if part is not members:
                await pause()
        known = [member.pk for member in members if member.new is None]
        if known:
            await linking.require(target_of(self.bound.app, relation), known)
        if pairs:
            values = [
                {**(member.link or {}), near.name: owner, far.name: pk}
                for (owner, pk), member in pairs.items()
            ]
            child = await self._create(link, values, list(pairs.values()))
            if child is not None:
                self.batch.after(child.run)

    async def inverse(self, relation: ToMany[Any], members: Sequence[_Member]) -> None:
        """Plan the records that point at the new ones."""
        target = target_of(self.bound.app, relation)
        inverse = inverse_of(target, relation)
        new_members = [member for member in members if member.new is not None]
        if new_members:
            values: list[Any] = []
            for part in parts(new_members):
                for member in part:
                    values.append(_with_pointer(member.new, inverse, member.owner.values["_id"]))
                if part is not new_members:
                    await pause()
            child = await self._create(target, values, new_members)
            if child is None:
                return
            self.batch.after(child.run)
            if len(new_members) == len(members):
                owners = [member.owner for member in new_members]
                self.batch.settle(lambda: _show_created(relation, child, owners))
        owners_by_pk: dict[Any, list[Any]] = {}
        for member in members:
            if member.new is None:
                owners_by_pk.setdefault(member.pk, []).append(member.owner.values["_id"])
        if owners_by_pk:
            await linking.require(target, list(owners_by_pk))
            self.batch.after(lambda: linking.point_at(target, inverse, owners_by_pk))


async def _show_created(
    relation: ToMany[Any], child: creating.Creation, owners: Sequence[ValueRow]
) -> None:
    """Put the created records into the field of the new records that own them."""
    by_owner: dict[int, tuple[ValueRow, list[Any]]] = {}
    for owner, record in zip(owners, child.records, strict=True):
        by_owner.setdefault(id(owner), (owner, []))[1].append(record)
    finishing = Finishing()
    groups = list(by_owner.values())
    for part in parts(groups):
        for owner, records in part:
            if relation.name not in pending_of(owner.record).changes:  # assigned meanwhile
                owner.record.__dict__[relation.name] = RecordSet(child.bound.model, records)
        if part is not groups:
            await finishing.pause()
    finishing.end()


def _with_pointer(value: Any, inverse: Any, pk: Any) -> Any:
    """Return the values of a record to create, with a pointer to its owner."""
    pointer = pk if isinstance(inverse, Many2one) else [pk]
    if isinstance(value, Mapping):
        return {**value, inverse.name: pointer}
    setattr(value, inverse.name, pointer)
    return value
