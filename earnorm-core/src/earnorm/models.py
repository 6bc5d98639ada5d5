"""``earnorm.models``: the bases of models and of embedded objects."""

from earnorm.features import ATTRIBUTES, FIELD_OPTIONS
from earnorm.model.base import BaseModel
from earnorm.model.declaring import built_in
from earnorm.model.embedded import EmbeddedModel
from earnorm.model.typed import TypedModel

built_in(ATTRIBUTES, FIELD_OPTIONS)

__all__ = ["BaseModel", "EmbeddedModel", "TypedModel"]
