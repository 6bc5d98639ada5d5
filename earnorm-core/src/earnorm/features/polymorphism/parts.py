"""Divides a change of records of several classes into a part for each class.

The layers and steps of a class see the part of its own records. A change of known records (a
``PerRecord``, or one that records wait for) is divided by the classes that are looked up for them;
any other change is divided by conditions alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from earnorm.concerns import Concerns
from earnorm.domain import Domain, condition
from earnorm.domain.ids import split_ids
from earnorm.exceptions import (
    BatchDuplicateKey,
    BatchRefused,
    DuplicateKey,
    ErrorDetail,
    ValidationError,
)
from earnorm.features.polymorphism.family import family_of
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import JUDGED, Call, Operation, Options, PerRecord
from earnorm.kernel.serving.sending import SENDER
from earnorm.kernel.steps import HAND_BACK, HandBack, Stage

if TYPE_CHECKING:
    from earnorm.features.polymorphism.family import Family

_OF_ONE_CLASS: Final[Note[bool]] = Note("of one class")
_REASON: Final = "polymorphism: the classes of the records that are changed"
# A write finds the newest records, which a secondary or a majority may not know yet.
_NEWEST: Final = Concerns(read_concern="local", read_preference="primary")


async def change_by_class(op: Operation, call_next: Call) -> int:
    """Change or delete the records of each class by an operation of that class."""
    family = family_of(op.app.bind(op.model))
    others = family.others()
    if not others or _OF_ONE_CLASS in op.notes:
        count: int = await call_next(op)
        return count
    division = _Division(op, call_next, family)
    if op.values and (isinstance(op.values, PerRecord) or HAND_BACK in op.notes):
        groups = await division.look_up()
    else:
        groups = dict.fromkeys([*others, family.kind], ())
    return await division.run(groups)


def is_refused_in_part(op: Operation) -> bool:
    """Return whether steps of one class may refuse a write when parts of it are written."""
    if _OF_ONE_CLASS in op.notes or op.options.concerns is not None:
        return False
    members = family_of(op.app.bind(op.model)).members
    return len(members) > 1 and any(
        Stage.CONSTRAIN <= step.stage <= Stage.CONFIRM
        for member in members.values()
        for step in member.steps()
    )


class _Division:
    """The parts of one change, which are run one after the other."""

    def __init__(self, op: Operation, call_next: Call, family: Family) -> None:
        self._op, self._call_next, self._family = op, call_next, family
        values = op.values if isinstance(op.values, PerRecord) else {}
        self._positions = {pk: position for position, pk in enumerate(values)}
        self._done: list[int] = []
        # The ids that the domain names, and the rest of the domain; None if it names no ids.
        self._named = split_ids(op.domain, op.app.bind(op.model).schema)

    async def look_up(self) -> dict[str, Sequence[Any]]:
        """Return the ids of the records by their kinds; the kind asked for comes last.

        It has the records of unknown kinds as well, and the named ones that are not found, so that
        its steps can report them.
        """
        op, family = self._op, self._family
        pks = list(self._positions or (self._named[0] if self._named else ()))
        options = Options(
            fields=frozenset({"_id", family.discriminator}),
            limit=0 if pks or op.options.many else 1,
            timeout=op.options.timeout,
            concerns=_NEWEST if op.env.transaction is None else None,
        )
        domain = condition("_id", "in", pks) if pks else op.domain
        env = op.env.as_system(_REASON)
        search = op.child("search", op.model, domain, None, options, origin="polymorphism", env=env)
        kinds = {d["_id"]: family.kind_of(d) for d in await op.app.execute(search)}
        groups: dict[str, Sequence[Any]] = {}
        for kind in (*family.others(), family.kind):
            if pks_of_kind := [pk for pk in pks or kinds if kinds.get(pk, family.kind) == kind]:
                groups[kind] = pks_of_kind
        return groups or {family.kind: ()}

    async def run(self, groups: Mapping[str, Sequence[Any]]) -> int:
        """Run the part of each kind; return the number of records changed."""
        op, own = self._op, self._family.kind
        order = list(groups)
        sender = op.notes.get(SENDER)
        if sender is not None and sender.is_open:
            # The part of the class itself is sent together with the other operations of a bulk;
            # the parts that are sent one by one follow when nothing can refuse the bulk any more.
            order.sort(key=lambda kind: kind != own)
            if own not in groups:
                await sender.park(op.app.bind(op.model)._collection_of(op), op, ())
        count = 0
        for kind in order:
            if count and not op.options.many:
                break
            count += await self._run(kind, groups[kind])
        return count

    async def _run(self, kind: str, pks: Sequence[Any]) -> int:
        family, is_own = self._family, kind == self._family.kind
        model = family.members[kind].model
        op = self._part(pks)
        kinds = family.of_kinds(family.others() if is_own else [kind])
        op = replace(op, model=model, domain=op.domain & (~kinds if is_own else kinds))
        if not is_own:
            notes = {k: v for k, v in op.notes.items() if k is not SENDER}
            op = op.replace(notes={**notes, JUDGED: True, _OF_ONE_CLASS: True})
        try:
            count: int = await (self._call_next(op) if is_own else op.app.execute(op))
        except ValidationError as error:
            # An error of other records, which follow these ones, has positions of its own.
            is_own_error = error.subject in (model._name, model._collection)
            if not is_own_error or len(self._positions) < 2:
                raise
            located = _located(error, [self._positions[pk] for pk in pks], self._done)
            raise located from error.__cause__
        self._done += [self._positions[pk] for pk in pks if pk in self._positions]
        back, part = self._op.note(HAND_BACK), op.note(HAND_BACK)
        if back is not None and part is not None and part is not back:
            _hand_over(part, back, pks)
        return count

    def _part(self, pks: Sequence[Any]) -> Operation:
        """Return the operation about these records only, with a place for their values."""
        op = self._op
        if self._named is not None and pks:
            ids, rest = self._named
            mine = set(pks)
            if not mine.issuperset(ids):
                wanted = [pk for pk in ids if pk in mine]
                one = len(wanted) == 1
                named = condition("_id", "=" if one else "in", wanted[0] if one else wanted)
                op = op.replace(domain=named if rest is Domain.TRUE else named & rest)
        if isinstance(op.values, PerRecord) and len(pks) < len(op.values):
            op = op.replace(values=PerRecord({pk: op.values[pk] for pk in pks}))
        back = op.note(HAND_BACK)
        return op if back is None else op.with_note(HAND_BACK, HandBack(back.records))


def _hand_over(part: HandBack, back: HandBack, pks: Iterable[Any]) -> None:
    """Hand the values of a part back to its own records only, for each by its id."""
    for pk in pks if part.every else ():
        back.give(pk, part.every)
    for pk, values in part.own.items():
        back.give(pk, values)


def _located(
    error: ValidationError, positions: Sequence[int], done: Collection[int]
) -> ValidationError:
    """Return the same error with the positions that the records have in the whole change."""
    details: list[ErrorDetail] = []
    for detail in error.errors():
        first, *rest = detail["loc"] or ("",)
        if isinstance(first, int):
            details.append({**detail, "loc": (positions[first], *rest)})
        elif len(positions) == 1:  # a change of one record has no position
            details.append({**detail, "loc": (positions[0], *detail["loc"])})
        else:
            details.append(detail)
    if not isinstance(error, BatchRefused):
        return ValidationError(error.subject, details) if type(error) is ValidationError else error
    written = error.written
    at = None if written is None else sorted([*done, *(positions[number] for number in written)])
    located = (
        BatchDuplicateKey(error.subject, details, fields=error.fields, written=at)
        if isinstance(error, DuplicateKey)
        else BatchRefused(error.subject, details, written=at)
    )
    if error.matched is not None:
        located.matched = error.matched + len(done)
    return located
