"""Carrying out commands on to-many fields: what is created, linked and changed together with records.

Everything is checked before anything is written: values, nested ones included, and the existence of
records that are linked or updated. Then all is written in one transaction where the backend has
them; where it has none, in an order that leaves no id of a record that does not exist yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ValidationError
from earnorm.features.polymorphism.family import class_of
from earnorm.fields.command import Command
from earnorm.fields.relational import Commands, ToMany, is_command
from earnorm.kernel.transactions import atomic
from earnorm.model.reading.hydrate import ghosts
from earnorm.model.relations import linking
from earnorm.model.relations.ghosts import target_of
from earnorm.model.relations.nested import Creation, Given, Step, placed, planned, prepared, take
from earnorm.model.validation.checking import checked_plan
from earnorm.model.writing import records as writing
from earnorm.model.writing.tracking import env_of, touch
from earnorm.model.writing.updates import Change

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


def split(bound: BoundModel, values: Mapping[str, Any]) -> tuple[dict[str, Any], Given]:
    """The values of a write without commands, and the commands.

    Raises:
        ValidationError: They are no commands of these fields.
    """
    names = [
        each.name
        for each in bound.schema.to_many
        if each.name in values and not isinstance(values[each.name], Change)
    ]
    plain = {name: value for name, value in values.items() if name not in names}
    checked = bound.schema.validate_partial(
        {name: [] if values[name] is None else values[name] for name in names}
    )
    given = take(bound, checked)
    return {**plain, **checked}, given


def assigned(bound: BoundModel, record: BaseModel, names: Sequence[str]) -> bool:
    """Whether one of the changed fields takes more than storing a list of ids."""
    for each in bound.schema.to_many:
        if each.name in names:
            if not each.stored:
                return True
            value = record.__dict__[each.name]
            if isinstance(value, list) and any(is_command(item) for item in value):
                return True
    return False


async def create(
    bound: BoundModel, values: Sequence[Any], states: list[dict[str, Any]], given: list[Given]
) -> list[Any]:
    """Create records whose values hold commands."""
    creation = await planned(bound, values, states, given)
    return await atomic(creation.run)


# -- write ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Rewriting:
    """A write with commands, checked: what comes before it, the plain part, and what comes after."""

    bound: BoundModel
    records: Sequence[Any]
    plain: dict[str, Any]
    given: Given
    before: list[Creation] = field(default_factory=list[Creation])
    steps: list[Step] = field(default_factory=list[Step])
    settle: list[Callable[[], None]] = field(default_factory=list[Any])

    @property
    def pks(self) -> list[Any]:
        """The ids of the records, each once."""
        return list(dict.fromkeys(record.pk for record in self.records))

    async def run(self) -> int:
        """Write everything; how many records were written."""
        touch(env_of(self.records), self.records)
        for each in self.before:
            await each.run()
        written = await writing.write(self.records, self.plain) if self.plain else len(self.pks)
        for step in self.steps:
            await step()
        for settle in self.settle:
            settle()
        if self.steps:
            await writing.read_computed(self.bound, self.records)
        return written


async def write(records: Sequence[BaseModel], plain: dict[str, Any], given: Given) -> int:
    """Write records whose values hold commands."""
    rewriting = await _rewriting(records, plain, given)
    return await atomic(rewriting.run)


async def save(records: Sequence[BaseModel], names: Mapping[int, Sequence[str]]) -> None:
    """Write each record's own changes, where commands are among them.

    Args:
        records: Stored records.
        names: The changed fields of each, by ``id()``.
    """
    planned: list[Rewriting] = []
    for record in records:
        bound = record._fetch.app.bind(type(record))
        to_many = {each.name for each in bound.schema.to_many}
        values = {
            name: record.__dict__[name] if name in to_many else getattr(record, name)
            for name in names[id(record)]
        }
        planned.append(await _rewriting([record], *split(bound, values)))

    async def run() -> None:
        for each in planned:
            await each.run()

    await atomic(run)


async def _rewriting(
    records: Sequence[BaseModel], plain: dict[str, Any], given: Given
) -> Rewriting:
    bound = env_of(records).app.bind(class_of(records))
    found = Rewriting(bound, records, plain, given)
    for each in bound.schema.to_many:
        commands = given.get(each.name)
        if commands is None:
            continue
        if each.stored:
            await _write_listed(found, each, commands)
        else:
            await _write_elsewhere(found, each, commands)
            found.settle.append(_forgetter(records, each))
    if plain:
        plan = writing.planned(bound, plain)  # raises before anything is written
        await checked_plan(bound, plan, records)
    return found


def _forgetter(records: Sequence[Any], each: ToMany[Any]) -> Callable[[], None]:
    def forget() -> None:
        for record in records:
            record.__dict__.pop(each.name, None)  # read anew, it is not loaded
            getattr(record, "_changes", {}).pop(each.name, None)

    return forget


async def _new(
    found: Rewriting, each: ToMany[Any], values: Sequence[Any], indexes: Sequence[int]
) -> Creation:
    target = target_of(found.bound.app, each)
    origins = [(each.name, index) for index in indexes]
    return await prepared(target, values, origins, found.bound.model._name)


async def _updates(found: Rewriting, each: ToMany[Any], commands: Sequence[Command]) -> None:
    """The updates of linked records, and what is to be done for them."""
    target = target_of(found.bound.app, each)
    for index, command in enumerate(commands):
        if command.kind != "update":
            continue
        await linking.require(target, list(command.records))
        try:
            plain, given = split(target, command.values)
            nested = await _rewriting(ghosts(target, command.records), plain, given)
        except ValidationError as error:
            details = placed(error.errors(), [(each.name, index)])
            raise ValidationError(found.bound.model._name, details) from None
        found.steps.append(nested.run)


async def _write_listed(found: Rewriting, each: ToMany[Any], commands: Commands) -> None:
    news = [(i, c.values) for i, c in enumerate(commands) if c.kind == "create"]
    made: dict[int, Any] = {}
    if news:
        child = await _new(found, each, [v for _, v in news], [i for i, _ in news])
        found.before.append(child)
        made = {i: s["_id"] for (i, _), s in zip(news, child.states, strict=True)}
    await _updates(found, each, commands)
    change = linking.ListChange.of(commands, made)
    if change.whole is not None:
        found.plain[each.name] = change.whole
    elif change.added or change.removed:
        found.steps.append(lambda: change.write(found.bound, each, found.pks))
        found.settle.append(lambda: change.show(found.records, each))
    if change.deleted:
        target = target_of(found.bound.app, each)
        found.steps.append(lambda: linking.delete(target, change.deleted))


async def _write_elsewhere(found: Rewriting, each: ToMany[Any], commands: Commands) -> None:
    """Links that the other model, or a link model, holds."""
    app, pks = found.bound.app, found.pks
    target = target_of(app, each)
    ends = linking.ends_of(found.bound, each, pks)
    await _updates(found, each, commands)
    news: list[tuple[int, Any]] = []
    links: dict[Any, Mapping[str, Any]] = {}
    for index, command in enumerate(commands):
        kind, named = command.kind, list(command.records)
        if kind == "create":
            news.append((index, command.values))
        elif kind == "link":
            links |= {pk: command.values or {} for pk in named}
        elif kind == "set":
            news, links = [], {pk: {} for pk in named}
            found.steps.append(lambda keep=named: ends.keep_only(keep))  # type: ignore[misc] # mypy infers no type for the default
        elif kind in ("unlink", "delete"):
            for pk in named:
                links.pop(pk, None)
            act = ends.unlink if kind == "unlink" else ends.delete
            found.steps.append(lambda act=act, named=named: act(named))  # type: ignore[misc] # as above
    if links:
        await linking.require(target, list(links))
        await ends.check(links)
        found.steps.append(lambda: ends.link(links))
    if news:
        indexes = [index for index, _ in news for _ in ends.copies]
        values = [ends.new(value, pk) for _, value in news for pk in ends.copies]
        child = await _new(found, each, values, indexes)
        found.steps.append(child.run)
        if isinstance(ends, linking.Through):
            made: dict[Any, Mapping[str, Any]] = {state["_id"]: {} for state in child.states}
            found.steps.append(lambda: ends.link(made))
