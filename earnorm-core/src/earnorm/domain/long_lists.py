"""Lists of values that are too long for one filter: they are refused or cut into parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from bson import ObjectId

from earnorm.exceptions import LongList

__all__ = ["LARGEST", "chunks", "list_bytes", "listed", "slices"]

T = TypeVar("T")

LARGEST: Final = 16_000_000
"""The most bytes of one list; a server accepts 16 MiB for a whole filter."""
_SHORT: Final = 20_000
"""Lists up to this length are not measured: to be too long, their values would need 800 bytes
each."""


def listed(name: str, sign: str) -> Callable[[str, Any], dict[str, Any]]:
    """Make the ``to_mongo`` of an operator that takes a list.

    Args:
        name: The operator's name.
        sign: The server's operator.
    """

    def to_mongo(path: str, values: Sequence[Any]) -> dict[str, Any]:
        if len(values) > _SHORT and (size := list_bytes(values)) > LARGEST:
            raise LongList(
                f"({path!r}, {name!r}): a list of {len(values):,} values takes {size / 1e6:.0f} MB, and a "
                f"filter of MongoDB has 16 MB at most; {_WAYS_OUT.get(name, _OTHER_WAY_OUT)}",
                loc=(path,),
            )
        return {path: {sign: values}}

    return to_mongo


_OTHER_WAY_OUT: Final = "say it with fewer values, or with a field that the records have in common"
_WAYS_OUT: Final = {
    "in": "ask for parts of it. Ids are asked for in parts by themselves: ('id', 'in', …) under no "
    "'|' or '!', in a search (without order and offset), count, update or delete"
}


def list_bytes(values: Sequence[Any]) -> int:
    """Return the least bytes that a list takes in BSON; only nulls take less than counted here."""
    number = len(values)
    # Each item has its type, its position as digits, and a NUL.
    total: int = 3 * number + sum(
        number - 10**digits for digits in range(1, 12) if 10**digits < number
    )
    first = type(values[0]) if values else None
    if first is ObjectId:
        return total + 12 * number
    if first is str:
        return total + sum([len(v) + 5 for v in values if isinstance(v, str)])
    return total + 4 * number


def slices(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of this length; the last one may be shorter."""
    return (items[start : start + length] for start in range(0, len(items), length))


# A filter may have 16 MB; a third of it leaves room for the conditions that layers add.
_PART_BYTES: Final = 5_000_000
# Bytes of an item beside its value: its type, its position in the list as digits, and a NUL.
_OVERHEAD: Final = 9


def chunks(pks: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut ids into parts that each fit in one filter: 238,000 ObjectIds, or fewer long texts."""
    if not pks:
        return
    longest = max(map(_size, pks)) if set(map(type, pks)) != {ObjectId} else 12
    number = max(1, _PART_BYTES // (longest + _OVERHEAD))
    yield from slices(pks, number)


def _size(pk: Any) -> int:
    if isinstance(pk, str):
        return len(pk) * 4 + 5
    return len(pk) + 5 if isinstance(pk, bytes) else 24
