"""The slots of records and embedded objects, with setters for hydration without Python code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Slots:
    """The storage of a structure: its state in ``__dict__``, and everything else in slots."""

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_changes",
        "_drawn_id",
        "_fetch",
        "_originals",
        "_turn",
        "_unchecked",
    )


SLOTS = frozenset((*Slots.__slots__, "_undeclared"))
set_state: Callable[[Any, dict[str, Any]], None] = vars(Slots)["__dict__"].__set__
"""Set a structure's ``__dict__``: its state."""
set_fetch: Callable[[Any, Any], None] = vars(Slots)["_fetch"].__set__
"""Set a structure's ``Fetch``, the loading state that records of one query share."""
set_drawn_id: Callable[[Any, Any], None] = vars(Slots)["_drawn_id"].__set__
"""Set the id that was drawn for a record and not given by the program; see ``identity``."""
set_turn: Callable[[Any, Any], None] = vars(Slots)["_turn"].__set__
"""Set the turn of the write of a record that is under way; see ``turns``."""
clear_turn: Callable[[Any], None] = vars(Slots)["_turn"].__delete__
