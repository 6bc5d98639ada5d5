"""The result of a transaction, for objects that live longer than it."""

from __future__ import annotations


class Outcome:
    """The result of a transaction, for the fetches that were made inside it.

    It holds no reference to the transaction, which would otherwise live as long as its records.
    """

    __slots__ = ("committed", "rolled_back")

    def __init__(self) -> None:
        self.committed = False
        self.rolled_back = False

    @property
    def is_known(self) -> bool:
        """True if the transaction is over."""
        return self.committed or self.rolled_back
