"""The core of searches, counts and groups: the requests that they send to the database.

A search sends a filter, or a pipeline if a layer has left one in the note ``STAGES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from earnorm.domain import Condition, to_filter
from earnorm.domain.paths import overlap, without_positions
from earnorm.exceptions import LongList, PluginError, UnreadableDocument
from earnorm.kernel import pauses
from earnorm.kernel.naming import nearest_field
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import REQUEST
from earnorm.kernel.serving import parts
from earnorm.kernel.serving.prepared import PreparedRecords
from earnorm.kernel.serving.projecting import stored_keys, tree_of

if TYPE_CHECKING:
    from earnorm.backends.base import Cursor, Document
    from earnorm.backends.broken import OnBroken
    from earnorm.fields import Field
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation
    from earnorm.kernel.serving.requests import Request

Stages = tuple[Mapping[str, Any], ...]

STAGES: Note[Stages] = Note("stages")
"""On a search, count or group: the stages that select its documents, used instead of its domain."""


class Sight(NamedTuple):
    """The part of the documents that a pipeline of the program sees."""

    keys: Mapping[str, int] | None
    """The stored keys, as a projection; None means all of them."""
    secret: Sequence[str] = ()
    """Paths that nobody sees."""
    hides: bool = False
    """True if a plugin withholds fields that an index may have."""

    def sees(self, path: str) -> bool:
        """Return whether it sees all that a path leads to."""
        if self.keys is not None and path.partition(".")[0] not in self.keys:
            return False
        return not any(overlap(without_positions(path), secret) for secret in self.secret)

    def stages(self) -> Stages:
        """Return the stages that leave out what it does not see."""
        kept = () if self.keys is None else ({"$project": dict(self.keys)},)
        return (*kept, {"$project": dict.fromkeys(self.secret, 0)}) if self.secret else kept


Join = Callable[[Stages, Stages, Sight], list[Mapping[str, Any]]]
"""Joins a pipeline to the stages that select its documents, and to their order and window."""

JOIN: Note[Join] = Note("join")
"""On a group with a pipeline: the function that joins its stages."""


# -- operations -----------------------------------------------------------------------------------


async def search(bound: BoundModel, op: Operation) -> list[Document]:
    """Serve the operation's request; without one, fetch the documents."""
    notes, options = op.notes, op.options
    if notes:
        request: Request | None = notes.get(REQUEST)
        if request is not None:
            return await request.serve(bound, op)
        if STAGES in notes:
            try:
                return await bound._collection_of(op).aggregate(
                    [*notes[STAGES], *_window(op), _projected(bound, op)],
                    session=op.env._database_session,
                    timeout=options.timeout or bound.timeout,
                    keys=bound.declared,
                )
            except UnreadableDocument as error:
                raise named(bound, op, error) from None
    try:
        # The same as bound.filter(), with one call less; so are the collection and the projection.
        domain = op.domain
        if type(domain) is Condition and domain.path == "_id":
            condition = bound.filter(domain)
        else:
            condition = to_filter(domain, bound.schema, bound.operators)
    except LongList as refused:
        return await parts.search(search, bound, op, refused)
    declared, is_whole = bound.declared, options.fields is None
    # If the class of a record depends on its document, the records are made at the end.
    plain = not options.limit and bound.classes is None
    prepared = PreparedRecords(bound.model) if plain else None
    collection = bound._collection if options.concerns is None else bound._collection_of(op)
    try:
        documents = await collection.find(
            condition,
            projection=declared.projection if is_whole else projection(bound, op),
            sort=options.order,
            skip=options.offset,
            limit=options.limit,
            session=op.env._database_session,
            timeout=options.timeout or bound.timeout,
            each_part=None if prepared is None else prepared.part,
            keys=declared,
        )
    except UnreadableDocument as error:
        raise named(bound, op, error) from None
    if prepared is None:
        return documents
    prepared += documents
    return prepared


