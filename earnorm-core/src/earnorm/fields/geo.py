"""Places on the earth as GeoJSON (RFC 7946): Geo, Point, LineString, Polygon, MultiPolygon."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Unpack

import pydantic
from pydantic_core import PydanticCustomError, core_schema

from earnorm.fields.base import ConvertingField, Field, FieldOptions, N, Validator
from earnorm.fields.expressions import Places
from earnorm.fields.json_forms import json_form
from earnorm.fields.text import String

Position = tuple[float, float]
"""Longitude and latitude in degrees, in this order."""


def _position(value: Any) -> Position:
    if not _is_list(value) or len(value) != 2 or not all(map(_is_number, value)):
        raise ValueError("a position is (longitude, latitude)")
    longitude, latitude = float(value[0]), float(value[1])
    # NaN is refused too, because every comparison with it is false.
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
        raise ValueError("a longitude lies in -180 to 180, a latitude in -90 to 90, in this order")
    return longitude, latitude


def _several(read: Callable[[Any], Any], least: int, kind: str) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if not _is_list(value) or len(value) < least:
            raise ValueError(
                f"a {kind} has at least {least} {'part' if least == 1 else 'positions'}"
            )
        return tuple(map(read, value))

    return read_all


_line = _several(_position, 2, "line")
_open_ring = _several(_position, 4, "ring")


def _line_of_two(value: Any) -> tuple[Any, ...]:
    positions = _line(value)
    if len(set(positions)) < 2:
        raise ValueError("a line has two different positions")
    return positions


def _ring(value: Any) -> tuple[Any, ...]:
    positions = _open_ring(value)
    if positions[0] != positions[-1]:
        raise ValueError("a ring is closed: its last position is its first")
    if len(set(positions)) < 3:
        raise ValueError("a ring has three different positions")
    return positions


_polygon = _several(_ring, 1, "polygon")
_COORDINATES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "Point": _position,
    "LineString": _line_of_two,
    "Polygon": _polygon,
    "MultiPoint": _several(_position, 1, "MultiPoint"),
    "MultiLineString": _several(_line_of_two, 1, "MultiLineString"),
    "MultiPolygon": _several(_polygon, 1, "MultiPolygon"),
}


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A shape on the earth, e.g. ``Geometry.point(105.85, 21.03)``. Immutable.

    Attributes:
        type: ``Point``, ``LineString``, ``Polygon``, ``MultiPoint``, ``MultiLineString`` or
            ``MultiPolygon``.
        coordinates: Tuples, nested as in GeoJSON; each position is (longitude, latitude).

    Raises:
        ValueError: The coordinates are out of range or of another shape, or a ring is not closed.
    """

    type: str
    coordinates: tuple[Any, ...]

    def __post_init__(self) -> None:
        read = _COORDINATES.get(self.type) if isinstance(self.type, str) else None
        if read is None:
            raise ValueError(f"a geometry is one of {', '.join(_COORDINATES)}")
        object.__setattr__(self, "coordinates", read(self.coordinates))

    @classmethod
    def point(cls, longitude: float, latitude: float) -> Geometry:
        """Make a point; both arguments are in degrees."""
        return cls("Point", (longitude, latitude))

    @classmethod
    def line(cls, *positions: Position) -> Geometry:
        """Make a line through positions."""
        return cls("LineString", positions)

    @classmethod
    def polygon(cls, ring: Sequence[Position], *holes: Sequence[Position]) -> Geometry:
        """Make an area within a closed ring, without the holes."""
        return cls("Polygon", (tuple(ring), *map(tuple, holes)))

    @classmethod
    def of(cls, value: object) -> Geometry:
        """Read a GeoJSON mapping, or an object with ``__geo_interface__`` (shapely, geojson …).

        Raises:
            ValueError: The value is neither, or not a valid one.
        """
        if isinstance(value, cls):
            return value
        mapping = getattr(value, "__geo_interface__", value)
        if not isinstance(mapping, Mapping) or mapping.keys() != {"type", "coordinates"}:
            raise ValueError('a geometry is a mapping of "type" and "coordinates"')
        return cls(mapping["type"], mapping["coordinates"])

    @property
    def longitude(self) -> float:
        """A point's longitude in degrees."""
        return self._position()[0]

    @property
    def latitude(self) -> float:
        """A point's latitude in degrees."""
        return self._position()[1]

    def _position(self) -> Position:
        if self.type != "Point":
            raise AttributeError(f"a {self.type} has several positions; see coordinates")
        return self.coordinates[0], self.coordinates[1]

    @property
    def geojson(self) -> dict[str, Any]:
        """The shape as a GeoJSON mapping, a new one each time."""
        return {"type": self.type, "coordinates": _as_lists(self.coordinates)}

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        return self.geojson

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.of,
            json_schema_input_schema=core_schema.dict_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda v: v.geojson),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return geojson_schema(tuple(_COORDINATES))


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def geojson_schema(kinds: Sequence[str]) -> dict[str, Any]:
    """Return the JSON Schema of GeoJSON objects of some types."""
    kind: dict[str, Any] = {"const": kinds[0]} if len(kinds) == 1 else {"enum": list(kinds)}
    return {
        "type": "object",
        "properties": {"type": {"type": "string", **kind}, "coordinates": {"type": "array"}},
        "required": ["type", "coordinates"],
        "additionalProperties": False,
    }


