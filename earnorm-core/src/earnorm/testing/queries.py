"""Counts the calls of the database in a block, and says which line of the program asked for each."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from earnorm.domain import ids_of
from earnorm.fields.relational import Many2one, One2many
from earnorm.kernel.environment import current_app
from earnorm.kernel.observing.asking import CodeLine
from earnorm.kernel.observing.observers import DatabaseCall, Observer, is_housekeeping
from earnorm.kernel.operations import RELATION, Operation
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.application import App


class Queries(Observer, Sequence[DatabaseCall]):
    """The calls of the database that were made so far, in order; its length is their number."""

    def __init__(self) -> None:
        self._calls: list[DatabaseCall] = []

    def database_called(self, call: DatabaseCall) -> None:
        """Add a call."""
        if call.running is None or not is_housekeeping(call.running.operation):
            self._calls.append(call)

    def of(self, collection: str, kind: str | None = None) -> int:
        """Return the number of calls about a collection.

        Args:
            collection: Its name.
            kind: ``find``, ``count``, ``aggregate``, ``insert``, ``update``, ``find_and_update``,
                ``bulk_write`` or ``delete``; None counts all.
        """
        return sum(
            call.collection == collection and kind in (None, call.kind) for call in self._calls
        )

    def clear(self) -> None:
        """Forget the calls so far."""
        self._calls.clear()

    @overload
    def __getitem__(self, index: int) -> DatabaseCall: ...
    @overload
    def __getitem__(self, index: slice) -> list[DatabaseCall]: ...
    def __getitem__(self, index: int | slice) -> DatabaseCall | list[DatabaseCall]:
        """Return a call by its position, or several."""
        return self._calls[index]

    def __len__(self) -> int:
        return len(self._calls)

    def __str__(self) -> str:
        groups = _groups(self._calls)
        width = max((len(str(len(group.calls))) for group in groups), default=1)
        return "\n".join(line for group in groups for line in group.lines(width, groups))

    def __repr__(self) -> str:
        return f"<Queries: {len(self)}>"


@contextmanager
def count_queries(*, app: App | None = None) -> Iterator[Queries]:
    """Count the calls of the database inside the block, in all tasks of the App.

    A call is one that reads or writes documents: preparations of collections and indexes, and
    commits, do not count, nor what features and plugins do in their own bookkeeping from time to
    time, and all batches of a search are one. The numbers are the same with each
    driver and in memory.

    Args:
        app: The App; None means the current one.

    Yields:
        The calls so far; ``len(queries)`` is their number, ``str(queries)`` lists them with the
        lines that asked for them.

    Raises:
        ConfigurationError: No App is started.
    """
    queries = Queries()
    with (current_app() if app is None else app).observing(queries):
        yield queries


@contextmanager
def assert_queries(
    expected: int | None = None, *, at_most: int | None = None, app: App | None = None
) -> Iterator[Queries]:
    """Fail unless the block makes this number of calls of the database; see :func:`count_queries`.

    Args:
        expected: The exact number.
        at_most: The highest number, instead of an exact one.
        app: The App; None means the current one.

    Raises:
        AssertionError: There were more, or fewer. The message lists them with the lines that asked
            for them, and says which prefetch would save some.
        TypeError: Neither or both numbers were given.
        ConfigurationError: No App is started.
    """
    if (expected is None) == (at_most is None):
        raise TypeError("assert_queries() takes a number, or at_most=")
    with count_queries(app=app) as queries:
        yield queries
    made = len(queries)
    if made == expected or (at_most is not None and made <= at_most):
        return
    wanted = f"at most {at_most}" if expected is None else str(expected)
    noun = "query" if wanted.endswith(" 1") or wanted == "1" else "queries"
    lines = f":\n{queries}" if made else ""
    raise AssertionError(f"{wanted} {noun} expected, {made} made{lines}")


# -- the list in a message --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """Calls of one kind for one collection that one line asked for."""

    calls: list[DatabaseCall]

    @property
    def operation(self) -> Operation | None:
        running = self.calls[0].running
        return None if running is None else running.operation

    @property
    def relation(self) -> str | None:
        """The relation that they load, as ``model.field``."""
        return None if self.operation is None else self.operation.note(RELATION)

    def lines(self, width: int, groups: Sequence[_Group]) -> Iterator[str]:
        call, operation = self.calls[0], self.operation
        what = f"{call.kind} {call.collection}"
        if self.relation is not None:
            what += f" for {self.relation}"
        elif operation is not None and operation.origin != "program":
            what += f" (made by {operation.origin})"
        yield f"  {len(self.calls):>{width}} × {what} from {_place(call.caller)}"
        margin = " " * (width + 5)
        if call.caller is not None:
            code = linecache.getline(call.caller.file, call.caller.line).strip()
            if code:
                yield f"{margin}{code}"
        advice = self._advice(groups)
        if advice:
            yield f"{margin}→ {advice}"

    def _advice(self, groups: Sequence[_Group]) -> str | None:
        """Return what would save calls, if one line made several like each other."""
        op, number = self.operation, len(self.calls)
        if number < 2 or op is None or op.name != "search":
            return None
        if self.relation is not None:
            return self._advice_on_relation(self.relation, groups)
        if op.origin != "program":
            return None
        view = ModelView(op.model)
        ids = ids_of(op.domain, view.schema)
        if ids is not None and len(ids) == 1:
            return f'{view.name} read by id, {number} times: search once, [("id", "in", ids)]'
        return _advice_on_inverse(op, view)

    def _advice_on_relation(self, relation: str, groups: Sequence[_Group]) -> str | None:
        owner, _, name = relation.rpartition(".")
        # A line that searches for the owners and loads their relation has the prefetch already.
        if any(
            group.relation is None
            and group.calls[0].caller == self.calls[0].caller
            and group.operation is not None
            and ModelView(group.operation.model).name == owner
            and group._advice(groups) is None  # it reads the owners one by one itself
            for group in groups
        ):
            return None
        return (
            f"{relation} loaded {len(self.calls)} times, for records that were read one by one: "
            f'read them with one search, and .prefetch("{name}")'
        )


def _advice_on_inverse(op: Operation, view: ModelView) -> str | None:
    """Return the advice on a search by the id of another model's record."""
    for condition in op.domain.conditions():
        field = view.fields.get(condition.path)
        if not isinstance(field, Many2one) or condition.operator != "=":
            continue
        owner = ModelView(op.app.model(field.comodel_name))
        for name, other in owner.fields.items():
            if (
                isinstance(other, One2many)
                and other.inverse == condition.path
                and other.comodel_name == view.name
            ):
                return f'one query for all: .prefetch("{name}") where {owner.name} is searched'
        return f'one query for all: search once, [("{condition.path}", "in", ids)]'
    return None


def _groups(calls: Sequence[DatabaseCall]) -> list[_Group]:
    """Return the calls in groups, each where its first call was made."""
    groups: dict[object, _Group] = {}
    for call in calls:
        group = _Group([call])
        operation = group.operation
        key = (
            call.kind,
            call.collection,
            call.caller,
            group.relation,
            None if operation is None else (operation.name, operation.origin),
        )
        groups.setdefault(key, _Group([])).calls.append(call)
    return list(groups.values())


def _place(caller: CodeLine | None) -> str:
    if caller is None:
        return "a task begun without a line of the program"
    directory = os.getcwd() + os.sep
    return f"{caller.file.removeprefix(directory)}:{caller.line}"
