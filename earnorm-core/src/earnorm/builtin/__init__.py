"""Features of the core that are themselves plugins on the same hooks."""

from earnorm.builtin.coalescing import CoalescingPlugin
from earnorm.builtin.files import FilesPlugin
from earnorm.builtin.on_delete import OnDeletePlugin
from earnorm.builtin.parent_store import ParentStorePlugin
from earnorm.builtin.revisions import RevisionsPlugin
from earnorm.builtin.slow_queries import SlowQueriesPlugin
from earnorm.builtin.timestamps import TimestampsPlugin

BUILTIN_PLUGINS: tuple[type, ...] = (
    CoalescingPlugin,
    FilesPlugin,
    OnDeletePlugin,
    ParentStorePlugin,
    RevisionsPlugin,
    SlowQueriesPlugin,
    TimestampsPlugin,
)
