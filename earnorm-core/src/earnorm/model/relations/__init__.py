"""Relations: ghosts, prefetches, links and commands.

A Query reaches the prefetches through this package, which imports them when the first is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earnorm.model.relations import prefetch as prefetch
else:

    def __getattr__(name):
        if name == "prefetch":
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
