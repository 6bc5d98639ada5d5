"""earnorm-slugs: addresses that people can read, made from a field of the record."""

from earnorm_slugs.fields import AutoSlug
from earnorm_slugs.models import FormerSlug
from earnorm_slugs.plugin import SlugsPlugin
from earnorm_slugs.services import Slugs
from earnorm_slugs.settings import SlugsSettings

__all__ = [
    "AutoSlug",
    "FormerSlug",
    "Slugs",
    "SlugsPlugin",
    "SlugsSettings",
]
