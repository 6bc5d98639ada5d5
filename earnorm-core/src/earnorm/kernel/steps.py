"""Steps: the parts of features and plugins in the write path, and the places where they run.

*Value steps* run on the values that a caller hands in (to a constructor, ``create``, ``write`` …),
before there is an Operation. *Document steps* are one layer, ``Layer.STEPS``: they see every create
and write in stored form, whoever made it. The values that they fill in are handed back to the
records that wait for the operation.

This module has what both kinds share: the order, the ways, the step itself and its checks.
``value_steps`` and ``document_steps`` have what steps get and run them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, IntEnum, auto
from functools import reduce
from operator import or_
from typing import Any, Final, Literal

from earnorm.exceptions import PluginError
from earnorm.kernel.notes import Note

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
            a value step it is called with None, before any step runs, and the transaction then
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
    call = step.run if inspect.isroutine(step.run) else getattr(step.run, "__call__", step.run)  # noqa: B004 - the function behind an object
    ends_stage = number + 1 >= len(steps) or steps[number + 1].stage != step.stage
    return PreparedStep(step, inspect.iscoroutinefunction(call), step.ways, ends_stage)
