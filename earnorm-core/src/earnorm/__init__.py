"""EarnORM: an async ORM for MongoDB whose kernel is small and whose features are plugins.

Everything public is named here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from earnorm import fields, mixins, models
from earnorm.computed.computing import depends
from earnorm.domain import Domain, Operator
from earnorm.environment import (
    Env,
    Principal,
    act_as,
    current_app,
    current_env,
    find_env,
    system,
)
from earnorm.exceptions import (
    AccessDenied,
    BatchRefused,
    ConcurrencyError,
    ConfigurationError,
    DomainError,
    DuplicateKey,
    EarnORMError,
    FieldNotLoaded,
    MultipleRecords,
    NotFound,
    NotSupported,
    OperationTimeout,
    PluginError,
    ServerUnavailable,
    TransactionError,
    ValidationError,
)
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
from earnorm.files import StoredFile
from earnorm.models import BaseModel, EmbeddedModel
from earnorm.operations import Layer, Operation, PerRecord, Update
from earnorm.query import Query
from earnorm.recordset import RecordSet
from earnorm.writing.constraints import constrains, validates
from earnorm.writing.updates import Change, CurrentDate, Inc, Mul, Pop, Pull, Push, Toggle, Unset

if TYPE_CHECKING:
    from earnorm.app import App, AppSettings, close, init
    from earnorm.builtin.coalescing import coalescing
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
    from earnorm.hookspecs import hookimpl
    from earnorm.indexes import Index, VectorSearchIndex
    from earnorm.indexing.catalog import IndexAction, IndexDiff
    from earnorm.indexing.collection_options import CollectionOptions
    from earnorm.reading.aggregation import (
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
    from earnorm.reading.paging import CursorPage, Page
    from earnorm.reading.query_plan import Plan
    from earnorm.relations.parent_paths import rebuild_parent_paths
    from earnorm.sequences import sequence
    from earnorm.transactions import (
        Transaction,
        after_commit,
        after_rollback,
        session,
        transaction,
        transactional,
    )
    from earnorm.watching import ChangeEvent, Watch
    from earnorm.writing.batches import BatchResult
    from earnorm.writing.bulk import Bulk

__version__ = "0.1.0"

__all__ = [
    "UUID",
    "AccessDenied",
    "AddToSet",
    "Aggregate",
    "App",
    "AppSettings",
    "Avg",
    "BaseModel",
    "BatchRefused",
    "BatchResult",
    "Binary",
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
    "LineString",
    "List",
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
    "Unset",
    "Update",
    "Url",
    "ValidationError",
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
    "hookimpl",
    "init",
    "mixins",
    "models",
    "rebuild_parent_paths",
    "sequence",
    "session",
    "system",
    "transaction",
    "transactional",
    "validates",
]

if TYPE_CHECKING:
    # Offered by the pool plugin; its own type is earnorm_pool.Pool, which the core cannot import.
    pool: Any
else:
    # What a class body doesn't name, or seldom: imported when it is first asked for, so that importing
    # models is quick.
    _LATER = {
        "app": "App AppSettings close init",
        "builtin.coalescing": "coalescing",
        "fields": """Command Enum Geo Geometry IPAddress LineString Money MoneyValue MultiPolygon Point Polygon
            Reference Set Vector""",
        "hookspecs": "hookimpl",
        "indexes": "Index VectorSearchIndex",
        "indexing.catalog": "IndexAction IndexDiff",
        "indexing.collection_options": "CollectionOptions",
        "reading.aggregation": "AddToSet Aggregate Avg Count First Last Max Min Stats Sum",
        "reading.paging": "CursorPage Page",
        "reading.query_plan": "Plan",
        "relations.parent_paths": "rebuild_parent_paths",
        "sequences": "sequence",
        "transactions": "Transaction after_commit after_rollback session transaction transactional",
        "watching": "ChangeEvent Watch",
        "writing.batches": "BatchResult",
        "writing.bulk": "Bulk",
    }
    _MODULES = {name: module for module, names in _LATER.items() for name in names.split()}

    def __getattr__(name):
        """A name of ``_LATER``, or a service of the current App's plugins: ``earnorm.pool`` is
        ``app.services["pool"]``."""
        if name in _MODULES:
            module = import_module(f"earnorm.{_MODULES[name]}")
            found = globals()[name] = getattr(module, name)
            return found
        if not name.startswith("_"):
            env = find_env()
            if env is not None and name in env.app.services:
                return env.app.services[name]
            if name == "pool":
                from earnorm.plugins import install_hint

                why = "await earnorm.init(...) first" if env is None else "no plugin offers it here"
                raise PluginError(f"earnorm.pool: {why}; the pool plugin: {install_hint(name)}")
        raise AttributeError(f"module 'earnorm' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
