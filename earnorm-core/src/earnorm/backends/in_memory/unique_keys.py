"""Unique indexes: the keys that a document has in them, and the documents that hold the keys."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pymongo.errors import DuplicateKeyError, WriteError

from earnorm.backends.in_memory.filters import Predicate, predicate
from earnorm.backends.in_memory.values import copied, key, lacking
from earnorm.domain.bson_order import MISSING, sort_keys
from earnorm.domain.bson_order import Key as BsonKey
from earnorm.domain.values import is_dict, is_list

Fields = tuple[tuple[str, Any], ...]
TextForm = Callable[[str], str]
Key = tuple[Any, ...]
Keys = frozenset[Key]
_OBJECT, _ARRAY = key({})[0], key([])[0]


class UniqueIndex:
    """One unique index.

    Args:
        name: Its name.
        fields: Its paths with their directions.
        condition: The filter of the documents that it holds; None for all of them.
        is_sparse: Leaves out documents that have none of its fields.
        compared: The form of a text that is compared; None compares texts as they are.
    """

    def __init__(
        self,
        name: str,
        fields: Iterable[tuple[str, Any]],
        condition: Mapping[str, Any] | None,
        *,
        is_sparse: bool,
        compared: TextForm | None = None,
    ) -> None:
        self.name = name
        self.fields: Fields = tuple(fields)
        self._paths = [path.split(".") for path, _ in self.fields]
        self._covers: Predicate | None = None if condition is None else predicate(condition)
        self._is_sparse = is_sparse
        self._compared = compared

    def keys_of(self, document: Mapping[str, Any]) -> Keys:
        """Return the keys of a document; one for each item of a list."""
        if self._covers is not None and not self._covers(document):
            return frozenset()
        if self._is_sparse and not any(_has(document, path) for path in self._paths):
            return frozenset()
        if len(self._paths) == 1:
            return frozenset((one,) for one in self._keys_at(document, self._paths[0]))
        self.check_lists(document)
        depth = max(_list_on(document, path) for path in self._paths)
        if not depth:
            return self._product(document, self._paths)
        # The lists of several paths are one, whose items give a key each.
        inside = [path for path in self._paths if _list_on(document, path)]
        items = _at(document, inside[0][:depth])
        if len(inside) == 1 or not items:
            return self._product(document, self._paths)
        keys: set[Key] = set()
        for item in items:
            parts = [
                self._keys_at({"": [item]}, ["", *path[depth:]])
                if path in inside
                else self._keys_at(document, path)
                for path in self._paths
            ]
            keys.update(itertools.product(*parts))
        return frozenset(keys)

    def _product(self, document: Any, paths: Iterable[list[str]]) -> Keys:
        return frozenset(itertools.product(*[self._keys_at(document, path) for path in paths]))

    def _keys_at(self, value: Any, path: list[str]) -> list[BsonKey]:
        keys = sort_keys(value, path)
        return keys if self._compared is None else [_folded(one, self._compared) for one in keys]

    def check_lists(self, document: Mapping[str, Any]) -> None:
        """Refuse a document that has two lists in one compound index.

        Raises:
            WriteError: It has.
        """
        if len(self._paths) == 1 or (self._covers is not None and not self._covers(document)):
            return
        lists = {tuple(path[:depth]) for path in self._paths if (depth := _list_on(document, path))}
        if len(lists) > 1:
            text = "cannot index parallel arrays"
            raise WriteError(text, 171, {"code": 171, "errmsg": text})

    def duplicate(self, document: Mapping[str, Any]) -> DuplicateKeyError:
        """Make the error about a document whose key another one has."""
        details = {
            "code": 11000,
            "keyPattern": dict(self.fields),
            "keyValue": {path: _value(document, path.split(".")) for path, _ in self.fields},
        }
        text = f"E11000 duplicate key error index: {self.name}"
        return DuplicateKeyError(text, 11000, {**details, "errmsg": text})


def text_form(collation: Mapping[str, Any] | None) -> TextForm | None:
    """Return the form of a text that is the same for texts that a collation finds equal.

    Raises:
        NotImplementedError: Memory does not know the collation; or (the form) such a text.
    """
    if not collation or collation.get("locale") == "simple":
        return None
    if collation.keys() - {"locale", "strength"}:
        raise lacking("unique index with this collation")
    ignores_case = collation.get("strength", 3) < 3

    def form(text: str) -> str:
        if not text.isascii() or not text.isprintable():
            raise lacking("unique index with a collation over letters other than a to z")
        return text.lower() if ignores_case else text

    return form


def _folded(one: BsonKey, form: TextForm) -> BsonKey:
    bracket, inner = one
    if isinstance(inner, str):
        return bracket, form(inner)
    if bracket in (_OBJECT, _ARRAY) and inner:
        raise lacking("unique index with a collation over documents and lists")
    return one


def _has(value: Any, path: list[str]) -> bool:
    for number, part in enumerate(path):
        if is_list(value):
            return any(_has(item, path[number:]) for item in value if is_dict(item))
        if not is_dict(value) or part not in value:
            return False
        value = value[part]
    return True


def _list_on(document: Mapping[str, Any], path: list[str]) -> int:
    """Return after how many parts a path meets a list; 0 if it meets none."""
    value: Any = document
    for number, part in enumerate(path, 1):
        value = value.get(part, MISSING) if is_dict(value) else MISSING
        if is_list(value):
            return number
    return 0


def _at(value: Any, path: Iterable[str]) -> Any:
    for part in path:
        value = value.get(part, MISSING) if is_dict(value) else MISSING
    return value


def _value(document: Mapping[str, Any], path: list[str]) -> Any:
    value = _at(document, path)
    return None if value is MISSING else copied(value)


class UniqueKeys:
    """The keys of some documents in all unique indexes of a collection.

    Args:
        indexes: The indexes.
        documents: The documents.
    """

    def __init__(
        self, indexes: Iterable[UniqueIndex], documents: Iterable[Mapping[str, Any]]
    ) -> None:
        self._owners: list[tuple[UniqueIndex, dict[Key, set[Any]]]] = [
            (index, {}) for index in indexes
        ]
        for document in documents if self._owners else ():
            self.add(document)

    def add(self, document: Mapping[str, Any]) -> None:
        """Note a document that was stored."""
        for index, owners in self._owners:
            for one in index.keys_of(document):
                owners.setdefault(one, set()).add(place_of(document["_id"]))

    def remove(self, document: Mapping[str, Any]) -> None:
        """Forget a document, as it was stored."""
        for index, owners in self._owners:
            for one in index.keys_of(document):
                owners.get(one, set()).discard(place_of(document["_id"]))

    def rivals(self, document: Mapping[str, Any]) -> Iterator[tuple[UniqueIndex, Any]]:
        """Yield the places of other documents that were noted with a key of this one."""
        own = place_of(document["_id"])
        for index, owners in self._owners:
            for one in index.keys_of(document):
                for owner in owners.get(one, ()):
                    if owner != own:
                        yield index, owner


def place_of(id: Any) -> Any:
    """Return the key under which mongomock keeps the document with an id."""
    if not is_dict(id):
        return id
    from mongomock import helpers

    hashed: Any = helpers
    return hashed.hashdict(copied(id))
