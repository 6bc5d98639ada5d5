"""Steps: the parts of features and plugins in the write path, and the places where they run.

*Value steps* run on the values that a caller hands in (to a constructor, ``create``, ``write`` …),
before there is an Operation. *Document steps* are one layer, ``Layer.STEPS``: they see every create
and write in stored form, whoever made it. The values that they fill in are handed back to the
records that wait for the operation.
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Flag, IntEnum, auto
from functools import partial, reduce
from operator import or_
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from earnorm.exceptions import (
    BatchRefused,
    ErrorDetail,
    NotSupported,
    PluginError,
    ValidationError,
)
from earnorm.fields.base import MISSING
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import PerRecord, Update
from earnorm.kernel.time import clock
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.domain import Domain
    from earnorm.fields.base import Field
    from earnorm.kernel.environment import Env
    from earnorm.kernel.operations import Call, Operation

Work = Callable[[], Awaitable[object]]
Loc = tuple[str | int, ...]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Stage(IntEnum):
    """The order of the steps: value steps are below 100, document steps below 200.

    The steps from 200 on run after the store has answered.
    """

    ALIAS = 10
    """Translate values that are given under other names."""
    CLASS = 20
    """Choose the class of a record, if several share a collection."""
    SPLIT = 30
    """Take out values that belong to other records."""
    DEFAULT = 40
    """Fill in values that were not given."""
    VALIDATE = 50
    """Check types, choices and validators. The built-in part comes first, so steps see valid
    values.
    The rules of the model check the values that steps leave.
    """
    PLAN = 60
    """Plan the work that goes with the operation: other records to create, link or write.
    All values are valid, and new records have their ids.
    """
    IDENTITY = 110
    """Assign ids."""
    STAMP = 120
    """Fill in times, authors, numbers, and the values of plugins."""
    COMPUTE = 130
    """Compute stored values from all values that were given and filled in."""
    CONSTRAIN = 140
    """Check the whole document."""
    JUDGE = 150
    """Check access rules against the document that will be stored."""
    GUARD = 160
    """Add conditions that the stored record must still fulfil."""
    CONFIRM = 205
    """Check the answer of the store."""
    PROPAGATE = 210
    """Update other records: their computed values, the paths of a tree."""
    SETTLE = 220
    """Update the record objects in memory."""
    DURABLE = 230
    """Do work that may only happen once the write is durable."""


class Way(Flag):
    """The ways on which values reach the database."""

    CREATE = auto()
    """``create()`` and the ``save()`` of a new record."""
    CREATE_MANY = auto()
    """``create_many()``."""
    SAVE = auto()
    """``save()`` of stored records: their own changes."""
    WRITE = auto()
    """``write()``: the same values for each of the records."""
    EACH = auto()
    """``write_many()``: separate values for each record."""
    UPDATE = auto()
    """``search(...).update()``: the same values for all that match a domain."""
    UPSERT = auto()
    """``upsert()`` and ``upsert_many()``."""
    BULK = auto()
    """``bulk()``."""
    UNLINK = auto()
    """``unlink()`` of records; there are no values."""
    DERIVED = auto()
    """Values that a feature keeps equal to values written elsewhere; nobody asked for this change
    itself."""


CHANGES: Final = Way.SAVE | Way.WRITE | Way.EACH | Way.UPDATE | Way.UPSERT | Way.BULK
"""The ways of a write that somebody asked for."""
TAKING_MORE: Final = Way.CREATE | Way.SAVE | Way.WRITE | Way.UNLINK
"""The ways on which other operations may join the operation, in one transaction."""
ALL: Final = reduce(or_, Way)

WAY: Note[Way] = Note("way")
"""The way on which an operation came; without this note a create counts as CREATE, a write as
UPDATE."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step in the write path of a model, as ``register_steps`` returns it.

    Attributes:
        stage: Its place in the order.
        name: Its name in errors.
        run: The function that gets the batch; it may be a coroutine function. A step of a stage
            below 100 gets a :class:`ValueBatch`, any other a :class:`DocumentBatch`.
        ways: The ways on which it runs.
        on: The operation of a document step; None means both, create and write.
        after: Names of steps of the same stage that run before it.
        names: For a value step, the names of the values that it is about. A call that gives none
            of them skips the step, and a model with no other steps pays nothing for such a call.
            None means every call; an empty collection means every call that another step is about.
        atomic: Returns whether an operation and the work of its steps must be one transaction. For
            a
            value step it is called with None, before any step runs, and the transaction then
            contains all work of the steps.
        also_refused: For a step after the store: it also runs if the database refused a part of a
            batch and no transaction rolled back the rest.
    """

    stage: Stage
    name: str
    run: Callable[[Any], object]
    ways: Way = ALL
    on: Literal["create", "write"] | None = None
    after: tuple[str, ...] = ()
    names: Collection[str] | None = None
    atomic: Callable[[Any], bool] | None = None
    also_refused: bool = False


def checked_steps(plugin: str, returned: object) -> list[Step]:
    """Check what a plugin's ``register_steps`` returned.

    Raises:
        PluginError: The result is no list of steps.
    """
    steps: list[Any] = list(returned) if isinstance(returned, Iterable) else [returned]
    for step in steps:
        if not isinstance(step, Step) or not callable(step.run):
            raise PluginError(
                f"plugin {plugin!r}: register_steps(app, model) gives Steps with a function to run, "
                f"not {step!r}"
            ).coded("not_a_step")
    return steps


def in_order(steps: Iterable[Step]) -> list[Step]:
    """Sort steps by stage, then by their ``after``, then by name.

    Raises:
        PluginError: Steps come after each other in a circle.
    """
    left = sorted(steps, key=lambda step: (step.stage, step.name))
    ordered: list[Step] = []
    while left:
        stage = left[0].stage
        waiting = {step.name for step in left if step.stage == stage}
        free = [s for s in left if s.stage == stage and waiting.isdisjoint({*s.after} - {s.name})]
        if not free:
            raise PluginError(
                f"steps come after each other in a circle: {', '.join(sorted(waiting))}"
            ).coded("circular_steps")
        ordered.append(free[0])
        left.remove(free[0])
    return ordered


# -- values for waiting records -------------------------------------------------------------------


class HandBack:
    """Stored values that steps and layers filled in, for the records that wait for an operation.

    A layer that hides fields removes them when the operation has come back.
    """

    __slots__ = ("added", "common", "own")

    def __init__(self) -> None:
        self.common: dict[str, Any] = {}
        """Stored values by field name, for every record that had no value of its own."""
        self.own: dict[Any, dict[str, Any]] = {}
        """Stored values by field name, by the record's stored id."""
        self.added: dict[str, int] = {}
        """By field name, the amount by which the number of every record has grown."""

    def give(self, pk: Any, values: Mapping[str, Any]) -> None:
        """Hand values back to one record."""
        self.own.setdefault(pk, {}).update(values)

    def __bool__(self) -> bool:
        return bool(self.common or self.own or self.added)


