"""Projections: which fields of a document stay, and what is computed beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bson import Decimal128

from earnorm.backends.in_memory.expressions import Variables, expression, variables
from earnorm.backends.in_memory.values import Document, Evaluate, copied, lacking, refused
from earnorm.domain.bson_order import MISSING
from earnorm.domain.values import is_dict, is_list

Project = Callable[[Mapping[str, Any], Variables], Document]
_Tree = dict[str, Any]
"""Names with a bool (in or out), an expression, or a tree of what is inside."""


def projection(spec: Mapping[str, Any]) -> Project:
    """Read a projection, of a ``find`` or a ``$project``.

    Raises:
        NotImplementedError: Memory does not have a part of it.
        OperationFailure: A server refuses it, too.
    """
    tree: _Tree = {}
    for path, value in spec.items():
        _plant(tree, path.split("."), value)
    kinds = {kind for name, value in tree.items() if name != "_id" for kind in _kinds(value)}
    if not kinds:
        kinds = _kinds(tree["_id"]) if "_id" in tree else {False}
    if False in kinds and len(kinds) > 1:
        raise refused(31254, "Cannot do inclusion and exclusion in one projection")
    if False in kinds:
        return lambda document, known: _without(document, tree)
    tree.setdefault("_id", True)
    inclusions, computed = tree, [name for name, value in tree.items() if _computes(value)]

    def project(document: Mapping[str, Any], known: Variables) -> Document:
        result = _only(document, inclusions)
        of_document = variables(document, known)
        for name in computed:
            _compute(result, name, inclusions[name], of_document, is_projection=True)
        result = {
            name: _pruned(value) if is_dict(tree.get(name)) else value
            for name, value in result.items()
        }
        if "_id" in result and next(iter(result)) != "_id":
            result = {"_id": result["_id"], **result}
        return result

    return project


def _plant(tree: _Tree, path: Sequence[str], value: Any) -> None:
    *parents, name = path
    for part in parents:
        tree = tree.setdefault(part, {})
        if not is_dict(tree):
            raise refused(31250, "Path collision in a projection")
    if not name or name.startswith("$"):
        raise lacking(f"{name or 'an empty name'} in a projection")
    if is_dict(value) and not next(iter(value), "").startswith("$"):
        if not value:
            raise refused(51270, "An empty sub-projection is not a valid value")
        for inner, item in value.items():
            _plant(tree, [name, *inner.split(".")], item)
        return
    if name in tree:
        raise refused(31250, "Path collision in a projection")
    if is_dict(value) and next(iter(value)) in ("$elemMatch", "$meta"):
        raise lacking(f"{next(iter(value))} in a projection")
    if isinstance(value, bool | int | float | Decimal128):
        zero = value.to_decimal() == 0 if isinstance(value, Decimal128) else value == 0
        tree[name] = not zero
    else:
        tree[name] = expression(value)


def _kinds(value: Any) -> set[bool]:
    if is_dict(value):
        return {kind for inner in value.values() for kind in _kinds(inner)}
    return {value} if isinstance(value, bool) else {True}


def _computes(value: Any) -> bool:
    if is_dict(value):
        return any(map(_computes, value.values()))
    return not isinstance(value, bool)


def _only(document: Mapping[str, Any], tree: _Tree) -> Document:
    result: Document = {}
    for name, value in document.items():
        rule = tree.get(name)
        if rule is True:
            result[name] = value
        elif is_dict(rule):
            inner = _only_inside(value, rule)
            if inner is not MISSING:
                result[name] = inner
    return result


def _only_inside(value: Any, tree: _Tree) -> Any:
    if is_dict(value):
        return _only(value, tree)
    if is_list(value):
        # What is no document leaves its place, for what is computed there, until the end.
        return [_only_inside(item, tree) for item in value]
    return MISSING


def _pruned(value: Any) -> Any:
    if is_dict(value):
        return {name: _pruned(item) for name, item in value.items()}
    return [_pruned(item) for item in value if item is not MISSING] if is_list(value) else value


def _without(document: Mapping[str, Any], tree: _Tree) -> Document:
    result: Document = {}
    for name, value in document.items():
        rule = tree.get(name, True)
        if is_dict(rule):
            result[name] = _without_inside(value, rule)
        elif rule:
            result[name] = value
    return result


def _without_inside(value: Any, tree: _Tree) -> Any:
    if is_dict(value):
        return _without(value, tree)
    if is_list(value):
        return [_without_inside(item, tree) for item in value]
    return value


def _compute(
    result: Document, name: str, rule: Any, known: Variables, *, is_projection: bool
) -> None:
    if not is_dict(rule):
        if isinstance(rule, bool):
            return
        value = rule(known)
        if value is MISSING:
            result.pop(name, None)
        else:
            result[name] = value
        return
    result[name] = _computed_inside(result.get(name, MISSING), rule, known, is_projection)
    if result[name] is MISSING:
        del result[name]


def _computed_inside(value: Any, tree: _Tree, known: Variables, is_projection: bool) -> Any:
    if is_list(value):
        return [_computed_inside(item, tree, known, is_projection) for item in value]
    inside: Document = dict(value) if is_dict(value) else {}
    for name, rule in tree.items():
        if not is_projection or _computes(rule):
            _compute(inside, name, rule, known, is_projection=is_projection)
    return inside


def added_fields(spec: Mapping[str, Any]) -> Project:
    """Read ``$set`` and ``$addFields``: fields that are computed of the document as it was.

    Raises:
        NotImplementedError: Memory does not have a part of it.
        OperationFailure: A server refuses it, too.
    """
    tree: _Tree = {}
    for path, value in spec.items():
        _grow(tree, path.split("."), value)

    def project(document: Mapping[str, Any], known: Variables) -> Document:
        result: Document = copied(document)
        of_document = variables(document, known)
        for name, rule in tree.items():
            _compute(result, name, rule, of_document, is_projection=False)
        return result

    return project


def _grow(tree: _Tree, path: Sequence[str], value: Any) -> None:
    *parents, name = path
    for part in parents:
        tree = tree.setdefault(part, {})
    if not name or name.startswith("$"):
        raise refused(16410, "FieldPath field names may not start with '$'.")
    if is_dict(value) and value and not next(iter(value)).startswith("$"):
        for inner, item in value.items():
            _grow(tree, [name, *inner.split(".")], item)
        return
    read: Evaluate = expression(value)
    tree[name] = read


def of_find(spec: Mapping[str, Any] | None) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return the projection of a ``find``; none gives the document as it is."""
    if not spec:
        return lambda document: document
    project = projection(spec)
    return lambda document: project(document, {})
