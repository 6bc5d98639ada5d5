"""Groups that a client has asked for: keys, aggregates and results are names from a list."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, NamedTuple

from earnorm.domain import Domain
from earnorm.domain.client_text import ClientText, checked_names, read_names, read_order, refuse
from earnorm.exceptions import DomainError
from earnorm.features.grouping.aggregation import Aggregate, Avg, Count, Max, Min, Sum

_FUNCTIONS: Final[Mapping[str, Callable[[str], Aggregate]]] = {
    "avg": Avg,
    "count": Count,
    "distinct": partial(Count, distinct=True),
    "max": Max,
    "min": Min,
    "sum": Sum,
}
_PARTS: Final = frozenset({"keys", "aggregates", "having", "order", "limit"})
_WHAT: Final = "group"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


class ClientGroup(NamedTuple):
    """The arguments of ``group()`` that a client has sent, read by ``earnorm.untrusted.group``."""

    keys: tuple[str, ...]
    aggregates: Mapping[str, Aggregate]
    having: Domain
    order: str
    limit: int


class GroupOffer:
    """The keys and aggregates that a client may ask for.

    Raises:
        TypeError: A name is no text, or an aggregate is neither ``count`` nor ``path:function``.
    """

    def __init__(
        self, keys: Collection[str], aggregates: Collection[str], number: int, rows: int
    ) -> None:
        self._keys = checked_names("keys", keys)
        self._aggregates = {
            text: _aggregate(text) for text in checked_names("aggregates", aggregates)
        }
        self._number, self._rows = number, rows

    def read(self, data: object) -> ClientGroup:
        """Read what a client has sent; see ``earnorm.untrusted.group``."""
        if not isinstance(data, Mapping):
            refuse(_WHAT, (), "it is no object with keys, aggregates, having, order and limit")
        if not data.keys() <= _PARTS:
            refuse(_WHAT, (), "it has more than keys, aggregates, having, order and limit")
        keys = read_names(_WHAT, data.get("keys", []), self._keys, self._number, "keys")
        aggregates = self._read_aggregates(data.get("aggregates", {}), keys)
        if not (keys or aggregates):
            refuse(_WHAT, (), "it has neither keys nor aggregates")
        names = frozenset([*keys, *aggregates])
        return ClientGroup(
            tuple(keys),
            aggregates,
            self._read_having(data.get("having", []), names),
            read_order(data.get("order", []), names, self._number, 1_000, "order"),
            self._read_limit(data.get("limit", self._rows)),
        )

    def _read_aggregates(self, data: object, keys: Collection[str]) -> dict[str, Aggregate]:
        loc = "aggregates"
        if not isinstance(data, Mapping):
            refuse(_WHAT, (loc,), 'it is no object of names; for example {"total": "hours:sum"}')
        if len(data) > self._number:
            refuse(_WHAT, (loc,), f"it has more than {self._number} aggregates")
        read: dict[str, Aggregate] = {}
        for position, (name, text) in enumerate(data.items()):
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in keys:
                refuse(
                    _WHAT,
                    (loc, position),
                    "the name of a result has letters, digits and _, at most 64, and is no key's",
                )
            if not isinstance(text, str) or text not in self._aggregates:
                refuse(_WHAT, (loc, name), "it is an aggregate that is not offered")
            read[name] = self._aggregates[text]
        return read

    def _read_having(self, data: object, names: frozenset[str]) -> Domain:
        try:
            return Domain.untrusted(data, fields=names)
        except DomainError as error:
            [problem] = error.errors()
            refuse(_WHAT, ("having", *problem["loc"]), problem["msg"])

    def _read_limit(self, data: object) -> int:
        if type(data) is not int or not 0 < data <= self._rows:
            refuse(_WHAT, ("limit",), f"it is no whole number from 1 to {self._rows}")
        return data


def _aggregate(text: str) -> Aggregate:
    path, colon, function = text.rpartition(":")
    if function not in _FUNCTIONS or bool(colon) is not bool(path) or not (path or text == "count"):
        raise TypeError(
            f"earnorm.untrusted.group(): an aggregate is 'count' or 'path:function', with one of "
            f"{', '.join(_FUNCTIONS)}; not {text!r}"
        )
    return _FUNCTIONS[function](ClientText(path))
