"""``earnorm.models``: the bases of models and of embedded objects."""

from earnorm.model.base import BaseModel
from earnorm.model.embedded import EmbeddedModel

__all__ = ["BaseModel", "EmbeddedModel"]
