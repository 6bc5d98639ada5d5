"""The layer of searches by id: from the memory of this process, from Redis, or else from the database."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from bson import ObjectId

from earnorm.domain import Condition, Domain
from earnorm.plugin import ID_TYPES, ModelView, Operation, StoredId, fields, from_bson, pause
from earnorm_cache.by_id import cacheable_ids, is_decided_in_memory, is_plain_search
from earnorm_cache.encoding import ABSENT, PAUSE_EVERY, Document, encoded, note_absent
from earnorm_cache.in_progress import IN_WRITE
from earnorm_cache.shared import Place
from earnorm_cache.unique import UniqueReader

if TYPE_CHECKING:
    from earnorm import App
    from earnorm.plugin import Call
    from earnorm_cache.closing import Shelf
    from earnorm_cache.levels import Levels
    from earnorm_cache.options import Kept
    from earnorm_cache.shared import Shared


class RecordReader:
    """Reads the records of one model by their ids.

    Args:
        levels: The levels of the App.
        model: The model.
        shelf: The shelf of its collection.
        kept: How its records are kept.
    """

    def __init__(self, levels: Levels, model: ModelView, shelf: Shelf, kept: Kept) -> None:
        self._levels, self._model, self._shelf, self._kept = levels, model, shelf, kept
        self._name = model.name
        self._has_object_ids = type(model.fields["_id"]) is fields.ObjectIdField
        self._may_be_kept = self._has_object_ids and model.root is None and kept.in_memory
        self._place: Place | None = None
        self._unique = UniqueReader(model, levels.shelves.memory, shelf, self)
        self._names: Sequence[str] | None = None

    async def kept(self, op: Operation) -> list[Document] | None:
        """Answer a search for one record by its id that this process keeps; None for any other search.

        It gives what ``find`` would give, without most of its questions: 4 of the 9 µs that a hit takes.
        """
        domain, levels, model = op.domain, self._levels, self._model
        if (
            type(domain) is not Condition
            or domain.path != "_id"
            or type(domain.value) is not ObjectId
            or domain.operator != "="
            or not self._may_be_kept
            or model.collection in levels.expiring
            or IN_WRITE.get()
            or not is_plain_search(op)
        ):
            return None
        if levels.listener is not None:
            if not op.env.system and op.app.bind(op.model).withholding is not None:
                return None
            if not await levels.are_heard((model.collection,)):
                return None
        data = levels.shelves.memory.get((self._name, domain.value))
        if data is None or data == ABSENT:
            return None
        levels.shelves.counts.hits[self._name] += 1
        return [from_bson(data)]

    async def find(self, op: Operation, call_next: Call, /) -> list[Document] | None:
        """Answer a search by ids or by a unique field; None if only the database can answer it."""
        model = self._model
        if model.collection in self._levels.expiring:
            return None
        if model.root is not None and op.app.bind(op.model).secret_paths:
            return None  # a document may be of a subclass with secret fields
        domain = op.domain
        if (  # of each get(), which needs none of the general way
            type(domain) is Condition
            and domain.path == "_id"
            and type(domain.value) is ObjectId
            and domain.operator == "="
            and self._has_object_ids
            and is_plain_search(op)
        ):
            return await self.documents(op, call_next, (domain.value,))
        found = cacheable_ids(op, model.schema)
        if found is None:
            return await self._unique.find(op, call_next)
        ids, rest = found
        if rest is Domain.TRUE:
            return in_order(ids, await self.documents(op, call_next, ids))
        # An access rule, say: it is judged by what Redis has, which is never old; a memory may be, for a moment.
        if self._redis is None or not is_decided_in_memory(rest, model):
            return None
        documents = await self.documents(op, call_next, ids, from_memory=False)
        matches = op.app.matcher(op.model, rest)
        return in_order(ids, [each for each in documents if matches(each)])

    async def whole(
        self, op: Operation, call_next: Call, pk: StoredId, *, is_alone: bool
    ) -> list[Document] | None:
        """Return the document of an id if there is one; None if only the database may be asked.

        Args:
            op: The search by the id.
            call_next: Asks the database.
            pk: The id.
            is_alone: There is no other condition, a rule say, by which a memory that is old for a moment must not
                judge.
        """
        if not is_alone and self._redis is None:
            return None
        return await self.documents(op, call_next, (pk,), from_memory=is_alone)

    async def documents(
        self,
        op: Operation,
        call_next: Call,
        ids: tuple[StoredId, ...],
        *,
        from_memory: bool = True,
    ) -> list[Document]:
        """Return the whole documents of these ids, in no order.

        Args:
            op: The search that needs them.
            call_next: Asks the database.
            ids: The ids.
            from_memory: The memory of this process is looked in, too.
        """
        if (
            IN_WRITE.get()
            or not (from_memory and self._kept.in_memory)
            or (
                # Who may see a field can depend on the record, and this memory may not have heard yet what was written.
                self._levels.shared is not None
                and not op.env.system
                and op.app.bind(op.model).withholding is not None
            )
        ):
            return await self._fetch(op, call_next, ids, ids)
        kept: list[Document] = []
        missing: list[StoredId] = []
        shelves, name = self._levels.shelves, self._name
        levels = self._levels
        is_trusted = levels.shared is None or await levels.are_heard((self._model.collection,))
        if is_trusted and len(ids) == 1:
            data = shelves.memory.get((name, ids[0]))
            if data is not None:
                shelves.counts.hits[name] += 1
                return [from_bson(data)] if data != ABSENT else []
            shelves.counts.misses[name] += 1
            missing.append(ids[0])
        elif is_trusted:
            memory, counts = shelves.memory, shelves.counts
            number = 0
            for number, pk in enumerate(dict.fromkeys(ids), 1):
                data = memory.get((name, pk))
                if data is None:
                    missing.append(pk)
                elif data != ABSENT:
                    kept.append(from_bson(data))
                if not number % PAUSE_EVERY:
                    await pause()
            counts.hits[name] += number - len(missing)
            counts.misses[name] += len(missing)
        else:
            shelves.counts.misses[name] += len(ids)
            missing.extend(dict.fromkeys(ids))
        if not missing:
            return kept
        return kept + await self._fetch(op, call_next, ids, tuple(missing))

    @property
    def _redis(self) -> Shared | None:
        return self._levels.shared if self._kept.in_redis else None

    async def _fetch(
        self,
        op: Operation,
        call_next: Call,
        ids: tuple[StoredId, ...],
        missing: tuple[StoredId, ...],
    ) -> list[Document]:
        """Return the documents that are not in this memory, and keep them."""
        levels, shelf, name = self._levels, self._shelf, self._model.name
        shared, counts = self._redis, levels.shelves.counts
        asked = 0

        def load(wanted: Sequence[StoredId]) -> Awaitable[list[Document]]:
            nonlocal asked
            asked += len(wanted)
            if len(wanted) == len(ids) and isinstance(op.domain, Condition):
                return call_next(op)
            return call_next(op.replace(domain=Condition("_id", "in", wanted)))

        kept_here = missing if self._kept.in_memory else ()
        lease = levels.shelves.lease(shelf, name, kept_here, self._kept)
        try:
            # What this process writes is read from the database until the write has ended.
            loose = [pk for pk in missing if not shelf.is_closed(pk)]
            if shared is not None and loose:
                place = self._place
                if place is None:
                    names = self.read_as(op.app)
                    place = Place.of(self._model.collection, names, self._kept)
                    self._place = place
                loaded = await shared.fetch(place, loose, load, partial(lease.keep, name))
                if len(loose) < len(missing):
                    loaded += await load([pk for pk in missing if pk not in loose])
                return loaded
            loaded = await load(missing)
            keep = partial(lease.keep, name)
            by_id = await encoded(loaded, keep)
            if self._kept.negative_ttl:
                note_absent(missing, loaded, by_id, keep)
            return loaded
        finally:
            lease.end()
            counts.loads[name] += asked
            counts.redis_hits[name] += max(0, len(missing) - asked)

    def read_as(self, app: App) -> Sequence[str]:
        """Return names that differ where two programs read the documents of a model differently."""
        if self._names is None:
            model = self._model
            views = map(ModelView, app.usable_models())
            names = {
                f"{view.name}.{field.db_name}"
                for view in views
                if view.collection == model.collection
                for field in view.fields.values()
            }
            self._names = [model.name, *sorted(names)]
        return self._names


def in_order(ids: Sequence[StoredId], documents: list[Document]) -> list[Document]:
    """Sort documents in the order of the ids, so that it doesn't depend on which were kept."""
    if len(documents) < 2:
        return documents
    place = {pk: number for number, pk in enumerate(ids)}

    def rank(document: Document) -> int:
        pk = document["_id"]
        return place.get(pk, len(ids)) if type(pk) in ID_TYPES else len(ids)

    return sorted(documents, key=rank)
