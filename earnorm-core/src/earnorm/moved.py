"""Old paths of modules, for pickles of version 0.1 and for plugins that were written for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:
    # The import system asks for no base class, and importing these took a third of our import.
    Loader, MetaPathFinder = type("Loader", (), {}), type("MetaPathFinder", (), {})

MOVED: Final = {
    "app": "application",
    "builtin": "features",
    "computed": "features.computed",
    "environment": "kernel.environment",
    "extending": "model",
    "extending.extension": "model.extension",
    "hookspecs": "kernel.hookspecs",
    "indexes": "features.indexes.declarations",
    "indexing": "features.indexes",
    "indexing.advice": "features.indexes.advice",
    "indexing.collection_options": "features.indexes.collection_options",
    "operations": "plugin",
    "pickling": "model.pickling",
    "query": "model.query",
    "reading": "model.reading",
    "reading.aggregation": "features.grouping.aggregation",
    "reading.paging": "features.paging.paging",
    "reading.query_plan": "features.explaining.query_plan",
    "recordset": "model.recordset",
    "relations": "model.relations",
    "relations.ghosts": "model.relations.ghosts",
    "sequences": "features.sequences.counters",
    "transactions": "kernel.transactions.blocks",
    "writing": "model.writing",
    "writing.updates": "model.writing.updates",
}
"""The new path of each module of version 0.1; both are written without ``earnorm.``."""


class MovedModules(MetaPathFinder, Loader):
    """Finds a moved module by its old path. Python asks it after all other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Return a spec for an old path."""
        package, _, rest = fullname.partition(".")
        if package != "earnorm" or rest not in MOVED:
            return None
        return ModuleSpec(
            fullname, self, is_package=any(name.startswith(f"{rest}.") for name in MOVED)
        )

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave the creation of the module to Python."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Make the module return the names of its replacement."""
        new = f"earnorm.{MOVED[module.__name__.removeprefix('earnorm.')]}"

        def find(name: str) -> object:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(import_module(new), name)

        module.__dict__["__getattr__"] = find


def install() -> None:
    """Make the old paths importable; a second call does nothing."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
