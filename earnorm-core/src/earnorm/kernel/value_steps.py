"""Value steps: the values that a caller hands in, and the steps that run on them.

``steps`` describes stages, ways and steps; the steps on stored documents are in ``document_steps``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from earnorm.domain import Domain
from earnorm.exceptions import (
    AccessDenied,
    EarnORMError,
    ErrorDetail,
    NotSupported,
    PluginError,
    ValidationError,
)
from earnorm.fields.base import MISSING
from earnorm.kernel import pauses
from earnorm.kernel.observing.denials import announce_refusal
from earnorm.kernel.operations import Operation
from earnorm.kernel.pauses import Finishing, parts, pause
from earnorm.kernel.serving.projecting import head_of
from earnorm.kernel.steps import (
    TAKING_MORE,
    Loc,
    PreparedStep,
    Stage,
    Step,
    StepMistake,
    Way,
    note_failure,
    prepared_step,
    refuse_awaitable_answer,
    refuse_result,
    refuse_unknown,
    run_in_parts,
    valid_value,
)
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.kernel.environment import Env

Work = Callable[[], object]
"""A function without arguments; if it returns an awaitable, that is awaited."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

_TAKING_PATHS: Final = Way.WRITE | Way.EACH | Way.UPDATE | Way.UPSERT | Way.BULK
"""The ways on which values may be given by dotted paths."""


class ValueRow:
    """The values of one record, as they were given and as earlier steps changed them.

    Attributes:
        values: Values by name or dotted path. A step may change it. From ``Stage.VALIDATE`` on the
            values are valid, and complete if the record is new.
        loc: The position of the record in the given values; empty for a single record.
        record: The record that the values were given to: a stored one, or the unsaved one that is
            saved. None where values alone were given, as to ``create()`` or to an update by domain;
            for a new record it is set once the record is stored. ``is_new`` of the batch tells new
            records.
        copies: The other objects of this record in a saved set, which learn what is written.
        expected: Stored values that the record must still have; see ``expect``.
        back: Python values by name that the record gets once the operation is done.
        problems: The problems of the values.
        preview: The record that the rules of its model check; None before that.
        held: The snapshot of the record's fields from when the values were handed in, which the
            write path itself keeps; None if it has none.
        model: The model, once the row is in a batch.
        is_valid: True once its values have been validated, so that each is one of the model's.
        known: Values by name that were validated when they were assigned. They are not validated
            again, unless a step puts another object in their place.
        copied: For a copy of another record, those of the known names whose values asynchronous
            validators have passed as well; the fields that are not among the values get their
            defaults. None for any other row.
    """

    __slots__ = (
        "back",
        "copied",
        "copies",
        "expected",
        "held",
        "is_valid",
        "known",
        "loc",
        "model",
        "preview",
        "problems",
        "record",
        "values",
    )

    def __init__(self, values: dict[str, Any], loc: Loc = (), record: Any = None) -> None:
        self.values, self.loc, self.record = values, loc, record
        self.copies: Sequence[Any] = ()
        self.expected: Mapping[str, Any] = NOTHING
        self.back: Mapping[str, Any] = NOTHING
        self.problems: Sequence[ErrorDetail] = ()
        self.preview: Any = None
        self.held: Any = None
        self.model: ModelView | None = None
        self.is_valid = False
        self.known: Mapping[str, Any] = NOTHING
        self.copied: Collection[str] | None = None

    def take(self, name: str, default: Any = MISSING) -> Any:
        """Remove a value, so that no later step sees it, and return it; else return the default."""
        return self.values.pop(name, default)

    def fill(self, name: str, value: Any) -> None:
        """Set a field that was given no value; a path into it is one, and so is a change."""
        if self.is_valid and self.model is not None:
            refuse_unknown(self.model, name.partition(".")[0])
            field = self.model.fields.get(name)
            value = value if field is None else valid_value(self.model, field, value)
        if self.values.get(name) is None and not self._has_part_of(name):
            self.values[name] = value

    def _has_part_of(self, name: str) -> bool:
        """Return whether a value inside the field was given, or one that the path leads into."""
        for other in self.values:
            if "." in other and other.startswith(f"{name}."):
                return True
            if "." in name and name.startswith(f"{other}."):
                return True
        return False

    def read(self, name: str) -> Any:
        """Return the stored value with which the record was read, whatever was assigned since.

        Returns:
            The stored form; None for a field that the document does not have; MISSING if the field
            was not fetched, or if there is no stored record.
        """
        record = self.record
        fetch = getattr(record, "_fetch", None)
        if fetch is not None and fetch.has(name):
            try:
                return record._value_before(name)
            except KeyError:
                pass  # the name is unknown, or is that of another class of the family
        if self.model is not None:
            refuse_unknown(self.model, name)
        return MISSING

    def expect(self, name: str, value: Any) -> None:
        """Apply the change only to a record that still has this stored value.

        Args:
            name: A field's name.
            value: The value in stored form, a scalar.
        """
        if self.model is not None:
            refuse_unknown(self.model, name)
        self.expected = {**self.expected, name: value}

    def hand_back(self, name: str, value: Any) -> None:
        """Set a value on the record once the operation is done.

        Args:
            name: A field's name.
            value: The value, as reading the field returns it.
        """
        if self.model is not None:
            refuse_unknown(self.model, name)
        self.back = {**self.back, name: value}

    def refuse(self, loc: str | Loc, message: str, kind: str) -> None:
        """Add a problem; the operation is refused with all problems.

        Args:
            loc: The field's name, or the position inside the record's values.
            message: The problem and its remedy.
            kind: The problem's type, a short code.
        """
        inside = (loc,) if isinstance(loc, str) else loc
        self.add_problems([{"loc": inside, "msg": message, "type": kind}])

    def add_problems(self, details: Iterable[ErrorDetail]) -> None:
        """Add problems at positions inside the record's values."""
        more: list[ErrorDetail] = [
            {**detail, "loc": (*self.loc, *detail["loc"])} for detail in details
        ]
        self.problems = [*self.problems, *more]


