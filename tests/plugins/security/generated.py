"""How many cases a law of this folder draws."""

from __future__ import annotations

import os
from typing import Final

_MOST: Final = 3000
"""Each case writes to a real database, and some laws ask two of them."""


def examples(normal: int) -> int:
    """Return the number of cases: few in the normal run, and what ``nox -s fuzz`` asks for, at most 3,000."""
    return min(int(os.environ.get("EARNORM_FUZZ_EXAMPLES", normal)), _MOST)
