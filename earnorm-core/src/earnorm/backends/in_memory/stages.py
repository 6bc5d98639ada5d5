"""Pipelines: the stages that memory has, one function each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final

from pymongo.errors import OperationFailure

from earnorm.backends.in_memory.accumulators import accumulator
from earnorm.backends.in_memory.expressions import (
    Variables,
    expression,
    is_null,
    variables,
)
from earnorm.backends.in_memory.filters import predicate
from earnorm.backends.in_memory.operators import load
from earnorm.backends.in_memory.projections import added_fields, projection
from earnorm.backends.in_memory.sorting import sorted_by
from earnorm.backends.in_memory.values import (
    Document,
    Evaluate,
    key,
    lacking,
    refused,
    type_name,
)
from earnorm.domain.bson_order import MISSING
from earnorm.domain.in_memory import collect
from earnorm.domain.values import is_dict, is_list

load()

Documents = list[Document]
Flow = Iterable[Document]
"""Documents on their way from stage to stage, one by one: what a limit cuts off is never computed."""
Collections = Callable[[str], Documents]
"""Returns the documents of another collection of the database."""


class Pipeline:
    """Stages that were read once.

    Args:
        stages: The stages, as they are sent.
        collections: Finds the documents that a ``$lookup`` asks for.

    Raises:
        NotImplementedError: Memory does not have a stage or an operator of it.
        OperationFailure: A server refuses it, too.
    """

    def __init__(self, stages: Sequence[Mapping[str, Any]], collections: Collections) -> None:
        self._stages: list[Stage] = []
        for stage in stages:
            if len(stage) != 1:
                raise refused(40323, "A pipeline stage has exactly one field")
            [(name, spec)] = stage.items()
            make = _STAGES.get(name)
            if make is None:
                raise lacking(f"the stage {name}")
            self._stages.append(make(spec, collections))

    def run(self, documents: Flow, known: Variables | None = None) -> Documents:
        """Return the documents that the last stage gives.

        Raises:
            NotImplementedError: Only a server knows a result.
            OperationFailure: The server refuses a value.
        """
        given = {} if known is None else known
        for position, stage in enumerate(self._stages, 1):
            documents = stage(documents, given)
            if position < len(self._stages):
                documents = _unless_refused(documents)
        return list(documents)


Stage = Callable[[Flow, Variables], Flow]


def _unless_refused(documents: Flow) -> Flow:
    """Pass documents on; a value that a server refuses before the last stage has no sure answer.

    A server moves stages, and leaves out fields that nobody asks for, so it may never look at it.
    """
    try:
        yield from documents
    except OperationFailure as refusal:
        raise lacking("an answer where a value is refused before the last stage") from refusal


def _match(spec: Any, _: Collections) -> Stage:
    if not isinstance(spec, Mapping):
        raise refused(15959, "the match filter must be an expression in an object")
    found: dict[str, Variables] = {}

    def expressions(inner: Any) -> Evaluate:
        evaluate = expression(inner)
        return lambda known: evaluate({**found["now"], **known})

    fits = predicate(spec, expressions)

    def run(documents: Flow, known: Variables) -> Flow:
        found["now"] = known
        return filter(fits, documents)

    return run


def _project(spec: Any, _: Collections) -> Stage:
    if not is_dict(spec) or not spec:
        raise refused(51272, "$project must have at least one field")
    project = projection(spec)
    return lambda documents, known: (project(document, known) for document in documents)


def _set(spec: Any, _: Collections) -> Stage:
    if not is_dict(spec):
        raise refused(40272, "$addFields specification stage must be an object")
    project = added_fields(spec)
    return lambda documents, known: (project(document, known) for document in documents)


def _unset(spec: Any, _: Collections) -> Stage:
    names = spec if is_list(spec) else [spec]
    project = projection(dict.fromkeys(names, 0))
    return lambda documents, known: (project(document, known) for document in documents)


def _group(spec: Any, _: Collections) -> Stage:
    if not is_dict(spec) or "_id" not in spec:
        raise refused(15955, "a group specification must include an _id")
    group_key = _key_of_groups(spec["_id"])
    accumulators = {name: accumulator(one) for name, one in spec.items() if name != "_id"}

    def run(documents: Flow, known: Variables) -> Flow:
        groups: dict[Any, tuple[Any, list[Variables]]] = {}
        for document in documents:
            of_document = variables(document, known)
            value = group_key(of_document)
            value = None if value is MISSING else value
            groups.setdefault(key(value), (value, []))[1].append(of_document)
        return [
            {"_id": value, **{name: compute(group) for name, compute in accumulators.items()}}
            for value, group in groups.values()
        ]

    return run


def _key_of_groups(spec: Any) -> Evaluate:
    """Read the key of a group; in a document of one key a missing value is shown as null."""
    evaluate = expression(spec)
    if not is_dict(spec) or len(spec) != 1 or next(iter(spec)).startswith("$"):
        return evaluate
    [name] = spec
    return lambda known: {name: None, **evaluate(known)}


def _sort(spec: Any, _: Collections) -> Stage:
    return lambda documents, _: sorted_by(documents, spec, lambda document: document)


def _count_of(spec: Any, name: str, least: int) -> int:
    if isinstance(spec, bool) or not isinstance(spec, int | float) or spec != int(spec):
        raise refused(5107201, f"{name} needs a whole number")
    if spec < least:
        raise refused(15958, f"{name} needs a number of at least {least}")
    return int(spec)


def _limit(spec: Any, _: Collections) -> Stage:
    most = _count_of(spec, "$limit", 1)
    return lambda documents, _: islice(documents, most)


def _skip(spec: Any, _: Collections) -> Stage:
    first = _count_of(spec, "$skip", 0)
    return lambda documents, _: islice(documents, first, None)


def _count(spec: Any, _: Collections) -> Stage:
    def run(documents: Flow, _: Variables) -> Flow:
        count = sum(1 for _ in documents)
        return [{spec: count}] if count else []

    return run


def _unwind(spec: Any, _: Collections) -> Stage:
    given = spec if is_dict(spec) else {"path": spec}
    path = given["path"]
    if not isinstance(path, str) or not path.startswith("$") or path.startswith("$$"):
        raise refused(28818, "path option to $unwind stage should be prefixed with a '$'")
    parts, index = path[1:].split("."), given.get("includeArrayIndex")
    if index is not None and "." in index:
        raise lacking("$unwind with an index inside of a document")
    keeps = bool(given.get("preserveNullAndEmptyArrays"))

    def run(documents: Flow, _: Variables) -> Flow:
        for document in documents:
            value = _at(document, parts)
            if is_list(value):
                for position, item in enumerate(value):
                    yield _indexed(_replaced(document, parts, item), index, position)
                if not value and keeps:
                    yield _indexed(_replaced(document, parts, MISSING), index, None)
            elif not is_null(value) or keeps:
                yield _indexed(document, index, None)

    return run


def _indexed(document: Document, index: str | None, position: int | None) -> Document:
    from bson import Int64

    if index is None:
        return document
    return {**document, index: None if position is None else Int64(position)}


def _at(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if not is_dict(value):
            return MISSING
        value = value.get(part, MISSING)
    return value


def _replaced(document: Document, parts: Sequence[str], value: Any) -> Document:
    """Return a document with another value at a path that leads through documents only."""
    first, *rest = parts
    result = dict(document)
    if rest:
        result[first] = _replaced(result[first], rest, value)
    elif value is MISSING:
        result.pop(first, None)
    else:
        result[first] = value
    return result


def _replace_root(spec: Any, _: Collections) -> Stage:
    evaluate = expression(spec)

    def run(documents: Flow, known: Variables) -> Flow:
        for document in documents:
            value = evaluate(variables(document, known))
            if not is_dict(value):
                raise refused(40228, "'newRoot' expression must evaluate to an object")
            yield value

    return run


def _lookup(spec: Any, collections: Collections) -> Stage:
    if not is_dict(spec) or not isinstance(spec.get("from"), str):
        raise lacking("$lookup without a collection")
    unknown = spec.keys() - {"from", "localField", "foreignField", "let", "pipeline", "as"}
    if unknown or "." in spec["as"] or ("localField" in spec) != ("foreignField" in spec):
        raise lacking("$lookup of this form")
    given = {name: expression(part) for name, part in (spec.get("let") or {}).items()}
    pipeline = Pipeline(spec.get("pipeline") or (), collections)
    local, foreign = spec.get("localField", ""), spec.get("foreignField", "")

    def run(documents: Flow, known: Variables) -> Flow:
        others = collections(spec["from"])
        found = _index_of(others, foreign.split(".")) if foreign else None
        for document in documents:
            of_document = variables(document, known)
            inner = {**known, **{name: part(of_document) for name, part in given.items()}}
            matching = others
            if found is not None:
                matching = _joined(document, local.split("."), others, found)
            yield {**document, spec["as"]: pipeline.run(matching, inner)}

    return run


def _index_of(
    documents: Documents, parts: list[str], *, takes_missing: bool = True
) -> dict[Any, list[int]]:
    """Return the positions of documents by each value that a path leads to."""
    found: dict[Any, list[int]] = {}
    for position, document in enumerate(documents):
        values: list[Any] = []
        collect(document, tuple(parts), 0, False, values)
        if not takes_missing:
            values = [value for value in values if value is not MISSING]
        for one in dict.fromkeys(map(_lookup_key, values)):
            found.setdefault(one, []).append(position)
    return found


def _lookup_key(value: Any) -> Any:
    return key(None if value is MISSING else value)


def _joined(
    document: Document, parts: list[str], others: Documents, found: Mapping[Any, list[int]]
) -> Documents:
    values: list[Any] = []
    collect(document, tuple(parts), 0, False, values)
    if values and is_list(values[-1]):
        values = values[:-1]  # a list stands for its items
    wanted = {_lookup_key(value) for value in values} if values else {_lookup_key(None)}
    if any(is_list(value) for value in values):
        raise lacking("$lookup by lists in lists")
    positions = {position for one in wanted for position in found.get(one, ())}
    return [others[position] for position in sorted(positions)]


def _graph_lookup(spec: Any, collections: Collections) -> Stage:
    needed = {"from", "startWith", "connectFromField", "connectToField", "as"}
    if not is_dict(spec) or not needed <= spec.keys() <= {
        *needed,
        "maxDepth",
        "depthField",
        "restrictSearchWithMatch",
    }:
        raise lacking("$graphLookup of this form")
    start = expression(spec["startWith"])
    fits = predicate(spec.get("restrictSearchWithMatch") or {})
    leaves, arrives = expression(f"${spec['connectFromField']}"), spec["connectToField"].split(".")
    depth_field, deepest = spec.get("depthField"), spec.get("maxDepth")

    def run(documents: Flow, known: Variables) -> Flow:
        from bson import Int64

        others = [document for document in collections(spec["from"]) if fits(document)]
        found = _index_of(others, arrives, takes_missing=False)
        for document in documents:
            visited: dict[int, Document] = {}
            frontier = _steps(start(variables(document, known)))
            depth = 0
            while frontier and (deepest is None or depth <= deepest):
                positions = {position for one in frontier for position in found.get(one, ())}
                frontier = set()
                for position in sorted(positions - visited.keys()):
                    other = others[position]
                    shown = other if depth_field is None else {**other, depth_field: Int64(depth)}
                    visited[position] = shown
                    frontier |= _steps(leaves(variables(other, known)))
                depth += 1
            yield {**document, spec["as"]: list(visited.values())}

    return run


def _steps(value: Any) -> set[Any]:
    if value is MISSING:
        return set()
    return {key(item) for item in (value if is_list(value) else [value])}


def _union_with(spec: Any, collections: Collections) -> Stage:
    given = spec if is_dict(spec) else {"coll": spec}
    if "coll" not in given:
        raise lacking("$unionWith without a collection")
    pipeline = Pipeline(given.get("pipeline") or (), collections)
    return lambda documents, known: chain(documents, pipeline.run(collections(given["coll"]), {}))


def _facet(spec: Any, collections: Collections) -> Stage:
    pipelines = {name: Pipeline(stages, collections) for name, stages in spec.items()}

    def run(documents: Flow, known: Variables) -> Flow:
        all_of_them = list(documents)
        return [{name: pipeline.run(all_of_them, known) for name, pipeline in pipelines.items()}]

    return run


def _sort_by_count(spec: Any, collections: Collections) -> Stage:
    group = _group({"_id": spec, "count": {"$sum": 1}}, collections)
    order = _sort({"count": -1}, collections)
    return lambda documents, known: order(group(documents, known), known)


def _bucket(spec: Any, collections: Collections) -> Stage:
    if not is_dict(spec) or not {"groupBy", "boundaries"} <= spec.keys():
        raise refused(40198, "$bucket requires 'groupBy' and 'boundaries'")
    by, boundaries = expression(spec["groupBy"]), list(spec["boundaries"])
    if len(boundaries) < 2 or [key(one) for one in boundaries] != sorted(map(key, boundaries)):
        raise refused(40194, "The 'boundaries' option to $bucket must be sorted")
    if len({type_name(one) for one in boundaries}) > 1:
        raise lacking("$bucket between values of different types")
    output = spec.get("output") or {"count": {"$sum": 1}}
    accumulators = {name: accumulator(one) for name, one in output.items()}

    def run(documents: Flow, known: Variables) -> Flow:
        groups: dict[Any, tuple[Any, list[Variables]]] = {}
        for document in documents:
            of_document = variables(document, known)
            value = by(of_document)
            below = [one for one in boundaries if key(one) <= key(value)]
            if below and len(below) < len(boundaries):
                value = below[-1]
            elif "default" in spec:
                value = spec["default"]
            else:
                raise refused(40066, "$switch could not find a matching branch")
            groups.setdefault(key(value), (value, []))[1].append(of_document)
        rows: Documents = [
            {"_id": value, **{name: compute(group) for name, compute in accumulators.items()}}
            for value, group in groups.values()
        ]
        return sorted(rows, key=lambda row: key(row["_id"]))

    return run


def _new_root(spec: Any, collections: Collections) -> Stage:
    if not is_dict(spec) or spec.keys() != {"newRoot"}:
        raise refused(40229, "no newRoot specified for the $replaceRoot stage")
    return _replace_root(spec["newRoot"], collections)


_STAGES: Final[Mapping[str, Callable[[Any, Collections], Stage]]] = {
    "$match": _match,
    "$project": _project,
    "$set": _set,
    "$addFields": _set,
    "$unset": _unset,
    "$group": _group,
    "$sort": _sort,
    "$limit": _limit,
    "$skip": _skip,
    "$count": _count,
    "$unwind": _unwind,
    "$replaceRoot": _new_root,
    "$replaceWith": _replace_root,
    "$lookup": _lookup,
    "$graphLookup": _graph_lookup,
    "$unionWith": _union_with,
    "$facet": _facet,
    "$sortByCount": _sort_by_count,
    "$bucket": _bucket,
}


def by_pipeline(stages: Iterable[Mapping[str, Any]], document: Mapping[str, Any]) -> Document:
    """Return a document after an update that is a pipeline.

    Raises:
        NotImplementedError: Memory does not have a stage or an operator of it.
        OperationFailure: A server refuses it, too.
    """
    allowed = {"$set", "$addFields", "$unset", "$project", "$replaceRoot", "$replaceWith"}
    listed = list(stages)
    for stage in listed:
        if not stage.keys() <= allowed:
            raise refused(72, "a stage that is not allowed in an update")
    [after] = Pipeline(listed, lambda _: []).run([dict(document)])
    return after