class ValueBatch:
    """The values of one call, before they become an operation.

    Attributes:
        env: The Env of the call.
        way: The way on which the values came.
        model: The model.
        rows: The values of each record. In ``write()`` of several records all rows have the same
            values; a step may change them separately. An update by domain has one row, without a
            record.
        is_new: True if the records are to be created.
        made: New records that are stored before these, so that these may link to them.
        along: The names of the links whose records are written before these.
        found_by: The names of the fields by whose values an upsert finds the records. A step before
            ``Stage.VALIDATE`` may fill one in.
    """

    __slots__ = (
        "_more",
        "along",
        "env",
        "found_by",
        "is_new",
        "made",
        "model",
        "rows",
        "settling",
        "way",
        "work_after",
        "work_before",
    )

    def __init__(
        self,
        env: Env,
        way: Way,
        model: ModelView,
        rows: list[ValueRow],
        *,
        is_new: bool = False,
        found_by: Collection[str] = (),
    ) -> None:
        self.env, self.way, self.model, self.rows, self.is_new = env, way, model, rows, is_new
        self.found_by = frozenset(found_by)
        self.made: list[Any] = []
        self.along: set[str] = set()
        self.work_before: list[Work] = []
        self.work_after: list[Work] = []
        self.settling: list[Work] = []
        self._more: list[ErrorDetail] = []
        for row in rows:
            row.model = model

    @property
    def takes_more(self) -> bool:
        """True if other operations may join this one, in one transaction; see ``before``."""
        return self.way in TAKING_MORE

    def parts(self) -> Iterator[None]:
        """Show one part of many rows after the other."""
        rows = self.rows
        try:
            for part in parts(rows):
                self.rows = list(part)
                yield
        finally:
            self.rows = rows

    def before(self, work: Work) -> None:
        """Add work to do before the operation, in one transaction with it.

        Args:
            work: A function without arguments, sync or async, that returns nothing else.
        """
        self._check(work)
        self.work_before.append(work)

    def after(self, work: Work) -> None:
        """Add work to do after the operation, in one transaction with it.

        By then the row of a new record has its record.
        """
        self._check(work)
        self.work_after.append(work)

    def settle(self, call: Work) -> None:
        """Add a function to call when everything is done, to update objects in memory."""
        self.settling.append(call)

    def _check(self, work: Work) -> None:
        if not callable(work):
            raise StepMistake(
                f"batch.before() and after() take a function without arguments, not {work!r}"
            ).coded("step_work")
        if not self.takes_more:
            raise NotSupported(
                f"{self.model.name}: no other operation goes with this way of writing ({self.way.name}); "
                f"a step that needs one refuses its values here (batch.takes_more is False)"
            ).coded("takes_no_more")

    @property
    def has_work(self) -> bool:
        """True if other work joins the operation."""
        return bool(self.work_before or self.work_after)

    def add_problems(self, details: Iterable[ErrorDetail]) -> None:
        """Add problems at positions in the given values."""
        by_loc = {row.loc: row for row in self.rows}
        depth = len(self.rows[0].loc) if self.rows else 0
        for detail in details:
            row = by_loc.get(detail["loc"][:depth])
            if row is None:
                self._more.append(detail)
            else:
                row.problems = [*row.problems, detail]

    @property
    def has_problems(self) -> bool:
        """True if a row or the batch has a problem."""
        for row in self.rows:
            if row.problems:
                return True
        return bool(self._more)

    @property
    def problems(self) -> list[ErrorDetail]:
        """The problems of all rows, in their order, followed by all others."""
        details: list[ErrorDetail] = []
        for row in self.rows:
            details += row.problems
        return details + self._more

    def refuse(self) -> None:
        """Raise an error if there are problems.

        Raises:
            ValidationError: With all problems.
        """
        if self.has_problems:
            raise ValidationError(self.model.name, self.problems)


