"""Several classes in one collection, told apart by a discriminator: ``_discriminator = "kind"``.

The class that names the discriminator is the root; it and its subclasses are the members of the family. A member
searches its own records and those of its subclasses, and each record is of the class that its document names.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

from earnorm.domain import Domain, condition
from earnorm.exceptions import ConfigurationError
from earnorm.fields.base import Field
from earnorm.fields.text import String
from earnorm.kernel import registry
from earnorm.model.extension import form_of
from earnorm.model.reading.fetch import ID_ONLY, Fetch
from earnorm.model.reading.hydrate import slots

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema

R = TypeVar("R", bound="BaseModel")


# -- what a class body declares -------------------------------------------------------------------


def join_family(cls: type[BaseModel], collection: str | None) -> None:
    """Make a class a member of the family of its base, or the root of one of its own.

    Args:
        cls: The class.
        collection: What it names as its collection.

    Raises:
        TypeError: What it declares doesn't fit the family.
    """
    own, name = vars(cls), cls._discriminator
    assert name is not None
    root = cls._root
    if root is None:
        cls._root = root = cls
    elif "_discriminator" in own or collection not in (None, root._collection):
        raise TypeError(
            f"{cls.__name__} is kept in the collection of {root.__name__}, and told apart by its "
            f"{name!r}; it has no _discriminator and no _collection of its own"
        )
    if cls._validation is not None:
        raise TypeError(
            f"{cls.__name__}: the server cannot hold a collection of several classes to the rules of "
            f"one; _validation and _discriminator exclude each other"
        )
    cls._collection = root._collection
    cls._identity = root._name
    cls._kind = own.get("_kind") or cls._name
    declared = inspect.getattr_static(cls, name, None)
    if declared is not None and not isinstance(declared, String):
        raise TypeError(f"{cls.__name__}.{name} is the discriminator, which is a String")
    field: Any = copy.copy(declared) if declared is not None else String(required=True)
    field.default, field.choices, field.readonly, field.copy = cls._kind, (cls._kind,), True, False
    field.__set_name__(cls, name)
    type.__setattr__(cls, name, field)


# -- the records of one family --------------------------------------------------------------------


def is_family(records: Sequence[BaseModel]) -> bool:
    """Whether the records are of several classes of one family."""
    first = type(records[0]) if records else None
    if first is None or first._root is None:
        return False
    return any(type(record) is not first for record in records)


def by_class(records: Iterable[R]) -> list[list[R]]:
    """The records of each class, in their order."""
    groups: dict[type, list[R]] = {}
    for record in records:
        groups.setdefault(type(record), []).append(record)
    return list(groups.values())


def class_of(records: Sequence[BaseModel]) -> type[BaseModel]:
    """The class of records of one model; of several in a family, the nearest that all of them are."""
    first = type(records[0])
    if not is_family(records):
        return first
    kinds = {type(record) for record in records}
    return next(
        cls
        for cls in first.__mro__
        if vars(cls).get("_kind") and all(issubclass(k, cls) for k in kinds)
    )


def lineage(app: App, name: str) -> list[str]:
    """The names of a model and of the members of its family that it is a part of."""
    model = app.find_model(name)
    if model is None or model._root is None:
        return [name]
    return [str(vars(cls)["_name"]) for cls in model.__mro__ if vars(cls).get("_kind")]


class Family:
    """A member and its subclasses, as one App sees them; classes defined later join.

    Args:
        bound: The member.
    """

    def __init__(self, bound: BoundModel) -> None:
        self._bound = bound
        self._app = bound.app
        self._base = bound.model._base or bound.model
        assert self._base._root is not None and self._base._discriminator is not None
        self._root = self._base._root
        self._key = self._base._schema.fields[self._base._discriminator].db_name
        self._version = -1
        self._members: dict[str, BoundModel] = {}
        self._fields: dict[str, Field[Any, Any]] = {}
        self._keys: Mapping[str, int] = {}
        self.declared = FamilyKeys(self)

    def _refresh(self) -> None:
        version = registry.version()
        if version == self._version:
            return
        self._version = version  # before anything is bound, which comes back here
        everyone = {self._base, self._root, *self._app.known_models()}
        family = [model for model in everyone if model._root is self._root]
        self._fields = _fields_of(family)
        self._keys = {f.db_name: 1 for f in self._fields.values() if f.stored}
        members: dict[str, BoundModel] = {self._base._kind: self._bound}
        for model in family:
            if not issubclass(model, self._base) or model is self._base:
                continue
            other = members.setdefault(model._kind, self._app.bind(model))
            if other.model is not self._app.bind(model).model:
                raise ConfigurationError(
                    f"{other.model._name} and {model._name} are both told by "
                    f"{self._base._discriminator}={model._kind!r}; give one another _kind"
                )
        self._members = members

    @property
    def members(self) -> Mapping[str, BoundModel]:
        """The member and its subclasses, by what the discriminator says."""
        self._refresh()
        return self._members

    def bases(self) -> list[BoundModel]:
        """The member itself and the members that it is a part of."""
        model = self._bound.model
        found = [cls for cls in model.__mro__ if vars(cls).get("_kind")]
        return [self._app.bind(cls) for cls in found]

    def below(self) -> list[tuple[Domain, BoundModel]]:
        """The subclasses, each with the records that it is about, those of its own subclasses included."""
        others = [each for each in self.members.values() if each is not self._bound]
        return [(self.of_kinds(each.family.members), each) for each in others if each.family]

    @property
    def keys(self) -> Mapping[str, int]:
        """The stored keys of the whole family, as a projection."""
        self._refresh()
        return self._keys

    def field(self, name: str) -> Field[Any, Any] | None:
        """A field that some class of the family declares."""
        self._refresh()
        return self._fields.get(name)

    def of_kinds(self, kinds: Iterable[str]) -> Domain:
        """The records of these kinds."""
        name = self._base._discriminator
        assert name is not None
        return condition(name, "in", sorted(kinds))

    def schema(self) -> Schema:
        """The member's schema, which knows the fields of the others in conditions."""
        schema = copy.copy(self._bound.model._schema)
        schema.forget_paths()
        schema.kin = self.field
        return schema

    # -- hydration ----------------------------------------------------------------------------

    def _kind(self, document: Document) -> str:
        kind = document.get(self._key)
        return kind if type(kind) is str else ""

    def hydrate(self, documents: list[Document], loaded: frozenset[str] | None) -> list[Any]:
        """Records that adopt the documents, each of the class that its document names; what no class
        knows (any more) is a record of the one that was asked for.

        Little Python runs for each document: it takes 0.65 µs, a model of its own 0.28 (measured).
        """
        self._refresh()
        set_state, set_fetch = slots()
        members, default = self._members, self._bound
        kinds = list(map(self._kind, documents))
        models = {kind: members.get(kind, default).model for kind in set(kinds)}
        records: list[Any] = list(map(object.__new__, map(models.__getitem__, kinds)))
        deque(map(set_state, records, self._states(documents, kinds)), maxlen=0)
        fetch = Fetch(self._app, loaded, None)
        fetch.is_mixed = True
        deque(map(set_fetch, records, repeat(fetch)), maxlen=0)
        if loaded is ID_ONLY or any(member.schema.relations for member in members.values()):
            fetch.records = records
        return records

    def _states(self, documents: Sequence[Document], kinds: Sequence[str]) -> Sequence[Document]:
        groups: dict[str, list[Document]] = {}
        for kind, document in zip(kinds, documents, strict=True):
            groups.setdefault(kind, []).append(document)
        members, default = self._members, self._bound
        if all(_are_states(members.get(kind, default), each) for kind, each in groups.items()):
            return documents
        return [
            _state(members.get(kind, default), document)
            for kind, document in zip(kinds, documents, strict=True)
        ]

    def states(
        self, records: Sequence[BaseModel], documents: Sequence[Document]
    ) -> list[dict[str, Any]]:
        """The states of records that exist, each of which becomes one of the class of its document."""
        self._refresh()
        found: list[dict[str, Any]] = []
        for record, document in zip(records, documents, strict=True):
            member = self._members.get(self._kind(document), self._bound)
            if type(record) is not member.model:
                object.__setattr__(record, "__class__", member.model)
            found.append(_state(member, document))
        return found


