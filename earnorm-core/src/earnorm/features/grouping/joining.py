"""Joins a pipeline to the stages that select its documents.

A server is free to evaluate a condition of the pipeline before the one that selects its documents,
and so on documents that the pipeline must not see: an error would tell of them. Conditions that
cannot fail do no harm there, and need to be joined for the indexes. So they come first; then the
keys that the pipeline must not see are left out; and a barrier stands before the first stage that
may fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from earnorm.exceptions import NotSupported
from earnorm.features.grouping.inspection import (
    Stage,
    is_plain,
    may_fail,
    names_of,
    paths_read,
)
from earnorm.kernel.serving.searches import Sight

BARRIER: Final[Stage] = {"$limit": 2**62}
"""No server moves a condition past a limit. ``{"$skip": 0}`` does not hold: it is taken out."""

_JOINS: Final = frozenset({"$lookup", "$unionWith", "$graphLookup"})
_COLLECTING: Final = frozenset({"$group", "$count", "$sortByCount", "$bucket", "$bucketAuto"})


def joined(
    selecting: Sequence[Stage], window: Sequence[Stage], sight: Sight, own: Sequence[Stage]
) -> list[Stage]:
    """Return the whole pipeline.

    Args:
        selecting: The stages that select the documents.
        window: Their order and window.
        sight: What the pipeline sees of them.
        own: The stages of the pipeline, checked.

    Raises:
        NotSupported: The pipeline begins with a stage that has to select the documents itself, and
            that is not possible.
    """
    if sight.hides and _searches_texts(own):
        raise NotSupported("$text would search fields that are hidden from you")
    is_guarded = bool(window) or any(stage != {"$match": {}} for stage in selecting)
    if own and "$geoNear" in own[0]:
        selecting, sight = _nearest(selecting, window, sight, own[0]["$geoNear"])
        own = own[1:]
    first, own = _leading(own, sight)
    if first and "$match" in first[0] and not window and "$match" in selecting[-1]:
        both = _all_of([selecting[-1]["$match"], first[0]["$match"]])
        selecting, first = [*selecting[:-1], {"$match": both}], first[1:]
    hiding: list[Stage] = []
    if not _reads_only(own[:1], sight):
        hiding += sight.stages()
        if hiding and _takes_whole(own):
            # MongoDB 6.0 groups whole documents as they are stored, without the projection.
            hiding.append(BARRIER)
    return [*selecting, *window, *first, *hiding, *with_barriers(own, is_guarded=is_guarded)]


def with_barriers(stages: Sequence[Stage], *, is_guarded: bool) -> list[Stage]:
    """Put the barriers into a pipeline.

    A server also moves conditions into a lookup or a union that stands before them, so each of these
    needs another one.

    Args:
        stages: The stages.
        is_guarded: Something before them selects the documents.
    """
    result: list[Stage] = []
    for stage in stages:
        if is_guarded and may_fail(stage):
            result.append(BARRIER)
            is_guarded = False
        result.append(stage)
        is_guarded = is_guarded or not _JOINS.isdisjoint(stage)
    return result


def has_risk(stages: Sequence[Stage]) -> bool:
    """Return whether a stage may fail, those inside of joins included."""
    return any(
        may_fail(stage) or any(has_risk(inner) for inner in _pipelines_in(stage))
        for stage in stages
    )


def _pipelines_in(stage: Stage) -> list[Sequence[Stage]]:
    ((name, value),) = stage.items()
    if name == "$facet":
        return list(value.values())
    is_join = name in ("$lookup", "$unionWith") and isinstance(value, Mapping)
    return [value.get("pipeline", ())] if is_join else []


# -- the parts ------------------------------------------------------------------------------------


def _leading(own: Sequence[Stage], sight: Sight) -> tuple[list[Stage], list[Stage]]:
    """Split a pipeline behind its first stages, those that only select and order documents."""
    first: list[Stage] = []
    for position, stage in enumerate(own):
        ((name, value),) = stage.items()
        if name == "$match":
            plain, rest = split(value, sight)
            if plain:
                first.append({"$match": plain})
            if rest:
                return first, [{"$match": rest}, *own[position + 1 :]]
        elif name == "$sort":
            if not _is_simple_sort(value, sight):
                return first, list(own[position:])
            first.append(stage)
        elif name in ("$limit", "$skip"):
            first.append(stage)
        else:
            return first, list(own[position:])
    return first, []


def split(condition: Any, sight: Sight) -> tuple[Any, Any]:
    """Split a condition into what cannot fail and names what is seen, and the others."""
    if not isinstance(condition, Mapping):
        return {}, condition  # the server says what is wrong with it
    plain: list[Any] = []
    rest: list[Any] = []
    for part in _conjuncts(condition):
        is_first = is_plain(part) and all(map(sight.sees, names_of(part)))
        (plain if is_first else rest).append(part)
    if not rest:
        return condition, {}
    return _all_of(plain), _all_of(rest)


def _conjuncts(condition: Mapping[str, Any]) -> list[Any]:
    parts: list[Any] = []
    for key, value in condition.items():
        if key == "$and" and isinstance(value, list | tuple) and value:
            for part in value:
                parts += _conjuncts(part) if isinstance(part, Mapping) else [{key: [part]}]
        else:
            parts.append({key: value})
    return parts


def _all_of(conditions: Sequence[Any]) -> Any:
    conditions = [condition for condition in conditions if condition != {}]
    if len(conditions) < 2:
        return conditions[0] if conditions else {}
    return {"$and": conditions}


def _searches_texts(stages: Any) -> bool:
    """Return whether stages search an index of texts, whose fields they do not name."""
    if isinstance(stages, Mapping):
        return "$text" in stages or any(map(_searches_texts, stages.values()))
    return isinstance(stages, list | tuple) and any(map(_searches_texts, stages))


def _is_simple_sort(value: Any, sight: Sight) -> bool:
    if not isinstance(value, Mapping) or any(isinstance(v, Mapping) for v in value.values()):
        return False
    return all(map(sight.sees, value))


def _reads_only(stages: Sequence[Stage], sight: Sight) -> bool:
    """Return whether the next stage makes other documents, of nothing but what is seen."""
    for stage in stages:
        ((name, value),) = stage.items()
        if name in _COLLECTING:
            paths = paths_read(value)
            return paths is not None and all(map(sight.sees, paths))
    return False


def _takes_whole(stages: Sequence[Stage]) -> bool:
    """Return whether a stage groups whole documents."""
    return any(
        (name in _COLLECTING and paths_read(value) is None)
        or (name == "$facet" and any(map(_takes_whole, value.values())))
        for stage in stages
        for name, value in stage.items()
    )


def _nearest(
    selecting: Sequence[Stage], window: Sequence[Stage], sight: Sight, spec: Mapping[str, Any]
) -> tuple[list[Stage], Sight]:
    """Return a ``$geoNear`` that selects the documents itself, and what is seen then."""
    if window or len(selecting) > 1 or "$match" not in selecting[0]:
        raise NotSupported(
            "$geoNear has to be the first stage, and cannot follow an order, a limit, or a "
            "condition about many other records; put them behind it"
        )
    query = spec.get("query", {})
    if not all(map(sight.sees, (spec.get("key", "_id"), *names_of(query)))):
        raise NotSupported("$geoNear looks at a field that is hidden from you")
    query = _all_of([selecting[0]["$match"], query])
    keys = sight.keys
    if keys is not None:
        added = [str(spec[key]) for key in ("distanceField", "includeLocs") if key in spec]
        keys = {**{path: 1 for path in added if path.partition(".")[0] not in keys}, **keys}
    return [{"$geoNear": {**spec, "query": query}}], sight._replace(keys=keys)