class Geo(ConvertingField[Geometry, N], Places):
    """A shape on the earth, stored as GeoJSON; ``index=True`` makes a 2dsphere index.

    A ``Geometry``, a GeoJSON mapping and objects with ``__geo_interface__`` are accepted. The field
    checks the form of a shape; only the index checks that a polygon does not cross itself.

    Args:
        kinds: The types of GeoJSON allowed (default: all that have coordinates).
    """

    lossy = True
    index_kind: ClassVar[int | str] = "2dsphere"
    default_kinds: ClassVar[tuple[str, ...]] = tuple(_COORDINATES)
    kinds: tuple[str, ...]

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: Geometry | Callable[[], Geometry] | None = None,
        validators: Iterable[Validator[Geometry]] = (),
        kinds: Sequence[str] | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        if options.get("unique"):
            raise TypeError("a 2dsphere index cannot be unique")
        self._bind(required, default, None, validators, options)
        self.kinds = self.default_kinds if kinds is None else tuple(kinds)
        unknown = set(self.kinds) - _COORDINATES.keys()
        if unknown or not self.kinds:
            raise ValueError(f"kinds are some of {', '.join(_COORDINATES)}")
        self._type: String[Any] = String(choices=self.kinds)

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        kind = self._type
        kind.name, kind.db_name, kind.model_name = f"{name}.type", "type", owner.__name__

    @property
    def parts(self) -> Mapping[str, Field[Any, Any]]:
        return {"type": self._type}

    def annotation(self) -> Any:
        return Annotated[
            Any,
            pydantic.PlainValidator(self._checked),
            pydantic.PlainSerializer(_geojson, return_type=dict[str, Any]),
            pydantic.WithJsonSchema(geojson_schema(self.kinds)),
        ]

    def to_json(self, value: Any) -> Any:
        return value.geojson if type(value) is Geometry else json_form(value)

    def bson_schema(self) -> Mapping[str, Any]:
        return {
            "bsonType": "object",
            "required": ["type", "coordinates"],
            "properties": {
                "type": {"enum": list(self.kinds)},
                "coordinates": {"bsonType": "array"},
            },
        }

    def _checked(self, value: Any) -> Geometry:
        if self.kinds == ("Point",) and _is_list(value):
            value = {"type": "Point", "coordinates": value}
        try:
            geometry = Geometry.of(value)
        except ValueError as error:
            raise PydanticCustomError("geojson", "{problem}", {"problem": str(error)}) from None
        if geometry.type not in self.kinds:
            allowed = " or ".join(self.kinds)
            raise PydanticCustomError("geojson", "not a {allowed}", {"allowed": allowed})
        return geometry

    def is_decoded(self, value: Any) -> bool:
        return type(value) is Geometry

    def encode(self, value: Any) -> Any:
        return value.geojson if type(value) is Geometry else value

    def decode(self, value: Any) -> Any:
        if type(value) is not dict:
            return value
        try:
            return Geometry.of(value)
        except ValueError:  # stored by another program
            return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        try:
            return self._checked(value).geojson
        except PydanticCustomError as error:
            raise ValueError(f"{self.name} is compared with GeoJSON: {error.message()}") from None


def _geojson(value: Any) -> Any:
    return value.geojson if isinstance(value, Geometry) else value


class Point(Geo[N]):
    """A point; ``(longitude, latitude)`` is accepted too."""

    default_kinds: ClassVar[tuple[str, ...]] = ("Point",)


class LineString(Geo[N]):
    """A line."""

    default_kinds: ClassVar[tuple[str, ...]] = ("LineString",)


class Polygon(Geo[N]):
    """An area."""

    default_kinds: ClassVar[tuple[str, ...]] = ("Polygon",)


class MultiPolygon(Geo[N]):
    """Several areas."""

    default_kinds: ClassVar[tuple[str, ...]] = ("MultiPolygon",)