class FamilyKeys:
    """The declared keys of a family: as ``DeclaredKeys``, with those of all of its classes."""

    __slots__ = ("_family", "_seen")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._seen = False

    @property
    def projection(self) -> Mapping[str, int] | None:
        """What a search for whole records names; None while no other keys were seen."""
        return self._family.keys if self._seen else None

    def only(self, documents: list[Document]) -> list[Document]:
        """The documents without keys that no class of the family declares."""
        declared = self._family.keys
        if documents and not declared.keys() >= set[str]().union(*documents):
            self._seen = True
            return [{k: v for k, v in each.items() if k in declared} for each in documents]
        return documents


def _are_states(member: BoundModel, documents: Sequence[Document]) -> bool:
    """Whether the documents have no keys of other classes, and none that is called otherwise."""
    schema = member.schema
    return not schema.renamed and schema.is_known(set[str]().union(*documents))


def _state(member: BoundModel, document: Document) -> dict[str, Any]:
    schema = member.schema
    if not schema.is_known(document):  # keys of other classes
        document = {k: v for k, v in document.items() if k in schema.projection}
    return schema.state(document)


def _fields_of(family: Iterable[type[BaseModel]]) -> dict[str, Field[Any, Any]]:
    """The fields of all classes; one name means the same in each, so that a condition can name it."""
    found: dict[str, tuple[type[BaseModel], Field[Any, Any]]] = {}
    keys: dict[str, tuple[type[BaseModel], str]] = {}
    for model in sorted(family, key=lambda each: each._name):
        for name, field in model._schema.fields.items():
            other, known = found.setdefault(name, (model, field))
            if form_of(known) != form_of(field):
                raise ConfigurationError(
                    f"{other._name}.{name} and {model._name}.{name} are kept in one collection and "
                    f"store different things; give one another name"
                )
            if field.stored:
                other, taken = keys.setdefault(field.db_name, (model, name))
                if taken != name:
                    raise ConfigurationError(
                        f"{other._name}.{taken} and {model._name}.{name} are kept in one collection "
                        f"and stored as {field.db_name!r} both; give one another db_name"
                    )
    return {name: field for name, (_, field) in found.items()}
