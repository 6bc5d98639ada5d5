"""The one write path: from values to operations.

Model, Query and RecordSet reach its modules through this package, which imports each when it is first used: a program
that only declares models does without them. An App has loaded them all when it is started.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earnorm.model.writing import copying as copying
    from earnorm.model.writing import creating as creating
    from earnorm.model.writing import records as records
    from earnorm.model.writing import sets as sets
    from earnorm.model.writing import turns as turns
else:
    _MODULES = frozenset({"copying", "creating", "records", "sets", "turns"})

    def __getattr__(name):
        # Asked once for each: the import makes the module an attribute of this package.
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
