"""Steps: the parts of features and plugins in the write path, and the places where they run.

*Value steps* run on the values that a caller hands in (to ``create``, ``save``, ``write`` …),
before there is an Operation. *Document steps* are one layer, ``Layer.STEPS``: they see every create
and write in stored form, whoever made it. The values that they fill in are handed back to the
records that wait for the operation.

This module has what both kinds share: the order, the ways, the step itself and its checks.
``value_steps`` and ``document_steps`` have what steps get and run them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, Flag, IntEnum, auto
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Protocol

import pydantic

from earnorm.exceptions import EarnORMError, PluginError, nearest
from earnorm.fields.adapters import adapter
from earnorm.fields.base import is_async
from earnorm.kernel.environment import current_env
from earnorm.kernel.notes import Note
from earnorm.kernel.pauses import pause
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.kernel.environment import Env
    from earnorm.kernel.transactions.queue import QueuesFor

Loc = tuple[str | int, ...]


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
    values. The rules of the model check the values that steps leave.
    """
    PLAN = 60
    """Plan the work that goes with the operation: other records to create, link or write.
    All values are valid, and new records have their ids.
    """
    IDENTITY = 110
    """Assign ids."""
    STAMP = 120
    """Fill in times, authors, and the values of plugins."""
    NUMBER = 125
    """Number new records by their sequences, which may have to know what was filled in."""
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
        run: The function that gets the batch; it may be a coroutine function, and returns nothing.
            A step of a stage below 100 gets a :class:`ValueBatch`, any other a
            :class:`DocumentBatch`.
        ways: The ways on which it runs.
        on: The operation of a document step; None means both, create and write.
        after: Names of steps of the same stage that run before it.
        names: For a value step, the names of the values that it is about. A call that gives none
            of them, and none by a dotted path into them, skips the step, and a model with no other
            steps pays nothing for such a call. None means every call; an empty collection means every call that another step is about.
        atomic: Returns whether an operation and the work of its steps must be one transaction. For
            a value step it is called with None, before any step runs, and the transaction then
            contains all work of the steps.
        queues_for: For a document step: returns other records that the operation will write because
            of it, as far as that is known beforehand, each as the name of its model and its stored
            id. Before an operation begins a transaction of its own, it waits for those of this
            process that will write one of them, too.
        also_refused: For a step after the store: it also runs if the database refused a part of a
            batch and no transaction rolled back the rest.
        in_parts: The step looks at each row for itself. A batch of many rows is then handed to it
            part by part, and other tasks of the event loop run between two parts.
        fills: Returns the names of the fields that the step gives a value in new records that have none, for who
            acts in an Env. ``earnorm.testing`` makes up no values for them.
        plugin: The name of its plugin, which the App fills in.
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
    queues_for: QueuesFor | None = None
    in_parts: bool = False
    fills: Callable[[Env], Collection[str]] | None = None
    plugin: str = field(default="", kw_only=True, repr=False, compare=False)


def checked_steps(plugin: str, returned: object) -> list[Step]:
    """Check what a plugin's ``register_steps`` returned, and name the plugin in each step.

    Raises:
        PluginError: The result is no list of steps, or a step has an argument that no step takes.
    """
    steps: list[Any] = list(returned) if isinstance(returned, Iterable) else [returned]
    for step in steps:
        if not isinstance(step, Step) or not callable(step.run):
            raise PluginError(
                f"plugin {plugin!r}: register_steps(app, model) gives Steps with a function to run, "
                f"not {step!r}"
            ).coded("not_a_step")
        for argument, is_right, expected in _ARGUMENTS:
            if not is_right(step):
                raise PluginError(
                    f"plugin {plugin!r}: register_steps(app, model): the step {step.name!r} has "
                    f"{argument}={getattr(step, argument)!r}; expected {expected}"
                ).coded("not_a_step")
    return [replace(step, plugin=plugin) for step in steps]


def _are_names(value: object) -> bool:
    return (
        isinstance(value, Collection)
        and not isinstance(value, str | bytes)
        and all(isinstance(name, str) for name in value)
    )


