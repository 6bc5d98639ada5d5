"""Decides whether the compiled decoder is used, once for a process."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Final, NamedTuple
from uuid import UUID

from bson import Decimal128, Int64, ObjectId
from bson.errors import InvalidBSON

from earnorm.backends.bson_form import from_bson
from earnorm.backends.native.build import unsupported
from earnorm.backends.native.interface import INTERFACE, Decoder, imported
from earnorm.exceptions import ConfigurationError

logger: Final = logging.getLogger("earnorm.backends")

VARIABLE: Final = "EARNORM_NATIVE"


class Decision(NamedTuple):
    """The decision on whether documents are decoded by the compiled decoder."""

    is_on: bool
    reason: str = ""
    """The reason why it is off."""
    is_faulty: bool = False
    """True if it is there, and does not decode as the driver does."""

    def __str__(self) -> str:
        """Return it as ``App.health()`` tells it."""
        return "compiled" if self.is_on else f"the driver's ({self.reason})"


def decision() -> Decision:
    """Return whether the decoder is used, as the environment and the first look at it say.

    Raises:
        ConfigurationError: ``EARNORM_NATIVE`` is 1 and the decoder is off, or it is none of 0 and 1.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise ConfigurationError(
            f"{VARIABLE} is 0 (the driver decodes), 1 (the compiled decoder, or an error) or not "
            f"set, and not {wanted!r}"
        )
    if wanted == "0":
        return Decision(False, f"{VARIABLE}=0")
    found = _look()
    if wanted == "1" and not found.is_on:
        raise ConfigurationError(
            f"{VARIABLE}=1, and the compiled decoder is off: {found.reason}. Install earnorm-core "
            f"again where a C compiler and Python's headers are, or unset {VARIABLE}"
        )
    return found


@cache
def _look() -> Decision:
    reason = unsupported()
    if reason is not None:
        return Decision(False, reason)
    try:
        decoder = imported()
    except ImportError as error:
        return Decision(False, f"it is not installed: {error}")
    try:
        problem = _first_problem(decoder)
    except Exception as error:  # whatever a later driver has changed
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return Decision(True)
    logger.warning("the compiled decoder is off, and the driver decodes: %s", problem)
    return Decision(False, problem, is_faulty=True)


def _first_problem(decoder: Decoder) -> str | None:
    if decoder.INTERFACE != INTERFACE:
        return "it was compiled from another version; install earnorm-core again"
    # The driver has no function that makes an ObjectId of bytes without a call of Python. Its one
    # slot is written through the class's own descriptor; the probe compares what comes of it.
    slot = vars(ObjectId)["_ObjectId__id"]
    decoder.setup(ObjectId, slot, from_bson, Int64, Decimal128.from_bid, UUID, InvalidBSON)
    from earnorm.backends.native.probe import difference

    return difference()
