"""The result of a transaction, for objects that live longer than it."""

from __future__ import annotations


class Outcome:
    """The result of a transaction: ``tx.outcome``.

    It holds no reference to the transaction, which would otherwise live as long as its records.

    Attributes:
        committed: True if all of it is durable.
        rolled_back: True if nothing of it is in the database.
        unknown: True if the commit was sent, and nobody can tell whether the server has done it.
    """

    __slots__ = ("committed", "rolled_back", "unknown")

    def __init__(self) -> None:
        self.committed = False
        self.rolled_back = False
        self.unknown = False

    @property
    def is_over(self) -> bool:
        """True if the transaction is over."""
        return self.committed or self.rolled_back or self.unknown

    @property
    def is_in_doubt(self) -> bool:
        """True if what was read or written in it may not be in the database."""
        return self.rolled_back or self.unknown

    def __repr__(self) -> str:
        known = [name for name in self.__slots__ if getattr(self, name)]
        return f"<Outcome {known[0] if known else 'open'}>"
