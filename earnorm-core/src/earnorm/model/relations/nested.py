"""Records to create together with the records that commands on their to-many fields create and link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ValidationError
from earnorm.fields.command import Command
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import Commands, Many2one, ToMany
from earnorm.kernel.steps import ValueBatch, ValueRow
from earnorm.model.recordset import RecordSet
from earnorm.model.relations import linking
from earnorm.model.relations.ghosts import inverse_of, link_of, target_of
from earnorm.model.writing import creating

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

Given = dict[str, Commands]


def take(bound: BoundModel, state: dict[str, Any]) -> Given:
    """Take the commands out of one validated state."""
    given: Given = {}
    for each in bound.schema.to_many:
        value = state.get(each.name)
        if isinstance(value, Commands):
            given[each.name] = state.pop(each.name)
        elif not each.stored and each.name in state:  # None, and a RecordSet that was loaded
            del state[each.name]
    return given


# -- new records ----------------------------------------------------------------------------------


async def plan(bound: BoundModel, batch: ValueBatch, given: Sequence[Given]) -> None:
    """Check the commands of new records, which have their ids, and note what goes with the creation."""
    planning = _Planning(bound, batch)
    for each in bound.schema.to_many:
        members: list[_Member] = []
        for row, commands in zip(batch.rows, given, strict=True):
            members += _members(row, each, commands.get(each.name, ()))
        touched = [
            row for row, commands in zip(batch.rows, given, strict=True) if each.name in commands
        ]
        if not touched or batch.problems:
            continue
        if each.stored:
            await planning.listed(each, members, touched)
        elif isinstance(each, Many2many) and each.through is not None:
            await planning.through(each, members)
        else:
            await planning.inverse(each, members)


@dataclass(frozen=True, slots=True)
class _Member:
    """A record that a new record is to be linked with: one to create, or the id of one."""

    owner: ValueRow
    loc: tuple[str | int, ...]
    pk: Any = None
    new: Any = None
    link: Mapping[str, Any] | None = None


def _members(row: ValueRow, each: ToMany[Any], commands: Sequence[Command]) -> list[_Member]:
    found: list[_Member] = []
    for index, command in enumerate(commands):
        loc = (*row.loc, each.name, index)
        if command.kind == "create":
            found.append(_Member(row, loc, new=command.values))
        elif command.kind == "link":
            found += [_Member(row, loc, pk, link=command.values) for pk in command.records]
        elif command.kind == "set":
            found = [_Member(row, loc, pk) for pk in command.records]
        else:
            message = f"a new record has nothing to {command.kind}"
            row.refuse((each.name, index), message, "command")
    return found


@dataclass(eq=False, slots=True)
class _Planning:
    """What goes with a creation."""

    bound: BoundModel
    batch: ValueBatch

    async def _create(
        self, target: BoundModel, values: Sequence[Any], members: Sequence[_Member]
    ) -> creating.Creation | None:
        try:
            return await creating.prepared(target, values, [member.loc for member in members])
        except ValidationError as error:
            self.batch.add_problems(error.errors())
            return None

    async def _targets(
        self, each: ToMany[Any], members: Sequence[_Member]
    ) -> tuple[creating.Creation | None, list[Any]]:
        """The new records of the other model, and the id of every member; no ids where something is wrong."""
        news = [member for member in members if member.new is not None]
        if not news:
            return None, [member.pk for member in members]
        target = target_of(self.bound.app, each)
        child = await self._create(target, [member.new for member in news], news)
        if child is None:
            return None, []
        made = iter([state["_id"] for state in child.states])
        self.batch.before(child.run)
        return child, [member.pk if member.new is None else next(made) for member in members]

    async def listed(
        self, each: ToMany[Any], members: Sequence[_Member], touched: Sequence[ValueRow]
    ) -> None:
        """A list of ids in the new record."""
        _, pks = await self._targets(each, members)
        if self.batch.problems:
            return
        lists: dict[int, dict[Any, None]] = {id(row): {} for row in touched}
        for member, pk in zip(members, pks, strict=True):
            lists[id(member.owner)][pk] = None
        for row in touched:
            row.values[each.name] = list(lists[id(row)])

    async def through(self, each: Many2many[Any], members: Sequence[_Member]) -> None:
        """Links that are records themselves."""
        _, pks = await self._targets(each, members)
        if self.batch.problems:
            return
        link, near, far = link_of(self.bound.app, self.bound.model._name, each)
        pairs: dict[tuple[Any, Any], _Member] = {}
        for member, pk in zip(members, pks, strict=True):
            pairs[member.owner.values["_id"], pk] = member
        known = [member.pk for member in members if member.new is None]
        if known:
            await linking.require(target_of(self.bound.app, each), known)
        if pairs:
            values = [
                {**(member.link or {}), near.name: owner, far.name: pk}
                for (owner, pk), member in pairs.items()
            ]
            child = await self._create(link, values, list(pairs.values()))
            if child is not None:
                self.batch.after(child.run)

    async def inverse(self, each: ToMany[Any], members: Sequence[_Member]) -> None:
        """Records that point at the new one."""
        target = target_of(self.bound.app, each)
        inverse = inverse_of(target, each)
        news = [member for member in members if member.new is not None]
        if news:
            values = [_pointing(m.new, inverse, m.owner.values["_id"]) for m in news]
            child = await self._create(target, values, news)
            if child is None:
                return
            self.batch.after(child.run)
            if len(news) == len(members):
                owners = [member.owner for member in news]
                self.batch.settle(lambda: _show(each, child, owners))
        found: dict[Any, list[Any]] = {}
        for member in members:
            if member.new is None:
                found.setdefault(member.pk, []).append(member.owner.values["_id"])
        if found:
            await linking.require(target, list(found))
            self.batch.after(lambda: linking.point_at(target, inverse, found))


def _show(each: ToMany[Any], child: creating.Creation, owners: Sequence[ValueRow]) -> None:
    """Let the new records know the ones that were created for them."""
    found: dict[int, tuple[ValueRow, list[Any]]] = {}
    for owner, record in zip(owners, child.records, strict=True):
        found.setdefault(id(owner), (owner, []))[1].append(record)
    for owner, records in found.values():
        owner.record.__dict__[each.name] = RecordSet(child.bound.model, records)


def _pointing(value: Any, inverse: Any, pk: Any) -> Any:
    """The values of a new record that is to point at this one."""
    pointer = pk if isinstance(inverse, Many2one) else [pk]
    if isinstance(value, Mapping):
        return {**value, inverse.name: pointer}
    setattr(value, inverse.name, pointer)
    return value
