"""Encrypts and decrypts bytes: AES-256-GCM with a new nonce each time, AES-SIV where equality is asked.

The stored form is a Binary of subtype 128::

    1 byte   the form: 1 is AES-256-GCM, 2 is AES-256-SIV
    1 byte   the length of the key's name, then the name
    12 bytes the nonce (GCM only)
    …        the ciphertext with its tag

A key of 32 bytes encrypts nothing itself: HKDF (RFC 5869) makes one for each form and field of it, so the
limit of 2**32 random nonces holds for a field and not for all of them together. The associated data
binds a ciphertext to the model, the field and (GCM) the id of the record.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from bson import Binary

from earnorm.plugin import Bounded
from earnorm_security.secrets.errors import DecryptionFailed, KeysUnavailable
from earnorm_security.secrets.extras import needed
from earnorm_security.secrets.keys import Key, KeyRing

SUBTYPE: Final = 128
GCM: Final = 1
SIV: Final = 2
_NONCE: Final = 12
_EXTRA: Final = "encryption"
_WHAT: Final = "Encrypted()"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value: what its ciphertext is bound to.

    Attributes:
        identity: The name that identifies the model's records.
        path: The stored path, without positions in lists.
    """

    identity: str
    path: str

    def associated(self, pk: bytes) -> bytes:
        """Return the associated data, in which no two places and ids are alike."""
        parts = (b"earnorm-1", self.identity.encode(), self.path.encode(), pk)
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def is_ciphertext(value: object) -> bool:
    """Return whether a stored value has the form of a ciphertext."""
    return isinstance(value, Binary) and value.subtype == SUBTYPE


def key_name(stored: bytes) -> str:
    """Return the name of the key of a ciphertext; empty where it is none."""
    if len(stored) < 2 or stored[0] not in (GCM, SIV):
        return ""
    return stored[2 : 2 + stored[1]].decode("ascii", "replace")


class Cipher:
    """Encrypts and decrypts with the keys of a ring."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self._derived: Bounded[tuple[str, str, str, int], Any] = Bounded()

    def encrypt(self, data: bytes, place: Place, pk: bytes) -> Binary:
        """Encrypt for one record, with a new nonce."""
        key, nonce = self.ring.primary, os.urandom(_NONCE)
        sealed = self._of(key, place, GCM).encrypt(nonce, data, place.associated(pk))
        return Binary(_head(GCM, key) + nonce + sealed, SUBTYPE)

    def encrypt_alike(self, data: bytes, place: Place, key: Key | None = None) -> Binary:
        """Encrypt so that equal values have equal ciphertexts, in every record."""
        key = key or self.ring.primary
        sealed = self._of(key, place, SIV).encrypt(data, [place.associated(b"")])
        return Binary(_head(SIV, key) + sealed, SUBTYPE)

    def decrypt(self, stored: bytes, place: Place, pk: bytes) -> bytes:
        """Decrypt a ciphertext of a place.

        Raises:
            DecryptionFailed: It was encrypted for another record, field or model, was changed, or its
                key is not in the ring.
            KeysUnavailable: There are no keys.
        """
        if not self.ring.keys:
            raise unavailable()
        name = key_name(stored)
        key = self.ring.find(name)
        if key is None:
            raise failed(place, "its key is not among the keys of this App")
        form, rest = stored[0], bytes(stored[2 + stored[1] :])
        cryptography = needed("cryptography.exceptions", _EXTRA, _WHAT)
        cipher = self._of(key, place, form)
        data: bytes
        try:
            if form == GCM:
                data = cipher.decrypt(rest[:_NONCE], rest[_NONCE:], place.associated(pk))
            else:
                data = cipher.decrypt(rest, [place.associated(b"")])
        except (cryptography.InvalidTag, ValueError):
            raise failed(
                place, "it was encrypted for another record, field or model, or was changed"
            ) from None
        return data

    def forget(self) -> None:
        """Drop what was derived from keys that the ring may not have any more."""
        self._derived.clear()

    def _of(self, key: Key, place: Place, form: int) -> Any:
        name = (key.name, place.identity, place.path, form)
        cipher = self._derived.get(name)
        if cipher is None:
            cipher = self._derived[name] = _derived(key, place, form)
        return cipher

    def __repr__(self) -> str:
        return f"<Cipher {self.ring!r}>"


def _head(form: int, key: Key) -> bytes:
    name = key.name.encode()
    return bytes((form, len(name))) + name


def _derived(key: Key, place: Place, form: int) -> Any:
    aead = needed("cryptography.hazmat.primitives.ciphers.aead", _EXTRA, _WHAT)
    hkdf = needed("cryptography.hazmat.primitives.kdf.hkdf", _EXTRA, _WHAT)
    hashes = needed("cryptography.hazmat.primitives.hashes", _EXTRA, _WHAT)
    info = bytes((form,)) + place.associated(b"")
    length = 32 if form == GCM else 64
    derive = hkdf.HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info)
    secret = derive.derive(key.reveal())
    return aead.AESGCM(secret) if form == GCM else aead.AESSIV(secret)


def failed(place: Place, reason: str) -> DecryptionFailed:
    """Return the error for a value that cannot be decrypted."""
    return DecryptionFailed(f"{place.identity}.{place.path} cannot be decrypted: {reason}")


def unavailable() -> KeysUnavailable:
    """Return the error for keys that are not there."""
    return KeysUnavailable(
        "encryption: the keys could not be had, so encrypted fields are neither read nor written"
    )
