"""A cache for keys that callers choose: it keeps a limited number of values, and none for a long key.

What is kept by a key of the program's own (a model, a declared field) needs none of it: a class keeps it, and it
goes with the class.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, TypeVar

from typing_extensions import override

K = TypeVar("K")
V = TypeVar("V")

MOST: Final = 512
"""The default number of values that are kept."""
LONGEST: Final = 256
"""The default length of the longest key whose value is kept: characters of its text."""


class Bounded(dict[K, V]):
    """A dict of values that can be made again. It drops the oldest one where there are too many.

    Reading one is reading a dict, at the same cost. A value that is not kept is made again the next time, so
    a caller uses what it made, and does not read it back.

    Args:
        most: The number of values that are kept.
        longest: The length of the longest key whose value is kept; of a key that is no text, the length of
            its ``repr``.
    """

    __slots__ = ("_longest", "_most")

    def __init__(self, most: int = MOST, longest: int = LONGEST) -> None:
        super().__init__()
        self._most, self._longest = most, longest

    @override
    def __setitem__(self, key: K, value: V, /) -> None:
        if len(key if isinstance(key, str) else repr(key)) > self._longest:
            return
        if len(self) >= self._most and key not in self:
            # Where another thread has changed it meanwhile, there is room or soon will be.
            with suppress(KeyError, RuntimeError, StopIteration):
                del self[next(iter(self))]
        super().__setitem__(key, value)

    def empty(self) -> Bounded[K, V]:
        """Return an empty one with the same limits."""
        return Bounded(self._most, self._longest)
