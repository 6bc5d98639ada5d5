"""The documents of one collection, in the store of mongomock, where the driver's own objects see them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from bson import Binary, ObjectId
from pymongo.errors import OperationFailure, WriteError

from earnorm.backends.in_memory.expressions import expression
from earnorm.backends.in_memory.filters import predicate
from earnorm.backends.in_memory.operators import load
from earnorm.backends.in_memory.unique_keys import (
    UniqueIndex,
    UniqueKeys,
    place_of,
    text_form,
)
from earnorm.backends.in_memory.values import Document, key
from earnorm.domain.values import is_dict, is_list
from earnorm.exceptions import ConfigurationError

load()

_AS_IN_PYTHON: Final = frozenset({ObjectId, str, Binary, datetime.datetime})
"""The types of ids of which Python and a server find the same ones equal."""

_MOCK_TYPES: Final = frozenset(
    {
        *("double", "string", "object", "array", "binData", "objectId", "bool", "date"),
        *("int", "long", "decimal", "number"),
    }
)
"""The types that mongomock's ``$type`` knows."""


def server_store(client: Any) -> Any:
    """Return the store of a client of mongomock: its documents by database and collection.

    Raises:
        ConfigurationError: The client, or the version of mongomock, has none.
    """
    store = getattr(client, "_store", None)  # the one attribute of mongomock that is not public
    if not all(hasattr(store, name) for name in ("__getitem__", "list_created_database_names")):
        raise ConfigurationError(
            "mongomock:// needs a client of mongomock-motor, and a version of mongomock that keeps "
            'its documents as 4.3 does: pip install "mongomock==4.3.0"'
        )
    return store


class CollectionStore:
    """One collection.

    Args:
        documents: The collection's store in mongomock.
    """

    def __init__(self, documents: Any) -> None:
        self._documents = documents
        self.options: dict[str, Mapping[str, Any]] = {}
        """By index, its options as they were asked for."""
        self._keys: UniqueKeys | None = None
        self._several: list[UniqueIndex] | None = None
        self.is_shared = False
        """The driver's own objects were handed out, so that others may write."""

    # -- reading ----------------------------------------------------------------------------------

    def all(self) -> list[Document]:
        """Return all documents in the order of their creation; they must not be changed."""
        return list(self._documents.documents)

    def matching(self, filter: Mapping[str, Any]) -> list[Document]:
        """Return the documents that a filter finds; they must not be changed.

        Raises:
            NotImplementedError: Memory does not have an operator of the filter.
            OperationFailure: A server refuses it, too.
        """
        fits = predicate(filter, expression)
        return [document for document in self._candidates(filter) if fits(document)]

    def _candidates(self, filter: Mapping[str, Any]) -> Iterable[Document]:
        """Return all documents, or those with the ids that a filter names, in the order of the ids."""
        ids = _ids(filter)
        if ids is None or len(ids) > len(self._documents):
            return self.all()
        return [self._documents[one] for one in sorted(set(ids), key=key) if one in self._documents]

    # -- writing ----------------------------------------------------------------------------------

    def insert(self, document: Document) -> None:
        """Store a new document, which belongs to the store from now on.

        Raises:
            DuplicateKeyError: Another one has its id, or its key in a unique index.
        """
        if is_list(document["_id"]):
            raise WriteError("The '_id' value cannot be of type array", 53, {"code": 53})
        keys, place = self._unique_keys(), place_of(document["_id"])
        if place in self._documents:
            if key(self._documents[place]["_id"]) != key(document["_id"]):
                raise NotImplementedError(
                    "it does not have ids that Python finds equal, as 1 and True"
                )
            raise BY_ID.duplicate(document)
        self._check(keys, document)
        self._documents[place] = document
        keys.add(document)

    def replace(self, before: Document, after: Document) -> None:
        """Store a document in the place of one that has its id.

        Raises:
            DuplicateKeyError: Another one has its key in a unique index.
        """
        keys = self._unique_keys()
        self._check(keys, after)
        keys.remove(before)
        self._documents[place_of(before["_id"])] = after
        keys.add(after)

    def delete(self, document: Document) -> None:
        """Remove a document."""
        self._unique_keys().remove(document)
        del self._documents[place_of(document["_id"])]

    # -- unique indexes ---------------------------------------------------------------------------

    def _check_unique(self, index: UniqueIndex) -> None:
        keys = UniqueKeys([index], ())
        for document in self.all():
            for _ in keys.rivals(document):
                raise index.duplicate(document)
            keys.add(document)

    def create_index(
        self, name: str, fields: Sequence[tuple[str, Any]], options: Mapping[str, Any]
    ) -> None:
        """Add an index; one that is there with the same keys and options stays.

        Raises:
            DuplicateKeyError: Two documents share a key of a unique index.
            OperationFailure: One of this name has other keys or options.
        """
        described: dict[str, Any] = {"key": [tuple(pair) for pair in fields]}
        for option in ("unique", "sparse", "expireAfterSeconds"):
            if options.get(option) is not None and options[option] is not False:
                described[option] = options[option]
        if options.get("partialFilterExpression") is not None:
            described["partialFilterExpression"] = split_types(options["partialFilterExpression"])
        there = self._documents.indexes.get(name)
        if there is not None:
            asked = {k: v for k, v in options.items() if k != "name" and v is not None}
            kept = {k: v for k, v in self.options.get(name, asked).items() if k != "name"}
            if there != described or kept != asked:
                text = f"an index named {name!r} exists with other keys or options"
                raise OperationFailure(text, 86, {"code": 86, "errmsg": text})
            return
        if described.get("unique"):
            self._check_unique(unique_index(name, fields, options))
        self._documents.create_index(name, described)
        self.options[name] = options
        self.forget_keys()

    def forget_keys(self) -> None:
        """Read the indexes again before the next write."""
        self._keys = self._several = None

    def start_write(self) -> None:
        """Look at the documents anew, if others may have written them."""
        if self.is_shared:
            self._keys = self._several = None

    def _unique_keys(self) -> UniqueKeys:
        if self._keys is None:
            self._keys = UniqueKeys(self._indexes(), self._documents.documents)
        return self._keys

    def _indexes(self) -> Iterator[UniqueIndex]:
        yield BY_ID
        for name, described in self._documents.indexes.items():
            if described.get("unique"):
                yield unique_index(
                    name, described["key"], {**described, **self.options.get(name, {})}
                )

    def _compound(self) -> list[UniqueIndex]:
        """Return the indexes of several keys, unique or not."""
        if self._several is None:
            self._several = [
                unique_index(name, described["key"], {**described, "collation": None})
                for name, described in self._documents.indexes.items()
                if len(described["key"]) > 1
            ]
        return self._several

    def _check(self, keys: UniqueKeys, document: Document) -> None:
        for index in self._compound():
            index.check_lists(document)
        for index, owner in keys.rivals(document):
            # What a time to live has removed still has its keys.
            if owner not in self._documents:
                continue
            there = self._documents[owner]
            if index.keys_of(there) & index.keys_of(document):
                raise index.duplicate(document)


