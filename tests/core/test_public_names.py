"""The public face: a name that comes or goes is a decision, and this list is where it is taken."""

from __future__ import annotations

import earnorm

PUBLIC = [
    "AccessDenied",
    "AddToSet",
    "Aggregate",
    "App",
    "AppSettings",
    "Avg",
    "BaseModel",
    "Binary",
    "Boolean",
    "Change",
    "Command",
    "ConcurrencyError",
    "ConfigurationError",
    "Count",
    "CurrentDate",
    "Date",
    "DateTime",
    "Decimal",
    "Dict",
    "Domain",
    "DomainError",
    "DuplicateKey",
    "EarnORMError",
    "Email",
    "Embedded",
    "EmbeddedModel",
    "Env",
    "Field",
    "FieldNotLoaded",
    "First",
    "Float",
    "Inc",
    "Int",
    "Json",
    "Last",
    "Layer",
    "List",
    "Many2many",
    "Many2one",
    "Max",
    "Min",
    "Mul",
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
    "PluginError",
    "Pop",
    "Principal",
    "Pull",
    "Push",
    "Query",
    "RecordSet",
    "Selection",
    "ServerUnavailable",
    "Stats",
    "String",
    "Sum",
    "Text",
    "TransactionError",
    "UUID",
    "Unset",
    "Update",
    "Url",
    "ValidationError",
    "__version__",
    "act_as",
    "close",
    "current_app",
    "current_env",
    "fields",
    "hookimpl",
    "init",
    "models",
    "system",
    "transaction",
    "transactional",
]


def test_the_public_names_are_these() -> None:
    assert sorted(earnorm.__all__) == sorted(PUBLIC)
    assert not [name for name in PUBLIC if not hasattr(earnorm, name)]


def test_every_error_is_public_and_of_one_family() -> None:
    errors = {n for n in dir(earnorm) if isinstance(getattr(earnorm, n), type)}
    errors = {n for n in errors if issubclass(getattr(earnorm, n), Exception)}
    assert errors <= set(PUBLIC) and len(errors) == 15
    assert all(issubclass(getattr(earnorm, name), earnorm.EarnORMError) for name in errors)
