"""The query plan of a search in words: its indexes, its sort, its cost.

The server's own plan is kept unchanged; this module only reads it.
https://www.mongodb.com/docs/manual/reference/explain-results/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from typing_extensions import override

_SCANS: Final = frozenset({"COLLSCAN"})
_BY_ID: Final = frozenset({"IDHACK", "CLUSTERED_IXSCAN", "EXPRESS_CLUSTERED_IXSCAN"})
_SORTS: Final = frozenset({"SORT"})
_NOTHING: Final = frozenset({"EOF"})
# The keys under which a stage has the stages below it; every other key is about the stage itself.
_CHILD_KEYS: Final = (
    "inputStage",
    "inputStages",
    "queryPlan",
    "thenStage",
    "elseStage",
    "outerStage",
    "innerStage",
    "shards",
    "winningPlan",
)


class Plan(Mapping[str, Any]):
    """The server's plan of a query as a mapping; ``str()`` describes it in words.

    Attributes:
        raw: The server's plan, unchanged.
    """

    __slots__ = ("_stages", "raw")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self._stages = tuple(_stages(raw.get("queryPlanner", {}).get("winningPlan", {})))

    # -- what it does -------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[str, ...]:
        """The plan's stages in MongoDB's own words, outermost first: ``("FETCH", "IXSCAN")``."""
        return tuple(str(stage["stage"]) for stage in self._stages)

    @property
    def indexes(self) -> tuple[str, ...]:
        """The names of the indexes that are used, each once; ``_id_`` is the index on the id."""
        names = [
            str(stage.get("indexName", "_id_"))
            for stage in self._stages
            if "indexName" in stage or stage["stage"] in _BY_ID
        ]
        return tuple(dict.fromkeys(names))

    @property
    def uses_index(self) -> bool:
        """True if every part of the search uses an index (or cannot match any record)."""
        index_or_eof = self.indexes or _NOTHING.intersection(self.stages)
        return bool(index_or_eof) and not self.scans_collection

    @property
    def scans_collection(self) -> bool:
        """True if the search, or a part of it, reads the whole collection."""
        return not _SCANS.isdisjoint(self.stages)

    @property
    def sorts_in_memory(self) -> bool:
        """True if no index gives the order, so that all matches are sorted before the first one."""
        return not _SORTS.isdisjoint(self.stages)

    # -- the cost, for ``system`` only --------------------------------------------------------

    def _figure(self, name: str) -> int | None:
        figure = self.raw.get("executionStats", {}).get(name)
        return None if figure is None else int(figure)

    @property
    def documents_examined(self) -> int | None:
        """The number of documents that were read; None unless ``system`` asked."""
        return self._figure("totalDocsExamined")

    @property
    def keys_examined(self) -> int | None:
        """The number of index entries that were read; None unless ``system`` asked."""
        return self._figure("totalKeysExamined")

    @property
    def returned(self) -> int | None:
        """The number of documents that were returned; None unless ``system`` asked."""
        return self._figure("nReturned")

    @property
    def milliseconds(self) -> int | None:
        """The time that the server took, in milliseconds; None unless ``system`` asked."""
        return self._figure("executionTimeMillis")

    # -- in words -----------------------------------------------------------------------------

    def _access(self) -> str:
        names = ", ".join(repr(name) for name in self.indexes)
        if self.scans_collection:
            partly = f", and uses {names} for a part of it" if names else "; no index is used"
            return f"reads the whole collection (COLLSCAN){partly}"
        if names:
            kind = "indexes" if len(self.indexes) > 1 else "index"
            stage = next(s for s in self.stages if "SCAN" in s or s in _BY_ID or s in _OTHER_ACCESS)
            return f"uses the {kind} {names} ({stage})"
        if _NOTHING.intersection(self.stages):
            return "reads nothing: no record can match (EOF)"
        return (
            f"the server names neither an index nor a scan ({', '.join(self.stages) or 'no plan'})"
        )

    def _order(self) -> str:
        return "sorts in memory" if self.sorts_in_memory else "does not sort in memory"

    def _cost(self) -> str:
        examined, returned = self.documents_examined, self.returned
        if examined is None or returned is None:
            return ""
        took = "" if self.milliseconds is None else f" in {self.milliseconds} ms"
        keys = self.keys_examined or 0
        return f"examined {examined} documents and {keys} index keys to return {returned}{took}"

    @override
    def __str__(self) -> str:
        return "; ".join(part for part in (self._access(), self._order(), self._cost()) if part)

    @override
    def __repr__(self) -> str:
        # The whole plan would show the values of the search.
        return f"<Plan: {self._access()}>"

    # -- the server's plan --------------------------------------------------------------------

    @override
    def __getitem__(self, key: str) -> Any:
        return self.raw[key]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    @override
    def __len__(self) -> int:
        return len(self.raw)


_OTHER_ACCESS: Final = frozenset({"TEXT_MATCH", "TEXT", "GEO_NEAR_2DSPHERE", "GEO_NEAR_2D"})


def _stages(node: object) -> Iterator[Mapping[str, Any]]:
    """Yield every stage of a plan of any engine and shard, outermost first."""
    if isinstance(node, list):
        for item in cast("list[object]", node):
            yield from _stages(item)
    elif isinstance(node, Mapping):
        stage = cast("Mapping[str, Any]", node)
        if "stage" in stage:
            yield stage
        for name in _CHILD_KEYS:
            if name in stage:
                yield from _stages(stage[name])
