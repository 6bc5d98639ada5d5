"""The errors of secret fields. No message has a value, a ciphertext or a key."""

from __future__ import annotations

from typing import ClassVar

from earnorm import EarnORMError


class KeysUnavailable(EarnORMError):
    """The keys cannot be had, so encrypted fields are neither read nor written."""

    code: str = "security_keys_unavailable"
    status: ClassVar[int] = 503


class DecryptionFailed(EarnORMError):
    """A stored value is not what was encrypted for this model, field and record, or its key is gone."""

    code: str = "security_decryption_failed"
    status: ClassVar[int] = 500


class RotationIncomplete(EarnORMError):
    """Some records still have values under other keys than the first one."""

    code: str = "security_rotation_left"
    status: ClassVar[int] = 409