HAND_BACK: Note[HandBack] = Note("hand_back")
"""The object that collects values for the waiting records; missing if no record waits."""


# -- values ---------------------------------------------------------------------------------------


class ValueRow:
    """The values of one record, as they were given and as earlier steps changed them.

    Attributes:
        values: Values by name or dotted path. A step may change it. From ``Stage.VALIDATE`` on the
            values are valid, and complete if the record is new.
        loc: The position of the record in the given values; empty for a single record.
        record: The record that the values were given to; None if there is none. For a new record it
            is set once the record is stored.
        expected: Stored values that the record must still have; see ``expect``.
        back: Python values by name that the record gets once the operation is done.
        problems: The problems of the values.
        preview: The record that the rules of its model check; None before that.
    """

    __slots__ = ("back", "expected", "loc", "preview", "problems", "record", "values")

    def __init__(self, values: dict[str, Any], loc: Loc = (), record: Any = None) -> None:
        self.values, self.loc, self.record = values, loc, record
        self.expected: Mapping[str, Any] = _NOTHING
        self.back: Mapping[str, Any] = _NOTHING
        self.problems: Sequence[ErrorDetail] = ()
        self.preview: Any = None

    def take(self, name: str, default: Any = MISSING) -> Any:
        """Remove a value, so that no later step sees it, and return it; else return the default."""
        return self.values.pop(name, default)

    def fill(self, name: str, value: Any) -> None:
        """Set a field that was given no value."""
        if self.values.get(name) is None:
            self.values[name] = value

    def read(self, name: str) -> Any:
        """Return the stored value with which the record was read; MISSING if it was not fetched."""
        fetch = getattr(self.record, "_fetch", None)
        return MISSING if fetch is None or not fetch.has(name) else self.record.__dict__.get(name)

    def expect(self, name: str, value: Any) -> None:
        """Apply the change only to a record that still has this stored value.

        Args:
            name: A field's name.
            value: The value in stored form, a scalar.
        """
        self.expected = {**self.expected, name: value}

    def hand_back(self, name: str, value: Any) -> None:
        """Set a value on the record once the operation is done.

        Args:
            name: A field's name.
            value: The value, as reading the field returns it.
        """
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
    """

    __slots__ = (
        "_more",
        "env",
        "is_new",
        "model",
        "rows",
        "settling",
        "way",
        "work_after",
        "work_before",
    )

    def __init__(
        self, env: Env, way: Way, model: ModelView, rows: list[ValueRow], *, is_new: bool = False
    ) -> None:
        self.env, self.way, self.model, self.rows, self.is_new = env, way, model, rows, is_new
        self.work_before: list[Work] = []
        self.work_after: list[Work] = []
        self.settling: list[Callable[[], object]] = []
        self._more: list[ErrorDetail] = []

    @property
    def takes_more(self) -> bool:
        """True if other operations may join this one, in one transaction; see ``before``."""
        return self.way in TAKING_MORE

    def before(self, work: Work) -> None:
        """Add work to do before the operation, in one transaction with it."""
        self._check_takes_more()
        self.work_before.append(work)

    def after(self, work: Work) -> None:
        """Add work to do after the operation, in one transaction with it.

        By then the row of a new record has its record.
        """
        self._check_takes_more()
        self.work_after.append(work)

    def settle(self, call: Callable[[], object]) -> None:
        """Add a function to call when everything is done, to update objects in memory."""
        self.settling.append(call)

    def _check_takes_more(self) -> None:
        if not self.takes_more:
            raise NotSupported(
                f"{self.model.name}: no other operation goes with this way of writing ({self.way.name}); "
                f"a step that needs one refuses its values here (batch.takes_more is False)"
            )

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
        problems = self.problems
        if problems:
            raise ValidationError(self.model.name, problems)


class ValueSteps:
    """The value steps of one model on one way, in three parts with the model's own work between."""

    __slots__ = ("_atomic", "_is_always", "_names", "before", "plan", "valid")

    def __init__(self, steps: Sequence[Step]) -> None:
        prepared = [_prepared_step(step, (), 0) for step in steps]
        self.before = [item for item in prepared if item.step.stage < Stage.VALIDATE]
        """The steps that see the values as they were given."""
        self.valid = [item for item in prepared if Stage.VALIDATE <= item.step.stage < Stage.PLAN]
        """The steps that see valid values."""
        self.plan = [item for item in prepared if item.step.stage >= Stage.PLAN]
        """The steps that see the values that will be written."""
        self._atomic = [step for step in steps if step.atomic is not None]
        self._is_always = any(step.names is None for step in steps)
        self._names = frozenset(name for step in steps for name in step.names or ())

    def concern(self, values: Iterable[Iterable[str]]) -> bool:
        """Return whether any step is about one of these values, each given by its names."""
        return self._is_always or any(not self._names.isdisjoint(each) for each in values)

    def need_transaction(self, values: Iterable[str]) -> bool:
        """Return whether the work for these names must be in one transaction with the operation."""
        for step in self._atomic:
            if step.names is None or not frozenset(step.names).isdisjoint(values):
                assert step.atomic is not None
                if step.atomic(None):
                    return True
        return False


