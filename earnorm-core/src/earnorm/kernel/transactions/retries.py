"""The tries of one transaction: how many there may be, for how long, and the pauses between them."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

from earnorm.exceptions import TransactionError

if TYPE_CHECKING:
    from earnorm.kernel.transactions.queue import Contention

CONVENIENT_SECONDS: Final = 120.0
"""The seconds during which a transaction is tried again at most, commits included; the figure of
MongoDB's convenient API:
https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md
"""

clock = time.monotonic

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds between two tries, from the same specification


class Tries:
    """The tries of one transaction.

    Args:
        retries: The highest number of further tries; None means any number within the time.
        seconds: The time for them if there is no such number: the App's ``retry_timeout``.
        figures: Counts the tries.

    Attributes:
        number: The number of the current try, from 1.
        commit_until: The time at which a commit of unknown outcome is given up.
    """

    __slots__ = ("_began", "_figures", "_retries", "_seconds", "commit_until", "number")

    def __init__(self, retries: int | None, seconds: float, figures: Contention) -> None:
        self.number = 1
        self._figures = figures
        self._retries = retries
        self._seconds = CONVENIENT_SECONDS if retries is not None else seconds
        self._began = clock()
        self.commit_until = self._began + CONVENIENT_SECONDS

    async def pause(self, error: TransactionError) -> None:
        """Pause before the next try.

        Args:
            error: The transient error of the current try.

        Raises:
            TransactionError: There is no further try; it says why.
        """
        # The pause is random, so that two transactions that clashed do not clash again.
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self.number - 1, 10))
        seconds = random.uniform(0, longest)  # noqa: S311 - not for secrecy
        if self._retries is not None and self.number > self._retries:
            raise self._given_up(error, f"retries={self._retries}") from error
        if clock() + seconds > self._began + self._seconds:
            limit = "retry_timeout of the App" if self._retries is None else "limit of MongoDB"
            raise self._given_up(error, f"{self._seconds:g} s, the {limit}") from error
        self._figures.retries += 1
        await asyncio.sleep(seconds)
        self.number += 1

    def _given_up(self, error: TransactionError, limit: str) -> TransactionError:
        self._figures.given_up += 1
        tries = "once" if self.number == 1 else f"{self.number} times"
        took = clock() - self._began
        given_up = TransactionError(
            f"{error} (it was tried {tries} in {took:.1f} s; the limit is {limit})", transient=True
        )
        return given_up.coded(error.code)

    def __repr__(self) -> str:
        return f"<Tries {self.number}>"
