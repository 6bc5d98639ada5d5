"""Every system by name: where its class is, and what it is made with.

A class is imported in its own worker only, so that nobody pays for another's imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Entry:
    """How a system is made.

    Attributes:
        module: The module below ``benchmarks.systems``; "node" for a program of Node's.
        cls: The class's name in it.
        against: The system whose time is the divisor.
        options: Keywords for the class.
        needs: The import that must work (or the program that must be there).
        imports: What is imported when the import time is measured, by itself.
        dbref: It stores a reference as a DBRef, not as the id alone.
    """

    module: str
    cls: str
    against: str = "PyMongo"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    needs: str = ""
    imports: str = ""
    dbref: bool = False


RAW: Final = {
    "PyMongo": Entry("raw", "PyMongo", imports="pymongo, pydantic"),
    "Motor": Entry("raw", "Motor", imports="motor.motor_asyncio, pydantic"),
}
OURS: Final = {
    "EarnORM": Entry("earnorm", "EarnORM", imports="pymongo, pydantic, earnorm"),
    "EarnORM, Motor": Entry("earnorm", "EarnORM", "Motor", {"driver": "motor"}),
    "EarnORM, coalescing": Entry("earnorm", "EarnORM", options={"coalesce": True}),
}
ASKED_FOR: Final = {
    "+ cache, idle": Entry("earnorm", "EarnORM", options={"plugins": ["cache"]}),
    "+ security, idle": Entry("earnorm", "EarnORM", options={"plugins": ["security"]}),
    "+ audit, idle": Entry("earnorm", "EarnORM", options={"plugins": ["audit"]}),
}
"""Measured only where they are named. A pool has the same work whatever the models say: "+ pool"."""
PLUGINS: Final = {
    **ASKED_FOR,
    "+ all, idle": Entry(
        "earnorm", "EarnORM", options={"plugins": ["cache", "security", "audit", "pool"]}
    ),
    "+ cache": Entry("earnorm", "EarnORM", options={"plugins": ["cache"], "active": True}),
    "+ security": Entry("earnorm", "EarnORM", options={"plugins": ["security"], "active": True}),
    "+ audit": Entry("earnorm", "EarnORM", options={"plugins": ["audit"], "active": True}),
    "+ pool": Entry("earnorm", "EarnORM", options={"plugins": ["pool"], "active": True}),
    "+ all": Entry(
        "earnorm",
        "EarnORM",
        options={"plugins": ["cache", "security", "audit", "pool"], "active": True},
    ),
}
PEERS: Final = {
    "Beanie": Entry("beanie", "Beanie", needs="beanie", imports="beanie", dbref=True),
    "ODMantic": Entry("odmantic", "ODMantic", needs="odmantic", imports="odmantic"),
    "MongoEngine": Entry("mongoengine", "MongoEngine", needs="mongoengine", imports="mongoengine"),
    "umongo": Entry("umongo", "UMongo", needs="umongo", imports="umongo"),
    "Mongoose": Entry("node", "mongoose.mjs", needs="node"),
}
SYSTEMS: Final[Mapping[str, Entry]] = {**RAW, **OURS, **PLUGINS, **PEERS}
