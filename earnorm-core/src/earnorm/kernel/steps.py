"""Steps: the places of the write path where features and plugins do their part.

*Value steps* run where people hand in values (a constructor's record, ``create``, ``write`` …) and end in an
Operation. *Document steps* are one layer, ``Layer.STEPS``: they see every create and write, whoever made it, in
stored form. What they fill in is handed back to the records that wait for the operation.
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
    """The order of the steps. Stages below 100 are about values, below 200 about documents; the rest follows the
    store."""

    ALIAS = 10
    """Values under other names."""
    CLASS = 20
    """Which class of a family a record is of."""
    SPLIT = 30
    """Values that belong to other records."""
    DEFAULT = 40
    """Values that nobody gave."""
    VALIDATE = 50
    """Types, choices, validators: the built-in part comes first, so steps see values that are valid. What they
    leave is held to the rules of the model."""
    PLAN = 60
    """What is done together with the operation: other records that are created, linked or written. All values are
    valid, and new records have their ids."""
    IDENTITY = 110
    """Ids."""
    STAMP = 120
    """Times, authors, numbers, and what plugins fill in."""
    COMPUTE = 130
    """Stored computed values, from all that was given and filled in."""
    CONSTRAIN = 140
    """Checks that see the whole document."""
    JUDGE = 150
    """Access rules, about what will be stored."""
    GUARD = 160
    """Conditions that the stored record must still fulfil."""
    CONFIRM = 205
    """Checks of what the store answered."""
    PROPAGATE = 210
    """What follows elsewhere: computed values of other records, the paths of a tree."""
    SETTLE = 220
    """What the records here have to know."""
    DURABLE = 230
    """What may happen only once the write is durable."""


class Way(Flag):
    """How values reach the database."""

    CREATE = auto()
    """``create()`` and the ``save()`` of a new record."""
    CREATE_MANY = auto()
    """``create_many()``."""
    SAVE = auto()
    """The ``save()`` of stored records: their own changes."""
    WRITE = auto()
    """``write()``: the same values for each of some records."""
    EACH = auto()
    """``write_many()``: values of its own for each record."""
    UPDATE = auto()
    """``search(...).update()``: the same values for all that match a domain."""
    UPSERT = auto()
    """``upsert()`` and ``upsert_many()``."""
    BULK = auto()
    """``bulk()``."""
    UNLINK = auto()
    """``unlink()`` of records; there are no values."""
    DERIVED = auto()
    """Values that a feature keeps in step with what was written elsewhere; no change in its own right."""


CHANGES: Final = Way.SAVE | Way.WRITE | Way.EACH | Way.UPDATE | Way.UPSERT | Way.BULK
"""The ways of a write that somebody asked for."""
TAKING_MORE: Final = Way.CREATE | Way.SAVE | Way.WRITE | Way.UNLINK
"""The ways on which other operations may go with the one that is asked for, in one transaction."""
ALL: Final = reduce(or_, Way)

WAY: Note[Way] = Note("way")
"""On which way an operation came; without it a create counts as CREATE, a write as UPDATE."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the write path of a model, as ``register_steps`` gives it.

    Attributes:
        stage: Where it stands.
        name: What errors call it.
        run: Gets the batch; a coroutine function may wait. A step of a stage below 100 gets a
            :class:`ValueBatch`, one of the others a :class:`DocumentBatch`.
        ways: The ways on which it runs.
        on: The operation that a document step is about; None means both, creates and writes.
        after: Names of steps of the same stage that run before it.
        names: Of a value step, the names of the values that it is about: a call in which none of them is given
            passes it by, and a model that has no other steps pays nothing for such a call. None: every call;
            an empty one: every call that another step is about.
        atomic: Whether an operation has to be one transaction with what its steps do. Of a value step it is asked
            with None, before any step runs; then all that the steps do is part of the transaction.
        also_refused: Behind the store: also where the database refused a part of a batch, and no transaction
            took back the rest.
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