BY_ID: Final = UniqueIndex("_id_", [("_id", 1)], None, is_sparse=False)


def unique_index(name: str, fields: Iterable[Any], options: Mapping[str, Any]) -> UniqueIndex:
    """Return a unique index of its description."""
    condition = options.get("partialFilterExpression")
    pairs = [(str(path), direction) for path, direction in fields]
    return UniqueIndex(
        name,
        pairs,
        condition,
        is_sparse=bool(options.get("sparse")),
        compared=text_form(options.get("collation")),
    )


def split_types(filter: Mapping[str, Any]) -> Document:
    """Split each list of types in a filter, for mongomock, whose $type takes only one."""
    remaining: Document = {}
    alternatives: list[Document] = []
    for path, value in filter.items():
        if path in ("$and", "$or", "$nor"):
            remaining[path] = [split_types(part) for part in value]
        elif is_dict(value) and is_list(value.get("$type")):
            rest = {name: operand for name, operand in value.items() if name != "$type"}
            types = [name for name in value["$type"] if name in _MOCK_TYPES]
            variants = [{path: {**rest, "$type": name}} for name in types]
            alternatives.append({"$or": variants} if variants else {"_id": {"$in": []}})
        else:
            remaining[path] = value
    return {"$and": [remaining, *alternatives]} if alternatives else remaining


def _ids(filter: Mapping[str, Any]) -> list[Any] | None:
    """Return the ids that a filter names; None if it names none, or others than usual ones."""
    named = filter.get("_id")
    if is_dict(named):
        ids = [named["$eq"]] if "$eq" in named else named.get("$in")
    else:
        ids = [named] if "_id" in filter else None
    if is_list(ids):
        return ids if all(type(one) in _AS_IN_PYTHON for one in ids) else None
    for part in filter.get("$and", ()):
        if (inner := _ids(part)) is not None:
            return inner
    return None
