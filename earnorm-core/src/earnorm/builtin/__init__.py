"""Features of the core that are themselves plugins on the same hooks."""

from earnorm.builtin.revisions import RevisionsPlugin
from earnorm.builtin.timestamps import TimestampsPlugin

BUILTIN_PLUGINS: tuple[type, ...] = (RevisionsPlugin, TimestampsPlugin)
