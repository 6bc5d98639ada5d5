"""The security plugin of EarnORM. What it exports is what it promises; the rest of the package is private."""

from __future__ import annotations

__version__ = "0.1.0"
