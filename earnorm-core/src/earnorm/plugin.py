"""The public module for plugin authors: all names that plugins need and applications do not.

A plugin imports this module, ``earnorm`` itself, and the public modules ``earnorm.domain``,
``earnorm.fields``, ``earnorm.models`` and ``earnorm.exceptions``, which are also names of this
module::

    from earnorm.plugin import Layer, fields, hookimpl, models

``docs/plugins.md`` is the contract: every hook with its signature.
"""

from earnorm import domain, exceptions, fields, models
from earnorm.domain import ids_of
from earnorm.exceptions import nearest
from earnorm.features.indexes.declarations import Index
from earnorm.features.locking.locking import Lock
from earnorm.fields.base import MISSING
from earnorm.kernel.attributes import Attribute
from earnorm.kernel.document_steps import DocumentBatch, DocumentRow
from earnorm.kernel.environment import current_env, find_env, use_env
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import (
    JUDGED,
    REQUEST,
    Call,
    Operation,
    OperationName,
    Options,
    PerRecord,
    Update,
    made_by,
)
from earnorm.kernel.reading import Reading, RecordClasses
from earnorm.kernel.requests import DryRun, Request, Stream
from earnorm.kernel.sending import RETURNED, Returned
from earnorm.kernel.steps import ALL, CHANGES, HAND_BACK, WAY, HandBack, Stage, Step, Way
from earnorm.kernel.time import clock
from earnorm.kernel.transactions import Transaction, atomic, in_transaction, in_transaction_if
from earnorm.kernel.value_steps import ValueBatch, ValueRow
from earnorm.kernel.views import ModelView, name_of
from earnorm.model.declaring import Declaration

__all__ = [
    "ALL",
    "API",
    "CHANGES",
    "HAND_BACK",
    "JUDGED",
    "MISSING",
    "REQUEST",
    "RETURNED",
    "WAY",
    "Attribute",
    "Call",
    "Declaration",
    "DocumentBatch",
    "DocumentRow",
    "DryRun",
    "HandBack",
    "Index",
    "Layer",
    "Lock",
    "Middleware",
    "ModelView",
    "Note",
    "Operation",
    "OperationName",
    "Options",
    "PerRecord",
    "Reading",
    "RecordClasses",
    "Request",
    "Returned",
    "Stage",
    "Step",
    "Stream",
    "Transaction",
    "Update",
    "ValueBatch",
    "ValueRow",
    "Way",
    "atomic",
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
    "use_env",
]
