"""The public module for plugin authors: all names that plugins need and applications do not.

A plugin imports this module, ``earnorm`` itself, and the public modules ``earnorm.domain``,
``earnorm.fields``, ``earnorm.models`` and ``earnorm.exceptions``, which are also names of this
module::

    from earnorm.plugin import Layer, fields, hookimpl, models

``docs/plugins.md`` is the contract: every hook with its signature.
"""

from earnorm import domain, exceptions, fields, models
from earnorm.backends.bson_form import from_bson, to_bson
from earnorm.bounded import Bounded
from earnorm.concerns import Concerns
from earnorm.domain import ID_TYPES, StoredId, ids_of
from earnorm.domain.long_lists import chunks, slices
from earnorm.domain.paths import overlap, without_positions
from earnorm.exceptions import nearest
from earnorm.features.indexes.declarations import Index
from earnorm.features.locking.locking import Lock
from earnorm.features.watching.database import DatabaseChange, DatabaseChanges
from earnorm.fields.base import MISSING
from earnorm.kernel.acting import use_origin
from earnorm.kernel.contract.attributes import Attribute
from earnorm.kernel.contract.findings import Finding
from earnorm.kernel.document_steps import DocumentBatch, DocumentRow
from earnorm.kernel.environment import current_env, find_env, use_env
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware, for_program
from earnorm.kernel.notes import Note
from earnorm.kernel.observing.observers import DatabaseCall, Observer, RunningOperation
from earnorm.kernel.observing.verdicts import Reason, Verdict, because, verdict_of
from earnorm.kernel.operations import (
    CACHING,
    COUNTED,
    EXTENT,
    JUDGED,
    PURPOSE,
    RELATION,
    REQUEST,
    WHOLE,
    Caching,
    Call,
    Counted,
    Operation,
    OperationName,
    Options,
    PerRecord,
    Update,
    made_by,
)
from earnorm.kernel.pauses import pause
from earnorm.kernel.serving.reading import Reading, RecordClasses
from earnorm.kernel.serving.requests import DryRun, Request, Stream
from earnorm.kernel.serving.sending import RETURNED, Returned
from earnorm.kernel.serving.withholding import Withholding
from earnorm.kernel.steps import (
    ALL,
    CHANGES,
    HAND_BACK,
    KNOWN_FIRST,
    WAY,
    HandBack,
    KnownFirst,
    Stage,
    Step,
    Way,
)
from earnorm.kernel.time import clock, now
from earnorm.kernel.transactions.blocks import Transaction, atomic
from earnorm.kernel.transactions.layer import in_transaction, in_transaction_if
from earnorm.kernel.transactions.units import alone_at, at_end_of_call, is_in_unit, unbroken
from earnorm.kernel.value_steps import ValueBatch, ValueRow
from earnorm.kernel.views import Declared, ModelView, Scope, name_of
from earnorm.model.declaring import Declaration
from earnorm.model.reading.across import ACROSS
from earnorm.model.relations.handed_links import Link, Links, targets_of

__all__ = [
    "ACROSS",
    "ALL",
    "API",
    "CACHING",
    "CHANGES",
    "COUNTED",
    "EXTENT",
    "HAND_BACK",
    "ID_TYPES",
    "JUDGED",
    "KNOWN_FIRST",
    "MISSING",
    "PURPOSE",
    "RELATION",
    "REQUEST",
    "RETURNED",
    "WAY",
    "WHOLE",
    "Attribute",
    "Bounded",
    "Caching",
    "Call",
    "Concerns",
    "Counted",
    "DatabaseCall",
    "DatabaseChange",
    "DatabaseChanges",
    "Declaration",
    "Declared",
    "DocumentBatch",
    "DocumentRow",
    "DryRun",
    "Finding",
    "HandBack",
    "Index",
    "KnownFirst",
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
    "StoredId",
    "Stream",
    "Transaction",
    "Update",
    "ValueBatch",
    "ValueRow",
    "Verdict",
    "Way",
    "Withholding",
    "alone_at",
    "at_end_of_call",
    "atomic",
    "because",
    "chunks",
    "clock",
    "current_env",
    "domain",
    "exceptions",
    "fields",
    "find_env",
    "for_program",
    "from_bson",
    "hookimpl",
    "ids_of",
    "in_transaction",
    "in_transaction_if",
    "is_in_unit",
    "made_by",
    "models",
    "name_of",
    "nearest",
    "now",
    "overlap",
    "pause",
    "slices",
    "targets_of",
    "to_bson",
    "unbroken",
    "use_env",
    "use_origin",
    "verdict_of",
    "without_positions",
]
