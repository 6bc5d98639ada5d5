"""EarnORM: an async ORM for MongoDB whose kernel is small and whose features are plugins.

This module names everything that is public.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from earnorm import fields, mixins, models, moved
from earnorm.domain import Domain, Operator
from earnorm.exceptions import (
    AccessDenied,
    AppStopping,
    BatchDuplicateKey,
    BatchRefused,
    ConcurrencyError,
    ConfigurationError,
    DomainError,
    DuplicateKey,
    EarnORMError,
    FieldNotLoaded,
    FieldWithheld,
    LimitExceeded,
    LongList,
    MultipleRecords,
    NotFound,
    NotSupported,
    OperationTimeout,
    PluginError,
    RecordGone,
    ServerUnavailable,
    TransactionError,
    TransactionOutcomeUnknown,
    UnreadableDocument,
    UnresolvedDomain,
    ValidationError,
)
from earnorm.features.computed.computing import depends
from earnorm.fields import (
    UUID,
    Binary,
    Boolean,
    Color,
    Date,
    DateTime,
    Decimal,
    Dict,
    Duration,
    Email,
    Embedded,
    Field,
    File,
    Float,
    Int,
    Json,
    List,
    Many2many,
    Many2one,
    ObjectIdField,
    One2many,
    Phone,
    Selection,
    Sequence,
    Slug,
    String,
    Text,
    Time,
    Url,
)
from earnorm.fields.annotations import Many, One, ReadOnly, Value
from earnorm.kernel.acting import act_as, system
from earnorm.kernel.environment import Env, Principal, current_app, current_env, find_env
from earnorm.kernel.operations import Operation, PerRecord, Update
from earnorm.kernel.registry import forget
from earnorm.model.base import BaseModel
from earnorm.model.embedded import EmbeddedModel
from earnorm.model.query import Query
from earnorm.model.recordset import RecordSet
from earnorm.model.typed import TypedModel
from earnorm.model.validation.constraints import constrains, validates
from earnorm.model.writing.updates import (
    Change,
    CurrentDate,
    Inc,
    Mul,
    Pop,
    Pull,
    Push,
    Toggle,
    Unset,
    UpdateItems,
)

if TYPE_CHECKING:
    from earnorm import sync, untrusted
    from earnorm.application import App, AppSettings, close, init
    from earnorm.features.bodies.body import Body
    from earnorm.features.bulk.batches import BatchResult
    from earnorm.features.bulk.bulk import Bulk
    from earnorm.features.coalescing.plugin import coalescing
    from earnorm.features.explaining.query_plan import Plan
    from earnorm.features.files.stored import StoredFile
    from earnorm.features.grouping.aggregation import (
        AddToSet,
        Aggregate,
        Avg,
        Count,
        First,
        Last,
        Max,
        Min,
        Stats,
        Sum,
    )
    from earnorm.features.indexes.catalog import IndexAction, IndexDiff
    from earnorm.features.indexes.collection_options import CollectionOptions
    from earnorm.features.indexes.declarations import Index, VectorSearchIndex
    from earnorm.features.paging.paging import CursorPage, Page
    from earnorm.features.sequences.counters import sequence
    from earnorm.features.trees.parent_paths import rebuild_parent_paths
    from earnorm.features.watching.watching import ChangeEvent, Watch
    from earnorm.fields import (
        Command,
        Enum,
        Geo,
        Geometry,
        IPAddress,
        LineString,
        Money,
        MoneyValue,
        MultiPolygon,
        Point,
        Polygon,
        Reference,
        Set,
        Vector,
    )
    from earnorm.kernel.hookspecs import hookimpl
    from earnorm.kernel.layers import Layer
    from earnorm.kernel.transactions.blocks import (
        Transaction,
        after_commit,
        after_rollback,
        session,
        transaction,
        transactional,
    )
    from earnorm.model.reading.in_parts import in_parts

moved.install()

__version__ = "0.1.0"

__all__ = [
    "UUID",
    "AccessDenied",
    "AddToSet",
    "Aggregate",
    "App",
    "AppSettings",
    "AppStopping",
    "Avg",
    "BaseModel",
    "BatchDuplicateKey",
    "BatchRefused",
    "BatchResult",
    "Binary",
    "Body",
    "Boolean",
    "Bulk",
    "Change",
    "ChangeEvent",
    "CollectionOptions",
    "Color",
    "Command",
    "ConcurrencyError",
    "ConfigurationError",
    "Count",
    "CurrentDate",
    "CursorPage",
    "Date",
    "DateTime",
    "Decimal",
    "Dict",
    "Domain",
    "DomainError",
    "DuplicateKey",
    "Duration",
    "EarnORMError",
    "Email",
    "Embedded",
    "EmbeddedModel",
    "Enum",
    "Env",
    "Field",
    "FieldNotLoaded",
    "FieldWithheld",
    "File",
    "First",
    "Float",
    "Geo",
    "Geometry",
    "IPAddress",
    "Inc",
    "Index",
    "IndexAction",
    "IndexDiff",
    "Int",
    "Json",
    "Last",
    "Layer",
    "LimitExceeded",
    "LineString",
    "List",
    "LongList",
    "Many",
    "Many2many",
    "Many2one",
    "Max",
    "Min",
    "Money",
    "MoneyValue",
    "Mul",
    "MultiPolygon",
    "MultipleRecords",
    "NotFound",
    "NotSupported",
    "ObjectIdField",
    "One",
    "One2many",
    "Operation",
    "OperationTimeout",
    "Operator",
    "Page",
    "PerRecord",
    "Phone",
    "Plan",
    "PluginError",
    "Point",
    "Polygon",
    "Pop",
    "Principal",
    "Pull",
    "Push",
    "Query",
    "ReadOnly",
    "RecordGone",
    "RecordSet",
    "Reference",
    "Selection",
    "Sequence",
    "ServerUnavailable",
    "Set",
    "Slug",
    "Stats",
    "StoredFile",
    "String",
    "Sum",
    "Text",
    "Time",
    "Toggle",
    "Transaction",
    "TransactionError",
    "TransactionOutcomeUnknown",
    "TypedModel",
    "UnreadableDocument",
    "UnresolvedDomain",
    "Unset",
    "Update",
    "UpdateItems",
    "Url",
    "ValidationError",
    "Value",
    "Vector",
    "VectorSearchIndex",
    "Watch",
    "__version__",
    "act_as",
    "after_commit",
    "after_rollback",
    "close",
    "coalescing",
    "constrains",
    "current_app",
    "current_env",
    "depends",
    "fields",
    "forget",
    "hookimpl",
    "in_parts",
    "init",
    "mixins",
    "models",
    "rebuild_parent_paths",
    "sequence",
    "session",
    "sync",
    "system",
    "transaction",
    "transactional",
    "untrusted",
    "validates",
]

if TYPE_CHECKING:
    # The pool plugin offers it; its type is earnorm_pool.Pool, which the core cannot import.
    pool: Any
else:
    # Class bodies seldom need these names. Each is imported on its first use, so that importing
    # models is quick.
    _LATER = {
        "application": "App AppSettings close init",
        "features.bodies.body": "Body",
        "features.coalescing.plugin": "coalescing",
        "fields": """Command Enum Geo Geometry IPAddress LineString Money MoneyValue MultiPolygon Point Polygon
            Reference Set Vector""",
        "kernel.hookspecs": "hookimpl",
        "kernel.layers": "Layer",
        "features.indexes.declarations": "Index VectorSearchIndex",
        "features.indexes.catalog": "IndexAction IndexDiff",
        "features.indexes.collection_options": "CollectionOptions",
        "features.grouping.aggregation": "AddToSet Aggregate Avg Count First Last Max Min Stats Sum",
        "features.paging.paging": "CursorPage Page",
        "features.explaining.query_plan": "Plan",
        "features.files.stored": "StoredFile",
        "features.trees.parent_paths": "rebuild_parent_paths",
        "features.sequences.counters": "sequence",
        "kernel.transactions.blocks": "Transaction after_commit after_rollback session transaction transactional",
        "features.watching.watching": "ChangeEvent Watch",
        "features.bulk.batches": "BatchResult",
        "features.bulk.bulk": "Bulk",
        "model.reading.in_parts": "in_parts",
    }
    _MODULES = {name: module for module, names in _LATER.items() for name in names.split()}

    def __getattr__(name):
        """Return a name of ``_LATER``, or a service: ``earnorm.pool`` is
        ``app.services["pool"]``."""
        if name in ("sync", "untrusted"):
            return import_module(f"earnorm.{name}")
        if name in _MODULES:
            module = import_module(f"earnorm.{_MODULES[name]}")
            value = globals()[name] = getattr(module, name)
            return value
        if not name.startswith("_"):
            env = find_env()
            if env is not None and name in env.app.services:
                return env.app.services[name]
            if name == "pool":
                from earnorm.kernel.plugins.selection import install_hint

                why = "await earnorm.init(...) first" if env is None else "no plugin offers it here"
                raise PluginError(f"earnorm.pool: {why}; the pool plugin: {install_hint(name)}")
        raise AttributeError(f"module 'earnorm' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
