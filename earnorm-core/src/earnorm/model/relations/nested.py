"""Records to create together with the records that commands on their to-many fields create and link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ErrorDetail, ValidationError
from earnorm.fields.command import Command
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import Commands, Many2one, ToMany
from earnorm.model.recordset import RecordSet
from earnorm.model.relations import linking
from earnorm.model.relations.ghosts import inverse_of, link_of, target_of
from earnorm.model.writing import creating
from earnorm.model.writing import records as writing

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

Step = Callable[[], Awaitable[object]]
Given = dict[str, Commands]


# -- what was given -------------------------------------------------------------------------------


def taken(bound: BoundModel, states: Sequence[dict[str, Any]]) -> list[Given]:
    """Take the commands out of validated states; empty where there are none."""
    found = [take(bound, state) for state in states]
    return found if any(found) else []


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


@dataclass(eq=False)
class Creation:
    """Records to create with all that hangs on them, checked."""

    bound: BoundModel
    values: Sequence[Any]
    states: list[dict[str, Any]]
    before: list[Creation] = field(default_factory=list["Creation"])
    after: list[Creation] = field(default_factory=list["Creation"])
    steps: list[Step] = field(default_factory=list[Step])
    children: list[tuple[ToMany[Any], Creation, list[int]]] = field(default_factory=list[Any])
    records: list[Any] = field(default_factory=list[Any])

    async def run(self) -> list[Any]:
        """Write everything; the records in their order."""
        for each in self.before:
            await each.run()
        documents = creating.documents_of(self.bound, self.states)
        self.records = await creating.store(self.bound, self.values, self.states, documents)
        for each in self.after:
            await each.run()
        for step in self.steps:
            await step()
        for field_, child, owners in self.children:
            self._show(field_, child, owners)
        if self.after or self.steps:
            await writing.read_computed(self.bound, self.records)
        return self.records

    def _show(self, field_: ToMany[Any], child: Creation, owners: Sequence[int]) -> None:
        """Let the new records know the ones that were created for them."""
        found: dict[int, list[Any]] = {}
        for owner, record in zip(owners, child.records, strict=True):
            found.setdefault(owner, []).append(record)
        for owner, records in found.items():
            value = RecordSet(child.bound.model, records)
            self.records[owner].__dict__[field_.name] = value


async def prepared(
    bound: BoundModel, values: Sequence[Any], origins: Sequence[tuple[str | int, ...]], subject: str
) -> Creation:
    """A nested creation; its problems are told at their place in the outermost values."""
    try:
        states, _ = await creating.checked_documents(bound, values)
        return await planned(bound, values, states, taken(bound, states))
    except ValidationError as error:
        raise ValidationError(subject, placed(error.errors(), origins)) from None


def placed(
    details: Sequence[ErrorDetail], origins: Sequence[tuple[str | int, ...]]
) -> list[ErrorDetail]:
    """Problems at their place in the outermost values, given where each record stands there."""
    if len(origins) == 1:
        return [{**each, "loc": (*origins[0], *each["loc"])} for each in details]
    return [
        {**each, "loc": (*origins[int(each["loc"][0])], *each["loc"][1:])} if each["loc"] else each
        for each in details
    ]


async def planned(
    bound: BoundModel, values: Sequence[Any], states: list[dict[str, Any]], given: list[Given]
) -> Creation:
    """A creation with commands, checked: nothing is written yet."""
    creation = Creation(bound, values, states)
    for each in bound.schema.to_many:
        members = [
            member
            for position, commands in enumerate(given)
            for member in _members(bound, each, commands.get(each.name, ()), position, len(values))
        ]
        touched = [p for p, commands in enumerate(given) if each.name in commands]
        if not touched:
            continue
        if each.stored:
            await _create_listed(creation, each, members, touched)
        elif isinstance(each, Many2many) and each.through is not None:
            await _create_through(creation, each, members)
        else:
            await _create_inverse(creation, each, members)
    return creation


@dataclass(frozen=True, slots=True)
class _Member:
    """A record that a new record is to be linked with: one to create, or the id of one."""

    owner: int
    origin: tuple[str | int, ...]
    pk: Any = None
    new: Any = None
    link: Mapping[str, Any] | None = None


def _members(
    bound: BoundModel, each: ToMany[Any], commands: Sequence[Command], owner: int, of: int
) -> list[_Member]:
    found: list[_Member] = []
    for index, command in enumerate(commands):
        loc = (*((owner,) if of > 1 else ()), each.name, index)
        if command.kind == "create":
            found.append(_Member(owner, loc, new=command.values))
        elif command.kind == "link":
            found += [_Member(owner, loc, pk, link=command.values) for pk in command.records]
        elif command.kind == "set":
            found = [_Member(owner, loc, pk) for pk in command.records]
        else:
            raise ValidationError(
                bound.model._name,
                [
                    {
                        "loc": loc,
                        "msg": f"a new record has nothing to {command.kind}",
                        "type": "command",
                    }
                ],
            )
    return found


async def _targets(
    creation: Creation, each: ToMany[Any], members: Sequence[_Member]
) -> tuple[Creation | None, list[Any]]:
    """The new records of the other model, and the id of every member."""
    news = [member for member in members if member.new is not None]
    child = None
    made = iter(())
    if news:
        target = target_of(creation.bound.app, each)
        subject = creation.bound.model._name
        child = await prepared(target, [m.new for m in news], [m.origin for m in news], subject)
        made = iter([state["_id"] for state in child.states])
    return child, [member.pk if member.new is None else next(made) for member in members]


async def _create_listed(
    creation: Creation, each: ToMany[Any], members: Sequence[_Member], touched: Sequence[int]
) -> None:
    child, pks = await _targets(creation, each, members)
    if child is not None:
        creation.before.append(child)
    lists: dict[int, dict[Any, None]] = {owner: {} for owner in touched}
    for member, pk in zip(members, pks, strict=True):
        lists[member.owner][pk] = None
    for owner, found in lists.items():
        creation.states[owner][each.name] = list(found)


async def _create_through(
    creation: Creation, each: Many2many[Any], members: Sequence[_Member]
) -> None:
    child, pks = await _targets(creation, each, members)
    if child is not None:
        creation.before.append(child)
    link, near, far = link_of(creation.bound.app, creation.bound.model._name, each)
    pairs: dict[tuple[Any, Any], _Member] = {}
    for member, pk in zip(members, pks, strict=True):
        pairs[creation.states[member.owner]["_id"], pk] = member
    known = [member.pk for member in members if member.new is None]
    if known:
        await linking.require(target_of(creation.bound.app, each), known)
    if pairs:
        values = [
            {**(member.link or {}), near.name: owner, far.name: pk}
            for (owner, pk), member in pairs.items()
        ]
        origins = [member.origin for member in pairs.values()]
        creation.after.append(await prepared(link, values, origins, creation.bound.model._name))


async def _create_inverse(
    creation: Creation, each: ToMany[Any], members: Sequence[_Member]
) -> None:
    target = target_of(creation.bound.app, each)
    inverse = inverse_of(target, each)
    news = [member for member in members if member.new is not None]
    if news:
        values = [
            _pointing(member.new, inverse, creation.states[member.owner]["_id"]) for member in news
        ]
        subject = creation.bound.model._name
        child = await prepared(target, values, [m.origin for m in news], subject)
        creation.after.append(child)
        if len(news) == len(members):
            creation.children.append((each, child, [member.owner for member in news]))
    owners: dict[Any, list[Any]] = {}
    for member in members:
        if member.new is None:
            owners.setdefault(member.pk, []).append(creation.states[member.owner]["_id"])
    if owners:
        await linking.require(target, list(owners))
        creation.steps.append(lambda: linking.point_at(target, inverse, owners))


def _pointing(value: Any, inverse: Any, pk: Any) -> Any:
    """The values of a new record that is to point at this one."""
    pointer = pk if isinstance(inverse, Many2one) else [pk]
    if isinstance(value, Mapping):
        return {**value, inverse.name: pointer}
    setattr(value, inverse.name, pointer)
    return value
