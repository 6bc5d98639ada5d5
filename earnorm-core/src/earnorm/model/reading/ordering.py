"""Parses and checks orders, and the sizes, the times and the names that a query is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, NoReturn

from earnorm.domain.client_text import ClientOrder, ClientText
from earnorm.domain.values import shorten
from earnorm.exceptions import ConfigurationError, DomainError, ValidationError
from earnorm.fields.expressions import Expressions

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.declaring import Declaration
    from earnorm.model.schema import Schema

Order = str | Expressions[Any] | Sequence[str | Expressions[Any]] | None
"""``"-age,name"``, ``["-age", "name"]`` or ``[-User.age, User.name]``: field paths, descending with a minus sign."""

_ORDERS: Final = '"-age,name" or ["-age", "name"]'
# The server adds an offset to a limit, and the sum must fit in 64 bits.
_MOST_RECORDS: Final = 2**62
# The server takes a time limit in milliseconds, in 32 bits.
_MOST_SECONDS: Final = 2_147_483


def parse_order(*order: Order) -> tuple[tuple[str, int], ...]:
    """Return paths with 1 (ascending) or -1, in their order.

    The first mention of a path decides; in a driver, the last one would. The result is a
    :class:`ClientOrder` if a client has sent a part.

    Raises:
        ValidationError: It is no text, nor a list of texts.
    """
    directions: dict[str, int] = {}
    is_client = False
    for one_order in order:
        if isinstance(one_order, Set):
            refuse("order", f"takes {_ORDERS}; a set has no order")
        if isinstance(one_order, Expressions):
            one_order = one_order._condition_path
        parts = (
            (one_order or "").split(",")
            if isinstance(one_order, str) or one_order is None
            else texts("order", one_order, _ORDERS)
        )
        if ClientText in (type(one_order), *map(type, parts)):
            is_client = True
        for part in map(str.strip, parts):
            if part:
                directions.setdefault(part.lstrip("-+"), -1 if part.startswith("-") else 1)
    return ClientOrder(directions.items()) if is_client else tuple(directions.items())


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
            schema.order_path_of(path)
        except DomainError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigurationError(f"{where}: {problem}").coded("declared_order") from None


# -- arguments of a query -------------------------------------------------------------------------


def texts(name: str, value: object, example: str) -> list[str]:
    """Return the texts of a list of texts; a text alone is a list of one, and a field means its path.

    Raises:
        ValidationError: It is no text, nor a list of texts.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, Expressions):
        return [value._condition_path]
    # The keys of a mapping are no list of texts: its values would be left out in silence.
    is_list = isinstance(value, Iterable) and not isinstance(value, Mapping | bytes)
    items: list[object] = list(value) if is_list else [value]  # type: ignore[call-overload] # as seen
    for position, item in enumerate(items):
        if isinstance(item, Expressions):
            items[position] = item._condition_path
        elif not isinstance(item, str):
            refuse(name, f"takes {example}, not {shorten(item)}")
    return items  # type: ignore[return-value] # the loop has seen that all are texts


def checked_size(name: str, value: int, least: int = 0) -> int:
    """Return a limit, an offset or another number of records, and refuse an invalid one.

    Raises:
        ValidationError: It is not a whole number from ``least``, or too large for the server.
    """
    if type(value) is not int or value < least:
        refuse(name, f"is a whole number from {least}, not {shorten(value)}")
    if value > _MOST_RECORDS:
        refuse(name, f"is at most 2**62, not {shorten(value)}")
    return value


def checked_seconds(name: str, value: float) -> float:
    """Return a time limit in seconds, and refuse an invalid one.

    Raises:
        ValidationError: It is no number above 0, or too large for the server.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        refuse(name, f"is a time in seconds above 0, not {shorten(value)}")
    if value > _MOST_SECONDS:
        refuse(name, f"is at most {_MOST_SECONDS} seconds; None is no limit")
    return value


def refuse(name: str, message: str) -> NoReturn:
    """Refuse an argument of a query.

    Raises:
        ValidationError: Always.
    """
    raise ValidationError("query", [{"loc": (name,), "msg": message, "type": "argument"}])
