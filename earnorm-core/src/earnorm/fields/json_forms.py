"""The JSON form of a value, by its type; a field with another form overrides ``Field.to_json``."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import pydantic
from bson import Decimal128, ObjectId
from pydantic_core import to_json, to_jsonable_python


def json_form(value: Any) -> Any:
    """Convert a value to a text, number, True, False, None, list or dict.

    Raises:
        TypeError: The value has no JSON form.
    """
    form = _FORMS.get(type(value))
    if form is None and isinstance(value, enum.Enum):  # first, as a member of StrEnum is a str too
        return json_form(value.value)
    if form is None:
        form = next((_FORMS[kind] for kind in type(value).__mro__ if kind in _FORMS), None)
    if form is not None:
        return form(value)
    if isinstance(value, pydantic.BaseModel):  # an embedded object in a request or response body
        return value.model_dump(mode="json")
    own = getattr(value, "_json_form", None)  # a record, an embedded object, a RecordSet
    if own is not None:
        return own()
    package = type(value).__module__.partition(".")[0]
    if package == "bson":
        return _extended(value)
    if package == "ipaddress":  # by its name: few programs need that module imported
        return str(value)
    raise TypeError(
        f"a {type(value).__name__} has no JSON form; give its field a class with a to_json() method"
    )


def json_text(value: Any) -> str:
    """Write the result of ``json_form`` as JSON text."""
    return to_json(value, inf_nan_mode="null").decode()


def _extended(value: Any) -> Any:
    """Convert a value that only BSON has (a timestamp, a regex …) to MongoDB's Extended JSON."""
    from bson import json_util  # documents rarely have such a value

    return json_form(json_util.default(value, json_util.RELAXED_JSON_OPTIONS))


def _same(value: Any) -> Any:
    return value


def _float(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows neither NaN nor infinity


def _datetime(value: datetime.datetime) -> str:
    # A time without a zone comes from a document, in which all times are in UTC.
    utc = value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value
    return utc.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(json_form(key)): json_form(item) for key, item in value.items()}


def _list(value: Any) -> list[Any]:
    return [json_form(item) for item in value]


def _set(value: Any) -> list[Any]:
    try:
        return _list(sorted(value))
    except TypeError:
        return _list(value)


def _bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_FORMS: Final[Mapping[type, Callable[[Any], Any]]] = {
    type(None): _same,
    bool: _same,
    str: _same,
    int: _same,
    float: _float,
    decimal.Decimal: str,
    Decimal128: str,
    datetime.datetime: _datetime,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: to_jsonable_python,  # ISO 8601, as in pydantic's models
    ObjectId: str,
    uuid.UUID: str,
    bytes: _bytes,
    dict: _mapping,
    list: _list,
    tuple: _list,
    set: _set,
    frozenset: _set,
}
