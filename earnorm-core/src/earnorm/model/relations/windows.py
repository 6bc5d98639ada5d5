"""Loads a part of a to-many relation for each of many records: a limit and an order per parent.

The search of the other model passes its layers as any other, so access rules apply to what is
loaded; the server then takes the first records of each parent, with one query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from earnorm.domain import Domain, condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import DomainError
from earnorm.fields.many2many import Many2many
from earnorm.fields.relational import Many2one, Relation, ToMany
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import REQUEST, Operation, Options
from earnorm.kernel.serving import searches
from earnorm.kernel.serving.requests import Request
from earnorm.model.reading.across import ACROSS, Across
from earnorm.model.reading.fetch import Fetch
from earnorm.model.reading.hydrate import fill, hydrate
from earnorm.model.reading.ordering import order_of
from earnorm.model.relations.ghosts import (
    RELATIONS,
    ghosts_with,
    inverse_of,
    link_of,
    load_listed,
    own_app,
    target_of,
)

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.recordset import RecordSet

_OF: Final = "__of"
_PARENT: Final = "__parent"
_AT: Final = "__at"
Stages = list[Mapping[str, Any]]
Position = tuple[Any, int]
"""A parent's id, and the place of a record among those of this parent."""


class Window(NamedTuple):
    """The part of a relation to load for each parent.

    Attributes:
        limit: The most records of each parent; 0 means all.
        order: Paths of the loaded records with 1 or -1; empty for the relation's own order.
    """

    limit: int = 0
    order: tuple[tuple[str, int], ...] = ()

    def check(self, path: str, field: Relation[Any, Any], target: BoundModel | None) -> None:
        """Refuse a window of a relation to one record, or an order by an unknown field.

        Raises:
            DomainError: The window does not fit the relation.
        """
        if not isinstance(field, ToMany) or target is None:
            raise DomainError(
                f"prefetch: {path!r} leads to one record; limit= and order= are for to-many "
                f"relations"
            )
        across = Across(target)
        for name, _ in self.order:
            across.key(name)


# -- the request ----------------------------------------------------------------------------------


