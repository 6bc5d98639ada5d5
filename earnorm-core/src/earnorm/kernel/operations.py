"""Operation: one thing that is asked of the database, and what it carries.

Its way through the layers stands in ``layers``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from earnorm.concerns import Concerns
from earnorm.domain import Domain
from earnorm.exceptions import PluginError
from earnorm.kernel.durable import WAITING
from earnorm.kernel.notes import NO_NOTES, Note

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import Document
    from earnorm.kernel.environment import Env
    from earnorm.kernel.requests import GroupSpec, Request
    from earnorm.model.base import BaseModel

OperationName = Literal["search", "count", "group", "create", "write", "unlink"]
OPERATIONS: tuple[OperationName, ...] = ("search", "count", "group", "create", "write", "unlink")

T = TypeVar("T")

_NOTHING: Mapping[str, Any] = MappingProxyType({})


TOGGLE = "$toggle"
"""An operator beside MongoDB's own: flips a Boolean, whose value where it is unset is the operand."""


@dataclass(frozen=True, slots=True)
class Update:
    """A change of records, in stored form.

    Attributes:
        operators: MongoDB's update operators, e.g. ``{"$set": {"age": 30}}``.
        expect: Stored values that a record must still have for the change to apply to it.
        where: What a record must match for the change to apply to it, e.g. so that a number stays
            within its bounds.
    """

    operators: Mapping[str, Mapping[str, Any]]
    expect: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    where: Domain = Domain.TRUE

    @property
    def keys(self) -> frozenset[str]:
        """The stored keys that the change touches; the first one of a dotted path."""
        return frozenset(key.partition(".")[0] for spec in self.operators.values() for key in spec)

    @property
    def statement(self) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        """What the database is sent: the operators, or a pipeline where they alone cannot say it."""
        flips = self.operators.get(TOGGLE)
        if flips is None:
            return self.operators
        given = self.operators.get("$set", _NOTHING)
        added = self.operators.get("$inc", _NOTHING)
        removed = self.operators.get("$unset", _NOTHING)
        stages: list[Mapping[str, Any]] = [
            {
                "$set": {
                    **{key: {"$literal": value} for key, value in given.items()},
                    **{key: {"$add": [_or(key, 0), {"$literal": n}]} for key, n in added.items()},
                    **{key: {"$not": [_or(key, unset)]} for key, unset in flips.items()},
                }
            }
        ]
        return [*stages, {"$unset": list(removed)}] if removed else stages

    def merged(self, operator: str, values: Mapping[str, Any]) -> Update:
        """A copy that also applies ``{operator: values}``."""
        spec = {**self.operators.get(operator, _NOTHING), **values}
        return replace(self, operators={**self.operators, operator: spec})


def _or(key: str, unset: Any) -> Mapping[str, Any]:
    return {"$ifNull": [f"${key}", {"$literal": unset}]}


class PerRecord(dict[Any, Update]):
    """A change of its own for each record, by its stored id: one round trip writes them all."""


@dataclass(frozen=True)
class Options:
    """How an operation is done; what it is about stands in the Operation itself.

    Raises:
        TypeError: There is no such option.
    """

    order: tuple[tuple[str, int], ...] = ()
    """Stored paths with 1 (ascending) or -1."""
    limit: int = 0
    """At most so many records; 0 means all."""
    offset: int = 0
    fields: frozenset[str] | None = None
    """Names of the fields to fetch; None means all."""
    timeout: float | None = None
    """Seconds that it may take; None means the App's own limit."""
    concerns: Concerns | None = None
    """Read concern, write concern and read preference; None leaves the model's and the App's."""
    group: GroupSpec | None = None
    pipeline: tuple[Mapping[str, Any], ...] | None = None
    """For group: MongoDB's own stages in the place of a GroupSpec; the rows are what they give."""
    many: bool = True
    """For write: every matching record, not only the first."""
    ordered: bool = True
    """For create: stop at the first document that is refused; otherwise go on with the others."""

    if not TYPE_CHECKING:

        def __init__(self, /, **given):
            # One that is not given is the class's own. What a dataclass would write here sets all of
            # them, one by one: 2.9 µs for each search, against 0.4.
            if not _OPTIONS.issuperset(given):
                raise TypeError(f"no such option: {', '.join(sorted(given.keys() - _OPTIONS))}")
            self.__dict__.update(given)

    def replace(self, /, **changes: Any) -> Options:
        """A copy with some options changed."""
        # A tenth of the time of dataclasses.replace(), which reads and sets all of them.
        return Options(**{**self.__dict__, **changes})


_OPTIONS = frozenset(each.name for each in fields(Options))
PLAIN = Options()
ONE = Options(limit=1)


