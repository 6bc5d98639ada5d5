"""Compares existing indexes with declared ones exactly, ignoring differences without effect.

The order of keys and their directions count. Properties that the server adds (``v``, the defaults
of a collation, of text and of 2d indexes, the key ``_fts``) do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import bson
from bson.decimal128 import Decimal128

from earnorm.backends.base import Document, IndexSpec

Keys: TypeAlias = tuple[tuple[str, int | str], ...]

_COLLATION_DEFAULTS: Final[Mapping[str, Any]] = {
    "caseLevel": False,
    "caseFirst": "off",
    "strength": 3,
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "normalization": False,
    "backwards": False,
}
# These defaults were read from a MongoDB 6.0 server, with an index for each of its locales.
_NORMALIZED: Final = "as bn my el gu he hi ig kn km kok mr or ps fa fa_AF pa si ta te th vi yi yo"
_OF_LOCALE: Final[Mapping[str, Mapping[str, Any]]] = {
    **{locale: {"normalization": True} for locale in _NORMALIZED.split()},
    **{locale: {"caseFirst": "upper"} for locale in ("da", "mt")},
    "th": {"alternate": "shifted", "normalization": True},
    "fr_CA": {"backwards": True},
}
_OF_COLLECTION: Final = frozenset({"fr_CA"})
"""The locales whose defaults also apply to a collection's own collation; others get the common
ones."""

_TEXT_DEFAULTS: Final = {"default_language": "english", "language_override": "language"}
_2D_DEFAULTS: Final = {"bits": 26, "min": -180.0, "max": 180.0}
# The server sets these itself, or they have no effect; a declared version counts at creation only.
_IGNORED: Final = frozenset(
    {
        "v",
        "ns",
        "key",
        "name",
        "background",
        "clustered",
        "textIndexVersion",
        "2dsphereIndexVersion",
    }
)


@dataclass(frozen=True, slots=True)
class ExistingIndex:
    """An index as the server lists it.

    Attributes:
        name: The index's name.
        keys: Its keys in order; those of a text index as ``("_fts", "text"), ("_ftsx", 1)``.
        options: Its other properties, as the server gives them.
    """

    name: str
    keys: Keys
    options: Mapping[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.name!r} on {shown(self.keys)}"


@dataclass(frozen=True, slots=True)
class IndexDifference:
    """A declared index, and the different one that the database has in its place.

    Attributes:
        declared: The index of the model.
        existing: The index of the database.
        what: Each difference, in words.
        options: The names of what differs: options, ``keys`` and ``name``.
    """

    declared: IndexSpec
    existing: ExistingIndex
    what: tuple[str, ...]
    options: frozenset[str]

    @property
    def is_harmless(self) -> bool:
        """True if only ``name`` or ``hidden`` differs, which changes no query's result."""
        return self.options <= {"name", "hidden"}

    def __str__(self) -> str:
        return f"{self.existing}: {'; '.join(self.what)}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing declared indexes with existing ones."""

    ok: tuple[IndexSpec, ...]
    missing: tuple[IndexSpec, ...]
    different: tuple[IndexDifference, ...]
    unused: tuple[ExistingIndex, ...]


