"""The options of a model's collection: capped, time series, collation, clustered, pre-images.

A missing collection is created with them; an existing one is only compared, and never changed.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from earnorm.backends.base import Document
from earnorm.exceptions import ConfigurationError, DomainError, nearest
from earnorm.features.indexes.comparison import normal_collation
from earnorm.features.indexes.declarations import collation_of, seconds

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

GRANULARITIES: Final = ("seconds", "minutes", "hours")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """The options of a model's collection, for ``_options``; a mapping of these names works too.

    Attributes:
        capped_size: The most bytes to keep; the oldest documents are removed.
        capped_max: The most documents to keep, in addition.
        time_field: The field with the time of a measurement: makes a time-series collection.
        meta_field: Of a time series: the field that names the source of a measurement.
        granularity: Of a time series: ``"seconds"``, ``"minutes"`` or ``"hours"`` between measurements.
        expire_after: Of a time series or a clustered collection: the age at which documents are
            deleted (seconds or a timedelta).
        collation: The comparison of texts, unless an index or a query has its own: a locale, or
            MongoDB's own mapping.
        clustered: Store the documents in the order of their ``_id``, without a separate index for
            it.
        pre_images: Change streams can give each document as it was before a change.

    Raises:
        ConfigurationError: Options are malformed, or do not go together.
    """

    capped_size: int | None = None
    capped_max: int | None = None
    time_field: str | None = None
    meta_field: str | None = None
    granularity: str | None = None
    expire_after: float | datetime.timedelta | None = None
    collation: str | Mapping[str, Any] | None = None
    clustered: bool = False
    pre_images: bool = False

    def __post_init__(self) -> None:
        for name in ("capped_size", "capped_max"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigurationError(f"{name} is a number from 1, not {value!r}")
        for name in ("clustered", "pre_images"):
            if type(getattr(self, name)) is not bool:
                raise ConfigurationError(f"{name} is True or False, not {getattr(self, name)!r}")
        if self.granularity not in (None, *GRANULARITIES):
            known = ", ".join(GRANULARITIES)
            raise ConfigurationError(f"granularity is one of {known}, not {self.granularity!r}")
        seconds("expire_after", self.expire_after)
        collation_of(self.collation)
        for given, name, needs in (
            (self.capped_max, "capped_max", "capped_size"),
            (self.meta_field, "meta_field", "time_field"),
            (self.granularity, "granularity", "time_field"),
        ):
            if given is not None and getattr(self, needs) is None:
                raise ConfigurationError(f"{name} needs {needs}")
        kinds = {
            "capped_size": self.capped_size is not None,
            "time_field": self.time_field is not None,
            "clustered": self.clustered,
        }
        chosen = [name for name, is_set in kinds.items() if is_set]
        if len(chosen) > 1:
            raise ConfigurationError(f"{' and '.join(chosen)} do not go together")
        if self.expire_after is not None and chosen not in (["time_field"], ["clustered"]):
            raise ConfigurationError(
                "expire_after belongs to a time series or a clustered collection; documents of others "
                "expire by an index: Index(field, expire_after=…)"
            )


def declared_options(model: type[BaseModel]) -> CollectionOptions | None:
    """Read the model's ``_options``; None if it has none.

    Raises:
        ConfigurationError: The options are malformed.
    """
    source: object = model._options
    if source is None or isinstance(source, CollectionOptions):
        return source
    if not isinstance(source, Mapping):
        raise ConfigurationError(
            f"{model.__name__}._options are CollectionOptions(…) or a mapping, not {source!r}"
        )
    known = [option.name for option in fields(CollectionOptions)]
    for name in source:
        if name not in known:
            raise ConfigurationError(
                f"{model.__name__}._options: unknown option {name!r}{nearest(str(name), known)}"
            )
    try:
        return CollectionOptions(**source)
    except ConfigurationError as error:
        raise ConfigurationError(f"{model.__name__}._options: {error}") from None


def create_options(model: type[BaseModel], options: CollectionOptions) -> dict[str, Any]:
    """Make the options of MongoDB's ``create`` command.

    Raises:
        ConfigurationError: The model does not have a field of the time series.
    """
    command_options: dict[str, Any] = {}
    if options.capped_size is not None:
        command_options |= {"capped": True, "size": options.capped_size}
        if options.capped_max is not None:
            command_options["max"] = options.capped_max
    if options.time_field is not None:
        series = {"timeField": _stored_name(model, "time_field", options.time_field)}
        if options.meta_field is not None:
            series["metaField"] = _stored_name(model, "meta_field", options.meta_field)
        if options.granularity is not None:
            series["granularity"] = options.granularity
        command_options["timeseries"] = series
    expire_after = seconds("expire_after", options.expire_after)
    if expire_after is not None:
        command_options["expireAfterSeconds"] = expire_after
    collation = collation_of(options.collation)
    if collation is not None:
        command_options["collation"] = collation
    if options.clustered:
        command_options["clusteredIndex"] = {"key": {"_id": 1}, "unique": True}
    if options.pre_images:
        command_options["changeStreamPreAndPostImages"] = {"enabled": True}
    return command_options


def _stored_name(model: type[BaseModel], option: str, name: str) -> str:
    try:
        return model._schema.path_of(name)
    except DomainError as error:
        raise ConfigurationError(f"{model.__name__}._options: {option}: {error}") from None


def differences(declared: Mapping[str, Any], existing: Document) -> tuple[str, ...]:
    """Return the differences between an existing collection and its declaration, in words.

    Args:
        declared: The options of MongoDB's ``create`` command.
        existing: The server's description of the collection.
    """
    wanted, actual = _normal(declared), _normal(existing.get("options", {}))
    return tuple(
        f"{name} is declared as {_shown(wanted, name)}, and is {_shown(actual, name)}"
        for name in _COMPARED
        if wanted.get(name) != actual.get(name)
    )


def _shown(options: Mapping[str, Any], name: str) -> str:
    return repr(options[name]) if name in options else "not set"


_COMPARED: Final = (
    "capped",
    "size",
    "max",
    "timeField",
    "metaField",
    "granularity",
    "expireAfterSeconds",
    "collation",
    "clustered",
    "changeStreamPreAndPostImages",
)


def _normal(options: Mapping[str, Any]) -> dict[str, Any]:
    normal = {key: value for key, value in options.items() if key in _COMPARED}
    if normal.get("size"):  # the server rounds up to a multiple of 256
        normal["size"] = -(-normal["size"] // 256) * 256
    series = options.get("timeseries")
    if series:
        normal |= {key: series.get(key) for key in ("timeField", "metaField") if key in series}
        normal["granularity"] = series.get("granularity", "seconds")
    if "collation" in normal:
        normal["collation"] = normal_collation(normal["collation"], of_collection=True)
    if options.get("clusteredIndex"):
        normal["clustered"] = True
    images = options.get("changeStreamPreAndPostImages") or {}
    normal["changeStreamPreAndPostImages"] = bool(images.get("enabled"))
    return {key: value for key, value in normal.items() if value is not None and value is not False}
