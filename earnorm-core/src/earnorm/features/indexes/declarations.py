"""Declarations of indexes: ``Index``, ``VectorSearchIndex`` and the forms of ``_indexes``.

A declaration becomes the ``IndexSpec`` that a backend creates. ``comparison`` compares it with the
existing indexes, and ``catalog`` changes those to match.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, cast

from earnorm.backends.base import IndexSpec, SearchIndexSpec
from earnorm.domain import OPERATORS, Domain, DomainSource, Operator, to_filter
from earnorm.exceptions import ConfigurationError, DomainError, nearest
from earnorm.features.indexes.field_indexes import field_indexes
from earnorm.features.indexes.scoping import scoped

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

KINDS: Final = frozenset({"text", "2d", "2dsphere", "hashed"})
"""The kinds of a key; a direction (1 or -1) is allowed as well."""

Key: TypeAlias = str | tuple[str, int | str] | Mapping[str, int | str]
"""``"email"``, ``"-created_at"``, ``("title", "text")`` or ``{"location": "2dsphere"}``."""

WILDCARD: Final = "$**"
SIMPLE: Final[Mapping[str, Any]] = {"locale": "simple"}

# MongoDB's own options: https://www.mongodb.com/docs/manual/reference/command/createIndexes/
_SERVER_OPTIONS: Final = frozenset(
    {
        "name",
        "unique",
        "sparse",
        "hidden",
        "expireAfterSeconds",
        "partialFilterExpression",
        "collation",
        "weights",
        "default_language",
        "language_override",
        "textIndexVersion",
        "2dsphereIndexVersion",
        "bits",
        "min",
        "max",
        "wildcardProjection",
        "storageEngine",
        "background",
    }
)
# MongoDB allows no negation and no regular expression here:
# https://www.mongodb.com/docs/manual/core/index-partial/
_PARTIAL_OPERATORS: Final = frozenset(
    {"$eq", "$exists", "$gt", "$gte", "$lt", "$lte", "$type", "$and", "$or", "$in"}
)


class Index:
    """One index of a model, for ``_indexes``.

    Args:
        *keys: Field paths in order: ``"email"``, ``"-created_at"`` (descending), ``("title", "text")``,
            ``{"location": "2dsphere"}``, ``("token", "hashed")``, ``"$**"`` or ``"attributes.$**"``
            (every field of the document, or every one below a path).
        unique: No two documents may have the same values of the keys.
        sparse: Leave out documents without the keys.
        partial: Index only the records of this domain: ``[("active", "=", True)]``. The database
            allows ``=``, ``in``, ``<`` and the like here, but neither negations nor patterns.
        expire_after: Delete documents at this time after the date in their only key (TTL).
        weights: Of a text index: the weight of a match in each field (default: 1).
        language: Of a text index: the language of its stop words and stems (default: english).
        language_field: Of a text index: the key that names a document's own language (default: language).
        projection: Of ``"$**"``: the only fields to index, or a mapping of field paths to True or False.
        collation: The comparison of texts: a locale, or MongoDB's own mapping.
        hidden: Writes update the index but queries do not use it, to test the effect of dropping
            it.
        name: The index's name (default: made of its keys).

    Raises:
        ConfigurationError: A key or an option is malformed.
    """

    __slots__ = ("keys", "name", "options", "partial", "projection", "weights")

    def __init__(
        self,
        *keys: Key,
        unique: bool = False,
        sparse: bool = False,
        partial: DomainSource = None,
        expire_after: float | datetime.timedelta | None = None,
        weights: Mapping[str, int] | None = None,
        language: str | None = None,
        language_field: str | None = None,
        projection: Sequence[str] | Mapping[str, bool] | None = None,
        collation: str | Mapping[str, Any] | None = None,
        hidden: bool = False,
        name: str | None = None,
    ) -> None:
        self.keys = tuple(_pairs(keys))
        self.name = name
        self.partial = None if partial is None else _partial(partial)
        self.weights = _weights(weights)
        self.projection = _projection(projection)
        options: dict[str, Any] = {
            "unique": _flag("unique", unique),
            "sparse": _flag("sparse", sparse),
            "hidden": _flag("hidden", hidden),
            "expireAfterSeconds": seconds("expire_after", expire_after),
            "default_language": language,
            "language_override": language_field,
            "collation": collation_of(collation),
        }
        self.options: Mapping[str, Any] = {
            key: value for key, value in options.items() if value is not None and value is not False
        }
        self._check_kinds()

    def _check_kinds(self) -> None:
        kinds = {kind for _, kind in self.keys}
        if "text" not in kinds and (
            self.weights or self.options.keys() & {"default_language", "language_override"}
        ):
            raise ConfigurationError(
                f'{self!r}: weights and languages belong to a text index: Index(("title", "text"))'
            )
        if self.projection and WILDCARD not in {path for path, _ in self.keys}:
            raise ConfigurationError(f'{self!r}: projection= belongs to Index("$**")')
        if "expireAfterSeconds" in self.options and len(self.keys) > 1:
            raise ConfigurationError(f"{self!r}: expire_after= needs exactly one key, a date")

    def __repr__(self) -> str:
        named = "" if self.name is None else f" {self.name!r}"
        return f"<Index{named} on {', '.join(f'{path}: {kind}' for path, kind in self.keys)}>"


class VectorSearchIndex:
    """An index for ``$vectorSearch``, which needs Atlas or a server with its search process.

    A server without it is no error: the App logs a warning and continues.

    Args:
        path: The field that holds the vector.
        dimensions: The number of numbers in a vector.
        similarity: ``"cosine"``, ``"euclidean"`` or ``"dotProduct"``.
        filters: Field paths by which a search may filter.
        quantization: ``"scalar"`` or ``"binary"``, or None.
        name: The index's name.

    Raises:
        ConfigurationError: An argument is malformed.
    """

    __slots__ = ("dimensions", "filters", "name", "path", "quantization", "similarity")

    SIMILARITIES: Final = ("cosine", "euclidean", "dotProduct")
    QUANTIZATIONS: Final = (None, "scalar", "binary")

    def __init__(
        self,
        path: str,
        *,
        dimensions: int,
        similarity: str = "cosine",
        filters: Sequence[str] = (),
        quantization: str | None = None,
        name: str = "vector_index",
    ) -> None:
        if type(dimensions) is not int or dimensions < 1:
            raise ConfigurationError(f"dimensions is a number from 1, not {dimensions!r}")
        if similarity not in self.SIMILARITIES:
            known = ", ".join(self.SIMILARITIES)
            raise ConfigurationError(f"similarity is one of {known}, not {similarity!r}")
        if quantization not in self.QUANTIZATIONS:
            raise ConfigurationError(f"quantization is scalar or binary, not {quantization!r}")
        self.path = path
        self.dimensions = dimensions
        self.similarity = similarity
        self.filters = tuple([filters] if isinstance(filters, str) else filters)
        self.quantization = quantization
        self.name = name

    def __repr__(self) -> str:
        return f"<VectorSearchIndex {self.name!r} on {self.path}: {self.dimensions}>"


IndexEntry: TypeAlias = Index | VectorSearchIndex | Mapping[str, Any]
"""An entry of ``_indexes``."""


def declared_indexes(
    model: type[BaseModel], operators: Mapping[str, Operator] = OPERATORS
) -> list[IndexSpec]:
    """Return a model's indexes: from its fields' ``unique`` and ``index``, then from ``_indexes``.

    An entry of ``_indexes`` is an :class:`Index`, ``{"email": 1}`` (keys in order; 1, -1 or a kind such as
    ``"text"``), or ``{"keys": [("email", 1)], "unique": True, …}`` with the options of :class:`Index` or
    MongoDB's own. An entry for the same key as a field's own index replaces that index.

    Raises:
        ConfigurationError: An entry is malformed.
    """
    specs: dict[object, IndexSpec] = {spec.keys: spec for spec in field_indexes(model)}
    of_fields = set(specs)
    for entry in model._indexes:
        if isinstance(entry, VectorSearchIndex):
            continue
        spec = _entry_index(model, entry, operators)
        key: object = spec.keys
        if key in of_fields:
            # `unique=True` on the field together with {"email": 1} in _indexes is one unique index
            of_fields.discard(key)
            spec = IndexSpec(spec.keys, _merged(specs[key].options, spec.options))
        elif key in specs and spec != specs[key]:
            key = (spec.keys, spec.name)  # a second index may differ in collation or condition
        specs[key] = spec
    return _in_scope(model, list(specs.values()))


def _in_scope(model: type[BaseModel], specs: Sequence[IndexSpec]) -> list[IndexSpec]:
    """Put the scopes in front of unique indexes; one that is declared with them stays one index."""
    declared = {spec.keys: spec for spec in specs}
    result: dict[int, IndexSpec] = {}
    for spec in specs:
        in_scope = scoped(model, spec)
        twin = declared.get(in_scope.keys)
        if in_scope is not spec and twin is not None:
            result[id(twin)] = IndexSpec(twin.keys, _merged(in_scope.options, twin.options))
        else:
            result.setdefault(id(spec), in_scope)
    return list(result.values())


def entry_name(model: type[BaseModel], entry: IndexEntry) -> str:
    """Return the name of the index that an entry of ``_indexes`` declares."""
    if isinstance(entry, VectorSearchIndex):
        return entry.name
    return scoped(model, _entry_index(model, entry, OPERATORS)).name


def _merged(of_field: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**of_field, **options}
    # The server allows only one of the two; the option of the entry wins.
    if "sparse" in merged and "partialFilterExpression" in merged:
        merged.pop("sparse" if "partialFilterExpression" in options else "partialFilterExpression")
    return merged


def declared_search_indexes(model: type[BaseModel]) -> list[SearchIndexSpec]:
    """Return the vector-search indexes of a model."""
    return [
        _search_spec(model, entry)
        for entry in model._indexes
        if isinstance(entry, VectorSearchIndex)
    ]


def _search_spec(model: type[BaseModel], index: VectorSearchIndex) -> SearchIndexSpec:
    vector: dict[str, Any] = {
        "type": "vector",
        "path": _stored_path(model, index.path),
        "numDimensions": index.dimensions,
        "similarity": index.similarity,
    }
    if index.quantization is not None:
        vector["quantization"] = index.quantization
    filters = [{"type": "filter", "path": _stored_path(model, path)} for path in index.filters]
    return SearchIndexSpec(index.name, "vectorSearch", {"fields": [vector, *filters]})


# -- entries of _indexes --------------------------------------------------------------------------


def _entry_index(
    model: type[BaseModel], entry: object, operators: Mapping[str, Operator]
) -> IndexSpec:
    try:
        index, raw = _read(entry)
        options = {**index.options, **_field_options(model, index, operators), **raw}
    except ConfigurationError as error:
        raise ConfigurationError(f"{model.__name__}._indexes: {error}") from error.__cause__
    if index.name is not None:
        options["name"] = index.name
    return IndexSpec(tuple((_stored_path(model, p), k) for p, k in index.keys), options)


def _read(entry: object) -> tuple[Index, dict[str, Any]]:
    """Read an entry as an Index, and its options that are named as in MongoDB."""
    if isinstance(entry, Index):
        return entry, {}
    if not _is_mapping(entry) or not entry:
        raise ConfigurationError(
            f'{entry!r} is not an index; write {{"email": 1}} or Index("email", unique=True)'
        )
    if "keys" not in entry or isinstance(entry["keys"], int):
        return Index(dict(entry)), {}
    keys = entry["keys"]
    pairs = [keys] if isinstance(keys, Mapping | str) else list(keys)
    own = {key: value for key, value in entry.items() if key in _OWN_OPTIONS}
    raw = {key: value for key, value in entry.items() if key not in {*own, "keys"}}
    for name in raw:
        if name not in _SERVER_OPTIONS:
            known = _SERVER_OPTIONS | _OWN_OPTIONS
            raise ConfigurationError(f"unknown option {name!r}{nearest(name, known)}")
    raw.pop("background", None)  # it has no effect since MongoDB 4.2
    return Index(*[_as_key(pair) for pair in pairs], **own), raw


_OWN_OPTIONS: Final = frozenset(
    {
        "unique",
        "sparse",
        "partial",
        "expire_after",
        "weights",
        "language",
        "language_field",
        "projection",
        "collation",
        "hidden",
        "name",
    }
)


def _as_key(pair: object) -> Any:
    return tuple(cast("list[object]", pair)) if isinstance(pair, list) else pair


def _field_options(
    model: type[BaseModel], index: Index, operators: Mapping[str, Operator]
) -> dict[str, Any]:
    """Return the options that name fields, with the stored paths of the fields."""
    options: dict[str, Any] = {}
    if index.weights:
        options["weights"] = {_stored_path(model, p): w for p, w in index.weights.items()}
    if index.projection:
        options["wildcardProjection"] = {
            _stored_path(model, path): int(wanted) for path, wanted in index.projection.items()
        }
    if index.partial is not None:
        try:
            condition = to_filter(index.partial, model._schema, operators)
        except DomainError as error:
            raise ConfigurationError(f"{index!r}: partial: {error}") from error
        refused = sorted(_operators_in(condition) - _PARTIAL_OPERATORS)
        if refused or not condition:
            raise ConfigurationError(
                f"{index!r}: the database cannot keep a partial index for this condition "
                f"({', '.join(refused) or 'it is always true'}); it knows =, in, <, <=, >, >=, & and |, and "
                f"neither negations nor patterns"
            )
        options["partialFilterExpression"] = condition
    kinds = {kind for _, kind in index.keys}
    if kinds & {"text", "2d"} and "collation" not in index.options and model._options is not None:
        # These kinds support no collation, so they must refuse a collation of the collection.
        options["collation"] = dict(SIMPLE)
    return options


def _operators_in(condition: object) -> set[str]:
    if _is_mapping(condition):
        names = {key for key in condition if key.startswith("$")}
        return names.union(*map(_operators_in, condition.values()))
    if isinstance(condition, list):
        return set[str]().union(*map(_operators_in, cast("list[object]", condition)))
    return set()


def _stored_path(model: type[BaseModel], name: str) -> str:
    if name == WILDCARD:
        return name
    if name.endswith(f".{WILDCARD}"):
        return f"{_stored_path(model, name.removesuffix(f'.{WILDCARD}'))}.{WILDCARD}"
    try:
        return model._schema.path_of(name)
    except DomainError:
        warnings.warn(
            f"{model.__name__}._indexes names {name!r}, which the model does not declare",
            stacklevel=2,
        )
        return name


# -- arguments ------------------------------------------------------------------------------------


def _pairs(keys: Sequence[object]) -> Iterator[tuple[str, int | str]]:
    if not keys:
        raise ConfigurationError('an index has at least one key: Index("email")')
    seen: set[str] = set()
    for key in keys:
        for path, kind in _pairs_of(key):
            if not isinstance(path, str) or not path or not _is_kind(kind):
                raise ConfigurationError(
                    f"{path!r}: {kind!r} is not a key with its direction (1, -1) or kind "
                    f"({', '.join(sorted(KINDS))})"
                )
            if path in seen:
                raise ConfigurationError(f"{path!r} stands twice among an index's keys")
            seen.add(path)
            yield path, kind


def _pairs_of(key: object) -> Iterator[tuple[object, object]]:
    if isinstance(key, str):
        yield key.lstrip("+-"), -1 if key.startswith("-") else 1
    elif _is_mapping(key):
        yield from key.items()
    elif isinstance(key, tuple) and len(cast("tuple[object, ...]", key)) == 2:
        yield cast("tuple[object, object]", key)
    else:
        raise ConfigurationError(
            f'{key!r} is not a key; write "email", "-age" or ("title", "text")'
        )


def _is_kind(kind: object) -> TypeGuard[int | str]:
    # True == 1 in Python, but nobody writes True as a direction.
    return (type(kind) is int and kind in (1, -1)) or (isinstance(kind, str) and kind in KINDS)


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _flag(name: str, value: object) -> bool:
    if type(value) is not bool:
        raise ConfigurationError(f"{name} is True or False, not {value!r}")
    return value


def seconds(name: str, value: float | datetime.timedelta | None) -> int | None:
    """Return a time in whole seconds, as MongoDB stores it.

    Raises:
        ConfigurationError: The value is no time, or is negative.
    """
    if value is None:
        return None
    number = value.total_seconds() if isinstance(value, datetime.timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < 2**31:
        raise ConfigurationError(f"{name} is a time in seconds or a timedelta, not {value!r}")
    if number != int(number):
        raise ConfigurationError(f"{name} is a time in whole seconds, not {value!r}")
    return int(number)


def collation_of(value: object) -> dict[str, Any] | None:
    """Return a collation in MongoDB's own form.

    Raises:
        ConfigurationError: The value is neither a locale nor a mapping with one.
    """
    if value is None:
        return None
    if isinstance(value, str) and value:
        return {"locale": value}
    if _is_mapping(value) and isinstance(value.get("locale"), str):
        return dict(value)
    raise ConfigurationError(
        f'collation is a locale such as "fr", or {{"locale": "fr", "strength": 2}}, not {value!r}'
    )


def _partial(source: DomainSource) -> Domain:
    if _is_mapping(source):
        raise ConfigurationError(
            'partial= takes a domain: [("active", "=", True)]; MongoDB\'s own form goes into '
            '{"keys": …, "partialFilterExpression": {…}}'
        )
    try:
        return Domain(source)
    except DomainError as error:
        raise ConfigurationError(f"partial: {error}") from error


def _weights(value: object) -> dict[str, int]:
    if value is None:
        return {}
    if not _is_mapping(value) or not all(type(weight) is int for weight in value.values()):
        raise ConfigurationError(f"weights is a mapping of field paths to numbers, not {value!r}")
    return dict(value)


def _projection(value: object) -> dict[str, bool]:
    if value is None:
        return {}
    if _is_mapping(value):
        return {path: bool(wanted) for path, wanted in value.items()}
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"projection lists field paths, not {value!r}")
    return dict.fromkeys(cast("Sequence[str]", value), True)
