"""``near`` and ``within``: conditions on GeoJSON values, on the sphere.

Positions are (longitude, latitude) in degrees, as in GeoJSON; distances are metres on a sphere with
the radius that MongoDB uses. Both only filter: they need no index (a 2dsphere index makes them
fast), and do not sort by distance, so they work in ``count`` and ``group`` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import asin, cos, isfinite, radians, sin, sqrt
from typing import Any, Final, NamedTuple

from bson import Decimal128

from earnorm.domain.values import is_dict, is_list, is_tuple, shorten
from earnorm.exceptions import NotSupported

__all__ = ["is_near", "is_within", "near_filter", "near_operand", "within_filter", "within_operand"]

EARTH_RADIUS: Final = 6_378_100.0
"""Metres. The server divides a distance by it (``kRadiusOfEarthInMeters``)."""
_HALF_AROUND: Final = 20_037_392.0  # metres; no two positions are farther apart
_ROUNDING: Final = 1e-6
"""Metres that are added to every distance, more than the rounding errors of sines. Without them the
server misses the position itself at a pole, where all longitudes meet, and at 180 degrees."""
MAX_POSITIONS: Final = 10_000
"""The most corners of one ``within``."""

Position = list[float]


class Near(NamedTuple):
    """The area around a position: at least ``nearest`` and at most ``farthest`` metres from it."""

    position: Position
    farthest: float
    nearest: float


def near_operand(_: object, value: Any) -> Near:
    """Read ``[lon, lat, max_distance]`` or ``[lon, lat, max_distance, min_distance]``.

    Raises:
        ValueError: The value is neither.
    """
    numbers = _numbers(value)
    if numbers is None or len(numbers) not in (3, 4):
        raise ValueError(
            f"'near' takes [longitude, latitude, most metres] and, where wanted, the least metres, "
            f"not {shorten(value)}"
        )
    farthest, nearest = numbers[2], numbers[3] if len(numbers) == 4 else 0.0
    if not 0 <= nearest <= farthest < _HALF_AROUND:
        raise ValueError(
            "distances are metres from 0 to 20,037 km (half around the earth), the least not above "
            "the most"
        )
    return Near(_position(numbers[:2]), farthest, nearest)


def near_filter(path: str, near: Near) -> dict[str, Any]:
    """Make the filter: inside the outer circle and, if there is an inner one, outside of that."""
    inside: dict[str, Any] = _circle(near.position, near.farthest)
    if not near.nearest:
        return {path: inside}
    outside = {"$not": _circle(near.position, near.nearest)}
    return {"$and": [{path: inside}, {path: outside}]}


def _circle(position: Position, metres: float) -> dict[str, Any]:
    return {"$geoWithin": {"$centerSphere": [position, (metres + _ROUNDING) / EARTH_RADIUS]}}


def is_near(near: Near) -> Callable[[Sequence[object]], bool]:
    """Make the test in memory, which knows points only.

    Within a centimetre of a circle's edge it may differ from the server, which tests the cell of
    its grid (about a centimetre wide) that holds the point.

    Raises:
        NotSupported: (the test) The value is a shape other than a point.
    """

    def test(values: Sequence[object]) -> bool:
        distances = [metres(near.position, at) for at in map(_point, values) if at is not None]
        inside = any(d <= near.farthest + _ROUNDING for d in distances)
        outside = not (near.nearest and any(d <= near.nearest + _ROUNDING for d in distances))
        return inside and outside

    return test


def metres(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the great-circle distance of two positions (the haversine formula)."""
    lon, lat, lon2, lat2 = map(radians, (*first[:2], *second[:2]))
    half = sin((lat2 - lat) / 2) ** 2 + cos(lat) * cos(lat2) * sin((lon2 - lon) / 2) ** 2
    return 2 * EARTH_RADIUS * asin(min(1.0, sqrt(half)))


