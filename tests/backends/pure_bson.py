"""A plugin of pytest that keeps the driver's C extension out: sanitizers would report what that one reads too far."""

from __future__ import annotations

import sys

sys.modules["bson._cbson"] = None  # type: ignore[assignment] # whoever imports it gets an ImportError
