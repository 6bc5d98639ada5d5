"""The audit plugin of EarnORM. Only the names in ``__all__`` are public."""

from __future__ import annotations

from earnorm_audit.denials import AuditDenial
from earnorm_audit.plugin import AuditPlugin, AuditSettings
from earnorm_audit.trail import AuditEntry, AuditLog

__version__ = "0.1.0"

__all__ = ["AuditDenial", "AuditEntry", "AuditLog", "AuditPlugin", "AuditSettings", "__version__"]
