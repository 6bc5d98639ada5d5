"""The audit plugin of EarnORM. What it exports is what it promises; the rest of the package is private."""

from __future__ import annotations

from earnorm_audit.plugin import AuditPlugin, AuditSettings
from earnorm_audit.trail import AuditEntry, AuditLog

__version__ = "0.1.0"

__all__ = ["AuditEntry", "AuditLog", "AuditPlugin", "AuditSettings", "__version__"]
