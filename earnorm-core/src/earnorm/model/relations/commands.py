"""Commands on to-many fields: steps that create, link and change other records with a write.

Everything is checked before anything is written: values, nested ones included, and the existence of
records that are linked or updated. Then all is written in one transaction if the backend has
transactions; if not, in an order that never stores the id of a record that does not exist yet.

``nested`` handles the commands of new records; ``linking`` writes the links.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ValidationError
from earnorm.fields.base import MISSING
from earnorm.fields.command import Command
from earnorm.fields.relational import Commands, ToMany, is_record
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.steps import TAKING_MORE, Stage, Step, Way
from earnorm.kernel.transactions.held_records import HOLDERS, note_settled
from earnorm.kernel.value_steps import ValueBatch, ValueRow
from earnorm.model.reading.hydrate import ghosts
from earnorm.model.relations import linking, nested
from earnorm.model.relations.ghosts import RELATIONS, held, target_of
from earnorm.model.relations.link_changes import LinkChange
from earnorm.model.relations.nested import Given, take
from earnorm.model.slots import pending_of
from earnorm.model.writing import creating
from earnorm.model.writing import records as writing
from earnorm.model.writing.pending import forget_change
from earnorm.model.writing.planning import is_change
from earnorm.model.writing.sending import placed

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.views import ModelView

_OF_NEW = "commands are for create(): they may take many operations"
_OF_A_QUERY = "commands are for known records: await the query first, and write() to the records"
_OF_MANY = "commands are for create(), write() and save(): they may take many operations"


def command_steps(model: ModelView) -> Iterable[Step]:
    """Yield the steps of a model with to-many fields."""
    names = frozenset(field.name for field in model.fields.values() if isinstance(field, ToMany))
    if names:
        others = ~TAKING_MORE
        yield Step(Stage.PLAN, "commands", _carry_out, TAKING_MORE, names=names)
        yield Step(Stage.VALIDATE, "commands", _refuse, others, names=names, in_parts=True)


def _refuse(batch: ValueBatch) -> None:
    """Refuse commands where only one operation is possible, which can store only a list of ids."""
    bound = batch.env.app.bind(batch.model.cls)
    message = _OF_NEW if batch.is_new else _OF_A_QUERY if batch.way is Way.UPDATE else _OF_MANY
    for row in batch.rows:
        for name in _take_commands(bound, row, is_new=batch.is_new):
            row.refuse(name, message, "command")


async def _carry_out(batch: ValueBatch) -> None:
    bound = batch.env.app.bind(batch.model.cls)
    if batch.is_new:
        commands: list[Given] = []
        for part in parts(batch.rows):
            for row in part:
                commands.append(_take_commands(bound, row, is_new=True))
            if part is not batch.rows:
                await pause()
        if any(commands):
            await nested.plan(bound, batch, commands)
        return
    for rows, given in await _grouped_by_commands(bound, batch.rows):
        await _CommandsOfRows(bound, batch, rows).plan(given)


def _take_commands(bound: BoundModel, row: ValueRow, *, is_new: bool) -> Given:
    """Take the commands out of valid values."""
    values = row.values
    if not is_new:
        for field in bound.schema.to_many:
            if field.name in values and values[field.name] is None:
                values[field.name] = Commands([Command.clear()]) if not field.stored else []
    changes = {name: values.pop(name) for name in list(values) if is_change(name, values[name])}
    given = take(bound, values)
    values.update(changes)
    return given


async def _grouped_by_commands(
    bound: BoundModel, rows: Sequence[ValueRow]
) -> Iterable[tuple[list[ValueRow], Given]]:
    """Return groups of rows that got the same commands, each with these commands."""
    groups: dict[tuple[int, ...], tuple[list[ValueRow], Given]] = {}
    for part in parts(rows):
        for row in part:
            given = _take_commands(bound, row, is_new=False)
            if given:
                key = tuple(id(given.get(field.name)) for field in bound.schema.to_many)
                groups.setdefault(key, ([], given))[0].append(row)
        if part is not rows:
            await pause()
    return groups.values()


@dataclass(eq=False)
class _CommandsOfRows:
    """The commands of some records that share them: plans the work before and after their write."""

    bound: BoundModel
    batch: ValueBatch
    rows: list[ValueRow]
    are_found: bool = False

    @property
    def records(self) -> list[Any]:
        return linking.records_of(self.rows)

    async def plan(self, given: Given) -> None:
        """Check the commands, and note their work in the batch."""
        fields = [field for field in self.bound.schema.to_many if field.name in given]
        change = linking.OneChange(self.bound, self.rows)
        stored = {
            field.name: linking.StoredLinks(self.bound, field, self.rows, change)
            for field in fields
            if field.stored
        }
        for links in stored.values():
            await links.look()
        # Whatever fails later, no record shows commands or links that the database does not have.
        for field in fields:
            if not field.stored:
                forgetting = _Forgetting(self.rows, field)
                # Before the first of them changes, and what was read while they changed.
                self.batch.after(forgetting.forget)
                self.batch.settle(forgetting.forget)
            elif all(command.kind != "set" for command in given[field.name]):
                self.batch.after(stored[field.name].put_back)
        # A contradiction is refused whatever is stored, so nothing is looked for.
        refused = {f.name for f in fields if self._is_contradictory(f, given[f.name])}
        for field in fields:
            if field.name in refused:
                continue
            if field.stored:
                await self._plan_listed(field, given[field.name], stored[field.name])
            else:
                await self._plan_elsewhere(field, given[field.name])

    async def _create(
        self, field: ToMany[Any], values: Sequence[Any], indexes: Sequence[int]
    ) -> creating.Creation | None:
        target = target_of(self.bound.app, field)
        locs = [(*self._loc, field.name, index) for index in indexes]
        try:
            return await creating.prepared(target, values, locs, notes=RELATIONS)
        except ValidationError as error:
            self.batch.add_problems(error.errors())
            return None

    @property
    def _loc(self) -> tuple[str | int, ...]:
        # All records of a write() get the same values, so no record's position applies.
        return () if self.batch.way is Way.WRITE else self.rows[0].loc

    async def _plan_updates(self, field: ToMany[Any], commands: Sequence[Command]) -> None:
        """Plan the updates of linked records."""
        target = target_of(self.bound.app, field)
        for index, command in enumerate(commands):
            if command.kind != "update":
                continue
            await linking.require(target, list(command.records))
            records = [
                copy
                for pk in command.records
                for copy in held(self.records, field, pk) or ghosts(target, [pk])
            ]
            try:
                run, _ = await writing.prepared_write(records, command.values, RELATIONS)
            except ValidationError as error:
                loc = (*self._loc, field.name, index)
                self.batch.add_problems(placed(error.errors(), [loc]))
            else:
                self.batch.after(run)

    def _is_contradictory(self, field: ToMany[Any], commands: Sequence[Command]) -> bool:
        message = "an earlier command of the list deletes the record, so it cannot be linked"
        contradicted = LinkChange.of(commands, {}).contradicted
        self.batch.add_problems(
            [
                {"loc": (*self._loc, field.name, index), "msg": message, "type": "command"}
                for index in contradicted
            ]
        )
        return bool(contradicted)

    async def _plan_listed(
        self, field: ToMany[Any], commands: Commands, stored: linking.StoredLinks
    ) -> None:
        batch = self.batch
        new_values = [(i, c.values) for i, c in enumerate(commands) if c.kind == "create"]
        created: dict[int, Any] = {}
        if new_values:
            child = await self._create(
                field, [v for _, v in new_values], [i for i, _ in new_values]
            )
            if child is None:
                return
            batch.before(child.run)
            created = {i: s["_id"] for (i, _), s in zip(new_values, child.states, strict=True)}
        await self._plan_updates(field, commands)
        change = LinkChange.of(commands, created)
        if change.whole is not None:
            for row in self.rows:
                row.values[field.name] = list(change.whole)
        else:
            batch.after(partial(stored.write, change))
        if change.deleted:
            target = target_of(self.bound.app, field)
            batch.after(lambda: linking.delete(target, list(change.deleted)))

    async def _plan_elsewhere(self, field: ToMany[Any], commands: Commands) -> None:
        """Plan links that the other model, or a link model, stores."""
        app, after = self.bound.app, self.batch.after
        pks = list(dict.fromkeys(record.pk for record in self.records))
        target = target_of(app, field)
        ends = linking.ends_of(self.bound, field, pks)
        if not self.are_found and not any(row.values for row in self.rows):
            await linking.require(self.bound, pks)  # no write of theirs finds them missing
            self.are_found = True
        await self._plan_updates(field, commands)
        change = LinkChange.of(commands, {})
        removed = [pk for pk in change.removed if pk not in change.deleted]
        if change.deleted:
            after(partial(ends.delete, list(change.deleted)))
        if removed:
            after(partial(ends.unlink, removed))
        if change.whole is not None:
            after(partial(ends.keep_only, list(change.whole)))
        if change.links:
            await linking.require(target, list(change.links))
            await ends.check(change.links)
            after(partial(ends.link, change.links))
        if change.created:
            pairs = [
                (index, pk)
                for index in change.created
                # A record that the program made is created once, and its last owner has it.
                for pk in ends.copies[-1 if is_record(commands[index].values) else 0 :]
            ]
            values = [ends.new(commands[index].values, pk) for index, pk in pairs]
            child = await self._create(field, values, [index for index, _ in pairs])
            if child is None:
                return
            after(child.run)
            if isinstance(ends, linking.Through):
                created: dict[Any, Mapping[str, Any]] = {state["_id"]: {} for state in child.states}
                after(partial(ends.link, created))


class _Forgetting:
    """Forgets the links of a field that the records in memory show, so that the next read loads them.

    What is assigned after the plan stays pending.
    """

    def __init__(self, rows: Sequence[ValueRow], field: ToMany[Any]) -> None:
        self._rows, self._name = rows, field.name
        records = linking.records_of(rows)
        self._held = {id(r): r.__dict__.get(field.name, MISSING) for r in records}

    def forget(self) -> None:
        """Forget the links that the records show now."""
        name = self._name
        for record in linking.records_of(self._rows):
            state = record.__dict__
            if HOLDERS:
                note_settled(record)
            if state.get(name, MISSING) is self._held[id(record)]:
                forget_change(record, name)
            if name not in pending_of(record).changes:
                state.pop(name, None)