_ARGUMENTS: Final[tuple[tuple[str, Callable[[Step], bool], str], ...]] = (
    ("stage", lambda s: isinstance(s.stage, Stage), "a Stage, e.g. Stage.STAMP"),
    ("name", lambda s: isinstance(s.name, str), "a text"),
    ("ways", lambda s: isinstance(s.ways, Way), "a Way, e.g. Way.CREATE | Way.SAVE"),
    ("on", lambda s: s.on in (None, "create", "write"), "'create', 'write' or None"),
    (
        "on",
        lambda s: s.on is None or s.stage >= Stage.IDENTITY,
        "None, since on= is for document steps; a value step names its ways=",
    ),
    ("after", lambda s: isinstance(s.after, tuple) and _are_names(s.after), "a tuple of names"),
    (
        "names",
        lambda s: s.names is None or _are_names(s.names),
        "a collection of names, e.g. a set, or None",
    ),
    (
        "names",
        lambda s: s.names is None or s.stage < Stage.IDENTITY,
        "None, since names= is for value steps; a document step asks row.has(name)",
    ),
    ("atomic", lambda s: s.atomic is None or callable(s.atomic), "a function or None"),
    ("in_parts", lambda s: isinstance(s.in_parts, bool), "True or False"),
    ("fills", lambda s: s.fills is None or callable(s.fills), "a function or None"),
    (
        "queues_for",
        lambda s: s.queues_for is None or callable(s.queues_for),
        "a function or None",
    ),
    (
        "queues_for",
        lambda s: s.queues_for is None or s.stage >= Stage.IDENTITY,
        "None, since a value step has no operation yet; a document step has one",
    ),
)
"""The arguments of a step: each with its check, and what is expected."""


def check_order(steps: Sequence[Step], built_in: Collection[str]) -> None:
    """Refuse a step that runs after a step that does not exist.

    Args:
        steps: All steps of a model.
        built_in: Names of steps that other models have, after which a step may always run.

    Raises:
        PluginError: A name in ``after`` is unknown.
    """
    for step in steps:
        known = {other.name for other in steps if other.stage == step.stage and other is not step}
        for name in step.after:
            if name not in known and name not in built_in:
                raise PluginError(
                    f"plugin {step.plugin!r}: register_steps(app, model): the step {step.name!r} "
                    f"runs after {name!r}, and {Stage(step.stage).name} has no step of this name"
                    f"{nearest(name, known | set(built_in))}"
                ).coded("not_a_step")


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


class Unknown(Enum):
    """The type of ``UNKNOWN``: a step changed the value, and only the server knows it."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class HandBack:
    """Stored values that steps and layers filled in, for the records that wait for an operation.

    A value is MISSING where the document has no such key any more, and ``UNKNOWN`` where only the
    server knows it. A layer that hides fields removes them when the operation has come back.

    Args:
        records: The records that wait. A value that only the server knows is read after the write
            if one of them has the field loaded.
    """

    __slots__ = ("common", "every", "is_narrowed", "own", "records", "withheld")

    def __init__(self, records: Sequence[Any] = ()) -> None:
        self.records = records
        self.common: dict[str, Any] = {}
        """Stored values by field name, for every new record that had no value of its own."""
        self.every: dict[str, Any] = {}
        """Stored values by field name, for every record of a write, whatever it had."""
        self.own: dict[Any, dict[str, Any]] = {}
        """Stored values by field name, by the record's stored id."""
        self.is_narrowed = False
        """True if a step restricted the write, so that some records may not be written."""
        self.withheld: frozenset[str] = frozenset()
        """The names of the fields that who acts does not read as they are stored."""

    def give(self, pk: Any, values: Mapping[str, Any]) -> None:
        """Hand values back to one record."""
        self.own.setdefault(pk, {}).update(values)

    def of(self, pk: Any) -> Mapping[str, Any]:
        """Return the values of one record of a write."""
        own = self.own.get(pk)
        return self.every if own is None else {**self.every, **own}

    def take(self, other: HandBack) -> None:
        """Add everything that another one has collected."""
        self.common |= other.common
        self.every |= other.every
        for pk, values in other.own.items():
            self.give(pk, values)
        self.is_narrowed |= other.is_narrowed
        self.withheld |= other.withheld

    def __bool__(self) -> bool:
        return bool(self.common or self.every or self.own)


