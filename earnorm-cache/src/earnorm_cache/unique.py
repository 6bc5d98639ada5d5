"""Searches by the value of a unique field: a hint says which record had it, and the record is read by its id.

A hint needs no invalidation. The record comes as it is now, by the promise of reads by id, and is judged by the whole
domain. If it matches, it is the answer, since the index lets no second record have the value. If it does not, the
hint was wrong: that costs one look, and the database is asked.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from bson import ObjectId

from earnorm.domain import And, Condition, Domain
from earnorm.plugin import ID_TYPES, ModelView, Operation, Options, StoredId, from_bson, to_bson
from earnorm_cache.by_id import PLAIN, is_decided_in_memory, is_plain_search
from earnorm_cache.encoding import Document

if TYPE_CHECKING:
    from earnorm import App
    from earnorm.plugin import Call
    from earnorm_cache.closing import Shelf
    from earnorm_cache.memory import Key, Memory
    from earnorm_cache.reading import RecordReader

_TYPES: Final = frozenset({str, int, ObjectId, uuid.UUID, datetime.datetime})
"""The types of values that are looked for; others may be equal without being the same."""

_OPTIONS: Final = frozenset({"unique", "sparse", "name", "partialFilterExpression"})

_LOWEST: Final = ("", float("-inf"), b"", ObjectId("0" * 24), datetime.datetime(1, 1, 1))
"""A unique field leaves unset values out of its index by a condition that all others fulfil."""


class UniqueReader:
    """Finds the records of one model by the values of unique fields.

    Args:
        model: The model.
        memory: Holds the hints.
        shelf: The shelf of its collection.
        records: Reads its records by their ids.
    """

    def __init__(
        self, model: ModelView, memory: Memory, shelf: Shelf, records: RecordReader
    ) -> None:
        self._model, self._memory, self._shelf, self._records = model, memory, shelf, records
        self._fields: frozenset[str] | None = None

    async def find(self, op: Operation, call_next: Call) -> list[Document] | None:
        """Answer a search by a unique field; None if it is none."""
        if self._fields is None:
            self._fields = unique_fields(op.app, op.model)
        if not self._fields or not is_plain_search(op):
            return None
        domain = op.domain.simplify() if type(op.domain) is And else op.domain
        children = domain.children if isinstance(domain, And) else (domain,)
        named = next((each for each in children if self._is_by_value(each)), None)
        if named is None or not is_decided_in_memory(domain, self._model):
            return None
        key = self._key(named)
        hint = self._memory.get(key)
        if hint is not None:
            pk: StoredId = from_bson(hint)["id"]
            search = op.replace(
                domain=Condition("_id", "=", pk), options=Options(timeout=op.options.timeout)
            )
            found = await self._records.whole(search, call_next, pk, is_alone=len(children) == 1)
            if found is None:
                return None
            matches = op.app.matcher(op.model, domain)
            if found and matches(found[0]):
                return found
        documents: list[Document] = await call_next(op)
        if len(documents) == 1 and type(documents[0]["_id"]) in ID_TYPES:
            self._memory.put(key, to_bson({"id": documents[0]["_id"]}), self._shelf.results)
        return documents

    def _is_by_value(self, condition: Domain) -> TypeGuard[Condition]:
        return (
            isinstance(condition, Condition)
            and condition.operator == "="
            and condition.path in (self._fields or ())
            and type(condition.value) in _TYPES
        )

    def _key(self, named: Condition) -> Key:
        value: Any = named.value
        return self._model.name, b"unique:" + to_bson({named.path: value})


def unique_fields(app: App, model: Any) -> frozenset[str]:
    """Return the names of a model's fields of which an index lets only one record have a value."""
    view = ModelView(model)
    by_key = {field.db_name: field for field in view.fields.values() if type(field) in PLAIN}
    found: set[str] = set()
    for spec in app.indexes.declared(model):
        key = spec.keys[0][0]
        if (
            len(spec.keys) == 1
            and key in by_key
            and key != "_id"
            and spec.options.get("unique")
            and spec.options.keys() <= _OPTIONS
            and _has_all_values(spec.options.get("partialFilterExpression"), key)
        ):
            found.add(by_key[key].name)
    return frozenset(found)


def _has_all_values(condition: Mapping[str, Any] | None, key: str) -> bool:
    """Return whether an index of one key has all documents with a value there."""
    if condition is None:
        return True
    said = condition.get(key)
    if len(condition) != 1 or not isinstance(said, Mapping) or len(said) != 1:
        return False
    return said.get("$gte") in _LOWEST if "$gte" in said else "$type" in said
