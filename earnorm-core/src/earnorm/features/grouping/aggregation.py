"""What ``group()`` can compute: Sum, Avg, Min, Max, Count, First, Last, AddToSet, Stats.

Each is a small class: the accumulators of MongoDB's ``$group`` that it needs, what becomes of them
afterwards, and the field that decodes the result. ``grouping`` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from earnorm.domain.bson_order import key as bson_key
from earnorm.exceptions import ValidationError
from earnorm.fields.base import Field
from earnorm.fields.geo import Geo
from earnorm.fields.identifiers import UUID, Binary, ObjectIdField
from earnorm.fields.money import Money
from earnorm.fields.numeric import Boolean, Float, Int
from earnorm.fields.relational import Relation
from earnorm.fields.structured import Dict, Embedded
from earnorm.fields.temporal import Date, DateTime
from earnorm.fields.text import String
from earnorm.model.writing.updates import AddingToSet, Bounding

Accumulators = Mapping[str, Mapping[str, Any]]
"""MongoDB accumulators by a suffix of the result's column."""


class HasPath(Protocol):
    """A field of a model, as an expression: ``Sale.amount``."""

    @property
    def path(self) -> str:
        """Its path from the model."""
        ...


PathLike = str | HasPath
"""``"amount"``, ``"address.city"`` or ``Sale.amount``."""


def path_of(value: object) -> str | None:
    """The path that a text or a field means; None for anything else."""
    if isinstance(value, str):
        return value
    found = getattr(value, "path", None)
    return found if isinstance(found, str) else None


# The database leaves what is no number out of a sum in silence; these never hold one.
_NO_NUMBERS = (
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
        path: The field whose values are looked at.
    """

    operator: ClassVar[str]
    """The accumulator, e.g. ``$sum``."""
    of_numbers: ClassVar[bool] = False
    """Only numbers can be computed with."""
    of_lists: ClassVar[bool] = False
    """A whole list can be the value."""
    by_order: ClassVar[bool] = False
    """The result depends on the order of the records."""
    ignores_unset: ClassVar[bool] = False
    """The accumulator passes over null and missing values by itself."""

    def __init__(self, path: PathLike) -> None:
        self.argument: Any = path

    @property
    def path(self) -> str:
        """The field's path; empty where none is needed.

        Raises:
            ValidationError: The argument is no path.
        """
        found = path_of(self.argument)
        if found is None:
            message = f'{type(self).__name__}() takes a field\'s path here, e.g. "amount"'
            raise ValidationError("group", [{"loc": (), "msg": message, "type": "group"}])
        return found

    def refusal(self, field: Field[Any, Any]) -> str:
        """Why it cannot be computed over this field; empty where it can."""
        if self.of_numbers and isinstance(field, _NO_NUMBERS):
            return f"{field.name} holds no numbers ({type(field).__name__})"
        return ""

    def accumulators(self, value: Any) -> Accumulators:
        """What ``$group`` keeps, for the expression of the field's value."""
        return {"": {self.operator: value}}

    def result(self, column: str) -> Any:
        """The expression of the result, from the columns that ``$group`` kept."""
        return f"${column}"

    def field(self, field: Field[Any, Any] | None) -> Field[Any, Any]:
        """The field that the result is a value of: it decodes it, and ``having`` compares by it."""
        assert field is not None  # only Count has no path
        return field

    def decode(self, value: Any, field: Field[Any, Any]) -> Any:
        """The result's Python value, from its stored form."""
        return None if value is None else field.decode(value)

    def nothing(self) -> Any:
        """The result, in stored form, where no record matches."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({path_of(self.argument)!r})"


def _named(field: Field[Any, Any], name: str) -> Field[Any, Any]:
    field.__set_name__(Aggregate, name)
    return field


_WHOLE = _named(Int(), "number")
_FLOAT = _named(Float(), "number")


class Sum(Aggregate):
    """The sum of a field's values; 0 where there are none."""

    operator = "$sum"
    of_numbers = True
    ignores_unset = True

    def nothing(self) -> Any:  # noqa: D102 - see Aggregate
        return 0


class Avg(Aggregate):
    """The mean of a field's values; None where there are none."""

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

    In ``group()``: of a field's values, unset ones left out; None where there are none. In
    ``write()``: of the stored value and this one, which is set where nothing is.

    Args:
        argument: In ``group()`` the field's path, in ``write()`` a value.
    """

    operator = "$min"
    ignores_unset = True


class Max(_Extreme):
    """The highest of some values.

    In ``group()``: of a field's values; None where there are none. In ``write()``: of the stored
    value and this one, which is set where nothing is.

    Args:
        argument: In ``group()`` the field's path, in ``write()`` a value.
    """

    operator = "$max"
    ignores_unset = True


class First(Aggregate):
    """The value of the group's first record, by the query's order (by id where it has none)."""

    operator = "$first"
    of_lists = True
    by_order = True


class Last(Aggregate):
    """The value of the group's last record, by the query's order (by id where it has none)."""

    operator = "$last"
    of_lists = True
    by_order = True


class AddToSet(Aggregate, AddingToSet):
    """Each value once.

    In ``group()``: the different values of a field as a list in their order, unset ones left out.
    In ``write()``: append the items that a list does not have; an unset one is made.

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
        # The database gives them in no order.
        found = sorted((item for item in value if item is not None), key=bson_key)
        return [field.decode(item) for item in found]

    def nothing(self) -> Any:  # noqa: D102
        return []


class Count(Aggregate):
    """How many records; with a path, how many in which it is set.

    Args:
        path: The field that has to be set.
        distinct: Count the different values that it has instead.
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
        return _WHOLE

    def nothing(self) -> Any:  # noqa: D102
        return 0


class Stats(Aggregate):
    """``{"count", "sum", "min", "max", "avg", "stddev"}`` of a field's values, in one.

    ``count`` is of the records in which it is set; ``stddev`` is that of the whole population.
    In ``having`` and ``order`` its parts are named ``"price.avg"``, for ``price=Stats("price")``.
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
        """One part's field, and the function that decodes its value."""
        part = Stats.PARTS.get(name)
        if part is None:
            return (_WHOLE if name == "count" else _FLOAT), lambda value: value
        own = part.field(field)
        return own, lambda value: part.decode(value, own)

    def nothing(self) -> Any:  # noqa: D102
        parts = {name: part.nothing() for name, part in self.PARTS.items()}
        return {"count": 0, **parts, "stddev": None}