HAND_BACK: Note[HandBack] = Note("hand_back")
"""The object that collects values for the waiting records; missing if no record waits."""


class KnownFirst:
    """Stored computed fields whose new values a step of a write must know before it is stored.

    Whoever computes them reads the records first and puts the values into the write, on the
    condition that the records still have the values that were read.

    Args:
        names: The names of the fields.
    """

    __slots__ = ("names", "read", "unknown")

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.unknown: frozenset[str] = frozenset()
        """The names of the fields whose new values only the server knows."""
        self.read: dict[Any, Any] = {}
        """The values that were read of the records, by their stored ids."""

    def note_read(self, values: Mapping[Any, Any]) -> None:
        """Note what was read of the records of a write, or of a part of it."""
        self.read.update(values)


KNOWN_FIRST: Note[KnownFirst] = Note("known first")
"""The computed fields that a later step must know. A layer that leaves it runs a write again of which
no record has matched because what was read of it has changed."""


# -- steps that are ready to run ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A step with its properties that are the same for every batch."""

    step: Step
    waits: bool
    ways: Way
    ends_stage: bool


def prepared_step(step: Step, steps: Sequence[Step], number: int) -> PreparedStep:
    """Prepare a step.

    Args:
        step: The step.
        steps: The steps that run in one go with it, in order.
        number: Its position among them.
    """
    ends_stage = number + 1 >= len(steps) or steps[number + 1].stage != step.stage
    return PreparedStep(step, is_async(step.run), step.ways, ends_stage)


class InParts(Protocol):
    """A batch of many rows that can show a part of them."""

    def parts(self) -> Iterator[None]:
        """Show one part of the rows after the other."""
        ...


async def run_in_parts(prepared: PreparedStep, batch: InParts) -> Any:
    """Run a step on one part of a batch after the other; other tasks run in between.

    Returns:
        What the step has returned, which the caller refuses; None if it is nothing.
    """
    for _ in batch.parts():
        result: Any = prepared.step.run(batch)
        if prepared.waits:
            result = await result
        if result is not None:
            return result
        await pause()
    return None


# -- what goes wrong in a step --------------------------------------------------------------------


class StepMistake(PluginError):
    """A step did something wrong; the step's own name is added when the error leaves it."""


class UnknownField(StepMistake):
    """A step named a field that its model does not have."""

    code = "unknown_field"


class StepFields(dict[str, Any]):
    """The fields of a model by name, for its steps."""

    def __init__(self, model: ModelView) -> None:
        super().__init__(model.fields)
        self._model = model

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownField(_no_field(self._model, name, self))


def refuse_unknown(model: ModelView, name: str) -> None:
    """Refuse the name of a field that no record of the model has.

    Raises:
        UnknownField: There is no such field.
    """
    if name not in model.fields:
        classes = current_env().app.bind(model.cls).classes
        if classes is None or classes.find_field(name) is None:
            raise UnknownField(_no_field(model, name, model.fields))


def valid_value(model: ModelView, field: Field[Any, Any], value: Any) -> Any:
    """Return a value that a step fills in, converted as one that ``create()`` is given.

    None stays None, and so does a stored form that is no such value.

    The kinds of fields that take no value from callers get theirs from the features that they
    belong to, which know them.

    Args:
        model: The model, for the message.
        field: The field.
        value: The value.

    Raises:
        StepMistake: The field cannot have the value, which the message leaves out.
    """
    if value is None or not field.assignable:
        return value
    try:
        return adapter(field).validate_python(value)
    except (ValueError, TypeError, AttributeError) as error:
        if _is_stored_form(field, value):
            return value
        reason = (
            error.errors(include_url=False, include_input=False)[0]["msg"]
            if isinstance(error, pydantic.ValidationError)
            else f"a {type(value).__name__} is no value of a {type(field).__name__}"
        )
        raise StepMistake(
            f"it fills the field {field.name!r} of model {model.name!r} with a value that is not valid: "
            f"{reason}"
        ).coded("step_value") from None


