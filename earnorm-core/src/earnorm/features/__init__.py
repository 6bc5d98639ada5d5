"""The built-in features: plugins of the core, each in its own folder, with the usual hooks."""

from collections.abc import Mapping, Sequence
from typing import Final

FEATURES: Final[Mapping[str, str]] = {
    "archive": "earnorm.features.archive.plugin:ArchivePlugin",
    "authors": "earnorm.features.authors.plugin:AuthorsPlugin",
    "backfilling": "earnorm.features.backfilling",
    "bodies": "earnorm.features.bodies",
    "bulk": "earnorm.features.bulk",
    "coalescing": "earnorm.features.coalescing.plugin:CoalescingPlugin",
    "delegation": "earnorm.features.delegation.plugin:DelegationPlugin",
    "explaining": "earnorm.features.explaining",
    "exporting": "earnorm.features.exporting",
    "files": "earnorm.features.files.plugin:FilesPlugin",
    "grouping": "earnorm.features.grouping",
    "indexes": "earnorm.features.indexes.plugin:IndexesPlugin",
    "locking": "earnorm.features.locking",
    "on_delete": "earnorm.features.on_delete.plugin:OnDeletePlugin",
    "paging": "earnorm.features.paging",
    "parent_store": "earnorm.features.trees.plugin:ParentStorePlugin",
    "polymorphism": "earnorm.features.polymorphism.plugin:PolymorphismPlugin",
    "provenance": "earnorm.features.provenance",
    "recompute": "earnorm.features.computed.plugin:RecomputePlugin",
    "revisions": "earnorm.features.revisions.plugin:RevisionsPlugin",
    "sequences": "earnorm.features.sequences.plugin:SequencesPlugin",
    "slow_queries": "earnorm.features.slow_queries.plugin:SlowQueriesPlugin",
    "timestamps": "earnorm.features.timestamps.plugin:TimestampsPlugin",
    "upserts": "earnorm.features.upserts",
    "watching": "earnorm.features.watching",
}
"""Each feature by its name: the import path of its class, which an App imports as it does entry
points. A feature without hooks has the path of its package: methods of Model, Query and RecordSet
call its functions, and these begin with ``need_feature``."""

SETTINGS: Final[Mapping[str, Sequence[str]]] = {
    "coalescing": ("coalesce",),
    "recompute": ("recompute_limit", "recompute_interval"),
    "slow_queries": ("slow_query", "slow_query_file"),
}
"""The keywords of an App with which it makes a feature's class, by the feature's name."""

ATTRIBUTES: Final[Mapping[str, str]] = {
    "_indexes": "earnorm.features.indexes.declaring:merge",
    "_validation": "earnorm.features.indexes.declaring:refuse_unknown",
    "_discriminator": "earnorm.features.polymorphism.declaring:join_family",
    "_inherits": "earnorm.features.delegation.declaring:delegate",
    "_versioned": "earnorm.features.revisions.declaring:add_revision",
    "_parent_store": "earnorm.features.trees.declaring:add_path",
    "_order": "earnorm.model.reading.ordering:declare",
}
"""The class attributes that change the class, each with the function that is called for it when the
class is made."""

STEPS: Final = frozenset(
    {
        *("authors", "commands", "computed", "computed elsewhere", "delegation"),
        *("inverses", "owed", "parent_store"),
        *("revisions", "sequences", "timestamps"),
    }
)
"""The names of all steps of the features and of the model, which no model has all."""

FIELD_OPTIONS: Final[Mapping[str, str]] = {
    "computed": "earnorm.features.computed.computing:declare",
}
"""The field options that change the model's class, each with the function that is called for it."""
