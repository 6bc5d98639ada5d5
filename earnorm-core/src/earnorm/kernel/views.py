"""Views: read-only faces of a model's declarations, for plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earnorm.fields import Field
    from earnorm.model.base import BaseModel


class ModelView:
    """A model's declarations, as one App sees them. A model may have fields of any name, so its class has no
    public attributes of its own for them.

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
        """The names under which a record of the model is known: the model's own, and those of the bases whose
        records are kept with its own, the nearest first."""
        definition = self.cls._base or self.cls
        own = definition._identity
        bases = (c for c in definition.__mro__ if getattr(c, "_identity", None) == own)
        return list(dict.fromkeys(c._name for c in bases if not c._abstract))

    @property
    def collection(self) -> str:
        """The name of the collection."""
        return self.cls._collection

    @property
    def fields(self) -> Mapping[str, Field[Any, Any]]:
        """The fields by name."""
        return self.cls._schema.fields

    def attribute(self, name: str, default: Any = None) -> Any:
        """A class attribute such as ``_versioned``, its own or a base's."""
        return getattr(self.cls, name, default)

    def __repr__(self) -> str:
        return f"<ModelView {self.name}>"