def valid_stored(model: ModelView, field: Field[Any, Any], value: Any) -> None:
    """Check a value in stored form that a step gives.

    Args:
        model: The model, for the message.
        field: The field; a kind that takes no value from callers has its own checks.
        value: The value in stored form; None is no value.

    Raises:
        StepMistake: It is no stored form of a value of the field; the message leaves it out.
    """
    if value is not None and field.assignable and not _is_stored_form(field, value):
        raise StepMistake(
            f"it gives the field {field.name!r} of model {model.name!r} a value of type "
            f"{type(value).__name__!r} that is not the stored form of a valid {type(field).__name__}; fill() and put() take values as "
            f"create() does"
        ).coded("step_value")


def refused_id(model: ModelView) -> StepMistake:
    """Return the error for a step that changes the id of a row."""
    return StepMistake(
        f"it changes the id of model {model.name!r}; ids are given before Stage.PLAN: a value step "
        f"fills in '_id' at Stage.DEFAULT, in new rows where none was given"
    ).coded("step_value")


def unknown_key(
    model: ModelView, key: str, known: Collection[str], where: str = ""
) -> UnknownField:
    """Return the error for a step that gives a stored key that no field has."""
    return UnknownField(
        f"it gives the stored key {key!r}{where}, and no field of model {model.name!r} has it"
        f"{nearest(key, known)}"
    )


def _is_stored_form(field: Field[Any, Any], value: Any) -> bool:
    try:
        decoded = adapter(field).validate_python(field.decode(value))
        stored = field.encode(decoded)
        return bool(stored == value or (stored != stored and value != value))  # both are NaN
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
        return False


def _no_field(model: ModelView, name: str, known: Collection[str]) -> str:
    return f"model {model.name!r} has no field {name!r}{nearest(name, known)}"


def note_failure(error: Exception, step: Step, model: ModelView, part: str = "") -> None:
    """Name the step in an exception that leaves it; EarnORM's own errors stay as they are.

    Args:
        error: The exception.
        step: The step.
        model: The model.
        part: The function of the step that raised it, if that is not ``run``: ``"atomic= of "``.

    Raises:
        PluginError: The error is a mistake of the step.
    """
    if isinstance(error, StepMistake):
        raise PluginError(f"{_shown(step)}: {error}").coded(error.code) from None
    if not isinstance(error, EarnORMError):
        of = f"of plugin {step.plugin!r}, in model" if step.plugin else "of model"
        error.add_note(f"in {part}the step {step.name!r} {of} {model.name!r}")


def refuse_awaitable_answer(answer: object, step: Step, model: ModelView) -> None:
    """Refuse what an ``async def`` gives as ``atomic=``, which nothing awaits and is always true.

    Raises:
        PluginError: The answer is an awaitable.
    """
    if inspect.isawaitable(answer):
        if isinstance(answer, Coroutine):
            answer.close()
        raise PluginError(
            f"{_shown(step)} of model {model.name!r}: atomic= returned an awaitable, which nothing awaits; "
            f"it is no 'async def', and returns True or False"
        ).coded("step_result")


def refuse_result(result: object, step: Step, model: ModelView) -> NoReturn:
    """Refuse a step that returned something.

    Raises:
        PluginError: Always. A step that should have been awaited did not run.
    """
    if isinstance(result, Coroutine):
        result.close()
    problem = (
        "returned an awaitable, which nothing awaits, so it did not run; make the step an 'async def'"
        if inspect.isawaitable(result)
        else f"returned {result!r}; a step returns nothing"
    )
    raise PluginError(f"{_shown(step)} of model {model.name!r} {problem}").coded("step_result")


def _shown(step: Step) -> str:
    return (
        f"plugin {step.plugin!r}: the step {step.name!r}" if step.plugin else f"step {step.name!r}"
    )
