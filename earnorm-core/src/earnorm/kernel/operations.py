"""Operation: one request to the database, and the values that layers and steps add to it.

The module ``layers`` describes its way through the layers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from earnorm.concerns import Concerns
from earnorm.domain import Domain
from earnorm.exceptions import PluginError
from earnorm.kernel.environment import PROGRAM, Env
from earnorm.kernel.known_values import TOGGLE
from earnorm.kernel.merging import merged
from earnorm.kernel.notes import NO_NOTES, Note

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import Document
    from earnorm.domain import Schema
    from earnorm.kernel.serving.requests import GroupSpec, Request
    from earnorm.model.base import BaseModel

OperationName = Literal["search", "count", "group", "create", "write", "unlink"]
OPERATIONS: tuple[OperationName, ...] = ("search", "count", "group", "create", "write", "unlink")

T = TypeVar("T")

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Chooses the items of a list that an update changes.

    Attributes:
        name: The name that stands for such an item in the paths of the update:
            ``lines.$[name].qty``.
        path: The stored path of the list. That of a list inside an item has the outer item's name
            in it: ``lines.$[name].parts``.
        domain: The condition about the fields of an item.
        schema: The fields of an item.
    """

    name: str
    path: str
    domain: Domain
    schema: Schema


@dataclass(frozen=True, slots=True)
class Update:
    """A change of records, in stored form.

    Attributes:
        operators: MongoDB's update operators, e.g. ``{"$set": {"age": 30}}``.
        expect: Stored values that a record must still have, or the change skips it.
        where: A domain that a record must match, or the change skips it, e.g. so that a number
            stays within its bounds.
        items: The items of lists that paths like ``lines.$[name].qty`` are about.
    """

    operators: Mapping[str, Mapping[str, Any]]
    expect: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    where: Domain = Domain.TRUE
    items: tuple[ItemFilter, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """The stored keys that the change touches; of a dotted path, the first key."""
        return frozenset(key.partition(".")[0] for spec in self.operators.values() for key in spec)

    @property
    def statement(self) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        """The update for the database: operators, or a pipeline if operators cannot express it."""
        flips = self.operators.get(TOGGLE)
        if flips is None:
            return self.operators
        assigned = self.operators.get("$set", _NOTHING)
        added = self.operators.get("$inc", _NOTHING)
        removed = self.operators.get("$unset", _NOTHING)
        stages: list[Mapping[str, Any]] = [
            {
                "$set": {
                    **{key: {"$literal": value} for key, value in assigned.items()},
                    **{
                        key: {"$add": [_value_or(key, 0), {"$literal": n}]}
                        for key, n in added.items()
                    },
                    **{key: {"$not": [_value_or(key, unset)]} for key, unset in flips.items()},
                }
            }
        ]
        return [*stages, {"$unset": list(removed)}] if removed else stages

    def merged(self, operator: str, values: Mapping[str, Any]) -> Update:
        """Return a copy that also applies ``{operator: values}``, after all that is there.

        Raises:
            ConflictingChange: There is no update that makes both changes.
        """
        operators = merged(self.operators, operator, values)
        items = self.items
        if items:  # the server refuses a filter of items that no path is about any more
            paths = [path for spec in operators.values() for path in spec]
            items = tuple(i for i in items if any(f".$[{i.name}]" in path for path in paths))
        return replace(self, operators=operators, items=items)


def _value_or(key: str, unset: Any) -> Mapping[str, Any]:
    return {"$ifNull": [f"${key}", {"$literal": unset}]}


def touched(updates: Iterable[Update]) -> frozenset[str]:
    """Return the stored keys that any of the changes touches; see ``Update.keys``."""
    # Of the paths of many records, few differ.
    paths = set[str]().union(*(spec for u in updates for spec in u.operators.values()))
    return frozenset(path.partition(".")[0] for path in paths)


class PerRecord(dict[Any, Update]):
    """A separate change for each record, by its stored id; one round trip writes them all."""


@dataclass(frozen=True)
class Options:
    """The options of an operation: order, limit, fields and the like.

    Raises:
        TypeError: There is no such option.
    """

    order: tuple[tuple[str, int], ...] = ()
    """Stored paths, each with 1 (ascending) or -1 (descending)."""
    limit: int = 0
    """The highest number of records; 0 means all."""
    offset: int = 0
    fields: frozenset[str] | None = None
    """Names of the fields to fetch; None means all."""
    inside: frozenset[str] = frozenset()
    """Paths into embedded objects in some of ``fields``, of which nothing else is fetched."""
    timeout: float | None = None
    """Seconds that the operation may take; None means the App's own limit."""
    concerns: Concerns | None = None
    """Read concern, write concern and read preference; None means those of the model and the
    App."""
    group: GroupSpec | None = None
    pipeline: tuple[Mapping[str, Any], ...] | None = None
    """For group: MongoDB's own stages, used instead of a GroupSpec; their rows are the result."""
    many: bool = True
    """For write and unlink: change every matching record, not only the first."""
    ordered: bool = True
    """For create: stop at the first document that is refused; False goes on with the others."""

    if not TYPE_CHECKING:

        def __init__(self, /, **options):
            # An option that is not given is read from the class. The __init__ of a dataclass would
            # set all of them one by one: 2.9 µs for each search, against 0.4.
            if not _OPTIONS.issuperset(options):
                raise TypeError(f"no such option: {', '.join(sorted(options.keys() - _OPTIONS))}")
            self.__dict__.update(options)

    def replace(self, /, **changes: Any) -> Options:
        """Return a copy with some options changed.

        Other ``fields`` are fetched whole unless ``inside`` is given with them.
        """
        if "fields" in changes and self.inside and "inside" not in changes:
            changes["inside"] = frozenset()
        # This takes a tenth of the time of dataclasses.replace(), which reads and sets all options.
        return Options(**{**self.__dict__, **changes})


_OPTIONS = frozenset(option.name for option in fields(Options))
PLAIN = Options()
ONE = Options(limit=1)


ORIGIN: Note[str] = Note("origin")
PARENT: Note[Operation] = Note("parent")
REQUEST: Note[Request | None] = Note("request")
RELATION: Note[str] = Note("relation")
"""On a search: the relation that it loads, as ``model.field``."""
PURPOSE: Note[str] = Note("purpose")
"""On a search: what its records are for, if the one who asks does not simply get them.

``"aggregate"`` (a group or a pipeline of another model reads them), ``"export"``, ``"explain"`` or
``"watch"``. A group has no such note: it is one by its name.
"""
WHOLE: Note[bool] = Note("whole")
"""On a search: the library or a plugin needs whole documents, and gives nothing of them to who acts.
The records are still those that a search of who acts finds; no field of them is withheld."""


class Extent(NamedTuple):
    """The size of what a query asks for, as far as no option of its search says it.

    Attributes:
        page: The number of records on the page that it is for; 0 if it is for none.
        shown: The levels of relations that its dicts show.
        prefetch: What it loads along: paths, or pairs of a path and a window.
    """

    page: int = 0
    shown: int = 0
    prefetch: Sequence[str | tuple[str, Any]] = ()

    @property
    def depth(self) -> int:
        """The levels of relations that are loaded along with its records, or shown in their dicts."""
        paths = (wanted if isinstance(wanted, str) else wanted[0] for wanted in self.prefetch)
        return max([self.shown, *(path.count(".") + 1 for path in paths)])


EXTENT: Note[Extent] = Note("extent")
"""On the search and the count of a query that is for a page, prefetches or makes nested dicts."""


class Caching(NamedTuple):
    """The wish of a query about its answer being kept.

    Attributes:
        is_wanted: True for ``cached()``, False for ``uncached()``.
        ttl: The most seconds that it is kept; None leaves that to the plugin that keeps it.
    """

    is_wanted: bool
    ttl: float | None = None


CACHING: Note[Caching] = Note("caching")
"""On the search, count or group of a query that was marked with ``cached()`` or ``uncached()``. Any plugin that
keeps answers reads it."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A sequence for which the program asks: ``earnorm.sequence(name, scope=...)``.

    Attributes:
        name: The name, without the scope.
        scope: The scope as a field stores it, or the text of an id; None without one.
        env: The Env of who asks; the operation itself runs as the system.
    """

    name: str
    scope: object
    env: Env


COUNTED: Note[Counted] = Note("sequence of the program")
"""On an operation with the counter of a sequence for which the program asks, and no ``Sequence`` field."""
JUDGED: Note[bool] = Note("judged")
"""Access rules have checked the whole operation of which this one is a part."""


ASKED: Note[bool] = Note("asked")
"""The operation has a maker, and is a part of what the program asked for: a write of a bulk, say."""


def made_by(origin: str, parent: Operation | None = None) -> Mapping[Note[Any], Any]:
    """Return the notes of an operation that the program did not ask for itself.

    Args:
        origin: The name of the plugin or feature that makes it.
        parent: The operation that it is made for; None if there is none yet.
    """
    return {ORIGIN: origin} if parent is None else {ORIGIN: origin, PARENT: parent}


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to the database, as layers see it. It is immutable: layers use ``replace``.

    Attributes:
        name: search, count, group, create, write or unlink.
        model: The model's class in this App.
        env: The Env that it acts in: principal, App, context and transaction.
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
        """Return the value of a note, or None if the operation does not have it."""
        return self.notes.get(key)

    def with_note(self, key: Note[T], value: T) -> Operation:
        """Return a copy with a note, for the layers and steps that come later."""
        notes = {**self.notes, key: value}
        options = self.options
        return Operation(self.name, self.model, self.env, self.domain, self.values, options, notes)

    @property
    def origin(self) -> str:
        """The maker of the operation: ``"program"``, or the name of a plugin or feature."""
        notes, maker = self.notes, self.env.origin
        if ASKED in notes and maker != PROGRAM:
            return maker  # the bulk of a plugin is the plugin's
        origin: str = notes.get(ORIGIN, maker)
        return origin

    @property
    def parent(self) -> Operation | None:
        """The operation that this one was made for; None if there is none."""
        parent: Operation | None = self.notes.get(PARENT, self.env.parent)
        return parent

    @property
    def is_asked_for(self) -> bool:
        """True if the program asked for the operation; no other operation and no feature needs it.

        The writes of ``bulk()``, ``create_many()`` and ``upsert()`` are asked for, and of a stream
        its first batch. A part of an operation that passes all layers anew is not, and neither is what
        a plugin does in a block of ``use_origin()``.
        """
        notes = self.notes
        if self.env.origin != PROGRAM:
            return False
        if JUDGED in notes:
            return False  # the whole operation was asked for, and has passed
        if not notes or ASKED in notes:
            return True
        request: Request | None = notes.get(REQUEST)
        return not (
            ORIGIN in notes or PARENT in notes or (request is not None and request.is_under_way)
        )

    @property
    def request(self) -> Request | None:
        """The kind of answer that a search gives instead of a list; see :class:`Request`.

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
        """Make an operation on behalf of this one, with this one as its parent.

        Args:
            name: As for an Operation, like the arguments that follow.
            model: The model's class.
            domain: The records that it is about.
            values: The documents of a create or the change of a write.
            options: How it is done.
            origin: The name of the plugin or feature that makes it.
            env: The Env that it acts in; None means the Env of this operation.

        Raises:
            TypeError: A part is none of such an operation.
        """
        env = self.env if env is None else env
        # What features search for passes here, too, so a function is called only for values.
        parts: Mapping[str, object] = {"domain": domain, "options": options}
        if not (isinstance(parts["domain"], Domain) and isinstance(parts["options"], Options)):
            _refuse_wrong(name, parts)
        if values is not None or name in {"create", "write"}:
            _refuse_wrong(name, {"values": values})
        return Operation(name, model, env, domain, values, options, made_by(origin, self))

    @property
    def attempt(self) -> int:
        """The number of the current try of the ``@transactional`` function; 1 without one."""
        transaction = self.env.transaction
        return 1 if transaction is None else transaction.attempt

    def after_durable(self, call: Callable[[], object]) -> None:
        """Call a function once, when the operation, or a part of it, is durable.

        It is called at the commit of the running transaction, or at the end of the operation if
        none runs. It is not called if the operation fails or the transaction is rolled back. If
        the database refuses a part of a batch, and no transaction takes back the rest, it is called
        for the rest: a ``BatchRefused`` passes the layers, and its ``written`` has the positions.
        Layers and steps of a write may use this at any time until the write ends, and the function
        itself for one more, which follows it.

        Args:
            call: Without arguments, sync or async. It runs outside of the transaction. An exception
                that it raises is logged, because the write is done.

        Raises:
            PluginError: The operation is over, or it is no write on its way through layers.
        """
        from earnorm.kernel.transactions.durable import WAITING  # loaded with the first App

        waiting = self.notes.get(WAITING)
        if waiting is None:
            raise PluginError(
                f"after_durable() is for the layers and steps of a write, not for this {self.name}"
            ).coded("no_write")
        waiting.add(call, self.env.transaction)

    @property
    def documents(self) -> Sequence[Document]:
        """The documents of a create, in stored form and each with its ``_id``: its ``values``.

        Raises:
            TypeError: It is no create.
        """
        values = self.values
        if not isinstance(values, list):
            raise TypeError(f"a {self.name} has no documents; only a create has")
        return values

    @property
    def updates(self) -> Sequence[Update]:
        """The changes of a write: its one ``update``, or the one of each record.

        Raises:
            TypeError: It is no write.
        """
        values = self.values
        return tuple(values.values()) if isinstance(values, PerRecord) else (self.update,)

    @property
    def update(self) -> Update:
        """The change of a write that is the same for each of its records: its ``values``.

        Raises:
            TypeError: It is no write, or it has a change for each record (:attr:`updates`).
        """
        values = self.values
        if not isinstance(values, Update):
            reason = (
                "changes each record by itself: op.updates" if self.name == "write" else "is none"
            )
            raise TypeError(f"op.update is the one change of a write; this {self.name} {reason}")
        return values

    def map_updates(self, change: Callable[[Update], Update]) -> Operation:
        """Return a copy of a write with another change in the place of each one.

        Args:
            change: Makes the new change, e.g. ``lambda update: update.merged("$set", {"by": 1})``.

        Raises:
            TypeError: It is no write.
        """
        values = self.values
        if isinstance(values, PerRecord):
            return self.replace(
                values=PerRecord({pk: change(update) for pk, update in values.items()})
            )
        return self.replace(values=change(self.update))

    @property
    def app(self) -> App:
        """The App that the operation runs in."""
        return self.env.app

    def replace(self, /, **changes: Any) -> Operation:
        """Return a copy with some attributes changed, but for the name and the model.

        Raises:
            TypeError: A value is none for its attribute, or another name or model is given, for
                which :meth:`child` makes an operation.
        """
        _refuse_wrong(self.name, changes)
        unknown = changes.keys() - _REPLACED
        if unknown:
            raise TypeError(f"an operation has no {', '.join(sorted(unknown))}")
        # dataclasses.replace() looks at every field, and takes five times as long.
        get = changes.get
        return Operation(
            self.name,
            self.model,
            get("env", self.env),
            get("domain", self.domain),
            get("values", self.values),
            get("options", self.options),
            get("notes", self.notes),
        )

    @property
    def written(self) -> frozenset[str]:
        """The stored keys that a write touches, or that the documents of a create have."""
        values = self.values
        if isinstance(values, Update):
            return values.keys
        if isinstance(values, PerRecord):
            return touched(values.values())
        return frozenset().union(*values) if values else frozenset()


# -- what layers and plugins make an operation of -------------------------------------------------

_REPLACED = frozenset({"env", "domain", "values", "options", "notes"})


def _refuse_wrong(name: OperationName, parts: Mapping[str, Any]) -> None:
    """Refuse parts that an operation of this name cannot have.

    A domain that is a list would find nothing, and a limit below 0 means another number to a server.

    Raises:
        TypeError: A part is wrong.
    """
    for part, value in parts.items():
        look = _LOOKED_AT.get(part)
        problem = None if look is None else look(name, value)
        if problem:
            raise TypeError(f"{name}: {part}= {problem}")


def _problem_of_domain(name: OperationName, value: object) -> str:
    if isinstance(value, Domain):
        return ""
    return f"is a Domain, not {_kind(value)}: op.domain & Domain([...]), or Domain([...])"


def _problem_of_env(name: OperationName, value: object) -> str:
    return "" if isinstance(value, Env) else f"is an Env, not {_kind(value)}"


def _problem_of_notes(name: OperationName, value: object) -> str:
    fits = isinstance(value, Mapping)
    return "" if fits else f"is a mapping, not {_kind(value)}: op.with_note(KEY, value)"


def _problem_of_another(name: OperationName, value: object) -> str:
    return "stays what it is; op.child(...) makes another operation"


def _problem_of_values(name: OperationName, values: Any) -> str:
    if name == "create":
        if not isinstance(values, list):
            return f"is a list of documents, not {_kind(values)}"
        documents = cast("list[object]", values)
        for kind in set(map(type, documents)):
            if not issubclass(kind, Mapping):
                return f"is a list of documents, and holds {_kind_name(kind)}"
        if not all("_id" in document for document in cast("list[Document]", documents)):
            return "is a list of documents, and one has no _id, which the record waits for"
        return ""
    if name == "write":
        if isinstance(values, Update):
            return _problem_of_update(values)
        if isinstance(values, PerRecord):
            return next(filter(None, map(_problem_of_update, values.values())), "")
        return f'is an Update, or a PerRecord of them, not {_kind(values)}: Update({{"$set": ...}})'
    return "" if values is None else "is None: only a create and a write have values"


def _problem_of_update(update: object) -> str:
    if not isinstance(update, Update):
        return f"holds {_kind(update)} in the place of an Update"
    operators: object = update.operators
    if not isinstance(operators, Mapping):
        return f'has {_kind(operators)} as operators: Update({{"$set": ...}})'
    for operator, spec in cast("Mapping[object, object]", operators).items():
        if not isinstance(operator, str) or not operator.startswith("$"):
            return f'has {operator!r} in the place of an operator: Update({{"$set": ...}})'
        if not isinstance(spec, Mapping):
            return f"has {_kind(spec)} under {operator}, where values stand by stored path"
    where: object = update.where
    return "" if isinstance(where, Domain) else f"has {_kind(where)} as where: Domain([...])"


def _problem_of_options(name: OperationName, options: object) -> str:
    if not isinstance(options, Options):
        return f"is an Options, not {_kind(options)}: op.options.replace(limit=10)"
    for option, value in options.__dict__.items():
        fits, expected = _FITTING.get(option, _ANYTHING)
        if not fits(value):
            shown = repr(value) if isinstance(value, int | float) else _kind(value)
            return f"has {shown} as {option}; expected {expected}"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, frozenset | set) and all(
        isinstance(name, str) for name in cast("frozenset[object]", value)
    )


def _is_order(value: object) -> bool:
    if not isinstance(value, tuple | list):
        return False
    for pair in cast("Sequence[object]", value):
        if not isinstance(pair, tuple | list):
            return False
        items = tuple(cast("Sequence[object]", pair))
        if len(items) != 2 or not isinstance(items[0], str) or items[1] not in (1, -1):
            return False
    return True


_ANYTHING: tuple[Callable[[object], bool], str] = (lambda value: True, "")
_NUMBER = (_is_number, "a whole number from 0 on")
_TRUTH = (lambda value: isinstance(value, bool), "True or False")

_FITTING: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "order": (_is_order, "pairs of a stored path and 1 or -1"),
    "limit": _NUMBER,
    "offset": _NUMBER,
    "fields": (lambda value: value is None or _is_names(value), "a frozenset of names, or None"),
    "inside": (_is_names, "a frozenset of paths"),
    "timeout": (
        lambda value: value is None or (isinstance(value, int | float) and value > 0),
        "seconds above 0, or None",
    ),
    "concerns": (lambda value: value is None or isinstance(value, Concerns), "Concerns, or None"),
    "many": _TRUTH,
    "ordered": _TRUTH,
}
"""For an option, whether a value is one for it, and what is expected."""

_LOOKED_AT: Mapping[str, Callable[[OperationName, Any], str]] = {
    "domain": _problem_of_domain,
    "values": _problem_of_values,
    "options": _problem_of_options,
    "env": _problem_of_env,
    "notes": _problem_of_notes,
    "name": _problem_of_another,
    "model": _problem_of_another,
}
"""For each part of an operation, what is wrong with a value of it; an empty text if nothing is."""


def _kind(value: object) -> str:
    return _kind_name(type(value))


def _kind_name(kind: type) -> str:
    return "None" if kind is NoneType else f"a {kind.__name__}"


# The type of the result depends on the operation's name; see Operation.
Call = Callable[[Operation], Awaitable[Any]]
