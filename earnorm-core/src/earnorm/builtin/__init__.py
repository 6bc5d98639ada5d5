"""Features of the core that are themselves plugins on the same hooks."""

from earnorm.builtin.authors import AuthorsPlugin
from earnorm.builtin.coalescing import CoalescingPlugin
from earnorm.builtin.files import FilesPlugin
from earnorm.builtin.on_delete import OnDeletePlugin
from earnorm.builtin.parent_store import ParentStorePlugin
from earnorm.builtin.polymorphism import PolymorphismPlugin
from earnorm.builtin.recompute import RecomputePlugin
from earnorm.builtin.revisions import RevisionsPlugin
from earnorm.builtin.sequences import SequencesPlugin
from earnorm.builtin.slow_queries import SlowQueriesPlugin
from earnorm.builtin.timestamps import TimestampsPlugin

BUILTIN_PLUGINS: tuple[type, ...] = (
    AuthorsPlugin,
    CoalescingPlugin,
    FilesPlugin,
    OnDeletePlugin,
    ParentStorePlugin,
    PolymorphismPlugin,
    RecomputePlugin,
    RevisionsPlugin,
    SequencesPlugin,
    SlowQueriesPlugin,
    TimestampsPlugin,
)
