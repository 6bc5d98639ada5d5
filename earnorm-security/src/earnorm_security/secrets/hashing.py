"""Argon2id off the event loop, a bounded number of hashes at a time.

A hash takes 64 MiB and some 50 ms of a core by default, so a hundred logins at once wait for each other.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from earnorm_security.secrets.extras import needed

T = TypeVar("T")

AT_ONCE: Final = max(1, min(4, os.cpu_count() or 1))
"""The number of hashes that are made at a time in one event loop."""
LONGEST: Final = 1024
"""The most characters of a password: nobody makes the process hash a megabyte."""

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Argon2:
    """The parameters of argon2id; the defaults are those of RFC 9106 for little memory.

    Attributes:
        time_cost: The number of passes.
        memory_cost: The memory in KiB.
        parallelism: The number of lanes.
    """

    time_cost: int = 3
    memory_cost: int = 65_536
    parallelism: int = 4

    def hasher(self) -> Any:
        """Return argon2-cffi's hasher with these parameters.

        Raises:
            ConfigurationError: argon2-cffi is not installed.
        """
        argon2 = needed("argon2", "password", "Password()")
        return argon2.PasswordHasher(self.time_cost, self.memory_cost, self.parallelism)


async def hashed(parameters: Argon2, text: str) -> str:
    """Return the hash of a password with a new salt, as a text that says its parameters."""
    hasher = parameters.hasher()
    made: str = await in_turn(lambda: hasher.hash(text))
    return made


async def verified(parameters: Argon2, stored: str, text: str) -> tuple[bool, bool]:
    """Return whether a password has this hash, and whether that was made with other parameters."""
    hasher, errors = parameters.hasher(), needed("argon2.exceptions", "password", "Password()")

    def verify() -> tuple[bool, bool]:
        try:
            hasher.verify(stored, text)
        except (errors.VerificationError, errors.InvalidHashError):
            return False, False
        return True, bool(hasher.check_needs_rehash(stored))

    return await in_turn(verify)


def is_hash(text: str) -> bool:
    """Return whether a text is a hash of argon2id."""
    argon2 = needed("argon2", "password", "Password()")
    try:
        return bool(argon2.extract_parameters(text).type is argon2.Type.ID)
    except argon2.exceptions.InvalidHashError:
        return False


def normal(text: str) -> str:
    """Return the one form of a password, whatever keyboard it was typed on (RFC 8265: NFC)."""
    return unicodedata.normalize("NFC", text)


def is_same(one: str, other: str) -> bool:
    """Compare two texts in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


async def in_turn(work: Callable[[], T]) -> T:
    """Run work in a thread, not more than ``AT_ONCE`` at a time.

    A cancelled caller leaves its thread at work, which keeps its turn until it is done.
    """
    loop = asyncio.get_running_loop()
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = asyncio.Semaphore(AT_ONCE)
    await turns.acquire()
    try:
        running = asyncio.ensure_future(asyncio.to_thread(work))
    except BaseException:
        turns.release()
        raise
    running.add_done_callback(lambda _: turns.release())
    return await asyncio.shield(running)