class FirstOfEach(Request):
    """Answers a search with the first documents of each parent, and notes whose they are.

    Args:
        parents: The ids of the parents, or for ``lists_of`` each with the ids that it has.
        key: The stored key of the found documents with the parent's id, or with a list of such ids.
        limit: The most documents of each parent; 0 means all.
        is_list: True if the key has a list.
        distinct: A stored key of which each parent counts equal values once; None for no such.
        lists_of: The model of the parents where these have the ids of the documents under ``key``.

    Attributes:
        positions: By the id of a document, its positions.
    """

    __slots__ = ("distinct", "is_list", "key", "limit", "lists_of", "parents", "positions")

    def __init__(
        self,
        parents: Mapping[Any, Sequence[Any]],
        key: str,
        limit: int,
        *,
        is_list: bool = False,
        distinct: str | None = None,
        lists_of: BoundModel | None = None,
    ) -> None:
        self.parents, self.key, self.limit = parents, key, limit
        self.is_list, self.distinct, self.lists_of = is_list, distinct, lists_of
        self.positions: dict[Any, list[Position]] = {}

    def is_cut_by_server(self, app: App) -> bool:
        """Return whether a pipeline takes the first documents, instead of this process."""
        is_needed = bool(self.limit) or self.lists_of is not None
        # The memory backend, which cannot explain either, does not have the stages of the pipeline.
        return is_needed and "explain" in app.capabilities

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Fetch the documents, each once."""
        if not self.is_cut_by_server(bound.app):
            documents = await searches.documents(bound, op)
            return self._cut(documents, is_sorted=bool(op.options.order))
        holder = bound if self.lists_of is None else self.lists_of
        pipeline = self._grouped(bound, op) if self.lists_of is None else self._listed(bound, op)
        documents = await holder._collection_of(op).aggregate(
            pipeline,
            session=op.env._database_session,
            timeout=op.options.timeout or bound.timeout,
        )
        for document in documents:
            positions = document.pop(_OF)
            self.positions[document["_id"]] = [
                (position["p"], position["at"]) for position in positions
            ]
        return documents if op.options.fields is not None else bound.declared.only(documents)

    def _grouped(self, bound: BoundModel, op: Operation) -> Stages:
        """Return the stages that find the first documents by the parent that they name."""
        stages: Stages = [*searches.stages(bound, op)]
        order = dict(op.options.order)
        parent = self.key
        if self.is_list:
            named: Any = {"$setIntersection": [f"${self.key}", list(self.parents)]}
            own = {"$cond": [{"$isArray": f"${self.key}"}, named, []]}
            stages += [{"$set": {_PARENT: own}}, {"$unwind": f"${_PARENT}"}]
            parent = _PARENT
        if self.distinct is not None:
            pair = {"p": f"${parent}", "d": f"${self.distinct}"}
            stages += [
                {"$sort": order},
                {"$group": {"_id": pair, "first": {"$first": "$$ROOT"}}},
                {"$replaceRoot": {"newRoot": "$first"}},
            ]
        top = {"$topN": {"n": self.limit, "sortBy": order, "output": "$$ROOT"}}
        stages += [
            {"$group": {"_id": f"${parent}", "top": top}},
            {"$unwind": {"path": "$top", "includeArrayIndex": _AT}},
            *_once("top"),
            *_shown(bound, op, _PARENT),
        ]
        return stages

    def _listed(self, bound: BoundModel, op: Operation) -> Stages:
        """Return the stages that follow the parents' lists of ids; an order of none is the list's."""
        selected: Stages = [*searches.stages(bound, op)]
        if not op.options.order:
            selected.append({"$set": {_AT: {"$indexOfArray": ["$$ids", "$_id"]}}})
        selected += [
            {"$sort": dict(op.options.order) or {_AT: 1}},
            *([{"$limit": self.limit}] if self.limit else ()),
            *_shown(bound, op, _AT),
        ]
        lookup = {
            "from": bound._collection.name,
            "localField": "ids",
            "foreignField": "_id",
            "let": {"ids": "$ids"},
            "pipeline": selected,
            "as": "top",
        }
        return [
            {"$match": {"_id": {"$in": list(self.parents)}}},
            {"$project": {"ids": f"${self.key}"}},
            {"$match": {"ids": {"$type": "array"}}},
            {"$lookup": lookup},
            {"$unwind": {"path": "$top", "includeArrayIndex": _AT}},
            *_once("top"),
        ]

    def _cut(self, documents: list[Document], *, is_sorted: bool) -> list[Document]:
        """Take the first documents of each parent out of all of them, which are in order."""
        taken: dict[Any, list[Any]] = {pk: [] for pk in self.parents}
        for document, parents in self._by_parent(documents, is_sorted=is_sorted):
            value = document["_id"] if self.distinct is None else document.get(self.distinct)
            for parent in parents:
                values = taken[parent]
                if value in values or (self.limit and len(values) >= self.limit):
                    continue
                self.positions.setdefault(document["_id"], []).append((parent, len(values)))
                values.append(value)
        return [document for document in documents if document["_id"] in self.positions]

    def _by_parent(
        self, documents: list[Document], *, is_sorted: bool
    ) -> Iterator[tuple[Document, Sequence[Any]]]:
        """Yield documents with their parents, in the order of each parent's documents."""
        if self.lists_of is None:
            for document in documents:
                value = document.get(self.key)
                ids = dict.fromkeys(value) if isinstance(value, list) else (value,)
                yield document, [pk for pk in ids if pk in self.parents]
            return
        by_id = {document["_id"]: document for document in documents}
        ranks = {pk: rank for rank, pk in enumerate(by_id)}
        for parent, listed in self.parents.items():
            known = [pk for pk in dict.fromkeys(listed) if pk in by_id]
            for pk in sorted(known, key=ranks.__getitem__) if is_sorted else known:
                yield by_id[pk], [parent]


def _once(name: str) -> Stages:
    """Return the stages that give each document once, with all of its positions."""
    position = {"p": "$_id", "at": f"${_AT}"}
    whole = {"$mergeObjects": ["$document", {_OF: f"${_OF}"}]}
    return [
        {
            "$group": {
                "_id": f"${name}._id",
                "document": {"$first": f"${name}"},
                _OF: {"$push": position},
            }
        },
        {"$replaceRoot": {"newRoot": whole}},
    ]


def _shown(bound: BoundModel, op: Operation, *added: str) -> Stages:
    """Return the stage that removes what the stages before added, and fields that are hidden."""
    fields = searches.projection(bound, op) if op.options.fields is not None else None
    if fields is not None:
        return [{"$project": {**fields, _OF: 1}}]
    return [{"$unset": [*added, *(key for key, _ in op.note(ACROSS) or ())]}]


# -- loading --------------------------------------------------------------------------------------


async def load_window(records: Sequence[Any], field: ToMany[Any], window: Window) -> None:
    """Load the window of a relation for records that do not have the relation yet."""
    values = [getattr(record, field.name) for record in records]
    waiting = [
        (record, value)
        for record, value in zip(records, values, strict=True)
        if value._records is None and value._load is not None
    ]
    if waiting:
        own_app(waiting[0][0]._fetch.app)
        if isinstance(field, Many2many) and field.through is not None:
            await _through(field, waiting, window)
        elif field.stored:
            await _listed(field, waiting, window)
        else:
            await _inverse(field, waiting, window)


Waiting = Sequence[tuple[Any, "RecordSet[Any]"]]


def _part(field: ToMany[Any], window: Window) -> str:
    return f"{field.model_name}.{field.name}" if window.limit else ""


