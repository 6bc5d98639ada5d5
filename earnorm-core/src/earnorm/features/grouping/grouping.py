"""Makes a GroupSpec of the arguments of ``group(...)``, and Python values of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from earnorm.domain import Domain, DomainSource, Operator, matcher, to_filter
from earnorm.domain.client_text import ClientOrder, ClientText
from earnorm.domain.schema import Path
from earnorm.exceptions import DomainError, ErrorDetail, ValidationError, nearest
from earnorm.features.grouping.aggregation import (
    Aggregate,
    Count,
    PathLike,
    Stats,
    is_id,
    row_value,
)
from earnorm.features.grouping.client_groups import ClientGroup
from earnorm.fields.expressions import find_path
from earnorm.fields.structured import List
from earnorm.fields.temporal import Date, DateTime
from earnorm.fields.zones import name_of_zone, time_zone
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import Operation
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.serving.requests import GroupSpec
from earnorm.model.reading.across import ACROSS, Across
from earnorm.model.reading.expression_paths import ExpressionPath, expression_path
from earnorm.model.reading.ordering import Order, checked_size, parse_order

if TYPE_CHECKING:
    import datetime

    from earnorm.kernel.environment import Env
    from earnorm.model.query import Query
    from earnorm.model.schema import Schema

GroupKey = PathLike | Mapping[str, PathLike] | ClientGroup
"""``"city"``, ``"created_at:month"``, ``Sale.city``, or ``{"month": "created_at:month"}``; instead of
all arguments, what ``untrusted.group()`` has read."""

UNITS = ("year", "quarter", "month", "week", "day", "hour")


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    reached: ExpressionPath
    expression: Any
    zone: datetime.tzinfo | None = None
    """The time zone of the key, if it is a bucket of date-times."""

    @property
    def alone(self) -> Any:
        """The expression of the key if it is the group's only one."""
        reached = self.reached
        return reached.plain if self.expression is reached.expression else self.expression

    def decode(self, value: Any) -> Any:
        decoded = row_value(self.reached.field, value)
        return decoded if self.zone is None or value is None else decoded.astimezone(self.zone)