async def run_value_steps(steps: Sequence[_PreparedStep], batch: ValueBatch) -> None:
    """Run a part of a model's value steps."""
    for prepared in steps:
        if _is_about(prepared.step, batch):
            result: Any = prepared.step.run(batch)
            if prepared.waits:
                await result


def run_value_steps_now(steps: Sequence[_PreparedStep], batch: ValueBatch) -> None:
    """Run a part of a model's value steps without waiting.

    Raises:
        NotSupported: A step waits.
    """
    for prepared in steps:
        if _is_about(prepared.step, batch):
            if prepared.waits:
                raise NotSupported(
                    f"{batch.model.name}: the step {prepared.step.name!r} waits, and what is handed to a bulk() is "
                    f"looked at at once; its ways= should leave BULK out"
                )
            prepared.step.run(batch)


def _is_about(step: Step, batch: ValueBatch) -> bool:
    names = step.names
    if not names:
        return True
    for row in batch.rows:
        for name in names:
            if name in row.values:
                return True
    return False


@dataclass(frozen=True, slots=True)
class ValueWays:
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
    return ValueSteps(of_way) if of_way else None


# -- documents ------------------------------------------------------------------------------------


class DocumentRow:
    """One document to create, or one change of existing records, in stored form.

    Attributes:
        document: The document of a create; None for a write. A step may change it.
        update: The change of a write; None for a create.
        pk: The record's stored id; None if a change is about all records that match a domain.
        position: The position in the operation's values.
    """

    __slots__ = ("_batch", "document", "pk", "position", "update")

    def __init__(
        self,
        batch: DocumentBatch,
        position: int,
        pk: Any,
        document: Document | None,
        update: Update | None,
    ) -> None:
        self._batch, self.position, self.pk = batch, position, pk
        self.document, self.update = document, update

    def get(self, name: str) -> Any:
        """Return the stored value that the operation gives a field.

        MISSING if it gives none, or if only the server will know the value.
        """
        key = self._batch.key(name)
        if self.document is not None:
            return self.document.get(key, MISSING)
        assert self.update is not None
        return self.update.operators.get("$set", {}).get(key, MISSING)

    def has(self, name: str) -> bool:
        """Return whether the operation changes the field or gives it a value.

        None in a create is no value.
        """
        key = self._batch.key(name)
        if self.document is not None:
            return self.document.get(key) is not None
        assert self.update is not None
        return key in self.update.keys

    def fill(self, name: str, value: Any) -> None:
        """Set a field that the operation gives no value, and hand the value back to the record."""
        if not self.has(name):
            self.put(name, value)

    def put(self, name: str, value: Any) -> None:
        """Set a field, even if a value was given, and hand the value back to the record."""
        batch = self._batch
        field = batch.fields[name]
        stored = field.encode(value)
        if self.document is not None:
            self.document[field.db_name] = stored
        else:
            self.merge("$set", {field.db_name: stored})
        if field.stored:
            self.hand_back(name, stored)

    def merge(self, operator: str, values: Mapping[str, Any]) -> None:
        """Add one of MongoDB's update operators to the change, with stored keys."""
        assert self.update is not None
        self.update = self.update.merged(operator, values)
        self._batch.is_changed = True

    def hand_back(self, name: str, value: Any) -> None:
        """Set a stored value on the record that waits for the operation; this writes nothing."""
        back = self._batch.back
        if back is None:
            return
        if self.pk is None:
            back.common[name] = value
        else:
            back.give(self.pk, {name: value})

    def refuse(self, loc: str | Loc, message: str, kind: str) -> None:
        """Add a problem; the operation is refused with all problems of the stage.

        Args:
            loc: The field's name, or the place inside the record.
            message: The problem and its remedy.
            kind: The problem's type, a short code.
        """
        inside = (loc,) if isinstance(loc, str) else loc
        place = (self.position,) if self._batch.is_many else ()
        self._batch.problems.append({"loc": (*place, *inside), "msg": message, "type": kind})


