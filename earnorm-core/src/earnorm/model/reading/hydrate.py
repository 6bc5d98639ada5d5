"""From stored documents to records, and from ids to ghosts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from earnorm.model.reading.fetch import ID_ONLY, Fetch
from earnorm.model.writing.tracking import touch_older

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

Look = Callable[[list["Document"]], list["Document"]]
_Setter = Callable[[Any, Any], None]
_setters: list[_Setter] = []

# So few documents are no part that another one follows, and not every search wants records.
_FEW = 1_000


def slots() -> list[_Setter]:
    """The setters of a record's ``__dict__`` and of its fetch."""
    if not _setters:
        from earnorm.model.structures import (
            Structure,  # the slots belong to the class, which imports us
        )

        _setters.extend(vars(Structure)[name].__set__ for name in ("__dict__", "_fetch"))
    return _setters


def _blank(model: type[BaseModel], count: int) -> list[Any]:
    """Records without a state."""
    return list(map(object.__new__, repeat(model, count)))


class Begun(list["Document"]):
    """The documents of a large result, and their records, still blank.

    The records of a part are made while the server prepares the next one, which takes 3 % off a
    search. A layer that gives other documents gives a list of its own, and loses nothing but that.
    """

    __slots__ = ("_look", "_model", "_records")

    def __init__(self, model: type[BaseModel], look: Look | None) -> None:
        super().__init__()
        self._model, self._look = model, look
        self._records: list[Any] = []

    def part(self, documents: list[Document]) -> list[Document]:
        """Look at a part, and make its records."""
        if self._look is not None:
            documents = self._look(documents)
        if len(documents) > _FEW:
            self._records += _blank(self._model, len(documents))
        return documents

    def take(self, model: type[BaseModel]) -> list[Any]:
        """A blank record for each document. Those that were made are given away once."""
        records, self._records = self._records, []
        missing = len(self) - len(records)
        if missing < 0 or model is not self._model:
            return _blank(model, len(self))
        return records + _blank(model, missing)


def hydrate(
    bound: BoundModel, documents: list[Document], loaded: frozenset[str] | None = None
) -> list[Any]:
    """Records that adopt the documents. No Python code runs per document: 0.2 µs each."""
    if bound.family is not None:
        return bound.family.hydrate(documents, loaded)
    set_state, set_fetch = slots()
    model = bound.model
    if isinstance(documents, Begun):
        records = documents.take(model)
    else:
        records = _blank(model, len(documents))
    deque(map(set_state, records, bound.schema.states(documents)), maxlen=0)
    together = bound.schema.relations or loaded is ID_ONLY
    fetch = Fetch(bound.app, loaded, records if together else None)
    deque(map(set_fetch, records, repeat(fetch)), maxlen=0)
    return records


def hydrate_one(bound: BoundModel, document: Document) -> Any:
    """The record of one document: what ``hydrate`` gives, in half of the time."""
    if bound.family is not None or bound.schema.relations:
        return hydrate(bound, [document])[0]
    set_state, set_fetch = slots()
    record = object.__new__(bound.model)
    set_state(record, bound.schema.state(document))
    set_fetch(record, Fetch(bound.app))
    return record


def states_of(
    bound: BoundModel, records: Sequence[BaseModel], documents: list[Document]
) -> list[dict[str, Any]]:
    """The states that documents give to records which exist, before they are filled in."""
    if bound.family is not None:
        return bound.family.states(records, documents)
    return bound.schema.states(documents)


def fill(records: Sequence[BaseModel], states: Iterable[dict[str, Any]], fetch: Fetch) -> None:
    """Give records that exist new states: ghosts that were loaded, records that were refreshed."""
    touch_older(records)
    set_state, set_fetch = slots()
    for record, state in zip(records, states, strict=True):
        set_state(record, state)
        set_fetch(record, fetch)
        for slot in ("_changes", "_originals"):
            if hasattr(record, slot):
                object.__delattr__(record, slot)


def ghosts(bound: BoundModel, pks: Iterable[Any]) -> list[Any]:
    """Records that know only their ids, without asking the database."""
    return hydrate(bound, [{"_id": pk} for pk in pks], ID_ONLY)


def ghost_maker() -> Callable[[type[Any], Any, Fetch], Any]:
    """A function that makes one ghost of a fetch that exists: of its class and its id."""
    set_state, set_fetch = slots()
    new = object.__new__

    def make(model: type[Any], pk: Any, fetch: Fetch) -> Any:
        ghost: Any = new(model)
        set_state(ghost, {"_id": pk})
        set_fetch(ghost, fetch)
        return ghost

    return make
