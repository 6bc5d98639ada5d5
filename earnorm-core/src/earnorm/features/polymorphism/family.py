"""Several classes in one collection, distinguished by a discriminator: ``_discriminator = "kind"``.

The class that names the discriminator is the root; it and its subclasses are the members of the
family. A member searches its own records and those of its subclasses; each record has the class
that its document names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain, condition
from earnorm.exceptions import ConfigurationError
from earnorm.fields.base import Field
from earnorm.kernel import registry
from earnorm.model.extension import form_of

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


class Family:
    """A member and its subclasses in one App; classes that are defined later are added.

    Args:
        app: The App.
        model: The member's class there.
    """

    def __init__(self, app: App, model: type[BaseModel]) -> None:
        self._app = app
        self._model = model
        self._base = model._base or model
        assert self._base._root is not None and self._base._discriminator is not None
        self._root = self._base._root
        self.discriminator = self._base._discriminator
        """The name of the field that tells the classes apart."""
        self.kind = self._base._kind
        """The member's own value of the discriminator."""
        self._key = self._base._schema.fields[self.discriminator].db_name
        self._version = -1
        self._members: dict[str, BoundModel] = {}
        self._models: dict[str, type[BaseModel]] = {}
        self._fields: dict[str, Field[Any, Any]] = {}
        self._keys: Mapping[str, int] = {}

    def _refresh(self) -> None:
        version = registry.version()
        if version == self._version:
            return
        self._version = version  # it is set first, because bind() calls this method again
        all_models = {self._base, self._root, *self._app.known_models()}
        family = [model for model in all_models if model._root is self._root]
        # An App's class has the fields that plugins add.
        self._fields = _fields_of([self._app.catalog.extended(model) for model in family])
        self._keys = {f.db_name: 1 for f in self._fields.values() if f.stored}
        members: dict[str, BoundModel] = {self.kind: self._app.bind(self._model)}
        for model in sorted(family, key=lambda model: model._name):
            if not issubclass(model, self._base) or model is self._base:
                continue
            existing = members.setdefault(model._kind, self._app.bind(model))
            if existing.model is not self._app.bind(model).model:
                raise ConfigurationError(
                    f"{existing.model._name} and {model._name} are both told by "
                    f"{self.discriminator}={model._kind!r}; give one another _kind"
                )
        self._members = members
        self._models = {kind: member.model for kind, member in members.items()}

    @property
    def members(self) -> Mapping[str, BoundModel]:
        """The member and its subclasses, by the values of the discriminator."""
        self._refresh()
        return self._members

    def others(self) -> dict[str, BoundModel]:
        """Return the subclasses, by the values of the discriminator."""
        return {kind: member for kind, member in self.members.items() if kind != self.kind}

    def of_kinds(self, kinds: Iterable[str]) -> Domain:
        """Return the domain of the records of these kinds."""
        return condition(self.discriminator, "in", sorted(kinds))

    def kind_of(self, document: Document) -> str:
        """Return the kind of a document; for an unknown discriminator, the member's own."""
        self._refresh()
        kind = document.get(self._key)
        return kind if type(kind) is str and kind in self._members else self.kind

    # -- for the read path; see ``earnorm.kernel.serving.reading.RecordClasses`` -----------------------

    def of(self, documents: Sequence[Document]) -> list[type[BaseModel]]:
        """Return the class of each document; for an unknown discriminator, the member's class."""
        self._refresh()
        models, default, key = self._models, self._model, self._key
        return [
            models.get(kind, default) if type(kind := document.get(key)) is str else default
            for document in documents
        ]

    def find_field(self, name: str) -> Field[Any, Any] | None:
        """Return the field of this name that a class of the family declares, or None."""
        self._refresh()
        return self._fields.get(name)

    @property
    def keys(self) -> Mapping[str, int]:
        """The stored keys of the whole family, as a projection."""
        self._refresh()
        return self._keys

    def bases(self) -> list[BoundModel]:
        """Return the member itself and its bases in the family."""
        return [self._app.bind(cls) for cls in self._model.__mro__ if vars(cls).get("_kind")]

    def own(self) -> Domain:
        """Return the domain of the records of the member itself."""
        return self.of_kinds([self.kind])

    def below(self) -> list[tuple[Domain, BoundModel]]:
        """Return each subclass with the domain of its records and of those of its subclasses."""
        return [
            (self.of_kinds(family_of(member).members), member) for member in self.others().values()
        ]


def family_of(bound: BoundModel) -> Family:
    """Return the family of a member."""
    family = bound.classes
    assert isinstance(family, Family)
    return family


def _fields_of(family: Iterable[type[BaseModel]]) -> dict[str, Field[Any, Any]]:
    """Collect the fields of all classes, and refuse a name or key that differs between classes.

    So a condition can use a name without naming a class.
    """
    fields: dict[str, tuple[type[BaseModel], Field[Any, Any]]] = {}
    keys: dict[str, tuple[type[BaseModel], str]] = {}
    for model in sorted(family, key=lambda model_class: model_class._name):
        for name, field in model._schema.fields.items():
            other, known = fields.setdefault(name, (model, field))
            if form_of(known) != form_of(field):
                raise ConfigurationError(
                    f"{other._name}.{name} and {model._name}.{name} are kept in one collection and "
                    f"store different things; give one another name"
                )
            if field.stored:
                other, other_name = keys.setdefault(field.db_name, (model, name))
                if other_name != name:
                    raise ConfigurationError(
                        f"{other._name}.{other_name} and {model._name}.{name} are kept in one collection "
                        f"and stored as {field.db_name!r} both; give one another db_name"
                    )
    return {name: field for name, (_, field) in fields.items()}
