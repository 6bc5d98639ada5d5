"""``earnorm.models``: the bases of models and of embedded objects."""

from earnorm.model.base import BaseModel, EmbeddedModel

__all__ = ["BaseModel", "EmbeddedModel"]