async def run_work(work: Work, model: ModelView) -> None:
    """Do the work that a step added to an operation.

    Raises:
        PluginError: It returned something that is no awaitable, so it may not have been done.
    """
    name = getattr(work, "__qualname__", type(work).__qualname__)
    try:
        result = work()
        if isinstance(result, Awaitable):
            await result
            return
    except EarnORMError:
        raise
    except Exception as error:
        error.add_note(f"in the work {name!r} that a step added to an operation on {model.name!r}")
        raise
    if result is not None:
        raise PluginError(
            f"{model.name}: the work {name!r} that a step added to the operation returned "
            f"{type(result).__name__} and nothing to wait for; was it called?"
        ).coded("step_work")


async def settle(calls: Sequence[Work]) -> None:
    """Make the calls that update objects in memory; raise a cancellation when all are made."""
    finishing = Finishing()
    for part in parts(calls):
        for call in part:
            result = call()
            if isinstance(result, Awaitable):
                await finishing.wait_for(result)
        if part is not calls:
            await finishing.pause()
    finishing.end()


class ValueSteps:
    """The value steps of one model on one way, in three parts with the model's own work between."""

    __slots__ = ("_atomic", "_is_always", "_names", "_takes_paths", "before", "plan", "valid")

    def __init__(self, steps: Sequence[Step], *, takes_paths: bool = True) -> None:
        prepared = [prepared_step(step, (), 0) for step in steps]
        self.before = [item for item in prepared if item.step.stage < Stage.VALIDATE]
        """The steps that see the values as they were given."""
        self.valid = [item for item in prepared if Stage.VALIDATE <= item.step.stage < Stage.PLAN]
        """The steps that see valid values."""
        self.plan = [item for item in prepared if item.step.stage >= Stage.PLAN]
        """The steps that see the values that will be written."""
        self._atomic = [step for step in steps if step.atomic is not None]
        self._is_always = any(step.names is None for step in steps)
        self._names = frozenset(name for step in steps for name in step.names or ())
        self._takes_paths = takes_paths

    def concern(self, values: Iterable[Iterable[str]]) -> bool:
        """Return whether any step is about one of these values, each given by its names."""
        if self._is_always:
            return True
        names = self._names
        if not self._takes_paths:
            return any(not names.isdisjoint(given) for given in values)
        return any(_are_about(names, given) for given in values)

    def need_transaction(self, values: Iterable[str], model: ModelView) -> bool:
        """Return whether the work for these names must be in one transaction with the operation."""
        for step in self._atomic:
            if step.names is None or _are_about(frozenset(step.names), values):
                assert step.atomic is not None
                try:
                    answer: object = step.atomic(None)
                except Exception as error:
                    note_failure(error, step, model, "atomic= of ")
                    raise
                if answer:
                    refuse_awaitable_answer(answer, step, model)
                    return True
        return False