async def _inverse(field: ToMany[Any], waiting: Waiting, window: Window) -> None:
    bound = target_of(waiting[0][0]._fetch.app, field)
    inverse = inverse_of(bound, field)
    parents = {parent.pk: parent for parent, _ in waiting}
    order = window.order or order_of(bound.schema, field.order)
    matches = _Matches()
    for chunk in chunks(list(parents)):
        own = dict.fromkeys(chunk, ())
        is_list = not isinstance(inverse, Many2one)
        request = FirstOfEach(own, inverse.db_name, window.limit, is_list=is_list)
        await matches.add(bound, condition(inverse.name, "in", chunk), request, order)
    records = hydrate(bound, [*matches.documents.values()], bound.shown(current_env()))
    children = dict(zip(matches.documents, records, strict=True))
    for pk, positions in matches.positions.items():
        if isinstance(inverse, Many2one):
            children[pk].__dict__[inverse.name] = parents[positions[0][0]]
    for parent, value in waiting:
        value._become([children[pk] for pk in matches.of(parent.pk)], _part(field, window))


async def _listed(field: ToMany[Any], waiting: Waiting, window: Window) -> None:
    record = waiting[0][0]
    app = record._fetch.app
    bound, owner = target_of(app, field), app.bind(type(record))
    matches = _Matches()
    lists = {parent.pk: value._pks or () for parent, value in waiting}
    for chunk in chunks(list(lists)):
        own = {pk: lists[pk] for pk in chunk}
        request = FirstOfEach(own, field.db_name, window.limit, lists_of=owner)
        domain = Domain.TRUE  # the server follows the lists itself
        if not request.is_cut_by_server(bound.app):
            named = dict.fromkeys(pk for listed in own.values() for pk in listed)
            domain = condition("_id", "in", list(named))
        await matches.add(bound, domain, request, window.order, is_ordered=bool(window.order))
    ghosts = dict(
        zip(matches.documents, ghosts_with(record, field, [*matches.documents]), strict=True)
    )
    unloaded = {pk: ghost for pk, ghost in ghosts.items() if ghost._fetch.is_ghost}
    loaded = Fetch(app, bound.shown(current_env()))
    loaded.hold(unloaded.values())
    loaded.is_mixed = bound.classes is not None
    documents = [matches.documents[pk] for pk in unloaded]
    await fill(bound, [*unloaded.values()], documents, loaded)
    for parent, value in waiting:
        value._become([ghosts[pk] for pk in matches.of(parent.pk)], _part(field, window))


async def _through(field: Many2many[Any], waiting: Waiting, window: Window) -> None:
    """Load the first links whose records may be read, then these records: two queries."""
    record = waiting[0][0]
    links, near, far = link_of(record._fetch.app, type(record), field)
    order = tuple((f"{far.name}.{path}", way) for path, way in window.order)
    if order:
        order = (*order, (far.name, 1))
    matches = _Matches()
    for chunk in chunks([parent.pk for parent, _ in waiting]):
        domain = condition(near.name, "in", chunk) & condition(far.name, "any", Domain.TRUE)
        own = dict.fromkeys(chunk, ())
        request = FirstOfEach(own, near.db_name, window.limit, distinct=far.db_name)
        fields = frozenset({"_id", near.name, far.name})
        await matches.add(
            links, domain, request, order or order_of(links.schema, field.order), fields
        )
    for parent, value in waiting:
        value._pks = [matches.documents[pk][far.db_name] for pk in matches.of(parent.pk)]
    await load_listed(record, field, [value for _, value in waiting])
    for _, value in waiting:
        value._become(value._loaded, _part(field, window))
        value._pks = None  # the record itself stores no ids of this field


class _Matches:
    """The documents of several searches, and the positions that they have with each parent."""

    def __init__(self) -> None:
        self.documents: dict[Any, Document] = {}
        self.positions: dict[Any, list[Position]] = {}
        self._by_parent: dict[Any, list[tuple[int, Any]]] = {}

    async def add(
        self,
        bound: BoundModel,
        domain: Domain,
        request: FirstOfEach,
        order: Sequence[tuple[str, int]],
        fields: frozenset[str] | None = None,
        *,
        is_ordered: bool = True,
    ) -> None:
        """Run one search, and add what it finds."""
        env, across = current_env(), Across(bound)
        keys = [(across.key(path), way) for path, way in order]
        if is_ordered and not any(key == "_id" for key, _ in keys):
            keys.append(("_id", 1))  # the id makes the order complete
        options = Options(order=tuple(keys), fields=fields)
        op = Operation("search", bound.model, env, domain, None, options, RELATIONS)
        op = op.with_note(REQUEST, request)
        if across.paths:
            op = op.with_note(ACROSS, across.paths)
        documents = await env.app.execute(op)
        for document in documents:
            pk = document["_id"]
            self.documents[pk] = document
            self.positions[pk] = request.positions[pk]
            for parent, at in request.positions[pk]:
                self._by_parent.setdefault(parent, []).append((at, pk))

    def of(self, parent: Any) -> list[Any]:
        """Return the ids of a parent's documents, in order."""
        return [
            pk
            for _, pk in sorted(self._by_parent.get(parent, ()), key=lambda position: position[0])
        ]
