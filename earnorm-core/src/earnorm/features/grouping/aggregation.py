"""The aggregates of ``group()``: Sum, Avg, Min, Max, Count, First, Last, AddToSet, Stats.

Each is a small class with the accumulators that it needs in MongoDB's ``$group``, the expression
that makes its result of them, and the field that decodes the result. ``grouping`` combines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bson import ObjectId

from earnorm.domain.bson_order import key as bson_key
from earnorm.exceptions import ValidationError
from earnorm.fields.base import Field
from earnorm.fields.comodels import MODELS
from earnorm.fields.expressions import Expressions, find_path
from earnorm.fields.geo import Geo
from earnorm.fields.identifiers import UUID, Binary, ObjectIdField
from earnorm.fields.money import Money
from earnorm.fields.numeric import Boolean, Float, Int
from earnorm.fields.record_ids import id_text
from earnorm.fields.relational import Relation
from earnorm.fields.structured import Dict, Embedded
from earnorm.fields.temporal import Date, DateTime
from earnorm.fields.text import String
from earnorm.model.writing.updates import AddingToSet, Bounding

Accumulators = Mapping[str, Mapping[str, Any]]
"""MongoDB accumulators by a suffix of the result's column."""


PathLike = str | Expressions[Any]
"""``"amount"``, ``"address.city"`` or ``Sale.amount``."""


# The database silently ignores values that are no numbers; fields of these classes never hold
# numbers.
_NOT_NUMERIC = (
    *(
        String,
        Boolean,
        DateTime,
        Date,
        ObjectIdField,
        UUID,
        Binary,
        Dict,
        Embedded,
        Relation,
        Money,
        Geo,
    ),
)


class Aggregate:
    """One computed value of each group.

    Args:
        path: The field whose values are used.
    """

    operator: ClassVar[str]
    """The accumulator, e.g. ``$sum``."""
    of_numbers: ClassVar[bool] = False
    """True if the values must be numbers."""
    of_lists: ClassVar[bool] = False
    """True if a whole list can be the value."""
    by_order: ClassVar[bool] = False
    """True if the result depends on the order of the records."""
    ignores_unset: ClassVar[bool] = False
    """True if the accumulator itself ignores null and missing values."""

    def __init__(self, path: PathLike) -> None:
        self.argument: Any = path

    @property
    def path(self) -> str:
        """The field's path; empty if the aggregate needs none.

        Raises:
            ValidationError: The argument is no path.
        """
        text = find_path(self.argument)
        if text is None:
            message = f'{type(self).__name__}() takes a field\'s path here, e.g. "amount"'
            raise ValidationError("group", [{"loc": (), "msg": message, "type": "group"}])
        return text

    def refusal(self, field: Field[Any, Any]) -> str:
        """Return the reason why it cannot be computed over this field; empty if it can."""
        if self.of_numbers and isinstance(field, _NOT_NUMERIC):
            return f"{field.name} holds no numbers ({type(field).__name__})"
        return ""

    def accumulators(self, value: Any) -> Accumulators:
        """Return the accumulators of ``$group``, for the expression of the field's value."""
        return {"": {self.operator: value}}

    def result(self, column: str) -> Any:
        """Return the expression of the result, made of the columns that ``$group`` kept."""
        return f"${column}"

    def field(self, field: Field[Any, Any] | None) -> Field[Any, Any]:
        """Return the field that decodes the result, and by which ``having`` compares it."""
        assert field is not None  # only Count has no path
        return field

    def decode(self, value: Any, field: Field[Any, Any]) -> Any:
        """Convert the result from its stored form to its Python value."""
        return row_value(field, value)

    def nothing(self) -> Any:
        """Return the result, in stored form, for the case that no record matches."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({find_path(self.argument)!r})"


def is_id(field: Field[Any, Any]) -> bool:
    """Return whether a field's stored values are ids of records, which rows show as text."""
    return field.name == "_id" or (isinstance(field, Relation) and bool(field.comodel_name))


def row_value(field: Field[Any, Any], value: Any) -> Any:
    """Return the Python value of a stored one; an id is the text that ``record.id`` shows."""
    if value is None or not is_id(field):
        return None if value is None else field.decode(value)
    if isinstance(value, list):  # the ids of a Many2many as a whole
        return [row_value(field, item) for item in value]
    of: Any = field
    if isinstance(field, Relation):
        target = MODELS.get(field.comodel) if isinstance(field.comodel, str) else field.comodel
        of = None if target is None else target._schema.fields["_id"]
    return str(value) if of is None or type(value) is ObjectId else id_text(of, value)


def _with_name(field: Field[Any, Any], name: str) -> Field[Any, Any]:
    field.__set_name__(Aggregate, name)
    return field


_INT = _with_name(Int(), "number")
_FLOAT = _with_name(Float(), "number")


class Sum(Aggregate):
    """The sum of a field's values; 0 if there are none."""

    operator = "$sum"
    of_numbers = True
    ignores_unset = True

    def nothing(self) -> Any:  # noqa: D102 - see Aggregate
        return 0


