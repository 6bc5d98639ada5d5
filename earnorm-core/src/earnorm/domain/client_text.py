"""The marks of what a client has sent, on texts and orders, and the one way to refuse it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from earnorm.exceptions import ErrorDetail, ValidationError

__all__ = ["ClientOrder", "ClientText", "checked_names", "read_names", "read_order", "refuse"]


class ClientText(str):
    """A text that ``earnorm.untrusted`` has read. A query that uses it has the principal's rights."""

    __slots__ = ()


class ClientOrder(tuple[tuple[str, int], ...]):
    """A parsed order, of which a client has sent a part."""

    __slots__ = ()


def checked_names(what: str, names: Collection[str]) -> frozenset[str]:
    """Return what a program offers.

    Raises:
        TypeError: It is one text, or has another value than a text in it.
    """
    if isinstance(names, str) or not all(type(name) is str and name for name in names):
        raise TypeError(f"earnorm.untrusted: {what} is a collection of names")
    return frozenset(names)


def read_order(
    data: object, offered: frozenset[str], keys: int, length: int, *loc: str | int
) -> ClientText:
    """Read an order that a client has sent; see ``earnorm.untrusted.order``."""
    parts = data
    if isinstance(data, str):
        if len(data) > length:
            refuse("order", loc, f"a text is longer than {length} characters")
        parts = data.split(",", keys + 1)
    if not isinstance(parts, list | tuple):
        refuse("order", loc, 'it is no order; for example "-age,name" or ["-age", "name"]')
    if len(parts) > keys:
        refuse("order", loc, f"it has more than {keys} keys")
    signed: list[str] = []
    for position, part in enumerate(parts):
        name = part.strip() if isinstance(part, str) else refuse_type("order", (*loc, position))
        if not name and isinstance(data, str) and len(parts) == 1:
            break  # an empty text is no order
        sign = name[:1] if name[:1] in ("-", "+") else ""
        if not name[len(sign) :]:
            refuse("order", (*loc, position), "a name is empty")
        if name[len(sign) :] not in offered:
            refuse("order", (*loc, position), "it names a field that is not offered")
        signed.append(name)
    return ClientText(",".join(signed))


def read_names(
    what: str, data: object, offered: frozenset[str], most: int, *loc: str | int
) -> list[ClientText]:
    """Read a list of names that a client has sent, each of which is offered, and once there."""
    names = data
    if isinstance(data, str):
        names = data.split(",", most + 1) if data.strip() else []
    if not isinstance(names, list | tuple):
        refuse(what, loc, 'it is no list of names; for example "name,age" or ["name", "age"]')
    if len(names) > most:
        refuse(what, loc, f"it has more than {most} names")
    read: list[ClientText] = []
    for position, value in enumerate(names):
        name = value.strip() if isinstance(value, str) else refuse_type(what, (*loc, position))
        if not name:
            refuse(what, (*loc, position), "a name is empty")
        if name not in offered:
            refuse(what, (*loc, position), "it names a field that is not offered")
        if name in read:
            refuse(what, (*loc, position), "it is named twice")
        read.append(ClientText(name))
    return read


def refuse_type(what: str, loc: tuple[str | int, ...]) -> NoReturn:
    """Refuse a name that is no text."""
    refuse(what, loc, "a name is a text")


def refuse(what: str, loc: tuple[str | int, ...], why: str) -> NoReturn:
    """Refuse what a client has sent. Neither place nor message repeats a name that is not offered.

    Raises:
        ValidationError: Always, with the code ``untrusted``.
    """
    detail = ErrorDetail(loc=loc, msg=f"this is not taken: {why}", type="untrusted")
    raise ValidationError(what, [detail]).coded("untrusted") from None
