"""The security plugin of EarnORM. The names exported here are public; all others are private."""

from __future__ import annotations

from earnorm_security.declarations import EVERYBODY, Access, Rule
from earnorm_security.explaining import why
from earnorm_security.field_rights import FieldRights, last
from earnorm_security.limits import Limits
from earnorm_security.plugin import Security, SecurityPlugin
from earnorm_security.roles import Role
from earnorm_security.secrets.encryption import Encrypted, Encryption
from earnorm_security.secrets.errors import DecryptionFailed, KeysUnavailable
from earnorm_security.secrets.hashing import Argon2
from earnorm_security.secrets.keys import KeyProvider, new_key
from earnorm_security.secrets.passwords import Password, PasswordHash
from earnorm_security.settings import SecuritySettings
from earnorm_security.variables import context, user

__version__ = "0.1.0"

__all__ = [
    "EVERYBODY",
    "Access",
    "Argon2",
    "DecryptionFailed",
    "Encrypted",
    "Encryption",
    "FieldRights",
    "KeyProvider",
    "KeysUnavailable",
    "Limits",
    "Password",
    "PasswordHash",
    "Role",
    "Rule",
    "Security",
    "SecurityPlugin",
    "SecuritySettings",
    "__version__",
    "context",
    "last",
    "new_key",
    "user",
    "why",
]