class DocumentBatch:
    """A create or a write in stored form, before and after the store.

    Attributes:
        op: The operation, as it came to the steps.
        model: The model.
        way: The way on which the values came.
        back: The collected values for the waiting records; None if no record waits.
        fields: The model's fields by name.
        problems: The problems that steps add; the operation is refused with all of a stage.
        result: The operation's result, for steps after the store.
        notes: Values that one step leaves for another step of the same operation.
    """

    __slots__ = (
        "_documents",
        "_narrowed",
        "_now",
        "_rows",
        "back",
        "fields",
        "is_changed",
        "model",
        "notes",
        "op",
        "problems",
        "result",
        "way",
    )

    def __init__(
        self, op: Operation, model: ModelView, fields: Mapping[str, Field[Any, Any]], way: Way
    ) -> None:
        self.op, self.model, self.fields, self.way = op, model, fields, way
        self.back = op.notes.get(HAND_BACK)
        self.is_changed = False
        self.result: Any = None
        self.notes: dict[Note[Any], Any] = {}
        self.problems: list[ErrorDetail] = []
        self._documents: list[Document] | None = None
        self._narrowed: Domain | None = None
        self._rows: list[DocumentRow] | None = None
        self._now: datetime.datetime | None = None

    @property
    def now(self) -> datetime.datetime:
        """The one time of the whole operation, in UTC."""
        if self._now is None:
            self._now = clock()
        return self._now

    @property
    def env(self) -> Env:
        """The Env of the operation."""
        return self.op.env

    @property
    def is_many(self) -> bool:
        """True if there are several documents, or separate changes for several records."""
        values = self.op.values
        return not isinstance(values, Update) and values is not None and len(values) > 1

    def key(self, name: str) -> str:
        """Return the stored key of a field."""
        return self.fields[name].db_name

    @property
    def documents(self) -> list[Document]:
        """The documents of a create: the operation's own copies, which steps may change."""
        if self._documents is None:
            assert isinstance(self.op.values, list)
            self._documents = list(map(dict, self.op.values))
            self.is_changed = True
        return self._documents

    @property
    def rows(self) -> Sequence[DocumentRow]:
        """One row for each document, or for each change."""
        if self._rows is None:
            values = self.op.values
            if isinstance(values, list):
                self._rows = [
                    DocumentRow(self, position, document["_id"], document, None)
                    for position, document in enumerate(self.documents)
                ]
            elif isinstance(values, PerRecord):
                self._rows = [
                    DocumentRow(self, position, pk, None, update)
                    for position, (pk, update) in enumerate(values.items())
                ]
            else:
                assert isinstance(values, Update)
                self._rows = [DocumentRow(self, 0, None, None, values)]
        return self._rows

    def fill(self, name: str, value: Any) -> None:
        """Set a field in every row that has no value for it, and hand the value back."""
        field = self.fields[name]
        key, stored = field.db_name, field.encode(value)
        if isinstance(self.op.values, list):
            for document in self.documents:
                if document.get(key) is None:
                    document[key] = stored
        else:
            for row in self.rows:
                assert row.update is not None
                if key not in row.update.keys:
                    row.merge("$set", {key: stored})
        if self.back is not None:
            self.back.common[name] = stored

    def narrow(self, domain: Domain) -> None:
        """Restrict a write to the records that match a domain, as a part of the write itself."""
        narrowed = self.op.domain if self._narrowed is None else self._narrowed
        self._narrowed = narrowed & domain

    def increase(self, name: str, by: int = 1) -> None:
        """Increase a number of every record of a write, and update the record objects in memory."""
        key = self.fields[name].db_name
        for row in self.rows:
            row.merge("$inc", {key: by})
        if self.back is not None:
            self.back.added[name] = self.back.added.get(name, 0) + by

    @property
    def operation(self) -> Operation:
        """The operation with the changes of the steps."""
        op = self.op if self._narrowed is None else replace(self.op, domain=self._narrowed)
        if not self.is_changed:
            return op
        values: Any = self._documents
        if values is None:
            rows = self.rows
            if isinstance(self.op.values, PerRecord):
                values = PerRecord({row.pk: row.update for row in rows})
            else:
                values = rows[0].update
        return replace(op, values=values)