async def count(bound: BoundModel, op: Operation) -> int:
    """Count the records that match."""
    options = op.options
    if op.notes and STAGES in op.notes:
        rows = await bound._collection_of(op).aggregate(
            [*op.notes[STAGES], *_window(op), {"$count": "n"}],
            session=op.env._database_session,
            timeout=options.timeout or bound.timeout,
        )
        return int(rows[0]["n"]) if rows else 0
    try:
        condition = bound.filter(op.domain)
    except LongList as refused:
        return await parts.count(count, bound, op, refused)
    return await bound._collection_of(op).count(
        condition,
        skip=options.offset,
        limit=options.limit,
        session=op.env._database_session,
        timeout=options.timeout or bound.timeout,
    )


async def group(bound: BoundModel, op: Operation) -> list[Document]:
    """Return the rows of a group or of a pipeline."""
    request = op.request
    if request is not None:
        rows = await request.serve(bound, op)
    else:
        try:
            rows = await bound._collection_of(op).aggregate(
                _group_stages(bound, op),
                session=op.env._database_session,
                timeout=op.options.timeout or bound.timeout,
            )
        except UnreadableDocument as error:
            raise named(bound, op, error) from None
    spec = op.options.group
    if spec is None:
        return rows
    if len(rows) <= pauses.EVERY:
        return spec.rows(rows)
    decoded: list[Document] = []
    for part in pauses.parts(rows):
        decoded += spec.rows(part)
        await pauses.pause()
    return decoded


def named(bound: BoundModel, op: Operation, error: UnreadableDocument) -> UnreadableDocument:
    """Name the model, and its fields or the results of a group, in an error about documents."""
    spec = op.options.group
    names: Mapping[str, str] = bound.schema.renamed
    if spec is not None:
        keys, results = enumerate(spec.keys), enumerate(spec.aggregates)
        names = {f"k{n}": name for n, name in keys} | {f"a{n}": name for n, name in results}
    return error.renamed(bound.model._name, names)


# -- for requests ---------------------------------------------------------------------------------


async def documents(bound: BoundModel, op: Operation) -> list[Document]:
    """Fetch the documents of a search that has a request, as if it had none."""
    return await search(bound, op.replace(notes={**op.notes, REQUEST: None}))


async def open_cursor(
    bound: BoundModel, op: Operation, batch_size: int, on_broken: OnBroken | None = None
) -> Cursor:
    """Open a cursor over the documents of a search or the rows of a group."""
    options, collection = op.options, bound._collection_of(op)
    session, timeout = op.env._database_session, options.timeout or bound.timeout
    pipeline: list[Mapping[str, Any]] | None = None
    if op.name == "group":
        pipeline = _group_stages(bound, op)
    elif STAGES in op.notes:
        pipeline = [*op.notes[STAGES], *_window(op), _projected(bound, op)]
    if pipeline is not None:
        return await collection.open_pipeline(
            pipeline,
            batch_size=batch_size,
            session=session,
            timeout=timeout,
            on_broken=on_broken,
            keys=None if op.name == "group" else bound.declared,
        )
    try:
        condition = bound.filter(op.domain)
    except LongList as refused:
        open_part = partial(open_cursor, on_broken=on_broken)
        return parts.Cursors(open_part, bound, op, batch_size, refused)
    return await collection.open_cursor(
        condition,
        projection=projection(bound, op),
        sort=options.order,
        skip=options.offset,
        limit=options.limit,
        batch_size=batch_size,
        session=session,
        timeout=timeout,
        on_broken=on_broken,
        keys=bound.declared,
    )


async def explain(bound: BoundModel, op: Operation, verbosity: str) -> Document:
    """Ask the database for the query plan of a search."""
    options = op.options
    if STAGES in op.notes:
        pipeline = [*op.notes[STAGES], *_window(op), _projected(bound, op)]
        return await bound._collection.explain_pipeline(pipeline, verbosity=verbosity)
    return await bound._collection.explain(
        bound.filter(op.domain),
        sort=options.order,
        skip=options.offset,
        limit=options.limit,
        verbosity=verbosity,
    )


def stages(bound: BoundModel, op: Operation) -> Stages:
    """Return the stages that select the documents of an operation, before its order and window."""
    own_stages = op.notes.get(STAGES)
    return own_stages or ({"$match": bound.filter(op.domain)},)


