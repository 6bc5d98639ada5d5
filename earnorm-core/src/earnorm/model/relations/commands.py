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
from earnorm.fields.command import Command
from earnorm.fields.relational import Commands, ToMany
from earnorm.kernel.steps import TAKING_MORE, Stage, Step, Way
from earnorm.kernel.value_steps import ValueBatch, ValueRow
from earnorm.model.reading.hydrate import ghosts
from earnorm.model.relations import linking, nested
from earnorm.model.relations.ghosts import RELATIONS, target_of
from earnorm.model.relations.nested import Given, take
from earnorm.model.writing import creating
from earnorm.model.writing import records as writing
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
        yield Step(Stage.VALIDATE, "commands", _refuse, others, names=names)


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
        commands = [_take_commands(bound, row, is_new=True) for row in batch.rows]
        if any(commands):
            await nested.plan(bound, batch, commands)
        return
    for rows, given in _grouped_by_commands(bound, batch.rows):
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


def _grouped_by_commands(
    bound: BoundModel, rows: Sequence[ValueRow]
) -> Iterable[tuple[list[ValueRow], Given]]:
    """Return groups of rows that got the same commands, each with these commands."""
    groups: dict[tuple[int, ...], tuple[list[ValueRow], Given]] = {}
    for row in rows:
        given = _take_commands(bound, row, is_new=False)
        if given:
            key = tuple(id(given.get(field.name)) for field in bound.schema.to_many)
            groups.setdefault(key, ([], given))[0].append(row)
    return groups.values()


@dataclass(eq=False)
class _CommandsOfRows:
    """The commands of some records that share them: plans the work before and after their write."""

    bound: BoundModel
    batch: ValueBatch
    rows: list[ValueRow]

    @property
    def records(self) -> list[Any]:
        return [row.record for row in self.rows]

    async def plan(self, given: Given) -> None:
        """Check the commands, and note their work in the batch."""
        for field in self.bound.schema.to_many:
            commands = given.get(field.name)
            if commands is None:
                continue
            if field.stored:
                await self._plan_listed(field, commands)
            else:
                await self._plan_elsewhere(field, commands)
                self.batch.settle(partial(_forget, self.records, field))

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
            records = ghosts(target, command.records)
            try:
                run, _ = await writing.prepared_write(records, command.values, RELATIONS)
            except ValidationError as error:
                loc = (*self._loc, field.name, index)
                self.batch.add_problems(placed(error.errors(), [loc]))
            else:
                self.batch.after(run)

    async def _plan_listed(self, field: ToMany[Any], commands: Commands) -> None:
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
        change = linking.ListChange.of(commands, created)
        if change.whole is not None:
            for row in self.rows:
                row.values[field.name] = change.whole
        elif change.added or change.removed:
            records = self.records
            batch.after(lambda: change.write(self.bound, field, records))
            batch.settle(lambda: change.show(records, field))
        if change.deleted:
            target = target_of(self.bound.app, field)
            batch.after(lambda: linking.delete(target, change.deleted))

    async def _plan_elsewhere(self, field: ToMany[Any], commands: Commands) -> None:
        """Plan links that the other model, or a link model, stores."""
        app, after = self.bound.app, self.batch.after
        pks = list(dict.fromkeys(record.pk for record in self.records))
        target = target_of(app, field)
        ends = linking.ends_of(self.bound, field, pks)
        await self._plan_updates(field, commands)
        new_values: list[tuple[int, Any]] = []
        links: dict[Any, Mapping[str, Any]] = {}
        for index, command in enumerate(commands):
            kind, named = command.kind, list(command.records)
            if kind == "create":
                new_values.append((index, command.values))
            elif kind == "link":
                links |= {pk: command.values or {} for pk in named}
            elif kind == "set":
                new_values, links = [], {pk: {} for pk in named}
                after(partial(ends.keep_only, named))
            elif kind in ("unlink", "delete"):
                for pk in named:
                    links.pop(pk, None)
                after(partial(ends.unlink if kind == "unlink" else ends.delete, named))
        if links:
            await linking.require(target, list(links))
            await ends.check(links)
            after(partial(ends.link, links))
        if new_values:
            indexes = [index for index, _ in new_values for _ in ends.copies]
            values = [ends.new(value, pk) for _, value in new_values for pk in ends.copies]
            child = await self._create(field, values, indexes)
            if child is None:
                return
            after(child.run)
            if isinstance(ends, linking.Through):
                created: dict[Any, Mapping[str, Any]] = {state["_id"]: {} for state in child.states}
                after(partial(ends.link, created))


def _forget(records: Sequence[Any], field: ToMany[Any]) -> None:
    for record in records:
        record.__dict__.pop(field.name, None)  # the next read gives an unloaded value
        getattr(record, "_changes", {}).pop(field.name, None)
