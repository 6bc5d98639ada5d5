"""Readings: the part that features and plugins have in how the documents of a model are read.

A feature hands in a :class:`Reading` for the models that it is about (``register_reading``). What several say of one
model is put together once, when the App first sees the model; a model of which nobody says anything has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol

from earnorm.domain import Domain
from earnorm.exceptions import PluginError

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.fields import Field
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env
    from earnorm.model.base import BaseModel


class RecordClasses(Protocol):
    """The classes of which the documents of one model become records."""

    def of(self, documents: Sequence[Document]) -> Sequence[type[BaseModel]]:
        """The class of each document's record: the model's own, or a subclass of it."""
        ...

    def find_field(self, name: str) -> Field[Any, Any] | None:
        """A field that one of the classes in the collection declares, for conditions."""
        ...

    @property
    def keys(self) -> Mapping[str, int]:
        """The stored keys that any class in the collection declares, as a projection."""
        ...

    def bases(self) -> Sequence[BoundModel]:
        """The model itself and the models whose records its own are, too."""
        ...

    def below(self) -> Sequence[tuple[Domain, BoundModel]]:
        """The other classes of its records, each with the records that it is about, its own subclasses' included."""
        ...


Below = Callable[["BoundModel", "Env", Sequence[Any]], Awaitable[list[Any] | None]]
"""Gives the ids of records and of all that lie below them; None where only a walk along the parents can tell."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one feature or plugin changes in how the documents of a model are read. Each part may be left out.

    Attributes:
        base_domain: What a query is about by itself: it holds for searches, counts, groups, updates and deletions
            by domain, unless the query's own domain names one of its fields, or the query says
            ``with_archived()``.
        needs: Names of fields that are fetched with every record, also where ``only()`` leaves them out.
        classes: The classes of its records, where they are of several.
        below: Finds the records below others in the tree that the model's records form.
    """

    base_domain: Domain | None = None
    needs: frozenset[str] = frozenset()
    classes: RecordClasses | None = None
    below: Below | None = None


@dataclass(frozen=True, slots=True)
class CombinedReading:
    """What all features and plugins change in how the documents of one model are read."""

    base_domains: tuple[tuple[frozenset[str], Domain], ...] = ()
    """Each base domain, with the fields that it names."""
    needs: frozenset[str] = frozenset()
    classes: RecordClasses | None = None
    below: Below | None = None

    def narrowed(self, domain: Domain) -> Domain:
        """A query's domain, with the base domains of whose fields it names none."""
        named = domain.paths()
        for fields, base in self.base_domains:
            if fields.isdisjoint(named):
                domain = domain & base
        return domain


def combined(model: str, found: Iterable[tuple[str, object]]) -> CombinedReading | None:
    """Put together what plugins gave for one model; None where none gave anything.

    Args:
        model: The model's name, for messages.
        found: Each plugin's name, and what its ``register_reading`` returned.

    Raises:
        PluginError: Something is no Reading, or two decide on the classes of the records.
    """
    base_domains: list[tuple[frozenset[str], Domain]] = []
    needs: frozenset[str] = frozenset()
    classes: RecordClasses | None = None
    below: Below | None = None
    owner = ""
    is_changed = False
    for plugin, reading in found:
        if reading is None:
            continue
        if not isinstance(reading, Reading):
            raise PluginError(
                f"plugin {plugin!r} in register_reading(app, model): expected a Reading or None for "
                f"{model!r}, not {reading!r}"
            )
        is_changed = True
        needs |= reading.needs
        if reading.base_domain is not None:
            base_domains.append((frozenset(reading.base_domain.paths()), reading.base_domain))
        if reading.classes is not None:
            if classes is not None:
                raise PluginError(
                    f"plugins {owner!r} and {plugin!r} both decide on the classes of the records of {model!r}"
                )
            classes, owner = reading.classes, plugin
        below = below or reading.below
    if not is_changed:
        return None
    return CombinedReading(tuple(base_domains), needs, classes, below)


# -- records that are made before they are asked for -----------------------------------------------

Look = Callable[[list["Document"]], list["Document"]]

# So few documents are no part that another one follows, and not every search wants records.
_FEW = 1_000


def blank(model: type[BaseModel], count: int) -> list[Any]:
    """Records without a state."""
    return list(map(object.__new__, repeat(model, count)))


class PreparedRecords(list["Document"]):
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
            self._records += blank(self._model, len(documents))
        return documents

    def take(self, model: type[BaseModel]) -> list[Any]:
        """A blank record for each document. Those that were made are given away once."""
        records, self._records = self._records, []
        missing = len(self) - len(records)
        if missing < 0 or model is not self._model:
            return blank(model, len(self))
        return records + blank(model, missing)
