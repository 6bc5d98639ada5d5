"""Updates of one document, by operators, as a server makes them."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymongo.errors import WriteError

from earnorm.backends.in_memory.filters import Predicate, equal, is_operators, predicate
from earnorm.backends.in_memory.numbers import OutOfRange, combined
from earnorm.backends.in_memory.values import Document, copied, is_number, key, lacking, type_name
from earnorm.domain.bson_order import MISSING
from earnorm.domain.paths import is_position
from earnorm.domain.values import is_dict, is_list

MISFIT, NO_WAY, BAD, IMMUTABLE, CONFLICT = 14, 28, 2, 66, 40
"""The server's codes: TypeMismatch, PathNotViable, BadValue, ImmutableField, ConflictingUpdateOperators."""
MAX_PADDING: Final = 1_500_000
"""The most items that a server adds to a list, to reach a position."""

Filters = Mapping[str, Predicate]
"""By the name in a path (``lines.$[name].qty``), the test of an item."""


def refused(code: int, text: str) -> WriteError:
    """Make the error with which a server refuses a change."""
    return WriteError(text, code, {"code": code, "errmsg": text})


def item_filters(filters: Sequence[Mapping[str, Any]] | None) -> Filters:
    """Read the array filters of an update."""
    return {_named(filter): predicate(filter) for filter in filters or ()}


def _named(filter: Mapping[str, Any]) -> str:
    for name, value in filter.items():
        return _named(value[0]) if name in ("$and", "$or", "$nor") else name.partition(".")[0]
    raise refused(BAD, "an array filter has to name its items")


