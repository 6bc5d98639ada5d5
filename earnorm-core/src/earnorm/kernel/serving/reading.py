"""Readings: the changes that features and plugins make to how the documents of a model are read.

A feature returns a :class:`Reading` from ``register_reading`` for each model that it affects. The
readings of one model are combined once, when the App first uses the model. A model without any
has no combined reading.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from earnorm.domain import Domain
from earnorm.exceptions import PluginError, nearest
from earnorm.kernel.contract.named_functions import is_plain, named, takes
from earnorm.kernel.serving.withholding import Withholding, Withholdings

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.fields import Field
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel


class RecordClasses(Protocol):
    """The record classes of one model whose documents become records of several classes."""

    def of(self, documents: Sequence[Document]) -> Sequence[type[BaseModel]]:
        """Return the class of each document's record: the model's own, or a subclass of it."""
        ...

    def find_field(self, name: str) -> Field[Any, Any] | None:
        """Find a field by its name in one of the collection's classes, for conditions; or None."""
        ...

    @property
    def keys(self) -> Mapping[str, int]:
        """The stored keys that any class in the collection declares, as a projection."""
        ...

    def bases(self) -> Sequence[BoundModel]:
        """Return the model itself and its base models, whose records include the model's own."""
        ...

    def own(self) -> Domain:
        """Return the domain of the records of the model itself, without those of its subclasses."""
        ...

    def below(self) -> Sequence[tuple[Domain, BoundModel]]:
        """Return each subclass with the domain of its records, its own subclasses' included."""
        ...


Below = Callable[["BoundModel", "Env", Sequence[Any]], Awaitable[list[Any] | None]]
"""Returns the ids of records and of all records below them; None if only a walk along the parents
can find them.
"""


OfEvents = Callable[["BoundModel", "Sequence[Document]"], None]
"""Changes stored documents in place."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The changes of one feature or plugin to how a model's documents are read. All are optional.

    Attributes:
        base_domain: A domain that is added to a query: for searches, counts, groups, updates and
            deletions by domain, unless the query's own domain names one of its fields, or the query
            says ``with_archived()``.
        needs: Names of fields that are fetched with every record, even if ``only()`` leaves them
            out.
        classes: The classes of its records, if there are several.
        below: Finds the records below others in the tree that the model's records form.
        of_events: Changes the documents of change events in place, before records are made of them.
            It does for ``watch()`` what a layer around searches does for their documents.
        withholding: Tells which fields a layer of the plugin leaves out of what who acts reads.
    """

    base_domain: Domain | None = None
    needs: frozenset[str] = frozenset()
    classes: RecordClasses | None = None
    below: Below | None = None
    of_events: OfEvents | None = None
    withholding: Withholding | None = None


class CombinedReading(NamedTuple):
    """The changes of all features and plugins to how one model's documents are read."""

    base_domains: tuple[tuple[frozenset[str], Domain, str], ...] = ()
    """Each base domain, with the fields that it names and the name of its plugin."""
    needs: frozenset[str] = frozenset()
    classes: RecordClasses | None = None
    below: Below | None = None
    of_events: tuple[OfEvents, ...] = ()
    withholding: Withholdings | None = None

    def narrowed(self, domain: Domain) -> Domain:
        """Add to a query's domain each base domain of which it names no field."""
        named = domain.paths()
        for fields, base, _ in self.base_domains:
            if fields.isdisjoint(named):
                domain = domain & base
        return domain

    def narrowings(self, domain: Domain) -> Iterator[tuple[str, Domain, Domain]]:
        """Yield the plugin, the domain before and the domain after each step of ``narrowed``."""
        named = domain.paths()
        for fields, base, plugin in self.base_domains:
            if fields.isdisjoint(named):
                yield plugin, domain, domain & base
                domain = domain & base


