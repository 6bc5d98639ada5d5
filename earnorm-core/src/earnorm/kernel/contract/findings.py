"""A finding of ``earnorm doctor``: the result of one check, of the core or of a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ``"ok"``, ``"warning"`` or ``"error"``.
        what: What was found, in a sentence without a full stop.
        what_to_do: The remedy; empty where nothing is to be done.
    """

    level: Level
    what: str
    what_to_do: str = ""