def checked_steps(plugin: str, found: object) -> list[Step]:
    """Check what a plugin's ``register_steps`` returned.

    Raises:
        PluginError: It is no list of steps.
    """
    steps: list[Any] = list(found) if isinstance(found, Iterable) else [found]
    for step in steps:
        if not isinstance(step, Step) or not callable(step.run):
            raise PluginError(
                f"plugin {plugin!r}: register_steps(app, model) gives Steps with a function to run, "
                f"not {step!r}"
            ).coded("not_a_step")
    return steps


def in_order(steps: Iterable[Step]) -> list[Step]:
    """Sort steps by stage, then by what they come after, then by name.

    Raises:
        PluginError: Steps come after each other in a circle.
    """
    left = sorted(steps, key=lambda step: (step.stage, step.name))
    found: list[Step] = []
    while left:
        stage = left[0].stage
        waiting = {step.name for step in left if step.stage == stage}
        free = [s for s in left if s.stage == stage and waiting.isdisjoint({*s.after} - {s.name})]
        if not free:
            raise PluginError(
                f"steps come after each other in a circle: {', '.join(sorted(waiting))}"
            ).coded("circular_steps")
        found.append(free[0])
        left.remove(free[0])
    return found


# -- what is handed back --------------------------------------------------------------------------


class HandBack:
    """Stored values that steps and layers filled in, for the records that wait for an operation. A layer that hides
    fields takes them out when the operation has come back."""

    __slots__ = ("added", "common", "own")

    def __init__(self) -> None:
        self.common: dict[str, Any] = {}
        """Field names and stored values that every record got which had none of its own."""
        self.own: dict[Any, dict[str, Any]] = {}
        """By the record's stored id, names and stored values."""
        self.added: dict[str, int] = {}
        """Field names, and by how much the number of every record has grown."""

    def give(self, pk: Any, values: Mapping[str, Any]) -> None:
        """Hand values back to one record."""
        self.own.setdefault(pk, {}).update(values)

    def __bool__(self) -> bool:
        return bool(self.common or self.own or self.added)


HAND_BACK: Note[HandBack] = Note("hand_back")
"""Where steps leave values for the records of an operation; not there where no record waits."""


# -- values ---------------------------------------------------------------------------------------


class ValueRow:
    """The values of one record, as they were handed in and as earlier steps left them.

    Attributes:
        values: Names or dotted paths, with values. A step may change it. From ``Stage.VALIDATE`` on they are valid,
            and complete where the record is new.
        loc: The place of the record in what was handed in; empty for a single one.
        record: The record that they were handed to; a new one once it is stored. None where there is none.
        expected: What the stored record must still have; see ``expect``.
        back: Names and Python values that the record gets once the operation is done.
        problems: What is wrong with the values.
        preview: The record as the rules of its model see it; None before they are asked.
    """

    __slots__ = ("back", "expected", "loc", "preview", "problems", "record", "values")

    def __init__(self, values: dict[str, Any], loc: Loc = (), record: Any = None) -> None:
        self.values, self.loc, self.record = values, loc, record
        self.expected: Mapping[str, Any] = _NOTHING
        self.back: Mapping[str, Any] = _NOTHING
        self.problems: Sequence[ErrorDetail] = ()
        self.preview: Any = None

    def take(self, name: str, default: Any = MISSING) -> Any:
        """Take a value out, so that nothing further on sees it; the default where it was not given."""
        return self.values.pop(name, default)

    def fill(self, name: str, value: Any) -> None:
        """Give a value to a field that was given none."""
        if self.values.get(name) is None:
            self.values[name] = value

    def read(self, name: str) -> Any:
        """The stored value of a plain field that the record was read with; MISSING where it was not fetched."""
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
        """Let the record hold a value once the operation is done.

        Args:
            name: A field's name.
            value: The value, as reading the field gives it.
        """
        self.back = {**self.back, name: value}

    def refuse(self, loc: str | Loc, message: str, kind: str) -> None:
        """Note a problem; the operation is refused with all of them.

        Args:
            loc: The field's name, or the place inside the record's values.
            message: What is wrong, and what to do.
            kind: The problem's type, a short code.
        """
        inside = (loc,) if isinstance(loc, str) else loc
        self.add_problems([{"loc": inside, "msg": message, "type": kind}])

    def add_problems(self, details: Iterable[ErrorDetail]) -> None:
        """Note problems at places inside the record's values."""
        more: list[ErrorDetail] = [{**each, "loc": (*self.loc, *each["loc"])} for each in details]
        self.problems = [*self.problems, *more]


