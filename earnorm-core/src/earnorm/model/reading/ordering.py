"""Parses and checks orders: ``"-age,name"`` or ``["-age", "name"]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from earnorm.exceptions import ConfigurationError, DomainError

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.declaring import Declaration
    from earnorm.model.schema import Schema

Order = str | Sequence[str] | None
"""``"-age,name"`` or ``["-age", "name"]``: field paths, descending with a minus sign."""


def parse_order(*order: Order) -> tuple[tuple[str, int], ...]:
    """Return paths with 1 (ascending) or -1, in their order.

    The first mention of a path decides; in a driver, the last one would.
    """
    directions: dict[str, int] = {}
    for one_order in order:
        parts = (
            (one_order or "").split(",")
            if isinstance(one_order, str) or one_order is None
            else one_order
        )
        for part in map(str.strip, parts):
            if part:
                directions.setdefault(part.lstrip("-+"), -1 if part.startswith("-") else 1)
    return tuple(directions.items())


# -- declared orders ------------------------------------------------------------------------------


def declare(declaration: Declaration) -> None:
    """Check the form of a class's ``_order``; its paths are checked with the App's class.

    Raises:
        TypeError: It is neither a text nor a list of texts.
    """
    order = declaration.value
    texts = [order] if isinstance(order, str) else order
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        declaration.refuse(f'an order is a text or a list of texts, "-date,name", not {order!r}')


def order_of(schema: Schema, order: Order) -> tuple[tuple[str, int], ...]:
    """Return a relation's own order, or the default order of the model that it leads to."""
    return schema.default_order if order is None else parse_order(order)


def check_orders(model: type[BaseModel], models: Mapping[str, type[BaseModel]]) -> None:
    """Check the default order of a model, and the orders of its relations.

    Args:
        model: The class with all extensions.
        models: The classes of the models to which its relations lead, by name; a relation to
            another model is not checked.

    Raises:
        ConfigurationError: A path leads to no stored value of the ordered records.
    """
    check_order(model._schema, model._schema.default_order, f"{model._name}._order")
    for field in model._schema.to_many:
        ordered = models.get(getattr(field, "through_name", "") or field.comodel_name)
        if field.order is not None and ordered is not None:
            where = f"{model._name}.{field.name}: order={field.order!r}"
            check_order(ordered._schema, parse_order(field.order), where)


def check_order(schema: Schema, order: Sequence[tuple[str, int]], where: str) -> None:
    """Refuse a declared order whose paths lead to no stored value of the record itself.

    Raises:
        ConfigurationError: It names the declaration and the path.
    """
    for path, _ in order:
        try:
            crossing = schema.crossing(path)
            if crossing is not None and crossing.rest:
                raise DomainError(
                    f"{path!r} lies in other records; a declared order is of the record's own values, "
                    f"e.g. of a stored related= field; the order of one query may lead there"
                )
            schema.path_of(path)
        except DomainError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigurationError(f"{where}: {problem}").coded("declared_order") from None


def checked_size(name: str, value: int) -> int:
    """Return a limit or an offset, and refuse an invalid one.

    Raises:
        ValueError: It is not a whole number from 0.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is a whole number from 0, not {value!r}")
    return value
