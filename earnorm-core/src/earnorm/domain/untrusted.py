"""Conditions that a client has sent: allowed by name, bounded in size, marked as the client's."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from earnorm.domain.values import PLAIN, is_list, is_tuple
from earnorm.exceptions import DomainError

if TYPE_CHECKING:
    from earnorm.domain.ast import Domain

OPERATORS: Final = frozenset(
    {"=", "!=", "<", "<=", ">", ">=", "in", "not in", "like", "not like", "ilike", "not ilike"}
)
"""The operators that a client may use unless the program says otherwise: each asks one question of
the record itself, and none runs a pattern that the client can make slow."""


_NESTED: Final = ("any", "not any")


class Bounds(NamedTuple):
    """The size that a client's condition may have; see :meth:`Domain.untrusted`."""

    depth: int
    conditions: int
    values: int
    length: int


class Offer:
    """The paths and operators that a client may use, and the size of what it may send.

    Raises:
        TypeError: ``fields`` or ``operators`` is one text, or offers ``any``.
    """

    def __init__(
        self,
        fields: Collection[str] | Mapping[str, Collection[str]],
        operators: Collection[str] | None,
        bounds: Bounds,
    ) -> None:
        if isinstance(fields, str) or isinstance(operators, str):
            raise TypeError("Domain.untrusted(): fields and operators are collections of names")
        general = OPERATORS if operators is None else frozenset(operators)
        self._allowed = {
            path: frozenset(fields[path]) if isinstance(fields, Mapping) else general
            for path in fields
        }
        if any(nested in names for names in self._allowed.values() for nested in _NESTED):
            raise TypeError("Domain.untrusted(): offer paths (author_id.name) instead of 'any'")
        self._bounds = bounds

    def check(self, domain: Domain) -> None:
        """Refuse a domain that names what is not offered, or is too large.

        Raises:
            DomainError: It does.
        """
        bounds, values = self._bounds, 0
        if domain.depth > bounds.depth:
            _refuse(f"it has more than {bounds.depth} levels")
        for number, condition in enumerate(domain.conditions(), 1):
            values += _number_of(condition.value)
            if values > bounds.values:
                _refuse(f"it has more than {bounds.values} values")
            if number > bounds.conditions:
                _refuse(f"it has more than {bounds.conditions} conditions")
            if condition.path not in self._allowed:
                _refuse("it names a field that is not offered", condition.path)
            if condition.operator not in self._allowed[condition.path]:
                _refuse("it uses an operator that is not offered for this field", condition.path)

    def check_size(self, data: object) -> None:
        """Refuse data that is too large or no data, before anything is made of it.

        Raises:
            DomainError: It is.
        """
        _check_size(data, self._bounds)


def _number_of(value: object) -> int:
    """Return the number of values in a condition's value, which has few levels."""
    return sum(map(_number_of, value)) if isinstance(value, tuple) else 1


def _check_size(data: object, bounds: Bounds) -> None:
    """Refuse data that is too large or no data, before anything is made of it."""
    # A condition is a list of three, and each level of lists may hold a sign beside two terms.
    most_items = 4 * bounds.conditions + bounds.values
    most_lists = 2 * bounds.conditions + bounds.values
    level = [data]
    items = lists = 0
    for _ in range(2 * bounds.depth + 3):
        below: list[object] = []
        for value in level:
            if is_list(value) or is_tuple(value):
                lists += 1
                items += len(value)
                if items > most_items or lists > most_lists:
                    _refuse(f"it has more than {bounds.values} values")
                below += value
            elif type(value) not in PLAIN:
                _refuse("a value is a text, a number, true, false, null, or a list of those")
            elif isinstance(value, str | bytes) and len(value) > bounds.length:
                _refuse(f"a text is longer than {bounds.length} characters")
            elif isinstance(value, float) and not math.isfinite(value):
                _refuse("a number is not finite")
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                _refuse("a number has more than 64 bits")
        if not below:
            return
        level = below
    _refuse(f"it has more than {bounds.depth} levels")


def _refuse(why: str, path: str | None = None) -> NoReturn:
    loc = () if path is None else (path[:100],)
    raise DomainError(f"this condition is not taken: {why}", loc=loc).coded("untrusted")