class ValueBatch:
    """The values of one call, on their way to an operation.

    Attributes:
        env: Who acts.
        way: How the values came.
        model: The model.
        rows: The values of each record. In ``write()`` of several records every one has the same; a step may
            tell them apart. In an update by domain there is one row, without a record.
        is_new: Whether the records are to be created.
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
        """Whether other operations may go with this one, in one transaction: see ``before``."""
        return self.way in TAKING_MORE

    def before(self, work: Work) -> None:
        """Do something before the operation, in one transaction with it."""
        self._check_takes_more()
        self.work_before.append(work)

    def after(self, work: Work) -> None:
        """Do something after the operation, in one transaction with it. A new record is its row's by then."""
        self._check_takes_more()
        self.work_after.append(work)

    def settle(self, call: Callable[[], object]) -> None:
        """Call something once all of it is done, to let objects here know."""
        self.settling.append(call)

    def _check_takes_more(self) -> None:
        if not self.takes_more:
            raise NotSupported(
                f"{self.model.name}: no other operation goes with this way of writing ({self.way.name}); "
                f"a step that needs one refuses its values here (batch.takes_more is False)"
            )

    @property
    def has_work(self) -> bool:
        """Whether anything goes with the operation."""
        return bool(self.work_before or self.work_after)

    def add_problems(self, details: Iterable[ErrorDetail]) -> None:
        """Note problems at places in what was handed in."""
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
        """The problems of all rows, in their order, and others."""
        found: list[ErrorDetail] = []
        for row in self.rows:
            found += row.problems
        return found + self._more

    def refuse(self) -> None:
        """Raise if there is any problem.

        Raises:
            ValidationError: With all of them.
        """
        problems = self.problems
        if problems:
            raise ValidationError(self.model.name, problems)


class ValueSteps:
    """The value steps of one model on one way, in the parts between which the model does its own."""

    __slots__ = ("_atomic", "_is_always", "_names", "before", "plan", "valid")

    def __init__(self, steps: Sequence[Step]) -> None:
        ready = [_ready(step, (), 0) for step in steps]
        self.before = [each for each in ready if each.step.stage < Stage.VALIDATE]
        """Those that see what was handed in."""
        self.valid = [each for each in ready if Stage.VALIDATE <= each.step.stage < Stage.PLAN]
        """Those that see valid values."""
        self.plan = [each for each in ready if each.step.stage >= Stage.PLAN]
        """Those that see what will be written."""
        self._atomic = [step for step in steps if step.atomic is not None]
        self._is_always = any(step.names is None for step in steps)
        self._names = frozenset(name for step in steps for name in step.names or ())

    def concern(self, values: Iterable[Iterable[str]]) -> bool:
        """Whether any step is about one of these values, each of them given by its names."""
        return self._is_always or any(not self._names.isdisjoint(each) for each in values)

    def need_transaction(self, values: Iterable[str]) -> bool:
        """Whether what the steps do with values of these names has to be one transaction with the operation."""
        for step in self._atomic:
            if step.names is None or not frozenset(step.names).isdisjoint(values):
                assert step.atomic is not None
                if step.atomic(None):
                    return True
        return False


async def run_value_steps(steps: Sequence[_Ready], batch: ValueBatch) -> None:
    """Run some of a model's value steps."""
    for ready in steps:
        if _is_about(ready.step, batch):
            result: Any = ready.step.run(batch)
            if ready.waits:
                await result


def run_value_steps_now(steps: Sequence[_Ready], batch: ValueBatch) -> None:
    """As ``run_value_steps``, where nothing can wait.

    Raises:
        NotSupported: A step waits.
    """
    for ready in steps:
        if _is_about(ready.step, batch):
            if ready.waits:
                raise NotSupported(
                    f"{batch.model.name}: the step {ready.step.name!r} waits, and what is handed to a bulk() is "
                    f"looked at at once; its ways= should leave BULK out"
                )
            ready.step.run(batch)


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
    """The value steps of one model by the way of the values; None on ways that have none."""

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
        """Sort a model's steps by their ways."""
        own = [step for step in steps if step.stage < Stage.IDENTITY]
        return cls(*(_value_steps(own, way) for way in _VALUE_WAYS))