ORIGIN: Note[str] = Note("origin")
PARENT: Note[Operation] = Note("parent")
REQUEST: Note[Request | None] = Note("request")
JUDGED: Note[bool] = Note("judged")
"""Access rules have seen the whole of which this operation is a part."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that is asked of the database, as layers see it. Immutable: layers ``replace``.

    Attributes:
        name: search, count, group, create, write or unlink.
        model: The model's class as this App sees it.
        env: Who asks, in which App, context and transaction.
        domain: The records that it is about; always true for create.
        values: For create a list of documents in stored form, each with its ``_id``; for write an
            :class:`Update` or a :class:`PerRecord`; None otherwise.
        options: Order, limit, fields and the like.
        notes: Values that layers and steps leave for each other; see :class:`Note`.

    Results: search gives a list of documents in stored form (declared keys only), count, write and
    unlink give a number of records, group gives a list of mappings, create a list of stored ids.
    """

    name: OperationName
    model: type[BaseModel]
    env: Env
    domain: Domain = Domain.TRUE
    values: list[Document] | Update | PerRecord | None = None
    options: Options = PLAIN
    notes: Mapping[Note[Any], Any] = NO_NOTES

    def note(self, key: Note[T]) -> T | None:
        """The value that somebody left under this key; None where nobody did."""
        return self.notes.get(key)

    def with_note(self, key: Note[T], value: T) -> Operation:
        """A copy that carries a value for whoever reads this key further on its way."""
        return replace(self, notes={**self.notes, key: value})

    @property
    def origin(self) -> str:
        """Who made the operation: ``"program"``, or the name of the plugin or feature that did."""
        origin: str = self.notes.get(ORIGIN, "program")
        return origin

    @property
    def parent(self) -> Operation | None:
        """The operation that this one was made for; None where the program asked for it."""
        return self.notes.get(PARENT)

    @property
    def request(self) -> Request | None:
        """The other answer that is asked of a search than its documents as one list; see :class:`Request`.

        A layer that answers by itself passes an operation with a request on.
        """
        return self.notes.get(REQUEST)

    def child(
        self,
        name: OperationName,
        model: type[BaseModel],
        domain: Domain = Domain.TRUE,
        values: list[Document] | Update | PerRecord | None = None,
        options: Options = PLAIN,
        *,
        origin: str,
        env: Env | None = None,
    ) -> Operation:
        """Make another operation for this one's sake; it knows where it comes from.

        Args:
            name: As for an Operation, like the arguments that follow.
            model: The model's class.
            domain: The records that it is about.
            values: What is created or written.
            options: How it is done.
            origin: The name of the plugin or feature that makes it.
            env: Who asks; None means who asked for this one.
        """
        notes: dict[Note[Any], Any] = {ORIGIN: origin, PARENT: self}
        return Operation(name, model, env or self.env, domain, values, options, notes)

    @property
    def attempt(self) -> int:
        """Which try of the running ``@transactional`` function it is part of, from 1; 1 without."""
        transaction = self.env.transaction
        return 1 if transaction is None else transaction.attempt

    def after_durable(self, call: Callable[[], object]) -> None:
        """Call something once, when the operation has succeeded and is durable: at the commit of the
        transaction that runs, or at the operation's end where none does. Never where it fails, or where
        the transaction is rolled back.

        For layers and steps of a write, at any time until its end.

        Args:
            call: Without arguments, sync or async. It runs outside of the transaction. What it raises
                is logged: the write is done.

        Raises:
            PluginError: The operation is over, or no write on its way through layers.
        """
        waiting = self.notes.get(WAITING)
        if waiting is None:
            raise PluginError(
                f"after_durable() is for the layers and steps of a write, not for this {self.name}"
            )
        waiting.add(call, self.env.transaction)

    @property
    def app(self) -> App:
        """The App that the operation runs in."""
        return self.env.app

    def replace(self, /, **changes: Any) -> Operation:
        """A copy with some attributes changed."""
        return replace(self, **changes)

    def map_updates(self, change: Callable[[Update], Update]) -> Operation:
        """A copy of a write in which every update went through ``change``."""
        values = self.values
        if isinstance(values, PerRecord):
            return replace(self, values=PerRecord({k: change(u) for k, u in values.items()}))
        if isinstance(values, Update):
            return replace(self, values=change(values))
        return self

    @property
    def written(self) -> frozenset[str]:
        """The stored keys that a write touches, or that the documents of a create have."""
        values = self.values
        if isinstance(values, Update):
            return values.keys
        if isinstance(values, PerRecord):
            return frozenset().union(*(update.keys for update in values.values()))
        return frozenset().union(*values) if values else frozenset()


# What comes back depends on the operation's name; see Operation.
Call = Callable[[Operation], Awaitable[Any]]
