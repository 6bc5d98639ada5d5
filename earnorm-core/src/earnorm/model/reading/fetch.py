"""The loading state that records of one query share: their App, their fields and siblings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from earnorm.exceptions import ConfigurationError, FieldNotLoaded, FieldWithheld, RecordGone
from earnorm.kernel.environment import find_env

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.environment import Principal
    from earnorm.kernel.transactions.outcome import Outcome

ID_ONLY = frozenset({"_id"})

_NO_PARTS: Final[Mapping[str, Any]] = {}

# The references to an object that only a list holds, as ``map`` counts them.
_ALONE: Final = max(map(getrefcount, [object()]))


class Siblings(list[Any]):
    """The records of one query, in the list that their RecordSet has.

    They find each other through it, and one that is kept does not keep the others. A weak reference
    for each record would cost 0.12 µs where it is made; so they are made when the list dies, for
    the records that somebody still has.
    """

    __slots__ = ("__weakref__", "fetch")

    fetch: Fetch

    def __del__(self) -> None:
        # Loops in Python would count references of their own, and take three times as long.
        are_shared = list(map(_ALONE.__lt__, map(getrefcount, self)))
        if True in are_shared:
            self.fetch.leave(compress(self, are_shared))


class Fetch:
    """The loading state of all records of one query; each record holds it in a slot.

    Attributes:
        app: The App that the records belong to.
        loaded: Names of the fields that were fetched; None means all.
        records: The records to load together, where the fetch keeps them alive: ghosts, which it
            also finds by id. Other records are held weakly; see ``hold``.
        related: The ghosts of each relation of these records, by the field's name.
        by_id: Ghosts by their stored id, so that two records that point at one share it.
        loading: The running loads, by relation ("" for the records themselves).
        is_mixed: The records may be of several classes of one collection.
        origin: ``model.field`` of the relation that the ghosts come from, for messages.
        lists: The lists of loaded ghosts that it keeps alive, as it does the ghosts themselves.
        complete: Makes the ghosts that were not read yet, before all are loaded at once. It takes the
            records whose ghosts have been made.
        inside: The loading state of embedded objects, by the name of the field that holds them.
        parts: The loading state of embedded objects of which only some fields were fetched, by the
            name of the field that holds them; ``loaded`` does not have its name.
        peers: Returns the embedded objects in one field of all the records fetched together.
        seen_in: The outcome of the transaction that made it; None outside of one.
        seen_by: The one as whom it was made; see ``Env.actor``.
        not_found: The records were looked for, and not found.
    """

    # What few queries need is read from the class until it is set: a fetch is made for each query.
    held: ref[Siblings] | None = None
    """The list of the records, while somebody has it; see ``hold``."""
    _left: Sequence[ref[Any]] = ()
    origin = ""
    is_mixed = False
    lists: tuple[list[Any], ...] = ()
    not_found = False
    complete: Callable[[Sequence[Any]], Awaitable[None]] | None = None
    parts: Mapping[str, Part] = _NO_PARTS
    peers: Callable[[], list[Any]] | None = None
    seen_in: Outcome | None = None
    seen_by: Principal | str | None = None

    def __init__(
        self, app: App, loaded: frozenset[str] | None = None, records: list[Any] | None = None
    ) -> None:
        self.app = app
        self.loaded = loaded
        self.records = records
        self.related: dict[str, Fetch] = {}
        self.by_id: dict[Any, Any] = {}
        self.loading: dict[str, asyncio.Task[None]] = {}
        self.inside: dict[str, Fetch] = {}
        env = find_env()
        if env is not None:
            self.seen_by = "system" if env.system else env.principal
            if env.transaction is not None:
                self.seen_in = env.transaction.outcome

    def has(self, name: str) -> bool:
        """Return whether the field was fetched, and all of it."""
        return self.loaded is None or name in self.loaded

    def knows(self, name: str) -> bool:
        """Return whether the field was fetched, or a part of it: a missing value is unset."""
        return self.loaded is None or name in self.loaded or name in self.parts

    def siblings(self, one: Any, name: str) -> list[Any]:
        """Return the structures whose field loads together with that of ``one``."""
        structures = self.peers() if self.peers is not None else self.members()
        if not structures and one is not None:
            return [one]
        if self.is_mixed:
            return [structure for structure in structures if name in type(structure)._schema.fields]
        return structures

    def hold(self, records: Iterable[Any]) -> list[Any]:
        """Note the records of a query without keeping them alive.

        Returns:
            A list of them, for their RecordSet: while it lives, no record needs a weak reference.
        """
        siblings = Siblings(records)
        siblings.fetch = self
        self.held = ref(siblings)
        return siblings

    def members(self) -> list[Any]:
        """Return the records that are still alive."""
        if self.records is not None:
            return self.records
        held = None if self.held is None else self.held()
        if held is not None:
            return held
        return [record for left in self._left if (record := left()) is not None]

    def leave(self, records: Iterable[Any]) -> None:
        """Refer weakly to the records that are alive without their list."""
        self._left = list(map(ref, records))

    @property
    def is_ghost(self) -> bool:
        """True if the records have only their ids."""
        return self.loaded is ID_ONLY

    @property
    def is_waiting(self) -> bool:
        """True if the records have only their ids, and were not looked for."""
        return self.loaded is ID_ONLY and not (self.not_found and self.is_gone)

    @property
    def is_stale(self) -> bool:
        """True if the values were read in a transaction that was not committed."""
        return self.seen_in is not None and self.seen_in.is_in_doubt and not self.is_ghost

    def refuse_other_app(self) -> None:
        """Refuse the records where another App than theirs is current.

        Raises:
            ConfigurationError: It is.
        """
        env = find_env()
        if env is not None and env.app is not self.app:
            raise other_app(self.app, env.app)

    @property
    def is_gone(self) -> bool:
        """True if the records were looked for and not found, and that was not rolled back."""
        return self.not_found and not (self.seen_in is not None and self.seen_in.is_in_doubt)

    def unread(self, record: Any, name: str) -> FieldNotLoaded:
        """Return the error for reading a field that was not fetched."""
        if not self.is_gone:
            return self.withheld(record, name) or FieldNotLoaded(
                self.how_to_load(type(record), name)
            )
        pointed_from = f", which {self.origin} points at," if self.origin else ""
        return RecordGone(
            f"{type(record).__name__}.{name}: the {type(record)._name} with the id "
            f"{record.__dict__['_id']}{pointed_from} does not exist (or not for who is acting); ask "
            f"record.exists() before its fields are read"
        )

    def withheld(self, record: Any, name: str) -> FieldWithheld | None:
        """Return the error for reading a field that is withheld from who acts; None if it is not."""
        env = find_env()
        if env is None or env.app is not self.app or record._is_embedded:
            return None
        withholding = self.app.bind(type(record)).withholding
        return None if withholding is None else withholding.refusal(env, name)

    def how_to_load(self, model: type[Any], name: str) -> str:
        """Return the message of ``FieldNotLoaded``."""
        if not self.is_ghost:
            return (
                f"{model.__name__}.{name} was not fetched: add {name!r} to .only(...), "
                f"or 'await record.refresh()'"
            )
        if self.origin:
            field = self.origin.rpartition(".")[2]
            return (
                f"{model.__name__}.{name}: {self.origin} is not loaded; 'await record.{field}' "
                f"loads it for all records fetched together, or search(...).prefetch({field!r})"
            )
        return f"{model.__name__}.{name} is not loaded: 'await record' loads it"

    def __repr__(self) -> str:
        what = "all" if self.loaded is None else ", ".join(sorted(self.loaded))
        return f"<Fetch {what}>"


class Part(Fetch):
    """The loading state of embedded objects of which a search fetched only some fields.

    Args:
        app: The App of their records; None for a copy of an object alone.
        path: The path of the field that holds them.
        loaded: The names of the fields that were fetched whole.
        kept: For the copies that a save makes of a record's own objects, and of which it writes
            changed fields only, the loading state of these objects; else None.
    """

    __slots__ = ("kept", "path", "seen")

    def __init__(
        self, app: App | None, path: str, loaded: frozenset[str], kept: Part | None = None
    ) -> None:
        super().__init__(app, loaded)  # type: ignore[arg-type] # nothing is loaded for a copy alone
        self.path = path
        self.kept = kept
        self.seen: Mapping[str, Any] = _NO_PARTS
        """The stored values of the other fields, where a constraint was shown them."""

    @property
    def paths(self) -> Iterator[str]:
        """The paths that were fetched."""
        for name in self.loaded or ():
            yield f"{self.path}.{name}"
        for part in self.parts.values():
            yield from part.paths

    @property
    def own(self) -> Part:
        """The state of the copies of these objects that a save makes."""
        own = Part(self.app, self.path, self.loaded or frozenset(), kept=self)
        own.parts = self.parts
        return own

    def how_to_load(self, model: type[Any], name: str) -> str:
        """Return the message of ``FieldNotLoaded``."""
        return (
            f"{model.__name__}.{name} was not fetched: add {f'{self.path}.{name}'!r} to .only(...), or "
            f"{self.how_to_complete}"
        )

    @property
    def how_to_complete(self) -> str:
        """The call that loads the rest, for messages."""
        head = self.path.partition(".")[0]
        return f"'await record.refresh(\"{head}\")'"

    def incomplete(self) -> FieldNotLoaded:
        """Return the error for using an object as a whole."""
        return FieldNotLoaded(f"only some fields of {self.path!r} were fetched: {self.refused}")

    @property
    def refused(self) -> str:
        """The way out, for messages."""
        return f"{self.how_to_complete} first, which loads the rest"

    def __reduce__(self) -> tuple[Any, ...]:
        return Part, (None, self.path, self.loaded), (None, {"parts": dict(self.parts)})


def part_of(value: object) -> Part | None:
    """Return the loading state of an embedded object of which only some fields were fetched."""
    fetch = getattr(value, "_fetch", None)
    return fetch if type(fetch) is Part else None


def other_app(own: App, current: App) -> ConfigurationError:
    """Return the error for a record of an App that is not the current one."""
    return ConfigurationError(
        f"the record belongs to App {own.name!r}, and App {current.name!r} is current; work inside "
        f"'with app.activate():'"
    )


def is_gone(value: object) -> bool:
    """Return whether a value is a record that was looked for and not found."""
    fetch: Fetch | None = getattr(value, "_fetch", None)
    return fetch is not None and fetch.is_gone
