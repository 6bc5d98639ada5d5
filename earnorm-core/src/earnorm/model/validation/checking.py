"""Checks records against their model's asynchronous validators and ``@constrains`` before a write.

Each constraint sees a preview: an object of the model with the values that the record will have.
The record itself does not change, so a refused write leaves it as it was.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import DomainError, ErrorDetail, FieldNotLoaded, ValidationError, located
from earnorm.fields.base import freeze
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.operations import REQUEST, WHOLE, Operation, made_by
from earnorm.kernel.serving.requests import Stream
from earnorm.kernel.value_steps import ValueRow
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.fetch import Fetch, part_of
from earnorm.model.slots import pending_of, set_fetch, set_state
from earnorm.model.validation.constraints import Rule, When, returned
from earnorm.model.writing.incomplete import seen_whole
from earnorm.model.writing.pending import state_before

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import State
    from earnorm.model.validation.constraints import Rules
    from earnorm.model.writing.planning import Plan

Loc = tuple[str | int, ...]

_AT_ONCE: Final = 10  # a transaction runs one, because a session serves one operation at a time
_BATCH: Final = 2000
_MOST_PROBLEMS: Final = 1000  # an update by domain may match any number of records


async def checked_new(
    bound: BoundModel,
    values: Sequence[Any],
    validate: Callable[[BoundModel, Sequence[Any]], Awaitable[list[State]]],
) -> list[State]:
    """Validate new records, check them against every rule, and return their states.

    Raises:
        ValidationError: With the problems of all records and rules.
    """
    if bound.schema.rules is None:
        return await validate(bound, values)
    problems: list[ErrorDetail] = []
    places = list(range(len(values)))
    try:
        states = await validate(bound, values)
    except ValidationError as error:
        problems = error.errors()
        refused = {detail["loc"][0] for detail in problems if detail["loc"]}
        places = [place for place in places if place not in refused]
        if len(values) == 1 or not refused or not places:
            raise
        try:  # the first pass may stop before it finds the problems of the other records
            states = await validate(bound, [values[place] for place in places])
        except ValidationError:
            raise error from None
    many = len(values) > 1
    subjects = [
        ValueRow(state, (place,) if many else ())
        for place, state in zip(places, states, strict=True)
    ]
    await refuse_problems(bound, "create", subjects, problems)
    return states


async def check(bound: BoundModel, when: When, subjects: Sequence[ValueRow]) -> list[ErrorDetail]:
    """Return only the problems that ``check_rows`` finds."""
    return [detail for _, detail in await check_rows(bound, when, subjects)]


async def check_rows(
    bound: BoundModel, when: When, subjects: Sequence[ValueRow]
) -> list[tuple[ValueRow, ErrorDetail]]:
    """Run asynchronous validators and constraints; return each problem with its row.

    Args:
        bound: Their model.
        when: ``create`` for new records, or ``write``.
        subjects: The records, with validated values, which asynchronous validators replace in place.
    """
    rules = bound.schema.rules
    if rules is None:
        return []
    env = current_env()
    # Loops without a function call per record keep the common case fast, which is one valid record.
    problems = await _check_values(env, bound, when, subjects) if rules.are_late else []
    jobs: list[tuple[ValueRow, Rule]] = []
    if rules.constraints:
        refused = {id(subject) for subject, _ in problems} if problems else ()
        for subject in subjects:
            if id(subject) not in refused:
                for rule in rules.concerning(when, subject.values):
                    jobs.append((subject, rule))
    if jobs:
        problems += await _check_constraints(env, bound, jobs)
    if problems:
        order = {id(subject): place for place, subject in enumerate(subjects)}
        problems.sort(key=lambda problem: order[id(problem[0])])
    return problems


async def refuse_file(
    bound: BoundModel, record: BaseModel, name: str, description: State | None
) -> None:
    """Hold a new file, or none, to the rules of its record, before the record is written.

    Args:
        bound: The model.
        record: The stored record.
        name: The file's field.
        description: The file's description as it is stored; None for a deletion.

    Raises:
        ValidationError: With every problem found.
        TypeError: A validator gave something else than the file: a file cannot be replaced by it.
    """
    rules = bound.schema.rules
    if rules is None:
        return
    row = ValueRow({name: description}, (), record)
    if description is not None:
        field = bound.schema.fields[name]
        preview = _preview(bound, {**state_before(record), **row.values}, record._fetch)
        file = getattr(preview, name)
        calls = [*rules.checks(field, "write"), *(c for _, c in rules.late("write", (name,)))]
        for call in calls:
            try:
                result = call(file)
                result = await result if inspect.isawaitable(result) else result
            except DomainError:
                raise
            except (ValueError, AssertionError) as error:
                raise ValidationError(bound.model._name, _details(error, (), (name,))) from error
            if result is not file:
                raise TypeError(
                    f"{bound.model.__name__}.{name}: a validator of a file gives it back or raises"
                )
    jobs = [(row, rule) for rule in rules.concerning("write", row.values)]
    problems = await _check_constraints(current_env(), bound, jobs)
    if problems:
        raise ValidationError(bound.model._name, [detail for _, detail in problems])


async def refuse_problems(
    bound: BoundModel, when: When, subjects: Sequence[ValueRow], problems: list[ErrorDetail]
) -> None:
    """Check the records against the rules, and raise all problems.

    Args:
        bound: Their model.
        when: ``create`` for new records, or ``write``.
        subjects: The records, with validated values.
        problems: Problems that were found in other records of the batch.

    Raises:
        ValidationError: With the problems of all records, in the order of their positions.
    """
    all_problems = problems
    for _, detail in await check_rows(bound, when, subjects):
        all_problems = [*all_problems, detail]
    if all_problems:
        if problems and len(all_problems) > len(problems):
            all_problems.sort(key=lambda detail: int(detail["loc"][0]) if detail["loc"] else 0)
        raise ValidationError(bound.model._name, all_problems)


async def checked_plan(
    bound: BoundModel, plan: Plan, records: Sequence[BaseModel] | None = None
) -> Plan:
    """Check a plan for several records: its values once, the constraints for each record.

    Args:
        bound: The model.
        plan: The plan of the write.
        records: The records to write; None for an update by domain, see ``narrowed``.

    Raises:
        ValidationError: With every problem, or where a rule must know a value that only the server
            computes.
    """
    rules = bound.schema.rules
    if rules is None:
        return plan
    _refuse_hindering(bound, rules, plan)
    subject = ValueRow(dict(plan.values))
    problems = await _check_values(current_env(), bound, "write", [subject])
    if problems:
        raise ValidationError(bound.model._name, [detail for _, detail in problems])
    values = subject.values
    if records is not None and rules.concerning("write", values):
        many = len(records) > 1
        places = enumerate(records)
        subjects = [ValueRow(values, (p,) if many else (), record) for p, record in places]
        refused = await _check_records(bound, rules, subjects)
        if refused:
            raise ValidationError(bound.model._name, refused)
    return _with_values(bound, rules, plan, values)


async def checked_plans(
    bound: BoundModel, given: Sequence[tuple[Loc, Plan, BaseModel]]
) -> tuple[list[Plan], list[ErrorDetail]]:
    """Check the plans of a batch, each of which has its own record.

    Args:
        bound: The model.
        given: The location in the batch, the plan and the record of each write.

    Returns:
        The plans in their order, and the problems; where there are problems, ignore the plans.
    """
    rules = bound.schema.rules
    if rules is None:
        return [plan for _, plan, _ in given], []
    problems: list[ErrorDetail] = []
    subjects: list[ValueRow] = []
    plans: list[Plan] = []
    for loc, plan, record in given:
        try:
            _refuse_hindering(bound, rules, plan)
        except ValidationError as error:
            problems += located(error.errors(), *loc)
            continue
        subjects.append(ValueRow(dict(plan.values), loc, record))
        plans.append(plan)
    problems += await check(bound, "write", subjects)
    pairs = zip(plans, subjects, strict=True)
    return [_with_values(bound, rules, plan, subject.values) for plan, subject in pairs], problems


def _refuse_hindering(bound: BoundModel, rules: Rules, plan: Plan) -> None:
    hindering = [(name, rule) for name in sorted(plan.unknown) if (rule := rules.hindering(name))]
    if hindering:
        message = (
            "{} checks the whole new value, which only the server knows: write the value itself"
        )
        raise ValidationError(
            bound.model._name,
            [{"loc": (n,), "msg": message.format(rule), "type": "change"} for n, rule in hindering],
        )


async def _check_records(
    bound: BoundModel, rules: Rules, subjects: Sequence[ValueRow]
) -> list[ErrorDetail]:
    """Return the problems of records that get the same values, in the order of the records."""
    jobs = [
        (subject, rule)
        for subject in subjects
        for rule in rules.concerning("write", subject.values)
    ]
    problems = await _check_constraints(current_env(), bound, jobs)
    order = {id(subject): place for place, subject in enumerate(subjects)}
    problems.sort(key=lambda problem: order[id(problem[0])])
    return [detail for _, detail in problems]


def _with_values(bound: BoundModel, rules: Rules, plan: Plan, values: State) -> Plan:
    """Return the plan with the values that asynchronous validators returned."""
    late = rules.late("write", values)
    if not late:
        return plan
    changed = bound.schema.encode({name: values[name] for name, _ in late})
    written = {**plan.operators.get("$set", {}), **changed}
    return replace(plan, values=values, operators={**plan.operators, "$set": written})


async def narrowed(op: Operation, bound: BoundModel, values: Mapping[str, Any]) -> list[Operation]:
    """Check every record that an update by domain matches, and return updates of these ids.

    Return the operation itself where no constraint concerns the values.

    Raises:
        ValidationError: Each problem's ``loc`` begins with the record's id.
    """
    rules = bound.schema.rules
    concerning = [] if rules is None else rules.concerning("write", values)
    if not concerning:
        return [op]
    pks: list[Any] = []
    problems: list[ErrorDetail] = []
    async for records in _matching(op, bound):
        subjects = [ValueRow(dict(values), (matched.id,), matched) for matched in records]
        jobs = [(subject, rule) for subject in subjects for rule in concerning]
        problems += [detail for _, detail in await _check_constraints(op.env, bound, jobs)]
        if len(problems) >= _MOST_PROBLEMS:
            break
        pks += [record.pk for record in records]
    if problems:
        raise ValidationError(bound.model._name, problems[:_MOST_PROBLEMS])
    return [op.replace(domain=op.domain & condition("_id", "in", part)) for part in chunks(pks)]


async def _matching(op: Operation, bound: BoundModel) -> AsyncIterator[list[Any]]:
    from earnorm.model.reading.hydrate import hydrate

    stream = Stream(_BATCH)
    search = op.child("search", op.model, op.domain, origin="model").with_note(REQUEST, stream)
    search = search.with_note(WHOLE, True)
    try:
        while documents := await op.app.execute(search):
            yield hydrate(bound, documents)
    finally:
        await stream.close()


# -- values ---------------------------------------------------------------------------------------


async def _check_values(
    env: Env, bound: BoundModel, when: When, subjects: Sequence[ValueRow]
) -> list[tuple[ValueRow, ErrorDetail]]:
    rules = bound.schema.rules
    assert rules is not None
    problems: list[tuple[ValueRow, ErrorDetail]] = []
    fields = bound.schema.fields

    async def check_one(subject: ValueRow, calls: list[tuple[str, Callable[[Any], Any]]]) -> None:
        refused_names: set[str] = set()
        copied = subject.copied or ()
        for name, call in calls:
            value = subject.values[name]
            if value is None or name in refused_names or name in copied:
                continue
            try:
                result = call(value)
                result = await result if inspect.isawaitable(result) else result
                subject.values[name] = returned(fields[name], result)
            except DomainError:
                raise  # the validator's own search is wrong, not the value
            except (ValueError, AssertionError) as error:
                refused_names.add(name)
                problems.extend((subject, d) for d in _details(error, subject.loc, (name,)))

    pending = (
        check_one(subject, calls)
        for subject in subjects
        if (calls := rules.late(when, subject.values))
    )
    await _run(env, pending)
    return problems


def _details(error: Exception, loc: Loc, names: Loc) -> list[ErrorDetail]:
    if isinstance(error, ValidationError):
        return [{**detail, "loc": (*loc, *detail["loc"])} for detail in error.errors()]
    # The text of a PydanticCustomError is a template, which this method fills in.
    message_of = getattr(error, "message", None)
    message = message_of() if callable(message_of) else str(error)
    return [{"loc": (*loc, *names), "msg": str(message), "type": "constraint"}]


async def _run(env: Env, coroutines: Iterable[Any]) -> None:
    """Wait for all coroutines, several at a time; where one fails, leave none running."""
    waiting = iter(coroutines)

    async def work() -> None:
        for coroutine in waiting:
            await coroutine

    if env.transaction is not None:
        await work()
        return
    first = next(waiting, None)
    if first is None:
        return
    second = next(waiting, None)
    if second is None:
        await first
        return
    waiting = iter([first, second, *waiting])
    workers = [asyncio.ensure_future(work()) for _ in range(_AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for coroutine in waiting:
            coroutine.close()


# -- constraints ----------------------------------------------------------------------------------


async def _check_constraints(
    env: Env, bound: BoundModel, jobs: Sequence[tuple[ValueRow, Rule]]
) -> list[tuple[ValueRow, ErrorDetail]]:
    if not jobs:
        return []
    await _make_previews(env, bound, jobs)
    problems, unread = await _call(env, jobs)
    if unread:  # a constraint read a field that it does not name, so the record is loaded whole
        await _load(env, bound, [subject for subject, _ in unread])
        more, _ = await _call(env, unread, last=True)
        problems += more
    return problems


async def _call(
    env: Env, jobs: Sequence[tuple[ValueRow, Rule]], *, last: bool = False
) -> tuple[list[tuple[ValueRow, ErrorDetail]], list[tuple[ValueRow, Rule]]]:
    problems: list[tuple[ValueRow, ErrorDetail]] = []
    unread: list[tuple[ValueRow, Rule]] = []

    def refused(error: Exception, subject: ValueRow, rule: Rule) -> None:
        if isinstance(error, FieldNotLoaded):
            fetch: Fetch | None = getattr(subject.preview, "_fetch", None)
            if last or fetch is None or fetch.loaded is None:
                raise error
            unread.append((subject, rule))
            return
        names = tuple(rule.fields) if len(rule.fields) == 1 else ()
        problems.extend((subject, detail) for detail in _details(error, subject.loc, names))

    async def wait(subject: ValueRow, rule: Rule, waiting: Any) -> None:
        try:
            await waiting
            _refuse_changes(subject, rule)
        except DomainError:
            raise
        except (ValueError, AssertionError, FieldNotLoaded) as error:
            refused(error, subject, rule)

    def pending() -> Iterator[Any]:
        for subject, rule in jobs:
            if subject.preview is None:  # the record was deleted, and the write reports that
                continue
            try:
                result = getattr(subject.preview, rule.method)()
            except DomainError:
                raise
            except (ValueError, AssertionError, FieldNotLoaded) as error:
                refused(error, subject, rule)
                continue
            if result is not None and inspect.isawaitable(result):
                yield wait(subject, rule, result)
            elif hasattr(subject.preview, "_pending"):
                _refuse_changes(subject, rule)

    await _run(env, pending())
    return problems, unread


def _refuse_changes(subject: ValueRow, rule: Rule) -> None:
    if pending_of(subject.preview).changes:
        raise TypeError(
            f"{type(subject.preview).__name__}.{rule.method}: a @constrains method checks a record and "
            f"changes nothing; @validates gives the value to store"
        )


async def _make_previews(
    env: Env, bound: BoundModel, jobs: Iterable[tuple[ValueRow, Rule]]
) -> None:
    incomplete: dict[int, ValueRow] = {}
    for subject, rule in jobs:
        record = subject.record
        if record is None or not record.is_stored:
            if subject.preview is None:
                subject.preview = _preview(bound, dict(subject.values), None)
            continue
        if subject.preview is None:
            state = {**state_before(record), **subject.values}
            subject.preview = _preview(bound, state, record._fetch)
        known = subject.preview.__dict__
        if any(n not in known and not record._fetch.has(n) for n in rule.fields):
            incomplete[id(subject)] = subject
    if incomplete:
        await _load(env, bound, list(incomplete.values()))


async def _load(env: Env, bound: BoundModel, subjects: Sequence[ValueRow]) -> None:
    """Fetch the whole records with one query."""
    pks = list(dict.fromkeys(subject.record.pk for subject in subjects if subject.record))
    notes = {**made_by("model"), WHOLE: True}
    stored = await by_ids(bound, "_id", pks, env=env, notes=notes)
    documents = {document["_id"]: document for document in stored}
    siblings: list[Any] | None = [] if bound.schema.relations else None
    fetch = Fetch(bound.app, None, siblings)
    for subject in subjects:
        document = documents.get(subject.record and subject.record.pk)
        subject.preview = None
        if document is not None:
            state = {**bound.schema.state(dict(document)), **subject.values}
            subject.preview = _preview(bound, state, fetch)
            if subject.record is not None and subject.record._fetch.parts:
                _complete(bound, subject, bound.schema.state(dict(document)))
            if siblings is not None:
                siblings.append(subject.preview)


def _complete(bound: BoundModel, subject: ValueRow, state: State) -> None:
    """Give a preview the whole embedded objects of which the record has only some fields."""
    fields, preview = bound.schema.fields, subject.preview.__dict__
    for name in subject.record._fetch.parts if subject.record is not None else ():
        value, stored = subject.values.get(name), state.get(name)
        if part_of(value) is not None and type(stored) is dict:
            preview[name] = seen_whole(value, fields[name].decode(freeze(stored)))


def _preview(bound: BoundModel, state: State, fetch: Fetch | None) -> Any:
    preview = object.__new__(bound.model)
    set_state(preview, state)
    if fetch is not None:
        set_fetch(preview, fetch)
    return preview
