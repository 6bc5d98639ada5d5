"""What ``group()`` can compute: Sum, Avg, Min, Max, Count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earnorm.exceptions import ValidationError
from earnorm.operations import GroupSpec
from earnorm.schema import Schema


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One computed value of a group; made by the functions below."""

    accumulator: Callable[[str], Mapping[str, Any]]
    path: str = ""


def Sum(path: str) -> Aggregate:  # noqa: N802 - reads like the classes of fields
    """The sum of a field's values."""
    return Aggregate(lambda stored: {"$sum": f"${stored}"}, path)


def Avg(path: str) -> Aggregate:  # noqa: N802
    """The mean of a field's values; None where there are none."""
    return Aggregate(lambda stored: {"$avg": f"${stored}"}, path)


def Min(path: str) -> Aggregate:  # noqa: N802
    """The lowest value of a field."""
    return Aggregate(lambda stored: {"$min": f"${stored}"}, path)


def Max(path: str) -> Aggregate:  # noqa: N802
    """The highest value of a field."""
    return Aggregate(lambda stored: {"$max": f"${stored}"}, path)


def Count() -> Aggregate:  # noqa: N802
    """How many records."""
    return Aggregate(lambda _: {"$sum": 1})


def group_spec(
    schema: Schema, keys: Sequence[str], aggregates: Mapping[str, Aggregate]
) -> GroupSpec:
    """What a group operation carries.

    Raises:
        DomainError: A path that is no field.
        ValidationError: A value that is no aggregate, or a name used twice.
    """
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate) or name in keys:
            message = (
                f"{name!r} is a key already"
                if name in keys
                else f'{name}= takes an aggregate, e.g. {name}=Sum("price")'
            )
            raise ValidationError("group", [{"loc": (name,), "msg": message, "type": "group"}])
    return GroupSpec(
        {key: schema.path_of(key) for key in keys},
        {
            name: aggregate.accumulator(schema.path_of(aggregate.path) if aggregate.path else "")
            for name, aggregate in aggregates.items()
        },
    )
