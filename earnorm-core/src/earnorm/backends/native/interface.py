"""The compiled module as its Python side sees it; it may not be there."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Protocol, cast

MODULE: Final = "earnorm.backends.native._decoder"
INTERFACE: Final = 1
"""The ``INTERFACE`` of the C source that belongs to this file."""


class DecoderPlan(Protocol):
    """The stored keys of a model's documents, and the layout in which they come."""

    def take_others(self) -> bool:
        """Return whether keys were left out since the last time that this was asked."""
        ...


class Decoder(Protocol):
    """The functions of the compiled module."""

    INTERFACE: int
    MOST_FIELDS: int
    Plan: Callable[[list[tuple[str, DecoderPlan | None]]], DecoderPlan]
    """Makes a plan of keys, each with the plan of the embedded documents under it."""

    def setup(
        self,
        object_id: type,
        slot: object,
        from_bson: Callable[[bytes], Any],
        int64: type,
        from_bid: Callable[[bytes], Any],
        uuid: type,
        invalid: type[Exception],
        /,
    ) -> None:
        """Take the driver's types and functions; nothing else works before."""
        ...

    def decode(self, plan: DecoderPlan, document: bytes, /) -> dict[str, Any]:
        """Decode one document.

        Raises:
            InvalidBSON: The driver is to decode it, or to say what is wrong.
        """
        ...

    def reply(self, plan: DecoderPlan, reply: bytes | memoryview, /) -> dict[str, Any]:
        """Decode the reply of a server, with the documents in it.

        Raises:
            InvalidBSON: The driver is to decode it, or to say what is wrong.
        """
        ...


def imported() -> Decoder:
    """Import the compiled module.

    Raises:
        ImportError: It is not there, or is none for this Python.
    """
    return cast(Decoder, import_module(MODULE))