class Grouping:
    """One call of ``group()``: makes its pipeline, and decodes its rows.

    Args:
        schema: The model's schema.
        env: The buckets of dates follow its time zone (``context["tz"]``).
        operators: The App's operators, for ``having``.
        keys: The paths to group by.
        aggregates: The aggregates by the names of their results.
        having: A domain over the result names.
        order: Result names, as for a query; rows that are equal in it are ordered by the keys.
        limit: The most rows to return; 0 means all.
        across: Records the paths that lead into other records.

    Raises:
        DomainError: A path is no field, or a condition does not fit.
        ValidationError: A value is no key or aggregate, or a name is used twice.
    """

    def __init__(
        self,
        schema: Schema,
        env: Env,
        operators: Mapping[str, Operator],
        keys: Sequence[GroupKey],
        aggregates: Mapping[str, Aggregate],
        *,
        having: DomainSource = None,
        order: Order = None,
        limit: int = 0,
        across: Across | None = None,
    ) -> None:
        self._schema = schema
        self._across = across
        self._keys: dict[str, _Key] = {}
        paths: list[str] = []
        for name, path in _names_and_paths(keys):
            if name in self._keys:
                raise _error(name, "is a key already")
            paths.append(path)
            self._keys[name] = self._key(name, path, env)
        self._aggregates: dict[str, tuple[Aggregate, ExpressionPath | None]] = {}
        unwound = [list_path for key in self._keys.values() for list_path in key.reached.lists]
        self._unwound = tuple(dict.fromkeys(unwound))
        if across is not None:
            self._check_links(across, [path.partition(":")[0] for path in paths])
        for name, aggregate in aggregates.items():
            self._aggregates[name] = self._checked(name, aggregate)
        self.name = schema.name
        self._having = Domain(having)
        self._having_matches = matcher(self._having, self, operators)
        self.spec = GroupSpec(
            keys={name: key.reached.db_path for name, key in self._keys.items()},
            aggregates={
                name: reached.db_path if reached else ""
                for name, (_, reached) in self._aggregates.items()
            },
            stages=tuple(self._stages(operators, parse_order(order), limit)),
        )

    @property
    def needs_order(self) -> bool:
        """True if a result depends on the order of the records."""
        return any(aggregate.by_order for aggregate, _ in self._aggregates.values())

    # -- keys and aggregates ------------------------------------------------------------------

    def _expression_path(self, path: str, *, each: bool = False) -> ExpressionPath:
        across = self._across
        if across is None or not across.leads_away(path):
            return expression_path(self._schema, path)
        key, field = across.key(path, each=each), across.field(path, each=each)
        if isinstance(field, List):
            raise DomainError(
                f"{path!r} is a list in another record; a group looks at single values"
            )
        return ExpressionPath({"$ifNull": [f"${key}", None]}, key, field, (), False)

    def _check_links(self, across: Across, paths: Iterable[str]) -> None:
        """Refuse two keys through one list of links: they would not be values of one record."""
        seen = set(self._unwound)
        for path in paths:
            links = across.links_of(path)
            if links in seen:
                raise DomainError(
                    f"{path!r}: another key leads through the same list, and their values would not be "
                    f"those of one record; group the other model, or use aggregate()",
                    loc=(path,),
                )
            if links is not None:
                seen.add(links)

    def _key(self, name: str, path: str, env: Env) -> _Key:
        path, colon, unit = path.partition(":")
        reached = self._expression_path(path, each=True)
        if not colon:
            return _Key(name, reached, reached.expression)
        if unit not in UNITS:
            raise DomainError(f"{path}:{unit}: no such unit{nearest(unit, UNITS)}")
        field = reached.field
        trunc = {"date": reached.expression, "unit": unit, "startOfWeek": "monday"}
        if isinstance(field, DateTime):
            zone = time_zone(env.context)
            trunc["timezone"] = name_of_zone(zone)
            return _Key(name, reached, {"$dateTrunc": trunc}, zone)
        if isinstance(field, Date) and unit != "hour":
            return _Key(name, reached, {"$dateTrunc": trunc})  # a date is the same in every zone
        kind = type(field).__name__
        raise DomainError(f"{path} is a {kind}; it has no buckets by the {unit}")

    def _checked(self, name: str, aggregate: Aggregate) -> tuple[Aggregate, ExpressionPath | None]:
        if name in self._keys:
            raise _error(name, "is a key already")
        if not isinstance(aggregate, Aggregate):
            raise _error(name, f'{name}= takes an aggregate, e.g. {name}=Sum("price")')
        path = aggregate.path
        if not path:
            if not isinstance(aggregate, Count):
                raise _error(
                    name, f'{type(aggregate).__name__}() needs a field\'s path, e.g. "price"'
                )
            return aggregate, None
        reached = self._expression_path(path)
        whole_lists = [list_path for list_path in reached.lists if list_path not in self._unwound]
        if whole_lists and not (
            aggregate.of_lists and reached.ends_at_list and len(whole_lists) == 1
        ):
            raise _error(
                name,
                f"{path!r} leads through the list {whole_lists[0]!r}; group by a path through it as well, "
                f"or use aggregate() with $unwind",
            )
        if whole_lists:
            reached = ExpressionPath(
                reached.expression, reached.db_path, self._field(path), reached.lists, True
            )
        refusal = aggregate.refusal(reached.field)
        if refusal:
            raise _error(name, refusal)
        return aggregate, reached

    def _field(self, path: str) -> Any:
        return self._schema.resolve(path).field

    # -- the pipeline -------------------------------------------------------------------------

    def _stages(
        self, operators: Mapping[str, Operator], order: Sequence[tuple[str, int]], limit: int
    ) -> Iterator[Mapping[str, Any]]:
        for path in self._unwound:
            yield {"$unwind": {"path": f"${path}", "preserveNullAndEmptyArrays": True}}
        keys = {f"k{number}": key.expression for number, key in enumerate(self._keys.values())}
        group: dict[str, Any] = {"_id": keys or None}
        columns: dict[str, Any] = {name: f"$_id.{name}" for name in keys}
        if len(keys) == 1:
            # A single key needs no document around it, and a missing value is null already: this
            # takes two thirds of the time.
            [key] = self._keys.values()
            group["_id"], columns["k0"] = key.alone, "$_id"
        for number, (aggregate, reached) in enumerate(self._aggregates.values()):
            column = f"a{number}"
            value = None
            if reached:
                value = reached.plain if aggregate.ignores_unset else reached.expression
            for suffix, accumulator in aggregate.accumulators(value).items():
                group[column + suffix] = accumulator
            columns[column] = aggregate.result(column)
        yield {"$group": group}
        yield {"$project": {"_id": 0, **columns}} if columns else {"$project": {"_id": 1}}
        if not keys:
            return  # there is one row at most, and ``rows`` checks it, also if no record matches
        if self._having is not Domain.TRUE:
            yield {"$match": to_filter(self._having, self, operators)}
        sort = {self.resolve(name).db_path: direction for name, direction in order}
        for name in keys:
            sort.setdefault(name, 1)
        yield {"$sort": sort}
        if limit:
            yield {"$limit": limit}

    def substitute(self, path: str) -> None:
        """Return None: a result name stands for no other condition."""

    def crossing(self, path: str) -> None:
        """Return None: a result name leads into no other record."""

    def resolve(self, path: str) -> Path:
        """Resolve a result name of ``having`` or ``order``; see ``domain.schema.Schema``."""
        for number, key in enumerate(self._keys.values()):
            if key.name == path:
                return Path(f"k{number}", key.reached.field)
        name, _, part = path.partition(".")
        for number, (result_name, (aggregate, reached)) in enumerate(self._aggregates.items()):
            if result_name != name:
                continue
            field = aggregate.field(reached.field if reached else None)
            if isinstance(aggregate, Stats):
                if part in aggregate.nothing():
                    return Path(f"a{number}.{part}", aggregate.part(part, field)[0])
            elif not part:
                return Path(f"a{number}", field)
        known_names = [*self._keys, *self._aggregates]
        for name, (aggregate, _) in self._aggregates.items():
            if isinstance(aggregate, Stats):
                known_names += [f"{name}.{part}" for part in aggregate.nothing()]
        raise DomainError(f"group: no result is named {path!r}{nearest(path, known_names)}")

    # -- rows ---------------------------------------------------------------------------------

    def rows(self, stored_rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Decode the rows of a group operation to Python values."""
        if not self._keys:
            row = stored_rows[0] if stored_rows else self._empty_row()
            columns = {f"a{n}": row[name] for n, name in enumerate(self._aggregates)}
            stored_rows = [row] if self._having_matches(columns) else []
        rows: list[dict[str, Any]] = list(map(dict, stored_rows))
        for name, decode in self._decoders():
            for row in rows:
                row[name] = decode(row[name])
        return rows

    def _empty_row(self) -> dict[str, Any]:
        return {name: aggregate.nothing() for name, (aggregate, _) in self._aggregates.items()}

    def _decoders(self) -> Iterator[tuple[str, Callable[[Any], Any]]]:
        """Yield the name and the decoder of each column whose stored values must be converted."""
        for name, key in self._keys.items():
            if key.reached.field.converts or is_id(key.reached.field):
                yield name, key.decode
        for name, (aggregate, reached) in self._aggregates.items():
            field = aggregate.field(reached.field if reached else None)
            if field.converts or is_id(field) or type(aggregate).decode is not Aggregate.decode:
                yield name, partial(aggregate.decode, field=field)


def _names_and_paths(keys: Sequence[GroupKey]) -> Iterator[tuple[str, str]]:
    for key in keys:
        pairs: Mapping[Any, Any] = key if isinstance(key, Mapping) else {find_path(key): key}
        for name, value in pairs.items():
            path = find_path(value)
            if path is None or not isinstance(name, str):
                raise _error("group", f"{type(value).__name__} is no field's path to group by")
            yield name, path


def _error(name: str, message: str) -> ValidationError:
    text = message if message.startswith(f"{name}=") else f"{name}: {message}"
    detail: ErrorDetail = {"loc": (name,), "msg": text, "type": "group"}
    return ValidationError("group", [detail])


def _made_of(rows: Sequence[Mapping[str, Any]], into: Callable[..., Any]) -> list[Any]:
    """Make an object of each row.

    Raises:
        ValidationError: The object takes other names than those of the results.
    """
    try:
        return [into(**row) for row in rows]
    except TypeError as error:
        raise _error(
            "into", f"{getattr(into, '__name__', into)} does not take a row: {error}"
        ) from error


async def group(
    query: Query[Any],
    keys: Sequence[GroupKey],
    aggregates: Mapping[str, Aggregate],
    having: DomainSource,
    order: Order,
    limit: int,
    into: Callable[..., Any] | None = None,
) -> list[Any]:
    """Group the records of a query; see ``Query.group``."""
    need_feature("grouping", "group()")
    if ClientGroup in map(type, keys):
        if len(keys) > 1 or aggregates or having is not None or order or limit:
            raise _error("group", "takes nothing beside what untrusted.group() has read")
        keys, aggregates, having, order, limit = cast(ClientGroup, keys[0])
        query = query._by_client()
    elif (
        ClientText in map(type, keys)
        or Domain(having).is_untrusted
        or type(parse_order(order)) is ClientOrder
    ):
        query = query._by_client()
    env = current_env()
    across = Across(env.app.bind(query._model))
    bound, op = query._operation("group", env, across=across)
    grouping = Grouping(
        bound.schema,
        env,
        bound.operators,
        keys,
        aggregates,
        having=having,
        order=order,
        limit=checked_size("limit", limit),
        across=across,
    )
    options = op.options
    ordered = grouping.needs_order or options.limit or options.offset
    options = options.replace(
        group=grouping.spec,
        fields=None,
        order=(options.order or (("_id", 1),)) if ordered else (),
    )
    notes = {**op.notes, ACROSS: across.paths} if across.paths else op.notes
    op = Operation("group", op.model, env, op.domain, None, options, notes)
    rows: list[dict[str, Any]] = []
    stored_rows = await env.app.execute(op)
    for part in parts(stored_rows):
        rows += grouping.rows(part)
        if part is not stored_rows:
            await pause()
    return rows if into is None else _made_of(rows, into)