def compare(
    declared: Iterable[IndexSpec],
    existing: Sequence[Document],
    collation: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare a model's indexes with those of its collection.

    An index that differs in its name only counts as the declared one, unless the declaration gives
    a name. The index on ``_id`` is not compared.

    Args:
        declared: The indexes of the model.
        existing: The indexes, as the server lists them.
        collation: The collection's own collation, which applies to an index without one.
    """
    rest = [existing_index(index) for index in existing if not _is_of_id(index)]
    if collation is None:
        # The index on _id always has the collection's collation.
        collation = next(
            (i["collation"] for i in existing if "collation" in i and _is_of_id(i)), None
        )
    wanted = [(spec, _identity(spec, collation)) for spec in declared]
    ok: list[IndexSpec] = []
    different: list[IndexDifference] = []
    missing: list[IndexSpec] = []
    unmatched: list[tuple[IndexSpec, _Identity]] = []
    for spec, identity in wanted:
        same = [e for e in rest if _identity_of(e) == identity]
        index = next((e for e in same if e.name == spec.name), same[0] if same else None)
        if index is None:
            unmatched.append((spec, identity))
            continue
        rest.remove(index)
        if index.name != spec.name and "name" in spec.options:
            what = (f"the name {spec.name!r} is declared",)
            different.append(IndexDifference(spec, index, what, frozenset({"name"})))
        else:
            ok.append(spec)
    for spec, identity in unmatched:
        # The index in its place is the one with its name, else one on its keys.
        index = next((e for e in rest if e.name == spec.name), None) or next(
            (e for e in rest if _identity_of(e).keys == identity.keys), None
        )
        if index is None:
            missing.append(spec)
            continue
        rest.remove(index)
        different.append(_difference(spec, identity, index))
    return Comparison(tuple(ok), tuple(missing), tuple(different), tuple(rest))


def shown(keys: Iterable[tuple[str, int | str]]) -> str:
    """Describe keys in words: ``name, -age, title (text)``."""
    words: Mapping[int | str, str] = {1: "{}", -1: "-{}"}
    return ", ".join(words.get(kind, f"{{}} ({kind})").format(path) for path, kind in keys)


# -- identity -------------------------------------------------------------------------------------

_Options: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Identity:
    """The keys as the server stores them, and all options with an effect, with their defaults."""

    keys: Keys
    options: _Options


def _identity(spec: IndexSpec, collation: Mapping[str, Any] | None) -> _Identity:
    options = dict(spec.options)
    if collation and "collation" not in options:
        options["collation"] = collation
    return _normal_identity(spec.keys, options)


def _normal_identity(keys: Keys, options: Mapping[str, Any]) -> _Identity:
    text = [path for path, kind in keys if kind == "text" and path != "_fts"]
    if text:
        # The server keeps the paths of a text index in its weights only.
        first = next(n for n, (_, kind) in enumerate(keys) if kind == "text")
        plain = [(path, kind) for path, kind in keys if kind != "text"]
        keys = (*plain[:first], ("_fts", "text"), ("_ftsx", 1), *plain[first:])
        options = {**options, "weights": {**dict.fromkeys(text, 1), **options.get("weights", {})}}
    return _Identity(keys, _normal(keys, options))


def _identity_of(existing: ExistingIndex) -> _Identity:
    return _normal_identity(existing.keys, existing.options)


def existing_index(index: Document) -> ExistingIndex:
    """Make an ExistingIndex of an index that the server lists."""
    keys = tuple((path, _kind(kind)) for path, kind in _items(index["key"]))
    options = {key: value for key, value in index.items() if key not in ("key", "name", "v", "ns")}
    return ExistingIndex(index["name"], keys, options)


def _items(keys: Any) -> Iterable[tuple[str, Any]]:
    return keys.items() if isinstance(keys, Mapping) else [tuple(pair) for pair in keys]


def _kind(kind: Any) -> int | str:
    # Old versions of the mongo shell stored directions as doubles.
    return kind if isinstance(kind, str) else int(kind)


def _is_of_id(index: Document) -> bool:
    return index["name"] == "_id_" or [path for path, _ in _items(index["key"])] == ["_id"]


def _normal(keys: Keys, options: Mapping[str, Any]) -> _Options:
    kinds = {kind for _, kind in keys}
    normal: _Options = {}
    for name, value in options.items():
        if name in _IGNORED or value is None or value is False:
            continue
        normal[name] = _NORMAL.get(name, canonical)(value)
    for kind, defaults in (("text", _TEXT_DEFAULTS), ("2d", _2D_DEFAULTS)):
        if kind in kinds:
            normal = {**{name: canonical(value) for name, value in defaults.items()}, **normal}
    if normal.get("collation") is None:
        normal.pop("collation", None)
    return normal


def normal_collation(
    collation: Mapping[str, Any] | None, *, of_collection: bool = False
) -> Mapping[str, Any] | None:
    """Return a collation with its defaults; None for ``simple``, which means no collation."""
    if not collation or collation.get("locale") == "simple":
        return None
    language = str(collation["locale"]).partition("@")[0]
    own = _OF_LOCALE.get(language, {})
    if of_collection and language not in _OF_COLLECTION:
        own = {}
    return {**_COLLATION_DEFAULTS, **own, **{k: v for k, v in collation.items() if k != "version"}}


def _normal_filter(value: Any) -> Any:
    """Write out the implicit ``$eq`` of a filter; its mappings compare in any order of keys."""
    if not isinstance(value, Mapping):
        return canonical(value)
    normal: dict[str, Any] = {}
    for key, condition in value.items():
        if key in ("$and", "$or"):
            normal[key] = [_normal_filter(part) for part in condition]
        elif key.startswith("$"):
            normal[key] = canonical(condition)
        elif (
            isinstance(condition, Mapping)
            and condition
            and all(k.startswith("$") for k in condition)
        ):
            normal[key] = _normal_filter(condition)
        else:
            normal[key] = {"$eq": canonical(condition)}
    return normal


def canonical(value: Any) -> Any:
    """Return a key that is equal for equal values: numbers by value, other values by their BSON."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, Decimal128):
        return ("number", value.to_decimal())
    if isinstance(value, str):
        return value
    return bson.encode({"": value})


def _numbers(value: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(number) for key, number in value.items()}


def _presence(value: Mapping[str, Any]) -> dict[str, bool]:
    return {key: bool(wanted) for key, wanted in value.items()}


_NORMAL: Final[Mapping[str, Any]] = {
    "collation": normal_collation,
    "partialFilterExpression": _normal_filter,
    "weights": _numbers,
    "wildcardProjection": _presence,
    "storageEngine": canonical,
}


# -- differences ----------------------------------------------------------------------------------


def _difference(spec: IndexSpec, declared: _Identity, existing: ExistingIndex) -> IndexDifference:
    actual = _identity_of(existing)
    what: list[str] = []
    names: set[str] = set()
    if declared.keys != actual.keys:
        names.add("keys")
        what.append(f"the keys {shown(declared.keys)} are declared")
    for name in sorted({*declared.options, *actual.options}):
        if declared.options.get(name) != actual.options.get(name):
            names.add(name)
            what.append(_in_words(name, spec.options, existing.options, declared, actual))
    if "name" in spec.options and existing.name != spec.name:
        names.add("name")
        what.append(f"the name {spec.name!r} is declared")
    return IndexDifference(spec, existing, tuple(what), frozenset(names))


def _in_words(
    name: str,
    declared: Mapping[str, Any],
    existing: Mapping[str, Any],
    wanted: _Identity,
    actual: _Identity,
) -> str:
    if name == "partialFilterExpression":
        # The values of the condition are data, which must not get into reports.
        if name not in declared:
            return "it covers some documents only (partialFilterExpression), which is not declared"
        return "its condition (partialFilterExpression) is not the declared one"

    def described(own: Mapping[str, Any], normal: _Identity) -> str:
        if name not in normal.options:
            return "not set"
        return repr(own[name]) if name in own else "its default"

    return (
        f"{name} is declared as {described(declared, wanted)}, and is {described(existing, actual)}"
    )
