"""Checks of what layers let through: values, pages, groups, refusals, rules, and each write once."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from earnorm.domain import Domain
from earnorm.exceptions import AccessDenied, BatchRefused, ConcurrencyError, DuplicateKey
from earnorm.features.grouping.aggregation import Count
from earnorm.fields import Float, Int, String
from earnorm.kernel.acting import act_as
from earnorm.kernel.registry import forget
from earnorm.model.writing.updates import Inc
from earnorm.plugin import ModelView
from earnorm.testing.conformance.checks import Broken, Check, check
from earnorm.testing.conformance.layers import LAYERED, NO_PART, done
from earnorm.testing.conformance.probes import AnswerLost, Losing, Rules
from earnorm.testing.conformance.subject import Subject, Target, fields_of, item_values, make_item

_GROUP: Final = "layers"
_RECORDS: Final = 5
_DECLARE: Final = 'If the plugin changes values on purpose, changes={"<field>"} names those fields.'


@check(
    _GROUP,
    "values_kept",
    requirement="What a program writes is what it reads again, after a create, a write and a write of many, but "
    "for the fields that changes= names.",
    mend=f"Pass op.values and the documents of an answer on as they came. {_DECLARE}",
    section="Layers",
    after=("results", "updates"),
)
async def values_kept(subject: Subject) -> None:
    """Write records in each way, and compare what they hold with what a search gives."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app():
        for target in subject.targets:
            name, model = target.name, target.model
            records = list(await model.create([target.values(n) for n in (1, 2)]))
            for number, record in enumerate(records, 1):
                _given(subject, target, target.values(number), record, f"a create of {name!r}")
            await _read_again(subject, target, records, f"a create of {name!r}")
            await records[0].write(target.changes(3))
            _given(subject, target, target.changes(3), records[0], f"a write of {name!r}")
            await _read_again(subject, target, records, f"a write of {name!r}")
            await model.write_many({records[0]: target.changes(4), records[1]: target.changes(5)})
            await _read_again(subject, target, records, f"a write of many {name!r}")
            await model.search([("id", "=", records[1].id)]).update(target.changes(6))
            await records[1].refresh()
            _given(subject, target, target.changes(6), records[1], f"an update of {name!r}")


def _compared(subject: Subject, target: Target) -> list[str]:
    """Return the names of the fields whose values are given and are not the plugin's to change."""
    fields = fields_of(target.model)
    return [
        name
        for name in target.values(1)
        if name in fields and name not in subject.changes and not name.startswith("_")
    ]


def _held(subject: Subject, target: Target, record: Any) -> dict[str, Any]:
    values = record.to_dict()
    return {name: copy.deepcopy(values.get(name)) for name in _compared(subject, target)}


def _given(
    subject: Subject, target: Target, given: Mapping[str, Any], record: Any, what: str
) -> None:
    """Compare a record with what was given: exactly, where the model and its fields are the suite's own."""
    held = _held(subject, target, record)
    for name, value in held.items():
        is_lost = value is None and given.get(name) is not None
        if is_lost or (target is subject.targets[0] and value != given[name]):
            raise Broken(f"{what} leaves another value in {name!r} than it was given")


async def _read_again(subject: Subject, target: Target, records: Sequence[Any], what: str) -> None:
    by_id = Domain([("id", "in", [record.id for record in records])])
    found = {record.id: record for record in await target.model.search(by_id)}
    for record in records:
        held = _held(subject, target, record)
        read = _held(subject, target, found[record.id])
        wrong = [name for name in held if held[name] != read[name]]
        if wrong:
            raise Broken(
                f"after {what} a search reads another value of {wrong[0]!r} than the record holds"
            )


