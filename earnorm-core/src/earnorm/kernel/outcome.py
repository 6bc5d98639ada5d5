"""How a transaction ended, for whoever outlives it."""

from __future__ import annotations


class Outcome:
    """How a transaction ended, for the fetches that were made inside it. It holds nothing else of
    the transaction, which would live as long as its records otherwise."""

    __slots__ = ("committed", "rolled_back")

    def __init__(self) -> None:
        self.committed = False
        self.rolled_back = False

    @property
    def is_known(self) -> bool:
        """Whether the transaction is over."""
        return self.committed or self.rolled_back
