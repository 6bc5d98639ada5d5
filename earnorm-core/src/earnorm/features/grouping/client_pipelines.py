"""Pipelines that a client has sent: stages, words and names from lists, over the offered fields only.

The names that a pipeline reads are checked here. What it sees is decided by :func:`narrowed`: the
documents reach its stages with nothing but the offered fields, so that a name which this module took
for another one finds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from earnorm.domain.client_text import checked_names, refuse
from earnorm.domain.values import PLAIN_STORED
from earnorm.features.grouping.inspection import Loc, Stage
from earnorm.features.grouping.vocabulary import CONDITIONS, EXPRESSIONS
from earnorm.kernel.serving.searches import Sight

_WHAT: Final = "pipeline"
_NO_NAME: Final = "it names a field that is not offered"

STAGES: Final = frozenset(
    {
        *("$addFields", "$bucket", "$count", "$group", "$limit", "$match", "$project", "$set"),
        *("$skip", "$sort", "$sortByCount", "$unset", "$unwind"),
    }
)
"""The stages that a client may use: each looks at the records themselves, and makes no more rows of
them than they have items."""

WORDS: Final = frozenset(
    {
        *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$size", "$all"),
        *("$and", "$or", "$nor", "$not", "$elemMatch", "$cond", "$ifNull", "$cmp", "$switch"),
        *("$sum", "$avg", "$min", "$max", "$count", "$first", "$last", "$stdDevPop"),
        *("$abs", "$add", "$ceil", "$divide", "$floor", "$mod", "$multiply", "$round"),
        *("$subtract", "$trunc", "$toLower", "$toUpper", "$substrCP", "$strLenCP"),
        *("$dateTrunc", "$dateDiff", "$year", "$month", "$week", "$dayOfMonth", "$dayOfWeek"),
        *("$hour", "$minute"),
    }
)
"""The operators that a client may use unless the program says otherwise: none runs a pattern, goes
through a list, or collects values."""


class Bounds(NamedTuple):
    """The size that a client's pipeline may have."""

    stages: int
    depth: int
    values: int
    length: int
    rows: int


class ClientStage(dict[str, Any]):
    """One stage that a client has sent, so that it is not used without the others."""


class ClientPipeline(tuple[ClientStage, ...]):
    """The stages that a client has sent, and the fields that they see."""

    fields: frozenset[str]


def narrowed(sight: Sight, fields: Collection[str]) -> Sight:
    """Return a sight of nothing but these stored paths, as far as it sees them, and the id."""
    seen = {path for path in fields if sight.sees(path)}
    whole = {path for path in seen if not any(path.startswith(f"{other}.") for other in seen)}
    return sight._replace(keys=dict.fromkeys(sorted(whole | {"_id"}), 1))