class Avg(Aggregate):
    """The mean of a field's values; None if there are none."""

    operator = "$avg"
    of_numbers = True
    ignores_unset = True

    def field(self, field: Field[Any, Any] | None) -> Field[Any, Any]:  # noqa: D102
        return _FLOAT if isinstance(field, Int) or field is None else field


class _Extreme(Aggregate, Bounding):
    def __init__(self, argument: object) -> None:
        self.argument = argument

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # the argument may be a value


class Min(_Extreme):
    """The lowest of some values.

    In ``group()``: of a field's values without the unset ones; None if there are none. In
    ``write()``: of the stored value and this one; if nothing is stored, this one.

    Args:
        argument: In ``group()`` the field's path, in ``write()`` a value.
    """

    operator = "$min"
    ignores_unset = True


class Max(_Extreme):
    """The highest of some values.

    In ``group()``: of a field's values; None if there are none. In ``write()``: of the stored
    value and this one; if nothing is stored, this one.

    Args:
        argument: In ``group()`` the field's path, in ``write()`` a value.
    """

    operator = "$max"
    ignores_unset = True


class First(Aggregate):
    """The value of the group's first record in the query's order (without one, ordered by id)."""

    operator = "$first"
    of_lists = True
    by_order = True


class Last(Aggregate):
    """The value of the group's last record in the query's order (without one, ordered by id)."""

    operator = "$last"
    of_lists = True
    by_order = True


class AddToSet(Aggregate, AddingToSet):
    """A set of values, each once.

    In ``group()``: the different values of a field as a sorted list, without the unset ones. In
    ``write()``: appends the items that a list does not have; an unset list is created.

    Args:
        *items: In ``group()`` the field's path, in ``write()`` the items.
    """

    operator = "$addToSet"

    def __init__(self, *items: object) -> None:
        AddingToSet.__init__(self, *items)
        self.argument = items[0] if len(items) == 1 else items

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # the items may be values

    def decode(self, value: Any, field: Field[Any, Any]) -> Any:  # noqa: D102
        # The database returns the values of a set in no particular order.
        values = sorted((item for item in value if item is not None), key=bson_key)
        return [row_value(field, item) for item in values]

    def nothing(self) -> Any:  # noqa: D102
        return []


class Count(Aggregate):
    """The number of records; with a path, of those in which the field is set.

    Args:
        path: The field that has to be set.
        distinct: Count the field's different values instead.
    """

    of_lists = True

    def __init__(self, path: PathLike = "", *, distinct: bool = False) -> None:
        super().__init__(path)
        self.distinct = distinct
        if distinct and not self.path:
            raise ValueError('Count(distinct=True) needs the field: Count("city", distinct=True)')

    def accumulators(self, value: Any) -> Accumulators:  # noqa: D102
        if self.distinct:
            return {"": {"$addToSet": value}}
        if not self.path:
            return {"": {"$sum": 1}}
        return {"": {"$sum": {"$cond": [{"$eq": [value, None]}, 0, 1]}}}

    def result(self, column: str) -> Any:  # noqa: D102
        if not self.distinct:
            return f"${column}"
        is_set = {"$ne": ["$$value", None]}
        return {"$size": {"$filter": {"input": f"${column}", "as": "value", "cond": is_set}}}

    def field(self, field: Field[Any, Any] | None) -> Field[Any, Any]:  # noqa: D102
        return _INT

    def nothing(self) -> Any:  # noqa: D102
        return 0


class Stats(Aggregate):
    """The ``count``, ``sum``, ``min``, ``max``, ``avg`` and ``stddev`` of a field's values.

    ``count`` counts the records in which the field is set; ``stddev`` is that of the whole
    population. ``having`` and ``order`` name a part as ``"price.avg"``, for
    ``price=Stats("price")``.
    """

    of_numbers = True

    PARTS: ClassVar[Mapping[str, Aggregate]] = {
        "sum": Sum(""),
        "min": Min(""),
        "max": Max(""),
        "avg": Avg(""),
    }

    def accumulators(self, value: Any) -> Accumulators:  # noqa: D102
        return {
            "count": {"$sum": {"$cond": [{"$eq": [value, None]}, 0, 1]}},
            **{name: {part.operator: value} for name, part in self.PARTS.items()},
            "stddev": {"$stdDevPop": value},
        }

    def result(self, column: str) -> Any:  # noqa: D102
        return {name: f"${column}{name}" for name in ("count", *self.PARTS, "stddev")}

    def decode(self, value: Any, field: Field[Any, Any]) -> Any:  # noqa: D102
        return {name: self.part(name, field)[1](part) for name, part in value.items()}

    @staticmethod
    def part(name: str, field: Field[Any, Any]) -> tuple[Field[Any, Any], Any]:
        """Return one part's field, and the function that decodes the part's value."""
        part = Stats.PARTS.get(name)
        if part is None:
            return (_INT if name == "count" else _FLOAT), lambda value: value
        own = part.field(field)
        return own, lambda value: part.decode(value, own)

    def nothing(self) -> Any:  # noqa: D102
        parts = {name: part.nothing() for name, part in self.PARTS.items()}
        return {"count": 0, **parts, "stddev": None}