_VALUE_WAYS: Final = (
    *(Way.CREATE, Way.CREATE_MANY, Way.SAVE, Way.WRITE, Way.EACH),
    *(Way.UPDATE, Way.UPSERT, Way.BULK, Way.UNLINK),
)


def _value_steps(steps: Sequence[Step], way: Way) -> ValueSteps | None:
    found = [step for step in steps if way in step.ways]
    return ValueSteps(found) if found else None


# -- documents ------------------------------------------------------------------------------------


class DocumentRow:
    """One document that is created, or one change of records that exist, in stored form.

    Attributes:
        document: The document, for a create; else None. A step may change it.
        update: The change, for a write; else None.
        pk: The record's stored id; None where a change is about all that match a domain.
        position: The place in the operation's values.
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
        """The stored value that a field gets by this operation; MISSING where it gets none, or where only the
        server will know it."""
        key = self._batch.key(name)
        if self.document is not None:
            return self.document.get(key, MISSING)
        assert self.update is not None
        return self.update.operators.get("$set", {}).get(key, MISSING)

    def has(self, name: str) -> bool:
        """Whether the operation gives the field a value (None is none, in a create) or changes it."""
        key = self._batch.key(name)
        if self.document is not None:
            return self.document.get(key) is not None
        assert self.update is not None
        return key in self.update.keys

    def fill(self, name: str, value: Any) -> None:
        """Give a value to a field that the operation gives none, and hand it back to the record."""
        if not self.has(name):
            self.put(name, value)

    def put(self, name: str, value: Any) -> None:
        """Give a field a value, whatever was given, and hand it back to the record."""
        batch = self._batch
        known = batch.fields[name]
        stored = known.encode(value)
        if self.document is not None:
            self.document[known.db_name] = stored
        else:
            self.merge("$set", {known.db_name: stored})
        if known.stored:
            self.hand_back(name, stored)

    def merge(self, operator: str, values: Mapping[str, Any]) -> None:
        """Let the change apply one of MongoDB's update operators as well, to stored keys."""
        assert self.update is not None
        self.update = self.update.merged(operator, values)
        self._batch.is_changed = True

    def hand_back(self, name: str, value: Any) -> None:
        """Let the record that waits for the operation hold a stored value; nothing is written by it."""
        back = self._batch.back
        if back is None:
            return
        if self.pk is None:
            back.common[name] = value
        else:
            back.give(self.pk, {name: value})

    def refuse(self, loc: str | Loc, message: str, kind: str) -> None:
        """Note a problem; the operation is refused with all of its stage.

        Args:
            loc: The field's name, or the place inside the record.
            message: What is wrong, and what to do.
            kind: The problem's type, a short code.
        """
        inside = (loc,) if isinstance(loc, str) else loc
        place = (self.position,) if self._batch.is_many else ()
        self._batch.problems.append({"loc": (*place, *inside), "msg": message, "type": kind})