class PipelineOffer:
    """The fields, the stages and the words that a client's pipeline may use.

    Raises:
        TypeError: A stage or a word is none that can be offered.
    """

    def __init__(
        self,
        fields: Collection[str],
        stages: Collection[str] | None,
        operators: Collection[str] | None,
        bounds: Bounds,
    ) -> None:
        self._fields = checked_names("fields", fields)
        self._stages = STAGES if stages is None else checked_names("stages", stages)
        self._words = WORDS if operators is None else checked_names("operators", operators)
        self._bounds = bounds
        unknown = (self._stages - STAGES) | (self._words - CONDITIONS - EXPRESSIONS.keys())
        if unknown or any(name.startswith("$") for name in self._fields):
            raise TypeError(
                f"earnorm.untrusted.pipeline(): cannot be offered: "
                f"{', '.join(sorted(unknown) or self._fields)}"
            )

    def read(self, data: object) -> ClientPipeline:
        """Read what a client has sent; see ``earnorm.untrusted.pipeline``."""
        bounds = self._bounds
        if not isinstance(data, list | tuple):
            refuse(_WHAT, (), "it is no list of stages")
        if len(data) > bounds.stages:
            refuse(_WHAT, (), f"it has more than {bounds.stages} stages")
        left = bounds.values
        stages: list[ClientStage] = []
        names = Names(self._fields, self._words)
        for position, stage in enumerate(data):
            if not isinstance(stage, dict) or len(stage) != 1:
                refuse(_WHAT, (position,), "a stage is an object of one key")
            ((name, value),) = stage.items()
            if not isinstance(name, str) or name not in self._stages:
                refuse(_WHAT, (position,), "it is a stage that is not offered")
            loc = (position, name)
            value, left = self._copied(value, loc, left)
            _READ[name](names, value, loc)
            stages.append(ClientStage({name: value}))
        pipeline = ClientPipeline([*stages, ClientStage({"$limit": bounds.rows})])
        pipeline.fields = self._fields
        return pipeline

    def _copied(self, value: object, loc: Loc, left: int, level: int = 1) -> tuple[Any, int]:
        """Return a copy of plain data, and the number of values that the rest may have."""
        bounds = self._bounds
        left -= 1
        if left < 0:
            refuse(_WHAT, loc, f"it has more than {bounds.values} values")
        if level > bounds.depth:
            refuse(_WHAT, loc, f"it has more than {bounds.depth} levels")
        if type(value) is dict:
            copy: dict[str, Any] = {}
            for key, item in value.items():
                if type(key) is not str or "\0" in key or len(key) > bounds.length:
                    refuse(_WHAT, loc, f"a key is a text of at most {bounds.length} characters")
                copy[key], left = self._copied(item, loc, left, level + 1)
            return copy, left
        if type(value) is list:
            items: list[Any] = []
            for item in value:
                copied, left = self._copied(item, loc, left, level + 1)
                items.append(copied)
            return items, left
        if type(value) not in PLAIN_STORED:
            refuse(
                _WHAT, loc, "a value is a text, a number, true, false, null, or a list or object"
            )
        if isinstance(value, str | bytes) and len(value) > bounds.length:
            refuse(_WHAT, loc, f"a text is longer than {bounds.length} characters")
        if isinstance(value, float) and not math.isfinite(value):
            refuse(_WHAT, loc, "a number is not finite")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            refuse(_WHAT, loc, "a number has more than 64 bits")
        return value, left


class Names:
    """The names that a stage of a pipeline may read: those offered, and those that it has made.

    Args:
        fields: The offered paths.
        words: The offered operators.
    """

    def __init__(self, fields: Collection[str], words: Collection[str]) -> None:
        self._paths = {*fields, "_id"}
        self._words = words

    def replace(self, names: Collection[str], loc: Loc) -> None:
        """Note that the rows have these names from here on, and no others."""
        self._paths = {"_id"}
        self.add(names, loc)

    def add(self, names: Collection[str], loc: Loc) -> None:
        """Note that the pipeline makes these names."""
        for name in names:
            if not name or name.startswith("$") or not all(name.split(".")):
                refuse(
                    _WHAT, loc, "the name of a result has no $ at its beginning, and no empty part"
                )
        self._paths.update(names)

    def path(self, path: object, loc: Loc) -> None:
        """Refuse a path that is neither offered nor made, nor lies inside of such a one."""
        if isinstance(path, str):
            parts = path.split(".")
            if any(".".join(parts[: n + 1]) in self._paths for n in range(len(parts))):
                return
        refuse(_WHAT, loc, _NO_NAME)

    def word(self, word: str, loc: Loc) -> None:
        """Refuse an operator that is not offered."""
        if word not in self._words:
            refuse(_WHAT, loc, "it uses an operator that is not offered")

    # -- parts of stages ----------------------------------------------------------------------

    def condition(self, value: Any, loc: Loc) -> None:
        """Check a condition on documents."""
        for key, item in self.object(value, loc).items():
            if not key.startswith("$"):
                self.path(key, loc)
                self._operand(item, loc)
                continue
            self.word(key, loc)
            if key not in ("$and", "$or", "$nor") or not isinstance(item, list):
                refuse(_WHAT, loc, "it is no condition on a field")
            for part in item:
                self.condition(part, loc)

    def _operand(self, value: Any, loc: Loc) -> None:
        """Check what a field is compared with: names in it lie inside of the field."""
        if isinstance(value, dict):
            for key, item in value.items():
                if key.startswith("$"):
                    self.word(key, loc)
                self._operand(item, loc)
        elif isinstance(value, list):
            for item in value:
                self._operand(item, loc)

    def expression(self, value: Any, loc: Loc) -> None:
        """Check an expression."""
        if isinstance(value, dict):
            for key, item in value.items():
                if key.startswith("$"):
                    self.word(key, loc)
                self.expression(item, loc)
        elif isinstance(value, list):
            for item in value:
                self.expression(item, loc)
        elif isinstance(value, str) and value.startswith("$"):
            self.path(value[1:], loc)

    def object(self, value: Any, loc: Loc) -> dict[str, Any]:
        """Return an object, and refuse another value."""
        if not isinstance(value, dict):
            refuse(_WHAT, loc, "it takes an object")
        return value


