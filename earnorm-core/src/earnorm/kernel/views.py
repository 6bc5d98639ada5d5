"""Views: read-only faces of a model's declarations, for plugins."""

from __future__ import annotations

from collections.abc import Mapping
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
