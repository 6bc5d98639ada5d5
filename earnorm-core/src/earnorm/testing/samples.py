"""Valid values of fields, made from their declarations: kind, bounds, choices and patterns.

A kind of values offers candidates, and the field's own validation decides. So a value that is given
out is valid, and a kind that is not in the table below is served by candidates of the common types,
or by a method ``sample(number)`` of its class.
"""

from __future__ import annotations

import datetime
import decimal
import ipaddress
import random
import string
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, cast

import pydantic
from bson import ObjectId

from earnorm import fields
from earnorm.exceptions import ConfigurationError
from earnorm.fields.base import Field
from earnorm.fields.enumerated import Enum
from earnorm.fields.geo import Geo
from earnorm.fields.money import Money, MoneyValue
from earnorm.fields.network import IPAddress
from earnorm.fields.sets import Set
from earnorm.fields.vector import Vector
from earnorm.testing.patterns import UnknownPattern, matching

Candidates = Iterator[Any]

MANY: Final = 200
"""The number of candidates that are tried."""

_FIRST_DAY: Final = datetime.date(2024, 1, 1)
_FIRST_TIME: Final = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


class Samples:
    """Makes values for the records of one model.

    Args:
        seed: Decides where a pattern leaves a choice.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._used: dict[str, set[Hashable]] = {}
        # By their identity, because fields compare as conditions; the field is kept for its id.
        self._adapters: dict[int, tuple[Field[Any, Any], pydantic.TypeAdapter[Any]]] = {}

    def value(self, field: Field[Any, Any], number: int) -> Any:
        """Return a valid value of a field; of a unique one, each value once.

        Args:
            field: The field.
            number: The number of the record, from 1. The same number gives the same value.

        Raises:
            ConfigurationError: None of the candidates is valid.
        """
        is_unique = field.unique or field.name == "_id"
        used = self._used.setdefault(field.name, set()) if is_unique else set[Hashable]()
        draw = Draw(self, self._source(field, number))
        for candidate in islice(_candidates(field, number, draw), MANY):
            try:
                value = self._adapter(field).validate_python(candidate)
            except (pydantic.ValidationError, ValueError, TypeError):
                continue
            known = _hashable(value)
            if known not in used:
                used.add(known)
                return candidate
        why = ", or all valid ones are used" if used else ""
        raise ConfigurationError(
            f"no valid value was found for {field.model_name}.{field.name} "
            f"({type(field).__name__}){why}: give it, as in make({field.model_name}, "
            f"{field.name}=...)"
        ).coded("no_sample")

    def _adapter(self, field: Field[Any, Any]) -> pydantic.TypeAdapter[Any]:
        known = self._adapters.get(id(field))
        if known is None:
            known = field, pydantic.TypeAdapter(field.value_annotation())
            self._adapters[id(field)] = known
        return known[1]

    def _source(self, field: Field[Any, Any], number: int) -> random.Random:
        # A text as seed gives the same numbers in each process.
        return random.Random(f"{self._seed} {field.model_name} {field.name} {number}")


@dataclass(frozen=True, slots=True)
class Draw:
    """The sources that a kind draws from: random numbers, and values of fields inside a field."""

    samples: Samples
    source: random.Random

    def inner(self, field: Field[Any, Any], number: int) -> Any:
        """Return a valid value of a field inside."""
        return self.samples.value(field, number)


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return cast("Hashable", value)


def _candidates(field: Field[Any, Any], number: int, draw: Draw) -> Candidates:
    field = getattr(field, "sampled_as", field)  # of a field around another one
    own: Callable[[Any, int], Any] | None = getattr(type(field), "sample", None)
    if own is not None:
        yield own(field, number)
        return
    if field.choices:
        for step in range(len(field.choices)):
            yield field.choices[(number - 1 + step) % len(field.choices)]
        return
    for kind in type(field).__mro__:
        if kind in _KINDS:
            yield from _KINDS[kind](field, number, draw)
            return
    yield from _common(field, number)


# -- texts ------------------------------------------------------------------------------------------


def _texts(field: Any, number: int, draw: Draw) -> Candidates:
    if field.pattern is not None:
        yield from _matching(field.pattern, draw.source)
        return
    yield from _fitting(f"{field.name or 'text'} {number}", str(number), field)


def _fitting(text: str, short: str, field: Any) -> Candidates:
    """Yield a text that is filled up to the least length, then shorter ones."""
    least, most = field.min_length or 0, field.max_length
    yield text.ljust(least, "x")
    yield short.rjust(least, "0")
    if most:
        # As many different texts as the length allows.
        digits = string.digits + string.ascii_lowercase
        for number in range(int(short), int(short) + MANY):
            places = [digits[number // len(digits) ** place % len(digits)] for place in range(most)]
            yield "".join(reversed(places))


def _matching(pattern: str, source: random.Random) -> Candidates:
    try:
        while True:
            yield matching(pattern, source)
    except UnknownPattern:
        return


def _emails(field: Any, number: int, draw: Draw) -> Candidates:
    if field.pattern is not None:
        yield from _matching(field.pattern, draw.source)
    least = max((field.min_length or 0) - len("@example.org"), 0)
    yield f"{field.name}{number}".ljust(least, "x") + "@example.org"
    yield f"{number}@a.bc"


def _urls(field: Any, number: int, draw: Draw) -> Candidates:
    if field.pattern is not None:
        yield from _matching(field.pattern, draw.source)
    yield f"https://example.org/{field.name}/{number}".ljust(field.min_length or 0, "x")
    yield f"http://a.bc/{number}"


def _slugs(field: Any, number: int, draw: Draw) -> Candidates:
    name = field.name.replace("_", "-")
    yield from _fitting(f"{name}-{number}", str(number), field)


def _phones(field: Any, number: int, draw: Draw) -> Candidates:
    yield f"+{field.country or '49'}{number:09}"
    yield f"+{field.country or '49'}{100_000_000 + number}"


def _colors(field: Any, number: int, draw: Draw) -> Candidates:
    yield f"#{number % 0x1000000:06x}"


# -- numbers and times ------------------------------------------------------------------------------


def _steps(low: Any, high: Any, first: Any, step: Any, number: int) -> Candidates:
    """Yield first + (number - 1) × step within the bounds, then other values within them."""
    start = first
    if low is not None and start < low:
        start = low
    if high is not None and start > high:
        start = high if low is None else low
    value = start + step * (number - 1)
    if high is None or value <= high:
        yield value
    down = start - step * (number - 1)
    if low is None or down >= low:
        yield down
    yield start
    if low is not None and high is not None:
        span = int((high - low) / step) + 1
        for distance in range(MANY):
            yield low + step * ((number - 1 + distance) % span)
        yield from (low + (high - low) / (number + 1 + n) for n in range(5))
        yield from (low, high)


def _ints(field: Any, number: int, draw: Draw) -> Candidates:
    low, high = field.min_value, field.max_value
    return _steps(low, high, 1, 1, number)


def _floats(field: Any, number: int, draw: Draw) -> Candidates:
    low, high = field.min_value, field.max_value
    if low is not None and high is not None and high - low < number:
        # Different values in a short range.
        return iter([low + (high - low) * (n / (n + 1)) for n in range(number, number + 5)])
    return _steps(low, high, 1.0, 1.0, number)


def _decimals(field: Any, number: int, draw: Draw) -> Candidates:
    places = field.decimal_places
    step = decimal.Decimal(1)
    low, high = (
        None if bound is None else decimal.Decimal(bound)
        for bound in (field.min_value, field.max_value)
    )
    finest = decimal.Decimal(1).scaleb(-(2 if places is None else places))
    coarse = _steps(low, high, step, step, number)
    return chain(islice(coarse, 2), _steps(low, high, finest, finest, number))


def _amounts(field: Money[Any], number: int, draw: Draw) -> Candidates:
    currency = field.currencies[0] if field.currencies else "EUR"
    for amount in _decimals(field.parts["amount"], number, draw):
        yield MoneyValue(amount, currency)


def _booleans(field: Any, number: int, draw: Draw) -> Candidates:
    yield from (number % 2 == 1, number % 2 == 0)


def _days(field: Any, number: int, draw: Draw) -> Candidates:
    yield _FIRST_DAY + datetime.timedelta(days=number - 1)
    yield from (day + datetime.timedelta(days=number) for day in (datetime.date.today(),))
    yield datetime.date.today() - datetime.timedelta(days=number)


def _moments(field: Any, number: int, draw: Draw) -> Candidates:
    yield _FIRST_TIME + datetime.timedelta(hours=number - 1)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    yield from (now + datetime.timedelta(hours=number), now - datetime.timedelta(hours=number))


def _times_of_day(field: Any, number: int, draw: Draw) -> Candidates:
    yield (_FIRST_TIME + datetime.timedelta(minutes=number)).time()


def _durations(field: Any, number: int, draw: Draw) -> Candidates:
    minute, low, high = datetime.timedelta(minutes=1), field.min_value, field.max_value
    millisecond = datetime.timedelta(milliseconds=1)
    coarse = _steps(low, high, minute, minute, number)
    return chain(islice(coarse, 2), _steps(low, high, minute, millisecond, number))


# -- other kinds ------------------------------------------------------------------------------------


def _uuids(field: Any, number: int, draw: Draw) -> Candidates:
    yield uuid.UUID(int=draw.source.getrandbits(128), version=4)


def _object_ids(field: Any, number: int, draw: Draw) -> Candidates:
    yield ObjectId(draw.source.randbytes(12))


def _bytes(field: Any, number: int, draw: Draw) -> Candidates:
    content = str(number).encode()
    yield content
    yield content[-(field.max_length or 0) :]


def _addresses(field: Any, number: int, draw: Draw) -> Candidates:
    first = "2001:db8::" if field.version == 6 else "10.0.0.0"
    yield ipaddress.ip_address(first) + number


def _members(field: Enum[Any, Any], number: int, draw: Draw) -> Candidates:
    kind: Any = field.enum  # mypy does not know that such a class is iterable
    members = list(kind)
    yield from (members[(number - 1 + step) % len(members)] for step in range(len(members)))


def _vectors(field: Vector[Any], number: int, draw: Draw) -> Candidates:
    yield [float(number + place) for place in range(field.dimensions)]


def _places(field: Geo[Any], number: int, draw: Draw) -> Candidates:
    east, north = float(number % 179), float(number % 89)
    corner = [[east, north], [east + 1, north], [east + 1, north + 1], [east, north]]
    shapes = {
        "Point": corner[0],
        "LineString": corner[:2],
        "Polygon": [corner],
        "MultiPoint": corner[:1],
        "MultiLineString": [corner[:2]],
        "MultiPolygon": [[corner]],
    }
    yield from ({"type": kind, "coordinates": shapes[kind]} for kind in field.kinds)


def _json(field: Any, number: int, draw: Draw) -> Candidates:
    yield {"number": number}
    yield from (number, f"text {number}", [number], True)


# -- values with fields inside ----------------------------------------------------------------------


def _lists(field: Any, number: int, draw: Draw) -> Candidates:
    for length in {field.min_length or 0, max(field.min_length or 0, 1)}:
        yield [draw.inner(field._item, number * 1000 + place) for place in range(length)]


def _sets(field: Any, number: int, draw: Draw) -> Candidates:
    for length in sorted({field.min_length or 0, max(field.min_length or 0, 1)}):
        members: list[Any] = []
        for place in range(MANY):
            if len(members) >= length:
                break
            member = draw.inner(field._item, number + place)
            if member not in members:
                members.append(member)
        yield set(members)


def _dicts(field: Any, number: int, draw: Draw) -> Candidates:
    yield {}
    key = "key" if field._keys is None else draw.inner(field._keys, number)
    yield {key: number if field._values is None else draw.inner(field._values, number)}


def _objects(field: Any, number: int, draw: Draw) -> Candidates:
    yield values_of(field.model._schema.fields, lambda inner: draw.inner(inner, number))


def values_of(
    declared: Mapping[str, Field[Any, Any]], value: Callable[[Field[Any, Any]], Any]
) -> dict[str, Any]:
    """Return a value of each field that has to be given, by its name."""
    return {name: value(field) for name, field in declared.items() if has_to_be_given(field)}


def has_to_be_given(field: Field[Any, Any]) -> bool:
    """Return whether nothing but the program gives the field the value that it must have."""
    if field.name == "_id" and isinstance(field, fields.ObjectIdField):
        return False  # it is drawn
    return (
        (field.required or field.name == "_id")
        and field.default is None
        and field.computed is None
        and not field.generated
        and field.assignable
    )


def _common(field: Field[Any, Any], number: int) -> Candidates:
    """Yield values of the common types, for a kind that is not known."""
    yield from (number, float(number), f"{field.name} {number}", decimal.Decimal(number))
    yield from (number / (number + 1), str(number), True)
    yield from (_FIRST_DAY + datetime.timedelta(days=number), _FIRST_TIME)
    yield from ([], {}, [number], {"number": number}, str(number).encode())


_KINDS: Final[Mapping[type, Callable[[Any, int, Draw], Candidates]]] = {
    fields.String: _texts,
    fields.Email: _emails,
    fields.Url: _urls,
    fields.Slug: _slugs,
    fields.Phone: _phones,
    fields.Color: _colors,
    fields.Int: _ints,
    fields.Float: _floats,
    fields.Decimal: _decimals,
    Money: _amounts,
    fields.Boolean: _booleans,
    fields.Date: _days,
    fields.DateTime: _moments,
    fields.Time: _times_of_day,
    fields.Duration: _durations,
    fields.UUID: _uuids,
    fields.ObjectIdField: _object_ids,
    fields.Binary: _bytes,
    IPAddress: _addresses,
    Enum: _members,
    Vector: _vectors,
    Geo: _places,
    fields.Json: _json,
    fields.List: _lists,
    Set: _sets,
    fields.Dict: _dicts,
    fields.Embedded: _objects,
}