@check(
    _GROUP,
    "pages_and_groups",
    requirement="The order, the limit and the offset of a search hold, and a group gives a row for each value.",
    mend="Pass op.options on, or op.options.replace(...), and give all rows of the answer.",
    section="Layers",
    after=("results",),
)
async def pages_and_groups(subject: Subject) -> None:
    """Read records page by page in both orders, and group them by a value."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app():
        for target in subject.targets:
            model, name = target.model, target.name
            records = await model.create([target.values(n) for n in range(_RECORDS)])
            ids = [record.id for record in sorted(records, key=lambda record: record.pk)]
            for order, expected in (("id", ids), ("-id", ids[::-1])):
                for limit, offset in ((0, 0), (2, 0), (2, 2), (0, 3)):
                    page = model.search(order=order, limit=limit, offset=offset)
                    what = (
                        f"a search of {name!r} with order={order!r}, limit={limit}, offset={offset}"
                    )
                    found = [record.id for record in await done(what, page)]
                    wanted = expected[offset : offset + limit if limit else None]
                    if found != wanted:
                        raise Broken(f"{what} gives other records than these, or another order")
            await _grouped(subject, target, records)


async def _grouped(subject: Subject, target: Target, records: Any) -> None:
    fields = fields_of(target.model)
    for path in _compared(subject, target):
        if type(fields[path]) not in (String, Int):
            continue
        expected = Counter(getattr(record, path) for record in records)
        what = f"a group of {target.name!r} by {path!r}"
        rows = await done(what, target.model.search().group(path, records_of_it=Count()))
        if {row[path]: row["records_of_it"] for row in rows} != dict(expected):
            raise Broken(f"{what} gives {len(rows)} rows, or other numbers than the records")
        return


@check(
    _GROUP,
    "answers_are_copies",
    requirement="What a program does with a record that it does not save is in no other record.",
    mend="A record adopts the documents of an answer, and those of a create: a layer that keeps documents keeps "
    "copies, and answers with copies of them (copy.deepcopy).",
    section="Layers",
    after=("values_kept",),
)
async def answers_are_copies(subject: Subject) -> None:
    """Change records without saving them, and read them again."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app():
        for target in subject.targets:
            record = await target.model.create(target.values(1))
            held = _held(subject, target, record)
            for _ in range(3):  # the one that was created, the one that was kept, one from memory
                _change(target, record)
                found = await target.model.search([("id", "=", record.id)])
                for again in found:
                    if _held(subject, target, again) != held:
                        raise Broken(
                            f"a search of {target.name!r} gives what another record holds and has not saved"
                        )
                record = found[0]


def _change(target: Target, record: Any) -> None:
    """Change a record in memory, its lists and mappings in place."""
    fields = fields_of(target.model)
    for name, value in target.changes(2).items():
        held = getattr(record, name, None) if name in fields else None
        if isinstance(held, list):
            held.extend(held or [*value])
        elif name in fields:
            setattr(record, name, value)


@check(
    _GROUP,
    "refusals",
    requirement="What is refused is an error for the program and stores nothing: a duplicate alone and in a "
    "batch, and a second writer of one revision.",
    mend="Let the errors of call_next through; pass the Update on with what it expects (dataclasses.replace "
    "keeps it).",
    section="Layers",
    after=("results",),
)
async def refusals(subject: Subject) -> None:
    """Store a record twice, alone and in batches; write one revision twice."""
    await subject.need(LAYERED, NO_PART)
    with _versioned() as own:
        async with subject.app():
            for target in (*subject.targets, own):
                await _refused_twice(target)
                if ModelView(target.model).attribute("_versioned"):
                    await _second_writer(target)


@contextmanager
def _versioned() -> Iterator[Target]:
    model = make_item({"_name": "conformance.versioned", "_versioned": True})
    try:
        yield Target(model, item_values)
    finally:
        forget(model)


async def _refused_twice(target: Target) -> None:
    model, name = target.model, target.name
    record = await model.create(target.values(1))
    twice = {**target.values(2), "id": record.id}
    try:
        await model.create(twice)
    except DuplicateKey:
        pass
    else:
        raise Broken(f"a second {name!r} with the id of another is refused, and a create succeeds")
    values = [target.values(3), twice, target.values(4)]
    result = await model.create_many(values, ordered=False)
    if (result.written, len(result.errors)) != (2, 1):
        raise Broken(
            f"an unordered batch of {name!r} with one duplicate in three is not two records"
        )
    try:
        await model.create_many([twice, target.values(5)], ordered=True)
    except BatchRefused:
        pass
    else:
        raise Broken(f"an ordered batch of {name!r} with a duplicate succeeds")
    if await model.count() != 3:
        raise Broken(f"a refused create of {name!r} stores a record, or a batch does not store all")


async def _second_writer(target: Target) -> None:
    record = await target.model.create(target.values(7))
    other = await target.model.get(record.id)
    await record.write(target.changes(8))
    try:
        await other.write(target.changes(9))
    except ConcurrencyError:
        return
    raise Broken(f"a second writer of one revision of {target.name!r} overwrites the first")


