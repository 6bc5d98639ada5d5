"""The query plan of a search in words: its indexes, its sort, its cost.

``system`` gets the server's own plan unchanged; the plan of a search that layers have restricted is
reduced for anybody else to what tells nothing of the restriction's values.
https://www.mongodb.com/docs/manual/reference/explain-results/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

from earnorm.domain.values import is_list

if TYPE_CHECKING:
    from earnorm.features.explaining.layer_effects import LayerEffect

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
# What a reduced plan keeps of a stage: about the indexes, never about what is looked for in them.
_KEPT_KEYS: Final = ("stage", "indexName", "keyPattern", "direction", "sortPattern")


class Plan(Mapping[str, Any]):
    """The server's plan of a query as a mapping; ``str()`` describes it in words.

    Attributes:
        raw: The server's plan: unchanged for ``system``; for anybody else without what it tells of
            the server, and, where a layer has changed the search, only its stages with the names
            and keys of their indexes.
        layers: The effect of each layer on the search, outermost first; empty unless ``system``
            asked. ``str()`` of each shows the domain before and after.
    """

    __slots__ = ("_stages", "layers", "raw")

    def __init__(self, raw: Mapping[str, Any], layers: Sequence[LayerEffect] = ()) -> None:
        self.raw = raw
        self.layers = tuple(layers)
        self._stages = tuple(_stages(raw.get("queryPlanner", {}).get("winningPlan", {})))

    def __setstate__(self, state: tuple[None, Mapping[str, Any]]) -> None:
        self.layers = ()  # which pickles of version 0.1 do not have
        for name, value in state[1].items():
            setattr(self, name, value)

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


_FACTS: Final = frozenset(
    {"serverInfo", "serverParameters", "connectionString", "$clusterTime", "operationTime"}
)
"""The keys of a plan that tell of the server and not of the search."""


def without_facts(plan: Any) -> Any:
    """Return a plan without what it tells of the server."""
    if isinstance(plan, Mapping):
        return {
            key: without_facts(value)
            for key, value in cast("Mapping[str, Any]", plan).items()
            if key not in _FACTS
        }
    return [without_facts(item) for item in plan] if is_list(plan) else plan


def reduced(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a plan that tells of no value and no number of values in the search."""
    plan: dict[str, Any] = {}
    if "queryPlanner" in raw:
        winning = raw["queryPlanner"].get("winningPlan", {})
        plan["queryPlanner"] = {"winningPlan": _reduced_stage(winning)}
    if "stages" in raw:  # of an aggregation: each is a mapping with its name as the only key of "$"
        plan["stages"] = [
            {
                name: reduced(of_stage) if name == "$cursor" else {}
                for name, of_stage in stage.items()
                if name.startswith("$")
            }
            for stage in raw["stages"]
        ]
    return plan


def _reduced_stage(node: Any) -> Any:
    if isinstance(node, list):
        # Equal ones once: a merge has as many scans as the condition has values.
        stages: list[Any] = []
        for item in cast("list[object]", node):
            stage = _reduced_stage(item)
            if stage not in stages:
                stages.append(stage)
        return stages
    if not isinstance(node, Mapping):
        return {}
    stage = cast("Mapping[str, Any]", node)
    kept = {name: stage[name] for name in _KEPT_KEYS if name in stage}
    kept |= {name: _reduced_stage(stage[name]) for name in _CHILD_KEYS if name in stage}
    return kept