def hiding(bound: BoundModel, op: Operation) -> Stages:
    """Return the stage that removes fields that were not asked for, or that a layer hides."""
    return () if op.options.fields is None else ({"$project": projection(bound, op)},)


def without_secrets(bound: BoundModel) -> Stages:
    """Return the stage that keeps secret values from the stages that a program writes itself."""
    paths = bound.secret_paths
    return ({"$project": dict.fromkeys(paths, 0)},) if paths else ()


def sight(bound: BoundModel, op: Operation) -> Sight:
    """Return what a pipeline of the operation sees.

    Only ``system`` sees keys that the model does not declare, and those of the model's own
    bookkeeping, whose names begin with an underscore.
    """
    secret = bound.secret_paths
    if op.options.fields is not None:
        keys = projection(bound, op)
    elif op.env.system:
        keys = None
    else:
        keys = bound.schema.projection if bound.classes is None else bound.classes.keys
    hides = False
    if keys is not None and not op.env.system:
        if bound.withholding is not None:
            declared = bound.schema.projection if bound.classes is None else bound.classes.keys
            hides = not keys.keys() >= declared.keys()
        keys = {key: 1 for key in keys if key == "_id" or not key.startswith("_")}
    return Sight(keys, secret, hides)


# -- their parts ----------------------------------------------------------------------------------


def projection(bound: BoundModel, op: Operation) -> Mapping[str, int] | None:
    """Return the stored keys that a search fetches; None if it asks for whole documents.

    Raises:
        PluginError: A plugin asks for a field that the model does not have.
    """
    names = op.options.fields
    if names is None:
        return bound.declared.projection
    fields = _fields_of(bound, names)
    # {"_id": 1} is always a part of it, because an empty projection would fetch all keys.
    try:
        if op.options.inside:
            return {"_id": 1, **stored_keys(fields, names, tree_of(op.options.inside))}
        return {"_id": 1, **{fields[name].db_name: 1 for name in names if fields[name].stored}}
    except KeyError as error:
        name = str(error.args[0])
        raise PluginError(
            f"options.fields of a {op.name} has {name!r}, and model {bound.view.name!r} has no such "
            f"field{nearest_field(bound.schema, name)}"
        ).coded("unknown_field") from None


def _fields_of(bound: BoundModel, names: AbstractSet[str]) -> Mapping[str, Field[Any, Any]]:
    """Return the fields of these names, those of the classes below the model included."""
    fields, classes = bound.schema.fields, bound.classes
    others = () if classes is None else names - fields.keys()
    if classes is None or not others:
        return fields
    found = ((name, classes.find_field(name)) for name in others)
    return {**fields, **{name: field for name, field in found if field is not None}}


def _projected(bound: BoundModel, op: Operation) -> Mapping[str, Any]:
    # A pipeline always has a projection: keys that its stages looked up are not part of the record.
    return {"$project": projection(bound, op) or bound.schema.projection}


def _window(op: Operation, order: Iterable[tuple[str, int]] | None = None) -> Stages:
    """Return the order and the window of an operation as stages."""
    options = op.options
    window: list[Mapping[str, Any]] = []
    if options.order:
        window.append({"$sort": dict(options.order if order is None else order)})
    if options.offset:
        window.append({"$skip": options.offset})
    if options.limit:
        window.append({"$limit": options.limit})
    return tuple(window)


def _group_stages(bound: BoundModel, op: Operation) -> list[Mapping[str, Any]]:
    """Return the stages that select exactly the records of a group, followed by the group's own."""
    options, spec = op.options, op.options.group
    own = options.pipeline if spec is None else spec.stages
    assert own is not None
    order = options.order
    if order and not any(path == "_id" for path, _ in order):
        # The id makes the order complete, so that each run selects the same window.
        order = (*order, ("_id", 1))
    selecting, window = stages(bound, op), _window(op, order)
    join = op.note(JOIN)
    if join is not None:
        return join(selecting, window, sight(bound, op))
    hidden = (*hiding(bound, op), *(without_secrets(bound) if spec is None else ()))
    return [*selecting, *window, *hidden, *own]