@check(
    _GROUP,
    "writes_once",
    requirement="A write reaches the database once, and one whose answer is lost is an error and is not sent again.",
    mend="Await call_next once for a write; the kernel itself tries again what may be tried again.",
    section="Layers",
    after=("results", "updates"),
)
async def writes_once(subject: Subject) -> None:
    """Add one to a number, and lose the answers of writes."""
    await subject.need(LAYERED, NO_PART)
    losing = Losing()
    async with subject.app(losing):
        for target in subject.targets:
            model, name = target.model, target.name
            record = await model.create(target.values(1))
            await _added_once(subject, target, record)
            for what, run in _writes(target, record).items():
                with losing.answers_of(what, model):
                    try:
                        await run()
                    except AnswerLost:
                        pass
                    else:
                        raise Broken(f"a {what} of {name!r} succeeds although its answer was lost")
                    if losing.lost != 1:
                        raise Broken(f"a {what} of {name!r} is sent {losing.lost} times")


def _writes(target: Target, record: Any) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    return {
        "create": lambda: target.model.create(target.values(2)),
        "write": lambda: record.write(target.changes(3)),
        "unlink": lambda: record.unlink(),
    }


async def _added_once(subject: Subject, target: Target, record: Any) -> None:
    fields = fields_of(target.model)
    for name in _compared(subject, target):
        if type(fields[name]) not in (Int, Float) or fields[name].readonly:
            continue
        before = getattr(record, name)
        try:
            await record.write({name: Inc(1)})
        except ValueError:
            continue  # a rule of the model
        await record.refresh()
        if getattr(record, name) != before + 1:
            raise Broken(
                f"{name!r} of {target.name!r} is {getattr(record, name) - before} more after Inc(1)"
            )
        return


@check(
    _GROUP,
    "rules_hold",
    requirement="Access rules hold behind the plugin: who may see one record sees that one, whoever looked "
    "before, and a refusal is an error.",
    mend="Outside of SECURITY pass op.env on as it came, never as_system(...), and answer nothing from memory; "
    "let AccessDenied through.",
    section="Layers",
    after=("results",),
)
async def rules_hold(subject: Subject) -> None:
    """Read and write as two principals, with rules of the suite at SECURITY."""
    await subject.need(LAYERED, NO_PART)
    rules = Rules()
    async with subject.app(rules):
        for target in subject.targets:
            records = await target.model.create([target.values(1), target.values(2)])
            ids = [record.id for record in records]
            # Who acts for acting= may be the only one who may: the rule is about the record then.
            given = subject.acting is not nullcontext
            for number in (0, 1, 0):
                acting = nullcontext() if given else act_as(("ann", "bob")[number])
                with acting, rules.only(target.model, ids[number]):
                    await _sees(target, ids[number])  # no write in between, which empties a cache
            with rules.only(target.model, ids[0]), rules.refusing():
                await _is_refused(target, records[0])


async def _sees(target: Target, pk: Any) -> None:
    model, name = target.model, target.name
    found = [record.id for record in await model.search()]
    counted = await model.count()
    rows = await model.search().group(number=Count())
    if found != [pk] or counted != 1 or [row["number"] for row in rows] != [1]:
        raise Broken(
            f"of {name!r} a principal who may see one record finds {len(found)}, counts {counted} and groups "
            f"{sum(row['number'] for row in rows)}, or sees that of another principal"
        )


async def _is_refused(target: Target, record: Any) -> None:
    model = target.model
    attempts: Mapping[str, Callable[[], Awaitable[Any]]] = {
        "search": lambda: model.search([("id", "=", record.id)]),
        "create": lambda: model.create(target.values(3)),
        "write": lambda: model.search([("id", "=", record.id)]).update(target.changes(4)),
        "unlink": lambda: model.search([("id", "=", record.id)]).delete(),
    }
    for what, run in attempts.items():
        try:
            await run()
        except AccessDenied:
            continue
        raise Broken(f"a {what} of {target.name!r} that an access rule refuses succeeds")


@check(
    _GROUP,
    "apps_apart",
    requirement="What one App stores is not what another App reads, whatever a layer remembers.",
    mend="Keep what a layer remembers in the plugin's instance, which each App has its own of, or by App.",
    section="Layers",
    after=("results", "two_apps"),
)
async def apps_apart(subject: Subject) -> None:
    """Store one record in each of two Apps, and read all records of each."""
    await subject.need(LAYERED, NO_PART)
    async with subject.app() as one, subject.app() as two:
        for target in subject.targets:
            stored: list[Any] = []
            for number, app in enumerate((one, two), 1):
                with app.activate(), subject.acting():
                    stored.append((app, (await target.model.create(target.values(number))).id))
            for app, pk in stored * 2:
                with app.activate(), subject.acting():
                    if [record.id for record in await target.model.search()] != [pk]:
                        raise Broken(f"a search of {target.name!r} gives records of another App")


CHECKS: Final[tuple[Check, ...]] = (
    values_kept,
    pages_and_groups,
    answers_are_copies,
    refusals,
    writes_once,
    rules_hold,
    apps_apart,
)
