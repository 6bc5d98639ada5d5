"""The models that relations name, by ``_name``: the table that the kernel's registry fills.

It is here so that a field finds the other model without importing the kernel.
"""

from __future__ import annotations

from typing import Any, Final

MODELS: Final[dict[str, type[Any]]] = {}
"""Every defined model by its name; only the registry writes it."""
