"""A storm of cancellations leaves nothing half written, no wrong story, and nothing behind."""

from __future__ import annotations

import os
from typing import Final

import pytest

from .conftest import server_uri
from .storm import PLANTS, planted, storm

KINDS: Final = {
    "unshielded": ("transaction", "plain"),
    "cut short": ("transaction",),
    "first callback only": ("transaction",),
    "told wrongly": ("transaction",),
    "cursors left open": ("stream",),
    "nothing owed": ("owed",),
    "undoomed": ("swallowed",),
}
"""The works that find a fault soonest."""

EXAMPLES: Final = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "0"))


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_cancellation_leaves_nothing_half_and_tells_nothing_wrongly(driver: str) -> None:
    found = await storm(server_uri(), driver, 100, pool=2)
    assert found.faults == [] and found.cancellations >= 100


@pytest.mark.fuzz
@pytest.mark.skipif(not EXAMPLES, reason="the long form: EARNORM_FUZZ_EXAMPLES=2000")
@pytest.mark.parametrize("pool", [1, 2, 5, 10])
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_many_cancellations_do_neither_at_any_size_of_the_pool(
    driver: str, pool: int
) -> None:
    found = await storm(server_uri(), driver, max(EXAMPLES // 8, 80), pool=pool, seed=pool)
    assert found.faults == []


SLOW: Final = ("first callback only", "unshielded", "strong books")


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=pytest.mark.fuzz) if f in SLOW else f for f in PLANTS]
)
async def test_a_planted_fault_is_found(fault: str) -> None:
    # Only Motor goes on with a cancelled operation by itself, and the server mostly ends PyMongo's.
    driver = "motor" if fault == "unshielded" else "pymongo"
    # These two are looked at when the storm is over.
    limit = 60 if fault in ("strong books", "cursors left open") else 2000
    with planted(fault):
        found = await storm(
            server_uri(), driver, limit, pool=2, kinds=KINDS.get(fault, ()), stop_at_fault=True
        )
    assert found.faults