def _match(names: Names, value: Any, loc: Loc) -> None:
    names.condition(value, loc)


def _sort(names: Names, value: Any, loc: Loc) -> None:
    for path, direction in names.object(value, loc).items():
        names.path(path, loc)
        if type(direction) is not int or direction not in (1, -1):
            refuse(_WHAT, loc, "a direction is 1 or -1")


def _skip(names: Names, value: Any, loc: Loc) -> None:
    if type(value) is not int or value < 0:
        refuse(_WHAT, loc, "it takes a whole number from 0")


def _limit(names: Names, value: Any, loc: Loc) -> None:
    if type(value) is not int or value < 1:
        refuse(_WHAT, loc, "it takes a whole number from 1")


def _count(names: Names, value: Any, loc: Loc) -> None:
    names.replace([_text(value, loc)], loc)


def _set(names: Names, value: Any, loc: Loc) -> None:
    fields = names.object(value, loc)
    for item in fields.values():
        names.expression(item, loc)
    names.add(fields, loc)


def _project(names: Names, value: Any, loc: Loc) -> None:
    made: list[str] = []
    for path, item in names.object(value, loc).items():
        if isinstance(item, bool | int | float):
            names.path(path, loc)
        elif isinstance(item, dict) and not all(key.startswith("$") for key in item):
            refuse(_WHAT, loc, 'it takes paths: {"address.city": 1}')
        else:
            names.expression(item, loc)
            made.append(path)
    names.add(made, loc)


def _unset(names: Names, value: Any, loc: Loc) -> None:
    for path in value if isinstance(value, list) else [value]:
        names.path(path, loc)


def _unwind(names: Names, value: Any, loc: Loc) -> None:
    spec = value if isinstance(value, dict) else {"path": value}
    if not spec.keys() <= {"path", "preserveNullAndEmptyArrays"}:
        refuse(_WHAT, loc, "it takes a path and preserveNullAndEmptyArrays")
    path = _text(spec.get("path"), loc)
    if not path.startswith("$"):
        refuse(_WHAT, loc, 'a path begins with $: "$lines"')
    names.path(path[1:], loc)


def _group(names: Names, value: Any, loc: Loc) -> None:
    fields = names.object(value, loc)
    for item in fields.values():
        names.expression(item, loc)
    names.replace(fields, loc)


def _sort_by_count(names: Names, value: Any, loc: Loc) -> None:
    names.expression(value, loc)
    names.replace(["count"], loc)


def _bucket(names: Names, value: Any, loc: Loc) -> None:
    spec = names.object(value, loc)
    if not spec.keys() <= {"groupBy", "boundaries", "default", "output"}:
        refuse(_WHAT, loc, "it takes groupBy, boundaries, default and output")
    names.expression(list(spec.values()), loc)
    names.replace(names.object(spec.get("output", {"count": 1}), loc), loc)


def _text(value: Any, loc: Loc) -> str:
    return value if isinstance(value, str) else _refuse_text(loc)


def _refuse_text(loc: Loc) -> NoReturn:
    refuse(_WHAT, loc, "it takes a text")


_READ: Final[Mapping[str, Callable[[Names, Any, Loc], None]]] = {
    "$addFields": _set,
    "$bucket": _bucket,
    "$count": _count,
    "$group": _group,
    "$limit": _limit,
    "$match": _match,
    "$project": _project,
    "$set": _set,
    "$skip": _skip,
    "$sort": _sort,
    "$sortByCount": _sort_by_count,
    "$unset": _unset,
    "$unwind": _unwind,
}


def seen_by(own: Sequence[Stage], sight: Sight) -> Sight:
    """Return what a pipeline sees: for a client's, nothing but the offered fields."""
    return narrowed(sight, own.fields) if isinstance(own, ClientPipeline) else sight