class DocumentBatch:
    """A create or a write on its way to the store, in stored form.

    Attributes:
        op: The operation, as it came to the steps.
        model: The model.
        way: How the values came.
        back: Where values for the waiting records are left; None where none waits.
        fields: The model's fields by name.
        problems: What steps refuse; the operation is refused with all of a stage.
        result: The operation's result, for steps behind the store.
        notes: Values that one step leaves for another of the same operation.
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
        """The time that the whole operation counts as, in UTC."""
        if self._now is None:
            self._now = clock()
        return self._now

    @property
    def env(self) -> Env:
        """Who acts."""
        return self.op.env

    @property
    def is_many(self) -> bool:
        """Whether the operation has several documents, or changes of its own for several records."""
        values = self.op.values
        return not isinstance(values, Update) and values is not None and len(values) > 1

    def key(self, name: str) -> str:
        """The stored key of a field."""
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
        """A row for each document, or for each change."""
        if self._rows is None:
            values = self.op.values
            if isinstance(values, list):
                self._rows = [
                    DocumentRow(self, position, each["_id"], each, None)
                    for position, each in enumerate(self.documents)
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
        """Give the same value to the field of every row that has none, and hand it back."""
        known = self.fields[name]
        key, stored = known.db_name, known.encode(value)
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
        """Demand more of the records that a write is about, as a part of the write itself."""
        known = self.op.domain if self._narrowed is None else self._narrowed
        self._narrowed = known & domain

    def increase(self, name: str, by: int = 1) -> None:
        """Add to a number of every record that a write is about, and let the records here know."""
        key = self.fields[name].db_name
        for row in self.rows:
            row.merge("$inc", {key: by})
        if self.back is not None:
            self.back.added[name] = self.back.added.get(name, 0) + by

    @property
    def operation(self) -> Operation:
        """The operation with what the steps made of it."""
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
class _Ready:
    """A step, with what is known of it before any batch comes."""

    step: Step
    waits: bool
    ways: Way
    ends_stage: bool


class DocumentSteps:
    """The layer of the document steps of one model and operation.

    Args:
        model: The model.
        default: The way of operations that do not say on which they came.
        steps: The model's document steps for this operation, in order.
    """

    def __init__(self, model: ModelView, default: Way, steps: Sequence[Step]) -> None:
        self._model, self._fields, self._default = model, model.fields, default
        before = [step for step in steps if step.stage < Stage.CONFIRM]
        self._before = [_ready(step, before, number) for number, step in enumerate(before)]
        after = [step for step in steps if Stage.CONFIRM <= step.stage < Stage.DURABLE]
        self._after = [_ready(step, after, number) for number, step in enumerate(after)]
        self._durable = [step for step in steps if step.stage >= Stage.DURABLE]
        self._atomic = [step.atomic for step in steps if step.atomic is not None]
        self._is_plain = not any(each.waits for each in self._before) and not (
            self._after or self._durable
        )

    @property
    def may_need_transaction(self) -> bool:
        """Whether any step has a say in whether an operation needs a transaction."""
        return bool(self._atomic)

    def needs_transaction(self, op: Operation) -> bool:
        """Whether the operation has to be one transaction with what the steps do."""
        return any(ask(op) for ask in self._atomic)

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Run the steps around the rest of the operation's way."""
        way = op.notes.get(WAY, self._default)
        batch = DocumentBatch(op, self._model, self._fields, way)
        if not self._is_plain:
            return self._wait(batch, way, call_next)
        for ready in self._before:
            if way in ready.ways:
                ready.step.run(batch)
            if ready.ends_stage and batch.problems:
                raise ValidationError(self._model.name, batch.problems)
        return call_next(batch.operation)

    async def _wait(self, batch: DocumentBatch, way: Way, call_next: Call) -> Any:
        await _run(self._before, batch, way)
        try:
            batch.result = await call_next(batch.operation)
        except BatchRefused:
            if batch.env.transaction is None:  # some of it may have been stored
                await _run([r for r in self._after if r.step.also_refused], batch, way)
            raise
        await _run(self._after, batch, way)
        for step in self._durable:
            if way in step.ways:
                batch.op.after_durable(partial(step.run, batch))
        return batch.result


async def _run(steps: Sequence[_Ready], batch: DocumentBatch, way: Way) -> None:
    for ready in steps:
        if way in ready.ways:
            result: Any = ready.step.run(batch)
            if ready.waits:
                await result
        if ready.ends_stage and batch.problems:
            raise ValidationError(batch.model.name, batch.problems)


def _ready(step: Step, steps: Sequence[Step], number: int) -> _Ready:
    call = step.run if inspect.isroutine(step.run) else getattr(step.run, "__call__", step.run)  # noqa: B004 - the function behind an object
    ends_stage = number + 1 >= len(steps) or steps[number + 1].stage != step.stage
    return _Ready(step, inspect.iscoroutinefunction(call), step.ways, ends_stage)
