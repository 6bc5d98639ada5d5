"""The public face: a name that comes or goes is a decision, and this list is where it is taken."""

from __future__ import annotations

import subprocess
import sys

import pytest

import earnorm
import earnorm.plugin
from earnorm import exceptions

PUBLIC = [
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
    "ReadOnly",
    "RecordGone",
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
    "TransactionOutcomeUnknown",
    "TypedModel",
    "UnreadableDocument",
    "UnresolvedDomain",
    "UUID",
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

KIT = [
    "Event",
    "Factory",
    "FrozenTime",
    "Interrupted",
    "PluginBreaksContract",
    "Queries",
    "Recorder",
    "Scheduler",
    "app_with",
    "assert_queries",
    "check_plugin",
    "count_queries",
    "frozen_time",
    "make",
    "mongod",
    "plugin_tests",
    "recording",
    "redis_server",
    "rolled_back",
]
FOR_PLUGINS = [
    "Attribute",
    "Declaration",
    "ACROSS",
    "ALL",
    "API",
    "CHANGES",
    "at_end_of_call",
    "is_in_unit",
    "HAND_BACK",
    "CACHING",
    "COUNTED",
    "EXTENT",
    "JUDGED",
    "KNOWN_FIRST",
    "KnownFirst",
    "MISSING",
    "PURPOSE",
    "RELATION",
    "REQUEST",
    "RETURNED",
    "WAY",
    "WHOLE",
    "Caching",
    "Call",
    "Concerns",
    "Counted",
    "DatabaseCall",
    "DatabaseChange",
    "DatabaseChanges",
    "Declared",
    "DocumentBatch",
    "DocumentRow",
    "DryRun",
    "Finding",
    "HandBack",
    "Index",
    "Layer",
    "Link",
    "Links",
    "Lock",
    "Middleware",
    "ModelView",
    "Note",
    "Observer",
    "Operation",
    "OperationName",
    "Options",
    "PerRecord",
    "Reading",
    "Reason",
    "RecordClasses",
    "Request",
    "Returned",
    "RunningOperation",
    "Scope",
    "Stage",
    "Step",
    "Stream",
    "Transaction",
    "Update",
    "ValueBatch",
    "ValueRow",
    "Verdict",
    "Way",
    "Withholding",
    "alone_at",
    "atomic",
    "because",
    "clock",
    "current_env",
    "domain",
    "exceptions",
    "fields",
    "find_env",
    "hookimpl",
    "ids_of",
    "in_transaction",
    "in_transaction_if",
    "made_by",
    "models",
    "name_of",
    "nearest",
    "unbroken",
    "use_env",
    "use_origin",
    "verdict_of",
    "ID_TYPES",
    "StoredId",
    "Bounded",
    "chunks",
    "for_program",
    "from_bson",
    "now",
    "overlap",
    "pause",
    "slices",
    "targets_of",
    "to_bson",
    "without_positions",
]


def test_the_public_names_are_these() -> None:
    assert sorted(earnorm.__all__) == sorted(PUBLIC)
    assert not [name for name in PUBLIC if not hasattr(earnorm, name)]


def test_the_names_for_plugin_authors_are_these() -> None:
    assert sorted(earnorm.plugin.__all__) == sorted(FOR_PLUGINS)
    assert not [name for name in FOR_PLUGINS if not hasattr(earnorm.plugin, name)]


def test_every_error_is_public_and_of_one_family() -> None:
    errors = {n for n in dir(earnorm) if isinstance(getattr(earnorm, n), type)}
    errors = {n for n in errors if issubclass(getattr(earnorm, n), Exception)}
    assert errors <= set(PUBLIC)
    assert errors == {name for name in exceptions.__all__ if name[0].isupper()} - {"ErrorDetail"}
    assert all(issubclass(getattr(earnorm, name), earnorm.EarnORMError) for name in errors)


# What a program pays for when it starts an App or uses the feature, not when it imports its models: the
# figures are in docs/performance.md.
LATER = {
    "earnorm.application",
    "earnorm.testing",
    "earnorm.kernel.app",
    "earnorm.kernel.catalog",
    "earnorm.kernel.life.lifecycle",
    "earnorm.kernel.life.settings",
    "earnorm.backends",
    "earnorm.kernel.binding",
    "earnorm.kernel.contract.attributes",
    "earnorm.kernel.observing.observers",
    "earnorm.kernel.serving.reading",
    "earnorm.kernel.serving.requests",
    "earnorm.features.computed.dependencies",
    "earnorm.features.computed.plugin",
    "earnorm.features.coalescing.plugin",
    "earnorm.features.on_delete.plugin",
    "earnorm.features.files.stored",
    "earnorm.features.slow_queries.plugin",
    "earnorm.features.timestamps.plugin",
    "earnorm.features.provenance.provenance",
    "earnorm.fields.geo",
    "earnorm.fields.money",
    "earnorm.fields.network",
    "earnorm.fields.vector",
    "earnorm.kernel.hookspecs",
    "earnorm.features.indexes.declarations",
    "earnorm.features.indexes.catalog",
    "earnorm.features.indexes.comparison",
    "earnorm.kernel.plugins.selection",
    "earnorm.features.grouping.aggregation",
    "earnorm.features.exporting.export",
    "earnorm.features.grouping.grouping",
    "earnorm.features.paging.paging",
    "earnorm.features.bodies.pydantic_models",
    "earnorm.model.reading.resolution",
    "earnorm.model.relations.link_changes",
    "earnorm.features.watching.watching",
    "earnorm.features.bulk.batches",
    "earnorm.features.bulk.bulk",
    "earnorm.features.upserts.upserts",
    "importlib.resources",
    "importlib_metadata",
    "pluggy",
    "pydantic._internal._generate_schema",
    "pydantic.fields",
    "pydantic.json_schema",
    "pydantic.main",
    "pydantic.types",
    "pymongo",
    "zoneinfo",
}


def in_fresh_python(code: str) -> list[str]:
    """The words that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_earnorm_loads_only_what_class_bodies_need() -> None:
    loaded = in_fresh_python("import sys, earnorm; print(*sys.modules)")
    assert "earnorm.models" in loaded
    assert not LATER.intersection(loaded)


def test_declaring_plain_fields_loads_no_more() -> None:
    loaded = in_fresh_python("""if True:
        import sys
        from earnorm import BaseModel, Boolean, DateTime, Decimal, Int, Json, List, Many2one, String

        class Book(BaseModel):
            title = String(required=True, max_length=80)
            pages = Int(min_value=1)
            price = Decimal()
            is_new = Boolean()
            printed = DateTime()
            tags = List(String())
            more = Json()
            sequel_id = Many2one("book")

        print(*sys.modules)
    """)
    assert not LATER.intersection(loaded)


def test_the_first_operations_of_an_app_load_nothing() -> None:
    """An import would hold up the event loop: the start of the App is the time for it."""
    assert not in_fresh_python("""if True:
        import asyncio, sys
        import earnorm
        from earnorm import BaseModel, Date, Decimal, Inc, Int, List, Many2one, String

        class Shelf(BaseModel):
            name = String(unique=True)

        class Book(BaseModel):
            title = String(required=True, index=True)
            pages = Int(min_value=1)
            price = Decimal()
            printed = Date()
            tags = List(String())
            shelf_id = Many2one("shelf")

        async def main():
            async with earnorm.App("mongomock://", database="first", plugins=[]):
                loaded = set(sys.modules)
                shelf = await Shelf.create({"name": "A"})
                book = await Book.create({"title": "x", "pages": 3, "price": "1.5", "shelf_id": shelf})
                await Book.create([{"title": "y"}, {"title": "z", "tags": ["a"]}])
                book.pages = 4
                await book.save()
                await book.write({"pages": Inc(1)})
                await Book.search([("pages", ">", 4)], order="-title", prefetch=["shelf_id"])
                await Book.search([("shelf_id.name", "=", "A")]).update({"pages": 6})
                assert await Book.count() == 3
                assert (await Book.get(book.id)).to_dict()
                await book.unlink()
                print(*(m for m in set(sys.modules) - loaded if m.startswith(("earnorm", "pydantic"))))

        asyncio.run(main())
    """)


def test_all_of_it_comes_with_a_star() -> None:
    found = in_fresh_python("from earnorm import *; print(*globals())")
    assert set(PUBLIC) <= set(found)


def test_dir_names_what_is_not_loaded_yet() -> None:
    assert set(PUBLIC) <= set(in_fresh_python("import earnorm; print(*dir(earnorm))"))
    kinds = in_fresh_python("import earnorm.fields; print(*dir(earnorm.fields))")
    assert set(earnorm.fields.__all__) <= set(kinds)
    assert not [name for name in earnorm.fields.__all__ if not hasattr(earnorm.fields, name)]


def test_an_unknown_name_is_an_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match="module 'earnorm' has no attribute 'Modle'"):
        _ = earnorm.Modle
    with pytest.raises(AttributeError, match=r"module 'earnorm\.fields' has no attribute 'Strng'"):
        _ = earnorm.fields.Strng
