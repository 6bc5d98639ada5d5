"""Sends the updates that change items of lists.

The server refuses such an update for a document that lacks the list. No item matches there, so the
document gets the rest of the update: each document gets exactly one statement, on condition that
the lists are there, or not there, as that statement needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from earnorm.backends.base import BulkUpdate
from earnorm.domain.items import item_filter
from earnorm.domain.long_lists import chunks
from earnorm.domain.paths import is_position
from earnorm.kernel.operations import PerRecord, Update
from earnorm.kernel.serving.sending import RETURNED

if TYPE_CHECKING:
    from earnorm.backends.base import Collection, Document, Filter
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation

_ATTEMPTS: Final = 3
_NONE: Final[frozenset[str]] = frozenset()


class ItemUpdates(NamedTuple):
    """Sends updates of list items in one operation.

    Attributes:
        bound: The model.
        collection: Its collection, with the concerns of the operation.
        op: The write.
        timeout: Seconds that a statement may take.
    """

    bound: BoundModel
    collection: Collection
    op: Operation
    timeout: float | None

    async def write(self, condition: Filter, update: Update) -> int:
        """Update the records that match a condition; return their number."""
        if self.op.options.many:
            return await self._write_many(condition, update)
        return await self._write_one(condition, update)

    async def fitted(
        self, statements: Sequence[BulkUpdate], updates: PerRecord
    ) -> list[BulkUpdate]:
        """Read which records lack a list, and return a statement for each record that fits it.

        Args:
            statements: A statement for each record, in the order of the updates.
            updates: The updates.
        """
        pks = [pk for pk, update in updates.items() if update.items]
        paths = list({path: None for pk in pks for path in _lists(updates[pk])})
        absent: dict[Any, frozenset[str]] = {}
        for part in chunks(pks):
            absent.update(await self._absent({"_id": {"$in": list(part)}}, paths))
        return [
            self._request(statement.filter, update, absent.get(pk, _NONE))
            if update.items
            else statement
            for statement, (pk, update) in zip(statements, updates.items(), strict=True)
        ]

    async def _write_one(self, condition: Filter, update: Update) -> int:
        absent = _NONE
        for _ in range(_ATTEMPTS):  # another program may set or remove a list meanwhile
            if await self._send(self._request(condition, update, absent)):
                return 1
            documents = await self._read(condition, _lists(update), limit=1)
            if not documents:
                break
            absent = _absent_in(documents[0], _lists(update))
        return 0

    async def _write_many(self, condition: Filter, update: Update) -> int:
        paths = _lists(update)
        groups: dict[frozenset[str], list[Any]] = {}
        for pk, absent in (await self._absent(condition, paths)).items():
            groups.setdefault(absent, []).append(pk)
        # Those that have all lists come first: a document that gets a list between the statements
        # must not be updated twice.
        matched = await self._send(self._request(condition, update, _NONE))
        for absent, pks in groups.items():
            for part in chunks(pks):
                these = {"$and": [condition, {"_id": {"$in": list(part)}}]}
                matched += await self._send(self._request(these, update, absent))
        return matched

    def _request(self, condition: Filter, update: Update, absent: frozenset[str]) -> BulkUpdate:
        """Return the statement for records that lack some of the lists of an update."""
        paths = _lists(update)
        presence = [
            {path: {"$not": {"$type": "array"}} if path in absent else {"$type": "array"}}
            for path in paths
        ]
        rest = _without(update, absent)
        filters = [
            item_filter(item.name, item.domain, item.schema, self.bound.operators)
            for item in rest.items
        ]
        # This changes nothing in a document that exists; it counts the match.
        statement = rest.statement or {"$setOnInsert": {next(iter(paths)): []}}
        return BulkUpdate(
            {"$and": [condition, *presence]}, statement, array_filters=filters or None
        )

    async def _send(self, request: BulkUpdate) -> int:
        op, returned = self.op, self.op.notes.get(RETURNED)
        if returned is None:
            return await self.collection.update(
                request.filter,
                request.update,
                many=op.options.many,
                array_filters=request.array_filters,
                session=op.env._database_session,
                timeout=self.timeout,
            )
        fields = self.bound.schema.fields
        returned.document = await self.collection.find_and_update(
            request.filter,
            request.update,
            projection={"_id": 1, **{fields[name].db_name: 1 for name in returned.fields}},
            array_filters=request.array_filters,
            session=op.env._database_session,
            timeout=self.timeout,
        )
        return int(returned.document is not None)

    async def _absent(self, condition: Filter, paths: Sequence[str]) -> dict[Any, frozenset[str]]:
        """Return the absent lists of the records that lack any, by their stored ids."""
        if not paths:  # a step has put whole lists in the place of their items
            return {}
        lacking = [{path: {"$not": {"$type": "array"}}} for path in paths]
        documents = await self._read({"$and": [condition, {"$or": lacking}]}, paths)
        return {document["_id"]: _absent_in(document, paths) for document in documents}

    async def _read(
        self, condition: Filter, paths: Iterable[str], *, limit: int = 0
    ) -> list[Document]:
        # A projection by position would leave out a list inside a list.
        keys = {path.partition(".")[0] for path in paths}
        return await self.collection.find(
            condition,
            projection={"_id": 1, **dict.fromkeys(keys, 1)},
            limit=limit,
            session=self.op.env._database_session,
            timeout=self.timeout,
        )


def _lists(update: Update) -> Sequence[str]:
    """Return the stored paths of the lists that the update needs, without those inside items."""
    wanted = {part for spec in update.operators.values() for key in spec for part in key.split(".")}
    used = [item for item in update.items if f"$[{item.name}]" in wanted]
    return list(dict.fromkeys(item.path for item in used if ".$[" not in item.path))


def _without(update: Update, absent: frozenset[str]) -> Update:
    """Return an update without the changes of items of some lists, and without unused filters.

    The server refuses a filter that no path uses. A step may have put a whole list in the place of
    the changes of its items.
    """
    prefixes = tuple(f"{path}.$[" for path in absent)
    operators = {
        operator: kept
        for operator, spec in update.operators.items()
        if (kept := {key: value for key, value in spec.items() if not key.startswith(prefixes)})
    }
    wanted = {part for spec in operators.values() for key in spec for part in key.split(".")}
    items = tuple(item for item in update.items if f"$[{item.name}]" in wanted)
    return replace(update, operators=operators, items=items)


def _absent_in(document: Mapping[str, Any], paths: Iterable[str]) -> frozenset[str]:
    return frozenset(path for path in paths if not isinstance(_value_at(document, path), list))


def _value_at(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and is_position(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
