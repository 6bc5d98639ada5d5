"""The security plugin of EarnORM. The names exported here are public; all others are private."""

from __future__ import annotations

from earnorm_security.declarations import EVERYBODY, Access, Rule
from earnorm_security.plugin import Security, SecurityPlugin, SecuritySettings

__version__ = "0.1.0"

__all__ = [
    "EVERYBODY",
    "Access",
    "Rule",
    "Security",
    "SecurityPlugin",
    "SecuritySettings",
    "__version__",
]