@dataclass(frozen=True, slots=True)
class _PreparedStep:
    """A step with its properties that are the same for every batch."""

    step: Step
    waits: bool
    ways: Way
    ends_stage: bool


class DocumentSteps:
    """The layer of the document steps of one model and operation.

    Args:
        model: The model.
        default: The way of an operation that has no ``WAY`` note.
        steps: The model's document steps for this operation, in order.
    """

    def __init__(self, model: ModelView, default: Way, steps: Sequence[Step]) -> None:
        self._model, self._fields, self._default = model, model.fields, default
        before = [step for step in steps if step.stage < Stage.CONFIRM]
        self._before = [_prepared_step(step, before, number) for number, step in enumerate(before)]
        after = [step for step in steps if Stage.CONFIRM <= step.stage < Stage.DURABLE]
        self._after = [_prepared_step(step, after, number) for number, step in enumerate(after)]
        self._durable = [step for step in steps if step.stage >= Stage.DURABLE]
        self._atomic = [step.atomic for step in steps if step.atomic is not None]
        self._is_plain = not any(each.waits for each in self._before) and not (
            self._after or self._durable
        )

    @property
    def may_need_transaction(self) -> bool:
        """True if any step can demand a transaction."""
        return bool(self._atomic)

    def needs_transaction(self, op: Operation) -> bool:
        """Return whether the operation and the work of its steps must be one transaction."""
        return any(ask(op) for ask in self._atomic)

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Run the steps before and after the rest of the operation."""
        way = op.notes.get(WAY, self._default)
        batch = DocumentBatch(op, self._model, self._fields, way)
        if not self._is_plain:
            return self._wait(batch, way, call_next)
        for prepared in self._before:
            if way in prepared.ways:
                prepared.step.run(batch)
            if prepared.ends_stage and batch.problems:
                raise ValidationError(self._model.name, batch.problems)
        return call_next(batch.operation)

    async def _wait(self, batch: DocumentBatch, way: Way, call_next: Call) -> Any:
        await _run(self._before, batch, way)
        try:
            batch.result = await call_next(batch.operation)
        except BatchRefused:
            if batch.env.transaction is None:  # a part of the batch may have been stored
                await _run([r for r in self._after if r.step.also_refused], batch, way)
            raise
        await _run(self._after, batch, way)
        for step in self._durable:
            if way in step.ways:
                batch.op.after_durable(partial(step.run, batch))
        return batch.result


async def _run(steps: Sequence[_PreparedStep], batch: DocumentBatch, way: Way) -> None:
    for prepared in steps:
        if way in prepared.ways:
            result: Any = prepared.step.run(batch)
            if prepared.waits:
                await result
        if prepared.ends_stage and batch.problems:
            raise ValidationError(batch.model.name, batch.problems)


def _prepared_step(step: Step, steps: Sequence[Step], number: int) -> _PreparedStep:
    call = step.run if inspect.isroutine(step.run) else getattr(step.run, "__call__", step.run)  # noqa: B004 - the function behind an object
    ends_stage = number + 1 >= len(steps) or steps[number + 1].stage != step.stage
    return _PreparedStep(step, inspect.iscoroutinefunction(call), step.ways, ends_stage)
