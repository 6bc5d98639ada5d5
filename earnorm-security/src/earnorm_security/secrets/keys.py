"""Keys: where they come from, and the ring of those that an App has.

A key is 32 bytes with a name. The first one encrypts; the others decrypt what was encrypted before.
Nothing shows the bytes.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import os
import re
from collections.abc import Awaitable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from earnorm import ConfigurationError
from earnorm_security.secrets.errors import KeysUnavailable

SIZE: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HOW: Final = (
    'keys= takes "env:NAME", "file:PATH", "service:NAME", a mapping of names to keys of 32 bytes '
    "(or their base64), or an object with such a method keys()"
)

Given = Mapping[str, "bytes | str"]
"""Keys by name, the one that encrypts first: 32 bytes, or their base64."""


@runtime_checkable
class KeyProvider(Protocol):
    """Gives the keys of an App, e.g. from a key management service."""

    def keys(self) -> Given | Awaitable[Given]:
        """Return the keys by name, the one that encrypts first. It may be async, and may raise."""
        ...


class Key:
    """One key."""

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: bytes) -> None:
        self.name = name
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes."""
        return self._value

    def __repr__(self) -> str:
        return f"<Key {self.name}>"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")


def new_key() -> str:
    """Return a new key in base64, for an environment variable, a file or a key management service."""
    return base64.b64encode(os.urandom(SIZE)).decode()


def checked(given: object) -> tuple[Key, ...]:
    """Return keys after checking them.

    Raises:
        ConfigurationError: They are none; the message shows names alone.
    """
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError(f"security: no keys were given; {_HOW}").coded(
            "security_encryption_keys"
        )
    keys: list[Key] = []
    for name, value in given.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                "security: the name of a key has 1 to 64 letters, digits and ._-"
            ).coded("security_encryption_keys")
        data = _bytes(value)
        if data is None or len(data) != SIZE:
            raise ConfigurationError(
                f"security: the key {name!r} is not {SIZE} bytes, or their base64; "
                f"'earnorm security new-key' makes one"
            ).coded("security_encryption_keys")
        keys.append(Key(name, data))
    return tuple(keys)


def _bytes(value: object) -> bytes | None:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None


class EnvironmentKeys:
    """Keys in an environment variable: ``name:base64``, separated by commas, the first encrypts."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def keys(self) -> Given:
        """Return the keys that the variable has."""
        text = os.environ.get(self._variable, "")
        pairs = [part.strip().partition(":") for part in text.split(",") if part.strip()]
        return {name: value for name, _, value in pairs}

    def __repr__(self) -> str:
        return f"<keys of the environment variable {self._variable}>"


class FileKeys:
    """Keys in a JSON file: an object of names and base64, the first encrypts."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def keys(self) -> Given:
        """Read the file."""
        given: Given = json.loads(self._path.read_text())
        return given

    def __repr__(self) -> str:
        return f"<keys of the file {self._path}>"


class FixedKeys:
    """Keys that the program gives itself."""

    def __init__(self, given: Given) -> None:
        self._keys = dict(given)

    def keys(self) -> Given:
        """Return the keys."""
        return self._keys

    def __repr__(self) -> str:
        return f"<keys {', '.join(map(str, self._keys))}>"


def provider_of(source: object) -> KeyProvider | None:
    """Return the provider that a setting means; None for ``service:NAME``, which only the App knows.

    Raises:
        ConfigurationError: It means none.
    """
    if isinstance(source, Mapping):
        checked(source)
        return FixedKeys(source)
    if isinstance(source, str):
        kind, _, rest = source.partition(":")
        if rest and kind in ("env", "file"):
            return EnvironmentKeys(rest) if kind == "env" else FileKeys(rest)
        if rest and kind == "service":
            return None
    elif isinstance(source, KeyProvider):
        return source
    raise ConfigurationError(f"security: {_HOW}").coded("security_encryption_keys")


async def fetched(provider: KeyProvider) -> tuple[Key, ...]:
    """Ask a provider for its keys.

    Raises:
        KeysUnavailable: It failed, or gave what are no keys. The cause is left out: its message may
            have a key.
    """
    try:
        given = provider.keys()
        if inspect.isawaitable(given):
            given = await given
        return checked(given)
    except ConfigurationError as error:
        raise KeysUnavailable(f"encryption: {error}") from None
    except Exception as error:
        raise KeysUnavailable(
            f"encryption: {type(provider).__name__} gave no keys ({type(error).__name__}), so encrypted "
            f"fields are neither read nor written"
        ) from None


class KeyRing:
    """The keys of one App: the first encrypts, each decrypts."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self._by_name = {key.name: key for key in self.keys}

    @property
    def primary(self) -> Key:
        """The key that encrypts."""
        return self.keys[0]

    def find(self, name: str) -> Key | None:
        """Return the key of a name, or None."""
        return self._by_name.get(name)

    def __repr__(self) -> str:
        return f"<KeyRing {', '.join(key.name for key in self.keys)}>"