async def run_value_steps(steps: Sequence[PreparedStep], batch: ValueBatch) -> None:
    """Run a part of a model's value steps."""
    for prepared in steps:
        if len(batch.rows) > pauses.EVERY:
            await pause()
        names = prepared.step.names
        if not names or _has_any(batch, names):
            try:
                if prepared.step.in_parts and len(batch.rows) > pauses.EVERY:
                    result: Any = await run_in_parts(prepared, batch)
                else:
                    result = prepared.step.run(batch)
                    if prepared.waits:
                        result = await result
            except Exception as error:
                note_failure(error, prepared.step, batch.model)
                if isinstance(error, AccessDenied):
                    await announce_refusal(operation_of(batch), error)
                raise
            if result is not None:
                refuse_result(result, prepared.step, batch.model)


def operation_of(batch: ValueBatch) -> Operation:
    """Return the operation that a batch would become, without its values."""
    pks = [row.record.pk for row in batch.rows if row.record is not None and not batch.is_new]
    domain = Domain([("_id", "in", pks)]) if pks else Domain.TRUE
    return Operation("create" if batch.is_new else "write", batch.model.cls, batch.env, domain)


def run_value_steps_now(steps: Sequence[PreparedStep], batch: ValueBatch) -> None:
    """Run a part of a model's value steps without waiting.

    Raises:
        NotSupported: A step waits.
    """
    for prepared in steps:
        names = prepared.step.names
        if not names or _has_any(batch, names):
            if prepared.waits:
                raise NotSupported(
                    f"{batch.model.name}: the step {prepared.step.name!r} waits, and what is handed to a bulk() is "
                    f"looked at at once; its ways= should leave BULK out"
                ).coded("waiting_step")
            try:
                result = prepared.step.run(batch)
            except Exception as error:
                note_failure(error, prepared.step, batch.model)
                raise
            if result is not None:
                refuse_result(result, prepared.step, batch.model)


def _leads_into(path: object, names: Collection[str]) -> bool:
    """Return whether a dotted path leads into the value of one of these fields."""
    return isinstance(path, str) and "." in path and head_of(path) in names


def _are_about(names: frozenset[str], given: Iterable[str]) -> bool:
    """Return whether given names or paths are about one of these fields."""
    return not names.isdisjoint(given) or any(_leads_into(path, names) for path in given)


def _has_any(batch: ValueBatch, names: Collection[str]) -> bool:
    """Return whether a row has a value of one of these names, or a value inside it."""
    for row in batch.rows:
        for name in names:
            if name in row.values:
                return True
        for path in row.values if batch.way in _TAKING_PATHS else ():
            if _leads_into(path, names):
                return True
    return False


class ValueWays(NamedTuple):
    """The value steps of one model for each way; None for a way without steps."""

    create: ValueSteps | None
    create_many: ValueSteps | None
    save: ValueSteps | None
    write: ValueSteps | None
    each: ValueSteps | None
    update: ValueSteps | None
    upsert: ValueSteps | None
    bulk: ValueSteps | None
    unlink: ValueSteps | None

    @classmethod
    def of(cls, steps: Iterable[Step]) -> ValueWays:
        """Group a model's steps by their ways."""
        own = [step for step in steps if step.stage < Stage.IDENTITY]
        return cls(*(_value_steps(own, way) for way in _VALUE_WAYS))


_VALUE_WAYS: Final = (
    *(Way.CREATE, Way.CREATE_MANY, Way.SAVE, Way.WRITE, Way.EACH),
    *(Way.UPDATE, Way.UPSERT, Way.BULK, Way.UNLINK),
)


def _value_steps(steps: Sequence[Step], way: Way) -> ValueSteps | None:
    of_way = [step for step in steps if way in step.ways]
    return ValueSteps(of_way, takes_paths=way in _TAKING_PATHS) if of_way else None