class Change:
    """An update by operators that was read once, for any number of documents.

    Args:
        update: The update, as it is sent.
        array_filters: The filters of its named items.

    Raises:
        NotImplementedError: Memory does not have one of its operators.
        WriteError: A server refuses it, too.
    """

    def __init__(
        self,
        update: Mapping[str, Any],
        array_filters: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self._filters = item_filters(array_filters)
        steps: list[tuple[list[str], str, Any]] = []
        for operator, spec in update.items():
            if operator not in _CHANGES and operator not in ("$setOnInsert", "$rename"):
                raise (
                    lacking(operator)
                    if operator.startswith("$")
                    else refused(9, "an update has operators only")
                )
            if operator == "$rename":
                raise lacking(operator)
            if not isinstance(spec, Mapping):
                raise refused(9, f"Modifiers operate on fields, not on a {type_name(spec)}")
            steps += [(path.split("."), operator, operand) for path, operand in spec.items()]
        # A server goes through the paths in their order, and so the order of new fields is theirs.
        self._steps = sorted(steps, key=lambda step: [_rank(part) for part in step[0]])
        for (one, *_), (other, *_) in zip(self._steps, self._steps[1:], strict=False):
            if other[: len(one)] == one:
                raise refused(CONFLICT, f"Updating the path would create a conflict at {one!r}")

    def apply(self, document: Mapping[str, Any], *, is_new: bool = False) -> Document:
        """Return the document as it is afterwards; the one that is given stays as it is.

        Raises:
            WriteError: The server refuses it for this document.
            NotImplementedError: Only the server knows the result.
        """
        result: Document = copied(document)
        # A server finds the places of all changes before it makes the first.
        steps = [
            (place, "$set" if operator == "$setOnInsert" else operator, operand)
            for path, operator, operand in self._steps
            if is_new or operator != "$setOnInsert"
            for place in self._places(document, path)
        ]
        for place, operator, operand in steps:
            _change(result, place, operator, operand)
        if not is_new and key(result.get("_id", MISSING)) != key(document["_id"]):
            text = "Performing an update on the path '_id' would modify the immutable field '_id'"
            raise refused(IMMUTABLE, text)
        return result

    def _places(self, document: Mapping[str, Any], path: list[str]) -> list[list[str]]:
        if not any(part.startswith("$") for part in path):
            return [path]
        return list(_positions(document, path, 0, self._filters))


def _rank(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if is_position(part) else (1, 0, part)


def _positions(value: Any, path: list[str], start: int, filters: Filters) -> Iterator[list[str]]:
    for number in range(start, len(path)):
        part = path[number]
        if part.startswith("$["):
            name = part[2:-1]
            if name and name not in filters:
                raise refused(BAD, f"No array filter found for identifier {name!r}")
            if not is_list(value):
                raise refused(
                    BAD,
                    "The path must exist in the document in order to apply array updates"
                    if value is MISSING
                    else f"Cannot apply array updates to non-array element {part!r}",
                )
            for position, item in enumerate(value):
                if not name or filters[name]({name: item}):
                    here = [*path[:number], str(position), *path[number + 1 :]]
                    yield from _positions(item, here, number + 1, filters)
            return
        if part == "$":
            raise lacking("the position of the item that a filter found")
        value = _inside(value, part)
    yield path


def _inside(value: Any, part: str) -> Any:
    if is_dict(value):
        return value.get(part, MISSING)
    if is_list(value) and is_position(part) and int(part) < len(value):
        return value[int(part)]
    return MISSING


# -- one change -----------------------------------------------------------------------------------


def _change(document: Document, path: list[str], operator: str, operand: Any) -> None:
    """Change what a path leads to, in place."""
    holder: Any = document
    for number, part in enumerate(path):
        if not _leads_on(holder, part):
            if operator == "$unset":
                return
            raise refused(NO_WAY, f"Cannot use the part {part!r} to go on in {path[:number]}")
        before = _inside(holder, part)
        if number == len(path) - 1:
            _change_last(holder, part, before, operator, operand)
        elif before is MISSING:
            if operator not in _REMOVING:
                after = _CHANGES[operator](MISSING, operand)
                for name in reversed(path[number + 1 :]):
                    after = {name: after}
                _put(holder, part, after)
            return
        holder = before


def _leads_on(holder: Any, part: str) -> bool:
    return is_dict(holder) or (is_list(holder) and is_position(part))


def _change_last(holder: Any, part: str, before: Any, operator: str, operand: Any) -> None:
    if operator in _REMOVING and before is MISSING:
        return
    after = _CHANGES[operator](before, operand)
    if after is not MISSING:
        _put(holder, part, after)
    elif is_list(holder):
        holder[int(part)] = None  # the server leaves null in its place
    else:
        del holder[part]


def _put(holder: Any, part: str, value: Any) -> None:
    if is_dict(holder):
        holder[part] = value
        return
    position = int(part)
    if position - len(holder) > MAX_PADDING:
        raise refused(165, "cannot backfill array to reach this position")
    holder += [None] * (position + 1 - len(holder))
    holder[position] = value


def _result(operator: str, before: Any, operand: Any) -> Any:
    return _CHANGES[operator](before, operand)


def _arithmetic(name: str, compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def change(before: Any, operand: Any) -> Any:
        if not is_number(operand):
            raise refused(MISFIT, f"Cannot {name} with non-numeric argument")
        if before is MISSING:
            return operand if name == "increment" else combined(0, operand, compute)
        if not is_number(before):
            symbol = "$inc" if name == "increment" else "$mul"
            raise refused(MISFIT, f"Cannot apply {symbol} to a value of non-numeric type")
        try:
            return combined(before, operand, compute)
        except OutOfRange:
            raise refused(BAD, "Failed to apply $inc operations to current value") from None

    return change


def _extreme(is_less: bool) -> Callable[[Any, Any], Any]:
    def change(before: Any, operand: Any) -> Any:
        if before is MISSING:
            return copied(operand)
        one, other = key(operand), key(before)
        return copied(operand) if (one < other if is_less else one > other) else before

    return change


def _now(before: Any, operand: Any) -> Any:
    if operand is not True and operand != {"$type": "date"}:
        raise lacking("$currentDate of a timestamp")
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _items(before: Any, operator: str, code: int = BAD) -> list[Any]:
    if before is MISSING:
        return []
    if not is_list(before):
        kind = type_name(before)
        raise refused(code, f"The field must be an array but is of type {kind} ({operator})")
    return list(before)


def _push(before: Any, operand: Any) -> Any:
    items = _items(before, "$push")
    if not (is_dict(operand) and "$each" in operand):
        if is_operators(operand):
            raise lacking("$push of operators without $each")
        return [*items, copied(operand)]
    unknown = operand.keys() - {"$each", "$position", "$sort", "$slice"}
    if unknown or not is_list(operand["$each"]):
        raise refused(BAD, "Unrecognized clause in $push, or no array for $each")
    at = operand.get("$position", len(items))
    start = at if at >= 0 else max(0, len(items) + at)
    items = [*items[:start], *copied(operand["$each"]), *items[start:]]
    if "$sort" in operand:
        items = _sorted(items, operand["$sort"])
    if "$slice" in operand:
        most = operand["$slice"]
        items = items[:most] if most >= 0 else items[most:]
    return items


def _sorted(items: list[Any], order: Any) -> list[Any]:
    if not isinstance(order, Mapping):
        return sorted(items, key=key, reverse=order == -1)
    for path, direction in reversed(list(order.items())):
        by = functools.partial(_field, path=path.split("."))
        items = sorted(
            items, key=by, reverse=direction == -1
        )  # which keeps the order of equal ones
    return items


def _field(item: Any, path: list[str]) -> Any:
    value: Any = item if is_dict(item) else MISSING
    for part in path:
        if is_list(value):
            raise lacking("$sort of a $push by a path through a list")
        value = value.get(part, MISSING) if is_dict(value) else MISSING
    return key(None if value is MISSING else value)


def _add_to_set(before: Any, operand: Any) -> Any:
    items = _items(before, "$addToSet")
    several = is_dict(operand) and "$each" in operand
    if several and (len(operand) > 1 or not is_list(operand["$each"])):
        raise refused(BAD, "$addToSet takes $each with an array and nothing else")
    if not several and is_operators(operand):
        raise lacking("$addToSet of operators")
    known = {key(item) for item in items}
    for item in operand["$each"] if several else [operand]:
        wanted = key(item)
        if wanted not in known:
            known.add(wanted)
            items.append(copied(item))
    return items


def _pull(before: Any, operand: Any) -> Any:
    items = _items(before, "$pull")
    if is_operators(operand) and next(iter(operand)) not in ("$and", "$or", "$nor"):
        fits = predicate({"": operand})
        return [item for item in items if not fits({"": item})]
    if isinstance(operand, Mapping):
        matches = predicate(operand)
        return [item for item in items if not (is_dict(item) and matches(item))]
    test = equal(operand)
    return [item for item in items if not test([item])]


def _pull_all(before: Any, operand: Any) -> Any:
    items = _items(before, "$pullAll")
    if not is_list(operand):
        raise refused(BAD, "$pullAll requires an array argument")
    gone = {key(item) for item in operand}
    return [item for item in items if key(item) not in gone]


def _pop(before: Any, operand: Any) -> Any:
    if isinstance(operand, bool) or operand not in (1, -1):
        raise refused(9, "$pop expects 1 or -1")
    items = _items(before, "$pop", MISFIT)
    return items[:-1] if operand == 1 else items[1:]


_REMOVING: Final = frozenset({"$unset", "$pull", "$pullAll", "$pop"})
"""The operators that make nothing on the way to a path."""

_CHANGES: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$set": lambda _, operand: copied(operand),
    "$unset": lambda _, __: MISSING,
    "$inc": _arithmetic("increment", lambda one, other: one + other),
    "$mul": _arithmetic("multiply", lambda one, other: one * other),
    "$min": _extreme(True),
    "$max": _extreme(False),
    "$currentDate": _now,
    "$push": _push,
    "$addToSet": _add_to_set,
    "$pull": _pull,
    "$pullAll": _pull_all,
    "$pop": _pop,
}


# -- upserts --------------------------------------------------------------------------------------


def from_filter(filter: Mapping[str, Any]) -> Document:
    """Return the document with which an upsert begins: the values that the filter asks for."""
    document: Document = {}
    for path, value in _equalities(filter):
        _change(document, path.split("."), "$set", value)
    return document


def _equalities(filter: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in filter.items():
        if name == "$and":
            for child in value:
                yield from _equalities(child)
        elif name == "$or" and len(value) == 1:
            yield from _equalities(value[0])
        elif name.startswith("$"):
            continue
        elif not is_operators(value):
            yield name, value
        elif "$eq" in value:
            yield name, value["$eq"]
        elif is_list(value.get("$in")) and len(value["$in"]) == 1:
            yield name, value["$in"][0]
        elif is_list(value.get("$all")) and len(value["$all"]) == 1:
            yield name, value["$all"][0]