def _point(value: object) -> Position | None:
    """Return the position of a stored point, or None if the value is not a place.

    A pair of numbers, in a list or under any keys, is MongoDB's older form of a point.
    """
    if is_list(value):
        return _stored_position(value)
    if not is_dict(value):
        return None
    if next(iter(value), "") not in ("type", "coordinates"):
        return _stored_position(list(value.values()))
    kind, coordinates = value.get("type"), value.get("coordinates")
    if kind == "Point":
        inner = list(coordinates.values()) if is_dict(coordinates) else coordinates
        return _stored_position(inner) if is_list(inner) else None
    if isinstance(kind, str) and kind in _SHAPES:
        raise NotSupported(
            f"'near' of a stored {kind} is answered by the server, not in memory; search the database"
        )
    return None


def _stored_position(values: list[Any]) -> Position | None:
    if len(values) < 2:
        return None
    numbers = [
        float(v.to_decimal()) if isinstance(v, Decimal128) else v
        for v in values[:2]
        if isinstance(v, int | float | Decimal128) and not isinstance(v, bool)
    ]
    if len(numbers) < 2 or not (abs(numbers[0]) <= 180 and abs(numbers[1]) <= 90):
        return None  # NaN comes here as well, because every comparison with it is false
    return numbers


_SHAPES: Final = frozenset(
    {"LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon", "GeometryCollection"}
)


def within_operand(_: object, value: Any) -> dict[str, Any]:
    """Read a ring ``[[lon, lat], …]`` or a GeoJSON ``Polygon`` or ``MultiPolygon``.

    An open ring is closed.

    Raises:
        ValueError: The value is neither.
    """
    value = getattr(value, "__geo_interface__", value)
    if is_dict(value) and value.keys() == {"type", "coordinates"}:
        read = _AREAS.get(value["type"]) if isinstance(value["type"], str) else None
        if read is not None:
            coordinates = read(value["coordinates"])
            return {"type": str(value["type"]), "coordinates": coordinates}
    elif is_list(value):
        return {"type": "Polygon", "coordinates": [_ring(value)]}
    raise ValueError(
        f"'within' takes a list of [longitude, latitude] or a GeoJSON Polygon or MultiPolygon, "
        f"not {shorten(value)}"
    )


def within_filter(path: str, area: Mapping[str, Any]) -> dict[str, Any]:
    """Make the server's ``$geoWithin``, on the sphere."""
    return {path: {"$geoWithin": {"$geometry": dict(area)}}}


def is_within(_: object) -> Callable[[Sequence[object]], bool]:
    """Refuse the test in memory.

    The sides of the server's polygons are great circles; a test in the plane would answer
    differently.

    Raises:
        NotSupported: Always.
    """
    raise NotSupported(
        "'within' is answered by the server, not in memory; search the database, or use 'near'"
    )


# -- readers of the given value; they accept finite numbers only ----------------------------------


def _numbers(value: object) -> list[float] | None:
    if not (is_list(value) or is_tuple(value)):
        return None
    numbers = [n for n in value if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) != len(value) or not all(map(isfinite, numbers)):
        return None
    return [float(n) for n in numbers]


def _position(value: object) -> Position:
    numbers = _numbers(value)
    if (
        numbers is None
        or len(numbers) != 2
        or not (-180 <= numbers[0] <= 180 and -90 <= numbers[1] <= 90)
    ):
        raise ValueError(f"a position is [longitude, latitude] in degrees, not {shorten(value)}")
    return numbers


def _ring(value: object) -> list[Position]:
    if not is_list(value) or not 3 <= len(value) <= MAX_POSITIONS:
        raise ValueError(f"a ring has from 3 to {MAX_POSITIONS:,} positions")
    ring = [_position(position) for position in value]
    if ring[0] != ring[-1]:
        ring.append(ring[0])
    if len(ring) < 4:
        raise ValueError("a ring has at least 3 different positions")
    return ring


def _rings(value: object) -> list[list[Position]]:
    if not is_list(value) or not 1 <= len(value) <= MAX_POSITIONS:
        raise ValueError("the coordinates of a Polygon are a list of rings")
    return [_ring(ring) for ring in value]


def _polygons(value: object) -> list[list[list[Position]]]:
    if not is_list(value) or not 1 <= len(value) <= MAX_POSITIONS:
        raise ValueError("the coordinates of a MultiPolygon are a list of polygons")
    return [_rings(polygon) for polygon in value]


_AREAS: Final[dict[str, Callable[[object], list[Any]]]] = {
    "Polygon": _rings,
    "MultiPolygon": _polygons,
}
