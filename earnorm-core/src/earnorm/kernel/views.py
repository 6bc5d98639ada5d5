"""Views: read-only objects with a model's declarations, for plugins and programs about models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from earnorm.domain import Schema
    from earnorm.fields import Field
    from earnorm.model.base import BaseModel


class Scope(NamedTuple):
    """The field within whose values a model's unique values are unique and its records numbered.

    Attributes:
        field: Its name.
        across: The unique indexes and sequences that it is no part of, each by the paths of its keys.
    """

    field: str
    across: frozenset[tuple[str, ...]]


class Declared(NamedTuple):
    """One class and its own value of an attribute.

    Attributes:
        cls: The class: a base of a model, the model itself, or an extension.
        value: The value.
        is_added: True if an extension brings it, itself or by one of its bases.
    """

    cls: type
    value: Any
    is_added: bool


class ModelView:
    """A model's declarations in one App.

    The model's class has no public attributes for them, because a model may have fields of any
    name.

    Args:
        cls: The model's class.
    """

    __slots__ = ("cls",)

    def __init__(self, cls: type[BaseModel]) -> None:
        self.cls = cls

    @property
    def name(self) -> str:
        """The model's name, e.g. ``"sale.order"``."""
        return self.cls._name

    @property
    def names(self) -> Sequence[str]:
        """The names under which a record of the model is known, the nearest first.

        These are the model's own name and those of its bases in the same collection.
        """
        definition = self.cls._base or self.cls
        identity = definition._identity
        bases: Any = (c for c in definition.__mro__ if getattr(c, "_identity", None) == identity)
        return list(dict.fromkeys(c._name for c in bases if not c._abstract))

    @property
    def identity(self) -> str:
        """The name that identifies its records: its own, or the root's in a shared collection."""
        return self.cls._identity

    @property
    def root(self) -> ModelView | None:
        """The model whose collection it shares, itself included; None if it shares none."""
        return None if self.cls._root is None else ModelView(self.cls._root)

    @property
    def collection(self) -> str:
        """The name of the collection."""
        return self.cls._collection

    @property
    def bookkeeping(self) -> str | None:
        """The plugin or feature whose own bookkeeping its records are; None for other models."""
        return self.cls._bookkeeping

    @property
    def extends(self) -> str | None:
        """The name of the model that the class extends; None if it is a model itself."""
        return self.cls._inherit

    @property
    def fields(self) -> Mapping[str, Field[Any, Any]]:
        """The fields by name."""
        return self.cls._schema.fields

    @property
    def stored(self) -> Mapping[str, Field[Any, Any]]:
        """The stored fields by stored key."""
        return {field.db_name: field for field in self.cls._schema.stored}

    @property
    def schema(self) -> Schema:
        """The schema that domains about its records are compiled with."""
        return self.cls._schema

    @property
    def secrets(self) -> frozenset[str]:
        """The names of the fields whose values are secret, or hold a secret value.

        No cache keeps them, and no audit trail records them.
        """
        return self.cls._schema.secrets

    def depends_on(self, name: str) -> Sequence[str]:
        """Return the paths that a computed or related field's value follows from; else none."""
        derived = self.cls._schema.derived
        return () if derived is None or name not in derived.by_name else derived.depends(name)

    @property
    def indexes(self) -> Sequence[Any]:
        """The entries of its ``_indexes``, including those of its bases and extensions."""
        return tuple(self.cls._indexes)

    @property
    def scope(self) -> Scope | None:
        """The scope that a plugin's attribute has given it (``Declaration.scope``); else None."""
        return self.cls._unique_scope

    @property
    def has_collation(self) -> bool:
        """True if its ``_options`` state a collation: the database compares texts in a way of its own.

        Memory cannot repeat that, so nothing about texts may be judged or computed in memory.
        """
        options = self.attribute("_options")
        if isinstance(options, Mapping):
            return options.get("collation") is not None
        return getattr(options, "collation", None) is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return a class attribute such as ``_versioned``, its own or a base's."""
        return getattr(self.cls, name, default)

    def declarations(self, attribute: str) -> list[Declared]:
        """Return what each class says of an attribute in its own body; None says nothing.

        The bases of the model come first, the furthest one before the others, abstract or not; then
        the model, and then the extensions and their bases.

        Args:
            attribute: The attribute's name.
        """
        own = (self.cls._base or self.cls).__mro__
        extensions = (cls for cls in reversed(self.cls.__mro__) if cls not in own)
        classes = [*((cls, False) for cls in reversed(own)), *((cls, True) for cls in extensions)]
        said = ((cls, vars(cls).get(attribute), is_added) for cls, is_added in classes)
        return [Declared(*each) for each in said if each[1] is not None]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelView) and other.cls is self.cls

    def __hash__(self) -> int:
        return hash(self.cls)

    def __repr__(self) -> str:
        return f"<ModelView {self.name}>"


def name_of(model: type[BaseModel] | BaseModel) -> str:
    """Return the name of a model from its class or one of its records."""
    return model._name