def combined(model: ModelView, by_plugin: Iterable[tuple[str, object]]) -> CombinedReading | None:
    """Combine the readings that plugins returned for one model; return None if there are none.

    Args:
        model: The model.
        by_plugin: Each plugin's name, and the result of its ``register_reading``.

    Raises:
        PluginError: A result is no Reading or has wrong parts, or two decide on the classes of the
            records.
    """
    base_domains: list[tuple[frozenset[str], Domain, str]] = []
    needs: frozenset[str] = frozenset()
    classes: RecordClasses | None = None
    below: Below | None = None
    owner = ""
    of_events: list[OfEvents] = []
    withheld: list[Withholding] = []
    is_changed = False
    for plugin, given in by_plugin:
        if given is None:
            continue
        reading = _checked(plugin, model, given)
        is_changed = True
        needs |= reading.needs
        if reading.base_domain is not None:
            paths = frozenset(reading.base_domain.paths())
            base_domains.append((paths, reading.base_domain, plugin))
        if reading.classes is not None:
            if classes is not None:
                raise PluginError(
                    f"plugins {owner!r} and {plugin!r} both decide on the classes of the records of {model.name!r}"
                ).coded("record_classes_taken")
            classes, owner = reading.classes, plugin
        below = below or reading.below
        if reading.of_events is not None:
            whose = f"of_events of the reading of {model.name!r} of plugin {plugin!r}"
            of_events.append(named(reading.of_events, whose))
        if reading.withholding is not None:
            withheld.append(reading.withholding)
    if not is_changed:
        return None
    if classes is None:  # else a class of the family may have the field
        for paths, _, plugin in base_domains:
            _refuse_unknown(plugin, model, "base_domain names ", _roots(paths))
    withholding = Withholdings(partial(_names, model, classes), withheld) if withheld else None
    return CombinedReading(
        tuple(base_domains), needs, classes, below, tuple(of_events), withholding
    )


def _names(model: ModelView, classes: RecordClasses | None) -> frozenset[str]:
    """Return the names of the fields that a record of the model may have."""
    below = () if classes is None else (bound.schema.fields for _, bound in classes.below())
    return frozenset(model.fields).union(*below)


_CLASSES_HAVE: Final = ("of", "find_field", "keys", "bases", "below")
_WITHHOLDING_HAS: Final = ("hidden", "masked", "fixed", "refusal")


def _checked(plugin: str, model: ModelView, given: object) -> Reading:
    """Return the reading that a plugin gave for a model.

    Raises:
        PluginError: It is no Reading, or has a part that is none.
    """
    if not isinstance(given, Reading):
        raise _not_a_reading(plugin, model, "a Reading or None", given)
    base_domain: object = given.base_domain
    if base_domain is not None and not isinstance(base_domain, Domain):
        raise _not_a_reading(plugin, model, "a Domain or None as base_domain", base_domain)
    needs: object = given.needs
    if not isinstance(needs, frozenset | set):
        raise _not_a_reading(plugin, model, "a frozenset of names as needs", needs)
    _refuse_unknown(plugin, model, "needs=", given.needs)
    lacking = [part for part in _CLASSES_HAVE if getattr_static(given.classes, part, None) is None]
    if given.classes is not None and lacking:
        expected = f"a RecordClasses or None as classes, with {', '.join(_CLASSES_HAVE)}"
        raise _not_a_reading(plugin, model, expected, given.classes)
    if given.below is not None and not takes(given.below, 3):
        expected = "an async function of (bound, env, ids) or None as below"
        raise _not_a_reading(plugin, model, expected, given.below)
    if given.of_events is not None and not is_plain(given.of_events, 2):
        expected = "a plain function of (bound, documents) or None as of_events"
        raise _not_a_reading(plugin, model, expected, given.of_events)
    lacking = [p for p in _WITHHOLDING_HAS if getattr_static(given.withholding, p, None) is None]
    if given.withholding is not None and lacking:
        expected = f"a Withholding or None as withholding, with {', '.join(_WITHHOLDING_HAS)}"
        raise _not_a_reading(plugin, model, expected, given.withholding)
    return given


def _not_a_reading(plugin: str, model: ModelView, expected: str, given: object) -> PluginError:
    return PluginError(
        f"plugin {plugin!r} in register_reading(app, model): expected {expected} for {model.name!r}, "
        f"not {given!r}"
    ).coded("not_a_reading")


def _refuse_unknown(plugin: str, model: ModelView, where: str, names: AbstractSet[str]) -> None:
    for name in sorted(names - model.fields.keys()):
        raise PluginError(
            f"plugin {plugin!r} in register_reading(app, model): {where}{name!r}, and model "
            f"{model.name!r} has no such field{nearest(name, model.fields)}"
        ).coded("unknown_field")


def _roots(paths: Iterable[str]) -> frozenset[str]:
    """Return the fields that paths begin with; ``*`` and ``id`` are no fields."""
    return frozenset(path.partition(".")[0] for path in paths) - {"*", "id"}
